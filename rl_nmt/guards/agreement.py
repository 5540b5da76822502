"""Measure how far scores agree with human ones: correlations and within-source pairwise accuracy. No torch.

Pearson's r, Spearman's rho and Kendall's tau-b are scipy's. Within-source pairwise accuracy measures what a
reward is for: of two outputs for the same source, does it prefer the one that people prefer?
"""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_nmt.files import is_number

# Measures and components for which lower is better; they are negated here, so that higher is better in every line.
PENALTIES = ("copied", "copied_share", "foreign_script", "length_penalty", "fidelity_loss")


@dataclass(frozen=True)
class Agreement:
    """Agreement of one score with human scores over `n` rows that have both.

    pearson, spearman, kendall in [-1, 1], None when one side is constant or n < 3. accuracy in [0, 1]: of
    the `pairs` of rows with the same source and different human scores, the share that the score orders
    alike; a tie of the score counts half, and `ties` of the pairs are ties. None without such pairs.
    """

    n: int
    pearson: float | None
    spearman: float | None
    kendall: float | None
    pairs: int
    accuracy: float | None
    ties: int


def measure(scores: Sequence[float | None], human: Sequence[float | None], sources: Sequence[Hashable]) -> Agreement:
    """Compare two lists of equal length; rows where either is None are left out."""
    rows = [(s, h, g) for s, h, g in zip(scores, human, sources, strict=True) if s is not None and h is not None]
    xs, ys = [row[0] for row in rows], [row[1] for row in rows]
    pearson = spearman = kendall = None
    if len(rows) >= 3 and len(set(xs)) > 1 and len(set(ys)) > 1:
        from scipy import stats

        pearson, spearman, kendall = (float(f(xs, ys)[0]) for f in (stats.pearsonr, stats.spearmanr, stats.kendalltau))
    groups: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for score, value, source in rows:
        groups[source].append((score, value))
    pairs, agreed, ties = (sum(counts) for counts in zip((0, 0, 0), *map(ordered, groups.values()), strict=True))
    accuracy = (agreed + ties / 2) / pairs if pairs else None
    return Agreement(len(rows), pearson, spearman, kendall, pairs, accuracy, ties)


def ordered(group: Sequence[tuple[float, float]]) -> tuple[int, int, int]:
    """Count the pairs of a group's rows (score, human) whose human scores differ: all, those ordered alike, score ties.

    >>> ordered([(0.1, 1), (0.2, 2), (0.2, 3), (0.9, 3)])
    (5, 4, 1)
    """
    pairs = itertools.combinations(group, 2)
    differences = [(s - other_s, h - other_h) for (s, h), (other_s, other_h) in pairs if h != other_h]
    return len(differences), sum(s * h > 0 for s, h in differences), sum(s == 0 for s, _ in differences)


def oriented(name: str, value: Any) -> float | None:
    """Return a component as a number for which higher is better; None if it is not finite.

    >>> oriented("qe", 0.5), oriented("length_penalty", 0.5), oriented("gate", "copy")
    (0.5, -0.5, None)
    """
    return (-float(value) if name in PENALTIES else float(value)) if is_number(value) else None


def table(
    components: Sequence[dict[str, Any]],
    human: Sequence[float | None],
    sources: Sequence[Hashable],
    extra: Mapping[str, Sequence[float | None]],
) -> dict[str, Agreement]:
    """Return {name: Agreement} of every numeric component of the rows, then of the `extra` lists (totals).

    Penalties are negated (`oriented`). A component that is the same in all rows is left out.
    """
    names = dict.fromkeys(name for row in components for name in row)
    lists = {name: [oriented(name, row.get(name)) for row in components] for name in names}
    lists = {name: values for name, values in lists.items() if len({v for v in values if v is not None}) > 1}
    return {name: measure(values, human, sources) for name, values in {**lists, **extra}.items()}


def as_text(found: dict[str, Agreement], column: str) -> str:
    """Format the table for the screen; `column` names the human scores."""
    head = f"{'n':>6}{'Pearson':>9}{'Spearman':>10}{'Kendall':>9}{'pairwise':>10}{'pairs':>7}{'ties':>7}"
    lines = [f"{f'against {column}':<24}{head}"]
    for name, row in found.items():
        pearson, spearman, kendall, accuracy = (
            cell(value, ".3f") for value in (row.pearson, row.spearman, row.kendall, row.accuracy)
        )
        numbers = f"{pearson:>9}{spearman:>10}{kendall:>9}{accuracy:>10}{row.pairs:>7}{row.ties:>7}"
        lines.append(f"{name:<24}{row.n:>6}{numbers}")
    return "\n".join(lines)


def cell(value: float | None, form: str) -> str:
    """Format a number of a table; None becomes a dash."""
    return "–" if value is None else format(value, form)
