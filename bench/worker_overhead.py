"""What it costs to score in a process of its own (`scorer_python`, rl_nmt/scorers/worker/client.py).

    python -m bench.worker_overhead [--world pocket/build/seed0] [--python .venv/bin/python] [--rounds 20] [--json]

Both COMET models of the pocket world score the same segments here and in a worker: the scores must be the same
numbers, and the difference per call is the worker's. Batches of several sizes tell what a call costs from what a
segment costs. Exit status 1 where a score differs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # every model is a local folder
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from bench import texts
from bench.measure import machine, paired
from rl_nmt.errors import ConfigError, run
from rl_nmt.scorers.base import Segment

FACTORY = "rl_nmt.scorers.comet.scorer:load_comet"
SIZES = (1, 8, 64)  # segments of a call


def segments(n: int, references: bool) -> list[Segment]:
    """`n` of the bench's texts; with a back-translation to compare with the source, where the model reads one."""
    if references:
        return [Segment(item.english, item.back, item.english) for item in texts.items(n, "none")]
    return [Segment(item.english, item.tamil) for item in texts.items(n, "none")]


def compare(folder: Path, python: str | None, rounds: int, references: bool) -> dict:
    """Equality of all scores, and milliseconds of a call on both sides by the number of its segments."""
    from rl_nmt.scorers.comet.scorer import load_comet
    from rl_nmt.scorers.worker.client import load_in_worker

    here = load_comet(folder)
    there = load_in_worker(FACTORY, {"name_or_path": str(folder)}, python_executable=python, argument="--python")
    row: dict = {"model": folder.name, "equal": True, "calls": {}}
    try:
        row["same_identity"] = here.signature()["identity"] == there.signature()["identity"]
        for size in SIZES:
            asked = segments(size, references)
            routes = {"here": lambda a=asked: here.score(a), "worker": lambda a=asked: there.score(a)}
            timed = paired(routes, rounds, "cpu")
            row["equal"] &= timed.results["here"] == timed.results["worker"]
            pairs = zip(timed.seconds["worker"], timed.seconds["here"], strict=True)
            row["calls"][size] = {
                "here_ms": 1e3 * timed.median("here"),
                "worker_ms": 1e3 * timed.median("worker"),
                "overhead_ms": 1e3 * statistics.median(w - h for w, h in pairs),
            }
    finally:
        there.close()
    return row


def table(rows: list[dict]) -> str:
    """The measurements as text."""
    lines = [f"{'model':<10}{'segments':>9}{'here ms':>10}{'worker ms':>11}{'overhead ms':>13}  scores"]
    for row in rows:
        for size, call in row["calls"].items():
            same = "identical" if row["equal"] and row["same_identity"] else "DIFFERENT"
            lines.append(
                f"{row['model']:<10}{size:>9}{call['here_ms']:>10.2f}{call['worker_ms']:>11.2f}"
                f"{call['overhead_ms']:>13.2f}  {same}"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("pocket/build/seed0"), help="folder with the COMET models")
    parser.add_argument("--python", help="the worker's Python (default: this one)")
    parser.add_argument("--rounds", type=int, default=20, help="calls of each side and size (default 20)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    folders = {args.world / "comet_da": True, args.world / "comet_qe": False}
    for folder in folders:
        if not (folder / "hparams.yaml").exists():
            raise ConfigError(f"--world: {folder} is no COMET model; build the pocket world with `make pocket`")
    rows = [compare(folder, args.python, args.rounds, references) for folder, references in folders.items()]
    if args.json:
        print(json.dumps({"machine": machine("cpu"), "rows": rows}, ensure_ascii=False))
    else:
        print(f"{machine('cpu')}\n{table(rows)}")
    return int(not all(row["equal"] and row["same_identity"] for row in rows))


if __name__ == "__main__":
    run(main)
