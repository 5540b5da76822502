"""The networks of COMET checkpoints: an encoder, a mixture of its layers, an estimator and, for spans, a tagger.

Regression with and without a reference (Rei et al. 2020, arXiv:2009.09025), unified models such as COMETKiwi (Rei et
al. 2022) and XCOMET (Guerreiro et al. 2023, arXiv:2310.10482). Parameters have the same names as in unbabel-comet
2.2.7, so its checkpoints fit; scores equal those of its `predict` (tests: 1e-5). Neither that package nor a particular
version of transformers is needed.
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
# Defaults of each class, for values that hparams.yaml does not set.
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
    """score (B,); logits (B, T, labels) per token if the model tags, else None."""

    score: torch.Tensor
    logits: torch.Tensor | None


class CometModel(nn.Module):
    """A COMET model with random weights, in train mode; `load_state_dict` loads those of a checkpoint.

    Args:
        kind: class identifier, one of CLASSES.
        hparams: hyper-parameters by COMET's names; missing ones have the default of the class.
        folder: the encoder's config.json, and its tokenizer unless `tokenizer` names another folder.

    Raises:
        ConfigError: an encoder or a pooling that no published COMET class uses.
    """

    def __init__(self, kind: str, hparams: dict, folder: str | Path, tokenizer: str | Path | None = None):
        super().__init__()
        self.kind, self.hparams = kind, DEFAULTS[kind] | hparams
        if kind == "xcomet_metric":  # fixed in its class, hparams.yaml is ignored
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
            raise ConfigError(f"pool: {self.pool!r} in hparams.yaml is unknown; COMET knows avg, cls, max and default")
        for name, layer in ((setting, self.layer), ("word_layer", options.get("word_layer") if self.tags else 0)):
            if layer != "mix" and not (isinstance(layer, int) and 0 <= layer < self.encoder.num_layers):
                raise ConfigError(f"{name}: {layer!r} in hparams.yaml is not a layer of its encoder")
        width = units * {"regression_metric": 6, "referenceless_regression_metric": 4}.get(kind, 1)
        self.estimator = Estimator(width, options)
        self.labels: list[str] = []  # of tokens: O for correct, then one per severity
        if self.tags:
            self.labels = ["O", *(f"I-{label}" for label in options["error_labels"])]
            self.hidden2tag = nn.Linear(units, len(self.labels))

    @property
    def needs_reference(self) -> bool:
        """Whether this model gives no score without a reference."""
        return self.kind == "regression_metric" or self.hparams.get("input_segments") == ["mt", "ref"]

    @property
    def reads_reference(self) -> bool:
        """Whether a reference changes the score (COMETKiwi and reference-less models ignore it)."""
        return self.kind == "regression_metric" or "ref" in self.hparams.get("input_segments", ())

    def forward(self, segments: Sequence[Segment]) -> Prediction:
        """Return scores with gradients, in one padded batch, for training; joint models use the first `sequences`."""
        encoder = self.encoder
        if self.kind in JOINT:
            return self.read(*encoder.pad(self.sequences(segments)[0]))
        names = ("src", "ref", "mt") if self.needs_reference else ("src", "mt")
        texts = {name: encoder.tokens([getattr(s, name) for s in segments])["input_ids"] for name in names}
        embedded = {name: self.embed(*encoder.pad(ids)) for name, ids in texts.items()}
        return Prediction(self.estimate(**embedded), None)

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> Prediction:
        """Return a joint model's scores and logits of padded sequences; ids, mask (B, T) as from `Encoder.pad`."""
        states = self.encoder(ids, mask)
        score = self.estimator(self._mixed(states, mask)[:, 0]).view(-1)
        logits = self.hidden2tag(states[self.hparams["word_layer"]]) if self.labels else None
        return Prediction(score, logits)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return embeddings (B, H) of padded sentences; a literal <pad> in a text adds to the count, not to the sum."""
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
        """Return scores (B,) of sentence embeddings (B, H); only regression_metric takes `ref`."""
        if ref is None:
            difference, product = (mt - src).abs(), mt * src
            features = [mt, src, product, difference]
        else:
            difference, others = (mt - ref).abs(), (mt - src).abs()
            features = [mt, ref, mt * ref, difference, mt * src, others]
        return self.estimator(torch.cat(features, dim=1)).view(-1)

    def sequences(self, segments: Sequence[Segment]) -> list[tuple[list[int] | None, ...]]:
        """Return the input sequences of a joint model as token ids by segment; each distinct text is tokenised once.

        [mt src] without references; [mt src], [mt ref] and [mt src ref] if any segment has one, with None in the last
        two for segments without; [mt ref] alone for a model that was trained without sources.
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
        """Return the hidden states (B, T, H) of every layer, the embeddings first."""
        return self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states

    def tokens(self, texts: Sequence[str]):
        """Tokenise sentences, <s> and </s> included, cut at the encoder's maximum less two."""
        return self.tokenizer(list(texts), truncation=True, max_length=self.max_positions - 2)

    def join(self, first: list[int], *others: list[int]) -> list[int]:
        """Return <s> first </s></s> other </s> …, cut at the encoder's maximum as COMET's `concat_sequences` does."""
        start, stop = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        joined = [start, *first, stop]
        for other in others:
            joined += [stop, *other, stop]
        special = 1 + 2 * (1 + len(others))
        fits = len(first) + sum(map(len, others)) <= self.max_positions - special
        return joined if fits else joined[: self.max_positions]

    def pad(self, sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and attention mask, (B, T) each, padded on the right, on the model's device."""
        parts = [torch.tensor(ids) for ids in sequences]
        ids = nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(part) for part in parts])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return ids.to(self.model.device), mask.to(self.model.device)


