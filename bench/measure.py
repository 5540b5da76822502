"""Helpers of the benches: paired rounds, clocks, agreement of scores, the machine in one line."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerCallback

from rl_nmt.audit.variance_shares import rank_correlation
from rl_nmt.models.loading import full_precision, versions

GROUP = 8  # completions of a source


@dataclass(frozen=True)
class Timed:
    """Seconds per counted round and the last result, per route."""

    seconds: dict[str, list[float]]
    results: dict[str, object]

    def median(self, route: str) -> float:
        return statistics.median(self.seconds[route])

    def ratio(self, above: str, below: str) -> float:
        """Median over rounds of `above` / `below`."""
        pairs = zip(self.seconds[above], self.seconds[below], strict=True)
        return statistics.median(a / b for a, b in pairs)


def paired(routes: dict[str, Callable[[], object]], rounds: int, device: str) -> Timed:
    """Run every route once per round, in reverse order every other round, after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    results = {}
    for number in range(rounds + 1):
        for name in list(routes) if number % 2 else reversed(routes):
            taken, results[name] = clock(routes[name], device)
            if number:
                seconds[name].append(taken)
    return Timed(seconds, results)


def clock(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Return the seconds of a call, with the device synchronized before and after, and its result."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = function()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def share_within(owner, name: str, call: Callable[[], object], device: str) -> float:
    """Return the share of one `call` that is spent in the method `name` of `owner`."""
    method, spent = getattr(owner, name), []

    def timed(*args, **kwargs):
        seconds, result = clock(lambda: method(*args, **kwargs), device)
        spent.append(seconds)
        return result

    setattr(owner, name, timed)
    try:
        seconds, _ = clock(call, device)
    finally:
        delattr(owner, name)
    return sum(spent) / seconds


class StepClock(TrainerCallback):
    """Record the seconds of every training step in `steps`, with the stage times that the trainer logs."""

    def __init__(self):
        self.steps: list[dict] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self._start = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append({"seconds": now() - self._start})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.steps and "reward" in (logs or {}):
            self.steps[-1] |= {name: value for name, value in logs.items() if name.startswith("time/")}


def now() -> float:
    """Return the time in seconds once the GPU has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def grpo_trainer(cfg, reward, rows, callback: TrainerCallback):
    """Build the flagship's trainer with the policy and output folder of `cfg`."""
    import train_grpo_en_ta as script

    policy = script.load_policy(cfg)
    trainer = script.build_trainer(cfg, Path(cfg.output_dir), policy, reward, rows)
    trainer.add_callback(callback)
    return trainer


def pocket_run(argv: list[str]) -> list[str]:
    """Return `argv` with configs/pocket.yaml, after building its world, if it has no --config."""
    if "--config" in argv:
        return argv
    from pocket.build import HERE, build

    with contextlib.redirect_stdout(sys.stderr):
        build(HERE / "build" / "seed0")
    return ["--config", "configs/pocket.yaml", *argv]


def matmul_tflops(device: str, dtype: torch.dtype = torch.float32) -> float:
    """10¹² floating-point operations per second of torch.matmul here (best of 5); float32 without TF32."""
    size = 8192 if device != "cpu" else 2048 if dtype == torch.float32 else 256  # a CPU without bf16 units is slow
    matrix = torch.randn(size, size, device=device).to(dtype)
    with full_precision():
        return 2 * size**3 / 1e12 / min(clock(lambda: matrix @ matrix, device)[0] for _ in range(5))


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return the mean rank correlation within groups of 8; None if no group varies."""
    return rank_correlation(one, other, [i // GROUP for i in range(len(one))])


def equal_share(expected: Iterable, found: Iterable) -> float:
    """Return the share of positions where both are equal."""
    return statistics.fmean(a == b for a, b in zip(expected, found, strict=True))


def stage_shares(log: dict[str, float]) -> dict[str, float]:
    """Return time/* of a reward call as shares of their sum."""
    seconds = {name.removeprefix("time/"): value for name, value in log.items() if name.startswith("time/")}
    return {name: value / sum(seconds.values()) for name, value in seconds.items()}


def resident() -> int:
    """Return this process's resident bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_growth(call: Callable[[int], object], calls: int, early: int) -> dict:
    """Return resident bytes after `early` and after `calls` calls; `call` receives its number."""
    readings = {}
    for number in range(1, calls + 1):
        call(number)
        if number in (early, calls):
            gc.collect()
            readings[number] = resident()
        if number % max(1, calls // 10) == 0:
            say(f"{number} calls: {resident() / 2**20:.1f} MiB")
    before, after = readings[early], readings[calls]
    return {"calls": calls, "early": early, "bytes_early": before, "bytes": after, "growth": after / before - 1}


def say(text: str) -> None:
    """Print a remark on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


PACKAGES = ("torch", "transformers", "trl", "unbabel-comet", "ctranslate2", "vllm")


def card(device: str) -> str:
    """Return the name of the GPU or processor."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    rows = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [row.partition(":")[2].strip() for row in rows if row.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: str) -> str:
    """Return processor, threads and versions, but nothing that identifies the machine."""
    parts = [card("cpu"), f"{torch.get_num_threads()} threads", f"Python {platform.python_version()}"]
    if device != "cpu":
        parts.insert(0, card(device))
    return "machine: " + ", ".join([*parts, *map(" ".join, versions(*PACKAGES).items())])
