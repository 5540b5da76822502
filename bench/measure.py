"""What the benches share: paired rounds, clocks, agreement of scores, the machine in one line."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from rl_nmt.models.loading import full_precision

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
    """Seconds a call takes, the device's queue emptied before and after; and its result."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = function()
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def matmul_tflops(device: str) -> float:
    """10¹² floating-point operations per second of torch.matmul in float32 here (best of 5)."""
    size = 2048 if device == "cpu" else 8192
    matrix = torch.randn(size, size, device=device)
    with full_precision():
        return 2 * size**3 / 1e12 / min(clock(lambda: matrix @ matrix, device)[0] for _ in range(5))


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Mean rank correlation within groups of 8; None where no group varies."""
    from scipy.stats import spearmanr

    found = []
    for start in range(0, len(one), GROUP):
        a, b = one[start : start + GROUP], other[start : start + GROUP]
        if len(set(a)) > 1 and len(set(b)) > 1:
            found.append(float(spearmanr(a, b).statistic))
    return statistics.mean(found) if found else None


def equal_share(expected: Sequence[str], found: Sequence[str]) -> float:
    """Share of positions with the same text."""
    return sum(a == b for a, b in zip(expected, found, strict=True)) / len(expected)


def stage_shares(log: dict[str, float]) -> dict[str, float]:
    """time/* of a reward call as shares of their sum."""
    seconds = {name.removeprefix("time/"): value for name, value in log.items() if name.startswith("time/")}
    return {name: value / sum(seconds.values()) for name, value in seconds.items()}


def say(text: str) -> None:
    """A remark: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


def machine(device: str) -> str:
    """Processor, threads and versions; nothing that names the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [row for row in info.read_text(encoding="utf-8").splitlines() if row.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    parts = [model, f"{torch.get_num_threads()} threads", f"Python {platform.python_version()}"]
    if device != "cpu":
        parts.insert(0, torch.cuda.get_device_name(device))
    parts += [f"{name} {version(name)}" for name in ("torch", "transformers", "unbabel-comet", "ctranslate2")]
    return "machine: " + ", ".join(parts)
