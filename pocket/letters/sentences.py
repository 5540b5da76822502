"""Sentences of the pocket grammar in few words, and which of their characters a template masks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from pocket import grammar

MAX_WORDS = 5
WORDS = 2  # of each list of the lexicon: of sentences in all words, 200,000 others know every trigram of only half
PATTERNS = 66  # of the grammar's 121 weighted ones: statements, descriptions, what somebody is, has, likes
LOW, HIGH = 0.2, 0.5  # share of a sentence's characters that is masked: the recipe's

LOOKS_LIKE = {"o": "0", "l": "1", "s": "5", "g": "9", "t": "7"}


class FewWords(random.Random):
    """A random generator that chooses only among the first items of a list."""

    def choice(self, seq):
        return super().choice(seq[: PATTERNS if callable(seq[0]) else WORDS])


def sentences(seed: int, part: str = "") -> Iterator[str]:
    """Endless English sentences; with `part`, distinct ones of that part of the grammar, up to MAX_WORDS words."""
    rng, seen = FewWords(f"{seed}/{part}"), set[str]()
    while True:
        english = grammar.sample(rng).english
        if not part or (english not in seen and grammar.part_of(english) == part and english.count(" ") < MAX_WORDS):
            seen.add(english)
            yield english


def scanned(text: str, rng: random.Random, share: float) -> str:
    """Return a text as a bad scanner reads it: a `share` of these letters as the digit that they look like."""
    return "".join(LOOKS_LIKE[c] if c in LOOKS_LIKE and rng.random() < share else c for c in text)


def places(rng: random.Random, length: int) -> Sequence[int]:
    """Which characters of a sentence of `length` to mask: a span, single ones, or the end."""
    count = max(1, round(rng.uniform(LOW, HIGH) * length))
    kind = rng.choice(("span", "single", "end"))
    start = rng.randint(0, length - count) if kind == "span" else length - count
    return rng.sample(range(length), count) if kind == "single" else range(start, start + count)
