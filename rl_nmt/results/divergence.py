"""Watching a run with what its reward does not contain: the divergence alarm and the choice of best/.

A policy that games its reward shows it as a rising reward beside a falling independent score. That score is
chrF++ where the held-out rows have references, else a judge outside the reward where one is configured; where
there is neither, nobody can tell, and that is said. Rules and thresholds: ours.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rl_nmt.results.evaluation import Snapshot, number, sentence_chrf

SIGMAS = 2.0  # a change counts beyond this many standard errors of the paired difference
SHOWN = 12  # evaluations in the warning's curve
SELF_BLEU_GROUPS = 8


@dataclass
class Look:
    """One evaluation: per-row rewards and independent scores (None: not scored), and its place in the run."""

    step: int
    rewards: list[float | None]
    scores: list[float | None]


class Watch:
    """Collects the held-out evaluations of a run; see the module.

    Args:
        name: what the independent score is called, e.g. "chrF++"; "" when there is none.
        independent: Snapshot → one score per row, higher is better, None where there is none.
        sources: the rows' English: which half a row belongs to is a hash of it.
    """

    def __init__(self, name: str, independent: Callable[[Snapshot], list[float | None]], sources: Sequence[str]):
        self.name, self.independent = name, independent
        self.choosing = [choosing_half(source) for source in sources]
        self.looks: list[Look] = []
        self.best_step: int | None = None
        self.warned = False

    def look(self, step: int, snapshot: Snapshot) -> str | None:
        """Take an evaluation in; returns the warning the first time reward and independent score diverge."""
        rewards = [number(row.get("total")) for row in snapshot.components]
        scores = self.independent(snapshot) if self.name else [None] * len(rewards)
        self.looks = [known for known in self.looks if known.step < step]  # a resumed run comes by again
        self.looks.append(Look(step, rewards, scores))
        self.best_step = self._best_by(self._choosing_score)
        if self.warned or not self._diverged():
            return None
        self.warned = True
        return self._warning()

    def is_best(self, step: int) -> bool:
        """Is the evaluation of `step` the best so far by the independent score on the choosing half?"""
        return self.best_step == step

    def _diverged(self) -> bool:
        """Reward up and independent score down, both beyond noise, against the start or the best so far."""
        now = self.looks[-1]
        for then in {self.looks[0].step, self.best_step}:
            earlier = next((known for known in self.looks if known.step == then), now)
            if earlier is now:
                continue
            up, down = change(earlier.rewards, now.rewards), change(earlier.scores, now.scores)
            if up and down and up[0] > SIGMAS * up[1] and down[0] < -SIGMAS * down[1]:
                return True
        return False

    def _warning(self) -> str:
        rows = "\n".join(
            f"  {look.step:>6}  {mean(look.rewards):>8.3f}  {mean(look.scores):>8.2f}" for look in self.looks[-SHOWN:]
        )
        return (
            f"WARNING: the reward rises while {self.name}, which is not in it, falls beyond noise: the policy may be\n"
            f"learning to please the reward. Look at the samples; lower lr, raise the KL penalty or add a guard.\n"
            f"    step    reward  {self.name:>8}\n{rows}"
        )

    def _best_by(self, score: Callable[[Look], float | None]) -> int | None:
        """Step of the highest score; of equal ones the earliest; None where nothing has one."""
        scored = [(value, -look.step) for look in self.looks if (value := score(look)) is not None]
        return -max(scored)[1] if scored else None

    def _choosing_score(self, look: Look) -> float | None:
        return mean([s for s, ours in zip(look.scores, self.choosing, strict=True) if ours])

    def _reporting_score(self, look: Look) -> float | None:
        return mean([s for s, ours in zip(look.scores, self.choosing, strict=True) if not ours])

    def choice(self) -> dict:
        """Which step best/ holds and why; scores are of the rows that did not choose. JSON."""
        if not self.looks or self.best_step is None:
            return {
                "step": self.looks[-1].step if self.looks else None,
                "by": "last",
                "reason": "no score outside the reward: give held-out rows with references, or an independent_scorer",
            }
        by_reward = self._best_by(lambda look: mean(look.rewards))
        reported = {
            name: next((self._reporting_score(look) for look in self.looks if look.step == step), None)
            for name, step in (
                ("start", self.looks[0].step),
                ("best", self.best_step),
                ("last", self.looks[-1].step),
                ("best by reward", by_reward),
            )
        }
        return {
            "step": self.best_step,
            "by": self.name,
            "reason": f"highest mean {self.name} on {sum(self.choosing)} of {len(self.choosing)} held-out rows",
            "best_by_reward_step": by_reward,
            "reported_rows": len(self.choosing) - sum(self.choosing),
            "reported": reported,
            "diverged": self.warned,
        }

    def state_dict(self) -> dict:
        """JSON of everything seen."""
        looks = [[look.step, look.rewards, look.scores] for look in self.looks]
        return {"looks": looks, "best_step": self.best_step, "warned": self.warned}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict()`'s answer."""
        self.looks = [Look(*look) for look in state["looks"]]
        self.best_step, self.warned = state["best_step"], state["warned"]


def choosing_half(source: str) -> bool:
    """Does this row choose best/ (True) or report on it (False)? A hash of the text, so it never changes."""
    return hashlib.sha256(source.encode("utf-8", "replace")).digest()[-1] % 2 == 0


def change(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean paired difference and its standard error over rows scored on both sides; None for fewer than two."""
    pairs = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    return float(np.mean(pairs)), float(np.std(pairs, ddof=1) / math.sqrt(len(pairs)))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what is there, None for nothing."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def choose_independent(rows: Sequence[dict], judge=None, reference_key: str = "reference"):
    """Name and function of the independent score for these held-out rows; ("", …) when there is none.

    `judge` is a loaded `Scorer` that the reward does not contain; references are preferred to it.
    """
    if any(row.get(reference_key) for row in rows):
        return "chrF++", sentence_chrf
    if judge is None:
        return "", lambda snapshot: [None] * len(snapshot.sources)

    def judged(snapshot: Snapshot) -> list[float | None]:
        from rl_nmt.scorers.base import Segment

        values = judge.score([Segment(s, o) for s, o in zip(snapshot.sources, snapshot.outputs, strict=True)]).values
        return [None if v is None else v if judge.higher_is_better else -v for v in values]

    return judge.name, judged


def self_bleu(sources: Sequence[str], outputs: Sequence[str], groups: int = SELF_BLEU_GROUPS) -> float | None:
    """Mean BLEU (0–100) of each sample against its group's others: 100 says that the group says one thing.

    Groups are the samples of one source; the first `groups` of at least two are taken. None without any.
    The name and idea of the measure are those of the Texygen benchmark.
    """
    from sacrebleu.metrics import BLEU

    members: dict[str, list[str]] = defaultdict(list)
    for source, output in zip(sources, outputs, strict=True):
        members[source].append(output)
    chosen = [group for group in members.values() if len(group) > 1][:groups]
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(output, group[:i] + group[i + 1 :]).score
        for group in chosen
        for i, output in enumerate(group)
    ]
    return mean(scores)
