"""COMET (DA, COMETKiwi, reference-less regression, XCOMET), resident and without a Lightning Trainer.

Same numbers as `model.predict` of unbabel-comet 2.2.7 (tests: within 1e-5 on CPU): each distinct sentence is tokenised
and encoded once, without padding (packed_route.py; spans: xcomet.py). Encoders other than XLM-RoBERTa's family take
padded batches of similar length (padded_route.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from rl_nmt.errors import ConfigError
from rl_nmt.hub import recorded_as
from rl_nmt.models.batching import TokenBudget, distinct
from rl_nmt.models.linears import prepacked_works
from rl_nmt.models.loading import (
    fingerprint,
    full_precision,
    loading,
    require_device,
    skip_overlong,
    torch_dtype,
    versions,
)
from rl_nmt.scorers.base import Scores, Segment, Span
from rl_nmt.scorers.comet import packed_layers
from rl_nmt.scorers.comet.checkpoint import TOKENIZER_FILES, checkpoint_file, load_model
from rl_nmt.scorers.comet.packed_route import PackedRoute
from rl_nmt.scorers.comet.padded_route import PaddedRoute, Route
from rl_nmt.scorers.comet.xcomet import SpanRoute

CLASSES = ("regression_metric", "unified_metric", "referenceless_regression_metric", "xcomet_metric")
JOINT = ("unified_metric", "xcomet_metric")  # read translation, source and reference as one sequence
# Segments that measure what a lower precision costs; any text does, these are of several lengths.
PROBE = tuple(
    Segment(" ".join(src), " ".join(mt), " ".join(src))
    for src, mt in (
        (["a"], ["b"]),
        (["1", "2", "3"], ["3", "2"]),
        (["The door is open."], ["கதவு திறந்திருக்கிறது."]),
        (["Rain fell on the hills."] * 3, ["மலைகளில் மழை பெய்தது."] * 2),
        (["x y z"] * 20, ["z y x"] * 25),
    )
)


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
            whose score error is measured at load and is in the signature.
        linears: "torch", "prepacked" (weights in oneDNN's layout: faster on a CPU, at twice their memory),
            or "auto": prepacked on a CPU where it passes its self-test.
        token_budget: most tokens that go through the encoder at once; less where memory runs out.
        overlong: "truncate" texts that are longer than the encoder reads (512 tokens, for unified models and
            XCOMET of all texts together), as COMET does, or "skip" such segments (no score).
        argument: the setting that names this model, for messages.
        classes: accepted class identifiers.

    Raises:
        ConfigError: a missing path, a damaged or incomplete checkpoint, another class, an unusable device, dtype or
            kind of linears.
        MissingService: the hub cannot be reached, or wants the licence accepted first.
    """
    require_device(argument, device)
    torch_dtype(argument, dtype, device)
    if linears not in ("auto", "torch", "prepacked"):
        raise ConfigError(f"linears: {linears!r} is unknown; use auto, torch or prepacked")
    if linears == "prepacked" and (torch.device(device).type != "cpu" or not prepacked_works()):
        raise ConfigError(f"linears: prepacked does not work on {device} here; use auto or torch")
    if token_budget < 1:
        raise ConfigError(f"token_budget: {token_budget} must be at least 1")
    skip = skip_overlong(overlong)
    checkpoint = checkpoint_file(argument, str(name_or_path))
    with loading():
        model, kind, encoder = load_model(argument, checkpoint, tuple(classes))
    if kind == "xcomet_metric" and not packed_layers.supported(model.encoder.model):
        raise ConfigError(f"{argument}: {checkpoint} has an encoder that XCOMET was never published with")
    name, revision = recorded_as(name_or_path, checkpoint.parents[1])
    identity = {
        "model": name,
        "revision": revision,
        "checkpoint": fingerprint(checkpoint),
        "tokenizer": next((fingerprint(encoder / f) for f in TOKENIZER_FILES if (encoder / f).is_file()), None),
        "class": kind,
        "dtype": dtype,
    } | ({"overlong": "skip"} if skip else {})
    return CometScorer(model.to(device), identity, linears, TokenBudget(token_budget), skip)


