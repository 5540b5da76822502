"""Judges against a plain forward pass, one text at a time; every bad checkpoint and its line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tiny_judge import build_judge

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.sequence_judge import load_judge

TEXTS = ["the cat sat", "a dog", "sat", "the", "tac eht tas", "a", "the cat sat on a dog", "[SEP]a", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_judge(tmp_path_factory.mktemp("judges") / "judge", [*TEXTS, "xyz"])


@pytest.fixture(scope="module")
def judge(folder):
    return load_judge(str(folder), "cpu")


def by_hand(folder, text: str) -> float:
    from transformers import AutoTokenizer, BertForSequenceClassification

    inputs = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", split_special_tokens=True)
    with torch.no_grad():
        return BertForSequenceClassification.from_pretrained(folder).eval()(**inputs).logits.item()


def test_values_are_those_of_single_texts_in_order(folder, judge):
    expected = [by_hand(folder, text) for text in TEXTS]
    assert max(expected) - min(expected) > 0.1
    assert judge(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert judge([*reversed(TEXTS), "dog"]) == pytest.approx([*reversed(expected), expected[-1]], abs=1e-5)
    assert judge([]) == [] and judge(["\ud800"]) == pytest.approx([by_hand(folder, "?")], abs=1e-5)


def test_no_text_is_padded(judge, monkeypatch):
    seen, forward = [], type(judge.model).forward

    def watched(self, input_ids, attention_mask, **others):
        seen.append((tuple(input_ids.shape), bool(attention_mask.all())))
        return forward(self, input_ids=input_ids, attention_mask=attention_mask, **others)

    monkeypatch.setattr(type(judge.model), "forward", watched)
    judge(TEXTS)
    widths = [width for (_, width), _ in seen]
    assert all(whole for _, whole in seen) and widths == sorted(set(widths), reverse=True)
    assert sum(rows for (rows, _), _ in seen) == len(TEXTS)


def test_blank_and_long_texts_have_no_score_and_nothing_is_cut(judge):
    longest = "a" * 62  # with [CLS] and [SEP] as many as there are positions
    found = judge(["", " \n", longest, longest + "a", "\u200b"])
    assert [value is None for value in found] == [True, True, False, True, True]
    assert judge.stats == {"too_long": 1, "not_finite": 0}


def test_a_judge_with_nan_weights_gives_none(tmp_path, folder):
    judge = load_judge(str(shutil.copytree(folder, tmp_path / "judge")), "cpu")
    judge.model.classifier.weight.fill_(float("nan"))
    assert judge(["a", "dog"]) == [None, None] and judge.stats == {"too_long": 0, "not_finite": 2}


def test_it_is_frozen(judge):
    before = {name: value.clone() for name, value in judge.model.state_dict().items()}
    drawn = torch.get_rng_state()
    with torch.enable_grad():
        judge(TEXTS)
    assert not judge.model.training and not any(p.requires_grad or p.grad is not None for p in judge.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in judge.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)


def test_its_identity_is_its_files(tmp_path, folder, judge):
    moved = load_judge(str(shutil.copytree(folder, tmp_path / folder.name)), "cpu")
    assert moved.identity == judge.identity and judge.identity["model"] == "judge"
    other = load_judge(str(build_judge(tmp_path / "x" / "judge", [*TEXTS, "xyz"], seed=1)), "cpu")
    assert {name for name in judge.identity if other.identity[name] != judge.identity[name]} == {"content"}


def test_a_model_that_fails_is_an_error(judge, monkeypatch):
    def forward(self, input_ids, **others):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(type(judge.model), "forward", forward)
    with pytest.raises(ConfigError, match=r"judge_checkpoint.*ZeroDivisionError: inside"):
        judge(["a"])


def test_judges_with_other_positions_and_without_padding(tmp_path, folder):
    from transformers import GPT2Config, GPT2ForSequenceClassification, RobertaConfig, RobertaForSequenceClassification

    common = {"vocab_size": 40, "num_labels": 1, "pad_token_id": None, "bos_token_id": 2, "eos_token_id": 3}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    roberta = RobertaConfig(**(common | small), max_position_embeddings=20)
    roberta.pad_token_id = 1
    gpt = GPT2Config(**common, n_embd=16, n_layer=1, n_head=2, n_positions=20)
    for config, kind, limit in (
        (roberta, RobertaForSequenceClassification, 18),
        (gpt, GPT2ForSequenceClassification, 20),
    ):
        target = shutil.copytree(folder, tmp_path / kind.__name__)
        kind(config).save_pretrained(target)
        judge = load_judge(str(target), "cpu")
        assert judge.limit == limit
        texts = ["a" * (limit - 2), "t" * (limit - 2), "a" * (limit - 1), "dog"]
        found = judge(texts)
        assert found.pop(2) is None
        assert found == pytest.approx([judge([text])[0] for text in texts if len(text) < limit - 1], abs=1e-6)


# ---------------------------------------------------------------------- bad checkpoints


def changed(folder, **values):
    described = json.loads((folder / "config.json").read_text(encoding="utf-8")) | values
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")


def two_outputs(folder):
    build_judge(folder, TEXTS, num_labels=2)


def small_vocabulary(folder):
    build_judge(folder, TEXTS, vocab_size=9)


def causal(folder):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=20)).save_pretrained(folder)


def generator(folder):
    from rl_nmt.models.masked_diffusion import character_tokenizer, new_generator

    words = character_tokenizer(TEXTS)
    new_generator(words, hidden_size=16, num_hidden_layers=1, num_attention_heads=2).save_pretrained(folder)


def no_head(folder):
    from transformers import BertModel

    BertModel.from_pretrained(folder).save_pretrained(folder)
    changed(folder, architectures=["BertForSequenceClassification"])


def damaged(folder):
    (folder / "model.safetensors").write_bytes(b"x")


def no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "part"),
    [
        (shutil.rmtree, "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "a folder without config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not of a known model"),
        (lambda folder: changed(folder, model_type="what"), "config.json is not of a known model"),
        (two_outputs, "is a BertForSequenceClassification with num_labels 2; give .* with num_labels 1"),
        (causal, "is a GPT2LMHeadModel with .*; give a …ForSequenceClassification"),
        (generator, "is a MaskedDiffusionGPT with .*; give a …ForSequenceClassification"),
        (no_head, r"2 weights are missing, e\.g\. classifier\.bias"),
        (damaged, "does not load .*; fit or fetch it again"),
        (no_tokenizer, "its tokenizer does not load"),
        (small_vocabulary, "9 embeddings for 20 tokens"),
    ],
)
def test_bad_checkpoints(tmp_path, folder, spoil, part):
    target = shutil.copytree(folder, tmp_path / "judge")
    spoil(target)
    with pytest.raises(ConfigError, match=part) as found:
        load_judge(str(target), "cpu")
    assert str(found.value).startswith("judge_checkpoint: ") and "\n" not in str(found.value)


def test_a_judge_of_another_vocabulary(folder):
    judge = load_judge(str(folder), "cpu")
    judge.require_vocabulary(TEXTS, "judge_checkpoint")
    judge.require_vocabulary([], "judge_checkpoint")
    judge.require_vocabulary(["cats & dog"], "judge_checkpoint")  # 1 token of 10 is unknown
    with pytest.raises(ConfigError, match=r"judge_checkpoint: judge reads 100% of the tokens of 2 held-out texts"):
        judge.require_vocabulary(["ЖЖЖЖ", "ЖЖ"], "judge_checkpoint")
    judge.tokenizer.unk_token = None
    judge.require_vocabulary(["ЖЖЖЖ"], "judge_checkpoint")
