"""The reward of a diffusion run: a judge, or a function called like TRL's."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from tiny_judge import build_judge

from recipes.diffusion.reward import JudgeReward, is_function
from rl_nmt.errors import ConfigError, MissingService

HERE = "tests.recipes.diffusion.test_reward"
TEXTS = ["the cat sat", "a dog sat", "the dog"]
SHOWN = ["the [MASK:3] sat", "a [MASK:3] sat", "the [MASK:3]"]


def length(prompts, completions, **columns):
    """A number of each kind that is accepted, and None."""
    assert prompts == columns["source"] == SHOWN[: len(prompts)] and "empty" not in columns
    return [None, np.float32(len(completions[1])), torch.tensor(len(completions[2]))]


def one_too_few(prompts, completions, **columns):
    return [1.0] * (len(completions) - 1)


def not_finite(prompts, completions, **columns):
    return [1.0, 2.0, float("nan")]


def words(prompts, completions, **columns):
    return completions


def failing(prompts, completions, **columns):
    raise KeyError("label")


def silent(prompts, completions, **columns):
    return [None] * len(completions)


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    return JudgeReward(str(build_judge(tmp_path_factory.mktemp("judges") / "judge", [*TEXTS, "<>"])), "cpu")


def test_the_judge_reads_the_completion_alone_and_as_it_is(reward):
    odd = [TEXTS[0], f" {TEXTS[1]}  ", "the<pad>dog"]
    found = reward(SHOWN, odd, source=SHOWN, completion_ids=[[1]] * 3)
    assert found == reward.judge(odd) != reward.judge(TEXTS) and found == reward(["x"] * 3, odd)
    rows = reward.score_components(None, odd, source=SHOWN)
    assert [row["output"] for row in rows] == [TEXTS[0], TEXTS[1], "the dog"]
    assert [row["source"] for row in rows] == SHOWN and [row["total"] for row in rows] == found
    assert [row["length"] for row in rows] == [11, 9, 7] and all(row["gate"] is None for row in rows)
    assert json.loads(json.dumps(rows)) == rows


def test_log_and_signature(reward):
    reward(SHOWN, [TEXTS[0], "", "the" * 30])
    assert reward.last_log["reward/missing_share"] == pytest.approx(2 / 3)
    assert reward.last_log["judge/too_long"] == 1.0 and reward.last_log["judge/not_finite"] == 0.0
    assert reward.last_log["reward/total"] == reward.judge(TEXTS[:1])[0]
    signature = reward.signature()
    assert signature["identity"] == {"reward": "diffusion/1", "judge": reward.judge.identity}
    assert {"torch", "transformers"} <= set(signature["environment"])
    assert JudgeReward(f"{HERE}:length").signature()["identity"]["judge"]["function"] == f"{HERE}:length"


def test_an_edited_function_is_another_judge(tmp_path, monkeypatch):
    """As another process would import it; in this one an edit changes neither rewards nor identity."""
    path, found = tmp_path / "edited_judge.py", []
    monkeypatch.syspath_prepend(tmp_path)
    for sign in ("", "-", "-"):
        path.write_text(f"def score(completions, **columns):\n    return [{sign}1.0 for _ in completions]\n")
        monkeypatch.delitem(sys.modules, "edited_judge", raising=False)
        reward = JudgeReward("edited_judge:score")
        found.append(reward.signature())
        path.write_text("")
        assert reward.signature() == found[-1]
    assert found[0] != found[1] == found[2]
    assert reward([], []) == [] and reward.last_log == {}


def test_a_function_is_called_like_trls_rewards():
    reward = JudgeReward(f"{HERE}:length")
    assert reward(SHOWN, TEXTS, empty=None) == [None, 9.0, 7.0] and reward.judge is None
    assert reward.last_log["reward/total"] == 8.0 and not any(key.startswith("judge/") for key in reward.last_log)
    assert reward([], []) == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("one_too_few", r"returns '\[1\.0, 1\.0\]'; it must return a finite number or None for each of 3"),
        ("not_finite", "nan.*; it must return a finite number"),
        ("words", "the cat sat.*; it must return a finite number"),
        ("failing", "fails .KeyError: 'label'.; correct it"),
    ],
)
def test_functions_that_return_something_else(name, part):
    with pytest.raises(ConfigError, match=part) as found:
        JudgeReward(f"{HERE}:{name}")(SHOWN, TEXTS)
    assert str(found.value).startswith(f"judge_checkpoint: {HERE}:{name} ")


def test_a_judge_without_a_single_score_stops_the_run(capsys, reward):
    for dead in (JudgeReward(f"{HERE}:silent"), reward):
        assert dead(SHOWN[:1], [""]) == dead(SHOWN[:1], [""]) == [None]
        with pytest.raises(MissingService, match="judge_checkpoint"):
            dead(SHOWN[:1], [""])
    assert capsys.readouterr().err.count("judge_checkpoint: ") == 6


def test_which_sources_are_functions(tmp_path):
    assert is_function("a.b:c") and not is_function("org/name") and not is_function("org/name@pr:1")
    (tmp_path / "judge:2").mkdir()
    assert not is_function(str(tmp_path / "judge:2"))


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("", "is a folder without config.json"),
        (f"{HERE}:missing", "cannot be imported"),
        (f"{HERE}:HERE", "is a str, not a function"),
        ("./missing", "no such folder: ./missing"),
    ],
)
def test_bad_sources(source, part):
    with pytest.raises(ConfigError, match=f"judge_checkpoint: .*{part}"):
        JudgeReward(source)


def test_the_vocabulary_is_that_of_the_judge(reward):
    JudgeReward(f"{HERE}:length").require_vocabulary(["ЖЖ"])
    reward.require_vocabulary(TEXTS)
    with pytest.raises(ConfigError, match=r"judge_checkpoint: judge reads 100% .*of 1 held-out texts"):
        reward.require_vocabulary(["ЖЖ"])


def test_columns_of_another_length(reward):
    with pytest.raises(ConfigError, match="source: 2 templates for 3 completions"):
        reward.score_components(None, TEXTS, source=SHOWN[:2])
    with pytest.raises(ConfigError, match="prompts: NoneType"):
        reward.score_components(None, TEXTS)
