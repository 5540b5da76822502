"""Pretraining a masked-diffusion GPT: its batches, its held-out loss, that it learns, and that it resumes exactly."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from fault_trials import differences, trial
from process_trials import Processes
from tiny_diffusion import tiny_generator, tiny_tokenizer
from transformers import TrainerCallback

from rl_nmt.models.masked_diffusion import load_generator, to_batch
from rl_nmt.models.policy import choose_precision
from rl_nmt.runs.run import Run
from rl_nmt.training import loop, setup
from rl_nmt.training.masked_pretraining import build_pretrainer, heldout_loss, token_rows

TEXTS = ["abcdefgh.", "hgfedcba.", "ab cd ef gh.", "a b c d."] * 10


class Kill(TrainerCallback):
    """End the process as kill -9 does once `step` steps are done."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os._exit(137)


def build(folder: Path, steps: int = 8, save_steps: int = 0, **options):
    tokenizer = tiny_tokenizer()
    model = tiny_generator(initializer_range=0.02)
    policy = setup.Policy(tokenizer, choose_precision(lora=False), model, start=lambda: None)
    options = {
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "logging_steps": 3,
    } | options
    return build_pretrainer(folder, policy, token_rows(tokenizer, TEXTS, 32), save_steps, 3, warmup_steps=2, **options)


def train(folder: Path, callbacks=()) -> None:
    """Eight steps with a checkpoint every second one, over more than one pass through the texts."""
    with Run.open(folder, script="train.py", argv=[]) as run:
        trainer = build(folder, save_steps=2)
        loop.train(run, trainer, callbacks)
        trainer.model.save_pretrained(folder / "final")
        trainer.processing_class.save_pretrained(folder / "final")


def test_each_process_draws_masks_of_its_own(tmp_path):
    drawn = Processes(tmp_path, [0, 1], first_masks, tmp_path).results()
    assert drawn[0] != drawn[1] and drawn[0] == first_masks(tmp_path)


def first_masks(folder: Path) -> list[float]:
    build(folder)
    return torch.rand(4).tolist()


def test_killed_it_continues_to_the_same_bits(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert trial(whole, train, whole)[0] == 0
    assert trial(folder, train, folder, [Kill(5)])[0] == 137
    status, out, err = trial(folder, train, folder)
    assert status == 0 and "(step 4" in out, err
    one, other = (load_generator(str(each / "final"))[0].state_dict() for each in (whole, folder))
    assert differences(one, other) == []
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        found = [torch.load(each / "checkpoint-8" / name, weights_only=False) for each in (whole, folder)]
        assert differences(*found) == []


def test_it_learns_and_counts_its_tokens(tmp_path):
    trainer = build(tmp_path, steps=60)
    tokenizer, rows = trainer.processing_class, trainer.train_dataset
    before = heldout_loss(trainer.model, tokenizer, rows, 16)
    assert before == pytest.approx(math.log(15), rel=0.15)  # nearly uniform, in nats per token
    with torch.random.fork_rng(devices=[]):
        trainer.train()
    assert heldout_loss(trainer.model, tokenizer, rows, 16) < 0.75 * before
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert logs[-1]["loss"] < 0.75 * logs[0]["loss"] and logs[-1]["learning_rate"] < logs[0]["learning_rate"] < 1.1e-2
    assert logs[-1]["num_tokens"] == 12 * sum(map(len, rows))  # 60 steps of 8 of 40 texts, without padding


def test_gradient_checkpointing_changes_no_weight(tmp_path):
    found = []
    for on in (False, True):
        with torch.random.fork_rng(devices=[]):
            trainer = build(tmp_path, steps=2, gradient_checkpointing=on)
            trainer.train()
        found.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert torch.allclose(*found, atol=1e-5)


def test_rows_and_batches():
    tokenizer = tiny_tokenizer()
    rows = token_rows(tokenizer, ["abc", "abcd", ""], context=5)  # "abcd" does not fit
    assert rows == [[3, 7, 8, 9, 4], [3, 4]]
    batch = to_batch(tokenizer, rows)
    assert batch["input_ids"].tolist() == [[3, 7, 8, 9, 4], [3, 4, 1, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]


def test_the_heldout_loss_is_that_of_all_tokens_and_always_the_same():
    tokenizer, model = tiny_tokenizer(), tiny_generator()
    rows, state = token_rows(tokenizer, TEXTS, 32), torch.get_rng_state()
    first = heldout_loss(model, tokenizer, rows, 16, seed=1)
    assert first == heldout_loss(model, tokenizer, rows, 16, seed=1) != heldout_loss(model, tokenizer, rows, 16, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.nn.init.zeros_(model.lm_head.weight)
    lengths = [rows[0]] * 200 + [rows[3]] * 7  # the last batch is small, and counts by its tokens
    assert heldout_loss(model, tokenizer, lengths, 200) == pytest.approx(math.log(15), rel=0.06)
