"""Gemma chat turns: write a prompt around an English source, read the source back out of it. No torch.

A prompt carries no `<bos>`: TRL's tokenisation of string prompts adds exactly one. The words of the
prompt belong to the recipe, which passes them as a template with one `{english}` slot.
"""

from __future__ import annotations

from rl_nmt.errors import ConfigError
from rl_nmt.text import neutralise_control_tokens, restore_control_tokens

SLOT = "{english}"
_BOS = "<bos>"
_USER = "<start_of_turn>user\n"
_MODEL = "<end_of_turn>\n<start_of_turn>model"


def gemma_prompt(user_text: str) -> str:
    """Return the user's turn and the opening of the model's turn, without `<bos>`.

    `user_text` must hold no live control token; `fill` sees to that.
    Source: chat_template of google/gemma-3-1b-it.
    """
    return f"{_USER}{user_text}{_MODEL}\n"


def fill(template: str, english: str) -> str:
    """Return the template with the source, on one line, in its `{english}` slot.

    Runs of whitespace in the source become one space and lone surrogates, which no tokenizer accepts,
    become `?`; control tokens stay readable text but lose their power. Raises ConfigError for a
    template without exactly one slot.
    """
    before, after = _around_slot(template)
    source = " ".join(english.encode("utf-8", "replace").decode("utf-8").split())
    # The whole text, not the source alone: a token may be completed by what stands around the slot.
    return neutralise_control_tokens(before + source + after)


def read_source(prompt: str, template: str) -> str:
    """Return the English source that `fill` put into a prompt: its exact inverse.

    Accepts what `gemma_prompt` wrote, the same with `<bos>` in front, and the bare user text. `template`
    is the whole of it, or its last lines from one that holds the slot ("English: {english}\\nTamil:"): a
    source has no line break, so nothing in it can pass for the line it stands on. Raises ConfigError for
    anything that was not written so.
    """
    before, after = _around_slot(template)
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt must be a string, not {type(prompt).__name__}: pass gemma_prompt(…)")
    text = restore_control_tokens(_user_text(prompt))
    start = 0 if text.startswith(before) else text.rfind("\n" + before) + 1
    source = text[start + len(before) : len(text) - len(after)]
    if text[start:] != before + source + after:
        raise ConfigError(
            f"prompt {_excerpt(prompt)} was not written from the template {_excerpt(template)}: "
            "build it with prompts.fill, or give the dataset an 'english' column"
        )
    return source


def _around_slot(template: str) -> tuple[str, str]:
    pieces = template.split(SLOT)
    if len(pieces) != 2:
        raise ConfigError(
            f"prompt template {_excerpt(template)} has {len(pieces) - 1} {SLOT} slots: write exactly one"
        )
    return pieces[0], pieces[1]


def _user_text(prompt: str) -> str:
    while prompt.startswith(_BOS):
        prompt = prompt[len(_BOS) :]
    if not prompt.startswith(_USER):
        return prompt
    prompt = prompt[len(_USER) :].removesuffix("\n")
    return prompt.removesuffix(_MODEL)


def _excerpt(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 1] + "…")
