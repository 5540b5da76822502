"""Build a tiny Gemma 3 with a vision tower in its real file format, random weights, and pairs with pictures for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import torch

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "gold": (255, 190, 0), "lime": (60, 215, 0)}
QUESTIONS = ("What colour is it?", "Look at the picture. Which colour do you see there?")  # of unequal length
SIZES = SimpleNamespace(hidden=32, layers=2, vision_hidden=16, vision_layers=1)


def build(folder: Path, seed: int = 0) -> Path:
    """Build model and processor into `folder`; returns it."""
    from pocket.charts.policy import new_policy, new_processor

    texts = [*QUESTIONS, *(f"It is {name}." for name in COLOURS), "Is 3 more than 4?"] * 20
    processor = new_processor(folder, texts, 330)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new_policy(processor.tokenizer, SIZES).save_pretrained(folder)
    return folder


def write_pairs(folder: Path, count: int = 24, text_only: int = 4, seed: int = 0) -> Path:
    """Write pairs.jsonl and its pictures: `count` rows, every `text_only`-th without a picture (0: none)."""
    from PIL import Image

    rng = random.Random(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        right, wrong = rng.sample(list(COLOURS), 2)
        row = {"prompt": QUESTIONS[i % 2], "chosen": f"It is {right}.", "rejected": f"It is {wrong}."}
        if text_only and i % text_only == 0:
            row["prompt"] = f"Is {i} more than 4? Say a colour."
        else:
            image = Image.new("RGB", (48, 48), COLOURS[right])
            image.putpixel((i, 0), (i, i, i))  # no two are the same
            image.save(folder / "pictures" / f"{i}.png")
            row["image"] = f"pictures/{i}.png"
        rows.append(row)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
