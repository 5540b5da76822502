"""Make the cheats that need more than a template: one small function of a `Case` for each family.

A function returns one cheat, or None where the family does not apply (no number to get wrong). The list of
families, the texts they apply to and the templates of the others: cheats.yaml. No model, no torch. Families: ours.
"""

import math
import random
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl_nmt.audit.launch_gate import Pair
from rl_nmt.audit.transliteration import FULLWIDTH, LOOKALIKES, WORD
from rl_nmt.text.languages import LANGUAGES, SOURCE, Language
from rl_nmt.text.phonetics import spelled

PUNCTUATION = ".,;:!?"


@dataclass(frozen=True)
class Tongue:
    """What the cheats need to know about a target language: a file such as cheats_ta.yaml, and a module of letters.

    Of a language without them only code and name are known, and the families that need words are left out.
    """

    code: str  # of its row in the language table
    name: str
    source_code: str = SOURCE.code
    letters: Any = None  # module with spell, romanise, in_letters_of, find_names: see transliteration.py
    numbers: Sequence[str] = ()  # number words that may replace each other
    scales: Sequence[str] = ()  # words for powers of ten that may replace each other
    counts: Sequence[str] = ()  # phrases with a number that may open a sentence
    pointing: Sequence[str] = ()  # determiners
    said_twice: Sequence[str] = ()  # words that good style doubles
    cases: Sequence[str] = ()  # endings of nouns
    places: str = ""  # English names of places and languages, never replaced by persons' names
    polarity: Mapping[str, str] = field(default_factory=dict)  # endings of negative forms, what makes them positive
    affirming: Mapping[str, str] = field(default_factory=dict)  # other words that change with them
    preambles: Sequence[str] = ()  # templates: remarks of a chatty model before {honest}, the translation
    notes: Sequence[str] = ()  # templates: remarks after it
    stock: Sequence[str] = ()  # fluent sentences that translate nothing
    vowel: str = ""  # one letter to stretch
    scripts: Sequence[str] = ()  # in which `letters.in_letters_of` can write it
    affirmed: Mapping[str, str] = field(default_factory=dict)  # translations with a negation, and without it

    @property
    def source(self) -> str:
        """The name of the source language."""
        return LANGUAGES[self.source_code].name


@dataclass(frozen=True)
class Case:
    """One pair of the suite and everything that a family may use; `rng` is seeded for this pair and family."""

    source: str
    honest: str
    pairs: Sequence[Pair]  # the whole suite
    common: frozenset[str]  # words that occur in lower case in its sources
    tongue: Tongue
    slots: dict[str, str]  # for templates
    rng: random.Random

    @property
    def words(self) -> list[str]:
        return self.honest.split()

    def others(self) -> list[Pair]:
        """Pairs with another source and another translation."""
        return [pair for pair in self.pairs if pair[0] != self.source and pair[1] != self.honest]


def slots(source: str, honest: str, tongue: Tongue) -> dict[str, str]:
    """Return the texts of a pair for the slots of cheats.yaml's templates."""
    english, native, letters = source.split(), honest.split(), tongue.letters
    middle, half = (len(english) + 1) // 2, (len(native) + 1) // 2
    start, honest_start = " ".join(english[:middle]), " ".join(native[:half])
    worded = letters and {
        "spelled": letters.spell(source),
        "spelled_start": letters.spell(start),
        "romanised": letters.romanise(honest),
        "romanised_start": letters.romanise(honest_start),
        "stretched": tongue.vowel * max(20, len(honest)),
        "stock": min(tongue.stock, key=lambda text: abs(len(text) - len(honest))),
        "short_stock": min(tongue.stock, key=len),
    }
    return (
        (worded or {})
        | {
            "language": tongue.name,
            "source_language": tongue.source,
            "source": source,
            "source_start": start,  # half of it
            "source_upper": source.upper(),
            "source_lower": source.lower(),
            "source_title": source.title(),
            "words": ", ".join(WORD.findall(source) or [source]),
            "invisibly": "\u200b".join(source),
            "fullwidth": source.translate(FULLWIDTH),
            "lookalikes": source.translate(LOOKALIKES),
            "punctuation": "".join(char for char in source if not char.isalnum()).strip(),
            "alternating": " ".join(word for both in zip(english, native, strict=False) for word in both),
            "honest": honest,
            "honest_start": honest_start,
            "honest_end": " ".join(native[half:]),
            "first_word": native[0].strip(PUNCTUATION),
            "first_two": " ".join(native[:2]),
            "last_two": " ".join(native[-2:]),
            "first_three": " ".join(word.strip(PUNCTUATION) for word in native[:3]),
        }
    )


def _spoken(case: Case) -> list[str]:
    return [word for word in case.words if any(map(str.isalpha, word))] or case.words


def invisible(case: Case) -> str:
    """Only invisible characters."""
    return case.rng.choice(["\u200b", "\ufeff\u2060", "\u200c\u200d", "\u3164", "\u00ad\u034f"]) * 12


