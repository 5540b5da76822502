"""Read the numbers of a text, in digits and in words, by their values. No torch.

Two numbers are the same when they share a reading: "7.55" is a decimal and a time, "37 lakh" and "3.7 million" are
3,700,000. Words, scales and endings of a language are in its row of languages.yaml; without words, only digits
are read. Rules: ours (docs/details.md, 10).
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from rl_nmt.text.languages import FORMULAS, Language
from rl_nmt.text.number_words import Atom, Reading, Word, WordReader
from rl_nmt.text.unicode import within


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a text.

    `readings`: its possible values. `parts`: numbers that mean the same together, each with its readings ("7:15").
    `bare`: the readings without the scale word. `sure`: it is certainly a number (unlike "one", "half", "V").
    `spoken`: written in words.
    """

    text: str
    readings: tuple[Reading, ...]
    parts: tuple[tuple[Reading, ...], ...] = ()
    bare: tuple[Reading, ...] = ()
    percent: bool = False
    sure: bool = True
    spoken: bool = False


@lru_cache(maxsize=4096)
def numbers(text: str, language: Language) -> tuple[Number, ...]:
    """Return the numbers of a text, then words that may be numbers. Digits of other scripts are ignored. Linear.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> [number.readings for number in numbers("-1.5 km², fifty thousand, 9 billion", ENGLISH)]
    [(-1.5,), (50000.0,), (9000000000.0,)]
    >>> [number.readings for number in numbers("இருபத்தைந்தாவது, ஏழரை", TAMIL)]
    [(25.0,), (7.5, '7:30')]
    """
    return tuple(_reader(language).read(_plain(text, language)))


_MAX_DIGITS = 15  # a longer run is compared digit by digit
_DIGITS = (
    r"(?P<date>[0-9]{1,4}([./-])[0-9]{1,2}\2[0-9]{2,4}(?![0-9]))"
    r"|(?P<ratio>(?:[0-9]{1,3} )?[0-9]{1,4}/[0-9]{1,4}(?![0-9]))|(?P<digits>[0-9]+(?:[.,:][0-9]+)*)"
)
_GROUPED = r"(?:[0-9]{1,2}(?:SEP[0-9]{2})*SEP[0-9]{3}|[0-9]{1,3}(?:SEP[0-9]{3})+|[0-9]+)"  # Indian, Western, none
_POINT = re.compile(_GROUPED.replace("SEP", ",") + r"(?:\.[0-9]+)?")
_COMMA = re.compile(_GROUPED.replace("SEP", r"\.") + "(?:,[0-9]+)?")
_SPACED = re.compile(r"(?<![0-9.,:/-])(?<![0-9] )[0-9]{1,3}(?: [0-9]{3})+(?![0-9])")
_TIME = re.compile(r"([01]?[0-9]|2[0-4])([:.])([0-5][0-9])")
_FORMULA = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(sorted(FORMULAS, key=len, reverse=True))})(?![A-Za-z0-9])")
_TEN_TO_THE = re.compile(r"(?<![0-9])10([⁰¹²³⁴-⁹]{1,2})(?![⁰¹²³⁴-⁹])")
_RAISED = re.compile("[⁰¹²³⁴-⁹₀-₉⁺⁻]")
_SMALL = re.compile("[⁰¹²³⁴-⁹₀-₉¼-¾⅐-⅞]")
_ROMAN = re.compile(r"(?=[XVI])(X{0,3})(IX|IV|V?I{0,3})")
_NOT_MINUS = re.compile(r"(?:[0-9]|\b[A-Z]{2,}) ?$")  # a dash after it is a hyphen
_MONEY = "$£€₹¥"


