"""A small masked-diffusion GPT over characters, fitted on badly scanned texts: it writes many digits for letters."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from pocket.fitting import batches, train
from pocket.letters.sentences import LOOKS_LIKE, places, scanned
from rl_nmt.models import masked_diffusion as gpt
from rl_nmt.models.masked_diffusion import padded
from rl_nmt.models.unmasking import fill
from rl_nmt.text.templates import text_ids

CONTEXT = 64
STEPS, TEMPERATURE = 6, 0.8  # of fills: the recipe's


def fit_generator(folder: Path, known: list[str], seed: int, sizes):
    """Fit a generator on states of its sampler (templates, partly filled), save it and return (model, tokenizer)."""
    tokenizer = gpt.character_tokenizer([*known, *LOOKS_LIKE.values()], CONTEXT)
    torch.manual_seed(seed)
    shape = {"hidden_size": sizes.hidden, "num_hidden_layers": sizes.layers, "num_attention_heads": 4}
    model = gpt.new_generator(tokenizer, max_position_embeddings=CONTEXT, **shape)
    pad, mask = tokenizer.pad_token_id, tokenizer.mask_token_id
    rng = random.Random(seed)
    rows = text_ids(tokenizer, [scanned(text, rng, sizes.misread) for text in known])
    drawn = batches([len(row) for row in rows], sizes.batch, rng)

    def loss() -> torch.Tensor:
        batch = [rows[i] for i in next(drawn)]
        wanted = padded(batch, pad)  # (B, L)
        state = padded([masked(row, rng, mask, partly=True) for row in batch], pad)
        found = model(input_ids=state, attention_mask=(wanted != pad).long(), keep=state == mask).logits  # (N, V)
        return torch.nn.functional.cross_entropy(found, wanted[state == mask])

    train(model, loss, sizes.steps, sizes.lr, what="generator")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def masked(row: list[int], rng: random.Random, mask_id: int, partly: bool = False) -> list[int]:
    """Return the ids of a sentence as a template; `partly`: with some of its masks, at random places, filled."""
    chosen = places(rng, len(row) - 2)
    hidden = {at + 1 for at in (rng.sample(chosen, rng.randint(1, len(chosen))) if partly else chosen)}  # after bos
    return [mask_id if at in hidden else token for at, token in enumerate(row)]


def fills(model, tokenizer, texts: list[str], seed: int, at_once: int = 128) -> list[str]:
    """Return the model's fill of a template of each text."""
    rng, torch_rng, found = random.Random(seed), torch.Generator().manual_seed(seed), []
    rows = [masked(row, rng, tokenizer.mask_token_id) for row in text_ids(tokenizer, texts)]
    options = {"steps": STEPS, "temperature": TEMPERATURE, "generator": torch_rng}
    for at in range(0, len(rows), at_once):
        ids = padded(rows[at : at + at_once], tokenizer.pad_token_id)
        seen = (ids != tokenizer.pad_token_id).long()
        filled = fill(model, ids, tokenizer.mask_token_id, gpt.banned_ids(tokenizer), attention_mask=seen, **options)
        found += tokenizer.batch_decode(filled.ids, skip_special_tokens=True)
    return found


@torch.no_grad()
def heldout_loss(model, tokenizer, texts: list[str], seed: int) -> float:
    """Return LLaDA's bound on −log p of the texts, in nats per character, averaged over 8 masks of each."""
    ids = padded(text_ids(tokenizer, texts * 8), tokenizer.pad_token_id)
    seen = (ids != tokenizer.pad_token_id).long()
    return float(gpt.diffusion_loss(model, ids, seen, tokenizer, torch.Generator().manual_seed(seed)))
