"""Tamil morphology of the pocket world, and the little that English needs.

>>> noun_forms(noun("tree"), plural=False)["loc"], noun_forms(noun("house"), plural=True)["acc"]
('மரத்தில்', 'வீடுகளை^')
>>> from pocket.lexicon import VERBS
>>> finite(VERBS["come"], "past", "3n"), finite(VERBS["run"], "past", "3p")
('வந்தது', 'ஓடினார்கள்')
>>> realise(["அந்த^", "பெண்", "ஒரு", "ஆப்பிளை^", "சாப்பிட்டாள்"])
'அந்தப் பெண் ஓர் ஆப்பிளைச் சாப்பிட்டாள்'
"""

from __future__ import annotations

from functools import cache

from rl_nmt.errors import ConfigError

from .lexicon import VERBS, Noun, Pronoun, Verb, group

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


@cache
def resulting(verb: Verb, tense: str, person: str) -> str:
    """The state after an act, participle and இரு in one word: திறந்திருக்கிறது, மூடியிருந்தது."""
    return attach(verb.participle, finite(VERBS["be"], tense, person))


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
    """The noun of that English singular. Raises KeyError for other words."""
    return group(english)[0]
