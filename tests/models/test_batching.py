"""rl_nmt.models.batching: no row lost or repeated, budgets kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.models.batching import batches, distinct


@pytest.mark.parametrize(
    "items, unique, index",
    [
        ([], [], []),
        (["a"], ["a"], [0]),
        (["b", "a", "b", "", "a"], ["b", "a", ""], [0, 1, 0, 2, 1]),
        ([("s", "t"), ("s", None), ("s", "t")], [("s", "t"), ("s", None)], [0, 1, 0]),
    ],
)
def test_distinct_golden(items, unique, index):
    assert distinct(items) == (unique, index)


@pytest.mark.parametrize(
    "lengths, budget, expected",
    [
        ([], 10, []),
        ([4], 10, [[0]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([1, 7, 3, 7], 14, [[1, 3], [2, 0]]),
        ([50, 2, 2], 10, [[0], [1, 2]]),  # longer than the budget: alone, not dropped
        ([0, 0, 3], 1, [[2], [0, 1]]),
    ],
)
def test_batches_golden(lengths, budget, expected):
    assert batches(lengths, budget) == expected


@given(st.lists(st.integers(0, 60)), st.integers(1, 200))
def test_batches_keep_every_row_and_the_budget(lengths, budget):
    result = batches(lengths, budget)
    flat = [i for batch in result for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    for batch in result:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)


@given(st.lists(st.text(max_size=3)), st.integers(1, 50))
def test_a_round_trip_through_batches_is_the_identity(texts, budget):
    unique, index = distinct(texts)
    order = [i for batch in batches([len(text) for text in unique], budget) for i in batch]
    back = dict(zip(order, [unique[i].upper() for i in order], strict=True))
    assert [back[i] for i in index] == [text.upper() for text in texts]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="token_budget"):
        batches([1], 0)
