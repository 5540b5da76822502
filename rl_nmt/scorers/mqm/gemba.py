"""Score with an LLM judge behind any OpenAI-compatible endpoint, on the scale of GEMBA-MQM.

The judge lists the errors of a translation with severity, category and a quote. Critical counts 25, major 5,
minor 1; the five worst errors count, at most 25 together, negated (Kocmi and Federmann, arXiv 2310.13988). The
prompt, the worked examples and the rules for accepting a reply are ours:

- A reply counts only if it is complete and entirely in the requested form; otherwise the score is None. In the
  original, an empty or refused reply counts as no errors, the best possible score.
- Every reply repeats a code that is computed from the segment, so that a list of errors written into a translation
  cannot pass as the judge's.
- A quote that occurs in neither text means that the judge annotated something else: None.
"""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.models.batching import distinct
from rl_nmt.models.loading import versions
from rl_nmt.scorers.base import Scores, Segment, Span, utf8
from rl_nmt.scorers.mqm.endpoint import ChatEndpoint, status_line
from rl_nmt.scorers.mqm.form import EXAMPLES, WEIGHTS, MqmError, Unparsable, messages, parse, question, segment_code

COUNTED, WORST = 5, 25
FORMS = {"auto": ("json", "text"), "json": ("json",), "text": ("text",)}


def judge(errors: Sequence[MqmError], src: str, mt: str) -> tuple[float, list[Span]]:
    """Return the score in [-25, 0], and spans in `mt` of errors with exactly one place there (never for omissions).

    Raises Unparsable("unfounded") for a quote that occurs in neither text.
    """
    weighed, spans = [], []
    for error in errors:
        category = error.category.strip().lower()
        severity = "critical" if "non-translation" in category else error.severity
        weighed.append(WEIGHTS[severity])
        place = _place(error, category, src, mt)
        if place is not None:
            spans.append(Span(*place, severity, 1.0, error.category.strip()))
    total = sum(sorted(weighed, reverse=True)[:COUNTED])
    return -float(min(WORST, total)), spans


def _place(error: MqmError, category: str, src: str, mt: str) -> tuple[int, int] | None:
    """Return where in `mt` the error is; None if its quote is from the source or occurs in several places."""
    if "omission" in category:
        return None
    quote = unicodedata.normalize("NFC", error.quote).strip()
    found = _occurrences(quote, mt)
    if not found:
        quote = quote.strip("\"'“”‘’«»… ").removesuffix("...").removeprefix("...").strip()
        found = _occurrences(quote, mt)
    if found:
        if len(found) > 1:
            before = unicodedata.normalize("NFC", error.before).strip()
            found = [at for at in found if before and mt[:at].rstrip().endswith(before)]
        return (found[0], found[0] + len(quote)) if len(found) == 1 else None
    if "non-translation" in category and mt:
        return 0, len(mt)
    if not (quote and quote in src):
        raise Unparsable("unfounded")
    return None


def _occurrences(quote: str, text: str) -> list[int]:
    """Return the starts of `quote` in `text`, overlapping ones too: exact matches, or else regardless of case."""
    for needle, hay in ((quote, text), (quote.lower(), text.lower())):
        if needle and needle in hay and len(hay) == len(text) and len(needle) == len(quote):
            return [i for i in range(len(hay)) if hay.startswith(needle, i)]
    return []


def load_gemba_mqm(
    endpoint: str,
    model: str,
    *,
    source_language: str = "English",
    target_language: str = "Tamil",
    form: str = "auto",
    max_tokens: int = 1024,
    check: bool = True,
    argument: str = "mqm_endpoint",
    **client,
) -> "GembaMqmScorer":
    """Return an LLM judge behind an OpenAI-compatible endpoint, after a test on one segment.

    Args:
        endpoint: base address, e.g. http://host:8000/v1.
        model: the endpoint's name for the model.
        source_language, target_language: English names for the prompt.
        form: "json" (response_format json_schema), "text", or "auto": JSON if the server supports it, else text.
        max_tokens: longest reply, thoughts included; the temperature is 0.
        check: send one request now.
        argument: the setting that names the endpoint, for messages; max_tokens is next to it.
        client: api_key_env, concurrency, timeout, deadline, retries, breaker of `ChatEndpoint`.

    Raises ConfigError (bad settings, no key, a refused key or request, an unknown model, or one whose reply is not in
    the requested form) and MissingService (no connection, another kind of API, or it accepts no requests now).
    """
    if form not in FORMS:
        raise ConfigError(f"form: {form!r} is unknown; use auto, json or text")
    body = {"temperature": 0.0, "max_tokens": max_tokens}
    chat = ChatEndpoint(endpoint, model, body=body, argument=argument, **client)
    scorer = GembaMqmScorer(chat, source_language, target_language, form)
    if check:
        scorer.check()
    return scorer


