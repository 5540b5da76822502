"""Back-translate with any frozen translator (families.py): deterministic, one translation per text, in order.

Translators are trained on single sentences, and NLLB drops sentences of a paragraph, so texts are split, translated
sentence by sentence and joined. NLLB, M2M100 and MADLAD-400 take a beam search, chat models answer greedily. In float32
the greedy outputs of both back-ends are equal; so are their beams, unless the model is so unsure that short hypotheses
finish first (same scores, other stopping rule: see the tests).
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rl_nmt import hub
from rl_nmt.backtranslation import ctranslate2_engine
from rl_nmt.backtranslation.beam_search import TransformersEngine
from rl_nmt.backtranslation.chat_engine import ChatEngine
from rl_nmt.backtranslation.ctranslate2_engine import DTYPES, OWN_DTYPES, CTranslate2Engine, weights_key
from rl_nmt.backtranslation.families import Chat, Madlad, Tagged, open_family
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.models.batching import TokenBudget, distinct, run_batches
from rl_nmt.models.loading import fetch, loading, require_bf16, require_device, versions
from rl_nmt.text.languages import Language, language_of_nllb
from rl_nmt.text.sentences import split_sentences
from rl_nmt.text.unicode import is_blank, safe_unicode

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", *INDEXES, "model.bin")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "sentencepiece.bpe.model"))  # the latter: M2M100's
DOWNLOAD = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin"]
BACKENDS = ("auto", "transformers", "ctranslate2")
TOKENS = 4096  # most source tokens, padding included, in one batch; fewer after running out of memory

Engine = TransformersEngine | CTranslate2Engine | ChatEngine
Family = Tagged | Madlad | Chat


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
    """Load an NLLB, M2M100, MADLAD-400 or chat model once, which its files tell; it stays on `device`.

    Args:
        name_or_path: a model folder (for ctranslate2 also a converted one with its tokenizer), or a hub name.
        source, target: languages by their NLLB tags, e.g. tam_Taml, eng_Latn; the codes of other models follow.
        backend: "transformers"; "ctranslate2", which converts the model once into a cache folder; or "auto":
            ctranslate2 where it works, else transformers; the choice and reason are printed on standard error. Chat
            models need transformers.
        beams: width of the beam search; 1 is greedy search, as chat models always take.
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
        family = open_family(folder, source, target)
        family.check(len(family.tokenizer))  # before converting and loading, which take minutes
        engine = _open_engine(backend, folder, family, beams, device, dtype)
    family.check(engine.vocabulary)
    name, revision = hub.recorded_as(str(name_or_path), folder)
    identity: dict[str, Any] = {"model": name, "revision": revision, "weights": weights_key(folder)}
    identity |= {"backend": engine.backend, "dtype": dtype, "beams": beams}
    identity |= {**family.identity, "max_new_tokens": max_new_tokens}
    return BackTranslator(family, engine, identity, language_of_nllb(source))


def require_languages(name_or_path: str | Path, source: str, target: str) -> None:
    """Refuse a translator on this machine that lacks a language, by its tokenizer alone; see `load_backtranslator`.

    One that is missing, or still to be downloaded in part, is not looked at. Raises ConfigError.
    """
    path = Path(name_or_path).expanduser()
    config = path / "config.json" if path.is_dir() else _cached_tokenizer(str(name_or_path))
    if config and config.is_file():
        with loading():
            family = open_family(config.parent, source, target)
            family.check(len(family.tokenizer))


def _cached_tokenizer(name: str) -> Path | None:
    """Return config.json of a hub model if its tokenizer is cached too: a download may have been interrupted."""
    if hub.looks_like_path(name) or not hub.cached(name, "tokenizer_config.json"):
        return None
    whole = any(all(hub.cached(name, file) for file in files) for files in TOKENIZERS)
    return hub.cached(name) if whole else None


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


def _open_engine(backend: str, folder: Path, family: Family, beams: int, device: str, dtype: str) -> Engine:
    """Return the engine of `backend`; "auto" tries ctranslate2 first and prints its choice on standard error."""
    if isinstance(family, Chat):
        return _open_chat(backend, folder, family, device, dtype)
    model = (folder, family.tokenizer, family.begin, beams, device, dtype)
    if backend != "auto":
        return (TransformersEngine if backend == "transformers" else CTranslate2Engine)(*model)
    engine: Engine
    try:
        engine, why = CTranslate2Engine(*model), f"installed, and works on {device} in {dtype}"
    except (MissingService, ConfigError, CannotWrite) as error:
        why = _require_fallback(dtype, error)
        engine = TransformersEngine(*model)
    print(f"backtranslation_backend: auto takes {engine.backend}: {why}", file=sys.stderr, flush=True)
    return engine


def _open_chat(backend: str, folder: Path, family: Chat, device: str, dtype: str) -> Engine:
    """Return the engine of a chat model. Raises ConfigError for what only ctranslate2 could do."""
    wrong = "backtranslation_backend: ctranslate2" if backend == "ctranslate2" else f"dual_dtype: {dtype}"
    if backend == "ctranslate2" or dtype in OWN_DTYPES:
        raise ConfigError(f"{wrong} is not supported for a chat model; use transformers in float32 or bfloat16")
    return ChatEngine(folder, family.tokenizer, device, dtype)


class BackTranslator:
    """Callable: N texts → N translations, in order; see `load_backtranslator`.

    Blank texts become "" without the model. `stats` describes the last call: texts, unique (distinct texts that
    are not blank), sentences (distinct ones translated), blank, truncated (sentences longer than the model reads),
    hit_cap (translations cut at their cap), tokens (source tokens of the sentences, tags included), padded
    (padding positions encoded in addition), seconds.
    """

    def __init__(self, family: Family, engine: Engine, identity: dict[str, Any], language: Language):
        self.name, self.revision = identity["model"], identity["revision"]
        self.family, self.tokenizer, self.engine = family, family.tokenizer, engine
        self.language, self._identity = language, identity
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
        rows, self.stats["truncated"] = self.family.encode(sentences, self.engine.longest_source)
        caps = [length_cap(len(row), self._identity["max_new_tokens"]) for row in rows]
        self.stats["tokens"] = sum(map(len, rows))

        def translate(batch: list[int]) -> list[str]:
            ids, cut, padded = self.engine.generate([rows[i] for i in batch], [caps[i] for i in batch])
            self.stats["hit_cap"] += cut
            self.stats["padded"] += padded
            return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

        return run_batches(translate, [len(row) for row in rows], self.budget, argument=self.name)


def length_cap(source_tokens: int, max_new_tokens: int) -> int:
    """Return the most new tokens for a sentence of `source_tokens`, so that a looping row does not delay the rest.

    Twice the next power of two (at least 16) plus 16: few distinct values, since CTranslate2 takes one per call.

    >>> [length_cap(n, 256) for n in (3, 16, 17, 200)]
    [48, 48, 80, 256]
    """
    # It depends on this sentence alone, so that the other sentences of its batch do not change where it is cut.
    return min(max_new_tokens, 2 * max(16, 1 << (source_tokens - 1).bit_length()) + 16)


def _model_folder(name: str) -> Path:
    """Return the folder of a path or hub name; a hub name counts as cached if its weights are cached."""
    marker = "config.json"
    if not Path(name).expanduser().exists() and not hub.looks_like_path(name):
        marker = next((file for file in WEIGHT_FILES if hub.cached(name, file)), WEIGHT_FILES[0])
    folder = fetch("backtranslation_model", name, marker, DOWNLOAD)
    if not folder.is_dir():
        raise ConfigError(f"backtranslation_model: {name} is a file; give the model's folder")
    return folder
