"""The pretrain phase: what it leaves, that it is done once and resumes to the same bits, and its tokenizers."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fault_trials import trial, without_clock
from transformers import BertTokenizerFast

from recipes.diffusion.pretrain import make_tokenizer, pretrain
from recipes.diffusion.settings import DiffusionCfg
from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.models.masked_diffusion import load_generator
from rl_nmt.runs import phases
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run
from rl_nmt.text.templates import text_ids
from rl_nmt.training.masked_pretraining import MaskedPretrainer

TRAIN, HELD_OUT = ["the cat sat.", "a dog ran!", "one\ntwo"] * 12, ["the dog sat.", "x" * 40]


def settings(folder: Path, **changes) -> DiffusionCfg:
    small = {"hidden_size": 16, "layers": 1, "heads": 2, "block_size": 24, "pretrain_lr": 1e-2, "phase": "pretrain"}
    return DiffusionCfg(
        output_dir=str(folder), pretrain_steps=12, pretrain_batch_size=8, save_steps=4, **{**small, **changes}
    )


def make(cfg: DiffusionCfg, die_at: int | None = None, texts=TRAIN) -> None:
    """Do the phase; with `die_at`, end the process as kill -9 does at that step's loss."""
    step = MaskedPretrainer.training_step

    def training_step(trainer, *args, **kwargs):
        if trainer.state.global_step == die_at:
            os._exit(137)
        return step(trainer, *args, **kwargs)

    if die_at is not None:
        MaskedPretrainer.training_step = training_step
    with Run.open(cfg.output_dir, script="train.py", argv=[]) as run:
        pretrain(cfg, run, texts, HELD_OUT, time.monotonic())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a finished run, and what it printed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, out, err = trial(folder, make, settings(folder))
    assert status == 0 and not err, err
    return folder, out


def test_it_leaves_a_generator_and_its_losses(whole):
    folder, out = whole
    before, after = map(float, re.search(r"held-out loss: ([\d.]+) before, ([\d.]+) after", out).groups())
    assert after < 0.9 * before
    rows = MetricsFile(folder / "pretrain" / "metrics.jsonl").rows()
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 13))
    held_out = [(row["step"], row["loss"]) for row in rows if row["kind"] == "eval"]
    assert held_out == [(0, pytest.approx(before, abs=1e-4)), (12, pytest.approx(after, abs=1e-4))]
    assert "36 texts (0 longer ones left out)" in out and out.count("nats per token") == 1
    assert re.search(r"step 12/12  loss [\d.]+  \d+ tok/s", out)
    model, tokenizer = load_generator(str(folder / "pretrain" / "final"))
    assert model.config.max_position_embeddings == tokenizer.model_max_length == 24
    assert len(tokenizer) == 5 + len(set("".join(TRAIN)))
    assert len(phases.sealed(folder / "pretrain", "output_dir")) == 16


@pytest.mark.parametrize("step", [2, 7])  # before the first checkpoint, and after it
def test_killed_it_continues_to_the_same_bits(tmp_path, whole, step):
    folder = tmp_path / "run"
    assert trial(folder, make, settings(folder), step)[0] == 137
    status, _, err = trial(folder, make, settings(folder))
    assert status == 0, err
    one, other = (each / "pretrain" for each in (whole[0], folder))
    for name in ("final/model.safetensors", "final/tokenizer.json", "checkpoint-12/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    one, other = ([without_clock(row) for row in MetricsFile(each / "metrics.jsonl").rows()] for each in (one, other))
    assert one == other


def test_a_finished_phase_is_not_done_again_and_refuses_other_settings(whole, capsys):
    folder, _ = whole
    weights = folder / "pretrain" / "final" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    make(settings(folder))
    assert weights.stat().st_mtime_ns == written and "phase pretrain: finished before" in capsys.readouterr().out
    with pytest.raises(ResumeRefused, match="layers: 1 → 2"):
        make(settings(folder, layers=2))
    with pytest.raises(ResumeRefused, match="pretrain_data"):
        make(settings(folder), texts=TRAIN[1:])


def test_texts_that_do_not_fit_are_refused(tmp_path):
    with torch.random.fork_rng(devices=[]), pytest.raises(ConfigError, match="block_size"):
        make(settings(tmp_path / "run", block_size=8))


def bert(folder: Path, **options) -> str:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), **options).save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_of_berts_kind_brings_its_cls_and_sep_as_bos_and_eos(tmp_path):
    cfg = settings(tmp_path, tokenizer=bert(tmp_path))
    tokenizer = make_tokenizer(cfg, TRAIN)
    ids = text_ids(tokenizer, ["cats dog"])[0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "cat", "##s", "dog", "[SEP]"]
    tokenizer.save_pretrained(tmp_path / "again")
    again = make_tokenizer(replace(cfg, tokenizer=str(tmp_path / "again")), [])
    assert (again.bos_token, again.eos_token, again.model_max_length) == ("[CLS]", "[SEP]", 24)


def test_a_tokenizer_without_a_mask_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer: .* no mask token"):
        make_tokenizer(settings(tmp_path, tokenizer=bert(tmp_path, mask_token=None)), TRAIN)
    with pytest.raises(ConfigError, match=r"tokenizer: .* does not load"):
        make_tokenizer(settings(tmp_path, tokenizer=str(tmp_path / "..")), TRAIN)
