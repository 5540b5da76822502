"""Measure a model on held-out pairs: log-probabilities of both answers, the same with other pictures, its own answer.

Rows of the Snapshot have, in addition to the reward of the model's greedy answer, what accuracy.py reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipes.preference import mathvista
from recipes.preference.accuracy import implicit_margins, task
from recipes.preference.reward import PreferenceReward
from recipes.preference.trainer import CHOSEN, REJECTED
from rl_nmt import distributed
from rl_nmt.files import finite
from rl_nmt.models.generate import generate
from rl_nmt.models.multimodal import Chat, Prompt, answer_log_probs
from rl_nmt.progress import progress
from rl_nmt.results import evaluation
from rl_nmt.text.unicode import safe_unicode

Row = dict[str, Any]


def other_images(rows: Sequence[Row], seed: int) -> list[list[str] | None]:
    """Return for each row the images of another one with as many, each used once; None for rows without images.

    A row whose partner has the same images has None, too: nothing would be exchanged.
    """
    found: list[list[str] | None] = [None] * len(rows)
    rng = random.Random(seed)
    for count in {len(row["images"]) for row in rows} - {0}:
        there = [i for i, row in enumerate(rows) if len(row["images"]) == count]
        rng.shuffle(there)
        for i, other in zip(there, [*there[1:], *there[:1]], strict=True):
            if rows[other]["images"] != rows[i]["images"]:
                found[i] = rows[other]["images"]
    return found


@dataclass
class PairEvaluator:
    """Evaluate a model on held-out pairs. The first Snapshot, or the one given to `take`, is the reference's."""

    rows: list[Row]
    chat: Chat
    reward: PreferenceReward
    open_images: Callable[[Row], list[Any]]
    beta: float  # of the implicit reward, β · log-ratio
    max_new_tokens: int = 256
    batch_size: int = 16
    shuffled: list[list[str] | None] = field(default_factory=list)  # of `other_images`; empty: not measured
    reference: list[Row] | None = None
    given: dict[int, Row] = field(default_factory=dict)  # place → rewards of its two answers, which no training changes

    def take(self, before: evaluation.Snapshot) -> None:
        """Use the log-probabilities of the evaluation before training, which a resumed run does not repeat."""
        self.reference = before.components

    def __call__(self, model) -> evaluation.Snapshot:
        """Return the Snapshot. Collective: the batches are divided among the processes."""
        starts = range(0, len(self.rows), self.batch_size)[distributed.rank() :: distributed.count()]
        own = []
        with progress("held-out pairs", len(self.rows), "pairs") as bar:
            for start in starts:
                places = range(start, min(start + self.batch_size, len(self.rows)))
                own += zip(places, self._measured(model, places), strict=True)
                bar.update(len(places) * distributed.count())
        found = [row for _, row in sorted(distributed.gathered(own), key=lambda placed: placed[0])]
        if self.reference is None:
            self.reference = found
        for row, start in zip(found, self.reference, strict=True):
            self._compare(row, start)
        sources, answers = [row["source"] for row in self.rows], [row.pop("answer") for row in found]
        snapshot = evaluation.Snapshot(sources, [row[CHOSEN] for row in self.rows], answers, finite(found), {})
        snapshot.metrics = evaluation.measure(snapshot, task())
        snapshot.signature = evaluation.measured_by(self.reward, self.max_new_tokens)
        return snapshot

    def _measured(self, model, places: Sequence[int]) -> list[Row]:
        rows = [self.rows[i] for i in places]
        opened = [self.open_images(row) for row in rows]
        prompts = [self.chat.prompt(row["source"], images) for row, images in zip(rows, opened, strict=True)]
        found = self._log_probs(model, prompts, rows, "")
        if other := [(k, self.shuffled[i]) for k, i in enumerate(places) if self.shuffled and self.shuffled[i]]:
            swapped = [rows[k] | {"images": images} for k, images in other]
            others = [self.chat.prompt(row["source"], self.open_images(row)) for row in swapped]
            for (k, _), values in zip(other, self._log_probs(model, others, swapped, "_shuffled"), strict=True):
                found[k] |= values

        answers = greedy_answers(model, self.chat, prompts, self.max_new_tokens)
        scored = self._scored(places, opened, answers)
        for values, row, answer, scores in zip(found, rows, answers, scored, strict=True):
            values |= scores | {"answer": answer, "images": row["images"]}
            values["correct"] = float(answer.strip() == row[CHOSEN].strip())
        return found

    def _log_probs(self, model, prompts: list[Prompt], rows: list[Row], suffix: str) -> list[Row]:
        sides = {
            name: answer_log_probs(model, self.chat, prompts, [self.chat.answer(row[name]) for row in rows])
            for name in (CHOSEN, REJECTED)
        }
        return [{f"logp_{name}{suffix}": sides[name][k] for name in sides} for k in range(len(rows))]

    def _scored(self, places: Sequence[int], images: list[list[Any]], answers: list[str]) -> list[Row]:
        """Return the reward's rows of the answers, with the rewards of the given answers."""
        rows = [self.rows[i] for i in places]
        columns: dict[str, list] = {name: [row[name] for row in rows] for name in ("source", CHOSEN, REJECTED)}
        columns["images"] = images
        found = self.reward.score_components(None, answers, **columns)
        if places[0] not in self.given:
            for name in (CHOSEN, REJECTED):
                scores = self.reward.score_components(None, columns[name], **columns, slot=[name] * len(rows))
                for i, score in zip(places, scores, strict=True):
                    self.given.setdefault(i, {})[f"reward_{name}"] = score["total"]
        return [row | self.given[i] for i, row in zip(places, found, strict=True)]

    def _compare(self, row: Row, start: Row) -> None:
        """Add the reference's log-probabilities and the margins."""
        for suffix in ("", "_shuffled"):
            names = [f"logp_{name}{suffix}" for name in (CHOSEN, REJECTED)]
            if names[0] not in row or names[0] not in start:
                continue
            own, reference = [[row[name]] for name in names], [[start[name]] for name in names]
            row[f"margin{suffix}"] = implicit_margins(*own, *reference, self.beta)[0]
            if not suffix:
                row |= {f"ref_{name}": value[0] for name, value in zip(names, reference, strict=True)}


