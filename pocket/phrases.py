"""Noun and place phrases of the pocket world, in both languages at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from .lexicon import ADJECTIVES, NAMES, NUMBERS, OWNED, PRONOUNS, Noun, Pronoun, Verb, group
from .morphology import article, noun_forms, pronoun_forms


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: English subject and object forms, Tamil words before the head, and its cases."""

    en: str
    en_object: str
    before: tuple[str, ...]
    forms: dict[str, str] = field(hash=False, compare=False)
    person: str  # slot of `finite`
    key: str  # what it refers to, so that nobody sees himself
    animate: bool = False
    wild: bool = False  # an animal
    definite: bool = True  # only a bare mass noun is not: its object form is the nominative (பால் குடித்தான்)

    def case(self, name: str) -> list[str]:
        """The Tamil words of the phrase in a case; `obj` is the direct-object form its kind asks for."""
        if name == "obj":
            name = "acc" if self.animate or self.definite else "nom"
        return [*self.before, self.forms[name]]

    @property
    def singular3(self) -> bool:
        return self.person in ("3m", "3f", "3h", "3n")


@cache
def adjectives_for(kind: str, predicate: bool = False) -> list:
    """The adjectives that fit a noun group; with `predicate`, only those that can follow "is"."""
    return [adj for adj in ADJECTIVES if kind in adj.groups and (adj.predicate or not predicate)]


MASS = ("food", "cooked", "drink", "weather")
THE = (("the", "அந்த^"), ("this", "இந்த^"))


def pronoun_phrase(item: Pronoun) -> Phrase:
    return Phrase(item.en, item.en_object, (), pronoun_forms(item), item.agreement, item.en[:1].lower(), True)


def name_phrase(rng: random.Random) -> Phrase:
    item = rng.choice(NAMES)
    return Phrase(item.en, item.en, (), noun_forms(item, False), "3" + item.gender, item.en, True)


def owner(rng: random.Random) -> tuple[str, str, str]:
    """A possessor: English, Tamil, reference key."""
    if rng.random() < 0.6:
        item = rng.choice(PRONOUNS)
        return item.en_possessive, item.possessive, ""
    item = rng.choice(NAMES)
    return item.en + "'s", noun_forms(item, False)["gen"], item.en


def determiner(rng: random.Random, item: Noun, plural: bool) -> tuple[str, str, str, bool]:
    """English and Tamil determiner ("" = none), reference key, whether the phrase is definite."""
    ownable = item.group not in (*MASS, "human", "plant", "place", "water") or item.en in OWNED
    if item.group == "kin" or (ownable and rng.random() < 0.2):
        return (*owner(rng), True)
    draw = rng.random()
    if item.group in MASS:
        return ("", "", "", False) if draw < 0.6 else (*THE[draw > 0.85], "", True)
    if not plural:
        return (*THE[draw > 0.45], "", True) if draw < 0.6 else ("a", "ஒரு", "", True)
    if draw < 0.45:
        en, ta = THE[draw > 0.3]
        return ("these" if en == "this" else en), ta, "", True
    if draw < 0.75 or item.human:
        return (*rng.choice(list(NUMBERS.items())), "", True)
    return "", "", "", True


def noun_phrase(rng: random.Random, item: Noun, *, plural: bool | None = None, det: tuple | None = None) -> Phrase:
    """A phrase around one noun: determiner or possessor, sometimes an adjective."""
    if plural is None:
        plural = item.group not in (*MASS, "kin") and rng.random() < 0.25
    en_det, ta_det, key, definite = det or determiner(rng, item, plural)
    en, before = [item.en_plural if plural else item.en], [ta_det] if ta_det else []
    fitting = adjectives_for(item.group)
    if fitting and rng.random() < 0.22:
        adjective = rng.choice(fitting)
        en, before = [adjective.en, *en], [*before, adjective.ta]
    if en_det:
        en = [article(en[0]) if en_det == "a" else en_det, *en]
    if plural:
        person = "3p" if item.human else "3np"
    else:
        person = "3" + item.gender
    wild = item.group in ("animal", "bird")
    text, forms = " ".join(en), noun_forms(item, plural)
    return Phrase(text, text, tuple(before), forms, person, key or text, item.human or wild, wild, definite)


def person_phrase(rng: random.Random) -> Phrase:
    """Somebody: a name, a pronoun, a person or a relative."""
    draw = rng.random()
    if draw < 0.3:
        return name_phrase(rng)
    if draw < 0.52:
        return pronoun_phrase(rng.choice(PRONOUNS))
    return noun_phrase(rng, rng.choice(group("human" if draw < 0.85 else "kin")))


def both(rng: random.Random) -> Phrase:
    """Two people joined with "and": ரவியும் மீனாவும்."""
    one, two = (name_phrase(rng) for _ in "12") if rng.random() < 0.5 else (name_phrase(rng), kin(rng))
    while two.en == one.en or two.key == one.key:
        two = kin(rng)
    en = f"{one.en} and {two.en}"
    before = (*one.case("um"), *two.before)
    return Phrase(en, en, before, {"nom": two.forms["um"]}, "3p", one.key + two.key, True)


def kin(rng: random.Random) -> Phrase:
    return noun_phrase(rng, rng.choice(group("kin")))


def subject(rng: random.Random, verb: Verb) -> Phrase:
    """Somebody, or an animal, that can do the verb."""
    flies = verb.en == "fly"
    if verb.subjects == "a" or (verb.subjects == "b" and rng.random() < 0.3):
        return noun_phrase(rng, rng.choice(group("bird" if flies else rng.choice(("animal", "animal", "bird")))))
    return both(rng) if rng.random() < 0.06 else person_phrase(rng)


def thing(rng: random.Random, groups: tuple[str, ...]) -> Phrase:
    """Something (or, for "human", somebody) from the noun groups of a verb."""
    name = rng.choice([g for g in groups if g[0] != ":"])
    if name == "human" and rng.random() < 0.6:
        return person_phrase(rng)
    return noun_phrase(rng, rng.choice(group(name)))


def place(rng: random.Random, where: Sequence[str] = ("place",), case: str = "loc") -> tuple[str, list[str], str]:
    """A place phrase: English with its preposition, Tamil words in `case`, English without preposition."""
    item = rng.choice(group(rng.choice(where)))
    draw = rng.random()
    en, ta = ("the", "") if draw < 0.7 else ("this", "இந்த^") if draw < 0.8 else ("a", "ஒரு")
    phrase = noun_phrase(rng, item, plural=False, det=(en, ta, "", True))
    return f"{item.preposition} {phrase.en}", phrase.case(case), phrase.en
