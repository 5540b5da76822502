"""COMET judges (DA, COMETKiwi, reference-less regression), resident and without a Lightning Trainer.

Same numbers as `model.predict` of unbabel-comet 2.2.7 (tests: within 1e-5 on CPU), other route: the model
stays on its device, each distinct sentence is tokenised and encoded once, batches follow true token lengths.
"""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rl_nmt import hub
from rl_nmt.batching import batches, distinct
from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import (
    Scores,
    Segment,
    fetch,
    fingerprint,
    full_precision,
    loading,
    require_device,
    torch_dtype,
    versions,
)

CLASSES = ("regression_metric", "unified_metric", "referenceless_regression_metric")
CHECKPOINT = "checkpoints/model.ckpt"
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
# Published checkpoints name their encoder as the hub did before it asked for an owner.
OWNERS = {"xlm-roberta-base": "FacebookAI", "xlm-roberta-large": "FacebookAI"}


def load_comet(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    token_budget: int = 8192,
    argument: str = "comet_model",
    classes: Sequence[str] = CLASSES,
) -> CometScorer:
    """Load a COMET checkpoint once; it stays on `device`.

    Args:
        name_or_path: a folder with hparams.yaml and checkpoints/model.ckpt, the .ckpt itself, or a hub name.
        device: "cpu", "cuda" or "cuda:N".
        dtype: "float32", or "bfloat16" for autocast (scores then differ by up to about 1e-2).
        token_budget: most tokens, padding included, that go through the encoder at once.
        argument: the setting that names this model, for messages.
        classes: class identifiers accepted in this place.

    Raises:
        ConfigError: a path that is not there, a damaged or incomplete checkpoint, another class, or a
            device or dtype that cannot be had.
        MissingService: the hub cannot be reached, or wants the licence accepted first.
    """
    require_device(argument, device)
    torch_dtype(argument, dtype)
    checkpoint = _checkpoint_file(argument, str(name_or_path))
    with loading():
        model, kind, encoder = _load(argument, checkpoint, tuple(classes))
    return CometScorer(model.to(device), kind, checkpoint, encoder, name_or_path, dtype, token_budget)


