"""From the settings to loaded judges: tiny MetricX-24, tiny XCOMET, a judge over HTTP."""

from __future__ import annotations

import json
import pickle

import pytest
import tg_run
from judge_server import JudgeServer
from tiny_models import PAIRS

from recipes.translategemma.scorers import load_parts, visible
from recipes.translategemma.settings import MetricXCfg, MqmCfg, RewardCfg, TranslateGemmaCfg, XcometCfg
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.cached import Remembered
from rl_nmt.training.token_credit import SpanCredit

SEGMENTS = [Segment(english, tamil) for english, tamil in PAIRS[:3]]
PLACED = {"metricx": "cpu", "xcomet": "cpu"}


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return {name: str(path) for name, path in tg_run.judges(tmp_path_factory.mktemp("judges")).items()}


def test_weights_turn_and_credit_are_those_of_the_settings(judges):
    xcomet = XcometCfg(
        model_name_or_path=judges["xcomet"],
        weight=2.0,
        sentence_weight=0.5,
        overlap="majority",
        combine="min",
        use_confidence=True,
        minor=-0.5,
        major=-3.0,
        critical=-7.0,
        scale=0.1,
    )
    metricx = MetricXCfg(model_name_or_path=judges["metricx"], weight=3.0, offset=5.0)
    parts, memories = load_parts(TranslateGemmaCfg(reward=RewardCfg(metricx=metricx, xcomet=xcomet)), PLACED)
    assert list(parts) == ["metricx", "xcomet"] and memories == {name: part.scorer for name, part in parts.items()}
    whole, marking = parts["metricx"], parts["xcomet"]
    assert (whole.weight, whole.span_weight, pickle.loads(pickle.dumps(whole.turn))(1.5)) == (3.0, 0.0, 3.5)
    assert (marking.weight, marking.span_weight, marking.turn(0.25)) == (0.5, 2.0, 0.25)
    weights = {"minor": -0.5, "major": -3.0, "critical": -7.0}
    assert marking.credit == SpanCredit(weights, "majority", True, "min", 0.1)
    assert marking.scorer.score(SEGMENTS).spans is not None and whole.scorer.score(SEGMENTS).spans is None
    assert not (whole.beside or marking.beside)


def test_disabled_scorers_are_not_loaded_and_a_cache_size_of_0_keeps_nothing(judges):
    metricx = MetricXCfg(model_name_or_path=judges["metricx"])
    reward = RewardCfg(metricx=metricx, xcomet=XcometCfg(enabled=False, model_name_or_path="/gone"), cache_size=0)
    parts, memories = load_parts(TranslateGemmaCfg(reward=reward), PLACED)
    assert list(parts) == ["metricx"] and memories == {}
    assert not isinstance(parts["metricx"].scorer, Remembered)


def test_a_judge_over_http_runs_concurrently_with_the_models():
    with JudgeServer() as server:
        reward = RewardCfg(
            metricx=MetricXCfg(enabled=False),
            xcomet=XcometCfg(enabled=False),
            mqm=MqmCfg(enabled=True, endpoint=server.url, model="judge", weight=0.5, sentence_weight=0.2, major=-4.0),
        )
        reward.mqm.max_tokens = 3000
        parts, memories = load_parts(TranslateGemmaCfg(reward=reward), {})
        assert [body["max_tokens"] for body in server.bodies] == [3000]
    part = parts["mqm"]
    assert part.beside and (part.weight, part.span_weight) == (0.2, 0.5) and memories == {"mqm": part.scorer}
    assert part.credit.weights["major"] == -4.0 and not part.credit.use_confidence


@pytest.mark.parametrize("size", [100, 0])
def test_a_judges_answers_are_kept_over_a_resume(size):
    """The third question fails: with a cache only it is asked again, without one all three are."""
    modes = {1: "plain", 2: "plain", 3: "content_null"}  # 0 is the question at the start
    with JudgeServer(lambda src, mt: [], mode=lambda number: modes.get(number, "plain")) as server:
        mqm = MqmCfg(enabled=True, endpoint=server.url, model="judge", sentence_weight=1.0, concurrency=1)
        none = {"metricx": MetricXCfg(enabled=False), "xcomet": XcometCfg(enabled=False)}
        cfg = TranslateGemmaCfg(reward=RewardCfg(**none, mqm=mqm, cache_size=size))
        parts, memories = load_parts(cfg, {})
        assert sorted(memories) == (["mqm"] if size else [])
        assert parts["mqm"].scorer.score(SEGMENTS).values == [0.0, 0.0, None]
        state = json.loads(json.dumps({name: memory.state_dict() for name, memory in memories.items()}))
        resumed, memories = load_parts(cfg, {})
        for name, memory in memories.items():
            memory.load_state_dict(state[name])
        asked = len(server.bodies)
        assert resumed["mqm"].scorer.score(SEGMENTS).values == [0.0, 0.0, 0.0]
        assert len(server.bodies) - asked == (1 if size else 3)
        resumed["mqm"].scorer.score(SEGMENTS)
        assert len(server.bodies) - asked == (1 if size else 6)


def test_a_truncated_reply_names_the_setting():
    with JudgeServer(mode="finish_length") as server:
        mqm = MqmCfg(enabled=True, endpoint=server.url, model="judge")
        reward = RewardCfg(metricx=MetricXCfg(enabled=False), xcomet=XcometCfg(enabled=False), mqm=mqm)
        with pytest.raises(ConfigError, match=r"^reward\.mqm\.max_tokens: 1024 "):
            load_parts(TranslateGemmaCfg(reward=reward), {})


def test_the_judge_is_asked_before_a_model_is_loaded():
    """Both are wrong: the error names the endpoint."""
    mqm = MqmCfg(enabled=True, endpoint="http://127.0.0.1:9/v1", model="judge", timeout=1.0, deadline=1.0)
    reward = RewardCfg(metricx=MetricXCfg(model_name_or_path="/gone/metricx"), mqm=mqm)
    with pytest.raises(MissingService, match=r"^reward\.mqm\.endpoint"):
        load_parts(TranslateGemmaCfg(reward=reward), PLACED)


def test_a_missing_model_is_named_by_its_setting():
    reward = RewardCfg(metricx=MetricXCfg(model_name_or_path="/gone/metricx"))
    with pytest.raises(ConfigError, match=r"reward\.metricx\.model_name_or_path"):
        load_parts(TranslateGemmaCfg(reward=reward), PLACED)


@pytest.mark.parametrize(("inherited", "expected"), [(None, "1"), ("", "1"), ("4, 6", "6"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_worker_sees_the_right_gpu(monkeypatch, inherited, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    assert visible("1") == expected
