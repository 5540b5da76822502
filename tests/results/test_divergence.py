"""divergence: the alarm is raised for a gamed reward and not for noise; best/ is chosen and reported on other rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import ttest_rel

from rl_nmt.results.divergence import DivergenceMonitor, change, choosing_half, self_bleu
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.results.translation import divergence_monitor

SOURCES = [f"Sentence number {i}." for i in range(60)]


def snapshot(reward: float, score: float, seed: int = 0, spread: float = 0.1) -> Snapshot:
    """Rows around the two means; the score rides in the component row."""
    rng = np.random.default_rng(seed)
    rewards = reward + spread * rng.normal(size=len(SOURCES))
    scores = score + spread * rng.normal(size=len(SOURCES))
    rows = [{"total": float(r), "score": float(s)} for r, s in zip(rewards, scores, strict=True)]
    return Snapshot(SOURCES, [None] * len(SOURCES), [""] * len(SOURCES), rows, {})


def made() -> DivergenceMonitor:
    return DivergenceMonitor("judge", lambda s: [row["score"] for row in s.components], SOURCES)


def test_rising_reward_and_falling_score_warn_once():
    monitor = made()
    assert monitor.record(0, snapshot(0.5, 0.5, 0)) is None
    assert monitor.record(10, snapshot(0.6, 0.55, 1)) is None
    warning = monitor.record(20, snapshot(0.7, 0.3, 2))
    assert "WARNING" in warning and "judge" in warning and warning.count("\n") >= 5
    assert monitor.record(30, snapshot(0.8, 0.1, 3)) is None and monitor.warned


def test_it_also_warns_against_the_best_when_the_start_was_bad():
    monitor = made()
    monitor.record(0, snapshot(0.3, 0.2, 0))
    monitor.record(10, snapshot(0.5, 0.7, 1))
    assert monitor.record(20, snapshot(0.8, 0.5, 2))  # still above the start, far below its best


@pytest.mark.parametrize("later", [(0.7, 0.6), (0.4, 0.3), (0.5, 0.5), (0.7, 0.5)])
def test_it_does_not_warn_otherwise(later):
    monitor = made()
    monitor.record(0, snapshot(0.5, 0.5, 0))
    assert monitor.record(10, snapshot(*later, seed=1)) is None


def test_noise_rarely_warns():
    rung = 0
    for seed in range(200):
        monitor = made()
        monitor.record(0, snapshot(0.5, 0.5, 2 * seed))
        rung += monitor.record(10, snapshot(0.5, 0.5, 2 * seed + 1)) is not None
    assert rung <= 2  # reward beyond +2 and score beyond -2 standard errors: about 0.05 % by chance


def test_change_is_the_paired_t_tests():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(0.3, 1, size=30)
    difference, error = change(a.tolist(), b.tolist())
    assert difference / error == pytest.approx(ttest_rel(b, a).statistic)
    assert change([None, 1.0], [1.0, 2.0]) is None


def test_best_is_chosen_on_one_half_and_reported_on_the_other():
    monitor = made()
    for step, (reward, score) in {0: (0.3, 0.4), 10: (0.5, 0.8), 20: (0.9, 0.6)}.items():
        monitor.record(step, snapshot(reward, score, step))
    assert monitor.best_step == 10
    choice = monitor.choice()
    assert (choice["step"], choice["by"], choice["best_by_reward_step"]) == (10, "judge", 20)
    other = [s for s, source in zip(monitor.evaluations[1].scores, SOURCES, strict=True) if not choosing_half(source)]
    assert choice["reported"]["best"] == pytest.approx(np.mean(other))
    assert choice["reported_rows"] == len(other) and 20 < len(other) < 40


def test_without_an_independent_score_the_last_is_kept_with_the_reason():
    monitor = divergence_monitor([{"source": source} for source in SOURCES])
    assert monitor.record(0, snapshot(0.3, 0.4)) is None and monitor.record(10, snapshot(0.9, 0.1)) is None
    assert (
        monitor.choice()["by"] == "last"
        and monitor.choice()["step"] == 10
        and "references" in monitor.choice()["reason"]
    )
    assert monitor.best_step != 10


def test_references_come_before_a_judge_and_a_judge_before_nothing(tiny_comet_qe):
    judge = str(tiny_comet_qe)
    assert divergence_monitor([{"source": "a", "reference": "அ"}], judge).name == "chrF++"
    monitor = divergence_monitor([{"source": "a"}], judge, device="cpu")
    assert monitor.name == tiny_comet_qe.name
    assert all(isinstance(value, float) for value in monitor.independent(snapshot(0.1, 0.1)))


def test_state_goes_through_json_and_a_repeated_evaluation_replaces_its_own():
    monitor, other = made(), made()
    for step, (reward, score) in {0: (0.3, 0.4), 10: (0.5, 0.8), 20: (0.9, 0.3)}.items():
        monitor.record(step, snapshot(reward, score, step))
    other.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert other.choice() == monitor.choice() and other.warned == monitor.warned
    other.record(20, snapshot(0.9, 0.3, 20))
    assert [known.step for known in other.evaluations] == [0, 10, 20]


def test_self_bleu():
    assert self_bleu(["a", "a", "b"], ["x y z w", "x y z w", "lone"]) == pytest.approx(100)
    assert self_bleu(["a", "a"], ["one two three four", "five six seven eight"]) < 20
    assert self_bleu(["a", "b"], ["x", "y"]) is None
