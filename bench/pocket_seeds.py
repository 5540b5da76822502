"""Test over several seeds whether pocket training improves the translator, and whether the reward is the cause.

    python -m bench.pocket_seeds [--seeds 0 1 2] [--control 0] [--steps N]

For every seed a new world is built (data, policy, back-translator, both scorers) and trained on; the control
runs the same loop with the rewards of each call shuffled among its samples. Prints one table, held-out
chrF++ and reward before and after with the paired-bootstrap p, and writes it to runs/pocket_seeds/table.md.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import bench  # noqa: F401  (prints how to run this file)

RUNS = Path("runs/pocket_seeds")


class Wrapped:
    """A reward with the attributes of another one."""

    def __init__(self, reward, **own):
        self.__dict__.update(own, reward=reward)

    def __getattr__(self, name):
        return getattr(self.reward, name)

    def __setattr__(self, name, value):
        setattr(self.reward, name, value)


class Shuffled(Wrapped):
    """A reward that shuffles its values among the samples: same distribution, no information."""

    __name__ = "shuffled"

    def __call__(self, *args, **kwargs):
        values = self.reward(*args, **kwargs)
        self.rng.shuffle(values)
        return values


def one(seed: int, control: bool, steps: int) -> int:
    """Build the world of `seed` and train on it in this process; the results are in the run folder."""
    import train_grpo_en_ta as trainer
    from pocket.build import build

    world = build(Path(f"pocket/build/seed{seed}"), seed)
    argv = [*run_flags(world, seed, folder(seed, control)), "--model_id", str(world / "policy")]
    if steps:
        argv += ["--max_steps", str(steps)]
    if control:
        plain = trainer.build_reward
        trainer.build_reward = lambda cfg: Shuffled(plain(cfg), rng=random.Random(seed))
    return trainer.main(argv)


def run_flags(world: Path, seed: int, folder: Path) -> list[str]:
    """Return the flags of a run of configs/pocket.yaml into `folder`, with a world's data and reward models."""
    named = {
        "dataset_name": "c4",
        "eval_file": "heldout.jsonl",
        "comet_da_model": "comet_da",
        "comet_qe_model": "comet_qe",
        "backtranslation_model": "nllb",
    }
    flags = ["--config", "configs/pocket.yaml", "--seed", str(seed), "--output_dir", str(folder)]
    return flags + [word for flag, part in named.items() for word in (f"--{flag}", str(world / part))]


def folder(seed: int, control: bool) -> Path:
    return RUNS / f"{'control' if control else 'seed'}{seed}"


def write_table(runs: Path, lines: list[str]) -> None:
    """Print the lines and write them to table.md."""
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def line(seed: int, control: bool, seconds: float) -> str:
    result = json.loads((folder(seed, control) / "evaluation.json").read_text(encoding="utf-8"))
    before, after, p = result["before"], result["after"], result["p_value"]
    name = f"{seed}, rewards shuffled" if control else str(seed)
    return (
        f"| {name} | {before['chrf']:.1f} | {after['chrf']:.1f} | {after['chrf'] - before['chrf']:+.1f} | "
        f"{p['chrf']:.3f} | {before['reward']:.3f} | {after['reward']:.3f} | {seconds / 60:.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--control", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: as configs/pocket.yaml")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        return one(args.one, bool(args.control), args.steps)
    table = [
        "| seed | chrF++ before | after | change | p | reward before | after | minutes, build included |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed, control in [(s, False) for s in args.seeds] + [(s, True) for s in args.control]:
        start = time.monotonic()
        command = [sys.executable, "-m", "bench.pocket_seeds", "--one", str(seed), "--steps", str(args.steps)]
        subprocess.run([*command, "--control", *(["1"] if control else [])], check=True)
        table.append(line(seed, control, time.monotonic() - start))
    write_table(RUNS, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
