"""rl_nmt.scorers.comet.precision, on a CPU that pretends to be a card with or without bf16 units."""

from __future__ import annotations

import pytest

from rl_nmt.hub import COMET, ModelUse
from rl_nmt.scorers.comet import precision
from rl_nmt.scorers.comet.scorer import load_comet

NLLB = ModelUse("backtranslation_model", "no/such/model", part="translator")


@pytest.fixture
def models(tiny_comet_da, tiny_comet_qe):
    return [
        ModelUse("comet_da_model", str(tiny_comet_da), COMET, "comet_da"),
        NLLB,
        ModelUse("comet_qe_model", str(tiny_comet_qe), COMET, "comet_qe"),
    ]


@pytest.fixture
def half(monkeypatch):
    """Half precisions of the device, and the error that is allowed."""

    def pretend(types: tuple[str, ...], allowed: float):
        monkeypatch.setattr(precision, "half_types", lambda device: types)
        monkeypatch.setattr(precision, "LARGEST_ERROR", allowed)

    return pretend


def test_on_a_cpu_it_is_float32_and_nothing_is_loaded(capsys):
    uses = [NLLB, ModelUse("comet_qe_model", "no/such/model", COMET)]
    assert precision.choose_dtype(uses, "cpu") == "float32"
    assert capsys.readouterr().err == "reward_dtype auto: float32 (on cpu)\n"


def test_the_half_type_must_be_exact_enough_for_every_model(models, half, capsys):
    errors = [load_comet(use.name).error_of("bfloat16") for use in models if use.filename == COMET]
    low, high = sorted(errors)
    assert low < high
    half(("bfloat16",), high)
    assert precision.choose_dtype(models, "cpu") == "bfloat16"
    assert capsys.readouterr().err == f"reward_dtype auto: bfloat16 (largest score difference {high:.1e})\n"
    half(("bfloat16",), (low + high) / 2)
    assert precision.choose_dtype(models, "cpu") == "float32"
    assert capsys.readouterr().err == f"reward_dtype auto: float32 (bfloat16 changes scores by up to {high:.1e})\n"


def test_bfloat16_is_tried_first_and_float16_if_it_is_too_inexact(models, half):
    half(("bfloat16", "float16"), 1.0)
    assert precision.choose_dtype(models, "cpu") == "bfloat16"
    rough, fine = (
        max(load_comet(use.name).error_of(dtype) for use in models if use.filename == COMET)
        for dtype in ("bfloat16", "float16")
    )
    assert fine < rough
    half(("bfloat16", "float16"), fine)
    assert precision.choose_dtype(models, "cpu") == "float16"