def written_out(text: str) -> str:
    """Return the text with powers of ten and fractions in digits, and without exponents and indices.

    Call it before NFKC, which would turn m² into m2 and 2½ into 21/2.

    >>> written_out("2½ km², 10⁶ cells, CO₂")
    '2 1/2 km, 1000000 cells, CO'
    """
    if not _SMALL.search(text):
        return text
    text = _TEN_TO_THE.sub(lambda power: "1" + "0" * min(_small(power[1]), 15), text)
    text = re.sub("[¼-¾⅐-⅞]", lambda one: " " + unicodedata.normalize("NFKC", one[0]).replace("⁄", "/"), text)
    return _RAISED.sub("", text)


def _small(digits: str) -> int:
    return int("".join(str(unicodedata.digit(digit)) for digit in digits))


def _plain(text: str, language: Language) -> str:
    """Return the text with the language's digits as 0 to 9, and without formulas."""
    text = unicodedata.normalize("NFKC", written_out(text)).translate(_SIGNS)
    if not text.isascii():
        text = re.sub(r"\d", lambda digit: _own_digit(digit[0], language), text)
    if language.numerals.comma:
        text = _SPACED.sub(lambda groups: groups[0].replace(" ", ""), text)
    return _FORMULA.sub("", text)


_SIGNS = {ord("⁄"): "/", ord("٫"): ".", ord("٬"): ",", ord("−"): "-", 0x200C: None, 0x200D: None}


def _own_digit(digit: str, language: Language) -> str:
    return str(int(digit)) if digit.isascii() or within(ord(digit), language.ranges) else digit


@lru_cache(maxsize=64)
def _reader(language: Language) -> "_Reader":
    return _Reader(language)


@dataclass(slots=True)
class _Piece:
    """A number in digits, or a number word, with its position."""

    start: int
    end: int
    word: Word
    number: Number | None = None  # in digits


@dataclass(slots=True)
class _Sum:
    """A number being read: its terms, largest first, as (value, upper bound of the next, index of its first piece)."""

    terms: list[tuple[float, float, int]] = field(default_factory=list)
    cut: int | None = None  # index of the piece before which the number ends after all

    def add(self, atom: Atom, index: int, years: bool) -> bool:
        """Add one atom of a piece; return False if it does not belong to this number."""
        value, scale = atom
        first, below = index, _below(value)
        if scale:
            factors, below = [], value
            while self.terms and (self.terms[-1][0] < value or value < 1):
                term, _, first = self.terms.pop()
                factors.append(term)
            value *= sum(factors) if factors else 1
        elif years and len(self.terms) == 1 and 13 <= self.terms[0][0] <= 20 and 10 <= value < 100:
            self.terms[0] = (self.terms[0][0] * 100, 100, self.terms[0][2])  # nineteen eighty-four
        if self.terms and not value < self.terms[-1][1]:
            self.cut = first
            return False
        self.terms.append((value, below, first))
        return True

    @property
    def value(self) -> float:
        return round(sum(value for value, _, _ in self.terms), 4)


def _below(value: float) -> float:
    """Return what a following number must be below to be part of this one: five after twenty, a half after two."""
    if value != int(value):
        return 0
    return next((power for power in (1000, 100, 10) if value >= 20 and value % power == 0), 1)


