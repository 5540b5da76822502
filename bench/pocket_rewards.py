"""Train the pocket policy with the reward's other models: likelihood alone, or models whose licences are permissive.

    python -m bench.pocket_rewards [--seeds 0 1 2] [--arms likelihood permissive] [--steps N]
    python -m bench.pocket_rewards --time [--seeds 0] [--rounds 7]

Every arm of a seed has the same start, data and settings, those of configs/pocket.yaml; only the reward differs:

  default      COMET-DA of NLLB's back-translation, and COMETKiwi: bench.pocket_seeds with another name
  likelihood   --cycle likelihood --qe likelihood, by a small language model that has learned the world's pairs
  permissive   the models of configs/gemma3_1b_permissive.yaml in the world's size: COMET-DA of M2M100's texts,
               and MetricX

Worlds and models are built first where they are missing (pocket/build.py, pocket/rewards/build.py). Prints held-out
chrF++ before and after, and the mean change of each arm with its 95 % t-interval over seeds; runs and table.md are in
runs/pocket_rewards/. Finished runs are not repeated.

--time loads the rewards of all arms in one process and calls them in turn with the same batch, another one of the start
policy's samples every round: 24 sources × 8 outputs. Prints seconds, the bytes of their weights, and ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench  # noqa: F401  (prints how to run this file)
from bench.pocket_seeds import run_flags, write_table
from bench.replies_arms import cell

RUNS = Path("runs/pocket_rewards")
PARTS = {"default": (), "likelihood": ("language_model",), "permissive": ("m2m100", "metricx")}  # of pocket.rewards
BATCH = (24, 8)  # sources, outputs of each: those of an optimizer step of configs/pocket.yaml
# Published models, whose sizes compare otherwise than the pocket's; those of the default are RunCfg's.
M2M100, METRICX = "facebook/m2m100_1.2B", "google/metricx-24-hybrid-xl-v2p6"
PUBLISHED: dict[str, dict[str, Any]] = {
    "default": {},
    "likelihood": {"cycle": "likelihood", "qe": "likelihood", "likelihood_model": "google/gemma-3-270m"},
    "permissive": {"backtranslation_model": M2M100, "comet_qe_model": METRICX},
}


def folder(arm: str, seed: int) -> Path:
    return RUNS / f"{arm}{seed}"


def world(seed: int) -> Path:
    return Path(f"pocket/build/seed{seed}")


def models(seed: int) -> Path:
    return Path(f"pocket/build/rewards-seed{seed}")


def reward_flags(arm: str, seed: int) -> list[str]:
    """Return the settings of an arm's reward that replace those of configs/pocket.yaml."""
    made = models(seed)
    if arm == "likelihood":
        model = made / "language_model"
        named = {"cycle": "likelihood", "qe": "likelihood", "likelihood_model": str(model / "model")}
        named["worked_examples"] = str(model / "worked.jsonl")
    elif arm == "permissive":
        named = {"backtranslation_model": str(made / "m2m100/model"), "comet_qe_model": str(made / "metricx/model")}
    else:
        named = {}
    return [word for name, value in named.items() for word in (f"--{name}", value)]


def flags(arm: str, seed: int, steps: int) -> list[str]:
    """Return the settings of one run."""
    line = [*run_flags(world(seed), seed, folder(arm, seed)), "--model_id", str(world(seed) / "policy")]
    return [*line, *reward_flags(arm, seed), *(["--max_steps", str(steps)] if steps else [])]


def prepare(seed: int, arms: Sequence[str]) -> None:
    """Build what the arms of a seed need and is not built."""
    from pocket import build as worlds
    from pocket.rewards.build import build

    place = worlds.build(world(seed), seed)
    build(models(seed), place, [part for arm in arms for part in PARTS[arm]])


