"""rl_nmt.scorers.mqm.endpoint: retries, deadlines, and a circuit breaker that opens and closes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time

import httpx
import pytest
from hang_guard import ends_within
from judge_server import JudgeServer

from rl_nmt.scorers.mqm import endpoint
from rl_nmt.scorers.mqm.endpoint import ChatEndpoint
from rl_nmt.scorers.mqm.form import RESPONSE_FORMAT, messages

JSON = RESPONSE_FORMAT


def questions(n: int, *forms: str) -> list:
    forms = forms or ("text",)
    return [
        [
            (form, messages(form, "English", "Tamil", f"Source {i}.", f"Text {i}."), JSON if form == "json" else None)
            for form in forms
        ]
        for i in range(n)
    ]


def failures(answers) -> set:
    return {answer.failure for answer in answers}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)


def test_answers_keep_the_order_and_the_limit_of_concurrency():
    with JudgeServer(delay=0.03) as server:
        endpoint = ChatEndpoint(server.url, "m", concurrency=5)
        asked = questions(23)
        answers = endpoint.ask(asked)
        codes = [forms[0][1][-1]["content"].split("Segment code: ")[1][:8] for forms in asked]
        assert [answer.text.split()[1] for answer in answers] == codes
        assert 2 <= server.most_at_once <= 5
        assert endpoint.ask(asked[:1])[0].text  # and again


@pytest.mark.parametrize(
    "mode", ["status_408", "status_425", "status_429", "status_500", "status_503", "reset", "short_body", "no_http"]
)
def test_temporary_failures_are_retried(mode):
    with JudgeServer(mode=lambda n: "plain" if n else mode) as server:
        endpoint = ChatEndpoint(server.url, "m", retries=1)
        (answer,) = endpoint.ask(questions(1))
        assert answer.text and endpoint.stats == {"calls": 2, "retries": 1}


@pytest.mark.parametrize(
    "mode",
    [
        "status_400",
        "status_401",
        "status_404",
        "status_413",
        "status_501",
        "html",
        "not_json",
        "content_null",
        "refusal_field",
        "finish_length",
        "redirect",
    ],
)
def test_permanent_failures_are_not_retried(mode):
    with JudgeServer(mode=mode) as server:
        (answer,) = ChatEndpoint(server.url, "m", retries=3).ask(questions(1))
        assert answer.text is None and len(server.bodies) == 1


def test_retry_after_is_obeyed_by_all():
    at = []
    with JudgeServer() as server:
        answer = server.answer

        def limited(handler, body):
            at.append(time.monotonic())
            if len(at) == 1:
                server.bodies.append(body)
                return handler.send(429, b"{}", {"Retry-After": "1"})
            return answer(handler, body)

        server.answer = limited
        answers = ChatEndpoint(server.url, "m", concurrency=1, timeout=30, deadline=60).ask(questions(4))
    assert all(answer.text for answer in answers)
    assert at[1] - at[0] >= 0.95  # the other questions waited too


def test_a_pause_longer_than_the_deadline_is_not_waited_for():
    with JudgeServer(mode="wait_an_hour") as server:
        answers = ChatEndpoint(server.url, "m", deadline=30).ask(questions(12))
        assert failures(answers) == {"http_429"}  # not "deadline"


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("9" * 400, 999_999_999.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_header(value, seconds):
    assert endpoint._retry_after(httpx.Headers({"retry-after": value})) == seconds


@pytest.mark.parametrize("mode", ["hang", "drip_headers", "drip_body"])
def test_the_deadline_holds_for_any_failure_of_the_server(mode):
    with JudgeServer(mode=mode) as server:
        with ends_within(20):
            answers = ChatEndpoint(server.url, "m", timeout=30, deadline=0.8, breaker=99).ask(questions(16))
        assert failures(answers) == {"deadline"}


def test_a_request_has_its_own_limit():
    with JudgeServer(mode=lambda n: "plain" if n else "drip_body") as server:
        (answer,) = ChatEndpoint(server.url, "m", timeout=2, deadline=60, retries=1).ask(questions(1))
        assert answer.text and len(server.bodies) == 2


@pytest.mark.parametrize("outage", ["nobody", "status_503", "reset", "hang"])
def test_64_completions_in_a_total_outage(outage):
    """No answer, few calls, well within the deadline; the next step sends one question and works if the judge does."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with JudgeServer(mode=outage) as server:
        url, timeout = nobody if outage == "nobody" else server.url, 0.5 if outage == "hang" else 30
        endpoint = ChatEndpoint(url, "m", timeout=timeout, deadline=60, retries=3, breaker=8)
        answers = endpoint.ask(questions(64))
        assert all(answer.text is None for answer in answers) and "deadline" not in failures(answers)
        assert endpoint.down and endpoint.stats["calls"] <= 16
        assert len([a for a in answers if a.failure == "breaker_open"]) >= 48
        late = time.monotonic() + 30  # on a busy machine the server reads requests long after the client has given up
        while outage != "nobody" and len(server.bodies) < endpoint.stats["calls"] and time.monotonic() < late:
            time.sleep(0.02)
        before = len(server.bodies)
        assert all(a.text is None for a in endpoint.ask(questions(64)))
        assert endpoint.stats["calls"] == 1 and len(server.bodies) - before <= 1
        server.mode, endpoint.url, endpoint.timeout = "plain", f"{server.url}/chat/completions", 30
        answers = endpoint.ask(questions(64))
        assert all(answer.text for answer in answers) and not endpoint.down


