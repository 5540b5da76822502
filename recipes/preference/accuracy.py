"""Measure on pairs how often the chosen answer wins: by the reward, and by the policy's log-probabilities. No torch.

    reward accuracy    r(chosen) > r(rejected): with a reward of the text alone, the same for every policy
    implicit accuracy  β · log(π/π_ref) is higher for chosen than for rejected: the implicit reward of DPO (Rafailov
                       et al. 2023, arXiv 2305.18290, sections 4 and 5), by which training is judged

Values that differ by at most the tolerance tie: neither a win nor a loss. Before training the policy is the reference:
all pairs tie, and implicit accuracy cannot be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from rl_nmt.results.evaluation import Snapshot, bootstrap_draws
from rl_nmt.results.task import Column, Task, mean

TOLERANCE = 1e-6  # for rounding alone; of margins in nats
RULE = f"wins / (wins + losses)|tolerance:{TOLERANCE:g}"
# accuracy → the keys of both sides in a row of an evaluation; without a second key the other side is 0
MEASURES = {"implicit_accuracy": ("margin", ""), "implicit_accuracy_shuffled": ("margin_shuffled", "")}
MEASURES |= {"reward_accuracy": ("reward_chosen", "reward_rejected")}
Values = Sequence[float | None]
HIDDEN = ("reward_chosen", "reward_rejected", "ref_logp_chosen", "ref_logp_rejected")
HIDDEN += ("logp_chosen_shuffled", "logp_rejected_shuffled")  # numbers of a row that are not metrics of their own


@dataclass(frozen=True)
class Accuracy:
    """Counts of pairs (`missing`: without both values); `value` is wins / (wins + losses), None without either."""

    wins: int
    losses: int
    ties: int
    missing: int
    low: float | None = None  # 95 % interval of `value`
    high: float | None = None

    @property
    def value(self) -> float | None:
        return self.wins / (self.wins + self.losses) if self.wins + self.losses else None

    @property
    def halves(self) -> float | None:
        """The same with a tie as half a win; None without pairs."""
        count = self.wins + self.losses + self.ties
        return (self.wins + self.ties / 2) / count if count else None

    def __str__(self) -> str:
        shown = "–" if self.value is None else f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"
        return f"{shown} ({self.ties} ties)" if self.ties else shown


def outcome(chosen: float | None, rejected: float | None, tolerance: float = TOLERANCE) -> float | None:
    """Return 1.0 for a win, 0.0 for a loss, 0.5 for a tie, and None unless both values are finite."""
    if chosen is None or rejected is None or not math.isfinite(chosen - rejected):
        return None
    return 0.5 if abs(chosen - rejected) <= tolerance else float(chosen > rejected)


def accuracy(chosen: Values, rejected: Values, tolerance: float = TOLERANCE, seed: int = 0) -> Accuracy:
    """Return the accuracy over pairs; its interval is a percentile bootstrap over those that are not missing."""
    found = [outcome(*pair, tolerance) for pair in zip(chosen, rejected, strict=True)]
    known = np.array([each for each in found if each is not None])
    counts = (*(int((known == each).sum()) for each in (1.0, 0.0, 0.5)), len(found) - len(known))
    if not any(counts[:2]):
        return Accuracy(*counts)
    wins, losses = (bootstrap_draws(len(known), seed) @ (known == each) for each in (1.0, 0.0))
    decided = wins + losses > 0  # a draw of ties alone has no accuracy
    shares = wins[decided] / (wins + losses)[decided]
    return Accuracy(*counts, *map(float, np.percentile(shares, [2.5, 97.5])))


def implicit_margins(
    policy_chosen: Values, policy_rejected: Values, reference_chosen: Values, reference_rejected: Values, beta: float
) -> list[float | None]:
    """Return β · (log π/π_ref(chosen) − log π/π_ref(rejected)) of whole answers, in nats; None where one is missing."""
    rows = zip(policy_chosen, policy_rejected, reference_chosen, reference_rejected, strict=True)
    return [None if None in (a, b, c, d) else beta * ((a - c) - (b - d)) for a, b, c, d in rows]


def sides(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Values, Values]:
    """Return what one of MEASURES compares in the rows of an evaluation: the arguments of `accuracy`."""
    better, worse = MEASURES[name]
    return [row.get(better) for row in rows], [row.get(worse) if worse else 0.0 for row in rows]


def columns() -> tuple[Column, ...]:
    """Return the columns for a Task: accuracies over pairs without ties, shares of ties, log-probabilities, correct."""

    def outcomes(snapshot: Snapshot, name: str, worth: dict[float, float]) -> list[float | None]:
        return [worth.get(each) for each in map(outcome, *sides(snapshot.components, name))]

    def ties(snapshot: Snapshot, name: str) -> float | None:
        return mean(outcomes(snapshot, name, {1.0: 0.0, 0.0: 0.0, 0.5: 1.0}))

    found = [Column("logp_chosen", better=1), Column("logp_rejected", better=-1), Column("correct", better=1)]
    for name in MEASURES:
        by_row, better = partial(outcomes, name=name, worth={1.0: 1.0, 0.0: 0.0}), int("shuffled" not in name)
        found += [Column(name, better=better, rows=by_row, signature=lambda _: RULE)]
        found += [Column(name.replace("accuracy", "ties"), value=partial(ties, name=name))]
    return tuple(found)


def task(method: str = "grpo", images: bool = True) -> Task:
    """Return what the results measure in addition to the reward, and how they name it."""
    words = (
        {"method": "DPO", "reward": "its implicit reward; the reward below only measures it"} if method == "dpo" else {}
    )
    return Task(
        **words,
        pipeline="image-text-to-text" if images else "text-generation",
        title="preferred answers",
        columns=columns(),
        hidden=HIDDEN,
        headline=("implicit_accuracy", "implicit_accuracy_shuffled", "reward_accuracy", "correct"),
        example="Which bar is the tallest?",
        settings=("model.name", "training.method", "training.beta", "training.sampled", "reward.source", "seed"),
    )


def with_halves(snapshot: Snapshot) -> list[float | None]:
    """Return the implicit accuracy of each row: 1.0 for a win, 0.0 for a loss, 0.5 for a tie, None without a margin."""
    return [outcome(*pair) for pair in zip(*sides(snapshot.components, "implicit_accuracy"), strict=True)]


def compared(before: Snapshot, after: Snapshot, seed: int = 0) -> dict[str, tuple[Accuracy, Accuracy]]:
    """Return those of MEASURES that were measured: name → (before, after)."""
    rows, found = len(before.components), {}
    for name in MEASURES:
        old, new = (accuracy(*sides(each.components, name), seed=seed) for each in (before, after))
        if min(old.missing, new.missing) < rows:
            found[name] = (old, new)
    return found


def as_dict(before: Snapshot, after: Snapshot, seed: int = 0) -> dict[str, Any]:
    """Return `compared` for JSON: name → before, after → counts, value and interval."""
    found = compared(before, after, seed)
    return {
        name: {side: asdict(each) | {"value": each.value} for side, each in zip(("before", "after"), pair, strict=True)}
        for name, pair in found.items()
    }


def summary(before: Snapshot, after: Snapshot, seed: int = 0) -> str:
    """Return one line for the screen: each accuracy that was measured, with its interval, before → after."""
    found = compared(before, after, seed)
    return "; ".join(f"{name.replace('_', ' ')} {old} → {new}" for name, (old, new) in found.items())
