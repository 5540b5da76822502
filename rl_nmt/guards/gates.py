"""Gates: which outputs are no translation at all, and why. Pure functions over text, no model.

A gate is not a judge of quality. It names outputs that no score may lift above a real translation:
the reward gives them 0.0 whatever the neural scorers would say, and calls no model for them. Every gate
compares with the source, so that what the source itself does (repeats, lists, quotes, speaks of
translating) is no offence. Rules and thresholds are ours; `python -m rl_nmt.guards FILE` measures how
often each one is wrong about a file of human translations.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from rl_nmt.guards.copying import copied_of
from rl_nmt.guards.repetition import loops
from rl_nmt.text.languages import ENGLISH, Language
from rl_nmt.text.tokens import LITERAL, Token, kept, own, tokenize
from rl_nmt.text.unicode import CONTROL_PATTERN, clean_for_scoring, is_blank, length, without_invisible

REASONS = (
    "empty",
    "control",
    "echo",
    "preamble",
    "copy",
    "script",
    "glued",
    "loop",
    "length",
    "truncated",
)

MAX_FOREIGN = 0.2  # share of letters that are foreign and not the source's to keep
MAX_THIRD_SCRIPT = 3  # letters of a script that neither language is written in
GLUED = 2  # foreign words in a row at an end of the output; one more in the middle


def verdict(
    source: str, output: str, language: Language, source_language: Language = ENGLISH, prompt: str = ""
) -> str | None:
    """Return the reason why `output` is no translation of `source` into `language`, or None.

    Args:
        source: the text to translate, as it was given.
        output: the completion as the policy wrote it, decoded without special tokens and not cleaned:
            control tokens and line breaks are evidence.
        language, source_language: rows of the language table.
        prompt: the words of the prompt, where an echo of them is to be recognised beyond its labels.

    Returns:
        None or, in the order in which they are looked for:
        "empty"      nothing visible;
        "control"    a control token of a chat format or translation model that the source has not;
        "echo"       a label of the prompt ("Tamil:", "user") or a run of its words;
        "preamble"   talk about the translation before or after it, more lines than the source has
                     sentences, markdown, HTML or quotes around the whole;
        "copy"       more than a third of the source repeated, in either script (more where both share one and
                     write cognates alike: Language.max_copied);
        "script"     foreign letters, or no letter of the language;
        "glued"      foreign words before, after or amid the translation;
        "loop"       words, phrases or characters in circles;
        "length"     too short or too long for any translation;
        "truncated"  ends in a word or sign that ends no sentence, or short and without the end mark of
                     its source. A cut between two sentences, or one that leaves a complete one, cannot be told
                     from a free translation and passes.

    Never raises for any two strings, and takes time linear in their lengths.

    >>> from rl_nmt.text.unicode import TAMIL
    >>> [verdict("I came home.", text, TAMIL) for text in ("நான் வீட்டிற்கு வந்தேன்.", "Naan veettirku vanthen.",
    ...  "இதோ மொழிபெயர்ப்பு: நான் வீட்டிற்கு வந்தேன்.", "நான் வீட்டிற்கு வந்தேன். I came home.")]
    [None, 'script', 'preamble', 'copy']
    """
    if is_blank(output):
        return "empty"
    if _control(source, output):
        return "control"
    clean_source, clean_output = clean_for_scoring(source), clean_for_scoring(output)
    source_words = tokenize(clean_source, source_language)
    words = tokenize(clean_output, language)
    lines = [line for line in map(clean_for_scoring, without_invisible(output).splitlines()) if line]
    if _echo(clean_source, lines, words, source_words, language, source_language, prompt):
        return "echo"
    if _preamble(clean_source, source, lines, clean_output, language, source_language):
        return "preamble"
    excused = kept(source_words, source_language)
    if copied_of(source_words, excused, words, language, source_language) > language.max_copied:
        return "copy"
    foreign = _foreign(source_words, excused, words, language)
    if _wrong_script(source_words, words, foreign, language):
        return "script"
    if _glued(words, foreign):
        return "glued"
    if loops(clean_source, source_words, clean_output, words):
        return "loop"
    if _impossible_length(clean_source, clean_output, language):
        return "length"
    if _truncated(clean_source, clean_output, words, language):
        return "truncated"
    return None


# --- control tokens ------------------------------------------------------------------------------------

# Chat formats and translation tags beside the tokens of this project's own models (rl_nmt.text.unicode).
_CHAT_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?think>|<2[a-z]{2}>|>>[a-z]{2,3}<<|__[a-z]{2}__|\b[a-z]{3}_[A-Z][a-z]{3}\b"
)


def _control(source: str, output: str) -> bool:
    return any(
        not _found(pattern, without_invisible(output)) <= _found(pattern, without_invisible(source))
        for pattern in (CONTROL_PATTERN, _CHAT_TOKENS)
    )


def _found(pattern: re.Pattern[str], text: str) -> set[str]:
    return {match[0].strip() for match in pattern.finditer(text)}


# --- talk around the translation -----------------------------------------------------------------------

_LABEL_END = re.compile(r"\s*(?:[:：]|\s[-–—=]+>?\s)")
_ECHO_RUN = 4  # words of the prompt in a row


def _labels(language: Language, source_language: Language) -> tuple[str, ...]:
    return tuple(sorted({*language.labels, *source_language.labels, *ENGLISH.labels}, key=len, reverse=True))


def _echo(source, lines, words, source_words, language, source_language, prompt) -> bool:
    """A line that opens with a label of the prompt, or a run of the prompt's words."""
    opening = source.casefold()
    for line in lines:
        folded = line.casefold().lstrip("*#>-• \"'“")
        for label in _labels(language, source_language):
            if folded.startswith(label) and not opening.startswith(label):
                rest = folded[len(label) :].lstrip("*\"'” ")
                if _LABEL_END.match(rest) or (not rest and len(lines) > 1):
                    return True
    if not prompt:
        return False
    heard = [t.key for t in tokenize(prompt, source_language)]
    given = _runs([t.key for t in source_words])
    return bool((_runs(heard) - given) & _runs([t.key for t in words]))


