"""Measure a generator on held-out templates: the judge's reward, a score outside it, and the distance to the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from recipes.diffusion.reward import is_function
from rl_nmt import distributed
from rl_nmt.files import finite
from rl_nmt.progress import progress
from rl_nmt.results import evaluation
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.results.task import REWARD, Column, Task, mean
from rl_nmt.text.templates import filled_text
from rl_nmt.text.trigrams import KnownTrigrams
from rl_nmt.training.reward_log import function_scores

if TYPE_CHECKING:
    import torch

OUTSIDE = "outside_measure"
ERROR_ROWS = 64  # templates on which the estimators are compared with the sampler
Score = Callable[[Sequence[str]], list[float | None]]  # texts → scores, higher is better


@dataclass(frozen=True)
class Outside:
    """A score of texts that is not in the reward; `name` is its column."""

    name: str = ""
    score: Score | None = None


def load_outside(wanted: str) -> Outside:
    """Return the score that `outside_measure` names: a table of trigrams.py, or module:name. Raises ConfigError."""
    if not wanted:
        return Outside()
    if not is_function(wanted):
        return Outside("known_trigrams", KnownTrigrams.load(wanted, OUTSIDE))
    ask = partial(function_scores, wanted, OUTSIDE)
    name = f"outside_{wanted.rpartition(':')[2]}"  # no name of another column
    return Outside(name, lambda texts: ask(len(texts), lambda function: function(list(texts))))


def task(outside: str = "") -> Task:
    """What the results measure in addition to the reward; `outside`: the name of the score outside it, if any."""

    def by_row(name: str) -> Callable[[Snapshot], list[float | None]]:
        return lambda snapshot: [row.get(name) for row in snapshot.components]

    columns = [Column(outside, better=1, rows=by_row(outside), drawn="sampled")] if outside else []
    nats = Column("kl_fill", "KL to start, nats/fill", 2, value=lambda s: mean(by_row("kl_fill")(s)), drawn="sampled")
    return Task(
        "filling masks",
        (*columns, nats),
        headline=(REWARD.name, outside) if outside else (REWARD.name,),
        hidden=("length",),
        inputs="templates",
        outputs="fills",
        reward="a frozen judge as its reward",
        drawn="sampled",
        pipeline="fill-mask",
        example="The [MASK:12] is here.",
        settings=("estimator", "denoising_steps", "order", "temperature", "group_size", "kl_coef", "learning_rate"),
    )


@dataclass
class DiffusionEvaluator:
    """Fill each held-out template once, always with the same random numbers, and score the fills."""

    rows: list[dict[str, Any]]  # of data.py
    tokenizer: Any
    reward: Any
    outside: Outside
    sampler: dict[str, Any]  # keywords of `unmasking.fill`: steps, order, top_p, temperature
    seed: int = 0
    batch_size: int = 64
    banned: list[int] = field(default_factory=list)

    @property
    def decoding(self) -> str:
        """How fills are sampled, for signatures."""
        drawn = self.sampler | {"seed": self.seed, "batch": self.batch_size}  # rows of a batch share random numbers
        return "|".join(["sampled", *(f"{name}:{value}" for name, value in drawn.items())])

    def __call__(self, model, reference=None) -> Snapshot:
        """Return the Snapshot; its rows have the score outside the reward and "kl_fill". Collective.

        kl_fill: log p(fill) under the model less that under `reference` (None: the model is the start, 0), both exact
        in the order of the fill; its mean over samples of the model is the KL divergence of fills with their order, in
        nats.
        """
        starts = range(0, len(self.rows), self.batch_size)[distributed.rank() :: distributed.count()]
        own, training = [], model.training
        model.eval()
        with progress("held-out fills", len(self.rows), "templates") as bar:
            for start in starts:
                rows = self.rows[start : start + self.batch_size]
                own.append((start, self._filled(model, reference, rows, start)))
                bar.update(min(len(self.rows) - bar.n, len(rows) * distributed.count()))
        model.train(training)
        found = [row for _, batch in sorted(distributed.gathered(own), key=lambda part: part[0]) for row in batch]
        sources = [row["source"] for row in self.rows]
        outputs = [filled_text(ids, self.tokenizer) for ids, _ in found]
        components = evaluation.score_together(self.reward, sources, outputs, sources)
        scores = self.outside.score(outputs) if self.outside.score else [None] * len(outputs)
        for row, (_, kl), score in zip(components, found, scores, strict=True):
            row |= {"kl_fill": kl} | ({self.outside.name: score} if self.outside.name else {})
        references = [row.get("reference") for row in self.rows]
        snapshot = Snapshot(sources, references, outputs, finite(components), {})
        snapshot.metrics = evaluation.measure(snapshot, task(self.outside.name))
        snapshot.signature = evaluation.measured_by(self.reward, self.decoding)
        return snapshot

    def _filled(self, model, reference, rows: list[dict], start: int) -> list[tuple[list[int], float]]:
        """Return ids and kl of each row's fill; random numbers depend only on the seed and the batch's place."""
        import torch

        from rl_nmt.models.unmasking import fill, log_probs

        ids, fixed = self._batch(rows, model.device)
        generator = torch.Generator(model.device).manual_seed(self.seed + start)
        done = fill(model, ids, **fixed, **self.sampler, generator=generator)
        kl = torch.zeros(len(rows))
        if reference is not None:
            fixed["temperature"] = self.sampler["temperature"]
            with torch.no_grad():
                ours, theirs = (log_probs(m, done.ids, done.step_map, **fixed)[0].sum(1) for m in (model, reference))
            kl = (ours - theirs).cpu()
        lengths = [len(row["ids"]) for row in rows]
        return [(row[:n], k) for row, n, k in zip(done.ids.tolist(), lengths, kl.tolist(), strict=True)]

    def errors(self, model) -> dict[str, tuple[float, float]]:
        """Return per estimator the mean and largest of `unmasking.differences`, on at most ERROR_ROWS templates."""
        import torch

        from rl_nmt.models.unmasking import differences

        templates, options = self._batch(self.rows[: min(ERROR_ROWS, self.batch_size)], model.device)
        options["generator"] = torch.Generator(model.device).manual_seed(self.seed)
        found = differences(model, templates, **options, **self.sampler)
        return {name: (each.mean().item(), each.abs().max().item()) for name, each in found.items()}

    def _batch(self, rows: list[dict], device) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the templates of rows, (B, L), and what filling and scoring them take alike."""
        from rl_nmt.models.masked_diffusion import to_batch

        ids, seen = to_batch(self.tokenizer, [row["ids"] for row in rows], device).values()
        return ids, {"mask_id": self.tokenizer.mask_token_id, "banned": self.banned, "attention_mask": seen}


def told_errors(errors: dict[str, tuple[float, float]], chosen: str, sampler: dict[str, Any]) -> str:
    """Return the estimators' errors as one line for the screen."""
    parts = [f"{name} {average:+.2g} on average, {most:.2g} at most" for name, (average, most) in errors.items()]
    line = f"estimator {chosen}; log p of a fill less the sampler's own, in nats: {'; '.join(parts)}"
    if sampler["order"] == "confidence":
        line += "; with order confidence the choice of places is part of the policy, and no estimator counts it"
    return line
