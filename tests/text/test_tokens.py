"""Tokens, and those of a source that a translation may keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_texts import ODD

from rl_nmt.text.languages import ENGLISH, TAMIL
from rl_nmt.text.tokens import LITERAL, SCRIPTS, fold, kept, tokenize, without_literals


def kinds(text, language=ENGLISH):
    return [(token.text, token.kind) for token in tokenize(text, language)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("The boy's book.", [("The", "word"), ("boy's", "word"), ("book", "word")]),
        ("well-known", [("well", "word"), ("known", "word")]),
        ("'quoted'", [("quoted", "word")]),
        ("NATO-வின் NATOவின்", [("NATO", "word"), ("வின்", "word")] * 2),
        ("க்\u200dஷ", [("க்\u200dஷ", "word")]),
        ("H5N1", [("H", "word"), ("5", "number"), ("N", "word"), ("1", "number")]),
        ("௧௨ 12", [("௧௨", "number"), ("12", "number")]),
        ("see https://a.in/b?c=d.", [("see", "word"), ("https://a.in/b?c=d.", "url")]),
        ("weather.com", [("weather.com", "url")]),
        (
            "U.S. 7.55am end.Then",
            [
                ("U", "word"),
                ("S", "word"),
                ("7", "number"),
                ("55", "number"),
                ("am", "word"),
                ("end", "word"),
                ("Then", "word"),
            ],
        ),
        ("a.b@c.orgக்கு", [("a.b@c.org", "email"), ("க்கு", "word")]),
        (
            "{name} %s %(n)d ${x} <br> </b> &amp;",
            [(t, "placeholder") for t in ("{name}", "%s", "%(n)d", "${x}", "<br>", "</b>", "&amp;")],
        ),
        ("100%sure", [("100", "number"), ("sure", "word")]),
        ("my_var --fast #MeToo @ravi", [(t, "code") for t in ("my_var", "--fast", "#MeToo", "@ravi")]),
        ("ＡＢＣ", [("ABC", "word")]),
    ],
)
def test_tokenize(text, expected):
    assert kinds(text) == expected


def test_sentences_open_after_an_end_but_not_after_an_abbreviation():
    tokens = tokenize('Dr. Rao met A. Kumar. He said: "Come!" 3 p.m. it is', ENGLISH)
    assert [t.text for t in tokens if t.initial] == ["Dr", "He", "Come", "3"]


@pytest.mark.parametrize(
    ("text", "stay"),
    [
        ("The boy met Ravi in Chennai", ["Ravi", "Chennai"]),
        ("Ravi Kumar met the boy", ["Ravi", "Kumar"]),
        ("Ravi came, and Ravi went", ["Ravi"] * 2),
        ("Boys play", []),  # a capital at the start does not count
        ("she shops at Marks and Spencer", ["Marks", "and", "Spencer"]),
        ("the NASA iPhone costs 10 kg or 25 C", ["NASA", "iPhone", "10", "kg", "25", "C"]),
        ("10 of the boys", ["10"]),
        ("Local Council Approves New Budget", []),  # title case
        ("It Did Not Go Well", []),
        ("THE SHOP IS CLOSED", []),
        ("write a@b.org about {x} and சென்னை", ["a@b.org", "{x}", "சென்னை"]),
        ("I think that It Is so", []),
    ],
)
def test_tokens_that_may_stay(text, stay):
    tokens = tokenize(text, ENGLISH)
    assert [t.text for t, flag in zip(tokens, kept(tokens, ENGLISH), strict=True) if flag] == stay


@pytest.mark.parametrize(
    ("char", "script"),
    [
        ("a", "LATIN"),
        ("é", "LATIN"),
        ("க", "TAMIL"),
        ("்", "TAMIL"),
        ("अ", "DEVANAGARI"),
        ("5", ""),
        ("௫", ""),
        (".", "SYMBOL"),
        ("😀", "SYMBOL"),
        ("\u0301", None),
        ("\u200d", None),
    ],
)
def test_scripts(char, script):
    assert SCRIPTS[char] == script


def test_fold():
    words = {"Boy's": "boy", "Zárate’s": "zarate", "ＢＯＹ": "boy", "Straße": "strasse", "கௌ": "கௌ"}
    assert {word: fold(word) for word in words} == words


def test_without_literals():
    assert without_literals("Go to https://a1.in/2 or b3@c.orgக்கு, {x4}: 5") == "Go to or க்கு, : 5"


@pytest.mark.parametrize("text", [text for _, text, _ in ODD], ids=[name for name, _, _ in ODD])
def test_odd_texts(text):
    tokens = tokenize(text, TAMIL)
    assert all(token.text and token.kind in ("word", "number", *LITERAL) for token in tokens)
    assert len(kept(tokens, ENGLISH)) == len(tokens)


@given(st.text())
def test_any_text(text):
    tokens = tokenize(text, ENGLISH)
    assert tokens == tokenize(text, ENGLISH)
    assert all(token.text.strip() for token in tokens)
