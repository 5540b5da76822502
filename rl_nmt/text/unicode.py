"""Clean and measure strings: control tokens, Unicode hygiene, script shares, lengths. No model, no torch.

Every measure here cleans its input first, so raw and cleaned text give the same result. All rules
are linear in the length of the text. Lengths are NFC code points, never bytes or grapheme clusters.
"""

import math
import re
import unicodedata
from functools import lru_cache
from itertools import accumulate, islice

from rl_nmt.text.languages import Language, Range, code_points

# Added tokens of the Gemma 3 tokenizer, and of XLM-R and NLLB (<s> </s>). Their tokenizers match
# them case-sensitively anywhere in a text, so these are exactly the strings that can do harm.
CONTROL_TOKENS: tuple[str, ...] = tuple(
    "<bos> <eos> <pad> <unk> <mask> <s> </s> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image> "
    "<image_soft_token> [multimodal] [@BOS@]".split()
)
_BODIES, _SQUARE = ("|".join(re.escape(t[1:]) for t in CONTROL_TOKENS if t[0] == bracket) for bracket in "<[")
_OPENED = {"<": f"(?:{_BODIES}|unused[0-9]+>)", r"\[": f"(?:{_SQUARE})"}  # bracket → what may follow it
CONTROL_PATTERN = re.compile("|".join(f"{bracket}{rest}" for bracket, rest in _OPENED.items()))
# The same with n spaces after the opening bracket: neutralising adds one, restoring takes one away.
_SPACED = re.compile("|".join(f"{bracket}(?= *{rest})" for bracket, rest in _OPENED.items()))
_NEUTRAL = re.compile("|".join(f"(?<={bracket}) (?= *{rest})" for bracket, rest in _OPENED.items()))

# C0 and C1 controls that mean a line break become one, so that words never run together.
_BREAKS = re.compile("\r\n|[\r\x0b\x0c\x1c-\x1f\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")

# Soft hyphen, Mongolian vowel separator, zero-width space, word joiner and invisible operators,
# bidirectional marks, embeddings and isolates, BOM, interlinear anchors, tag characters.
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]+"
)
_JOINERS = re.compile("[\u200c\u200d]+")
_INDIC = frozenset(chr(c) for c in range(0x0900, 0x0E00) if unicodedata.category(chr(c))[0] in "LM")

# Characters with a letter's or a symbol's category that are invisible.
_BLANK_GLYPHS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0\u200c\u200d")
# Marks without their own script: they take their base's (Inherited), or belong to emoji.
_SCRIPTLESS_MARKS = code_points("0300-036F 180B-180F 1AB0-1AFF 1DC0-1DFF 20D0-20FF FE00-FE0F FE20-FE2F E0100-E01EF")
_SELECTORS = code_points("180B-180F FE00-FE0F E0100-E01EF")
_MAX_MARKS = 30  # UAX #15, Stream-Safe Text Format: no real text stacks more


def safe_unicode(s: str) -> str:
    """Return `s` in NFC, without lone surrogates (`?` instead) and without control characters.

    Newline and tab stay; other line-breaking controls (CR, VT, FF, NEL …) become a newline. In texts above 1,000
    characters runs of more than 30 combining marks are cut to 30.

    >>> safe_unicode("a\\x00b\\ud800\\r\\nc\\u0301")
    'ab?\\nć'
    """
    s = s.encode("utf-8", "replace").decode("utf-8")
    s = _CONTROLS.sub("", _BREAKS.sub("\n", s))
    if len(s) > 1000:  # Python's normalize sorts mark runs by insertion: quadratic in their length
        marks = accumulate(s, lambda run, char: run + 1 if unicodedata.combining(char) else 0, initial=0)
        s = "".join(char for char, run in zip(s, islice(marks, 1, None), strict=True) if run <= _MAX_MARKS)
    return unicodedata.normalize("NFC", s)


def strip_control_tokens(s: str) -> str:
    """Replace every whole control token by a space; what only resembles one (`<bosun>`) stays."""
    return CONTROL_PATTERN.sub(" ", s)


def neutralise_control_tokens(s: str) -> str:
    """Turn control tokens into readable plain text for any tokenizer: one more space after the bracket.

    >>> neutralise_control_tokens("<bos> < bos> <bosun>")
    '< bos> <  bos> <bosun>'
    """
    return _SPACED.sub(r"\g<0> ", s)


def restore_control_tokens(s: str) -> str:
    """Undo `neutralise_control_tokens` exactly.

    >>> restore_control_tokens("< bos> <  bos> <bosun>")
    '<bos> < bos> <bosun>'
    """
    return _NEUTRAL.sub("", s)


