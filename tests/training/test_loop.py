"""The loop drives a plain transformers.Trainer: sealed checkpoints, exact resume, signals, no step on a NaN."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from fault_trials import differences, flip, trial
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rl_nmt.runs import checkpoints
from rl_nmt.runs.run import Run
from rl_nmt.training import loop
from rl_nmt.training.callbacks import GracefulStop


class Rows(Dataset):
    """64 sequences of 8 tokens."""

    def __init__(self):
        ids = torch.randint(0, 32, (64, 8), generator=torch.Generator().manual_seed(0))
        self.rows = [{"input_ids": row, "labels": row} for row in ids]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class Act(TrainerCallback):
    """Call `action(model)` once `step` steps are done."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.action(model)


class Counter(TrainerCallback):
    """A callback with a state: how many steps it has seen."""

    def __init__(self):
        self.seen, self.begun = 0, None

    def begin(self, resumed):
        self.begun = (resumed, self.seen)

    def on_step_end(self, args, state, control, **kwargs):
        self.seen += 1

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def train(folder: Path, extra=(), max_hours: float = 0.0) -> None:
    """Eight steps of a two-layer GPT-2, with dropout, a checkpoint every second one."""
    with Run.open(folder, script="sft.py", argv=[]) as run, run.under_way():
        torch.manual_seed(1)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        args = TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            max_steps=8,
            save_steps=2,
            logging_steps=3,
            learning_rate=1e-2,
            seed=3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_total_limit=2,
        )
        trainer, counter = Trainer(model=model, args=args, train_dataset=Rows()), Counter()
        loop.train(run, trainer, [counter, *extra], max_hours=max_hours)
        assert counter.seen == 8 and counter.begun == (run.resume is not None, run.resume.step if run.resume else 0)
        trainer.save_model(str(folder / "final"))


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, _, err = trial(folder, train, folder)
    assert status == 0, err
    return folder


def test_killed_it_continues_to_the_same_bits(tmp_path, whole):
    folder = tmp_path / "run"
    assert trial(folder, train, folder, [Act(5, lambda _: os._exit(137))])[0] == 137
    status, out, err = trial(folder, train, folder)
    assert status == 0 and f"resuming from {folder}/checkpoint-4 (step 4" in out, err
    assert weights(folder) == weights(whole)
    last = [torch.load(f / "checkpoint-8" / "optimizer.pt", weights_only=True) for f in (folder, whole)]
    assert differences(*last) == []


def test_no_checkpoint_goes_before_the_next_is_sealed(tmp_path, monkeypatch):
    seal, seen = checkpoints.Keeper.seal, []

    def spy(keeper, step):
        seen.append(sorted(int(path.name[11:]) for path in tmp_path.glob("run/checkpoint-*")))
        return seal(keeper, step)

    monkeypatch.setattr(checkpoints.Keeper, "seal", spy)
    with torch.random.fork_rng(devices=[]):
        train(tmp_path / "run")
    assert seen == [[2], [2, 4], [2, 4, 6], [4, 6, 8]]


def test_a_damaged_checkpoint_is_set_aside(tmp_path, whole):
    folder = tmp_path / "run"
    assert trial(folder, train, folder, [Act(5, lambda _: os._exit(137))])[0] == 137
    flip(folder / "checkpoint-4")
    status, out, err = trial(folder, train, folder)
    assert status == 0 and "checkpoint-4 is now broken-checkpoint-4" in out, err
    assert weights(folder) == weights(whole)


def test_a_signal_saves_and_names_the_command(tmp_path, whole):
    folder = tmp_path / "run"
    status, _, err = trial(folder, train, folder, [Act(2, lambda _: os.kill(os.getpid(), signal.SIGTERM))])
    assert status == 143, err
    stopped = "stopped: SIGTERM, after step 3; checkpoint-3 is saved"
    assert err.splitlines()[-2:] == [stopped, "continue with: python sft.py"]
    assert trial(folder, train, folder)[0] == 0 and weights(folder) == weights(whole)


def test_max_hours(tmp_path):
    status, _, err = trial(tmp_path / "run", train, tmp_path / "run", (), 1e-9)
    assert status == 75 and "max_hours, after step 1; checkpoint-1 is saved" in err


def test_a_stop_within_a_generation_cycle_is_saved_at_its_end():
    """A checkpoint in between could not be resumed exactly, and without one the run would count as done."""
    state, control, ends = TrainerState(global_step=3, max_steps=8), TrainerControl(), iter((False, True))
    stop = GracefulStop(lambda: next(ends))
    control.should_training_stop = control.should_save = True  # as `HeldOut` does when the alarm rings
    stop.on_step_end(None, state, control)
    assert not (control.should_training_stop or control.should_save or stop.exit_code)
    state.global_step = 4
    stop.on_step_end(None, state, control)
    assert control.should_training_stop and control.should_save and (stop.exit_code, stop.step) == (75, 4)


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    def poison(model):
        with torch.no_grad():
            model.transformer.wte.weight.fill_(float("nan"))

    folder = tmp_path / "run"
    status, _, err = trial(folder, train, folder, [Act(2, poison)])
    assert status == 70 and "the loss is nan at step 3: " in err
    assert torch.load(folder / "nonfinite-step-3" / "batch.pt", weights_only=True)["input_ids"].shape == (4, 8)