class GembaMqmScorer:
    """An LLM judge behind an endpoint; see `load_gemba_mqm`. A `Scorer` with spans, from -25 (worst) to 0.

    `stats` describes the last call: rows, distinct rows, calls, retries, rows without a score (`failed`) and these by
    reason (`failed/timeout` …).
    """

    range = (-float(WORST), 0.0)
    higher_is_better = True

    def __init__(self, client: ChatEndpoint, source: str, target: str, form: str = "auto"):
        self.client, self.source, self.target, self.form = client, source, target, form
        self.name = client.model
        self._forms = FORMS[form]
        self.stats: dict[str, float] = {}

    def check(self) -> None:
        """Score one worked example. Raises ConfigError or MissingService if that fails."""
        source, target, src, mt, _ = EXAMPLES[0]
        code, reason, url = segment_code(src, mt), "", self.client.url
        for form in self._forms:
            answer = self.client.check([question(form, source, target, src, mt)])
            try:
                parse(form, answer.text or "", code)
            except Unparsable as error:
                reason = answer.failure or str(error)
                continue
            self._use_from(form)
            return
        argument = self.client.argument
        limit = ".".join([*argument.split(".")[:-1], "max_tokens"])
        if reason == "finish_length":
            most = self.client.body["max_tokens"]
            raise ConfigError(f"{limit}: {most} is too low: {self.name}'s reply was cut off ({reason}); raise it")
        if reason.startswith("http_"):
            raise ConfigError(
                f"{argument}: {url} refuses requests for {' and '.join(self._forms)} ({status_line(reason)}); its log "
                f"names the field; {limit} may be too high"
            )
        raise ConfigError(
            f"{argument}: {self.name} does not answer in the requested form ({reason}); use a model that follows "
            "instructions"
        )

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return an MQM score and spans per segment, in order; None for both without a valid annotation.

        The judge sees no references. An empty translation is a non-translation: -25, without a call.
        """
        keys, index = distinct((utf8(s.src), utf8(s.mt)) for s in segments)
        results: list[Any] = [None if mt.strip() else (-float(WORST), []) for _, mt in keys]
        todo = [i for i, result in enumerate(results) if result is None]
        questions = [[question(form, self.source, self.target, *keys[i]) for form in self._forms] for i in todo]
        reasons: dict[int, str] = {}
        for i, answer in zip(todo, self.client.ask(questions), strict=True):
            try:
                if answer.text is None:
                    raise Unparsable(answer.failure)
                results[i] = judge(parse(answer.form, answer.text, segment_code(*keys[i])), *keys[i])
                self._use_from(answer.form)
            except Unparsable as error:  # None: the original counts it as no errors, the best possible score
                reasons[i] = str(error)
        failed = Counter(reasons[i] for i in index if i in reasons)
        self.stats = {
            "rows": len(index),
            "distinct": len(keys),
            "calls": self.client.stats["calls"],
            "retries": self.client.stats["retries"],
            "failed": sum(failed.values()),
            **{f"failed/{reason}": n for reason, n in failed.items()},
        }
        found = [results[i] or (None, None) for i in index]
        return Scores([result[0] for result in found], [result[1] for result in found])

    def signature(self) -> dict[str, dict]:
        """See `Scorer.signature`. It never contains the key, and the address only as part of the environment."""
        prompt = json.dumps([messages(form, "", "", "", "") for form in FORMS[self.form]])
        identity = {
            "model": self.name,
            "class": "gemba_mqm",
            "form": self.form,
            "languages": [self.source, self.target],
            "body": self.client.body,
            "prompt": hashlib.sha256(prompt.encode()).hexdigest()[:16],
        }
        return {"identity": identity, "environment": versions("httpx") | {"endpoint": self.client.url}}

    def _use_from(self, form: str) -> None:
        """Drop the forms before this one, which the server refused."""
        self._forms = self._forms[self._forms.index(form) :]
