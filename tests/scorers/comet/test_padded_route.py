"""The route for encoders that are not reproduced: COMET's own forward in our batches."""

from __future__ import annotations

import pytest
from comet_oracle import VARIANTS, predict, rows
from tiny_models import build_comet

from rl_nmt.models.batching import TokenBudget
from rl_nmt.scorers.comet.scorer import load_comet


@pytest.fixture(autouse=True)
def nothing_is_reproduced(monkeypatch):
    monkeypatch.setattr("rl_nmt.scorers.comet.packed_layers.supported", lambda model: False)


@pytest.mark.parametrize("kind, overrides", VARIANTS[:10])
def test_equal_to_predict(tmp_path, kind, overrides):
    folder = build_comet(tmp_path / "m", kind=kind, **overrides)
    scorer, segments = load_comet(folder), rows()
    assert scorer.route.encoder is None
    expected = predict(folder, segments, reference=scorer.reads_reference)
    assert scorer.score(segments).values == pytest.approx(expected, abs=1e-5)
    assert scorer.route.linears == "torch" and scorer.stats["padded_share"] > 0


def test_small_batches_change_nothing(tmp_path):
    scorer = load_comet(build_comet(tmp_path / "m"))
    expected, passes = scorer.score(rows()[:20]).values, scorer.stats["encoded"]
    scorer.budget = TokenBudget(1)  # every sentence alone: nothing is padded
    assert scorer.score(rows()[:20]).values == pytest.approx(expected, abs=1e-6)
    assert scorer.stats["encoded"] == passes and scorer.stats["padded_share"] == 0.0
