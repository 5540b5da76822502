"""Graded damage to a pocket sentence, of the kinds a weak translator makes.

`corrupt` works on the Tamil side, `corrupt_english` on the English side; both read the words back through
tables of every inflected form, so that a wrong case is a real case of the same noun and a wrong word has the
right case. Used to fit the pocket scorers to known quality and to test them.

>>> rng = random.Random(1)
>>> corrupt(Pair("Ravi will sleep.", "ரவி தூங்குவான்."), rng, 0.0)
'ரவி தூங்குவான்.'
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from itertools import product

from rl_nmt.errors import ConfigError

from .grammar import Pair, part_of, sample
from .lexicon import ADJECTIVES, MANNERS, NAMES, NOUNS, NUMBERS, POSITIONS, PRONOUNS, TIMES, VERBS, Verb
from .morphology import (
    HARD,
    PERSONS,
    SIGNS,
    finite,
    negative,
    nonfinite,
    noun_forms,
    pronoun_forms,
    question,
    realise,
    resulting,
    third,
)
from .patterns import STATES
from .phrases import MASS

ONE_NUMBER = ("name", *MASS)  # no plural
Analysis = tuple[str, str, str]  # (category, lemma, slot): ("noun/goods", "ball", "acc/pl")


class Forms:
    """Every surface form of one language, with the way back to its category, lemma and slot."""

    def __init__(self) -> None:
        self.analyses: dict[str, Analysis] = {}  # surface → its first analysis
        self.by_slot: dict[tuple[str, str], list[str]] = defaultdict(list)  # (category, slot) → surfaces
        self.by_lemma: dict[tuple[str, str], list[str]] = defaultdict(list)  # (category, lemma) → surfaces

    def add(self, surface: str, category: str, lemma: str, slot: str = "") -> None:
        if " " in surface:
            return
        self.analyses.setdefault(surface, (category, lemma, slot))
        self.by_slot[category, slot].append(surface)
        self.by_lemma[category, lemma].append(surface)

    def same_slot(self, surface: str, rng: random.Random) -> str | None:
        """Another word of the category in the same inflection; None for an unknown or single word."""
        return self._other(surface, rng, self.by_slot, 2)

    def same_lemma(self, surface: str, rng: random.Random) -> str | None:
        """The same word in another inflection; None for an unknown or uninflected word."""
        return self._other(surface, rng, self.by_lemma, 1)

    def in_present(self, surface: str) -> str | None:
        """A finite past or future form in the present of the same person; None for any other word."""
        category, lemma, slot = self.analyses.get(surface, ("", "", ""))
        tense, _, person = slot.partition("/")
        if not category.startswith("verb") or tense not in ("past", "future"):
            return None
        wanted = f"present/{person}"
        return next((f for f in self.by_lemma[category, lemma] if self.analyses[f][2] == wanted), None)

    def _other(self, surface: str, rng: random.Random, table: dict, index: int) -> str | None:
        analysis = self.analyses.get(surface)
        if analysis is None:
            return None
        others = [form for form in table[analysis[0], analysis[index]] if form != surface]
        return rng.choice(others) if others else None


@cache
def tamil_forms() -> Forms:
    """All Tamil word forms, with their sandhi marks (^) in place."""
    table = Forms()
    for item in [*NOUNS, *NAMES]:
        category = "noun/person" if item.human else f"noun/{item.group}"
        for plural in (False,) if item.group in ONE_NUMBER else (False, True):
            for case, form in noun_forms(item, plural).items():
                table.add(form, category, item.en, f"{case}/{'pl' if plural else 'sg'}")
    for pronoun in PRONOUNS:
        for case, form in pronoun_forms(pronoun).items():
            table.add(form, "noun/person", pronoun.en, f"{case}/sg")
    for verb in VERBS.values():
        _add_tamil_verb(table, verb)
    for adjective in ADJECTIVES:
        table.add(adjective.ta, "adjective", adjective.en, "attributive")
        if adjective.predicate:
            table.add(adjective.predicate, "adjective", adjective.en, "predicate")
        if adjective.predicate_plural != adjective.predicate:
            table.add(adjective.predicate_plural, "adjective", adjective.en, "predicate of several")
    for en, ta, _ in MANNERS:
        table.add(ta, "manner", en)
    for en, ta in [*NUMBERS.items(), ("the", "அந்த^"), ("this", "இந்த^"), ("a", "ஒரு")]:
        table.add(ta, "determiner", en)
    for en, (_, ta) in POSITIONS.items():
        table.add(ta, "position", en)
    for en, ta, _ in TIMES:
        for word in ta.split():
            table.add(word, "time", en.split()[-1])
    for slot, words in {
        "wh": "யார் என்ன எங்கே எப்போது ஏன் எத்தனை",
        "link": "என்று பிறகு",
        "able": "முடியும் முடியாது வேண்டும் வேண்டாம் பிடிக்கும் பிடிக்காது",
        "state": "இல்லை அல்ல",
        "degree": "மிகவும்",
    }.items():
        for word in words.split():
            table.add(word, "function", slot, slot)
    for person, suffix in PERSONS.items():
        table.add("மாட்ட" + SIGNS[suffix[0]] + suffix[1:], "auxiliary", "மாட்டு", person)
    return table


def _add_tamil_verb(table: Forms, verb: Verb) -> None:
    category = "verb/with" if verb.objects else "verb/without"
    for person in (*PERSONS, "3n", "3np"):
        for tense in ("past", "present", "future"):
            form = finite(verb, tense, person)
            table.add(form, category, verb.en, f"{tense}/{person}")
            table.add(question(form), category, verb.en, f"{tense}/{person}/question")
    for tense in ("past", "present", "future"):
        table.add(negative(verb, tense, "3n"), category, verb.en, f"not/{tense}")
    for form in ("infinitive", "participle", "relative", "because", "when", "if"):
        table.add(nonfinite(verb, form), category, verb.en, form)
    if verb.en in STATES:
        for tense, person in product(("past", "present"), ("3n", "3np")):
            table.add(resulting(verb, tense, person), category, verb.en, f"state/{tense}/{person}")


@cache
def english_forms() -> Forms:
    """All English word forms."""
    table = Forms()
    for item in [*NOUNS, *NAMES]:
        category = "noun/person" if item.human else f"noun/{item.group}"
        table.add(item.en, category, item.en, "sg")
        if item.group == "name":
            table.add(item.en + "'s", category, item.en, "possessive")
        if item.group not in ONE_NUMBER:
            table.add(item.en_plural, category, item.en, "pl")
    for pronoun in PRONOUNS:
        for slot in ("en", "en_object", "en_possessive"):
            table.add(getattr(pronoun, slot), "pronoun", pronoun.en, slot)
    for verb in VERBS.values():
        category = "verb/with" if verb.objects else "verb/without"
        for slot, form in (("past", verb.past), ("base", verb.en), ("third", third(verb.en))):
            if verb.en != "be":
                table.add(form, category, verb.en, slot)
    for slot, forms in {
        "be": "is was are were am be",
        "do": "did does do",
        "has": "has had have",
        "like": "like likes",
        "modal": "will can cannot must",
        "link": "because when after if",
        "and": "and that there",
        "wh": "who where why what how",
        "in": "in at on to from with by under near behind",
        "no": "not no",
        "article": "the a an this these",
        "number": " ".join(NUMBERS),
        "degree": "very",
        "it": "it",
        "manner": " ".join(en for en, _, _ in MANNERS),
        "day": "Monday Wednesday Friday Sunday",
        "when": "yesterday today tomorrow",
        "often": "often every day",
        "one": "last next",
        "period": "week month year",
        "part": "morning evening night",
    }.items():
        for form in forms.split():
            table.add(form, "function", slot, slot)
    for adjective in ADJECTIVES:
        table.add(adjective.en, "adjective", adjective.en)
    return table


# --- Tamil tokens and back -------------------------------------------------------------------------


def tokens(tamil: str) -> tuple[list[str], str]:
    """The words of a sentence with doubled consonants turned back into ^, and its final mark."""
    mark = tamil[-1] if tamil[-1:] in (".", "?") else ""
    known, words = tamil_forms().analyses, tamil[: len(tamil) - len(mark)].split()
    out = []
    for word in words:
        if word[-1:] == "்" and word[-2:-1] in tuple(HARD) and word[:-2] + "^" in known:
            out.append(word[:-2] + "^")
            continue
        marked = word not in known and word + "^" in known
        out.append(word + "^" if marked else "ஒரு" if word == "ஓர்" else word)
    return out, mark


def _insert(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    words.insert(at, rng.choice(list(forms.analyses)))


def _drop(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    if len(words) > 1:
        del words[at]


def _repeat(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    words.insert(at, words[at])


def _swap(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    if len(words) > 1:
        other = rng.choice([place for place in range(len(words)) if place != at])
        words[at], words[other] = words[other], words[at]


def _replace(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    words[at] = forms.same_slot(words[at], rng) or rng.choice(list(forms.analyses))


def _inflect(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    """Wrong case, number, tense or person; a word without inflection is replaced instead."""
    wrong = forms.same_lemma(words[at], rng)
    if wrong is None:
        return _replace(words, at, rng, forms, foreign)
    words[at] = wrong


def _foreign(words: list[str], at: int, rng: random.Random, forms: Forms, foreign: list[str]) -> None:
    words[at] = rng.choice(foreign)


_DAMAGES: list[tuple[Callable, int]] = [
    (_replace, 34),
    (_inflect, 26),
    (_drop, 14),
    (_swap, 8),
    (_repeat, 6),
    (_insert, 6),
    (_foreign, 6),
]
_DAMAGE = [damage for damage, weight in _DAMAGES for _ in range(weight)]


def _damage(words: list[str], rng: random.Random, level: float, forms: Forms, foreign: list[str]) -> list[str]:
    """Damage a share `level` of the words: mostly one by one, sometimes a cut end or a loop at once."""
    if not 0.0 <= level <= 1.0:
        raise ConfigError(f"corruptions: level is {level!r}; it is a share of words between 0 and 1")
    words, exact = list(words), level * len(words)
    budget = int(exact) + (rng.random() < exact - int(exact))
    if budget >= 2 and rng.random() < 0.15:  # the end goes missing
        cut = rng.randint(1, min(budget, len(words) - 1))
        words, budget = words[:-cut], budget - cut
    elif budget >= 2 and rng.random() < 0.1:  # the decoder loops on its last words
        span = rng.randint(1, min(3, len(words)))
        words, budget = words + words[-span:] * rng.randint(1, 1 + budget // span), budget - span
    places = rng.sample(range(len(words)), max(0, min(budget, len(words))))
    for at in sorted(places, reverse=True):  # from the end, so that earlier positions stay valid
        rng.choice(_DAMAGE)(words, min(at, len(words) - 1), rng, forms, foreign)
    return words


def corrupt(pair: Pair, rng: random.Random, level: float) -> str:
    """The Tamil of `pair` with about a share `level` of its words damaged; level 0 returns it unchanged.

    Deterministic for the state of `rng`. Raises ConfigError where level is not in [0, 1].
    """
    if level == 0:
        return pair.tamil
    words, mark = tokens(pair.tamil)
    foreign = pair.english.rstrip(".?").split()
    return realise(_damage(words, rng, level, tamil_forms(), foreign)) + mark


def corrupt_english(english: str, rng: random.Random, level: float) -> str:
    """An English sentence with about a share `level` of its words damaged; level 0 returns it unchanged.

    Deterministic for the state of `rng`. Raises ConfigError where level is not in [0, 1].
    """
    if level == 0:
        return english
    mark = english[-1] if english[-1:] in (".", "?") else ""
    words = english[: len(english) - len(mark)].split()
    forms = english_forms()
    if words and words[0] not in forms.analyses:
        words[0] = words[0][:1].lower() + words[0][1:]
    left_over = rng.sample(list(tamil_forms().analyses), 3)
    damaged = " ".join(_damage(words, rng, level, forms, [word.rstrip("^") for word in left_over]))
    return damaged[:1].upper() + damaged[1:] + mark


def unrelated(pair: Pair, rng: random.Random) -> str:
    """The Tamil of another sentence of the same part: fluent and wrong."""
    while True:
        other = sample(rng)
        if other.english != pair.english and part_of(other.english) == part_of(pair.english):
            return other.tamil


def careless(pair: Pair, rng: random.Random, share: float) -> str:
    """The Tamil of `pair` as a hurried translator writes it: the same faults again and again.

    Each habit is given in to with probability `share`, for the whole sentence: leaving out determiners;
    leaving out adjectives, adverbs and times; putting every verb into the present. Deterministic for the
    state of `rng`. Raises ConfigError where share is not in [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"corruptions: share is {share!r}; it is a probability")
    habits = [rng.random() < share for _ in range(3)]
    left_out = {"determiner"} if habits[0] else set()
    left_out |= {"adjective", "manner", "time"} if habits[1] else set()
    words, mark = tokens(pair.tamil)
    forms = tamil_forms()
    kept = [word for word in words if forms.analyses.get(word, ("",))[0] not in left_out]
    if habits[2]:
        kept = [forms.in_present(word) or word for word in kept]
    return realise(kept or words) + mark
