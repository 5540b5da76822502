"""Define the interface of all scorers, and `ask`, which calls a scorer and drops invalid answers.

Modules of this package import neither trl nor datasets, so that they run in any environment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from rl_nmt.errors import ConfigError, describe, warn

QUALITY_ESTIMATION = ("unified_metric", "referenceless_regression_metric", "xcomet_metric")  # COMET without references
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class Segment:
    """A translation to score: NFC strings without control tokens. `ref`: "" is empty, None is missing."""

    src: str
    mt: str
    ref: str | None = None


class Span(NamedTuple):
    """A marked error: code points `start` (inclusive) to `end` (exclusive) of `mt`; in JSON a list in this order.

    `confidence` is in [0, 1]; `category` may be None.
    """

    start: int
    end: int
    severity: str
    confidence: float
    category: str | None = None


SCALE_PROBE = tuple(  # a right translation, a copy and two wrong ones
    Segment("The singer rests.", output, "The singer rests.")
    for output in ("பாடகர் ஓய்வெடுக்கிறார்.", "The singer rests.", "நேற்று மழை பெய்தது.", "b")
)


@dataclass(frozen=True)
class Scores:
    """One raw value per segment, in order; None where it could not be scored. `spans` likewise, or None."""

    values: list[float | None]
    spans: list[list[Span] | None] | None = None


class Scorer(Protocol):
    """A metric that is loaded once and stays in memory. A call creates no Trainer and leaves global state unchanged."""

    name: str
    range: tuple[float, float]
    higher_is_better: bool

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return raw values (MetricX: 0–25) in order, `None` for a segment that could not be scored."""

    def signature(self) -> dict[str, dict]:
        """Return {"identity": everything that determines the score, "environment": package versions}.

        A resume refuses a changed identity and only reports a changed environment.
        """


def require_scale(argument: str, scorer: Scorer) -> None:
    """Score a right translation, a copy and two wrong ones; refuse a checkpoint whose scores are on another scale.

    Scores may exceed `scorer.range` by a quarter of its width and must differ by at least a thousandth of it (ours).
    `argument`: the setting that names the scorer. Raises ConfigError with the scores.
    """
    low, high = scorer.range
    values = scorer.score(SCALE_PROBE).values
    shown = ", ".join("none" if value is None else f"{value:.4g}" for value in values)
    margin = 0.25 * (high - low)
    if not all(value is not None and low - margin <= value <= high + margin for value in values):
        raise ConfigError(
            f"{argument}: {scorer.name} gives four short texts the scores {shown}, outside [{low - margin:g}, "
            f"{high + margin:g}]: it is on another scale; give a checkpoint that scores from {low:g} to {high:g}"
        )
    numbers = [value for value in values if value is not None]
    if max(numbers) - min(numbers) < 1e-3 * (high - low):
        raise ConfigError(
            f"{argument}: {scorer.name} scores a right translation, a copy and two wrong ones alike ({shown}): "
            "its weights may be damaged or untrained; give another checkpoint"
        )


