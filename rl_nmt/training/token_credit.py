"""Token-level credit: turn the error spans of a judge into rewards of the tokens that contain the errors.

    offsets    which characters of a completion each of its tokens wrote
    rewards    r[t] = combined weights of the spans that token t touches, 0 without any
    advantage  A_raw[t] = sequence reward + r[t] (+ coefficient * group z-score);
               A = (A_raw - mean) / (std + 1e-8) over all valid completion tokens of all processes

The additive form is TranslateGemma's (arXiv 2601.09012), span weights by severity as in arXiv 2411.05986; the
exact offsets, the projection between raw and cleaned text and the treatment of missing scores are ours. Pure.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from itertools import groupby
from typing import Literal

import torch

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import Span

WEIGHTS = {"minor": -1.0, "major": -5.0, "critical": -10.0}
COMBINATIONS: dict[str, Callable[[list[float]], float]] = {"sum": sum, "min": min, "max": max}
EPSILON = 1e-8  # added to the standard deviation
UNDECODED = "\ufffd"  # what tokenizers write for bytes that are not a whole character

Range = tuple[int, int]


@dataclass(frozen=True)
class SpanCredit:
    """How the spans of one scorer become token rewards.

    `weights`: a severity without a weight stops the run; it never counts as 0. `overlap` "any": a token is hit if it
    shares a character with the span; "majority": if it shares at least half of its characters.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(WEIGHTS))  # reward per severity
    overlap: Literal["any", "majority"] = "any"
    use_confidence: bool = False  # weight times the span's confidence
    combine: Literal["sum", "min", "max"] = "sum"  # where several spans meet one token; "min" takes the worst
    scale: float = 1.0  # factor of the result, so that scorers of other ranges can be added up


