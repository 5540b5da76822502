"""Groups of samples as GRPO ranks them: G outputs of one prompt, and whether a policy can learn from them. No torch.

GRPO compares the samples of a prompt with each other, so a group without a difference has no gradient.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Self

MIN_VALID = 0.75  # share of a group that must have a score, else the group is skipped (ours)
NAMES = ("output", "total", "gate")  # in a row of a reward
NO_DIFFERENCE = ("missing", "gated", "tied")  # why a group teaches nothing, in the order of the checks


@dataclass
class Groups:
    """G samples of each of P prompts with their rewards; every list has one entry per prompt, in order."""

    sources: list[str]  # (P,)
    outputs: list[list[str]]  # (P, G)
    totals: list[list[float | None]]  # (P, G), None: no score
    gates: list[list[str | None]]  # (P, G), why the reward's gates refused the output; None: it passed
    noise_floor: float = 0.0  # reward spread up to which a group is a tie

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], noise_floor: float = 0.0) -> Self:
        """Build groups from a reward's rows (source, output, total, gate); rows of one source in a row are a group."""
        members = [list(group) for _, group in groupby(rows, key=itemgetter("source"))]
        texts, totals, gates = ([[row.get(name) for row in group] for group in members] for name in NAMES)
        return cls([group[0]["source"] for group in members], texts, totals, gates, noise_floor)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.sources)

    def verdict(self, i: int) -> str:
        """Return why group i teaches nothing, "" if it teaches something: missing, gated or tied.

        missing: fewer than MIN_VALID·G finite rewards; gated: no output passes; tied: the rewards spread by at most
        the noise floor. The rules are those of the trainer (`apply_group_rules`).
        """
        known = finite(self.totals[i])
        if len(known) < MIN_VALID * len(self.totals[i]):
            return "missing"
        if all(self.gates[i]):
            return "gated"
        return "tied" if max(known) - min(known) <= self.noise_floor else ""

    @property
    def verdicts(self) -> list[str]:
        """The verdict of every group, (P,)."""
        return [self.verdict(i) for i in range(len(self))]


def finite(values: Sequence[float | None]) -> list[float]:
    """Return the finite numbers among the values."""
    return [value for value in values if value is not None and math.isfinite(value)]
