"""Run NLLB, M2M100 and MADLAD-400 models in CTranslate2: the same search as in transformers, several times faster.

The model is converted once, into its own folder or a cache, and stays in memory. In float32 its translations equal
those of transformers (exceptions: rl_nmt/backtranslation/translator.py); "int8" is faster still and changes some.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rl_nmt.backtranslation.beam_search import longest_source
from rl_nmt.backtranslation.families import FAMILIES
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.models.loading import fingerprint

WORKERS = 4  # at most: each reads all weights for its share of the batch
SMALLEST = 4  # least rows per worker
DTYPES = ("float32", "bfloat16", "float16", "int8")
OWN_DTYPES = ("float16", "int8")  # those that the transformers engine does not have
SLACK = 16  # new tokens that the common search allows beyond the longest source


class CTranslate2Engine:
    """Beam search of CTranslate2 with one loaded model; see `TransformersEngine`.

    `folder`: a transformers model, converted on first use, or a converted one. `dtype`: one of DTYPES ("int8": int8
    products, the rest in float32); one that the device does not support is refused, never replaced.

    Raises ConfigError for a model that cannot be converted, and as `require`; CannotWrite as `convert`.
    """

    backend = "ctranslate2"

    def __init__(self, folder: Path, tokenizer, target: str, beams: int, device: str, dtype: str):
        self.tokenizer, self.beams, self.dtype = tokenizer, beams, dtype
        self.target = target
        ctranslate2 = require(device, dtype)
        converted = ctranslate2.contains_model(str(folder))
        self.folder = folder if converted else convert(folder, dtype)
        limits = {"max_position_embeddings": 1024}  # of a converted model, which does not say it
        own = limits if converted else json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.longest_source = longest_source(own)
        self.device: str | None = None
        self.to(device)
        try:
            words = json.loads((self.folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"backtranslation_model: {folder} has no shared_vocabulary.json; give {FAMILIES}"
            ) from None
        self.vocabulary = len(words)

    def generate(self, rows: list[list[int]], caps: list[int]) -> tuple[list[list[int]], int, int]:
        """See `TransformersEngine.generate`; padding counts 0: CTranslate2 computes none in its linear layers.

        A call takes one cap for all rows, and small calls are slow. So all rows share one search that is long enough
        for a translation; only those unfinished at its end, or at their own cap, are searched again, in one call per
        cap. Rows that ended earlier are the same as with their own cap.
        """
        found: dict[int, list[str]] = {}
        if len(set(caps)) > 1:
            common = min(max(caps), len(rows[0]) + SLACK)
            for i, result in enumerate(self._search(rows, common, self.beams)):
                if max(map(len, result.hypotheses)) < min(caps[i], common):  # the longest one ended the search
                    found[i] = result.hypotheses[0]
        for cap in sorted({cap for i, cap in enumerate(caps) if i not in found}):
            left = [i for i in range(len(rows)) if i not in found and caps[i] == cap]
            for i, result in zip(left, self._search([rows[i] for i in left], cap, 1), strict=True):
                found[i] = result.hypotheses[0]
        ids = [self.tokenizer.convert_tokens_to_ids(found[i]) for i in range(len(rows))]
        eos = self.tokenizer.eos_token_id
        return ids, sum(not row or row[-1] != eos for row in ids), 0

    def _search(self, rows: list[list[int]], cap: int, hypotheses: int) -> list:
        """Return CTranslate2's results for `rows`, each with its `hypotheses` best."""
        return self.translator.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(row) for row in rows],
            target_prefix=self._begin(len(rows)),
            beam_size=self.beams,
            num_hypotheses=hypotheses,
            max_decoding_length=cap,
            max_input_length=0,
            return_end_token=True,
            max_batch_size=max(SMALLEST, -(-len(rows) // self.workers)),
        )

    def _begin(self, rows: int) -> list[list[str]] | None:
        """Return what the translations of so many rows begin with."""
        return [[self.target]] * rows if self.target else None

    def to(self, device: str) -> None:
        """Open the model on `device`, unless it is there; a test call finds missing libraries at once."""
        if device == self.device:
            return
        import ctranslate2

        place = torch.device(device)
        try:
            # On a CPU, use workers that share the batch, not threads that share a matrix: threads wait for each other
            # at every step, while torch's idle threads still spin.
            threads = torch.get_num_threads()
            self.workers = min(threads, WORKERS) if place.type == "cpu" else 1
            self.translator = ctranslate2.Translator(
                str(self.folder),
                device=place.type,
                device_index=place.index or 0,
                compute_type=self.dtype,
                inter_threads=self.workers,
                intra_threads=max(1, threads // self.workers),
            )
            torch.set_num_threads(threads)  # CTranslate2 has changed the process's OpenMP threads
            self.translator.translate_batch([["</s>"]], target_prefix=self._begin(1), max_decoding_length=2)
        except (RuntimeError, ValueError) as error:
            self.device = None
            raise _explain(error, device, self.dtype) from error
        self.device = device


def require(device: str, dtype: str) -> Any:
    """Return the module ctranslate2 if it can compute in `dtype` on `device`, before anything is loaded or converted.

    A wheel finds a card and lists its compute types even without the CUDA libraries for matrix products. Raises
    MissingService if ctranslate2 or a library that it needs is not installed, ConfigError for another reason.
    """
    try:
        import ctranslate2
    except ImportError:
        raise MissingService(
            "backtranslation_backend: ctranslate2 is not installed; `pip install ctranslate2`, or use transformers"
        ) from None
    place = torch.device(device)
    try:
        known = ctranslate2.get_supported_compute_types(place.type, place.index or 0)
        missing = missing_library(Path(ctranslate2.__file__).parents[1]) if place.type == "cuda" else ""
    except (RuntimeError, ValueError) as error:
        raise _explain(error, device, dtype) from error
    if missing:
        raise _explain(RuntimeError(f"Library {missing} is not found or cannot be loaded"), device, dtype)
    if dtype not in known:  # float16 on a CPU: CTranslate2 would silently compute in float32 instead
        raise _explain(ValueError(f"it computes in {', '.join(sorted(known))} there"), device, dtype)
    return ctranslate2


@functools.cache
def missing_library(site: Path, load: Callable[[str], Any] = ctypes.CDLL) -> str:
    """Return the name of the cuBLAS that CTranslate2's wheel needs for matrix products if it does not load, else "".

    `site`: the folder with ctranslate2.libs/ of a Linux wheel ("" on other systems); the name is read from its library.
    Once it is loaded, here or by torch, even from NVIDIA's wheel, which is not on the loader's path, CTranslate2 finds
    it by this name.
    """
    for file in (site / "ctranslate2.libs").glob("libctranslate2*"):
        if named := re.search(rb"libcublas\.so\.\d+", file.read_bytes()):
            name = named[0].decode()
            for place in (name, *map(str, site.glob(f"nvidia/*/lib/{name}"))):
                with contextlib.suppress(OSError):
                    load(place)
                    return ""
            return name
    return ""


def _explain(error: Exception, device: str, dtype: str) -> ConfigError | MissingService:
    reason = " ".join(str(error).split())[:200]
    if "lib" in reason and "not found" in reason:
        cublas = re.search(r"libcublas\.so\.(\d+)", reason)
        package = "install it"
        if cublas:  # up to 12, NVIDIA's package names end in the version
            package = f"`pip install nvidia-cublas{f'-cu{cublas[1]}' if int(cublas[1]) < 13 else ''}`"
        return MissingService(
            f"backtranslation_backend: ctranslate2 cannot use {device}: {reason}; {package}, or use transformers"
        )
    others = "another dual_device or dual_dtype"
    return ConfigError(
        f"backtranslation_backend: ctranslate2 cannot work on {device} in {dtype}: {reason}; "
        f"use {others if dtype in OWN_DTYPES else f'transformers, or {others}'}"
    )


def convert(folder: Path, dtype: str) -> Path:
    """Convert a model to CTranslate2's format once: into its folder as `ct2-<dtype>`, else under ~/.cache/rl_nmt.

    The result is reused while the source weights are unchanged. It is written under a temporary name and renamed, so
    that an interrupted conversion never looks finished, and two at once do no harm. Raises ConfigError for a kind of
    model that CTranslate2 cannot convert, CannotWrite if neither place can be written.
    """
    key = weights_key(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl_nmt" / "ct2"
    places = [folder / f"ct2-{dtype}", cache / f"{key}-{dtype}"]
    for place in places:
        if _made_from(place) == key:
            return place
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".ct2-", dir=place.parent))
        except OSError:
            continue
        try:
            _convert_into(folder, work, dtype)
            (work / "source.txt").write_text(key, encoding="utf-8")
            if _made_from(place) != key:  # else another process was faster
                shutil.rmtree(place, ignore_errors=True)
                os.replace(work, place)
            return place
        except OSError as error:
            raise CannotWrite(f"backtranslation_model: converting into {place} failed: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    raise CannotWrite(f"backtranslation_model: neither {places[0]} nor {places[1]} can be written; set XDG_CACHE_HOME")


def weights_key(folder: Path) -> str:
    """Return one short hash over all weight files of a model folder."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    return hashlib.sha256("+".join(fingerprint(file) for file in files).encode()).hexdigest()[:16]


def _made_from(place: Path) -> str | None:
    """Return the key of the weights that a finished conversion was made from; None without a conversion."""
    try:
        return (place / "source.txt").read_text(encoding="utf-8")
    except OSError:
        return None


def _convert_into(folder: Path, work: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    try:
        TransformersConverter(str(folder)).convert(str(work), quantization=dtype, force=True)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ConfigError(f"backtranslation_model: ctranslate2 cannot convert {folder}: {error}") from error
    for file in [
        *folder.glob("*token*.json"),
        *folder.glob("vocab.json"),
        *folder.glob("*.model"),
    ]:  # so that the folder is complete
        shutil.copyfile(file, work / file.name)
