"""How often the gates are wrong about a file of translations, and what the text measures say. No torch.

On human translations every gated row is a false positive. With human scores beside the rows the report also
says whether what the gates reject is bad, and how each measure that needs no model agrees with people:
expect little there, these are gates and not judges. `python -m rl_nmt.guards` is the command.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rl_nmt.errors import ConfigError
from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import fidelity
from rl_nmt.guards.gates import REASONS, verdict
from rl_nmt.text.languages import LANGUAGES, SOURCE, TARGET, Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.unicode import length_penalty, script_share

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99, 1.0)  # penalties are read at the upper end, fidelity at the lower


@dataclass(frozen=True)
class Row:
    """One translation; `score` is the human one, higher is better, None without a score column."""

    source: str
    output: str
    score: float | None


# The measures that need no model. Penalties: length_penalty ≥ 0, foreign_script and copied_share in [0, 1]. Merit:
# fidelity in [0, 1], or None.
MEASURES: dict[str, Callable[[TextPair], float | None]] = {
    "length_penalty": lambda pair: length_penalty(pair.clean_source, pair.clean_output, pair.language),
    "foreign_script": lambda pair: 1.0 - script_share(pair.clean_output, pair.language),
    "copied_share": copied_share,
    "fidelity": fidelity,
}
PENALTIES = ("length_penalty", "foreign_script", "copied_share")


# --- reading -------------------------------------------------------------------------------------------


def read_rows(path: Path, source: str, target: str, score: str = "") -> list[Row]:
    """Read the named columns of a JSONL file, or of a TSV file with a header line.

    Raises ConfigError, with the line, for a file that cannot be read, a line that is no record, a missing
    column, a cell that is no text, a score that is no finite number, and a file without rows.
    """
    if path.suffix not in (".jsonl", ".tsv"):
        raise ConfigError(f"FILE {path}: give a .jsonl file, or a .tsv file with a header line")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"FILE {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"FILE {path} is not UTF-8: save it as UTF-8") from error
    parse = _jsonl if path.suffix == ".jsonl" else _tsv
    rows = []
    for number, record in parse(text, path):
        where = f"FILE {path}, line {number}"
        cells = [_cell(record, column, where) for column in (source, target)]
        rows.append(Row(cells[0], cells[1], _number(record, score, where) if score else None))
    if not rows:
        raise ConfigError(f"FILE {path} holds no row")
    return rows


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"FILE {path}, line {number} is not valid JSON: write one object per line") from error
        if not isinstance(record, dict):
            raise ConfigError(f"FILE {path}, line {number} is no JSON object")
        yield number, record


def _tsv(text: str, path: Path) -> Iterator[tuple[int, dict]]:
    lines = csv.reader(text.split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    header = next(lines, [])
    for number, cells in enumerate(lines, 2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise ConfigError(f"FILE {path}, line {number} has {len(cells)} columns, its header {len(header)}")
        yield number, dict(zip(header, cells, strict=True))


def _cell(record: dict, column: str, where: str) -> str:
    if column not in record:
        raise ConfigError(f"{where} has no column {column!r}, it has {', '.join(map(str, record)) or 'nothing'}")
    if not isinstance(record[column], str):
        raise ConfigError(f"{where}: {column!r} is {type(record[column]).__name__}, must be a text")
    return record[column]


def _number(record: dict, column: str, where: str) -> float:
    value = record.get(column)
    if column not in record:
        raise ConfigError(f"{where} has no column {column!r}, it has {', '.join(map(str, record))}")
    try:
        number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {column!r} is {value!r}, must be a finite number")
    return number


# --- agreement with people -----------------------------------------------------------------------------


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Kendall's tau-b of two equally long lists, -1 to 1; None when one of them is constant.

    Kendall 1945, "The treatment of ties in ranking problems". Quadratic in time, linear in memory.
    """
    import numpy as np

    x, y = np.asarray(a, float), np.asarray(b, float)
    agree = untied_x = untied_y = 0
    for i in range(len(x) - 1):
        dx, dy = np.sign(x[i + 1 :] - x[i]), np.sign(y[i + 1 :] - y[i])
        agree += int((dx * dy).sum())
        untied_x += int((dx != 0).sum())
        untied_y += int((dy != 0).sum())
    return agree / math.sqrt(untied_x * untied_y) if untied_x and untied_y else None


