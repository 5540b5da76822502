"""Write a chat prompt around a source, and read the source back from one of Gemma's. No torch.

A prompt has no `<bos>`: TRL's tokenisation of string prompts adds exactly one. The caller gives its words as a
template with one `{source}` slot. Gemma's turns are written here, any other model's by its chat template.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from rl_nmt.config import excerpt
from rl_nmt.errors import ConfigError
from rl_nmt.text.unicode import neutralise_control_tokens, restore_control_tokens

SLOT = "{source}"
OLD_SLOT = "{english}"  # in the prompt.txt of models that were trained with version 1
_BOS, _USER, _MODEL = "<bos>", "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model"


def gemma_prompt(user_text: str) -> str:
    """Return the user's turn and the opening of the model's turn, without `<bos>`, as google/gemma-3-1b-it has them.

    `user_text` must not contain an active control token; `fill` makes sure of it.
    """
    return f"{_USER}{user_text}{_MODEL}\n"


def chat_prompt(tokenizer, user_text: str) -> str:
    """Return the user's turn and the opening of the model's turn, in the format of `tokenizer`'s model.

    For Gemma this is `gemma_prompt`. For others it is the tokenizer's chat template, with thinking off if it has that
    switch and without the BOS that the tokenizer adds itself; text in `user_text` that looks like one of its tokens
    gets a space after its first character. Raises ConfigError if the template is missing or fails.
    """
    if is_gemma(tokenizer):
        return gemma_prompt(user_text)
    tokens = _added_tokens(tokenizer)
    while tokens.search(user_text):  # they may overlap
        user_text = tokens.sub(lambda match: f"{match[0][0]} {match[0][1:]}", user_text)
    prompt = _render(tokenizer, [{"role": "user", "content": user_text}], add_generation_prompt=True)
    bos = tokenizer.bos_token
    if bos and prompt.startswith(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        return prompt[len(bos) :]
    return prompt


def is_gemma(tokenizer) -> bool:
    """Return whether the tokenizer has both of Gemma's turn tokens as single ids."""
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<start_of_turn>", "<end_of_turn>")]
    return not any(i is None or i == tokenizer.unk_token_id for i in ids)


def end_of_turn(tokenizer) -> str | None:
    """Return the token that ends the model's turn: Gemma's, or the one that the chat template writes.

    None where the template ends a turn without a token. Raises ConfigError like `chat_prompt`.
    """
    if is_gemma(tokenizer):
        return "<end_of_turn>"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "zxqanswer"}]
    behind = _render(tokenizer, turns, add_generation_prompt=False).rpartition("zxqanswer")[2]
    found = _added_tokens(tokenizer).search(behind)
    return found[0] if found else None


def _render(tokenizer, messages: list[dict[str, str]], **options) -> str:
    if not tokenizer.chat_template:
        raise ConfigError("its tokenizer has no chat template: give a chat (instruct) model")
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)
    except Exception as error:  # jinja2's own, and whatever a template's filters raise
        raise ConfigError(f"the chat template of its tokenizer fails: {error}") from error


def _added_tokens(tokenizer) -> re.Pattern[str]:
    """Return a pattern of the added tokens, longest first, without blank ones and single characters."""
    tokens = [token for token in tokenizer.get_added_vocab() if len(token) > 1 and not token.isspace()]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def fill(template: str, source: str) -> str:
    """Return the template with the source, on one line, in its `{source}` slot.

    Runs of whitespace in the source become one space and lone surrogates, which no tokenizer accepts, become
    `?`; control tokens become readable plain text. Raises ConfigError without exactly one slot.
    """
    before, after = _around_slot(template)
    source = " ".join(source.encode("utf-8", "replace").decode("utf-8").split())
    # Neutralise the whole text, not only the source: a token may begin in one and end in the other.
    return neutralise_control_tokens(before + source + after)


