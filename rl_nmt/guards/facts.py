"""What of a source must reappear in any translation, and whether it does. No torch, no reference.

Numbers by their values (3.7 million = 37 lakh), of which an output may have no others, URLs, e-mail addresses,
placeholders, code, acronyms and names, by their sound. Whether a name was rather translated ("Supreme Court") no rule
knows; so names weigh less, and one word is enough for a name of several. Rules: ours (docs/details.md, 10).
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from typing import Any

from rl_nmt.text.languages import Language
from rl_nmt.text.numbers import Number, Reading, numbers, written_out
from rl_nmt.text.pair import TextPair
from rl_nmt.text.phonetics import LOOSE, initials, neighbourhood, skeletons
from rl_nmt.text.tokens import LITERAL, Token, fold, own, without_literals

WEIGHTS = {"number": 1.0, "added": 1.0, "percent": 1.0, "url": 1.0, "email": 1.0, "placeholder": 1.0, "code": 1.0}
WEIGHTS |= {"acronym": 0.5, "name": 0.5}


def fidelity(*pair: Any) -> float | None:
    """Return the weighted share, 0 to 1, of what must stay that the output has; None when there is nothing.

    A number that only the output has counts like one that is lost.
    `pair` is a TextPair, or what makes one: source, output, language and perhaps source_language.

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
    """Everything that must stay, as (kind of WEIGHTS, text), and whether the output has it; "added" it has in excess.

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
    """(kind, text, whether the output has it) of everything that must stay."""
    have = _Output(pair)
    for token in pair.source_tokens:
        if token.kind in LITERAL:
            core = _core(token)
            spoken = token.kind in ("url", "code") and "/" not in core
            yield token.kind, core, core.casefold() in have.literals or (spoken and have.sounds_like(core))
    yield from _numbers(pair, have)
    for name in _names(pair):
        text = " ".join(t.text for t in name)
        acronym = len(name) == 1 and text.isupper() and len(text) > 1
        yield "acronym" if acronym else "name", text, have.calls(name, acronym)


def _numbers(pair: TextPair, have: "_Output") -> Iterator[tuple[str, str, bool]]:
    """The source's numbers, and each that only the output has: of a row without number words digits alone are asked."""
    words = bool(pair.source_language.numerals.words and pair.language.numerals.words)
    asked = _read(pair.clean_source, pair.source_language)
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
    """An address without the punctuation around it; a placeholder as it is."""
    return token.text if token.kind == "placeholder" else token.text.strip("\"'“”‘’«»()[]<>,;:!?….")


_NAME = 6  # classes of a name that are compared; what follows may be an ending


def _counted(number: Number, readings: set[Reading]) -> bool:
    """Whether one of a number's readings is among these, or all of its parts are."""
    whole = any(reading in readings for reading in number.readings)
    return whole or (bool(number.parts) and all(any(r in readings for r in part) for part in number.parts))


def _figures(readings: Iterable[Reading]) -> set[str]:
    """The figures of values whatever their power of ten: 2.8 billion is 28 of a language's unknown larger unit."""
    return {f"{reading:.9e}".partition("e")[0] for reading in readings if isinstance(reading, float)}


def _read(text: str, language: Language) -> tuple[Number, ...]:
    return numbers(without_literals(written_out(text)), language)


def _readings(found: tuple[Number, ...], times: bool) -> set[Reading]:
    """What numbers may be worth, and their parts; those of times if `times`: 9:30 tells of nine, and is not nine."""
    whole = {reading for number in found for reading in number.readings}
    parted = (number for number in found if times or ":" not in number.text)
    return whole | {reading for number in parted for part in number.parts for reading in part}


def _names(pair: TextPair) -> Iterator[list[Token]]:
    """Runs of kept source words with a capital, unless all of them are commonly translated."""
    language = pair.source_language

    def may_name(item: tuple[Token, bool]) -> bool:
        token, stays = item
        word = stays and token.kind == "word" and own(token, language) and token.text[:1].isupper()
        return word and token.key not in language.function_words and len(token.text) > 1

    for named, items in groupby(zip(pair.source_tokens, pair.kept, strict=True), may_name):
        run = [token for token, _ in items]
        if named and any(token.key not in language.common_capitals for token in run):
            yield run


class _Output:
    """The output of a pair, indexed once for every question about it."""

    def __init__(self, pair: TextPair):
        language, self.said = pair.language, pair.output_tokens
        self.language, self.source_language = language, pair.source_language
        self.words = {t.key for t in self.said}
        self.literals = {_core(t).casefold() for t in self.said if t.kind in LITERAL}
        self.numbers = _read(pair.clean_output, language)
        self.readings = _readings(self.numbers, times=False)
        folded = unicodedata.normalize("NFKC", pair.clean_output).casefold()
        self.percent = any(word in folded for word in language.numerals.percent)

    def counts(self, number: Number) -> bool:
        """Whether the number is there, with its scale if the language has words for scales, and per cent if it is."""
        there = _counted(number, self.readings)
        if not there and not self.language.numerals.scales:
            there = number.bare != number.readings and not _figures(number.bare).isdisjoint(_figures(self.readings))
        return there and (self.percent or not number.percent)

    def calls(self, name: list[Token], acronym: bool) -> bool:
        """Whether one word of the name is there, in its letters or by its sound; or all of it run together."""
        telling = [token for token in name if token.key not in self.source_language.common_capitals]
        words = [word for token in telling for word in _bare(token.key, self.source_language)]
        if any(word in self.words for word in words):
            return True
        if acronym:
            return self._begins(initials(name[0].key, self.source_language)) or self._sounds_like(words[0])
        return any(map(self._sounds_like, (*words, "".join(t.key for t in name))))

    def sounds_like(self, text: str) -> bool:
        """Whether a word of the text is there by its sound."""
        return any(self._sounds_like(fold(word)) for word in re.findall(r"[^\W\d_]+", text))

    def _sounds_like(self, word: str) -> bool:
        return any(map(self._begins, skeletons(word, self.source_language)))

    def _begins(self, skeleton: str) -> bool:
        """Whether a word begins so: within one edit from four classes on; with three, one more may be heard."""
        skeleton = skeleton[:_NAME]
        if len(skeleton) < LOOSE:
            return bool(skeleton) and (f"{skeleton}$" in self._beginnings or skeleton in self._beginnings)
        return not neighbourhood(skeleton).isdisjoint(self._beginnings)

    @cached_property
    def _beginnings(self) -> set[str]:
        """Look-up keys of how the words begin, for every length a name may have."""
        words = [token for token in self.said if token.kind == "word" and own(token, self.language)]
        sounds = {skeleton for token in words for skeleton in skeletons(token.key, self.language)}
        starts = {sound[:end] for sound in sounds for end in range(1, min(len(sound), _NAME) + 1)}
        near = (neighbourhood(start) for start in starts if len(start) >= LOOSE)
        return {f"{start}$" for start in starts}.union(*near)


def _bare(key: str, language: Language) -> list[str]:
    """A name, and what is left of it without an ending that another language replaces (Korean, AMs)."""
    return [key, *(key.removesuffix(e) for e in language.name_endings if key.endswith(e) and len(key) > len(e) + 1)]