def pairwise_accuracy(
    sources: Sequence[str], merits: Sequence[float], scores: Sequence[float]
) -> tuple[float | None, int, float | None]:
    """Compare every two outputs of one source that people scored differently.

    Returns the share, 0 to 1, of pairs put in the people's order with ties of the merit as one half, the number
    of pairs, and the share of ties; None for the shares without a pair.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, source in enumerate(sources):
        groups[source].append(i)
    right = ties = pairs = 0
    for group in groups.values():
        for place, i in enumerate(group):
            for j in group[place + 1 :]:
                if scores[i] == scores[j]:
                    continue
                pairs += 1
                ties += merits[i] == merits[j]
                right += (merits[i] - merits[j]) * (scores[i] - scores[j]) > 0
    return ((right + ties / 2) / pairs, pairs, ties / pairs) if pairs else (None, 0, None)


# --- the report ----------------------------------------------------------------------------------------


def report(rows: Sequence[Row], language: Language, source_language: Language, examples: int = 0) -> str:
    """Return the whole report as text; `examples` gated rows are shown per reason."""
    pairs = [TextPair(row.source, row.output, language, source_language) for row in rows]
    reasons = [verdict(pair) for pair in pairs]
    values = {name: [measure(pair) for pair in pairs] for name, measure in MEASURES.items()}
    lines = [*_gates(rows, reasons, examples), "", *_distributions(values)]
    if rows and rows[0].score is not None:
        lines += ["", *_against_people(rows, reasons, values)]
    return "\n".join(lines)


def _gates(rows: Sequence[Row], reasons: Sequence[str | None], examples: int) -> list[str]:
    counts = Counter(reasons)
    lines = [f"{'gate':<14}{'rows':>7}{'share':>9}"]
    for reason in REASONS:
        lines.append(f"{reason:<14}{counts[reason]:>7}{counts[reason] / len(rows):>9.2%}")
        shown = [row for row, why in zip(rows, reasons, strict=True) if why == reason][:examples]
        for row in shown:
            lines += [f"    {row.source}", f"    {row.output}"]
    gated = len(rows) - counts[None]
    return [*lines, f"{'all gates':<14}{gated:>7}{gated / len(rows):>9.2%}   of {len(rows)} rows"]


def _distributions(values: dict[str, list[float | None]]) -> list[str]:
    heads = "".join(f"{f'{q:.0%}':>9}" for q in QUANTILES)
    lines = [f"{'measure':<14}{'rows':>7}{'mean':>9}{heads}"]
    for name, column in values.items():
        known = sorted(value for value in column if value is not None)
        if not known:
            lines.append(f"{name:<14}{0:>7}")
            continue
        cells = [known[min(len(known) - 1, int(q * len(known)))] for q in QUANTILES]
        lines.append(
            f"{name:<14}{len(known):>7}{sum(known) / len(known):>9.3f}" + "".join(f"{cell:>9.3f}" for cell in cells)
        )
    return lines


def _against_people(rows, reasons, values) -> list[str]:
    middle = median(row.score for row in rows)
    gated = [row.score for row, reason in zip(rows, reasons, strict=True) if reason]
    below, level = sum(score < middle for score in gated), sum(score == middle for score in gated)
    share = f"{below / len(gated):.1%}" if gated else "–"
    lines = [f"gated rows below the median score {middle:g}: {below} of {len(gated)} ({share}), {level} at it", ""]
    lines.append(f"{'against people':<14}{'rows':>7}{'tau-b':>9}{'pairs':>8}{'right':>9}{'tied':>9}")
    for name, column in values.items():
        known = [(row, value) for row, value in zip(rows, column, strict=True) if value is not None]
        merits = [-value if name in PENALTIES else value for _, value in known]
        scores = [row.score for row, _ in known]
        right, pairs, tied = pairwise_accuracy([row.source for row, _ in known], merits, scores)
        tau = kendall(merits, scores)
        lines.append(
            f"{name:<14}{len(known):>7}{_cell_of(tau, '+.3f'):>9}{pairs:>8}{_cell_of(right, '.1%'):>9}"
            f"{_cell_of(tied, '.1%'):>9}"
        )
    return [*lines, "penalties count negated; right: share of pairs of one source in the people's order, ties half"]


def _cell_of(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: read, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m rl_nmt.guards", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path, help="JSONL, or TSV with a header line")
    parser.add_argument("--source", default="source", metavar="COLUMN", help="column of the sources (%(default)s)")
    parser.add_argument(
        "--target", default="reference", metavar="COLUMN", help="column of the translations (%(default)s)"
    )
    parser.add_argument("--score", default="", metavar="COLUMN", help="column of human scores, higher is better")
    parser.add_argument(
        "--language", default=TARGET.code, choices=sorted(LANGUAGES), help="of the translations (%(default)s)"
    )
    parser.add_argument("--source_language", default=SOURCE.code, choices=sorted(LANGUAGES), help="(%(default)s)")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="gated rows to show per gate")
    given = parser.parse_args(arguments)
    rows = read_rows(given.file, given.source, given.target, given.score)
    print(report(rows, LANGUAGES[given.language], LANGUAGES[given.source_language], given.examples))
    return 0
