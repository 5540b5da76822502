"""A hub whose network fails in fourteen ways: rows identical to the undisturbed ones, or a line that says how many."""

from __future__ import annotations

import doctest
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from hang_guard import ends_within
from tiny_run import command

from rl_nmt.data import streams
from rl_nmt.data.streams import StreamBroken, persistent

COMMIT = "0" * 40


def sentence(i: int) -> str:
    return f"Village number {i} has a school and {i + 2} wells."


def jsonl(numbers, **more) -> bytes:
    return b"".join(json.dumps({"text": sentence(i), **more}).encode() + b"\n" for i in numbers)


A, B = jsonl(range(60)), jsonl(range(60, 120))
BAD = jsonl(range(60, 90)) + b'{"text": oops}\n' + jsonl(range(90, 120))
ODD = b'{"text": null}\n' * 5 + b'{"text": "Short."}\n' * 5 + B
NOISE = b"".join(json.dumps({"text": f"See www.example.org/{i}."}).encode() + b"\n" for i in range(120))
FILES = {"bad-row": {"b.jsonl": BAD}, "odd-rows": {"b.jsonl": ODD}, "all-filtered": {"a.jsonl": NOISE, "b.jsonl": b""}}


class FaultyHub(ThreadingHTTPServer):
    """The part of the hub's interface that a streamed data set needs; the repository's name gives the fault.

    Faults hit b.jsonl, after a.jsonl was delivered: so rows are out already when they come.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter = Counter()
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).removeprefix("/api").removeprefix("/datasets/").strip("/").split("/")
        fault, rest = path[1], path[2:]
        self.server.asked[fault, "revision v1"] += "v1" in rest
        if fault == "unknown":
            return self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        if not rest or rest[0] == "revision":
            listed = {"id": f"acme/{fault}", "sha": COMMIT, "private": False, "gated": False, "tags": []}
            listed |= {"downloads": 0, "likes": 0, "siblings": [{"rfilename": n} for n in ("a.jsonl", "b.jsonl")]}
            return self.answer(200, json.dumps(listed).encode())
        files = {"a.jsonl": A, "b.jsonl": B} | FILES.get(fault, {})
        if rest == ["tree", COMMIT]:
            entries = [{"type": "file", "oid": "1" * 40, "size": len(files[n]), "path": n} for n in files]
            return self.answer(200, json.dumps(entries).encode())
        if rest[0] != "resolve" or rest[-1] not in files:
            return self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        if self.command == "HEAD":
            return self.answer(200, files[rest[-1]])
        self.send(fault, rest[-1], files[rest[-1]])

    def answer(self, status: int, body: bytes, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, "ETag": '"1"', **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send(self, fault: str, name: str, body: bytes):
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.server.asked[fault, name] += 1
        turn = self.server.asked[fault, name]
        if name == "a.jsonl":  # read for its columns, then for its rows, then again after a fault in b.jsonl
            other = fault == "changed" and turn > 2
            return self.answer(200, A.replace(b"school", b"church") if other else body[first:])
        if fault == "404":
            return self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        if (fault == "429" and turn <= 2) or fault == "changed":
            return self.answer(429, b"", **{"Retry-After": "1"})
        if fault == "500" and turn <= 1:
            return self.answer(500, b"")
        if (fault == "drop" and turn <= 1) or fault == "drop-for-ever":
            return self.cut(body[first:])
        if fault == "silent":
            return self.server.ended.wait(60)
        if fault in ("drip", "drip-for-ever"):
            return self.drip(body[first:], 0.1 if fault == "drip" else 20.0)
        self.answer(200, body[first:])

    def cut(self, body: bytes):
        """A third of the announced bytes, then the connection is reset."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 3])
        self.close_connection = True

    def drip(self, body: bytes, seconds: float):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for i in range(0, len(body), 400):
            self.wfile.write(body[i : i + 400])
            self.wfile.flush()
            if self.server.ended.wait(seconds):
                return


