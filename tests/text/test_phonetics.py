"""Sound skeletons: the same word in two scripts."""

from __future__ import annotations

import pytest

from rl_nmt.text.languages import ENGLISH, TAMIL
from rl_nmt.text.phonetics import MAX_SKELETON, alike, keys, neighbourhood, skeletons, sounds, spelled, stems

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
def test_a_translation_does_not_meet(english, tamil):
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


@pytest.mark.parametrize(("word", "letters"), [("கி", "கஇ"), ("க", "கஅ"), ("க்", "க"), ("க்\u200dஷ", "கஷஅ"), ("", "")])
def test_spelled(word, letters):
    assert spelled(word, TAMIL) == letters


# The stem before the ending, as a name: an elided u, a glide, -ம் before -த்து, two endings, a doubled
# consonant, a prefix.
@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("raju", "ராஜை"),
        ("sahara", "சகாராவில்"),
        ("kanchipuram", "காஞ்சிபுரத்திலிருந்து"),
        ("priya", "பிரியாவையும்"),
        ("madurai", "மதுரைக்குச்"),
        ("krishna", "ஶ்ரீகிருஷ்ணரை"),
        ("korea", "வடகொரியாவின்"),
        ("germans", "ஜெர்மன்ஸ்"),
    ],
)
def test_a_name_is_found_before_its_ending(name, word):
    assert any(a[0] == b[0] and alike(a, b) for a in sounds(name, ENGLISH) for b in stems(word, TAMIL))


@pytest.mark.parametrize(
    ("name", "word"),
    [("john", "சந்தித்தேன்"), ("eve", "அவரை"), ("kit", "கூட்டத்தை"), ("mani", "மீனு"), ("york", "இருக்கும்"), ("palu", "பல்")],
)
def test_a_name_is_not_heard_by_chance(name, word):
    assert not any(a[0] == b[0] and alike(a, b) for a in sounds(name, ENGLISH) for b in stems(word, TAMIL))


def test_function_words_have_no_stem():
    assert stems("அவரை", TAMIL) == () != stems("ரவியை", TAMIL)
