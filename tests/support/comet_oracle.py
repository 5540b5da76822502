"""COMET's own loader and `model.predict` as the oracle of our scorers, and the segments for the comparison."""

from __future__ import annotations

import random

import torch
from tiny_models import PAIRS

from rl_nmt.scorers.base import Segment

LONG = " ".join(en for en, _ in PAIRS) * 12  # well over 512 tokens
EDGES = [
    "",
    " ",
    ".",
    LONG,
    "a <pad> b",
    "<s> x </s>",
    "<mask>",
    "🙂🙃 漢字",
    "x" * 300,
    "Two\nlines\tand tabs",
    "நன்றி" * 200,
]


def rows(seed: int = 0) -> list[Segment]:
    """Return pairs and mismatches, every edge case as source, translation and reference, and duplicates."""
    rng = random.Random(seed)
    plain = [Segment(en, rng.choice(PAIRS)[1], rng.choice(PAIRS)[0]) for en, _ in PAIRS for _ in range(2)]
    cycle = [Segment(en, rng.choice(PAIRS)[0], en) for en, _ in PAIRS]
    en, ta = PAIRS[0]
    edges = [s for e in EDGES for s in (Segment(en, e, en), Segment(e, ta, en), Segment(en, ta, e), Segment(e, e, e))]
    return plain + cycle + edges + plain[:5]


def predict(folder, segments, reference=True) -> list[float]:
    """Return the oracle's scores, as in COMET's README, on the CPU."""
    import pytest  # here, since other environments do not have it

    comet = pytest.importorskip("comet")  # not installed with transformers 5
    model = comet.load_from_checkpoint(str(folder / "checkpoints" / "model.ckpt"), local_files_only=True)
    data = [{"src": s.src, "mt": s.mt} | ({"ref": s.ref} if reference else {}) for s in segments]
    with torch.random.fork_rng(devices=[]):
        return model.predict(data, batch_size=8, gpus=0, progress_bar=False).scores


VARIANTS = [
    ("regression_metric", {}),
    ("regression_metric", {"pool": "cls"}),
    ("regression_metric", {"pool": "max", "layer": 2}),
    ("regression_metric", {"layer_norm": True, "layer_transformation": "softmax"}),
    ("regression_metric", {"layer_transformation": "sparsemax_patch", "final_activation": "Sigmoid"}),
    ("referenceless_regression_metric", {}),
    ("unified_metric", {}),
    ("unified_metric", {"sent_layer": 1, "word_level_training": True}),
    ("unified_metric", {"input_segments": ["mt", "src", "ref"]}),
    ("unified_metric", {"input_segments": ["mt", "ref"]}),
    ("unified_metric", {"layer_norm": False}),
    ("unified_metric", {"layer_norm": False, "sent_layer": 3}),
    ("regression_metric", {"encoder_model": "XLM-RoBERTa-XL"}),
    ("regression_metric", {"encoder_model": "XLM-RoBERTa-XL", "layer": 1, "pool": "default"}),
    ("unified_metric", {"encoder_model": "XLM-RoBERTa-XL", "layer_norm": False}),
    ("xcomet_metric", {"layer_norm": False}),
    ("xcomet_metric", {"encoder_model": "XLM-RoBERTa-XL", "layer_norm": False, "word_layer": 2}),
]
