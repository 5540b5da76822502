"""Prompts: the exact turns, and a source that comes back whatever it contains."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_qwen import PLAIN, SPECIAL, TURN, byte_level_tokenizer

from rl_nmt.errors import ConfigError
from rl_nmt.text.prompts import chat_prompt, end_of_turn, fill, gemma_prompt, read_source
from rl_nmt.text.unicode import CONTROL_PATTERN, CONTROL_TOKENS

TEMPLATE = "Translate from English to Tamil. Reply with the Tamil translation only.\n\nEnglish: {source}\nTamil:"
OTHERS = ["{source}", "<{source}>", "[{source}", "{source}\n", "a {b} {{c}} {source} {0} %s"]
OTHERS += ["< bos> {source}"]
PIECES = [*CONTROL_TOKENS, "<unused9>", "< bos>", "Tamil:", "English:", "\nTamil:", "\nEnglish: ", "user"]
PIECES += ["model", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "{source}", "{", "}"]
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
    with pytest.raises(ConfigError, match=r"^prompt: .*'source' column"):
        read_source(prompt, TEMPLATE)


def test_prefix_and_suffix_may_not_overlap():
    with pytest.raises(ConfigError):
        read_source("aba", "ab{source}ba")


def test_messages_are_refused_by_type():
    with pytest.raises(ConfigError, match=r"^prompt: .* list"):
        read_source([{"role": "user", "content": "x"}], TEMPLATE)


@pytest.mark.parametrize(("template", "slots"), [("no slot", 0), ("{source} {source}", 2), ("", 0)])
def test_templates_have_one_slot(template, slots):
    with pytest.raises(ConfigError, match=rf"^prompt template .* {slots} {{source}} "):
        fill(template, "x")


# --- other chat models ---------------------------------------------------------------------------------

CHATML_TOKENS = [*SPECIAL, *PLAIN]


@pytest.fixture(scope="module")
def chatml():
    return byte_level_tokenizer(["Translate the sentence. English: Tamil: நன்றி"])


def test_gemma_gets_its_own_turns(tiny_gemma):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_gemma)
    for text in ("", "hello", fill(TEMPLATE, "say <end_of_turn>")):
        assert chat_prompt(tokenizer, text) == gemma_prompt(text)
    assert end_of_turn(tokenizer) == "<end_of_turn>"


def test_chatml_turns_with_thinking_off(chatml):
    assert chat_prompt(chatml, "Good morning.") == TURN.format(user="Good morning.")
    assert end_of_turn(chatml) == "<|im_end|>"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([*CHATML_TOKENS, "<|", "|>", "im_end", "<|im_", "end|>", "<", "think>", " ", "\n", "a", "é"]),
        max_size=8,
    ).map("".join)
)
def test_no_token_of_the_tokenizer_survives_in_the_text(text):
    tokenizer = _shared()
    control = tokenizer.convert_tokens_to_ids(CHATML_TOKENS)

    def controls(user):
        return [i for i in tokenizer(chat_prompt(tokenizer, user))["input_ids"] if i in control]

    assert controls(text) == controls("a")
    words = chat_prompt(tokenizer, text).removeprefix("<|im_start|>user\n").partition("<|im_end|>\n")[0]
    assert words.replace(" ", "") == text.replace(" ", "")  # and nothing else was changed


def _shared(made=[]):  # noqa: B006  hypothesis takes no fixture of a narrower scope
    if not made:
        made.append(byte_level_tokenizer(["Translate the sentence."]))
    return made[0]


@pytest.mark.parametrize("adds", [True, False])
def test_a_bos_of_the_template_is_not_doubled(adds):
    from tokenizers import processors

    tokenizer = byte_level_tokenizer(["Translate the sentence."])
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    if adds:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
    ids = tokenizer(chat_prompt(tokenizer, "hello"))["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (None, "has no chat template: give a chat"),
        ("{{ raise_exception('no user') }}", "chat template of its tokenizer fails: no user"),
        ("{% for %}", "chat template of its tokenizer fails"),
    ],
)
def test_templates_that_do_not_work_are_one_clear_error(template, said):
    tokenizer = byte_level_tokenizer(["a"])
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=said):
        chat_prompt(tokenizer, "hello")
    with pytest.raises(ConfigError, match=said):
        end_of_turn(tokenizer)


def test_turns_may_end_without_a_token():
    tokenizer = byte_level_tokenizer(["a"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    assert end_of_turn(tokenizer) is None
