"""Send many requests to one OpenAI-compatible chat endpoint, within a deadline. No torch.

Only failures that may be temporary are retried (connection, 408, 425, 429, 5xx), obeying Retry-After. A circuit breaker
limits the calls to a server that is down, and one call of `ask` never lasts longer than its deadline. Source: ours.
"""

import asyncio
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from rl_nmt.errors import ConfigError, MissingService

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
UNSUPPORTED = frozenset({400, 422})  # a server's reply to an unknown response_format
FINAL = frozenset({401, 402, 403, 404, 405, 407, 410})  # every other question would fail alike
MAX_BODY = 4 << 20  # most bytes of one reply; reading stops there
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds before the first retry; longest pause before any

Messages = Sequence[Mapping[str, str]]
# Forms (name, messages, response_format), best first: if the server refuses one with 400 or 422, the next is tried.
Question = Sequence[tuple[str, Messages, Mapping | None]]


@dataclass(frozen=True)
class Answer:
    """`text`: a complete answer, or None with `failure`, a one-word reason. `form`: "json" or "text", as requested."""

    text: str | None
    failure: str | None = None
    form: str = "text"


@dataclass(eq=False)
class _Failed(Exception):
    """A request without an answer. `outage`: caused by the server, not the question; `pause`: wait, in seconds."""

    reason: str
    retry: bool = False
    outage: bool = False
    pause: float | None = None


