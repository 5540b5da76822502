"""Back-translate with an NLLB-format model: deterministic beam search, one translation per text, in order.

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
TOKENS = 4096  # most source tokens, padding included, in one batch; fewer after running out of memory

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
        source, target: the tokenizer's language tags, e.g. tam_Taml, eng_Latn.
        backend: "transformers"; "ctranslate2", which converts the model once into a cache folder; or "auto":
            ctranslate2 where it works, else transformers; the choice and reason are printed on standard error.
        beams: width of the beam search; 1 is greedy search.
        device: cpu, cuda or cuda:N.
        dtype: "float32" or "bfloat16" (then a translation may depend on its batch); ctranslate2 also takes "int8" and,
            on CUDA, "float16".
        max_new_tokens: most tokens of one sentence's translation, its language tag included; at least 2.

    Raises ConfigError (a missing path, another kind of model, a missing or shifted language tag, a bad back-end, device
    or dtype), MissingService (no hub, no ctranslate2) and CannotWrite (the converted model).
    """
    require_engine(backend, device, dtype)
    folder = _model_folder(str(name_or_path))
    with loading():
        tokenizer = load_tokenizer("backtranslation_model", folder, src_lang=source)
        check_tags(tokenizer, len(tokenizer), source, target)  # before converting and loading, which take minutes
        engine = _open_engine(backend, folder, tokenizer, target, beams, device, dtype)
    check_tags(tokenizer, engine.vocabulary, source, target)
    name, revision = hub.recorded_as(str(name_or_path), folder)
    identity: dict[str, Any] = {"model": name, "revision": revision, "weights": weights_key(folder)}
    identity |= {"backend": engine.backend, "dtype": dtype, "beams": beams}
    identity |= {"source": source, "target": target, "max_new_tokens": max_new_tokens}
    return BackTranslator(tokenizer, engine, identity)


def require_engine(backend: str, device: str, dtype: str, offload: bool = False) -> None:
    """Refuse a back-end, device and precision that do not work together here, before anything is loaded.

    Arguments and errors as in `load_backtranslator`. "auto" needs one of the two engines. `offload`: the model must
    also work on the CPU.
    """
    if offload and device != "cpu":
        try:
            require_engine(backend, "cpu", dtype)
        except ConfigError as error:
            why = "the back-translator is kept on the CPU between calls and must work there; set it to False or fix"
            raise ConfigError(f"reward_offload: {why}: {error}") from error
    if backend not in BACKENDS:
        raise ConfigError(f"backtranslation_backend: {backend!r} is unknown; use auto, transformers or ctranslate2")
    # float16 is for CTranslate2 on a card: in transformers, M2M100's encoder silently clamps what overflows.
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
    """Return why ctranslate2 does not work; raise ConfigError if the transformers engine lacks the dtype."""
    why = str(error).removeprefix("backtranslation_backend: ")
    if dtype in OWN_DTYPES:
        raise ConfigError(
            f"dual_dtype: {dtype} needs ctranslate2, which does not work here ({why}); use float32 or bfloat16"
        ) from error
    return why


def _open_engine(backend: str, *model) -> Engine:
    """Return the engine of `backend`; "auto" tries ctranslate2 first and prints its choice on standard error."""
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

    Blank texts become "" without the model. `stats` describes the last call: texts, unique (distinct texts that
    are not blank), sentences (distinct ones translated), blank, truncated (sentences longer than the model reads),
    hit_cap (translations cut at their cap), tokens (source tokens of the sentences, tags included), padded
    (padding positions encoded in addition), seconds.
    """

    def __init__(self, tokenizer, engine: Engine, identity: dict[str, Any]):
        self.name, self.revision = identity["model"], identity["revision"]
        self.tokenizer, self.engine, self._identity = tokenizer, engine, identity
        self.language = language_of_nllb(identity["source"])
        self.budget = TokenBudget(TOKENS)
        self.stats: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """Return translations of `texts`; in float32 none depends on the other texts of its batch.

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
        """Move the model permanently. Raises ConfigError for a missing device."""
        self.engine.to(require_device("device", device))
        return self

    def signature(self) -> dict[str, dict]:
        """Return what determines the translations (model, weights, back-end, search), and package versions."""
        return {"identity": dict(self._identity), "environment": versions("transformers", "ctranslate2", "torch")}

    def _translate(self, sentences: list[str]) -> list[str | None]:
        """Translate distinct sentences in batches of similar length; None for one that does not fit alone."""
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
        """Return ids `[source tag] text </s>` per sentence; control tokens written in the text stay text."""
        if not sentences:
            return []
        rows = self.tokenizer(sentences, split_special_tokens=True, verbose=False)["input_ids"]
        limit = self.engine.longest_source
        self.stats["truncated"] = sum(len(row) > limit for row in rows)
        return [row if len(row) <= limit else [*row[: limit - 1], self.tokenizer.eos_token_id] for row in rows]


