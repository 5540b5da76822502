"""A local OpenAI-compatible judge over loopback that marks known errors and, on request, fails in every known way.

`JudgeServer(marks)` answers like a model that keeps to the asked form; `mode` (a name, or a function of the number
of the request) makes it fail. FAILURES must never become a number; VARIANTS are odd but valid. No torch.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

SEGMENT = re.compile(
    r"Segment code: ([0-9a-f]{8})\n\nSource text:\n(`{3,})\n(.*)\n\2\n\nTranslation:\n\2\n(.*)\n\2\n", re.DOTALL
)
Marks = Callable[[str, str], "list[dict] | None"]  # (source, translation) → errors, or None for an unknown source
STATUSES = (400, 401, 403, 404, 408, 413, 425, 429, 500, 501, 502, 503, 504, 529)
CANNOT_TELL = "I cannot judge this translation: I do not know what its source means."
HTML = b"<!doctype html><html><body>Bad gateway: score 0, no errors</body></html>"


def completion(content, finish="stop", **message) -> dict:
    """A chat completion with one choice."""
    said = {"role": "assistant", "content": content} | message
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "judge",
        "choices": [{"index": 0, "finish_reason": finish, "message": said}],
    }


class Asked:
    """One request: the segment in it, whether JSON was asked for, and the reply of a judge that works.

    Of a source that it cannot read (`marks` gives None) it repeats the answer that the conversation shows as a
    worked example, or else says that it cannot tell; an empty list of errors would be the best score there is.
    """

    def __init__(self, body: dict, marks: Marks):
        self.json = "response_format" in body
        *said, question = body["messages"]
        self.code, _, self.src, self.mt = SEGMENT.search(question["content"]).groups()
        marked = marks(self.src, self.mt)
        usual = {"before": "", "category": "accuracy/mistranslation"}
        self.errors = None if marked is None else [usual | mark for mark in marked]
        shown = (answer["content"] for asked, answer in pairwise(said) if f"code: {self.code}\n" in asked["content"])
        self.unread = next(shown, CANNOT_TELL)

    def reply(self, code: str | None = None, errors: list[dict] | None = None) -> str:
        code, errors = code or self.code, self.errors if errors is None else errors
        if errors is None:
            return self.unread
        if self.json:
            return json.dumps({"segment": code, "errors": errors}, ensure_ascii=False)
        lines = [f"Segment: {code}"]
        for severity in ("critical", "major", "minor"):
            own = [f'{e["category"]} - "{e["quote"]}"' for e in errors if e["severity"] == severity]
            lines += [f"{severity.capitalize()}:", *(own or ["no-error"])]
        return "\n".join(lines)


def error(severity="major", quote="x", **more) -> dict:
    return {"severity": severity, "category": "accuracy/mistranslation", "quote": quote, "before": ""} | more


# What a model writes: name → content of a reply that arrives whole. None of these is an annotation.
CONTENTS: dict[str, Callable[[Asked], object]] = {
    "content_null": lambda a: None,
    "content_empty": lambda a: "",
    "content_blank": lambda a: " \n\t",
    "content_number": lambda a: 0,
    "parts_with_image": lambda a: [{"type": "text", "text": a.reply()}, {"type": "image_url", "image_url": {}}],
    "parts_with_refusal": lambda a: [{"type": "refusal", "refusal": "no"}],
    "parts_empty": lambda a: [],
    "refusal_in_prose": lambda a: "I'm sorry, but I can't help with annotating this translation.",
    "praise_in_prose": lambda a: "The translation is excellent. There are no errors. Score: 0",
    "score_alone": lambda a: "0",
    "empty_list": lambda a: "[]",
    "empty_object": lambda a: "{}",
    "null": lambda a: "null",
    "json_after_prose": lambda a: "Here you are:\n" + a.reply(errors=[]),
    "json_before_prose": lambda a: a.reply(errors=[]) + "\nLet me know if you need more!",
    "two_objects": lambda a: a.reply(errors=[]) + a.reply(errors=[]),
    "cut_off": lambda a: a.reply()[:-8],
    "other_segment": lambda a: a.reply(code="00000000"),
    "no_segment": lambda a: '{"errors": []}' if a.json else a.reply().split("\n", 1)[1],
    "errors_missing": lambda a: json.dumps({"segment": a.code}),
    "errors_null": lambda a: json.dumps({"segment": a.code, "errors": None}),
    "errors_of_strings": lambda a: json.dumps({"segment": a.code, "errors": ["major"]}),
    "extra_key": lambda a: json.dumps({"segment": a.code, "errors": [], "score": 0}),
    "double_key": lambda a: f'{{"segment": "{a.code}", "errors": [{json.dumps(error())}], "errors": []}}',
    "key_of_error_missing": lambda a: json.dumps({"segment": a.code, "errors": [{"severity": "major"}]}),
    "quote_is_number": lambda a: json.dumps({"segment": a.code, "errors": [error(quote=5)]}),
    "nan": lambda a: f'{{"segment": "{a.code}", "errors": NaN}}',
    "deep": lambda a: "[" * 100_000,
    "unknown_severity": lambda a: a.reply(errors=[error("catastrophic", a.mt[:3])]) if a.json else "Fatal:\nno-error",
    "quote_of_nothing": lambda a: a.reply(errors=[error(quote="words that neither text has")]),
    "empty_quote": lambda a: a.reply(errors=[error(quote="")]),
    "open_think": lambda a: "<think>Let me see. " + a.reply(errors=[]),
    "only_think": lambda a: f"<think>{a.reply(errors=[])}</think>",
    "open_fence": lambda a: "```json\n" + a.reply(errors=[]),
    "two_fences": lambda a: f"```json\n{a.reply(errors=[])}\n```\n```json\n{a.reply(errors=[])}\n```",
    "endless": lambda a: a.reply(errors=[error(quote=a.mt[:1])] * 60),
    "echo": lambda a: a.mt,
    "headings_missing": lambda a: f"Segment: {a.code}\nMajor:\nno-error",
    "headings_twice": lambda a: f"Segment: {a.code}\nCritical:\nMajor:\nMinor:\nCritical:\nMajor:\nMinor:",
    "headings_and_prose": lambda a: f"Segment: {a.code}\nCritical:\nno-error\nMajor:\nVery good!\nMinor:\nno-error",
}
# How a reply is built around a good content: also no annotation.
PAYLOADS: dict[str, Callable[[Asked], object]] = {
    "finish_length": lambda a: completion(a.reply(), "length"),
    "finish_content_filter": lambda a: completion(a.reply(), "content_filter"),
    "finish_tool_calls": lambda a: completion(None, "tool_calls", tool_calls=[{"id": "1"}]),
    "finish_null": lambda a: completion(a.reply(), None),
    "refusal_field": lambda a: completion(a.reply(errors=[]), refusal="I cannot do that."),
    "no_choices": lambda a: {"id": "x"},
    "choices_empty": lambda a: {"choices": []},
    "choices_null": lambda a: {"choices": None},
    "choice_null": lambda a: {"choices": [None]},
    "message_missing": lambda a: {"choices": [{"finish_reason": "stop"}]},
    "message_text": lambda a: {"choices": [{"finish_reason": "stop", "message": a.reply()}]},
    "error_object": lambda a: {"error": {"message": "overloaded", "code": 503}},
    "list": lambda a: [completion(a.reply())],
    "string": lambda a: a.reply(errors=[]),
}
# Bytes, connections and statuses; written by the handler.
WIRE = (
    "html",
    "not_json",
    "half_json",
    "bad_utf8",
    "bad_gzip",
    "gzip_bomb",
    "huge",
    "empty_body",
    "redirect",
    "hang",
    "drip_headers",
    "drip_body",
    "reset",
    "close",
    "short_body",
    "no_http",
    "wait_an_hour",
    "wait_till_2999",
)
FAILURES = (*CONTENTS, *PAYLOADS, *WIRE, *(f"status_{status}" for status in STATUSES))
VARIANTS: dict[str, Callable[[Asked], object]] = {
    "plain": lambda a: completion(a.reply()),
    "parts": lambda a: completion([{"type": "text", "text": part} for part in (a.reply()[:9], a.reply()[9:])]),
    "fenced": lambda a: completion(f"```json\n{a.reply()}\n```"),
    "fenced_one_line": lambda a: completion(f"``` {a.reply()}```"),
    "thought": lambda a: completion(f"<think>Is it {{}}? No.</think>\n\n{a.reply()}"),
    "blanks": lambda a: completion(f"\n  {a.reply()}\n\n"),
    "null_refusal": lambda a: completion(a.reply(), refusal=None, tool_calls=None),
    "capital_severity": lambda a: completion(a.reply().replace('"major"', '"Major"')),
}


class JudgeServer:
    """Serves on 127.0.0.1 while entered. `bodies`: requests so far; `keys`: their Authorization headers;
    `most_at_once`: requests that were in the server at the same time.

    marks: (source, translation) → errors as dicts of severity and quote (category, before); None: cannot tell.
    mode: a name out of FAILURES or VARIANTS, or a function from the request's number (from 0) to such a name.
    json_status: answer requests with a response_format with this status (a server without structured output).
    delay: seconds before each answer. port: 0 takes a free one; OSError where it is taken.
    """

    def __init__(
        self,
        marks: Marks = lambda src, mt: [],
        mode="plain",
        json_status: int | None = None,
        delay: float = 0.0,
        port: int = 0,
    ):
        self.marks, self.mode, self.json_status, self.delay = marks, mode, json_status, delay
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.most_at_once = self._now = 0
        self._lock, self._ending = threading.Lock(), threading.Event()
        handler = type("Handler", (_Handler,), {"judge": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: _Handler, body: dict) -> None:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(handler.headers.get("Authorization"))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self._ending.wait(self.delay)
            if self.json_status and "response_format" in body:
                return handler.send(self.json_status, b'{"error": "response_format is not supported"}')
            mode = self.mode(number) if callable(self.mode) else self.mode
            asked = Asked(body, self.marks)
            if mode in VARIANTS or mode in PAYLOADS or mode in CONTENTS:
                make = VARIANTS.get(mode) or PAYLOADS.get(mode)
                payload = make(asked) if make else completion(CONTENTS[mode](asked))
                handler.send(200, json.dumps(payload).encode())
            elif mode.startswith("status_"):
                good = json.dumps(completion(asked.reply(errors=[]))).encode()  # an error page may look like an answer
                handler.send(int(mode[7:]), good)
            else:
                self._on_the_wire(handler, mode, json.dumps(completion(asked.reply(errors=[]))).encode())
        finally:
            with self._lock:
                self._now -= 1

    def _on_the_wire(self, handler: _Handler, mode: str, good: bytes) -> None:
        plain = {
            "html": (200, HTML, {"Content-Type": "text/html"}),
            "not_json": (200, b"OK", {}),
            "half_json": (200, good[:-20], {}),
            "bad_utf8": (200, b"\xff\xfe" + good, {}),
            "empty_body": (200, b"", {}),
            "bad_gzip": (200, good, {"Content-Encoding": "gzip"}),
            "huge": (200, b" " * 6_000_000 + good, {}),
            "gzip_bomb": (200, gzip.compress(b" " * 30_000_000 + good), {"Content-Encoding": "gzip"}),
            "redirect": (307, good, {"Location": self.url + "/chat/completions"}),
            "wait_an_hour": (429, good, {"Retry-After": "3600"}),
            "wait_till_2999": (503, good, {"Retry-After": "Wed, 01 Jan 2999 00:00:00 GMT"}),
        }
        if mode in plain:
            return handler.send(*plain[mode])
        raw = handler.connection
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n".encode()
        if mode == "hang":
            self._ending.wait(30)
        elif mode in ("drip_headers", "drip_body"):  # a byte now and then: no single read ever times out
            stream = head + good if mode == "drip_headers" else good
            if mode == "drip_body":
                raw.sendall(head)
            for byte in stream:
                if self._ending.wait(0.1):
                    break
                raw.sendall(bytes([byte]))
        elif mode == "short_body":
            raw.sendall(head + good[: len(good) // 2])
        elif mode == "no_http":
            raw.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        elif mode == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True
        raw.close()


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.judge.answer(self, body)

    def send(self, status: int, body: bytes, headers: dict | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the client has left
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed on purpose
            super().finish()

    def log_message(self, *_) -> None:
        pass
