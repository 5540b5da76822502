"""Build tiny translators other than NLLB in their real file formats: M2M100 and MADLAD-400."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import PAIRS, train

from pocket import formats

TEXTS = [text for pair in PAIRS for text in pair]


def build_m2m100(folder: Path, steps: int = 120, seed: int = 0) -> Path:
    """Build an M2M100 model with its 100 language codes, trained `steps` steps of Tamil→English on PAIRS."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = formats.m2m100_tokenizer(folder, TEXTS, vocab_size=300)
    tokenizer.src_lang, tokenizer.tgt_lang = "ta", "en"
    made_up = len(tokenizer) + 8  # rows that no token has, as published
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = formats.new_nllb(tokenizer, 32, layers=2, heads=2, vocab_size=made_up)
        _teach(model, tokenizer, [ta for _, ta in PAIRS], steps)
    model.save_pretrained(folder)
    return folder


def build_madlad(folder: Path, steps: int = 200, seed: int = 0, **options) -> Path:
    """Build a T5 in MADLAD-400's format, trained `steps` steps of Tamil→English on PAIRS; options of its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = formats.madlad_tokenizer(folder, TEXTS * 4, vocab_size=300, **options)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = formats.new_madlad(tokenizer, 32, layers=2, heads=2)
        _teach(model, tokenizer, [f"<2en> {ta}" for _, ta in PAIRS], steps, lr=5e-3)
    formats.save_madlad(model, folder)
    return folder


def _teach(model, tokenizer, sources: list[str], steps: int, lr: float = 1e-2) -> None:
    batch = tokenizer(sources, text_target=[en for en, _ in PAIRS], return_tensors="pt", padding=True)
    batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
    train(model, lambda: model(**batch).loss, steps, lr)
