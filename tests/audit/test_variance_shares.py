"""rl_nmt.audit.variance_shares against numpy's covariance and scipy's Spearman."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rl_nmt.audit.variance_shares import rank_correlation, shares


def test_shares_are_the_covariance_decomposition():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(5), 8)
    a, b = rng.normal(size=40), 0.3 * rng.normal(size=40)
    offset = groups * 10.0  # differences between groups must not count
    total = a + b + offset
    found = shares(total.tolist(), {"a": (a + offset).tolist(), "b": b.tolist()}, groups.tolist())
    within = [np.cov(a[groups == g], total[groups == g])[0, 1] for g in range(5)]
    variance = [np.var(total[groups == g], ddof=1) for g in range(5)]
    assert found["a"] == pytest.approx(sum(within) / sum(variance), abs=1e-9)
    assert sum(found.values()) == pytest.approx(1) and found["gate"] == pytest.approx(0, abs=1e-9)


def test_effects_of_gates_and_the_clamp_count_as_gate():
    found = shares([0.0, 0.5, 0.5], {"cycle": [None, 0.5, 0.5]}, "ggg")
    assert found == {"cycle": 0.0, "gate": 1.0}


def test_a_term_that_pulls_against_the_total_is_negative():
    found = shares([0.1, 0.3], {"up": [0.0, 0.4], "down": [0.1, -0.1]}, "gg")
    assert found["up"] == pytest.approx(2.0) and found["down"] == pytest.approx(-1.0)


def test_without_spread_there_are_no_shares():
    assert shares([0.4, 0.4, None], {"a": [0.4, 0.4, 0.1]}, "ggg") == {}
    assert shares([], {"a": []}, []) == {}


def test_rank_correlation_is_spearmans_mean_over_groups():
    rng = np.random.default_rng(1)
    totals = rng.integers(0, 5, 24).astype(float)
    values = totals + rng.normal(size=24)
    groups = np.repeat(np.arange(3), 8)
    wanted = np.mean([spearmanr(totals[groups == g], values[groups == g]).statistic for g in range(3)])
    assert rank_correlation(totals.tolist(), values.tolist(), groups.tolist()) == pytest.approx(wanted)


def test_rank_correlation_leaves_out_what_was_not_scored():
    assert rank_correlation([0.0, 0.2, 0.3], [None, 1.0, 2.0], "ggg") == pytest.approx(1.0)
    assert rank_correlation([0.1, 0.2], [1.0, 1.0], "gg") is None
