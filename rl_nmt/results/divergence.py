"""Monitor a run by a score outside its reward: raise the divergence alarm and choose best/.

A policy that games its reward has a rising reward and a falling independent score. Rules and thresholds: ours.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rl_nmt.results.evaluation import Snapshot
from rl_nmt.results.sampling import bleu_against_others
from rl_nmt.results.task import REWARD, mean

SIGMAS = 2.0  # a change of fewer standard errors of the paired difference is taken for noise
SHOWN = 12  # evaluations in the warning's curve
SELF_BLEU_GROUPS = 8


class Evaluation(NamedTuple):
    """Per-row rewards and independent scores (None: not scored) of one evaluation, and its place in the run."""

    step: int
    rewards: list[float | None]
    scores: list[float | None]


@dataclass
class DivergenceMonitor:
    """Collect the held-out evaluations of a run; see the module."""

    name: str  # name of the independent score, e.g. "chrF++"; "" without one
    independent: Callable[[Snapshot], list[float | None]]  # score per row, higher is better, None: not scored
    sources: Sequence[str]  # of the rows
    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int | None = None  # by the independent score on the choosing half
    warned: bool = False

    def __post_init__(self) -> None:
        self.choosing = [choosing_half(source) for source in self.sources]

    def record(self, step: int, snapshot: Snapshot) -> str | None:
        """Add an evaluation; returns the warning the first time reward and independent score diverge."""
        rewards = REWARD.rows(snapshot)
        self.evaluations = [known for known in self.evaluations if known.step < step]  # a resumed run repeats some
        self.evaluations.append(Evaluation(step, rewards, self.independent(snapshot)))
        self.best_step = self._best_by(lambda known: self._half_score(known, True))
        if self.warned or not self._diverged():
            return None
        self.warned = True
        return self._warning()

    def restart_unless_same(self, before: Snapshot) -> None:
        """Start again from `before` where the evaluations so far are of other rows or another reward (--force)."""
        if self.evaluations and self.evaluations[0].rewards != REWARD.rows(before):
            print("divergence: evaluations so far are dropped: they had other rows or another reward", flush=True)
            self.evaluations, self.best_step, self.warned = [], None, False
            self.record(0, before)

    def _at(self, step: int | None) -> Evaluation | None:
        return next((known for known in self.evaluations if known.step == step), None)

    def _diverged(self) -> bool:
        """Return whether the reward rose and the independent score fell, beyond noise, since the start or the best."""
        now = self.evaluations[-1]
        for earlier in (self.evaluations[0], self._at(self.best_step) or now):  # `now` equals itself
            up, down = change(earlier.rewards, now.rewards), change(earlier.scores, now.scores)
            if up and down and up[0] > SIGMAS * up[1] and down[0] < -SIGMAS * down[1]:
                return True
        return False

    def _warning(self) -> str:
        shown = ((known.step, mean(known.rewards), mean(known.scores)) for known in self.evaluations[-SHOWN:])
        rows = "\n".join("  {:>6}  {:>8.3f}  {:>8.2f}".format(*line) for line in shown)
        return (
            f"WARNING: the reward rises while {self.name}, which is not part of it, falls beyond noise: the policy\n"
            f"may be gaming the reward. Look at the samples; lower lr, raise the KL penalty or add a guard.\n"
            f"    step    reward  {self.name:>8}\n{rows}"
        )

    def _best_by(self, score: Callable[[Evaluation], float | None]) -> int | None:
        """Return the step of the highest score, the earliest of equal ones; None without any score."""
        scored = [(value, -known.step) for known in self.evaluations if (value := score(known)) is not None]
        return -max(scored)[1] if scored else None

    def _half_score(self, known: Evaluation, choosing: bool) -> float | None:
        """Return the mean independent score of the rows that choose best/, or of those that report on it."""
        return mean([s for s, ours in zip(known.scores, self.choosing, strict=True) if ours == choosing])

    def choice(self) -> dict:
        """Return, as JSON, which step best/ holds and why; scores are of the rows that did not choose it."""
        last = self.evaluations[-1].step if self.evaluations else None
        if self.best_step is None:
            reason = "no score outside the reward: give held-out rows with references, or an independent_scorer"
            return {"step": last, "by": "last", "reason": reason}
        by_reward = self._best_by(lambda known: mean(known.rewards))
        start = self.evaluations[0].step
        steps = {"start": start, "best": self.best_step, "last": last, "best by reward": by_reward}
        found = {name: self._at(step) for name, step in steps.items()}
        return {
            "step": self.best_step,
            "by": self.name,
            "reason": f"highest mean {self.name} on {sum(self.choosing)} of {len(self.choosing)} held-out rows",
            "best_by_reward_step": by_reward,
            "reported_rows": len(self.choosing) - sum(self.choosing),
            # On the other half: the maximum of noisy scores is too high on the rows that chose it.
            "reported": {name: known and self._half_score(known, False) for name, known in found.items()},
            "diverged": self.warned,
        }

    def state_dict(self) -> dict:
        return {"evaluations": self.evaluations, "best_step": self.best_step, "warned": self.warned}

    def load_state_dict(self, state: dict) -> None:
        self.evaluations = [Evaluation(*known) for known in state["evaluations"]]
        self.best_step, self.warned = state["best_step"], state["warned"]


def choosing_half(source: str) -> bool:
    """Return whether this row chooses best/ (True) or reports on it (False), by a hash of its text: never changes."""
    return hashlib.sha256(source.encode("utf-8", "replace")).digest()[-1] % 2 == 0


def change(before: Sequence[float | None], after: Sequence[float | None]) -> tuple[float, float] | None:
    """Return the mean paired difference and its standard error over rows scored on both sides; None below two rows."""
    # Paired: the same rows are translated each time, and their differences vary less than their scores.
    pairs = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    return float(np.mean(pairs)), float(np.std(pairs, ddof=1) / math.sqrt(len(pairs)))


def self_bleu(sources: Sequence[str], outputs: Sequence[str]) -> float | None:
    """Return the mean BLEU (0–100) of each sample against the others of its group; 100: all are the same text.

    A group is the samples of one source; the first SELF_BLEU_GROUPS groups of at least two are used. None without any.
    Name and idea are those of the Texygen benchmark (arXiv 1802.01886).
    """
    members: dict[str, list[str]] = defaultdict(list)
    for source, output in zip(sources, outputs, strict=True):
        members[source].append(output)
    chosen = [group for group in members.values() if len(group) > 1][:SELF_BLEU_GROUPS]
    return mean([score for group in chosen for score in bleu_against_others(group)])