class _Reader:
    """A reader of one language's numerals, with its patterns compiled."""

    def __init__(self, language: Language):
        self.row = row = language.numerals
        ranges = "".join(f"\\U{low:08X}-\\U{high:08X}" for low, high in language.ranges)
        self.pieces = re.compile(rf"{_DIGITS}|(?P<word>[A-Za-z{ranges}]+)")
        self.words = WordReader(language)
        self.strung = not row.bases
        joins = "|".join(sorted(row.joins))
        self.gap = re.compile(f"[ -]?|[ -](?:(?:{joins})[ -])+" if joins else "[ -]?")
        self.article = re.compile(rf"\b(?:{joins}) $" if joins else "(?!)")
        self.between = re.compile(rf" ?[-–—] ?| (?:{'|'.join(sorted(row.between)) or '(?!)'}) ")
        self.before = tuple((phrase.replace("_", " "), value) for phrase, value in row.before)

    def read(self, text: str) -> Iterator[Number]:
        pieces: list[_Piece] = []
        hints: list[_Piece] = []
        for piece in self._find(text):
            (pieces if piece.word.atoms or piece.number else hints).append(piece)
        last: tuple[Number, int, float] | None = None  # the previous number, its end, its scale factor
        index = 0
        while index < len(pieces):
            end, total = self._gather(text, pieces, index)
            if pieces[index].word.letter:  # a scale without a number
                hints.append(pieces[index])
                index += 1
                continue
            number, scale = self._number(text, pieces[index:end], total)
            if last:
                joined = self.between.fullmatch(text[last[1] : pieces[index].start][:20])
                earlier, number = _ranged(last[0], last[2], number, scale) if joined else (last[0], number)
                yield earlier
            last = (number, pieces[end - 1].end, scale)
            index = end
        if last:
            yield last[0]
        for piece in filter(lambda piece: piece.word.hints, hints):
            yield Number(text[piece.start : piece.end], piece.word.hints, sure=False, spoken=True)

    def _find(self, text: str) -> Iterator[_Piece]:
        """Yield everything that is a number or may be part of one, in order."""
        for match in self.pieces.finditer(text):
            start, end, written = match.start(), match.end(), match[0]
            if match["word"]:
                word = self.words.read(written.casefold()) if self.row.words else None
                roman = _ROMAN.fullmatch(written)
                if word:
                    yield _Piece(start, end, word)
                elif roman:
                    yield _Piece(start, end, Word(hints=(_roman(roman),)))
            elif match["date"]:
                yield from _dated(start, re.split("[./-]", written))
            elif match["ratio"]:
                yield _Piece(start, end, Word(), _ratio(written))
            else:
                yield from _in_digits(start, written, self.row.comma)

    def _gather(self, text: str, pieces: list[_Piece], first: int) -> tuple[int, float]:
        """Return the index after the last piece of the number that begins at `first`, and its value."""
        total, index, limit = _Sum(), first, len(pieces)
        while index < limit and (index == first or self._follows(text, pieces, index)):
            piece = pieces[index]
            atoms = piece.word.atoms or ((_value(piece.number), False),)
            years = self.row.split_years and index > first and not piece.number and not pieces[first].number
            if not all(total.add(atom, index, years) for atom in atoms):
                if total.cut == first or total.cut is None:  # not even its own parts fit
                    return first + 1, _value(piece.number) if index == first else total.value
                total, index, limit = _Sum(), first, total.cut
                continue
            index += 1
            if piece.number and (piece.number.parts or not isinstance(piece.number.readings[0], float)):
                break
        return max(index, first + 1), total.value

    def _follows(self, text: str, pieces: list[_Piece], index: int) -> bool:
        """Whether a piece may continue the number of the piece before it."""
        before, piece = pieces[index - 1], pieces[index]
        gap = text[before.end : piece.start]
        if len(gap) > 16 or not self.gap.fullmatch(gap) or (gap == "" and not before.number):
            return False
        a_scale = bool(piece.word.atoms) and piece.word.atoms[0][1]
        if a_scale:
            half = bool(before.word.atoms) and before.word.atoms[-1][0] < 1  # half a million
            return (before.word.link != "" or before.number is not None) and (len(gap) <= 1 or half)
        after_scale = bool(before.word.atoms) and before.word.atoms[-1][1]
        if after_scale and gap == " " and (piece.number or not self.strung):
            further = pieces[index + 1] if index + 1 < len(pieces) else None
            scaled = len(piece.word.atoms) > 1 and piece.word.atoms[-1][1]
            near = further and further.word.atoms[:1] and further.start - piece.end < 2 and further.word.atoms[0][1]
            if scaled or near:  # 2 crore 50 lakh
                return True
        if not self.strung:
            return before.word.link == "+" and gap == " "
        if piece.word.atoms and piece.word.atoms[0][0] < 1:  # two and a half
            return len(gap) > 1
        return not piece.number and not before.number and (len(gap) <= 1 or after_scale)

    def _number(self, text: str, pieces: list[_Piece], value: float) -> tuple[Number, float]:
        """Return the number of these pieces and its scale factor (1 without a scale)."""
        first, start, end = pieces[0], pieces[0].start, pieces[-1].end
        behind = text[end : end + 24].lstrip(" -").casefold()
        front = text[max(0, start - 24) : start]
        digits, alone = first.number, len(pieces) == 1
        readings = digits.readings if digits and alone else (value, *(first.word.hints if alone else ()))
        bare = digits.readings if digits else (sum(v for v, scale in first.word.atoms if not scale),)
        scale = 1.0
        if any(scale for piece in pieces for _, scale in piece.word.atoms):
            scale = value / float(bare[0]) if isinstance(bare[0], float) and bare[0] else value
        unclear = bool(pieces[-1].word.hints) or end - pieces[-1].start == 1  # three quarters, 5m
        if pieces[-1].word.letter and unclear and (front[-1:] or " ") not in _MONEY:
            readings = (*readings, *bare)
        if not digits and 1 < value < 13 and value % 1 in (0.25, 0.5, 0.75):
            readings = (*readings, f"{int(value)}:{value % 1 * 60:02.0f}")
        phrase = next((add for phrase, add in self.before if front.casefold().endswith(f"{phrase} ")), None)
        if phrase and value == int(value):
            hour, minute = divmod(int((value + phrase) * 60), 60)
            readings = (value + phrase * scale, f"{hour}:{minute:02}")
        if self.row.afternoon and behind.startswith(self.row.afternoon) and readings[0] in range(1, 12):
            readings = (*readings, value + 12)
        if _negative(front, text[end : end + 2], self.row.minus):
            readings = tuple(-reading if isinstance(reading, float) else reading for reading in readings)
        number = Number(
            text[start:end],
            readings,
            digits.parts if digits and alone else (),
            bare,
            behind.startswith(self.row.percent),
            bool(digits) or not self._doubtful(text, pieces, value),
            not digits,
        )
        return number, scale

    def _doubtful(self, text: str, pieces: list[_Piece], value: float) -> bool:
        """Whether a number in words may mean something else: a lone "one", "second", "half", "million", or a name."""
        first = pieces[0]
        front = text[max(0, first.start - 24) : first.start].rstrip()
        name = text[first.start].isupper() and front[-1:] not in ("", *".!?:;\"“”'‘’(—–-")
        if len(pieces) > 1 or name:
            return name
        only_scale = (
            first.word.atoms[0][1]
            and value >= 1e5
            and not self.article.search(text[max(0, first.start - 8) : first.start])
        )
        return first.word.doubtful or (value <= 1 and len(first.word.atoms) == 1) or only_scale


