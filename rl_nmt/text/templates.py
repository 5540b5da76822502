"""Read and show templates: texts with masks, as token ids for a model that fills them. No torch."""

import re
from collections.abc import Sequence

from rl_nmt.config import excerpt
from rl_nmt.errors import ConfigError
from rl_nmt.text.unicode import safe_unicode

MASK = re.compile(r"\[MASK(?::([^\[\]]*))?\]")


def text_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text between bos and eos; tokens written out in a text are read as text."""
    found = (
        tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        if texts
        else []
    )
    return [[tokenizer.bos_token_id, *ids, tokenizer.eos_token_id] for ids in found]


def encode_template(
    text: str, tokenizer, where: str, context: int = 0, steps: int = 0, setting: str = "denoising_steps"
) -> list[int]:
    """Return the ids, from bos to eos, of a template in which [MASK] is one masked token and [MASK:8] eight.

    All else is text, also what looks like another special token; white space at both ends is removed. Raises
    ConfigError, which starts with `where`: also above `context` tokens (0: any) and below `steps` masks, a `setting`.
    """
    given, counts = (MASK.split(safe_unicode(text).strip())[i::2] for i in (0, 1))  # one text more than counts
    if not counts:
        raise ConfigError(f"{where}: {excerpt(text)} has no mask; write [MASK] or [MASK:8] where to write")
    if bad := [count for count in counts if count is not None and not re.fullmatch("[1-9][0-9]{0,5}", count)]:
        raise ConfigError(f"{where}: [MASK:{bad[0]}] needs a whole number from 1 to 999999; correct it")
    ids: list[int] = [tokenizer.bos_token_id]
    for part, part_ids, count in zip(given, text_ids(tokenizer, given), [*counts, "0"], strict=True):
        if tokenizer.unk_token_id in part_ids[1:-1]:
            odd = [c for c in dict.fromkeys(part) if tokenizer.unk_token_id in text_ids(tokenizer, [c])[0][1:-1]]
            raise ConfigError(f"{where}: the tokenizer does not know {excerpt(''.join(odd) or part)}; remove it")
        ids += part_ids[1:-1] + [tokenizer.mask_token_id] * int(count or 1)
    ids.append(tokenizer.eos_token_id)
    if 0 < context < len(ids):
        raise ConfigError(f"{where}: {len(ids)} tokens, but the generator reads {context}; shorten the template")
    if (masks := ids.count(tokenizer.mask_token_id)) < steps:
        raise ConfigError(f"{where}: more steps than masks ({setting} {steps}, masks {masks}); lower it, or set 0")
    return ids


def shown(ids: list[int], tokenizer) -> str:
    """Return a template as text, with "_" for each mask, without the other special tokens."""
    mask, name, special = tokenizer.mask_token_id, tokenizer.mask_token, {*tokenizer.all_special_ids}
    tokens = tokenizer.convert_ids_to_tokens([i for i in ids if i == mask or i not in special])
    return tokenizer.convert_tokens_to_string(["_" if token == name else token for token in tokens])


def filled_text(ids: list[int], tokenizer) -> str:
    """Return a filled template as text without special tokens; nothing else is changed."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
