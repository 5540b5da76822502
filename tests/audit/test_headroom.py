"""Headroom: best of N against every subset, verdicts and their reasons on planted numbers, the file it is kept in."""

from __future__ import annotations

import doctest
import itertools
import json
import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.audit import headroom
from rl_nmt.audit.groups import Groups
from rl_nmt.audit.headroom import Headroom, best_of, interval, no_difference
from rl_nmt.errors import ConfigError, RewardRefused

PROMPTS, SIZE = 20, 4


def test_examples_run():
    assert doctest.testmod(headroom).failed == 0


# --- the best of N -------------------------------------------------------------------------------------


def every_subset(n: int, by: list[float], values: list[float]) -> float:
    """The mean over all subsets of n samples of the mean value of those that are best in it."""
    found = []
    for subset in itertools.combinations(range(len(by)), n):
        best = max(by[i] for i in subset)
        found.append(statistics.fmean(values[i] for i in subset if by[i] == best))
    return statistics.fmean(found)


group = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75]), st.floats(-9, 9)), min_size=1, max_size=7)


@given(group, st.integers(1, 7))
def test_the_best_of_n_against_every_subset(rows, n):
    by, values = map(list, zip(*rows, strict=True))
    (found,) = best_of(n, np.array([by]), np.array([values]))
    assert found == pytest.approx(every_subset(min(n, len(by)), by, values), abs=1e-9)


def test_samples_without_a_score_are_left_out_and_groups_with_too_few():
    nan = math.nan
    by = np.array([[0.1, nan, 0.3, 0.2], [0.1, 0.4, 0.3, 0.2], [0.1, nan, nan, 0.2]])
    values = np.array([[1.0, 9.0, 3.0, 2.0], [1.0, nan, 3.0, 2.0], [1.0, 9.0, 9.0, 2.0]])
    assert best_of(1, by, values)[:2] == pytest.approx([2.0, 2.0])
    assert best_of(2, by, values)[:2] == pytest.approx([8 / 3, 8 / 3])  # of 1,2,3: pairs' bests are 2, 3, 3
    assert best_of(4, by, values)[:2] == pytest.approx([3.0, 3.0])  # three are known
    assert np.isnan(best_of(2, by, values)[2])


def test_the_interval_is_the_bootstraps():
    values = [1.0] * 70 + [0.0] * 30
    rng = random.Random(0)
    draws = sorted(statistics.fmean(rng.choices(values, k=100)) for _ in range(2000))
    low, high = interval(np.array(values))
    assert low == pytest.approx(draws[50], abs=0.025) and high == pytest.approx(draws[1949], abs=0.025)
    assert interval(np.array(values), np.full(100, 2.0)) == pytest.approx((low / 2, high / 2))
    assert interval(np.ones(9)) == (None, None)


# --- planted cases -------------------------------------------------------------------------------------


def planted(total, outside=lambda quality: 60 * quality, name="chrF++", gate=lambda i: None, text=None, **changes):
    """PROMPTS groups of SIZE samples of known quality; `total` and `outside` map quality to scores."""
    rng = random.Random(0)
    quality = [[rng.random() for _ in range(SIZE)] for _ in range(PROMPTS)]
    outputs = [[text or f"{i} {j}" for j in range(SIZE)] for i in range(PROMPTS)]
    gates = [[gate(i) for _ in range(SIZE)] for i in range(PROMPTS)]
    totals = [[0.0 if g else total(q) for q, g in zip(*pair, strict=True)] for pair in zip(quality, gates, strict=True)]
    groups = Groups([f"source {i}" for i in range(PROMPTS)], outputs, totals, gates, 1e-6)
    scores = [[outside(q) for q in row] for row in quality]
    parts = {"greedy": [total(0.5)] * PROMPTS, "greedy_outside": [outside(0.5)] * PROMPTS, "outside": scores}
    return Headroom(**{"groups": groups, **parts, "name": name, "identity": {"temperature": 0.7}, **changes})


def reason(report: Headroom) -> str:
    """The setting that the only reason names."""
    (only,) = report.reasons
    with pytest.raises(RewardRefused, match="--skip_headroom_gate") as refused:
        report.require_passed()
    assert refused.value.exit_code == 3 and only in str(refused.value)
    return only.split(":")[0]