def _runs(keys: list[str]) -> set[tuple[str, ...]]:
    return {tuple(keys[i : i + _ECHO_RUN]) for i in range(len(keys) - _ECHO_RUN + 1)}


_MARKDOWN = re.compile(r"\*\*|```|~~~|^#{1,6}\s|^>\s|\\(?:boxed|text|begin)\b|\|\s*-{3,}|^[*•]\s|^\d{1,2}[.)]\s", re.M)
_HTML = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,10}(?:\s[^<>]{0,200})?/?>")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`", "”": "”", "(": ")", "[": "]", "{": "}"}
_QUOTES |= {"「": "」", "『": "』"}
_QUOTE_MARKS, _BRACKETS = "\"'“”‘’«»„`「」『』", "()[]{}"
_COLON = re.compile(r"[^:：\n]{1,80}[:：]")
_SENTENCES = re.compile(r"[.!?…:;]+(?=\s|$)")


def _preamble(source, raw_source, lines, output, language, source_language) -> bool:
    """Anything in the output that is there beside the translation: see `verdict`."""
    text = "\n".join(lines)
    opening = source.casefold()
    if len(lines) > max(1, len(_SENTENCES.findall(source)), len(raw_source.strip().splitlines())):
        return True
    if any(not _found(pattern, text) <= _found(pattern, raw_source) for pattern in (_MARKDOWN, _HTML)):
        return True
    if _wrapped(output, source):
        return True
    folded = output.casefold()
    for row in (language, source_language):
        if not _mentions(opening, source_language.meta_topics) and _mentions(folded, row.meta):
            return True
        label = _COLON.match(folded)
        if label and _mentions(label[0], row.meta) and not _mentions(_head(opening), source_language.meta_topics):
            return True
        if not _mentions(opening, source_language.note_topics) and _note_pattern(row).search(folded):
            return True
    return _opener(opening, folded, language, source_language)


def _head(source: str) -> str:
    """What stands before the first colon; all of a text without one is no label."""
    label = _COLON.match(source)
    return label[0] if label else ""


def _wrapped(output: str, source: str) -> bool:
    """Quotes or brackets around the whole, where the source has none at either end (half of it may be cited)."""
    output, ends = output.rstrip(".!? "), source[:1] + source.rstrip(".!? ")[-1:]
    if len(output) < 3 or _QUOTES.get(output[0]) != output[-1] or output[-1] in output[1:-1]:
        return False
    return not set(ends) & set(_QUOTE_MARKS if output[0] in _QUOTE_MARKS else _BRACKETS)


def _mentions(text: str, stems: tuple[str, ...]) -> bool:
    return any(stem in text for stem in stems)


