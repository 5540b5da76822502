"""Find a model's files, device and precision: what every neural model here needs to be loaded."""

import ctypes
import gc
import hashlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from rl_nmt import distributed, hub
from rl_nmt.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def fetch(argument: str, name: str, filename: str, patterns: list[str] | None = None) -> Path:
    """Return the local folder of a model: a path that exists, the hub cache, or else a download.

    `argument`, `name`, `filename` and errors: see `hub.require_model`; MissingService also for a model that is not on
    the hub, or whose licence must be accepted first. `patterns`: globs of the files to download; None for all.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        hub.require_model(argument, name, filename)
    if path.exists():
        return path
    from huggingface_hub import snapshot_download

    try:
        if hub.cached(name, filename) is None:
            return hub.fetch(name, patterns)
        repository, revision = hub.split_revision(name)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True))
    except Exception as error:  # whatever the hub client raises: requests', its own, OSError
        raise hub.explain(argument, name, error) from error


def load_tokenizer(argument: str, name: str | Path, **options: Any):
    """Load the tokenizer of a folder, or of a hub name, also with @revision.

    Raises ConfigError if a folder has none that loads, and MissingService for a hub name.
    """
    from transformers import AutoTokenizer

    repository, revision = hub.split_revision(str(name))
    here = Path(repository).exists()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            repository, revision=revision, trust_remote_code=False, local_files_only=here, **options
        )
    except Exception as error:  # tokenizers raises plain Exception for a damaged file
        if not here:
            raise hub.explain(argument, str(name), error) from error
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {name}: its tokenizer does not load: {reason}") from error
    if not tokenizer:  # transformers returns False for a SentencePiece tokenizer without its .model file
        raise ConfigError(f"{argument}: {name}: its tokenizer does not load: no tokenizer.json, no .model file")
    return tokenizer


def fingerprint(file: Path) -> str:
    """Return size and SHA-256 of the first and last megabyte: cheap, and different for any retrained weights."""
    size, chunk = file.stat().st_size, 1 << 20
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        digest.update(stream.read(chunk))
        stream.seek(max(0, size - chunk))
        digest.update(stream.read(chunk))
    return f"{size}-{digest.hexdigest()[:16]}"


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each installed package; the others are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _is_here(argument: str, device: str, names: str) -> bool:
    """Whether torch has this device. Raises ConfigError unless it is the name of a CPU or CUDA device."""
    try:
        place = torch.device(device)
    except RuntimeError:
        place = torch.device("meta")
    if place.type not in ("cpu", "cuda"):
        raise ConfigError(f"{argument}: {device!r} is not a valid device; use {names}")
    return place.type == "cpu" or (place.index or 0) < torch.cuda.device_count()


def require_device(argument: str, device: str) -> str:
    """Return `device` if torch can use it here. Raises ConfigError for another name or a missing CUDA device."""
    if not _is_here(argument, device, "cpu, cuda or cuda:N"):
        raise ConfigError(f"{argument}: {device} does not exist ({torch.cuda.device_count()} CUDA devices); use cpu")
    return device


def choose_device(wanted: str, argument: str, explain: bool = True) -> str:
    """Resolve "auto", "cpu", "cuda" or "cuda:N" to an existing device.

    "auto" takes CUDA if available. Without it, or if the CUDA device named does not exist, it returns "cpu",
    with the reason on standard error if `explain`. An unknown name raises ConfigError.
    """
    name = "cuda" if wanted == "auto" else wanted
    if _is_here(argument, name, "auto, cpu, cuda or cuda:N"):
        return name
    count = torch.cuda.device_count()
    why = f"{wanted} does not exist ({count} CUDA devices)" if count else "no CUDA device"
    if explain:
        print(f"{argument}: {why}: using the CPU", file=sys.stderr, flush=True)
    return "cpu"


def half_types(device: str) -> tuple[str, ...]:
    """Return the half precisions that are fast on a device, the one with the wider range first; none on a CPU.

    A CPU computes in bfloat16 too, but without AMX or AVX512-BF16 units it is slower there than in float32.
    """
    if torch.device(device).type != "cuda":
        return ()
    # Emulation counts as support unless it is excluded: a T4 has no bf16 units.
    return ("bfloat16", "float16") if torch.cuda.is_bf16_supported(including_emulation=False) else ("float16",)


def require_bf16(argument: str, dtype: str, device: str, instead: str = "float16") -> None:
    """Refuse bfloat16 on a card without bf16 units, where torch emulates it slowly. Raises ConfigError."""
    if dtype == "bfloat16" and torch.device(device).type == "cuda" and dtype not in half_types(device):
        raise ConfigError(
            f"{argument}: bfloat16 needs a card with bf16 units, which {device} lacks; use float32 or {instead}"
        )


def torch_dtype(argument: str, dtype: str, device: str = "cpu"):
    """Return the torch dtype of this name. Raises ConfigError for an unknown one, float16 without CUDA, and as
    `require_bf16`."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"{argument}: {dtype!r} is not supported; use float32, bfloat16 or float16")
    if dtype == "float16" and torch.device(device).type != "cuda":
        raise ConfigError(f"{argument}: float16 needs a CUDA device, not {device}; use bfloat16 or float32")
    require_bf16(argument, dtype, device)
    return getattr(torch, dtype)


def skip_overlong(overlong: str) -> bool:
    """Whether inputs that are too long are skipped. Raises ConfigError for a word other than truncate or skip."""
    if overlong not in ("truncate", "skip"):
        raise ConfigError(f"overlong: {overlong!r} is unknown; use truncate or skip")
    return overlong == "skip"


@contextmanager
def loading() -> Iterator[None]:
    """Restore root logger, warning filters and random state afterwards; show no progress bars.

    Libraries set the root logger when they are imported (COMET to INFO, with a handler); building a model draws from
    the global generator, which would make a resumed run differ from an uninterrupted one.
    """
    from transformers.utils import logging as bars  # version 5 shows one for every model

    root, drawn = logging.getLogger(), bars.is_progress_bar_enabled()
    level, handlers = root.level, list(root.handlers)
    bars.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), distributed.outside_zero3():
            yield
    finally:
        if drawn:
            bars.enable_progress_bar()
        root.setLevel(level)
        root.handlers[:] = handlers


def no_init_weights():
    """Return a context in which new modules draw no weights; transformers 5 has moved it."""
    try:
        from transformers.initialization import no_init_weights as context
    except ImportError:
        from transformers.modeling_utils import no_init_weights as context
    return context()


_precision_lock = threading.Lock()
_precision_users: list[str] = []  # precision before each open full_precision(); the last to end restores the first


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable gradients and compute fp32 products in fp32, whatever precision the policy has set; restored afterwards.

    The precision is global to the process and scorers may run concurrently in threads: it is restored when the last
    of them has finished.
    """
    with _precision_lock:
        _precision_users.append(torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.inference_mode():
            yield
    finally:
        with _precision_lock:
            found = _precision_users[0]
            _precision_users.pop()
            if not _precision_users:
                torch.set_float32_matmul_precision(found)


def release() -> None:
    """Give back the memory of models that are no longer used."""
    gc.collect()
    torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, where the C library is glibc.

    On a CPU each step's large tensors would otherwise be mapped, cleared and unmapped again, a quarter of an update.
    """
    with suppress(OSError, AttributeError):
        change = ctypes.CDLL("libc.so.6").mallopt
        change(M_MMAP_MAX, 0)
        change(M_TRIM_THRESHOLD, 2**31 - 1)
