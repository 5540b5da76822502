"""Name what the results measure, and score sampled replies by something outside the reward: the success scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl_nmt.config import load_callable
from rl_nmt.errors import ConfigError
from rl_nmt.results import sampling
from rl_nmt.results.task import Task

SETTING = "evaluation.success_scorer"
HEURISTIC = "recipes.replies.heuristic"
WHY = "pass@k needs a score that was not trained on"


def likeness(posts: Sequence[str], replies: Sequence[str], references: Sequence[str | None]) -> list[float | None]:
    """Return sacreBLEU's sentence chrF++ (0 to 1) of each reply against the human one; None without one.

    One human reply says little about a single sample: many other replies are good. The best of k samples is compared
    with it, like the BLEU recall of Zhao et al. 2017 (arXiv 1703.10960).
    """
    from sacrebleu.metrics import CHRF

    chrf = CHRF(word_order=2)
    pairs = zip(replies, references, strict=True)
    return [chrf.sentence_score(reply, [reference]).score / 100 if reference else None for reply, reference in pairs]


def load_success_scorer(setting: str, reward: Any = None) -> sampling.Scorer:
    """Import the scorer named "module:name". Raises ConfigError for a bad name and for a part of the training reward.

    Refused are `reward` itself, what recipes.replies.heuristic defines, and instances and methods of their classes.
    """
    found = load_callable(setting, SETTING)
    inner = getattr(found, "func", found)  # of a functools.partial
    parts = [part for part in (found, inner, getattr(inner, "__self__", None)) if part is not None]
    parts += [kind for part in parts for kind in type(part).__mro__ if kind.__module__ != "builtins"]
    if any(part in (reward, type(reward)) or getattr(part, "__module__", "") == HEURISTIC for part in parts):
        raise ConfigError(f"{SETTING}: {setting} is part of the training reward; name another function: {WHY}")
    return found


def require_other(scores: Sequence[float | None], totals: Sequence[float | None]) -> None:
    """Raise ConfigError if the scores equal the reward's totals on all rows that have both, and these rows differ."""
    both = [(s, t) for s, t in zip(scores, totals, strict=True) if s is not None and t is not None]
    if len({t for _, t in both}) > 1 and all(abs(s - t) <= 1e-9 for s, t in both):
        raise ConfigError(f"{SETTING}: its scores equal the training reward on {len(both)} rows; name another: {WHY}")


def task(phase: str) -> Task:
    """Return what the results measure in addition to the reward, and how they name it."""
    sft = {"method": "supervised fine-tuning", "reward": "people's replies; the reward below only measures it"}
    return Task(
        title="replies to posts",
        columns=sampling.columns(),
        headline=("pass@1", "pass@10", "reward", "self_bleu"),
        inputs="posts",
        outputs="replies",
        example="My train was late again, and it rained all the way.",
        settings=("model.name", "grpo.n_generations", "grpo.temperature", "grpo.kl_coeff", "grpo.set_weight", "seed"),
        **(sft if phase == "sft" else {}),
    )
