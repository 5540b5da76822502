"""A language model as MQM annotator, over any OpenAI-compatible endpoint: GEMBA-MQM's idea and scale.

The judge lists the errors of a translation with severity, category and a quote. Critical counts 25, major 5,
minor 1; the five worst errors count, at most 25 together, negated (Kocmi and Federmann, arXiv 2310.13988). The
prompt, the worked examples and the rules for accepting a reply are ours:

- A reply counts only if it is complete and entirely in the asked form; anything else is None. In the original an
  empty or refused reply has no errors, which is the best score there is.
- Every reply repeats a code that is drawn from the segment, so that a list of errors written into a translation
  cannot pass for the judge's.
- Quotes that occur in neither text mean that the judge speaks of something else: None.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.models.batching import distinct
from rl_nmt.models.loading import versions
from rl_nmt.scorers.base import Scores, Segment, Span
from rl_nmt.scorers.mqm.endpoint import Answer, ChatEndpoint, status_line
from rl_nmt.scorers.mqm.form import (
    EXAMPLES,
    RESPONSE_FORMAT,
    WEIGHTS,
    MqmError,
    Unparsable,
    messages,
    parse,
    segment_code,
)

COUNTED, WORST = 5, 25
FORMS = {"auto": ("json", "text"), "json": ("json",), "text": ("text",)}
SETTINGS = {"temperature": 0.0, "max_tokens": 1024}


# ---------------------------------------------------------------------- errors to a score and spans


def judge(errors: Sequence[MqmError], src: str, mt: str) -> tuple[float, list[Span], int]:
    """Score in [-25, 0], spans in `mt`, and how many errors have no place there (omissions, repeated quotes).

    Raises Unparsable("unfounded") for a quote that occurs in neither text.
    """
    weighed, spans, unplaced = [], [], 0
    for error in errors:
        category = error.category.strip().lower()
        severity = "critical" if "non-translation" in category else error.severity
        weighed.append(WEIGHTS[severity])
        place = _place(error, category, src, mt)
        if place is None:
            unplaced += 1
        else:
            spans.append(Span(*place, severity, 1.0, error.category.strip()))
    total = sum(sorted(weighed, reverse=True)[:COUNTED])
    return -float(min(WORST, total)), spans, unplaced


def _place(error: MqmError, category: str, src: str, mt: str) -> tuple[int, int] | None:
    """Where in `mt` the error is; None where its quote is the source's, or may be one of several places."""
    if "omission" in category:
        return None
    quote = unicodedata.normalize("NFC", error.quote).strip()
    found = _occurrences(quote, mt)
    if not found:
        quote = quote.strip("\"'“”‘’«»… ").removesuffix("...").removeprefix("...").strip()
        found = _occurrences(quote, mt)
    if len(found) > 1:
        before = unicodedata.normalize("NFC", error.before).strip()
        found = [at for at in found if before and mt[:at].rstrip().endswith(before)]
        return (found[0], found[0] + len(quote)) if len(found) == 1 else None
    if found:
        return found[0], found[0] + len(quote)
    if "non-translation" in category and mt:
        return 0, len(mt)
    if not (quote and quote in src):
        raise Unparsable("unfounded")
    return None


def _occurrences(quote: str, text: str) -> list[int]:
    """Starts of `quote` in `text`, overlapping ones too: exactly, or else regardless of case."""
    for needle, hay in ((quote, text), (quote.lower(), text.lower())):
        if needle and needle in hay and len(hay) == len(text) and len(needle) == len(quote):
            return [i for i in range(len(hay)) if hay.startswith(needle, i)]
    return []


# ---------------------------------------------------------------------- the scorer


def load_gemba_mqm(
    endpoint: str,
    model: str,
    *,
    source_language: str = "English",
    target_language: str = "Tamil",
    api_key_env: str | None = None,
    form: str = "auto",
    body: Mapping[str, Any] | None = None,
    cache_size: int = 10_000,
    check: bool = True,
    argument: str = "mqm_endpoint",
    tokens_argument: str = "body: max_tokens",
    **limits,
) -> GembaMqmScorer:
    """A judge behind an OpenAI-compatible endpoint, asked one segment to see that it can judge.

    Args:
        endpoint: base address, as http://host:8000/v1.
        model: the endpoint's name for the model.
        source_language, target_language: English names for the prompt.
        api_key_env: environment variable that holds the key; None sends none.
        form: "json" (response_format json_schema), "text", or "auto": JSON where the server takes it, else text.
        body: request fields over the defaults temperature 0 and max_tokens 1024; None as a value leaves one out.
        cache_size: judged segments remembered, so that equal text is paid for once; 0: none, not even the last.
        check: ask one question now.
        argument: the setting that names the endpoint, for messages.
        tokens_argument: the setting that gives max_tokens, for messages.
        limits: concurrency, timeout, deadline, retries, breaker of `ChatEndpoint`.

    Raises:
        ConfigError: bad settings, no key, a refused key or request, an unknown model, or one that does not keep to
            the form.
        MissingService: nothing there, no such API, or one that takes no requests now.
    """
    if form not in FORMS:
        raise ConfigError(f"form: {form!r} is unknown; use auto, json or text")
    merged = SETTINGS | dict(body or {})
    fields = {name: value for name, value in merged.items() if value is not None}
    client = ChatEndpoint(endpoint, model, api_key_env=api_key_env, body=fields, argument=argument, **limits)
    scorer = GembaMqmScorer(client, source_language, target_language, form, cache_size)
    if check:
        scorer.check(tokens_argument)
    return scorer


