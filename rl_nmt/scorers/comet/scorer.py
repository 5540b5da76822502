"""Score with COMET (DA, COMETKiwi, reference-less regression, XCOMET), loaded once and without a Lightning Trainer.

Same numbers as `model.predict` of unbabel-comet 2.2.7 (tests: within 1e-5 on CPU): each distinct sentence is tokenised
and encoded once, without padding (packed_route.py). Encoders other than XLM-RoBERTa's family take
padded batches of similar length (route.py). The networks are our own (model.py): unbabel-comet is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from rl_nmt.errors import ConfigError
from rl_nmt.hub import recorded_as
from rl_nmt.models import loading
from rl_nmt.models.batching import TokenBudget, distinct
from rl_nmt.models.linears import prepacked_works
from rl_nmt.scorers.base import Scores, Segment, Span, utf8
from rl_nmt.scorers.comet import packed_layers
from rl_nmt.scorers.comet.checkpoint import TOKENIZER_FILES, checkpoint_file, load_model
from rl_nmt.scorers.comet.model import CLASSES, JOINT, CometModel
from rl_nmt.scorers.comet.packed_route import PackedRoute, SpanRoute
from rl_nmt.scorers.comet.route import PaddedRoute, Route

TOKENS = 8192  # most tokens in one encoder batch; fewer after running out of memory
# Segments to measure the error of a lower precision, from one token to more than the encoder reads: rounding adds up
# over the keys that a token attends to, float16 overflows in long sums first, and GPU kernels differ by length.
PROBE = tuple(
    Segment(" ".join(src), " ".join(mt), " ".join(src))
    for src, mt in (
        (["a"], ["b"]),
        (["1", "2", "3"], ["3", "2"]),
        (["The door is open."], ["கதவு திறந்திருக்கிறது."]),
        (["Rain fell on the hills."] * 3, ["மலைகளில் மழை பெய்தது."] * 2),
        (["x y z"] * 20, ["z y x"] * 25),
        (["Rain fell on the hills.", "The door is open."] * 8, ["மலைகளில் மழை பெய்தது.", "கதவு திறந்திருக்கிறது."] * 8),
        (["The door is open."] * 150, ["கதவு திறந்திருக்கிறது."] * 150),
        (["Rain fell on the hills."] * 150, ["b"]),
    )
)


def load_comet(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    linears: str = "auto",
    attention: str = "auto",
    overlong: str = "truncate",
    argument: str = "comet_model",
    classes: Sequence[str] = CLASSES,
) -> CometScorer:
    """Load a COMET checkpoint once; it stays on `device`.

    Args:
        name_or_path: a folder with hparams.yaml and checkpoints/model.ckpt, the .ckpt itself, or a hub name.
        device: "cpu", "cuda" or "cuda:N".
        dtype: what linears and attention compute in: "float32", or "bfloat16" or "float16" (CUDA only),
            whose score error is measured at load and is in the signature; to choose one: precision.py.
        linears: "torch", "prepacked" (weights in oneDNN's layout: faster on a CPU, at twice their memory),
            or "auto": prepacked on a CPU where it passes its self-test.
        attention: "sdpa", "varlen" (one kernel call without padding: CUDA, half precision), or "auto": varlen where
            it passes its self-test; the signature names the kernel and the reason if it is not varlen.
        overlong: "truncate" texts longer than the encoder's maximum (512 tokens, for unified models and XCOMET over
            all texts together), as COMET does, or "skip" such segments (no score).
        argument: the setting that names this model, for messages.
        classes: accepted class identifiers.

    Raises:
        ConfigError: a missing path, a damaged or incomplete checkpoint, another class, an unusable device, dtype or
            kind of linears or attention.
        MissingService: the hub cannot be reached, or requires accepting the licence first.
    """
    _require_usable(argument, device, dtype, linears, attention)
    skip = loading.skip_overlong(overlong)
    checkpoint = checkpoint_file(argument, str(name_or_path))
    with loading.loading():
        model, tokenizer = load_model(argument, checkpoint, tuple(classes))
    if model.kind == "xcomet_metric" and not packed_layers.supported(model.encoder.model):
        raise ConfigError(f"{argument}: {checkpoint}: no published XCOMET has this encoder; give another checkpoint")
    name, revision = recorded_as(name_or_path, checkpoint.parents[1])
    identity = {
        "model": name,
        "revision": revision,
        "checkpoint": loading.fingerprint(checkpoint),
        "tokenizer": next(
            (loading.fingerprint(path) for f in TOKENIZER_FILES if (path := tokenizer / f).is_file()), None
        ),
        "class": model.kind,
        "dtype": dtype,
    } | ({"overlong": "skip"} if skip else {})
    scorer = CometScorer(model.to(device), identity, linears, attention, skip)
    if math.isinf(scorer.dtype_error):
        others = "float32" if dtype == "bfloat16" else "bfloat16 or float32"
        raise ConfigError(f"{argument}: {dtype} overflows in {name}; use {others}")
    if attention == "varlen" and scorer.route.attention != "varlen":
        why = f"{device} in {dtype}: the model takes {scorer.route.attention}"
        raise ConfigError(f"attention: varlen does not work on {why}; use auto or sdpa")
    return scorer


def _require_usable(argument: str, device: str, dtype: str, linears: str, attention: str) -> None:
    """Refuse settings that cannot work on this device, before looking for a checkpoint. Raises ConfigError."""
    loading.require_device(argument, device)
    loading.torch_dtype(argument, dtype, device)
    on_cpu = torch.device(device).type == "cpu"
    if linears not in ("auto", "torch", "prepacked"):
        raise ConfigError(f"linears: {linears!r} is unknown; use auto, torch or prepacked")
    if linears == "prepacked" and not (on_cpu and prepacked_works()):
        raise ConfigError(f"linears: prepacked does not work on {device} here; use auto or torch")
    if attention not in ("auto", "sdpa", "varlen"):
        raise ConfigError(f"attention: {attention!r} is unknown; use auto, sdpa or varlen")
    if attention == "varlen" and (on_cpu or dtype == "float32"):
        raise ConfigError(
            f"attention: varlen needs a CUDA device and half precision, not {dtype} on {device}; use auto or sdpa"
        )


class CometScorer:
    """A loaded COMET model; see `load_comet`. A `Scorer`.

    `stats` describes the last call: rows, distinct rows, encoded sequences, their tokens, and the share of
    padding in what was computed. XCOMET also marks error spans in `mt`, with the confidence of its tagger.
    """

    route: Route
    range = (0.0, 1.0)
    higher_is_better = True

    def __init__(self, model: CometModel, identity: dict, linears: str, attention: str, skip_overlong: bool):
        self.model = model.eval().requires_grad_(False)
        self.name, self.revision = identity["model"], identity["revision"]
        self.kind, self.dtype = identity["class"], identity["dtype"]
        self.budget, self.skip_overlong = TokenBudget(TOKENS), skip_overlong
        self._identity, self._kernels_wanted = identity, (linears, attention)
        self.stats: dict[str, float] = {}
        self.dtype_error = 0.0
        if self.dtype == "float32":
            self._use("float32")
        else:
            self.dtype_error = self.error_of(self.dtype)
        self._kernels_used = self.route.kernels

    def to(self, device: str) -> None:
        """Move the model permanently; the next call prepares its kernels. Raises ConfigError for a missing device."""
        vars(self).pop("route", None)
        self.model.to(loading.require_device("device", device))

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return one value per segment, about 0 to 1, in order; None where the model gave no finite number, or where
        the segment did not fit into memory even alone.

        An empty translation gets COMET's ordinary score for it. XCOMET: also the spans, [] without errors.

        Raises:
            ConfigError: a segment without `ref` where the class needs one.
        """
        rows, index = distinct(self._readable(i, segment) for i, segment in enumerate(segments))
        self.stats = {"rows": len(index), "distinct": len(rows), "encoded": 0, "tokens": 0, "padded": 0}
        if "route" not in vars(self):
            self._use(self.dtype)
        self.route.budget, self.route.stats = self.budget, self.stats
        self._kernels_used = self.route.kernels  # signature() is also read while the model is offloaded
        read = [i for i, row in enumerate(rows) if not (self.skip_overlong and self._overlong(row))]
        values: list[float | None] = [None] * len(rows)
        spans: list[list[Span] | None] = [None] * len(rows)
        if read:
            with loading.full_precision():
                scored, marked = self.route.scores([rows[i] for i in read])
            for k, (i, value) in enumerate(zip(read, scored.float().tolist(), strict=True)):
                if math.isfinite(value):
                    values[i], spans[i] = value, marked[k] if marked else None
        self.stats["padded_share"] = 1 - self.stats["tokens"] / max(1, self.stats.pop("padded"))
        found = [spans[i] for i in index] if self.kind == "xcomet_metric" else None
        return Scores([values[i] for i in index], found)

    def error_of(self, dtype: str) -> float:
        """Return the largest score difference of this precision from float32 over PROBE, without segments skipped as
        too long; infinite on overflow."""
        values = []
        for kind in ("float32", dtype):
            self._use(kind)
            values.append(self.score(PROBE).values)
        if dtype != self.dtype:
            self._use(self.dtype)
        pairs = [pair for pair in zip(*values, strict=True) if pair[0] is not None]
        return max(math.inf if here is None else abs(exact - here) for exact, here in pairs)

    def signature(self) -> dict[str, dict]:
        """See `Scorer.signature`. Moving a checkpoint to another place changes only `model` in its identity.

        `dtype_error`: largest difference from float32 over a fixed probe, in score.
        """
        environment = loading.versions("transformers", "torch") | self._kernels_used
        if self.dtype != "float32":
            environment["dtype_error"] = f"{self.dtype_error:.1e}"
        return {"identity": dict(self._identity), "environment": environment}

    def _use(self, dtype: str) -> None:
        """Build the route for the model's present device."""
        vars(self).pop("route", None)  # free its prepared weights first
        given = (self.model, self.name, getattr(torch, dtype))
        if not packed_layers.supported(self.model.encoder.model):
            self.route = PaddedRoute(*given)
        else:
            kind = SpanRoute if self.kind == "xcomet_metric" else PackedRoute
            self.route = kind(*given, *self._kernels_wanted)

    def _readable(self, i: int, segment: Segment) -> Segment:
        """Return the segment as this class reads it."""
        if segment.ref is None and self.model.needs_reference:
            raise ConfigError(f"{self.name}: segment {i} has no ref, which a {self.kind} needs")
        ref = None if segment.ref is None or not self.model.reads_reference else utf8(segment.ref)
        return Segment(utf8(segment.src), utf8(segment.mt), ref)

    def _overlong(self, row: Segment) -> bool:
        """Whether a text of this segment would be cut."""
        encoder, texts = self.model.encoder, [text for text in (row.mt, row.src, row.ref) if text is not None]
        lengths = list(map(len, encoder.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))
        room = encoder.max_positions - 2 - encoder.tokenizer.num_special_tokens_to_add()
        if max(lengths) > room:
            return True
        return self.kind in JOINT and sum(lengths) + 2 * len(texts) > encoder.max_positions  # as _join
