"""Turn packed hidden states (packed_layers.py) into COMET's scores and XCOMET's error spans, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rl_nmt.models.linears import prepacked_works
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet import varlen
from rl_nmt.scorers.comet.model import CometModel
from rl_nmt.scorers.comet.packed_layers import Pack, PackedEncoder
from rl_nmt.scorers.comet.route import Route

PENALTY = {"minor": 1, "major": 5, "critical": 10}  # XCOMET's MQM weights, at most 25 a segment
WORST = 25
# Weights of [mt src], [mt ref] and [mt src ref] in XCOMET's score (the rest is for its spans), and in its tags.
SCORE_SHARES, MQM_SHARE = (0.12, 0.33, 0.33), 0.22
TAG_SHARES = torch.tensor([0.1667, 0.3333, 0.5]).tolist()  # single precision, as in COMET


def unpadded(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return indices, longest first, in batches of at most `token_budget` tokens; nothing is padded."""
    result: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > room:
            result.append([])
            room = token_budget
        result[-1].append(i)
        room -= lengths[i]
    return result


class PackedRoute(Route):
    """See the module; the encoder must be `packed_layers.supported`.

    Unless `linears` is "torch", they are prepacked if the self-test passes; likewise varlen unless `attention` is
    "sdpa".
    """

    cut = staticmethod(unpadded)
    word_layer: int | None = None  # also return the hidden states of this layer

    def __init__(self, model: CometModel, name: str, dtype: torch.dtype, linears: str, attention: str):
        super().__init__(model, name, dtype)
        wanted = linears != "torch" and self.device.type == "cpu" and dtype != torch.float16  # few CPUs can
        self.linears = "prepacked" if wanted and prepacked_works() else "torch"
        config, kernel, reason = model.encoder.model.config, None, ""
        if attention != "sdpa":
            heads = config.num_attention_heads
            kernel, reason = varlen.choose(heads, config.hidden_size // heads, dtype, self.device)
        self.attention = "varlen" if kernel else f"sdpa (varlen: {reason})" if reason else "sdpa"
        mixing = model.layerwise_attention
        if mixing is None:
            self._weights = {int(model.layer): 1.0}
        else:
            self._weights = {i: weight for i, weight in enumerate(mixing.weights().tolist()) if weight}
        # Sparsemax gives some layers weight 0: those above the last with a weight are never run.
        used = [*self._weights, *([] if self.word_layer is None else [self.word_layer])]
        if model.pool == "default":
            used.append(model.encoder.num_layers - 1)
        normed = mixing is not None and mixing.layer_norm
        self._first_only = model.pool == "cls" and self.word_layer is None and not normed
        with torch.inference_mode():
            encoder = model.encoder.model
            self.encoder = PackedEncoder(encoder, max(used), self._first_only, self.linears, dtype, kernel)

    def _lay_out(self, sequences: list[list[int]]) -> tuple[Pack, int]:
        pack = self.encoder.pack(sequences)
        return pack, pack.padded

    def _pooled(self, pack: Pack) -> torch.Tensor:
        """Return sentence embeddings (N, H)."""
        mixed, top = self._mixed(pack)
        if self._first_only:
            return mixed
        if self.model.pool in ("cls", "default"):
            return (mixed if self.model.pool == "cls" else top)[pack.starts]
        # COMET leaves a literal <pad> out of the sum but counts it.
        real = pack.ids.ne(self.model.encoder.tokenizer.pad_token_id)[:, None]
        if self.model.pool == "max":
            mixed = mixed.masked_fill(~real, float("-inf"))
            return torch.stack([part.amax(0) for part in mixed.split(pack.lengths)])
        total = torch.zeros(len(pack.lengths), mixed.shape[1], device=mixed.device)
        total.index_add_(0, pack.sequence, mixed * real)
        return total / torch.tensor(pack.lengths, device=mixed.device)[:, None]

    def _mixed(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """Return COMET's mixture of hidden states (or its one layer), and the word layer's or the top one.

        (T, H) each; (N, H) if only first tokens are read.
        """
        mixing = self.model.layerwise_attention
        mixed, word = None, None
        for i, hidden in enumerate(self.encoder.hidden_states(pack)):
            if i == self.word_layer:
                word = hidden
            weight = self._weights.get(i)
            if weight is None:
                continue
            if self._first_only and hidden.shape[0] != len(pack.lengths):
                hidden = hidden[pack.starts]
            if mixing is not None and mixing.layer_norm:
                hidden = _normalised(hidden, pack)
            mixed = hidden * weight if mixed is None else mixed.add_(hidden, alpha=weight)
        if mixing is not None:
            mixed = mixed * mixing.gamma
        return mixed, hidden if word is None else word


class SpanRoute(PackedRoute):
    """XCOMET's scores and the error spans of its tagger, as XCOMETMetric.predict_step computes them."""

    def __init__(self, model: CometModel, *settings: Any):
        self.word_layer = int(model.hparams["word_layer"])
        super().__init__(model, *settings)

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Return scores (N,), the weighted sum of four parts (two without reference), and spans."""
        encoded = self.model.encoder.tokens([row.mt for row in rows])
        parts = [self._in_batches(sequences, self._scored_and_tagged) for sequences in self.model.sequences(rows)]
        spans: list[list[Span]] = []
        scores = []
        for i, row in enumerate(rows):
            pieces = [part[i] for part in (parts if row.ref is not None else parts[:1])]
            if any(piece is None for piece in pieces):  # one did not fit into memory
                spans.append([])
                scores.append(torch.tensor(float("nan"), device=self.device))
                continue
            regression, tagged = zip(*pieces, strict=True)
            if len(pieces) == 1:
                probabilities, score = tagged[0], regression[0] * sum(SCORE_SHARES)
            else:
                length = min(map(len, tagged))
                probabilities = sum(w * tags[:length] for w, tags in zip(TAG_SHARES, tagged, strict=True))
                score = sum(w * part for w, part in zip(SCORE_SHARES, regression, strict=True))
            offsets = encoded.encodings[i].offsets
            best, label = probabilities[: len(offsets)].max(-1)
            found = decode([self.model.labels[k] for k in label.tolist()], best.tolist(), offsets)
            spans.append(found)
            scores.append(score + mqm_score(found) * MQM_SHARE)
        return torch.stack(scores), spans

    def _scored_and_tagged(self, pack: Pack) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return each sequence's regression score () and label probabilities (tokens, labels)."""
        mixed, word = self._mixed(pack)
        scores = self.model.estimator(mixed[pack.starts]).view(-1).clamp(max=1.0)
        probabilities = self.model.hidden2tag(word).softmax(-1).split(pack.lengths)
        return list(zip(scores, probabilities, strict=True))


def _normalised(hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    """Return (T, H) with mean 0 and variance 1 over each sequence, as LayerwiseAttention's layer_norm."""
    width, n = hidden.shape[1], len(pack.lengths)
    count = torch.tensor(pack.lengths, device=hidden.device) * width

    def per_sequence(rows: torch.Tensor) -> torch.Tensor:  # (T,) → mean over the sequence, at each token (T, 1)
        return (torch.zeros(n, device=rows.device).index_add_(0, pack.sequence, rows) / count)[pack.sequence, None]

    centred = hidden - per_sequence(hidden.sum(1))
    return centred / torch.sqrt(per_sequence(centred.square().sum(1)) + 1e-12)


def decode(labels: Sequence[str], confidences: Sequence[float], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Return runs of error labels as spans, as UnifiedMetric.decode: a run has the severity of its first label and
    the mean confidence; a run that is still open at the end is not counted.

    Args:
        labels, confidences: per token the likeliest label ("O", "I-major", …) and its probability.
        offsets: the code points of each token.

    >>> decode(["O", "I-minor", "I-major", "O"], [1.0, 0.5, 0.7, 1.0], [(0, 0), (0, 2), (2, 5), (0, 0)])
    [Span(start=0, end=5, severity='minor', confidence=0.6, category=None)]
    """
    spans, run = [], []
    for i, label in enumerate(labels):
        if label != "O":
            run.append(i)
        elif run:
            confidence = sum(confidences[k] for k in run) / len(run)
            spans.append(Span(offsets[run[0]][0], offsets[run[-1]][1], labels[run[0]].split("-")[1], confidence))
            run = []
    return spans


def mqm_score(spans: Sequence[Span]) -> float:
    """Return 1 without errors, down to 0 at 25 penalty points."""
    return (WORST - min(WORST, sum(PENALTY[span.severity] for span in spans))) / WORST
