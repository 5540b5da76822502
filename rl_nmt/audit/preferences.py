"""Measure preference accuracy: how often a reward prefers the chosen of two translations. No torch.

Pairs come from a file with the columns source, chosen and rejected. The interval is a percentile bootstrap
over pairs (Efron 1979).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_nmt.audit.launch_gate import TIE, Reward, score_rows
from rl_nmt.data.tables import read_all, sides
from rl_nmt.errors import ConfigError

RESAMPLES = 2000


@dataclass(frozen=True)
class Preferences:
    """Counts over the pairs of a file, and their accuracy.

    `accuracy` = wins / (wins + losses), over the decided pairs; `low` and `high` are its 95 % bootstrap
    interval. All in [0, 1], None when nothing was decided. Ties and unscored pairs are counted separately.
    """

    wins: int
    losses: int
    ties: int
    unscored: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        decided = self.wins + self.losses
        interval = f"{self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}] of {decided}" if decided else "none"
        return (
            f"preference accuracy {interval} decided; {decided + self.ties + self.unscored} pairs: {self.wins} chosen "
            f"above rejected, {self.losses} below, {self.ties} tied, {self.unscored} unscored"
        )


def read_preferences(path: Path, argument: str = "--pairs") -> list[tuple[str, str, str]]:
    """Read (source, chosen, rejected) of every row, the source by any usual name. Raises ConfigError with the line."""
    pairs = []
    for row in read_all(path, argument, ("chosen", "rejected")):
        (source, chosen), (_, rejected) = sides(row, reference="chosen"), sides(row, reference="rejected")
        if chosen is None or rejected is None:
            raise ConfigError(f"{row.where}: chosen and rejected must be texts")
        pairs.append((source, chosen, rejected))
    return pairs


def judge(reward: Reward, pairs: Sequence[tuple[str, str, str]], seed: int = 0) -> Preferences:
    """Score both sides of every (source, chosen, rejected) and count."""
    texts = [text for _, chosen, rejected in pairs for text in (chosen, rejected)]
    sources = [source for source, _, _ in pairs for _ in range(2)]
    totals = [row["total"] for row in score_rows(reward, sources, texts, "preferences")]
    return count(list(zip(totals[::2], totals[1::2], strict=True)), seed)


def count(totals: Sequence[tuple[float | None, float | None]], seed: int = 0) -> Preferences:
    """Count preferences in (chosen total, rejected total) pairs; None or a non-finite total is unscored.

    >>> print(count([(0.9, 0.1), (0.5, 0.5), (None, 0.2)]))
    preference accuracy 1.000 [1.000, 1.000] of 1 decided; 3 pairs: 1 chosen above rejected, 0 below, 1 tied, 1 unscored
    """
    differences = np.array([chosen - rejected for chosen, rejected in totals if None not in (chosen, rejected)])
    differences = differences[np.isfinite(differences)]
    wins, losses = int((differences > TIE).sum()), int((differences < -TIE).sum())
    decided, unscored = wins + losses, len(totals) - len(differences)
    if not decided:
        return Preferences(wins, losses, len(differences), unscored)
    draws = np.random.default_rng(seed).binomial(decided, wins / decided, RESAMPLES) / decided
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    return Preferences(wins, losses, len(differences) - decided, unscored, wins / decided, low, high)
