"""The language table: rows that rules can rely on."""

from __future__ import annotations

import unicodedata

import pytest

from rl_nmt.languages import ENGLISH, LANGUAGES, TAMIL


@pytest.mark.parametrize("row", LANGUAGES.values(), ids=LANGUAGES)
def test_a_row_is_written_as_rules_read_it(row):
    """Rules compare with folded NFC text, so a stem in any other form would never match."""
    stems = [stem for stem, _ in (*row.number_words, *row.scales, *row.sounds, *row.letter_names)]
    for words in (row.function_words, row.connectors, row.abbreviations, row.unfinished, row.common_capitals,
                  row.name_endings, row.labels, row.meta, row.meta_topics, row.openers, row.notes,
                  row.note_topics, row.percent):  # fmt: skip
        stems += words
    for stem in stems:
        assert stem and stem == unicodedata.normalize("NFC", stem).casefold().strip(), stem
    low, high = row.length_limits
    assert low < -row.length_tolerance and row.length_tolerance < high


@pytest.mark.parametrize("row", LANGUAGES.values(), ids=LANGUAGES)
def test_digits_are_zero_to_nine(row):
    assert [unicodedata.decimal(digit) for digit in row.digits] == list(range(10))


def test_every_consonant_has_a_sound():
    tamil = {chr(c) for c in range(0x0B95, 0x0BBA) if unicodedata.category(chr(c)) == "Lo"}
    assert tamil <= {grapheme for grapheme, _ in TAMIL.sounds}
    assert set("bcdfghjklmnpqrstvwxyz") <= {grapheme for grapheme, _ in ENGLISH.sounds}
    for row in (TAMIL, ENGLISH):
        assert {c for _, classes in row.sounds for c in classes} <= set("kstpmnrlv|-"), row.code


def test_independent_vowels():
    assert set(TAMIL.vowels) == {chr(c) for c in range(0x0B85, 0x0B95) if unicodedata.name(chr(c), "")}


def test_rows_are_keys():
    assert len({TAMIL, ENGLISH, LANGUAGES["ta"]}) == 2
