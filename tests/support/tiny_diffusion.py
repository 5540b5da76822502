"""A masked-diffusion GPT of two small layers whose distributions are far from uniform, and templates for it."""

from __future__ import annotations

import torch

from rl_nmt.models.masked_diffusion import MaskedDiffusionGPT, character_tokenizer, new_generator, padded

LETTERS = "abcdefgh ."
ROWS = ("a__b_c", "____", "abc", "_b_d_f_h")  # _ is a mask


def tiny_tokenizer(letters: str = LETTERS):
    """Return a tokenizer of 5 special tokens and `letters`, for 32 tokens."""
    return character_tokenizer([letters], context=32)


def tiny_generator(seed: int = 0, tokenizer=None, **sizes) -> MaskedDiffusionGPT:
    """Return a model in evaluation mode; torch's RNG stays as it was."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **sizes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"max_position_embeddings": 32, "initializer_range": 0.2, **sizes}
        return new_generator(tokenizer or tiny_tokenizer(), **options).eval()


def template(tokenizer, text: str) -> list[int]:
    """Return the ids of a text between bos and eos, with the mask for each underscore."""
    letters = [tokenizer.mask_token if letter == "_" else letter for letter in text]
    return tokenizer.convert_tokens_to_ids([tokenizer.bos_token, *letters, tokenizer.eos_token])


def templates(tokenizer, rows=ROWS) -> tuple[torch.Tensor, torch.Tensor]:
    """Return template ids and their attention mask, (B, L)."""
    ids = [template(tokenizer, row) for row in rows]
    return padded(ids, tokenizer.pad_token_id), padded([[1] * len(row) for row in ids], 0)
