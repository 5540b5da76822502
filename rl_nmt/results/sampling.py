"""Measure several samples of each prompt: how likely k of them contain a success, and how different they are. No torch.

    threshold = quantile_threshold(scores_of_the_start_model, 0.75)
    row = sample_row(scores, outputs, threshold)    # of one prompt; a metric is the mean of its rows

`SampledEvaluator` adds these to the evaluation of held-out rows, whose outputs are greedy. Every measure is of one
prompt and then averaged, so that outputs of different prompts are never compared.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.results import evaluation
from rl_nmt.results.task import Column, Task, mean, number

KS = (1, 5, 10)
BETTER = {**{f"pass@{k}": 1 for k in KS}, "success": 1, "self_bleu": -1, "distinct_1": 1, "distinct_2": 1}
LABELS = {"self_bleu": "Self-BLEU", "distinct_1": "distinct-1", "distinct_2": "distinct-2"}
SWEEP = (0.25, 0.5, 0.75, 0.9)  # quantiles of the start's scores, as thresholds
Scorer = Callable[[Sequence[str], Sequence[str], Sequence[str | None]], list[float | None]]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that k of n samples, drawn without replacement, contain one of the c successes.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374, eq. 1). Raises ConfigError
    unless 1 <= k <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n:
        raise ConfigError(f"pass@{k}: k must be in [1, {n}], the number of samples; sample more, or lower k")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bleu_against_others(outputs: Sequence[str]) -> list[float]:
    """Return sacreBLEU's sentence BLEU (0 to 100) of each of at least two outputs, the others being its references."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)  # a short output has no 4-grams
    others = ([*outputs[:i], *outputs[i + 1 :]] for i in range(len(outputs)))
    return [bleu.sentence_score(output, rest).score for output, rest in zip(outputs, others, strict=True)]


def self_bleu_of(outputs: Sequence[str]) -> float | None:
    """Return the mean BLEU (0 to 1) of each output against the others: 1 for equal texts; None for fewer than two.

    Name and idea are those of the Texygen benchmark (arXiv 1802.01886).
    """
    if len(outputs) < 2:
        return None
    # An empty output counts as a text of its own: sacreBLEU gives it 0, even against another empty one.
    scores = bleu_against_others([output if output.strip() else "∅" for output in outputs])
    return min(1.0, mean(scores) / 100)  # sacreBLEU's 100 is sometimes 100.00000000000004


def distinct_n(outputs: Sequence[str], n: int) -> float | None:
    """Return distinct word n-grams / all word n-grams of the outputs, in any case; None without any.

    After Li et al. 2016 (arXiv 1510.03055).
    """
    texts = [output.casefold().split() for output in outputs]
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def quantile_threshold(scores: Sequence[float | None], quantile: float) -> float:
    """Return the smallest finite score that a share of at least `quantile`, in (0, 1], is at or below.

    Raises ConfigError without a finite score.
    """
    known = sorted(_finite(scores))
    if not known:
        raise ConfigError("evaluation.quantile: no sample has a score to take it of; give evaluation.threshold")
    return next(score for place, score in enumerate(known, 1) if place / len(known) >= quantile)


def sample_row(
    scores: Sequence[float | None], outputs: Sequence[str], threshold: float, ks: Sequence[int] = KS
) -> dict[str, float | None]:
    """Return the metrics of the samples of one prompt; an output succeeds if its score is at least `threshold`.

    pass@k is None if an output has no finite score; a metric that these outputs do not have is None.
    """
    known = _finite(scores)
    complete, successes = len(known) == len(scores), sum(score >= threshold for score in known)
    passes = {f"pass@{k}": pass_at_k(len(known), successes, k) if complete else None for k in ks}
    distinct = {f"distinct_{n}": distinct_n(outputs, n) for n in (1, 2)}
    return {**passes, "self_bleu": self_bleu_of(outputs), **distinct}


def _finite(scores: Sequence[float | None]) -> list[float]:
    return [float(score) for score in scores if score is not None and math.isfinite(score)]


def columns() -> tuple[Column, ...]:
    """Return the columns of these measures for a Task."""

    def by_row(name: str) -> Callable:
        return lambda snapshot: [row.get(name) for row in snapshot.components]

    return tuple(
        Column(name, LABELS.get(name, ""), better=sign, rows=by_row(name), drawn="sampled")
        for name, sign in BETTER.items()
    )


