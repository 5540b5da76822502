"""Gates: what is no translation at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.guards import MIN_SCRIPT_SHARE, gate
from rl_nmt.text import ENGLISH, TAMIL, clean_for_scoring

CASES = [
    ("குழந்தைகள் பள்ளிக்குச் சென்றனர்.", None),
    ("நன்றி", None),
    ("அ", None),
    ("NASA விண்வெளி நிலையத்தை அறிவித்தது.", None),  # a name in Latin letters is no crime
    ("ஶ்ரீ க்‌ஷ", None),  # Grantha letters and a legal joiner
    ("", "empty"),
    ("   \n\t ", "empty"),
    ("\u200b\ufeff\u2060", "empty"),
    ("<pad><end_of_turn>", "empty"),
    ("\u3164\u2800", "empty"),  # glyphs that show nothing
    ("The children went to school.", "script"),
    ("Kuzhanthaigal pallikku sendranar.", "script"),
    ("बच्चे स्कूल गए।", "script"),
    ("കുട്ടികൾ സ്കൂളിൽ പോയി.", "script"),
    ("ළමයි පාසලට ගියා.", "script"),
    ("12345", "script"),
    ("?!…", "script"),
    ("😀👍", "script"),
    ("The children went to school. குழந்தை", "script"),
]


@pytest.mark.parametrize(("output", "reason"), CASES)
def test_golden_cases(output, reason):
    assert gate(clean_for_scoring(output), TAMIL) == reason


def test_the_share_decides_exactly_at_one_half():
    assert MIN_SCRIPT_SHARE == 0.5
    assert gate("கடல ABC", TAMIL) is None  # 3 of 6 letters
    assert gate("கடல ABCD", TAMIL) == "script"  # 3 of 7


def test_the_language_is_an_argument():
    assert gate("The children went to school.", ENGLISH) is None
    assert gate("குழந்தைகள்", ENGLISH) == "script"


@given(st.text())
def test_every_text_gets_a_verdict_and_tamil_letters_are_needed(text):
    verdict = gate(clean_for_scoring(text), TAMIL)
    assert verdict in (None, "empty", "script")
    if not any(0x0B80 <= ord(c) <= 0x0BFF or 0x11FC0 <= ord(c) <= 0x11FFF for c in text):
        assert verdict is not None
