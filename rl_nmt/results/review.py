"""Let a native speaker compare outputs before and after training without knowing which is which.

    python -m rl_nmt.results.review runs/pocket                        # writes a sheet
    python -m rl_nmt.results.review runs/pocket --read answers.json    # what its answers say

A sheet is a page and, for paper, a CSV in RUN/review/. Send one of them and keep the key, which is next to it. Rows are
drawn at random from those whose two outputs differ. docs/review.md has the details.
"""

import argparse
import base64
import csv
import hashlib
import io
import json
import random
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_nmt import files
from rl_nmt.errors import ConfigError, run

SAMPLES = ("samples.jsonl", "eval_outputs.jsonl")  # the second in recipes/translategemma
SIDES = ("before", "after")


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's samples, those of the last step if they have steps. Raises ConfigError."""
    from rl_nmt.runs.metrics_file import read_rows

    path = next((folder / name for name in SAMPLES if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"RUN: {folder}: {SAMPLES[0]} not found; give the folder of a run that has ended")
    rows = list(read_rows(path))
    last = max((row.get("step", 0) for row in rows), default=0)
    rows = [row for row in rows if row.get("step", 0) == last]
    if not rows or not all(isinstance(row.get(key), str) for row in rows for key in ("source", *SIDES)):
        raise ConfigError(f"RUN: {path}: not every row has the texts source, before and after; evaluate the run again")
    return rows


def make_sheet(rows: Sequence[dict[str, Any]], name: str, count: int, seed: int) -> tuple[list[dict[str, Any]], dict]:
    """Return the rows as a reviewer sees them (row from 1, source, left, right), and the key.

    `rows`: of `read_samples`; `name`: of the run. The same arguments give the same sheet. Half of the rows have the
    output after training on the left, so that a habit of choosing one side cancels. The sheet's name is a hash of what
    the reviewer sees. Raises ConfigError if no row has two different outputs.
    """
    differing = [row for row in rows if row["before"].split() != row["after"].split()]
    if not differing:
        raise ConfigError(
            f"RUN: {name}: the outputs before and after are equal in all {len(rows)} rows; nothing to review"
        )
    order = random.Random(seed)
    drawn = order.sample(differing, min(count, len(differing)))
    first = order.randrange(2)  # so that an odd number of rows does not favour one side
    lefts = [SIDES[(i + first) % 2] for i in range(len(drawn))]
    order.shuffle(lefts)
    shown, key_rows = [], []
    for i, (row, left) in enumerate(zip(drawn, lefts, strict=True), 1):
        right = SIDES[left == "before"]
        shown.append({"row": i, "source": row["source"], "left": row[left], "right": row[right]})
        scores = {side: _numbers(row.get(f"{side}_scores")) for side in SIDES}
        key_rows.append({"row": i, "left": left, **scores})
    seen = json.dumps([name, shown]).encode()
    sheet = "s" + hashlib.sha256(seen).hexdigest()[:12]  # a letter first: spreadsheets read 12e3 as a number
    key = {"sheet": sheet, "run": name, "seed": seed, "held_out": len(rows), "differing": len(differing)}
    return shown, key | {"equal": len(rows) - len(differing), "rows": key_rows}


def _numbers(scores: Any) -> dict[str, float]:
    return {name: value for name, value in (scores or {}).items() if files.is_number(value)}


def page(shown: Sequence[dict[str, Any]], key: dict[str, Any]) -> str:
    """Return the sheet as HTML. It loads nothing, connects to nothing, and runs no other script than its own."""
    from jinja2 import Environment, FileSystemLoader

    from rl_nmt.results.report import text
    from rl_nmt.results.review_answers import CHOICES

    def hashed(script: str) -> str:
        return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    environment.filters |= {"text": text, "hash": hashed}
    told = {name: key[name] for name in ("sheet", "run", "differing", "equal")}
    return environment.get_template("review.html.jinja").render(**told, rows=shown, choices=CHOICES)


def paper(shown: Sequence[dict[str, Any]], sheet: str) -> str:
    """Return the sheet as CSV with empty columns choice and note, as spreadsheet programs expect it (with a BOM)."""
    from rl_nmt.results.report import DIRECTION_MARKS
    from rl_nmt.results.review_answers import COLUMNS, spreadsheet_cell
    from rl_nmt.text.unicode import safe_unicode

    spelled = {mark: f"[U+{mark:04X}]" for mark in DIRECTION_MARKS}
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, restval="")
    table.writeheader()
    for row in shown:
        texts = {name: safe_unicode(row[name]).translate(spelled) for name in ("source", "left", "right")}
        cells = {name: spreadsheet_cell(value) for name, value in texts.items()}
        table.writerow({"sheet": sheet, "row": row["row"], **cells})
    return "\ufeff" + out.getvalue()


