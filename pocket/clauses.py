"""Clauses of the pocket world: a subject, and what it does to what, where, how and with whom."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

from .lexicon import (
    CARRIED,
    FODDER,
    INTRANSITIVE,
    MANNERS,
    MOTION,
    POSITIONS,
    SHORES,
    TOWNS,
    TRANSITIVE,
    VERBS,
    WILD,
    Verb,
    group,
)
from .morphology import finite, negative, nonfinite, noun_forms, third
from .phrases import Phrase, name_phrase, noun_phrase, person_phrase, place, subject, thing


@dataclass
class Clause:
    """A subject and what it does: Tamil words before the verb, English words after it."""

    subject: Phrase
    verb: Verb
    ta: list[str]
    en: str

    def english(self, tense: str, negated: bool = False, adverb: str = "") -> str:
        words = verb_english(self.verb, self.subject, tense, negated, adverb)
        return f"{self.subject.en} {words} {self.en}".strip()

    def tamil(self, tense: str, negated: bool = False) -> list[str]:
        form = (negative if negated else finite)(self.verb, tense, self.subject.person)
        return [*self.subject.case("nom"), *self.ta, form]

    def tamil_nonfinite(self, form: str) -> list[str]:
        return [*self.subject.case("nom"), *self.ta, nonfinite(self.verb, form)]


def verb_english(verb: Verb, who: Phrase, tense: str, negated: bool, adverb: str = "") -> str:
    """The English verb group without its object, an adverb like "often" before the verb."""
    before = f"{adverb} " if adverb else ""
    if negated:
        helper = {
            "past": "did not",
            "present": "does not" if who.singular3 else "do not",
            "future": "will not",
        }
        return f"{helper[tense]} {before}{verb.en}"
    if tense == "past":
        return before + verb.past
    if tense == "future":
        return f"will {before}{verb.en}"
    return before + (third(verb.en) if who.singular3 else verb.en)


def clashes(who: Phrase, other: Phrase) -> bool:
    """True where the two would be the same person ("I saw me", "we helped you")."""
    first_second = ("1s", "1p", "2p")
    if who.person in first_second and other.person in first_second:
        return who.person == other.person or "2p" not in (who.person, other.person)
    return who.key == other.key or who.en == other.en


def own(who: Phrase, tamil: Collection[str]) -> bool:
    """True where "his", "her" or "their" could be the subject's own, which is தன் in Tamil, not அவனுடைய."""
    if who.person in ("1s", "1p", "2p"):
        return False
    theirs = {"அவர்களுடைய"} if who.person in ("3p", "3np") else {"அவனுடைய", "அவளுடைய"}
    return not theirs.isdisjoint(tamil)


def predicate(rng: random.Random, who: Phrase, verb: Verb, plain: bool) -> tuple[list[str], str]:
    """What the verb takes: Tamil words before it, English after it; `plain` without the optional ones."""
    if verb.en in MOTION or verb.en == "fly":
        return motion(rng, who, verb, plain)
    if verb.en == "swim":
        en, ta, _ = place(rng, ("water",))
        return ta, en
    if not verb.objects:
        return extras(rng, who, verb, 0.25 if plain else 0.8, plain)
    groups = FODDER.get(verb.en, verb.objects) if who.wild else verb.objects
    what = other(rng, who, lambda: thing(rng, groups))
    case = next((mark[1:] for mark in verb.objects if mark[0] == ":"), "obj")
    if verb.en in ("give", "send", "show"):
        to = other(rng, who, lambda: person_phrase(rng))
        return [*to.case("dat"), *what.case("obj")], f"{what.en_object} to {to.en_object}"
    if verb.en == "keep":
        en, ta = container(rng)
        return [*what.case("obj"), *ta], f"{what.en_object} {en}"
    if verb.instruments and rng.random() < 0.4:
        tool = noun_phrase(rng, group(rng.choice(verb.instruments))[0], plural=False)
        return [*tool.case("ins"), *what.case(case)], f"{what.en_object} with {tool.en}"
    ta, en = ([], "") if plain else extras(rng, who, verb, 0.35)
    return [*ta, *what.case(case)], f"{what.en_object} {en}".strip()


def other(rng: random.Random, who: Phrase, make: Callable[[], Phrase]) -> Phrase:
    """A phrase that does not clash with `who`."""
    made = make()
    while clashes(who, made):
        made = make()
    return made


