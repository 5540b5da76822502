"""Words, phrases and characters that go round in circles. No torch; linear in the length of the text."""

import re
from collections.abc import Callable, Sequence

from rl_nmt.text.pair import TextPair

_SHORT_PERIOD = 3  # phrases of up to three words loop when said three times; longer ones when said twice
_SENTENCE = 4  # words in a row that no text says again and again
_REPEATED = 0.25  # share of such runs that are repetitions: a quarter of the text has been said before
_BLOCK, _FEW = 20, 7  # so few different words in a block of twenty are a loop
_PIECE, _TIMES = 8, 5  # a piece of up to eight characters five times in a row: "லாலாலாலாலா", "ha ha ha ha ha"
_SIGNS = re.compile(r"([^\w\s])\1{7}")
_SOURCE_PIECES = re.compile(r"([^\W\d_])\1\1|([^\W\d_]{2,4})[\s,!-]{0,2}\2[\s,!-]{0,2}\2")  # aaah, ha-ha-ha
_SOURCE_SIGNS = re.compile(r"([^\w\s])\1\1")


def loops(pair: TextPair) -> bool:
    """Say whether the output repeats itself as its source does not.

    What a loop is, the constants above say; a source that does the like excuses it. Thresholds: ours; reduplication
    (மெல்ல மெல்ல) says a word twice and is no loop.
    """
    said, heard = [t.key for t in pair.output_tokens], [t.key for t in pair.source_tokens]
    if any(rule(said) and not rule(heard) for rule in (_circles, _repeats, _poor)):
        return True
    source, output = pair.clean_source, pair.clean_output
    if _pieces(output) and not _SOURCE_PIECES.search(source.casefold()):
        return True
    return bool(_SIGNS.search(output)) and not _SOURCE_SIGNS.search(source)


def _says_again(items: Sequence[str], longest: int, times: int, counts: Callable[[Sequence[str]], bool]) -> bool:
    """Whether a piece of up to `longest` items that `counts` is said so many times in a row."""
    for period in range(1, longest + 1):
        run = 0
        for i, (a, b) in enumerate(zip(items, items[period:], strict=False)):
            run = run + 1 if a == b else 0
            if run >= period * (times - 1) and counts(items[i : i + period]):
                return True
    return False


def _pieces(text: str) -> bool:
    return _says_again(text, _PIECE, _TIMES, lambda piece: any(map(str.isalpha, piece)))


def _circles(words: list[str]) -> bool:
    return _says_again(words, _SHORT_PERIOD, 3, lambda piece: len(piece) > 1 or not piece[0].isdecimal())


def _repeats(words: list[str]) -> bool:
    runs = [tuple(words[i : i + _SENTENCE]) for i in range(len(words) - _SENTENCE + 1)]
    again = len(runs) - len(set(runs))
    return again >= 2 and again >= _REPEATED * len(runs)


def _poor(words: list[str]) -> bool:
    return any(len(set(words[i : i + _BLOCK])) <= _FEW for i in range(len(words) - _BLOCK + 1))
