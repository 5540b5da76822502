"""answers: which short answers count as right, by kind; expected values by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_nmt.text.answers import KINDS, is_right

CHOICES = ["6cm", "7 cm", "half past", "3"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", True),
        ("(b)", True),
        ("B.", True),
        ("(B) 7 cm", True),
        ("B: 7  CM.", True),
        ("7 cm", True),
        ('"7 CM"', True),
        ("**B**", True),
        ("$\\boxed{B}$", True),
        ("I add them.\nThe answer is (B).\nBecause 3 + 4 = 7.", True),
        ("Answer: A. No, the answer is: B", True),
        ("A", False),
        ("7", False),
        ("7cm", False),
        ("B or C", False),
        ("B 6cm", False),
        ("E", False),
        ("", False),
        ("I think it is B", False),
        ("The answer is B, so 7 cm", False),
        ("half", False),
    ],
)
def test_choices(answer, expected):
    assert is_right(answer, "7 cm", "choice", CHOICES) is expected


@pytest.mark.parametrize(("answer", "right"), [("A", "B"), ("B", "A"), ("c", "C")])
def test_a_letter_is_a_place_also_where_choices_are_letters(answer, right):
    assert is_right(answer, right, "choice", ["B", "A", "C"])


def test_a_right_answer_must_be_a_choice():
    assert not is_right("8 cm", "8 cm", "choice", CHOICES) and not is_right("x", "x", "choice")


@pytest.mark.parametrize(
    ("answer", "right", "expected"),
    [
        ("4", "4", True),
        ("4.0", "4", True),
        ("It is about 4 cm^2.", "4", True),
        ("4 m²", "4", True),
        ("x = -4", "-4", True),
        ("−4", "-4", True),
        ("1,000", "1000", True),
        ("1e3", "1000", True),
        ("1000 g", "1,000", True),
        ("We have 3 + 1. Answer: 4", "4", True),
        ("4.7", "4", False),
        ("4 or 5", "4", False),
        ("14", "4", False),
        ("-4", "4", False),
        ("4,5", "4", False),
        ("1.2.3", "1", False),
        ("four", "4", False),
        ("", "0", False),
        ("none", "none", False),
    ],
)
def test_integers(answer, right, expected):
    assert is_right(answer, right, "integer") is expected


@pytest.mark.parametrize(
    ("answer", "right", "digits", "expected"),
    [
        ("1.2", "1.2", 1, True),
        ("1.25 m", "1.3", 1, True),
        ("1.24", "1.2", 1, True),
        ("1.15", "1.2", 1, True),
        ("-0.04", "0.0", 1, True),
        (".5", "0.50", 2, True),
        ("0.125", "0.13", 2, True),
        ("1.26", "1.2", 1, False),
        ("12", "1.2", 1, False),
        ("1.2 or 1.3", "1.2", 1, False),
        ("1e40", "1.2", 1, False),
        ("", "1.2", 1, False),
    ],
)
def test_floats(answer, right, digits, expected):
    assert is_right(answer, right, "float", digits=digits) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[1, 2]", True),
        ("It is [1.0,2].", True),
        ("[2, 1]", False),
        ("[1]", False),
        ("1, 2", False),
        ("[1, 2] or [1, 2]", False),
        ("[]", False),
        ("", False),
    ],
)
def test_lists(answer, expected):
    assert is_right(answer, "[1, 2]", "list") is expected


def test_lists_of_words():
    assert is_right("['Red', blue]", "['red', 'Blue']", "list") and not is_right("[red]", "[blue]", "list")


@pytest.mark.parametrize(
    ("answer", "expected"), [("the Moon", True), (" THE  moon.", True), ("moon", False), ("", False), ("'", False)]
)
def test_texts(answer, expected):
    assert is_right(answer, "The Moon", "text") is expected


@given(answer=st.text(), kind=st.sampled_from(KINDS))
def test_any_answer_can_be_read_and_an_empty_one_is_wrong(answer, kind):
    right = {"choice": "7 cm", "integer": "4", "float": "1.2", "list": "[1, 2]", "text": "moon"}[kind]
    assert is_right(answer, right, kind, CHOICES, 1) in (True, False)
    assert not is_right(" \n", right, kind, CHOICES, 1)


@given(st.integers(-(10**12), 10**12))
def test_every_integer_is_read_in_all_its_forms(number):
    for form in (f"{number}", f"{number:,}", f"it is {number}.0 cm", f"Answer: {number}"):
        assert is_right(form, str(number), "integer") and not is_right(form, str(number + 1), "integer")
