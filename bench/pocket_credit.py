"""Token-level credit against sequence-level reward in the pocket: same start, same budget, same judges.

    python -m bench.pocket_credit [--seeds 0 1 2] [--updates N] [-- FLAGS of the recipe]

Both runs of a seed follow recipes/translategemma/configs/pocket.yaml; `sequence` differs in `rl.credit` alone, so the
error spans are marked there too and change nothing. Held-out chrF++ and errors per sentence (counted against the
references by the rules of the pocket world, not by a judge), before and after; the difference between the two
with its 95 % interval (rows drawn in pairs, each seed's by itself, mean over seeds); and the first evaluation at
which each reaches the other's final score. Writes runs/pocket_credit/table.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from rl_nmt.evaluation import Snapshot, bootstrap_scores

RUNS = Path("runs/pocket_credit")
CONFIG = "recipes/translategemma/configs/pocket.yaml"
LEVELS = ("token", "sequence")


def world_flags(seed: int) -> list[str]:
    """The recipe's flags that name the pocket world and the twins of this seed."""
    world, twins = f"pocket/build/seed{seed}", f"pocket/build/twins-seed{seed}"
    return [
        "--model.policy_name_or_path", f"{world}/policy",
        "--data.train_file", f"{world}/c4/c4-train.00000-of-00001.json.gz",
        "--data.eval_file", f"{world}/heldout.jsonl",
        "--reward.metricx.model_name_or_path", f"{twins}/metricx",
        "--reward.metricx.tokenizer_name_or_path", f"{twins}/metricx",
        "--reward.xcomet.model_name_or_path", f"{twins}/xcomet", "--rl.seed", str(seed),
    ]  # fmt: skip


def folder(seed: int, level: str) -> Path:
    return RUNS / f"{level}{seed}"


def train(seed: int, level: str, more: list[str]) -> None:
    """One run as a user starts it; a finished one is left as it is."""
    subprocess.run([sys.executable, "-m", "pocket.twins.build", "--seed", str(seed)], check=True)
    subprocess.run(
        [sys.executable, "-m", "recipes.translategemma.train", "--config", CONFIG, *world_flags(seed), "--rl.credit",
         level, "--logging.output_dir", str(folder(seed, level)), *more],
        check=True,
    )  # fmt: skip


def outputs(seed: int, level: str, side: str = "after") -> Snapshot:
    """What the start policy (`before`) or the trained one made of the held-out rows."""
    lines = (folder(seed, level) / "eval_outputs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if row["step"] == rows[-1]["step"]]
    return Snapshot(
        [r["source"] for r in rows], [r["reference"] for r in rows], [r[side] for r in rows], [{} for _ in rows], {}
    )


def errors_per_sentence(snapshot: Snapshot) -> float:
    from pocket.twins.damage import find_errors

    pairs = zip(snapshot.sources, snapshot.outputs, snapshot.references, strict=True)
    return float(np.mean([len(find_errors(*row)) for row in pairs]))


def evaluations(seed: int, level: str) -> list[tuple[int, float]]:
    """(update, held-out chrF++) of every evaluation."""
    lines = (folder(seed, level) / "train_log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["chrf"]) for row in rows if row["kind"] == "eval"]


def reached(looks: list[tuple[int, float]], score: float) -> str:
    return next((str(step) for step, value in looks if value >= score), f"not in {looks[-1][0]}")


def interval(seeds: list[int]) -> tuple[float, float, float]:
    """(mean, lower, upper) of token − sequence in corpus chrF++: 95 %, rows resampled, mean over seeds."""
    draws, observed = [], []
    for seed in seeds:
        one, other = (outputs(seed, level) for level in LEVELS)
        draws.append(bootstrap_scores("chrf", one, seed) - bootstrap_scores("chrf", other, seed))
        observed.append(evaluations(seed, "token")[-1][1] - evaluations(seed, "sequence")[-1][1])
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    return float(np.mean(observed)), float(low), float(high)


def table(seeds: list[int]) -> str:
    lines = [
        "| credit | seed | chrF++ before | after | errors per sentence before | after | other's chrF++ at update |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        for level, other in (LEVELS, LEVELS[::-1]):
            looks = evaluations(seed, level)
            before, after = (errors_per_sentence(outputs(seed, level, side)) for side in ("before", "after"))
            goal = reached(looks, evaluations(seed, other)[-1][1])
            lines.append(
                f"| {level} | {seed} | {looks[0][1]:.1f} | {looks[-1][1]:.1f} | {before:.2f} | {after:.2f} | {goal} |"
            )
    mean, low, high = interval(seeds)
    lines += ["", f"token − sequence, mean over seeds: {mean:+.2f} chrF++, 95 % interval [{low:+.2f}, {high:+.2f}]"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=0, help="0: as in the configuration")
    parser.add_argument("more", nargs="*", help="after --, flags of the recipe for both runs")
    args = parser.parse_args()
    more = [*(["--rl.updates", str(args.updates)] if args.updates else []), *args.more]
    for seed in args.seeds:
        for level in LEVELS:
            train(seed, level, more)
    RUNS.mkdir(parents=True, exist_ok=True)
    text = table(args.seeds)
    (RUNS / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
