"""Detect degenerate repetition of characters, words or phrases. No torch; linear in the length of the text."""

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

from rl_nmt.text.languages import QUOTE_MARKS, Language
from rl_nmt.text.pair import TextPair

_SHORT_PERIOD = 3  # words up to which a phrase loops when it occurs three times in a row
_SENTENCE = 4  # words of the longer runs that are counted
_REPEATED = 0.25  # share of these runs that occurred before: a quarter of the text is repeated
_BLOCK, _FEW = 20, 7  # words in a block, and different words up to which it is a loop
_NOISE = 3  # times as many repeats are allowed if the source mentions a noise: "The bell rang."
_WHOLE = 12  # letters, in English, from which on one word counts as a sentence; else two words do
_PIECE, _TIMES = 8, 5  # a piece of up to eight characters five times in a row: "லாலாலாலாலா", "ha ha ha ha ha"
_SIGNS = re.compile(r"([^\w\s])\1{7}")
_SOURCE_PIECES = re.compile(r"([^\W\d_])\1\1|([^\W\d_]{2,4})[\s,!-]{0,2}\2[\s,!-]{0,2}\2")  # aaah, ha-ha-ha
_SOURCE_SIGNS = re.compile(r"([^\w\s])\1\1")


def loops(pair: TextPair) -> bool:
    """Return whether the output repeats itself and its source does not.

    The constants above define a loop; a sentence said twice in a row is one too. Reduplication (மெல்ல மெல்ல), a word
    said twice, is not a loop. Thresholds: ours.
    """
    said, heard = [t.key for t in pair.output_tokens], [t.key for t in pair.source_tokens]
    source, output = pair.clean_source, pair.clean_output
    often = _NOISE if not pair.source_language.noises.isdisjoint(heard) else 1
    if _circles(said, 3 * often) and not _again(heard):
        return True
    if any(rule(said) and not rule(heard) for rule in (_repeats, _poor)) or _said_twice(pair):
        return True
    if _pieces(output, _TIMES * often) and not _SOURCE_PIECES.search(source.casefold()):
        return True
    return bool(_SIGNS.search(output)) and not _SOURCE_SIGNS.search(source)


def _said_twice(pair: TextPair) -> bool:
    """Whether a sentence, or the whole without an end mark, occurs twice in a row and the source repeats nothing."""
    row, said, heard = pair.language, [t.key for t in pair.output_tokens], [t.key for t in pair.source_tokens]
    pieces = re.split(f"[{re.escape(row.end_marks)}]+", pair.clean_output.casefold())
    sentences = [piece.strip(QUOTE_MARKS + " ").split() for piece in pieces]
    halves = said[: len(said) // 2], said[len(said) // 2 :]
    again = any(a == b and _is_sentence(a, row) for a, b in (halves, *pairwise(sentences)))
    return again and not _repeats_itself(heard, pair.source_language.function_words)


def _is_sentence(words: list[str], language: Language) -> bool:
    return len(words) > 1 or len("".join(words)) >= _WHOLE * language.expected_length_ratio


def _repeats_itself(words: list[str], small: frozenset[str]) -> bool:
    """Whether two words in a row, not both small, occur twice, or one word twice in a row."""
    pairs = [both for both in pairwise(words) if not small.issuperset(both)]
    return len(set(pairs)) < len(pairs) or any(a == b for a, b in pairwise(words))


def _says_again(text: str, longest: int, times: int, counts: Callable[[str], bool]) -> bool:
    """Whether a piece of up to `longest` characters that `counts` accepts occurs so many `times` in a row."""
    # The longest piece at each place has every character of the shorter ones there.
    return any(counts(match[1]) for match in _said(longest, times).finditer(text))


@lru_cache(maxsize=16)
def _said(longest: int, times: int) -> re.Pattern[str]:
    return re.compile(rf"(?=(.{{1,{longest}}})\1{{{times - 1}}})", re.DOTALL)


def _pieces(text: str, times: int) -> bool:
    return _says_again(text, _PIECE, times, lambda piece: any(map(str.isalpha, piece)))


def _circles(words: list[str], times: int) -> bool:
    """Whether words repeat; each different word is encoded as one character."""
    signs: dict[str, str] = {}
    text = "".join(signs.setdefault(word, chr(_SIGN + len(signs))) for word in words)
    numbers = {sign for word, sign in signs.items() if word.isdecimal()}
    return _says_again(text, _SHORT_PERIOD, times, lambda piece: len(piece) > 1 or piece not in numbers)


_SIGN = 0x10000  # the first code point above the surrogates


def _again(words: list[str]) -> bool:
    """Whether a source excuses repetition: by its own, or by a shorter one, "again and again and again"."""
    runs = zip(words, words[1:], words[2:], words[3:], words[4:], strict=False)
    return _circles(words, 3) or any(a == c == e and b == d for a, b, c, d, e in runs)


def _repeats(words: list[str]) -> bool:
    runs = [tuple(words[i : i + _SENTENCE]) for i in range(len(words) - _SENTENCE + 1)]
    again = len(runs) - len(set(runs))
    return again >= 2 and again >= _REPEATED * len(runs)


def _poor(words: list[str]) -> bool:
    return any(len(set(words[i : i + _BLOCK])) <= _FEW for i in range(len(words) - _BLOCK + 1))