def container(rng: random.Random) -> tuple[str, list[str]]:
    """Where a thing is: in the box, on the table, under the tree."""
    if rng.random() < 0.4:
        return place(rng, ("container",))[:2]
    position = rng.choice(list(POSITIONS))
    case, word = POSITIONS[position]
    where = ("furniture",) if position in ("on", "under") else ("tree", "house", "door", "window")
    _, ta, en = place(rng, where, case)
    return f"{position} {en}", [*ta, word]


def extras(rng: random.Random, who: Phrase, verb: Verb, chance: float, plain: bool = False) -> tuple[list[str], str]:
    """Perhaps a manner, a place (not where `plain`) or company; one always lives somewhere."""
    if verb.en != "live" and rng.random() > chance:
        return [], ""
    draw, fitting = rng.random(), manners_for(verb)
    if draw < 0.4 and fitting and verb.en != "live":
        en, ta, _ = rng.choice(fitting)
        return [ta], en
    if draw < 0.8 or who.wild or verb.en == "live":
        if plain and verb.en != "live":
            return [], ""
        if verb.en in CARRIED:
            _, ta, en = place(rng, case="dat")
            return ta, f"to {en}"
        en, ta, _ = place(rng, WILD if who.wild else ("place",))
        return ta, en
    company = other(rng, who, lambda: person_phrase(rng))
    return company.case("soc"), f"with {company.en_object}"


@cache
def manners_for(verb: Verb) -> list:
    """The manner adverbs that go with a verb."""
    return [manner for manner in MANNERS if verb.en in manner[2]]


def motion(rng: random.Random, who: Phrase, verb: Verb, plain: bool) -> tuple[list[str], str]:
    """Where to, where from, how, with whom."""
    word, case = ("to", "dat") if rng.random() < 0.65 or verb.en == "go" else ("from", "abl")
    if not plain and not who.wild and verb.en in ("go", "come", "return") and rng.random() < 0.25:
        ride = rng.choice([item for item in group("vehicle") if item.en != "cart"])
        _, ta, en = place(rng, SHORES if ride.en in ("boat", "ship") else TOWNS, case)
        return [noun_forms(ride, False)["loc"], *ta], f"{word} {en} by {ride.en}"
    _, ta, en = place(rng, WILD if who.wild else ("river", "lake") if rng.random() < 0.12 else ("place",), case)
    if plain or rng.random() < 0.7:
        return ta, f"{word} {en}"
    if who.wild or rng.random() < 0.5:
        fitting = manners_for(verb)
        if not fitting:
            return ta, f"{word} {en}"
        manner, more, _ = rng.choice(fitting)
        return [more, *ta], f"{word} {en} {manner}"
    company = other(rng, who, lambda: person_phrase(rng))
    return [*company.case("soc"), *ta], f"{word} {en} with {company.en_object}"


_FAVOURITES = "swim fly give give give send send show show keep keep keep".split()
KINDS = [
    *[*TRANSITIVE.values()] * 2,
    *[*MOTION.values()] * 4,
    *[*INTRANSITIVE.values()] * 2,
    *[VERBS[en] for en in _FAVOURITES],
]


def clause(
    rng: random.Random,
    who: Phrase | None = None,
    *,
    plain: bool = False,
    only: Collection[str] = frozenset(VERBS),
    avoid: Collection[str] = (),
) -> Clause:
    """A random clause; with `who`, one that this subject can do; `only` and `avoid` name English verbs."""
    able = "hab" if who is None else "ab" if who.wild else "hb"
    verb = rng.choice(KINDS)
    while (
        verb.subjects not in able or verb.en not in only or verb.en in avoid or (verb.en == "fly" and who is not None)
    ):
        verb = rng.choice(KINDS)
    who = who or subject(rng, verb)
    made = Clause(who, verb, *predicate(rng, who, verb, plain))
    while own(who, made.ta):
        made = Clause(who, verb, *predicate(rng, who, verb, plain))
    return made


def short(rng: random.Random) -> Clause:
    """A clause for a subordinate: short, done by a person."""
    while True:
        made = clause(rng, rng.choice((name_phrase, person_phrase))(rng), plain=True)
        if len(made.en.split()) <= 4:
            return made


def some_tense(rng: random.Random, made: Clause) -> str:
    """A tense that English shows: "they read" could be past or present, so it is past."""
    tense = rng.choice(("past", "past", "present", "future"))
    hidden = made.verb.past == made.verb.en and not made.subject.singular3
    return "past" if tense == "present" and hidden else tense
