"""Many requests to one OpenAI-compatible chat endpoint, within a deadline. No torch.

Retried is only what may pass by itself (connection, 408, 425, 429, 5xx), with Retry-After obeyed. A circuit breaker
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
UNSUPPORTED = frozenset({400, 422})  # what servers say to a response_format they do not know
FINAL = frozenset({401, 402, 403, 404, 405, 407, 410})  # as true for the next question as for this one
MAX_BODY = 4 << 20  # bytes of one reply; a longer one is not read
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds before the first retry, and at most before any

Messages = Sequence[Mapping[str, str]]
# Forms (name, messages, response_format), best first: where the server refuses one with 400 or 422, the next is asked.
Question = Sequence[tuple[str, Messages, Mapping | None]]


@dataclass(frozen=True)
class Answer:
    """`text` of a complete answer, or None and the `failure` in one word; `form`: "json" or "text", as requested."""

    text: str | None
    failure: str | None = None
    form: str = "text"


@dataclass(eq=False)
class _Failed(Exception):
    """One request that gave no answer. `outage`: the server, not the question, is the reason; `pause`: in seconds."""

    reason: str
    retry: bool = False
    outage: bool = False
    pause: float | None = None


@dataclass
class ChatEndpoint:
    """An OpenAI-compatible endpoint and the model to ask there.

    Raises ConfigError for a malformed address, or a key variable that is not set.
    """

    url: str  # the API's base, as http://host:8000/v1; it may include /chat/completions
    model: str  # the endpoint's name for the model
    api_key_env: str | None = None  # environment variable with the key, which is kept in the client's header only
    body: Mapping[str, Any] = field(default_factory=dict)  # further fields of every request (temperature …)
    concurrency: int = 8  # most requests at once
    timeout: float = 60.0  # seconds for one request, its whole reply included
    deadline: float = 180.0  # seconds for one call of `ask`, retries included
    retries: int = 3  # further attempts per question
    breaker: int = 8  # consecutive failures after which the server is down, and the next `ask` begins with one question
    argument: str = "endpoint"  # the setting that names the endpoint, for messages

    def __post_init__(self) -> None:
        self.url = _completions_url(self.argument, self.url)
        self.stats: Counter[str] = Counter()
        self._failures, self._resume_at = 0, 0.0
        self._random = random.Random()  # pauses only: the global generator must stay as it is
        self._key()

    @property
    def down(self) -> bool:
        """Has the circuit breaker opened?"""
        return self._failures >= self.breaker

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question, in order, after at most `deadline` seconds."""
        self.stats = Counter()
        return _run(self._ask(questions)) if questions else []

    def _client(self) -> httpx.AsyncClient:
        key = self._key()
        return httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout,
            limits=httpx.Limits(max_connections=self.concurrency),
            follow_redirects=False,
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),  # no proxy to ourselves
        )

    def _key(self) -> str | None:
        if self.api_key_env is None:
            return None
        name = self.api_key_env
        key = os.environ.get(name, "").strip()
        if not key and not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):  # perhaps a key: not repeated
            raise ConfigError(f"{self.argument}: api_key_env takes the name of an environment variable, never a key")
        if not key:
            raise ConfigError(f"{self.argument}: the environment variable {name} is not set; export the key in it")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(f"{self.argument}: {name} holds more than a key (spaces or control characters)")
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
            if self.down:  # one question finds out whether it is back
                self._failures = self.breaker - 1
                first = [await within(questions[0])]
            return [*first, *await asyncio.gather(*map(within, questions[len(first) :]))]

    async def _one(self, client: httpx.AsyncClient, forms: Question, gate: asyncio.Semaphore, end: float) -> Answer:
        """Ask one question in its forms, with retries, until it is answered or will not be."""
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
                if failed.reason == "http_429":  # the limit is everybody's
                    self._resume_at = max(self._resume_at, time.monotonic() + pause)
            await asyncio.sleep(pause)

    async def _wait_for_turn(self, end: float) -> None:
        """Raise when the server has been found down; sleep out a rate limit."""
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
            self._failures = 0  # it answers, if not what was hoped for

    async def _post(self, client: httpx.AsyncClient, messages: Messages, response_format: Mapping | None) -> str:
        """One request to the text of its answer; raises _Failed."""
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
        except (httpx.TransportError, OSError):  # from None: requests carry the key in their headers
            raise _Failed("connection", retry=True, outage=True) from None
        except httpx.HTTPError:
            raise _Failed("protocol", outage=True) from None
        return read_completion(bytes(raw))

    def check(self, question: Question) -> Answer:
        """Ask one question, and raise where the endpoint cannot be used at all.

        An invalid answer, and 400 or 422, may be the question's fault: they are returned. Raises ConfigError for a
        refused key, an unknown model or path and any other permanent 4xx; MissingService for no connection, no chat
        endpoint, or one that takes no request now (429).
        """
        (answer,) = self.ask([question])
        where, reason = f"{self.argument}: {self.url}", answer.failure or ""
        if reason in ("http_401", "http_403"):
            name = f"the key in {self.api_key_env}" if self.api_key_env else "requests without a key (api_key_env)"
            raise ConfigError(f"{where} refuses {name} ({reason[5:]})")
        if reason in ("http_404", "http_405"):
            raise ConfigError(f"{where} does not serve model {self.model!r}, or is not an OpenAI-compatible API")
        if reason in ("not_json", "html", "protocol") or reason.startswith("http_3"):
            raise MissingService(
                f"{where} answers, but not as an OpenAI-compatible API ({reason}); give its base, as http://host:8000/v1"
            )
        if reason in ("connection", "timeout", "deadline") or reason.startswith("http_5"):
            raise MissingService(f"{where} cannot be reached ({reason}): start the server, or turn this scorer off")
        if reason.startswith("http_") and int(reason[5:]) not in UNSUPPORTED:
            said = status_line(reason)
            if int(reason[5:]) in RETRIED:
                raise MissingService(f"{where} takes no requests now ({said}): wait, or have its limit raised")
            raise ConfigError(f"{where} refuses requests ({said}): its own log or provider says why")
        return answer


def status_line(reason: str) -> str:
    """The failure "http_N" as people read it.

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
    """Seconds a Retry-After header asks for (RFC 9110: a number or a date); None without a usable one."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def read_completion(raw: bytes) -> str:
    """The text of a chat completion that ended by itself; raises _Failed naming what it is instead."""
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
        # Not repeated here: such parts hold keys.
        raise ConfigError(f"{argument}: give the address without user, password or query; keys go into a variable")
    if not valid:
        raise ConfigError(f"{argument}: {url!r} is not the address of an API; give its base, as http://host:8000/v1")
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def _run(work: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
    """The result of a coroutine, run on a thread of its own: the caller may have a running loop, as a notebook has.

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
