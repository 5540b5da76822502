"""Likelihood of one side of a pair given the other, by a tiny language model taught the pairs in both directions."""

from __future__ import annotations

import shutil

import pytest
import tiny_models
import torch
from tiny_models import PAIRS
from transformers import AutoModelForCausalLM, AutoTokenizer

from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.errors import ConfigError
from rl_nmt.scorers import reconstruction
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.reconstruction import Explained, Reconstruction, Worked, load_reconstruction

NAMES = ("English", "Tamil")
WORKED = Worked(NAMES, PAIRS, examples=2)


@pytest.fixture(scope="module")
def bilingual(tiny_gemma, tmp_path_factory):
    """Folder of the tiny policy, taught every pair in both directions after the two worked examples."""
    folder = shutil.copytree(tiny_gemma, tmp_path_factory.mktemp("bilingual") / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    texts = []
    for pair in PAIRS[2:]:
        shown = [*PAIRS[:2], pair]
        texts.append("<bos>" + "".join(f"English: {src}\nTamil: {mt}\n\n" for src, mt in shown))
        texts.append("<bos>" + "".join(f"Tamil: {mt}\nEnglish: {src}\n\n" for src, mt in shown))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_models.teach(model, tokenizer, texts, 120)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorers(bilingual):
    back, follows = (load_reconstruction(bilingual, worked=WORKED, side=side) for side in ("source", "translation"))
    assert back.model is follows.model  # loaded once
    return {"source": back, "translation": follows}


def by_hand(model, tokenizer, text: str, scored: str) -> float:
    """Mean log-probability of the tokens of `scored` after `text`, one row, no cache."""
    before = tokenizer(text)["input_ids"]
    after = tokenizer(scored, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0, len(before) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(after)[:, None]).mean().item()


@pytest.mark.parametrize("side", ["source", "translation"])
def test_values_are_those_of_one_row_at_a_time(scorers, side):
    scorer = scorers[side]
    model, tokenizer = scorer.model, scorer.explained.tokenizer
    given, scored = NAMES[::-1] if side == "source" else NAMES
    shown = [pair[::-1] if side == "source" else pair for pair in PAIRS[:2]]
    prefix = "".join(f"{given}: {a}\n{scored}: {b}\n\n" for a, b in shown)
    segments = [Segment(*pair) for pair in PAIRS[2:6]] + [Segment(PAIRS[2][0], PAIRS[9][1])]
    expected = []
    for segment in segments:
        known, asked = (segment.mt, segment.src) if side == "source" else (segment.src, segment.mt)
        alone = by_hand(model, tokenizer, f"{prefix}{given}:\n{scored}:", f" {asked}")
        knowing = by_hand(model, tokenizer, f"{prefix}{given}: {known}\n{scored}:", f" {asked}")
        expected.append(1 - knowing / alone)
    assert scorer.shares(segments) == pytest.approx(expected, abs=2e-5)
    low, high = scorer.scale
    values = [min(1.0, max(0.0, (value - low) / (high - low))) for value in expected]
    assert scorer.score(segments).values == pytest.approx(values, abs=2e-5)


@pytest.mark.parametrize("side", ["source", "translation"])
def test_translations_score_above_other_sentences(scorers, side):
    right = [Segment(*pair) for pair in PAIRS[2:]]
    wrong = [Segment(source, PAIRS[(i + 5) % 12][1]) for i, (source, _) in enumerate(PAIRS[2:], 2)]
    good, bad = (scorers[side].score(segments).values for segments in (right, wrong))
    assert sum(good) / len(good) > sum(bad) / len(bad) + 0.2
    assert all(0 <= value <= 1 for value in good + bad)


def test_a_value_does_not_depend_on_its_batch_or_on_earlier_calls(scorers):
    scorer, segments = scorers["source"], [Segment(*pair) for pair in PAIRS]
    together = scorer.score(segments).values
    assert scorer.score(segments[::-1]).values == pytest.approx(together[::-1], abs=2e-5)
    assert [scorer.score([segment]).values[0] for segment in segments] == pytest.approx(together, abs=2e-5)
    assert scorer.score([]).values == [] and scorer.score([Segment("a", " "), segments[0]]).values[0] is None


@pytest.mark.parametrize("bad", [float("-inf"), float("inf"), float("nan")])
@pytest.mark.parametrize("which", ["alone", "given"])
def test_what_is_not_finite_has_no_score(scorers, monkeypatch, bad, which):
    """−inf for a source alone would otherwise make any translation of it perfect."""
    scorer, segments = scorers["source"], [Segment(*pair) for pair in PAIRS[2:5]]
    expected, explained = scorer.score(segments).values, scorer.explained

    def overflown(given, scored):
        at = ("" if which == "alone" else segments[1].mt, segments[1].src)
        values = explained(given, scored)
        return [bad if (a, b) == at else value for a, b, value in zip(given, scored, values, strict=True)]

    monkeypatch.setattr(scorer, "explained", overflown)
    monkeypatch.setattr(scorer, "_alone", {})
    assert scorer.score(segments).values == [pytest.approx(expected[0]), None, pytest.approx(expected[2])]


def test_small_batches_give_the_same(scorers, monkeypatch):
    scorer, segments = scorers["translation"], [Segment(*pair) for pair in PAIRS]
    expected = scorer.score(segments).values
    monkeypatch.setattr(reconstruction, "TOKENS", 1)
    monkeypatch.setattr(reconstruction, "SCORED", 7)
    assert scorer.score(segments).values == pytest.approx(expected, abs=2e-5)


@pytest.fixture
def any_examples(monkeypatch):
    """Let the tiny model score after examples that it was not taught."""
    monkeypatch.setattr(reconstruction, "MIN_SPREAD", float("-inf"))


def test_the_signature_tells_side_examples_and_scale_apart(scorers, bilingual, any_examples):
    own = scorers["source"].signature()["identity"]
    assert own["class"] == "likelihood" and own["scale"] == list(scorers["source"].scale)
    assert own["side"] != scorers["translation"].signature()["identity"]["side"]
    other = load_reconstruction(bilingual, worked=Worked(NAMES, PAIRS[::-1], examples=2), side="source")
    assert other.signature()["identity"]["examples"] != own["examples"]


def test_a_model_that_does_not_know_the_language_is_refused(tiny_gemma, scorers):
    model = AutoModelForCausalLM.from_pretrained(tiny_gemma)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    tokenizer = scorers["source"].explained.tokenizer
    with pytest.raises(ConfigError, match="likelihood_model"):
        Reconstruction(model, tokenizer, WORKED, True, {}, "likelihood_model")
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ConfigError, match="likelihood_model"):
        Reconstruction(model, tokenizer, WORKED, True, {}, "likelihood_model")


