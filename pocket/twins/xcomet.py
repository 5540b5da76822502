"""An XCOMET-format twin: quality of (source, translation) as one number, and the words that are wrong."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pocket import formats, models, scorers
from pocket.fitting import batches, cross_entropy, fit, padded
from pocket.grammar import Pair
from pocket.twins import meanings
from pocket.twins.damage import words
from pocket.twins.graded import Graded
from rl_nmt.scorers.base import Segment, Span

LABELS = ["minor", "major", "critical"]  # O is 0, these are 1 to 3
SCORE_WEIGHT = 3.0  # of the sentence loss, whose values are a tenth of the words'
LATE = 0.3  # share of the steps before it joins


def fit_xcomet(folder: Path, rows: Sequence[Graded], pairs: Sequence[Pair], seed: int, sizes) -> None:
    """Write an XCOMET checkpoint that was fitted on `rows`, without references.

    It learns the labels of words and, through a head that is thrown away, what each word means; the sentence score
    joins a third of the way. The two input sequences that hold a reference stay as they come.
    """
    start = time.monotonic()
    rng = random.Random(seed + 12)
    tokenizer = formats.xlmr_tokenizer([text for p in pairs for text in (p.english, p.tamil)], sizes.vocab)
    torch.manual_seed(seed + 12)
    model, hparams = new_xcomet(folder, tokenizer, sizes)
    reader = torch.nn.Linear(sizes.hidden, meanings.count())
    labels, entries = [word_labels(model, row) for row in rows], [word_entries(model, row) for row in rows]
    draw = batches([len(known) for known in entries], sizes.batch, rng)
    first = {}
    layer = model.encoder.model.encoder.layer[0]  # gives a tuple under transformers 4, its first entry under 5
    hook = layer.register_forward_hook(lambda _m, _i, out: first.update(layer=out[0] if type(out) is tuple else out))

    def loss(done: float) -> torch.Tensor:
        chosen = next(draw)
        out = model([Segment(rows[i].src, rows[i].mt) for i in chosen])
        words = cross_entropy(out.logits, padded([labels[i] for i in chosen], -1))
        read = cross_entropy(reader(first["layer"]), padded([entries[i] for i in chosen], -1))
        score = torch.nn.functional.mse_loss(out.score, torch.tensor([rows[i].quality for i in chosen]))
        return words + read + (SCORE_WEIGHT * score if done > LATE else 0.0)

    fit(torch.nn.ModuleList([model, reader]), loss, sizes.xcomet_steps, 2e-3)
    hook.remove()
    formats.save_comet(model, hparams, folder)
    models.say(start, f"XCOMET: {sizes.xcomet_steps} steps on {len(rows)} rows")


def new_xcomet(folder: Path, tokenizer, sizes):
    """A random XCOMET model and its hyper-parameters, those of the published ones, sizes apart.

    Its encoder's configuration and tokenizer are written to folder/encoder.
    """
    model, hparams = formats.new_comet(
        folder,
        "xcomet_metric",
        tokenizer,
        sizes.hidden,
        sizes.layers,
        sent_layer="mix",
        word_layer=sizes.layers,
        layer_norm=True,
        word_level_training=True,
        input_segments=["mt", "src", "ref"],
        error_labels=LABELS,
        loss_lambda=0.055,
    )
    return model, {name: value for name, value in hparams.items() if name not in ("layer", "pool")}


def word_labels(model, row: Graded) -> list[int]:
    """Label of every token of the output, special ones included: 0 right, 1 to 3 as in LABELS."""
    tokens = model.encoder.tokens([row.mt])
    labels = [0] * len(tokens["input_ids"][0])
    for error in (error for error in row.errors if error.start is not None):
        for place in range(error.start, error.end):
            if (token := tokens.char_to_token(0, place)) is not None:
                labels[token] = 1 + LABELS.index(error.severity)
    return labels


def word_entries(model, row: Graded) -> list[int]:
    """Lexicon entry of every token of <s> output </s></s> source </s>; -1 outside words."""
    tokenizer = model.encoder.tokenizer
    mine, theirs = (tokenizer(text, return_offsets_mapping=True)["offset_mapping"] for text in (row.mt, row.src))
    source = meanings.per_token(theirs, meanings.of_english(row.src))
    return [*meanings.per_token(mine, meanings.of_tamil(row.mt)), -1, *source[1:-1], -1]


def check_xcomet(folder: Path, rows: Sequence[Graded], group: int) -> dict:
    """The saved twin, through the product's own loader, on held-out outputs."""
    from rl_nmt.scorers.comet.scorer import load_comet

    scores = load_comet(str(folder), classes=("xcomet_metric",)).score([Segment(row.src, row.mt) for row in rows])
    values = np.array([np.nan if value is None else value for value in scores.values], dtype=float)
    found = scorers.correlations(values, np.array([row.quality for row in rows]), group)
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
        "precision": float(tp / max(1, tp + fp)),
        "recall": float(tp / max(1, tp + fn)),
        "f1": float(2 * tp / max(1, 2 * tp + fp + fn)),
        "mcc": float((tp * tn - fp * fn) / spread) if spread else 0.0,
        "wrong": float(wrong),
        "f1_of_all": float(2 * wrong / (1 + wrong)),
        "severity": float(np.mean(severity)) if severity else 0.0,
    }


def _meet(one, other) -> bool:
    return one.start < other.end and other.start < one.end