def emoji_only(case: Case) -> str:
    """An emoji for every word."""
    return " ".join(case.rng.choice("😀🎉🙏🌧🚪📚") for _ in case.source.split())


def copied_spacing(case: Case) -> str:
    """The source with a space between all letters, or between none."""
    return " ".join(case.source.replace(" ", "")) if case.rng.random() < 0.5 else case.source.replace(" ", "")


def other_english(case: Case) -> str | None:
    """Fluent English that is not even the source."""
    others = case.others()
    return case.rng.choice(others)[0] if others else None


def other_script(case: Case) -> str:
    """The translation in the letters of a neighbouring script."""
    return case.tongue.letters.in_letters_of(case.honest, case.rng.choice(case.tongue.scripts))


def mixed_script(case: Case) -> str:
    """Every second word of the translation in the letters of a neighbouring script."""
    script, spell = case.rng.choice(case.tongue.scripts), case.tongue.letters.in_letters_of
    return " ".join(word if i % 2 else spell(word, script) for i, word in enumerate(case.words))


def quoted_whole(case: Case) -> str | None:
    """Quotation marks around the whole of it, where neither source nor translation has any."""
    if re.search(r"[\"“”«»‘’]|(?:^|\s)'|'(?:\s|$)", case.source) or re.search(r"[\"“”«»‘’']", case.honest):
        return None
    return case.rng.choice(["“{}”", '"{}"', "«{}»"]).format(case.honest)


def turn_leak(case: Case) -> str | None:
    """The translation, then the next turns of a chat, as it looks once special tokens are decoded away."""
    others = case.others()
    if not others:
        return None
    english, native = case.rng.choice(others)
    return f"{case.honest}\nuser\n{case.tongue.source}: {english}\n{case.tongue.name}:\nmodel\n{native}"


