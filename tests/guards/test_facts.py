"""Fidelity without references: what must reappear, and what counts as being there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import HONEST, ODD, SOURCE

from rl_nmt.guards.facts import check, fidelity, numbers
from rl_nmt.text.languages import ENGLISH, TAMIL

THERE = [
    ("He is 37.", "அவருக்கு 37 வயது."),
    ("He is 37.", "அவருக்கு ௩௭ வயது."),
    ("It costs 100,000.", "இதன் விலை 1,00,000."),
    ("It costs 1,00,000.", "இதன் விலை 100000."),
    ("It costs 3.50.", "இதன் விலை 3.50."),
    ("About 3.7 million people.", "சுமார் 3.7 மில்லியன் மக்கள்."),
    ("About 3.7 million people.", "சுமார் 37 லட்சம் மக்கள்."),
    ("He paid 2 crore.", "அவர் 20 மில்லியன் கொடுத்தார்."),
    ("It lost $10bn.", "அது 10 பில்லியன் டாலரை இழந்தது."),
    ("It has 2 doors.", "அதற்கு இரண்டு கதவுகள் உள்ளன."),
    ("The 20th year.", "இருபதாவது ஆண்டு."),
    ("40% agree.", "40 சதவீதம் பேர் ஒப்புக்கொள்கின்றனர்."),
    ("12.5 percent agree.", "12.5% பேர் ஒப்புக்கொள்கின்றனர்."),
    ("At 7.55am.", "காலை 7:55 மணிக்கு."),
    ("He scored 55, 60 runs.", "அவர் 55,60 ரன்கள் எடுத்தார்."),
    ("On 12/05/2019.", "2019 மே 12/05 அன்று."),
    ("In the 1990s.", "1990களில்."),
    ("See https://a.in/b.", "https://a.in/b ஐப் பார்க்கவும்."),
    ("See weather.com now.", "வெதர்.காம் ஐப் பார்க்கவும்."),
    ("Mail a@b.org.", "a@b.orgக்கு எழுதவும்."),
    ("Hello, {name}! %s <b>x</b>", "வணக்கம், {name}! <b>x</b> %s"),
    ("She met Ravi.", "அவர் ரவியைச் சந்தித்தார்."),
    ("She met Ravi.", "அவர் Ravi-ஐச் சந்தித்தார்."),
    ("She met George Washington.", "அவர் ஜார்ஜ் வாஷிங்டனைச் சந்தித்தார்."),
    ("He lives in New York.", "அவர் நியூயார்க்கில் வசிக்கிறார்."),
    ("The Korean team won.", "கொரிய அணி வென்றது."),
    ("The NSA said so.", "என்எஸ்ஏ அவ்வாறு கூறியது."),
    ("He came on 5 January.", "அவர் ஜனவரி 5 அன்று வந்தார்."),
    ("Play it on YouTube.", "அதை யூடியூப்பில் இயக்குங்கள்."),
]
MISSING = [
    ("He is 37.", "அவருக்கு 38 வயது.", ("number", "37")),
    ("He is 37.", "அவருக்கு 370 வயது.", ("number", "37")),
    ("It costs 100,000.", "இதன் விலை 10,000.", ("number", "100,000")),
    ("About 3.7 million people.", "சுமார் 3.7 பில்லியன் மக்கள்.", None),  # the digits are there: not told apart
    ("About 3.7 million people.", "சுமார் 73 லட்சம் மக்கள்.", ("number", "3.7")),
    ("It has 2 doors.", "அதற்கு மூன்று கதவுகள் உள்ளன.", ("number", "2")),
    ("40% agree.", "40 பேர் ஒப்புக்கொள்கின்றனர்.", ("percent", "40")),
    ("40% agree.", "4% பேர் ஒப்புக்கொள்கின்றனர்.", ("percent", "40")),
    ("See https://a.in/b.", "https://a.in/c ஐப் பார்க்கவும்.", ("url", "https://a.in/b")),
    ("Mail a@b.org.", "எழுதவும்.", ("email", "a@b.org")),
    ("Hello, {name}!", "வணக்கம், {பெயர்}!", ("placeholder", "{name}")),
    ("She met Ravi.", "அவர் கமலாவைச் சந்தித்தார்.", ("name", "Ravi")),
    ("She met Nelson Mandela.", "அவர் ஆபிரகாம் லிங்கனைச் சந்தித்தார்.", ("name", "Nelson Mandela")),
    ("The NSA said so.", "எஃப்பிஐ அவ்வாறு கூறியது.", ("acronym", "NSA")),
]


@pytest.mark.parametrize(("source", "output"), THERE)
def test_found(source, output):
    result = check(source, output, TAMIL)
    assert result and all(result.values()) and fidelity(source, output, TAMIL) == 1.0


@pytest.mark.parametrize(("source", "output", "item"), MISSING)
def test_missing(source, output, item):
    result = check(source, output, TAMIL)
    assert [key for key, there in result.items() if not there] == ([item] if item else [])


@pytest.mark.parametrize("source", ["", "the rain has stopped.", "On Monday the President met the Queen.", "?!"])
def test_nothing_to_check(source):
    assert fidelity(source, HONEST, TAMIL) is None
    assert check(source, HONEST, TAMIL) == {}


def test_weights():
    """A number weighs 1, a name one half: with the name lost two thirds remain, with the number one third."""
    source = "She met Ravi in 1990."
    assert fidelity(source, "அவர் 1990 இல் சந்தித்தார்.", TAMIL) == pytest.approx(2 / 3)
    assert fidelity(source, "அவர் ரவியைச் சந்தித்தார்.", TAMIL) == pytest.approx(1 / 3)
    assert fidelity(source, "", TAMIL) == 0.0


def test_each_thing_counts_once():
    result = check("She met Ravi, and Ravi met 5 and 5.", "ரவி 5", TAMIL)
    assert result == {("name", "Ravi"): True, ("number", "5"): True}


def test_the_other_direction():
    source = "ரவி 1,00,000 ரூபாயும் ௫ பழங்களும் கொடுத்தார்."
    assert fidelity(source, "Ravi gave 100,000 rupees and five fruits.", ENGLISH, TAMIL) == 1.0
    assert fidelity(source, "Ravi gave 10,000 rupees and six fruits.", ENGLISH, TAMIL) == 0.0
    assert fidelity("அவர் 37 லட்சம் கொடுத்தார்.", "He gave 3.7 million.", ENGLISH, TAMIL) == 1.0


@pytest.mark.parametrize(
    ("text", "digits", "values"),
    [
        ("1,234", {"1234"}, {1234.0}),
        ("12,34,567", {"1234567"}, {1234567.0}),
        ("1,2", {"12", "1", "2"}, set()),
        ("007", {"7"}, {7.0}),
        ("2.5 million", {"25", "2", "5"}, {2_500_000.0}),
        ("10k", {"10"}, {10_000.0}),
        ("10 kg", {"10"}, {10.0}),
        ("٤٢", {"42"}, {42.0}),
        ("9" * 40, {"9" * 40}, set()),
    ],
)
def test_numbers(text, digits, values):
    (number,) = numbers(text, ENGLISH)
    assert (number.digits, number.values) == (digits, values)


@pytest.mark.parametrize("text", [text for _, text, _ in ODD], ids=[name for name, _, _ in ODD])
def test_odd_texts(text):
    for pair in ((SOURCE, text), (text, HONEST), (text, text)):
        value = fidelity(*pair, TAMIL)
        assert value is None or 0.0 <= value <= 1.0


@given(st.text() | st.text("0123456789.,:% kmA{}@"), st.text())
def test_any_texts(source, output):
    assert check(source, output, TAMIL) == check(source, output, TAMIL)
    value = fidelity(source, output, TAMIL)
    assert value is None or 0.0 <= value <= 1.0
