"""Read the answers to a review sheet (review.py) and compute what they say. No torch.

A row is decided if its reviewers prefer one output: of several files the majority per row counts, where "same" and
"both bad" prefer neither. The interval of a share is the score interval of Wilson 1927 (JASA 22); it stays inside
[0, 1] and is not empty when all rows agree. Kappa is that of Cohen 1960 ("A Coefficient of Agreement for Nominal
Scales"), over the four choices as the reviewers made them, left and right: they did not know more.
"""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.results.task import number
from rl_nmt.text.unicode import safe_unicode

CHOICES = ("left", "right", "same", "both bad")
COLUMNS = ("sheet", "row", "source", "left", "right", "choice", "note")
FIELDS = ("sheet", "run", "reviewer", "answers")  # of the file that the page saves
ANSWER = ("row", "choice", "note")
TIE = 1e-9  # differences of a score up to this count as equal, as in evaluation.compare
LABELS = {"total": "reward", "chrf": "chrF++"}
# What a spreadsheet program would run as a formula (OWASP, "CSV Injection"); the apostrophe is what prevents it.
_FORMULA = re.compile("[=+\\-@\t\r\n＝＋－＠']")


def spreadsheet_cell(text: str) -> str:
    """Return a text that a spreadsheet program shows and does not run; `plain_cell` undoes it.

    >>> [spreadsheet_cell(text) for text in ("=1+1", "1+1", "'tis")]
    ["'=1+1", '1+1', "''tis"]
    """
    return f"'{text}" if _FORMULA.match(text) else text


def plain_cell(cell: str) -> str:
    """Undo `spreadsheet_cell`; other cells, which a person wrote, stay.

    >>> [plain_cell(cell) for cell in ("'=1+1", "''tis", "'tis")]
    ['=1+1', "'tis", "'tis"]
    """
    return cell[1:] if cell[:1] == "'" and _FORMULA.match(cell[1:]) else cell


@dataclass
class Answers:
    """The answers in one file. A row without a choice is not answered; it may have a note."""

    name: str  # the file's path, as it was given
    sheet: str
    run: str = ""  # "" in a CSV
    reviewer: str = ""
    choices: dict[int, str] = field(default_factory=dict)  # row, from 1 → one of CHOICES
    notes: dict[int, str] = field(default_factory=dict)
    rows: set[int] = field(default_factory=set)  # that the file has

    @property
    def label(self) -> str:
        """The file, with the name that the reviewer gave."""
        return f"{self.name} ({' '.join(safe_unicode(self.reviewer).split())})" if self.reviewer else self.name

    def add(self, row: Any, choice: Any, note: Any) -> None:
        """Take one row. Raises ConfigError for a wrong or second one."""
        if not isinstance(row, int) or isinstance(row, bool) or row < 1:
            raise ConfigError(f"--read: {self.name}: row {row!r} is not the number of a row; give the sheet's numbers")
        if row in self.rows:
            raise ConfigError(f"--read: {self.name}: row {row} is answered twice; keep one answer")
        if not isinstance(note, str) or (choice and choice not in CHOICES):
            what, value = ("choice", choice) if isinstance(note, str) else ("note", note)
            raise ConfigError(f"--read: {self.name}: row {row}: {what} {value!r} is unknown; use {', '.join(CHOICES)}")
        self.rows.add(row)
        if choice:
            self.choices[row] = choice
        if note.strip():
            self.notes[row] = " ".join(safe_unicode(note).split())


