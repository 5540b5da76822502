"""recipes/preference/measure.py: which pictures are exchanged."""

from __future__ import annotations

from collections import Counter

from recipes.preference.measure import PairEvaluator, other_images
from recipes.preference.reward import PreferenceReward
from recipes.preference.settings import RewardCfg


def rows(*counts: int) -> list[dict]:
    return [{"images": [f"{i}-{k}.png" for k in range(count)]} for i, count in enumerate(counts)]


def test_every_picture_goes_to_another_row_with_as_many():
    found = rows(1, 0, 2, 1, 1, 2, 0, 1, 2)
    others = other_images(found, 0)
    for row, other in zip(found, others, strict=True):
        assert (other is None) == (not row["images"])
        assert other is None or (len(other) == len(row["images"]) and other != row["images"])
    used = Counter(name for other in others for name in other or [])
    assert used == Counter(name for row in found for name in row["images"])  # each once
    assert others == other_images(found, 0) != other_images(found, 1)


def test_what_cannot_be_exchanged_has_none():
    assert other_images(rows(1, 2, 0), 0) == [None, None, None]  # no other row has as many
    same = [{"images": ["a.png"]}, {"images": ["a.png"]}]
    assert other_images(same, 0) == [None, None]


class Counting(PreferenceReward):
    calls = 0

    def score_components(self, *args, **columns):
        self.calls += 1
        return super().score_components(*args, **columns)


def test_the_given_answers_are_scored_once_and_the_models_own_each_time():
    reward = Counting(RewardCfg(source="match"))
    found = [{"source": "Which?", "chosen": f"It is {i}.", "rejected": "None.", "images": []} for i in range(3)]
    evaluate = PairEvaluator(found, None, reward, lambda row: [], 0.1)
    for answers, totals in ((["It is 1.", "x"], [1.0, 0.0]), (["x", "It is 2."], [0.0, 1.0])):
        rows = evaluate._scored([1, 2], [[], []], answers)
        assert [row["total"] for row in rows] == totals
        assert [(row["reward_chosen"], row["reward_rejected"]) for row in rows] == [(1.0, 0.0)] * 2
    assert reward.calls == 3 + 1