@dataclass
class ChatEndpoint:
    """An OpenAI-compatible endpoint and its model.

    Raises ConfigError for a malformed address, or a key variable that is not set.
    """

    url: str  # the API's base, e.g. http://host:8000/v1; it may include /chat/completions
    model: str  # the endpoint's name for the model
    api_key_env: str | None = None  # environment variable with the key; the key is kept only in the client's header
    body: Mapping[str, Any] = field(default_factory=dict)  # further fields of every request (temperature …)
    concurrency: int = 8  # most requests at once
    timeout: float = 60.0  # seconds for one request, its whole reply included
    deadline: float = 180.0  # seconds for one call of `ask`, retries included
    retries: int = 3  # further attempts per question
    breaker: int = 8  # consecutive failures after which the server counts as down; then `ask` starts with one question
    argument: str = "endpoint"  # the setting that names the endpoint, for messages

    def __post_init__(self) -> None:
        self.url = _completions_url(self.argument, self.url)
        self.stats: Counter[str] = Counter()
        self._failures, self._resume_at = 0, 0.0
        self._random = random.Random()  # for pauses: the global generator must not change
        self._key()

    @property
    def down(self) -> bool:
        """Whether the circuit breaker is open."""
        return self._failures >= self.breaker

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one answer per question, in order, after at most `deadline` seconds."""
        self.stats = Counter()
        return _run(self._ask(questions)) if questions else []

    def _client(self) -> httpx.AsyncClient:
        key = self._key()
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout,
            limits=httpx.Limits(max_connections=self.concurrency),
            follow_redirects=False,
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy for localhost
        )

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        name = self.api_key_env
        key = os.environ.get(name, "").strip()
        if not key and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # may be a key: do not print it
            raise ConfigError(f"{self.argument}: api_key_env must be the name of an environment variable, not the key")
        if not key:
            raise ConfigError(f"{self.argument}: api_key_env: {name} is not set; export it with the key as its value")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"{self.argument}: api_key_env: {name} has spaces or control characters; remove them")
        return key

    async def _ask(self, questions: Sequence[Question]) -> list[Answer]:
        end = time.monotonic() + self.deadline
        self._resume_at = 0.0
        gate = asyncio.Semaphore(self.concurrency)

        async def within(question: Question) -> Answer:
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    return await self._one(client, question, gate, end)
            except TimeoutError:
                return Answer(None, "deadline")

        async with self._client() as client:
            first = []
            if self.down:  # send one question to see whether the server is back
                self._failures = self.breaker - 1
                first = [await within(questions[0])]
            return [*first, *await asyncio.gather(*map(within, questions[len(first) :]))]

    async def _one(self, client: httpx.AsyncClient, forms: Question, gate: asyncio.Semaphore, end: float) -> Answer:
        """Send one question in its forms, with retries, until it is answered or has finally failed."""
        attempt, form = 0, 0
        while True:
            name, messages, response_format = forms[form]
            try:
                async with gate:
                    await self._wait_for_turn(end)
                    text = await self._post(client, messages, response_format)
                self._failures = 0
                return Answer(text, None, name)
            except _Failed as failed:
                self._count(failed)
                if failed.reason in ("http_400", "http_422") and form + 1 < len(forms):
                    form += 1
                    continue
                pause = failed.pause
                if pause is None:
                    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * self._random.uniform(0.5, 1.0)
                late = time.monotonic() + pause >= end
                if not failed.retry or self.down or attempt >= self.retries or late:
                    return Answer(None, failed.reason, name)
                attempt += 1
                self.stats["retries"] += 1
                if failed.reason == "http_429":  # the rate limit holds for all questions
                    self._resume_at = max(self._resume_at, time.monotonic() + pause)
            await asyncio.sleep(pause)

    async def _wait_for_turn(self, end: float) -> None:
        """Raise if the server is down; wait for a rate limit to end."""
        while (wait := self._resume_at - time.monotonic()) > 0 and not self.down:
            if time.monotonic() + wait >= end:
                raise _Failed("http_429")
            await asyncio.sleep(wait)
        if self.down:
            raise _Failed("breaker_open")

    def _count(self, failed: _Failed) -> None:
        if failed.reason == "breaker_open":
            return
        if failed.outage:
            self._failures += 1
        elif failed.reason.startswith("http_") and int(failed.reason[5:]) in FINAL:
            self._failures = self.breaker
        else:
            self._failures = 0  # the server responds, even if not with an answer

    async def _post(self, client: httpx.AsyncClient, messages: Messages, response_format: Mapping | None) -> str:
        """Send one request and return the text of its answer; raises _Failed."""
        body = {"model": self.model, "messages": messages, **self.body}
        if response_format is not None:
            body["response_format"] = response_format
        self.stats["calls"] += 1
        try:
            async with asyncio.timeout(self.timeout), client.stream("POST", self.url, json=body) as reply:
                _check_status(reply)
                raw = bytearray()
                async for chunk in reply.aiter_bytes():
                    raw += chunk
                    if len(raw) > MAX_BODY:
                        raise _Failed("too_long")
        except (TimeoutError, httpx.TimeoutException):
            raise _Failed("timeout", retry=True, outage=True) from None
        except httpx.DecodingError:
            raise _Failed("not_json", outage=True) from None
        except (httpx.TransportError, OSError):  # from None: a request's headers contain the key
            raise _Failed("connection", retry=True, outage=True) from None
        except httpx.HTTPError:
            raise _Failed("protocol", outage=True) from None
        return read_completion(bytes(raw))

    def check(self, question: Question) -> Answer:
        """Send one question, and raise if the endpoint cannot be used at all.

        An invalid answer, 400 and 422 are returned, since the question may be the cause. Raises ConfigError for a
        refused key, an unknown model or path and any other permanent 4xx; MissingService for no connection, no chat
        endpoint, or one that accepts no requests now (429).
        """
        (answer,) = self.ask([question])
        where, reason = f"{self.argument}: {self.url}", answer.failure or ""
        if reason in ("http_401", "http_403"):
            name = f"the key in {self.api_key_env}" if self.api_key_env else "requests without a key (api_key_env)"
            raise ConfigError(f"{where} refuses {name} ({reason[5:]})")
        if reason in ("http_404", "http_405"):
            raise ConfigError(f"{where} has no model {self.model!r}, or is not an OpenAI-compatible API; correct one")
        if reason in ("not_json", "html", "protocol") or reason.startswith("http_3"):
            raise MissingService(
                f"{where} is not an OpenAI-compatible API ({reason}); give the API's base, e.g. http://host:8000/v1"
            )
        if reason in ("connection", "timeout", "deadline") or reason.startswith("http_5"):
            raise MissingService(f"{where} cannot be reached ({reason}); start the server, or turn this scorer off")
        if reason.startswith("http_") and int(reason[5:]) not in UNSUPPORTED:
            said = status_line(reason)
            if int(reason[5:]) in RETRIED:
                raise MissingService(f"{where} accepts no requests now ({said}); wait, or have the rate limit raised")
            raise ConfigError(f"{where} refuses requests ({said}); see the server's log or ask the provider")
        return answer


def status_line(reason: str) -> str:
    """Return the failure "http_N" as number and reason phrase.

    >>> status_line("http_429"), status_line("http_499")
    ('429 Too Many Requests', '499')
    """
    number = int(reason.removeprefix("http_"))
    return f"{number} {httpx.codes.get_reason_phrase(number)}".strip()


def _check_status(reply: httpx.Response) -> None:
    status = reply.status_code
    if status in RETRIED:
        raise _Failed(f"http_{status}", retry=True, outage=status != 429, pause=_retry_after(reply.headers))
    if status != 200:
        raise _Failed(f"http_{status}", outage=status >= 500 or 300 <= status < 400)
    if "html" in reply.headers.get("content-type", "").lower():
        raise _Failed("html", outage=True)


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110: a number or a date); None without a usable one."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def read_completion(raw: bytes) -> str:
    """Return the text of a chat completion with finish_reason "stop"; raises _Failed with the reason otherwise."""
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        raise _Failed("not_json", outage=True) from None
    try:
        choice = reply["choices"][0]
        message, reason = choice.get("message"), choice.get("finish_reason")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise _Failed("no_choices") from None
    if not isinstance(message, dict):
        raise _Failed("no_message")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts]
    if message.get("refusal") or "refusal" in kinds:
        raise _Failed("refusal")
    if reason != "stop":
        raise _Failed(f"finish_{reason if reason in ('length', 'content_filter', 'tool_calls') else 'other'}")
    texts = [part.get("text") for part in parts] if set(kinds) == {"text"} else []
    if not all(isinstance(text, str) for text in texts) or not "".join(texts).strip():
        raise _Failed("no_content")
    return "".join(texts)


def _completions_url(argument: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if parts.username or parts.password or parts.query or parts.fragment:
        # The address is not printed: such parts contain keys.
        raise ConfigError(f"{argument}: remove user, password and query from the address; set api_key_env for a key")
    if not valid:
        raise ConfigError(f"{argument}: {url!r} is not a valid address; give the API's base, e.g. http://host:8000/v1")
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def _run(work: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
    """Return a coroutine's result, run on a thread of its own: the caller may have a running loop, as in a notebook.

    The loop is closed without waiting for its helper threads: a name lookup may hang in one.
    """
    found: Future[list[Answer]] = Future()

    def run() -> None:
        loop = asyncio.new_event_loop()
        try:
            found.set_result(loop.run_until_complete(work))
        except BaseException as error:
            found.set_exception(error)
        finally:
            loop.close()

    threading.Thread(target=run, name="chat-endpoint", daemon=True).start()
    return found.result()
