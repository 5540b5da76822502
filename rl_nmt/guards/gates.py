"""Gates: detect outputs that are not translations, and give the reason. Functions over text, no neural model, no torch.

The reward gives such outputs 0.0 without calling a model. Every gate compares with the source: an output may do what
its source does (repeat, list, quote, mention translating). Rules and thresholds are ours (docs/details.md, 1 to 8);
`python -m rl_nmt.guards FILE` measures how often each gate is wrong.
"""

import math
import re
from functools import lru_cache
from typing import Any

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.language import other_language
from rl_nmt.guards.repetition import loops
from rl_nmt.text.languages import QUOTE_MARKS, QUOTES, SHARED_SCRIPTS, Language
from rl_nmt.text.pair import TextPair
from rl_nmt.text.sentences import wide_marks
from rl_nmt.text.tokens import Token, own, tokenize
from rl_nmt.text.unicode import CONTROL_PATTERN, is_blank, length, one_line

# In the order in which they are checked.
REASONS = {
    "empty": "nothing visible",
    "control": "a control token of a chat format or translation model that the source lacks",
    "echo": "a label of the prompt ('Tamil:', 'user') or a run of its words",
    "preamble": "remarks about the translation before or after it, more lines than the source has sentences, markdown, "
    "HTML or quotes around the whole",
    "copy": "more than a third of the source repeated, in either script (a higher limit where both languages "
    "share one and have cognates: Language.max_copied)",
    "script": "foreign letters, or no letter of the language",
    "glued": "foreign words before, after or inside the translation",
    "language": "another language of the same script, for the languages that it can be told from (Language.told_apart)",
    "loop": "repeated words, phrases or characters",
    "length": "too short or too long for any translation",
    "truncated": "ends in a word or sign that cannot end a sentence, or is short and lacks its source's end mark; a "
    "cut that leaves complete sentences looks like a free translation and passes",
}

MAX_FOREIGN = 0.2  # share of letters that are foreign and not the source's to keep
MAX_THIRD_SCRIPT = 3  # letters of a script that neither language is written in
GLUED = 2  # foreign words in a row at an end of the output; one more in the middle


def verdict(*pair: Any, prompt: str = "", language_identifier: str = "") -> str | None:
    """Return the reason, a key of REASONS, why an output is not a translation of its source, or None.

    `pair` is a TextPair, or its parts: source, output, language and optionally source_language. The output is the
    completion as the policy wrote it, decoded without special tokens and not cleaned: control tokens and line breaks
    are evidence. `prompt`: the prompt, to detect an echo of its words as well as of its labels. `language_identifier`:
    a fastText model for the gate `language`, see rl_nmt.guards.language; it is loaded on first use.

    Never raises for any two strings, unless language_identifier does not load; takes time linear in their lengths.

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
    if other_language(texts, language_identifier):
        return "language"
    if loops(texts):
        return "loop"
    low, high = texts.language.length_limits
    if not low <= _log_distance(texts) <= high:
        return "length"
    return "truncated" if _truncated(texts) else None


# Chat formats and translation tags other than the tokens of this project's models (rl_nmt.text.unicode).
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
    """Whether a line opens with a label of the prompt."""
    labels = {*pair.language.labels, *pair.source_language.labels}
    opening = pair.clean_source.casefold()
    if _is_labelled(opening, labels, False):  # in another language: "Tamil: 60 %"
        return False
    labels = {label for label in labels if not opening.startswith(label)}
    return any(_is_labelled(line.casefold(), labels, len(lines) > 1) for line in lines)


def _is_labelled(line: str, labels: set[str], alone: bool) -> bool:
    """Whether a folded line opens with a label and its colon or, if `alone`, is only a label."""
    line = line.lstrip("*#>-• " + QUOTE_MARKS)
    rests = (line[len(label) :].lstrip("* " + QUOTE_MARKS) for label in labels if line.startswith(label))
    return any(_LABEL_END.match(rest) or (alone and not rest) for rest in rests)


def _repeats_prompt(pair: TextPair, prompt: str) -> bool:
    """Whether the output has a run of the prompt's words that the source lacks."""
    asked, given, said = map(_runs, (tokenize(prompt, pair.source_language), pair.source_tokens, pair.output_tokens))
    return bool((asked - given) & said)


def _runs(tokens: list[Token]) -> set[tuple[str, ...]]:
    keys = [token.key for token in tokens]
    return {tuple(keys[i : i + _ECHO_RUN]) for i in range(len(keys) - _ECHO_RUN + 1)}


