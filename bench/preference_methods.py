"""Compare the methods of recipes/preference over worlds: pairs by GRPO, GRPO with samples beside the pair, TRL's DPO.

    python -m bench.preference_methods [--seeds 0 1 2] [--methods grpo mixed dpo]

For every seed a world is built and each method trains on the same pairs, steps, learning rate and beta. Prints means
over worlds with 95 % t-intervals and every world's accuracies, and writes them to runs/preference_methods/table.md.
Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import bench  # noqa: F401  (prints how to run this file)
from bench.pocket_seeds import write_table
from bench.replies_arms import cell

RUNS = Path("runs/preference_methods")
CONFIG = "recipes/preference/configs/pocket.yaml"
METHODS = {
    "grpo": {},
    "mixed": {"training.sampled": "2", "training.micro_batch_size": "32", "reward.source": "match"},
    "dpo": {"training.method": "dpo"},
}
SHOWN = {"implicit_accuracy": "implicit accuracy", "implicit_accuracy_shuffled": "the same, pictures exchanged"}
SHOWN |= {
    "logp_chosen": "log p(chosen)",
    "logp_rejected": "log p(rejected)",
    "correct": "greedy answer is the chosen one",
}
SHOWN |= {"reward_accuracy": "reward accuracy"}


def flags(seed: int, method: str) -> list[str]:
    """Return the settings of one method on one world."""
    world = Path(f"pocket/build/charts-seed{seed}")
    named = {"dataset.train_file": str(world / "rows.jsonl"), "dataset.eval_file": str(world / "heldout.jsonl")}
    named |= {"model.name": str(world / "policy"), "logging.output_dir": str(RUNS / f"{method}{seed}")}
    named |= {"seed": str(seed)} | METHODS[method]
    return ["--config", CONFIG, *(word for name, value in named.items() for word in (f"--{name}", value))]


def measured(seed: int, method: str, side: str = "after") -> dict[str, float]:
    """Return the metrics of a method's run, at its end or "before" training."""
    path = RUNS / f"{method}{seed}" / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8"))[side]


def table(seeds: list[int], methods: list[str]) -> list[str]:
    """Return the table's lines: one per measure, one column per method, then each world's implicit accuracies."""
    lines = [f"| mean of {len(seeds)} worlds | start | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    columns = [(methods[0], "before"), *((method, "after") for method in methods)]  # all begin at the same model
    for name, label in SHOWN.items():
        found = [[measured(seed, *column).get(name) for seed in seeds] for column in columns]
        lines.append(f"| {label} | {' | '.join('–' if None in each else cell(each) for each in found)} |")
    for seed in seeds:
        found = [measured(seed, *column) for column in columns]
        cells = [", ".join(f"{each[name]:.3f}" if name in each else "–" for name in [*SHOWN][:2]) for each in found]
        lines.append(f"| world {seed}: implicit accuracy, pictures exchanged | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    args = parser.parse_args()
    for seed in args.seeds:
        subprocess.run([sys.executable, "-m", "pocket.charts.build", "--seed", str(seed)], check=True)
        for method in args.methods:
            subprocess.run([sys.executable, "-m", "recipes.preference.train", *flags(seed, method)], check=True)
    write_table(RUNS, table(args.seeds, args.methods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
