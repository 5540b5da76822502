"""rl_nmt.scorers.mqm.gemba over a real socket: no failure of a judge becomes a number."""

from __future__ import annotations

import json
import logging
import pickle

import pytest
from judge_server import CONTENTS, FAILURES, VARIANTS, JudgeServer

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.cached import Remembered
from rl_nmt.scorers.mqm import endpoint
from rl_nmt.scorers.mqm.form import MqmError, Unparsable
from rl_nmt.scorers.mqm.gemba import judge, load_gemba_mqm

SRC, MT = "The door is open.", "கதவு மூடியிருக்கிறது."
WRONG = "மூடியிருக்கிறது"
KEY = "sk-Very-Secret-0123456789"


def marks(src: str, mt: str) -> list[dict]:
    """The errors of these tests' judge: one."""
    return [{"severity": "major", "quote": WRONG}] if WRONG in mt else []


def load(server: JudgeServer, **options):
    limits = (0.6, 4.0) if server.mode in ("hang", "drip_headers", "drip_body") else (30.0, 60.0)
    quick = {"timeout": limits[0], "deadline": limits[1], "retries": 1, "breaker": 1000, "check": False}
    return load_gemba_mqm(server.url, "judge", **quick | options)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)


def test_score_and_spans_are_the_judges():
    with JudgeServer(marks) as server:
        scores = load(server).score([Segment(SRC, MT), Segment(SRC, "கதவு திறந்திருக்கிறது."), Segment(SRC, MT)])
    start = MT.index(WRONG)
    wrong = [Span(start, start + len(WRONG), "major", 1.0, "accuracy/mistranslation")]
    assert scores.values == [-5.0, 0.0, -5.0]
    assert scores.spans == [wrong, [], wrong]
    assert len(server.bodies) == 2  # equal segments are asked once


def test_there_are_enough_failures():
    assert len(set(FAILURES)) >= 26


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_failure_becomes_a_number(form):
    """Each failure on its own segment, next to segments with valid replies."""
    modes = [mode for mode in FAILURES if form == "json" or mode in CONTENTS]
    segments = [Segment(SRC, f"{MT} {i}") for i in range(len(modes))]
    with JudgeServer(marks) as server:
        place = {f"{MT} {i}": mode for i, mode in enumerate(modes)}
        answer = server.answer

        def by_segment(handler, body):
            said = body["messages"][-1]["content"]
            mode = next(mode for mt, mode in place.items() if f"\n{mt}\n" in said)
            helper = JudgeServer.__new__(JudgeServer)
            helper.__dict__ |= server.__dict__ | {"mode": mode}
            return JudgeServer.answer(helper, handler, body)

        server.answer = by_segment
        scorer = load(server, form=form, concurrency=32, timeout=2.0, deadline=120.0)
        got = scorer.score(segments)
        failed = {mode: value for mode, value in zip(modes, got.values, strict=True) if value is not None}
        assert failed == {} and got.spans == [None] * len(modes)
        assert scorer.stats["failed"] == len(modes)
        assert "failed/deadline" not in scorer.stats  # each failed for its own reason
        server.answer = answer
        assert scorer.score([Segment(SRC, MT)]).values == [-5.0]  # the same client still works


@pytest.mark.parametrize("name", VARIANTS)
def test_odd_but_valid_replies_are_read(name):
    with JudgeServer(marks, name) as server:
        assert load(server).score([Segment(SRC, MT)]).values == [-5.0]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_without_structured_output_is_asked_for_text(status):
    with JudgeServer(marks, json_status=status) as server:
        scorer = load(server)
        assert scorer.score([Segment(SRC, MT)]).values == [-5.0]
        assert scorer.score([Segment(SRC, f"{MT} b"), Segment(SRC, f"{MT} c")]).values == [-5.0, -5.0]
        assert len(server.bodies) == 4  # the form was refused once, and not tried again
        assert load(server, form="json").score([Segment(SRC, MT)]).values == [None]


def test_an_empty_translation_is_a_non_translation():
    with JudgeServer() as server:
        scores = load(server).score([Segment(SRC, ""), Segment(SRC, "  ")])
        assert (scores.values, scores.spans, server.bodies) == ([-25.0, -25.0], [[], []], [])
        assert load(server).score([]).values == []