class TokenOffsets:
    """Find exactly which characters of the decoded text each token wrote, for any Hugging Face tokenizer.

    Completions are decoded as TRL does it for reward functions: special tokens are skipped.
    """

    def __init__(self, tokenizer) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        self._text = cache(lambda token: self.decode([token]))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` as a reward function sees it."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def __call__(self, ids: Sequence[int]) -> tuple[str, list[Range]]:
        """Return the decoded text and per token its code points [start, end) in it, without a gap.

        They overlap only where one character's bytes come from several tokens: each of these gets the whole
        character. Special tokens get an empty range.
        """
        ids = [int(i) for i in ids]
        text = self.decode(ids)
        real = [i for i, token in enumerate(ids) if token not in self._special]
        found = dict(zip(real, self._ranges([ids[i] for i in real], text), strict=True))
        ranges, end = [], 0
        for i in range(len(ids)):
            ranges.append(found.get(i, (end, end)))
            end = ranges[-1][1]
        return text, ranges

    def _ranges(self, ids: list[int], text: str) -> list[Range]:
        """Return the ranges of tokens that are not special, in linear time except for incomplete bytes."""
        units = list(self._units(ids))
        texts = [self._text(unit[0]) if len(unit) == 1 else self.decode(unit) for unit in units]
        if "".join(texts) != text:  # a decoder that looks at neighbours: split only where that is exact
            return self._split(ids, text)
        ranges, at = [], 0
        for unit, part in zip(units, texts, strict=True):
            ranges += [(at + a, at + b) for a, b in self._split(unit, part)]
            at += len(part)
        return ranges

    def _units(self, ids: list[int]) -> Iterator[list[int]]:
        """Yield single tokens, and runs of neighbours that are not whole characters by themselves."""
        for broken, run in groupby(ids, lambda token: UNDECODED in self._text(token)):
            if broken:
                yield list(run)
            else:
                yield from ([token] for token in run)

    def _split(self, ids: list[int], text: str) -> list[Range]:
        """Return ranges by halving where both halves decode to exactly their part of the text; else share the text."""
        ranges: list[Range] = []
        todo = [(ids, text, 0)]  # the leftmost last
        while todo:
            part, own, at = todo.pop()
            cut = self._cut(part, own) if len(part) > 1 else None
            if cut is None:
                ranges += [(at + a, at + b) for a, b in self._shared(part, own)]
            else:
                m, left = cut
                todo += [(part[m:], own[left:], at + left), (part[:m], own[:left], at)]
        return ranges

    def _cut(self, ids: list[int], text: str) -> tuple[int, int] | None:
        """Return (tokens, characters) of the part on the left, nearest the middle, that decodes by itself, or None."""
        middle = len(ids) // 2
        for m in sorted(range(1, len(ids)), key=lambda m: abs(m - middle)):
            left = self.decode(ids[:m])
            if text.startswith(left) and left + self.decode(ids[m:]) == text:
                return m, len(left)
        return None

    def _shared(self, ids: list[int], text: str) -> list[Range]:
        """Return the ranges of tokens that split characters between them, by decoding every prefix of this group."""
        ranges, done = [], 0
        for k in range(1, len(ids) + 1):
            prefix = self.decode(ids[:k])
            # Characters complete so far. The text may itself hold U+FFFD, which an unfinished character looks like.
            whole = max(done, _common(prefix.rstrip(UNDECODED), text))
            end = min(len(text), max(whole + (len(prefix) > whole), done + 1))
            ranges.append((done, len(text) if k == len(ids) else end))
            done = whole
        return ranges


def _common(a: str, b: str) -> int:
    """Length of the longest common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def project(spans: Sequence[Span], mt: str, raw: str) -> list[Span]:
    """Spans over `mt` as spans over `raw`, of which `mt` is the cleaned form (rl_nmt.text.unicode.clean_for_scoring).

    Composed characters, dropped joiners and collapsed white space are followed exactly: letters are compared
    decomposed and in canonical order. Characters that only `raw` has belong to a span when they are inside it.
    Raises ValueError for a span outside `mt`, or if `mt` cannot come from `raw`.
    """
    for span in spans:
        if not 0 <= span.start <= span.end <= len(mt):
            raise ValueError(f"span {span.start}–{span.end} is outside a text of {len(mt)} characters")
    spans = [span for span in spans if span.start < span.end]  # an XCOMET span may be only its start marker
    if mt == raw or not spans:
        return spans
    places = _places(mt, raw)
    moved = []
    for span in spans:
        inside = [p for p in places[span.start : span.end] if p is not None]
        if not inside:
            raise ValueError(f"span {span.start}–{span.end} covers text that the completion does not have")
        moved.append(span._replace(start=min(a for a, _ in inside), end=max(b for _, b in inside)))
    return moved


def _places(mt: str, raw: str) -> list[Range | None]:
    """Range of `raw` that became each character of `mt`; None for one that `raw` does not have."""
    ours, ours_at = _decomposed(mt)
    theirs, theirs_at = _decomposed(raw)
    places: list[Range | None] = [None] * len(mt)
    for block in SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            i, j = ours_at[block.a + k], theirs_at[block.b + k]
            a, b = places[i] or (j, j + 1)
            places[i] = (min(a, j), max(b, j + 1))
    if mt and sum(p is not None for p in places) < len(mt) / 2:
        raise ValueError("the judged text is not the completion: most of its characters are missing there")
    return places


def _decomposed(text: str) -> tuple[list[str], list[int]]:
    """Return the canonical decomposition in canonical order, all white space as " ", and each code point's origin."""
    points = [
        (" " if point.isspace() else point, i)
        for i, char in enumerate(text)
        for point in unicodedata.normalize("NFD", char)
    ]
    ordered: list[tuple[str, int]] = []
    for marks, run in groupby(points, lambda p: unicodedata.combining(p[0]) > 0):
        letters = list(run)
        ordered += sorted(letters, key=lambda p: unicodedata.combining(p[0])) if marks else letters
    return [point for point, _ in ordered], [i for _, i in ordered]


def token_rewards(ranges: Sequence[Range], spans: Sequence[Span], credit: SpanCredit) -> list[float]:
    """One reward per token (T,), 0.0 where no span touches it; empty ranges (special tokens) always 0.0.

    `ranges` are code points [start, end) per token, `spans` errors in the same ones. Raises ConfigError for a severity
    without a weight.
    """
    unknown = {span.severity for span in spans} - set(credit.weights)
    if unknown:
        raise ConfigError(
            f"weights: the scorer marks {sorted(unknown)[0]!r} errors, which have no weight "
            f"(known: {', '.join(credit.weights)})"
        )
    worth = [credit.weights[s.severity] * (s.confidence if credit.use_confidence else 1.0) for s in spans]
    combine = COMBINATIONS[credit.combine]
    rewards = []
    for start, end in ranges:
        shared = [min(end, s.end) - max(start, s.start) for s in spans]
        least = 1 if credit.overlap == "any" else max(1, (end - start) / 2)
        hits = [w for w, n in zip(worth, shared, strict=True) if n >= least]
        rewards.append(credit.scale * combine(hits) if hits else 0.0)
    return rewards


def judged_rewards(
    text: str, ranges: Sequence[Range], mt: str, spans: Sequence[Span] | None, credit: SpanCredit
) -> list[float]:
    """Token rewards (T,) of a completion, from its `TokenOffsets`, the text the judge saw and the judge's spans.

    All NaN where the judge gave no spans or spans that do not fit the text: "not judged" must not look like
    "no error". `token_advantages` leaves such rows out.
    """
    if spans is None:  # unknown spans are not "no error": NaN, not 0, leaves the completion out of the update
        return [float("nan")] * len(ranges)
    try:
        return token_rewards(ranges, project(spans, mt, text), credit)
    except ValueError:
        return [float("nan")] * len(ranges)


def stack_rows(rows: Sequence[Sequence[float]], like: torch.Tensor) -> torch.Tensor:
    """Rows of token rewards as a float32 tensor of `like`'s shape (B, T) and device, padded with zeros.

    Raises ValueError if a row is longer than T or rows are missing: tokens would get the rewards of others.
    """
    b, t = like.shape
    if len(rows) != b or any(len(row) > t for row in rows):
        longest = max(map(len, rows), default=0)
        raise ValueError(f"{len(rows)} rows of up to {longest} rewards do not fit a batch of shape ({b}, {t})")
    padded = [[*row, *[0.0] * (t - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float32, device=like.device).view(b, t)


def token_advantages(
    sequence: torch.Tensor,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    *,
    normalise: bool = True,
    gather: Callable[[torch.Tensor], torch.Tensor] | None = None,
    group: torch.Tensor | None = None,
    group_coefficient: float = 0.0,
) -> torch.Tensor:
    """Return advantages (B, T): sequence reward plus token reward of every token, normalised over the whole batch.

    Args:
        sequence: (B,) reward per completion; with normalise=False TRL's own advantages, and zero `tokens` then
            leave them exactly as they are.
        tokens: (B, T) reward per token.
        mask: (B, T), non-zero on completion tokens.
        normalise: subtract mean and divide by std + 1e-8, both over the valid tokens of all processes (the
            population's standard deviation, in float64).
        gather: this process's (1, 3) float64 sums → those of all processes (P, 3), as accelerate's `gather`. Called
            once on every process, also without valid tokens.
        group: (B,) group z-scores, added with `group_coefficient` before the normalisation.

    Returns (B, T) of sequence's dtype, 0 outside `mask` and in rows that have a NaN or infinite reward, which
    count in no mean. Raises ValueError for shapes that do not match.
    """
    b, t = mask.shape
    shapes = {"sequence": (sequence, (b,)), "tokens": (tokens, (b, t)), "group": (group, (b,))}
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, mask {(b, t)}: wanted {shape}")
    raw = sequence[:, None] + tokens.to(sequence.dtype)  # (B, T)
    if group is not None and group_coefficient:
        raw = raw + group_coefficient * group[:, None]
    mask = mask.bool()
    complete = (raw.isfinite() | ~mask).all(1, keepdim=True)  # (B, 1)
    valid = mask & complete
    raw = raw.masked_fill(~valid, 0.0)
    if not normalise:
        return raw
    exact = raw.double()
    moments = torch.stack([exact.sum(), exact.square().sum(), valid.sum().double()])[None]  # (1, 3)
    total, squares, count = (gather(moments) if gather else moments).sum(0)
    # One mean for all prompts: without a group term easy and hard prompts move the policy as good and bad outputs do.
    mean = total / count.clamp(min=1)
    std = (squares / count.clamp(min=1) - mean.square()).clamp(min=0).sqrt()
    return ((exact - mean) / (std + EPSILON)).to(raw.dtype).masked_fill(~valid, 0.0)
