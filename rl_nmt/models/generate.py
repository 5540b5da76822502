"""Texts out of a causal language model: prompts in, completions out, order kept."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from rl_nmt import distributed
from rl_nmt.models.policy import stop_ids

TRANSFORMERS_4 = transformers.__version__.startswith("4.")  # 5 takes only gaps from the model's own settings


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt with exactly one BOS in front, whatever the tokenizer's settings are."""
    if not prompts:
        return []
    rows = tokenizer(prompts, add_special_tokens=True, padding=False, truncation=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is None:
        return rows
    return [[bos, *itertools.dropwhile(lambda i: i == bos, row)] for row in rows]


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every submodule has the mode that it had.

    `no_grad`, not `inference_mode`: buffers that a model caches on the way (rotary tables, masks) must
    stay usable in a later backward pass.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    num_return_sequences: int = 1,
    part: tuple[int, int] = (0, 1),
) -> list[list[str]]:
    """`num_return_sequences` completions for each prompt, in the order of `prompts`.

    The prompts are full turns without `<bos>` (rl_nmt.text.prompts.gemma_prompt). `batch_size` counts
    sequences, so a prompt sampled 8 times takes 8 places. A completion ends at `<end_of_turn>`, `<eos>`
    or after `max_new_tokens` tokens, and comes back decoded without special tokens and stripped; it may
    be empty. Greedy decoding leaves the random state alone. The model may be a PEFT model, in training
    mode, with gradients enabled: all of that is as before afterwards. Of all batches only every `part[1]`-th
    from `part[0]` on is generated; the prompts of the others get no completion.
    """
    n = num_return_sequences
    encoded = encode_prompts(tokenizer, prompts)
    stops = stop_ids(tokenizer)
    sampling: dict[str, Any] = {"do_sample": False}
    if do_sample:  # top_k 0: the policy's own distribution, not the library's default of the 50 best
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_return_sequences=n,
        eos_token_id=stops,
        pad_token_id=stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,  # a trainer with gradient checkpointing leaves it off in the model's own config
        **sampling,
    )
    # Longest first: where memory is short, the first batch says so.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)
    step = max(1, batch_size // n)
    batches = [order[start : start + step] for start in range(0, len(order), step)]
    own = batches[part[0] :: part[1]]
    if is_deepspeed_zero3_enabled() and len(own) < len(batches[:: part[1]]):
        own = [*own, batches[0]]  # every process holds a part of each weight: none may be idle
    answers: list[list[str]] = [[] for _ in prompts]
    with inference(model):
        for rows in own:
            new = _generate_batch(model, [encoded[i] for i in rows], settings)  # (rows * n, new tokens)
            texts = [_decode(tokenizer, ids, stops) for ids in new.tolist()]
            for place, i in enumerate(rows):
                answers[i] = texts[place * n : (place + 1) * n]
    return answers


def generate_together(model, tokenizer, prompts: list[str], *, max_new_tokens: int, batch_size: int = 16) -> list[str]:
    """One greedy completion of each prompt, the batches shared out over the processes of the run. Collective.

    Every process passes the same and gets all. The batches are those of one process, and so are the texts.
    """
    part = distributed.rank(), distributed.count()
    own = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, part=part)
    found = {i: texts[0] for i, texts in distributed.gathered(list(enumerate(own))) if texts}
    return [found[i] for i in range(len(prompts))]


def _generate_batch(model: PreTrainedModel, rows: list[list[int]], settings) -> torch.Tensor:
    """Left-padded rows through the model; returns only the new tokens, (rows * n, new tokens)."""
    width = max(len(row) for row in rows)
    pad = settings.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])  # (rows, width)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    # use_model_defaults: Gemma's own generation_config samples with top_k 64, and transformers would let
    # it replace each of our values that happens to be a library default, do_sample=False among them.
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        **({"use_model_defaults": False} if TRANSFORMERS_4 else {}),
    )
    return out[:, width:]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: list[int]) -> str:
    end = next((place for place, i in enumerate(ids) if i in stops), len(ids))
    return tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
