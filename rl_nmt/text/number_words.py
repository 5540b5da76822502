"""Read one word of a text as a number word: its value, and what may follow it. No torch.

Words are joined and change at the joint (Tamil இருபத்து + ஐந்து + ஆயிரம் = இருபத்தைந்தாயிரம்), so they are read as
sounds: in a syllabic alphabet each consonant, then its vowel as an independent letter.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from rl_nmt.text.languages import Language
from rl_nmt.text.phonetics import spelled

Reading = float | str  # a value; or a time "7:30", a month "month 5", more digits than a float holds
Atom = tuple[float, bool]  # a value, and whether it is a scale, which multiplies the number before it

_LONGEST = 80  # a longer word is not a number


@dataclass(frozen=True, slots=True)
class Word:
    """`atoms` in order; `link`: "+" where a smaller number may follow, "*" where a scale may, else "".

    `hints`: readings of a word that may be a number; `doubtful`: alone it may be another word; `letter`: it
    counts only directly after a number.
    """

    atoms: tuple[Atom, ...] = ()
    link: str = ""
    hints: tuple[Reading, ...] = ()
    doubtful: bool = False
    letter: bool = False


class WordReader:
    """A reader of one language's number words; `read` takes a word in lower case (NFC)."""

    def __init__(self, language: Language):
        row = language.numerals
        self._virama, self._row, self._language = language.virama, row, language
        kinds = {"word": row.words, "base": row.bases, "prefix": row.prefixes}
        kinds |= {"scale": row.scales, "scale base": row.scale_bases}
        self._atoms = {self._stem(word): (value, kind) for kind, words in kinds.items() for word, value in words}
        self._letters = dict(row.letters)
        self._hints: dict[str, tuple[Reading, ...]] = {}
        hints: list[tuple[str, Reading]] = [*row.hints]
        hints += [(word, f"month {month:.0f}") for word, month in row.months]
        for word, reading in hints:
            stem = self._stem(word)
            self._hints[stem] = (*self._hints.get(stem, ()), reading)
        doubled = f"[{row.doubled}]?" if row.doubled else ""
        self._first = re.compile(_any(self._atoms))
        self._next = re.compile(f"(?:|{_any((row.elided, *row.links))}){doubled}({_any(self._atoms)})")
        endings = _any(self._sounds(ending) for ending in row.endings)
        nouns = _any(self._sounds(noun) for noun in row.nouns)
        self._end = re.compile(
            f"(?P<plain>(?:{row.elided})?{doubled})|(?P<linked>{_any(row.links)}{doubled})"
            f"|(?P<emphatic>{row.glide and row.glide + '?'}{row.emphatic or '(?!)'}{doubled})"
            f"|{row.glide and row.glide + '?'}{endings}{doubled}|(?:{row.elided})?{endings}{doubled}"
            f"|(?:{row.elided})?{doubled}{nouns}.*"
        )
        self._hint = re.compile(_any(self._hints))
        self.read = lru_cache(maxsize=1 << 16)(self._read)

    def _read(self, word: str) -> Word | None:
        """Return the word as a number or as a hint of one; None if it is neither."""
        if len(word) > _LONGEST:
            return None
        sounds = self._sounds(word)
        number, hints = self._number(sounds), self._hinted(sounds)
        if word in self._letters:
            return Word(((self._letters[word], True),), hints=hints, letter=True)
        if number is None:
            return Word(hints=hints, doubtful=True) if hints else None
        doubled = self._virama and word.endswith(self._virama) and word[-2:-1] in self._row.doubled  # ஆறுப் for ஆறு
        known = word[:-2] if doubled else word
        return replace(number, hints=hints, doubtful=bool(hints) or known in self._row.doubts)

    def _number(self, sounds: str) -> Word | None:
        match, place, atoms = self._first.match(sounds), 0, []
        while match:
            value, kind = self._atoms[match[match.lastindex or 0]]
            place = match.end()
            atoms.append((value, kind.startswith("scale")))
            end = None if kind == "prefix" else self._end.fullmatch(sounds, place)
            if end:
                form = end.lastgroup
                if form == "linked" and not kind.endswith("base"):
                    return None
                goes_on = form == "emphatic" or (form and kind.endswith("base"))
                return Word(tuple(atoms), "+" if goes_on else "*" if form else "")
            match = self._next.match(sounds, place)
        return None

    def _hinted(self, sounds: str) -> tuple[Reading, ...]:
        match = self._hint.match(sounds)
        rest = sounds[match.end() :] if match else ""
        if not match or (rest and not self._end.fullmatch(rest.lstrip(self._row.doubled) or rest)):
            return ()
        return self._hints[match[0]]

    def _stem(self, word: str) -> str:
        return self._sounds(word).removesuffix(self._row.elided)

    def _sounds(self, word: str) -> str:
        return spelled(word, self._language)


def _any(words: Iterable[str]) -> str:
    """Return a pattern for any of the words, the longest first; without words it matches nothing."""
    known = sorted(filter(None, words), key=lambda word: (-len(word), word))
    return f"(?:{'|'.join(map(re.escape, known))})" if known else "(?!)"
