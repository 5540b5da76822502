"""Extract the first clean English sentences of a web document, or the reason for rejecting it. No torch."""

import re
import unicodedata
from typing import Any

from rl_nmt.text.languages import ENGLISH
from rl_nmt.text.unicode import safe_unicode

_URL = re.compile(r"https?:|www\.|\S@\S+\.\w|\b[\w-]+\.(?:com|org|net|edu|gov|info|io|html?|php|co\.[a-z]{2})\b", re.I)
# C4's own list (Raffel et al. 2020, section 2.2) and what still shows in C4: banners, menus, forms.
_BOILERPLATE = re.compile(
    r"cookie|javascript|lorem ipsum|terms (?:of (?:use|service)|and conditions)|privacy policy|copyright|©"
    r"|all rights reserved|subscribe|newsletter|read more|click here|sign (?:up|in)\b|log ?in\b"
    r"|leave a (?:comment|reply)|share (?:this|on)\b|posted (?:by|on|in)\b|powered by|add to cart"
    r"|[{}|]|</?(?:a|b|br|div|em|font|h\d|i|img|li|p|script|span|strong|table|td|tr|ul)\b[^>]*>",
    re.I,
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_CLOSERS, _OPENERS = "\"'”’»)]", "\"'“‘«(["
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof rev fr sr jr st mt ft gen col lt sgt capt cmdr adm gov sen sens rep reps pres hon det "
    "messrs mme vs etc al cf viz approx dept est inc ltd co corp bros univ assn ave blvd rd jan feb apr jun "
    "jul aug sep sept oct nov dec ph.d ed eds esp misc tel ext".split()
)
_BEFORE_NUMBERS = frozenset("no nos pp vol vols fig figs sec ch chap art eq para ver".split())
_INITIALS = re.compile(r"[a-z](?:\.[a-z])*")


def split_sentences(text: str) -> list[str]:
    """Split English text into sentences; an unfinished rest is the last item.

    Abbreviations, initials, decimals and list numbers do not end a sentence, and a small letter never
    starts one. Whitespace becomes single spaces.

    >>> split_sentences("Dr. Rao paid 3.5 million. Why? See No. 7 of the U.S. list")
    ['Dr. Rao paid 3.5 million.', 'Why?', 'See No. 7 of the U.S. list']
    """
    sentences: list[str] = []
    current: list[str] = []
    words = text.split()
    for word, following in zip(words, [*words[1:], ""], strict=False):
        current.append(word)
        if _ends_sentence(word, following, first=len(current) == 1):
            sentences.append(" ".join(current))
            current = []
    return [*sentences, " ".join(current)] if current else sentences


def _ends_sentence(word: str, following: str, first: bool = False) -> bool:
    bare = word.rstrip(_CLOSERS)
    if bare[-1:] not in (".", "!", "?", "…") or following.lstrip(_OPENERS)[:1].islower():
        return False
    if bare[-1] != "." or bare.endswith("..") or not following:
        return True
    stem = bare[:-1].lstrip(_OPENERS).lower()
    if stem in _BEFORE_NUMBERS:
        return not following[:1].isdigit()
    return not (stem in _ABBREVIATIONS or _INITIALS.fullmatch(stem) or (first and stem.isdigit()))


def clean_document(text: Any, min_chars: int, max_chars: int) -> tuple[str | None, str]:
    """Return (first whole sentences, "") or (None, reason) for one web document.

    Control and invisible characters and lines with a URL or boilerplate are removed; the result is the first run of
    whole sentences in the rest that together have min_chars to max_chars NFC code points. Reasons: "not text", "empty",
    "only URLs and boilerplate", "few letters", "not English", "no whole sentence", "too short", "sentences too long".
    """
    if not isinstance(text, str):
        return None, "not text"
    lines = [" ".join(line.split()) for line in _INVISIBLE.sub("", safe_unicode(text)).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return None, "empty"
    lines = [line for line in lines if not (_URL.search(line) or _BOILERPLATE.search(line))]
    if not lines:
        return None, "only URLs and boilerplate"
    whole = [s for line in lines for s in split_sentences(line) if _ends_sentence(s.split()[-1], "")]
    if not whole:
        return None, "no whole sentence"
    passage = _first_run(whole, min_chars, max_chars)
    if passage is None:
        return None, "too short" if min(map(len, whole)) <= max_chars else "sentences too long"
    if 2 * sum(char.isalpha() for char in passage) < len(passage):
        return None, "few letters"
    if not _is_english(passage):
        return None, "not English"
    return unicodedata.normalize("NFC", passage), ""


_JUDGED, _SMALL = 6, 0.15  # words from which a text needs this share of function words: German has 3 %, English 43 %


def _is_english(text: str) -> bool:
    """Whether enough of the words are function words of English; too short a text counts as English."""
    words = _WORD.findall(text.casefold().replace("’", "'"))
    return len(words) < _JUDGED or sum(word in ENGLISH.function_words for word in words) >= _SMALL * len(words)


_WORD = re.compile(r"[^\W\d_]+(?:'[a-z]+)?")


def _first_run(sentences: list[str], min_chars: int, max_chars: int) -> str | None:
    """Return the first consecutive sentences, joined, within the bounds; as many as fit."""
    run = ""
    for sentence in sentences:
        longer = f"{run} {sentence}" if run else sentence
        if len(longer) <= max_chars:
            run = longer
        elif len(run) >= min_chars:
            return run
        else:
            run = sentence if len(sentence) <= max_chars else ""
    return run if run and len(run) >= min_chars else None
