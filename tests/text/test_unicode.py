"""Text rules against golden tables, Python's own Unicode names and hostile strings."""

from __future__ import annotations

import math
import time
import unicodedata
from itertools import pairwise

import pytest
from hang_guard import ends_within
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_nmt.text.languages import ENGLISH, LANGUAGES, TAMIL
from rl_nmt.text.unicode import (
    CONTROL_PATTERN,
    CONTROL_TOKENS,
    clean_for_scoring,
    is_blank,
    length,
    length_penalty,
    neutralise_control_tokens,
    restore_control_tokens,
    safe_unicode,
    script_share,
    strip_control_tokens,
    without_invisible,
)

# Text in which control tokens, their look-alikes and the characters of our rules come up often.
PIECES = [*CONTROL_TOKENS, "<unused7>", "< bos>", "<  bos>", "[ multimodal]", "<", ">", "[", "]", "bos", " "]
PIECES += ["\n", "க", "க்", "ஷ", "a", "é", "e\u0301", "\u200b", "\u200c", "\u200d", "\ufeff", "\u202e", "\x00"]
PIECES += ["\ud800", "\r\n", "\u3164"]
hostile = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


def test_language_table():
    assert (TAMIL.name, TAMIL.script, TAMIL.nllb) == ("Tamil", "Tamil", "tam_Taml")
    assert (LANGUAGES["en"].name, LANGUAGES["en"].script, LANGUAGES["en"].nllb) == ("English", "Latin", "eng_Latn")
    assert (TAMIL.expected_length_ratio, TAMIL.length_tolerance) == (1.17, 0.45)
    with pytest.raises(AttributeError):
        TAMIL.code = "xx"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a\ud800b", "a?b"),
        ("\udfff", "?"),
        ("a\x00b\x07\x7f\x9fc", "abc"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("a\x0bb\x0cc\x1cd\x85e", "a\nb\nc\nd\ne"),
        ("e\u0301", "é"),
        ("\u0b95\u0bc6\u0bbe", "\u0b95\u0bca"),  # Tamil KO: two-part vowel sign composes
        ("\u0ba8\u0bcd", "\u0ba8\u0bcd"),
        ("\u212a", "K"),
        ("😀👨\u200d👩", "😀👨\u200d👩"),
    ],
)
def test_safe_unicode(raw, clean):
    assert safe_unicode(raw) == clean


def test_safe_unicode_survives_stacked_marks():
    zalgo = "க" + "\u0301" * 100_000 + "\u0323" * 100_000  # quadratic in unicodedata.normalize
    with ends_within(30):
        assert len(safe_unicode(zalgo)) == 31
    assert safe_unicode("x" + "\u0323" * 5) == unicodedata.normalize("NFC", "x" + "\u0323" * 5)


@pytest.mark.parametrize(
    ("raw", "stripped"),
    [
        ("a<bos>b", "a b"),
        ("<bosun>", "<bosun>"),
        ("<BOS>", "<BOS>"),
        ("< bos>", "< bos>"),
        ("x<unused0>y<unused6241>z", "x y z"),
        ("<unused>", "<unused>"),
        ("<s>a</s>", " a "),
        ("<st>a</st>", "<st>a</st>"),
        ("[multimodal][@BOS@][BOS]", "  [BOS]"),
        ("<bo<s>s>", "<bo s>"),
        ("<start_of_turn>user\nhi<end_of_turn>", " user\nhi "),
    ],
)
def test_strip_control_tokens(raw, stripped):
    assert strip_control_tokens(raw) == stripped


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, "<unused0>", "<unused99>"])
def test_every_control_token_is_known(token):
    assert CONTROL_PATTERN.fullmatch(token)
    assert strip_control_tokens(f"a{token}b") == "a b"
    neutral = neutralise_control_tokens(token)
    assert neutral == token[0] + " " + token[1:]
    assert not CONTROL_PATTERN.search(neutral)


