"""COMET's own encoders in padded batches of similar length: for whatever packed_layers.py does not reproduce."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from rl_nmt.models.batching import TokenBudget, distinct, run_batches
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet.packed_layers import PackedEncoder


class Route:
    """How segments become scores; `encoder` is None where COMET's own encoder does the work.

    Args:
        model: of COMET; it is read for where it is now.
        name: of the model, for messages.
        joint: whether it reads translation, source and reference as one sequence.
        dtype: what linears and attention compute in.
    """

    encoder: PackedEncoder | None = None
    linears = "torch"
    budget: TokenBudget  # for one call, as the next
    stats: dict[str, float]  # counts encoded sequences, their tokens, and positions with padding ("padded")

    def __init__(self, model: Any, name: str, joint: bool, dtype: torch.dtype):
        self.model, self.name, self.is_joint, self.dtype = model, name, joint, dtype

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return self.model.encoder.model.get_input_embeddings().weight.device

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Scores (N,) of distinct rows, and XCOMET's spans."""
        return (self._joint(rows) if self.is_joint else self._apart(rows)), None

    def _joint(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of unified models."""
        raise NotImplementedError

    def _embed(self, texts: list[str]) -> torch.Tensor:
        """Sentence embeddings (U, H) of distinct texts."""
        raise NotImplementedError

    def _apart(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of the classes that encode each sentence by itself: every distinct one once."""
        parts = [(r.src, r.mt, r.ref) if r.ref is not None else (r.src, r.mt) for r in rows]
        texts, place = distinct(text for part in parts for text in part)
        embedding = self._embed(texts)  # (U, H)
        columns = torch.tensor(place, device=embedding.device).view(len(rows), -1).unbind(1)
        src, mt, *ref = (embedding[column] for column in columns)  # (N, H) each
        if ref:
            return self.model.estimate(src, mt, ref[0]).score
        # as ReferencelessRegression.forward
        features = torch.cat((mt, src, mt * src, (mt - src).abs()), dim=1)
        return self.model.estimator(features).view(-1)

    def _count(self, sequences: int, tokens: int, padded: int) -> None:
        for name, number in (("encoded", sequences), ("tokens", tokens), ("padded", padded)):
            self.stats[name] += number

    def _stacked(self, vectors: Iterable[torch.Tensor | None]) -> torch.Tensor:
        """Embeddings (U, H); NaN for what could not be encoded."""
        nothing = torch.full((self.model.encoder.output_units,), float("nan"), device=self.device)
        return torch.stack([nothing if vector is None else vector.float() for vector in vectors])


class PaddedRoute(Route):
    """See the module."""

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if low else None, enabled=low):
            return super().scores(rows)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        inputs = self.model.encoder.prepare_sample(texts)
        lengths = inputs["attention_mask"].sum(1).tolist()

        def run(batch: list[int]) -> torch.Tensor:
            tensors = self._cut(inputs, batch)
            return self.model.get_sentence_embedding(tensors["input_ids"], tensors["attention_mask"])

        return self._stacked(run_batches(run, lengths, self.budget, argument=self.name))

    def _joint(self, rows: list[Segment]) -> torch.Tensor:
        scores = torch.full((len(rows),), float("nan"), device=self.device)
        for with_ref in (False, True):
            chosen = [i for i, row in enumerate(rows) if (row.ref is not None) == with_ref]
            if not chosen:
                continue
            # The key `ref` decides the mode, even when empty, so it is there or not for a whole batch.
            keys = ("src", "mt", "ref") if with_ref else ("src", "mt")
            inputs = self.model.prepare_sample(
                [{k: getattr(rows[i], k) for k in keys} for i in chosen], stage="predict"
            )
            lengths = torch.stack([part["attention_mask"].sum(1) for part in inputs]).amax(0).tolist()

            def score(batch: list[int], inputs=inputs) -> torch.Tensor:
                return torch.stack([self.model(**self._cut(part, batch)).score for part in inputs]).mean(0).float()

            for i, value in zip(chosen, run_batches(score, lengths, self.budget, argument=self.name), strict=True):
                scores[i] = scores[i] if value is None else value
        return scores

    def _cut(self, inputs: dict, batch: list[int]) -> dict[str, torch.Tensor]:
        """Rows `batch` of padded `inputs` (N, L), cut to their own longest length, on the device."""
        real = int(inputs["attention_mask"][batch].sum(1).max())
        wanted = ("input_ids", "attention_mask", "token_type_ids")
        cut = {k: inputs[k][batch][:, :real].to(self.device) for k in wanted if k in inputs}
        self._count(len(batch), int(cut["attention_mask"].sum()), len(batch) * real)
        return cut
