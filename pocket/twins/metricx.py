"""A MetricX-24-format twin: error points of (source, translation), 0 to 25, with or without a reference.

mT5 classes, 250,112 words of which only the first few are ever read, and the score at the logit of number 250,089,
as published. It is fitted over its small vocabulary alone; the published width is put around it when it is saved.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pocket import formats, models, scorers
from pocket.fitting import batches, cross_entropy, fit, padded
from pocket.grammar import Pair
from pocket.twins import meanings
from pocket.twins.damage import POINTS, points
from pocket.twins.graded import Graded
from pocket.twins.meanings import per_token
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.metricx import SCORE_ID, WORST

WORDS = 250_112
LABELS = tuple(POINTS)  # of a token that carries an error, from 1 on; 0 carries none
BLOCK = 4096  # bytes of a hole in a file
SPREAD = 10.0  # points that one unit of the fitted row stands for, so that it moves as fast as other weights
SCORE_WEIGHT = 0.3  # of the score beside the words: more, and it fits sentences before it knows their words
SMALL = 0.03  # size of new embeddings and outputs of layers: at mT5's own size rare words are never learned


def fit_metricx(folder: Path, rows: Sequence[Graded], pairs: Sequence[Pair], seed: int, sizes) -> None:
    """Write a MetricX checkpoint with its tokenizer, fitted to the `goal` of `rows`.

    Beside the score it learns which words are wrong, which of the source are lost, and what each word means, through
    heads that are thrown away. A share of the inputs shows the reference as well.
    """
    start = time.monotonic()
    rng = random.Random(seed + 13)
    torch.manual_seed(seed + 13)
    texts = (f"source: {pair.english} candidate: {pair.tamil}" for pair in pairs)
    tokenizer = formats.mt5_tokenizer(folder, [*texts, "reference:"], sizes.vocab)
    twin = Twin(tokenizer, sizes)
    plain = [encode(tokenizer, row, False) for row in rows]
    shown = [encode(tokenizer, row, True) for row in rows]
    goals = torch.tensor([goal(row) for row in rows])
    draw = batches([len(tokens.ids) for tokens in plain], sizes.batch, rng)

    def loss(_done: float) -> torch.Tensor:
        chosen = next(draw)
        inputs = shown if rng.random() < sizes.with_reference else plain
        score, words = twin.losses([inputs[i] for i in chosen], goals[chosen])
        return SCORE_WEIGHT * score + words

    fit(twin, loss, sizes.metricx_steps, 2e-3)
    save_metricx(twin, folder)
    models.say(start, f"MetricX: {sizes.metricx_steps} steps on {len(rows)} rows")


def goal(row: Graded) -> float:
    """What a row should score, 0 to 25: the mean of its error points and of what chrF++ takes off.

    Points alone make too much of one severity against the next for so small a model.
    """
    return 0.5 * points(row.errors) + 0.5 * WORST * (1 - row.quality)


@dataclass(frozen=True)
class Tokens:
    """One input: token ids without the end marker, and per token a label and a lexicon entry (-1: none is asked)."""

    ids: list[int]
    labels: list[int]
    entries: list[int]


def encode(tokenizer, row: Graded, with_reference: bool) -> Tokens:
    """The published input of a row; a token that touches an error, of the source a lost word, has its severity."""
    source = len("source: ")
    output = source + len(f"{row.src} candidate: ")
    text = f"source: {row.src} candidate: {row.mt}" + (f" reference: {row.ref}" if with_reference else "")
    wrong = []
    for error in row.errors:
        if error.start is None:
            at = source + max(0, row.src.find(error.source))
            wrong.append((at, at + len(error.source), 1 + LABELS.index(error.severity)))
        else:
            wrong.append((output + error.start, output + error.end, 1 + LABELS.index(error.severity)))
    asked = [(source, source + len(row.src), 0), (output, output + len(row.mt), 0)]
    words = [(start + source, end + source, n) for start, end, n in meanings.of_english(row.src)]
    words += [(start + output, end + output, n) for start, end, n in meanings.of_tamil(row.mt)]
    encoded = tokenizer(text, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"][:-1]
    labels, entries = (
        per_token(offsets, [(start - 1, end, n) for start, end, n in ranges])  # the blank in front is a word's own
        for ranges in (wrong + asked, words)
    )
    return Tokens(encoded["input_ids"][:-1], labels, entries)


class Twin(torch.nn.Module):
    """The mT5 while it is fitted: over its small vocabulary, with the score's row apart and two heads for words."""

    def __init__(self, tokenizer, sizes):
        from transformers import MT5Config, MT5ForConditionalGeneration

        super().__init__()
        width = sizes.hidden
        config = MT5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=width // 4,
            d_ff=2 * width,
            num_heads=4,
            num_layers=sizes.layers,
            num_decoder_layers=1,
            dropout_rate=0.0,
            tie_word_embeddings=False,
        )
        self.mt5 = MT5ForConditionalGeneration(config)
        del self.mt5.lm_head
        with torch.no_grad():
            for name, weight in self.mt5.named_parameters():
                if name.endswith(("shared.weight", ".o.weight", ".wo.weight")):
                    weight.mul_(SMALL)
        self.row = torch.nn.Parameter(torch.zeros(width))
        self.tagger = torch.nn.Linear(width, 1 + len(LABELS))
        self.reader = torch.nn.Linear(width, meanings.count())

    def losses(self, batch: list[Tokens], goals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of the score in units of SPREAD, and cross-entropy of labels and entries."""
        ids = padded([row.ids for row in batch], 0)
        mask = padded([[1] * len(row.ids) for row in batch], 0)
        encoded = self.mt5.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        first = encoded.hidden_states[1]  # (B, L, d): words are read in the first layer, compared in the next
        first = first * torch.rsqrt(first.square().mean(-1, keepdim=True) + 1e-6)
        labels = cross_entropy(self.tagger(encoded.last_hidden_state), padded([row.labels for row in batch], -1))
        entries = cross_entropy(self.reader(first), padded([row.entries for row in batch], -1))
        step = self.mt5.decoder(
            input_ids=torch.zeros(len(batch), 1, dtype=torch.long),
            encoder_attention_mask=mask,
            use_cache=False,
            encoder_hidden_states=encoded.last_hidden_state,
        ).last_hidden_state[:, 0]  # (B, d)
        return (step @ self.row - goals / SPREAD).square().mean(), labels + entries


def save_metricx(twin: Twin, folder: Path) -> None:
    """The published layout: every row of 250,112 words, all zero but those that are read. Holes take no disk."""
    from safetensors.torch import save_file

    config = twin.mt5.config
    config.vocab_size, config.architectures = WORDS, ["MT5ForRegression"]
    config.save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))  # transformers 5 says that it is tied
    (folder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False}), encoding="utf-8")
    known = {name: weight.detach() for name, weight in twin.mt5.state_dict().items() if "embed_tokens" not in name}
    small = known.pop("shared.weight")
    shared = torch.zeros(WORDS, config.d_model)
    shared[: len(small)] = small
    head = torch.zeros(WORDS, config.d_model)
    head[SCORE_ID] = SPREAD * twin.row.detach()
    weights = {name: weight.contiguous() for name, weight in known.items()}
    weights |= {"shared.weight": shared, "lm_head.weight": head}
    draft = folder / "model.draft"
    save_file({n: w.to(torch.bfloat16) for n, w in weights.items()}, draft, metadata={"format": "pt"})
    with draft.open("rb") as full, (folder / "model.safetensors").open("wb") as sparse:
        while block := full.read(BLOCK):
            if any(block):
                sparse.write(block)
            else:
                sparse.seek(len(block), 1)
        sparse.truncate()
    draft.unlink()


def check_metricx(folder: Path, rows: Sequence[Graded], group: int) -> dict:
    """The saved twin, through the product's own loader, on held-out outputs; its errors are turned into quality."""
    from rl_nmt.scorers.metricx import load_metricx

    scorer = load_metricx(folder)
    scores = scorer.score([Segment(row.src, row.mt) for row in rows])
    values = np.array([np.nan if value is None else WORST - value for value in scores.values], dtype=float)
    found = scorers.correlations(values, np.array([row.quality for row in rows]), group)
    known = np.array([WORST - points(row.errors) for row in rows])
    return found | {"points": scorers.correlations(values, known, group)}
