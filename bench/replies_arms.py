"""Compare the arms of recipes/replies over worlds: SFT, polychromic SFT, GRPO, and GRPO with a set reward.

    python -m bench.replies_arms [--seeds 0 1 2] [--arms sft polychromic grpo set] [--set_weight 1.0]

For every seed a world is built and SFT done once; the GRPO arms start from it. Success is the grammar's own check of
topic and mood, which no reward reads. Prints means over worlds with 95 % t-intervals, and writes them to
runs/replies_arms/table.md. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

import bench  # noqa: F401  (prints how to run this file)
from bench.pocket_seeds import write_table

RUNS = Path("runs/replies_arms")
CONFIG = "recipes/replies/configs/pocket.yaml"
SHOWN = {"reward": "reward, greedy", "sampled_reward": "reward, sampled", "pass@1": "pass@1", "pass@5": "pass@5"}
SHOWN |= {"pass@10": "pass@10", "self_bleu": "Self-BLEU", "distinct_2": "distinct-2", "mean_length": "characters"}


def flags(seed: int, arm: str, args: argparse.Namespace) -> list[str]:
    """Return the settings of one arm on one world."""
    world, folder = Path(f"pocket/build/replies-seed{seed}"), RUNS / f"{arm}{seed}"
    own = {"data.train_file": "rows.jsonl", "data.eval_file": "heldout.jsonl", "model.name": "policy"}
    named = {name: str(world / part) for name, part in (own | {"reward.encoder": "encoder"}).items()}
    named |= {"logging.output_dir": str(folder), "seed": str(seed), "phase": "sft"}
    if arm == "polychromic":
        named["sft.diversity_weight"] = str(args.diversity_weight)
    if arm in ("grpo", "set"):
        named |= {"phase": "grpo", "grpo.start_from": str(RUNS / f"sft{seed}" / "sft")}
    if arm == "set":
        named["grpo.set_weight"] = str(args.set_weight)
    return ["--config", CONFIG, *(word for name, value in named.items() for word in (f"--{name}", value))]


def measured(seed: int, arm: str) -> dict[str, float]:
    """Return the metrics at the end of an arm; arm "start": before SFT."""
    folder = RUNS / f"{'sft' if arm == 'start' else arm}{seed}"
    path = folder / ("evaluation.json" if arm in ("grpo", "set") else "sft/evaluation.json")
    return json.loads(path.read_text(encoding="utf-8"))["before" if arm == "start" else "after"]


def cell(values: list[float], digits: int = 3, sign: str = "") -> str:
    """Return mean ± half of the 95 % t-interval. `sign`: "+" also for a positive mean.

    >>> cell([0.5]), cell([0.4, 0.5, 0.6]), cell([0.4, 0.5, 0.6], 1, "+")
    ('0.500', '0.500 ± 0.248', '+0.5 ± 0.2')
    """
    from scipy.stats import t

    mean = f"{np.mean(values):{sign}.{digits}f}"
    if len(values) < 2:
        return mean
    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{mean} ± {half:.{digits}f}"


def table(seeds: list[int], arms: list[str]) -> list[str]:
    """Return the table's lines: one per measure, one column per arm, then each world's pass@1."""
    lines = [f"| mean of {len(seeds)} worlds | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for name, label in SHOWN.items():
        cells = [cell([measured(seed, arm)[name] for seed in seeds]) for arm in arms]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for seed in seeds:
        cells = [f"{measured(seed, arm)['pass@1']:.3f}, {measured(seed, arm)['self_bleu']:.3f}" for arm in arms]
        lines.append(f"| world {seed}: pass@1, Self-BLEU | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["sft", "polychromic", "grpo", "set"])
    parser.add_argument("--set_weight", type=float, default=1.0)
    parser.add_argument("--diversity_weight", type=float, default=0.3)
    args = parser.parse_args()
    for seed in args.seeds:
        subprocess.run([sys.executable, "-m", "pocket.replies.build", "--seed", str(seed)], check=True)
        for arm in args.arms:
            subprocess.run([sys.executable, "-m", "recipes.replies.train", *flags(seed, arm, args)], check=True)
    write_table(RUNS, table(args.seeds, ["start", *args.arms]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
