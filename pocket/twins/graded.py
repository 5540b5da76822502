"""Outputs with their known errors: what the twins are fitted on, and what they are checked with."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pocket import corruptions, grammar, models, scorers
from pocket.fitting import train
from pocket.grammar import Pair
from pocket.twins.damage import Error, find_errors, points
from train_grpo_en_ta import make_prompt

TEMPERATURES = (1.2, 0.8)  # of the start policy; the second is what the pocket runs train with
LATER = 0.7  # of the policy as it may become


@dataclass(frozen=True)
class Graded:
    """One output: source, output, reference, its errors, and its sentence chrF++ in [0, 1]."""

    src: str
    mt: str
    ref: str
    errors: tuple[Error, ...]
    quality: float


def grade(pairs: Sequence[Pair], outputs: Sequence[str]) -> list[Graded]:
    """The outputs with errors and quality against the Tamil of their pairs."""
    quality = models.chrf(list(outputs), [pair.tamil for pair in pairs])
    return [
        Graded(pair.english, text, pair.tamil, tuple(find_errors(pair.english, text, pair.tamil)), value)
        for pair, text, value in zip(pairs, outputs, quality, strict=True)
    ]


def fitting_rows(world: Path, pairs: Sequence[Pair], seed: int, sizes) -> list[Graded]:
    """Samples of the start policy and of a better one, and half as many damaged references."""
    rng = random.Random(seed + 11)
    torch.manual_seed(seed + 11)
    policy, tokenizer = models.load_policy(world / "policy")
    better = improved(policy, tokenizer, pairs, rng, sizes.better_steps)
    chosen, outputs = [], []
    for model, temperature in (*((policy, temperature) for temperature in TEMPERATURES), (better, LATER)):
        asked = rng.sample(pairs, sizes.sampled_prompts)
        prompts = [make_prompt(p.english) for p in asked]
        texts = models.sample(model, tokenizer, prompts, sizes.samples_each, temperature)
        for pair, group in zip(asked, texts, strict=True):
            chosen += [pair] * len(group)
            outputs += group
    for pair in rng.choices(pairs, k=len(outputs) // 2):
        chosen.append(pair)
        outputs.append(damaged(pair, rng))
    kept = [(pair, text) for pair, text in zip(chosen, outputs, strict=True) if text]
    return grade([pair for pair, _ in kept], [text for _, text in kept])


def improved(policy, tokenizer, pairs: Sequence[Pair], rng: random.Random, steps: int):
    """A copy of the policy after `steps` of a more careful teacher: what reinforcement learning may make of it."""
    model = copy.deepcopy(policy)

    def loss() -> torch.Tensor:
        batch = rng.sample(pairs, min(64, len(pairs)))
        answers = [corruptions.careless(pair, rng, 0.2) for pair in batch]
        return models.sft_loss(model, tokenizer, [make_prompt(pair.english) for pair in batch], answers)

    train(model, loss, steps, 0.01, what="a better policy")
    return model


def damaged(pair: Pair, rng: random.Random) -> str:
    """The Tamil of a pair, damaged in one of the ways of pocket/corruptions.py: lightly more often than heavily."""
    ways: tuple[tuple[Callable, int], ...] = (
        (corruptions.corrupt, 5),
        (corruptions.careless, 3),
        (scorers.stuttering, 1),
        (scorers.unrelated, 1),
    )
    (way,) = rng.choices([way for way, _ in ways], [share for _, share in ways])
    return way(pair, rng, rng.random() ** 2 if way is corruptions.corrupt else rng.random())


def heldout_samples(world: Path, seed: int, sizes, prompts: int = 64, group: int = 8) -> list[Graded]:
    """Samples of the start policy for held-out sources, `group` of each source together."""
    pairs = list(islice(grammar.pairs(seed + 5, part="heldout", max_words=sizes.max_words), prompts))
    policy, tokenizer = models.load_policy(world / "policy")
    torch.manual_seed(seed + 5)
    texts = models.sample(
        policy, tokenizer, [make_prompt(p.english) for p in pairs], group, scorers.SAMPLING_TEMPERATURE
    )
    return grade([pair for pair in pairs for _ in range(group)], [text for samples in texts for text in samples])


def check_points(rows: Sequence[Graded], group: int) -> dict:
    """What the known errors themselves would reach against chrF++, and how many there are in an output."""
    lost, quality = np.array([points(row.errors) for row in rows]), np.array([row.quality for row in rows])
    return scorers.correlations(-lost, quality, group) | {
        "points": float(lost.mean()),
        "errors": float(np.mean([len(row.errors) for row in rows])),
        "chrf": float(100 * quality.mean()),
    }
