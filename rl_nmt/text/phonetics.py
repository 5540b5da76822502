"""How words sound: one rough spelling for the same word in two scripts. No torch.

A word is reduced to the classes of its consonants (k s t p m n r l v), which transliterators agree about, and an `a`
in front when it opens with a vowel; h and y, which come and go, are left out. Of vowels it matters only whether they
are spoken in front (i, e) or at the back of the mouth (u, o), and only for names. Two skeletons within one edit of each
other count as the same word (deletion neighbourhoods, as in symmetric-delete spelling correction, so that look-ups stay
linear). The tables are in the language rows; classes and rules are ours.
"""

import re
import unicodedata
from functools import lru_cache

from rl_nmt.text.languages import Language

Sound = tuple[str, str]  # a skeleton, and behind each of its classes the vowel, as in _FAR, or a space for none

_MAX_WORD = 64  # letters; no longer word is kept in memory
LOOSE = 4  # from so many classes on an edit is allowed: shorter words would meet by chance
MAX_SKELETON = 10  # classes kept of a word; the rest of a longer word says nothing new
_VARIANTS = 4  # of an ambiguous spelling
_WORDS = 1 << 15  # kept in memory


def spelled(word: str, language: Language) -> str:
    """Return a word of a syllabic alphabet as consonants and vowels one by one; of an alphabet as it is.

    >>> from rl_nmt.text.languages import TAMIL
    >>> spelled("கிரீஸ்", TAMIL)
    'கஇரஈஸ'
    """
    word = word.replace("\u200c", "").replace("\u200d", "")
    if not language.virama:
        return word
    signs, inherent = _vowel_signs(language.vowels), language.vowels[:1]
    out: list[str] = []
    for char in word:
        if char == language.virama:
            out[-1:] = []
        elif char in signs:
            out[-1:] = [signs[char]]
        else:
            out += [char] if char in language.vowels else [char, inherent]
    return "".join(out)


@lru_cache(maxsize=64)
def _vowel_signs(vowels: str) -> dict[str, str]:
    """Vowel signs of a syllabic alphabet, by their Unicode names, and the letters that they stand for."""
    signs = {}
    for letter in vowels:
        try:
            signs[unicodedata.lookup(unicodedata.name(letter).replace(" LETTER ", " VOWEL SIGN "))] = letter
        except KeyError:  # the inherent vowel has no sign
            continue
    return signs


@lru_cache(maxsize=64)
def _table(language: Language) -> tuple[re.Pattern[str], dict[str, list[str]]]:
    """A pattern of the graphemes, the longest first, and what each may sound like; ^ and $ are the ends of a word."""
    rows = {grapheme: sounds.replace("-", "").split("|") for grapheme, sounds in language.sounds}
    longest = sorted(rows, key=lambda grapheme: (-len(grapheme), grapheme))
    return re.compile("|".join((*longest, "."))), {grapheme.strip("^$"): [""] for grapheme in rows} | rows


def skeletons(word: str, language: Language) -> tuple[str, ...]:
    """Return the skeletons of a folded word (rl_nmt.text.tokens.fold): up to four where spelling is ambiguous.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> skeletons("children", ENGLISH), skeletons("சில்ட்ரன்", TAMIL), skeletons("apple", ENGLISH)
    (('sltrn', 'kltrn'), ('sltrn',), ('apl',))
    """
    return tuple(dict.fromkeys(skeleton for skeleton, _ in sounds(word, language)))


def sounds(word: str, language: Language) -> tuple[Sound, ...]:
    """Return the skeletons of a folded word with their vowels.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> sounds("mali", ENGLISH), sounds("மீனா", TAMIL)
    ((('ml', ' I'),), (('mn', 'I '),))
    """
    return _sounds(spelled(word[:_MAX_WORD], language), language)


@lru_cache(maxsize=_WORDS)
def _sounds(letters: str, language: Language) -> tuple[Sound, ...]:
    pattern, table = _table(language)
    first = letters[:1]
    found = [("", "", False)]  # skeleton, vowels, whether the last sound was a consonant
    if first and first in language.vowels:
        found = [("a", " ", False)]
    elif table.get(first) == [""]:  # a first h may be written or not: Hindi, இந்தி
        found = [("", "", False), ("a", " ", False)]
    for match in pattern.finditer(letters):
        grapheme = match[0]
        choices = table.get(grapheme, _SILENT)
        if match.start() == 0 and f"^{grapheme}" in table:
            found, choices = [("", "", False)], table[f"^{grapheme}"]
        elif match.end() == len(letters):
            choices = table.get(f"{grapheme}$", choices)
        if len(found) >= _VARIANTS:
            choices = choices[:1]
        found = [_heard(one, more) for one in found for more in choices]
        if len(found[0][0]) > MAX_SKELETON:
            break
    return tuple(dict.fromkeys((skeleton[:MAX_SKELETON], vowels[:MAX_SKELETON]) for skeleton, vowels, _ in found))


