"""Measure held-out replies: one greedy reply per post, and several sampled ones for pass@k and diversity.

A sampled reply succeeds if the success scorer, which is not the reward, gives it at least the threshold. pass@k is the
unbiased estimate of Chen et al. 2021 (arXiv 2107.03374) per post; Self-BLEU (arXiv 1802.01886) and distinct-n
(arXiv 1510.03055) are computed per post too, then averaged, so that replies to different posts are never compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rl_nmt.results.sampling import pass_at_k, quantile_threshold, sample_row

from recipes.replies.measure import require_other
from recipes.replies.settings import RepliesCfg
from rl_nmt.errors import ConfigError
from rl_nmt.results import evaluation
from rl_nmt.results.task import Column, Task, mean

KS = (1, 5, 10)
SWEEP = (0.25, 0.5, 0.75, 0.9)  # quantiles of the start's scores, as thresholds


def task(phase: str) -> Task:
    """Return what the results measure in addition to the reward, and how they name it."""

    def by_row(name: str) -> Callable:
        return lambda snapshot: [row.get(name) for row in snapshot.components]

    better = {**{f"pass@{k}": 1 for k in KS}, "success": 1, "self_bleu": -1, "distinct_1": 1, "distinct_2": 1}
    sft = {"method": "supervised fine-tuning", "reward": "people's replies; the reward below only measures it"}
    return Task(
        title="replies to posts",
        columns=tuple(Column(name, better=sign, rows=by_row(name)) for name, sign in better.items()),
        headline=("pass@1", "pass@10", "reward", "self_bleu"),
        inputs="posts",
        outputs="replies",
        example="My train was late again, and it rained all the way.",
        settings=("model.name", "grpo.n_generations", "grpo.temperature", "grpo.kl_coeff", "grpo.set_weight", "seed"),
        **(sft if phase == "sft" else {}),
    )


@dataclass
class Evaluator:
    """Evaluate a model: see the module. `threshold` is set by the first evaluation unless the settings give it."""

    cfg: RepliesCfg
    phase: str
    tokenizer: Any
    rows: list[dict[str, str]]  # {"source", "reference"}
    make_prompt: Callable[[str], str]
    reward: Any
    success: Callable[[Sequence[str], Sequence[str], Sequence[str | None]], list[float | None]]
    threshold: float | None = None

    def __call__(self, model) -> evaluation.Snapshot:
        """Return the Snapshot; each row has the samples' scores and the columns of `task`. Collective."""
        from rl_nmt.models.generate import sample_together

        told, own = self.cfg.grpo, self.cfg.evaluation
        sizes: dict[str, Any] = {"max_new_tokens": told.max_new_tokens, "batch_size": own.batch_size}
        columns, posts = task(self.phase), [row["source"] for row in self.rows]
        snapshot = evaluation.evaluate(
            model, self.tokenizer, self.rows, self.make_prompt, self.reward, columns, **sizes
        )
        sampling = {"temperature": told.temperature, "top_p": told.top_p, "num_return_sequences": own.samples}
        prompts = [self.make_prompt(post) for post in posts]
        samples = sample_together(model, self.tokenizer, prompts, self.cfg.seed, **sizes, **sampling)
        for row, found in zip(snapshot.components, self._rows(samples), strict=True):
            row |= found
        snapshot.metrics = evaluation.measure(snapshot, columns)
        sampled = f"n:{own.samples}|temperature:{told.temperature}|top_p:{told.top_p}|seed:{self.cfg.seed}"
        snapshot.signature["pass@k"] = f"{own.success_scorer} >= {self.threshold:.4g}|{sampled}"
        return snapshot

    def _rows(self, samples: list[list[str]]) -> list[dict[str, Any]]:
        """Return per post its replies, their scores and rewards, and the columns made from them."""
        flat = [(row, reply) for row, replies in zip(self.rows, samples, strict=True) for reply in replies]
        posts, replies = [row["source"] for row, _ in flat], [reply for _, reply in flat]
        scores = self.success(posts, replies, [row.get("reference") for row, _ in flat])
        totals = [row["total"] for row in self.reward.score_components(None, replies, source=posts)]
        require_other(scores, totals)
        if self.threshold is None:
            self.threshold = choose_threshold(self.cfg, scores)
        found, n = [], self.cfg.evaluation.samples
        for i, texts in enumerate(samples):
            own, rewards = scores[i * n : (i + 1) * n], totals[i * n : (i + 1) * n]
            row = {"success": mean(own), "sampled_reward": mean(rewards), "samples": texts, "success_scores": own}
            found.append(row | sample_row(own, texts, self.threshold, KS))
        return found

    def take(self, before: evaluation.Snapshot) -> None:
        """Use the threshold of the evaluation before training, which a resumed run does not repeat."""
        scores = [score for row in before.components for score in row["success_scores"]]
        self.threshold = choose_threshold(self.cfg, scores)


def choose_threshold(cfg: RepliesCfg, scores: Sequence[float | None]) -> float:
    """Return the score from which a reply succeeds. Raises ConfigError for one that no reply reaches."""
    wanted, known = cfg.evaluation.threshold, [score for score in scores if score is not None]
    if not wanted:
        return quantile_threshold(scores, cfg.evaluation.quantile)
    if known and max(known) < wanted:
        raise ConfigError(
            f"evaluation.threshold: {wanted}: no reply of the start policy reaches it, the highest score is "
            f"{max(known):.4g}; lower it, or use evaluation.quantile"
        )
    return wanted


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


def sweep_table(rows: list[dict[str, Any]]) -> str:
    """Return the sweep as text."""
    names = [f"pass@{k}" for k in KS]
    lines = [f"{'threshold':<24}" + "".join(f"{name:>20}" for name in names)]
    for row in rows:
        pairs = [f"{row['before'][name]:.3f} → {row['after'][name]:.3f}" for name in names]
        lines.append(
            f"{row['threshold']:<8.4g}{'quantile ' + str(row['quantile']):<16}" + "".join(f"{p:>20}" for p in pairs)
        )
    return "\n".join(lines)
