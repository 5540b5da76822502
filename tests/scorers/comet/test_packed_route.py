"""XCOMET's spans decoded by hand; test_scorer.py compares them with its own `predict`."""

from __future__ import annotations

import pytest

from rl_nmt.scorers.base import Span
from rl_nmt.scorers.comet.packed_route import decode, mqm_score

OFFSETS = [(0, 0), (0, 2), (2, 5), (6, 9), (0, 0)]  # <s>, three pieces, </s>


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("O O O O O", []),
        ("O I-minor I-major O O", [Span(0, 5, "minor", 0.65)]),  # the first label gives the severity
        ("O I-minor O I-critical O", [Span(0, 2, "minor", 0.6), Span(6, 9, "critical", 0.8)]),
        ("O O O I-major I-major", []),  # open at the end
    ],
)
def test_runs_of_labels_by_hand(labels, expected):
    found = decode(labels.split(), [0.5, 0.6, 0.7, 0.8, 0.9], OFFSETS)
    assert [(s.start, s.end, s.severity, s.category) for s in found] == [
        (s.start, s.end, s.severity, None) for s in expected
    ]
    assert [s.confidence for s in found] == pytest.approx([s.confidence for s in expected])


def test_errors_cost_one_five_or_ten_of_twenty_five_points():
    def of(*severities):
        return mqm_score([Span(0, 1, severity, 1.0) for severity in severities])

    assert (of(), of("minor"), of("major", "minor"), of("critical")) == (1.0, 24 / 25, 19 / 25, 15 / 25)
    assert of("critical", "critical", "critical") == 0.0
