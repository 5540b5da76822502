"""Agreement with human scores: by hand, and against the plain definitions."""

from __future__ import annotations

import doctest
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.guards import agreement
from rl_nmt.guards.agreement import measure, oriented, table


def test_examples_run():
    assert doctest.testmod(agreement).failed == 0


def test_by_hand():
    # one source; pairs (1,2): human 1<2; score orders 2 of 3 pairs alike; tau = (2 - 1) / 3
    found = measure([0.1, 0.3, 0.2], [1.0, 2.0, 3.0], ["a"] * 3)
    assert (found.n, found.pairs, found.ties) == (3, 3, 0)
    assert found.accuracy == pytest.approx(2 / 3) and found.kendall == pytest.approx(1 / 3)
    assert found.spearman == pytest.approx(0.5)  # 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert found.pearson == pytest.approx(0.5)  # equally spaced both ways: the same as the ranks


def test_only_pairs_of_one_source_with_different_human_scores_count_and_ties_count_half():
    found = measure([0.5, 0.5, 0.9, 0.1], [1, 2, 2, 2], ["a", "a", "b", "b"])
    assert (found.pairs, found.ties, found.accuracy) == (1, 1, 0.5)
    assert measure([1, 2, 3], [1, 2, 3], ["a", "b", "c"]).accuracy is None


def test_kendall_by_hand():
    def kendall(a, b):
        return measure(a, b, ["a"] * len(a)).kendall

    assert kendall([1, 2, 3], [1, 2, 3]) == 1.0 and kendall([1, 2, 3], [3, 2, 1]) == -1.0
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)  # 5 pairs agree, 1 does not
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / (2 * 3) ** 0.5)  # tau-b: one tie on the left
    assert kendall([1, 1, 1], [1, 2, 3]) is None and kendall([], []) is None and kendall([1], [1]) is None


def test_pairwise_accuracy_by_hand():
    sources = ["a", "a", "a", "b", "b", "c"]
    scores = [1, 2, 2, 5, 6, 9]
    merits = [0.1, 0.3, 0.1, 0.9, 0.2, 0.0]
    # pairs: a1-a2 right, a1-a3 tied, b1-b2 wrong; a2-a3 has equal scores and c is alone
    found = measure(merits, scores, sources)
    assert (found.accuracy, found.pairs, found.ties) == (0.5, 3, 1)
    assert (measure([1, 2], [1, 2], ["a", "b"]).accuracy, measure([1, 2], [1, 2], ["a", "b"]).pairs) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_negating_a_merit_turns_the_accuracy(rows):
    sources, merits, scores = zip(*rows, strict=True) if rows else ((), (), ())
    found = measure(merits, scores, sources)
    turned = measure([-m for m in merits], scores, sources)
    assert found.pairs == 0 or found.accuracy + turned.accuracy == pytest.approx(1.0)


def test_missing_values_and_constants():
    found = measure([None, 0.2, 0.3, 0.4], [1, None, 2, 3], ["a"] * 4)
    assert (found.n, found.pearson, found.pairs, found.accuracy) == (2, None, 1, 1.0)
    constant = measure([0.5] * 5, [1, 2, 3, 4, 5], ["a"] * 5)
    assert (constant.pearson, constant.spearman, constant.kendall) == (None, None, None)
    assert (constant.ties, constant.accuracy) == (10, 0.5)


def test_random_scores_against_the_definitions():
    rng = random.Random(0)
    scores = [rng.choice([0.1, 0.2, 0.3, 0.4]) for _ in range(40)]
    human = [score + rng.choice([0, 0, 0.5]) for score in scores]
    sources = [rng.randrange(6) for _ in scores]
    found = measure(scores, human, sources)
    # Kendall's tau-b and Pearson's r, written out
    both = itertools.combinations(zip(scores, human, strict=True), 2)
    signs = [((a > b) - (a < b), (x > y) - (x < y)) for (a, x), (b, y) in both]
    tau = sum(s * t for s, t in signs) / math.sqrt(sum(s != 0 for s, _ in signs) * sum(t != 0 for _, t in signs))
    mean, other = sum(scores) / 40, sum(human) / 40
    r = sum((s - mean) * (h - other) for s, h in zip(scores, human, strict=True)) / math.sqrt(
        sum((s - mean) ** 2 for s in scores) * sum((h - other) ** 2 for h in human)
    )
    assert found.kendall == pytest.approx(tau) and found.pearson == pytest.approx(r)
    assert 0 < found.ties < found.pairs and 0.5 < found.accuracy < 1


def test_penalties_are_negated():
    assert oriented("foreign_script", 0.25) == oriented("copied_share", 0.25) == -0.25
    assert oriented("qe", 0.25) == 0.25
    assert [oriented("qe", value) for value in (None, True, "x", math.nan, math.inf, [1])] == [None] * 6


def test_table_has_what_varies():
    rows = [{"qe": v, "length_penalty": 1 - v, "gate": None, "same": 1.0, "text": "x"} for v in (0.1, 0.2, 0.3)]
    found = table(rows, [1, 2, 3], ["a"] * 3, {"total": [3.0, 2.0, 1.0]})
    assert list(found) == ["qe", "length_penalty", "total"]
    assert [found[name].kendall for name in found] == pytest.approx([1, 1, -1])
    shown = agreement.as_text(found, "mqm").splitlines()
    assert "against mqm" in shown[0]
    assert shown[3].split() == ["total", "3", "-1.000", "-1.000", "-1.000", "0.000", "3", "0"]