def _tokenizer(folder: Path):
    """Load XLM-R's tokenizer exactly as in tokenizer.json; transformers 5 would rebuild parts of it."""
    if transformers.__version__.startswith("4.") or not (folder / "tokenizer.json").is_file():
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    names = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"}
    special: dict[str, Any] = {f"{name}_token": token for name, token in names.items()}
    special["mask_token"] = transformers.AddedToken("<mask>", lstrip=True, special=True)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True, **special)


class LayerMixture(nn.Module):
    """gamma · Σ weight_i · layer_i, without the random layer dropout that COMET uses in training."""

    def __init__(self, layers: int, layer_norm: bool, transformation: str):
        super().__init__()
        self.layer_norm, self.transformation = layer_norm, transformation
        self.scalar_parameters = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(layers))
        self.gamma = nn.Parameter(torch.ones(1))

    def weights(self) -> torch.Tensor:
        """Return weights (layers,) that sum to 1; with "sparsemax" some may be exactly 0."""
        logits = torch.cat(list(self.scalar_parameters))
        return sparsemax(logits) if self.transformation == "sparsemax" else torch.softmax(logits, dim=0)

    def forward(self, states: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """Mix one tensor (B, T, H) per layer into one (B, T, H)."""
        if self.layer_norm:
            states = [_normalised(layer, mask[..., None].float()) for layer in states]
        pieces = [weight * layer for weight, layer in zip(self.weights().split(1), states, strict=True)]
        return self.gamma * sum(pieces)


def sparsemax(logits: torch.Tensor) -> torch.Tensor:
    """Project `logits` (n,) onto the probability simplex (Martins and Astudillo 2016, algorithm 1)."""
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
        raise ConfigError(f"activations: {name!r} in hparams.yaml is unknown; give a name of torch.nn, e.g. Tanh")
    return getattr(nn, name.title())()


def _normalised(layer: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (B, T, H) with mean 0 and variance 1 over all numbers of each sequence; mask (B, T, 1)."""
    masked, count = layer * mask, mask.sum(1) * layer.shape[-1]  # (B, 1)
    mean = (masked.flatten(1).sum(1, keepdim=True) / count)[..., None]  # (B, 1, 1)
    variance = ((masked - mean) * mask).square().flatten(1).sum(1, keepdim=True) / count
    return (layer - mean) / torch.sqrt(variance + 1e-12)[..., None]
