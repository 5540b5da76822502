"""Exchange values between the processes that a launcher (torchrun, accelerate launch) started for one run.

    rows = gathered(rows)              every process's rows, in the order of the processes, on all of them
    value = broadcast(value)           the main process's value, on all of them
    result = from_main(function)       done once, by the main process; the result or the exception on all

Collective: every process must call them, equally often and in the same order. With one process they do nothing,
and import nothing heavy. Python objects go through a separate group on the CPU (gloo), which notices a lost process
at once, where NCCL would wait for its time-out; `together` turns that into one clear line.
"""

import contextlib
import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from rl_nmt.errors import ConfigError, MissingService

T = TypeVar("T")

TIMEOUT = timedelta(hours=1)  # longest wait for a process that works alone: reads data, scores for all

_objects: Any = None  # the group that Python objects go through
_alone = False  # inside `from_main`, where the others only wait


def count() -> int:
    """Return how many processes the launcher started for this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number, 0 for the main one."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Return whether this is the process that prints and writes."""
    return rank() == 0


def deepspeed() -> bool:
    """Return whether the run was started by `accelerate launch` with a DeepSpeed configuration."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def training_device(device: str) -> dict[str, Any]:
    """Return TrainingArguments' keywords for a device, "cpu" or "cuda", with which every launcher works on both.

    accelerate uses DeepSpeed on a CPU only without `use_cpu`, and then needs the back-end to be named.
    """
    if device != "cpu":
        return {"use_cpu": False}
    return {"use_cpu": False, "ddp_backend": "gloo"} if deepspeed() else {"use_cpu": True}


def start() -> None:
    """Join the group of this run's processes; do nothing with one process, or when already joined.

    The back-end is NCCL with GPUs, else gloo. Raises ConfigError for more processes on this machine than it has GPUs.
    """
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and here > gpus and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes"):
        raise ConfigError(
            f"nproc_per_node: {here} processes for {gpus} GPUs: start {gpus} (accelerate calls it num_processes), or "
            "set ACCELERATE_USE_CPU=true and hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    on_cpu = not gpus and not deepspeed()  # with cpu=True accelerate would not use DeepSpeed
    if on_cpu:
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else accelerate would not connect the processes
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")  # torch.load cannot load to its own "cpu:0"
    from accelerate import PartialState

    PartialState(cpu=on_cpu, timeout=TIMEOUT, **({} if gpus else {"backend": "gloo"}))


def alone() -> bool:
    """Return whether nothing is collective now: there is one process, or `from_main` is running on the main one."""
    return _alone or count() == 1


def gathered(rows: list[T]) -> list[T]:
    """Return the rows of all processes, those of the main one first, on every process. Collective."""
    if alone():
        return rows
    import torch.distributed as dist

    parts: list[list[T]] = [[] for _ in range(count())]
    dist.all_gather_object(parts, rows, group=_group())
    return [row for part in parts for row in part]


def broadcast(value: T) -> T:
    """Return the main process's value on every process; what the others pass is ignored. Collective."""
    if alone():
        return value
    import torch.distributed as dist

    box: list[Any] = [value if is_main_process() else None]
    dist.broadcast_object_list(box, src=0, group=_group())
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """Let the main process alone call `function`; every process gets its result, or raises what it raised.

    On the others such an exception has the attribute `elsewhere`, so that it is printed once. Collective; inside
    `function` the functions of this module act as with a single process.
    """
    global _alone
    if alone():
        return function()
    result: Any = None
    error = None
    if is_main_process():
        _alone = True
        try:
            result = function()
        except Exception as raised:
            error = raised
        finally:
            _alone = False
    result, told = broadcast((result, sendable(error)))
    if error is not None:
        raise error
    if told is not None:
        vars(told)["elsewhere"] = True
        raise told
    return result


def sendable(error: Exception | None) -> Exception | None:
    """Return the exception, if it survives pickling; else a RuntimeError with the same text. None stays None."""
    try:
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            return copy
    except Exception:  # whatever an exception's own constructor raises
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def mute_others() -> None:
    """Let only the main process print. Standard error stays open on all of them."""
    if not is_main_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Raise MissingService for what the communication libraries raise when another process is gone."""
    try:
        yield
    except Exception as error:
        if count() == 1:
            raise
        import torch.distributed as dist

        if not (isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))):
            raise
        lost = MissingService(
            f"process {rank()} of {count()} cannot continue: another process of this run has ended or does not answer "
            "(its own message says why; without one it was killed, often for memory)"
        )
        for note in getattr(error, "__notes__", ()):
            lost.add_note(note)
        raise lost from error


@contextlib.contextmanager
def outside_zero3() -> Iterator[None]:
    """Let `from_pretrained` load whole models although DeepSpeed's ZeRO-3 is on for the policy.

    transformers shards whatever is loaded while a ZeRO-3 configuration exists (`is_deepspeed_zero3_enabled`); a
    scorer that no DeepSpeed engine runs would be left without weights. Does nothing without such a configuration.
    """
    deepspeed: Any = sys.modules.get("transformers.integrations.deepspeed")
    found = getattr(deepspeed, "_hf_deepspeed_config_weak_ref", None)
    if found is None:
        yield
        return
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = found


def machine_group() -> tuple[Any, list[int]]:
    """Return (a gloo group of this machine's processes, their ranks); the first of them owns what they share.

    Launchers number the processes of a machine consecutively, so each LOCAL_RANK of 0 begins another machine.
    Collective over all processes of the run.
    """
    import torch.distributed as dist

    firsts = [local == 0 for local in gathered([int(os.environ.get("LOCAL_RANK", "0"))])]
    machine = list(itertools.accumulate(firsts))  # each process's
    groups = {}
    for number in dict.fromkeys(machine):
        ranks = [process for process, place in enumerate(machine) if place == number]
        groups[number] = dist.new_group(ranks, backend="gloo", timeout=TIMEOUT), ranks  # by all, for every machine
    return groups[machine[rank()]]


def _group() -> Any:
    global _objects
    start()
    if _objects is None:
        import torch.distributed as dist

        _objects = dist.new_group(backend="gloo", timeout=TIMEOUT)
    return _objects
