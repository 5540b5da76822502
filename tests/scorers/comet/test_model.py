"""Our COMET networks against unbabel-comet's: the same parameters, numbers and gradients."""

from __future__ import annotations

import inspect

import pytest
import torch
from comet_oracle import VARIANTS, rows
from tiny_models import comet_hparams, save_encoder

from rl_nmt.errors import ConfigError
from rl_nmt.models.loading import loading
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.model import CLASSES, DEFAULTS, JOINT, CometModel

SEGMENTS = [s for s in rows() if max(map(len, (s.src, s.mt, s.ref))) < 80][::5]


def theirs(kind, hparams):
    with loading():
        str2model = pytest.importorskip("comet.models").str2model
    accepted = inspect.signature(str2model[kind].__init__).parameters
    options = {name: value for name, value in hparams.items() if name in accepted}
    torch.manual_seed(0)
    model = str2model[kind](**options, load_pretrained_weights=False, local_files_only=True).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # it freezes its encoder at first
    return model


def ours(kind, hparams, folder):
    torch.manual_seed(0)
    return CometModel(kind, hparams, folder).eval()


def loss_of_theirs(model):
    data = [{"src": s.src, "mt": s.mt, "ref": s.ref, "score": 0.5} for s in SEGMENTS]
    inputs, _ = model.prepare_sample(data, stage="fit")
    if isinstance(inputs, dict):
        return model(**inputs).score.sum()
    predictions = [model(**part) for part in inputs]
    tags = [p.logits.square().mean() for p in predictions if "logits" in p]
    return sum([p.score.sum() for p in predictions]) + sum(tags)


def loss_of_ours(model):
    if model.kind not in JOINT:
        return model(SEGMENTS).score.sum()
    segments = SEGMENTS if model.reads_reference else [Segment(s.src, s.mt) for s in SEGMENTS]
    predictions = [model.read(*model.encoder.pad(part)) for part in model.sequences(segments)]
    tags = [p.logits.square().mean() for p in predictions if p.logits is not None]
    return sum([p.score.sum() for p in predictions]) + sum(tags)


@pytest.mark.parametrize("kind, overrides", VARIANTS)
def test_parameters_scores_and_gradients_are_the_same_bits(tmp_path, kind, overrides):
    """So a model can be trained with either, and a seed gives the same model."""
    save_encoder(tmp_path, overrides.get("encoder_model", "XLM-RoBERTa"))
    hparams = comet_hparams(kind, str(tmp_path)) | overrides | {"dropout": 0.0}
    hparams["layer_transformation"] = hparams["layer_transformation"].removesuffix("_patch")
    a, b = theirs(kind, hparams), ours(kind, hparams, tmp_path)
    mine = dict(b.named_parameters())
    assert set(a.state_dict()) - {"wordloss.weight"} == set(b.state_dict()) == set(mine)
    assert all(torch.equal(a.state_dict()[name], value) for name, value in mine.items())
    first, second = loss_of_theirs(a), loss_of_ours(b)
    assert first.item() == second.item()
    first.backward(), second.backward()
    gradients = {name: p.grad for name, p in a.named_parameters() if name in mine}
    for name, p in mine.items():
        assert (p.grad is None) == (gradients[name] is None), name
        assert p.grad is None or torch.equal(p.grad, gradients[name]), name


@pytest.mark.parametrize("kind", CLASSES)
def test_defaults_are_those_of_the_class(kind):
    """Checkpoints of older versions lack hyper-parameters."""
    with loading():
        comet = pytest.importorskip("comet.models")
    signature = inspect.signature(comet.str2model[kind].__init__).parameters
    fixed = {"input_segments", "word_level_training"} if kind == "xcomet_metric" else set()
    wrong = {name for name, value in DEFAULTS[kind].items() if name not in fixed and signature[name].default != value}
    assert wrong == set()


def test_sparse_mixture_leaves_layers_out(tmp_path):
    save_encoder(tmp_path)
    mixture = ours("unified_metric", comet_hparams("unified_metric", str(tmp_path)), tmp_path).layerwise_attention
    mixture.transformation = "sparsemax"
    for parameter, value in zip(mixture.scalar_parameters, (0.0, 1.2, 0.0, 0.6), strict=True):
        parameter.data.fill_(value)
    assert mixture.weights().tolist() == pytest.approx([0.0, 0.8, 0.0, 0.2])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoder_model": "RemBERT"}, "encoder_model: 'RemBERT'"),
        ({"encoder_model": "BERT"}, "encoder_model: 'BERT'"),
        ({"pool": "mean"}, "pool: 'mean'"),
        ({"activations": "Swoosh"}, "activations: 'Swoosh'"),
        ({"layer": 9}, "layer: 9"),
    ],
)
def test_settings_of_no_published_model_are_refused(tmp_path, changes, words):
    save_encoder(tmp_path)
    with pytest.raises(ConfigError, match=words):
        ours("regression_metric", comet_hparams("regression_metric", str(tmp_path)) | changes, tmp_path)
