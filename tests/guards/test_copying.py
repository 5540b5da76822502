"""The copied share: copies near 1, translations near 0, loans and names excused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import HONEST, ODD, SOURCE

from rl_nmt.guards.copying import copied_share
from rl_nmt.text.languages import ENGLISH, TAMIL

COPIES = [
    ("The boy reads a book.", "The boy reads a book."),
    ("The boy reads a book.", "THE BOY READS A BOOK!!!"),
    ("The boy reads a book.", "the, boy; reads - a (book)"),
    ("The boy reads a book.", "theboyreadsabook"),
    ("The boy reads a book in the garden.", "t h e b o y r e a d s a b o o k i n t h e g a r d e n"),
    ("I didn't give up anything.", "I d i d n ' t g i v e u p a n y t h i n g ."),
    ("The boy reads a book.", "Thé böy rèads â book"),
    ("The boy reads a book.", "Ｔｈｅ ｂｏｙ ｒｅａｄｓ ａ ｂｏｏｋ"),
    ("The boy reads a book.", "book a reads boy The"),
    # English in Tamil letters, by sound and letter by letter
    ("The boy reads a book.", "தி பாய் ரீட்ஸ் எ புக்."),
    ("The children went to school yesterday.", "தி சில்ட்ரன் வென்ட் டு ஸ்கூல் எஸ்டர்டே."),
    ("The children went to school yesterday.", "தஹெ ச்ஹில்ட்ரென் வென்ட் டொ ஸ்ச்ஹூல் யெஸ்டெர்டய்."),
    ("I will call you after the meeting.", "ஐ வில் கால் யூ ஆஃப்டர் தி மீட்டிங்."),
    ("Thank you", "தேங்க் யூ"),
    ("That's what happened.", "தட்ஸ் வாட் ஹாப்பென்ட்."),
    # both at once
    ("The boy reads a book.", "சிறுவன் புத்தகம் படிக்கிறான். The boy reads a book."),
]
HONEST_PAIRS = [
    (SOURCE, HONEST),
    ("I bought a bus ticket.", "நான் பஸ் டிக்கெட் வாங்கினேன்."),
    ("The computer and the printer are on the table.", "கம்ப்யூட்டரும் பிரிண்டரும் மேஜையில் உள்ளன."),
    ("We had ice cream and chocolate cake.", "நாங்கள் ஐஸ்கிரீம் மற்றும் சாக்லேட் கேக் சாப்பிட்டோம்."),
    ("She met George Washington in New York.", "அவர் ஜார்ஜ் வாஷிங்டனை நியூயார்க்கில் சந்தித்தார்."),
    ("She met George Washington in New York.", "அவர் George Washington-ஐ New York-ல் சந்தித்தார்."),
    ("NASA and the UN met on 5 May.", "NASA மற்றும் UN மே 5 அன்று சந்தித்தன."),
    ("Visit https://a.in/b or mail x@y.org.", "https://a.in/b ஐப் பாருங்கள் அல்லது x@y.orgக்கு எழுதுங்கள்."),
    ("Bus ticket", "பஸ் டிக்கெட்"),
    ("It runs at 10 kph.", "இது 10 kph வேகத்தில் ஓடுகிறது."),
]


@pytest.mark.parametrize(("source", "output"), COPIES)
def test_copies(source, output):
    assert copied_share(source, output, TAMIL) >= 0.95


@pytest.mark.parametrize(("source", "output"), HONEST_PAIRS)
def test_translations(source, output):
    assert copied_share(source, output, TAMIL) == 0.0


def test_the_share_counts_letters_of_content():
    source = "Ravi reads good books"  # content: Ravi (opens the sentence), reads, good, books: 4 + 5 + 4 + 5
    assert copied_share(source, "அவன் good புத்தகங்கள்", TAMIL) == pytest.approx(4 / 18)
    assert copied_share("Then Ravi reads good books", "ரவி reads good", TAMIL) == pytest.approx(9 / 18)  # Ravi excused
    assert copied_share(source, HONEST, TAMIL) == 0.0


def test_half_in_tamil_letters_is_half_copied():
    source = "The boy reads a book but his sister is cooking rice."  # 3+3+5+1+4 of 41 letters are copied
    half = "தி பாய் ரீட்ஸ் எ புக் ஆனால் அவன் அக்கா சோறு சமைக்கிறாள்."
    assert copied_share(source, half, TAMIL) == pytest.approx(16 / 41)


@pytest.mark.parametrize("source", ["", "12 {x} https://a.in", "!?", "NASA"])
def test_nothing_to_copy(source):
    assert copied_share(source, source, TAMIL) == 0.0


def test_the_other_direction():
    assert copied_share("சிறுவன் புத்தகம் படிக்கிறான்.", "சிறுவன் புத்தகம் படிக்கிறான்.", ENGLISH, TAMIL) == 1.0
    assert copied_share("சிறுவன் புத்தகம் படிக்கிறான்.", "The boy reads a book.", ENGLISH, TAMIL) == 0.0


@pytest.mark.parametrize("text", [text for _, text, _ in ODD], ids=[name for name, _, _ in ODD])
def test_odd_texts(text):
    assert 0.0 <= copied_share(SOURCE, text, TAMIL) <= 1.0
    assert 0.0 <= copied_share(text, HONEST, TAMIL) <= 1.0


@given(st.text(), st.text())
def test_any_texts(source, output):
    share = copied_share(source, output, TAMIL)
    assert 0.0 <= share <= 1.0 and share == copied_share(source, output, TAMIL)


@given(st.lists(st.sampled_from(SOURCE.split()), min_size=3, max_size=12).map(" ".join))
def test_a_text_is_a_full_copy_of_itself(text):
    assert copied_share(text, text.upper(), TAMIL) in (1.0, 0.0)  # 0.0: nothing in it but names and numbers
    assert copied_share(text.lower(), text.upper(), TAMIL) == 1.0
