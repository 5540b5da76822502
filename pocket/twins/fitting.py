"""How both twins are fitted: batches of like length, a rate that falls from the first step on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch


def fit(model: torch.nn.Module, loss_of: Callable[[float], torch.Tensor], steps: int, lr: float) -> None:
    """AdamW with a short warm-up and then a linearly falling rate; `loss_of` gets the share of steps done.

    For the few steps there are, a rate that always falls beats one that stays and falls at the end
    (pocket/models.py `train`), and a second moment of a hundred steps one of a thousand.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
        loss = loss_of(step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def batches(lengths: Sequence[int], size: int, rng: random.Random, pool: int = 8) -> Iterator[list[int]]:
    """Endless batches of places: `pool` batches are drawn at once and cut by length, so that little is padded."""
    while True:
        drawn = sorted((rng.randrange(len(lengths)) for _ in range(pool * size)), key=lambda i: lengths[i])
        cut = [drawn[at : at + size] for at in range(0, len(drawn), size)]
        rng.shuffle(cut)
        yield from cut


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of unequal length as one tensor (B, L), filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the tokens that have a label: logits (B, L, C), labels (B, up to L) with -1 for none."""
    logits = logits[:, : labels.shape[1]]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-1)