def write_sheet(folder: Path, count: int = 50, seed: int | None = None) -> tuple[Path, Path, Path]:
    """Write a sheet of at most `count` rows to `folder`/review; return page, CSV and key. Raises CannotWrite.

    Other sheets of the run stay. A sheet with the same texts but another key is refused (ConfigError).
    """
    from rl_nmt.text.unicode import safe_unicode

    rows = read_samples(folder)
    seed = secrets.randbits(53) if seed is None else seed
    shown, key = make_sheet(rows, safe_unicode(folder.resolve().name), count, seed)
    there, name = folder / "review", key["sheet"]
    paths = (there / f"{name}.html", there / f"{name}.csv", there / f"{name}.key.json")
    content = json.dumps(key, indent=1) + "\n"
    try:
        there.mkdir(exist_ok=True)
        if paths[2].exists() and paths[2].read_bytes() != content.encode():
            raise ConfigError(f"--seed: {seed}: {paths[2]} exists and differs; give another seed")
    except OSError as error:
        raise files.cannot_write(there, error, "RUN") from error
    files.write(paths[2], content, "RUN")  # first: a page without its key is worth nothing
    files.write(paths[0], page(shown, key), "RUN")
    files.write(paths[1], paper(shown, name), "RUN")
    return paths


def read_key(folder: Path, sheet: str, told: str) -> dict[str, Any]:
    """Return the key of a sheet. `told`: the run's name in the answers, or "". Raises ConfigError without one."""
    path = folder / "review" / f"{sheet}.key.json"
    if not re.fullmatch("s[0-9a-f]{12}", sheet) or not path.is_file():
        of = f" of the run {told!r}" if told else ""
        raise ConfigError(f"--read: {folder} has no key of the sheet {sheet!r}{of}; give the folder of its run")
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"row": int, "left": str, "before": dict, "after": dict}
        complete = all(isinstance(row[name], kind) for row in key["rows"] for name, kind in kinds.items())
        if key["sheet"] != sheet or not complete or not {"run", "differing", "equal"} <= set(key):
            raise ValueError("it is not the key of this sheet")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"RUN: {path} is damaged ({error}); write the sheet again with its --seed") from error
    return key


def read_sheet(folder: Path, paths: Sequence[Path]) -> str:
    """Return what the answers in these files say, as text. Raises ConfigError."""
    from rl_nmt.results.review_answers import read_answers, result

    if not folder.is_dir():
        raise ConfigError(f"RUN: {folder}: folder not found; give the folder of a run")
    answers = [read_answers(path) for path in paths]
    contents = [path.read_bytes() for path in paths]
    for place, content in enumerate(contents):
        if content in contents[:place]:
            earlier = paths[contents.index(content)]
            raise ConfigError(f"--read: {paths[place]} has the same content as {earlier}; give each reader's file once")
    first = answers[0]
    for other in answers[1:]:
        if other.sheet != first.sheet:
            raise ConfigError(
                f"--read: {other.name} is of the sheet {other.sheet}, {first.name} of {first.sheet}; read each alone"
            )
    key = read_key(folder, first.sheet, first.run)
    for file in answers:
        if extra := sorted(file.rows - {row["row"] for row in key["rows"]}):
            raise ConfigError(
                f"--read: {file.name}: the sheet has no row {extra[0]}; give the answers as they were saved"
            )
    return result(answers, key)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status. `argv` is the command line without the program's name."""
    parser = argparse.ArgumentParser(
        prog="python -m rl_nmt.results.review",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of a run that has ended")
    add("--rows", type=int, default=50, metavar="N", help="rows of the sheet (default 50)")
    add("--seed", type=int, help="of rows and sides; the same seed gives the same sheet (default: a secret one)")
    add("--read", type=Path, nargs="+", metavar="ANSWERS", help="files that the page saved, or filled-in CSVs")
    given = parser.parse_args(argv)
    if given.read:
        print(read_sheet(given.run, given.read))
        return 0
    for name, least in (("rows", 1), ("seed", 0)):
        if (value := getattr(given, name)) is not None and value < least:
            raise ConfigError(f"--{name}: {value} is out of range; give a number of at least {least}")
    html, table, key = write_sheet(given.run, given.rows, given.seed)
    print(f"page  {html}\npaper {table}\nkey   {key}   (keep it: it tells which side is which)")
    return 0


if __name__ == "__main__":
    run(main)
