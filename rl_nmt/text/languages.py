"""The language table: everything that rules need to know about a language is in its row. No torch.

Rows are in languages.yaml, those of eight more Indian languages in indic.yaml. These ten have measured rows with word
lists. The other target languages of WMT24++ (Deutsch et al. 2025) have generic rows: script, a rough length ratio with
wide limits, and no word list that could reject a translation.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rl_nmt.errors import ConfigError

Range = tuple[int, int]
Pairs = tuple[tuple[str, str], ...]
Values = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Numerals:
    """How a language writes numbers in words, for rl_nmt.text.numbers. Without `words`, only digits are read.

    `elided`, `links`, `glide`, `doubled` and `emphatic` are sounds, written as independent letters.
    """

    words: Values = ()  # alone or at the end of a compound
    bases: Values = ()  # forms before a smaller number; without any, words are joined unchanged
    prefixes: Values = ()  # only before a scale, in one word
    scales: Values = ()
    scale_bases: Values = ()  # forms of scales before a smaller number
    letters: Values = ()  # scales directly after a number; an ambiguous one also keeps the number's bare value
    elided: str = ""  # the final vowel of a number, dropped before another vowel
    links: frozenset[str] = frozenset()  # vowels that may replace it between parts of a compound
    glide: str = ""  # between two vowels
    doubled: str = ""  # consonants that a word may repeat from the start of the next one
    emphatic: str = ""  # an ending after which a number continues
    endings: tuple[str, ...] = ()  # of cases and ordinals
    nouns: tuple[str, ...] = ()  # stems of nouns that are written together with a number
    hints: Values = ()  # words that may mean a number
    doubts: frozenset[str] = frozenset()  # number words that are also other words
    minus: tuple[str, ...] = ()
    split_years: bool = False  # "nineteen eighty-four" is a year
    joins: frozenset[str] = frozenset()  # may occur inside a number ("hundred and ten", "half a million")
    between: frozenset[str] = frozenset()  # words between two numbers that share a scale
    before: Values = ()  # phrases before a number (_ for a space), and what they add to it, in units of its scale
    afternoon: tuple[str, ...] = ()
    months: Values = ()
    percent: tuple[str, ...] = ()  # words for per cent
    comma: bool = False  # whether the decimal separator is a comma


@dataclass(frozen=True)
class Language:
    """One row of the language table. Lengths are NFC code points; stems are matched at the start of a word."""

    code: str
    name: str
    script: str
    nllb: str  # its NLLB tag
    ranges: tuple[Range, ...]  # inclusive code point intervals of the script
    expected_length_ratio: float  # typical length of a translation over its English source
    length_tolerance: float  # half width of the band of natural-log length ratios of real translations
    length_limits: tuple[float, float]  # log distances from the expected ratio that no translation exceeds
    end_marks: str  # marks that end a sentence
    ends_marked: bool  # sentences end with one, so a text without one may be cut off
    pause_marks: str  # marks that cannot end a text, unless they are end marks too
    quotes: tuple[str, ...]  # pairs of quotation marks: the opening and the closing one
    max_copied: float  # share of a source's content letters that a translation may repeat; more among cognates
    labels: tuple[str, ...]  # names of the language and other words before a colon in prompts
    notes: tuple[str, ...]  # stems of words that open an explanation; must not be empty, which would match any word
    note_topics: tuple[str, ...] = ()  # stems in a source that excuse them
    meta: tuple[str, ...] = ()  # stems of words about translating
    meta_topics: tuple[str, ...] = ()  # stems in a source that excuse them
    openers: tuple[str, ...] = ()  # first words of a chat answer
    opener_topics: tuple[str, ...] = ()  # first words of a source that excuse them, in addition to the openers
    noises: frozenset[str] = frozenset()  # words in a source that excuse sounds in the output: laughter, bells
    sounds: Pairs = ()  # graphemes in the nine classes of rl_nmt.text.phonetics, alternatives separated by |
    told_apart: frozenset[str] = frozenset()  # languages of its script that the gate `language` tells it from
    told_apart_odds: float = 3.0  # how many times as probable as all the rest one of them must be
    alike: frozenset[str] = frozenset()  # languages that nobody can tell it from in a script it may use
    requires_names: bool = True  # false where more references than Tamil's lack or misspell a name
    vowels: str = ""  # letters that open a syllable on their own
    virama: str = ""  # the sign that removes a consonant's inherent vowel; empty for an alphabet
    respelled: Pairs = ()  # spellings that are replaced, in this order, before a word is spelled by sound
    translated: Pairs = ()  # names in the source language, and how words for them begin, alternatives separated by |
    name_prefixes: tuple[str, ...] = ()  # prefixes written together with a name
    endings: tuple[str, ...] = ()  # endings of nouns: number, case and particles
    obliques: Pairs = ()  # final letters of a stem before an ending, and their form without one
    glides: str = ""  # letters inserted between two vowels
    latin_letters: Pairs = ()  # how names of Latin letters are written, as in acronyms; alternatives separated by |
    function_words: frozenset[str] = frozenset()  # never borrowed by another language
    acronyms: frozenset[str] = frozenset()  # acronyms spelled like a function word
    connectors: frozenset[str] = frozenset()  # words that connect the parts of a name
    abbreviations: frozenset[str] = frozenset()  # words whose full stop does not end a sentence
    headings: frozenset[str] = frozenset()  # with a number and a full stop they open a heading: "Chapter 1. The sea"
    quotatives: frozenset[str] = frozenset()  # first words after quoted speech that belong to its sentence
    dotted_ordinals: bool = False  # "3." is third
    unfinished: frozenset[str] = frozenset()  # words that cannot end a sentence
    programs: frozenset[str] = frozenset()  # kept unchanged, with the word after them: "git commit"
    command_nouns: frozenset[str] = frozenset()  # the word before them may be kept: "the export command"
    species: tuple[str, ...] = ()  # endings of the second word of a Latin name: Panthera tigris
    common_capitals: frozenset[str] = frozenset()  # words written with a capital that are translated
    name_endings: tuple[str, ...] = ()  # of plurals and peoples, which other languages replace
    numerals: Numerals = Numerals()

    def __hash__(self) -> int:  # rows are keys of many look-ups; hashing every field each time would cost more
        return hash(self.code)

    @property
    def full_name(self) -> str:
        """Its name for prompts, with the code of a regional row: Chinese (zh-TW)."""
        return f"{self.name} ({self.code.replace('_', '-')})" if "_" in self.code else self.name

    @cached_property
    def closing(self) -> frozenset[str]:
        """Quotation marks that may close."""
        return frozenset(pair[1] for pair in self.quotes)

    @cached_property
    def opening(self) -> frozenset[str]:
        """Quotation marks that only open."""
        return frozenset(pair[0] for pair in self.quotes) - self.closing


def code_points(text: str) -> tuple[Range, ...]:
    """Parse inclusive intervals written in hexadecimal: "0B80-0BFF 200D"."""
    ends = (word.partition("-") for word in text.split())
    return tuple((int(low, 16), int(high or low, 16)) for low, _, high in ends)


def _pairs(text: str) -> Pairs:
    """Parse `"க=k ங=n"` into pairs; `-` stands for no sound."""
    cells = (cell.partition("=") for cell in text.split())
    return tuple((left, "" if right == "-" else right) for left, _, right in cells)


_READ: dict[Any, Callable[[Any], Any]] = {
    str: str,
    float: float,
    bool: lambda text: text == "true",
    tuple[Range, ...]: code_points,
    tuple[float, float]: lambda cells: tuple(map(float, cells)),
    tuple[str, ...]: tuple,
    frozenset[str]: lambda text: frozenset(text.split()),
    Pairs: _pairs,
    Values: lambda cells: tuple((stem, float(value)) for stem, value in _pairs(cells)),
    Numerals: lambda cells: Numerals(**{name: _READ[_TYPES[name]](value) for name, value in cells.items()}),
}
_TYPES: dict[str, Any] = {field.name: field.type for row in (Numerals, Language) for field in fields(row)}


def read_words(path: Path) -> dict:
    """Read a YAML file of words with every scalar as a string ("no" is a language)."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


