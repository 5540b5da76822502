"""The list of the words that small models were taught."""

from __future__ import annotations

import pytest

from rl_nmt.text.known_words import known_words, unknown_words, words_of


@pytest.fixture
def world(tmp_path):
    for name in ("policy", "nllb"):
        (tmp_path / "world" / name).mkdir(parents=True)
    (tmp_path / "world" / "words.txt").write_text("Ravi\nRavi's\ncat\nசோறு\n", encoding="utf-8")
    return tmp_path / "world"


def test_the_list_is_found_next_to_either_model(world):
    known = {"ravi": "Ravi", "ravi's": "Ravi's", "cat": "cat", "சோறு": "சோறு"}
    assert known_words("facebook/nllb-200-distilled-1.3B", str(world / "policy")) == known
    assert known_words(f"{world}/nllb/", "") == known


def test_models_without_a_list(world, monkeypatch):
    (world.parent / "other" / "policy").mkdir(parents=True)
    assert known_words(str(world.parent / "other" / "policy"), "", str(world / "missing")) == {}
    monkeypatch.chdir(world)  # a hub name is not a folder next to ./words.txt
    assert known_words("gpt2") == {}


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("“RAVI’S cat!”", []),
        ("ravi-cat, 7 cats & Cat", ["ravi-cat", "7", "cats", "&"]),
        ("சோறு. சோ", ["சோ"]),
        ("", []),
        (" … - ", []),
    ],
)
def test_unknown_words(world, text, unknown):
    assert unknown_words(text, known_words(str(world / "policy"))) == unknown
    assert all(word in words_of(text) for word in unknown)
