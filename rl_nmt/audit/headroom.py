"""Measure what a policy's samples could gain by a reward, and refuse to train where nothing can be learned. No torch.

The best of N samples by the reward is what the reward can choose, the oracle is what there is to choose. Both are
compared with the mean of the samples by a score outside the reward. Thresholds: ours; reasons: docs/details.md, 51.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any, Self

import numpy as np

from rl_nmt import files
from rl_nmt.audit.groups import MIN_VALID, NO_DIFFERENCE, Groups
from rl_nmt.errors import ConfigError, RewardRefused
from rl_nmt.guards.agreement import cell, ordered

MAX_IDLE = 0.9  # share of groups without a difference above which training is refused
MIN_PROMPTS = 10  # fewer give no interval and no verdict, unless no output passes the gates
RESAMPLES = 1000  # of the percentile bootstrap over prompts
EXPLAINED = (
    "GRPO learns only from differences in reward between the samples of a prompt. The best of N shows what the reward\n"
    "can choose among them, the oracle what could be chosen. In brackets: 95% interval of the gain over the mean."
)
FIXES = {
    "missing": "too few outputs have a score; the scorers' warnings above say why; run the same command again when the "
    "scorers work",
    "same": "raise temperature or group_size",
    "gated": "start from a stronger policy (--model_id), or fine-tune this one on correct outputs first: give pairs "
    "as --warm_start_file",
    "tied": "the reward does not tell these texts apart; change its weights or its models",
}


@dataclass(frozen=True)
class Gain:
    """The mean of a line over `prompts` prompts, and its paired difference to the mean of samples; None: unknown."""

    mean: float | None
    gain: float | None
    low: float | None  # 95 % interval of the gain
    high: float | None
    prompts: int

    @classmethod
    def of(cls, values: np.ndarray, base: np.ndarray) -> Self:
        """Compare two (P,) arrays; prompts where either is NaN are left out."""
        both = np.isfinite(values) & np.isfinite(base)
        if not both.any():
            return cls(None, None, None, None, 0)
        gains = np.round((values - base)[both], 9)  # of equal sums in another order, nothing
        return cls(float(values[both].mean()), float(gains.mean()), *interval(gains), int(both.sum()))

    def show(self, digits: int) -> str:
        """Format the gain with its interval, e.g. "+0.12 [+0.08, +0.15]"."""
        if self.gain is None or self.low is None:
            return cell(self.gain, f"+.{digits}f")
        return f"{self.gain:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


@dataclass
class Headroom:
    """Greedy output and G samples of each of P prompts with two scores; everything else is computed from these."""

    groups: Groups  # the samples with their rewards
    greedy: list[float | None]  # (P,) rewards of the greedy outputs
    greedy_outside: list[float | None]  # (P,) scores outside the reward, higher is better
    outside: list[list[float | None]]  # (P, G), of the samples
    name: str  # of the score outside the reward; "" without one
    identity: dict[str, Any]  # what it was measured with: model, reward, rows, sampling

    def save(self, path: Path | str) -> None:
        """Write as JSON, atomically, with the derived numbers. Raises CannotWrite."""
        files.write_json(path, asdict(self) | {"report": self.as_dict()})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. Raises ConfigError for a missing or damaged file."""
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            stored.pop("report")
            report = cls(**stored | {"groups": Groups(**stored["groups"])})
            report._require_whole()
            return report
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"{path}: cannot be read as a headroom report ({error}): remove it") from error

    def _require_whole(self) -> None:
        """Raise ValueError or TypeError unless every list has P entries, and those of samples G each."""
        groups, kinds = self.groups, ((self.name, str), (self.identity, dict), (self.groups.noise_floor, int | float))
        wrong = [value for value, kind in kinds if not isinstance(value, kind)]
        count, sizes = len(groups), {len(row) for part in (groups.outputs, groups.gates) for row in part}
        lengths = {len(part) for part in (groups.outputs, groups.gates)} | {count}
        samples = {numbers(groups.totals).shape, numbers(self.outside).shape}
        alone = {numbers(self.greedy).shape, numbers(self.greedy_outside).shape}
        whole = count and lengths == {count} and alone == {(count,)} and samples == {(count, size) for size in sizes}
        if wrong or not whole or 0 in sizes:
            raise ValueError(f"it does not have as many samples and scores for each of {count} prompts")

    @property
    def size(self) -> int:
        """G, samples per prompt."""
        return len(self.groups.outputs[0])

    def lines(self) -> dict[str, tuple[Gain, Gain]]:
        """Return the table: label → gains in reward and in outside score over the mean of samples.

        In each column a prompt counts if MIN_VALID·G of its samples have the score. Of samples without one the best is
        not known: N is at most the number of the others.
        """
        rewards, outside = numbers(self.groups.totals), numbers(self.outside)  # (P, G)
        columns = (rewards, outside)
        count = self.size
        chosen = {"greedy": [numbers(self.greedy), numbers(self.greedy_outside)]}
        mean = chosen["mean of samples"] = [best_of(1, rewards, column) for column in columns]
        for n in sorted({2**power for power in range(1, count.bit_length()) if 2**power < count} | {count}):
            chosen[f"best of {n} by the reward"] = [best_of(n, rewards, column) for column in columns]
        if self.name:
            chosen[f"oracle: best of {count} by {self.name}"] = [best_of(count, outside, each) for each in columns]
        return {label: (Gain.of(values[0], mean[0]), Gain.of(values[1], mean[1])) for label, values in chosen.items()}

    def best(self) -> Gain:
        """Return the gain in outside score of the best of G by the reward."""
        return self.lines()[f"best of {self.size} by the reward"][1]

    def agreement(self) -> dict[str, float | None]:
        """Return how often the reward orders two samples of a prompt as the outside score does, 0 to 1, with interval.

        Over pairs whose outside scores differ; a tie of the reward counts half, so chance is 0.5.
        """
        rewards, outside = numbers(self.groups.totals), numbers(self.outside)
        known = np.isfinite(rewards) & np.isfinite(outside)
        rows = zip(rewards, outside, known, strict=True)
        counts = np.array([ordered(list(zip(r[k].tolist(), o[k].tolist(), strict=True))) for r, o, k in rows])  # (P, 3)
        pairs, agreed = counts[:, 0], counts[:, 1] + counts[:, 2] / 2
        if not pairs.any():
            return {"accuracy": None, "low": None, "high": None}
        low, high = interval(agreed[pairs > 0], pairs[pairs > 0])
        return {"accuracy": float(agreed.sum() / pairs.sum()), "low": low, "high": high}

    def shares(self) -> dict[str, float]:
        """Return shares: of groups idle (no difference; tied, gated or missing) and of one text, of outputs passing."""
        verdicts = self.groups.verdicts
        holds = {"idle": [bool(verdict) for verdict in verdicts]}
        holds |= {name: [verdict == name for verdict in verdicts] for name in reversed(NO_DIFFERENCE)}
        holds["same_text"] = [len(set(texts)) == 1 for texts in self.groups.outputs]
        return {f"{name}_share": float(np.mean(held)) for name, held in holds.items()} | {
            "passing_share": passing(self.groups)
        }

    @property
    def reasons(self) -> list[str]:
        """Why training is refused, each with its fix; empty when it may begin."""
        reasons, best = [], self.best()
        if self._idle() and not self._few():
            reasons.append(self._idle())
        if best.high is not None and best.high < 0:
            reasons.append(
                f"reward: the best of {self.size} samples by the reward is worse than their mean by {self.name}, "
                f"{best.show(digits(best))}: the reward prefers worse outputs; change its weights or its models"
            )
        return reasons

    @property
    def warnings(self) -> list[str]:
        """What may keep the policy from improving, though it is not refused."""
        best, found = self.best(), []
        if self._idle() and self._few():
            found.append(f"headroom: {self._idle()}. {len(self.groups)} prompts are too few to refuse training for it")
        if not self.name:
            missing = "give held-out references (eval_file) or an independent_scorer"
            found.append(f"headroom: it is not known whether the reward prefers better outputs: {missing}")
        elif best.low is None:
            found.append(f"headroom: {best.prompts} prompts with {self.name}: too few to tell whether the reward helps")
        elif best.low <= 0 <= best.high:
            found.append(
                f"headroom: the best of {self.size} samples by the reward is not better than their mean by "
                f"{self.name}, beyond noise ({best.show(digits(best))}): the reward may not improve the outputs; try "
                "other weights or models of the reward, or raise headroom_prompts for a narrower interval"
            )
        return found

    def _idle(self) -> str:
        """Return why more than MAX_IDLE of the groups have no difference; "" if they are fewer."""
        idle = self.shares()["idle_share"] > MAX_IDLE
        return no_difference(self.groups, self.identity.get("temperature")) if idle else ""

    def _few(self) -> bool:
        """Return whether a few prompts more might have a difference: some outputs pass the gates."""
        return len(self.groups) < MIN_PROMPTS and passing(self.groups) > 0

    def require_passed(self) -> None:
        """Raise RewardRefused (exit status 3) with the reasons, if there are any."""
        if reasons := self.reasons:
            raise RewardRefused(f"headroom: {'; '.join(reasons)}. To train anyway, add --skip_headroom_gate")

    def as_dict(self) -> dict[str, Any]:
        """Return everything above as JSON values, without texts."""
        lines = {
            label: {"reward": asdict(reward), "outside": asdict(outside)}
            for label, (reward, outside) in self.lines().items()
        }
        head = {"passed": not self.reasons, "reasons": self.reasons, "warnings": self.warnings}
        sizes = {"prompts": len(self.groups), "samples": self.size, "outside": self.name}
        return head | sizes | self.shares() | {"agreement": self.agreement(), "lines": lines}

    def table(self) -> str:
        """Format the lines, the shares and what they mean."""
        lines, name = self.lines(), self.name
        places = digits(*(gain for _, gain in lines.values()))
        width = max(len(label) for label in lines)
        title = f"{len(self.groups)} prompts × {self.size} samples"
        short = name.rpartition("/")[2].rjust(7)  # of a model's name on the hub
        outside = f"  {short}  gain over the mean" if name else ""
        rows = [f"{title:<{width}}{'reward':>9}  {'gain over the mean':<24}{outside}"]
        for label, (reward, other) in lines.items():
            mean = label == "mean of samples"
            row = f"{label:<{width}}{cell(reward.mean, '.3f'):>9}  {'' if mean else reward.show(3):<24}"
            if name:
                row += f"  {cell(other.mean, f'.{places}f'):>{len(short)}}  {'' if mean else other.show(places)}"
            rows.append(row)
        shares, order = self.shares(), self.agreement()
        idle = ", ".join(f"{cause} {shares[f'{cause}_share']:.0%}" for cause in reversed(NO_DIFFERENCE))
        rows += [
            f"groups without a difference in reward: {shares['idle_share']:.0%} ({idle})",
            f"groups whose samples are all the same text: {shares['same_text_share']:.0%}",
            f"outputs that pass the gates: {shares['passing_share']:.0%}",
        ]
        if order["accuracy"] is not None:
            spread = "" if order["low"] is None else f" [{order['low']:.0%}, {order['high']:.0%}]"
            rows.append(
                f"pairs of samples that reward and {name} order alike: {order['accuracy']:.0%}{spread}; chance: 50%"
            )
        return "\n".join([*(row.rstrip() for row in rows), EXPLAINED])


