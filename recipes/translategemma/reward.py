"""Compute this recipe's reward: `EnsembleReward`, a sequence reward and error spans.

    total = w_metricx * (offset - MetricX) + s_xcomet * XCOMET + s_mqm * MQM          per completion
    spans = XCOMET's and the judge's error spans                                       per token (token_credit.py)

MetricX-24 without reference: predicted MQM error, 0 (perfect) to 25. XCOMET without reference: 0 to 1. MQM: the
judge's score, -25 to 0 (perfect). A scorer's sequence weight of 0 leaves its score out of the total; its spans
count all the same. The form is TranslateGemma's (arXiv 2601.09012), which takes its sequence reward from MetricX
and its spans from an AutoMQM of its own.

An invalid output (rl_nmt/guards/gates.py) gets one point less than the formula's minimum, so that no gated
output ranks above one that passes; no model scores it and it has no spans. A failed scorer leaves None: TRL
ignores samples without a total, the trainer those without spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from rl_nmt.audit import variance_shares
from rl_nmt.errors import ConfigError
from rl_nmt.guards import gate_identity, verdict
from rl_nmt.scorers.base import Scorer, Segment, ask
from rl_nmt.text import TextPair
from rl_nmt.text.languages import ENGLISH, Language
from rl_nmt.text.prompts import read_texts
from rl_nmt.text.unicode import length, script_share
from rl_nmt.training.reward_log import RewardLog, common_scalars, mean, work_done
from rl_nmt.training.token_credit import SpanCredit

GATED_BELOW = 1.0  # points under the lowest total that a passing output can have
WORK = ("distinct", "remembered", "encoded", "padded_share", "calls", "retries", "failed", "restarts", "lost")
SEVERITIES = ("minor", "major", "critical")


@dataclass(frozen=True)
class Part:
    """One scorer of the ensemble.

    Args:
        scorer: loaded, or reached through a worker or an endpoint.
        weight: of its score in the total; 0 leaves it out.
        turn: raw score → value to be weighted (5 − score for MetricX), higher is better.
        span_weight: factor of its token rewards; 0 ignores its spans.
        credit: how its spans become token rewards.
        beside: whether it may run concurrently with the others (a judge over HTTP).
    """

    scorer: Scorer
    weight: float = 1.0
    turn: Callable[[float], float] = float
    span_weight: float = 0.0
    credit: SpanCredit = field(default_factory=SpanCredit)
    beside: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest contribution to the total."""
        ends = sorted(self.weight * self.turn(end) for end in self.scorer.range)
        return ends[0], ends[1]

    def worth(self, value: float) -> float:
        """Contribution of a raw score, clipped to `bounds`: XCOMET may exceed [0, 1] by hundredths."""
        low, high = self.bounds
        return min(high, max(low, self.weight * self.turn(value)))


