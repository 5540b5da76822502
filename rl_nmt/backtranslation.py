"""Tamil → English through an NLLB-format model: deterministic beam search, order kept, one out per one in.

NLLB is a single-sentence model and drops sentences of a paragraph, so texts are split, translated sentence
by sentence and joined. Two back-ends: transformers (default) and CTranslate2 (faster). In float32 their
greedy outputs are equal; so are their beams on a model that knows its job, while on one so unsure that short
hypotheses finish first they may keep different ones (same scores, other stopping rule: see the tests).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from rl_nmt import hub
from rl_nmt.batching import batches, distinct, restore
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.scorers.base import (
    fetch,
    fingerprint,
    full_precision,
    loading,
    require_device,
    torch_dtype,
    versions,
)
from rl_nmt.text import is_blank, safe_unicode

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "model.bin")
DOWNLOAD = ["*.json", "*.model", "*.txt", "*.safetensors", "*.bin"]
CT2_DTYPES = ("float32", "bfloat16", "int8")


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
    token_budget: int = 4096,
    argument: str = "backtranslation_model",
) -> BackTranslator:
    """Load an NLLB-format model once; it stays on `device`.

    Args:
        name_or_path: a model folder (for ctranslate2 also a converted one with its tokenizer), or a hub name.
        source, target: language tags as the tokenizer writes them, e.g. tam_Taml, eng_Latn.
        backend: "transformers" or "ctranslate2"; the latter converts the model once into a cache folder.
        beams: width of the beam search; 1 is greedy.
        dtype: "float32" or "bfloat16" (then a translation may depend on its batch); ctranslate2 also takes
            "int8".
        max_new_tokens: most tokens of one sentence's translation, its language tag included.
        token_budget: most source tokens, padding included, in one batch.
        argument: the setting that names this model, for messages.

    Raises:
        ConfigError: a path that is not there, another kind of model, a missing or shifted language tag, a
            bad back-end, device, dtype or size.
        MissingService: the hub cannot be reached or refuses, or ctranslate2 is not installed.
        CannotWrite: no folder takes the converted model.
    """
    if backend not in ("transformers", "ctranslate2"):
        raise ConfigError(f"backtranslation_backend: {backend!r} is unknown; use transformers or ctranslate2")
    for name, value in {
        "beams": beams,
        "max_new_tokens": max_new_tokens,
        "token_budget": token_budget,
    }.items():
        if value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
    if not (backend == "ctranslate2" and dtype in CT2_DTYPES):
        torch_dtype("dual_dtype", dtype)
    require_device("reward_device", device)
    folder = _model_folder(argument, str(name_or_path))
    with loading():
        tokenizer = _load_tokenizer(argument, folder, source)
        engine_class = TransformersEngine if backend == "transformers" else CTranslate2Engine
        engine = engine_class(argument, folder, tokenizer, target, beams, device, dtype)
    check_tags(argument, tokenizer, engine.vocabulary, source, target)
    return BackTranslator(
        str(name_or_path), folder, tokenizer, engine, (source, target), max_new_tokens, token_budget
    )


class BackTranslator:
    """Callable: N texts → N translations, in order; see `load_backtranslator`.

    Blank texts give "" and are never sent. `stats` describes the last call: texts, unique (distinct texts
    sent), sentences (distinct ones translated), blank, truncated (sentences longer than the model reads),
    hit_cap (translations cut at their cap), seconds.
    """

    def __init__(self, name, folder, tokenizer, engine, tags, max_new_tokens: int, token_budget: int):
        on_hub = not Path(name).expanduser().exists()
        self.name = name if on_hub else folder.resolve().name
        self.revision = (
            folder.name if on_hub else None
        )  # the hub cache calls a snapshot's folder by its commit
        self.folder, self.tokenizer, self.engine = folder, tokenizer, engine
        self.source, self.target = tags
        self.max_new_tokens, self.token_budget = max_new_tokens, token_budget
        self.stats: dict[str, float] = {}

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translations of `texts`; equal texts share one, and batch mates do not change it (float32)."""
        start = time.perf_counter()
        whole, index = distinct("" if is_blank(text) else safe_unicode(text) for text in texts)
        parts = [split_sentences(text) for text in whole]
        sentences, place = distinct(sentence for part in parts for sentence in part)
        self.stats = {
            "texts": len(index), "unique": sum(bool(p) for p in parts), "sentences": len(sentences),
            "blank": sum(not parts[i] for i in index), "truncated": 0, "hit_cap": 0,
        }  # fmt: skip
        translated = self._translate(sentences)
        at = iter(place)
        joined = [" ".join(filter(None, (translated[next(at)] for _ in part))) for part in parts]
        self.stats["seconds"] = time.perf_counter() - start
        return [joined[i] for i in index]

    def to(self, device: str) -> BackTranslator:
        """Move the model for good. Raises ConfigError for a device that is not there."""
        self.engine.to(require_device("device", device))
        return self

    def signature(self) -> dict[str, dict]:
        """What makes the translations: model, weights, back-end, search; and package versions beside."""
        identity = {
            "model": self.name, "revision": self.revision, "weights": _weights_key(self.folder),
            "backend": self.engine.backend, "dtype": self.engine.dtype, "beams": self.engine.beams,
            "source": self.source, "target": self.target, "max_new_tokens": self.max_new_tokens,
        }  # fmt: skip
        return {"identity": identity, "environment": versions("transformers", "ctranslate2", "torch")}

    def _translate(self, sentences: list[str]) -> list[str]:
        """Distinct sentences, in batches of similar length."""
        rows = self._encode(sentences)
        caps = [length_cap(len(row), self.max_new_tokens) for row in rows]
        order, outputs = [], []
        for batch in batches([len(row) for row in rows], self.token_budget, groups=caps):
            ids, unfinished = self.engine.generate([rows[i] for i in batch], caps[batch[0]])
            self.stats["hit_cap"] += unfinished
            outputs += self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            order += batch
        return [text.strip() for text in restore(order, outputs)]

    def _encode(self, sentences: list[str]) -> list[list[int]]:
        """Ids `[source tag] text </s>` per sentence; control tokens written in the text stay text."""
        if not sentences:
            return []
        rows = self.tokenizer(sentences, split_special_tokens=True, verbose=False)["input_ids"]
        limit = self.engine.longest_source
        self.stats["truncated"] = sum(len(row) > limit for row in rows)
        return [
            row if len(row) <= limit else [*row[: limit - 1], self.tokenizer.eos_token_id] for row in rows
        ]