_TABLE, _INDIC = (read_words(Path(__file__).with_name(name)) for name in ("languages.yaml", "indic.yaml"))


def _row(code: str, cells: dict) -> Language:
    if "of" in cells:
        return replace(LANGUAGES[cells["of"]], code=code, nllb=cells["nllb"])
    values = {"code": code, **_TABLE["defaults"], **_TABLE["scripts"][cells["script"]], **cells}
    if block := values.pop("block", None):  # the row's own cells come last in `sounds`, where the last one counts
        layout = {name: _moved(text, int(block, 16)) for name, text in _INDIC["layout"].items()}
        values["sounds"] = f"{layout['sounds']} {values.get('sounds', '')}"
        values["respelled"] = f"{values.get('respelled', '')} {layout['respelled']}"
        values |= {"vowels": layout["vowels"].replace(" ", ""), "virama": layout["virama"]}
    known = _TABLE["scripts"]
    values["ranges"] = " ".join(known[word]["ranges"] if word in known else word for word in values["ranges"].split())
    values["labels"] = [values["name"].lower(), *values.get("labels", ()), *_TABLE["labels"]]
    row = Language(**{name: _READ[_TYPES[name]](value) for name, value in values.items()})
    return replace(row, numerals=replace(row.numerals, comma=code in _TABLE["decimal_comma"].split()))


def _moved(cells: str, block: int) -> str:
    """Return Devanagari cells in the letters of another Unicode block of the same order, without those it lacks.

    >>> _moved("क=k ख=k ळ=l", 0x0B80)
    'க=k ள=l'
    """
    cells = re.sub("[\u0900-\u097f]", lambda letter: chr(ord(letter[0]) - 0x0900 + block), cells)
    kept = (cell for cell in cells.split() if unicodedata.is_normalized("NFC", cell))
    return " ".join(cell for cell in kept if all(unicodedata.name(letter, "") for letter in cell))


