"""Turn segments into COMET scores: what is encoded, in which batches, and how results are matched to their rows.

The route here pads batches of similar length and runs transformers' own encoder, for encoders that packed_layers.py
does not reproduce.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from rl_nmt.models.batching import TokenBudget, batches, distinct, run_batches
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet.model import JOINT, CometModel


class Route(ABC):
    """Compute scores of segments, on the model's present device.

    Args:
        name: the setting that names the model, for messages.
        dtype: what linears and attention compute in.
    """

    linears, attention = "torch", "transformers"
    budget: TokenBudget  # for one call, like `stats`
    stats: dict[str, float]  # counts encoded sequences, their tokens, and positions with padding ("padded")
    cut: Callable[..., list[list[int]]] = staticmethod(batches)  # lengths to batches

    def __init__(self, model: CometModel, name: str, dtype: torch.dtype):
        self.model, self.name, self.dtype = model, name, dtype

    @property
    def kernels(self) -> dict[str, str]:
        """The kernels in use, for signatures."""
        return {"linears": self.linears, "attention": self.attention}

    @property
    def device(self) -> torch.device:
        """The model's present device."""
        return self.model.encoder.model.get_input_embeddings().weight.device

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Return scores (N,) of distinct rows, and XCOMET's spans."""
        return (self._joint(rows) if self.model.kind in JOINT else self._apart(rows)), None

    def _joint(self, rows: list[Segment]) -> torch.Tensor:
        """Return scores (N,) of unified models: the mean over their one or three input sequences."""
        return torch.stack([self._estimate(sequences) for sequences in self.model.sequences(rows)]).nanmean(0)

    def _apart(self, rows: list[Segment]) -> torch.Tensor:
        """Return scores (N,) of classes that encode sentences separately; each distinct sentence is encoded once."""
        parts = [(r.src, r.mt, r.ref) if r.ref is not None else (r.src, r.mt) for r in rows]
        texts, place = distinct(text for part in parts for text in part)
        embedding = self._stacked(self._in_batches(self.model.encoder.tokens(texts)["input_ids"], self._pooled))
        columns = torch.tensor(place, device=embedding.device).view(len(rows), -1).unbind(1)
        return self.model.estimate(*(embedding[column] for column in columns))  # of (N, H) each

    def _estimate(self, sequences: Sequence[list[int] | None]) -> torch.Tensor:
        """Apply the estimator to first tokens (N,); NaN for rows without this sequence."""
        vectors = self._in_batches(sequences, self._pooled)
        found = self.model.estimator(self._stacked(vectors)).view(-1)
        scores = torch.full((len(sequences),), float("nan"), device=self.device)
        # A segment's mean ignores NaN. A sequence that did not fit into memory is inf, which makes the mean invalid.
        scores[list(vectors)] = found.float().nan_to_num(nan=float("inf"))
        return scores

    def _in_batches(self, sequences: Sequence[Any], run: Callable[[Any], Iterable]) -> dict[int, Any]:
        """Return row → its result of `run(batch)`, over length-sorted batches within the token budget.

        None for a sequence that did not fit into memory even alone; rows whose sequence is None are left out.
        """
        there = [i for i, sequence in enumerate(sequences) if sequence is not None]

        def encode(chosen: list[int]) -> Iterable:
            ids = [sequences[there[k]] for k in chosen]
            batch, padded = self._lay_out(ids)
            result = run(batch)
            for name, number in (("encoded", len(ids)), ("tokens", sum(map(len, ids))), ("padded", padded)):
                self.stats[name] += number
            return result

        found = run_batches(encode, [len(sequences[i]) for i in there], self.budget, self.cut, self.name)
        return dict(zip(there, found, strict=True))

    @abstractmethod
    def _lay_out(self, sequences: list[list[int]]) -> tuple[Any, int]:
        """Return a batch, longest first, as `_pooled` takes it, and its number of positions."""

    @abstractmethod
    def _pooled(self, batch: Any) -> torch.Tensor:
        """Return sentence embeddings (N, H)."""

    def _stacked(self, vectors: dict[int, torch.Tensor | None]) -> torch.Tensor:
        """Return embeddings (U, H); NaN for sequences that could not be encoded."""
        nothing = torch.full((self.model.encoder.output_units,), float("nan"), device=self.device)
        return torch.stack([nothing if vector is None else vector.float() for vector in vectors.values()])


class PaddedRoute(Route):
    """See the module."""

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if low else None, enabled=low):
            return super().scores(rows)

    def _lay_out(self, sequences: list[list[int]]) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:
        ids, mask = self.model.encoder.pad(sequences)
        return (ids, mask), ids.numel()

    def _pooled(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.model.embed(*batch)
