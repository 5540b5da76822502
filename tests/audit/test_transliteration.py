"""Respelling: English by sound in Tamil letters, Tamil in other letters, names found again."""

from __future__ import annotations

import doctest
import itertools
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.audit import transliteration
from rl_nmt.audit.cheats import HONEST_FILE
from rl_nmt.audit.transliteration import FULLWIDTH, LOOKALIKES, find_names, in_letters_of, romanise, skeleton, spell
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.text.unicode import script_share

TAMIL = LANGUAGES["ta"]
PAIRS = [json.loads(line) for line in HONEST_FILE.read_text(encoding="utf-8").splitlines()]


def test_examples_run():
    assert doctest.testmod(transliteration).failed == 0


@pytest.mark.parametrize(
    ("english", "tamil"),  # rough, but read aloud each is the English word
    [
        ("bus", "பஸ்"),
        ("train", "ட்ரேன்"),
        ("ice", "ஐஸ்"),
        ("home", "ஹோம்"),
        ("name", "நேம்"),
        ("light", "லைட்"),
        ("school", "ஸ்கூல்"),
        ("street", "ஸ்ட்ரீட்"),
        ("phone", "ஃபோன்"),
        ("bank", "பான்க்"),
        ("film", "ஃபில்ம்"),
        ("The", "தி"),
        ("dance", "டான்ஸ்"),
        ("station", "ஸ்டாஷன்"),
        ("write", "ரைட்"),
        ("knee", "நீ"),
    ],
)
def test_words_by_sound(english, tamil):
    assert spell(english) == tamil


def test_only_words_change():
    assert spell("42 % (of) 7:30!") == "42 % (ஆஃப்) 7:30!"


def test_spelled_english_is_tamil_script_and_well_formed():
    for row in PAIRS:
        spelled = spell(row["source"])
        assert script_share(spelled, TAMIL) == 1.0, spelled
        for before, after in itertools.pairwise(spelled):  # no sign without a consonant, no sign twice
            if unicodedata.category(after)[0] == "M":
                assert unicodedata.category(before) == "Lo", spelled


@given(st.text(st.characters(max_codepoint=0x7F), max_size=60))
def test_any_ascii_can_be_spelled(text):
    assert not any(char.isascii() and char.isalpha() for char in spell(text))


def test_other_letters_leave_no_tamil():
    for row in PAIRS:
        assert script_share(romanise(row["reference"]), TAMIL) == 0.0
        for script, low, high in (
            ("Devanagari", 0x900, 0x97F),
            ("Malayalam", 0xD00, 0xD7F),
            ("Sinhala", 0xD80, 0xDFF),
        ):
            letters = [c for c in in_letters_of(row["reference"], script) if unicodedata.category(c)[0] in "LM"]
            foreign = [c for c in letters if not (c.isascii() or low <= ord(c) <= high)]
            assert not foreign and all(unicodedata.name(c, "") for c in letters)  # assigned code points only


def test_romanised_by_hand():
    assert romanise("தமிழ்") == "thamizh"
    assert romanise("ஒளவையார் 12") == "olavaiyaar 12"  # ஒ and ள, not the single letter ஔ
    assert romanise("கை") == "kai" and romanise("ஐ") == "ai"


def test_lookalikes_look_alike_and_are_not_latin():
    assert [unicodedata.name(char).split()[0] for char in "The Cop".translate(LOOKALIKES)] == [
        "CYRILLIC",
        "CYRILLIC",
        "CYRILLIC",
        "SPACE",
        "CYRILLIC",
        "CYRILLIC",
        "CYRILLIC",
    ]
    assert "nut".translate(LOOKALIKES) == "nut"  # letters without a twin stay
    assert (
        script_share("peace".translate(LOOKALIKES), LANGUAGES["en"]) == 0.0
        and unicodedata.normalize("NFKC", "A b!".translate(FULLWIDTH)) == "A b!"
    )


@pytest.mark.parametrize(
    ("english", "tamil", "names"),
    [
        ("The train to Madurai leaves.", "மதுரைக்குச் செல்லும் ரயில் புறப்படும்.", [("Madurai", "மதுரைக்குச்")]),
        ("My sister lives in Coimbatore.", "என் சகோதரி கோயம்புத்தூரில் வசிக்கிறார்.", [("Coimbatore", "கோயம்புத்தூரில்")]),
        ("Ravi met Meena.", "ரவி மீனாவைச் சந்தித்தான்.", [("Ravi", "ரவி"), ("Meena", "மீனாவைச்")]),
        ("He left.", "அவன் சென்றான்.", []),
        ("Anitha's father was born in 1952.", "அனிதாவின் தந்தை 1952ஆம் ஆண்டு பிறந்தார்.", [("Anitha", "அனிதாவின்")]),
    ],
)
def test_names(english, tamil, names):
    assert find_names(english, tamil, frozenset()) == names


def test_common_words_are_not_names():
    assert find_names("Kumar came.", "குமார் வந்தான்.", frozenset({"kumar"})) == []
    assert skeleton("Murugan") == skeleton(romanise("முருகன்")) == "mrkn"
