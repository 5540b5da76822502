"""From packed hidden states (packed_layers.py) to COMET's scores and XCOMET's error spans, without padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch

from rl_nmt.models.batching import distinct, run_batches
from rl_nmt.models.linears import prepacked_works
from rl_nmt.scorers.base import Segment, Span
from rl_nmt.scorers.comet.packed_layers import Pack, PackedEncoder
from rl_nmt.scorers.comet.padded_route import Route

PENALTY = {"minor": 1, "major": 5, "critical": 10}  # XCOMET's MQM weights, at most 25 a segment
WORST = 25


class PackedRoute(Route):
    """See the module; the encoder is one of `packed_layers.supported`, `linears` "torch", or else prepacked."""

    encoder: PackedEncoder
    word_layer: int | None = None  # whose hidden states are wanted as well

    def __init__(self, model: Any, name: str, joint: bool, dtype: torch.dtype, linears: str):
        super().__init__(model, name, joint, dtype)
        wanted = linears != "torch" and self.device.type == "cpu"
        self.linears = "prepacked" if wanted and prepacked_works() else "torch"
        hparams, mixing = model.hparams, model.layerwise_attention
        if mixing is None:
            self._weights = {int(hparams.get("sent_layer", hparams.get("layer"))): 1.0}
        else:
            logits = torch.cat(list(mixing.scalar_parameters)).detach().float()
            mixture = mixing.transform_fn(logits, dim=0).tolist()
            self._weights = {i: weight for i, weight in enumerate(mixture) if weight}
        # Sparsemax gives layers weight 0: those above the last that counts are never run.
        used = [*self._weights, *([] if self.word_layer is None else [self.word_layer])]
        self._pool = "cls" if joint else hparams.pool
        if self._pool == "default":
            used.append(model.encoder.num_layers - 1)
        normed = mixing is not None and mixing.layer_norm
        self._first_only = self._pool == "cls" and self.word_layer is None and not normed
        with torch.inference_mode():
            self.encoder = PackedEncoder(model.encoder.model, max(used), self._first_only, self.linears, dtype)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        return self._stacked(self._in_batches(self._tokens(texts)["input_ids"], self._pooled).values())

    def _joint(self, rows: list[Segment]) -> torch.Tensor:
        """The mean over their one or three input sequences."""
        return torch.stack([self._estimate(sequences) for sequences in self._sequences(rows)]).nanmean(0)

    def _estimate(self, sequences: Sequence[list[int] | None]) -> torch.Tensor:
        """Head over first tokens (N,); NaN for rows that lack this sequence."""
        vectors = self._in_batches(sequences, self._pooled)
        found = self.model.estimator(self._stacked(vectors.values())).view(-1)
        scores = torch.full((len(sequences),), float("nan"), device=self.device)
        # What did not fit is NaN; infinite it also spoils the mean over a segment's other sequences.
        scores[list(vectors)] = found.nan_to_num(nan=float("inf"))
        return scores

    def _tokens(self, texts: list[str]):
        """Ids as COMET's own encoder makes them: cut at its maximum less two."""
        encoder = self.model.encoder
        return encoder.tokenizer(texts, truncation=True, max_length=encoder.max_positions - 2)

    def _sequences(self, rows: list[Segment]) -> list[Sequence[list[int] | None]]:
        """The input sequences of joint models per row: [mt src], or [mt src], [mt ref], [mt src ref].

        None where a row has no such sequence (the two last, of a row without reference).
        """
        reads_source = "src" in self.model.hparams.input_segments
        texts, _ = distinct(text for row in rows for text in (row.mt, row.src, row.ref) if text is not None)
        pad = self.model.encoder.tokenizer.pad_token_id
        bare = [[t for t in ids if t != pad][1:-1] for ids in self._tokens(texts)["input_ids"]]
        tokens, sequences = dict(zip(texts, bare, strict=True)), []
        for row in rows:
            others = [tokens[row.src]] if reads_source else []
            others += [] if row.ref is None else [tokens[row.ref]]
            choices = [others] if len(others) < 2 else [others[:1], others[1:], others]
            sequences.append([self._join(tokens[row.mt], *chosen) for chosen in choices])
        return list(zip_longest(*sequences))

    def _join(self, first: list[int], *others: list[int]) -> list[int]:
        """<s> first </s></s> other </s> …, cut at the encoder's maximum as Encoder.concat_sequences does."""
        tokenizer, longest = self.model.encoder.tokenizer, self.model.encoder.max_positions
        start, stop = tokenizer.cls_token_id, tokenizer.sep_token_id
        joined = [start, *first, stop]
        for other in others:
            joined += [stop, *other, stop]
        special = 1 + self.model.encoder.size_separator * (1 + len(others))
        return joined[:longest] if len(first) + sum(map(len, others)) > longest - special else joined

    def _in_batches(self, sequences: Sequence[Any], run: Callable[[Pack], Iterable]) -> dict[int, Any]:
        """Row → its result of `run(pack)`, over length-sorted batches within the token budget.

        None for a sequence that did not fit into memory even alone; rows whose sequence is None are left out.
        """
        there = [i for i, sequence in enumerate(sequences) if sequence is not None]

        def encode(batch: list[int]) -> Iterable:
            pack = self.encoder.pack([sequences[there[k]] for k in batch])
            result = run(pack)
            self._count(len(batch), sum(pack.lengths), pack.padded)
            return result

        found = run_batches(encode, [len(sequences[i]) for i in there], self.budget, _unpadded, self.name)
        return dict(zip(there, found, strict=True))

    def _pooled(self, pack: Pack) -> torch.Tensor:
        """Sentence embeddings (N, H)."""
        mixed, top = self._mixed(pack)
        if self._first_only:
            return mixed
        if self._pool in ("cls", "default"):
            return (mixed if self._pool == "cls" else top)[pack.starts]
        # COMET leaves a literal <pad> out of the sum but counts it.
        real = pack.ids.ne(self.model.encoder.tokenizer.pad_token_id)[:, None]
        if self._pool == "max":
            mixed = mixed.masked_fill(~real, float("-inf"))
            return torch.stack([part.amax(0) for part in mixed.split(pack.lengths)])
        total = torch.zeros(len(pack.lengths), mixed.shape[1], device=mixed.device)
        total.index_add_(0, pack.sequence, mixed * real)
        return total / torch.tensor(pack.lengths, device=mixed.device)[:, None]

    def _mixed(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """COMET's mixture of hidden states (or its one layer), and the word layer's or the top one.

        (T, H) each; only first tokens (N, H) where nothing else is read.
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
    """XCOMET: scores, and the error spans that its tagger marks, as XCOMETMetric.predict_step makes them."""

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

    def _scored_and_tagged(self, pack: Pack) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per sequence its regression score () and the label probabilities (tokens, labels)."""
        mixed, word = self._mixed(pack)
        scores = self.model.estimator(mixed[pack.starts]).view(-1).clamp(max=1.0)
        probabilities = self.model.hidden2tag(word).softmax(-1).split(pack.lengths)
        return list(zip(scores, probabilities, strict=True))


def _normalised(hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    """(T, H) with mean 0 and variance 1 over all numbers of each sequence, as LayerwiseAttention's layer_norm."""
    width, n = hidden.shape[1], len(pack.lengths)
    count = torch.tensor(pack.lengths, device=hidden.device) * width

    def per_sequence(rows: torch.Tensor) -> torch.Tensor:  # (T,) → mean over the sequence, at each token (T, 1)
        return (torch.zeros(n, device=rows.device).index_add_(0, pack.sequence, rows) / count)[pack.sequence, None]

    centred = hidden - per_sequence(hidden.sum(1))
    return centred / torch.sqrt(per_sequence(centred.square().sum(1)) + 1e-12)


def _unpadded(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices, longest first, in batches of at most `token_budget` tokens; nothing is padded."""
    result: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[i] > room:
            result.append([])
            room = token_budget
        result[-1].append(i)
        room -= lengths[i]
    return result


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
