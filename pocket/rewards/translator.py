"""An M2M100-format Tamil→English model of one pocket world, with the files and language codes of the 418M one."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pocket import formats, models
from pocket.fitting import train
from pocket.twins.graded import Graded

SPARE = 8  # rows that no token has, as published


def fit_m2m100(folder: Path, seed: int, sizes) -> None:
    """Write the model to folder/model, fitted on the world's known pairs as its NLLB is."""
    start, pairs, folder = time.monotonic(), models.known_pairs(seed, sizes), folder / "model"
    folder.mkdir()
    tokenizer = formats.m2m100_tokenizer(folder, models.spelled(pairs), sizes.m2m100_vocab)
    tokenizer.src_lang, tokenizer.tgt_lang = "ta", "en"
    torch.manual_seed(seed + 22)
    model = formats.new_nllb(tokenizer, sizes.m2m100_hidden, sizes.m2m100_layers, vocab_size=len(tokenizer) + SPARE)
    drawn = models.like_lengths(pairs, random.Random(seed + 22))

    def loss() -> torch.Tensor:
        rows = next(drawn)
        batch = tokenizer(
            [p.tamil for p in rows], text_target=[p.english for p in rows], return_tensors="pt", padding=True
        )
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
        return model(**batch).loss

    train(model, loss, sizes.m2m100_steps, 0.01, what="M2M100")
    model.save_pretrained(folder)
    models.say(start, f"M2M100: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def check_m2m100(folder: Path, rows: Sequence[Graded]) -> dict[str, float]:
    """Sentence chrF++ of what comes back of the held-out references, through the product's own loader."""
    from rl_nmt.backtranslation import load_backtranslator

    pairs = list({row.src: row.ref for row in rows}.items())
    back = load_backtranslator(str(folder / "model"), beams=1)([ref for _, ref in pairs])
    return {"chrf": 100 * float(np.mean(models.chrf(back, [src for src, _ in pairs])))}
