"""The sentence patterns of the pocket world: each returns English words, Tamil tokens and the final mark."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from .clauses import Clause, clashes, clause, container, own, short, some_tense, verb_english
from .lexicon import (
    ERRANDS,
    FIRST,
    MOTION,
    NUMBERS,
    PRONOUNS,
    TIMES,
    TRANSITIVE,
    UNWILLED,
    VERBS,
    WILD,
    Adjective,
    group,
)
from .morphology import finite, negative, nonfinite, noun_forms, question, resulting
from .phrases import MASS, Phrase, adjectives_for, kin, name_phrase, noun_phrase, person_phrase, place, thing

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
        kind = rng.choice("animal bird clothes vehicle place text tale goods fruit tool dish".split())
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


MALE = ("fisherman", "student", "singer")  # a woman is மாணவி or பாடகி


def identity(rng: random.Random) -> Spoken:
    """X is a farmer (no verb in Tamil); X was a farmer (-ஆக இருந்தார்)."""
    who = rng.choice((name_phrase, kin))(rng)
    what = noun_phrase(
        rng,
        rng.choice([item for item in group("human") if item.gender == "h" and item.en not in MALE]),
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
    if tense == "present" and rng.random() < 0.25:
        english = f"{who.en} {'does' if who.singular3 else 'do'} not have {what.en}"
        return english, [*who.case("at"), *without_one(what).case("nom"), "இல்லை"], "."
    tamil = [*who.case("at"), *what.case("nom")]
    return f"{who.en} {have} {what.en}", [*tamil, finite(VERBS["be"], tense, what.person)], "."


def without_one(what: Phrase) -> Phrase:
    """The phrase without ஒரு, which under a negation would say "not one"."""
    return replace(what, before=what.before[1:]) if what.before[:1] == ("ஒரு",) else what


def liking(rng: random.Random) -> Spoken:
    """X likes / wants Y, with the dative: ரவிக்கு மாம்பழங்கள் பிடிக்கும்."""
    who, negated = person_phrase(rng), rng.random() < 0.3
    do_not = "does not" if who.singular3 else "do not"
    if rng.random() < 0.55:
        liked = ("fruit", "produce", "food", "drink", "animal", "bird", "human", "tale", "clothes", "flower", "rain")
        what = thing(rng, liked)
        # One likes kinds and known things: owls, this owl.
        while clashes(who, what) or own(who, what.before) or "ஒரு" in what.before:
            what = thing(rng, liked)
        tamil = [*who.case("dat"), *what.case("acc" if what.animate else "nom")]
        verb = f"{do_not} like" if negated else "likes" if who.singular3 else "like"
        return f"{who.en} {verb} {what.en_object}", [*tamil, "பிடிக்காது" if negated else "பிடிக்கும்"], "."
    wanted = ("fruit", "produce", "food", "drink", "goods", "clothes", "tool", "text")
    what = thing(rng, wanted)
    while own(who, what.before):
        what = thing(rng, wanted)
    if negated:
        return f"{who.en} {do_not} want {what.en}", [*who.case("dat"), *without_one(what).case("nom"), "வேண்டாம்"], "."
    verb = "wants" if who.singular3 else "want"
    return f"{who.en} {verb} {what.en}", [*who.case("dat"), *what.case("nom"), "வேண்டும்"], "."


def modal(rng: random.Random) -> Spoken:
    """wants to (விரும்புகிறான்), must (வேண்டும்), can and cannot (-ஆல் முடியும்)."""
    made = clause(rng, person_phrase(rng), avoid=UNWILLED)
    who, infinitive = made.subject, made.verb.infinitive
    after = f"{made.verb.en} {made.en}".strip()
    draw = rng.random()
    if draw < 0.4:
        tense, negated = rng.choice(("past", "present")), rng.random() < 0.25
        want = VERBS["want"]
        if negated:  # of a state there is one negation in Tamil; its English is the present here
            tense = "present"
        form = negative(want, "past", who.person) if negated else finite(want, tense, who.person)
        english = f"{who.en} {verb_english(want, who, tense, negated)} to {after}"
        return english, [*who.case("nom"), *made.ta, infinitive, form], "."
    if draw < 0.65:
        return f"{who.en} must {after}", [*who.case("nom"), *made.ta, infinitive, "வேண்டும்"], "."
    can, able = ("can", "முடியும்") if draw < 0.85 else ("cannot", "முடியாது")
    return f"{who.en} {can} {after}", [*who.case("ins"), *made.ta, infinitive, able], "."


def subordinate(rng: random.Random) -> Spoken:
    """Y because / when / after / if X: the Tamil subordinate clause stands first."""
    first, second = short(rng), short(rng)
    while first.subject.en in ("he", "she", "they"):  # before its name, a pronoun would be somebody else
        first = short(rng)
    while clashes(first.subject, second.subject):
        second = short(rng)
    word = rng.choice(("because", "when", "after", "if"))
    if word == "if":
        side = f"if {first.english('present')}"
        if first.verb.past == first.verb.en and not first.subject.singular3:
            return subordinate(rng)
        return f"{second.english('future')} {side}", [*first.tamil_nonfinite("if"), *second.tamil("future")], "."
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
    second = clause(rng, first.subject, plain=True, avoid=(first.verb.en, *MOTION, *UNWILLED))
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


# What stands before என்று is heard as quoted, so "that I …" would be the speaker's own "I".
SPEAKERS = {word for item in PRONOUNS for word in (item.en.lower(), item.en_object, item.en_possessive)}


def saying(rng: random.Random) -> Spoken:
    """X said that Y: மீனா வருவாள் என்று ரவி கூறினான்."""
    who, made = person_phrase(rng), short(rng)
    while SPEAKERS.intersection(made.english("past").lower().split()) or clashes(who, made.subject):
        made = short(rng)
    tense, negated = rng.choice(("past", "future")), rng.random() < 0.2
    tamil = [*made.tamil(tense, negated), "என்று", *who.case("nom"), finite(VERBS["say"], "past", who.person)]
    return f"{who.en} said that {made.english(tense, negated)}", tamil, "."


def joined_objects(rng: random.Random) -> Spoken:
    """X bought milk and bread: ரவி பாலும் ரொட்டியும் வாங்கினான்."""
    who = person_phrase(rng)
    verb = TRANSITIVE[rng.choice(("buy", "sell", "eat", "bring"))]
    kinds = ("food", "fruit", "produce", *(["cooked"] if verb.en == "eat" else []))
    foods = [item for name in kinds for item in group(name) if item.en != "fruit"]
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
    english = f"{helper} {made.subject.en} {made.verb.en} {made.en}".strip()
    return english, [*tamil[:-1], question(tamil[-1])], "?"


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


def weather(rng: random.Random) -> Spoken:
    """It rained today: இன்று மழை பெய்தது."""
    made = Clause(noun_phrase(rng, group("rain")[0], det=("", "", "", False)), VERBS["rain"], [], "")
    tense, negated = rng.choice(("past", "past", "present", "future")), rng.random() < 0.2
    en, ta, _ = rng.choice([time for time in TIMES if {"past": "p", "present": "r", "future": "f"}[tense] in time[2]])
    where, there, _ = place(rng, ("village", "city", "forest", "island")) if rng.random() < 0.4 else ("", [], "")
    said = verb_english(made.verb, made.subject, tense, negated, "often" if en == "often" else "")
    words = ["it", said, where, "" if en == "often" else en]
    return " ".join(filter(None, words)), [ta, *there, *made.tamil(tense, negated)], "."


STATES = {"open": "open", "close": "closed"}  # verb → English adjective


def state(rng: random.Random) -> Spoken:
    """The door is open: அந்தக் கதவு திறந்திருக்கிறது; closed: மூடியிருக்கிறது."""
    verb = rng.choice(list(STATES))
    item = rng.choice(group(rng.choice(("opening", "box", "bag", "shop", "school", "library", "office", "bank"))))
    what, tense = noun_phrase(rng, item, plural=False), rng.choice(("past", "present", "present"))
    while "ஒரு" in what.before:
        what = noun_phrase(rng, item, plural=False)
    english = f"{what.en} {be_english(what, tense)} {STATES[verb]}"
    return english, [*what.case("nom"), resulting(VERBS[verb], tense, what.person)], "."


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
    (weather, 2),
    (state, 3),
]
