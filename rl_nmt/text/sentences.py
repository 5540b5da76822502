"""Split a text into sentences by the marks, abbreviations and quotations of its language's row. No torch."""

import re
import unicodedata
from functools import lru_cache

from rl_nmt.text.languages import QUOTE_MARKS, SOURCE, TARGET, Language
from rl_nmt.text.unicode import is_blank, within

_NEAR = 80  # characters read around a mark: keeps the search linear


def split_sentences(text: str, language: Language = TARGET) -> list[str]:
    """Split a text at newlines and after the language's end marks; no word is lost.

    White space must follow an end mark, unless it is as wide as a letter (。！？). A full stop does not end a sentence
    after an initial, a short abbreviation (எம்., கி.மு., Dr.) or one of the row, a list number, a numbered heading
    ("Chapter 1."), or an ordinal where the language dots them. Words that report quoted speech (என்றார், or a small
    letter) belong to its sentence. A piece without a letter or number ("...", "🙂") joins the sentence before it, or
    else the one after it: a model would invent a translation for it alone. Blank pieces are dropped.

    >>> split_sentences("வந்தான். சென்றான்!\\n1. ஏன்? ...")
    ['வந்தான்.', 'சென்றான்!', '1. ஏன்? ...']
    >>> split_sentences('"வா!" என்றார் திரு. மோதி. அவர் வந்தார்.')
    ['"வா!" என்றார் திரு. மோதி.', 'அவர் வந்தார்.']
    """
    pieces = []
    for line in text.splitlines():
        start = 0
        for end in _end(language).finditer(line):
            if not _goes_on(line[max(start, end.start() - _NEAR) : end.start()], end, language):
                pieces.append(line[start : end.end()].strip())
                start = end.end()
        pieces.append(line[start:].strip())
    sentences: list[str] = []
    for piece in pieces:
        if is_blank(piece):
            continue
        if sentences and not (_says_something(piece) and _says_something(sentences[-1])):
            sentences[-1] += f" {piece}"
        else:
            sentences.append(piece)
    return sentences


def wide_marks(language: Language) -> str:
    """Return the end marks that need no white space after them."""
    return "".join(mark for mark in language.end_marks if unicodedata.east_asian_width(mark) in "FWH")


@lru_cache(maxsize=64)
def _end(language: Language) -> re.Pattern[str]:
    """Return a pattern of end marks and the closing marks after them."""
    marks, closers = re.escape(language.end_marks), rf"[{re.escape(QUOTE_MARKS)})\]]*"
    ends = [rf"[{marks}]+{closers}\s+"]
    if wide := wide_marks(language):
        ends.append(rf"[{marks}]*[{re.escape(wide)}][{re.escape(''.join(sorted(language.closing)))}）)]*")
    return re.compile("|".join(ends))


def _goes_on(before: str, end: re.Match[str], language: Language) -> bool:
    """Whether the sentence continues after these marks; `before` is the nearest text before them."""
    after = end.string[end.end() : end.end() + _NEAR]
    if after[:1].islower() and within(ord(after[0]), language.ranges):
        return True
    if wide_marks(language):
        quoted = end[0].strip()[-1] not in language.end_marks
        return quoted and after.startswith(tuple(language.quotatives))
    if (after.split() or [""])[0].strip(".,;:!?" + QUOTE_MARKS) in language.quotatives:
        return True
    return end[0].strip() == "." and _abbreviated(before.split(), after.casefold().split(), language)


def _abbreviated(before: list[str], after: list[str], language: Language) -> bool:
    """Whether a full stop between these words abbreviates or numbers rather than ends."""
    word = before[-1].split(".")[-1].lstrip("(" + QUOTE_MARKS) if before else ""
    letters = sum(unicodedata.category(char)[0] == "L" for char in word)
    folded = word.casefold()
    if letters == 1 or (letters == 2 and _is_initial(word, language)):
        return True
    if word.isnumeric():
        heading = len(before) == 2 and before[0].casefold() in language.headings
        return len(before) == 1 or heading or (language.dotted_ordinals and len(word) < 3)
    if folded not in (language.abbreviations if word.islower() else language.abbreviations | SOURCE.abbreviations):
        return False
    following = after[0] if after else ""
    if folded in language.headings:  # "No. 7", but "No. Come here."
        return following[:1].isnumeric()
    return following not in language.function_words - language.unfinished  # "He is a Dr. He came.", "Mr. and Mrs."


def _is_initial(word: str, language: Language) -> bool:
    """Whether a word of two letters may be an initial or title: Dr, எம்."""
    if word.isascii() or not language.virama:
        return not word.islower() and word.casefold() not in language.function_words
    return word.endswith(language.virama)


def _says_something(piece: str) -> bool:
    return any(unicodedata.category(char)[0] in "LN" for char in piece)