def no_difference(groups: Groups, temperature: float | None = None) -> str:
    """Return why groups have no difference in reward, and what to change for the most frequent cause.

    `temperature`: of the samples, for the message.
    """
    causes: Counter[str] = Counter()
    for verdict, texts in zip(groups.verdicts, groups.outputs, strict=True):
        if verdict:
            # One text again and again: other samples might pass the gates or get another reward.
            causes["same" if verdict != "missing" and len(set(texts)) == 1 else verdict] += 1
    gates = Counter(gate for group in groups.gates for gate in group if gate)
    outputs = sum(map(len, groups.outputs))
    often = ", ".join(f"{gate} {count / outputs:.0%}" for gate, count in gates.most_common(3))
    if sum(gates.values()) >= MIN_VALID * outputs and not passing(groups):
        return f"model_id: none of {outputs} outputs passes the reward's gates ({often} of them): {FIXES['gated']}"
    floor = f" within the noise floor {groups.noise_floor:.1e}" if groups.noise_floor else ""
    what = {
        "missing": "too few outputs have a score",
        "same": "all samples are the same text",
        "gated": f"no output passes the gates ({often} of all outputs)",
        "tied": f"different texts have the same reward{floor}",
    }
    settings = {"same": "temperature" if temperature is None else f"temperature: {temperature}", "gated": "model_id"}
    ranked = [cause for cause, _ in causes.most_common()] or ["tied"]
    told = "; ".join(f"{causes[cause]}: {what[cause]}" for cause in ranked)
    idle = f"{causes.total()} of {len(groups)} groups have no difference in reward"
    return f"{settings.get(ranked[0], 'reward')}: {idle} ({told}): {FIXES[ranked[0]]}"