LANGUAGES: dict[str, Language] = {}
LANGUAGES.update((code, _row(code, cells)) for code, cells in (_TABLE["languages"] | _INDIC["languages"]).items())
TAMIL, ENGLISH = LANGUAGES["ta"], LANGUAGES["en"]
SOURCE, TARGET = LANGUAGES[_TABLE["source"]], LANGUAGES[_TABLE["target"]]  # where a caller names no language
# Pairs of all languages, and those that open and close with the same mark.
QUOTES = frozenset(pair for row in LANGUAGES.values() for pair in row.quotes) | {'""', "''", "``"}
QUOTE_MARKS = "".join(sorted(set("".join(QUOTES))))
POSSESSIVES: tuple[str, ...] = tuple(_TABLE["possessives"])
FILE_ENDINGS: tuple[str, ...] = tuple(_TABLE["file_endings"].split())
SHARED_SCRIPTS: frozenset[str] = frozenset(_TABLE["shared_scripts"])
FORMULAS: tuple[str, ...] = tuple(_TABLE["formulas"].split())
WMT24PP: tuple[str, ...] = tuple(_TABLE["wmt24pp"].split())


def language(code: str, argument: str = "language") -> Language:
    """Return the row for a language code, with or without a region, in any of the usual spellings.

    A region without its own row uses its language's. Raises ConfigError, naming `argument`, for other codes.

    >>> [language(code).name for code in ("ko", "ko_KR", "ta-in", "ZH_tw")], language("zh_TW").nllb
    (['Korean', 'Korean', 'Tamil', 'Chinese'], 'zho_Hant')
    """
    base, region = _parts(code, argument)
    return LANGUAGES.get(f"{base}_{region}") or LANGUAGES[base]


def language_of_nllb(tag: str) -> Language:
    """Return the row with this NLLB tag, else one of the same script, else the default target's, to read a text with.

    >>> [language_of_nllb(tag).code for tag in ("hin_Deva", "npi_Deva", "kat_Geor")]
    ['hi', 'hi', 'ta']
    """
    rows = LANGUAGES.values()
    same = [row for row in rows if row.nllb == tag] or [row for row in rows if row.nllb[4:] == tag[4:]]
    return same[0] if same else TARGET


def bcp47(code: str, argument: str = "language") -> str:
    """Return the code as prompts write it: `ko-KR`, or `ko` where no region was given. Raises as `language`.

    >>> bcp47("ko_kr"), bcp47("TA"), bcp47("fil-PH")
    ('ko-KR', 'ta', 'fil-PH')
    """
    base, region = _parts(code, argument)
    return f"{base}-{region}" if region else base


def wmt24pp_code(code: str, argument: str = "target_lang") -> str:
    """Return WMT24++'s code of a target language; without a region, its first one. Raises ConfigError for others.

    >>> wmt24pp_code("ta"), wmt24pp_code("zh-TW"), wmt24pp_code("pt")
    ('ta_IN', 'zh_TW', 'pt_BR')
    """
    base, region = _parts(code, argument)
    near = [known for known in WMT24PP if known.split("_")[0] == base]
    found = [known for known in near if region in ("", known.split("_")[1])]
    if not found:
        raise ConfigError(f"{argument}: WMT24++ has no {code}; use {' or '.join(near) or ', '.join(WMT24PP)}")
    return found[0]


def canonical(code: str, argument: str = "language") -> str:
    """Return the code as settings keep it: without the region where that changes nothing, else as `pt_PT`.

    A region matters if it has a row or another evaluation set of WMT24++ than the bare code. Raises as `language`.

    >>> [canonical(code) for code in ("TA", "ta-in", "pt_BR", "pt-pt", "zh_cn", "ZH-tw", "ar_SA")]
    ['ta', 'ta', 'pt', 'pt_PT', 'zh', 'zh_TW', 'ar']
    """
    base, region = _parts(code, argument)
    own = f"{base}_{region}"
    first = next((known for known in WMT24PP if known.split("_")[0] == base), "")
    return base if not region or own == first else own


def _parts(code: str, argument: str) -> tuple[str, str]:
    """Split a code whose language is in the table into (language, region or "")."""
    found = re.fullmatch(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{2}))?", code.strip())
    if found and found[1].lower() in LANGUAGES:
        return found[1].lower(), (found[2] or "").upper()
    names = {row.name.lower(): row.code for row in LANGUAGES.values() if "_" not in row.code}
    word = re.split("[-_]", code.strip().lower())[0]
    near = difflib.get_close_matches(word, [*names, *names.values()], n=1, cutoff=0.75)
    hint = f"did you mean {names.get(near[0], near[0])}?" if near else f"use one of {', '.join(sorted(names.values()))}"
    raise ConfigError(f"{argument}: {code!r} is not in the language table: {hint}")
