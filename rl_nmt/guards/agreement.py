"""Measure how far scores agree with human ones: correlations and within-source pairwise accuracy. No torch.

Pearson's r, Spearman's rho and Kendall's tau-b are scipy's. Within-source pairwise accuracy asks what a
reward is for: of two outputs for the same source, does it prefer the one that people prefer?
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

# Measures and components for which less is better; they are negated here, so that more is better in every line.
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
    if len(rows) < 3 or len(set(xs)) < 2 or len(set(ys)) < 2:
        correlations = (None, None, None)
    else:
        from scipy import stats

        correlations = tuple(float(f(xs, ys)[0]) for f in (stats.pearsonr, stats.spearmanr, stats.kendalltau))
    groups: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for score, value, source in rows:
        groups[source].append((score, value))
    pairs = agreed = ties = 0
    for group in groups.values():
        for (s, h), (other_s, other_h) in itertools.combinations(group, 2):
            if h == other_h:
                continue
            pairs += 1
            ties += s == other_s
            agreed += (s - other_s) * (h - other_h) > 0
    return Agreement(len(rows), *correlations, pairs, (agreed + ties / 2) / pairs if pairs else None, ties)


def oriented(name: str, value: Any) -> float | None:
    """A component as a number of which more is better; None for what is no finite number.

    >>> oriented("qe", 0.5), oriented("length_penalty", 0.5), oriented("gate", "copy")
    (0.5, -0.5, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return -float(value) if name in PENALTIES else float(value)


def table(
    components: Sequence[dict[str, Any]],
    human: Sequence[float | None],
    sources: Sequence[Hashable],
    extra: dict[str, Sequence[float | None]] | None = None,
) -> dict[str, Agreement]:
    """Agreement of every numeric component of the rows, then of the `extra` lists (totals); {name: Agreement}.

    Penalties are negated (`oriented`). A component that is the same in all rows is left out.
    """
    names = dict.fromkeys(name for row in components for name in row)
    lists = {name: [oriented(name, row.get(name)) for row in components] for name in names}
    lists = {name: values for name, values in lists.items() if len({v for v in values if v is not None}) > 1}
    return {name: measure(values, human, sources) for name, values in {**lists, **(extra or {})}.items()}


def as_text(found: dict[str, Agreement], column: str) -> str:
    """The table for the screen; `column` names the human scores."""
    head = f"{'n':>6}{'Pearson':>9}{'Spearman':>10}{'Kendall':>9}{'pairwise':>10}{'pairs':>7}{'ties':>7}"
    lines = [f"{f'against {column}':<24}{head}"]
    for name, row in found.items():
        numbers = [row.pearson, row.spearman, row.kendall, row.accuracy]
        cells = ["–" if value is None else f"{value:.3f}" for value in numbers]
        lines.append(
            f"{name:<24}{row.n:>6}{cells[0]:>9}{cells[1]:>10}{cells[2]:>9}{cells[3]:>10}{row.pairs:>7}{row.ties:>7}"
        )
    return "\n".join(lines)
