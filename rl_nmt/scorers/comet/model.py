"""The networks of COMET checkpoints: an encoder, the mixture of its layers, an estimator and, for spans, a tagger.

Regression with and without a reference (Rei et al. 2020, arXiv:2009.09025), unified models such as COMETKiwi (Rei et
al. 2022) and XCOMET (Guerreiro et al. 2023, arXiv:2310.10482). Parameters have the names that unbabel-comet 2.2.7 gives
them, so its checkpoints fit; the numbers are those of its `predict` (tests: 1e-5). The package itself is not needed,
nor a particular transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn

from rl_nmt.errors import ConfigError
from rl_nmt.models.batching import distinct
from rl_nmt.scorers.base import Segment

ENCODERS = {"XLM-RoBERTa": "XLMRoberta", "XLM-RoBERTa-XL": "XLMRobertaXL", "MiniLM": "Bert"}  # hparams → transformers
JOINT = ("unified_metric", "xcomet_metric")  # read translation, source and reference as one sequence
# What a class takes where hparams.yaml says nothing.
COMMON = {
    "encoder_model": "XLM-RoBERTa",
    "layer_norm": True,
    "dropout": 0.1,
    "hidden_sizes": [3072, 1024],
    "activations": "Tanh",
    "final_activation": None,
}
APART = COMMON | {"layer": "mix", "layer_transformation": "softmax", "pool": "avg"}
UNIFIED = COMMON | {
    "sent_layer": "mix",
    "layer_transformation": "sparsemax",
    "word_layer": 24,
    "word_level_training": False,
    "error_labels": ["minor", "major"],
    "input_segments": ["mt", "src", "ref"],
}
XCOMET = {
    "encoder_model": "XLM-RoBERTa-XL",
    "layer_norm": False,
    "hidden_sizes": [2560, 1280],
    "word_layer": 36,
    "error_labels": ["minor", "major", "critical"],
}
DEFAULTS = {
    "regression_metric": APART,
    "referenceless_regression_metric": APART | {"hidden_sizes": [2048, 1024]},
    "unified_metric": UNIFIED,
    "xcomet_metric": UNIFIED | XCOMET,
}
CLASSES = tuple(DEFAULTS)


class Prediction(NamedTuple):
    """score (B,), and per token the logits (B, T, labels) of a model that tags."""

    score: torch.Tensor
    logits: torch.Tensor | None


class CometModel(nn.Module):
    """A COMET model with random weights, in train mode; `load_state_dict` takes those of a checkpoint.

    Args:
        kind: class identifier, one of CLASSES.
        hparams: hyper-parameters by COMET's names; what is missing has its class's default.
        folder: the encoder's config.json, and its tokenizer unless `tokenizer` names another folder.

    Raises:
        ConfigError: an encoder or a pooling that no class of COMET's has been published with.
    """

    def __init__(self, kind: str, hparams: dict, folder: str | Path, tokenizer: str | Path | None = None):
        super().__init__()
        self.kind, self.hparams = kind, DEFAULTS[kind] | hparams
        if kind == "xcomet_metric":  # fixed in its class, whatever the file says
            self.hparams |= {"input_segments": UNIFIED["input_segments"], "word_level_training": True}
        options = self.hparams
        self.encoder = Encoder(options["encoder_model"], folder, tokenizer or folder)
        units = self.encoder.output_units
        self.tags = kind in JOINT and options["word_level_training"]
        setting = "sent_layer" if kind in JOINT else "layer"
        self.layer = options[setting]
        self.layerwise_attention = None
        if self.layer == "mix":
            mixture = self.encoder.num_layers, options["layer_norm"], options["layer_transformation"]
            self.layerwise_attention = LayerMixture(*mixture)
        self.pool = "cls" if kind in JOINT else options["pool"]
        if self.pool not in ("avg", "cls", "max", "default"):
            raise ConfigError(f"pool: {self.pool!r} in hparams.yaml is unknown; COMET has avg, cls, max and default")
        for name, layer in ((setting, self.layer), ("word_layer", options.get("word_layer") if self.tags else 0)):
            if layer != "mix" and not (isinstance(layer, int) and 0 <= layer < self.encoder.num_layers):
                raise ConfigError(f"{name}: {layer!r} in hparams.yaml is not a layer of its encoder")
        width = units * {"regression_metric": 6, "referenceless_regression_metric": 4}.get(kind, 1)
        self.estimator = Estimator(width, options)
        self.labels: list[str] = []  # of tokens: O for right, then an error by severity
        if self.tags:
            self.labels = ["O", *(f"I-{label}" for label in options["error_labels"])]
            self.hidden2tag = nn.Linear(units, len(self.labels))

    @property
    def needs_reference(self) -> bool:
        """Does this model give no score without a reference?"""
        return self.kind == "regression_metric" or self.hparams.get("input_segments") == ["mt", "ref"]

    @property
    def reads_reference(self) -> bool:
        """Does a reference change the score at all? (COMETKiwi and reference-less models ignore it.)"""
        return self.kind == "regression_metric" or "ref" in self.hparams.get("input_segments", ())

    def forward(self, segments: Sequence[Segment]) -> Prediction:
        """Scores with gradients, in one padded batch: for fitting. Of joint models those of the first `sequences`."""
        encoder = self.encoder
        if self.kind in JOINT:
            return self.read(*encoder.pad(self.sequences(segments)[0]))
        names = ("src", "ref", "mt") if self.needs_reference else ("src", "mt")
        texts = {name: encoder.tokens([getattr(s, name) for s in segments])["input_ids"] for name in names}
        embedded = {name: self.embed(*encoder.pad(ids)) for name, ids in texts.items()}
        return Prediction(self.estimate(**embedded), None)

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> Prediction:
        """Of joint models: scores and logits of padded sequences; ids, mask (B, T) as `Encoder.pad` makes them."""
        states = self.encoder(ids, mask)
        score = self.estimator(self._mixed(states, mask)[:, 0]).view(-1)
        logits = self.hidden2tag(states[self.hparams["word_layer"]]) if self.labels else None
        return Prediction(score, logits)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings (B, H) of padded sentences; a literal <pad> in a text is left out of sums but counts."""
        states = self.encoder(ids, mask)
        if self.pool == "default":
            return states[-1][:, 0]
        mixed = self._mixed(states, mask)
        if self.pool == "cls":
            return mixed[:, 0]
        padding = ids.eq(self.encoder.tokenizer.pad_token_id)[..., None]
        if self.pool == "max":
            return mixed.masked_fill(padding, float("-inf")).amax(1)
        return mixed.masked_fill(padding, 0.0).sum(1) / mask.sum(1, keepdim=True)

    def estimate(self, src: torch.Tensor, mt: torch.Tensor, ref: torch.Tensor | None = None) -> torch.Tensor:
        """Scores (B,) of sentence embeddings (B, H); `ref` is for regression_metric alone."""
        if ref is None:
            difference, product = (mt - src).abs(), mt * src
            features = [mt, src, product, difference]
        else:
            difference, others = (mt - ref).abs(), (mt - src).abs()
            features = [mt, ref, mt * ref, difference, mt * src, others]
        return self.estimator(torch.cat(features, dim=1)).view(-1)

    def sequences(self, segments: Sequence[Segment]) -> list[tuple[list[int] | None, ...]]:
        """The input sequences of a joint model, each as token ids by segment, each distinct text tokenised once.

        [mt src]; where a segment has a reference [mt src], [mt ref] and [mt src ref], and None in the last two for
        segments without one; [mt ref] alone for a model that was trained without sources.
        """
        encoder, reads_source = self.encoder, "src" in self.hparams["input_segments"]
        texts, _ = distinct(text for s in segments for text in (s.mt, s.src, s.ref) if text is not None)
        pad = encoder.tokenizer.pad_token_id
        bare = [[token for token in ids if token != pad][1:-1] for ids in encoder.tokens(texts)["input_ids"]]
        tokens, sequences = dict(zip(texts, bare, strict=True)), []
        for segment in segments:
            others = [tokens[segment.src]] if reads_source else []
            others += [] if segment.ref is None else [tokens[segment.ref]]
            choices = [others] if len(others) < 2 else [others[:1], others[1:], others]
            sequences.append([encoder.join(tokens[segment.mt], *chosen) for chosen in choices])
        return list(zip_longest(*sequences))

    def _mixed(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        if self.layerwise_attention is None:
            return states[int(self.layer)]
        return self.layerwise_attention(states, mask)


class Encoder(nn.Module):
    """A transformers encoder without its pooler, and its tokenizer."""

    def __init__(self, name: str, folder: str | Path, tokenizer: str | Path):
        super().__init__()
        if name not in ENCODERS:
            raise ConfigError(f"encoder_model: {name!r} in hparams.yaml is not supported; known: {', '.join(ENCODERS)}")
        config = getattr(transformers, f"{ENCODERS[name]}Config").from_pretrained(folder, local_files_only=True)
        self.tokenizer = _tokenizer(Path(tokenizer))
        self.model = getattr(transformers, f"{ENCODERS[name]}Model")(config, add_pooling_layer=False)
        self.max_positions = config.max_position_embeddings - 2
        self.num_layers = config.num_hidden_layers + 1
        self.output_units = config.hidden_size

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Hidden states (B, T, H) of every layer, the embeddings first."""
        return self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states

    def tokens(self, texts: Sequence[str]):
        """Sentences as the tokenizer gives them, <s> and </s> included, cut at the encoder's maximum less two."""
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_positions - 2)

    def join(self, first: list[int], *others: list[int]) -> list[int]:
        """<s> first </s></s> other </s> …, cut at the encoder's maximum as COMET's `concat_sequences` does."""
        start, stop = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        joined = [start, *first, stop]
        for other in others:
            joined += [stop, *other, stop]
        special = 1 + 2 * (1 + len(others))
        fits = len(first) + sum(map(len, others)) <= self.max_positions - special
        return joined if fits else joined[: self.max_positions]

    def pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """ids and attention mask, (B, T) each, padded to the right, on the model's device."""
        parts = [torch.tensor(ids) for ids in sequences]
        ids = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(part) for part in parts])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return ids.to(self.model.device), mask.to(self.model.device)