def test_judged_segments_are_cached_and_failed_ones_are_not():
    with JudgeServer(marks, lambda n: "plain" if n else "content_null") as server:
        scorer = Remembered(load(server), size=2)
        first = [Segment(SRC, MT)]
        assert scorer.score(first).values == [None]
        assert [scorer.score(first).values for _ in range(3)] == [[-5.0]] * 3 and len(server.bodies) == 2
        assert scorer.stats == {"rows": 1, "remembered": 1}
        scorer.score([Segment(SRC, "a"), Segment(SRC, "b")])
        scorer.score(first)
        assert len(server.bodies) == 5  # the oldest of more than `size` was dropped


# ---------------------------------------------------------------------- errors to a score


def errors(**counts: int) -> list[MqmError]:
    return [MqmError(s, "accuracy/omission", "x") for s, n in counts.items() for _ in range(n)]


@pytest.mark.parametrize(
    "found, score",
    [
        (errors(), 0),
        (errors(minor=1), -1),
        (errors(major=2, minor=1), -11),
        (errors(critical=1, minor=1), -25),
        (errors(minor=9), -5),
        (errors(minor=5, major=5), -25),
        (errors(minor=6, major=1), -9),
    ],
)
def test_the_five_worst_errors_count_up_to_25(found, score):
    assert judge(found, SRC, MT)[0] == score


@pytest.mark.parametrize(
    "error, place",
    [
        (MqmError("minor", "fluency", "b", "a"), (2, 3)),  # "a b c b": the words before say which one
        (MqmError("minor", "fluency", "b", "c"), (6, 7)),
        (MqmError("minor", "fluency", "b", ""), None),
        (MqmError("minor", "fluency", "b", "x"), None),
        (MqmError("minor", "fluency", "“c b”"), (4, 7)),
        (MqmError("minor", "fluency", "A B"), (0, 3)),
        (MqmError("minor", "fluency", "...c b."), None),
        (MqmError("minor", "accuracy/omission", "source"), None),
        (MqmError("minor", "accuracy/untranslated text", "source"), None),
        (MqmError("major", "non-translation", "all of it"), (0, 7)),
    ],
)
def test_quotes_are_placed_only_where_they_can_be(error, place):
    if error.quote == "...c b.":
        with pytest.raises(Unparsable, match="unfounded"):
            judge([error], "the source", "a b c b")
        return
    score, spans = judge([error], "the source", "a b c b")
    assert [(s.start, s.end) for s in spans] == ([place] if place else [])
    assert score == (-25 if "non-translation" in error.category else -1)


def test_decomposed_quotes_are_found():
    _, spans = judge([MqmError("minor", "spelling", "கெ\u0bbeடு")], "give", "அவள் கொடு")
    assert [(s.start, s.end) for s in spans] == [(5, 9)]


# ---------------------------------------------------------------------- before a run


@pytest.mark.parametrize(
    "mode, error, message",
    [
        ("html", MissingService, r"OpenAI-compatible API \(html\)"),
        ("not_json", MissingService, r"OpenAI-compatible API \(not_json\)"),
        ("redirect", MissingService, r"OpenAI-compatible API \(http_307\)"),
        ("reset", MissingService, r"cannot be reached \(connection\)"),
        ("status_503", MissingService, r"cannot be reached \(http_503\)"),
        ("hang", MissingService, r"cannot be reached \((timeout|deadline)\)"),
        ("status_401", ConfigError, r"without a key \(api_key_env\) \(401\)"),
        ("status_404", ConfigError, "model 'judge'"),
        ("praise_in_prose", ConfigError, r"judge\.endpoint: judge .*\(not_the_form\)"),
        ("finish_length", ConfigError, r"judge\.max_tokens: 1024 .*\(finish_length\)"),
        ("status_429", MissingService, r"judge\.endpoint: .*\(429 Too Many Requests\)"),
        ("status_408", MissingService, r"judge\.endpoint: .*\(408 Request Timeout\)"),
        ("status_402", ConfigError, r"judge\.endpoint: .*\(402 Payment Required\)"),
        ("status_413", ConfigError, r"judge\.endpoint: .*\(413 "),
        ("status_400", ConfigError, r"json and text \(400 Bad Request\).*judge\.max_tokens"),
    ],
)
def test_an_endpoint_that_cannot_judge_is_reported_at_once(mode, error, message):
    with JudgeServer(mode=mode) as server, pytest.raises(error, match=message):
        load(server, check=True, argument="judge.endpoint")