_SILENT = [""]


def _heard(before: tuple[str, str, bool], more: str) -> tuple[str, str, bool]:
    """What has been heard of a word, and one more grapheme's sounds."""
    skeleton, vowels, adjacent = before
    if not more:
        return skeleton, vowels, adjacent
    for sound in more:
        if sound.islower():
            if not (adjacent and skeleton[-1:] == sound):  # a doubled consonant once
                skeleton, vowels = skeleton + sound, vowels + " "
            adjacent = True
        else:
            if vowels:
                vowels = vowels[:-1] + (sound if vowels[-1] in (" ", sound) else "*")
            adjacent = False
    return skeleton, vowels, adjacent


@lru_cache(maxsize=64)
def _endings(language: Language) -> re.Pattern[str]:
    """What may follow the stem of a noun, spelled: endings of number and case, particles, a doubled consonant."""
    row = language.numerals
    glide = f"[{language.glides}]?" if language.glides else ""
    endings = sorted({spelled(ending, language) for ending in language.endings}, key=lambda e: (-len(e), e))
    doubled = f"[{row.doubled}]?" if row.doubled else ""
    return re.compile(f"(?:{glide}(?:{'|'.join(endings)})){{0,4}}{doubled}" if endings else "")


@lru_cache(maxsize=64)
def _small(language: Language) -> frozenset[str]:
    return frozenset(spelled(word, language) for word in language.function_words)


def stems(word: str, language: Language) -> tuple[Sound, ...]:
    """Return how a folded word sounds as it is and without the endings of cases; nothing for a function word.

    >>> from rl_nmt.text.languages import TAMIL
    >>> stems("ரவியைச்", TAMIL)
    (('rv', ' I'), ('rvs', ' I '), ('rv', '  '))
    """
    return _stems(word[:_MAX_WORD], language)


@lru_cache(maxsize=_WORDS)
def _stems(word: str, language: Language) -> tuple[Sound, ...]:
    letters, endings, small = spelled(word, language), _endings(language), _small(language)
    found: dict[Sound, None] = {}
    for end in range(len(letters), 1, -1):
        if not endings.fullmatch(letters, end):
            continue
        if letters[:end] in small:
            return ()
        stem, elided = letters[:end], letters[end : end + 1] in language.vowels and end < len(letters)
        forms = [stem]
        for pair in language.obliques if end < len(letters) else ():
            changed, nominative = (spelled(part, language) for part in pair)
            if stem.endswith(changed):
                forms.append(stem.removesuffix(changed) + nominative)
        for prefix in language.name_prefixes:
            forms += [form.removeprefix(spelled(prefix, language)) for form in forms if form.startswith(spelled(prefix, language))]
        for form in forms:
            for skeleton, vowels in _sounds(form, language):
                closed = elided and form[-1:] not in language.vowels
                found[skeleton, vowels[:-1] + "W" if closed else vowels] = None  # a short u falls before a vowel
    return tuple(found)


# Vowels that are never one, as (of the name, of the word): A open, I front, U back, E and O ai and au, W a short u that
# may be no vowel at all, X one that may be silent, * several.
_FAR = {("I", "U"), ("U", "I"), ("A", "U"), ("I", "O"), ("U", "E")}


def alike(name: Sound, word: Sound) -> bool:
    """Whether a word of the same skeleton may be the name: from four classes on one vowel may differ."""
    short = len(name[0]) < LOOSE - 1
    far = sum(pair in _FAR or (short and pair == ("I", "W")) for pair in zip(name[1], word[1], strict=True))
    ends = name[1][-1:] + word[1][-1:]
    if short and " " in ends and ends.strip() in _OPEN:  # one ends in a vowel, the other does not
        return False
    return far <= (len(name[0]) >= LOOSE)


_OPEN = ("A", "I", "U", "E", "O", "*")


@lru_cache(maxsize=_WORDS)
def neighbourhood(skeleton: str) -> frozenset[str]:
    """Return the skeleton and, from LOOSE classes on, what is left of it without any one class."""
    shorter = (skeleton[:i] + skeleton[i + 1 :] for i in range(len(skeleton)) if len(skeleton) >= LOOSE)
    return frozenset((skeleton, *shorter))


def keys(word: str, language: Language) -> frozenset[str]:
    """Return the look-up keys of a word: two words sound alike when their keys meet.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> bool(keys("school", ENGLISH) & keys("ஸ்கூல்", TAMIL)), bool(keys("school", ENGLISH) & keys("மரம்", TAMIL))
    (True, False)
    """
    return _keys(word[:_MAX_WORD], language)


@lru_cache(maxsize=_WORDS)
def _keys(word: str, language: Language) -> frozenset[str]:
    return frozenset().union(*(neighbourhood(skeleton) for skeleton in skeletons(word, language) if skeleton))
