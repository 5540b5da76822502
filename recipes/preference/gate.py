"""Refuse a reward that cannot tell the better answer, or that an empty phrase could win. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recipes.preference.accuracy import accuracy
from recipes.preference.checks import REWARD
from recipes.preference.reward import BUILT_IN, EXACT, PreferenceReward, heuristic, saturation
from rl_nmt.audit.launch_gate import MAX_PAIRS, Cheat, Pair, require_launch
from rl_nmt.errors import RewardRefused
from rl_nmt.results.evaluation import Snapshot

FILLER = "First, because of this. Second, thus that! Third, therefore so? Finally, that is it."
NOISE_ROWS = 32  # pairs for the noise floor
Images = Callable[[dict], list[Any]]  # row → its pictures


def suite(pairs: Sequence[Pair]) -> list[Cheat]:
    """Return two answers to every prompt that answer nothing: the prompt itself, and reasoning words."""
    return [
        Cheat(family, True, i, text)
        for family in ("echo", "filler")
        for i, (prompt, answer) in enumerate(pairs)
        if (text := prompt if family == "echo" else FILLER) != answer
    ]


class Question(str):
    """A prompt that knows its row: other rows may have the same text and another picture."""

    row: dict[str, Any]


def question(row: dict[str, Any]) -> Question:
    found = Question(row["source"])
    found.row = row
    return found


def require_agreement(
    reward: PreferenceReward, before: Snapshot, rows: Sequence[dict], open_images: Images, sampled: bool, seed: int
) -> dict[str, Any]:
    """Print how often the reward prefers the chosen answer, and refuse it where nothing good could be learned.

    Refused are a reward that gives both answers of every pair the same, one that prefers the rejected answers beyond
    noise, and, where answers are sampled, one that an empty phrase wins. Returns the verdict. Raises RewardRefused.
    """
    source, names = reward.settings.source, ("chosen", "rejected")
    found = accuracy(*([row[f"reward_{name}"] for row in before.components] for name in names), seed=seed)
    print(f"launch gate: the reward ({source}) prefers the chosen answer: {found}", flush=True)
    plain = accuracy(
        *([sum(heuristic(row[name], reward.settings).values()) for row in rows] for name in names), seed=seed
    )
    full = saturation(rows, reward.settings)
    told = f"{plain.halves:.3f} with a tie as one half; both answers equal or long enough for the cap: {full:.0%}"
    print(f"the heuristic of length, reasoning words and marks would: {plain}, {told}", flush=True)
    if found.missing == len(rows):
        raise RewardRefused(f"{REWARD}: {source} gives no held-out pair a score for both answers; use label")
    if found.value is None:
        raise RewardRefused(f"{REWARD}: {source} gives both answers of every held-out pair the same; use label")
    if found.high is not None and found.high < 0.5:
        raise RewardRefused(f"{REWARD}: {source} prefers the rejected answers ({found}); change it, or use label")
    verdict = {"passed": True, "reasons": [], "reward_accuracy": found.value}
    if sampled and source not in EXACT:
        pairs = [(question(row), row["chosen"]) for row in rows[:MAX_PAIRS]]  # in the order of their hashes
        try:
            verdict |= require_launch(_Given(reward, open_images), pairs, suite, 1.0, "held-out pairs")
        except RewardRefused as error:
            raise RewardRefused(
                f"{REWARD}: {source}: an answer that says nothing earns as much as a chosen one, and training.sampled "
                "would find it; set training.sampled 0, change the reward, or add --skip_launch_gate"
            ) from error
    return verdict


class _Given:
    """A reward whose sources are `Question`s."""

    def __init__(self, reward: PreferenceReward, open_images: Images):
        self.reward, self.open_images = reward, open_images

    def score_components(self, prompts, completions, source):
        rows = [each.row for each in source]
        columns = {name: [row[name] for row in rows] for name in ("source", "chosen", "rejected")}
        columns["images"] = [self.open_images(row) for row in rows]
        return self.reward.score_components(prompts, completions, **columns)


def noise_floor(reward: PreferenceReward, rows: Sequence[dict], open_images: Images) -> float:
    """Return the reward spread up to which a group is a tie: the jitter of the reward on held-out answers."""
    from rl_nmt.training.setup import measure_jitter

    if reward.settings.source in BUILT_IN:
        return 0.0  # they do not depend on their batch
    few = list(rows[:NOISE_ROWS])
    answers = [row[name] for name in ("chosen", "rejected") for row in few]
    floor = measure_jitter(_Given(reward, open_images), list(map(question, [*few, *few])), answers)
    print(f"noise floor: {floor:.1e}; a group whose rewards spread no more is a tie", flush=True)
    return floor
