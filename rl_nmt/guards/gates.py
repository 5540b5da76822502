"""Gates: which outputs are not translations at all, and why. Pure functions over text, no model.

The reward gives such outputs 0.0 whatever the neural scorers would say, and calls no model for them. Every gate
compares with the source, so that what the source itself does (repeats, lists, quotes, speaks of translating) is no
offence. Rules and thresholds are ours (docs/details.md, 1 to 8); `python -m rl_nmt.guards FILE` measures how often each
one is wrong.
"""

import math
import re
from functools import lru_cache
from typing import Any

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.repetition import loops
from rl_nmt.text.languages import SHARED_SCRIPTS, Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.tokens import Token, own, tokenize
from rl_nmt.text.unicode import CONTROL_PATTERN, is_blank, length, one_line

# In the order in which they are looked for.
REASONS = {
    "empty": "nothing visible",
    "control": "a control token of a chat format or translation model that the source has not",
    "echo": "a label of the prompt ('Tamil:', 'user') or a run of its words",
    "preamble": "talk about the translation before or after it, more lines than the source has sentences, markdown, "
    "HTML or quotes around the whole",
    "copy": "more than a third of the source repeated, in either script (more where both share one and write cognates "
    "alike: Language.max_copied)",
    "script": "foreign letters, or no letter of the language",
    "glued": "foreign words before, after or amid the translation",
    "loop": "words, phrases or characters in circles",
    "length": "too short or too long for any translation",
    "truncated": "ends in a word or sign that ends no sentence, or short and without the end mark of its source; a cut "
    "between two sentences, or one that leaves a complete one, cannot be told from a free translation and passes",
}

MAX_FOREIGN = 0.2  # share of letters that are foreign and not the source's to keep
MAX_THIRD_SCRIPT = 3  # letters of a script that neither language is written in
GLUED = 2  # foreign words in a row at an end of the output; one more in the middle


def verdict(*pair: Any, prompt: str = "") -> str | None:
    """Return the reason, a key of REASONS, why an output is not a translation of its source, or None.

    `pair` is a TextPair, or what makes one: source, output, language and perhaps source_language. The output is the
    completion as the policy wrote it, decoded without special tokens and not cleaned: control tokens and line breaks
    are evidence. `prompt`: its words, where an echo of them is to be recognised beyond its labels.

    Never raises for any two strings, and takes time linear in their lengths.

    >>> from rl_nmt.text.languages import TAMIL
    >>> [verdict("I came home.", text, TAMIL) for text in ("நான் வீட்டிற்கு வந்தேன்.", "Naan veettirku vanthen.",
    ...  "இதோ மொழிபெயர்ப்பு: நான் வீட்டிற்கு வந்தேன்.", "நான் வீட்டிற்கு வந்தேன். I came home.")]
    [None, 'script', 'preamble', 'copy']
    """
    texts = TextPair.of(*pair)
    if is_blank(texts.clean_output):
        return "empty"
    if any(_adds(tokens, texts.visible_output, texts.visible_source) for tokens in (CONTROL_PATTERN, _CHAT_TOKENS)):
        return "control"
    lines = [line for line in map(one_line, texts.visible_output.splitlines()) if line]
    if _labelled(texts, lines) or (prompt and _repeats_prompt(texts, prompt)):
        return "echo"
    if _preamble(texts, lines):
        return "preamble"
    if copied_share(texts) > texts.language.max_copied:
        return "copy"
    words = _words(texts)
    if _wrong_script(texts, words):
        return "script"
    if _glued(words):
        return "glued"
    if loops(texts):
        return "loop"
    low, high = texts.language.length_limits
    if not low <= _log_distance(texts) <= high:
        return "length"
    return "truncated" if _truncated(texts) else None


# Chat formats and translation tags beside the tokens of this project's own models (rl_nmt.text.unicode).
_CHAT_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?think>|<2[a-z]{2}>|>>[a-z]{2,3}<<|__[a-z]{2}__|\b[a-z]{3}_[A-Z][a-z]{3}\b"
)


def _adds(pattern: re.Pattern[str], output: str, source: str) -> bool:
    """Whether the output holds a match that the source does not hold."""
    said, heard = ({match[0].strip() for match in pattern.finditer(text)} for text in (output, source))
    return not said <= heard


_LABEL_END = re.compile(r"\s*(?:[:：]|\s[-–—=]+>?\s)")
_ECHO_RUN = 4  # words of the prompt in a row


def _labelled(pair: TextPair, lines: list[str]) -> bool:
    """A line that opens with a label of the prompt."""
    opening = pair.clean_source.casefold()
    labels = [x for x in {*pair.language.labels, *pair.source_language.labels} if not opening.startswith(x)]
    for line in lines:
        folded = line.casefold().lstrip("*#>-• \"'“")
        for label in filter(folded.startswith, labels):
            rest = folded[len(label) :].lstrip("*\"'” ")
            if _LABEL_END.match(rest) or (not rest and len(lines) > 1):
                return True
    return False


def _repeats_prompt(pair: TextPair, prompt: str) -> bool:
    """A run of the prompt's words that is not the source's."""
    asked, given, said = map(_runs, (tokenize(prompt, pair.source_language), pair.source_tokens, pair.output_tokens))
    return bool((asked - given) & said)


def _runs(tokens: list[Token]) -> set[tuple[str, ...]]:
    keys = [token.key for token in tokens]
    return {tuple(keys[i : i + _ECHO_RUN]) for i in range(len(keys) - _ECHO_RUN + 1)}