def greedy_answers(model, chat: Chat, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
    """Return the model's greedy answer to each prompt, all in one batch."""

    def inputs(batch: list[int]) -> dict[str, Any]:
        return chat.batch([prompts[k].ids for k in batch], [prompts[k].pixels for k in batch], model)

    sizes: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": len(prompts)}
    found = generate(model, chat.tokenizer, [prompt.ids for prompt in prompts], **sizes, inputs=inputs)
    return [safe_unicode(texts[0]) for texts in found]


@dataclass
class Benchmark:
    """Answer the questions of mathvista.py greedily and score the answers strictly."""

    rows: list[Row]
    chat: Chat
    open_images: Callable[[Row], list[Any]]
    max_new_tokens: int
    batch_size: int

    def __call__(self, model) -> dict[str, dict[str, float]]:
        """Return n and share of right answers of all questions and of each kind, with a 95 % interval."""
        scores: dict[str, list[float]] = {"all": []}
        with progress("benchmark", len(self.rows), "questions") as bar:
            for start in range(0, len(self.rows), self.batch_size):
                rows = self.rows[start : start + self.batch_size]
                prompts = [self.chat.prompt(row["source"], self.open_images(row)) for row in rows]
                answers = greedy_answers(model, self.chat, prompts, self.max_new_tokens)
                for row, answer in zip(rows, answers, strict=True):
                    for kind in ("all", mathvista.kind_of(row)):
                        scores.setdefault(kind, []).append(mathvista.score_answer(answer, row))
                bar.update(len(rows))
        return {kind: mathvista.share(found) for kind, found in scores.items()}
