"""Generate completions of prompts with a causal language model, in order."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from rl_nmt import distributed
from rl_nmt.models.policy import stop_ids
from rl_nmt.progress import progress
from rl_nmt.text.prompts import is_gemma

TRANSFORMERS_4 = transformers.__version__.startswith("4.")  # 5 uses the model's own settings only for values not given


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[list[int]]:
    """Return token ids of each prompt; a Gemma prompt, and one that has a BOS, has exactly one in front."""
    if not prompts:
        return []
    rows = tokenizer(prompts, add_special_tokens=True, padding=False, truncation=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is None or not (is_gemma(tokenizer) or any(row[:1] == [bos] for row in rows)):
        return rows
    return [[bos, *itertools.dropwhile(lambda i: i == bos, row)] for row in rows]


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Set evaluation mode without gradients; afterwards restore the mode of every submodule.

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
    prompts: list[str] | list[list[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    do_sample: bool = False,
    num_return_sequences: int = 1,
    part: tuple[int, int] = (0, 1),
    what: str = "",
    inputs: Callable[[list[int]], dict[str, torch.Tensor]] | None = None,
    **drawn: Any,
) -> list[list[str]]:
    """Return `num_return_sequences` completions for each prompt, in the order of `prompts`.

    The prompts are full turns without `<bos>` (rl_nmt.text.prompts.gemma_prompt). `batch_size` counts
    sequences, so a prompt sampled 8 times takes 8 places. A completion ends at `<end_of_turn>`, `<eos>`
    or after `max_new_tokens` tokens; it is decoded without special tokens and stripped, and may be
    empty. Greedy decoding leaves the random state unchanged. The model may be a PEFT model, in training
    mode, with gradients enabled: its state is restored. Only every `part[1]`-th batch is generated,
    beginning with number `part[0]`; the prompts of the others get no completion. `what` names the work on a
    progress line; "" shows none. `inputs`: places in `prompts`, which are then token ids → the model's inputs of these
    rows, left-padded, e.g. with images. `drawn`: see `sampled`.
    """
    n = num_return_sequences
    encoded: Sequence[Any] = prompts if inputs else encode_prompts(tokenizer, prompts)  # type: ignore[arg-type]
    stops = stop_ids(tokenizer)
    sampling = {"do_sample": True, **sampled(**drawn)} if do_sample else {"do_sample": False}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_return_sequences=n,
        eos_token_id=stops,
        pad_token_id=stops[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        use_cache=True,  # a trainer with gradient checkpointing leaves it off in the model's own config
        **sampling,
    )
    # Longest first: if memory is short, the first batch fails.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)
    step = max(1, batch_size // n)
    batches = [order[start : start + step] for start in range(0, len(order), step)]
    own = batches[part[0] :: part[1]]
    if is_deepspeed_zero3_enabled() and len(own) < len(batches[:: part[1]]):
        own = [*own, batches[0]]  # every process holds a part of each weight, so all must run
    answers: list[list[str]] = [[] for _ in prompts]
    with inference(model), progress(what, sum(map(len, own)), "texts") as bar:
        for rows in own:
            batch = inputs(rows) if inputs else _padded(model, [encoded[i] for i in rows], settings.pad_token_id)
            new = _generate_batch(model, batch, settings)  # (rows * n, new tokens)
            texts = [_decode(tokenizer, ids, stops) for ids in new.tolist()]
            for place, i in enumerate(rows):
                answers[i] = texts[place * n : (place + 1) * n]
            bar.update(len(rows))
    return answers


def sampled(
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> dict[str, Any]:
    """Return these settings of sampling as GenerationConfig's; by default from the policy's whole distribution."""
    # top_k 0: the library's default samples from the 50 most probable tokens
    cut = {"top_p": top_p, "top_k": top_k, "min_p": min_p or None}
    return {"temperature": temperature, **cut, "repetition_penalty": repetition_penalty}


def generate_together(model, tokenizer, prompts: list[str], **options: Any) -> list[str]:
    """Return one greedy completion of each prompt, with the batches divided among the run's processes. Collective.

    Every process passes the same prompts and gets all completions. Batches and texts are those of a single process.
    `options`: max_new_tokens, batch_size and what, as for `generate`; the progress line counts this process's share.
    """
    part = distributed.rank(), distributed.count()
    own = generate(model, tokenizer, prompts, **options, part=part)
    found = {i: texts[0] for i, texts in distributed.gathered(list(enumerate(own))) if texts}
    return [found[i] for i in range(len(prompts))]


def sample_together(
    model,
    tokenizer,
    prompts: list[str],
    seed: int,
    *,
    batch_size: int,
    num_return_sequences: int,
    what: str = "held-out samples",
    **options: Any,
) -> list[list[str]]:
    """Return sampled completions of each prompt, the same for any number of processes. Collective.

    The random state is unchanged afterwards. `what`: the name of the work on its progress line; `options`:
    max_new_tokens and those of sampling, as for `generate`.
    """
    step = max(1, batch_size // num_return_sequences)
    options |= {"batch_size": batch_size, "num_return_sequences": num_return_sequences, "do_sample": True}
    starts = range(0, len(prompts), step)[distributed.rank() :: distributed.count()]
    own, devices = [], [model.device] if model.device.type == "cuda" else []
    total = sum(len(prompts[start : start + step]) for start in starts)
    with torch.random.fork_rng(devices), progress(what, total, "prompts") as bar:
        for start in starts:
            torch.manual_seed(seed + start)  # of the batch, so that it does not depend on those before
            own.append((start, generate(model, tokenizer, prompts[start : start + step], **options)))
            bar.update(len(own[-1][1]))
    return [texts for _, batch in sorted(distributed.gathered(own), key=lambda part: part[0]) for texts in batch]


def _padded(model: PreTrainedModel, rows: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Return rows as left-padded ids and their mask, (rows, width) each, on the model's device."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def _generate_batch(model: PreTrainedModel, batch: dict[str, torch.Tensor], settings) -> torch.Tensor:
    """Run left-padded rows through the model; return only the new tokens, (rows * n, new tokens)."""
    # use_model_defaults=False: Gemma's own generation_config samples with top_k 64, and transformers would use it for
    # each of our values that equals a library default, e.g. do_sample=False.
    out = model.generate(
        **batch,
        generation_config=settings,
        **({"use_model_defaults": False} if TRANSFORMERS_4 else {}),
    )
    return out[:, batch["input_ids"].shape[1] :]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int], stops: list[int]) -> str:
    end = next((place for place, i in enumerate(ids) if i in stops), len(ids))
    return tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