_MARKDOWN = re.compile(r"\*\*|```|~~~|^#{1,6}\s|^>\s|\\(?:boxed|text|begin)\b|\|\s*-{3,}|^[*•]\s|^\d{1,2}[.)]\s", re.M)
_HTML = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,10}(?:\s[^<>]{0,200})?/?>")
_QUOTES = dict(zip("\"'“‘«„`”([{「『", "\"'”’»“`”)]}」』", strict=True))
_QUOTE_MARKS, _BRACKETS = "\"'“”‘’«»„`「」『』", "()[]{}"
_COLON = re.compile(r"[^:：\n]{1,80}[:：]")
_SENTENCES = re.compile(r"[.!?…:;]+(?=\s|$)")


def _preamble(pair: TextPair, lines: list[str]) -> bool:
    """Anything in the output that is there beside the translation."""
    ours, text = pair.source_language, "\n".join(lines)
    opening, folded = pair.clean_source.casefold(), pair.clean_output.casefold()
    if len(lines) > max(1, len(_SENTENCES.findall(pair.clean_source)), len(pair.source.strip().splitlines())):
        return True
    if _adds(_MARKDOWN, text, pair.source) or _adds(_HTML, text, pair.source):
        return True
    if _wrapped(pair.clean_output, pair.clean_source):
        return True
    for row in (pair.language, ours):
        if _mentions(folded, row.meta) and not _mentions(opening, ours.meta_topics):
            return True
        if _mentions(_head(folded), row.meta) and not _mentions(_head(opening), ours.meta_topics):
            return True
        if not _mentions(opening, ours.note_topics) and _note_pattern(row).search(folded):
            return True
    return _opener(opening, folded, pair.language, ours)


def _head(text: str) -> str:
    """The text up to its first colon; a text without one has no label."""
    label = _COLON.match(text)
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
    if source_language.ranges != language.ranges and any(_opens(output, phrase) for phrase in source_language.openers):
        return True
    heads = [phrase for phrase in language.openers if output.startswith((f"{phrase}!", f"{phrase}:"))]
    return any(output[len(head)] not in source and len(output) > len(head) + 2 for head in heads)


def _opens(text: str, phrase: str) -> bool:
    """Whether the text starts with these words, quotes and brackets aside."""
    text = text.lstrip("\"'“‘«([*# ")
    return text.startswith(phrase) and not text[len(phrase) : len(phrase) + 1].isalnum()


def _words(pair: TextPair) -> list[tuple[Token, bool]]:
    """The words of the output, and whether each is foreign and not excused by the source."""
    may_stay = {t.key for t, stays in zip(pair.source_tokens, pair.kept, strict=True) if stays}
    content = {t.key for t in pair.source_tokens} - may_stay

    def is_foreign(word: Token) -> bool:
        if own(word, pair.language) or word.key in may_stay or len(word.text) == 1:
            return False
        new_acronym = word.text.isupper() and len(word.text) <= 5 and word.key not in content
        return not new_acronym

    return [(token, is_foreign(token)) for token in pair.output_tokens if token.kind == "word"]


def _wrong_script(pair: TextPair, words: list[tuple[Token, bool]]) -> bool:
    ours = sum(len(t.text) for t, _ in words if own(t, pair.language))
    theirs = sum(len(t.text) for t, foreign in words if foreign)
    if theirs > MAX_FOREIGN * (ours + theirs):
        return True
    known = {*SHARED_SCRIPTS, *(t.script for t in pair.source_tokens)}
    if sum(len(t.text) for t, _ in words if not own(t, pair.language) and t.script not in known) >= MAX_THIRD_SCRIPT:
        return True
    to_translate = any(t.kind == "word" and not (t.text.isupper() and len(t.text) > 1) for t in pair.source_tokens)
    return ours == 0 and to_translate


def _glued(words: list[tuple[Token, bool]]) -> bool:
    """Foreign words in a row: two at either end, three anywhere; what may stay between them does not count."""
    foreign = [bad for _, bad in words]
    if len(foreign) > GLUED and (all(foreign[:GLUED]) or all(foreign[-GLUED:])):
        return True
    return any(all(foreign[i : i + GLUED + 1]) for i in range(len(foreign) - GLUED))


_SLACK = 12  # code points by which a short text may differ freely: "Yes." is one word in any language


def _log_distance(pair: TextPair) -> float:
    """ln of the output's length over the expected one."""
    expected = pair.language.expected_length_ratio * length(pair.clean_source)
    return math.log((length(pair.clean_output) + _SLACK) / (expected + _SLACK))


_ENDS = ".!?…।॥\"”'’»)]}:。！？｡؟۔」』】》）："
_OPEN_ENDS = ",;-–—(/[{“‘«&，、；「『【《（،؛"
_SHORT = -0.25  # log distance below the expected ratio from which a missing end mark is a cut


def _truncated(pair: TextPair) -> bool:
    last = pair.clean_output[-1]
    if pair.clean_source.rstrip("\"”'’»)] ")[-1:] not in (".", "!", "?"):
        return False
    if last in _OPEN_ENDS:
        return True
    if last in _ENDS or not pair.output_tokens or not pair.language.end_marks:
        return False
    return pair.output_tokens[-1].key in pair.language.unfinished or _log_distance(pair) < _SHORT