@given(hostile)
def test_neutralise_is_undone_exactly(text):
    neutral = neutralise_control_tokens(text)
    assert not CONTROL_PATTERN.search(neutral)
    assert restore_control_tokens(neutral) == text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a \n\t b  ", "a b"),
        ("a\u200bb\ufeffc\u2060d\u00ade", "abcde"),
        ("\u202eabc\u202c\u2066x\u2069\u200e", "abcx"),
        ("<b\u200bos>x", "x"),  # the token appears only when the invisible character is gone
        ("<bo\x00s>x", "x"),
        ("க்\u200dஷ", "க்\u200dஷ"),  # ZWJ between Tamil letters is spelling
        ("க்\u200cஷ", "க்\u200cஷ"),
        ("க்\u200d\u200d\u200cஷ", "க்\u200dஷ"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),  # Devanagari likewise
        ("க்\u200d ஷ\u200c", "க் ஷ"),
        ("a\u200db\u200cc", "abc"),
        ("க\u200da", "கa"),
        ("👨\u200d👩", "👨👩"),
        ("e\u200b\u0301", "é"),
        ("வணக்கம்<end_of_turn>\n", "வணக்கம்"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("\u0be7\u0be8 ₹500 😀", "\u0be7\u0be8 ₹500 😀"),
    ],
)
def test_clean_for_scoring(raw, clean):
    assert clean_for_scoring(raw) == clean


@settings(max_examples=300)
@given(hostile)
def test_cleaning_is_final(text):
    clean = clean_for_scoring(text)
    assert clean_for_scoring(clean) == clean == safe_unicode(clean)
    assert not CONTROL_PATTERN.search(clean)
    assert clean == " ".join(clean.split())
    clean.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "blank"),
    [
        ("", True),
        (" \n\t\u00a0\u3000", True),
        ("\u200b\u200d\ufeff\u202e", True),
        ("<pad><eos> </s>", True),
        ("\u3164\u2800\u115f\ufe0f", True),
        ("\x00\x01", True),
        (".", False),
        ("க", False),
        ("<bosun>", False),
        ("\ud800", False),
        ("0", False),
        ("😀", False),
    ],
)
def test_is_blank(text, blank):
    assert is_blank(text) is blank


@pytest.mark.parametrize(
    ("text", "tamil", "latin"),
    [
        ("", 0.0, 0.0),
        ("123 !? 😀 ₹", 0.0, 0.0),
        ("வணக்கம்", 1.0, 0.0),
        ("hello", 0.0, 1.0),
        ("அAB", 1 / 3, 2 / 3),
        ("அ<bos>", 1.0, 0.0),  # a control token is not Latin text
        ("நமஸ்தே नमस्ते", 6 / 12, 0.0),
        ("മലയാളം", 0.0, 0.0),
        ("ශ්‍රී", 0.0, 0.0),
        ("ஜெயலலிதா ஸ்ரீ க்ஷ", 1.0, 0.0),  # Grantha letters of the Tamil block
        ("அ ❤\ufe0f 1\ufe0f\u20e3 👍🏽", 1.0, 0.0),  # emoji selectors are not letters
        ("ｈｅｌｌｏ", 0.0, 1.0),  # full width
        ("𝐡𝐞𝐥𝐥𝐨", 0.0, 1.0),  # mathematical bold
        ("привет", 0.0, 0.0),
        ("naïve œuvre ß Łódź", 0.0, 1.0),
        ("\u0301\u0301", 0.0, 0.0),
    ],
)
def test_script_shares(text, tamil, latin):
    assert script_share(text, TAMIL) == pytest.approx(tamil)
    assert script_share(text, ENGLISH) == pytest.approx(latin)


def test_scripts_agree_with_unicode_names():
    """Every letter that Unicode calls TAMIL… or LATIN… is inside its row, and nothing foreign is."""
    latin_too = ("MODIFIER LETTER", "SUPERSCRIPT LATIN", "FULLWIDTH LATIN", "KELVIN", "ANGSTROM")
    latin_too += ("FEMININE", "MASCULINE", "MATHEMATICAL", "SUBSCRIPT")

    def inside(code, language):
        return any(low <= code <= high for low, high in language.ranges)

    for code in range(0x110000):
        char = chr(code)
        name = unicodedata.name(char, "")
        if unicodedata.category(char)[0] not in "LM" or not name:
            continue
        assert inside(code, TAMIL) == name.startswith("TAMIL "), name
        if name.startswith("LATIN "):
            assert inside(code, ENGLISH), name
        elif inside(code, ENGLISH):
            assert name.startswith(latin_too), name


