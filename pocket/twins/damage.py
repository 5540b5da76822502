"""The errors of a pocket translation, known exactly: every word of the output beside a word of the reference.

Whatever wrote the output, a policy or pocket/corruptions.py, its words and the reference's are aligned at least cost
and read back through the tables of every inflected form; what differs is an error with its place and severity:

    critical  a number or a negation that is wrong, lost or added
    major     another content word, one too many, one left out, no word at all, foreign script
    minor     the right word in a wrong form or place, a determiner, the final mark

An omission has no place in the output; it carries the words of the source instead. Points and their cap are those
of XCOMET's own count of spans; the rules are ours. No torch.

>>> [(e.severity, e.start, e.end) for e in find_errors("Ravi will sleep.", "ரவி தூங்கினான்.", "ரவி தூங்குவான்.")]
[('minor', 4, 14)]
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from pocket.corruptions import english_forms, tamil_forms, tokens
from pocket.lexicon import NUMBERS

POINTS = {"minor": 1, "major": 5, "critical": 10}
WORST = 25
MARKS = ".?"
COUNTS = frozenset(NUMBERS) - {"many", "some"}
NEGATIVE = frozenset("இல்லை அல்ல முடியாது வேண்டாம் பிடிக்காது".split())
AFFIRMATIVE = frozenset("முடியும் வேண்டும் பிடிக்கும்".split())
SPELLED = {"an": "a", "these": "this"}  # English forms that no table leads back to the determiner they are
GAP = 7  # a word on one side alone: two of these cost more than any two words beside each other


@dataclass(frozen=True)
class Error:
    """One error: severity, MQM category, and code points `start` to `end` of the output.

    Without a place (an omission) both are None and `source` holds the words of the source that are lost.
    """

    severity: str
    category: str
    start: int | None = None
    end: int | None = None
    source: str = ""


@dataclass(frozen=True)
class Word:
    """A word of a Tamil sentence: its form with sandhi undone (^), and its place."""

    form: str
    start: int
    end: int


def find_errors(source: str, output: str, reference: str) -> list[Error]:
    """Errors of `output`, by place, omissions last; `reference` is what it should be, sandhi aside."""
    mine, theirs = words(output), words(reference)
    rows = align([word.form for word in mine], [word.form for word in theirs])
    spare = [theirs[j].form for i, j in rows if j is not None and (i is None or mine[i].form != theirs[j].form)]
    found = []
    for i, j in rows:  # a word that stands elsewhere in the reference is right, its place is wrong
        if i is not None and mine[i].form in spare and (j is None or mine[i].form != theirs[j].form):
            spare.remove(mine[i].form)
            found.append(Error("minor", "fluency/word order", mine[i].start, mine[i].end))
        elif i is not None and j is None:
            found.append(Error(weight(mine[i].form), _added(mine[i].form), mine[i].start, mine[i].end))
        elif i is not None and mine[i].form != theirs[j].form:
            if theirs[j].form in spare:
                spare.remove(theirs[j].form)
            found.append(Error(*_compared(mine[i].form, theirs[j].form), mine[i].start, mine[i].end))
    found += [Error(weight(form), "accuracy/omission", source=in_source(source, form)) for form in spare]
    return found + _final_mark(source, output, reference)


def points(errors: Sequence[Error]) -> int:
    """Error points of one translation, 0 to 25: minor 1, major 5, critical 10."""
    return min(WORST, sum(POINTS[error.severity] for error in errors))


# ---------------------------------------------------------------------- words


def words(text: str) -> list[Word]:
    """The words of a sentence without punctuation at their ends, in the forms of `tamil_forms`."""
    found = [(match.start(), match.group().rstrip(".,;:!?…")) for match in re.finditer(r"\S+", text)]
    found = [(start, word) for start, word in found if word]
    if not found:
        return []
    forms, _ = tokens(" ".join(unicodedata.normalize("NFC", word) for _, word in found))
    return [Word(form, start, start + len(word)) for form, (start, word) in zip(forms, found, strict=True)]


@cache
def polarity(form: str) -> int:
    """-1 for a word that negates, 1 for a verb that affirms, 0 for any other word."""
    category, _, slot = tamil_forms().analyses.get(form, ("", "", ""))
    if form in NEGATIVE or category == "auxiliary" or slot.startswith("not/"):
        return -1
    finite = category.startswith("verb") and slot.startswith(("past/", "present/", "future/"))
    return int(finite or form in AFFIRMATIVE)


def is_count(form: str) -> bool:
    """Is this a number from two to ten?"""
    return tamil_forms().analyses.get(form, ("", "", ""))[1] in COUNTS


def weight(form: str) -> str:
    """Severity of one word too many or too few."""
    if is_count(form) or polarity(form) < 0:
        return "critical"
    return "minor" if tamil_forms().analyses.get(form, ("",))[0] == "determiner" else "major"


def _added(form: str) -> str:
    if form in tamil_forms().analyses:
        return "accuracy/addition"
    return "fluency/spelling" if re.search("[\u0b80-\u0bff]", form) else "accuracy/untranslated text"


def _compared(form: str, wanted: str) -> tuple[str, str]:
    """Severity and category of a word that stands where another should."""
    if is_count(form) or is_count(wanted) or polarity(form) * polarity(wanted) < 0:
        return "critical", "accuracy/mistranslation"
    known = tamil_forms().analyses
    if form not in known:
        return "major", _added(form)
    here, there = known[form], known.get(wanted, ("", "", ""))
    if here[:2] == there[:2]:
        return "minor", "fluency/grammar"
    return "minor" if here[0] == there[0] == "determiner" else "major", "accuracy/mistranslation"


def _final_mark(source: str, output: str, reference: str) -> list[Error]:
    text, wanted = output.rstrip(), reference[-1:]
    if wanted not in tuple(MARKS) or text.endswith(wanted):
        return []
    if text.endswith(tuple(MARKS)):
        return [Error("minor", "fluency/punctuation", len(text) - 1, len(text))]
    return [Error("minor", "accuracy/omission", source=source[-1:])]


def in_source(source: str, form: str) -> str:
    """The English word that stands for a Tamil one, as it is written in `source`; all of it where none is found."""
    lemma = tamil_forms().analyses.get(form, ("", "", ""))[1]
    known = english_forms().analyses
    bare = source.rstrip(MARKS)
    for word in bare.split():
        for way in (word, word.lower()):
            if lemma and lemma in (way, SPELLED.get(way), known.get(way, ("", "", ""))[1]):
                return word
    return bare


# ---------------------------------------------------------------------- alignment


def align(mine: Sequence[str], theirs: Sequence[str]) -> list[tuple[int | None, int | None]]:
    """The cheapest pairing of two lists of words that keeps their order: (place, place), None for nothing there."""
    n, m = len(mine), len(theirs)
    best = [[GAP * j for j in range(m + 1)]]
    for i in range(1, n + 1):
        row = [GAP * i]
        for j in range(1, m + 1):
            beside = best[i - 1][j - 1] + distance(mine[i - 1], theirs[j - 1])
            row.append(min(beside, best[i - 1][j] + GAP, row[j - 1] + GAP))
        best.append(row)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = n, m
    while i or j:
        if i and j and best[i][j] == best[i - 1][j - 1] + distance(mine[i - 1], theirs[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and best[i][j] == best[i - 1][j] + GAP:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


@lru_cache(maxsize=100_000)
def distance(a: str, b: str) -> int:
    """How unlike two words are: 0 the same, 3 two forms of one word, 8 of one category, 10 anything else."""
    if a == b:
        return 0
    known = tamil_forms().analyses
    here, there = known.get(a), known.get(b)
    if here is None or there is None:
        return 10
    if here[:2] == there[:2]:
        return 3
    return 8 if here[0].split("/")[0] == there[0].split("/")[0] else 10
