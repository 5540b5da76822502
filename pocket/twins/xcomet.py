"""An XCOMET-format twin: quality of (source, translation) as one number, and the words that are wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pocket import formats, models
from pocket.twins.damage import words
from pocket.twins.graded import Graded, batches
from rl_nmt.scorers.base import Segment, Span

LABELS = ["minor", "major", "critical"]  # O is 0, these are 1 to 3
SCORE_WEIGHT = 5.0  # of the sentence loss beside the word loss, once both are fitted


def fit_xcomet(folder: Path, world: Path, rows: Sequence[Graded], seed: int, sizes) -> None:
    """Write an XCOMET checkpoint that was fitted on `rows`, starting from the encoder of the world's COMETKiwi.

    As the published ones start from a model that has read both languages. First word labels alone, then these and
    the sentence score, both without a reference; the two input sequences that hold one stay as they come.
    """
    start = time.monotonic()
    rng = random.Random(seed + 12)
    torch.manual_seed(seed + 12)
    model, hparams = new_xcomet(folder, world / "comet_qe")
    labels = [word_labels(model, row) for row in rows]
    draw = batches([len(row.src) + len(row.mt) for row in rows], sizes.batch, rng)

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = next(draw)
        batch = [{"src": rows[i].src, "mt": rows[i].mt, "score": rows[i].quality} for i in chosen]
        (inputs,), targets = model.prepare_sample(batch, stage="fit")
        longest = targets.labels.shape[1]
        known = torch.tensor([labels[i] + [-1] * (longest - len(labels[i])) for i in chosen])  # (B, L)
        out = model(**inputs)
        word = torch.nn.functional.cross_entropy(out.logits[:, :longest].transpose(1, 2), known, ignore_index=-1)
        return torch.nn.functional.mse_loss(out.score, targets.score), word

    models.train(model, lambda: losses()[1], sizes.xcomet_word_steps, 2e-3)
    models.train(model, lambda: (lambda score, word: SCORE_WEIGHT * score + word)(*losses()), sizes.xcomet_steps, 1e-3)
    formats.save_comet(model, hparams, folder)
    models.say(start, f"XCOMET: {sizes.xcomet_word_steps} + {sizes.xcomet_steps} steps on {len(rows)} rows")


def new_xcomet(folder: Path, kiwi: Path):
    """An XCOMET model with the encoder, layer mixture and head of a COMETKiwi checkpoint, and new word labels.

    Its encoder's configuration and tokenizer are written to folder/encoder. Returns it and its hyper-parameters.
    """
    from transformers import AutoTokenizer

    from rl_nmt.scorers.comet_checkpoint import checkpoint_file, load_model

    known, _, _ = load_model("comet_qe", checkpoint_file("comet_qe", str(kiwi)), ("unified_metric",))
    shape = known.encoder.model.config
    layers = shape.num_hidden_layers
    model, hparams = formats.new_comet(
        folder, "xcomet_metric", AutoTokenizer.from_pretrained(kiwi / "encoder"), shape.hidden_size, layers,
        shape.num_attention_heads, sent_layer="mix", word_layer=layers, layer_norm=True, word_level_training=True,
        input_segments=["mt", "src", "ref"], error_labels=LABELS, loss_lambda=0.055,
    )  # fmt: skip
    model.load_state_dict(known.state_dict(), strict=False)
    return model, {name: value for name, value in hparams.items() if name not in ("layer", "pool")}


def word_labels(model, row: Graded) -> list[int]:
    """Label of every token of the output, special ones included: 0 right, 1 to 3 as in LABELS."""
    marked = [{"start": e.start, "end": e.end, "severity": e.severity} for e in row.errors if e.start is not None]
    return model.encoder.prepare_sample([row.mt], True, [marked])["label_ids"][0].tolist()


def check_xcomet(folder: Path, rows: Sequence[Graded], group: int) -> dict:
    """The saved twin, through the product's own loader, on held-out outputs."""
    from rl_nmt.scorers.comet import load_comet

    scores = load_comet(str(folder), classes=("xcomet_metric",)).score([Segment(row.src, row.mt) for row in rows])
    values = np.array([np.nan if value is None else value for value in scores.values], dtype=float)
    found = models.correlations(values, np.array([row.quality for row in rows]), group)
    return found | {"words": word_agreement(scores.spans, rows)}


def word_agreement(spans: Sequence[Sequence[Span]], rows: Sequence[Graded]) -> dict[str, float]:
    """Words marked against words known to be wrong: precision, recall, F1, Matthews' correlation.

    `wrong` is the share of wrong words and `f1_of_all` what marking every word would score, without which an F1
    says little; `severity` is the share of rightly marked words with the right severity.
    """
    counts, severity = np.zeros((2, 2)), []  # counts[known, marked]
    for marked, row in zip(spans, rows, strict=True):
        for word in words(row.mt):
            known = next((e.severity for e in row.errors if e.start is not None and _meet(e, word)), None)
            seen = next((s.severity for s in marked if _meet(s, word)), None)
            counts[int(known is not None), int(seen is not None)] += 1
            if known and seen:
                severity.append(known == seen)
    (tn, fp), (fn, tp) = counts
    wrong = (tp + fn) / counts.sum()
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "precision": float(tp / max(1, tp + fp)), "recall": float(tp / max(1, tp + fn)),
        "f1": float(2 * tp / max(1, 2 * tp + fp + fn)), "mcc": float((tp * tn - fp * fn) / spread) if spread else 0.0,
        "wrong": float(wrong), "f1_of_all": float(2 * wrong / (1 + wrong)),
        "severity": float(np.mean(severity)) if severity else 0.0,
    }  # fmt: skip


def _meet(one, other) -> bool:
    return one.start < other.end and other.start < one.end
