"""Compare token-level credit with sequence-level reward in the pocket: same start, budget and sequence reward.

    python -m bench.pocket_credit [--seeds 0 1 2] [--arms token judge] [--runs 1] [--updates N] [-- FLAGS of the recipe]

All runs of a seed follow recipes/translategemma/configs/pocket.yaml and have the same sequence reward:

  sequence   rl.credit sequence: error spans are marked but not used
  token      rl.credit token: the spans of XCOMET's twin
  judge      rl.credit token: the spans of the judge over loopback, which knows the errors exactly

It reports held-out chrF++ and errors per sentence (counted against the references by the rules of the pocket world, not
by a model), before and after; their differences to `sequence` with 95 % intervals (paired bootstrap over rows within
each seed, mean over seeds and runs); and the first evaluation that reaches the final score of `sequence`. With --runs 2
each seed's world is trained on twice, with different training seeds: the interval covers only the choice of rows, and
runs differ by about as much. Writes runs/pocket_credit/table.md.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.pocket_seeds import write_table
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.results.translation import CHRF
from rl_nmt.runs.metrics_file import MetricsFile

RUNS = Path("runs/pocket_credit")
CONFIG = "recipes/translategemma/configs/pocket.yaml"
ARMS = {
    "sequence": ["--rl.credit", "sequence"],
    "token": ["--rl.credit", "token"],
    "judge": (
        "--rl.credit token --reward.xcomet.weight 0 --reward.mqm.enabled True --reward.mqm.weight 1 "
        "--reward.mqm.sentence_weight 0 --reward.mqm.scale 0.1 --reward.mqm.model judge --reward.mqm.endpoint"
    ).split(),
}


def world_flags(seed: int) -> list[str]:
    """Return the recipe's flags for the pocket world and the twins of this seed."""
    world, twins = f"pocket/build/seed{seed}", f"pocket/build/twins-seed{seed}"
    named = {
        "model.policy_name_or_path": f"{world}/policy",
        "data.train_file": f"{world}/c4/c4-train.00000-of-00001.json.gz",
        "data.eval_file": f"{world}/heldout.jsonl",
        "reward.metricx.model_name_or_path": f"{twins}/metricx",
        "reward.metricx.tokenizer_name_or_path": f"{twins}/metricx",
        "reward.xcomet.model_name_or_path": f"{twins}/xcomet",
    }
    return [word for name, value in named.items() for word in (f"--{name}", value)]


class Run(NamedTuple):
    """A world, and the number of earlier runs on it in this arm."""

    seed: int
    again: int = 0


def folder(run: Run, arm: str) -> Path:
    return RUNS / (f"{arm}{run.seed}_{run.again}" if run.again else f"{arm}{run.seed}")


def train(run: Run, arm: str, more: list[str]) -> None:
    """Start one run as a user would, unless it is already finished."""
    from pocket.twins.judge import serve

    subprocess.run([sys.executable, "-m", "pocket.twins.build", "--seed", str(run.seed)], check=True)
    with contextlib.ExitStack() as stack:
        flags = [*world_flags(run.seed), *ARMS[arm]]
        if arm == "judge":
            flags.append(stack.enter_context(serve(Path(f"pocket/build/twins-seed{run.seed}"))).url)
        command = [sys.executable, "-m", "recipes.translategemma.train", "--config", CONFIG, *flags]
        command += ["--rl.seed", str(run.seed + 100 * run.again), "--logging.output_dir", str(folder(run, arm)), *more]
        subprocess.run(command, check=True)


def outputs(run: Run, arm: str, side: str = "after") -> Snapshot:
    """Return the held-out translations of the start policy (`before`) or of the trained one."""
    rows = MetricsFile(folder(run, arm) / "eval_outputs.jsonl").rows()
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    return Snapshot(
        [r["source"] for r in rows], [r["reference"] for r in rows], [r[side] for r in rows], [{} for _ in rows], {}
    )


def errors_per_sentence(snapshot: Snapshot) -> float:
    from pocket.twins.damage import find_errors

    pairs = zip(snapshot.sources, snapshot.outputs, snapshot.references, strict=True)
    return float(np.mean([len(find_errors(*row)) for row in pairs]))


def evaluations(run: Run, arm: str) -> list[tuple[int, float]]:
    """Return (update, held-out chrF++) of every evaluation."""
    rows = MetricsFile(folder(run, arm) / "train_log.jsonl").rows()
    return [(row["step"], row["chrf"]) for row in rows if row["kind"] == "eval"]


def reached(looks: list[tuple[int, float]], score: float) -> str:
    return next((str(step) for step, value in looks if value >= score), f"not in {looks[-1][0]}")


def interval(runs: list[Run], arm: str) -> tuple[float, float, float]:
    """Return (mean, lower, upper) of arm − sequence in chrF++: 95 %, rows resampled, mean over seeds and runs."""
    draws, observed = [], []
    for run in runs:
        one, other = (outputs(run, name) for name in (arm, "sequence"))
        draws.append(CHRF.resampled(one, run.seed) - CHRF.resampled(other, run.seed))
        observed.append(evaluations(run, arm)[-1][1] - evaluations(run, "sequence")[-1][1])
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return float(np.mean(observed)), float(low), float(high)


def table(runs: list[Run], arms: list[str]) -> list[str]:
    lines = [
        "| credit | seed | chrF++ before | after | errors per sentence before | after | sequence's chrF++ at update |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        goal = evaluations(run, "sequence")[-1][1]
        for arm in arms:
            looks = evaluations(run, arm)
            before, after = (errors_per_sentence(outputs(run, arm, side)) for side in ("before", "after"))
            name = f"{run.seed}, again" if run.again else run.seed
            lines.append(
                f"| {arm} | {name} | {looks[0][1]:.1f} | {looks[-1][1]:.1f} | {before:.2f} | {after:.2f} | "
                f"{reached(looks, goal)} |"
            )
    lines.append("")
    for arm in arms:
        if arm != "sequence":
            mean, low, high = interval(runs, arm)
            found = f"{mean:+.2f} chrF++, 95 % interval [{low:+.2f}, {high:+.2f}]"
            lines.append(f"{arm} − sequence, mean over {len(runs)} runs: {found}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--runs", type=int, default=1, help="runs per seed and arm, with different training seeds")
    parser.add_argument("--updates", type=int, default=0, help="optimizer steps; 0: as in the configuration")
    parser.add_argument("more", nargs="*", help="flags of the recipe for all runs, after --")
    args = parser.parse_args()
    arms = list(dict.fromkeys(["sequence", *args.arms]))  # what the others are compared with
    more = [*(["--rl.updates", str(args.updates)] if args.updates else []), *args.more]
    runs = [Run(seed, again) for again in range(args.runs) for seed in args.seeds]
    for run in runs:
        for arm in arms:
            train(run, arm, more)
    write_table(RUNS, table(runs, arms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
