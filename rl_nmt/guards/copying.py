"""Measure how much of a source an output repeats, letter by letter or by sound in the other script. No torch.

A translation borrows names, numbers and single words; a copy repeats the running text, small words included. So tokens
that may stay are excused (rl_nmt.text.tokens.kept), and words that sound alike count only in a chain of neighbouring
words with one that nobody borrows. Rules and thresholds: ours.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from rl_nmt.text.languages import Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.phonetics import keys
from rl_nmt.text.tokens import Token

_GRAM = 8  # letters in a row, without spaces, that two texts share only by copying
_CHAIN = 3  # words in a row that sound alike: fewer occur by chance or by borrowing
_LONG_CHAIN = 5  # enough even when all of them could be borrowed
_STARTS = 8  # places in the output where one source word may start a chain: keeps the search linear


def copied_share(*pair: Any) -> float:
    """Return the share, 0 to 1, of the source's content letters that the output repeats instead of translating.

    `pair` is a TextPair, or its parts: source, output, language and optionally source_language. Content is every
    word that may not stay unchanged. A word is copied when it is in the output in its own letters (NFKC, case folded,
    without accents; also joined, or split by other spaces), or when it belongs to a chain that sounds alike word by
    word in the output's script. 0.0 when the source has no content.

    >>> from rl_nmt.text.languages import TAMIL
    >>> copied_share("The boy reads a book.", "THE BOY, READS A-BOOK", TAMIL)
    1.0
    >>> copied_share("The boy reads a book.", "தி பாய் ரீட்ஸ் எ புக்.", TAMIL)
    1.0
    >>> copied_share("The boy takes a bus.", "சிறுவன் பஸ்ஸில் செல்கிறான்.", TAMIL)
    0.0
    """
    texts = TextPair.of(*pair)
    words = texts.source_tokens
    content = [i for i, token in enumerate(words) if token.kind == "word" and not texts.excused[i]]
    if not content:
        return 0.0
    copied = _verbatim(words, texts.output_tokens) | _sounded(texts)
    return sum(len(words[i].key) for i in content if i in copied) / sum(len(words[i].key) for i in content)


def _verbatim(words: list[Token], said: list[Token]) -> set[int]:
    """Indices of source words that are in the output in their own letters."""
    own_words = {token.key for token in said}
    copied = {i for i, token in enumerate(words) if token.key in own_words}
    # A space before an apostrophe takes it out of its word: "didn't", "did n ' t".
    bare, theirs = ([re.sub("['’]", "", token.key) for token in tokens] for tokens in (words, said))
    text, joined = "".join(theirs), "".join(bare)
    grams = {text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)}
    covered = bytearray(len(joined))
    for i in range(len(joined) - _GRAM + 1):
        if joined[i : i + _GRAM] in grams:
            covered[i : i + _GRAM] = bytes([1]) * _GRAM
    for i, (key, end) in enumerate(zip(bare, accumulate(map(len, bare)), strict=True)):
        if covered.count(1, end - len(key), end) * 2 > len(key):
            copied.add(i)
    return copied


def _sounded(pair: TextPair) -> set[int]:
    """Indices of source words in chains that sound alike in the output, word after word.

    A chain continues from (source word i, output word p) to i+1 or i+2 and p+1 or p+2: one word may be
    missed on either side, and a missed source word inside a chain counts as copied too.
    """
    words, excused = pair.source_tokens, pair.excused
    content = len(words) - sum(excused)
    theirs = [_keys(token, pair.language) for token in pair.output_tokens]
    places: dict[str, list[int]] = defaultdict(list)
    for p, found in enumerate(theirs):
        for key in found:
            places[key].append(p)
    ours = [_keys(token, pair.source_language) & places.keys() for token in words]  # without keys that the output lacks
    copied: set[int] = set()
    if sum(map(bool, ours)) < 2:  # no chain
        return copied
    live: dict[int, dict[int, _Chain]] = {}  # source index -> output position -> chain that ends there
    for i, token in enumerate(words):
        here: dict[int, _Chain] = {}
        if ours[i]:
            small = token.key in pair.source_language.function_words
            for back in (1, 2):
                for p, chain in live.get(i - back, {}).items():
                    for q in (p + 1, p + 2):
                        longest = q not in here or here[q].matched <= chain.matched
                        if longest and q < len(theirs) and not ours[i].isdisjoint(theirs[q]):
                            here[q] = chain.grown(small, not excused[i])
            starts = sorted({p for key in ours[i] for p in places[key][:_STARTS]})
            for p in starts[: 2 * _STARTS]:
                here.setdefault(p, _Chain(i, 1, int(small), int(not excused[i])))
            if len(here) > 1:
                here = dict(sorted(here.items(), key=lambda item: -item[1].matched)[: 4 * _STARTS])
            for chain in here.values():
                if chain.counts(len(words), content):
                    copied.update(range(chain.new, i + 1))
                    chain.new = i + 1
        live[i] = here
        live.pop(i - 2, None)
    return copied


def _keys(token: Token, language: Language) -> frozenset[str]:
    """Look-up keys of a word's sound; a number is its own key, so that it does not break a chain."""
    if token.kind == "number":
        return frozenset((token.key,))
    if token.kind != "word":
        return frozenset()
    spoken = token.text.casefold().replace("'", "").replace("’", "")  # "that's" as it sounds
    found = keys(token.key, language)
    return found | keys(spoken, language) if len(spoken) > len(token.key) else found


@dataclass(slots=True)
class _Chain:
    """Neighbouring source words that sound alike: how many, and how many of them are small or content words.

    `new` is the first source word of the chain that has not been counted as copied yet.
    """

    new: int
    matched: int
    small: int
    content: int

    def grown(self, small: bool, content: bool) -> "_Chain":
        return _Chain(self.new, self.matched + 1, self.small + small, self.content + content)

    def counts(self, words: int, content: int) -> bool:
        """Whether it is a copy and not borrowing; `content` of the source's `words` may not stay."""
        if self.small:
            return self.content >= min(_CHAIN, content) and self.matched >= min(_CHAIN, words)
        return self.content >= _LONG_CHAIN
