"""Find what must reappear in any translation of a source, and check that it does. No torch, no reference.

Numbers are compared by value (3.7 million = 37 lakh), and an output may add none; acronyms and names by sound; URLs,
e-mail addresses, placeholders and code by their letters. No rule can tell whether a name was translated instead
("Supreme Court"), so names weigh less, and one word is enough for a name of several. Rules: ours (docs/details.md, 10).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from rl_nmt.text.languages import Language
from rl_nmt.text.numbers import Number, Reading, numbers, written_out
from rl_nmt.text.pair import TextPair
from rl_nmt.text.phonetics import LOOSE, Sound, alike, neighbourhood, skeletons, sounds, stems
from rl_nmt.text.tokens import LITERAL, Token, fold, is_small, own, without_literals

WEIGHTS = {"number": 1.0, "added": 1.0, "percent": 1.0, "url": 1.0, "email": 1.0, "placeholder": 1.0, "code": 1.0}
WEIGHTS |= {"acronym": 0.5, "name": 0.5}  # half: no rule knows whether a name was translated instead


def fidelity(*pair: Any) -> float | None:
    """Return the weighted share, 0 to 1, of the required items that the output has; None if none is required.

    A number that only the output has counts like a lost one.
    `pair` is a TextPair, or its parts: source, output, language and optionally source_language.

    >>> from rl_nmt.text.languages import TAMIL
    >>> fidelity("Ravi paid 100,000 rupees.", "ரவி 1,00,000 ரூபாய் கொடுத்தார்.", TAMIL)
    1.0
    >>> fidelity("It costs 40 percent more.", "இது 4 சதவீதம் அதிகம்.", TAMIL)
    0.0
    >>> fidelity("the rain has stopped.", "மழை நின்றுவிட்டது.", TAMIL) is None
    True
    """
    demands = check(*pair)
    sought = sum(WEIGHTS[kind] for kind, _ in demands)
    return sum(WEIGHTS[kind] for (kind, _), there in demands.items() if there) / sought if sought else None


def check(*pair: Any) -> dict[tuple[str, str], bool]:
    """Return {(kind of WEIGHTS, text): whether the output has it} of all required items; added numbers are False.

    Takes what `fidelity` takes. Linear in the lengths of the texts; never raises for any two strings.

    >>> from rl_nmt.text.languages import TAMIL
    >>> check("Ravi came on 12 May.", "ரவி மே 13 அன்று வந்தார்.", TAMIL)
    {('number', '12'): False, ('added', '13'): False}
    """
    found: dict[tuple[str, str], bool] = {}
    for kind, text, there in _demands(TextPair.of(*pair)):
        found[kind, text] = there or found.get((kind, text), False)
    return found


def _demands(pair: TextPair) -> Iterator[tuple[str, str, bool]]:
    """Yield (kind, text, whether the output has it) for everything that must stay."""
    have = _Output(pair)
    for token in pair.source_tokens:
        if token.kind in LITERAL:
            core = _core(token)
            spoken = token.kind in ("url", "code") and "/" not in core
            yield token.kind, core, core.casefold() in have.literals or (spoken and have.sounds_like(core))
    yield from _numbers(pair, have)
    written_alike = pair.language.ranges == pair.source_language.ranges
    heard = pair.language.sounds and pair.language.requires_names
    for name in _names(pair) if written_alike or heard else ():  # else it cannot be found
        if all(map(have.commonly_translated, name)):
            continue
        text = " ".join(t.text for t in name)
        acronym = len(name) == 1 and text.isupper() and len(text) > 1
        yield "acronym" if acronym else "name", text, have.calls(name)


def _numbers(pair: TextPair, have: "_Output") -> Iterator[tuple[str, str, bool]]:
    """Yield the source's numbers and those only in the output; without number words, only the source's digits."""
    words = bool(pair.source_language.numerals.words and pair.language.numerals.words)
    asked = _read(pair.clean_source, pair.source_language, pair.source_tokens)
    for number in asked:
        if number.sure and (words or not number.spoken):
            yield ("percent" if number.percent else "number"), number.text, have.counts(number)
    if words:
        literal = any(token.kind in LITERAL for token in pair.source_tokens)
        known = _readings(asked + numbers(pair.clean_source, pair.source_language) * literal, times=True)
        for number in have.numbers:
            if number.sure and not _counted(number, known):
                yield "added", number.text, False


def _core(token: Token) -> str:
    """Return an address without the punctuation around it; a placeholder unchanged."""
    return token.text if token.kind == "placeholder" else token.text.strip("\"'“”‘’«»()[]<>,;:!?….")


_NAME = 6  # classes of a name that are compared; what follows may be an ending


def _counted(number: Number, readings: set[Reading]) -> bool:
    """Whether one of a number's readings is among these, or all of its parts are."""
    whole = any(reading in readings for reading in number.readings)
    return whole or (bool(number.parts) and all(any(r in readings for r in part) for part in number.parts))