def test_the_reward_takes_it_for_cycle_and_quality(bilingual, monkeypatch, any_examples):
    """No other model is loaded; components are the scorers' values; a copy is gated before them."""
    settings = {"cycle": "likelihood", "qe": "likelihood", "likelihood_model": str(bilingual)}
    monkeypatch.setattr("rewards_en_ta_dupo.require_scale", lambda argument, scorer: None)
    reward = CometDuPOReward("no/model", "no/model", "no/model", **settings)
    (source, right), (_, other) = PAIRS[2], PAIRS[9]
    rows = reward.score_components(None, [right, other, source], source=[source] * 3)
    segments = [Segment(source, right), Segment(source, other)]
    assert [row["cycle"] for row in rows[:2]] == pytest.approx(reward.da.score(segments).values, abs=2e-5)
    assert [row["qe"] for row in rows[:2]] == pytest.approx(reward.qe.score(segments).values, abs=2e-5)
    assert rows[2]["gate"] == "copy" and rows[2]["cycle"] is None and rows[0]["backtranslation"] is None
    identity = reward.signature()["identity"]
    assert identity["cycle"]["side"] == "source" and identity["qe"]["side"] == "translation"


def test_explained_without_a_condition_is_the_likelihood_alone(scorers):
    explained = scorers["translation"].explained
    assert isinstance(explained, Explained)
    (one,), (two,) = explained([""], [PAIRS[3][1]]), explained([PAIRS[3][0]], [PAIRS[3][1]])
    assert two > one
