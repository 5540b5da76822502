"""Back-translation through an NLLB-format model: deterministic beam search, order kept, one text out per text in.

NLLB is a single-sentence model and drops sentences of a paragraph, so texts are split, translated sentence by sentence
and joined. In float32 the greedy outputs of both back-ends are equal; so are their beams, unless the model is so unsure
that short hypotheses finish first (same scores, other stopping rule: see the tests).
"""

import difflib
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rl_nmt import hub
from rl_nmt.backtranslation import ctranslate2_engine
from rl_nmt.backtranslation.beam_search import TransformersEngine
from rl_nmt.backtranslation.ctranslate2_engine import DTYPES, OWN_DTYPES, CTranslate2Engine, weights_key
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.models.batching import TokenBudget, distinct, run_batches
from rl_nmt.models.loading import fetch, load_tokenizer, loading, require_bf16, require_device, versions
from rl_nmt.text.languages import language_of_nllb
from rl_nmt.text.sentences import split_sentences
from rl_nmt.text.unicode import is_blank, safe_unicode

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "model.bin")
DOWNLOAD = ["*.json", "*.model", "*.txt", "*.safetensors", "*.bin"]
BACKENDS = ("auto", "transformers", "ctranslate2")
TOKENS = 4096  # most source tokens, padding included, in one batch; less where memory runs out

Engine = TransformersEngine | CTranslate2Engine


def load_backtranslator(
    name_or_path: str | Path,
    *,
    source: str = "tam_Taml",
    target: str = "eng_Latn",
    backend: str = "transformers",
    beams: int = 4,
    device: str = "cpu",
    dtype: str = "float32",
    max_new_tokens: int = 256,
) -> "BackTranslator":
    """Load an NLLB-format model once; it stays on `device`.

    Args:
        name_or_path: a model folder (for ctranslate2 also a converted one with its tokenizer), or a hub name.
        source, target: language tags as the tokenizer writes them, e.g. tam_Taml, eng_Latn.
        backend: "transformers"; "ctranslate2", which converts the model once into a cache folder; or "auto":
            ctranslate2 where it works, else transformers, saying on standard error which and why.
        beams: width of the beam search, at least 1, which is greedy.
        device: cpu, cuda or cuda:N.
        dtype: "float32" or "bfloat16" (then a translation may depend on its batch); ctranslate2 also takes "int8" and,
            on CUDA, "float16", in which M2M100 overflows; transformers clamps that without a word.
        max_new_tokens: most tokens of one sentence's translation, its language tag included; at least 2.

    Raises ConfigError (a path that is not there, another kind of model, a missing or shifted language tag, a bad
    back-end, device or dtype), MissingService (no hub, no ctranslate2) and CannotWrite (of the converted model).
    """
    require_engine(backend, device, dtype)
    folder = _model_folder(str(name_or_path))
    with loading():
        tokenizer = load_tokenizer("backtranslation_model", folder, src_lang=source)
        check_tags(tokenizer, len(tokenizer), source, target)  # before minutes of converting and loading
        engine = _open_engine(backend, folder, tokenizer, target, beams, device, dtype)
    check_tags(tokenizer, engine.vocabulary, source, target)
    name, revision = hub.recorded_as(str(name_or_path), folder)
    identity: dict[str, Any] = {"model": name, "revision": revision, "weights": weights_key(folder)}
    identity |= {"backend": engine.backend, "dtype": dtype, "beams": beams}
    identity |= {"source": source, "target": target, "max_new_tokens": max_new_tokens}
    return BackTranslator(tokenizer, engine, identity)