def passing(groups: Groups) -> float:
    """Return the share of all outputs that have a score and that no gate refused."""
    totals, gates = ([value for group in column for value in group] for column in (groups.totals, groups.gates))
    known = np.isfinite(numbers(totals))
    return float(np.mean([known[i] and not gate for i, gate in enumerate(gates)]))


def best_of(n: int, by: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the expected value of the sample that is best by `by` among n of a group, (P,).

    `by`, `values`: (P, G), NaN leaves a sample out; n is at most the number of the others. Exact: the mean over all
    subsets of n samples, ties of `by` sharing. n = 1 is the mean. NaN for a group with fewer than MIN_VALID·G samples.

    >>> best_of(2, np.array([[0.1, 0.2, 0.2]]), np.array([[3.0, 6.0, 9.0]]))
    array([7.5])
    """
    expected = np.full(len(by), np.nan)
    for i, (ranks, row) in enumerate(zip(by, values, strict=True)):
        known = np.isfinite(ranks) & np.isfinite(row)
        total = int(known.sum())
        if total < MIN_VALID * len(row):
            continue
        _, places, sizes = np.unique(ranks[known], return_inverse=True, return_counts=True)
        # Of C(total, n) subsets, C(k, n) have all members among the k lowest.
        subsets = np.array([comb(int(k), min(n, total)) for k in (0, *np.cumsum(sizes))], dtype=float)
        means = np.bincount(places, row[known]) / sizes
        expected[i] = np.diff(subsets) @ means / subsets[-1]
    return expected


def interval(values: np.ndarray, weights: np.ndarray | None = None) -> tuple[float | None, float | None]:
    """Return the 95 % percentile bootstrap interval of Σ values / Σ weights, by default of the mean.

    `values`, `weights`: (n,) per prompt, drawn together. (None, None) below MIN_PROMPTS.
    """
    count = len(values)
    if count < MIN_PROMPTS:
        return None, None
    index = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    weights = np.ones(count) if weights is None else weights
    low, high = np.quantile(values[index].sum(1) / weights[index].sum(1), [0.025, 0.975])
    return float(low), float(high)


def digits(*gains: Gain) -> int:
    """Return the digits to show: 3 for scores up to about 1, else 1, as for chrF++."""
    return 1 if max((abs(gain.mean) for gain in gains if gain.mean is not None), default=0.0) > 10 else 3


def numbers(values: Any) -> np.ndarray:
    """Return nested lists of numbers as an array; None and what is not finite become NaN."""
    found = np.array(values, dtype=float)
    return np.where(np.isfinite(found), found, np.nan)
