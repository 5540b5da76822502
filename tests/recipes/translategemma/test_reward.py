"""The ensemble reward of recipes/translategemma over real tiny judges: MetricX-24, XCOMET, a judge over HTTP."""

from __future__ import annotations

import json
import math

import pytest
from judge_server import JudgeServer, error
from tiny_metricx import build_metricx
from tiny_models import PAIRS, build_comet

from recipes.translategemma.reward import EnsembleReward, Part
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.guards import verdict
from rl_nmt.scorers.base import Scores, Segment, Span
from rl_nmt.scorers.comet.scorer import load_comet
from rl_nmt.scorers.metricx import load_metricx
from rl_nmt.scorers.mqm.gemba import load_gemba_mqm
from rl_nmt.text.languages import LANGUAGES, TAMIL
from rl_nmt.training.token_credit import SpanCredit

ENGLISH = [english for english, _ in PAIRS[:4]]
TAMIL_TEXTS = [tamil for _, tamil in PAIRS[:4]]


@pytest.fixture(scope="module")
def metricx(tmp_path_factory):
    return load_metricx(build_metricx(tmp_path_factory.mktemp("metricx") / "m"))


@pytest.fixture(scope="module")
def xcomet(tmp_path_factory):
    return load_comet(build_comet(tmp_path_factory.mktemp("xcomet") / "m", kind="xcomet_metric", layer_norm=False))


@pytest.fixture
def reward(metricx, xcomet):
    parts = {
        "metricx": Part(metricx, weight=2.0, turn=lambda raw: 5.0 - raw),
        "xcomet": Part(xcomet, weight=0.5, span_weight=1.0, credit=SpanCredit(overlap="majority")),
    }
    return EnsembleReward(parts, TAMIL)


def test_the_total_is_the_weighted_sum_of_what_the_judges_say(reward, metricx, xcomet):
    totals = reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    segments = [Segment(e, t) for e, t in zip(ENGLISH, TAMIL_TEXTS, strict=True)]
    raw, quality = metricx.score(segments).values, xcomet.score(segments)
    expected = [2.0 * (5.0 - m) + 0.5 * min(1, max(0, q)) for m, q in zip(raw, quality.values, strict=True)]
    assert totals == pytest.approx(expected)
    assert [row["spans"]["xcomet"] for row in reward.last_rows] == quality.spans
    assert reward.credits == {"xcomet": (1.0, SpanCredit(overlap="majority"))}
    assert reward.last_log["reward/metricx"] == pytest.approx(sum(raw) / 4)
    assert reward.last_log["spans/xcomet"] == pytest.approx(sum(map(len, quality.spans)) / 4)


def test_invalid_outputs_score_below_all_that_pass_and_no_model_scores_them(reward, metricx):
    outputs = [TAMIL_TEXTS[0], ENGLISH[1], "", TAMIL_TEXTS[3]]
    totals = reward(ENGLISH, outputs, source=ENGLISH)
    assert [row["gate"] is not None for row in reward.last_rows] == [False, True, True, False]
    assert totals[1] == totals[2] == 2.0 * (5 - 25) + 0.5 * 0.0 - 1.0
    assert min(totals[0], totals[3]) > totals[1]
    assert metricx.stats["distinct"] == 2
    assert reward.last_rows[1]["metricx"] is None and reward.last_rows[1]["spans"] == {}
    assert reward.last_log["reward/gated_share"] == 0.5


def test_evaluation_rows_are_json_and_lead_back_to_spans(reward):
    rows = reward.score_components(None, TAMIL_TEXTS, source=ENGLISH)
    assert json.loads(json.dumps(rows)) == rows
    reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    read_back = [[Span(*fields) for fields in row["spans"]["xcomet"]] for row in rows]
    assert read_back == [row["spans"]["xcomet"] for row in reward.last_rows]
    assert [row["xcomet_errors"] for row in rows] == [len(row["spans"]["xcomet"]) for row in rows]


def test_an_evaluation_call_leaves_the_training_log_alone(reward):
    reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    training = dict(reward.last_log)
    reward.evaluating = True
    reward(ENGLISH[:1], TAMIL_TEXTS[:1], source=ENGLISH[:1])
    assert reward.last_log == training and reward.last_eval_log and reward.calls == 1


class Broken:
    """A scorer without a score for texts with a certain word, and optionally without any spans."""

    name, range, higher_is_better = "broken", (0.0, 25.0), False

    def __init__(self, bad: str, everything=False):
        self.bad, self.everything = bad, everything

    def score(self, segments):
        return Scores([None if self.everything or s.mt == self.bad else 1.0 for s in segments])

    def signature(self):
        return {"identity": {}, "environment": {}}


