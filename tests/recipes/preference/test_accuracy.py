"""Accuracies of pairs: wins, losses, ties and missing values by hand; invariances; columns and summary."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.preference.accuracy import (
    Accuracy,
    accuracy,
    as_dict,
    columns,
    implicit_margins,
    outcome,
    summary,
    task,
    with_halves,
)
from rl_nmt.results.evaluation import Snapshot, compare, measure, print_table
from rl_nmt.results.task import Task

TASK = Task("pairs", columns())
VALUES = st.one_of(st.none(), st.floats(-10, 10), st.sampled_from([0.0, 1.0]))
PAIRS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


def counts(found: Accuracy) -> tuple[int, int, int, int]:
    return found.wins, found.losses, found.ties, found.missing


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        (2.0, 1.0, 1.0),
        (-3, -2, 0.0),
        (1.0, 1.0, 0.5),
        (1.0, 1.0 + 9e-7, 0.5),
        (1.0, 1.0 + 2e-6, 0.0),
        (None, 1.0, None),
        (1.0, None, None),
        (math.nan, 1.0, None),
        (math.inf, math.inf, None),
        (np.float32(2), np.float32(1), 1.0),
    ],
)
def test_outcomes(chosen, rejected, expected):
    assert outcome(chosen, rejected) == expected


def test_counts_and_value():
    found = accuracy([3, 2, 1, 1, None, 5], [1, 1, 1, 2, 0, math.nan])
    assert counts(found) == (2, 1, 1, 2) and found.value == pytest.approx(2 / 3)
    assert accuracy([1.0, 3.0], [1.5, 1.0], tolerance=1.0) == accuracy([0.0, 3.0], [0.0, 1.0])
    assert accuracy([1.0], [1.5], tolerance=0.5).ties == 1


def test_without_a_win_or_loss_there_is_no_value():
    for chosen, rejected, expected in (([], [], (0, 0, 0, 0)), ([1.0, None], [1.0, 2.0], (0, 0, 1, 1))):
        found = accuracy(chosen, rejected)
        assert counts(found) == expected and (found.value, found.low, found.high) == (None, None, None)
    assert str(found) == "– (1 ties)" and str(accuracy([], [])) == "–"


def test_lengths_must_be_equal():
    with pytest.raises(ValueError):
        accuracy([1.0], [])


def test_the_interval():
    found = accuracy([1.0] * 80 + [0.0] * 20, [0.5] * 100)
    assert found.value == 0.8 and 0.70 <= found.low <= 0.74 and 0.86 <= found.high <= 0.90  # ± 1.96 · 0.04
    assert found == accuracy([1.0] * 80 + [0.0] * 20, [0.5] * 100, seed=0)
    assert found != accuracy([1.0] * 80 + [0.0] * 20, [0.5] * 100, seed=1)
    certain = accuracy([1.0] * 9, [0.0] * 9)
    assert (certain.low, certain.value, certain.high) == (1.0, 1.0, 1.0)
    ties = accuracy([1.0, 0.0] * 3 + [5.0] * 60, [0.5, 0.5] * 3 + [5.0] * 60)
    assert ties.value == 0.5 and ties.low < 0.2 and ties.high > 0.8 and not math.isnan(ties.low)
    assert str(certain) == "1.000 [1.000, 1.000]"


@given(PAIRS)
def test_every_pair_is_counted_once(pairs):
    found = accuracy([a for a, _ in pairs], [b for _, b in pairs])
    assert sum(counts(found)) == len(pairs)
    if found.value is not None:
        assert 0.0 <= found.low <= found.high <= 1.0


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_exchanged_sides_exchange_wins(pairs, order):
    chosen, rejected = [a for a, _ in pairs], [b for _, b in pairs]
    found, exchanged = accuracy(chosen, rejected), accuracy(rejected, chosen)
    assert counts(exchanged) == (found.losses, found.wins, found.ties, found.missing)
    mixed = order.sample(pairs, len(pairs))
    assert counts(accuracy([a for a, _ in mixed], [b for _, b in mixed])) == counts(found)
    if found.value is not None:
        assert exchanged.value == pytest.approx(1 - found.value)
        assert exchanged.low == pytest.approx(1 - found.high) and exchanged.high == pytest.approx(1 - found.low)


def test_margins():
    margins = implicit_margins([-10.0, -5.0, None], [-12.0, -5.0, -1.0], [-11.0, -5.0, -1.0], [-11.0, -5.0, -1.0], 0.1)
    assert margins == [pytest.approx(0.2), 0.0, None]
    assert implicit_margins([-1.0], [-1.0], [-2.0], [None], 0.1) == [None]


@given(st.lists(st.tuples(*[st.floats(-500, 0)] * 4), max_size=5), st.floats(0.01, 1))
def test_exchanged_answers_negate_the_margins(rows, beta):
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = zip(*rows, strict=True) if rows else [()] * 4
    margins = implicit_margins(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta)
    exchanged = implicit_margins(policy_rejected, policy_chosen, reference_rejected, reference_chosen, beta)
    assert exchanged == [pytest.approx(-margin) for margin in margins]
    assert implicit_margins(policy_chosen, policy_rejected, policy_chosen, policy_rejected, beta) == [0.0] * len(rows)


# ---------------------------------------------------------------------- columns


def snapshot(margins, shuffled=(), logp=-8.0):
    rows = []
    for i, margin in enumerate(margins):
        row = {"total": 1.0, "gate": None, "reward_chosen": float(i % 2), "reward_rejected": 0.5, "margin": margin}
        row |= {"logp_chosen": logp, "logp_rejected": logp - 1.0, "correct": float(i == 0)}
        rows.append(row | ({"margin_shuffled": shuffled[i]} if shuffled else {}))
    texts = [str(i) for i in range(len(rows))]
    made = Snapshot(texts, [None] * len(rows), texts, rows, {}, {"reward": {}, "decoding": "greedy"})
    made.metrics = measure(made, TASK)
    return made


def test_columns():
    metrics = snapshot([0.5, -0.5, 0.25, 0.0], [0.1, -0.1, 0.0, 0.0]).metrics
    assert metrics["reward_accuracy"] == 0.5 and metrics["reward_ties"] == 0.0
    assert metrics["implicit_accuracy"] == pytest.approx(2 / 3) and metrics["implicit_ties"] == 0.25
    assert metrics["implicit_accuracy_shuffled"] == 0.5 and metrics["implicit_ties_shuffled"] == 0.5
    assert metrics["logp_chosen"] == -8.0 and metrics["logp_rejected"] == -9.0 and metrics["correct"] == 0.25


def test_what_is_not_measured_has_no_column():
    metrics = snapshot([0.0, 0.0]).metrics
    assert "implicit_accuracy" not in metrics and metrics["implicit_ties"] == 1.0
    assert "implicit_accuracy_shuffled" not in metrics and "implicit_ties_shuffled" not in metrics


def test_before_and_after():
    rng = random.Random(0)
    shuffled = [rng.choice([-0.1, 0.1]) for _ in range(40)]
    before = snapshot([0.0] * 40, [0.0] * 40)
    after = snapshot([0.4] * 38 + [-0.2] * 2, shuffled, logp=-4.0)
    table = print_table(compare(before, after, TASK), TASK)
    assert "implicit accuracy                –     0.950" in table and "logp chosen" in table
    line = summary(before, after)
    parts = line.split("; ")
    assert "\n" not in line and parts[2].startswith("reward accuracy 0.500 [0.") and len(parts) == 3
    assert parts[0].startswith("implicit accuracy – (40 ties) → 0.950 [0.8") and parts[0].endswith("1.000]")
    assert parts[1].startswith("implicit accuracy shuffled – (40 ties) → 0.")
    assert len(summary(snapshot([0.0] * 40), snapshot([0.1] * 40)).split("; ")) == 2


def test_wins_and_p_values_are_of_pairs_decided_on_both_sides():
    before, after = snapshot([0.1] * 10 + [-0.1] * 10), snapshot([0.1] * 20)
    found = compare(before, after, TASK)
    assert found["wins"]["implicit_accuracy"] == 10 and found["losses"]["implicit_accuracy"] == 0
    assert found["p_value"]["implicit_accuracy"] < 0.01
    assert found["wins"]["reward_accuracy"] == 0 and found["ties"]["reward_accuracy"] == 20


def test_ties_as_halves():
    assert accuracy([1, 1, 1, None], [1, 1, 0, 0]).halves == pytest.approx(2 / 3)
    assert accuracy([1, 1], [1, 1]).halves == 0.5 and accuracy([None], [1]).halves is None


def test_what_the_monitor_and_the_file_get():
    before, after = snapshot([0.0, 0.0, 0.0]), snapshot([1.0, -1.0, 2.0])
    assert with_halves(before) == [0.5, 0.5, 0.5] and with_halves(after) == [1.0, 0.0, 1.0]
    found = as_dict(before, after)["implicit_accuracy"]
    assert found["before"]["value"] is None and found["before"]["ties"] == 3
    assert found["after"]["value"] == pytest.approx(2 / 3) and found["after"]["low"] == 0.0
    assert "implicit_accuracy_shuffled" not in as_dict(before, after)


def test_the_task_says_how_it_was_trained_and_hides_what_is_no_metric():
    assert (task("dpo").method, task().method) == ("DPO", "GRPO")
    assert (task().pipeline, task(images=False).pipeline) == ("image-text-to-text", "text-generation")
    found = measure(snapshot([1.0]), task())
    assert "margin" in found and not {"reward_chosen", "ref_logp_chosen"} & found.keys()