def require_engine(backend: str, device: str, dtype: str, offload: bool = False) -> None:
    """Refuse a back-end, device and precision that do not work together here, before anything is loaded.

    Arguments and errors as `load_backtranslator`'s. "auto" needs one of the two engines. `offload`: the model is opened
    on the CPU, too.
    """
    if offload and device != "cpu":
        try:
            require_engine(backend, "cpu", dtype)
        except ConfigError as error:
            why = "the back-translator waits on the CPU between calls; set it to False, or mend this"
            raise ConfigError(f"reward_offload: {why}: {error}") from error
    if backend not in BACKENDS:
        raise ConfigError(f"backtranslation_backend: {backend!r} is unknown; use auto, transformers or ctranslate2")
    if dtype in OWN_DTYPES and backend == "transformers":
        raise ConfigError(f"dual_dtype: {dtype} needs backtranslation_backend ctranslate2; use float32 or bfloat16")
    if dtype not in DTYPES:
        raise ConfigError(f"dual_dtype: {dtype!r} is not supported in back-translation; use float32 or bfloat16")
    require_device("dual_device", device)
    if backend != "transformers":
        try:
            ctranslate2_engine.require(device, dtype)
            return
        except (MissingService, ConfigError) as error:
            if backend == "ctranslate2":
                raise
            _require_fallback(dtype, error)
    require_bf16("dual_dtype", dtype, device, "float16 with backtranslation_backend ctranslate2")


def _require_fallback(dtype: str, error: Exception) -> str:
    """Why ctranslate2 does not work, if transformers can take its place. Raises ConfigError for a dtype it lacks."""
    why = str(error).removeprefix("backtranslation_backend: ")
    if dtype in OWN_DTYPES:
        raise ConfigError(
            f"dual_dtype: {dtype} needs ctranslate2, which does not work here ({why}); use float32 or bfloat16"
        ) from error
    return why


def _open_engine(backend: str, *model) -> Engine:
    """The engine of `backend`; "auto" tries ctranslate2 first and says on standard error what it took."""
    if backend != "auto":
        return (TransformersEngine if backend == "transformers" else CTranslate2Engine)(*model)
    *_, device, dtype = model
    engine: Engine
    try:
        engine, why = CTranslate2Engine(*model), f"installed, and works on {device} in {dtype}"
    except (MissingService, ConfigError, CannotWrite) as error:
        why = _require_fallback(dtype, error)
        engine = TransformersEngine(*model)
    print(f"backtranslation_backend: auto takes {engine.backend}: {why}", file=sys.stderr, flush=True)
    return engine


