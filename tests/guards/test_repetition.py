"""Loops: what goes round in circles, unless its source does."""

from __future__ import annotations

import pytest

from rl_nmt.guards.repetition import loops
from rl_nmt.text import TAMIL, TextPair

SOURCE = "The boy reads a book."
A = "சிறுவன் தோட்டத்தில் நல்ல புத்தகம் படிக்கிறான்"


def verdict(output, source=SOURCE):
    return loops(TextPair(source, output, TAMIL))


@pytest.mark.parametrize(
    "output",
    [
        "ஒரு ஒரு ஒரு வீடு.",
        "ஒரு, ஒரு - ஒரு வீடு.",
        "சிறுவன் படிக்கிறான் " * 3,
        "நல்ல சிறுவன் படிக்கிறான், " * 3,
        f"{A}. {A}.",
        f"{A}. பிறகு வீட்டிற்குச் சென்றான். {A}. {A}.",
        " ".join(f"{word} சிறுவன்" for word in A.split() * 2 + "அவன் அது நீ நான் நாம் எது".split()),
        "சிறுவன் ஆஆஆஆஆ",
        "லாலாலாலாலா பாடினான்",
        "க கி க கி க கி க கி க கி",
        "சிறுவன்!!!!!!!!",
        "பளபளப்பளப்பளப்பளப்பளப்பளப்பளப்பளப்",
        "ஒன்று இரண்டு மூன்று நான்கு ஐந்து " * 4,
    ],
)
def test_loops(output):
    assert verdict(output)


@pytest.mark.parametrize(
    "output",
    [
        "",
        A,
        "மெல்ல மெல்ல வந்தான்.",  # reduplication
        "மெல்ல மெல்ல, சின்னச் சின்ன அடிகள் வைத்து வந்தான்.",
        "ஒன்று 5 5 5 5 வீடு",  # digits of a number written apart
        "1,000,000,000,000 வீடுகள்",
        "வந்தான்...... போனான்.",
        "படப்படப்பு",
        f"{A}. பிறகு வீட்டிற்குச் சென்றான், அங்கே அம்மா இருந்தாள். {A} என்றாள்.",
        "அவன் வந்தான், அவள் வந்தாள், அவர்கள் வந்தார்கள், நாங்கள் வந்தோம்.",
    ],
)
def test_no_loops(output):
    assert not verdict(output)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("No, no, no!", "இல்லை, இல்லை, இல்லை!"),
        ("Ha ha ha ha ha!", "ஹா ஹா ஹா ஹா ஹா!"),
        ("Aaaaah!", "ஆஆஆஆஆ!"),
        ("Wait!!!!!!!!!", "பொறு!!!!!!!!!"),
        ("We will fight and we will win, we will fight and we will win.", f"{A}, {A}."),
    ],
)
def test_the_source_may_repeat(source, output):
    assert verdict(output)
    assert not verdict(output, source)
