"""Check that each preset fits the hardware that it names, by estimates from parameter counts; nothing is loaded.

    python -m bench.presets [configs/gemma3_1b_24gb.yaml …] [--json]

The first line of a preset names its hardware ("# Hardware: 1 × 24 GB GPU with bf16"). For each device it prints the
resident memory, the largest of the temporary stages, and the share of the device's memory, as the doctor (`--doctor`)
does for the present machine. Exit status 1 if something does not fit.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import bench  # noqa: F401  (prints how to run this file)
import train_grpo_en_ta as script
from rl_nmt import config
from rl_nmt.errors import ConfigError, run
from rl_nmt.preflight import capacity, memory_estimate
from rl_nmt.preflight.findings import Finding
from rl_nmt.preflight.machine import Gpu, Machine

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(
    r"# Hardware: (?:(?P<gpus>\d+) × (?P<size>\d+) GB GPUs? (?P<bf16>with|without) bf16|no GPU), "
    r"(?P<ram>\d+) GB of memory(?:\s|$)"
)
FREE = 0.97  # of a GPU's memory: the rest is the driver's (ours, rounded down)


@dataclass(frozen=True)
class Hardware:
    """GPUs of `gpu_gb` · 10⁹ bytes each, with or without bf16 units, and host memory for one process, in 10⁹ bytes."""

    gpus: int
    gpu_gb: int
    bf16: bool
    ram_gb: int

    def machine(self) -> Machine:
        """Return the machine of one process; with several GPUs, each has its own process."""
        size = self.gpu_gb * 10**9
        gpu = Gpu(f"{self.gpu_gb} GB GPU", int(FREE * size), size, self.bf16)
        return Machine(sys.version_info[:2], {}, (gpu,) if self.gpus else (), self.ram_gb * 10**9 // max(1, self.gpus))


def hardware(path: Path) -> Hardware:
    """Return the hardware in the first line of a preset. Raises ConfigError if it names none."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    found = LINE.match(first)
    if not found:
        raise ConfigError(f"{path}: its first line must name the hardware, e.g. # Hardware: 1 × 24 GB GPU with bf16, …")
    return Hardware(int(found["gpus"] or 0), int(found["size"] or 0), found["bf16"] == "with", int(found["ram"]))


def estimate(path: Path) -> list[Finding]:
    """Return the doctor's lines about memory for a preset on its own hardware, one per device."""
    cfg, _, _ = config.parse(script.RunCfg, ["--config", str(path)], {}, "presets", "")
    return capacity.memory_findings(cfg, hardware(path).machine(), memory_estimate.shapes(script.models(cfg)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", type=Path, help="YAML files (default: all of configs/)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    found = {path: estimate(path) for path in args.presets or sorted((ROOT / "configs").glob("*.yaml"))}
    if args.json:
        rows = {path.stem: [[f.level, f.detail, f.way_out] for f in findings] for path, findings in found.items()}
        print(json.dumps(rows, ensure_ascii=False))
    for path, findings in found.items() if not args.json else ():
        print(f"{path.stem}: {hardware(path)}")
        for f in findings:
            print(f"  {f.level:4}  {f.detail}{f' → {f.way_out}' if f.way_out else ''}")
    return int(any(f.level == "fail" for findings in found.values() for f in findings))


if __name__ == "__main__":
    run(main)