class GembaMqmScorer:
    """A judge behind an endpoint; see `load_gemba_mqm`. A `Scorer` with spans, from -25 (worst) to 0.

    `stats` describes the last call: rows, distinct rows, cached ones, calls, retries, errors without a place
    (`unplaced`), rows without a score (`failed`) and these by reason (`failed/timeout` …). `reasons` has one per
    row, None for a scored one.
    """

    range = (-float(WORST), 0.0)
    higher_is_better = True

    def __init__(self, client: ChatEndpoint, source: str, target: str, form: str = "auto", cache_size: int = 10_000):
        self.client, self.source, self.target, self.form = client, source, target, form
        self.name = client.model
        self.cache_size = cache_size
        self._cache: OrderedDict[tuple[str, str], tuple[float, list[Span], int]] = OrderedDict()
        self._forms = FORMS[form]
        self.stats: dict[str, float] = {}
        self.reasons: list[str | None] = []

    def check(self, tokens_argument: str = "body: max_tokens") -> None:
        """Judge one worked example. Raises ConfigError or MissingService where that cannot be done.

        `tokens_argument`: the setting that gives the longest reply, for messages.
        """
        source, target, src, mt, _ = EXAMPLES[0]
        code, reason = segment_code(src, mt), ""
        for form in self._forms:
            said = messages(form, source, target, src, mt)
            answer = self.client.check([(form, said, RESPONSE_FORMAT if form == "json" else None)])
            try:
                parse(form, answer.text or "", code)
            except Unparsable as error:
                reason = answer.failure or str(error)
                continue
            self._forms = self._forms[self._forms.index(form) :]
            return
        if reason == "finish_length":
            limit = self.client.body.get("max_tokens")
            after = f", {limit} tokens" if limit else ""
            raise ConfigError(f"{tokens_argument}: {self.name}'s reply was cut off ({reason}{after}): raise it")
        if reason.startswith("http_"):
            raise ConfigError(
                f"{self.client.argument}: {self.client.url} refuses the request ({status_line(reason)}), asked for "
                f"{' and for '.join(self._forms)}: its log says which field; {tokens_argument} may be too high for it"
            )
        raise ConfigError(
            f"{self.client.argument}: {self.name} does not answer in the asked form ({reason}); take a model that "
            "follows instructions"
        )

    def score(self, segments: Sequence[Segment]) -> Scores:
        """MQM per segment and its spans, order kept; None for both where the judge gave no valid annotation.

        References are not shown. An empty translation of a text is a non-translation: -25, without a call.
        """
        keys, index = distinct((_clean(s.src), _clean(s.mt)) for s in segments)
        results: list[tuple[float, list[Span], int] | None] = [self._known(src, mt) for src, mt in keys]
        reasons: list[str | None] = [None] * len(keys)
        todo = [i for i, result in enumerate(results) if result is None]
        answers = self.client.ask([self._forms_of(*keys[i]) for i in todo])
        for i, answer in zip(todo, answers, strict=True):
            try:
                results[i] = self._remember(keys[i], answer)
            except Unparsable as error:
                reasons[i] = str(error)
        self._describe(index, keys, todo, results, reasons)
        found = [results[i] for i in index]
        return Scores([r and r[0] for r in found], [None if r is None else list(r[1]) for r in found])

    def signature(self) -> dict[str, dict]:
        """What makes the number; never the key, and the address only as part of the environment."""
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

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _known(self, src: str, mt: str) -> tuple[float, list[Span], int] | None:
        if not mt.strip():
            return -float(WORST), [], 0
        if (src, mt) in self._cache:
            self._cache.move_to_end((src, mt))
        return self._cache.get((src, mt))

    def _forms_of(self, src: str, mt: str) -> list[tuple[str, list[dict[str, str]], Mapping | None]]:
        return [
            (form, messages(form, self.source, self.target, src, mt), RESPONSE_FORMAT if form == "json" else None)
            for form in self._forms
        ]

    def _remember(self, key: tuple[str, str], answer: Answer) -> tuple[float, list[Span], int]:
        if answer.text is None:
            raise Unparsable(answer.failure or "no_answer")
        result = judge(parse(answer.form, answer.text, segment_code(*key)), *key)
        self._forms = self._forms[self._forms.index(answer.form) :]  # a refused form is not tried again
        self._cache[key] = result
        while len(self._cache) > self.cache_size:
            self._cache.popitem(last=False)
        return result

    def _describe(self, index, keys, todo, results, reasons) -> None:
        self.reasons = [reasons[i] for i in index]
        failed = Counter(reason for reason in self.reasons if reason is not None)
        calls = self.client.stats if todo else {}
        self.stats = {
            "rows": len(index),
            "distinct": len(keys),
            "cached": len(keys) - len(todo),
            "calls": calls.get("calls", 0),
            "retries": calls.get("retries", 0),
            "unplaced": sum(r[2] for r in results if r is not None),
            "failed": sum(failed.values()),
            **{f"failed/{reason}": n for reason, n in failed.items()},
        }


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