_MARKDOWN = re.compile(r"\*\*|```|~~~|^#{1,6}\s|^>\s|\\(?:boxed|text|begin)\b|\|\s*-{3,}", re.M)
_ITEM = re.compile(r"^(?:[*•]|(\d{1,2})[.)])\s", re.M)
_SOURCE_ITEM = re.compile(r"^\s*(?:[-–—*•·●▪◦‣]|\(?(\d{1,2}) ?[.):])\s", re.M)  # marked in any way
_HTML = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,10}(?:\s[^<>]{0,200})?/?>")
_BRACKETS = {"()", "[]", "{}", "（）", "【】"}
_CLOSED, _OPENED = "".join(pair[1] for pair in _BRACKETS), "".join(pair[0] for pair in _BRACKETS)
_COLON = re.compile(r"[^:：\n]{1,80}[:：]")


@lru_cache(maxsize=16)
def _ends(language: Language) -> re.Pattern[str]:
    """Return a pattern for the end of a sentence or of a part of one."""
    wide = wide_marks(language)
    return re.compile(rf"[{re.escape(language.end_marks)}:;]+(?=\s|$)" + (f"|[{re.escape(wide)}]+" if wide else ""))


def _preamble(pair: TextPair, lines: list[str]) -> bool:
    """Whether the output has anything in addition to the translation."""
    ours, text = pair.source_language, "\n".join(lines)
    opening, folded = pair.clean_source.casefold(), pair.clean_output.casefold()
    if len(lines) > max(1, len(_ends(ours).findall(pair.clean_source)), len(pair.source.strip().splitlines())):
        return True
    if _adds(_MARKDOWN, text, pair.source) or _adds(_HTML, text, pair.source):
        return True
    if not set(_ITEM.findall(text)) <= set(_SOURCE_ITEM.findall(pair.source)):
        return True
    if _wrapped(pair):
        return True
    labels = _label_pattern(ours).findall(opening)
    for row in (pair.language, ours):
        if _mentions(folded, row.meta) and not _mentions(opening, ours.meta_topics):
            return True
        if _mentions(_head(folded), row.meta) and not _mentions(_head(opening), ours.meta_topics):
            return True
        if not _mentions(opening, ours.note_topics) and len(_note_pattern(row).findall(folded)) > len(labels):
            return True
    return _opener(opening, folded, pair.language, ours)


def _head(text: str) -> str:
    """Return the text up to its first colon; "" without one."""
    label = _COLON.match(text)
    return label[0] if label else ""


def _wrapped(pair: TextPair) -> bool:
    """Whether quotes or brackets enclose the output and the source has none at either end (it may quote in part)."""
    output = pair.clean_output.rstrip(pair.language.end_marks + " ")
    source = pair.clean_source.rstrip(pair.source_language.end_marks + " ")
    quoted = output[:1] + output[-1:] in QUOTES or output[:1] == output[-1:] in QUOTE_MARKS
    ends = set(pair.clean_source[:1] + source[-1:])
    if len(output) < 3 or not (quoted or output[0] + output[-1] in _BRACKETS) or output[-1] in output[1:-1]:
        return False
    return not ends & set(QUOTE_MARKS if quoted else _OPENED + _CLOSED)


def _mentions(text: str, stems: tuple[str, ...]) -> bool:
    return any(stem in text for stem in stems)


@lru_cache(maxsize=16)
def _label_pattern(language: Language) -> re.Pattern[str]:
    """Return a pattern for one or two words and a colon where a sentence or bracket opens: "Tip:", "N.B.:"."""
    before, word = re.escape(language.end_marks), r"[^\s:：()\[\]]"
    return re.compile(rf"(?:^|[(\[\n{before}] ?)[^\W\d_]{word}{{0,19}}(?: {word}{{1,20}})? ?[:：](?!//)")


@lru_cache(maxsize=16)
def _note_pattern(language: Language) -> re.Pattern[str]:
    """Return a pattern for a word of explanation and a colon where a sentence or bracket opens."""
    stems, before = "|".join(map(re.escape, language.notes)), re.escape(language.end_marks + QUOTE_MARKS)
    return re.compile(rf"(?:^|[(\[\n:{before}])[ *]{{0,4}}(?:{stems})[^\s:.,]{{0,12}}(?: \S{{1,8}})?[ *]{{0,3}}[:：]")