def ask(name: str, scorer: Scorer | Callable[[list[str]], Sequence[str]], items: Sequence) -> Scores:
    """Return one value and one list of spans per item, None for invalid answers. Never raises for a bad item.

    A valid score is a finite number no further outside `scorer.range` than its width (COMET's own leave [0, 1] by
    hundredths). Valid spans are within their translation, with a confidence in [0, 1]. A warning on standard error
    counts the lost answers.

    Args:
        name: the setting that names the model, for the warning.
        scorer: a `Scorer`, or a back-translator (values are then texts). One with the attribute `collective`, which
            several processes share, is called exactly once, also without items; others as `isolate` calls them.
        items: segments for a scorer, texts for a back-translator.
    """
    items = list(items)
    errors: list[Exception] = []
    if getattr(scorer, "collective", False):
        found = [*_as_many(answers(scorer, items), len(items))]
    else:
        found, errors = isolate(lambda batch: answers(scorer, batch), items)
    raw = [answer or (None, None) for answer in found]
    values = [_valid(value, getattr(scorer, "range", None)) for value, _ in raw]
    lost = [value for (value, _), kept in zip(raw, values, strict=True) if kept is None]
    odd = [value for value in lost if value is not None]
    failed = {k: n for k, n in getattr(scorer, "stats", {}).items() if k.startswith("failed/")}
    if errors:
        warn_lost(name, "score", len(lost), len(items), describe(errors[0]))
    elif odd:
        warn_lost(name, "score", len(odd), len(items), f"invalid: {type(odd[0]).__name__} {str(odd[0])[:40]}")
    elif failed and 0 < len(lost) == len(items):
        why = ", ".join(f"{reason.removeprefix('failed/')} {n:g}" for reason, n in failed.items())
        warn_lost(name, "score", len(lost), len(items), why)
    spans = [None if value is None else marked for value, (_, marked) in zip(values, raw, strict=True)]
    outside = [i for i, row in enumerate(spans) if not all(_inside(span, items[i].mt) for span in row or ())]
    for i in outside:
        spans[i] = None
    if outside:
        warn_lost(name, "spans", len(outside), len(items), "outside their text")
    return Scores(values, spans)


def answers(scorer: Any, batch: list) -> list[tuple[Any, list[Span] | None]]:
    """Return the scorer's unchecked (value, spans) of each item, or a back-translator's (text, None)."""
    if not hasattr(scorer, "score"):
        return [(text, None) for text in scorer(batch)]
    scores = scorer.score(batch)
    return list(zip(scores.values, scores.spans or [None] * len(scores.values), strict=True))


def warn_lost(name: str, what: str, lost: int, total: int, why: str) -> None:
    """Warn about outputs without a score or spans."""
    warn(f"{name}: {lost} of {total} outputs get no {what} ({why})")


def utf8(text: str) -> str:
    """Replace lone surrogates by "?": they are not valid UTF-8, and tokenizers raise on them."""
    return text.encode("utf-8", "replace").decode()


def _inside(span: Span, mt: str) -> bool:
    return 0 <= span.start <= span.end <= len(mt) and 0.0 <= span.confidence <= 1.0 + 1e-6


def _valid(value: Any, limits: tuple[float, float] | None) -> Any:
    """Return a plain float, or the text if there are no limits; None for an invalid answer."""
    if limits is None:
        return value if isinstance(value, str) else None
    if value is None or type(value).__name__ in ("bool", "bool_", "str", "bytes"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    low, high = limits
    return number if 2 * low - high <= number <= 2 * high - low else None  # False for NaN


def isolate(function: Callable[[list[T]], Sequence[V]], items: list[T]) -> tuple[list[V | None], list[Exception]]:
    """Call `function(items)`; if it raises, call it on the halves, and so on: a bad item loses no others of its batch.

    One bad item among N costs 2·ceil(log2 N) further calls, in which every good item is computed once. After
    twice as many calls the rest is given up, so that a model that always fails is not called N times.

    Returns values in order, None for failed items, and the errors of the smallest failed batches. A wrong number of
    values counts as a failure.

    >>> isolate(lambda batch: [1 / x for x in batch], [1, 2, 0, 4])
    ([1.0, 0.5, None, 0.25], [ZeroDivisionError('division by zero')])
    """
    values: list[V | None] = [None] * len(items)
    errors: list[Exception] = []
    todo = [(0, len(items))] if items else []
    calls, most_calls = 0, 1 + 4 * max(0, len(items) - 1).bit_length()
    while todo and calls < most_calls:
        first, last = todo.pop(0)
        calls += 1
        try:
            values[first:last] = _as_many(list(function(items[first:last])), last - first)
        except Exception as error:
            middle = (first + last) // 2
            if last - first > 1 and calls < most_calls:
                todo += [(first, middle), (middle, last)]
            else:
                errors.append(error.with_traceback(None))  # a traceback would hold the batch's tensors
    return values, errors


def _as_many(values: list[V], count: int) -> list[V]:
    if len(values) != count:
        raise ValueError(f"{len(values)} results for {count} items")
    return values
