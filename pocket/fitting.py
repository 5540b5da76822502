"""How the pocket models are fitted: Muon for matrices, batches of like length, a rate that falls at the end."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch

from rl_nmt.progress import progress

ADAM_RATE = 0.25  # of Muon's rate: for embeddings, norms, biases and heads


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024, "Muon"; Newton-Schulz, five rounds).

    A pocket model learns which word stands for which in about half of AdamW's steps. torch.optim.Muon computes in
    bfloat16, which takes most CPUs longer than the whole step; here it is float32.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                kept.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(kept, group["momentum"])
                tall = x.shape[0] > x.shape[1]
                x = (x.T if tall else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    square = x @ x.T
                    x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
                p.add_(x.T if tall else x, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)


def train(
    model: torch.nn.Module,
    loss_of: Callable[[], torch.Tensor],
    steps: int,
    lr: float,
    ready: Callable[[int], bool] | None = None,
    what: str = "fitting",
) -> int:
    """Warm-up, constant rate `lr` (of Muon), and a last quarter of linear decay; returns the steps taken.

    With `ready` the constant part continues until it says so, asked after each `steps`, at most four times: small
    models learn slowly until they have found which word stands for which, and when that is depends on the seed.
    `what`: name of the line of progress.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and min(p.shape) > 1]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    optimizers = [(torch.optim.AdamW(others, lr=lr * ADAM_RATE, weight_decay=0.01, fused=True), lr * ADAM_RATE)]
    optimizers += [(Muon(matrices, lr=lr), lr)] if matrices else []
    decay, taken = max(1, steps // 4), 0
    bar = progress(what, steps + decay if ready else steps, "steps")

    def step(share: float) -> None:
        for optimizer, rate in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
        loss = loss_of()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        bar.update()

    with bar:
        for lap in range(4):
            model.train()
            for _ in range(steps if ready else steps - decay):
                taken += 1
                step(min(1.0, taken / 20))
            if ready is None or lap == 3 or ready(taken):
                break
            bar.total += steps
        model.train()
        for left in range(decay, 0, -1):
            step(left / decay)
    model.eval()
    return taken + decay


def fit(
    model: torch.nn.Module, loss_of: Callable[[float], torch.Tensor], steps: int, lr: float, what: str = "fitting"
) -> None:
    """AdamW with a short warm-up and then a linearly falling rate; `loss_of` gets the share of steps done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, betas=(0.9, 0.99))
    model.train()
    with progress(what, steps, "steps") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (step + 1) / 20) * (1 - step / steps)
            loss = loss_of(step / steps)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            bar.update()
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
