"""What each word means, in both languages by the same number: a dictionary for models that have read nothing yet.

Published metrics start from encoders that have read a hundred languages. These start from nothing, so while they are
fitted a head that is thrown away asks of every token which lexicon entry its word belongs to; a word and its
translation come to lie near each other, and finding what has no counterpart is then quick to learn. Ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from pocket.corruptions import english_forms, tamil_forms
from pocket.twins.damage import SPELLED, words

Ranges = list[tuple[int, int, int]]  # start, end, number


@cache
def numbers() -> dict[str, int]:
    """Lexicon entries by name, from 1 on; 0 is an unknown word."""
    names = {analysis[1] for table in (tamil_forms(), english_forms()) for analysis in table.analyses.values()}
    return {name: number for number, name in enumerate(sorted(names), 1)}


def count() -> int:
    """How many labels there are."""
    return 1 + len(numbers())


def of_tamil(text: str) -> Ranges:
    """The words of a Tamil text with their entries."""
    known = tamil_forms().analyses
    return [(w.start, w.end, numbers()[known[w.form][1]] if w.form in known else 0) for w in words(text)]


def of_english(text: str) -> Ranges:
    """The words of an English text with their entries."""
    known, found = english_forms().analyses, []
    for match in re.finditer(r"[^\s.?]+", text):
        ways = (match.group(), match.group().lower())
        lemmas = [SPELLED.get(ways[1], ""), *ways, *(known[way][1] for way in ways if way in known)]
        found.append((match.start(), match.end(), next((numbers()[name] for name in lemmas if name in numbers()), 0)))
    return found


def per_token(offsets: Sequence[tuple[int, int]], ranges: Ranges) -> list[int]:
    """The entry of each token's word; -1 for tokens outside every word."""
    return [
        next((number for start, end, number in ranges if first < end and start < last), -1) for first, last in offsets
    ]