def _negative(front: str, behind: str, minus: tuple[str, ...]) -> bool:
    """Whether the text before a number makes it negative: a minus that is not a hyphen, or a word."""
    front = front.rstrip(_MONEY)
    if front[-1:] in ("-", "–"):
        return front[-2:-1] in ("", " ", "(", '"', "“", "'", "‘", "[", ":") and not (
            _NOT_MINUS.search(front[:-1]) or (behind[:1] == "-" and behind[1:].isdigit())
        )
    return front.casefold().rstrip().endswith(minus)


def _value(number: Number | None) -> float:
    return next((reading for reading in (number.readings if number else ()) if isinstance(reading, float)), 0.0)


def _roman(match: re.Match[str]) -> float:
    small = {"IX": 9, "IV": 4}.get(match[2], 5 * match[2].count("V") + match[2].count("I"))
    return float(10 * len(match[1]) + small)


def _dated(start: int, parts: list[str]) -> Iterator[_Piece]:
    """Yield day, month and year; a part up to 12 is also read as a month, a year of two digits also as one of four."""
    for place, written in enumerate(parts):
        (reading,) = _worth(written, False)
        readings: tuple[Reading, ...] = (reading, *_month(reading))
        if place == 2 and len(written) == 2 and isinstance(reading, float):
            readings = (*readings, 1900 + reading, 2000 + reading)
        yield _Piece(start, start + len(written), Word(), Number(written, readings))
        start += len(written) + 1


