"""XCOMET: scores and the error spans that its tagger marks, as XCOMETMetric.predict_step makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet import packed_layers
from rl_nmt.scorers.comet.packed_route import PackedRoute

PENALTY = {"minor": 1, "major": 5, "critical": 10}  # XCOMET's MQM weights, at most 25 a segment
WORST = 25


class SpanRoute(PackedRoute):
    """The packed route of XCOMET; arguments as there."""

    def __init__(self, model: Any, *settings: Any):
        self.word_layer = int(model.hparams.word_layer)
        super().__init__(model, *settings)

    def scores(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Scores (N,) and spans: four weighted parts, or two without reference."""
        weights, labels = self.model.score_weights, self.model.label_encoder.ids_to_label
        encoded = self._tokens([row.mt for row in rows])
        parts = [self._in_batches(sequences, self._scored_and_tagged) for sequences in self._sequences(rows)]
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
                probabilities, score = tagged[0], regression[0] * sum(weights[:3])
            else:
                shares = self.model.input_weights_spans.tolist()
                length = min(map(len, tagged))
                probabilities = sum(w * tags[:length] for w, tags in zip(shares, tagged, strict=True))
                score = sum(w * part for w, part in zip(weights, regression, strict=False))
            offsets = encoded.encodings[i].offsets
            best, label = probabilities[: len(offsets)].max(-1)
            found = decode([labels[k] for k in label.tolist()], best.tolist(), offsets)
            spans.append(found)
            scores.append(score + mqm_score(found) * weights[3])
        return torch.stack(scores), spans

    def _scored_and_tagged(self, pack: packed_layers.Pack) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per sequence its regression score () and the label probabilities (tokens, labels)."""
        mixed, word = self._mixed(pack)
        scores = self.model.estimator(mixed[pack.starts]).view(-1).clamp(max=1.0)
        probabilities = self.model.hidden2tag(word).softmax(-1).split(pack.lengths)
        return list(zip(scores, probabilities, strict=True))


def decode(labels: Sequence[str], confidences: Sequence[float], offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Runs of error labels as spans, as UnifiedMetric.decode: the first label gives a run its severity, its
    confidence is the mean, and a run that is still open at the end is not counted.

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
    """1 without errors, down to 0 at 25 penalty points."""
    return (WORST - min(WORST, sum(PENALTY[span.severity] for span in spans))) / WORST
