"""measure: chrF++ against the human reply; the training reward is refused as the score of success."""

from __future__ import annotations

import functools
import sys
import types

import pytest

from recipes.replies.measure import HEURISTIC, likeness, load_success_scorer, require_other
from rl_nmt.errors import ConfigError


class Reward:
    """Stands for the training reward."""

    def __call__(self, posts, replies, references):
        return [0.0] * len(posts)

    def score(self, posts, replies, references):
        return self(posts, replies, references)


class Derived(Reward):
    pass


REWARD = Reward()


@pytest.fixture
def scorers(monkeypatch):
    """A module named scorers."""
    made = types.ModuleType("scorers")
    made.good = lambda posts, replies, references: [1.0]
    made.good_partial = functools.partial(made.good)
    made.same, made.another, made.derived = REWARD, Reward(), Derived()
    made.method, made.derived_method = REWARD.score, Derived().score
    made.partial, made.partial_method = functools.partial(REWARD), functools.partial(REWARD.score)
    made.component = lambda posts, replies, references: [1.0]
    made.component.__module__ = HEURISTIC
    made.part = type("Part", (), {"__module__": HEURISTIC, "__call__": lambda *_: [1.0]})()
    made.constant = 3
    monkeypatch.setitem(sys.modules, "scorers", made)
    return made


def test_likeness():
    posts, references = ["p"] * 4, ["It works for me.", "It works for me.", None, ""]
    same, other, *rest = likeness(posts, ["It works for me.", "xyz", "a", "b"], references)
    assert same == pytest.approx(1) and other == 0 and rest == [None, None]
    near, empty = likeness(["p"] * 2, ["It works for you.", ""], references[:2])
    assert 0.5 < near < 1 and empty == 0


def test_likeness_is_chrf_plus_plus():
    from sacrebleu import sentence_chrf

    reply, reference = "Good luck with the exam!", "Good luck, you will pass the exam."
    expected = sentence_chrf(reply, [reference], word_order=2).score / 100
    assert likeness(["p"], [reply], [reference]) == [pytest.approx(expected)]


@pytest.mark.parametrize("name", ["good", "good_partial"])
def test_other_scorers_are_loaded(scorers, name):
    assert load_success_scorer(f"scorers:{name}", REWARD) is getattr(scorers, name)
    assert load_success_scorer(f"scorers:{name}", lambda *_: [0.0]) is getattr(scorers, name)
    assert load_success_scorer("recipes.replies.measure:likeness", REWARD) is likeness


@pytest.mark.parametrize(
    "name",
    "same another derived method derived_method partial partial_method component part".split(),
)
def test_the_training_reward_is_refused(scorers, name):
    with pytest.raises(
        ConfigError, match=rf"evaluation\.success_scorer: scorers:{name} is part of the training reward"
    ):
        load_success_scorer(f"scorers:{name}", REWARD)


def test_a_function_that_is_the_reward_is_refused(scorers):
    with pytest.raises(ConfigError, match="training reward"):
        load_success_scorer("scorers:good", scorers.good)


@pytest.mark.parametrize("name", ["none:f", "scorers:none", "scorers:constant", "no colon"])
def test_a_bad_name(scorers, name):
    with pytest.raises(ConfigError, match=r"evaluation\.success_scorer: "):
        load_success_scorer(name, REWARD)


def test_equal_scores_are_refused():
    totals = [0.1, 0.2, None, 0.3]
    with pytest.raises(ConfigError, match=r"evaluation\.success_scorer: .* 3 rows"):
        require_other([0.1, 0.2 + 1e-10, 0.5, 0.3], totals)
    require_other([0.1, 0.2, None, 0.3 + 1e-8], totals)
    require_other([0.4] * 4, [0.4] * 4)  # a constant says nothing
    require_other([None] * 4, totals)
