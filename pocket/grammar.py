"""Tamil morphology and the sentence patterns of the pocket world.

A sentence is built once and spoken twice, so that both sides carry the same information: "the" ↔ அந்த
(∅ in place phrases), "a" ↔ ஒரு, "this" ↔ இந்த, simple present ↔ -கிற்-, past and future likewise, "did not" ↔
-வில்லை, "does not" ↔ -வதில்லை, "will not" ↔ மாட்டான் / -ஆது. Each Tamil sentence has exactly one English one.

>>> noun_forms(noun("tree"), plural=False)["loc"], noun_forms(noun("house"), plural=True)["acc"]
('மரத்தில்', 'வீடுகளை^')
>>> finite(VERBS["come"], "past", "3n"), finite(VERBS["run"], "past", "3p")
('வந்தது', 'ஓடினார்கள்')
>>> realise(["அந்த^", "பெண்", "ஒரு", "ஆப்பிளை^", "சாப்பிட்டாள்"])
'அந்தப் பெண் ஓர் ஆப்பிளைச் சாப்பிட்டாள்'
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from rl_nmt.errors import ConfigError

from .lexicon import (
    ADJECTIVES,
    CARRIED,
    ERRANDS,
    FIRST,
    FODDER,
    INTRANSITIVE,
    MANNERS,
    MOTION,
    NAMES,
    NUMBERS,
    OWNED,
    POSITIONS,
    PRONOUNS,
    SHORES,
    TIMES,
    TOWNS,
    TRANSITIVE,
    UNWILLED,
    VERBS,
    WILD,
    Adjective,
    Noun,
    Pronoun,
    Verb,
    group,
)


@dataclass(frozen=True)
class Pair:
    """One sentence in both languages, each ending in "." or "?"."""

    english: str
    tamil: str


# --- morphology -------------------------------------------------------------------------------------

SIGNS = dict(zip("அஆஇஈஉஊஎஏஐஒஓஔ", ["", *"ாிீுூெேைொோௌ"], strict=True))
PERSONS = {
    "1s": "ஏன்",
    "1p": "ஓம்",
    "2p": "ஈர்கள்",
    "3m": "ஆன்",
    "3f": "ஆள்",
    "3h": "ஆர்",
    "3p": "ஆர்கள்",
}
CASES = {"acc": "ஐ^", "gen": "இன்", "loc": "இல்", "abl": "இலிருந்து", "ins": "ஆல்", "soc": "உடன்", "at": "இடம்"}
HARD = "கசதப"


def attach(base: str, suffix: str) -> str:
    """Join a vowel-initial suffix: pulli takes the sign, final ு gives way, other vowels glide (ய் or வ்)."""
    sign, rest = SIGNS[suffix[0]], suffix[1:]
    if base[-1] in "்ு":
        return base[:-1] + sign + rest
    return base + ("ய" if base[-1] in "ிீைேெ" else "வ") + sign + rest


@cache
def noun_forms(item: Noun, plural: bool) -> dict[str, str]:
    """Every case of a noun: nom acc dat gen loc abl ins soc at (இடம், possession) um (-உம்) as (-ஆக)."""
    nominative = item.ta_plural if plural else item.ta
    base = item.ta_plural if plural else item.oblique
    bare = base if base.endswith("்") else nominative  # கல்ல் → கல்லும், but மரம் → மரமும், ஆடு → ஆடும்
    if base.endswith(("த்து", "ட்டு", "ற்று")) and base != item.ta:
        dative = attach(base, "இற்கு^")
    elif base[-1] in "ிீைு" or base.endswith("ய்"):
        dative = base + "க்கு^"
    else:
        dative = attach(base, "உக்கு^")
    forms = {case: attach(base, suffix) for case, suffix in CASES.items()}
    return {"nom": nominative, "dat": dative, "um": attach(bare, "உம்"), "as": attach(bare, "ஆக^"), **forms}


@cache
def pronoun_forms(item: Pronoun) -> dict[str, str]:
    """The cases of a personal pronoun, keyed as in `noun_forms`."""
    forms = {case: attach(item.base, suffix) for case, suffix in CASES.items()}
    return {
        **forms,
        "nom": item.ta,
        "dat": item.dative + "^",
        "gen": item.possessive,
        "um": attach(item.ta, "உம்"),
    }


@cache
def finite(verb: Verb, tense: str, person: str) -> str:
    """The finite form for tense past/present/future and a slot of PERSONS, or 3n / 3np (neuter)."""
    if tense == "past":
        if verb.participle.endswith("ி"):  # ஓடி: ஓடியது, ஓடின, ஓடினான்
            neuter, stem, many = verb.participle + "யது", verb.participle + "ன்", verb.participle + "ன"
        else:  # வந்து: வந்தது, வந்தன, வந்தான்
            stem = verb.participle
            neuter, many = attach(stem, "அது"), attach(stem, "அன")
        return {"3n": neuter, "3np": many}.get(person) or attach(stem, PERSONS[person])
    if tense == "present":
        many = verb.present[:-2] + "ன்றன"  # வருகிற் → வருகின்றன
        return {"3n": attach(verb.present, "அது"), "3np": many}.get(person) or attach(verb.present, PERSONS[person])
    if tense == "future":
        return verb.neuter_future if person in ("3n", "3np") else attach(verb.future, PERSONS[person])
    raise ConfigError(f"finite: tense is {tense!r}; use past, present or future")


@cache
def negative(verb: Verb, tense: str, person: str) -> str:
    """The negative: வரவில்லை (past), வருவதில்லை (present), வர மாட்டான் or வராது (future)."""
    if tense == "past":
        return verb.infinitive + "வில்லை"
    if tense == "present":
        return attach(verb.future, "அதில்லை")
    neuter = person in ("3n", "3np")
    return verb.infinitive + ("ாது" if neuter else " " + attach("மாட்ட்", PERSONS[person]))


@cache
def nonfinite(verb: Verb, form: str) -> str:
    """participle வந்து, relative வந்த, because வந்ததால், when வந்தபோது, if வந்தால், infinitive வர^."""
    if form == "infinitive":
        return verb.infinitive + "^"
    if form == "participle":
        doubles = verb.participle.endswith(("ி", "த்து", "ட்டு", "ற்று"))
        return verb.participle + "^" * doubles
    weak = verb.participle.endswith("ி")
    relative = verb.participle + "ய" if weak else attach(verb.participle, "அ")
    if form == "if":
        return attach(verb.participle + "ன்" if weak else verb.participle, "ஆல்")
    return relative + {"relative": "", "because": "தால்", "when": "போது"}[form]


def question(form: str) -> str:
    """The yes/no clitic -ஆ: வந்தான் → வந்தானா, வந்தது → வந்ததா, ஓடின → ஓடினவா."""
    return attach(form, "ஆ")


def realise(tokens: list[str]) -> str:
    """Join words: ஒரு → ஓர் before a vowel; a word marked ^ takes the doubled க் ச் த் ப் of the next."""
    words = " ".join(tokens).split()
    out = []
    for word, after in zip(words, [*words, " "][1:], strict=True):
        if word.endswith("^"):
            word = word[:-1] + (after[0] + "்" if after[0] in HARD else "")
        elif word == "ஒரு" and after[0] in SIGNS:
            word = "ஓர்"
        out.append(word)
    return " ".join(out)


def third(base: str) -> str:
    """English third person singular: go → goes, carry → carries, wash → washes."""
    if base.endswith(("s", "sh", "ch", "x", "o")):
        return base + "es"
    return base[:-1] + "ies" if base.endswith("y") and base[-2] not in "aeiou" else base + "s"


def article(word: str) -> str:
    """ "a" or "an" by the sound of the next word."""
    return "an" if (word[0].lower() in "aeiou" and word != "useful") or word == "honest" else "a"


@cache
def noun(english: str) -> Noun:
    """The noun of that English singular. Raises KeyError when there is none."""
    return group(english)[0]


# --- noun phrases -----------------------------------------------------------------------------------


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


MASS = ("food", "drink")
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


# --- verb phrases -----------------------------------------------------------------------------------


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
    return Clause(who, verb, *predicate(rng, who, verb, plain))


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


# --- sentence patterns: each returns English words and Tamil tokens, without the final mark ---------

Spoken = tuple[str, list[str], str]


def statement(rng: random.Random) -> Spoken:
    """Somebody does something, perhaps with a time before or after, perhaps negated."""
    made = clause(rng)
    tense, negated = some_tense(rng, made), rng.random() < 0.18
    english, tamil = made.english(tense, negated), made.tamil(tense, negated)
    if rng.random() < 0.55:
        mark = {"past": "p", "present": "r", "future": "f"}[tense]
        en, ta, _ = rng.choice([time for time in TIMES if mark in time[2]])
        if rng.random() < 0.4 and en != "often":
            return f"{en} {english}", [ta, *tamil], "."
        after = len(made.subject.case("nom"))
        english = made.english(tense, negated, "often") if en == "often" else f"{english} {en}"
        return english, [*tamil[:after], ta, *tamil[after:]], "."
    return english, tamil, "."


def be_english(who: Phrase, tense: str) -> str:
    if tense == "future":
        return "will be"
    if who.person == "1s":
        return "was" if tense == "past" else "am"
    return ("was" if tense == "past" else "is") if who.singular3 else ("were" if tense == "past" else "are")


def described(rng: random.Random) -> Spoken:
    """X is / was / will be ADJECTIVE: அந்த வீடு பெரிதாக இருக்கிறது."""
    if rng.random() < 0.4:
        who, kind = person_phrase(rng), "human"
    else:
        kind = rng.choice(
            (
                "animal",
                "bird",
                "clothes",
                "vehicle",
                "place",
                "text",
                "tale",
                "goods",
                "fruit",
                "tool",
                "dish",
            )
        )
        who = noun_phrase(rng, rng.choice(group(kind)))
    if "ஒரு" in who.before:  # "a boat is black" says nothing
        return described(rng)
    adjective = rng.choice(adjectives_for(kind, predicate=True))
    while adjective.en in who.en.split():
        adjective = rng.choice(adjectives_for(kind, predicate=True))
    tense = rng.choice(("past", "present", "present", "future" if kind == "human" else "present"))
    english = f"{who.en} {be_english(who, tense)}"
    tamil, word = who.case("nom"), predicate_form(adjective, who)
    if tense == "present" and rng.random() < 0.2:
        return f"{english} not {adjective.en}", [*tamil, word, "இல்லை"], "."
    verb = finite(VERBS["be"], tense, who.person)
    if rng.random() < 0.3:
        return f"{english} very {adjective.en}", [*tamil, "மிகவும்", word, verb], "."
    return f"{english} {adjective.en}", [*tamil, word, verb], "."


def predicate_form(adjective: Adjective, who: Phrase) -> str:
    """The adjective before இரு, in the number of its subject ("you" may be one person)."""
    return adjective.predicate_plural if who.person in ("1p", "3p", "3np") else adjective.predicate


def identity(rng: random.Random) -> Spoken:
    """X is a farmer (no verb in Tamil); X was a farmer (-ஆக இருந்தார்)."""
    who = rng.choice((name_phrase, kin))(rng)
    what = noun_phrase(
        rng,
        rng.choice([item for item in group("human") if item.gender == "h"]),
        plural=False,
        det=("a", "ஒரு", "", True),
    )
    draw = rng.random()
    if draw < 0.5:
        return f"{who.en} is {what.en}", [*who.case("nom"), *what.case("nom")], "."
    if draw < 0.7:
        return f"{who.en} is not {what.en}", [*who.case("nom"), *what.case("nom"), "அல்ல"], "."
    tense = "past" if draw < 0.85 else "future"
    verb = finite(VERBS["be"], tense, who.person)
    return f"{who.en} {be_english(who, tense)} {what.en}", [*who.case("nom"), *what.case("as"), verb], "."


def existence(rng: random.Random) -> Spoken:
    """There is a book on the table: மேசையின் மேல் ஒரு புத்தகம் இருக்கிறது."""
    kind = rng.choice(("goods", "tool", "fruit", "produce", "text", "drink", "clothes", "animal"))
    item = rng.choice(group(kind))
    plural = kind not in MASS and rng.random() < 0.5
    if kind in MASS:
        det = ("", "", "", False)
    else:
        det = (*(rng.choice(list(NUMBERS.items())) if plural else ("a", "ஒரு")), "", True)
    what = noun_phrase(rng, item, plural=plural, det=det)
    if kind == "animal" or (kind in ("goods", "clothes", "tool") and rng.random() < 0.4):
        en, ta, _ = place(rng, WILD if kind == "animal" else ("place",))
    else:
        en, ta = container(rng)
    tense = rng.choice(("past", "present"))
    if kind in MASS and rng.random() < 0.4:
        return f"there is no {what.en} {en}", [*ta, *what.case("nom"), "இல்லை"], "."
    verb = finite(VERBS["be"], tense, what.person)
    return f"there {be_english(what, tense)} {what.en} {en}", [*ta, *what.case("nom"), verb], "."


def possession(rng: random.Random) -> Spoken:
    """X has Y: ரவியிடம் ஒரு பேனா இருக்கிறது."""
    who = person_phrase(rng)
    what = noun_phrase(rng, rng.choice(group(rng.choice(("goods", "tool", "clothes", "text", "vehicle", "fruit")))))
    while not what.before or what.before[0] not in ("ஒரு", *NUMBERS.values()):
        what = noun_phrase(rng, rng.choice(group(rng.choice(("goods", "tool", "clothes", "text", "vehicle", "fruit")))))
    tense = rng.choice(("past", "present"))
    have = "had" if tense == "past" else "has" if who.singular3 else "have"
    tamil = [*who.case("at"), *what.case("nom")]
    if tense == "present" and rng.random() < 0.25:
        return f"{who.en} {'does' if who.singular3 else 'do'} not have {what.en}", [*tamil, "இல்லை"], "."
    return f"{who.en} {have} {what.en}", [*tamil, finite(VERBS["be"], tense, what.person)], "."


def liking(rng: random.Random) -> Spoken:
    """X likes / wants Y, with the dative: ரவிக்கு மாம்பழங்கள் பிடிக்கும்."""
    who, negated = person_phrase(rng), rng.random() < 0.3
    do_not = "does not" if who.singular3 else "do not"
    if rng.random() < 0.55:
        liked = ("fruit", "produce", "food", "drink", "animal", "bird", "human", "tale", "clothes", "flower")
        what = thing(rng, liked)
        while clashes(who, what) or "ஒரு" in what.before:  # one likes kinds and known things: owls, this owl
            what = thing(rng, liked)
        tamil = [*who.case("dat"), *what.case("acc" if what.animate else "nom")]
        verb = f"{do_not} like" if negated else "likes" if who.singular3 else "like"
        return f"{who.en} {verb} {what.en_object}", [*tamil, "பிடிக்காது" if negated else "பிடிக்கும்"], "."
    what = thing(rng, ("fruit", "produce", "food", "drink", "goods", "clothes", "tool", "text"))
    verb = f"{do_not} want" if negated else "wants" if who.singular3 else "want"
    return (
        f"{who.en} {verb} {what.en}",
        [*who.case("dat"), *what.case("nom"), "வேண்டாம்" if negated else "வேண்டும்"],
        ".",
    )


def modal(rng: random.Random) -> Spoken:
    """wants to (விரும்புகிறான்), must (வேண்டும்), can and cannot (-ஆல் முடியும்)."""
    made = clause(rng, person_phrase(rng), avoid=UNWILLED)
    who, infinitive = made.subject, made.verb.infinitive
    after = f"{made.verb.en} {made.en}".strip()
    draw = rng.random()
    if draw < 0.4:
        tense, negated = rng.choice(("past", "present")), rng.random() < 0.25
        want = VERBS["want"]
        form = (negative if negated else finite)(want, tense, who.person)
        english = f"{who.en} {verb_english(want, who, tense, negated)} to {after}"
        return english, [*who.case("nom"), *made.ta, infinitive, form], "."
    if draw < 0.65:
        return f"{who.en} must {after}", [*who.case("nom"), *made.ta, infinitive, "வேண்டும்"], "."
    can, able = ("can", "முடியும்") if draw < 0.85 else ("cannot", "முடியாது")
    return f"{who.en} {can} {after}", [*who.case("ins"), *made.ta, infinitive, able], "."


def subordinate(rng: random.Random) -> Spoken:
    """Y because / when / after / if X: the Tamil subordinate clause stands first."""
    first, second = short(rng), short(rng)
    while clashes(first.subject, second.subject):
        second = short(rng)
    word = rng.choice(("because", "when", "after", "if"))
    if word == "if":
        side = f"if {first.english('present')}"
        if first.verb.past == first.verb.en and not first.subject.singular3:
            return subordinate(rng)
        return (
            f"{second.english('future')} {side}",
            [*first.tamil_nonfinite("if"), *second.tamil("future")],
            ".",
        )
    form = {"because": "because", "when": "when", "after": "relative"}[word]
    tamil = [*first.tamil_nonfinite(form), *(["பிறகு"] if word == "after" else []), *second.tamil("past")]
    return f"{second.english('past')} {word} {first.english('past')}", tamil, "."


def who_clause(rng: random.Random) -> Spoken:
    """The boy who bought the book came: அந்தப் புத்தகத்தை வாங்கிய அந்தச் சிறுவன் வந்தான்."""
    item = rng.choice(group("human"))
    plural = rng.random() < 0.25
    det = ("the", "அந்த^") if rng.random() < 0.75 else (("these" if plural else "this"), "இந்த^")
    head = noun_phrase(rng, item, plural=plural, det=(*det, "", True))
    inner, outer = clause(rng, head, plain=True), clause(rng, head, plain=True)
    tense = rng.choice(("past", "future"))
    english = f"{head.en} who {inner.verb.past} {inner.en}".strip()
    english += f" {verb_english(outer.verb, head, tense, False)} {outer.en}"
    tamil = [*inner.ta, nonfinite(inner.verb, "relative"), *outer.tamil(tense)]
    return english.strip(), tamil, "."


def that_clause(rng: random.Random) -> Spoken:
    """The story that Ravi read is funny: ரவி படித்த அந்தக் கதை வேடிக்கையாக இருக்கிறது."""
    verb = TRANSITIVE[rng.choice(("buy", "sell", "see", "read", "write", "find", "lose", "take", "make", "wear"))]
    item = rng.choice(group(rng.choice(verb.objects)))
    while not adjectives_for(item.group, True) or item.group in (*MASS, "human"):
        item = rng.choice(group(rng.choice(verb.objects)))
    plural = rng.random() < 0.2
    what = noun_phrase(rng, item, plural=plural, det=("the", "அந்த^", "", True))
    who = person_phrase(rng)
    while clashes(who, what):
        who = person_phrase(rng)
    adjective = rng.choice([a for a in adjectives_for(item.group, True) if a.en not in what.en.split()])
    tense = rng.choice(("past", "present"))
    english = f"{what.en} that {who.en} {verb.past} {be_english(what, tense)} {adjective.en}"
    tamil = [
        *who.case("nom"),
        nonfinite(verb, "relative"),
        *what.case("nom"),
        predicate_form(adjective, what),
    ]
    return english, [*tamil, finite(VERBS["be"], tense, what.person)], "."


def sequence(rng: random.Random) -> Spoken:
    """X went to the shop and bought fruit: ரவி கடைக்குச் சென்று பழங்கள் வாங்கினான்."""
    first = clause(rng, person_phrase(rng), plain=True, only=FIRST)
    second = clause(rng, first.subject, plain=True, avoid=(first.verb.en, *MOTION))
    tense = rng.choice(("past", "past", "future"))
    verb = second.verb.past if tense == "past" else second.verb.en
    tamil = [*first.tamil_nonfinite("participle"), *second.tamil(tense)[len(first.subject.case("nom")) :]]
    return f"{first.english(tense)} and {verb} {second.en}".strip(), tamil, "."


def purpose(rng: random.Random) -> Spoken:
    """X went to the shop to buy milk: ரவி பால் வாங்கக் கடைக்குச் சென்றான்."""
    who = person_phrase(rng)
    verb = MOTION[rng.choice(("go", "come", "run"))]
    _, ta, en = place(rng, case="dat")
    goal = clause(rng, who, plain=True, only=ERRANDS)
    tense = rng.choice(("past", "future"))
    english = f"{who.en} {verb_english(verb, who, tense, False)} to {en} to {goal.verb.en} {goal.en}".strip()
    tamil = [
        *who.case("nom"),
        *goal.ta,
        nonfinite(goal.verb, "infinitive"),
        *ta,
        finite(verb, tense, who.person),
    ]
    return english, tamil, "."


def saying(rng: random.Random) -> Spoken:
    """X said that Y: மீனா வருவாள் என்று ரவி கூறினான்."""
    who, made = person_phrase(rng), short(rng)
    tense, negated = rng.choice(("past", "future")), rng.random() < 0.2
    tamil = [*made.tamil(tense, negated), "என்று", *who.case("nom"), finite(VERBS["say"], "past", who.person)]
    return f"{who.en} said that {made.english(tense, negated)}", tamil, "."


def joined_objects(rng: random.Random) -> Spoken:
    """X bought milk and bread: ரவி பாலும் ரொட்டியும் வாங்கினான்."""
    who = person_phrase(rng)
    verb = TRANSITIVE[rng.choice(("buy", "sell", "eat", "bring"))]
    foods = [item for name in ("food", "fruit", "produce") for item in group(name) if item.en != "fruit"]
    if verb.en == "bring":
        foods += group("drink")
    one, two = rng.sample(foods, 2)
    bare = ("", "", "", False)
    first, second = (noun_phrase(rng, item, plural=item.group not in MASS, det=bare) for item in (one, two))
    tense = rng.choice(("past", "present", "future"))
    english = f"{who.en} {verb_english(verb, who, tense, False)} {first.en} and {second.en}"
    tamil = [*who.case("nom"), *first.case("um"), *second.case("um"), finite(verb, tense, who.person)]
    return english, tamil, "."


def yes_no(rng: random.Random) -> Spoken:
    """Did Ravi come?: ரவி வந்தானா?"""
    made = clause(rng)
    tense = rng.choice(("past", "present", "future"))
    helper = {"past": "did", "present": "does" if made.subject.singular3 else "do", "future": "will"}[tense]
    tamil = made.tamil(tense)
    return (
        f"{helper} {made.subject.en} {made.verb.en} {made.en}".strip(),
        [*tamil[:-1], question(tamil[-1])],
        "?",
    )


def wh_question(rng: random.Random) -> Spoken:
    """who, where, why, when, what: the question word stands before the verb phrase in Tamil."""
    word = rng.choice(("who", "where", "why", "when", "what"))
    tense = rng.choice(("past", "future"))
    if word == "who":
        asked = Phrase("who", "", (), {"nom": "யார்"}, "3h", "who", True)
        made = clause(rng, asked)
        return made.english(tense), ["யார்", *made.ta, finite(made.verb, tense, "3h")], "?"
    if word in ("why", "when"):
        made = clause(rng, person_phrase(rng))
        rest, ta = made.en, [{"why": "ஏன்", "when": "எப்போது"}[word], *made.ta]
    else:
        who = person_phrase(rng)
        names = ("go", "run", "walk", "sleep", "sit", "stand", "work", "wait", "live")
        if word == "what":
            names = ("eat", "drink", "buy", "sell", "read", "write", "cook", "make", "bring", "draw")
        made, rest, ta = (
            Clause(who, VERBS[rng.choice(names)], [], ""),
            "",
            [{"where": "எங்கே"}.get(word, "என்ன")],
        )
        if rng.random() < 0.6:
            en, when, _ = rng.choice([time for time in TIMES if ("p" if tense == "past" else "f") in time[2]])
            rest, ta = en, [when, *ta]
    helper = "did" if tense == "past" else "will"
    english = f"{word} {helper} {made.subject.en} {made.verb.en} {rest}".strip()
    return english, [*made.subject.case("nom"), *ta, finite(made.verb, tense, made.subject.person)], "?"


def counting(rng: random.Random) -> Spoken:
    """How many books did Ravi buy?: ரவி எத்தனை புத்தகங்களை வாங்கினான்?"""
    verb = TRANSITIVE[rng.choice(("buy", "sell", "read", "see", "write", "bring", "find", "take"))]
    item = rng.choice(group(rng.choice(verb.objects)))
    while item.group in (*MASS, "human"):
        item = rng.choice(group(rng.choice(verb.objects)))
    who, tense = person_phrase(rng), rng.choice(("past", "future"))
    helper = "did" if tense == "past" else "will"
    what = ["எத்தனை", noun_forms(item, True)["acc"]]
    tamil = [*who.case("nom"), *what, finite(verb, tense, who.person)]
    return f"how many {item.en_plural} {helper} {who.en} {verb.en}", tamil, "?"


PATTERNS: list[tuple[Callable[[random.Random], Spoken], int]] = [
    (statement, 36),
    (described, 10),
    (identity, 4),
    (existence, 6),
    (possession, 4),
    (liking, 6),
    (modal, 7),
    (subordinate, 8),
    (who_clause, 4),
    (that_clause, 4),
    (sequence, 4),
    (purpose, 4),
    (saying, 4),
    (joined_objects, 3),
    (yes_no, 5),
    (wh_question, 5),
    (counting, 2),
]
_CHOICES = [pattern for pattern, weight in PATTERNS for _ in range(weight)]

MIN_WORDS, MAX_WORDS = 4, 14


def sample(rng: random.Random) -> Pair:
    """One random sentence pair of MIN_WORDS to MAX_WORDS English words."""
    while True:
        english, tamil, mark = rng.choice(_CHOICES)(rng)
        if MIN_WORDS <= english.count(" ") + 1 <= MAX_WORDS:
            return Pair(english[0].upper() + english[1:] + mark, realise(tamil) + mark)


def is_heldout(english: str) -> bool:
    """Whether a sentence belongs to the held-out 5 %: by a hash of its words, case and spacing aside."""
    return part_of(english) == "heldout"


def part_of(english: str) -> str:
    """The part a sentence belongs to: "heldout" (5 %), "web" (30 %) or "train", by a hash of its words.

    "train" is for supervised fitting, "web" fills the C4-format shard that reinforcement learning reads,
    "heldout" the references; so none of them ever sees a sentence of another.
    """
    digest = hashlib.blake2b(" ".join(english.casefold().split()).encode(), digest_size=4, key=b"pocket")
    place = int.from_bytes(digest.digest(), "big") % 20
    return "heldout" if place == 0 else "web" if place < 7 else "train"


def pairs(seed: int, part: str = "train", max_words: int = MAX_WORDS) -> Iterator[Pair]:
    """Endless distinct pairs of one part ("train", "web" or "heldout"), the same for the same seed.

    `max_words` keeps only sentences of at most so many English words: short ones are learned much faster.
    Raises ConfigError where `part` is none of the three or `max_words` leaves nothing.
    """
    if max_words < MIN_WORDS:
        raise ConfigError(f"pairs: max_words is {max_words}; no sentence has fewer than {MIN_WORDS}")
    if part not in ("train", "web", "heldout"):
        raise ConfigError(f"pairs: part is {part!r}; use 'train', 'web' or 'heldout'")
    return _pairs(random.Random(f"{seed}/{part}"), part, max_words)


def _pairs(rng: random.Random, part: str, max_words: int) -> Iterator[Pair]:
    seen: set[str] = set()
    while True:
        pair = sample(rng)
        if pair.english.count(" ") >= max_words:
            continue
        if pair.english not in seen and part_of(pair.english) == part:
            seen.add(pair.english)
            yield pair