def _tokenizer(folder: Path):
    """XLM-R's tokenizer: from tokenizer.json as it stands, also with transformers 5, which rebuilds parts of it."""
    if transformers.__version__.startswith("4.") or not (folder / "tokenizer.json").is_file():
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
    special: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    special["mask_token"] = transformers.AddedToken("<mask>", lstrip=True, special=True)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **special)


class LayerMixture(nn.Module):
    """gamma · Σ weight_i · layer_i; COMET drops layers at random while it trains, which this one does not."""

    def __init__(self, layers: int, layer_norm: bool, transformation: str):
        super().__init__()
        self.layer_norm, self.transformation = layer_norm, transformation
        self.scalar_parameters = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    def weights(self) -> torch.Tensor:
        """(layers,), sum 1; with "sparsemax" some of them may be exactly 0."""
        logits = torch.cat(list(self.scalar_parameters))
        return sparsemax(logits) if self.transformation == "sparsemax" else torch.softmax(logits, dim=0)

    def forward(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """(B, T, H) of one tensor like that per layer."""
        if self.layer_norm:
            states = [_normalised(layer, mask[..., None].float()) for layer in states]
        pieces = [weight * layer for weight, layer in zip(self.weights().split(1), states, strict=True)]
        return self.gamma * sum(pieces)


def sparsemax(logits: torch.Tensor) -> torch.Tensor:
    """The point of the probability simplex nearest to `logits` (n,) (Martins and Astudillo 2016, algorithm 1)."""
    logits = logits - logits.max().detach()
    ordered = logits.sort(descending=True).values
    excess = ordered.cumsum(0) - 1
    support = int((ordered * torch.arange(1, len(logits) + 1, device=logits.device) > excess).sum())
    return (logits - excess[support - 1] / support).clamp(min=0)


class Estimator(nn.Module):
    """Linear layers with an activation and dropout between them: (B, in) → (B, 1)."""

    def __init__(self, width: int, options: dict):
        super().__init__()
        sizes = [width, *options["hidden_sizes"]]
        layers: list[nn.Module] = []
        for into, out in pairwise(sizes):
            layers += [nn.Linear(into, out), _activation(options["activations"]), nn.Dropout(options["dropout"])]
        layers.append(nn.Linear(sizes[-1], 1))
        if options["final_activation"] is not None:
            layers.append(_activation(options["final_activation"]))
        self.ff = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.ff(features)


def _activation(name: str) -> nn.Module:
    if not hasattr(nn, name.title()):
        raise ConfigError(f"activations: {name!r} in hparams.yaml is unknown; COMET takes names of torch.nn, as Tanh")
    return getattr(nn, name.title())()


def _normalised(layer: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T, H) with mean 0 and variance 1 over all numbers of each sequence; mask (B, T, 1)."""
    masked, count = layer * mask, mask.sum(1) * layer.shape[-1]  # (B, 1)
    mean = (masked.flatten(1).sum(1, keepdim=True) / count)[..., None]  # (B, 1, 1)
    variance = ((masked - mean) * mask).square().flatten(1).sum(1, keepdim=True) / count
    return (layer - mean) / torch.sqrt(variance + 1e-12)[..., None]
