"""Preference accuracy: how often a reward prefers the chosen of two translations. No torch.

Pairs come from a JSONL file {"source", "chosen", "rejected"}. The interval is a percentile bootstrap
over pairs (Efron 1979).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rl_nmt.audit.launch_gate import BATCH, score_rows
from rl_nmt.errors import ConfigError

FIELDS = ("source", "chosen", "rejected")
RESAMPLES = 2000
TIE = 1e-6  # fp32 scorers agree to this between batches: a smaller difference says nothing


@dataclass(frozen=True)
class Preferences:
    """Counts over the pairs of a file, and the accuracy they make.

    `accuracy` = wins / (wins + losses), over the decided pairs; `low` and `high` are its 95 % bootstrap
    interval. All in [0, 1], None when nothing was decided. Ties and unscored pairs are counted apart.
    """

    wins: int
    losses: int
    ties: int
    unscored: int
    accuracy: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        n = self.wins + self.losses + self.ties + self.unscored
        rate = "none decided"
        if self.accuracy is not None:
            rate = f"{self.accuracy:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.wins + self.losses} decided"
        return (
            f"preference accuracy {rate}; {n} pairs: {self.wins} chosen above rejected, {self.losses} below, "
            f"{self.ties} tied, {self.unscored} unscored"
        )


def read_preferences(path: Path, argument: str = "--pairs") -> list[tuple[str, str, str]]:
    """(source, chosen, rejected) rows of a JSONL file. Raises ConfigError naming the first bad line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # only line feeds: a text may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{argument}: {path} cannot be read as UTF-8 text ({error})") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            pairs.append(_parse(line, f"{argument}: {path} line {number}"))
    if not pairs:
        raise ConfigError(f'{argument}: {path} is empty: write {{"source", "chosen", "rejected"}} per line')
    return pairs


def _parse(line: str, where: str) -> tuple[str, str, str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} is no JSON") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no JSON object with source, chosen and rejected")
    if "source" not in row and "english" in row:
        row["source"] = row["english"]
    missing = [name for name in FIELDS if name not in row]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}: it has {', '.join(row) or 'nothing'}")
    wrong = [name for name in FIELDS if not isinstance(row[name], str)]
    if wrong:
        raise ConfigError(f"{where}: {wrong[0]} is {type(row[wrong[0]]).__name__}, must be a text")
    return row["source"], row["chosen"], row["rejected"]


def judge(reward, pairs: Sequence[tuple[str, str, str]], seed: int = 0, batch: int = BATCH) -> Preferences:
    """Score both sides of every (source, chosen, rejected) and count.

    `reward.score_components(None, completions, source=[...])` gives one row with "total" per completion.
    Raises ConfigError for no pairs.
    """
    if not pairs:
        raise ConfigError("preference pairs: there are none")
    texts = [text for _, chosen, rejected in pairs for text in (chosen, rejected)]
    sources = [source for source, _, _ in pairs for _ in range(2)]
    totals = [row["total"] for row in score_rows(reward, sources, texts, batch)]
    return count(list(zip(totals[::2], totals[1::2], strict=True)), seed)


def count(totals: Sequence[tuple[float | None, float | None]], seed: int = 0) -> Preferences:
    """Preferences of (total of the chosen, total of the rejected) pairs; None or non-finite is unscored.

    >>> print(count([(0.9, 0.1), (0.5, 0.5), (None, 0.2)]))
    preference accuracy 1.000 [1.000, 1.000] of 1 decided; 3 pairs: 1 chosen above rejected, 0 below, 1 tied, 1 unscored
    """
    differences = [
        a - b for a, b in totals if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
    ]
    decided = np.array([difference > 0 for difference in differences if abs(difference) > TIE])
    wins = int(decided.sum())
    accuracy = low = high = None
    if len(decided):
        accuracy = wins / len(decided)
        draws = np.random.default_rng(seed).binomial(len(decided), accuracy, RESAMPLES) / len(decided)
        low, high = (float(value) for value in np.quantile(draws, [0.025, 0.975]))
    return Preferences(
        wins, len(decided) - wins, len(differences) - len(decided), len(totals) - len(differences), accuracy, low, high
    )
