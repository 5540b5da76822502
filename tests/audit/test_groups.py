"""Groups of samples: built from rows, and judged as the trainer judges them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.audit.groups import Groups, finite
from rl_nmt.training.trainer import apply_group_rules

totals = st.sampled_from([0.25, 0.5, 0.625, 1.0, None, math.nan, math.inf])
samples = st.tuples(st.sampled_from([None, None, None, "copy"]), totals).map(
    lambda pair: pair if pair[0] is None else (pair[0], 0.0)  # a gated output has exactly 0
)


@given(st.integers(2, 8).flatmap(lambda size: st.lists(st.lists(samples, min_size=size, max_size=size), min_size=1)))
def test_verdicts_are_those_of_the_trainer(drawn):
    floor = 0.125
    groups = Groups(
        [str(i) for i in range(len(drawn))],
        [[""] * len(group) for group in drawn],
        [[total for _, total in group] for group in drawn],
        [[gate for gate, _ in group] for group in drawn],
        floor,
    )
    rewards = [math.nan if total is None else total for group in groups.totals for total in group]
    _, stats = apply_group_rules(torch.tensor(rewards), len(drawn[0]), floor)
    verdicts = groups.verdicts
    assert verdicts.count("missing") / len(groups) == pytest.approx(stats["groups/skipped_share"])
    assert sum(v in ("gated", "tied") for v in verdicts) / len(groups) == pytest.approx(stats["groups/tied_share"])
    for verdict, gates in zip(verdicts, groups.gates, strict=True):
        assert verdict != "gated" or all(gates)
        assert verdict != "tied" or not all(gates)


def test_rows_of_one_source_in_a_row_are_a_group():
    rows = [
        {"source": source, "output": output, "total": total, "gate": gate, "qe": 0.5}
        for source, output, total, gate in (("a", "x", 0.5, None), ("a", "y", 0.0, "copy"), ("b", "z", None, None))
    ]
    groups = Groups.of_rows(rows, 0.01)
    assert groups == Groups(["a", "b"], [["x", "y"], ["z"]], [[0.5, 0.0], [None]], [[None, "copy"], [None]], 0.01)
    assert len(groups) == 2 and groups.verdicts == ["", "missing"]


def test_finite_numbers():
    assert finite([0.5, None, math.nan, math.inf, 0.0]) == [0.5, 0.0]
