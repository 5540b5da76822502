"""Measure a card with one command: correctness, reward, GRPO step, engines, vLLM, pocket run.

    python -m bench.gpu                                 # nine minutes on the first GPU, into runs/gpu/<card>.json
    python -m bench.gpu --minutes 15 --out elsewhere
    python -m bench.gpu --shape tiny                    # the same with the pocket's sizes, also on a CPU
    python -m bench.gpu --only reward step
    python -m bench.gpu --tables                        # committed files → docs/benchmarks.md and README.md

Nothing is downloaded: models of the published shapes with random weights are created on the device. Each stage
(bench/gpu_stages.py) is a process with its share of the time, plus the time that earlier ones left; then it is killed,
and its results so far are kept. The whole JSON is written after every result; stages that are not run keep their
results in the file, if it is of this card and shape. To publish it, copy it to rl_nmt/preflight/measured/ and run
--tables: the doctor then uses it.

Exit status 1 if a stage failed: an exception, a wrong result, or a process that died. A stage without a package or
without time is not a failure; the JSON gives the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import bench  # noqa: F401  (prints how to run this file)
from rl_nmt import files
from rl_nmt.errors import ConfigError, MissingService, run
from rl_nmt.preflight.measurements import slug
from rl_nmt.runs.metrics_file import MetricsFile, read_rows

SHARES = {
    "correctness": 2.5,
    "reward": 3.0,
    "step": 2.5,
    "engines": 1.5,
    "vllm": 1.5,
    "pocket": 3.0,
}  # of the time; most valuable first
POLL = 0.2  # seconds between checks of a stage's results


def run_stage(command: list[str], results: Path, seconds: float, report: Callable[[dict], None]) -> dict:
    """Run a stage's process for at most `seconds`; call `report` with the results so far after each new one.

    The process appends JSON objects to `results`: results, and finally one with "status" if it finished. Returns the
    stage's object: status (done, skipped, failed, out of time), reason, seconds, results.
    """
    start, known = time.monotonic(), -1
    process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
    found: dict = {}
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
            rows, taken = list(read_rows(results)), time.monotonic() - start
            ended, late = process.returncode is not None, taken > seconds
            if len(rows) > known or ended or late:
                known, found = len(rows), outcome(rows, process.returncode, late) | {"seconds": round(taken, 1)}
                report(found)
            if ended or late:
                return found
    finally:  # including all processes it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def outcome(rows: list[dict], returned: int | None, late: bool) -> dict:
    """Return the state of a stage from its process's rows and exit status (None: still running)."""
    results = [row for row in rows if "status" not in row]
    found = next((row for row in rows if "status" in row), None)
    if found is None:
        found = {"status": "running", "reason": ""}
        if returned is not None:
            found = {"status": "failed", "reason": f"the process ended with status {returned}"}
        elif late:
            found = {"status": "out of time", "reason": "killed at the end of its time"}
    elif found["status"] == "done" and any(row.get("ok") is False for row in results):
        found = {"status": "failed", "reason": "a result is wrong"}
    return {**found, "results": results}


def stage_process(name: str, shape: str, folder: Path, seconds: float) -> int:
    """Run one stage in this process; write its results to `folder`/<name>.jsonl."""
    import platform

    import torch

    from bench import measure
    from bench.gpu_stages import STAGES, Task
    from rl_nmt.models.loading import versions

    device = "cuda" if torch.cuda.is_available() else "cpu"
    task, file = Task(shape, device, folder, time.monotonic() + seconds), MetricsFile(folder / f"{name}.jsonl")
    memory = torch.cuda.mem_get_info()[1] if device == "cuda" else None
    found = {"python": platform.python_version(), **versions(*measure.PACKAGES)}
    files.write_json(folder / "machine.json", {"card": measure.card(device), "memory_bytes": memory, "versions": found})

    def put(row: dict) -> None:  # without this machine's paths
        text = json.dumps(files.finite(row), ensure_ascii=False)
        file.append(json.loads(text.replace(str(folder), "…").replace(os.getcwd(), "…")))

    status, reason = "done", ""
    try:
        for result in STAGES[name](task):
            put(result)
    except (MissingService, ImportError) as error:
        status, reason = "skipped", " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        status, reason = "failed", " ".join(f"{type(error).__name__}: {error}".split())[:300]
    put({"status": status, "reason": reason})
    return int(status == "failed")


def measure_card(args: argparse.Namespace) -> int:
    """Run all stages one after the other; return the exit status."""
    end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    card: dict = {"date": datetime.date.today().isoformat(), "shape": args.shape, "minutes": args.minutes, "stages": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def report(found: dict) -> None:
            machine = folder / "machine.json"
            if "card" not in card and machine.is_file():
                card.update(json.loads(machine.read_text(encoding="utf-8")))
                keep(path(), card)
            card["stages"][name] = found
            if "card" in card or found["status"] != "running":
                files.write_json(path(), card)

        def path() -> Path:
            return args.out / f"{slug(card.get('card', 'unknown'))}.json"

        for number, name in enumerate(args.only):
            share = SHARES[name] / sum(SHARES[later] for later in args.only[number:])
            seconds = max(0.0, share * (end - time.monotonic()))
            line = [sys.executable, "-m", "bench.gpu", "--stage", name, "--shape", args.shape]
            line += ["--folder", place, "--seconds", str(seconds)]
            found = run_stage(line, folder / f"{name}.jsonl", seconds, report)
            print(f"{name}: {found['status']} {found['reason']} ({found['seconds']} s)", file=sys.stderr, flush=True)
    print(path())
    return int(any(card["stages"][name]["status"] == "failed" for name in args.only))


def keep(path: Path, card: dict) -> None:
    """Add to `card` the results in `path` of the same card and shape, and their circumstances if different."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if old and (old["card"], old["shape"]) == (card["card"], card["shape"]):
        from bench.tables import circumstances

        then = {} if circumstances(old) == circumstances(card) else {"earlier": circumstances(old)}
        card["stages"] = {name: then | stage for name, stage in old["stages"].items()} | card["stages"]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="time for all stages together (default 9)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of <card>.json (default runs/gpu)")
    parser.add_argument(
        "--shape", choices=("tiny", "large"), default="large", help="size of the models (default large)"
    )
    parser.add_argument("--only", nargs="+", choices=SHARES, default=list(SHARES), help="stages to run (default: all)")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the committed files")
    parser.add_argument("--stage", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.tables:
        from bench import tables

        return tables.write()
    if args.stage:
        return stage_process(args.stage, args.shape, args.folder, args.seconds)
    if args.minutes <= 0:
        raise ConfigError(f"--minutes: {args.minutes} must be above 0")
    return measure_card(args)


if __name__ == "__main__":
    run(main)