@lru_cache(maxsize=16)
def _note_pattern(language: Language) -> re.Pattern[str]:
    """A word of explanation where a sentence or bracket opens, with its colon."""
    stems = "|".join(map(re.escape, language.notes))
    return re.compile(rf"(?:^|[.!?…(\[\"”'\n:])[ *]{{0,4}}(?:{stems})[^\s:.,]{{0,12}}(?: \S{{1,8}})?[ *]{{0,3}}[:：]")


def _opener(source: str, output: str, language: Language, source_language: Language) -> bool:
    """The first words of a chat answer: in the source's language always, in the output's with a sign behind."""
    if any(_opens(source, phrase) for phrase in source_language.openers):
        return False
    if source_language.ranges != language.ranges and any(_opens(output, p) for p in source_language.openers):
        return True
    heads = [phrase for phrase in language.openers if output.startswith((f"{phrase}!", f"{phrase}:"))]
    return any(output[len(head)] not in source and len(output) > len(head) + 2 for head in heads)


def _opens(text: str, phrase: str) -> bool:
    """Whether the text starts with these words, quotes and brackets aside."""
    text = text.lstrip("\"'“‘«([*# ")
    return text.startswith(phrase) and not text[len(phrase) : len(phrase) + 1].isalnum()


# --- script --------------------------------------------------------------------------------------------


def _foreign(source_words, excused, words: list[Token], language: Language) -> list[bool]:
    """For each token of the output whether it is a foreign word that the source does not excuse."""
    may_stay = {t.key for t, stays in zip(source_words, excused, strict=True) if stays}
    content = {t.key for t in source_words} - may_stay
    return [_is_foreign(token, may_stay, content, language) for token in words]


def _is_foreign(token: Token, may_stay: set[str], content: set[str], language: Language) -> bool:
    if token.kind in ("number", *LITERAL) or own(token, language) or token.key in may_stay:
        return False
    new_acronym = token.text.isupper() and len(token.text) <= 5 and token.key not in content
    return not (new_acronym or len(token.text) == 1)


def _wrong_script(source_words, words: list[Token], foreign: list[bool], language: Language) -> bool:
    ours = sum(len(t.text) for t in words if t.kind == "word" and own(t, language))
    theirs = sum(len(t.text) for t, bad in zip(words, foreign, strict=True) if bad)
    if theirs > MAX_FOREIGN * (ours + theirs):
        return True
    scripts = {t.script for t in source_words}
    third = sum(
        len(t.text) for t in words if t.kind == "word" and not own(t, language) and t.script not in {"LATIN", *scripts}
    )
    if third >= MAX_THIRD_SCRIPT:
        return True
    to_translate = any(t.kind == "word" and not (t.text.isupper() and len(t.text) > 1) for t in source_words)
    return ours == 0 and to_translate


def _glued(words: list[Token], foreign: list[bool]) -> bool:
    """Foreign words in a row: two at either end, three anywhere; what may stay between them does not count."""
    spoken = [bad for token, bad in zip(words, foreign, strict=True) if token.kind == "word"]
    if len(spoken) > GLUED and (all(spoken[:GLUED]) or all(spoken[-GLUED:])):
        return True
    run = 0
    for bad in spoken:
        run = run + 1 if bad else 0
        if run > GLUED:
            return True
    return False


# --- size ----------------------------------------------------------------------------------------------

_SLACK = 12  # code points by which a short text may differ freely: "Yes." is one word in any language


def _log_distance(source: str, output: str, language: Language) -> float:
    expected = language.expected_length_ratio * length(source)
    return math.log((length(output) + _SLACK) / (expected + _SLACK))


def _impossible_length(source: str, output: str, language: Language) -> bool:
    low, high = language.length_limits
    return not low <= _log_distance(source, output, language) <= high


_ENDS = ".!?…।॥\"”'’»)]}:。！？｡؟۔」』】》）："
_OPEN_ENDS = ",;-–—(/[{“‘«&，、；「『【《（،؛"
_SHORT = -0.25  # log distance below the expected ratio from which a missing end mark is a cut


def _truncated(source: str, output: str, words: list[Token], language: Language) -> bool:
    finished = source.rstrip("\"”'’»)] ")[-1:] in (".", "!", "?")
    if not finished:
        return False
    if output[-1] in _OPEN_ENDS:
        return True
    if output[-1] in _ENDS or not words or not language.end_marks:
        return False
    if words[-1].key in language.unfinished:
        return True
    return _log_distance(source, output, language) < _SHORT