def clean_lines(s: str) -> str:
    """Return a text without control tokens, lone surrogates and control characters, in NFC; line breaks stay.

    >>> clean_lines("<bos>a\\r\\n- b<end_of_turn> ")
    'a\\n- b'
    """
    return strip_control_tokens(safe_unicode(s)).strip()


class Clean(str):
    """A text known to be clean, which `clean_for_scoring` returns unchanged. Only TextPair makes them."""

    __slots__ = ()


def clean_for_scoring(s: str) -> str:
    """Return the text a scorer should see: one line, NFC, nothing invisible, no control token. Idempotent.

    ZWJ and ZWNJ survive between two letters of an Indic script, where spelling needs them, and nowhere else.

    >>> clean_for_scoring("  <bos>வணக்\\u200bகம்\\u200d !\\n<end_of_turn>")
    'வணக்கம் !'
    """
    return s if isinstance(s, Clean) else one_line(without_invisible(s))


def one_line(visible: str) -> str:
    """Return `clean_for_scoring` of a text that comes from `without_invisible`."""
    return " ".join(strip_control_tokens(visible).split())


def without_invisible(s: str) -> str:
    """Return the text in NFC without invisible characters; control tokens and line breaks stay.

    ZWJ and ZWNJ survive as in `clean_for_scoring`.

    >>> without_invisible("க\\u200b\\ufeffக\\n<b\\u2060os>")
    'கக\\n<bos>'
    """
    s = _INVISIBLE.sub("", safe_unicode(s))
    s = _JOINERS.sub(_legal_joiner, s)
    return unicodedata.normalize("NFC", s)  # a removed character may have been between a letter and its mark


def _legal_joiner(match: re.Match[str]) -> str:
    text, start, end = match.string, match.start(), match.end()
    between_letters = start > 0 and end < len(text) and text[start - 1] in _INDIC and text[end] in _INDIC
    return match[0][0] if between_letters else ""


def is_blank(s: str) -> bool:
    """Return whether nothing of `s` is visible once control tokens are removed.

    >>> is_blank("<pad> \\u200b\\u3164"), is_blank(".")
    (True, False)
    """
    no_ink = ("Zs", "Zl", "Zp", "Cc", "Cf")
    return all(
        char in _BLANK_GLYPHS or unicodedata.category(char) in no_ink or within(ord(char), _SELECTORS)
        for char in clean_for_scoring(s)
    )


def script_share(s: str, language: Language) -> float:
    """Return the share, 0 to 1, of letters (categories L and M) of `s` in the language's script; 0.0 without a letter.

    Marks without a script of their own (accents, emoji selectors) are not counted.

    >>> from rl_nmt.text.languages import TAMIL
    >>> script_share("அAB", TAMIL)
    0.3333333333333333
    """
    letters = [ord(char) for char in clean_for_scoring(s) if _is_letter(char)]
    return sum(within(code, language.ranges) for code in letters) / len(letters) if letters else 0.0


@lru_cache(maxsize=4096)
def _is_letter(char: str) -> bool:
    letter = char not in _BLANK_GLYPHS and unicodedata.category(char)[0] in "LM"
    return letter and not within(ord(char), _SCRIPTLESS_MARKS)


@lru_cache(maxsize=4096)
def within(code: int, ranges: tuple[Range, ...]) -> bool:
    return any(low <= code <= high for low, high in ranges)


def length(s: str) -> int:
    """Return the length of the cleaned text in NFC code points (not bytes, not graphemes)."""
    return len(clean_for_scoring(s))


def length_penalty(
    source: str, output: str, language: Language, expected_ratio: float | None = None, tolerance: float | None = None
) -> float:
    """Return how far, ≥ 0, the log length ratio of `output` to `source` is outside the language's band.

    With d = |ln(length(output) / length(source)) - ln(expected_ratio)| and x = d - tolerance: 0 inside the band
    (x ≤ 0), x²/tolerance up to half a tolerance outside it, and linear with slope 1 from there on: value and slope are
    continuous. A blank text counts as one character; None takes the language's own value. Shape: ours.

    >>> from rl_nmt.text.languages import TAMIL
    >>> length_penalty("abcdefghij", "கடலோரம் அழகு", TAMIL)
    0.0
    >>> length_penalty("abcd", "கட", TAMIL, expected_ratio=1, tolerance=0) == math.log(2)
    True
    """
    expected = language.expected_length_ratio if expected_ratio is None else expected_ratio
    tolerance = language.length_tolerance if tolerance is None else tolerance
    ratio = math.log(max(1, length(output)) / max(1, length(source)))
    outside = abs(ratio - math.log(expected)) - tolerance
    if outside <= 0:
        return 0.0
    return outside * outside / tolerance if outside < tolerance / 2 else outside - tolerance / 4