def read_source(prompt: str, template: str) -> str:
    """Return the source that `fill` put into a prompt: its exact inverse.

    Accepts the result of `gemma_prompt`, with or without `<bos>`, and the bare user text. `template` is the whole
    template or its last lines, from the one with the slot on: a source has no line break, so nothing in it can
    be mistaken for that line. Raises ConfigError for anything else.
    """
    before, after = _around_slot(template)
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt: must be a string, not {type(prompt).__name__}; pass gemma_prompt(…)")
    text = re.sub(f"^(?:{_BOS})+", "", prompt)
    if text.startswith(_USER):
        text = text[len(_USER) :].removesuffix("\n").removesuffix(_MODEL)
    text = restore_control_tokens(text)
    start = 0 if text.startswith(before) else text.rfind("\n" + before) + 1
    source = text[start + len(before) : len(text) - len(after)]
    if text[start:] != before + source + after:
        raise ConfigError(
            f"prompt: {excerpt(prompt)} does not match the template {excerpt(template)}; "
            "build it with prompts.fill, or add a 'source' column to the dataset"
        )
    return source


def read_texts(name: str, values: Iterable[Any], role: str = "assistant") -> list[str]:
    """Return the texts that TRL passes to a reward as strings or conversations.

    From a conversation it takes the last turn of `role`; its content may be a list of parts, whose texts are joined.
    `name`: the argument's name, for messages. Raises ConfigError for None and anything else.

    >>> read_texts("completions", ["a", [{"role": "assistant", "content": "b"}]])
    ['a', 'b']
    """
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise ConfigError(f"{name}: {type(values).__name__} is not a list of texts; give one")
    return [value if isinstance(value, str) else _last_turn(name, i, value, role) for i, value in enumerate(values)]


class Exchange(NamedTuple):
    """A question and its answer, "" where missing; `images`: how many the question's message has a place for."""

    question: str
    answer: str
    images: int = 0


def read_exchange(where: str, value: Any, is_prompt: bool = False) -> Exchange:
    """Read a cell of a preference data set: a text, or a list of messages with at most one question.

    A text, or a list of one message, is the question if `is_prompt`, else the answer. `where`: row and column, for
    messages. Raises ConfigError for other values, system messages and conversations of several turns.

    >>> read_exchange("row 1: chosen", [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}])
    Exchange(question='a?', answer='b', images=0)
    """
    if value is None or isinstance(value, str):
        return Exchange(value or "", "") if is_prompt else Exchange("", value or "")
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise ConfigError(f"{where} is {type(value).__name__}; it must be a text or a list of messages")
    roles = [str(turn.get("role")) for turn in value]
    if roles not in ([["user"]] if is_prompt else [["assistant"], ["user", "assistant"]]):
        wanted = "one user message" if is_prompt else "one answer of the assistant, after at most one user message"
        raise ConfigError(f"{where} has messages of {', '.join(roles) or 'nobody'}; it must have {wanted}")
    texts = [_last_turn(where, i, [turn], role) for i, (turn, role) in enumerate(zip(value, roles, strict=True))]
    parts = value[0]["content"] if isinstance(value[0]["content"], list) and roles[0] == "user" else []
    images = sum(str(part.get("type")).startswith("image") for part in parts)
    return Exchange(texts[0] if roles[0] == "user" else "", "" if is_prompt else texts[-1], images)


def _last_turn(name: str, index: int, value: Any, role: str) -> str:
    wanted = "give a string, or a list of messages {'role': …, 'content': …}"
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name}: item {index} is {'None' if value is None else type(value).__name__}; {wanted}")
    turns = [turn for turn in value if isinstance(turn, dict) and turn.get("role") == role]
    content = turns[-1].get("content") if turns else None
    if isinstance(content, (list, tuple)):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(texts) if texts and all(isinstance(text, str) for text in texts) else None
    if not isinstance(content, str):
        raise ConfigError(f"{name}: item {index} has no message of role {role!r} with a text; {wanted}")
    return content


def _around_slot(template: str) -> tuple[str, str]:
    pieces = template.replace(OLD_SLOT, SLOT).split(SLOT)
    if len(pieces) != 2:
        raise ConfigError(f"prompt template {excerpt(template)} has {len(pieces) - 1} {SLOT} slots: write exactly one")
    return pieces[0], pieces[1]
