"""rl_nmt.scorers.quality: which scorer a checkpoint is, its scale, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_metricx import build_metricx
from tiny_models import PAIRS, build_comet

from rewards_en_ta_dupo import CometDuPOReward, RewardSettings
from rl_nmt import hub
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.preflight import doctor
from rl_nmt.scorers.base import Segment, require_scale
from rl_nmt.scorers.comet import load_comet, precision
from rl_nmt.scorers.metricx import load_metricx
from rl_nmt.scorers.quality import load_quality_estimation

ROWS = [Segment(en, ta) for en, _ in PAIRS for _, ta in (PAIRS[0], PAIRS[3])]


@pytest.fixture(scope="module")
def metricx(tmp_path_factory):
    return build_metricx(tmp_path_factory.mktemp("quality") / "judge")


@pytest.fixture(scope="module")
def referenceless(tmp_path_factory):
    return build_comet(tmp_path_factory.mktemp("quality") / "afri", "referenceless_regression_metric", seed=3)


def test_metricx_points_become_quality(metricx):
    errors = load_metricx(metricx).score(ROWS).values
    scorer = load_quality_estimation(metricx)
    assert scorer.score(ROWS).values == pytest.approx([1 - error / 25 for error in errors], abs=1e-12)
    assert max(errors) - min(errors) > 5
    labelled = [Segment("a", "b source: c"), ROWS[0]]  # MetricX has no score for the first
    assert [value is None for value in scorer.score(labelled).values] == [True, False]
    with_reference = [Segment(s.src, s.mt, s.mt) for s in ROWS]
    assert scorer.score(with_reference).values == scorer.score(ROWS).values  # quality estimation reads none
    assert (scorer.range, scorer.higher_is_better, scorer.stats["rows"]) == ((0.0, 1.0), True, len(ROWS))
    identity = scorer.signature()["identity"]
    assert identity.pop("scale") == "(25 - score) / 25"
    assert identity == load_metricx(metricx).signature()["identity"]
    require_scale("comet_qe_model", scorer)


@pytest.mark.parametrize("kind", ["unified_metric", "xcomet_metric"])
def test_comet_classes_are_themselves(tmp_path, kind):
    folder = build_comet(tmp_path / "qe", kind)
    ours, theirs = load_quality_estimation(folder), load_comet(folder)
    assert ours.signature() == theirs.signature() and ours.score(ROWS).values == theirs.score(ROWS).values
    assert load_quality_estimation(folder / "checkpoints" / "model.ckpt").kind == kind


def test_a_comet_with_another_encoder_of_the_family(referenceless, tmp_path):
    """AfriCOMET-QE: a reference-less COMET on AfroXLMR, which it names by its hub name."""
    expected = load_quality_estimation(referenceless).score(ROWS).values
    assert max(expected) - min(expected) > 0.1
    folder = shutil.copytree(referenceless, tmp_path / "africomet-qe-stl")
    (folder / "Davlan").mkdir()
    (folder / "encoder").rename(folder / "Davlan" / "afro-xlmr-large")
    hparams = json.loads((folder / "hparams.yaml").read_text())
    (folder / "hparams.yaml").write_text(json.dumps(hparams | {"pretrained_model": "Davlan/afro-xlmr-large"}))
    checkpoint = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)
    for trained_with in ("Davlan/afro-xlmr-large", "/home/them/models/afro"):  # only hparams.yaml was corrected
        checkpoint["hyper_parameters"]["pretrained_model"] = trained_with
        torch.save(checkpoint, folder / "checkpoints" / "model.ckpt")
        scorer = load_quality_estimation(folder)
        assert scorer.score(ROWS).values == expected and scorer.kind == "referenceless_regression_metric"


def test_a_path_of_another_machine_is_refused_if_nothing_corrects_it(referenceless, tmp_path):
    folder = shutil.copytree(referenceless, tmp_path / "qe", ignore=shutil.ignore_patterns("encoder"))
    hparams = json.loads((folder / "hparams.yaml").read_text()) | {"pretrained_model": "/home/them/afro"}
    (folder / "hparams.yaml").write_text(json.dumps(hparams))
    checkpoint = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)
    torch.save(checkpoint | {"hyper_parameters": hparams}, folder / "checkpoints" / "model.ckpt")
    with pytest.raises(ConfigError, match="its encoder /home/them/afro does not exist"):
        load_quality_estimation(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unbabel/wmt20-comet-qe-da", "z-scores, which have no known range"),
        ("Unbabel/wmt21-comet-qe-da@main", "no known range"),
        ("google/metricx-23-qe-xl-v2p0", "another input"),
    ],
)
def test_published_scorers_without_a_known_range_are_refused_by_name(name, words):
    use = hub.ModelUse("comet_qe_model", name, hub.scorer_file(name))
    for refuse in (load_quality_estimation, lambda name: hub.require_models([use])):
        with pytest.raises(ConfigError, match=rf"^comet_qe_model: {name}: .*{words}.*; give COMETKiwi") as error:
            refuse(name)
        assert "\n" not in str(error.value)
    found = doctor.model_finding(use, lambda: True)
    assert found.level == "fail" and words in found.detail and found.way_out.startswith("give COMETKiwi")


def test_other_models_are_refused(metricx, tiny_gemma, tiny_comet_da, tmp_path):
    plain = shutil.copytree(metricx, tmp_path / "mt5-large")
    described = json.loads((plain / "config.json").read_text()) | {"architectures": ["MT5ForConditionalGeneration"]}
    (plain / "config.json").write_text(json.dumps(described))
    for folder, kind in ((plain, "MT5ForConditionalGeneration"), (tiny_gemma, "Gemma3ForCausalLM")):
        with pytest.raises(ConfigError, match=rf"^qe: .* of a {kind} have no known range; give COMETKiwi"):
            load_quality_estimation(folder, argument="qe")
    (plain / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"^comet_qe_model: .*without a readable config\.json"):
        load_quality_estimation(plain)
    with pytest.raises(ConfigError, match=r"^comet_qe_model: .*is a regression_metric"):
        load_quality_estimation(tiny_comet_da)
    with pytest.raises(ConfigError, match=r"^comet_qe_model: .*without hparams\.yaml"):
        load_quality_estimation(tmp_path)
    with pytest.raises(ConfigError, match=r"^comet_qe_model: mT5 overflows in float16"):
        load_quality_estimation(metricx, dtype="float16")
    with pytest.raises(MissingService, match=r"^comet_qe_model: google/metricx-24-hybrid-xl-v2p6 is not on"):
        load_quality_estimation("google/metricx-24-hybrid-xl-v2p6")  # tests run with HF_HUB_OFFLINE


def test_the_file_that_a_metric_is_known_by(metricx, referenceless, monkeypatch):
    found = [hub.scorer_file(str(path)) for path in (metricx, referenceless, referenceless / "checkpoints/model.ckpt")]
    assert found == ["config.json", hub.COMET, hub.COMET]
    names = ["google/metricx-24-hybrid-xl-v2p6@v1", "Unbabel/wmt22-cometkiwi-da", "me/mine", "/gone/x", ""]
    assert [hub.scorer_file(name) for name in names] == ["config.json", *[hub.COMET] * 4]
    monkeypatch.setattr(hub, "cached", lambda name, file="config.json": name == "me/mine" and file == "config.json")
    assert hub.scorer_file("me/mine") == "config.json"  # a MetricX under another name, once it is in the cache


def test_a_download_adds_the_tokenizer_that_metricx_lacks(metricx, tiny_gemma, tmp_path):
    bare = shutil.copytree(metricx, tmp_path / "xl", ignore=shutil.ignore_patterns("*token*", "*.model"))
    config = json.loads((bare / "config.json").read_text())
    for width, name in ((2048, "google/mt5-xl"), (1024, "google/mt5-large"), (16, "google/mt5-large")):
        (bare / "config.json").write_text(json.dumps(config | {"d_model": width}))
        assert hub.mt5_of(bare) == name
    assert [hub.mt5_of(folder) for folder in (metricx, tiny_gemma, tmp_path)] == [None, None, None]


def test_the_reward_takes_metricx(metricx, tiny_comet_da, tiny_nllb):
    models = (tiny_comet_da, metricx, tiny_nllb)
    reward = CometDuPOReward(*map(str, models), backtranslation_beams=1, reward_offload=True)
    (english, tamil), (_, wrong) = PAIRS[0], PAIRS[4]
    rows = reward.score_components(None, [tamil, wrong], source=[english] * 2)
    errors = load_metricx(metricx).score([Segment(english, tamil), Segment(english, wrong)]).values
    assert [row["qe"] for row in rows] == pytest.approx([(25 - error) / 25 for error in errors], abs=1e-6)
    identity = reward.signature()["identity"]["qe"]
    assert (identity["class"], identity["scale"], identity["model"]) == ("metricx24", "(25 - score) / 25", "judge")
    used = RewardSettings(comet_qe_model=str(metricx)).reward_models_used()
    assert [(use.setting, use.filename) for use in used][-1] == ("comet_qe_model", "config.json")


def test_an_automatic_precision_measures_metricx(metricx, monkeypatch, capsys):
    use = hub.ModelUse("comet_qe_model", str(metricx), "config.json", "comet_qe")
    monkeypatch.setattr(precision, "half_types", lambda device: ("bfloat16", "float16"))
    from rl_nmt.scorers.comet.scorer import PROBE

    exact, rounded = (
        load_quality_estimation(metricx, dtype=dtype).score(PROBE).values for dtype in ("float32", "bfloat16")
    )
    error = max(abs(a - b) for a, b in zip(exact, rounded, strict=True))
    assert error > 0
    monkeypatch.setattr(precision, "LARGEST_ERROR", error)
    assert precision.choose_dtype([use], "cpu") == "bfloat16" and f"{error:.1e}" in capsys.readouterr().err
    monkeypatch.setattr(precision, "LARGEST_ERROR", error / 2)
    assert precision.choose_dtype([use], "cpu") == "float32"
    assert "float16 changes scores by up to inf" in capsys.readouterr().err