def test_an_honest_reward_passes_and_its_numbers_are_those_of_the_samples():
    report = planted(lambda quality: quality)
    assert (report.reasons, report.warnings) == ([], [])
    report.require_passed()
    lines = report.lines()
    assert list(lines) == [
        "greedy",
        "mean of samples",
        "best of 2 by the reward",
        "best of 4 by the reward",
        "oracle: best of 4 by chrF++",
    ]
    totals = report.groups.totals
    assert lines["mean of samples"][0].mean == pytest.approx(statistics.fmean(map(statistics.fmean, totals)))
    reward, outside = lines["best of 4 by the reward"]
    best, mean = statistics.fmean(map(max, totals)), statistics.fmean(map(statistics.fmean, totals))
    assert (reward.mean, reward.gain, reward.prompts) == (pytest.approx(best), pytest.approx(best - mean), PROMPTS)
    assert outside.mean == pytest.approx(60 * best) and 0 < outside.low < outside.gain < outside.high
    assert lines["oracle: best of 4 by chrF++"] == (reward, outside)  # the same order
    assert report.agreement()["accuracy"] == 1.0
    assert report.shares() == {
        "idle_share": 0.0,
        "tied_share": 0.0,
        "gated_share": 0.0,
        "missing_share": 0.0,
        "same_text_share": 0.0,
        "passing_share": 1.0,
    }
    gains = [60 * (0.5 - statistics.fmean(row)) for row in totals]
    assert lines["greedy"][1].gain == pytest.approx(statistics.fmean(gains))


def test_no_output_passes():
    report = planted(lambda quality: quality, gate=lambda i: "script" if i else "copy")
    assert reason(report) == "model_id" and "script 95%, copy 5%" in report.reasons[0]
    assert report.shares()["gated_share"] == 1.0 and report.shares()["passing_share"] == 0.0


def test_most_groups_are_gated():
    assert reason(planted(lambda quality: quality, gate=lambda i: "script" if i else None)) == "model_id"


def test_a_constant_reward():
    report = planted(lambda quality: 0.5)
    assert reason(report) == "reward" and "20 of 20" in report.reasons[0]
    assert report.agreement()["accuracy"] == 0.5 and report.shares()["tied_share"] == 1.0


def test_one_text_in_a_group():
    report = planted(lambda quality: 0.5, text="நன்றி.")
    assert reason(report) == "temperature" and "0.7" in report.reasons[0]
    assert report.shares()["same_text_share"] == 1.0
    gated = planted(lambda quality: 0.5, text="நன்றி.", gate=lambda i: "copy" if i < 12 else None)
    assert reason(gated) == "temperature"  # other samples might pass


def test_scores_that_are_missing():
    assert reason(planted(lambda quality: None)) == "reward"
    assert "scorers" in no_difference(planted(lambda quality: None).groups)


@pytest.mark.parametrize(("idle", "refused"), [(18, False), (19, True)])
def test_ninety_per_cent_of_the_groups_may_have_no_difference(idle, refused):
    report = planted(lambda quality: quality, gate=lambda i: "script" if i < idle else None)
    assert bool(report.reasons) == refused and report.shares()["idle_share"] == idle / PROMPTS


@pytest.mark.parametrize("count", [1, 9, 10])
def test_a_few_idle_groups_are_only_warned_of_while_an_output_passes(count):
    """Of `count` prompts all are tied; then no output passes."""
    tied, gated = planted(lambda quality: 0.5), planted(lambda quality: 0.5, gate=lambda i: "script")
    for report in (tied, gated):
        report.groups = Groups(*([*part[:count]] for part in list(vars(report.groups).values())[:4]))
        report.greedy, report.greedy_outside = report.greedy[:count], report.greedy_outside[:count]
        report.outside = report.outside[:count]
    if count < 10:
        assert tied.reasons == []
        assert f"reward: {count} of {count} groups" in tied.warnings[0] and "too few to refuse" in tied.warnings[0]
    else:
        assert reason(tied) == "reward" and not any("refuse" in warning for warning in tied.warnings)
    assert reason(gated) == "model_id"


def test_a_reward_that_points_the_wrong_way():
    report = planted(lambda quality: 1 - quality)
    assert reason(report) == "reward" and "worse" in report.reasons[0]
    assert report.agreement()["accuracy"] == 0.0
    assert planted(lambda quality: 1 - quality, name="", outside=lambda quality: None).reasons == []


def test_a_reward_without_information_is_warned_of():
    rng = random.Random(1)
    report = planted(lambda quality: rng.random())
    assert report.reasons == [] and len(report.warnings) == 1 and "not better" in report.warnings[0]


def test_without_an_outside_score_the_direction_is_not_checked():
    report = planted(lambda quality: quality, name="", outside=lambda quality: None)
    (warning,) = report.warnings
    assert report.reasons == [] and "eval_file" in warning and "independent_scorer" in warning
    assert report.agreement()["accuracy"] is None and not any("oracle" in label for label in report.lines())
    assert "chrF++" not in report.table() and "None" not in report.table()


def test_few_prompts_have_no_interval_and_no_verdict_on_the_direction():
    report = planted(lambda quality: 1 - quality)
    report = Headroom(
        Groups(*([*part[:9]] for part in list(vars(report.groups).values())[:4])),
        report.greedy[:9],
        report.greedy_outside[:9],
        report.outside[:9],
        "chrF++",
        {},
    )
    assert report.reasons == [] and "too few" in report.warnings[0]
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["lines"]["greedy"]["outside"]["low"] is None


