"""A Gemma 3 that knows English and Tamil of one pocket world, in both directions and each alone.

It reads what rl_nmt/scorers/reconstruction.py writes: worked examples, then one side after the other, or after nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken

from pocket import formats, models, scorers
from pocket.fitting import padded, train
from pocket.grammar import Pair
from pocket.twins.graded import Graded
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.reconstruction import EXAMPLES, SCALE_PAIRS

NAMES = ("English", "Tamil")
WORKED = "worked.jsonl"  # right pairs: the setting worked_examples
WORKED_PAIRS = EXAMPLES + SCALE_PAIRS  # in the prompt, and for the scale
ALONE = 0.25  # share of pairs whose given side is empty


def fit_language_model(folder: Path, world: Path, seed: int, sizes) -> None:
    """Write the model, with the policy's tokenizer, to folder/model, and worked pairs to folder/worked.jsonl."""
    start, pairs = time.monotonic(), models.known_pairs(seed, sizes)
    rng = random.Random(seed + 21)
    write_worked(folder / WORKED, rng.sample(pairs, WORKED_PAIRS))
    tokenizer = models.load_policy(world / "policy")[1]
    # One token each, as a pair is short; so a text after them is spelled as it is alone.
    tokenizer.add_tokens([AddedToken(f"{name}:", normalized=False) for name in NAMES])
    torch.manual_seed(seed + 21)
    model = formats.new_gemma(tokenizer, sizes.lm_hidden, sizes.lm_layers)
    drawn = lessons(pairs, sizes.lm_batch, rng)
    train(model, lambda: loss(model, tokenizer, next(drawn)), sizes.lm_steps, sizes.lm_rate, what="language model")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    models.say(start, f"language model: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def write_worked(file: Path, pairs: Sequence[Pair]) -> None:
    rows = ({"source": pair.english, "reference": pair.tamil} for pair in pairs)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def lessons(pairs: Sequence[Pair], batch: int, rng: random.Random) -> Iterator[list[list[tuple[str, str]]]]:
    """Endless batches of sequences of EXAMPLES + 1 blocks, each in one direction."""
    for drawn in models.like_lengths(pairs, rng):
        rng.shuffle(drawn)
        found = []
        for at in range(0, min(batch, len(drawn)), EXAMPLES + 1):
            turned = rng.random() < 0.5
            found.append([block(pair, turned, rng) for pair in drawn[at : at + EXAMPLES + 1]])
        yield found


def block(pair: Pair, turned: bool, rng: random.Random) -> tuple[str, str]:
    """Return the prompt's text before the scored one, and that."""
    (given, scored), (asked, other) = (pair.english, pair.tamil), NAMES
    if turned:
        given, scored, asked, other = scored, given, other, asked
    given = "" if rng.random() < ALONE else given
    return f"{asked}: {given}".rstrip() + f"\n{other}:", f" {scored}"


def loss(model, tokenizer, batch: list[list[tuple[str, str]]]) -> torch.Tensor:
    """Cross-entropy on the scored texts."""
    texts = [text for sequence in batch for before, scored in sequence for text in (before, scored, "\n\n")]
    pieces = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows, labels = [], []
    for sequence in batch:
        ids, asked = [tokenizer.bos_token_id], [-1]
        for _ in sequence:
            before, scored, end = next(pieces), next(pieces), next(pieces)
            ids += before + scored + end
            asked += [-1] * len(before) + scored + [-1] * len(end)
        rows.append(ids)
        labels.append(asked)
    ids, wanted = padded(rows, 0), padded(labels, -1)[:, 1:]  # (B, L), (B, L - 1)
    states = model.model(input_ids=ids).last_hidden_state[:, :-1]  # what is padded stands behind all that counts
    seen = wanted >= 0
    return torch.nn.functional.cross_entropy(model.lm_head(states[seen]), wanted[seen])


def load_scorers(folder: Path) -> dict[str, object]:
    """The scorers that the setting `likelihood` makes of the model and its worked pairs: cycle and qe."""
    from rl_nmt.data import tables
    from rl_nmt.scorers.reconstruction import Worked, load_reconstruction

    worked = Worked(NAMES, [(pair.source, pair.output) for pair in tables.read_pairs(str(folder / WORKED), WORKED)])
    sides = {"cycle": "source", "qe": "translation"}
    return {part: load_reconstruction(folder / "model", worked=worked, side=side) for part, side in sides.items()}


def check_language_model(folder: Path, rows: Sequence[Graded], group: int) -> dict:
    """Both scorers, through the product's own loader, on held-out outputs."""
    quality, found = np.array([row.quality for row in rows]), {}
    for part, scorer in load_scorers(folder).items():
        values = scorer.score([Segment(row.src, row.mt) for row in rows]).values
        values = np.array([np.nan if value is None else value for value in values], dtype=float)
        found[part] = scorers.correlations(values, quality, group) | {"scale": list(scorer.scale)}
        found[part] |= {"at 0": float(np.mean(values == 0)), "at 1": float(np.mean(values == 1))}
    return found
