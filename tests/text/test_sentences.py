"""Sentences of a text, in every language of the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.text import language
from rl_nmt.text.sentences import split_sentences
from rl_nmt.text.unicode import is_blank


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \n \n", []),
        ("ஒன்று", ["ஒன்று"]),
        ("வந்தான். சென்றான்.", ["வந்தான்.", "சென்றான்."]),
        ("வந்தான்? ஆமாம்! சரி", ["வந்தான்?", "ஆமாம்!", "சரி"]),
        ("முதல் வரி\nஇரண்டாம் வரி\n\nமூன்றாம்", ["முதல் வரி", "இரண்டாம் வரி", "மூன்றாம்"]),
        ("“வந்தான்.” என்றாள்.", ["“வந்தான்.” என்றாள்."]),
        ("विद्यालय बंद है। कल आना।", ["विद्यालय बंद है।", "कल आना।"]),
        ("விலை 3.5 கோடி.", ["விலை 3.5 கோடி."]),
        ("கி.மு. 300 இல் நடந்தது.", ["கி.மு. 300 இல் நடந்தது."]),
        ("எம். ஜி. ராமச்சந்திரன் வந்தார்.", ["எம். ஜி. ராமச்சந்திரன் வந்தார்."]),
        ("1. முதலாவது", ["1. முதலாவது"]),
        ("வயது 25. அவள் படிக்கிறாள்.", ["வயது 25.", "அவள் படிக்கிறாள்."]),
        ("காத்திரு... வருகிறேன்", ["காத்திரு...", "வருகிறேன்"]),
        (". . .", [". . ."]),
        ("வந்தான். ... சென்றான்.", ["வந்தான். ...", "சென்றான்."]),
        ("🙂 வந்தான். 🙂\n***\nசரி", ["🙂 வந்தான். 🙂 ***", "சரி"]),
        ("போகிறாயா?! இல்லை!!", ["போகிறாயா?!", "இல்லை!!"]),
        ("காத்திரு… வருகிறேன்", ["காத்திரு…", "வருகிறேன்"]),
        ("“வந்தானா?” “இல்லை…”", ["“வந்தானா?”", "“இல்லை…”"]),
        ("«வந்தான்.» (சென்றான்.) சரி", ["«வந்தான்.»", "(சென்றான்.)", "சரி"]),
        ("1. முதலாவது. 2. இரண்டாவது.", ["1. முதலாவது.", "2. இரண்டாவது."]),
        ("2.1. பிரிவு", ["2.1. பிரிவு"]),
        ("(௩. மூன்றாவது)", ["(௩. மூன்றாவது)"]),
        (
            "https://example.com/a.html?b=1.5 பார்க்க. www.example.com. சரி",
            ["https://example.com/a.html?b=1.5 பார்க்க.", "www.example.com.", "சரி"],
        ),
        ("திரு. குமார் ரூ. 500 கொடுத்தார். பிறகு சென்றார்.", ["திரு. குமார் ரூ. 500 கொடுத்தார்.", "பிறகு சென்றார்."]),
        ("அது 5 கி.மீ. தூரம். வா", ["அது 5 கி.மீ. தூரம்.", "வா"]),
        ("धर्म॥ कर्म॥", ["धर्म॥", "कर्म॥"]),
        ("3.14 மற்றும் 2,50,000.50 ரூபாய். சரி", ["3.14 மற்றும் 2,50,000.50 ரூபாய்.", "சரி"]),
        ("ஒன்று\u2028இரண்டு", ["ஒன்று", "இரண்டு"]),
    ],
)
def test_sentences(text, expected):
    assert split_sentences(text) == expected


@given(
    st.lists(st.sampled_from([*'அக.!?…।॥"”)’ \n\t1௩🙂\u200b\u2028', "வந்தான்", "கி.மு.", "...", "<pad>", "a.b/c?d"])).map(
        "".join
    )
    | st.text()
)
def test_no_word_is_ever_lost(text):
    def words(text):
        return [word for word in text.split() if not is_blank(word)]

    pieces = split_sentences(text)
    assert words(" ".join(pieces)) == words(text)
    assert all(piece == piece.strip() and not is_blank(piece) for piece in pieces)


@pytest.mark.parametrize(
    "sentence",
    [
        # titles
        "திருமதி. கமலா வந்தார்.",
        "டாக்டர். ராமன் வந்தார்.",
        "Prof. ராமன் வந்தார்.",
        "திரு. மற்றும் திருமதி. குமார் வந்தனர்.",
        "முனைவர். மீனா பேசினார்.",
        # numbered headings
        "அத்தியாயம் 1. முன்னுரை எழுதப்பட்டது.",
        "படம் 12. ஆற்றின் பாதை.",
        "பக்கத்தில் எண். 7 என்று உள்ளது.",
        # quoted speech
        '"வா!" என்றார் திரு. மோதி.',
        "“எங்கே போகிறாய்?” என்று கேட்டாள்.",
        "வாழ்க! என முழங்கினர்.",
    ],
)
def test_stays_in_one_piece(sentence):
    assert split_sentences(sentence) == [sentence]
    assert split_sentences(f"மழை பெய்தது. {sentence} பிறகு சென்றான்.") == ["மழை பெய்தது.", sentence, "பிறகு சென்றான்."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("அவர் ஒரு டாக்டர். அவர் வந்தார்.", ["அவர் ஒரு டாக்டர்.", "அவர் வந்தார்."]),
        ("வா! எனக்கு வேண்டும்.", ["வா!", "எனக்கு வேண்டும்."]),
        ("அவன் பெயர் ரவி. அவள் மீனா.", ["அவன் பெயர் ரவி.", "அவள் மீனா."]),
    ],
)
def test_what_looks_like_a_title_or_a_quotation_ends(text, expected):
    assert split_sentences(text) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("de", ["Er kam am 3. Oktober.", "Dr. Weber blieb.", "„Komm!“ sagte er.", "Es war 1990.", "Sie ging."]),
        ("ur", ["بارش رک گئی۔", "وہ آیا؟", "ہاں!"]),
        ("hi", ["वह आया।", "वह गया॥", "क्यों?"]),
        ("el", ["Τι είναι;", "Δεν ξέρω."]),
        ("en", ["Is it me?", "No.", "See No. 7.", "Mr. and Mrs. Rao left.", "“Go!” she said.", "Chapter 2. The sea."]),
        ("te", ["వాన ఆగింది.", "“రా!” అని అన్నాడు."]),
    ],
)
def test_marks_of_the_language(code, expected):
    assert split_sentences(" ".join(expected), language(code)) == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("zh", ["雨停了。", "他说：“我来了。”", "然后走了！", "好。"]),
        ("ja", ["「来い！」と言った。", "雨が降る。", "とても寒い。"]),
    ],
)
def test_no_space_follows_a_wide_mark(code, expected):
    assert split_sentences("".join(expected), language(code)) == expected
