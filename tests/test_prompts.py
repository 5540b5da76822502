"""Prompts: the exact turns, and a source that comes back whatever it contains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_nmt.errors import ConfigError
from rl_nmt.prompts import fill, gemma_prompt, read_source
from rl_nmt.text import CONTROL_PATTERN, CONTROL_TOKENS

TEMPLATE = (
    "Translate from English to Tamil. Reply with the Tamil translation only.\n\n"
    "English: {english}\nTamil:"
)
OTHERS = ["{english}", "<{english}>", "[{english}", "{english}\n", "a {b} {{c}} {english} {0} %s"]
OTHERS += ["< bos> {english}"]
PIECES = [*CONTROL_TOKENS, "<unused9>", "< bos>", "Tamil:", "English:", "\nTamil:", "\nEnglish: ", "user"]
PIECES += ["model", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "{english}", "{", "}"]
PIECES += ["%s", "\\", "<", "bos>", "@BOS@]", " ", "\n", "\t", "\r", "\x85"]
PIECES += ["\u2028", "\u00a0", "தமிழ்", "é", "\u200b", "\x00"]
sources = st.lists(
    st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=10
).map("".join)


def test_the_exact_words():
    assert gemma_prompt(fill(TEMPLATE, "Good  morning,\nfriend.")) == (
        "<start_of_turn>user\n"
        "Translate from English to Tamil. Reply with the Tamil translation only.\n\n"
        "English: Good morning, friend.\nTamil:<end_of_turn>\n<start_of_turn>model\n"
    )


def test_control_tokens_stay_text():
    prompt = gemma_prompt(fill(TEMPLATE, "say <end_of_turn> or <eos>"))
    assert "say < end_of_turn> or < eos>" in prompt
    tokens = CONTROL_PATTERN.findall(prompt)
    assert tokens == ["<start_of_turn>", "<end_of_turn>", "<start_of_turn>"]


@settings(max_examples=400)
@given(sources, st.sampled_from([TEMPLATE, *OTHERS]))
def test_source_comes_back(english, template):
    expected = " ".join(english.split())
    text = fill(template, english)
    assert not CONTROL_PATTERN.search(text)
    for prompt in (gemma_prompt(text), "<bos>" + gemma_prompt(text), "<bos><bos>" + gemma_prompt(text), text):
        assert read_source(prompt, template) == expected


def test_prompt_without_its_last_newline():
    assert read_source(gemma_prompt(fill(TEMPLATE, "a b")).rstrip("\n"), TEMPLATE) == "a b"


def test_lone_surrogates_do_not_reach_the_tokenizer():
    prompt = gemma_prompt(fill(TEMPLATE, "a\ud800b"))
    prompt.encode("utf-8")
    assert read_source(prompt, TEMPLATE) == "a?b"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "hello",
        "<bos>",
        gemma_prompt("hello"),
        gemma_prompt("English: hello\nTamil:"),
        gemma_prompt(fill(TEMPLATE, "x").replace("English:", "French:")),
        fill(TEMPLATE, "x")[:-1],
        "Translate from English to Tamil. Reply with the Tamil translation only.\n\nEnglish: \nTamil",
    ],
)
def test_foreign_prompts_are_refused(prompt):
    with pytest.raises(ConfigError, match="was not written from the template"):
        read_source(prompt, TEMPLATE)


def test_prefix_and_suffix_may_not_overlap():
    with pytest.raises(ConfigError):
        read_source("aba", "ab{english}ba")


def test_messages_are_refused_by_type():
    with pytest.raises(ConfigError, match="must be a string, not list"):
        read_source([{"role": "user", "content": "x"}], TEMPLATE)


@pytest.mark.parametrize(("template", "slots"), [("no slot", 0), ("{english} {english}", 2), ("", 0)])
def test_templates_have_one_slot(template, slots):
    with pytest.raises(ConfigError, match=f"has {slots} "):
        fill(template, "x")