def test_a_refused_key_stops_after_the_running_requests():
    with JudgeServer(mode="status_401") as server:
        answers = ChatEndpoint(server.url, "m", concurrency=4).ask(questions(64))
        assert failures(answers) == {"http_401", "breaker_open"} and len(server.bodies) <= 8


def test_one_failing_question_does_not_open_the_breaker():
    with JudgeServer(mode=lambda n: "status_503" if n % 4 == 0 else "plain") as server:
        endpoint = ChatEndpoint(server.url, "m", concurrency=1, retries=0, breaker=2)
        answers = endpoint.ask(questions(12))
        assert sum(answer.text is not None for answer in answers) == 9 and not endpoint.down


@pytest.mark.parametrize("status", [400, 422])
def test_forms_fall_back_only_when_refused(status):
    with JudgeServer(json_status=status) as server:
        (answer,) = ChatEndpoint(server.url, "m").ask(questions(1, "json", "text"))
        assert answer.form == "text" and answer.text.startswith("Segment:")
    with JudgeServer(mode="content_null") as server:
        (answer,) = ChatEndpoint(server.url, "m").ask(questions(1, "json", "text"))
        assert (answer.form, answer.text, len(server.bodies)) == ("json", None, 1)


def test_works_inside_a_running_loop_and_from_threads():
    with JudgeServer() as server:
        endpoint, found = ChatEndpoint(server.url, "m"), []

        async def notebook():
            return endpoint.ask(questions(2))

        assert all(a.text for a in asyncio.run(notebook()))
        threads = [threading.Thread(target=lambda: found.extend(endpoint.ask(questions(3)))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(found) == 9 and all(answer.text for answer in found)


def test_works_in_a_forked_child():
    with JudgeServer() as server:
        endpoint = ChatEndpoint(server.url, "m")
        endpoint.ask(questions(1))
        child = os.fork()
        if child == 0:
            done = 1
            try:
                done = 0 if endpoint.ask(questions(1))[0].text else 1
            finally:
                os._exit(done)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert endpoint.ask(questions(1))[0].text


def test_a_proxy_is_not_used_for_loopback(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with JudgeServer() as server:
        assert ChatEndpoint(server.url, "m").ask(questions(1))[0].text


def test_the_address_may_be_written_in_two_ways():
    for url in ("http://h:8000/v1", "http://h:8000/v1/", "http://h:8000/v1/chat/completions"):
        assert ChatEndpoint(url, "m").url == "http://h:8000/v1/chat/completions"