def _month(reading: Reading) -> tuple[Reading, ...]:
    return (f"month {reading:.0f}",) if isinstance(reading, float) and 1 <= reading <= 12 else ()


def _ratio(written: str) -> Number:
    """ "1/2", "2 1/2", "9/11", "24/7" (day and night: no language needs its 7)."""
    whole, _, rest = written.rpartition(" ")
    top, bottom = (float(part) for part in rest.split("/"))
    kept = [*([float(whole)] if whole else []), top, bottom]
    value = (round(float(whole or 0) + top / bottom, 4),) if bottom else ()
    if written == "24/7":
        return Number(written, (24.0,))
    return Number(written, (*value, written), tuple((part, *_month(part)) for part in kept))


def _in_digits(start: int, written: str, comma: bool) -> Iterator[_Piece]:
    """Yield a number in digits with its separators, or each member of a list."""
    time = _TIME.fullmatch(written)
    readings = () if ":" in written else _worth(written, comma)
    if time:
        yield _Piece(start, start + len(written), Word(), _at(written, time, readings))
    elif readings:
        yield _Piece(start, start + len(written), Word(), Number(written, readings))
    else:
        for part in re.finditer("[0-9]+", written):
            number = Number(part[0], _worth(part[0], False))
            yield _Piece(start + part.start(), start + part.end(), Word(), number)


def _at(written: str, time: re.Match[str], readings: tuple[Reading, ...]) -> Number:
    """Return a time of day on the 12- and the 24-hour clock; with a full stop it is a decimal first."""
    hour, minute = int(time[1]), time[3]
    if time[2] == ".":
        return Number(written, (*readings, f"{hour}:{minute}"))
    hours = tuple(sorted({hour, hour % 12 or 12, hour % 12, hour % 12 + 12}, key=lambda h: (h != hour, h)))
    clock = tuple(f"{h}:{minute}" for h in hours)
    spoken = tuple(float(h) for h in hours if h == hour or hour > 12 or hour == 0)
    if minute == "00":
        return Number(written, (*spoken, *clock))
    return Number(written, clock, (spoken, (float(minute),)))


def _worth(written: str, comma: bool) -> tuple[Reading, ...]:
    """Return the values of digits with separators, both ways under a decimal comma; () for invalid separators."""
    found = []
    for pattern, group, point in ((_COMMA, ".", ","), (_POINT, ",", "."))[not comma :]:
        if len(written) < 2 * _MAX_DIGITS and pattern.fullmatch(written):
            found.append(written.replace(group, "").replace(point, "."))
    if not found and written.isdigit():
        found.append(written)
    return tuple(dict.fromkeys(float(f) if len(f) <= _MAX_DIGITS else f.lstrip("0") or "0" for f in found))


def _ranged(low: Number, low_scale: float, high: Number, high_scale: float) -> tuple[Number, Number]:
    """Return both ends of a range: "1914–18" ends in 1918, "5 to 6 million" begins with 5 million."""
    if len(high.text) == 2 and len(low.text) in (3, 4) and (low.text + high.text).isdigit():
        high = replace(high, readings=(*high.readings, float(low.text[:-2] + high.text)))
    if low_scale == 1.0 != high_scale and isinstance(low.readings[0], float):
        low = replace(low, readings=(*low.readings, round(low.readings[0] * high_scale, 4)))
    return low, high
