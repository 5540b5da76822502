"""Translate with a causal chat model: greedy answers of transformers' own `generate`."""

from pathlib import Path

import torch

from rl_nmt.backtranslation.families import SETTING
from rl_nmt.models import policy
from rl_nmt.models.generate import TRANSFORMERS_4
from rl_nmt.models.loading import full_precision


class ChatEngine:
    """A loaded chat model; see `TransformersEngine`. In float32 rows of a batch depend on each other by rounding alone.

    Raises ConfigError for a model that is not causal or lacks weights.
    """

    backend = "transformers"

    def __init__(self, folder: Path, tokenizer, device: str, dtype: str):
        precision = policy.Precision(device, getattr(torch, dtype), False, "")
        model = policy.load_policy(str(folder), tokenizer, precision, "sdpa", argument=SETTING)
        self.model = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.stops = tokenizer, policy.stop_ids(tokenizer)
        self.vocabulary = model.get_input_embeddings().num_embeddings
        self.longest_source = model.config.get_text_config().max_position_embeddings

    def generate(self, rows: list[list[int]], caps: list[int]) -> tuple[list[list[int]], int, int]:
        """See `TransformersEngine.generate`; rows with the same cap are generated together."""
        found: dict[int, list[int]] = {}
        padded = 0
        for cap in sorted(set(caps)):
            places = [i for i, own in enumerate(caps) if own == cap]
            padded += sum(len(rows[places[0]]) - len(rows[i]) for i in places)
            found |= zip(places, self._answers([rows[i] for i in places], cap), strict=True)
        ids = [found[i] for i in range(len(rows))]
        return ids, sum(not row or row[-1] not in self.stops for row in ids), padded

    def _answers(self, rows: list[list[int]], cap: int) -> list[list[int]]:
        """Return the new ids of each row, up to its first stop id; rows are left-padded to the first, the longest."""
        from transformers import GenerationConfig

        pad, width = self.tokenizer.pad_token_id, len(rows[0])
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        settings = GenerationConfig(do_sample=False, max_new_tokens=cap, eos_token_id=self.stops, pad_token_id=pad)
        own = {"use_model_defaults": False} if TRANSFORMERS_4 else {}  # of the checkpoint: temperature, top_k
        with full_precision():
            new = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **own)
        answers = new[:, width:].tolist()
        ends = [next((at + 1 for at, i in enumerate(row) if i in self.stops), len(row)) for row in answers]
        return [row[:end] for row, end in zip(answers, ends, strict=True)]

    def to(self, device: str) -> None:
        """Move the weights."""
        self.model.to(device)