def test_a_missing_endpoint_and_an_existing_one():
    with JudgeServer() as server:
        address = server.url
        assert load(server, check=True).name == "judge"
    with pytest.raises(MissingService, match=r"mqm_endpoint: .* cannot be reached \(connection\)"):
        load_gemba_mqm(address, "judge", retries=0)


def test_check_finds_the_form_that_works():
    with JudgeServer(marks, json_status=422) as server:
        scorer = load(server, check=True)
        scorer.score([Segment(SRC, MT)])
        assert [("response_format" in body) for body in server.bodies] == [True, False, False]


def test_the_key_is_sent_and_shown_nowhere(monkeypatch, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with JudgeServer(marks) as server:
        scorer = load(server, api_key_env="JUDGE_KEY")
        assert scorer.score([Segment(SRC, MT)]).values == [-5.0]
        assert server.keys == [f"Bearer {KEY}"]
        server.mode = "status_401"
        with pytest.raises(ConfigError, match=r"key in JUDGE_KEY \(401\)") as refused:
            load(server, api_key_env="JUDGE_KEY", check=True)
    shown = [repr(scorer), repr(scorer.client), json.dumps(scorer.signature()), repr(refused.value)]
    shown += [str(vars(thing)) for thing in (scorer, scorer.client)]
    shown += [caplog.text, *capsys.readouterr()]
    assert not any(KEY in text for text in shown)
    copy = pickle.dumps(scorer)
    assert KEY.encode() not in copy
    with JudgeServer(marks) as server:
        loaded = pickle.loads(copy)
        loaded.client.url = f"{server.url}/chat/completions"
        assert loaded.score([Segment(SRC, f"{MT} again")]).values == [-5.0] and server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "api_key_env: NO_SUCH_KEY"),
        ({"api_key_env": KEY}, "mqm_endpoint: api_key_env"),
        ({"form": "xml"}, "form: 'xml'"),
        ({"endpoint": "localhost:8000"}, "mqm_endpoint: 'localhost:8000'"),
        ({"endpoint": "ftp://x/v1"}, "mqm_endpoint: 'ftp://x/v1'"),
        ({"endpoint": "http://h:99999/v1"}, "mqm_endpoint: 'http://h:99999/v1'"),
        ({"endpoint": f"http://user:{KEY}@h/v1"}, "user, password and query"),
        ({"endpoint": f"http://h/v1?api_key={KEY}"}, "user, password and query"),
    ],
)
def test_bad_settings(options, message):
    given = {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "check": False} | options
    with pytest.raises(ConfigError, match=message) as refused:
        load_gemba_mqm(given.pop("endpoint"), given.pop("model"), **given)
    assert KEY not in str(refused.value)


def test_the_signature_has_everything_that_determines_the_score():
    def load_one(**options):
        return load_gemba_mqm("http://127.0.0.1:9/v1", "m", check=False, **options).signature()

    one = load_one()
    assert one["identity"]["model"] == "m" and "127.0.0.1" not in json.dumps(one["identity"])
    assert one == load_one() and "httpx" in one["environment"]
    for options in ({"target_language": "Korean"}, {"form": "text"}, {"max_tokens": 99}):
        assert load_one(**options)["identity"] != one["identity"]


def test_the_fields_of_a_request():
    with JudgeServer(marks) as server:
        load(server, max_tokens=99).score([Segment(SRC, MT)])
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("judge", 99, 0.0)
    assert body["response_format"]["type"] == "json_schema"


def test_scale_and_direction():
    with JudgeServer(lambda src, mt: [{"severity": "critical", "quote": mt[:2]}] * 3) as server:
        scorer = load(server)
        assert scorer.range == (-25.0, 0.0) and scorer.higher_is_better
        assert scorer.score([Segment(SRC, MT)]).values == [-25.0]
