"""Read questions shaped like MathVista's (Lu et al. 2024, arXiv 2310.02255), for evaluation; score answers. No torch.

Their licence forbids training; data.py refuses it. The benchmark's own scorer takes the choice that is nearest to an
answer, so that an empty one may be right, and has a model extract answers first. Here the strict rules of
rl_nmt/text/answers.py decide, and an answer that they cannot read is wrong: not the leaderboard's score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rl_nmt.data.pictures import keep_pictures, sealed
from rl_nmt.data.snapshot import Snapshot
from rl_nmt.data.sources import is_hub_name, read_split
from rl_nmt.errors import ConfigError, warn
from rl_nmt.results.evaluation import bootstrap_draws
from rl_nmt.text.answers import is_right
from rl_nmt.text.unicode import clean_lines

Row = dict[str, Any]  # "source" (the prompt), "images" (names of files), and those FIELDS that the question has
FIELDS = ("pid", "question", "choices", "unit", "precision", "answer", "question_type", "answer_type")
FORMS = {
    "choice": "Answer with the letter of the right choice only.",
    "integer": "Answer with a whole number only.",
    "float": "Answer with a number only, with {digits} after the point.",
    "list": "Answer with a list only, such as [1, 2].",
    "text": "Answer with a word or a short phrase only.",
}


def load(name: str, folder: str | Path, limit: int = 0) -> list[Row]:
    """Read at most `limit` questions (0: all), or those of an earlier call from `folder`/mathvista.

    `name`: a file, a folder of save_to_disk or a hub name, of which split testmini is read. Questions that cannot be
    scored are left out, with a warning. `open_images(row, Path(folder, "mathvista"))` in data.py gives the pictures.
    Raises ConfigError, MissingService and CannotWrite.
    """
    request = {"mathvista_file": name, "limit": limit}
    snapshot = Snapshot(Path(folder, "mathvista", "data"), request, "logging.output_dir")
    return sealed(snapshot, lambda images: ([], _read(name, images, limit))).heldout


def _read(name: str, images: Path, limit: int) -> list[Row]:
    path, rows, problems = Path(name).expanduser(), list[Row](), list[str]()
    base = None if is_hub_name(name) else path if path.is_dir() else path.parent
    for where, cells in read_split(name, "testmini", "dataset.mathvista_file"):
        keyed = all(isinstance(value, dict) for value in cells.values())  # by pid, as in the authors' JSON file
        for found in cells.values() if keyed else (cells,):
            row = {field: found[field] for field in FIELDS if found.get(field) is not None}
            if problem := _problem(row):
                problems.append(f"{where}, pid {row.get('pid')}, {problem}")
            elif not limit or len(rows) < limit:
                picture = found.get("decoded_image") or found.get("image")
                rows.append({"source": prompt_of(row), "images": keep_pictures(picture, where, base, images), **row})
        if limit and len(rows) == limit:
            break
    if not rows:
        raise ConfigError(f"dataset.mathvista_file: {name} has no question to score ({', '.join(problems[:1])})")
    if problems:
        warn(f"dataset.mathvista_file: questions that cannot be scored: {len(problems)}, e.g. {problems[0]}")
    return rows


def _problem(row: Row) -> str:
    """Return why a question cannot be scored; "" if its own answer is right."""
    missing = [field for field in ("question", "answer", "question_type", "answer_type") if not row.get(field)]
    if missing or kind_of(row) not in FORMS:
        return f"has no {', '.join(missing)}" if missing else f"has the answer_type {row['answer_type']}"
    return "" if score_answer(str(row["answer"]), row) else f"does not accept its own answer {row['answer']!r}"


def kind_of(row: Row) -> str:
    """Return how answers are scored: choice, integer, float, list or text."""
    return "choice" if row["question_type"] == "multi_choice" else row["answer_type"]


def prompt_of(row: Row) -> str:
    """Return the question with its unit, its lettered choices and the form of the answer, in our own words."""
    unit = f" (unit: {row['unit']})" if row.get("unit") else ""
    choices = [f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(row.get("choices") or ())]
    digits = f"{_digits(row)} digit{'s' * (_digits(row) != 1)}"
    return clean_lines("\n".join([f"{row['question']}{unit}", *choices, FORMS[kind_of(row)].format(digits=digits)]))


def score_answer(answer: str, row: Row) -> float:
    """Return 1.0 if an answer is right by the rules of rl_nmt/text/answers.py, else 0.0."""
    choices = [str(choice) for choice in row.get("choices") or ()]
    return float(is_right(answer, str(row["answer"]), kind_of(row), choices, _digits(row)))


def _digits(row: Row) -> int:
    """Return the digits after the point of a float: its precision, else as many as its answer has."""
    return int(row.get("precision") or len(str(row["answer"]).partition(".")[2]))


def share(scores: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Return the number of scores, their mean and its 95 % percentile bootstrap interval."""
    found = np.array(scores)
    means = bootstrap_draws(len(found), seed) @ found / len(found)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"n": len(found), "value": float(found.mean()), "low": float(low), "high": float(high)}


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return {"before": …, "after": …} of `share` by kind as text."""
    lines = [f"{'questions, strictly scored':<28}{'n':>6}{'before':>24}{'after':>24}"]
    for kind, old in found["before"].items():
        cells = ("{value:.3f} [{low:.3f}, {high:.3f}]".format(**side) for side in (old, found["after"][kind]))
        lines.append(f"{kind:<28}{old['n']:>6}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)
