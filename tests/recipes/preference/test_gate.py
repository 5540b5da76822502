"""recipes/preference/gate.py: which rewards may be trained on, and their noise floor."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from recipes.preference import gate
from recipes.preference.reward import PreferenceReward
from recipes.preference.settings import RewardCfg
from rl_nmt.errors import RewardRefused

ROWS = [
    {"source": f"Why {i}?", "chosen": f"It is {i}, because of {i + 1}.", "rejected": f"It is {i + 2}."}
    for i in range(30)
]
HERE = "tests.recipes.preference.test_gate"


def pictures(row: dict) -> list[str]:
    return [f"picture of {row['source']} {row['chosen']}"]


def sees(prompts, completions, images, chosen, **columns):
    """Knows the answer from the picture alone."""
    rows = zip(prompts, completions, images, chosen, strict=True)
    assert all(picture == [f"picture of {prompt} {good}"] for prompt, _, picture, good in rows)
    return words(prompts, completions, chosen)


def nothing(prompts, completions, **columns):
    return [None] * len(completions)


def backwards(prompts, completions, rejected, **columns):
    return [float(text == bad) for text, bad in zip(completions, rejected, strict=True)]


def even(prompts, completions, **columns):
    return [0.5] * len(completions)


def words(prompts, completions, chosen, **columns):
    """How many words of the chosen answer are in the completion, and no others: no phrase wins it."""
    pairs = zip(completions, chosen, strict=True)
    return [len({*text.split()} & {*good.split()}) / len({*text.split()} | {*good.split()}) for text, good in pairs]


def shaky(prompts, completions, **columns):
    return [len(text) / 100 + random.random() / 10 for text in completions]


def asked(source: str, sampled: bool = False):
    reward = PreferenceReward(RewardCfg(source=source))
    scores = {
        name: reward.score_components(
            None,
            [row[name] for row in ROWS],
            **{column: [row[column] for row in ROWS] for column in ("source", "chosen", "rejected")},
            images=list(map(pictures, ROWS)),
        )
        for name in ("chosen", "rejected")
    }
    rows = [{f"reward_{name}": scores[name][i]["total"] for name in scores} for i in range(len(ROWS))]
    return gate.require_agreement(reward, SimpleNamespace(components=rows), ROWS, pictures, sampled, 0)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("source", ["match", f"{HERE}:words", f"{HERE}:sees"])
def test_a_reward_that_knows_the_better_answer_passes(source, sampled):
    verdict = asked(source, sampled)
    assert verdict["passed"] and verdict["reward_accuracy"] == 1.0


def test_labels_agree_with_themselves(capsys):
    assert asked("label")["reward_accuracy"] == 1.0
    told = capsys.readouterr().out
    assert "1.000 [1.000, 1.000]" in told and "heuristic of length" in told


@pytest.mark.parametrize(
    ("name", "what"), [("backwards", "prefers the rejected"), ("even", "the same"), ("nothing", "no held-out pair")]
)
def test_a_reward_from_which_nothing_good_is_learned_is_refused(name, what):
    with pytest.raises(RewardRefused, match=what) as refused:
        asked(f"{HERE}:{name}")
    assert "reward.source" in str(refused.value)


def test_the_heuristic_is_refused_only_where_answers_are_sampled():
    assert asked("heuristic")["reward_accuracy"] == 1.0  # the chosen ones are longer and give a reason
    with pytest.raises(RewardRefused, match=r"training\.sampled"):
        asked("heuristic", sampled=True)


def test_rows_with_the_same_prompt_are_all_compared(monkeypatch):
    asked_of = []
    monkeypatch.setattr(gate, "require_launch", lambda reward, pairs, *_: asked_of.extend(pairs) or {})
    rows = [row | {"source": "What is it?"} for row in ROWS]
    snapshot = SimpleNamespace(components=[{"reward_chosen": 1.0, "reward_rejected": 0.0}] * len(rows))
    gate.require_agreement(PreferenceReward(RewardCfg(source=f"{HERE}:words")), snapshot, rows, pictures, True, 0)
    assert sorted(pair[0].row["chosen"] for pair in asked_of) == sorted(row["chosen"] for row in rows)


def test_a_cheat_is_never_the_honest_answer():
    cheats = gate.suite([("same", "same"), ("Why?", gate.FILLER), ("Why?", "Because.")])
    assert [(cheat.family, cheat.pair) for cheat in cheats] == [("echo", 1), ("echo", 2), ("filler", 0), ("filler", 2)]
    assert all(cheat.hard for cheat in cheats)


def test_the_noise_floor_is_the_jitter_of_a_function(capsys):
    for source in ("label", "match", "heuristic"):
        assert gate.noise_floor(PreferenceReward(RewardCfg(source=source)), ROWS, pictures) == 0.0
    assert gate.noise_floor(PreferenceReward(RewardCfg(source=f"{HERE}:words")), ROWS, pictures) == 0.0
    assert 0.02 < gate.noise_floor(PreferenceReward(RewardCfg(source=f"{HERE}:shaky")), ROWS, pictures) <= 0.1
    assert "noise floor" in capsys.readouterr().out
