"""Score answers by their likelihood under a frozen causal language model, on a scale of people's answers."""

import contextlib
import math
from collections.abc import Callable, Sequence

import numpy as np

from rl_nmt.errors import ConfigError

MIN_SPREAD = 1.0  # nats: the scale is at least as wide, however alike people's answers are
TOKENS = 4096  # padded tokens in one forward pass


class Likelihood:
    """Mean log-probability per token, in nats, of an answer and its end of turn after the prompt of a source.

    `model`: a causal language model, or a PEFT model, whose adapters are off in the call: with LoRA the policy scores
    by its own frozen base, without another model in memory. `end`: the id that ends a turn; `make_prompt`:
    source → prompt; `adapted`: leave the adapters on.
    """

    def __init__(self, model, tokenizer, end: int, make_prompt: Callable[[str], str] = str, adapted: bool = False):
        self.model, self.tokenizer, self.end, self.make_prompt = model, tokenizer, end, make_prompt
        self.adapted = adapted

    def __call__(self, sources: Sequence[str], answers: Sequence[str]) -> list[float | None]:
        """Return one value per answer, in order; None where it is not finite."""
        from rl_nmt.models.generate import inference

        if not sources:
            return []
        before = self.tokenizer([self.make_prompt(source) for source in sources])["input_ids"]
        options = {"add_special_tokens": False, "split_special_tokens": True}
        after = [[*ids, self.end] for ids in self.tokenizer(list(answers), **options)["input_ids"]]
        lengths = [len(p) + len(a) for p, a in zip(before, after, strict=True)]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        values = [0.0] * len(lengths)
        off = contextlib.nullcontext if self.adapted else getattr(self.model, "disable_adapter", contextlib.nullcontext)
        with inference(self.model), off():
            while order:
                size = max(1, TOKENS // lengths[order[0]])
                batch, order = order[:size], order[size:]
                found = self._mean_log_probs([before[i] for i in batch], [after[i] for i in batch])
                for i, value in zip(batch, found, strict=True):
                    values[i] = value
        return [value if abs(value) < float("inf") else None for value in values]

    def _mean_log_probs(self, before: list[list[int]], after: list[list[int]]) -> list[float]:
        import torch

        rows = [p + a for p, a in zip(before, after, strict=True)]
        width, longest = max(map(len, rows)), max(map(len, after))
        device = self.model.device
        # Left-padded: the answers, which alone need logits, are the last tokens of every row.
        ids = torch.tensor([[self.end] * (width - len(row)) + row for row in rows], device=device)  # (B, L)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=places, logits_to_keep=longest + 1, use_cache=False
        )
        log_probs = out.logits[:, :-1].float().log_softmax(-1)  # (B, T, V)
        own = log_probs.gather(-1, ids[:, -longest:, None])[..., 0]  # (B, T)
        kept = torch.tensor([[0] * (longest - len(a)) + [1] * len(a) for a in after], device=device)
        return ((own * kept).sum(-1) / kept.sum(-1)).tolist()


def on_scale(log_prob: float | None, scale: tuple[float, float]) -> float | None:
    """Return where a mean log-probability is on the scale (low, high), clipped to 0 … 1; None if it is not finite."""
    if log_prob is None or not math.isfinite(log_prob):
        return None
    low, high = scale
    return min(1.0, max(0.0, (float(log_prob) - low) / (high - low)))


def calibrate(values: Sequence[float | None], setting: str) -> tuple[float, float]:
    """Return the scale (low, high), in nats, from the mean log-probabilities of people's answers.

    `high` is their lower quartile, `low` so far below that their 5 % quantile gets 0.75: three of four get 1, so that
    nothing is gained by being likelier than they are. `setting`: for messages. Raises ConfigError below five values.
    """
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if len(known) < 5:
        raise ConfigError(
            f"{setting}: {len(known)} of {len(values)} held-out answers have a log-probability, 5 are needed: hold out "
            f"more rows, or set {setting} 0"
        )
    few, high = map(float, np.quantile(known, (0.05, 0.25)))
    return high - max(MIN_SPREAD, 4 * (high - few)), high