class BackTranslator:
    """Callable: N texts → N translations, in order; see `load_backtranslator`.

    Blank texts give "" and are never sent. `stats` describes the last call: texts, unique (distinct texts
    sent), sentences (distinct ones translated), blank, truncated (sentences longer than the model reads),
    hit_cap (translations cut at their cap), tokens (source tokens of the sentences, tags included), padded
    (padding positions encoded beside them), seconds.
    """

    def __init__(self, tokenizer, engine: Engine, identity: dict[str, Any]):
        self.name, self.revision = identity["model"], identity["revision"]
        self.tokenizer, self.engine, self._identity = tokenizer, engine, identity
        self.language = language_of_nllb(identity["source"])
        self.budget = TokenBudget(TOKENS)
        self.stats: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Translations of `texts`; equal texts share one, and batch mates do not change it (float32).

        None for a text with a sentence that does not fit into memory even alone.
        """
        start = time.perf_counter()
        whole, index = distinct("" if is_blank(text) else safe_unicode(text) for text in texts)
        parts = [split_sentences(text, self.language) for text in whole]
        sentences, place = distinct(sentence for part in parts for sentence in part)
        self.stats = {"texts": len(index), "unique": sum(map(bool, parts)), "sentences": len(sentences)}
        self.stats["blank"] = sum(not parts[i] for i in index)
        self.stats |= dict.fromkeys(("truncated", "hit_cap", "tokens", "padded"), 0)  # `_translate` counts
        translated = self._translate(sentences)
        at = iter(place)
        done = [[translated[next(at)] for _ in part] for part in parts]
        joined = [None if None in part else " ".join(filter(None, part)) for part in done]
        self.stats["seconds"] = time.perf_counter() - start
        return [joined[i] for i in index]

    def to(self, device: str) -> Self:
        """Move the model for good. Raises ConfigError for a device that is not there."""
        self.engine.to(require_device("device", device))
        return self

    def signature(self) -> dict[str, dict]:
        """What makes the translations: model, weights, back-end, search; and package versions beside."""
        return {"identity": dict(self._identity), "environment": versions("transformers", "ctranslate2", "torch")}

    def _translate(self, sentences: list[str]) -> list[str | None]:
        """Distinct sentences, in batches of similar length; None for one that does not fit alone."""
        rows = self._encode(sentences)
        caps = [length_cap(len(row), self._identity["max_new_tokens"]) for row in rows]
        self.stats["tokens"] = sum(map(len, rows))

        def translate(batch: list[int]) -> list[str]:
            ids, cut, padded = self.engine.generate([rows[i] for i in batch], [caps[i] for i in batch])
            self.stats["hit_cap"] += cut
            self.stats["padded"] += padded
            return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

        return run_batches(translate, [len(row) for row in rows], self.budget, argument=self.name)

    def _encode(self, sentences: list[str]) -> list[list[int]]:
        """Ids `[source tag] text </s>` per sentence; control tokens written in the text stay text."""
        if not sentences:
            return []
        rows = self.tokenizer(sentences, split_special_tokens=True, verbose=False)["input_ids"]
        limit = self.engine.longest_source
        self.stats["truncated"] = sum(len(row) > limit for row in rows)
        return [row if len(row) <= limit else [*row[: limit - 1], self.tokenizer.eos_token_id] for row in rows]


def length_cap(source_tokens: int, max_new_tokens: int) -> int:
    """Most new tokens for a sentence of `source_tokens`, so that a looping row cannot hold up the rest.

    Twice the next power of two (at least 16) plus 16. A function of the sentence alone, so that batch mates do
    not decide where a translation is cut; of few values, since CTranslate2 takes one per call.

    >>> [length_cap(n, 256) for n in (3, 16, 17, 200)]
    [48, 48, 80, 256]
    """
    return min(max_new_tokens, 2 * max(16, 1 << (source_tokens - 1).bit_length()) + 16)


def check_tags(tokenizer, vocabulary: int, source: str, target: str) -> None:
    """Refuse a tokenizer that would silently translate from or into another language.

    Its source language must be `source`. NLLB's tags are consecutive, `<mask>` follows them, and what a fine-tuned
    model adds follows that. Raises ConfigError for a tag that is not a special token (`eng_latn`, `ta` silently become
    `<unk>`), `<mask>` elsewhere (transformers 5 may put it before the tags where tokenizer.json is missing), a source
    tag that is not in front, a tokenizer without words, or more ids than the model has.
    """
    tags = [t for t in tokenizer.all_special_tokens if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", t)]
    missing = "is tokenizer.json missing? Fetch the model again"
    for tag in (source, target):
        if tag not in tags or tokenizer.convert_tokens_to_ids(tag) == tokenizer.unk_token_id:
            near = difflib.get_close_matches(tag.lower(), [t.lower() for t in tags], n=1, cutoff=0.5)
            hint = next((f"; did you mean {t}?" for t in tags if near and t.lower() == near[0]), "")
            raise ConfigError(f"backtranslation_model: its tokenizer has no language tag {tag!r}{hint}")
    ids = set(tokenizer.convert_tokens_to_ids(tags))
    behind = next(i for i in range(min(ids), len(tokenizer) + 1) if i not in ids)
    if tokenizer.mask_token and tokenizer.mask_token_id != behind:
        raise ConfigError(
            f"backtranslation_model: its language tags are shifted (<mask> has id {tokenizer.mask_token_id}; the id "
            f"behind the tags is {behind}): {missing}"
        )
    first, *words, _ = tokenizer("12 ab")["input_ids"]
    if first != tokenizer.convert_tokens_to_ids(source):
        raise ConfigError(
            f"backtranslation_model: its tokenizer does not put {source} in front of a text, as NLLB was trained: set "
            "legacy_behaviour to false in its tokenizer_config.json"
        )
    if set(words) <= {tokenizer.unk_token_id}:
        raise ConfigError(f"backtranslation_model: its tokenizer knows no words: {missing}")
    if len(tokenizer) > vocabulary:
        raise ConfigError(f"backtranslation_model: the tokenizer has {len(tokenizer)} ids, the model only {vocabulary}")


def _model_folder(name: str) -> Path:
    """The folder of a path or hub name; a hub name counts as cached once its weights are there."""
    marker = "config.json"
    if not Path(name).expanduser().exists() and not hub.looks_like_path(name):
        marker = next((file for file in WEIGHT_FILES if hub.cached(name, file)), WEIGHT_FILES[0])
    folder = fetch("backtranslation_model", name, marker, DOWNLOAD)
    if not folder.is_dir():
        raise ConfigError(f"backtranslation_model: {name} is a file; give the model's folder")
    return folder
