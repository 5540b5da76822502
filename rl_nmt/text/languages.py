"""The language table: everything that rules need to know about a language is in its row of languages.yaml. No torch.

Tamil and English have measured rows with word lists. The other target languages of WMT24++ (Deutsch et al. 2025) have
generic ones: script, a rough length ratio with wide limits, and no list that could fire on a translation.
"""

import difflib
import re
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
    """How a language writes numbers beside digits, for rl_nmt.text.numbers. Without `words`, digits alone count.

    `elided`, `links`, `glide`, `doubled` and `emphatic` are sounds, written as letters that stand alone.
    """

    words: Values = ()  # as they stand alone or end a compound
    bases: Values = ()  # forms that a smaller number follows; without any, words are strung together as they are
    prefixes: Values = ()  # only before a scale, in one word
    scales: Values = ()
    scale_bases: Values = ()  # forms of scales that a smaller number follows
    letters: Values = ()  # scales right behind a number; those that may mean something else leave its bare value too
    elided: str = ""  # the vowel at the end of a number that falls before another
    links: frozenset[str] = frozenset()  # vowels that may stand for it between parts of a compound
    glide: str = ""  # between two vowels
    doubled: str = ""  # consonants that a word takes on from the next
    emphatic: str = ""  # an ending after which a number continues
    endings: tuple[str, ...] = ()  # of cases and ordinals
    nouns: tuple[str, ...] = ()  # stems of nouns that are written together with a number
    hints: Values = ()  # words that may be said with a number, or may be one
    doubts: frozenset[str] = frozenset()  # forms of numbers that are also other words
    minus: tuple[str, ...] = ()
    joins: frozenset[str] = frozenset()  # may occur inside a number ("hundred and ten", "half a million")
    between: frozenset[str] = frozenset()  # stand between two numbers that share a scale
    before: Values = ()  # phrases in front of an hour (_ for a space), and what they add to it
    afternoon: tuple[str, ...] = ()
    months: Values = ()
    percent: tuple[str, ...] = ()  # words for per cent
    comma: bool = False  # the decimal sign


@dataclass(frozen=True)
class Language:
    """One row of the language table. Lengths are NFC code points; stems are matched at the start of a word."""

    code: str
    name: str
    script: str
    nllb: str  # its tag
    ranges: tuple[Range, ...]  # inclusive code point intervals of the script
    expected_length_ratio: float  # typical length of a translation over its English source
    length_tolerance: float  # half width of the band of natural-log ratios in which real translations lie
    length_limits: tuple[float, float]  # log distances from the expected ratio that no translation crosses
    end_marks: str  # end a sentence
    ends_marked: bool  # sentences end in one of them, so that one without it may be cut off
    pause_marks: str  # never the last sign of a text; an end mark may be among them
    quotes: tuple[str, ...]  # pairs of quotation marks: the opening and the closing one
    max_copied: float  # share of a source's content letters that a translation may repeat; more among cognates
    labels: tuple[str, ...]  # what a prompt calls the language, and what else stands before a colon in prompts
    notes: tuple[str, ...]  # stems of words that open an explanation; never empty, it would match any word
    note_topics: tuple[str, ...] = ()  # stems in a source that excuse them
    meta: tuple[str, ...] = ()  # stems of words that speak of translating
    meta_topics: tuple[str, ...] = ()  # stems in a source that excuse them
    openers: tuple[str, ...] = ()  # first words of a chat answer
    opener_topics: tuple[str, ...] = ()  # first words of a source that excuse them, in addition to the openers
    noises: frozenset[str] = frozenset()  # words in a source that excuse sounds in the output: laughter, bells
    sounds: Pairs = ()  # graphemes in the nine classes of rl_nmt.text.phonetics, alternatives separated by |
    vowels: str = ""  # letters that open a syllable on their own
    virama: str = ""  # the sign that takes a consonant's inherent vowel away; none in an alphabet
    translated: Pairs = ()  # names in the source language, and beginnings of words for them, alternatives with |
    name_prefixes: tuple[str, ...] = ()  # written together with a name
    endings: tuple[str, ...] = ()  # of nouns: number, case and particles
    obliques: Pairs = ()  # letters at the end of a stem before an ending, and what they are without one
    glides: str = ""  # letters that part two vowels
    latin_letters: Pairs = ()  # how the names of Latin letters are written, as in acronyms; alternatives with |
    function_words: frozenset[str] = frozenset()  # never borrowed by another language
    acronyms: frozenset[str] = frozenset()  # that are function words by their letters
    connectors: frozenset[str] = frozenset()  # hold the words of a name together
    abbreviations: frozenset[str] = frozenset()  # end in a full stop that ends no sentence
    headings: frozenset[str] = frozenset()  # with a number and a full stop they open a heading: "Chapter 1. The sea"
    quotatives: frozenset[str] = frozenset()  # first words after quoted speech that belong to its sentence
    dotted_ordinals: bool = False  # "3." is third
    unfinished: frozenset[str] = frozenset()  # end no sentence
    programs: frozenset[str] = frozenset()  # typed as they are, with the word after them: "git commit"
    command_nouns: frozenset[str] = frozenset()  # the word before them may be one that is typed: "the export command"
    species: tuple[str, ...] = ()  # endings of the second word of a Latin name: Panthera tigris
    common_capitals: frozenset[str] = frozenset()  # written with a capital and yet translated
    name_endings: tuple[str, ...] = ()  # of plurals and peoples: another language replaces them
    numerals: Numerals = Numerals()

    def __hash__(self) -> int:  # rows are keys of many look-ups; hashing every field each time would cost more
        return hash(self.code)

    @cached_property
    def closing(self) -> frozenset[str]:
        """Quotation marks that may close."""
        return frozenset(pair[1] for pair in self.quotes)

    @cached_property
    def opening(self) -> frozenset[str]:
        """Quotation marks that only open."""
        return frozenset(pair[0] for pair in self.quotes) - self.closing


