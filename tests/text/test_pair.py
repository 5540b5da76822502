"""TextPair: the same numbers as by hand, and everything computed once a side."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import HONEST, ODD, SOURCE

from rl_nmt.guards import copied_share, fidelity, verdict
from rl_nmt.text import LANGUAGES, TAMIL, TextPair, tokens, unicode
from rl_nmt.text.languages import ENGLISH
from rl_nmt.text.unicode import clean_for_scoring


def counting(monkeypatch, function) -> Counter:
    """Wrap a function wherever it was imported; the counts of its first arguments."""
    seen: Counter = Counter()

    def wrapped(s, *more):
        seen[str(s)] += 1
        return function(s, *more)

    for module in [m for name, m in sys.modules.items() if name.startswith(("rl_nmt.", "rewards_", "recipes."))]:
        if getattr(module, function.__name__, None) is function:
            monkeypatch.setattr(module, function.__name__, wrapped)
    return seen


@pytest.fixture
def counts(monkeypatch):
    return {f.__name__: counting(monkeypatch, f) for f in (unicode.safe_unicode, tokens.tokenize, tokens.kept)}


def assert_once(counts, source, output):
    assert counts["safe_unicode"] == {source: 1, output: 1}
    assert counts["tokenize"] == {clean_for_scoring(source): 1, clean_for_scoring(output): 1}
    assert counts["kept"].total() == 1


def test_the_rules_clean_and_tokenise_each_side_once(counts):
    source, output = SOURCE + "\n", " \u200b" + HONEST
    pair = TextPair(source, output, TAMIL)
    assert verdict(pair) is None and copied_share(pair) == 0.0 and fidelity(pair) is None
    seen = {name: Counter(found) for name, found in counts.items()}
    assert_once(seen, source, output)


def test_a_passing_row_of_the_reward_costs_one_cleaning_and_one_tokenisation_a_side(counts):
    from rewards_en_ta_dupo import CometDuPOReward, RewardSettings

    source, output = SOURCE + "\n", " \u200b" + HONEST
    reward = object.__new__(CometDuPOReward)  # without its models
    reward.language, reward.settings = TAMIL, RewardSettings()
    row = reward._text_components(source, output)
    seen = {name: Counter(found) for name, found in counts.items()}
    assert row["gate"] is None and row["output"] == HONEST and type(row["output"]) is type(row["source"]) is str
    assert_once(seen, source, output)


def test_nothing_is_done_before_it_is_needed(counts):
    pair = TextPair(SOURCE, "", TAMIL)
    assert not counts["safe_unicode"]
    assert verdict(pair) == "empty" and not counts["tokenize"]


SHORT = {name: text for name, text, _ in ODD if len(text) < 6_000}  # the rules' own tests have the longer ones


@pytest.mark.parametrize("text", SHORT.values(), ids=SHORT)
def test_pair_and_strings_give_the_same(text):
    for rule in (verdict, copied_share, fidelity):
        assert rule(TextPair(SOURCE, text, TAMIL)) == rule(SOURCE, text, TAMIL)
        assert rule(TextPair(text, HONEST, LANGUAGES["ko"], TAMIL)) == rule(text, HONEST, LANGUAGES["ko"], TAMIL)


@given(st.text(), st.text())
def test_the_clean_sides_are_clean_for_scoring(source, output):
    pair = TextPair(source, output, TAMIL)
    assert (pair.clean_source, pair.clean_output) == (clean_for_scoring(source), clean_for_scoring(output))
    assert clean_for_scoring(pair.clean_output) is pair.clean_output
    assert pair.source_language is ENGLISH