class CometScorer:
    """A loaded COMET model; see `load_comet`. A `Scorer`.

    `stats` describes the last call: rows, distinct rows, encoded sequences, padded share of their tokens.
    """

    range = (0.0, 1.0)
    higher_is_better = True

    def __init__(
        self, model, kind: str, checkpoint: Path, encoder: Path, name, dtype: str, token_budget: int
    ):
        if token_budget < 1:
            raise ConfigError(f"token_budget: {token_budget} must be at least 1")
        self.model = model.eval().requires_grad_(False)  # COMET builds its models in train mode
        self.kind, self.dtype, self.token_budget = kind, dtype, token_budget
        root = checkpoint.parents[1]
        on_hub = not Path(name).expanduser().exists()
        self.name = str(name) if on_hub else root.resolve().name
        self.revision = root.name if on_hub else None  # the hub cache calls a snapshot's folder by its commit
        self._checkpoint = fingerprint(checkpoint)
        self._tokenizer = next(
            (fingerprint(encoder / f) for f in TOKENIZER_FILES if (encoder / f).is_file()), None
        )
        self.stats: dict[str, float] = {}

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
        return self

    def score(self, segments: Sequence[Segment]) -> Scores:
        """One value per segment, about 0 to 1, order kept; None where the model gave no finite number.

        An empty translation gets the ordinary score COMET gives it.

        Raises:
            ConfigError: a segment without `ref` where the class needs one.
        """
        rows, index = distinct(self._readable(i, segment) for i, segment in enumerate(segments))
        self.stats = {"rows": len(index), "distinct": len(rows), "encoded": 0, "tokens": 0, "padded": 0}
        values: list[float | None] = []
        if rows:
            bf16 = self.dtype == "bfloat16"
            with full_precision(), torch.autocast(self._device.type, torch.bfloat16, enabled=bf16):
                scored = self._score_joint(rows) if self.kind == "unified_metric" else self._score_apart(rows)
            values = [value if math.isfinite(value) else None for value in scored.float().tolist()]
        self.stats["padded_share"] = 1 - self.stats["tokens"] / max(1, self.stats.pop("padded"))
        return Scores([values[i] for i in index])

    def signature(self) -> dict[str, dict]:
        """What makes the number; the same checkpoint at another place keeps its identity but for `model`."""
        identity = {
            "model": self.name, "revision": self.revision, "checkpoint": self._checkpoint,
            "tokenizer": self._tokenizer, "class": self.kind, "dtype": self.dtype,
        }  # fmt: skip
        return {"identity": identity, "environment": versions("unbabel-comet", "transformers", "torch")}

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _readable(self, i: int, segment: Segment) -> Segment:
        """The segment as this class reads it, in valid Unicode (a lone surrogate stops any tokenizer)."""
        if segment.ref is None and self.needs_reference:
            raise ConfigError(f"{self.name}: segment {i} has no ref, which a {self.kind} needs")
        ref = segment.ref if self.reads_reference else None
        return replace(
            segment, src=_utf8(segment.src), mt=_utf8(segment.mt), ref=None if ref is None else _utf8(ref)
        )

    def _score_apart(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of the classes that encode each sentence by itself: every distinct one once."""
        parts = [(r.src, r.mt, r.ref) if r.ref is not None else (r.src, r.mt) for r in rows]
        texts, place = distinct(text for part in parts for text in part)
        embedding = self._embed(texts)  # (U, H)
        columns = torch.tensor(place, device=embedding.device).view(len(rows), -1).unbind(1)
        src, mt, *ref = (embedding[column] for column in columns)  # (N, H) each
        if ref:
            return self.model.estimate(src, mt, ref[0]).score
        features = torch.cat(
            (mt, src, mt * src, (mt - src).abs()), dim=1
        )  # as ReferencelessRegression.forward
        return self.model.estimator(features).view(-1)

    def _embed(self, texts: list[str]) -> torch.Tensor:
        """Sentence embeddings (U, H) of distinct texts."""
        inputs = self.model.encoder.prepare_sample(texts)
        lengths = inputs["attention_mask"].sum(1).tolist()
        pieces, order = [], []
        for batch in batches(lengths, self.token_budget):
            tensors = self._cut(inputs, batch)
            pieces.append(self.model.get_sentence_embedding(tensors["input_ids"], tensors["attention_mask"]))
            order += batch
        return torch.cat(pieces)[_inverse(order)]

    def _score_joint(self, rows: list[Segment]) -> torch.Tensor:
        """Scores (N,) of unified models, which read translation, source and reference as one sequence."""
        scores = torch.empty(len(rows), device=self._device)
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
            for batch in batches(lengths, self.token_budget):
                parts = [self.model(**self._cut(part, batch)).score for part in inputs]
                scores[[chosen[i] for i in batch]] = torch.stack(parts).mean(0).float()
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


def _inverse(order: list[int]) -> torch.Tensor:
    """Positions (U,) that undo `order`."""
    return torch.argsort(torch.tensor(order))


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _checkpoint_file(argument: str, name: str) -> Path:
    """…/checkpoints/model.ckpt of a path or hub name, with hparams.yaml two levels up."""
    root = fetch(argument, name, CHECKPOINT)
    checkpoint = root if root.is_file() else root / CHECKPOINT
    if not checkpoint.is_file() or not (checkpoint.parents[1] / "hparams.yaml").is_file():
        raise ConfigError(f"{argument}: {name} is no COMET model: it needs hparams.yaml and {CHECKPOINT}")
    return checkpoint


def _load(argument: str, checkpoint: Path, classes: tuple[str, ...]) -> tuple[torch.nn.Module, str, Path]:
    """Model on the CPU, its class identifier, and the folder its encoder's tokenizer came from."""
    import yaml

    root = checkpoint.parents[1]
    try:
        described = yaml.load((root / "hparams.yaml").read_text(encoding="utf-8"), Loader=yaml.FullLoader)
        kind = described["class_identifier"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{argument}: {root / 'hparams.yaml'} names no class_identifier") from None
    if kind not in classes:
        raise ConfigError(f"{argument}: {root} holds a {kind}; wanted here: {' or '.join(classes)}")
    weights, hparams = _read(argument, checkpoint)
    hparams = dict(hparams or described)  # as COMET: the checkpoint's own win
    if described.get("layer_transformation") == "sparsemax_patch":
        hparams["layer_transformation"] = "softmax"  # as comet.load_from_checkpoint since 2.2.4
    encoder = _encoder_folder(argument, str(hparams["pretrained_model"]), root)
    hparams |= {"pretrained_model": str(encoder), "load_pretrained_weights": False, "local_files_only": True}
    return _build(argument, checkpoint, kind, hparams, weights), kind, encoder


def _read(argument: str, checkpoint: Path) -> tuple[dict, dict]:
    """state_dict and hyper_parameters of a Lightning checkpoint; nothing in it is executed."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return stored["state_dict"], stored.get("hyper_parameters", {})
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise ConfigError(
            f"{argument}: {checkpoint} holds more than weights, or is damaged ({reason}); fetch it again"
        ) from error


def _encoder_folder(argument: str, name: str, root: Path) -> Path:
    """Folder of the encoder's config and tokenizer (its weights are in the checkpoint).

    A relative path counts from the checkpoint's folder first, so that a model may be moved; an absolute one
    that is gone is looked for by its last name inside it.
    """
    given = Path(name).expanduser()
    for folder in (root / given, root.parent / given, given, root / given.name):
        if (folder / "config.json").is_file():
            return folder.resolve()
    if "/" in name and hub.looks_like_path(name):
        raise ConfigError(f"{argument}: the encoder {name} of {root} is not there (pretrained_model)")
    known = [name] if "/" in name else [name, f"{OWNERS.get(name, name)}/{name}"]
    for cached in known:
        for filename in TOKENIZER_FILES:
            if hub.is_cached(cached, filename) and hub.is_cached(cached, "config.json"):
                from huggingface_hub import snapshot_download

                return Path(snapshot_download(cached, local_files_only=True))
    return fetch(argument, known[-1], TOKENIZER_FILES[0], ["*.json", "*.model", "*.txt"])


def _build(argument: str, checkpoint: Path, kind: str, hparams: dict, weights: dict) -> torch.nn.Module:
    """The COMET class with exactly these weights: a missing one would otherwise score at random."""
    from comet.models import str2model
    from transformers.modeling_utils import no_init_weights

    cls = str2model[kind]
    accepted = inspect.signature(cls.__init__).parameters
    try:
        with no_init_weights():  # every weight is overwritten below, and drawing them takes half the time
            model = cls(**{k: v for k, v in hparams.items() if k in accepted})
        result = model.load_state_dict(weights, strict=False)
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {checkpoint} does not fit a {kind}: {reason}") from error
    # Left over from older transformers (ids) and from encoders saved with a head that COMET never reads.
    extra = [k for k in result.unexpected_keys if not k.endswith("position_ids") and ".pooler." not in k]
    missing = [k for k in result.missing_keys if not k.endswith("position_ids") and ".pooler." not in k]
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has an unknown {extra[0]}"
        raise ConfigError(
            f"{argument}: {checkpoint} {what} ({len(missing) + len(extra)} such weights): incomplete"
        )
    return model
