"""What every judge takes and gives, and the manners they share as guests in the trainer's process.

Modules in this folder import neither trl nor datasets, so that they run in any environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class Segment:
    """One translation to judge: plain NFC strings without control tokens.

    `ref` is None where there is no reference; an empty string is a reference that says nothing.
    """

    src: str
    mt: str
    ref: str | None = None


@dataclass(frozen=True)
class Span:
    """An error a judge has marked: code points `start` (inclusive) to `end` (exclusive) of `mt`.

    `confidence` lies in [0, 1]; `category` is None where the judge names none.
    """

    start: int
    end: int
    severity: str
    confidence: float
    category: str | None = None


@dataclass(frozen=True)
class Scores:
    """One raw value per segment, in order; None where it could not be scored. `spans` likewise, or None."""

    values: list[float | None]
    spans: list[list[Span] | None] | None = None


class Scorer(Protocol):
    """A resident judge: loaded once, never a Trainer per call, leaves global state as it finds it."""

    name: str
    range: tuple[float, float]
    higher_is_better: bool

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Raw values (MetricX: 0–25), order kept, `None` where a segment could not be scored."""

    def signature(self) -> dict[str, dict]:
        """{"identity": what makes the number, "environment": package versions}.

        A changed identity stops a resume, a changed environment is only listed.
        """


def ask(argument: str, function: Callable[[list], Any], items: list, limits: tuple[float, float] | None) -> list:
    """One model's answers to `items`, None where there is none to be trusted: never a made-up number, never a raise.

    Args:
        argument: the setting that names the model, for the warning on standard error.
        function: items to `Scores`, or to a sequence with one answer per item; see `isolate` for what happens
            when it raises or gives another number of answers. A model with the attribute `collective` (one that
            several processes share), or its method, is called exactly once, also with nothing.
        items: what it is asked.
        limits: the scorer's `range`: answers are then finite numbers no further outside than its width (COMET's
            own leave [0, 1] by hundredths); numbers as text and truth values are none. None: answers are texts.
    """

    def answers(batch: list) -> list:
        result = function(batch)
        return list(result.values) if isinstance(result, Scores) else list(result)

    if getattr(getattr(function, "__self__", function), "collective", False):
        values, errors = _as_many(answers(items), len(items)), []
    else:
        values, errors = isolate(answers, items)
    sound = [_text(v) if limits is None else _number(v, *limits) for v in values]
    _warn(argument, values, sound, errors)
    return sound


def ask_spans(
    argument: str, scorer: Scorer, segments: Sequence[Segment]
) -> tuple[list[float | None], list[list[Span] | None]]:
    """A scorer's values as `ask` gives them, and its spans; None for both where there is no sound value.

    Spans that are none of their translation (outside it, a confidence outside [0, 1]) are None, and counted in a
    warning. A scorer without spans gives None for all. A scorer with the attribute `collective` (one that several
    processes share) is called exactly once, also without any segments, and sees to its failures itself.
    """

    def pairs(batch: list[Segment]) -> list[tuple[Any, Any]]:
        result = scorer.score(batch)
        return list(zip(result.values, result.spans or [None] * len(result.values), strict=True))

    segments = list(segments)
    if getattr(scorer, "collective", False):
        found, errors = _as_many(pairs(segments), len(segments)), []
    else:
        found, errors = isolate(pairs, segments)
    values = [None if pair is None else pair[0] for pair in found]
    sound = [_number(v, *scorer.range) for v in values]
    _warn(argument, values, sound, errors)
    spans = [
        None if value is None or pair[1] is None or not all(_inside(span, segment.mt) for span in pair[1]) else pair[1]
        for value, pair, segment in zip(sound, found, segments, strict=True)
    ]
    odd = sum(s is None and v is not None and p[1] is not None for s, v, p in zip(spans, sound, found, strict=True))
    if odd:
        print(f"warning: {argument} marked {odd} outputs outside their text: not used", file=sys.stderr, flush=True)
    return sound, spans


def _inside(span: Span, mt: str) -> bool:
    return 0 <= span.start <= span.end <= len(mt) and 0.0 <= span.confidence <= 1.0 + 1e-6


def _warn(argument: str, values: list, sound: list, errors: list[Exception]) -> None:
    lost = sum(value is None for value in sound)
    if errors:
        first = f"{type(errors[0]).__name__}: {' '.join(str(errors[0]).split())[:200]}"
        print(f"warning: {argument} failed on {lost} of {len(sound)} ({first})", file=sys.stderr, flush=True)
    elif odd := [v for v, kept in zip(values, sound, strict=True) if kept is None and v is not None]:
        shown = f"{type(odd[0]).__name__} {str(odd[0])[:40]}"
        print(f"warning: {argument} gave {len(odd)} answers that are none ({shown})", file=sys.stderr, flush=True)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any, low: float, high: float) -> float | None:
    """A plain float, or None for what is no sound score."""
    if isinstance(value, (bool, str, bytes)) or value is None or type(value).__name__ in ("bool_", "bool"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    margin = high - low
    return number if low - margin <= number <= high + margin else None  # NaN is in no interval


def isolate(function: Callable[[list[T]], Sequence[V]], items: list[T]) -> tuple[list[V | None], list[Exception]]:
    """`function(items)`; where it raises, its halves, and so on: a bad item costs itself, not the batch.

    One bad item among N costs 2·ceil(log2 N) further calls, in which every good item is computed once. After
    twice as many the rest is given up, so that a model that fails on everything is not asked N times.

    Args:
        function: a batch to one value per item; a wrong number of values counts as raised.
        items: the batch.

    Returns:
        Values in order, None for what failed; and the errors of the smallest batches that failed.

    >>> isolate(lambda batch: [1 / x for x in batch], [1, 2, 0, 4])
    ([1.0, 0.5, None, 0.25], [ZeroDivisionError('division by zero')])
    """
    values: list[V | None] = [None] * len(items)
    errors: list[Exception] = []
    todo, calls_left = [(0, len(items))] if items else [], 1 + 4 * max(0, len(items) - 1).bit_length()
    while todo:
        first, last = todo.pop(0)
        calls_left -= 1
        try:
            values[first:last] = _as_many(list(function(items[first:last])), last - first)
        except Exception as error:
            middle = (first + last) // 2
            if last - first > 1 and calls_left > 0:
                todo += [(first, middle), (middle, last)]
            else:
                errors.append(error.with_traceback(None))  # a traceback would hold the batch's tensors
        if calls_left <= 0:
            break
    return values, errors


def _as_many(values: list[V], count: int) -> list[V]:
    if len(values) != count:
        raise ValueError(f"{len(values)} results for {count} items")
    return values