def read_answers(path: Path) -> Answers:
    """Read the JSON file that the page saved, or the filled-in CSV. Raises ConfigError for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--read: {path} is not UTF-8; save it as CSV UTF-8") from error
    except OSError as error:
        raise ConfigError(f"--read: {path} cannot be read ({error.strerror}); check the name") from error
    if text.lstrip().startswith("{"):
        return _from_json(str(path), text)
    if re.match('"?sheet"?[,;\t]', text):
        return _from_csv(str(path), text)
    raise ConfigError(f"--read: {path} has no answers; give the file that the page saved, or the filled-in CSV")


def _from_json(name: str, text: str) -> Answers:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--read: {name} is damaged JSON ({error}); save the answers again") from error
    _known(name, value, FIELDS)
    texts = [value.get(key, "") for key in FIELDS[:3]]
    rows = value.get("answers")
    if not isinstance(rows, list) or not all(isinstance(v, str) for v in texts) or not value.get("sheet"):
        raise ConfigError(f"--read: {name}: sheet must be a text and answers a list; save the answers again")
    answers = Answers(name, *texts)
    for row in rows:
        if not isinstance(row, dict):
            raise ConfigError(f"--read: {name}: answer {row!r} has no row and choice; save the answers again")
        _known(name, row, ANSWER)
        answers.add(row.get("row"), row.get("choice", ""), row.get("note", ""))
    return answers


def _known(name: str, found: Mapping, known: Sequence[str]) -> None:
    for key in found:
        if key not in known:
            raise ConfigError(f"--read: {name}: key {key!r} is unknown; the keys are {', '.join(known)}")


def _from_csv(name: str, text: str) -> Answers:
    """A spreadsheet program may have written semicolons or tabs, and empty rows and columns at the end."""
    separator = text.lstrip('"')[len("sheet") :].lstrip('"')[0]
    try:
        head, *lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    except csv.Error as error:
        raise ConfigError(f"--read: {name} is not a readable CSV ({error}); save it again as CSV UTF-8") from error
    _known(name, dict.fromkeys(cell for cell in head if cell), COLUMNS)
    rows = [dict(zip(head, line, strict=False)) for line in lines if any(cell.strip() for cell in line)]
    if not {"sheet", "row", "choice"} <= set(head) or any("choice" not in row for row in rows):
        raise ConfigError(f"--read: {name}: a column is missing; keep sheet, row and choice as they were")
    sheets = sorted({row["sheet"].strip() for row in rows})
    if len(sheets) != 1:
        raise ConfigError(f"--read: {name}: its rows name {len(sheets)} sheets; keep the column sheet as it was")
    answers = Answers(name, sheets[0])
    for row in rows:
        place = row["row"].strip()
        choice = " ".join(row["choice"].split()).lower()
        answers.add(int(place) if re.fullmatch("[0-9]{1,9}", place) else place, choice, plain_cell(row.get("note", "")))
    return answers


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share, inside [0, 1]; `count` is at least 1.

    >>> tuple(round(bound, 3) for bound in wilson(8, 10))
    (0.49, 0.943)
    """
    z2 = NormalDist().inv_cdf(0.975) ** 2
    middle = (hits + z2 / 2) / (count + z2)
    half = math.sqrt(z2) / (count + z2) * math.sqrt(hits * (count - hits) / count + z2 / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return Cohen's kappa, at most 1, of two reviewers' choices; None where both made only one and the same.

    >>> kappa([("left", "left"), ("left", "right"), ("right", "right"), ("right", "right")])
    0.5
    """
    count = len(pairs)
    first, second = (Counter(pair[i] for pair in pairs) for i in (0, 1))
    chance = sum(first[choice] * second[choice] for choice in first) / count**2
    raw = sum(a == b for a, b in pairs) / count
    return None if chance == 1 else (raw - chance) / (1 - chance)


def votes(answers: Sequence[Answers], key: Mapping[str, Any]) -> dict[int, int]:
    """Return of every row with an answer who wins: 1 the output after training, -1 the one before, 0 neither."""
    sign: dict[int, int] = {}
    for row in key["rows"]:
        left = 1 if row["left"] == "after" else -1
        worth = {"left": left, "right": -left}
        given = [worth.get(file.choices[row["row"]], 0) for file in answers if row["row"] in file.choices]
        if given:
            sign[row["row"]] = (sum(given) > 0) - (sum(given) < 0)
    return sign


def result(answers: Sequence[Answers], key: Mapping[str, Any]) -> str:
    """Return what the answers to the sheet of `key` say, as text. Raises ConfigError without any answer."""
    pooled = votes(answers, key)
    if not pooled:
        raise ConfigError("--read: no row is answered in these files; give files with answers")
    of = f"{len(key['rows'])} of the {key['differing']} rows whose outputs differ"
    lines = [f"sheet {key['sheet']} of run {key['run']}: {of}; {key['equal']} more have equal outputs (ties)", ""]
    width = max(12, *(len(file.label) for file in answers))
    heads = ("answered", "after", "before", "same", "both bad")
    lines.append(f"{'answers':<{width}}" + "".join(f"{head:>10}" for head in heads) + "   win rate of after")
    for file in answers:
        given, own = Counter(file.choices.values()), Counter(votes([file], key).values())
        cells = (len(file.choices), own[1], own[-1], given["same"], given["both bad"])
        line = f"{file.label:<{width}}" + "".join(f"{cell:>10}" for cell in cells)
        lines.append(f"{line}   {_share(own[1], own[-1])}")
    if len(answers) > 1:
        rows = Counter(pooled.values())
        counts = f"after {rows[1]}, before {rows[-1]}, neither {rows[0]}"
        lines.append(f"majority of each row: {counts}; win rate of after {_share(rows[1], rows[-1])}")
    lines += [_agreement(a, b) for a, b in combinations(answers, 2)]
    lines += ["", *_with_scores(pooled, key), *_notes(answers, key), ""]
    lines.append("win rate: after / (after + before); intervals: Wilson, 95 %; kappa: Cohen, over the four choices")
    return "\n".join(lines)


def _share(hits: int, others: int) -> str:
    if not (count := hits + others):
        return "–"
    low, high = wilson(hits, count)
    return f"{hits / count:.3f} [{low:.3f}, {high:.3f}]"


def _agreement(a: Answers, b: Answers) -> str:
    pairs = [(choice, b.choices[row]) for row, choice in a.choices.items() if row in b.choices]
    if not pairs:
        return f"{a.label} and {b.label}: no row has both answers"
    same, value = sum(x == y for x, y in pairs), kappa(pairs)
    shown = "undefined (a single choice)" if value is None else f"{value:.3f}"
    return f"{a.label} and {b.label}: {same} of {len(pairs)} rows alike ({same / len(pairs):.3f}), kappa {shown}"


def _with_scores(pooled: Mapping[int, int], key: Mapping[str, Any]) -> list[str]:
    """One line per score of the rows: how often the preferred output has the higher one."""
    lines = []
    names = dict.fromkeys([*LABELS, *(name for row in key["rows"] for name in row["after"])])
    for name in names:
        signs = []
        for row in key["rows"]:
            old, new = (number(row[side].get(name)) for side in ("before", "after"))
            if pooled.get(row["row"]) and old is not None and new is not None:
                change = new - old
                signs.append(pooled[row["row"]] * ((change > TIE) - (change < -TIE)))
        counts = Counter(signs)
        if counts[1] + counts[-1]:
            label = LABELS.get(name, name.replace("_", " "))
            line = f"  {label:<24}{counts[1]:>4} of {counts[1] + counts[-1]:<4} {_share(counts[1], counts[-1])}"
            lines.append(line + f"; equal in {counts[0]}" * bool(counts[0]))
    return ["the preferred output has the higher", *lines] if lines else []


def _notes(answers: Sequence[Answers], key: Mapping[str, Any]) -> list[str]:
    left = {row["row"]: row["left"] for row in key["rows"]}
    notes = [(row, file.label, note) for file in answers for row, note in file.notes.items()]
    return [f"note on row {row} (left is {left[row]}), {name}: {note}" for row, name, note in sorted(notes)]