def test_rows_without_a_reference_and_samples_without_a_score_do_not_count():
    report = planted(lambda quality: quality)
    report.outside[0] = [None] * SIZE
    report.greedy_outside[1] = None
    report.groups.totals[2][3] = None
    lines = report.lines()
    assert [gain.prompts for gain in lines["mean of samples"]] == [20, 19]
    assert [gain.prompts for gain in lines["greedy"]] == [20, 18]
    assert lines["best of 4 by the reward"][0].prompts == 20
    kept = [max(row) for row in report.outside[3:]] + [max(report.outside[1]), max(report.outside[2][:3])]
    assert lines["best of 4 by the reward"][1].mean == pytest.approx(statistics.fmean(kept))


# --- table and file ------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_and_says_what_it_means():
    text = planted(lambda quality: quality).table()
    head, *lines = text.splitlines()
    assert head.split()[:5] == ["20", "prompts", "×", "4", "samples"] and "reward" in head and "chrF++" in head
    for label in planted(lambda quality: quality).lines():
        assert sum(line.startswith(label) for line in lines) == 1
    assert "in reward" in lines[-2] and "95%" in lines[-1] and max(map(len, text.splitlines())) <= 120
    assert all(line == line.rstrip() for line in lines)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    report = planted(lambda quality: quality, gate=lambda i: "script" if i == 3 else None)
    report.outside[4][0] = None
    report.save(tmp_path / "headroom.json")
    again = Headroom.load(tmp_path / "headroom.json")
    assert again == report and again.as_dict() == report.as_dict()
    stored = json.loads((tmp_path / "headroom.json").read_text(encoding="utf-8"))
    assert stored["report"] == json.loads(json.dumps(report.as_dict()))


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"report": {}, "groups": {}}', '{"report": 1, "groups": []}']
)
def test_a_damaged_file_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "headroom.json").write_text(content)
    with pytest.raises(ConfigError, match=r"headroom\.json"):
        Headroom.load(tmp_path / "headroom.json")


def cut(stored, *keys):
    """Remove the last entry of a list in a saved report."""
    for key in keys:
        stored = stored[key]
    stored.pop()


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: stored["groups"].update({key: [] for key in ("sources", "outputs", "totals", "gates")}),
        lambda stored: stored["groups"].update(outputs=[[]] * 20, totals=[[]] * 20, gates=[[]] * 20),
        lambda stored: cut(stored, "groups", "sources"),
        lambda stored: cut(stored, "groups", "outputs"),
        lambda stored: cut(stored, "groups", "outputs", 3),
        lambda stored: cut(stored, "groups", "totals"),
        lambda stored: cut(stored, "groups", "totals", 3),
        lambda stored: cut(stored, "groups", "gates"),
        lambda stored: cut(stored, "groups", "gates", 3),
        lambda stored: cut(stored, "greedy"),
        lambda stored: cut(stored, "greedy_outside"),
        lambda stored: cut(stored, "outside"),
        lambda stored: cut(stored, "outside", 3),
        lambda stored: stored.update(outside=[]),
        lambda stored: stored.update(identity=[]),
        lambda stored: stored.update(name=None),
        lambda stored: stored["groups"].update(noise_floor="0"),
        lambda stored: stored["groups"].update(totals="text"),
    ],
)
def test_a_report_whose_lists_do_not_fit_is_refused(tmp_path, damage):
    path = tmp_path / "headroom.json"
    planted(lambda quality: quality).save(path)
    Headroom.load(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    damage(stored)
    path.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"headroom\.json: cannot be read"):
        Headroom.load(path)


# --- why groups have no difference ---------------------------------------------------------------------


def test_the_most_frequent_cause_is_named_and_all_are_counted():
    groups = Groups(
        ["a", "b", "c", "d", "e"],
        [["x", "y"], ["x", "x"], ["x", "x"], ["x", "y"], ["x", "y"]],
        [[0.0, 0.0], [0.5, 0.5], [0.0, 0.0], [0.4, 0.4], [0.1, 0.9]],
        [["copy", "script"], [None, None], ["loop", "loop"], [None, None], [None, None]],
    )
    text = no_difference(groups, 0.2)
    assert text.startswith("temperature: 0.2: 4 of 5") and "(2: all samples are the same text; 1: " in text
    assert "1: no output passes" in text and "1: different texts" in text
    assert no_difference(groups).startswith("temperature: 4 of 5")


def test_groups_of_different_sizes_and_none_without_a_difference():
    rows = [{"source": "a", "output": str(i), "total": i / 9, "gate": None} for i in range(3)]
    rows += [{"source": "b", "output": str(i), "total": 0.0, "gate": "copy"} for i in range(2)]
    assert no_difference(Groups.of_rows(rows)).startswith("model_id: 1 of 2")
    assert no_difference(Groups.of_rows(rows[:3])).startswith("reward: 0 of 1")
