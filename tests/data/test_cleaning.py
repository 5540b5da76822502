"""Cleaning of one web document: golden tables for sentences and for the reasons of rejection."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_nmt.data.cleaning import clean_document, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Rao met Mr. Das at St. John's. All left.", ["Dr. Rao met Mr. Das at St. John's.", "All left."]),
        ("It costs 3.5 million. Wow.", ["It costs 3.5 million.", "Wow."]),
        ("J. R. R. Tolkien wrote it. We read it.", ["J. R. R. Tolkien wrote it.", "We read it."]),
        ("Use e.g. apples, i.e. fruit. Eat.", ["Use e.g. apples, i.e. fruit.", "Eat."]),
        ("In the U.S. Senate they voted. Yes.", ["In the U.S. Senate they voted.", "Yes."]),
        ("See No. 7 and p. 12. Is it no. It is.", ["See No. 7 and p. 12.", "Is it no.", "It is."]),
        ('He said "Stop." She did (at once!). End', ['He said "Stop."', "She did (at once!).", "End"]),
        ("Wait... What? ok then. Fine…", ["Wait...", "What? ok then.", "Fine…"]),
        ("1. Wash it. 2. Dry it.", ["1. Wash it.", "2. Dry it."]),
        ("So P. Diddy sang. Sens. Lee and Cruz left.", ["So P. Diddy sang.", "Sens. Lee and Cruz left."]),
        ("He came in 1999. Then left.", ["He came in 1999.", "Then left."]),
        ("Ends with Inc.", ["Ends with Inc."]),
        ("so\n\nit.  is. Do", ["so it. is.", "Do"]),
    ],
)
def test_split_sentences(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(st.sampled_from("aB. !?…\"')1\n"), max_size=60))
def test_splitting_loses_nothing(text):
    assert " ".join(split_sentences(text)).split() == text.split()


GOOD = "The river rose after the heavy rain."
MORE = "Farmers moved their cattle to higher ground."


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (GOOD, GOOD),
        (f"  {GOOD}\t {MORE} \n", f"{GOOD} {MORE}"),
        (f"Home | News | Sport\n{GOOD}", GOOD),
        (f"{GOOD}\nVisit https://example.org for details.\n{MORE}", f"{GOOD} {MORE}"),
        (f"Find us at www.example.com today.\n{GOOD}", GOOD),
        (f"Write to info@example.org now.\n{GOOD}", GOOD),
        (f"Copyright 2019 Example. All rights reserved.\n{GOOD}", GOOD),
        (f"This site uses cookies.\nPlease enable JavaScript.\n{GOOD}", GOOD),
        (f"Lorem ipsum dolor sit amet.\n{GOOD}", GOOD),
        (f"function f() {{ return 1; }}.\n{GOOD}", GOOD),
        (f"<div class='x'>Menu.</div>\n{GOOD}", GOOD),
        (f"Subscribe to our newsletter.\nRead more.\nTerms of use.\n{GOOD}", GOOD),
        (f"A heading without an end\n{GOOD}", GOOD),
        (f"{GOOD} And then it", GOOD),  # the rest of a cut sentence
        ("The ri\u200bver ro\u00adse af\x00ter the heavy rain.", GOOD),
        ("The cafe\u0301 was closed on Monday.", "The café was closed on Monday."),
        ("Type <bos> or <end_of_turn> to stop it.", "Type <bos> or <end_of_turn> to stop it."),
        ("The river\ud800 rose after the heavy rain.", "The river? rose after the heavy rain."),
    ],
)
def test_cleaned_documents(text, clean):
    assert clean_document(text, 20, 100) == (clean, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "not text"),
        (7, "not text"),
        (["x"], "not text"),
        ("", "empty"),
        (" \n\t\u200b\n", "empty"),
        ("See https://example.org.\nAll rights reserved.", "only URLs and boilerplate"),
        ("no end of any sentence here at all", "no whole sentence"),
        ("Too short.", "too short"),
        ("Hi. " + "Word " * 40 + "end.", "too short"),
        ("word " * 40 + "end.", "sentences too long"),
        ("1 2 3 4 5 6 7 8 9 10 11 12 13 14.", "few letters"),
        ("Der Hund läuft schnell durch den Wald und bellt laut den Mond an.", "not English"),
        ("El perro corre por el bosque y ladra a la luna toda la noche.", "not English"),
        ("Anjing itu berlari di dalam hutan pada waktu malam.", "not English"),
    ],
)
def test_rejected_documents(text, reason):
    assert clean_document(text, 20, 100) == (None, reason)


def test_bounds_are_exact():
    assert len(GOOD) == 36 and len(MORE) == 44
    both = f"{GOOD} {MORE}"
    assert clean_document(both, 20, 81)[0] == both
    assert clean_document(both, 20, 80)[0] == GOOD
    assert clean_document(both, 36, 80)[0] == GOOD
    assert clean_document(both, 37, 80)[0] == MORE  # the first run that is long enough
    assert clean_document(both, 45, 80) == (None, "too short")


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text(st.sampled_from("aB .!\n\u200b\x00é{"), max_size=200))
def test_any_text_is_clean_or_has_a_reason(text):
    clean, reason = clean_document(text, 5, 60)
    assert (clean is None) == bool(reason)
    if clean is not None:
        assert 5 <= len(clean) <= 60
        assert clean == " ".join(clean.split()) == unicodedata.normalize("NFC", clean)
        assert clean_document(clean, 5, 60) == (clean, "")