def results(seeds: Sequence[int], arms: Sequence[str]) -> list[str]:
    """Return the table: one line per run, then the mean change of each arm."""
    lines = ["| arm | seed | chrF++ before | after | change | p | reward before | after |", "|---" * 8 + "|"]
    for arm in arms:
        changes = []
        for seed in seeds:
            found = json.loads((folder(arm, seed) / "evaluation.json").read_text(encoding="utf-8"))
            before, after, p = found["before"], found["after"], found["p_value"]
            changes.append(after["chrf"] - before["chrf"])
            lines.append(
                f"| {arm} | {seed} | {before['chrf']:.1f} | {after['chrf']:.1f} | {changes[-1]:+.1f} | "
                f"{p['chrf']:.3f} | {before['reward']:.3f} | {after['reward']:.3f} |"
            )
        lines.append(f"| {arm} | mean of {len(seeds)} | | | {cell(changes, 1, '+')} | | | |")
    return lines


# ------------------------------------------------------------------ time and memory


def timed(seed: int, arms: Sequence[str], rounds: int) -> list[str]:
    """Return the table of seconds and bytes of the arms' rewards, and the ratios of the first arm's to theirs."""
    import train_grpo_en_ta as trainer
    from bench.measure import machine, paired
    from pocket.build import Sizes
    from pocket.twins import graded
    from rl_nmt import config

    batches = [graded.heldout_samples(world(seed), 100 * seed + i, Sizes(), *BATCH) for i in range(rounds + 1)]
    routes, weights = {}, {}
    for arm in arms:
        cfg, _, _ = config.parse(trainer.RunCfg, flags(arm, seed, 0), trainer.ACTIONS, prog="x", description="")
        reward, left = trainer.build_reward(cfg), iter(batches)

        def call(reward=reward, left=left):
            rows = next(left)
            return reward(None, [row.mt for row in rows], source=[row.src for row in rows])

        routes[arm], weights[arm] = call, loaded_bytes(cfg)
    found = paired(routes, rounds, "cpu")
    outside = {arm: loaded_bytes(trainer.RunCfg(**PUBLISHED[arm])) for arm in arms}
    first = arms[0]
    columns = f"{first} / arm, time | MB of weights | {first} / arm | GB of published sizes in float32 | {first} / arm"
    lines = [machine("cpu"), "", f"| reward | seconds a call | {columns} |", "|---" * 7 + "|"]
    for arm in arms:
        share = [
            f"{sizes[arm] / unit:.1f} | {sizes[first] / sizes[arm]:.2f}"
            for sizes, unit in ((weights, 1e6), (outside, 1e9))
        ]
        time = f"{found.median(arm):.3f} | {found.ratio(first, arm):.2f}"
        lines.append(f"| {arm} | {time} | {' | '.join(share)} |")
    return lines


def loaded_bytes(cfg) -> int:
    """Return the bytes of the reward models' weights in memory, as the memory estimate counts them on a CPU."""
    from rl_nmt.preflight import memory_estimate

    shapes, total = memory_estimate.shapes(cfg.reward_models_used()), 0
    for part, shape in shapes.items():
        if part == "translator":
            total += memory_estimate.translator_need(shape, cfg.dual_dtype, cfg.backtranslation_beams)[0]
        elif part == "likelihood":
            total += memory_estimate.likelihood_need(shape, cfg.reward_dtype)[0]
        elif shape.config.get("model_type") == "mt5":
            total += memory_estimate.metricx_need(shape, cfg.reward_dtype)[0]
        else:
            total += memory_estimate.comet_need(shape, cfg.reward_dtype, False)[0]
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["likelihood", "permissive"], choices=[*PARTS])
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: as configs/pocket.yaml")
    parser.add_argument("--time", action="store_true", help="time the rewards of all arms instead of training")
    parser.add_argument("--rounds", type=int, default=7, help="of --time")
    args = parser.parse_args()
    if args.time:
        prepare(args.seeds[0], [*PARTS])
        print("\n".join(timed(args.seeds[0], [*PARTS], args.rounds)))
        return 0
    for seed in args.seeds:
        prepare(seed, args.arms)
        for arm in args.arms:
            if not (folder(arm, seed) / "evaluation.json").exists():
                line = [sys.executable, "train_grpo_en_ta.py", *flags(arm, seed, args.steps)]
                subprocess.run(line, check=True)
    write_table(RUNS, results(args.seeds, args.arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