class EnsembleReward(RewardLog):
    """Sequence rewards as TRL calls them, and spans for `TokenCreditTrainer`; see the module.

    Args:
        parts: name → Part; at least one with a weight other than 0.
        language, source: target and source language.
        guards: "on" | "off": gate invalid outputs.
        memories: name → `Remembered` of the parts that have one in this process; saved in checkpoints, so that a
            resumed run repeats every bit.

    After a call `last_rows` has one dict per completion: source, output (cleaned), gate, total, each
    part's raw score under its name, `spans` {name: list[Span] | None} and counts of them. `credits` names the parts
    whose spans count: {name: (span_weight, SpanCredit)}.

    Raises ConfigError for an ensemble whose total would never change.
    """

    __name__ = "translategemma"
    max_dead_calls = 10
    asked = "scorer"

    def __init__(
        self,
        parts: Mapping[str, Part],
        language: Language,
        source: Language = ENGLISH,
        guards: str = "on",
        memories: Mapping[str, Any] | None = None,
    ):
        if not any(part.weight for part in parts.values()):
            raise ConfigError("reward: no scorer has a weight in the sequence reward; set one above 0")
        super().__init__()
        self.parts, self.language, self.source, self.guards = dict(parts), language, source, guards
        self.memories = {} if memories is None else memories
        self.credits = {name: (p.span_weight, p.credit) for name, p in self.parts.items() if p.span_weight}
        self.lowest = sum(part.bounds[0] for part in self.parts.values())

    # ------------------------------------------------------------------ scoring

    def score_components(
        self, prompts: Sequence[str] | None, completions: Sequence[str], source: Sequence[str], **_
    ) -> list[dict[str, Any]]:
        """Return one JSON row per completion, in order; spans are [start, end, severity, confidence, category]."""
        rows, _ = self._score(source, completions)
        for row in rows:
            row["spans"] = {
                name: None if spans is None else list(map(list, spans)) for name, spans in row["spans"].items()
            }
        return rows

    def _score(self, sources: Sequence[str], completions: Sequence[str]) -> tuple[list[dict[str, Any]], dict]:
        if len(sources) != len(completions):
            raise ConfigError(f"{len(completions)} completions, but {len(sources)} sources; give one source each")
        start = time.perf_counter()
        texts = read_texts("completions", completions)
        rows = [self._text_row(s, c) for s, c in zip(read_texts("source", sources, "user"), texts, strict=True)]
        times = {"time/guards": time.perf_counter() - start}
        alive = [row for row in rows if row["gate"] is None]
        segments = [Segment(row["source"], row["output"]) for row in alive]
        beside = [name for name, part in self.parts.items() if part.beside]
        # Even without anything to score: every process must call a scorer that they share.
        with ThreadPoolExecutor(max(1, len(beside))) as pool:
            waiting = [pool.submit(self._ask, name, segments, alive, times) for name in beside]
            for name in self.parts:
                if name not in beside:
                    self._ask(name, segments, alive, times)
            for answer in waiting:
                answer.result()
        for row in rows:
            row["total"] = self._total(row)
        return rows, times

    def _text_row(self, source: str, completion: str) -> dict[str, Any]:
        pair = TextPair(source, completion, self.language, self.source)
        return {
            "source": str(pair.clean_source),
            "output": str(pair.clean_output),
            "gate": verdict(pair) if self.guards == "on" else None,
            "foreign_script": 1.0 - script_share(pair.clean_output, self.language),
            "length": length(pair.clean_output),
            "backtranslation": None,
            "spans": {},
            **dict.fromkeys(self.parts),
        }

    def _ask(self, name: str, segments: list[Segment], alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        start = time.perf_counter()
        found = ask(f"reward.{name}", self.parts[name].scorer, segments)
        for row, value, spans in zip(alive, found.values, found.spans, strict=True):
            row[name] = value
            if name in self.credits:
                row["spans"][name] = spans
                if spans is not None:
                    row[f"{name}_errors"] = len(spans)
        times[f"time/{name}"] = time.perf_counter() - start

    def complete(self, row: Mapping[str, Any]) -> bool:
        """Whether a passing row has a total and the spans of every part whose spans count."""
        return row["total"] is not None and all(row["spans"].get(name) is not None for name in self.credits)

    def _total(self, row: dict[str, Any]) -> float | None:
        if row["gate"] is not None:
            return self.lowest - GATED_BELOW
        total = 0.0
        for name, part in self.parts.items():
            if part.weight:
                if row[name] is None:
                    return None
                total += part.worth(row[name])
        return total

    # ------------------------------------------------------------------ what TRL calls

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], source: Sequence[str], **columns
    ) -> list[float | None]:
        """Return one total per completion, None where a score is missing; fill `last_rows` and `last_log`."""
        rows, times = self._score(source, completions)
        work = work_done(rows, ((name, part.scorer, WORK) for name, part in self.parts.items()))
        return self.keep(rows, {**self.summarise(rows), **times, **work}, columns)

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of one call, explained in this recipe's README; {} for an empty batch."""
        if not rows:
            return {}
        passing = [row for row in rows if row["gate"] is None]
        log = {**common_scalars(rows), "reward/foreign_script": mean(r["foreign_script"] for r in passing)}
        totals, groups = [row["total"] for row in rows], [row["source"] for row in rows]
        for name, part in self.parts.items():
            log[f"reward/{name}"] = mean(r[name] for r in passing)
            if part.weight:
                log[f"rank/{name}"] = variance_shares.rank_correlation(
                    totals, [None if r[name] is None else part.worth(r[name]) for r in rows], groups
                )
            if name in self.credits:
                marked = [r["spans"][name] for r in passing if r["spans"].get(name) is not None]
                log[f"spans/{name}"] = mean(len(spans) for spans in marked)
                for severity in SEVERITIES:
                    log[f"spans/{name}/{severity}"] = mean(sum(s.severity == severity for s in m) for m in marked)
                log[f"spans/{name}/missing_share"] = mean(r["spans"].get(name) is None for r in passing)
        worth = {n: [self._worth(n, r) for r in rows] for n, p in self.parts.items() if p.weight}
        log |= {
            f"variance_share/{name}": share for name, share in variance_shares.shares(totals, worth, groups).items()
        }
        return {key: value for key, value in log.items() if value is not None}

    def _worth(self, name: str, row: dict[str, Any]) -> float | None:
        return None if row["gate"] is not None or row["total"] is None else self.parts[name].worth(row[name])

    # ------------------------------------------------------------------ identity and state

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run, as JSON data."""
        return super().state_dict() | {"memories": {name: m.state_dict() for name, m in self.memories.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the result of `state_dict()`."""
        super().load_state_dict(state)
        for name, memory in self.memories.items():
            if name in state["memories"]:
                memory.load_state_dict(state["memories"][name])

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return `identity` (if it changes, rewards are not comparable) and `environment`."""
        identity: dict[str, Any] = {
            "reward": "translategemma/1",
            "languages": [self.source.code, self.language.code],
            "guards": self.guards,
            **(gate_identity(self.language) if self.guards == "on" else {}),
        }
        environment: dict[str, Any] = {}
        for name, part in self.parts.items():
            signature = part.scorer.signature()
            identity[name] = {
                **signature["identity"],
                "weight": part.weight,
                "bounds": list(part.bounds),
                "span_weight": part.span_weight,
                "credit": asdict(part.credit),
            }
            environment[name] = signature["environment"]
        return {"identity": identity, "environment": environment}
