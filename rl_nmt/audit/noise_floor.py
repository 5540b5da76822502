"""The jitter of the configured scorers: how far apart two rewards of one text can lie. No torch.

TRL divides a group's rewards by their spread, so rounding would become a full-size gradient. Group rules therefore
treat a group that spreads no more than the jitter as a tie (rl_nmt/training/trainer.py; docs/details.md, 15).
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from rl_nmt.audit.launch_gate import Reward

ROUNDS = 4  # the first over everything, the others over shuffled halves: every segment meets other neighbours


def measure_jitter(reward: Reward, sources: Sequence[str], outputs: Sequence[str]) -> float:
    """Largest spread (max − min) of one segment's total over calls of other order and batch composition.

    Sources and outputs: the segments (N,); the more alike to training's, the better. 0.0 for scorers that do not
    depend on their batch; otherwise the floor to use. Segments that could not be scored do not count.
    """
    order = list(range(len(outputs)))
    totals: dict[int, list[float]] = defaultdict(list)
    shuffle = random.Random(0).shuffle
    for turn in range(ROUNDS):
        for piece in filter(None, [order[::2], order[1::2]] if turn else [order]):
            rows = reward.score_components(None, [outputs[i] for i in piece], source=[sources[i] for i in piece])
            for i, row in zip(piece, rows, strict=True):
                if row["total"] is not None:
                    totals[i].append(row["total"])
        shuffle(order)
    return max((max(found) - min(found) for found in totals.values()), default=0.0)