def length_cap(source_tokens: int, max_new_tokens: int) -> int:
    """Most new tokens for a sentence of `source_tokens`, so that a looping row cannot hold up the rest.

    Twice the next power of two (at least 16) plus 16. A function of the sentence alone: rows of different
    caps never share a batch, so batch mates do not decide where a translation is cut.

    >>> [length_cap(n, 256) for n in (3, 16, 17, 200)]
    [48, 48, 80, 256]
    """
    return min(max_new_tokens, 2 * max(16, 1 << (source_tokens - 1).bit_length()) + 16)


_END = re.compile(r"""[.!?।]+["'”’)\]]*\s+""")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text: cut at newlines and behind . ! ? । before white space; blank pieces dropped.

    A full stop behind an initial or a short abbreviation (எம்., கி.மு., Dr.) or a list number ends nothing.

    >>> split_sentences("வந்தான். சென்றான்!\\nஏன்?")
    ['வந்தான்.', 'சென்றான்!', 'ஏன்?']
    """
    pieces = []
    for line in text.splitlines():
        start = 0
        for end in _END.finditer(line):
            if end[0].strip() == "." and _abbreviated(line[start : end.start()]):
                continue
            pieces.append(line[start : end.end()].strip())
            start = end.end()
        pieces.append(line[start:].strip())
    return [piece for piece in pieces if not is_blank(piece)]


def _abbreviated(before: str) -> bool:
    """Does a full stop after `before` abbreviate rather than end? (Tamil sentences end in long verbs.)"""
    word = before.split()[-1].split(".")[-1] if before.split() else ""
    letters = sum(unicodedata.category(char)[0] == "L" for char in word)
    return 1 <= letters <= 2 or before.strip().isdigit()


def check_tags(argument: str, tokenizer, vocabulary: int, source: str, target: str) -> None:
    """Refuse a tokenizer that would translate from or into another language without saying so.

    Raises:
        ConfigError: a tag that is no special token (`eng_latn`, `ta` silently become `<unk>`), `<mask>` not
            last (a folder without tokenizer.json shifts every tag by one), or more ids than the model has.
    """
    tags = [t for t in tokenizer.all_special_tokens if re.fullmatch(r"[a-z]{3}_[A-Z][a-z]{3}", t)]
    for tag in (source, target):
        if tag not in tags or tokenizer.convert_tokens_to_ids(tag) == tokenizer.unk_token_id:
            near = difflib.get_close_matches(tag.lower(), [t.lower() for t in tags], n=1, cutoff=0.5)
            hint = next((f"; did you mean {t}?" for t in tags if near and t.lower() == near[0]), "")
            raise ConfigError(f"{argument}: its tokenizer has no language tag {tag!r}{hint}")
    if tokenizer.mask_token and tokenizer.mask_token_id != len(tokenizer) - 1:
        raise ConfigError(
            f"{argument}: its language tags are shifted (<mask> has id {tokenizer.mask_token_id}, not the "
            f"last, {len(tokenizer) - 1}): is tokenizer.json missing? Fetch the model again"
        )
    if len(tokenizer) > vocabulary:
        raise ConfigError(f"{argument}: the tokenizer has {len(tokenizer)} ids, the model only {vocabulary}")


class TransformersEngine:
    """Beam search of transformers over one resident model; never samples, keeps no gradients."""

    backend = "transformers"

    def __init__(self, argument: str, folder: Path, tokenizer, target, beams: int, device: str, dtype: str):
        from transformers import AutoModelForSeq2SeqLM

        try:
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(
                f"{argument}: {folder} holds no translation model that loads: {error}"
            ) from error
        if info["missing_keys"]:
            first = sorted(info["missing_keys"])[0]
            raise ConfigError(
                f"{argument}: {folder} lacks {len(info['missing_keys'])} weights, {first} first"
            )
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.beams, self.dtype = tokenizer, beams, dtype
        self.target_id = tokenizer.convert_tokens_to_ids(target)
        self.vocabulary = model.config.vocab_size
        self.longest_source = model.config.max_position_embeddings

    def generate(self, rows: list[list[int]], cap: int) -> tuple[list[list[int]], int]:
        """Output ids per row of source ids, and how many rows were cut at `cap` new tokens."""
        tensors = [torch.tensor(row, device=self.model.device) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        inputs = {
            "input_ids": pad(
                tensors, batch_first=True, padding_value=self.model.config.pad_token_id
            ),  # (B, L)
            "attention_mask": pad([torch.ones_like(row) for row in tensors], batch_first=True),
        }
        # No sampling, but M2M100 draws a LayerDrop number per layer from the global generator, in eval too.
        with full_precision(), torch.random.fork_rng(devices=[]):
            ids = self.model.generate(
                **inputs, generation_config=self._search(cap), use_model_defaults=False
            )  # (B, ≤ 1 + cap): decoder start, target tag, text, </s>
        outputs = ids.tolist()
        eos = self.tokenizer.eos_token_id
        return outputs, sum(eos not in row[2:] for row in outputs)  # the decoder start is </s> itself

    def to(self, device: str) -> None:
        """Move the weights."""
        self.model.to(device)

    def _search(self, cap: int):
        # The checkpoint's own settings are greedy and capped at 200 tokens: nothing of them is used.
        from transformers import GenerationConfig

        config = self.model.config
        return GenerationConfig(
            num_beams=self.beams, early_stopping=self.beams > 1, do_sample=False, length_penalty=1.0,
            max_new_tokens=cap, forced_bos_token_id=self.target_id, bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id,
            decoder_start_token_id=config.decoder_start_token_id,
        )  # fmt: skip


class CTranslate2Engine:
    """The same search in CTranslate2, on a model converted once."""

    backend = "ctranslate2"

    def __init__(
        self, argument: str, folder: Path, tokenizer, target: str, beams: int, device: str, dtype: str
    ):
        try:
            import ctranslate2
        except ImportError:
            raise MissingService(
                "backtranslation_backend: ctranslate2 is not installed; `pip install ctranslate2`, "
                "or use transformers"
            ) from None
        self.folder = folder if ctranslate2.contains_model(str(folder)) else convert(argument, folder, dtype)
        self.tokenizer, self.target, self.beams, self.dtype = tokenizer, target, beams, dtype
        self.longest_source = 1024 if self.folder == folder else _positions(folder)
        self.to(device)
        vocabulary = json.loads((self.folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        self.vocabulary = len(vocabulary)

    def generate(self, rows: list[list[int]], cap: int) -> tuple[list[list[int]], int]:
        """Output ids per row of source ids, and how many rows were cut at `cap` new tokens."""
        tokens = [self.tokenizer.convert_ids_to_tokens(row) for row in rows]
        results = self.translator.translate_batch(
            tokens, target_prefix=[[self.target]] * len(rows), beam_size=self.beams, max_decoding_length=cap,
            max_input_length=0, return_end_token=True,
        )  # fmt: skip
        ids = [self.tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        eos = self.tokenizer.eos_token_id
        return ids, sum(not row or row[-1] != eos for row in ids)

    def to(self, device: str) -> None:
        """Open the model on `device`; a probe shows at once whether its CUDA libraries are there.

        Raises:
            ConfigError: CTranslate2 does not see the device or cannot compute in this dtype on it.
            MissingService: a CUDA library it needs is not installed.
        """
        import ctranslate2

        kind, _, index = device.partition(":")
        try:
            # Threads: its own default of 4 would fight with torch for the cores.
            self.translator = ctranslate2.Translator(
                str(self.folder), device=kind, device_index=int(index or 0), compute_type=self.dtype,
                inter_threads=1, intra_threads=torch.get_num_threads(),
            )  # fmt: skip
            self.translator.translate_batch([["</s>"]], target_prefix=[[self.target]], max_decoding_length=2)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            if "lib" in reason and "not found" in reason:
                raise MissingService(
                    f"backtranslation_backend: ctranslate2 cannot use {device}: {reason}; "
                    "`pip install nvidia-cublas-cu12`, or use transformers"
                ) from error
            raise ConfigError(
                f"backtranslation_backend: ctranslate2 cannot run {self.folder} on {device} in {self.dtype}: "
                f"{reason}"
            ) from error


def convert(argument: str, folder: Path, dtype: str) -> Path:
    """The CTranslate2 form of a model, made once: beside it as `ct2-<dtype>`, else under ~/.cache/rl_nmt.

    Reused while the weights it was made from are the same; written aside and renamed, so that an interrupted
    conversion leaves nothing behind that looks finished.

    Raises:
        ConfigError: CTranslate2 cannot convert this kind of model.
        CannotWrite: neither place can be written.
    """
    key = _weights_key(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_nmt" / "ct2"
    places = [folder / f"ct2-{dtype}", cache / f"{key}-{dtype}"]
    for place in places:
        if (place / "source.txt").is_file() and (place / "source.txt").read_text(encoding="utf-8") == key:
            return place
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".ct2-", dir=place.parent))
        except OSError:
            continue
        try:
            _convert_into(argument, folder, work, dtype)
            (work / "source.txt").write_text(key, encoding="utf-8")
            shutil.rmtree(place, ignore_errors=True)
            os.replace(work, place)
            return place
        except OSError as error:
            raise CannotWrite(f"{argument}: converting into {place} failed: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise CannotWrite(f"{argument}: neither {places[0]} nor {places[1]} can be written; set XDG_CACHE_HOME")


def _convert_into(argument: str, folder: Path, work: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(folder)).convert(str(work), quantization=dtype, force=True)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{argument}: ctranslate2 cannot convert {folder}: {error}") from error
    for file in [*folder.glob("*token*.json"), *folder.glob("*.model")]:  # so that the folder stands alone
        shutil.copyfile(file, work / file.name)


def _model_folder(argument: str, name: str) -> Path:
    """The folder of a path or hub name; a hub name counts as cached once its weights are there."""
    marker = "config.json"
    if not Path(name).expanduser().exists() and not hub.looks_like_path(name):
        marker = next((file for file in WEIGHT_FILES if hub.is_cached(name, file)), WEIGHT_FILES[0])
    folder = fetch(argument, name, marker, DOWNLOAD)
    if not folder.is_dir():
        raise ConfigError(f"{argument}: {name} is a file; give the model's folder")
    return folder


def _load_tokenizer(argument: str, folder: Path, source: str):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, src_lang=source)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {folder} has no tokenizer that loads: {reason}") from error
    if not tokenizer:  # transformers returns False for a SentencePiece tokenizer without its .model file
        raise ConfigError(
            f"{argument}: {folder} has no tokenizer that loads: no tokenizer.json, no .model file"
        )
    return tokenizer


def _weights_key(folder: Path) -> str:
    """One short hash over all weight files of a model folder."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return hashlib.sha256("+".join(fingerprint(file) for file in files).encode()).hexdigest()[:16]


def _positions(folder: Path) -> int:
    """Longest source the model reads, in tokens."""
    return int(
        json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings", 1024)
    )