@dataclass
class SampledEvaluator:
    """Evaluate a model: a greedy output per row, and `samples` sampled ones that a `scorer` outside the reward scores.

    A sample succeeds at `threshold`; None: at the `quantile` of the first evaluation's scores, which sets it.
    """

    rows: list[dict[str, str]]  # {"source", "reference"}
    tokenizer: Any
    make_prompt: Callable[[str], str]
    reward: Any
    task: Task
    scorer: Scorer  # (sources, outputs, references) → scores, None where there is none
    name: str  # of the scorer, for the signature
    sampling: dict[str, Any]  # temperature, top_p
    samples: int = 10
    seed: int = 0
    max_new_tokens: int = 256
    batch_size: int = 16
    threshold: float | None = None
    quantile: float = 0.75
    check: Callable[[list, list], None] = lambda scores, totals: None  # refuses scores that are the reward's totals

    def __call__(self, model) -> evaluation.Snapshot:
        """Return the Snapshot; each row has its samples, their scores, and the measures in `columns`. Collective."""
        from rl_nmt.models.generate import sample_together

        sizes: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "batch_size": self.batch_size}
        snapshot = evaluation.evaluate(
            model, self.tokenizer, self.rows, self.make_prompt, self.reward, self.task, **sizes
        )
        prompts = [self.make_prompt(row["source"]) for row in self.rows]
        sizes |= {**self.sampling, "num_return_sequences": self.samples}
        samples = sample_together(model, self.tokenizer, prompts, self.seed, **sizes)
        for row, found in zip(snapshot.components, self._measured(samples), strict=True):
            row |= found
        snapshot.metrics = evaluation.measure(snapshot, self.task)
        told = "|".join(f"{name}:{value}" for name, value in {**self.sampling, "seed": self.seed}.items())
        snapshot.signature["pass@k"] = f"{self.name} >= {self.threshold:.4g}|n:{self.samples}|{told}"
        return snapshot

    def _measured(self, samples: list[list[str]]) -> list[dict[str, Any]]:
        """Return per row its samples, their scores and rewards, and the measures made from them."""
        flat = [(row, output) for row, outputs in zip(self.rows, samples, strict=True) for output in outputs]
        sources, outputs = [row["source"] for row, _ in flat], [output for _, output in flat]
        scores = self._scored(sources, outputs, [row.get("reference") for row, _ in flat])
        totals = [row["total"] for row in self.reward.score_components(None, outputs, source=sources)]
        self.check(scores, totals)
        self._settle(scores)
        found = []
        for i, texts in enumerate(samples):
            own = slice(i * self.samples, (i + 1) * self.samples)
            row: dict[str, Any] = {"success": mean(scores[own]), "sampled_reward": mean(totals[own])}
            row |= {"samples": texts, "success_scores": scores[own]}
            found.append(row | sample_row(scores[own], texts, self.threshold))
        return found

    def take(self, before: evaluation.Snapshot) -> None:
        """Use the threshold of the evaluation before training, which a resumed run does not repeat."""
        self._settle([score for row in before.components for score in row["success_scores"]])

    def _settle(self, scores: Sequence[float | None]) -> None:
        if self.threshold is not None:
            return
        self.threshold = quantile_threshold(scores, self.quantile)
        if self.threshold <= min(_finite(scores)):
            raise ConfigError(
                f"evaluation.quantile: {self.quantile:g} of the scores of {self.name} is the lowest one, "
                f"{self.threshold:g}, which every sample reaches; give evaluation.threshold"
            )

    def _scored(self, sources: list[str], outputs: list[str], references: list[str | None]) -> list[float | None]:
        """Return the scorer's scores; what is not finite becomes None. Raises ConfigError for unusable ones."""
        try:
            scores = [
                None if score is None else number(float(score)) for score in self.scorer(sources, outputs, references)
            ]
        except (TypeError, ValueError) as error:
            raise self._unusable(f"does not return numbers ({error})") from error
        if len(scores) != len(outputs):
            raise self._unusable(f"returned {len(scores)} scores for {len(outputs)} samples")
        if all(None in scores[i : i + self.samples] for i in range(0, len(scores), self.samples)):
            raise self._unusable("has no row with a score for every sample")
        return scores

    def _unusable(self, what: str) -> ConfigError:
        return ConfigError(f"evaluation.success_scorer: {self.name} {what}; return a number or None for each sample")


def require_reachable(threshold: float, before: evaluation.Snapshot, argument: str) -> None:
    """Raise ConfigError if no sample before training reaches a threshold. `argument`: the setting that gives it."""
    known = _finite([score for row in before.components for score in row["success_scores"]])
    if known and max(known) < threshold:
        highest = f"the highest of the start policy's {len(known)} samples has {max(known):.4g}"
        raise ConfigError(f"{argument}: {threshold:g}: nothing reaches it, {highest}; lower it, or take a quantile")


def sweep(before: evaluation.Snapshot, after: evaluation.Snapshot) -> list[dict[str, Any]]:
    """Return pass@k before and after for other thresholds: quantiles of the scores before training."""
    every = [score for row in before.components for score in row["success_scores"]]
    rows = []
    for quantile in SWEEP:
        row: dict[str, Any] = {"quantile": quantile, "threshold": (limit := quantile_threshold(every, quantile))}
        for name, snapshot in (("before", before), ("after", after)):
            groups = [row["success_scores"] for row in snapshot.components if None not in row["success_scores"]]
            passed = [(len(group), sum(score >= limit for score in group)) for group in groups]
            row[name] = {f"pass@{k}": mean([pass_at_k(n, c, k) for n, c in passed]) for k in KS}
        rows.append(row)
    return rows


def sweep_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the sweep as text."""
    lines = [f"{'threshold':<24}" + "".join(f"{f'pass@{k}':>20}" for k in KS)]
    for row in rows:
        sides = [[number(row[side][f"pass@{k}"]) for side in ("before", "after")] for k in KS]
        cells = (" → ".join("–" if value is None else f"{value:.3f}" for value in pair) for pair in sides)
        limit = f"{row['threshold']:<8.4g}quantile {row['quantile']}"
        lines.append(f"{limit:<24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)
