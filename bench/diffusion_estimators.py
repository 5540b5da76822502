"""Compare the estimators of recipes/diffusion: their error, and what GRPO gains with each, over worlds.

    python -m bench.diffusion_estimators [--seeds 0 1 2] [--arms trajectory one_step coupled shuffled] [--steps N]

First, on the start model of the first world: how far each estimator's log-probability of a fill is from the sampler's
own, by the number of denoising steps. Then for every seed a world is built, and every arm trains on it with the same
settings; "shuffled" is trajectory with the rewards of each call shuffled among its samples. Prints means over worlds
with 95 % t-intervals and every world's numbers, and writes them to runs/diffusion_estimators/table.md. Finished runs
are not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench  # noqa: F401  (prints how to run this file)
from bench.pocket_seeds import Shuffled, write_table
from bench.replies_arms import cell

RUNS = Path("runs/diffusion_estimators")
CONFIG = "recipes/diffusion/configs/pocket.yaml"
ARMS = ("trajectory", "one_step", "coupled", "shuffled")
SHOWN = {
    "reward": "judge's reward",
    "known_trigrams": "all trigrams known",
    "kl_fill": "KL to the start, nats per fill",
}
STEPS = (1, 2, 4, 8, 0)  # denoising steps; 0: one mask at a time


def flags(seed: int, arm: str, steps: int) -> list[str]:
    """Return the settings of one arm on one world."""
    world = Path(f"pocket/build/letters-seed{seed}")
    named = {"dataset": "c4", "generator_checkpoint": "generator", "judge_checkpoint": "judge"}
    named |= {"outside_measure": "trigrams.npy"}
    named = {name: str(world / part) for name, part in named.items()}
    named |= {"estimator": "trajectory" if arm == "shuffled" else arm, "seed": str(seed)}
    named |= {"output_dir": str(RUNS / f"{arm}{seed}")} | ({"max_steps": str(steps)} if steps else {})
    return ["--config", CONFIG, *(word for name, value in named.items() for word in (f"--{name}", value))]


def one(seed: int, arm: str, steps: int) -> int:
    """Do one arm in this process."""
    from recipes.diffusion import reward, train

    if arm == "shuffled":
        plain = reward.JudgeReward
        reward.JudgeReward = lambda *args: Shuffled(plain(*args), rng=random.Random(seed))
    return train.main(flags(seed, arm, steps))


def measured(seed: int, arm: str, side: str = "after") -> dict[str, float]:
    """Return the metrics of an arm's run, at its end or "before" training."""
    path = RUNS / f"{arm}{seed}" / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8"))[side]


def table(seeds: list[int], arms: list[str]) -> list[str]:
    """Return the table's lines: one per measure, one column per arm, then each world's."""
    lines = [f"| mean of {len(seeds)} worlds | start | {' | '.join(arms)} |", "|---" * (len(arms) + 2) + "|"]
    columns = [(arms[0], "before"), *((arm, "after") for arm in arms)]  # all begin at the same model
    for name, label in SHOWN.items():
        cells = [cell([measured(seed, *column)[name] for seed in seeds]) for column in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    for seed in seeds:
        found = [measured(seed, *column) for column in columns]
        cells = [", ".join(f"{each[name]:.3f}" for name in SHOWN) for each in found]
        lines.append(f"| world {seed}: the same | {' | '.join(cells)} |")
    return lines


def errors(seed: int) -> list[str]:
    """Return the table of the estimators' errors on one world's start model."""
    from recipes.diffusion import data, measure
    from recipes.diffusion.settings import DiffusionCfg
    from rl_nmt import config
    from rl_nmt.models.masked_diffusion import banned_ids, load_generator

    cfg = config.parse(DiffusionCfg, flags(seed, "trajectory", 0), {}, "", "")[0]
    model, tokenizer = load_generator(cfg.generator_checkpoint)
    rows = data.load(cfg, RUNS / "templates", tokenizer, model.config.max_position_embeddings).heldout
    sampler: dict[str, Any] = {"order": "random", "temperature": cfg.temperature, "top_p": 1.0}
    lines = ["| log p of a fill less the sampler's own, nats: mean, largest | trajectory | one_step | coupled |"]
    lines += ["|---|---|---|---|"]
    for steps in STEPS:
        options = {"sampler": sampler | {"steps": steps}, "banned": banned_ids(tokenizer)}
        found = measure.DiffusionEvaluator(rows, tokenizer, None, measure.Outside(), **options).errors(model)
        cells = [
            f"{mean:+.1g}, {most:.1g}" if most < 1e-3 else f"{mean:+.2f}, {most:.2f}" for mean, most in found.values()
        ]
        lines.append(f"| {f'{steps} steps' if steps else 'one mask at a time'} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: as the configuration")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(args.seeds[0], args.one, args.steps)
    for seed in args.seeds:
        subprocess.run([sys.executable, "-m", "pocket.letters.build", "--seed", str(seed)], check=True)
        for arm in args.arms:
            command = [sys.executable, "-m", "bench.diffusion_estimators", "--one", arm, "--seeds", str(seed)]
            subprocess.run([*command, "--steps", str(args.steps)], check=True)
    write_table(RUNS, [*errors(args.seeds[0]), "", *table(args.seeds, args.arms)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
