"""COMET judges (DA, COMETKiwi, reference-less regression, XCOMET), resident and without a Lightning Trainer.

Same numbers as `model.predict` of unbabel-comet 2.2.7 (tests: within 1e-5 on CPU), other route: the model
stays on its device, each distinct sentence is tokenised and encoded once, and no padding is computed
(rl_nmt/scorers/packed.py). Encoders other than XLM-RoBERTa's family take padded batches of similar length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rl_nmt.batching import distinct
from rl_nmt.errors import ConfigError
from rl_nmt.hub import split_revision
from rl_nmt.memory import TokenBudget, run_batches
from rl_nmt.scorers import packed
from rl_nmt.scorers.base import (
    Scores,
    Segment,
    Span,
    fingerprint,
    full_precision,
    loading,
    require_device,
    torch_dtype,
    versions,
)
from rl_nmt.scorers.comet_checkpoint import TOKENIZER_FILES, checkpoint_file, load_model

CLASSES = ("regression_metric", "unified_metric", "referenceless_regression_metric", "xcomet_metric")
JOINT = ("unified_metric", "xcomet_metric")  # read translation, source and reference as one sequence
PENALTY = {"minor": 1, "major": 5, "critical": 10}  # XCOMET's MQM weights, at most 25 a segment
# Segments that measure what a lower precision costs; any text does, these are of several lengths.
PROBE = tuple(
    Segment(" ".join(src), " ".join(mt), " ".join(src))
    for src, mt in (
        (["a"], ["b"]), (["1", "2", "3"], ["3", "2"]), (["The door is open."], ["கதவு திறந்திருக்கிறது."]),
        (["Rain fell on the hills."] * 3, ["மலைகளில் மழை பெய்தது."] * 2), (["x y z"] * 20, ["z y x"] * 25),
    )
)  # fmt: skip


def load_comet(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    linears: str = "auto",
    token_budget: int = 8192,
    overlong: str = "truncate",
    argument: str = "comet_model",
    classes: Sequence[str] = CLASSES,
) -> CometScorer:
    """Load a COMET checkpoint once; it stays on `device`.

    Args:
        name_or_path: a folder with hparams.yaml and checkpoints/model.ckpt, the .ckpt itself, or a hub name.
        device: "cpu", "cuda" or "cuda:N".
        dtype: what linears and attention compute in: "float32", or "bfloat16" or "float16" (CUDA only),
            whose score error is measured at load and stands in the signature.
        linears: "torch", "prepacked" (weights in oneDNN's layout: faster on a CPU, at twice their memory),
            or "auto": prepacked on a CPU where it passes its self-test.
        token_budget: most tokens that go through the encoder at once; less where memory runs out.
        overlong: "truncate" texts that are longer than the encoder reads (512 tokens, for unified models and
            XCOMET of all texts together), as COMET does, or "skip" such segments (no score).
        argument: the setting that names this model, for messages.
        classes: class identifiers accepted in this place.

    Raises:
        ConfigError: a path that is not there, a damaged or incomplete checkpoint, another class, or a
            device, dtype or kind of linears that cannot be had.
        MissingService: the hub cannot be reached, or wants the licence accepted first.
    """
    require_device(argument, device)
    torch_dtype(argument, dtype, device)
    if linears not in ("auto", "torch", "prepacked"):
        raise ConfigError(f"linears: {linears!r} is unknown; use auto, torch or prepacked")
    if linears == "prepacked" and (torch.device(device).type != "cpu" or not packed.prepacked_works()):
        raise ConfigError(f"linears: prepacked is not to be had on {device} here; use auto or torch")
    if overlong not in ("truncate", "skip"):
        raise ConfigError(f"overlong: {overlong!r} is unknown; use truncate or skip")
    checkpoint = checkpoint_file(argument, str(name_or_path))
    with loading():
        model, kind, encoder = load_model(argument, checkpoint, tuple(classes))
    if kind == "xcomet_metric" and not packed.supported(model.encoder.model):
        raise ConfigError(f"{argument}: {checkpoint} has an encoder that XCOMET was never published with")
    return CometScorer(
        model.to(device), kind, checkpoint, encoder, name_or_path, dtype, linears, token_budget, overlong == "skip"
    )


class CometScorer:
    """A loaded COMET model; see `load_comet`. A `Scorer`.

    `stats` describes the last call: rows, distinct rows, encoded sequences, their tokens, and the share of
    padding in what was computed. XCOMET also marks error spans in `mt`, with the confidence of its tagger.
    """

    range = (0.0, 1.0)
    higher_is_better = True

    def __init__(
        self, model, kind: str, checkpoint: Path, encoder: Path, name, dtype: str, linears: str, token_budget: int,
        skip_overlong: bool = False,
    ):  # fmt: skip
        if token_budget < 1:
            raise ConfigError(f"token_budget: {token_budget} must be at least 1")
        self.model = model.eval().requires_grad_(False)  # COMET builds its models in train mode
        self.kind, self.dtype, self._budget = kind, dtype, TokenBudget(token_budget)
        self.skip_overlong = skip_overlong
        root = checkpoint.parents[1]
        on_hub = not Path(name).expanduser().exists()
        self.name = split_revision(str(name))[0] if on_hub else root.resolve().name
        self.revision = root.name if on_hub else None  # the hub cache calls a snapshot's folder by its commit
        self._checkpoint = fingerprint(checkpoint)
        self._tokenizer = next(
            (fingerprint(encoder / f) for f in TOKENIZER_FILES if (encoder / f).is_file()), None
        )
        self.stats: dict[str, float] = {}
        self._linears = linears
        self._use(dtype)
        self.dtype_error = self._measure_error() if dtype != "float32" else 0.0

    @property
    def token_budget(self) -> int:
        """Most tokens at once while memory lasts."""
        return self._budget.full

    @token_budget.setter
    def token_budget(self, tokens: int) -> None:
        self._budget = TokenBudget(tokens)

    @property
    def needs_reference(self) -> bool:
        """Does every segment have to carry a `ref`?"""
        return self.model.requires_references()

    @property
    def reads_reference(self) -> bool:
        """Does a `ref` change the score at all? (COMETKiwi and reference-less models ignore it.)"""
        return self.kind == "regression_metric" or "ref" in self.model.hparams.get("input_segments", ())

    def to(self, device: str) -> CometScorer:
        """Move the model for good. Raises ConfigError for a device that is not there."""
        self.model.to(require_device("device", device))
        self._use(self.dtype)
        return self

    def score(self, segments: Sequence[Segment]) -> Scores:
        """One value per segment, about 0 to 1, order kept; None where the model gave no finite number, or where the
        segment did not fit into memory even alone.

        An empty translation gets the ordinary score COMET gives it. XCOMET: also the spans, [] for none.

        Raises:
            ConfigError: a segment without `ref` where the class needs one.
        """
        rows, index = distinct(self._readable(i, segment) for i, segment in enumerate(segments))
        self.stats = {"rows": len(index), "distinct": len(rows), "encoded": 0, "tokens": 0, "padded": 0}
        read = [i for i, row in enumerate(rows) if not (self.skip_overlong and self._overlong(row))]
        values: list[float | None] = [None] * len(rows)
        spans: list[list[Span] | None] | None = [None] * len(rows) if self.kind == "xcomet_metric" else None
        if read:
            with full_precision():
                scored, marked = self._score([rows[i] for i in read])
            for k, (i, value) in enumerate(zip(read, scored.float().tolist(), strict=True)):
                values[i] = value if math.isfinite(value) else None
                if spans is not None and values[i] is not None:
                    spans[i] = marked[k]
        self.stats["padded_share"] = 1 - self.stats["tokens"] / max(1, self.stats.pop("padded"))
        return Scores([values[i] for i in index], None if spans is None else [spans[i] for i in index])

    def signature(self) -> dict[str, dict]:
        """What makes the number; the same checkpoint at another place keeps its identity but for `model`.

        `dtype_error`: largest difference from float32 over a fixed probe, in score.
        """
        identity = {
            "model": self.name, "revision": self.revision, "checkpoint": self._checkpoint,
            "tokenizer": self._tokenizer, "class": self.kind, "dtype": self.dtype,
        }  # fmt: skip
        identity |= {"overlong": "skip"} if self.skip_overlong else {}
        environment = versions("unbabel-comet", "transformers", "torch") | {"linears": self.linears}
        if self.dtype != "float32":
            environment["dtype_error"] = f"{self.dtype_error:.1e}"
        return {"identity": identity, "environment": environment}

    # ------------------------------------------------------------------ set-up

    @property
    def _device(self) -> torch.device:
        return self.model.encoder.model.get_input_embeddings().weight.device

    def _use(self, dtype: str) -> None:
        """Build the encoder for where the model lies now."""
        self.encoder, self.linears = None, "torch"
        if not packed.supported(self.model.encoder.model):
            return
        on_cpu = self._device.type == "cpu"
        if self._linears != "torch" and on_cpu and packed.prepacked_works():
            self.linears = "prepacked"
        hparams, mixing = self.model.hparams, self.model.layerwise_attention
        if mixing is None:
            self._weights = {int(hparams.get("sent_layer", hparams.get("layer"))): 1.0}
        else:
            logits = torch.cat(list(mixing.scalar_parameters)).detach().float()
            mixture = mixing.transform_fn(logits, dim=0).tolist()
            self._weights = {i: weight for i, weight in enumerate(mixture) if weight}
        # Sparsemax gives layers weight 0: those above the last that counts are never run.
        used = list(self._weights)
        tagging = self.kind == "xcomet_metric"
        if tagging:
            used.append(int(hparams.word_layer))
        if hparams.get("pool") == "default":
            used.append(self.model.encoder.num_layers - 1)
        first = self.kind in JOINT or hparams.pool == "cls"
        self._first_only = first and not tagging and not (mixing is not None and mixing.layer_norm)
        with torch.inference_mode():
            self.encoder = packed.PackedEncoder(
                self.model.encoder.model, max(used), self._first_only, self.linears, getattr(torch, dtype)
            )

    def _measure_error(self) -> float:
        """Largest score difference of this dtype from float32 on PROBE."""
        probe = [replace(s, ref=s.ref if self.reads_reference else None) for s in PROBE]
        here = self.score(probe).values
        self.dtype, dtype = "float32", self.dtype
        self._use("float32")
        exact = self.score(probe).values
        self.dtype = dtype
        self._use(dtype)
        if None in here:
            raise ConfigError(f"{self.name}: {dtype} overflows in this model; use bfloat16 or float32")
        return max(abs(a - b) for a, b in zip(here, exact, strict=True))

    def _readable(self, i: int, segment: Segment) -> Segment:
        """The segment as this class reads it, in valid Unicode (a lone surrogate stops any tokenizer)."""
        if segment.ref is None and self.needs_reference:
            raise ConfigError(f"{self.name}: segment {i} has no ref, which a {self.kind} needs")
        ref = segment.ref if self.reads_reference else None
        return replace(
            segment, src=_utf8(segment.src), mt=_utf8(segment.mt), ref=None if ref is None else _utf8(ref)
        )

    # ------------------------------------------------------------------ scores

    def _score(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Scores (N,) of distinct rows, and XCOMET's spans."""
        if self.encoder is None:
            low = self.dtype != "float32"
            with torch.autocast(self._device.type, getattr(torch, self.dtype) if low else None, enabled=low):
                return (self._joint_padded(rows) if self.kind in JOINT else self._apart(rows)), None
        if self.kind == "xcomet_metric":
            return self._xcomet(rows)
        return (self._joint(rows) if self.kind in JOINT else self._apart(rows)), None

    def _apart(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of the classes that encode each sentence by itself: every distinct one once."""
        parts = [(r.src, r.mt, r.ref) if r.ref is not None else (r.src, r.mt) for r in rows]
        texts, place = distinct(text for part in parts for text in part)
        embedding = self._embed(texts) if self.encoder else self._embed_padded(texts)  # (U, H)
        columns = torch.tensor(place, device=embedding.device).view(len(rows), -1).unbind(1)
        src, mt, *ref = (embedding[column] for column in columns)  # (N, H) each
        if ref:
            return self.model.estimate(src, mt, ref[0]).score
        # as ReferencelessRegression.forward
        features = torch.cat((mt, src, mt * src, (mt - src).abs()), dim=1)
        return self.model.estimator(features).view(-1)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        """Sentence embeddings (U, H) of distinct texts, without padding."""
        return self._in_batches(self._tokens(texts)["input_ids"], lambda pack, _: self._pooled(pack))

    def _joint(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of unified models: the mean over their one or three input sequences."""
        return torch.stack([self._estimate(rows, part) for part in self._sequences(rows)]).nanmean(0)

    def _estimate(self, rows: list[Segment], sequences: list[list[int] | None]) -> torch.Tensor:
        """Head over first tokens (N,); NaN for rows that lack this sequence."""
        there = [i for i, sequence in enumerate(sequences) if sequence is not None]
        scores = torch.full((len(rows),), float("nan"), device=self._device)
        if there:
            first = self._in_batches([sequences[i] for i in there], lambda pack, _: self._pooled(pack, "cls"))
            # What did not fit is NaN; infinite it also spoils the mean over a segment's other sequences.
            scores[there] = self.model.estimator(first).view(-1).nan_to_num(nan=float("inf"))
        return scores

    def _xcomet(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]]]:
        """Scores (N,) and spans, as XCOMETMetric.predict_step: four weighted parts, or two without reference."""
        weights = self.model.score_weights
        encoded = self._tokens([row.mt for row in rows])
        parts = self._sequences(rows)
        regression, tagged = [], []
        for sequences in parts:
            there = [i for i, sequence in enumerate(sequences) if sequence is not None]
            pieces = self._in_batches([sequences[i] for i in there], self._scored_and_tagged, self._untagged)
            full, tags = torch.full((len(rows),), float("nan"), device=self._device), [None] * len(rows)
            for i, (score, probabilities) in zip(there, pieces, strict=True):
                full[i], tags[i] = score, probabilities
            regression.append(full.clamp(max=1.0))
            tagged.append(tags)
        spans, scores = [], []
        for i, row in enumerate(rows):
            offsets = encoded.encodings[i].offsets
            if row.ref is None or len(parts) == 1:
                probabilities, score = tagged[0][i], regression[0][i] * sum(weights[:3])
            else:
                shares = self.model.input_weights_spans.tolist()
                length = min(len(tags[i]) for tags in tagged)
                probabilities = sum(w * tags[i][:length] for w, tags in zip(shares, tagged, strict=True))
                score = sum(w * part[i] for w, part in zip(weights, regression, strict=False))
            found = self._decode(probabilities[: len(offsets)], offsets)
            spans.append(found)
            scores.append(score + (25 - min(25, sum(PENALTY[s.severity] for s in found))) / 25 * weights[3])
        return torch.stack(scores), spans

    def _scored_and_tagged(self, pack: packed.Pack, _) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Per sequence its regression score () and the label probabilities (tokens, labels)."""
        mixed, word = self._mixed(pack, int(self.model.hparams.word_layer))
        scores = self.model.estimator(mixed[pack.starts]).view(-1)
        probabilities = self.model.hidden2tag(word).softmax(-1).split(pack.lengths)
        return list(zip(scores, probabilities, strict=True))

    def _untagged(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for a sequence that did not fit: no score, no error marked."""
        probabilities = torch.zeros(length, self.model.hidden2tag.out_features, device=self._device)
        return torch.tensor(float("nan"), device=self._device), probabilities

    def _decode(self, probabilities: torch.Tensor, offsets: list[tuple[int, int]]) -> list[Span]:
        """Runs of error labels as spans, as UnifiedMetric.decode: the first label gives a run its severity, its
        confidence is the mean, and a run that is still open at the end is not counted.
        """
        best, label = probabilities.max(-1)
        names = [self.model.label_encoder.ids_to_label[i] for i in label.tolist()]
        best, spans, run = best.tolist(), [], []
        for i, name in enumerate(names):
            if name != "O":
                run.append(i)
            elif run:
                confidence = sum(best[k] for k in run) / len(run)
                severity = names[run[0]].split("-")[1]
                spans.append(Span(offsets[run[0]][0], offsets[run[-1]][1], severity, confidence))
                run = []
        return spans

    # ------------------------------------------------------------------ tokens and batches

    def _tokens(self, texts: list[str]):
        """Ids as COMET's own encoder makes them: cut at its maximum less two."""
        encoder = self.model.encoder
        return encoder.tokenizer(texts, truncation=True, max_length=encoder.max_positions - 2)

    def _overlong(self, row: Segment) -> bool:
        """Would something of this segment be cut?"""
        encoder, texts = self.model.encoder, [text for text in (row.mt, row.src, row.ref) if text is not None]
        bare = encoder.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in bare]
        room = encoder.max_positions - 2 - encoder.tokenizer.num_special_tokens_to_add()
        if self.kind not in JOINT:
            return max(lengths) > room
        return max(lengths) > room or sum(lengths) + 2 * len(texts) > encoder.max_positions  # as _join

    def _sequences(self, rows: list[Segment]) -> list[list[list[int] | None]]:
        """The input sequences of joint models per row: [mt src], or [mt src], [mt ref], [mt src ref].

        None where a row has no such sequence (the two last, of a row without reference).
        """
        wanted = self.model.hparams.input_segments
        texts, place = distinct(text for row in rows for text in (row.mt, row.src, row.ref) if text is not None)
        pad = self.model.encoder.tokenizer.pad_token_id
        bare = [[t for t in ids if t != pad][1:-1] for ids in self._tokens(texts)["input_ids"]]
        at = iter(place)
        parts: list[list[list[int] | None]] = [[], [], []]
        for row in rows:
            mt, src = bare[next(at)], bare[next(at)]
            ref = None if row.ref is None else bare[next(at)]
            source = src if "src" in wanted else None
            if source is None or ref is None:
                only = ref if source is None else source
                sequences = [self._join(mt, *([] if only is None else [only])), None, None]
            else:
                sequences = [self._join(mt, source), self._join(mt, ref), self._join(mt, source, ref)]
            for part, sequence in zip(parts, sequences, strict=True):
                part.append(sequence)
        return [part for part in parts if any(sequence is not None for sequence in part)]

    def _join(self, first: list[int], *others: list[int]) -> list[int]:
        """<s> first </s></s> other </s> …, cut at the encoder's maximum as Encoder.concat_sequences does."""
        tokenizer, longest = self.model.encoder.tokenizer, self.model.encoder.max_positions
        start, stop = tokenizer.cls_token_id, tokenizer.sep_token_id
        joined = [start, *first, stop]
        for other in others:
            joined += [stop, *other, stop]
        special = 1 + self.model.encoder.size_separator * (1 + len(others))
        return joined[:longest] if len(first) + sum(map(len, others)) > longest - special else joined

    def _in_batches(
        self, sequences: list[list[int]], run: Callable, without: Callable | None = None
    ) -> torch.Tensor | list:
        """`run(pack, batch)` over length-sorted batches within the token budget, results in input order.

        A sequence that does not fit alone gets `without(length)`, or an embedding of NaN.
        """

        def encode(batch: list[int]):
            pack = self.encoder.pack([sequences[i] for i in batch])
            result = run(pack, batch)
            self.stats["encoded"] += len(batch)
            self.stats["tokens"] += sum(pack.lengths)
            self.stats["padded"] += pack.padded
            return result

        lengths = [len(s) for s in sequences]
        done, lost = run_batches(encode, lengths, self._budget, _unpadded, self.name)
        inverse = _inverse([i for batch, _ in done for i in batch] + lost)
        if without is None:
            return torch.cat([*(result for _, result in done), self._nothing(len(lost))])[inverse]
        flat = [item for _, result in done for item in result] + [without(lengths[i]) for i in lost]
        return [flat[i] for i in inverse.tolist()]

    def _nothing(self, count: int) -> torch.Tensor:
        """Sentence embeddings (count, H) of what could not be encoded."""
        return torch.full((count, self.model.encoder.output_units), float("nan"), device=self._device)

    # ------------------------------------------------------------------ hidden states to sentences

    def _pooled(self, pack: packed.Pack, pool: str | None = None) -> torch.Tensor:
        """Sentence embeddings (N, H)."""
        pool = pool or self.model.hparams.pool
        mixed, top = self._mixed(pack)
        if self._first_only:
            return mixed
        if pool == "cls":
            return mixed[pack.starts]
        if pool == "default":
            return top[pack.starts]
        # COMET leaves a literal <pad> out of the sum but counts it.
        real = pack.ids.ne(self.model.encoder.tokenizer.pad_token_id)[:, None]
        n = len(pack.lengths)
        if pool == "max":
            mixed = mixed.masked_fill(~real, float("-inf"))
            return torch.stack([part.amax(0) for part in mixed.split(pack.lengths)])
        total = torch.zeros(n, mixed.shape[1], device=mixed.device)
        total.index_add_(0, pack.sequence, mixed * real)
        return total / torch.tensor(pack.lengths, device=mixed.device)[:, None]

    def _mixed(self, pack: packed.Pack, word_layer: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """COMET's mixture of hidden states (or its one layer), and the word layer's or the top one.

        (T, H) each; only first tokens (N, H) where nothing else is read.
        """
        mixing = self.model.layerwise_attention
        mixed, word = None, None
        for i, hidden in enumerate(self.encoder.hidden_states(pack)):
            if i == word_layer:
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

    # ------------------------------------------------------------------ padded batches, for other encoders

    def _embed_padded(self, texts: list[str]) -> torch.Tensor:
        """Sentence embeddings (U, H) of distinct texts."""
        inputs = self.model.encoder.prepare_sample(texts)
        lengths = inputs["attention_mask"].sum(1).tolist()

        def embed(batch: list[int]) -> torch.Tensor:
            tensors = self._cut(inputs, batch)
            return self.model.get_sentence_embedding(tensors["input_ids"], tensors["attention_mask"])

        done, lost = run_batches(embed, lengths, self._budget, argument=self.name)
        embeddings = torch.cat([*(result for _, result in done), self._nothing(len(lost))])
        return embeddings[_inverse([i for batch, _ in done for i in batch] + lost)]

    def _joint_padded(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of unified models over another encoder."""
        scores = torch.full((len(rows),), float("nan"), device=self._device)
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

            for batch, result in run_batches(score, lengths, self._budget, argument=self.name)[0]:
                scores[[chosen[i] for i in batch]] = result
        return scores

    def _cut(self, inputs: dict, batch: list[int]) -> dict[str, torch.Tensor]:
        """Rows `batch` of padded `inputs` (N, L), cut to their own longest length, on the device."""
        real = int(inputs["attention_mask"][batch].sum(1).max())
        wanted = ("input_ids", "attention_mask", "token_type_ids")
        cut = {k: inputs[k][batch][:, :real].to(self._device) for k in wanted if k in inputs}
        self.stats["encoded"] += len(batch)
        self.stats["tokens"] += int(cut["attention_mask"].sum())
        self.stats["padded"] += len(batch) * real
        return cut


def _normalised(hidden: torch.Tensor, pack: packed.Pack) -> torch.Tensor:
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
    tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not result or tokens + lengths[i] > token_budget:
            result.append([])
            tokens = 0
        result[-1].append(i)
        tokens += lengths[i]
    return result


def _inverse(order: list[int]) -> torch.Tensor:
    """Positions (U,) that undo `order`."""
    return torch.argsort(torch.tensor(order))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
