"""Count how many translations of a file the gates reject, and summarise its text measures. No torch.

On human translations every gated row is a false positive. With human scores the report also shows whether the rejected
rows are bad, and how far each measure that needs no model agrees with people. Expect little: these rules detect
failures, they do not rate quality.
"""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from rl_nmt.data.tables import Pair, read_pairs
from rl_nmt.errors import run
from rl_nmt.guards.agreement import cell, measure, oriented
from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import fidelity
from rl_nmt.guards.gates import REASONS, verdict
from rl_nmt.progress import progress
from rl_nmt.text.languages import LANGUAGES, SOURCE, TARGET, Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.unicode import length_penalty, script_share

QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99, 1.0)  # penalties matter at the upper end, fidelity at the lower
# The measures that need no model. Penalties: length_penalty ≥ 0, foreign_script and copied_share in [0, 1]. Higher is
# better: fidelity in [0, 1], or None.
MEASURES: dict[str, Callable[[TextPair], float | None]] = {
    "length_penalty": lambda pair: length_penalty(pair.clean_source, pair.clean_output, pair.language),
    "foreign_script": lambda pair: 1.0 - script_share(pair.clean_output, pair.language),
    "copied_share": copied_share,
    "fidelity": fidelity,
}


def report(rows: Sequence[Pair], language: Language, source_language: Language, examples: int = 0) -> str:
    """Return the whole report as text; `examples` gated rows are shown per reason."""
    reasons: list[str | None] = []
    values: dict[str, list[float | None]] = {name: [] for name in MEASURES}
    with progress("gates", len(rows), "rows") as bar:
        for row in rows:
            pair = TextPair(row.source, row.output, language, source_language)
            reasons.append(verdict(pair))
            for name, value_of in MEASURES.items():
                values[name].append(value_of(pair))
            bar.update()
    lines = [*_gates(rows, reasons, examples), "", *_distributions(values)]
    if any(row.score is not None for row in rows):
        lines += ["", *_against_people(rows, reasons, values)]
    return "\n".join(lines)


def _gates(rows: Sequence[Pair], reasons: Sequence[str | None], examples: int) -> list[str]:
    counts = Counter(reasons)
    lines = [f"{'gate':<14}{'rows':>7}{'share':>9}"]
    for reason in REASONS:
        lines.append(f"{reason:<14}{counts[reason]:>7}{counts[reason] / len(rows):>9.2%}")
        gated = [row for row, why in zip(rows, reasons, strict=True) if why == reason]
        lines += [f"    {text}" for row in gated[:examples] for text in (row.source, row.output)]
    refused = len(rows) - counts[None]
    return [*lines, f"{'all gates':<14}{refused:>7}{refused / len(rows):>9.2%}   of {len(rows)} rows"]


def _distributions(values: dict[str, list[float | None]]) -> list[str]:
    heads = "".join(f"{f'{q:.0%}':>9}" for q in QUANTILES)
    lines = [f"{'measure':<14}{'rows':>7}{'mean':>9}{heads}"]
    for name, column in values.items():
        known = sorted(value for value in column if value is not None)
        if not known:
            lines.append(f"{name:<14}{0:>7}")
            continue
        cells = [sum(known) / len(known), *(known[min(len(known) - 1, int(q * len(known)))] for q in QUANTILES)]
        lines.append(f"{name:<14}{len(known):>7}" + "".join(f"{number:>9.3f}" for number in cells))
    return lines


def _against_people(rows, reasons, values) -> list[str]:
    middle = median(row.score for row in rows if row.score is not None)
    gated = [row.score for row, reason in zip(rows, reasons, strict=True) if reason and row.score is not None]
    below, at_it = sum(score < middle for score in gated), sum(score == middle for score in gated)
    share = f"{below / len(gated):.1%}" if gated else "–"
    lines = [f"gated rows below the median score {middle:g}: {below} of {len(gated)} ({share}), {at_it} at it", ""]
    lines.append(f"{'against people':<14}{'rows':>7}{'tau-b':>9}{'pairs':>8}{'right':>9}{'tied':>9}")
    scores, sources = [row.score for row in rows], [row.source for row in rows]
    for name, column in values.items():
        found = measure([oriented(name, value) for value in column], scores, sources)
        tied = found.ties / found.pairs if found.pairs else None
        tau, right, level = cell(found.kendall, "+.3f"), cell(found.accuracy, ".1%"), cell(tied, ".1%")
        lines.append(f"{name:<14}{found.n:>7}{tau:>9}{found.pairs:>8}{right:>9}{level:>9}")
    return [*lines, "penalties are negated; right: pairs of one source in the people's order, ties count half"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: read a file, apply the gates, print the report."""
    parser = argparse.ArgumentParser(prog="python -m rl_nmt.guards", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", metavar="FILE", type=Path, help="JSONL, JSON, TSV or Parquet")
    parser.add_argument("--source", default="source", metavar="COLUMN", help="column of sources (%(default)s)")
    parser.add_argument("--target", default="reference", metavar="COLUMN", help="column of translations (%(default)s)")
    parser.add_argument("--score", default="", metavar="COLUMN", help="column of human scores, higher is better")
    parser.add_argument("--language", default=TARGET.code, choices=sorted(LANGUAGES), help="default %(default)s")
    parser.add_argument("--source_language", default=SOURCE.code, choices=sorted(LANGUAGES), help="default %(default)s")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="gated rows to show per gate")
    given = parser.parse_args(arguments)
    rows = read_pairs(given.file, "FILE", given.source, given.target, given.score)
    with contextlib.redirect_stdout(sys.stderr):  # where progress is shown
        text = report(rows, LANGUAGES[given.language], LANGUAGES[given.source_language], given.examples)
    print(text)
    return 0


if __name__ == "__main__":
    run(main)
