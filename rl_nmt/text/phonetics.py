"""Spell words roughly by sound, the same way in two scripts. No torch.

The skeleton of a word is the classes of its consonants (k s t p m n r l v), on which transliterators agree, after an
`a` if the word starts with a vowel; h and y, which are written inconsistently, are left out. Vowels count only for
names, and only as front (i, e) or back (u, o) vowels. Two skeletons within one edit of each other count as the same
word (deletion neighbourhoods, as in symmetric-delete spelling correction, so that look-ups stay linear).
The tables are in the language rows; classes and rules are ours.
"""

import re
import unicodedata
from functools import lru_cache
from string import ascii_letters

from rl_nmt.text.languages import Language

Sound = tuple[str, str]  # a skeleton, and the vowel after each of its classes: a letter of _FAR, or a space for none

_MAX_WORD = 64  # letters that are read of a word
LOOSE = 4  # classes from which on one edit is allowed: shorter words would match by chance
MAX_SKELETON = 10  # classes kept of a word; more do not help to tell words apart
_VARIANTS = 4  # of an ambiguous spelling
_WORDS = 1 << 15  # entries of each cache


@lru_cache(maxsize=_WORDS)
def spelled(word: str, language: Language) -> str:
    """Return a word of a syllabic alphabet as consonants and vowels one by one; of an alphabet unchanged.

    >>> from rl_nmt.text.languages import TAMIL
    >>> spelled("கிரீஸ்", TAMIL)
    'கஇரஈஸ'
    """
    word = word.replace("\u200c", "").replace("\u200d", "")
    if not language.virama:
        return word
    for written, read in language.respelled:
        word = word.replace(written, read)
    signs, inherent = _vowel_signs(language)
    out: list[str] = []
    for char in word:
        if char in signs:
            out[-1:] = signs[char]
        else:
            out += (char,) if char in language.vowels else (char, inherent)
    return "".join(out)


@lru_cache(maxsize=64)
def _vowel_signs(language: Language) -> tuple[dict[str, str], str]:
    """Return the vowel signs of a syllabic alphabet with their letters, by Unicode names, and the inherent vowel."""
    signs = {language.virama: ""}
    for letter in language.vowels:
        try:
            signs[unicodedata.lookup(unicodedata.name(letter).replace(" LETTER ", " VOWEL SIGN "))] = letter
        except KeyError:  # the inherent vowel has no sign
            continue
    return signs, language.vowels[:1]


class _Table:
    """The sounds of a language's letters: strings of consonant classes (lower case) and vowels (capitals, *)."""

    def __init__(self, language: Language):
        rows = {grapheme: sounds.replace("-", "").split("|") for grapheme, sounds in language.sounds}
        longest = sorted(rows, key=lambda grapheme: (-len(grapheme), grapheme))
        self.grapheme = re.compile("|".join((*longest, ".")))
        self.sounds = {grapheme.strip("^$"): [""] for grapheme in rows} | rows
        several = [grapheme for grapheme, sounds in rows.items() if len(grapheme) > 1 or len(sounds) > 1]
        self.special = re.compile("|".join(several) or "(?!)")
        self.letters = str.maketrans(
            {letter: "" for letter in ascii_letters} | {g: rows[g][0] for g in rows if len(g) == 1}
        )

    def hear(self, letters: str) -> list[str]:
        """Return how a spelled word may sound, at most _VARIANTS."""
        if not self.special.search(letters):
            return [letters.translate(self.letters)]
        found: list[list[str]] = [[]]
        for match in self.grapheme.finditer(letters):
            grapheme = match[0]
            choices = self.sounds.get(grapheme, _SILENT)
            if match.start() == 0:
                choices = self.sounds.get(f"^{grapheme}", choices)
            elif match.end() == len(letters):
                choices = self.sounds.get(f"{grapheme}$", choices)
            if len(choices) == 1 or len(found) >= _VARIANTS:
                for one in found:
                    one.append(choices[0])
            else:
                found = [[*one, choice] for one in found for choice in choices]
        return ["".join(one) for one in found]


_SILENT = [""]
_table = lru_cache(maxsize=64)(_Table)


def skeletons(word: str, language: Language) -> tuple[str, ...]:
    """Return the skeletons of a folded word (rl_nmt.text.tokens.fold): up to four where spelling is ambiguous.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> skeletons("children", ENGLISH), skeletons("சில்ட்ரன்", TAMIL), skeletons("apple", ENGLISH)
    (('sltrn', 'kltrn'), ('sltrn',), ('apl',))
    """
    heard = _heard(spelled(word[:_MAX_WORD], language), language)
    return tuple(dict.fromkeys([_NO_CLASS.sub("", _DOUBLED.sub(r"\1", one))[:MAX_SKELETON] for one in heard]))


_DOUBLED = re.compile(r"([a-z])\1+")  # counts once, unless a vowel is between
_NO_CLASS = re.compile("[^a-z]+")


def sounds(word: str, language: Language) -> tuple[Sound, ...]:
    """Return the skeletons of a folded word with their vowels.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> sounds("mali", ENGLISH), sounds("மீனா", TAMIL)
    ((('ml', 'AI'),), (('mn', 'IA'),))
    """
    return _sounds(spelled(word[:_MAX_WORD], language), language)


