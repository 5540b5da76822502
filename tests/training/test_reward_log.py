"""Rows and scalars that a reward keeps of its calls; every expected value is counted by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from rl_nmt.errors import MissingService
from rl_nmt.training.reward_log import RewardLog, common_scalars, work_done


class Reward(RewardLog):
    max_dead_calls = 2
    asked = "judge"


def row(total, gate=None, english="a", output="b") -> dict:
    return {"source": english, "output": output, "gate": gate, "length": len(output), "total": total}


def test_training_and_evaluation_are_kept_apart():
    reward, metrics, extra = Reward(), {}, {}
    columns = {"log_metric": metrics.__setitem__, "log_extra": extra.__setitem__, "trainer_state": None}
    assert reward.keep([row(0.5), row(None)], {"x": 1.0}, columns, ("gate", "output")) == [0.5, None]
    assert metrics == {} and reward.last_log == {"x": 1.0} and extra == {"gate": [None, None], "output": ["b", "b"]}
    reward.evaluating = True
    reward.keep([row(0.25)], {"x": 2.0}, {})
    assert (reward.last_log, reward.last_eval_log, reward.calls) == ({"x": 1.0}, {"x": 2.0}, 1)
    assert reward.last_rows == [row(0.25)]


def test_dead_calls_in_a_row_stop_the_run_also_across_a_resume():
    reward = Reward()
    for rows in ([row(None)], [row(None), row(0.1)], [row(None)], []):  # nothing to score is not dead
        reward.keep(rows, {}, {})
    reward.keep([row(None)], {}, {})
    resumed = Reward()
    resumed.load_state_dict(json.loads(json.dumps(reward.state_dict())))
    assert resumed.calls == 5
    with pytest.raises(MissingService, match=r"^reward: .* 2 calls .*\bjudge\b"):
        resumed.keep([row(None)], {"x": 1.0}, {})
    assert resumed.last_log == {"x": 1.0}  # kept for inspection


def test_gated_rows_do_not_hide_that_the_others_have_no_score():
    reward = Reward()
    reward.keep([row(None), row(0.0, "empty", output="")], {}, {})
    with pytest.raises(MissingService):
        reward.keep([row(0.0, "copy"), row(None)], {}, {})


def test_common_scalars_by_hand():
    rows = [row(0.5), row(0.5), row(0.0, "empty", output=""), row(None, output="ccccc")]
    assert common_scalars(rows) == {
        "reward/total": pytest.approx(1 / 3),
        "reward/gated_share": 0.25,
        "reward/missing_share": 0.25,
        "reward/length": 7 / 4,
        "reward/distinct_share": 0.75,
        "reward/gate/empty": 0.25,
    }


def test_work_is_reported_for_models_that_were_called():
    judge = SimpleNamespace(stats={"encoded": 3, "tokens": 9})
    models = [("qe", judge, ("encoded", "cut")), ("da", None, ("encoded",))]
    assert work_done([row(0.0, "empty"), row(1.0)], models) == {"qe/encoded": 3.0}
    assert work_done([row(0.0, "empty")], models) == {} == work_done([], models)
