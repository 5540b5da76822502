"""The route for encoders that packed_layers.py does not reproduce: transformers' own forward in padded batches."""

from __future__ import annotations

import shutil

import pytest
from comet_oracle import VARIANTS, predict, rows
from tiny_models import build_comet

from rl_nmt.models.batching import TokenBudget
from rl_nmt.scorers.comet.route import PaddedRoute
from rl_nmt.scorers.comet.scorer import load_comet


@pytest.fixture
def nothing_is_reproduced(monkeypatch):
    monkeypatch.setattr("rl_nmt.scorers.comet.packed_layers.supported", lambda model: False)


@pytest.mark.usefixtures("nothing_is_reproduced")
@pytest.mark.parametrize("kind, overrides", VARIANTS[:10])
def test_equal_to_predict(tmp_path, kind, overrides):
    folder = build_comet(tmp_path / "m", kind=kind, **overrides)
    scorer, segments = load_comet(folder), rows()
    assert type(scorer.route) is PaddedRoute
    expected = predict(folder, segments, reference=scorer.model.reads_reference)
    assert scorer.score(segments).values == pytest.approx(expected, abs=1e-5)
    assert scorer.route.linears == "torch" and scorer.stats["padded_share"] > 0


@pytest.mark.parametrize("kind", ["regression_metric", "unified_metric"])
def test_minilm_reads_the_words_of_xlm_r(tmp_path, monkeypatch, kind):
    """As in eamt22-cometinho-da: a BERT encoder whose tokenizer is elsewhere, named xlm-roberta-base."""
    folder = build_comet(tmp_path / "m", kind=kind, encoder_model="MiniLM")
    (folder / "encoder").rename(tmp_path / "xlm-roberta-base")
    (folder / "encoder").mkdir()
    shutil.move(tmp_path / "xlm-roberta-base" / "config.json", folder / "encoder")
    (tmp_path / "xlm-roberta-base" / "config.json").write_text('{"model_type": "xlm-roberta"}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    scorer, segments = load_comet(folder), rows()
    assert type(scorer.route) is PaddedRoute and scorer.signature()["identity"]["tokenizer"]
    expected = predict(folder, segments, reference=scorer.model.reads_reference)
    assert scorer.score(segments).values == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("nothing_is_reproduced")
def test_small_batches_change_nothing(tmp_path):
    scorer = load_comet(build_comet(tmp_path / "m"))
    expected, passes = scorer.score(rows()[:20]).values, scorer.stats["encoded"]
    scorer.budget = TokenBudget(1)  # every sentence alone: nothing is padded
    assert scorer.score(rows()[:20]).values == pytest.approx(expected, abs=1e-6)
    assert scorer.stats["encoded"] == passes and scorer.stats["padded_share"] == 0.0