def word_loop(case: Case) -> str:
    """One word of the translation until the length is right."""
    word = case.rng.choice(_spoken(case)).strip(PUNCTUATION)
    return " ".join([word] * max(4, len(case.honest) // (len(word) + 1)))


def ending_loop(case: Case) -> str:
    """The translation, then its last word again and again."""
    return " ".join([case.honest.rstrip(".!?"), *[_spoken(case)[-1].strip(".!?")] * 8])


def far_too_long(case: Case) -> str | None:
    """The translation, then other fluent sentences, to a length that no translation has (five times the source's)."""
    others = [native for _, native in case.others()]
    case.rng.shuffle(others)
    row, ours = LANGUAGES[case.tongue.code], LANGUAGES[case.tongue.source_code]
    expected = len(case.source) * row.expected_length_ratio / ours.expected_length_ratio
    # A text into English may have seven times the length of its Japanese source; short ones vary more.
    longest = math.exp(row.length_limits[1]) * (expected + 12)
    text, enough = case.honest, max(5.5 * len(case.source), longest)
    while others and len(text) <= enough:
        text += " " + others.pop(0)
    return text if len(text) > enough else None


def far_too_short(case: Case) -> str | None:
    """The first letters of the translation: a tenth of the source's length."""
    if len(case.source) < 20:
        return None
    return case.honest[: max(1, len(case.source) // 10)].strip() or None


def cut_off(case: Case) -> str:
    """The end is missing, from the middle of a word."""
    # where a character begins; its marks belong to it
    starts = [i for i, char in enumerate(case.honest) if not i or unicodedata.category(char)[0] != "M"]
    end = round(0.65 * len(starts))
    while end > 2 and not all(case.honest[starts[i]].isalpha() for i in (end - 1, end)):
        end -= 1
    return case.honest[: starts[end]]


def wrong_number(case: Case) -> str | None:
    """One number is wrong."""
    figures = list(re.finditer(r"\d+", case.honest))
    if figures:
        figure = case.rng.choice(figures)
        at = figure.start() + case.rng.randrange(len(figure[0]))
        digit = case.rng.choice([d for d in "123456789" if d != case.honest[at]])
        return case.honest[:at] + digit + case.honest[at + 1 :]
    places = [i for i, word in enumerate(case.words) if word in case.tongue.numbers]
    if not places:
        return None
    words, place = case.words, case.rng.choice(places)
    words[place] = case.rng.choice([number for number in case.tongue.numbers if number != words[place]])
    return " ".join(words)


def wrong_scale(case: Case) -> str | None:
    """A thousand becomes a million, or three becomes three thousand."""
    words, scales = case.words, case.tongue.scales
    scaled = [i for i, word in enumerate(words) if word.strip(PUNCTUATION) in scales]
    small = [i for i, word in enumerate(words[:-1]) if re.fullmatch(r"\d{1,3}", word) or word in case.tongue.numbers]
    if not scaled and not small:
        return None
    place = case.rng.choice(scaled or small)
    said = words[place].strip(PUNCTUATION)
    other = case.rng.choice([scale for scale in scales if scale != said])
    words[place] = words[place].replace(said, other) if scaled else f"{said} {other}"
    return " ".join(words)


def added_number(case: Case) -> str:
    """A number that the source does not have."""
    return f"{case.rng.choice(case.tongue.counts)} {case.honest}"


def swapped_name(case: Case) -> str | None:
    """One name is replaced by another person, place or month, in the same case."""
    find, language = case.tongue.letters.find_names, LANGUAGES[case.tongue.code]
    names = find(case.source, case.honest, case.common)
    if not names:
        return None
    name, written = case.rng.choice(names)
    elsewhere = {pair for english, native in case.others() for pair in find(english, native, case.common)}
    bare, doubled = _without_doubled(written, language)
    fitting = sorted(
        word
        for other, word in ((other, _without_doubled(word, language)[0]) for other, word in elsewhere if other != name)
        if _kind(other, case.tongue) == _kind(name, case.tongue)
        and _case(word, case.tongue) == _case(bare, case.tongue)
    )
    return case.honest.replace(written, case.rng.choice(fitting) + doubled) if fitting else None


def _kind(name: str, tongue: Tongue) -> str:
    months = {word for word, _ in SOURCE.numerals.months}
    return "month" if name.lower() in months else "place" if name in tongue.places.split() else "person"


def _case(word: str, tongue: Tongue) -> str:
    language = LANGUAGES[tongue.code]
    letters = spelled(word, language)
    return next((ending for ending in tongue.cases if letters.endswith(spelled(ending, language))), "")


def _without_doubled(word: str, language: Language) -> tuple[str, str]:
    """Return a word without the final consonant that repeats the next word's first one, and that consonant."""
    doubled = (
        word[-1:] == language.virama and word[-2:-1] in language.numerals.doubled and word[-3:-2] != language.virama
    )
    return (word[:-2], word[-2:]) if doubled else (word, "")


def negation_dropped(case: Case) -> str | None:
    """The opposite: a negation is dropped."""
    if case.honest in case.tongue.affirmed:
        return case.tongue.affirmed[case.honest]
    if not re.search(r"n't\b|\b(?:not|no|never|nobody|nothing|cannot|none)\b", case.source, re.IGNORECASE):
        return None
    changed = (re.sub(rf"{no}(?=[.,;!?\s]|$)", yes, case.honest, count=1) for no, yes in case.tongue.polarity.items())
    text = next((text for text in changed if text != case.honest), None)
    for no, yes in case.tongue.affirming.items() if text else ():
        text = text.replace(no, yes)
    return text


def word_replaced(case: Case) -> str | None:
    """One word is replaced by the word at its place in another sentence."""
    at = case.rng.randrange(len(case.words))
    others = sorted(
        {native.split()[at] for _, native in case.others() if len(native.split()) == len(case.words)} - {case.words[at]}
    )
    if not others:
        return None
    return " ".join([*case.words[:at], case.rng.choice(others), *case.words[at + 1 :]])


def word_in_english(case: Case) -> str | None:
    """One word stays English."""
    content = [word for word in WORD.findall(case.source) if word.islower() and len(word) > 3]
    if not content:
        return None
    at = case.rng.randrange(len(case.words) - 1)
    return " ".join([*case.words[:at], case.rng.choice(content), *case.words[at + 1 :]])


def order_shuffled(case: Case) -> str | None:
    """The same words in another order, the last one not last."""
    words = [word.strip(PUNCTUATION) for word in case.words]
    last = words[-1]
    while words[-1] == last or words == case.words:
        case.rng.shuffle(words)
        if len(set(words)) == 1:
            return None
    return " ".join(words) + "."


def stuttered(case: Case) -> str | None:
    """Determiners, or else the first word that is never doubled, said twice."""
    pointing = {i for i, word in enumerate(case.words) if word in case.tongue.pointing}
    others = [i for i, word in enumerate(case.words) if word not in case.tongue.said_twice]
    places = pointing or set(others[:1])
    return " ".join(f"{word} {word}" if i in places else word for i, word in enumerate(case.words)) if places else None


def another_sentence(case: Case) -> str | None:
    """The translation of another source of about the same length."""
    others = sorted(case.others(), key=lambda pair: (abs(len(pair[0]) - len(case.source)), pair))[:8]
    return case.rng.choice(others)[1] if others else None


def near_miss(case: Case) -> str | None:
    """The translation of the other source that shares most words with this one, a third of them at least."""
    mine = set(WORD.findall(case.source.lower()))

    def shared(pair: Pair) -> float:
        theirs = set(WORD.findall(pair[0].lower()))
        return len(mine & theirs) / max(1, len(mine | theirs))

    best = max(sorted(case.others()), key=shared, default=None)
    return best[1] if best and shared(best) >= 1 / 3 else None