@given(hostile)
def test_measures_take_anything(text):
    assert 0.0 <= script_share(text, TAMIL) + script_share(text, ENGLISH) <= 1.0 + 1e-12
    assert length(text) == length(clean_for_scoring(text))
    assert math.isfinite(length_penalty(text, "அ", TAMIL)) and math.isfinite(length_penalty("a", text, TAMIL))
    assert is_blank(text) is is_blank(clean_for_scoring(text))


def test_lengths():
    assert length("e\u0301 <bos>x\u200b") == 3
    assert length("வணக்கம்") == 7  # code points, of which graphemes would be 5
    assert length_penalty("abcd", "ab", TAMIL, 1.0, 0.0) == pytest.approx(0.6931471805599453)
    assert length_penalty("", "", TAMIL, 1.0, 0.0) == 0.0
    assert length_penalty("abc", "", TAMIL, 1.0, 0.0) == pytest.approx(1.0986122886681098)


@pytest.mark.parametrize("unit", ["க்\u200dஷ a", "<bos>", "<", "< ", "\u200d", "a\u0301\u0323", "\x00\ud800"])
def test_rules_are_linear(unit):
    def cpu_seconds(repeats):
        text = unit * repeats
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            clean_for_scoring(text), script_share(text, TAMIL), restore_control_tokens(text)
            best = min(best, time.process_time() - start)
        return best

    assert cpu_seconds(40_000) < 12 * cpu_seconds(10_000) + 0.05  # quadratic would be 16 times


def test_without_invisible_keeps_lines_and_tokens():
    assert without_invisible("a\u200b\n<b\u2060os>\ufeff க்\u200dஷ\u200d") == "a\n<bos> க்\u200dஷ"


@pytest.mark.parametrize(
    ("source", "output", "expected", "tolerance", "off"),
    [
        (100, 117, 1.17, 0.45, 0.0),  # the expected length
        (100, 160, 1.17, 0.45, 0.0),  # ln(160/117) = 0.313: inside
        (100, 80, 1.17, 0.45, 0.0),  # ln(80/117) = -0.380: inside
        (100, 200, 1.17, 0.45, (0.536143 - 0.45) ** 2 / 0.45),  # ln(200/117), just outside: quadratic
        (100, 40, 1.17, 0.45, 1.073294 - 0.45 - 0.1125),  # ln(40/117), far outside: linear
        (100, 50, 1.0, 0.0, 0.693147),  # the plain log ratio
        (50, 100, 1.0, 0.0, 0.693147),
        (100, 100, 2.0, 0.0, 0.693147),
        (10, 0, 1.0, 0.0, 2.302585),  # blank counts as one character
        (0, 0, 1.0, 0.0, 0.0),
    ],
)
def test_length_penalty(source, output, expected, tolerance, off):
    assert length_penalty("a" * source, "க" * output, TAMIL, expected, tolerance) == pytest.approx(off, abs=1e-5)


def test_length_penalty_takes_the_languages_band():
    assert length_penalty("a" * 100, "க" * 200, TAMIL) == length_penalty("a" * 100, "க" * 200, ENGLISH, 1.17, 0.45) > 0


def test_length_penalty_has_no_kink():
    """Slope over ln(length), from values alone: it never jumps, neither at the band's edge nor further out."""
    lengths = [round(1000 * math.exp(0.3 + i / 100)) for i in range(80)]
    points = [(math.log(n / 1000), length_penalty("a" * 1000, "க" * n, TAMIL, 1.0, 0.45)) for n in lengths]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    assert slopes[0] == 0.0 and slopes[-1] == pytest.approx(1.0)
    assert all(-1e-9 <= b - a < 0.07 for a, b in pairwise(slopes))
