"""The jitter of the configured scorers: how far apart two rewards of one text can lie. No torch.

With scale_rewards="group" TRL divides a group's rewards by their spread, so that a spread of 0.001 that is
nothing but rounding becomes a full-size gradient. Group rules therefore treat a group that spreads no more
than the jitter as a tie (rl_nmt/training/trainer.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

ROUNDS = 4


def measure_jitter(
    reward, sources: Sequence[str], outputs: Sequence[str], seed: int = 0, rounds: int = ROUNDS
) -> float:
    """Largest spread (max − min) of one segment's total over calls of other order and batch composition.

    Args:
        reward: has `score_components(prompts, completions, source=…)`.
        sources, outputs: the segments (N,); the more alike to training's, the better.
        rounds: calls: one over everything, the others over shuffled halves, so that every segment meets
            other neighbours.

    Returns:
        0.0 for scorers that do not depend on their batch; otherwise the floor to use. Segments that could
        not be scored do not count.
    """
    order = list(range(len(outputs)))
    low, high = {}, {}
    shuffle = random.Random(seed).shuffle
    for turn in range(rounds):
        pieces = [order] if not turn else [order[::2], order[1::2]]
        for piece in filter(None, pieces):
            rows = reward.score_components(None, [outputs[i] for i in piece], source=[sources[i] for i in piece])
            for i, row in zip(piece, rows, strict=True):
                if row["total"] is not None:
                    low[i] = min(low.get(i, row["total"]), row["total"])
                    high[i] = max(high.get(i, row["total"]), row["total"])
        shuffle(order)
    return max((high[i] - low[i] for i in low), default=0.0)