class CometScorer:
    """A loaded COMET model; see `load_comet`. A `Scorer`.

    `stats` describes the last call: rows, distinct rows, encoded sequences, their tokens, and the share of
    padding in what was computed. XCOMET also marks error spans in `mt`, with the confidence of its tagger.
    """

    range = (0.0, 1.0)
    higher_is_better = True

    def __init__(self, model, identity: dict, linears: str, budget: TokenBudget, skip_overlong: bool):
        self.model = model.eval().requires_grad_(False)  # COMET builds its models in train mode
        self.name, self.revision = identity["model"], identity["revision"]
        self.kind, self.dtype = identity["class"], identity["dtype"]
        self.budget, self.skip_overlong = budget, skip_overlong
        self._identity, self._linears = identity, linears
        self.stats: dict[str, float] = {}
        self._use(self.dtype)
        self.dtype_error = self._measure_error() if self.dtype != "float32" else 0.0

    @property
    def encoder(self) -> packed_layers.PackedEncoder | None:
        """The packed encoder, None where COMET's own is used."""
        return self._route.encoder

    @property
    def linears(self) -> str:
        """The kind in use: torch or prepacked."""
        return self._route.linears

    @property
    def needs_reference(self) -> bool:
        """Does every segment have to carry a `ref`?"""
        return self.model.requires_references()

    @property
    def reads_reference(self) -> bool:
        """Does a `ref` change the score at all? (COMETKiwi and reference-less models ignore it.)"""
        return self.kind == "regression_metric" or "ref" in self.model.hparams.get("input_segments", ())

    def to(self, device: str) -> CometScorer:
        """Move the model for good. Raises ConfigError for a missing device."""
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
        self.stats = {"rows": len(index), "distinct": len(rows)}
        self._route.begin(self.budget, self.stats)
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
        environment = versions("unbabel-comet", "transformers", "torch") | {"linears": self.linears}
        if self.dtype != "float32":
            environment["dtype_error"] = f"{self.dtype_error:.1e}"
        return {"identity": dict(self._identity), "environment": environment}

    # ------------------------------------------------------------------ set-up

    def _use(self, dtype: str) -> None:
        """Build the route for where the model lies now."""
        self._route = None  # what it has prepared goes first
        self._route = self._new_route(getattr(torch, dtype))

    def _new_route(self, dtype: torch.dtype) -> Route:
        if not packed_layers.supported(self.model.encoder.model):
            return PaddedRoute(self.model, self.name)
        if self.kind == "xcomet_metric":
            return SpanRoute(self.model, self.name, self._linears, dtype)
        return PackedRoute(self.model, self.name, self.kind in JOINT, self._linears, dtype)

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
        return replace(segment, src=_utf8(segment.src), mt=_utf8(segment.mt), ref=None if ref is None else _utf8(ref))

    # ------------------------------------------------------------------ scores

    def _score(self, rows: list[Segment]) -> tuple[torch.Tensor, list[list[Span]] | None]:
        """Scores (N,) of distinct rows, and XCOMET's spans."""
        if self.kind == "xcomet_metric":
            return self._route.marked(rows)
        low = self.dtype != "float32"
        precision = (
            nullcontext()
            if self.encoder
            else torch.autocast(  # a packed encoder sees to its own
                self._route.device.type, getattr(torch, self.dtype) if low else None, enabled=low
            )
        )
        with precision:
            return (self._route.joint(rows) if self.kind in JOINT else self._apart(rows)), None

    def _apart(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of the classes that encode each sentence by itself: every distinct one once."""
        parts = [(r.src, r.mt, r.ref) if r.ref is not None else (r.src, r.mt) for r in rows]
        texts, place = distinct(text for part in parts for text in part)
        embedding = self._route.embed(texts)  # (U, H)
        columns = torch.tensor(place, device=embedding.device).view(len(rows), -1).unbind(1)
        src, mt, *ref = (embedding[column] for column in columns)  # (N, H) each
        if ref:
            return self.model.estimate(src, mt, ref[0]).score
        # as ReferencelessRegression.forward
        features = torch.cat((mt, src, mt * src, (mt - src).abs()), dim=1)
        return self.model.estimator(features).view(-1)

    def _overlong(self, row: Segment) -> bool:
        """Would something of this segment be cut?"""
        encoder, texts = self.model.encoder, [text for text in (row.mt, row.src, row.ref) if text is not None]
        bare = encoder.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        lengths = [len(ids) for ids in bare]
        room = encoder.max_positions - 2 - encoder.tokenizer.num_special_tokens_to_add()
        if self.kind not in JOINT:
            return max(lengths) > room
        return max(lengths) > room or sum(lengths) + 2 * len(texts) > encoder.max_positions  # as _join


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