def length_cap(source_tokens: int, max_new_tokens: int) -> int:
    """Return the most new tokens for a sentence of `source_tokens`, so that a looping row does not delay the rest.

    Twice the next power of two (at least 16) plus 16: few distinct values, since CTranslate2 takes one per call.

    >>> [length_cap(n, 256) for n in (3, 16, 17, 200)]
    [48, 48, 80, 256]
    """
    # It depends on this sentence alone, so that the other sentences of its batch do not change where it is cut.
    return min(max_new_tokens, 2 * max(16, 1 << (source_tokens - 1).bit_length()) + 16)


def check_tags(tokenizer, vocabulary: int, source: str, target: str) -> None:
    """Refuse a tokenizer that would silently translate from or into another language.

    Its source language must be `source`. NLLB's tags are consecutive, followed by `<mask>` and then by the tokens of a
    fine-tuned model. Raises ConfigError for a tag that is not a special token (`eng_latn`, `ta` silently become
    `<unk>`), `<mask>` elsewhere (transformers 5 may put it before the tags if tokenizer.json is missing), inputs that
    do not start with the source tag, a tokenizer without words, or more ids than the model has.
    """
    # Not all_special_tokens: add_special_tokens() replaces that list by default.
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    tags = [token for token in special if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", token)]
    missing = "tokenizer.json may be missing; fetch the model again"
    for tag in (source, target):
        if tag not in tags or tokenizer.convert_tokens_to_ids(tag) == tokenizer.unk_token_id:
            near = difflib.get_close_matches(tag.lower(), [t.lower() for t in tags], n=1, cutoff=0.5)
            hint = next((f"; did you mean {t}?" for t in tags if near and t.lower() == near[0]), "")
            raise ConfigError(f"backtranslation_model: its tokenizer has no language tag {tag!r}{hint}")
    ids = set(tokenizer.convert_tokens_to_ids(tags))
    behind = next(i for i in range(min(ids), len(tokenizer) + 1) if i not in ids)
    if tokenizer.mask_token and tokenizer.mask_token_id != behind:
        raise ConfigError(
            f"backtranslation_model: its language tags are shifted (<mask> has id {tokenizer.mask_token_id}, not "
            f"{behind}, the next one after the tags): {missing}"
        )
    first, *words, _ = tokenizer("12 ab")["input_ids"]
    if first != tokenizer.convert_tokens_to_ids(source):
        raise ConfigError(
            f"backtranslation_model: its tokenizer does not put {source} before a text, unlike in NLLB's training; set "
            "legacy_behaviour to false in its tokenizer_config.json"
        )
    if set(words) <= {tokenizer.unk_token_id}:
        raise ConfigError(f"backtranslation_model: its tokenizer has no vocabulary: {missing}")
    if len(tokenizer) > vocabulary:
        raise ConfigError(f"backtranslation_model: its tokenizer has {len(tokenizer)} ids, but the model {vocabulary}")


def _model_folder(name: str) -> Path:
    """Return the folder of a path or hub name; a hub name counts as cached if its weights are cached."""
    marker = "config.json"
    if not Path(name).expanduser().exists() and not hub.looks_like_path(name):
        marker = next((file for file in WEIGHT_FILES if hub.cached(name, file)), WEIGHT_FILES[0])
    folder = fetch("backtranslation_model", name, marker, DOWNLOAD)
    if not folder.is_dir():
        raise ConfigError(f"backtranslation_model: {name} is a file; give the model's folder")
    return folder
