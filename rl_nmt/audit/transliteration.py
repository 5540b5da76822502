"""Text in the wrong letters: English in Tamil letters, Tamil in Latin, Devanagari, Malayalam or Sinhala ones.

The raw material of the cheats in rl_nmt/audit/cheats.py. Rough on purpose, as a cheating model would be, and on
purpose without anything of the gates' own transliteration: an attack that shared the defence's tables could
only find what the defence already knows. The tables are for Tamil; another language has functions of its own
in its row of rl_nmt/audit/cheats.TONGUES. No model, no torch. Spelling rules and tables: ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

VIRAMA = "்"

# Vowel code → (letter that stands alone, sign after a consonant); "a" is inherent.
_VOWELS = {
    "a": ("அ", ""),
    "aa": ("ஆ", "ா"),
    "i": ("இ", "ி"),
    "ii": ("ஈ", "ீ"),
    "u": ("உ", "ு"),
    "uu": ("ஊ", "ூ"),
    "e": ("எ", "ெ"),
    "ee": ("ஏ", "ே"),
    "ai": ("ஐ", "ை"),
    "o": ("ஒ", "ொ"),
    "oo": ("ஓ", "ோ"),
}

# English letters, longest match first → vowel codes and Tamil consonants, by English pronunciation.
_SOUNDS = {
    "tion": "ஷ் a ன்",
    "sion": "ஷ் a ன்",
    "ture": "ச் a ர்",
    "ought": "aa ட்",
    "ight": "ai ட்",
    "igh": "ai",
    "tch": "ச்",
    "sch": "ஸ் க்",
    "ch": "ச்",
    "sh": "ஷ்",
    "th": "த்",
    "ph": "ஃ ப்",
    "ck": "க்",
    "wh": "வ்",
    "qu": "க் வ்",
    "ng": "ங்",
    "nd": "ண் ட்",
    "nt": "ண் ட்",
    "ce": "ஸ் e",
    "ci": "ஸ் i",
    "cy": "ஸ் i",
    "ge": "ஜ் e",
    "gi": "ஜ் i",
    "ee": "ii",
    "ea": "ii",
    "ie": "ii",
    "oo": "uu",
    "ou": "a வ்",
    "ow": "a வ்",
    "oa": "oo",
    "ai": "ee",
    "ay": "ee",
    "ey": "ii",
    "oi": "aa ய்",
    "oy": "aa ய்",
    "au": "aa",
    "aw": "aa",
    "ew": "i ய் uu",
    "ar": "aa ர்",
    "er": "a ர்",
    "ir": "a ர்",
    "ur": "a ர்",
    "or": "aa ர்",
    "a": "aa",
    "e": "e",
    "i": "i",
    "o": "o",
    "u": "a",
    "y": "i",
    "b": "ப்",
    "c": "க்",
    "d": "ட்",
    "f": "ஃ ப்",
    "g": "க்",
    "h": "ஹ்",
    "j": "ஜ்",
    "k": "க்",
    "l": "ல்",
    "m": "ம்",
    "n": "ன்",
    "p": "ப்",
    "q": "க்",
    "r": "ர்",
    "s": "ஸ்",
    "t": "ட்",
    "v": "வ்",
    "w": "வ்",
    "x": "க் ஸ்",
    "z": "ஸ்",
}
_SOUND = re.compile("|".join(sorted(_SOUNDS, key=len, reverse=True)))


def _soft(consonant: str) -> str:
    return {"c": "s", "g": "j"}.get(consonant, consonant)


# Spelling habits, applied in this order before the letters are read one by one.
_LONG = {"a": "ai", "e": "ee", "i": "igh", "o": "oa", "u": "oo"}
_HABITS = [
    (re.compile(r"^(?:k(?=n)|w(?=r))|gh(?!t)(?<=[aeou]gh)"), ""),  # know, write, through
    (re.compile(r"^sch"), "sk"),  # school, not schnapps
    (re.compile(r"(?<=[aeiou][b-df-hj-np-su-z])ed$|(?<=[b-df-hj-np-su-z]{2})ed$"), "d"),  # closed, not wanted
    # a silent e: it lengthens the vowel before one consonant (home), softens c and g (dance), or just ends
    (
        re.compile(r"(?<![aeiou])([aeiou])([bcdfgklmnprstvz])e(?=s?$)"),
        lambda found: _LONG[found[1]] + _soft(found[2]),
    ),
    (re.compile(r"(?<=[aeiou])([b-df-hj-np-tv-z]*)([b-df-hj-np-tv-z])e$"), lambda found: found[1] + _soft(found[2])),
    (re.compile(r"([^aeiou])\1"), r"\1"),
    (re.compile(r"ng(?=[aou])"), "ngg"),
]

# The commonest words sound too little like their letters.
_WORDS = dict(
    pair.split("=")
    for pair in (
        "the=தி of=ஆஃப் to=டு is=இஸ் are=ஆர் was=வாஸ் were=வேர் be=பி been=பீன் he=ஹி she=ஷி we=வி you=யூ i=ஐ my=மை "
        "by=பை have=ஹேவ் has=ஹேஸ் do=டூ does=டஸ் what=வாட் who=ஹூ where=வேர் why=வை their=தேர் there=தேர் they=தே "
        "one=ஒன் two=டூ four=ஃபோர் eight=எய்ட் people=பீப்பிள் water=வாட்டர் said=செட் come=கம் some=சம் your=யுவர் "
        "and=அண்ட் not=நாட் no=நோ go=கோ going=கோயிங் so=ஸோ a=எ me=மி her=ஹெர் on=ஆன் at=அட் that=தட் an=ஆன் give=கிவ் live=லிவ் "
        "through=த்ரூ although=ஆல்தோ friend=ஃப்ரெண்ட் our=அவர் house=ஹவுஸ் mother=மதர் brother=பிரதர் three=த்ரீ five=ஃபைவ்"
    ).split()
)

# Tamil letter → Latin; consonants without their inherent a.
_LATIN_CONSONANTS = dict(
    zip("கஙசஞடணதநபமயரலவழளறனஜஷஸஹ", "k ng s nj t n th n p m y r l v zh l r n j sh s h".split(), strict=True)
)
_LATIN_LETTERS = dict(zip("அஆஇஈஉஊஎஏஐஒஓஃ", "a aa i ii u uu e ee ai o oo k".split(), strict=True)) | {"ஔ": "au"}
_LATIN_SIGNS = dict(zip("ாிீுூெேைொோௌ", "aa i ii u uu e ee ai o oo au".split(), strict=True))

_SINHALA = str.maketrans(
    "கஙசஞடணதநபமயரலவழளறனஜஷஸஹஅஆஇஈஉஊஎஏஐஒஓஔாிீுூெேைொோௌ்",
    "කඞචඤටණතනපමයරලවළළරනජෂසහඅආඉඊඋඌඑඒඓඔඕඖාිීුූෙේෛොෝෞ්",
)
# These two blocks follow the same order as the Tamil one (all three come from ISCII).
_BLOCKS = {"Devanagari": 0x0900, "Malayalam": 0x0D00}
_TAMIL_BLOCK = range(0x0B80, 0x0C00)

# Latin letters → Cyrillic ones that look the same on a page; the others (n, t, u ...) have none.
_LOOKALIKES = str.maketrans("aceiopsxyjdlrhABCEHIKMOPTXY", "асеіорѕхујԁӏгһАВСЕНІКМОРТХУ")
_FULLWIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}

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
    """Vowel codes and consonants as Tamil syllables."""
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
        if char in _LATIN_CONSONANTS:
            bare = following == VIRAMA or following in _LATIN_SIGNS
            pieces.append(_LATIN_CONSONANTS[char] + ("" if bare else "a"))
        elif char != VIRAMA:
            pieces.append(_LATIN_LETTERS.get(char) or _LATIN_SIGNS.get(char) or char)
    return "".join(pieces)


def in_letters_of(tamil: str, script: str) -> str:
    """Write Tamil in the letters of "Devanagari", "Malayalam" or "Sinhala"; other characters stay.

    >>> in_letters_of("தமிழ்", "Devanagari"), in_letters_of("தமிழ்", "Malayalam"), in_letters_of("தமிழ்", "Sinhala")
    ('तमिऴ्', 'തമിഴ്', 'තමිළ්')
    """
    if script == "Sinhala":
        return tamil.translate(_SINHALA)
    shift = _BLOCKS[script] - _TAMIL_BLOCK.start
    return tamil.translate({code: code + shift for code in _TAMIL_BLOCK})


def lookalike(english: str) -> str:
    """Replace Latin letters by Cyrillic ones of the same shape, where there is one.

    >>> lookalike("peace").isascii(), lookalike("peace") == "peace"
    (False, False)
    """
    return english.translate(_LOOKALIKES)


def fullwidth(english: str) -> str:
    """Replace ASCII by its fullwidth forms.

    >>> fullwidth("No.")
    'Ｎｏ．'
    """
    return english.translate(_FULLWIDTH)


# --- names -------------------------------------------------------------------------------------------

_CLASSES = (("ng", "n"), ("nj", "n"), ("zh", "l"), ("th", "t"), ("sh", "s"), ("ch", "s"), ("ph", "p"))
_MERGED = str.maketrans("gcqdbfjzw", "kkktppssv", "aeiouyh' .-")


def skeleton(latin: str) -> str:
    """The consonants of a romanised word, sounds that Tamil does not tell apart merged, doubles once.

    >>> skeleton("Kavitha"), skeleton(romanise("கவிதா"))
    ('kvt', 'kvt')
    """
    latin = latin.casefold()
    for pair, one in _CLASSES:
        latin = latin.replace(pair, one)
    return re.sub(r"(.)\1+", r"\1", latin.translate(_MERGED))


@dataclass(frozen=True)
class Spelled:
    """A name of an English text, and the word of the Tamil text that spells it (with its case ending)."""

    english: str
    tamil: str


def _likeness(name: str, word: str) -> float:
    return SequenceMatcher(None, name.lower(), romanise(word)[: len(name) + 2], autojunk=False).ratio()


def find_names(english: str, tamil: str, common: frozenset[str]) -> list[Spelled]:
    """Names of `english` with the words of `tamil` that spell them, in English order.

    A name is a capitalised word whose lower-case form is not in `common` and of whose consonants, at
    least two, some Tamil word starts with.

    >>> find_names("Kavitha went home.", "கவிதா வீட்டுக்குப் போனாள்.", frozenset())
    [Spelled(english='Kavitha', tamil='கவிதா')]
    """
    words = [word.strip(".,;:!?\"'()“”‘’") for word in tamil.split()]
    found = []
    for match in re.finditer(r"\b[A-Z][a-z]{2,}", english):
        consonants = skeleton(match[0])
        if match[0].lower() in common or len(consonants) < 2:
            continue
        spelled = [word for word in words if word and skeleton(romanise(word)).startswith(consonants)]
        if spelled:
            found.append(Spelled(match[0], max(spelled, key=lambda word, name=match[0]: _likeness(name, word))))
    return found
