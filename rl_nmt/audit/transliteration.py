"""Write text in the wrong letters: English in Tamil letters, Tamil in Latin, Devanagari, Malayalam or Sinhala ones.

Rough on purpose, as a cheating model would be, and independent of the gates' own transliteration: an attack that
shared the defence's tables could only find what the defence already knows. No torch. Spelling rules and tables: ours.
"""

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path

from rl_nmt.text.languages import read_words

VIRAMA = "்"

_TABLE = read_words(Path(__file__).with_name("transliteration_ta.yaml"))
_VOWELS, _SOUNDS, _WORDS = _TABLE["vowels"], _TABLE["sounds"], _TABLE["words"]
_SOUND = re.compile("|".join(sorted(_SOUNDS, key=len, reverse=True)))


def _soft(consonant: str) -> str:
    return {"c": "s", "g": "j"}.get(consonant, consonant)


# Spelling habits, applied in this order before the letters are read one by one.
_LONG = {"a": "ai", "e": "ee", "i": "igh", "o": "oa", "u": "oo"}
_HABITS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"^(?:k(?=n)|w(?=r))|gh(?!t)(?<=[aeou]gh)"), ""),  # know, write, through
    (re.compile(r"^sch"), "sk"),  # school, not schnapps
    (re.compile(r"(?<=[aeiou][b-df-hj-np-su-z])ed$|(?<=[b-df-hj-np-su-z]{2})ed$"), "d"),  # closed, not wanted
    # a silent e lengthens the vowel before one consonant (home), softens c and g (dance), or does nothing
    (
        re.compile(r"(?<![aeiou])([aeiou])([bcdfgklmnprstvz])e(?=s?$)"),
        lambda found: _LONG[found[1]] + _soft(found[2]),
    ),
    (re.compile(r"(?<=[aeiou])([b-df-hj-np-tv-z]*)([b-df-hj-np-tv-z])e$"), lambda found: found[1] + _soft(found[2])),
    (re.compile(r"([^aeiou])\1"), r"\1"),
    (re.compile(r"ng(?=[aou])"), "ngg"),
]


def _latin(kind: str) -> dict[str, str]:
    return dict(zip(_TABLE[kind]["letters"], _TABLE[kind]["latin"].split(), strict=True))


_CONSONANTS, _INDEPENDENT, _SIGNS = map(_latin, ("consonants", "independent", "signs"))
LOOKALIKES = str.maketrans(*_TABLE["lookalikes"])  # Latin letters to Cyrillic ones of the same shape
FULLWIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}  # ASCII to its fullwidth forms
# Two of the blocks follow the same order as the Tamil one (all three come from ISCII).
_LETTERS = {"Sinhala": str.maketrans(*_TABLE["sinhala"])} | {
    script: {code: code - 0x0B80 + start for code in range(0x0B80, 0x0C00)}
    for script, start in (("Devanagari", 0x0900), ("Malayalam", 0x0D00))
}

WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def spell(english: str) -> str:
    """Write the English words of a text in Tamil letters by sound; everything else stays.

    >>> spell("The children went to school.")
    'தி சில்ட்ரென் வெண்ட் டு ஸ்கூல்.'
    """
    return WORD.sub(lambda match: _spell_word(match[0].lower().replace("'", "")), english)


def _spell_word(word: str) -> str:
    if word in _WORDS:
        return _WORDS[word]
    if word.startswith("y") and len(word) > 1:
        return _compose(["ய்", *_sounds(word[1:])])
    for pattern, sound in _HABITS:
        word = pattern.sub(sound, word)
    sounds = _sounds(word)
    if sounds[:1] == ["ன்"]:
        sounds[0] = "ந்"
    return _compose(sounds)


def _sounds(word: str) -> list[str]:
    return [sound for unit in _SOUND.findall(word) for sound in _SOUNDS[unit].split()]


def _compose(sounds: list[str]) -> str:
    """Compose Tamil syllables from vowel codes and consonants."""
    text, after_vowel = "", False
    for sound in sounds:
        if sound not in _VOWELS:
            text, after_vowel = text + sound, False
            continue
        if after_vowel:
            text += "ய்"  # two vowels do not meet in Tamil spelling
        alone, sign = _VOWELS[sound]
        text = text[:-1] + sign if text.endswith(VIRAMA) else text + alone
        after_vowel = True
    return text


def romanise(tamil: str) -> str:
    """Write Tamil in Latin letters, as people type it on a phone; other characters stay.

    >>> romanise("நான் வீட்டுக்குப் போகிறேன்.")
    'naan viittukkup pookireen.'
    """
    pieces = []
    for char, following in zip(tamil, [*tamil[1:], ""], strict=True):
        if char in _CONSONANTS:
            pieces.append(_CONSONANTS[char] + "a" * (following != VIRAMA and following not in _SIGNS))
        elif char != VIRAMA:
            pieces.append(_INDEPENDENT.get(char) or _SIGNS.get(char) or char)
    return "".join(pieces)


def in_letters_of(tamil: str, script: str) -> str:
    """Write Tamil in the letters of "Devanagari", "Malayalam" or "Sinhala"; other characters stay.

    >>> in_letters_of("தமிழ்", "Devanagari"), in_letters_of("தமிழ்", "Malayalam"), in_letters_of("தமிழ்", "Sinhala")
    ('तमिऴ्', 'തമിഴ്', 'තමිළ්')
    """
    return tamil.translate(_LETTERS[script])


_CLASSES = (("ng", "n"), ("nj", "n"), ("zh", "l"), ("th", "t"), ("sh", "s"), ("ch", "s"), ("ph", "p"))
_MERGED = str.maketrans("gcqdbfjzw", "kkktppssv", "aeiouyh' .-")


def skeleton(latin: str) -> str:
    """Return the consonants of a romanised word: those that Tamil does not distinguish merged, doubles once.

    >>> skeleton("Kavitha"), skeleton(romanise("கவிதா"))
    ('kvt', 'kvt')
    """
    latin = latin.casefold()
    for pair, one in _CLASSES:
        latin = latin.replace(pair, one)
    return re.sub(r"(.)\1+", r"\1", latin.translate(_MERGED))


def find_names(english: str, tamil: str, common: frozenset[str]) -> list[tuple[str, str]]:
    """Return the names of `english`, in its order, each with the word of `tamil` that spells it, with its ending.

    A name is a capitalised word whose lower-case form is not in `common` and whose consonants, at
    least two, begin some Tamil word.

    >>> find_names("Kavitha went home.", "கவிதா வீட்டுக்குப் போனாள்.", frozenset())
    [('Kavitha', 'கவிதா')]
    """
    words = list(filter(None, (word.strip(".,;:!?\"'()“”‘’") for word in tamil.split())))
    found = []
    for name in re.findall(r"\b[A-Z][a-z]{2,}", english):
        consonants = skeleton(name)
        if name.lower() in common or len(consonants) < 2:
            continue
        spelled = [word for word in words if skeleton(romanise(word)).startswith(consonants)]
        if spelled:
            found.append((name, max(spelled, key=partial(_likeness, name))))
    return found


def _likeness(name: str, word: str) -> float:
    return SequenceMatcher(None, name.lower(), romanise(word)[: len(name) + 2], autojunk=False).ratio()