def _opener(source: str, output: str, language: Language, source_language: Language) -> bool:
    """Whether the output opens like a chat answer, in the source's language or, with a sign after it, in its own."""
    openers = _opening(source_language.openers)
    if openers.match(source):
        return False
    if source_language.ranges != language.ranges and openers.match(output):
        return " ".join(output.split()[:2]) not in source  # a title: "Great Expectations"
    if _opening(source_language.opener_topics).match(source):
        return False
    heads = [phrase for phrase in language.openers if output.startswith((f"{phrase}!", f"{phrase}:"))]
    return any(output[len(head)] not in source and len(output) > len(head) + 2 for head in heads)


@lru_cache(maxsize=32)
def _opening(phrases: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern for a text that starts with one of the phrases, after any quotes and brackets."""
    return re.compile(rf"[{re.escape(QUOTE_MARKS)}(\[*# ]*(?:{'|'.join(map(re.escape, phrases)) or '(?!)'})(?![^\W_])")


def _words(pair: TextPair) -> list[tuple[Token, bool]]:
    """Return the words of the output, and whether each is foreign and not excused by the source."""
    may_stay = {t.key for t, stays in zip(pair.source_tokens, pair.excused, strict=True) if stays}
    content = {t.key for t in pair.source_tokens} - may_stay

    def is_foreign(word: Token) -> bool:
        if own(word, pair.language) or word.key in may_stay or len(word.text) == 1:
            return False
        new_acronym = word.text.isupper() and len(word.text) <= 5 and word.key not in content
        return not new_acronym

    return [(token, is_foreign(token)) for token in pair.output_tokens if token.kind == "word"]


def _wrong_script(pair: TextPair, words: list[tuple[Token, bool]]) -> bool:
    ours = sum(len(t.text) for t, _ in words if own(t, pair.language))
    theirs = sum(len(t.text) for t, foreign in words if foreign) * min(1.0, _expected_ratio(pair))
    if theirs > MAX_FOREIGN * (ours + theirs):
        return True
    known = {*SHARED_SCRIPTS, *(t.script for t in pair.source_tokens)}
    if sum(len(t.text) for t, _ in words if not own(t, pair.language) and t.script not in known) >= MAX_THIRD_SCRIPT:
        return True
    to_translate = any(t.kind == "word" and not (t.text.isupper() and len(t.text) > 1) for t in pair.source_tokens)
    return ours == 0 and to_translate


def _glued(words: list[tuple[Token, bool]]) -> bool:
    """Whether foreign words are in a row: two at either end, three anywhere; a word that may stay ends the row."""
    foreign = [bad for _, bad in words]
    if len(foreign) > GLUED and (all(foreign[:GLUED]) or all(foreign[-GLUED:])):
        return True
    return any(all(foreign[i : i + GLUED + 1]) for i in range(len(foreign) - GLUED))


_SLACK = 12  # code points added on both sides: "Yes." may be one long word in the other language


def _expected_ratio(pair: TextPair) -> float:
    """Return the typical length of an output over its source's; those of the rows are over English."""
    return pair.language.expected_length_ratio / pair.source_language.expected_length_ratio


def _log_distance(pair: TextPair) -> float:
    """Return ln(length of the output / expected length), with _SLACK on both."""
    ratio = _expected_ratio(pair)
    slack = _SLACK * min(1.0, ratio)
    return math.log((length(pair.clean_output) + slack) / (ratio * length(pair.clean_source) + slack))


_FEW = 4  # words of a source up to which one or two output words are a whole sentence
_SHORT = -0.25  # log distance from the expected length below which a missing end mark is a cut


def _truncated(pair: TextPair) -> bool:
    row, ours, text = pair.language, pair.source_language, pair.clean_output
    last = text[-1]
    heard = pair.clean_source.rstrip("".join(ours.closing) + "\"'" + _CLOSED + " ")[-1:]
    if heard not in ours.end_marks.replace("…", "") or not heard:
        return False
    if last in row.opening:
        return text[-2:-1] not in row.end_marks  # some writers close with the other mark
    if last in row.end_marks + ":：" + QUOTE_MARKS + _CLOSED:
        return False
    if last in row.pause_marks + _OPENED:
        return True
    if not pair.output_tokens or not row.ends_marked:
        return False
    complete = len(pair.output_tokens) <= 2 and len(pair.source_tokens) <= _FEW  # "Thank you." நன்றி
    return pair.output_tokens[-1].key in row.unfinished or (not complete and _log_distance(pair) < _SHORT)
