"""The words of the pocket world, read from lexicon.txt: nouns, names, pronouns, verbs, adjectives and lists of words.

The file says what its marks mean; `pocket.morphology` derives inflected forms from what is regular.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Noun:
    """A noun: English singular and plural, Tamil nominatives, oblique stem, gender (m f h n), group.

    `gender` is what a Tamil verb agrees with: m -ஆன், f -ஆள், h honorific -ஆர், n -அது; `human` decides
    the plural (-ஆர்கள் or -அன), because குழந்தை is neuter in the singular only.
    """

    en: str
    en_plural: str
    ta: str
    ta_plural: str
    oblique: str
    gender: str
    group: str
    preposition: str = "in"

    @property
    def human(self) -> bool:
        return self.group in ("human", "kin", "name")


@dataclass(frozen=True)
class Verb:
    """A verb: English base and past; five Tamil principal parts; who does it (h, a, b); what to."""

    en: str
    past: str
    participle: str  # வந்து
    present: str  # வருகிற்
    future: str  # வருவ்
    neuter_future: str  # வரும்
    infinitive: str  # வர
    subjects: str = "h"
    objects: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Adjective:
    """An adjective: attributive form, predicate forms before இரு ("" = attributive only), noun groups."""

    en: str
    ta: str
    predicate: str
    predicate_plural: str  # differs where the word is a noun: ஏழையாக, ஏழைகளாக
    groups: frozenset[str]


@dataclass(frozen=True)
class Pronoun:
    """A personal pronoun with its forms in both languages; `agreement` is the Tamil verb slot."""

    en: str
    en_object: str
    en_possessive: str
    agreement: str
    ta: str
    base: str  # what vowel suffixes attach to: என்ன் → என்னை
    dative: str
    possessive: str


def _plural(english: str) -> str:
    return english[:-1] + "ies" if english.endswith("y") and english[-2] not in "aeiou" else english + "s"


def oblique(ta: str) -> str:
    """The stem before vowel suffixes where no explicit one is given: -ம் → -த்து; short CVC doubles."""
    if ta.endswith("ம்"):
        return ta[:-2] + "த்து"
    vowel_signs = "ாிீுூெேைொோௌ"
    consonants = [c for c in ta if c not in vowel_signs + "்"]
    long_vowel = any(sign in ta for sign in "ாீூேோைௌ")
    if ta.endswith("்") and len(consonants) == 2 and not long_vowel and consonants[0] not in "ஆஈஊஏஓஐஔ":
        return ta + ta[-2:]  # கல் → கல்ல், பெண் → பெண்ண்
    return ta


def _noun(group: str, row: list[str]) -> Noun:
    english, ta = row[:2]
    more = dict(item.split("=") for item in row[2:])
    en, _, en_plural = english.partition("/")
    plural = more.get("pl") or (ta[:-2] + "ங்கள்" if ta.endswith("ம்") else ta + "கள்")
    gender = more.get("g", "h" if group in ("human", "kin") else "n")
    stem = more.get("ob") or oblique(ta)
    return Noun(en, en_plural or _plural(en), ta, plural, stem, gender, group, more.get("prep", "in"))


def _verbs(entries: list[str]) -> dict[str, Verb]:
    found = {}
    for entry in entries:
        english, parts, subjects, *more = (cell.split() for cell in entry.split("|"))
        objects, instruments = (*map(tuple, more), (), ())[:2]
        found[english[0]] = Verb(*english, *parts, *subjects, objects, instruments)
    return found


def _read(path: Path) -> dict[str, list[str]]:
    """Section → its entries."""
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            entries = sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            entries += [entry for entry in line.split(";") if entry]
    return sections


_SECTIONS = _read(Path(__file__).with_name("lexicon.txt"))


def _rows(name: str) -> list[list[str]]:
    return [entry.split() for entry in _SECTIONS[name]]


def _words(name: str) -> tuple[str, ...]:
    return tuple(" ".join(_SECTIONS[f"list {name}"]).split())


NOUNS = [_noun(name[5:], row) for name in _SECTIONS if name.startswith("noun ") for row in _rows(name)]
NAMES = [Noun(en, en, ta, ta, oblique(ta), gender, "name") for en, ta, gender in _rows("name")]
PRONOUNS = [Pronoun(*row) for row in _rows("pronoun")]
TRANSITIVE, MOTION, INTRANSITIVE, SPECIAL = (
    _verbs(_SECTIONS[f"verb {kind}"]) for kind in ("transitive", "motion", "intransitive", "special")
)
VERBS = {**TRANSITIVE, **MOTION, **INTRANSITIVE, **SPECIAL}
ADJECTIVES = [
    Adjective(en, ta, pred.split("/")[0].strip("-"), pred.split("/")[-1].strip("-"), frozenset(groups.split(",")))
    for en, ta, pred, groups in _rows("adjective")
]
MANNERS = [(en, ta, frozenset(verbs.split(","))) for en, ta, verbs in _rows("manner")]
TIMES = [(en.replace("_", " "), ta.replace("_", " "), tenses) for en, ta, tenses in _rows("time")]
NUMBERS = {en: ta for en, ta in _rows("number")}
POSITIONS = {en: (case, ta) for en, case, ta in _rows("position")}
OWNED, CARRIED, ERRANDS, FIRST, UNWILLED = map(
    frozenset, map(_words, ("owned", "carried", "errands", "first", "unwilled"))
)
WILD, TOWNS, SHORES = map(_words, ("wild", "towns", "shores"))
FODDER = {verb: _words(f"fodder {verb}") for verb in ("eat", "drink")}


def group(name: str) -> list[Noun]:
    """The nouns of a group, or the single noun of that English name. Raises KeyError for neither."""
    found = [noun for noun in NOUNS if noun.group == name] or [noun for noun in NOUNS if noun.en == name]
    if not found:
        raise KeyError(f"pocket.lexicon.group: no noun group or noun is called {name!r}")
    return found