FAULTS = [
    "none",
    "none@v1",
    "drop",
    "429",
    "500",
    "drip",
    "odd-rows",
    "drop-for-ever",
    "drip-for-ever",
    "silent",
    "404",
    "unknown",
    "changed",
    "bad-row",
    "all-filtered",
    "short",
]

FOR_EVER = ["drop-for-ever", "drip-for-ever", "silent"]

DRIVER = """
import json, sys
from pathlib import Path
from rl_nmt import errors
from rl_nmt.data import corpus, streams
streams.FIRST_WAIT = 0.2
answers = {}
for fault in json.loads(sys.argv[1]):
    streams.RETRY_SECONDS = 3.0 if fault in sys.argv[3:] else 60.0
    try:
        data = corpus.materialise(
            Path(sys.argv[2]) / fault, corpus.CorpusSettings(
                dataset_name="acme/" + fault, num_train_samples=300 if fault == "short" else 100, num_eval_samples=15,
                shuffle_buffer=16, min_chars=10, max_chars=80))
        answers[fault] = {"train": data.train, "heldout": data.heldout, "counts": data.counts}
    except errors.UserError as error:
        answers[fault] = {"said": str(error), "status": error.exit_code}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """fault → the result or error of materialise; and the standard error."""
    folder = tmp_path_factory.mktemp("streams")
    with FaultyHub() as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_HOME": folder / "home", "HF_HUB_OFFLINE": "0", "HF_HUB_DOWNLOAD_TIMEOUT": 8}
        done = command("-c", DRIVER, json.dumps(FAULTS), folder, *FOR_EVER, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr, "asked": hub.asked}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["drop", "429", "500", "drip"])
def test_temporary_failures_do_not_change_the_rows(answers, fault):
    whole, disturbed = answers["none"], answers[fault]
    assert disturbed["train"] == whole["train"] and disturbed["heldout"] == whole["heldout"]
    assert len(whole["train"]) == 100 and set(whole["train"]) | set(whole["heldout"]) <= set(map(sentence, range(120)))
    assert disturbed["counts"] == whole["counts"]


@pytest.mark.slow
def test_a_pinned_data_set(answers):
    assert answers["none@v1"]["train"] == answers["none"]["train"]
    assert answers["asked"]["none", "revision v1"] > 0 and answers["asked"]["drop", "revision v1"] == 0


@pytest.mark.slow
def test_a_retry_is_reported(answers):
    line = next(
        line for line in answers["stderr"].splitlines() if line.startswith("warning: acme/429: HfHubHTTPError: 429")
    )
    assert "trying again in 1 s, " in line and 30 <= int(line.split(" rows so far")[0].split()[-1]) <= 60


@pytest.mark.slow
def test_rows_without_a_text_are_dropped(answers):
    found = answers["odd-rows"]
    assert len(found["train"]) == 100 and found["counts"]["rejected"]["not text"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("fault", FOR_EVER)
def test_lasting_failures_end_with_the_number_of_rows(answers, fault):
    found = answers[fault]
    assert found["status"] == 69
    assert f"acme/{fault} has sent no new row for" in found["said"]
    read = int(found["said"].split(" rows were read")[0].split()[-1])
    assert 30 <= read <= 60  # the first file, less the rows in the shuffle buffer
    assert f"{read} of 115 kept" in found["said"] and f"enough for num_train_samples {read - 15}. Run" in found["said"]


@pytest.mark.slow
def test_permanent_failures_end_at_once(answers):
    for fault, said in (("404", "could not be read"), ("bad-row", "could not be read"), ("changed", "has changed")):
        found = answers[fault]
        assert found["status"] == 69 and said in found["said"] and "rows were read and" in found["said"], found
        assert "acme/bad-row: " not in answers["stderr"] and "acme/404: " not in answers["stderr"]
    assert "pin it as acme/changed@COMMIT" in answers["changed"]["said"]
    assert "no data set on the hub is called acme/unknown" in answers["unknown"]["said"]
    assert "rows were read" not in answers["unknown"]["said"]


@pytest.mark.slow
def test_too_few_rows_are_counted_with_the_reasons(answers):
    short, filtered = answers["short"], answers["all-filtered"]
    assert short["status"] == filtered["status"] == 2
    assert "300 to train on" in short["said"] and "120 were read and 120 kept" in short["said"]
    assert "120 were read and 0 kept (" in filtered["said"]


# --- the mechanism -------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(streams, "FIRST_WAIT", 0.01)


def failing(script):
    """open_rows that goes through `script`: per opening how many of 10 rows it gives before it fails, and how."""
    openings = iter(script)

    def open_rows():
        count, error = next(openings)
        yield from range(count)
        if error is not None:
            raise error

    return open_rows


def test_docstrings():
    assert doctest.testmod(streams).failed == 0


def test_rows_continue_after_the_last_one(quick):
    reset, end = ConnectionResetError("reset"), (10, None)
    script = [(3, reset), (3, reset), (2, reset), (7, TimeoutError()), end]
    assert list(persistent("x", failing(script))) == [*range(10)]
    assert list(persistent("x", failing([(0, reset), (0, None)]))) == []


def test_an_error_of_the_data_is_raised_as_it_is(quick):
    with pytest.raises(KeyError, match="text"):
        list(persistent("x", failing([(3, KeyError("text"))])))


def test_a_damaged_file_gets_three_attempts(quick):
    cut = EOFError("Compressed file ended before the end-of-stream marker was reached")
    assert list(persistent("x", failing([(3, cut), (3, cut), (10, None)]))) == [*range(10)]
    with pytest.raises(EOFError):
        list(persistent("x", failing([(3, cut), (3, cut), (3, cut), (10, None)])))


def test_a_source_that_changed_is_refused(quick):
    reset = ConnectionResetError("reset")
    with pytest.raises(StreamBroken, match="x@COMMIT"):
        list(persistent("x", failing([(5, reset), (4, None)])))
    turns = iter([(1, 2, 3), (1, 9, 3)])

    def other():
        yield from next(turns)
        raise reset

    with pytest.raises(StreamBroken, match="x@COMMIT"):
        list(persistent("x", other))


def test_the_deadline_counts_from_the_last_new_row(quick, monkeypatch):
    monkeypatch.setattr(streams, "RETRY_SECONDS", 0.3)
    reset, found = ConnectionResetError("reset"), []
    with ends_within(30), pytest.raises(StreamBroken, match=r"^dataset_name: x .* 0 s .*reset"):
        for row in persistent("x", failing([(4, reset)] * 1_000_000)):
            found.append(row)
    assert found == [*range(4)]


def test_rows_read_again_do_not_count_against_the_deadline(quick, monkeypatch):
    monkeypatch.setattr(streams, "RETRY_SECONDS", 0.3)
    turns = iter([ConnectionResetError("reset"), None])

    def slow():
        error = next(turns)
        for i in range(8):
            time.sleep(0.05)
            yield i
        if error:
            raise error
        yield 8

    assert list(persistent("x", slow)) == [*range(9)]  # reading 8 again takes 0.4 s


def test_a_reader_that_hangs_does_not_block_the_caller(monkeypatch):
    monkeypatch.setattr(streams, "RETRY_SECONDS", 0.2)
    never = threading.Event()

    def hanging():
        yield 1
        never.wait(60)

    found = []
    with ends_within(30), pytest.raises(StreamBroken, match=r"^dataset_name: x .*TimeoutError"):
        for row in persistent("x", hanging):
            found.append(row)
    assert found == [1]
    never.set()


def test_the_thread_ends_when_the_caller_stops():
    before = threading.active_count()
    rows = persistent("x", lambda: iter(range(10**6)))
    assert [next(rows), next(rows)] == [0, 1]
    rows.close()
    time.sleep(0.3)
    assert threading.active_count() <= before