@lru_cache(maxsize=_WORDS)
def _heard(letters: str, language: Language) -> list[str]:
    table = _table(language)
    heard, first = table.hear(letters), letters[:1]
    if f"^{letters[:2]}" in table.sounds or f"^{first}" in table.sounds:
        pass  # the table has its sound at the start of a word
    elif first and first in language.vowels:
        heard = [f"a{one}" for one in heard]
    elif table.sounds.get(first) == _SILENT:  # a first h may be written or not: Hindi, இந்தி
        heard += [f"a{one}" for one in heard]
    return heard


@lru_cache(maxsize=_WORDS)
def _sounds(letters: str, language: Language) -> tuple[Sound, ...]:
    return tuple(dict.fromkeys(map(_parted, _heard(letters, language))))


def _parted(heard: str) -> Sound:
    """Split sounds into classes and the vowels after them."""
    found = _CONSONANT.findall(heard)[:MAX_SKELETON]
    return "".join([consonant for consonant, _ in found]), "".join([_vowel(behind) for _, behind in found])


_CONSONANT = re.compile(r"([a-z])\1*([A-Z*]*)")


def _vowel(behind: str) -> str:
    return behind[:1] or " " if len(behind) < 2 or len(set(behind)) == 1 else "*"


class _Nouns:
    """Prefixes and endings of nouns, spelled, and function words, which are not names."""

    def __init__(self, language: Language):
        row = language.numerals
        glide = f"[{language.glides}]?" if language.glides else ""
        spelled_out = {spelled(ending, language) for ending in language.endings}
        endings = sorted(spelled_out, key=lambda ending: (-len(ending), ending))
        if row.elided:  # dropped before another ending
            endings = [re.sub(f"{row.elided}$", f"{row.elided}?", ending) for ending in endings]
        doubled = f"[{row.doubled}]?" if row.doubled else ""
        self.endings = re.compile(f"(?:{glide}(?:{'|'.join(endings)})){{0,4}}{doubled}" if endings else "")
        self.obliques = [tuple(spelled(part, language) for part in pair) for pair in language.obliques]
        self.prefixes = [spelled(prefix, language) for prefix in language.name_prefixes]
        self.small = {spelled(word, language) for word in language.function_words}


_nouns = lru_cache(maxsize=64)(_Nouns)


def stems(word: str, language: Language) -> tuple[Sound, ...]:
    """Return how a folded word sounds with and without case endings; nothing for a function word.

    >>> from rl_nmt.text.languages import TAMIL
    >>> stems("ரவியைச்", TAMIL)
    (('rvs', 'A* '), ('rv', 'A*'), ('rv', 'AW'), ('rv', 'AI'))
    """
    return _stems(word[:_MAX_WORD], language)


@lru_cache(maxsize=_WORDS)
def _stems(word: str, language: Language) -> tuple[Sound, ...]:
    letters, nouns = spelled(word, language), _nouns(language)
    found: dict[Sound, None] = {}
    for end in range(len(letters), 1, -1):
        if not nouns.endings.fullmatch(letters, end):
            continue
        stem = letters[:end]
        if stem in nouns.small:
            return ()
        forms = [stem]
        if end < len(letters):
            forms += [
                stem.removesuffix(last) + nominative for last, nominative in nouns.obliques if stem.endswith(last)
            ]
        forms += [form.removeprefix(prefix) for prefix in nouns.prefixes for form in forms if form.startswith(prefix)]
        elided = end < len(letters) and letters[end] in language.vowels  # a short u is dropped before a vowel
        for form in forms:
            for skeleton, vowels in _sounds(form, language):
                closed = elided and form[-1:] not in language.vowels
                found[skeleton, vowels[:-1] + "W" if closed else vowels] = None
    return tuple(found)


# Vowels that are never the same, as (name's, word's): A open, I front, U back, E and O ai and au, W a short u that
# may be no vowel at all, X one that may be silent, * several.
_FAR = {("I", "U"), ("U", "I"), ("A", "U"), ("I", "O"), ("U", "E")}


def alike(name: Sound, word: Sound) -> bool:
    """Whether a word of the same skeleton may be the name: from four classes on, one vowel may differ."""
    short = len(name[0]) < LOOSE - 1
    far = sum(pair in _FAR or (short and pair == ("I", "W")) for pair in zip(name[1], word[1], strict=True))
    ends = name[1][-1:] + word[1][-1:]
    if short and " " in ends and ends.strip() in _OPEN:  # one ends in a vowel, the other does not
        return False
    return far <= (len(name[0]) >= LOOSE)


_OPEN = ("A", "I", "U", "E", "O", "*")


@lru_cache(maxsize=_WORDS)
def neighbourhood(skeleton: str) -> frozenset[str]:
    """Return the skeleton and, from LOOSE classes on, every string that lacks one of its classes."""
    shorter = (skeleton[:i] + skeleton[i + 1 :] for i in range(len(skeleton)) if len(skeleton) >= LOOSE)
    return frozenset((skeleton, *shorter))


def keys(word: str, language: Language) -> frozenset[str]:
    """Return the look-up keys of a word: two words sound alike if they share a key.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> bool(keys("school", ENGLISH) & keys("ஸ்கூல்", TAMIL)), bool(keys("school", ENGLISH) & keys("மரம்", TAMIL))
    (True, False)
    """
    return _keys(word[:_MAX_WORD], language)


@lru_cache(maxsize=_WORDS)
def _keys(word: str, language: Language) -> frozenset[str]:
    return frozenset().union(*(neighbourhood(skeleton) for skeleton in skeletons(word, language) if skeleton))
