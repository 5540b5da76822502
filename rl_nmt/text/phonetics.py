"""Sound skeletons: one rough spelling for the same word in two scripts. No torch.

A word is reduced to the classes of its consonants (k s t p m n r l v), which transliterators agree about, and an `a`
in front when it opens with a vowel; vowels, where they differ, and h and y, which come and go, are left out. Two
skeletons within one edit of each other count as the same word (deletion neighbourhoods, as in symmetric-delete
spelling correction, so that look-ups stay linear). The tables are in the language rows; classes and rules are ours.
"""

from functools import lru_cache

from rl_nmt.text.languages import Language

_JOINERS = "\u200c\u200d"
_MAX_WORD = 64  # letters; no longer word is kept in memory
LOOSE = 4  # from so many classes on an edit is allowed: shorter words would meet by chance
MAX_SKELETON = 10  # classes kept of a word; the rest of a longer word says nothing new


@lru_cache(maxsize=64)
def _table(language: Language) -> tuple[dict[str, list[str]], int]:
    rows = {grapheme: classes.replace("-", "").split("|") for grapheme, classes in language.sounds}
    return rows, max(map(len, rows), default=0)


def skeletons(word: str, language: Language) -> tuple[str, ...]:
    """Return the skeletons of a folded word (rl_nmt.text.tokens.fold): up to four where spelling is ambiguous.

    >>> from rl_nmt.text.languages import ENGLISH, TAMIL
    >>> skeletons("children", ENGLISH), skeletons("சில்ட்ரன்", TAMIL), skeletons("apple", ENGLISH)
    (('sltrn', 'kltrn'), ('sltrn',), ('apl',))
    """
    return _skeletons(word[:_MAX_WORD], language)


@lru_cache(maxsize=4096)
def _skeletons(word: str, language: Language) -> tuple[str, ...]:
    table, longest = _table(language)
    found: list[list[str]] = [[]]
    if word and word[0] in language.vowels:
        found = [["a"]]
    elif table.get(word[:1]) == [""]:  # a first h or y may be written or not: Hindi, இந்தி
        found = [[], ["a"]]
    i, adjacent = 0, False
    while i < len(word) and min(map(len, found)) <= MAX_SKELETON:
        size = next((n for n in range(min(longest, len(word) - i), 0, -1) if word[i : i + n] in table), 0)
        if not size:
            if word[i] not in _JOINERS:
                adjacent = word[i] == language.virama  # a vowel parts two consonants
            i += 1
            continue
        classes = table[word[i : i + size]]
        if len(found) >= 4:
            classes = classes[:1]
        found = [
            [*done, *(sounds[1:] if adjacent and done[-1:] == [*sounds[:1]] else sounds)]  # a doubled consonant once
            for done in found
            for sounds in classes
        ]
        adjacent, i = not language.virama, i + size
    return tuple(dict.fromkeys("".join(done)[:MAX_SKELETON] for done in found))


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
def _keys(word: str, language: Language) -> frozenset[str]:
    return frozenset().union(*(neighbourhood(skeleton) for skeleton in _skeletons(word, language) if skeleton))


def initials(acronym: str, language: Language) -> str:
    """Return the skeleton of an acronym read letter by letter, "" where a letter has no name in the table.

    >>> from rl_nmt.text.languages import ENGLISH
    >>> initials("nsa", ENGLISH)
    'ans'
    """
    names = dict(language.letter_names)
    if not acronym or not names.keys() >= set(acronym):
        return ""
    sounds = "".join(names[letter] for letter in acronym).replace("a", "")
    return f"a{sounds}" if names[acronym[0]].startswith("a") else sounds