def code_points(text: str) -> tuple[Range, ...]:
    """Inclusive intervals written in hexadecimal: "0B80-0BFF 200D"."""
    ends = (word.partition("-") for word in text.split())
    return tuple((int(low, 16), int(high or low, 16)) for low, _, high in ends)


def _pairs(text: str) -> Pairs:
    """`"க=k ங=n"` as pairs; `-` stands for no sound."""
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
    """A YAML file of words: every scalar is a string ("no" is a language)."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


_TABLE = read_words(Path(__file__).with_name("languages.yaml"))


def _row(code: str, cells: dict) -> Language:
    if "of" in cells:
        return replace(LANGUAGES[cells["of"]], code=code, nllb=cells["nllb"])
    values = {"code": code, **_TABLE["defaults"], **_TABLE["scripts"][cells["script"]], **cells}
    known = _TABLE["scripts"]
    values["ranges"] = " ".join(known[word]["ranges"] if word in known else word for word in values["ranges"].split())
    values["labels"] = [values["name"].lower(), *values.get("labels", ()), *_TABLE["labels"]]
    row = Language(**{name: _READ[_TYPES[name]](value) for name, value in values.items()})
    return replace(row, numerals=replace(row.numerals, comma=code in _TABLE["decimal_comma"].split()))


LANGUAGES: dict[str, Language] = {}
LANGUAGES.update((code, _row(code, cells)) for code, cells in _TABLE["languages"].items())
TAMIL, ENGLISH = LANGUAGES["ta"], LANGUAGES["en"]
SOURCE, TARGET = LANGUAGES[_TABLE["source"]], LANGUAGES[_TABLE["target"]]  # where a caller names no language
# Pairs of any language, and those that open and close alike.
QUOTES = frozenset(pair for row in LANGUAGES.values() for pair in row.quotes) | {'""', "''", "``"}
QUOTE_MARKS = "".join(sorted(set("".join(QUOTES))))
POSSESSIVES: tuple[str, ...] = tuple(_TABLE["possessives"])
FILE_ENDINGS: tuple[str, ...] = tuple(_TABLE["file_endings"].split())
SHARED_SCRIPTS: frozenset[str] = frozenset(_TABLE["shared_scripts"])
FORMULAS: tuple[str, ...] = tuple(_TABLE["formulas"].split())
WMT24PP: tuple[str, ...] = tuple(_TABLE["wmt24pp"].split())


def language(code: str, argument: str = "language") -> Language:
    """Return the row for a language code, with or without a region, in any of the usual spellings.

    A region without a row of its own takes its language's. Raises ConfigError, naming `argument`, for other codes.

    >>> [language(code).name for code in ("ko", "ko_KR", "ta-in", "ZH_tw")], language("zh_TW").nllb
    (['Korean', 'Korean', 'Tamil', 'Chinese'], 'zho_Hant')
    """
    base, region = _parts(code, argument)
    return LANGUAGES.get(f"{base}_{region}") or LANGUAGES[base]


def language_of_nllb(tag: str) -> Language:
    """Return the row with this NLLB tag, or a row of its script, or the default target's: for reading a text.

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
    """Return WMT24++'s code of a target language: of a bare code the first region. Raises ConfigError for others.

    >>> wmt24pp_code("ta"), wmt24pp_code("zh-TW"), wmt24pp_code("pt")
    ('ta_IN', 'zh_TW', 'pt_BR')
    """
    base, region = _parts(code, argument)
    near = [known for known in WMT24PP if known.split("_")[0] == base]
    found = [known for known in near if region in ("", known.split("_")[1])]
    if not found:
        raise ConfigError(f"{argument}: WMT24++ has no {code}: it has {' and '.join(near) or ', '.join(WMT24PP)}")
    return found[0]


def _parts(code: str, argument: str) -> tuple[str, str]:
    """(language, region or "") of a code whose language is in the table."""
    found = re.fullmatch(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{2}))?", code.strip())
    if found and found[1].lower() in LANGUAGES:
        return found[1].lower(), (found[2] or "").upper()
    names = {row.name.lower(): row.code for row in LANGUAGES.values() if "_" not in row.code}
    word = re.split("[-_]", code.strip().lower())[0]
    near = difflib.get_close_matches(word, [*names, *names.values()], n=1, cutoff=0.75)
    hint = f"did you mean {names.get(near[0], near[0])}?" if near else f"use one of {', '.join(sorted(names.values()))}"
    raise ConfigError(f"{argument}: {code!r} is not in the language table: {hint}")
