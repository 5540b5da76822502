"""Sentence pairs of the pocket world, without end and in three disjoint parts.

A sentence is built once and spoken twice, so that both sides carry the same information: "the" ↔ அந்த
(∅ in place phrases), "a" ↔ ஒரு, "this" ↔ இந்த, simple present ↔ -கிற்-, past and future likewise, "did not" ↔
-வில்லை, "does not" ↔ -வதில்லை, "will not" ↔ மாட்டான் / -ஆது. Each Tamil sentence has exactly one English one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from rl_nmt.errors import ConfigError

from .morphology import realise
from .patterns import PATTERNS


@dataclass(frozen=True)
class Pair:
    """One sentence in both languages, each ending in "." or "?"."""

    english: str
    tamil: str


_CHOICES = [pattern for pattern, weight in PATTERNS for _ in range(weight)]

MIN_WORDS, MAX_WORDS = 3, 14


def sample(rng: random.Random) -> Pair:
    """One random sentence pair of MIN_WORDS to MAX_WORDS English words."""
    while True:
        english, tamil, mark = rng.choice(_CHOICES)(rng)
        if MIN_WORDS <= english.count(" ") + 1 <= MAX_WORDS:
            return Pair(english[0].upper() + english[1:] + mark, realise(tamil) + mark)


def is_heldout(english: str) -> bool:
    """Whether a sentence belongs to the held-out 5 %: by a hash of its words, case and spacing aside."""
    return part_of(english) == "heldout"


def part_of(english: str) -> str:
    """The part a sentence belongs to: "heldout" (5 %), "web" (30 %) or "train", by a hash of its words.

    "train" is for supervised fitting, "web" fills the C4-format shard that reinforcement learning reads,
    "heldout" the references; so none of them ever sees a sentence of another.
    """
    digest = hashlib.blake2b(" ".join(english.casefold().split()).encode(), digest_size=4, key=b"pocket")
    place = int.from_bytes(digest.digest(), "big") % 20
    return "heldout" if place == 0 else "web" if place < 7 else "train"


def pairs(seed: int, part: str = "train", max_words: int = MAX_WORDS) -> Iterator[Pair]:
    """Endless distinct pairs of one part ("train", "web" or "heldout"), the same for the same seed.

    `max_words` keeps only sentences of at most so many English words: short ones are learned much faster.
    Raises ConfigError for another `part` or where `max_words` leaves nothing.
    """
    if max_words < MIN_WORDS:
        raise ConfigError(f"pairs: max_words is {max_words}; no sentence has fewer than {MIN_WORDS}")
    if part not in ("train", "web", "heldout"):
        raise ConfigError(f"pairs: part is {part!r}; use 'train', 'web' or 'heldout'")
    return _pairs(random.Random(f"{seed}/{part}"), part, max_words)


def _pairs(rng: random.Random, part: str, max_words: int) -> Iterator[Pair]:
    seen: set[str] = set()
    while True:
        pair = sample(rng)
        if pair.english.count(" ") >= max_words:
            continue
        if pair.english not in seen and part_of(pair.english) == part:
            seen.add(pair.english)
            yield pair
