"""Does the reward grow in memory from call to call?

    python -m bench.memory [--calls 1000] [--early 50] [--backend transformers|ctranslate2] [--json]

Calls the reward on tiny models (bench/shapes.py) with other texts every time and reads the process's resident
memory after `early` calls and after `calls`. The early reading comes after allocators and kernels have warmed
up; what is added later would be added for ever.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local folder
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from bench import shapes, texts
from bench.measure import machine, say
from rl_nmt.errors import run


def resident() -> int:
    """Bytes of this process in memory now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(reward, n: int, calls: int, early: int) -> dict:
    """Resident bytes after `early` and after `calls` calls of `n` samples, every call with texts of its own."""
    readings = {}
    for call in range(1, calls + 1):
        items = texts.items(n, "real", seed=call)
        reward(None, [item.tamil for item in items], source=[item.english for item in items])
        if call in (early, calls):
            gc.collect()
            readings[call] = resident()
        if call % max(1, calls // 10) == 0:
            say(f"{call} calls: {resident() / 2**20:.1f} MiB")
    before, after = readings[early], readings[calls]
    return {"calls": calls, "early": early, "n": n, "bytes_early": before, "bytes": after, "growth": after / before - 1}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="reward calls (default 1000)")
    parser.add_argument("--early", type=int, default=50, help="calls before the first reading (default 50)")
    parser.add_argument("--n", type=int, default=8, help="samples of a call (default 8)")
    parser.add_argument("--backend", choices=("transformers", "ctranslate2"), default="transformers")
    parser.add_argument("--models", type=Path, default=shapes.MODELS, help="where models are built (bench/build)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    if not 1 <= args.early < args.calls or args.n < 1:
        parser.error("--early must be at least 1 and below --calls, --n at least 1")
    from rewards_en_ta_dupo import CometDuPOReward

    models = args.models.resolve()
    reward = CometDuPOReward(
        str(shapes.comet("regression_metric", "tiny", models)),
        str(shapes.comet("unified_metric", "tiny", models)),
        str(shapes.nllb("tiny", models)),
        backtranslation_backend=args.backend,
        reward_device="cpu",
        dual_device="cpu",
    )
    found = measure(reward, args.n, args.calls, args.early) | {"backend": args.backend}
    if args.json:
        print(json.dumps(found), flush=True)
    else:
        print(
            f"resident after {args.early} calls {found['bytes_early'] / 2**20:.1f} MiB, after {args.calls} "
            f"{found['bytes'] / 2**20:.1f} MiB: {found['growth']:+.1%} ({args.backend}, {args.n} samples a call)",
            flush=True,
        )
    print(machine("cpu"), file=sys.stderr if args.json else sys.stdout, flush=True)
    return 0


if __name__ == "__main__":
    run(main)