def _figures(readings: Iterable[Reading]) -> set[str]:
    """Return the digits of values without their power of ten: 2.8 billion may be 28 of an unknown larger unit."""
    return {f"{reading:.9e}".partition("e")[0] for reading in readings if isinstance(reading, float)}


def _read(text: str, language: Language, tokens: list[Token]) -> tuple[Number, ...]:
    """Return the numbers of a text outside its addresses and code."""
    literal = any(token.kind in LITERAL for token in tokens)
    return numbers(without_literals(written_out(text)) if literal else text, language)


def _readings(found: tuple[Number, ...], times: bool) -> set[Reading]:
    """Return the possible values of numbers and their parts; parts of times only if `times`: 9:30 is not nine."""
    whole = {reading for number in found for reading in number.readings}
    parted = (number for number in found if times or ":" not in number.text)
    return whole | {reading for number in parted for part in number.parts for reading in part}


def _names(pair: TextPair) -> Iterator[list[Token]]:
    """Yield runs of kept source words with a capital: possible names."""
    language = pair.source_language
    run: list[Token] = []
    numerals = {word for word, _ in language.numerals.words}
    for token, stays in zip(pair.source_tokens, pair.kept, strict=True):
        word = stays and token.kind == "word" and own(token, language) and token.text[:1].isupper()
        may_name = word and not is_small(token, language) and len(token.text) > 1 and token.key not in numerals
        if run and (not may_name or token.initial or token.apart):
            yield run
            run = []
        if may_name:
            run.append(token)
    if run:
        yield run


_DOTTED = re.compile(r"\b(?:[A-Za-z]\.)+[A-Za-z]\b")  # A.I.


@lru_cache(maxsize=16)
def _translations(source: Language, language: Language) -> dict[str, tuple[str, ...]]:
    """Return how translations of a name begin: from the row, and for months."""
    months = {month: tuple(w for w, number in language.numerals.months if number == month) for month in range(1, 13)}
    found = {word: months[int(number)] for word, number in source.numerals.months}
    return found | {word: tuple(stems.split("|")) for word, stems in language.translated}


