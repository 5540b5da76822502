"""Loops: degenerate repetition, unless the source repeats too."""

from __future__ import annotations

import pytest

from rl_nmt.guards.repetition import loops
from rl_nmt.text import TAMIL, TextPair, language

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
def test_outputs_that_do_not_loop(output):
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


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("He came home.", "அவன் வீட்டிற்கு வந்தான். அவன் வீட்டிற்கு வந்தான்."),
        ("The boy reads a book.", "சிறுவன் ஒரு புத்தகம் படிக்கிறான். சிறுவன் ஒரு புத்தகம் படிக்கிறான்."),
        ("He came.", "அவன் வந்தான். அவன் வந்தான்!"),
        ("He came home.", "அவன் வீட்டிற்கு வந்தான் அவன் வீட்டிற்கு வந்தான்"),
        ("He sat in the sun and she in the shade.", "அவன் வெயிலில். அவள் நிழலில் இருந்தாள். அவள் நிழலில் இருந்தாள்."),
    ],
)
def test_a_short_sentence_said_twice(source, output):
    assert verdict(output, source)
    assert not verdict(output, f"{source} {source}")


def test_a_sentence_said_twice_in_another_language():
    def said(code, output):
        return loops(TextPair("The rain has stopped.", output, language(code)))

    assert said("zh", "雨已经停了。雨已经停了。") and not said("zh", "雨已经停了。")
    assert said("de", "Der Regen hört auf. Der Regen hört auf.") and said("hi", "बारिश रुक गई। बारिश रुक गई।")


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("Long live the king, they cried.", "வாழ்க! வாழ்க! என்று முழங்கினர்."),  # one word
        ("Bye bye.", "போய் வருகிறேன். போய் வருகிறேன்."),
        ("Go home! I said go home!", "வீட்டிற்குப் போ! வீட்டிற்குப் போ!"),
        ("Never, never again.", "இனி ஒருபோதும், இனி ஒருபோதும்."),
        # noises
        ("The bell rang.", "மணி டிங் டிங் டிங் என்று அடித்தது."),
        ("Haha, that is funny.", "ஹாஹாஹாஹாஹா, அது வேடிக்கையாக இருக்கிறது."),
        ("He laughed.", "ஹா ஹா ஹா என்று அவன் சிரித்தான்."),
        ("Somebody knocked at the door.", "யாரோ கதவை டொக் டொக் டொக் என்று தட்டினார்கள்."),
        ("They said it again and again and again.", "அவர்கள் அதை மீண்டும் மீண்டும் மீண்டும் கூறினர்."),
    ],
)
def test_what_a_source_excuses(source, output):
    assert not verdict(output, source)


def test_a_noise_does_not_excuse_an_endless_one():
    assert verdict("மணி " + "டிங் " * 12 + "என்று அடித்தது.", "The bell rang.")
    assert verdict("அவன் சிரித்தான் " * 9, "He laughed.")
