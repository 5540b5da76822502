"""Sound skeletons: the same word in two scripts."""

from __future__ import annotations

import pytest

from rl_nmt.text.languages import ENGLISH, TAMIL
from rl_nmt.text.phonetics import MAX_SKELETON, initials, keys, neighbourhood, skeletons

# Names and loanwords as Tamil newspapers spell them (ours, checked by hand).
SAME = [
    ("school", "ஸ்கூல்"),
    ("computer", "கம்ப்யூட்டர்"),
    ("bus", "பஸ்"),
    ("coffee", "காபி"),
    ("station", "ஸ்டேஷன்"),
    ("london", "லண்டன்"),
    ("washington", "வாஷிங்டன்"),
    ("george", "ஜார்ஜ்"),
    ("michael", "மைக்கேல்"),
    ("philip", "பிலிப்"),
    ("xavier", "சேவியர்"),
    ("church", "சர்ச்"),
    ("knight", "நைட்"),
    ("the", "தி"),
    ("and", "அண்ட்"),
    ("hospital", "ஹாஸ்பிடல்"),
    ("hindi", "இந்தி"),
    ("france", "பிரான்ஸ்"),
    ("queen", "குயின்"),
    ("letter", "லெட்டர்"),
    ("of", "ஆஃப்"),
]
OTHER = [
    ("school", "மரம்"),
    ("computer", "வீடு"),
    ("london", "பாரிஸ்"),
    ("window", "ஜன்னல்"),
    ("garden", "தோட்டம்"),
    ("book", "புத்தகம்"),
    ("children", "குழந்தைகள்"),
    ("teacher", "ஆசிரியர்"),
    ("country", "நாடு"),
]


@pytest.mark.parametrize(("english", "tamil"), SAME)
def test_the_same_word_meets(english, tamil):
    assert keys(english, ENGLISH) & keys(tamil, TAMIL)


@pytest.mark.parametrize(("english", "tamil"), OTHER)
def test_a_translation_does_not(english, tamil):
    assert not keys(english, ENGLISH) & keys(tamil, TAMIL)


@pytest.mark.parametrize(
    ("word", "language", "expected"),
    [
        ("", TAMIL, ("",)),
        ("லெட்டர்", TAMIL, ("ltr",)),  # a doubled consonant once
        ("அடடா", TAMIL, ("att",)),  # but not with a vowel between
        ("added", ENGLISH, ("att",)),
        ("க்\u200dஷ", TAMIL, ("ks",)),  # a joiner has no sound
        ("ஹரி", TAMIL, ("r", "ar")),
        ("12", ENGLISH, ("",)),
        ("привет", ENGLISH, ("",)),
    ],
)
def test_skeletons(word, language, expected):
    assert skeletons(word, language) == expected


def test_a_long_word_is_cut():
    assert skeletons("கட" * 10_000, TAMIL) == ("kt" * (MAX_SKELETON // 2),)
    assert len(keys("c" + "g" * 500, ENGLISH)) < 100


def test_neighbourhood_is_one_deletion():
    assert neighbourhood("ktp") == {"ktp"}
    assert neighbourhood("ktpm") == {"ktpm", "tpm", "kpm", "ktm", "ktp"}


def test_initials():
    assert (initials("bbc", ENGLISH),) == skeletons("பிபிசி", TAMIL)
    assert (initials("nsa", ENGLISH),) == skeletons("என்எஸ்ஏ", TAMIL)
    assert initials("", ENGLISH) == "" and initials("é", ENGLISH) == "" and initials("க", TAMIL) == ""
