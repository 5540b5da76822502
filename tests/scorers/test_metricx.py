"""rl_nmt.scorers.metricx against the published route: full logits, one unpadded row at a time."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
import transformers
from tiny_metricx import SCORE_ID, build_metricx
from tiny_models import PAIRS

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.batching import TokenBudget
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.metricx import load_metricx

LONG = " ".join(ta for _, ta in PAIRS) * 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return build_metricx(tmp_path_factory.mktemp("metricx") / "metricx-24-hybrid-tiny")


@pytest.fixture(scope="module")
def scorer(checkpoint):
    return load_metricx(checkpoint)


def rows() -> list[Segment]:
    rng = random.Random(0)
    plain = [Segment(en, rng.choice(PAIRS)[1]) for en, _ in PAIRS for _ in range(2)]
    hybrid = [Segment(en, rng.choice(PAIRS)[1], ta) for en, ta in PAIRS]
    odd = ["", " ", "🙂 漢字", "a\nb\tc", "x" * 400, "</s>", "<extra_id_10>", LONG, "நன்றி" * 100]
    return plain + hybrid + [Segment(PAIRS[0][0], o) for o in odd] + [Segment(o, "a", "") for o in odd] + plain[:7]


def published(folder, segments, keep_end: bool = False) -> list[float]:
    """What metricx24/predict.py and models.py compute, step by step."""
    from transformers import AutoTokenizer, MT5ForConditionalGeneration

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = MT5ForConditionalGeneration.from_pretrained(folder).eval()
    tied = json.loads((folder / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]
    scale = model.config.d_model**-0.5 if tied and transformers.__version__ > "5" else 1.0  # 5 no longer scales
    scores = []
    for s in segments:
        text = "source: " + s.src + " candidate: " + s.mt
        if s.ref is not None:
            text += " reference: " + s.ref
        ids = tokenizer(text, max_length=1536, truncation=True, return_tensors="pt").input_ids
        ids = ids if keep_end else ids[:, :-1]
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]]), use_cache=False).logits
        assert logits.shape == (1, 1, 250_112)
        scores.append((scale * logits[0, 0, SCORE_ID]).clamp(0, 25).item())
    return scores


def test_equal_to_the_published_route(checkpoint, scorer):
    segments = rows()
    expected, got = published(checkpoint, segments), scorer.score(segments)
    assert got.spans is None
    assert got.values == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 8  # scores differ, otherwise equality would mean nothing


def test_the_end_marker_and_the_reference_matter(checkpoint, scorer):
    """If these two did not change the score, the test above could not find errors in them."""
    segments = rows()[:12]
    with_end = published(checkpoint, segments, keep_end=True)
    with_ref = scorer.score([Segment(s.src, s.mt, s.mt) for s in segments]).values
    got = scorer.score(segments).values
    for other in (with_end, with_ref):
        assert max(abs(a - b) for a, b in zip(got, other, strict=True)) > 0.05


def test_tied_checkpoints_are_scaled(tmp_path):
    folder, segments = build_metricx(tmp_path / "tied", tied=True), rows()[:20]
    assert load_metricx(folder).score(segments).values == pytest.approx(published(folder, segments), abs=1e-5)


def test_padding_order_and_batches_change_nothing(checkpoint, scorer):
    segments = rows()
    expected = scorer.score(segments).values
    order = list(range(len(segments)))
    random.Random(1).shuffle(order)
    for budget, chosen in ((2, order[:12]), (300, order), (20_000, order)):
        small = load_metricx(checkpoint)
        small.budget = TokenBudget(budget)
        got = small.score([segments[i] for i in chosen]).values
        assert got == pytest.approx([expected[i] for i in chosen], abs=1e-5)
    assert scorer.score([]).values == []


def test_equal_texts_are_scored_once_and_padding_is_counted(checkpoint):
    scorer = load_metricx(checkpoint)
    scorer.budget = TokenBudget(120)
    unique = [Segment(en, ta) for en, ta in PAIRS]
    scorer.score(unique * 8)
    assert (scorer.stats["rows"], scorer.stats["distinct"]) == (96, 12)
    tokenizer = scorer.tokenizer
    tokens = sum(len(tokenizer(f"source: {s.src} candidate: {s.mt}").input_ids) - 1 for s in unique)
    assert scorer.stats["tokens"] == tokens and 0 < scorer.stats["padded_share"] < 0.12


def test_the_output_matrix_is_not_kept(scorer):
    assert not hasattr(scorer.model, "lm_head")
    large = [n for n, p in scorer.model.named_parameters() if p.shape[0] > 100_000]
    assert large == ["shared.weight"]


@pytest.mark.parametrize("mt", ["x reference: நன்றி.", "reference: x", "a\ncandidate: b source: c"])
def test_a_translation_cannot_contain_its_own_reference(scorer, mt):
    english = "Thank you."
    got = scorer.score([Segment(english, mt), Segment(english, "நன்றி.")])
    assert got.values[0] is None and got.values[1] is not None


def test_field_labels_of_the_source_may_be_in_the_translation(checkpoint, scorer):
    segment = Segment("For reference: see page 5.", "reference: 5 பக்கம்.")
    assert scorer.score([segment]).values == pytest.approx(published(checkpoint, [segment]), abs=1e-5)
    assert scorer.score([Segment("a", "preference: b")]).values[0] is not None


def test_overlong_inputs_are_cut_or_skipped(checkpoint):
    short, long = Segment("It is raining today.", PAIRS[4][1]), Segment("It is raining today.", LONG)
    skip = load_metricx(checkpoint, overlong="skip")
    values = skip.score([long, short]).values
    assert values[0] is None and values[1] is not None
    cut = load_metricx(checkpoint, max_length=40)
    longer = Segment(long.src, long.mt + " மேலும்")
    one, two = cut.score([long, longer]).values
    assert one == two


def test_bfloat16_weights_keep_the_ranking(checkpoint, scorer):
    segments = rows()[:24]
    exact, low = scorer.score(segments).values, load_metricx(checkpoint, dtype="bfloat16").score(segments).values
    assert max(abs(a - b) for a, b in zip(exact, low, strict=True)) < 1.5
    # The score itself is not in bfloat16, whose steps are 0.06 to 0.125 in this range.
    assert any(v != torch.tensor(v).bfloat16().item() for v in low)


def test_a_value_that_is_not_finite_is_none(checkpoint):
    broken = load_metricx(checkpoint)
    broken._row[3] = float("nan")
    assert broken.score(rows()[:3]).values == [None] * 3


def test_memory_that_runs_out_makes_batches_smaller(checkpoint, scorer, monkeypatch, capsys):
    small, segments = load_metricx(checkpoint), rows()[:24]
    run = small._scores

    def limited(sequences):
        if len(sequences) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(sequences)

    monkeypatch.setattr(small, "_scores", limited)
    assert small.score(segments).values == pytest.approx(scorer.score(segments).values, abs=1e-5)
    assert "out of memory" in capsys.readouterr().err


def test_global_state_does_not_change(checkpoint):
    torch.set_float32_matmul_precision("high")
    try:
        state = torch.get_rng_state()
        load_metricx(checkpoint).score(rows()[:2])
        assert torch.get_float32_matmul_precision() == "high" and torch.equal(torch.get_rng_state(), state)
        assert torch.is_grad_enabled()
    finally:
        torch.set_float32_matmul_precision("highest")


def test_shards_and_pickles_score_the_same(checkpoint, scorer, tmp_path):
    from transformers import MT5ForConditionalGeneration

    model = MT5ForConditionalGeneration.from_pretrained(checkpoint)
    for name, options in {"shards": {"max_shard_size": "17MB"}, "bin": {"safe_serialization": False}}.items():
        folder = tmp_path / name
        shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        model.save_pretrained(folder, **options)
        shutil.copy(checkpoint / "config.json", folder)  # transformers 5 saves it as tied
        other = load_metricx(folder)
        assert other.score(rows()[:5]).values == scorer.score(rows()[:5]).values
        assert other.signature()["identity"]["checkpoint"]
    assert "+" in load_metricx(tmp_path / "shards").signature()["identity"]["checkpoint"]


def test_the_signature_has_everything_that_determines_the_score(checkpoint, scorer, tmp_path):
    identity, environment = scorer.signature()["identity"], scorer.signature()["environment"]
    assert {"torch", "transformers"} <= set(environment)
    assert identity["model"] == "metricx-24-hybrid-tiny" and identity["dtype"] == "float32"
    moved = tmp_path / "metricx-24-hybrid-tiny"
    shutil.copytree(checkpoint, moved)
    assert load_metricx(moved).signature() == scorer.signature()
    for options in ({"dtype": "bfloat16"}, {"max_length": 512}, {"overlong": "skip"}):
        assert load_metricx(checkpoint, **options).signature()["identity"] != identity
    other = build_metricx(tmp_path / "b", seed=2)
    assert load_metricx(other).signature()["identity"]["checkpoint"] != identity["checkpoint"]
    assert json.dumps(scorer.signature())


def test_scale_and_direction_are_metricx_own(scorer):
    assert scorer.range == (0.0, 25.0) and scorer.higher_is_better is False
    values = scorer.score(rows()).values
    assert min(values) >= 0 and max(values) <= 25


def test_the_tokenizer_may_be_in_another_folder(checkpoint, scorer, tmp_path):
    bare = tmp_path / "metricx-24-hybrid-tiny"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("*token*", "spiece*"))
    given = load_metricx(bare, tokenizer=str(checkpoint))
    assert given.score(rows()[:4]).values == scorer.score(rows()[:4]).values
    assert given.signature() == scorer.signature()
    with pytest.raises(MissingService, match=r"google/mt5-large"):  # as published: weights without a tokenizer
        load_metricx(bare)


def test_bad_arguments_and_folders(checkpoint, tiny_comet_da, tmp_path):
    for options, message in [
        ({"dtype": "float16"}, "overflows"),
        ({"dtype": "int8"}, "metricx_model: 'int8'"),
        ({"device": "gpu"}, "metricx_model: 'gpu'"),
        ({"overlong": "drop"}, "truncate or skip"),
        ({"tokenizer": str(tmp_path / "no")}, "no such folder"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_metricx(checkpoint, **options)
    with pytest.raises(ConfigError, match="no such folder"):
        load_metricx(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"metricx_model: .*'xlm-roberta' model; MetricX-24 is an mT5"):
        load_metricx(tiny_comet_da / "encoder")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ConfigError, match=r"metricx_model: .*config\.json"):
        load_metricx(tmp_path)


@pytest.mark.parametrize("lost", ["lm_head.weight", "decoder.block.1.layer.2.DenseReluDense.wo.weight"])
def test_an_incomplete_checkpoint_is_refused(checkpoint, tmp_path, lost):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"weights missing, e.g. {lost}"):
        load_metricx(folder)


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(checkpoint, folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(ConfigError, match="does not load as an mT5"):
        load_metricx(folder)