def test_a_failed_scorer_gives_no_number(xcomet):
    parts = {"metricx": Part(Broken(TAMIL_TEXTS[1]), turn=lambda raw: 5 - raw), "xcomet": Part(xcomet, 0.0)}
    reward = EnsembleReward(parts, TAMIL)
    assert reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH) == [4.0, None, 4.0, 4.0]
    assert reward.last_log["reward/missing_share"] == 0.25
    # without a weight in the total, a failed scorer loses only its spans
    spans_only = EnsembleReward({"a": Part(xcomet), "b": Part(Broken(TAMIL_TEXTS[0]), 0.0, span_weight=1.0)}, TAMIL)
    assert None not in spans_only(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    assert [row["spans"]["b"] for row in spans_only.last_rows] == [None] * 4
    assert spans_only.last_log["spans/b/missing_share"] == 1.0


def test_an_ensemble_without_scores_continues_for_ten_calls_and_then_stops():
    reward = EnsembleReward({"metricx": Part(Broken("", everything=True))}, TAMIL)
    for _ in range(9):
        assert reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH) == [None] * 4
    state = reward.state_dict()
    with pytest.raises(MissingService, match="no sample could be scored in 10 calls"):
        reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    resumed = EnsembleReward({"metricx": Part(Broken("", everything=True))}, TAMIL)
    resumed.load_state_dict(state)
    with pytest.raises(MissingService):
        resumed(ENGLISH, TAMIL_TEXTS, source=ENGLISH)


def test_a_scorer_that_only_marks_spans_stops_the_run_when_it_fails(metricx, capsys):
    with JudgeServer(lambda src, mt: []) as server:
        judge = load_gemba_mqm(server.url, "judge")
        parts = {"metricx": Part(metricx), "mqm": Part(judge, 0.0, span_weight=1.0, beside=True)}
        reward = EnsembleReward(parts, TAMIL)
        outputs = [TAMIL_TEXTS[0], ENGLISH[1]]  # one that passes, one that is gated
        for _ in range(11):  # it works: no failure is counted
            reward(ENGLISH[:2], outputs, source=ENGLISH[:2])
        server.mode = "status_401"
        for _ in range(9):
            assert None not in reward(ENGLISH[:2], outputs, source=ENGLISH[:2])
        with pytest.raises(MissingService, match="no sample could be scored in 10 calls in a row"):
            reward(ENGLISH[:2], outputs, source=ENGLISH[:2])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 10
    assert said[0].startswith("warning: reward.mqm: 1 of 1 outputs get no score (")


def test_the_judge_over_http_gives_score_and_spans():
    marks = {TAMIL_TEXTS[0]: [error("major", TAMIL_TEXTS[0].split()[0])]}
    with JudgeServer(lambda src, mt: marks.get(mt, [])) as server:
        judge = load_gemba_mqm(server.url, "judge")
        part = Part(judge, weight=0.2, span_weight=1.0, beside=True)
        reward = EnsembleReward({"mqm": part}, TAMIL)
        totals = reward(ENGLISH, TAMIL_TEXTS, source=ENGLISH)
    assert totals == pytest.approx([0.2 * -5.0, 0.0, 0.0, 0.0])
    (span,) = reward.last_rows[0]["spans"]["mqm"]
    assert TAMIL_TEXTS[0][span.start : span.end] == TAMIL_TEXTS[0].split()[0]


def test_the_signature_has_everything_that_determines_the_reward(reward, metricx, xcomet):
    identity = reward.signature()["identity"]
    assert identity["metricx"]["weight"] == 2.0 and identity["xcomet"]["span_weight"] == 1.0
    other = EnsembleReward({"metricx": Part(metricx, weight=2.0, turn=lambda raw: 6.0 - raw)}, TAMIL)
    assert other.signature()["identity"]["metricx"] != identity["metricx"]
    loud = EnsembleReward({**reward.parts, "xcomet": Part(xcomet, 0.5, span_weight=1.0)}, TAMIL)
    assert loud.signature()["identity"]["xcomet"] != identity["xcomet"]
    assert math.isfinite(reward.lowest) and json.dumps(reward.signature())


def test_an_ensemble_that_would_never_change_is_refused(xcomet):
    with pytest.raises(ConfigError, match=r"^reward: .*weight in the sequence reward"):
        EnsembleReward({"xcomet": Part(xcomet, weight=0.0, span_weight=1.0)}, TAMIL)


def test_guards_off_gates_nothing(xcomet):
    reward = EnsembleReward({"xcomet": Part(xcomet)}, TAMIL, guards="off")
    rows = reward.score_components(None, [ENGLISH[0], ""], source=ENGLISH[:2])
    assert [row["gate"] for row in rows] == [None, None] and all(row["total"] is not None for row in rows)


def test_lengths_are_compared_with_what_the_source_language_needs():
    """Chinese takes a third of English's characters: the table's ratios are over English."""
    english, chinese = LANGUAGES["en"], LANGUAGES["zh"]
    source = "政府昨天宣布将在明年春季之前完成该地区所有学校的改建工程并增加教师人数。"
    output = (
        "The government announced yesterday that it would complete the conversion of all schools in the region and "
        "increase the number of teachers before the spring of next year."
    )
    assert len(output) > 4.5 * len(source)
    assert verdict(source, output, english, chinese) is verdict(output, source, chinese, english) is None
    assert verdict(source, output[:14], english, chinese) == "length"
