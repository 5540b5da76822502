"""sampling: pass@k against all subsets, self-BLEU, distinct n-grams, the threshold, the row of one prompt."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

from rl_nmt.errors import ConfigError
from rl_nmt.results import sampling
from rl_nmt.results.sampling import distinct_n, pass_at_k, quantile_threshold, sample_row, self_bleu_of
from rl_nmt.results.task import Task


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_success(n):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [0, -1, 5])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(ConfigError, match=rf"pass@{k}: .*\[1, 4\]"):
        pass_at_k(4, 1, k)


def test_self_bleu_of():
    texts = ["one two three four", "five six seven eight"]
    assert self_bleu_of(texts[:1] * 3) == 1.0 and self_bleu_of(texts) == 0.0
    assert self_bleu_of(texts[:1]) is None and self_bleu_of([]) is None
    assert self_bleu_of(["ok", "ok"]) == 1.0 and self_bleu_of(["", " "]) == 1.0
    assert self_bleu_of(["", "ok"]) == 0.0


def test_self_bleu_falls_as_samples_differ_more():
    same, other = "I hope you feel better very soon", "The bus was late again this morning"
    halves = "I hope you feel late again today"
    values = [self_bleu_of([same] * 3), self_bleu_of([same, same, halves]), self_bleu_of([same, halves, other])]
    assert values == sorted(values, reverse=True) and len(set(values)) == 3


def test_distinct_n():
    assert distinct_n(["a b a", "A c"], 1) == 3 / 5
    assert distinct_n(["a b a", "b a"], 2) == 2 / 3  # no pair across two outputs
    assert distinct_n(["a b", "c d"], 2) == 1.0
    assert distinct_n(["a", ""], 2) is None and distinct_n([], 1) is None


@pytest.mark.parametrize("quantile", [0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("scores", [[3.0], [1.0, 2.0, 3.0, 4.0], [0.5] * 5 + [0.7] * 5, list(np.linspace(0, 1, 30))])
def test_quantile_threshold_by_definition(scores, quantile):
    found = quantile_threshold(scores, quantile)
    share = {score: sum(other <= score for other in scores) / len(scores) for score in scores}
    assert found == min(score for score in scores if share[score] >= quantile)


def test_quantile_threshold_needs_scores():
    assert quantile_threshold([None, math.nan, math.inf, 2.0, 1.0], 0.5) == 1.0
    with pytest.raises(ConfigError, match=r"evaluation\.quantile: "):
        quantile_threshold([None, math.nan], 0.5)


def test_sample_row():
    outputs = ["a b"] * 5 + ["c d"] * 5
    row = sample_row([0.2] * 8 + [0.5, 0.9], outputs, 0.5)
    assert list(row) == ["pass@1", "pass@5", "pass@10", "self_bleu", "distinct_1", "distinct_2"]
    assert row["pass@1"] == pytest.approx(0.2) and row["pass@10"] == 1.0
    assert row["pass@5"] == pytest.approx(1 - math.comb(8, 5) / math.comb(10, 5))
    assert row["self_bleu"] == 1.0 and row["distinct_1"] == 0.2 and row["distinct_2"] == 0.2


def test_sample_row_with_a_missing_score():
    for missing in (None, math.nan):
        row = sample_row([1.0, missing], ["a", "b"], 0.5, ks=(1, 2))
        assert row["pass@1"] is row["pass@2"] is row["distinct_2"] is None
        assert row["self_bleu"] == 0.0 and row["distinct_1"] == 1.0
    with pytest.raises(ConfigError, match="pass@5"):
        sample_row([1.0, 0.0], ["a", "b"], 0.5)


def test_a_sweep_with_rows_that_have_no_score():
    def snapshot(*groups):
        return SimpleNamespace(components=[{"success_scores": list(group)} for group in groups])

    before, after = snapshot([0.1] * 9 + [0.9], [None] * 10), snapshot([None] * 10, [0.5] * 9 + [None])
    rows = sampling.sweep(before, after)
    assert rows[-1]["before"]["pass@10"] == 1.0 and rows[0]["after"]["pass@1"] is None
    assert "1.000 → –" in sampling.sweep_table(rows)


def evaluator(scorer, **options):
    task = Task("t", sampling.columns())
    rows = [{"source": "a"}, {"source": "b"}]
    reward = SimpleNamespace(score_components=lambda prompts, outputs, source: [{"total": 0.5}] * len(outputs))
    return sampling.SampledEvaluator(rows, None, str, reward, task, scorer, "mine:scorer", {}, 10, **options)


@pytest.mark.parametrize(
    ("scorer", "named"),
    [
        (lambda s, o, r: [0.0] * 19, "success_scorer: mine:scorer returned 19 scores for 20"),
        (lambda s, o, r: ["good"] * 20, "success_scorer: mine:scorer does not return numbers"),
        (lambda s, o, r: [None] * 20, "success_scorer: mine:scorer has no row"),
        (
            lambda s, o, r: [0.0] * 16 + [1.0] * 4,
            r"evaluation\.threshold",
        ),  # all would pass
    ],
)
def test_scores_that_measure_nothing(scorer, named):
    with pytest.raises(ConfigError, match=named):
        evaluator(scorer)._measured([["x"] * 10] * 2)


def test_a_negative_score_may_succeed():
    made = evaluator(lambda s, o, r: [-3.0] * 15 + [-1.0] * 5, threshold=-2.0)
    rows = made._measured([["x"] * 10, ["y"] * 10])
    assert [row["pass@1"] for row in rows] == [0.0, 0.5]