class _Output:
    """The output of a pair, indexed once for all checks."""

    def __init__(self, pair: TextPair):
        language, self.said = pair.language, pair.output_tokens
        self.language, self.source_language = language, pair.source_language
        self.text = pair.clean_output
        self.words = {t.key for t in self.said}
        self.words |= {dotted.replace(".", "").casefold() for dotted in _DOTTED.findall(self.text)}
        self.literals = {_core(t).casefold() for t in self.said if t.kind in LITERAL}
        self.numbers = _read(pair.clean_output, language, self.said)
        self.readings = _readings(self.numbers, times=False)
        folded = unicodedata.normalize("NFKC", pair.clean_output).casefold()
        self.undotted = folded.replace(".", "").replace('"', " ").split()
        self._stems_by_first: dict[str, tuple[dict[str, list[Sound]], dict[str, list[str]]]] = {}
        self.percent = any(word in folded for word in language.numerals.percent)

    def counts(self, number: Number) -> bool:
        """Whether the output has the number, with its scale if the language has scale words, and its per cent."""
        there = _counted(number, self.readings)
        if not there and not self.language.numerals.scales:
            there = number.bare != number.readings and not _figures(number.bare).isdisjoint(_figures(self.readings))
        return there and (self.percent or not number.percent)

    def commonly_translated(self, token: Token) -> bool:
        common = self.source_language.common_capitals
        return token.key in common or token.key.removesuffix("s") in common

    def calls(self, name: list[Token]) -> bool:
        """Whether the output has a word of the name, in its letters, by sound or translated; or two joined."""
        telling = [token for token in name if not self.commonly_translated(token)]
        pairs = (a.key + b.key for a, b in pairwise(name))
        return any(map(self._calls, telling)) or any(map(self._sounds_like, pairs))

    def _calls(self, token: Token) -> bool:
        words = _bare(token, self.source_language)
        if any(word in self.words or self._translates(word) for word in words):
            return True
        capitals = token.text[: len(token.key)].removesuffix("s").isupper()  # FBI, MPs
        if capitals and any(map(self._spells, words)):
            return True
        return (not capitals or len(token.text) > 3) and any(map(self._sounds_like, words))

    def _translates(self, word: str) -> bool:
        """Whether a word of the output begins like the row's translation of a name."""
        beginnings = _translations(self.source_language, self.language).get(word, ())
        return bool(beginnings) and any(said.startswith(beginnings) for said in self.undotted)

    def sounds_like(self, text: str) -> bool:
        """Whether the output has a word of the text by its sound."""
        return any(self._sounds_like(fold(word)) for word in re.findall(r"[^\W\d_]+", text))

    def _spells(self, acronym: str) -> bool:
        """Whether a word of the output, perhaps dotted, begins with the names of the acronym's letters."""
        names = dict(self.language.latin_letters)
        if not acronym or not names.keys() >= set(acronym):
            return False
        # A joiner keeps a final consonant bare before the next letter's name: ఎఫ్‌బిఐ.
        spelled = "[. \u200c\u200d]*".join(f"(?:{names[letter]})" for letter in acronym)
        return re.search(rf"(?<!\w){spelled}", self.text) is not None

    def _sounds_like(self, word: str) -> bool:
        for sound in sounds(word, self.source_language):
            skeleton = sound[0]
            exact, near = self._stems(skeleton[:1])
            if any(alike(sound, stem) for stem in exact.get(skeleton, ())):
                return True
            if len(skeleton) >= LOOSE:
                around = {stem for key in neighbourhood(skeleton) for stem in near.get(key, ())}
                if any(_near(skeleton, stem) for stem in around) or self._in_two(skeleton):
                    return True
        return False

    def _stems(self, first: str) -> tuple[dict[str, list[Sound]], dict[str, list[str]]]:
        """Index the words that begin with a class, with and without endings: by skeleton, and by neighbours."""
        if first not in self._stems_by_first:
            exact: dict[str, list[Sound]] = {}
            near: dict[str, list[str]] = {}
            for word in self._words.get(first, ()):
                for stem in stems(word, self.language):
                    exact.setdefault(stem[0], []).append(stem)
            for skeleton in exact:
                for key in neighbourhood(skeleton) if len(skeleton) >= LOOSE else ():
                    near.setdefault(key, []).append(skeleton)
            self._stems_by_first[first] = exact, near
        return self._stems_by_first[first]

    @cached_property
    def _words(self) -> dict[str, set[str]]:
        """The words by the classes that they may begin with, also after a prefix."""
        found: dict[str, set[str]] = {}
        for token in self.said:
            if token.kind == "word" and own(token, self.language):
                rests = (
                    token.key.removeprefix(p) for p in ("", *self.language.name_prefixes) if token.key.startswith(p)
                )
                for skeleton in {skeleton for rest in rests for skeleton in skeletons(rest, self.language)}:
                    found.setdefault(skeleton[:1], set()).add(token.key)
        found.pop("", None)
        return found

    def _in_two(self, skeleton: str) -> bool:
        """Whether two words in a row may together be the name: லே ப்ரான்."""
        for a, b in pairwise(self.said):
            if own(a, self.language) and own(b, self.language):
                for first in skeletons(a.key, self.language):
                    rest = skeleton.removeprefix(first)
                    if (
                        first
                        and rest
                        and rest != skeleton
                        and any(rest == last for last, _ in stems(b.key, self.language))
                    ):
                        return True
        return False


def _near(a: str, b: str) -> bool:
    """Whether two skeletons are one edit apart: one class more or, from five classes on, one class different."""
    if len(a) == len(b):
        return len(a) > LOOSE and a[0] == b[0] and sum(x != y for x, y in zip(a, b, strict=True)) == 1
    short, long = sorted((a, b), key=len)
    return long[0] == short[0] and any(long[:i] + long[i + 1 :] == short for i in range(1, len(long)))


def _bare(token: Token, language: Language) -> list[str]:
    """Return a name, also without an ending that another language replaces (Koreans, Mexican, AMs)."""
    cut = [token.key.removesuffix(ending) for ending in language.name_endings if token.key.endswith(ending)]
    plural = token.text.endswith("s") and token.text[:-1].isupper() and len(token.text) > 2
    return [token.key, *(name for name in cut if plural or len(name) > 3 + (token.key != f"{name}s"))]
