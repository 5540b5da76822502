"""Faults from outside (kills, signals, damaged files, a full disk): the run ends as if nothing had happened.

`pytest -m "slow or not slow" tests/runs/test_faults.py` runs all of it, the default run a handful. Every trial is a
process.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fault_trials import DiskFault, Trial, at_step, die_after, differences, flip, outcome, settings, train, trial
from tiny_run import ROOT, command, environment, flags, write_data
from tiny_run import settings as script_settings
from transformers import TrainerCallback

from rl_nmt.runs.metrics_file import MetricsFile

LAST = 6
COMMAND = "continue with: python train_grpo_en_ta.py"


@pytest.fixture(scope="session")
def undisturbed(tiny_policy, tmp_path_factory):
    """Outcome of the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    status, _, err = trial(folder, train, settings(tiny_policy, folder))
    assert status == 0 and "warning" not in err, err
    return outcome(folder, LAST)


@pytest.fixture
def go(tiny_policy, tmp_path):
    """go(…) → (status, stdout, stderr) of one start of the run in tmp_path/run."""
    return lambda changes=None, **kw: trial(
        tmp_path / "run", train, settings(tiny_policy, tmp_path / "run", **changes or {}), **kw
    )


@pytest.fixture
def half_done(tiny_policy, tmp_path_factory):
    """A run folder with checkpoint-2 and checkpoint-4, killed in step 5."""
    folder = tmp_path_factory.getbasetemp() / "half" / "run"
    if not folder.exists():
        folder.parent.mkdir()
        assert trial(folder, train, settings(tiny_policy, folder), prepare=die_after(4))[0] == 137
    return folder


# --- kills ---------------------------------------------------------------------------------------------


def resumes_identically(go, folder, undisturbed) -> list[str]:
    status, _, err = go()
    if status != 0:
        return [f"status {status}: {err}"]
    return differences(undisturbed, outcome(folder, LAST))


@pytest.mark.parametrize(("save", "write"), [(1, 4), (2, 9), (3, 18)])
def test_killed_inside_a_save(go, tmp_path, undisturbed, save, write):
    """In the first one the run begins again: nothing was sealed yet."""
    status, _, _ = go(prepare=DiskFault(write, save=save))
    assert status == 137 and not (tmp_path / "run" / "evaluation.json").exists()
    assert resumes_identically(go, tmp_path / "run", undisturbed) == []


@pytest.mark.slow
def test_killed_at_every_write_of_a_save(tiny_policy, tmp_path, undisturbed):
    """The third save of the run: with one before it to go back to, and one that it rotates away."""
    folder = tmp_path / "count"
    assert trial(folder, train, settings(tiny_policy, folder), prepare=DiskFault(None, save=3))[0] == 0
    writes = int(Path(f"{folder}.writes").read_text())
    assert writes >= 20
    bad = {}
    for write in range(1, writes + 1):
        folder = tmp_path / f"at{write}"
        cfg = settings(tiny_policy, folder)
        assert trial(folder, train, cfg, prepare=DiskFault(write, save=3))[0] == 137
        status, _, err = trial(folder, train, cfg)
        found = differences(undisturbed, outcome(folder, LAST)) if status == 0 else [err]
        if found:
            bad[write] = found
        shutil.rmtree(folder)
    print(f"{writes - len(bad)} of {writes} writes")
    assert bad == {}


@pytest.mark.slow
def test_killed_at_random_moments(tiny_policy, tmp_path, undisturbed):
    """kill -9 some moment after some row was logged, twice each; 18 runs."""
    moment = random.Random(0)
    for number in range(18):
        folder = tmp_path / f"run{number}"
        rows = MetricsFile(folder / "metrics.jsonl")
        for step in sorted(moment.choices(range(LAST), k=2)):
            child = Trial(tmp_path / f"log{number}", train, settings(tiny_policy, folder))
            child.until(lambda step=step, rows=rows: any(row["step"] >= step for row in rows.rows()))
            time.sleep(moment.uniform(0, 0.2))
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        status, _, err = trial(folder, train, settings(tiny_policy, folder))
        assert status == 0, err
        assert differences(undisturbed, outcome(folder, LAST)) == [], number


@pytest.mark.slow
def test_killed_as_a_real_process_and_started_again(tiny_all, tmp_path):
    """Two runs of the command itself, killed at a step, and the same command again; against one in peace."""
    write_data(tmp_path)
    ends = []
    for number, step in enumerate((None, 3, 6)):
        folder = tmp_path / f"run{number}"
        line = ["train_grpo_en_ta.py", *flags(script_settings(tiny_all, tmp_path, folder, max_steps=8, eval_steps=4))]
        if step is not None:
            log = (tmp_path / "log").open("w")
            process = subprocess.Popen([os.sys.executable, *line], cwd=ROOT, env=environment(), stdout=log, stderr=log)
            rows = MetricsFile(folder / "metrics.jsonl") if folder.mkdir() is None else None
            while not any(row["step"] > step for row in rows.rows()):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.01)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        done = command(*line)
        assert done.returncode == 0, done.stderr
        rows = MetricsFile(folder / "metrics.jsonl").rows()
        clock = ("time/", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
        ends.append(
            {
                "weights": (folder / "final" / "model.safetensors").read_bytes(),
                "table": (folder / "evaluation.json").read_bytes(),
                "samples": (folder / "samples.jsonl").read_bytes(),
                "metrics": [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows],
            }
        )
    assert differences(ends[0], ends[1]) == [] and differences(ends[0], ends[2]) == []


# --- corruptions ---------------------------------------------------------------------------------------

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "run_state.json")
HURT = {f"{name} missing": (name, Path.unlink) for name in FILES}
HURT |= {f"{name} empty": (name, lambda path: path.write_bytes(b"")) for name in FILES[:3]}
HURT |= {f"{name} truncated": (name, lambda path: os.truncate(path, path.stat().st_size // 2)) for name in FILES[:2]}
HURT |= {
    "weights flipped": ("model.safetensors", lambda path: flip(path.parent)),
    "state edited": ("trainer_state.json", lambda path: path.write_text(path.read_text().replace('": 4,', '": 5,'))),
    "manifest missing": ("manifest.json", Path.unlink),
    "manifest cut": ("manifest.json", lambda path: os.truncate(path, 80)),
    "manifest of another": (
        "manifest.json",
        lambda path: shutil.copy(path.parent.parent / "checkpoint-2" / path.name, path),
    ),
    "future version": (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace('"format": 2', '"format": 3')),
    ),
    "pickle added": ("pytorch_model.bin", lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n.")),
}


def hurt(half_done, folder: Path, name: str) -> None:
    shutil.copytree(half_done, folder)
    file, change = HURT[name]
    before = (folder / "checkpoint-4" / file).read_bytes() if (folder / "checkpoint-4" / file).exists() else None
    change(folder / "checkpoint-4" / file)
    path = folder / "checkpoint-4" / file
    assert (path.read_bytes() if path.exists() else None) != before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("weights flipped", "optimizer.pt missing") else pytest.mark.slow)
        for name in HURT
    ],
)
def test_the_newest_checkpoint_corrupted(half_done, go, tmp_path, undisturbed, name):
    hurt(half_done, tmp_path / "run", name)
    status, out, err = go()
    assert status == 0 and "checkpoint-2 (step 2" in out and "checkpoint-4 is now broken-checkpoint-4" in out, err
    assert differences(undisturbed, outcome(tmp_path / "run", LAST)) == []


def test_all_checkpoints_corrupted(half_done, go, tmp_path):
    shutil.copytree(half_done, tmp_path / "run")
    flip(tmp_path / "run" / "checkpoint-2")
    (tmp_path / "run" / "checkpoint-4" / "optimizer.pt").unlink()
    before = sorted(tmp_path.rglob("*"))
    status, out, err = go()
    assert (status, out) == (4, "") and err.startswith("error: ") and err.count("\n") == 1
    assert "checkpoint-4: optimizer.pt is missing; checkpoint-2: model.safetensors has changed" in err
    assert sorted(p for p in tmp_path.rglob("*") if "log" not in p.name) == [p for p in before if p.name != ".lock"]


# --- signals -------------------------------------------------------------------------------------------

PLACES = {
    "generation": "_generate",
    "reward": "_calculate_rewards",
    "update": "compute_loss",
    "save": "_save_checkpoint",
}
SIGNALS = [
    pytest.param(place, number, marks=[] if (place, number) == ("reward", signal.SIGTERM) else pytest.mark.slow)
    for place in (*PLACES, "evaluation")
    for number in (signal.SIGTERM, signal.SIGINT)
]


@pytest.mark.parametrize(("place", "number"), SIGNALS)
def test_a_signal(go, tmp_path, undisturbed, place, number):
    """The generation cycle is finished and saved, wherever it came; the same command continues to the same bits."""

    def send(*_):
        os.kill(os.getpid(), number)

    if place == "evaluation":
        status, _, err = go(during_evaluation=lambda t: t.state.global_step == 3 and send())
        expected = 3
    else:
        status, _, err = go(prepare=at_step(3, PLACES[place], send))
        expected = 4
    name = number.name
    assert status == 128 + number, err
    assert f"{name}: finishing the generation cycle" in err
    lines = err.splitlines()
    assert lines[-2] == f"stopped: {name}, after step {expected}; checkpoint-{expected} is saved"
    assert lines[-1].startswith(COMMAND)
    assert (tmp_path / "run" / f"checkpoint-{expected}" / "manifest.json").exists()
    assert resumes_identically(go, tmp_path / "run", undisturbed) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_stops_at_once(go, tmp_path, undisturbed, number):
    def twice():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    status, out, err = go(prepare=at_step(3, "_calculate_rewards", twice))
    assert status == 128 + number and err.splitlines()[-1].startswith(COMMAND) and "step 4/" not in out
    assert not (tmp_path / "run" / "checkpoint-4").exists()
    assert resumes_identically(go, tmp_path / "run", undisturbed) == []


@pytest.mark.slow
def test_the_last_line_is_the_command_that_continues(tiny_all, tmp_path):
    """SIGTERM to the command itself; then the line it printed, unchanged, in a shell."""
    write_data(tmp_path)
    folder = tmp_path / "run with a space"
    line = [os.sys.executable, "train_grpo_en_ta.py", *flags(script_settings(tiny_all, tmp_path, folder, max_steps=9))]
    process = subprocess.Popen(
        [*line, "--fresh"], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (folder / "checkpoint-2" / "manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    (typed,) = re.findall(r"^continue with: (.+)$", err.splitlines()[-1])
    assert shlex.split(typed) == [*line, "--output_dir", str(folder)]
    again = subprocess.run(typed, shell=True, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0 and "resuming from" in again.stdout, again.stderr
    steps = re.findall(r"^step (\d)/9", out + again.stdout, re.MULTILINE)
    assert steps == list("123456789")


def test_max_hours_stops_in_time_and_resumable(go, tmp_path, undisturbed):
    status, _, err = go({"max_hours": 1e-9})
    assert status == 75
    stopped, command = err.splitlines()[-2:]
    assert stopped == "stopped: max_hours, after step 1; checkpoint-1 is saved" and command.startswith(COMMAND)
    status, out, _ = go()
    assert status == 0 and "changed since the last start: max_hours: 1e-09 → 0.0" in out
    assert differences(undisturbed, outcome(tmp_path / "run", LAST)) == []


def test_a_stop_by_another_callback_can_be_resumed(go):
    """The divergence alarm ends training in this way."""

    class Alarm(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 3

    status, _, err = go(prepare=lambda trainer: trainer.add_callback(Alarm()))
    assert status == 75
    stopped, command = err.splitlines()[-2:]
    assert stopped == "stopped: training was ended early, after step 3; checkpoint-3 is saved"
    assert command.startswith(COMMAND)


# --- disk and numbers ----------------------------------------------------------------------------------


def small_files_only(trainer):
    """From the second save on no file may grow above 20 kB: for every library the same as a full disk."""
    original, saves = trainer._save_checkpoint, []

    def save(model, trial):
        saves.append(trainer.state.global_step)
        if len(saves) > 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        original(model, trial)

    trainer._save_checkpoint = save


def test_a_full_disk_ends_the_run_only_at_the_third_save(go, tmp_path, undisturbed):
    status, out, err = go({"save_steps": 1, "eval_steps": 0}, prepare=small_files_only)  # without a best/ to write
    folder = tmp_path / "run"
    assert status == 73, err
    warned = re.findall(r"^warning: \S+/checkpoint-(\d) was not saved \(.+bytes free\): the newest is", err, re.M)
    assert warned == ["2", "3"] and "step 4/" in out
    assert (
        "checkpoint-4 was not saved" in err
        and "3 saves failed in a row" in err
        and err.splitlines()[-1].startswith(COMMAND)
    )
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    status, out, err = go()
    assert status == 0 and "checkpoint-1 (step 1" in out
    assert differences(undisturbed, outcome(folder, LAST)) == []


@pytest.mark.slow
def test_a_full_disk_at_every_write_of_a_save(tiny_policy, tmp_path, undisturbed):
    """The run continues without that checkpoint, and ends as if nothing had happened."""
    for write in range(1, 40):
        folder = tmp_path / f"at{write}"
        fault = DiskFault(write, how="full")
        status, _, err = trial(folder, train, settings(tiny_policy, folder), prepare=fault)
        if int(Path(f"{folder}.writes").read_text()) < write:
            break
        assert status == 0, err
        assert differences(undisturbed, outcome(folder, LAST)) == [], write
    assert write > 15


def test_a_nan_loss_stops_before_the_step(go, tmp_path):
    def poison(trainer):
        """NaN in the reference makes the KL, and so the loss, NaN; from the third step on."""

        def hurt():
            with torch.no_grad():
                next(trainer.ref_model.parameters()).fill_(float("nan"))

        at_step(2, "_generate", hurt)(trainer)

    status, out, err = go(prepare=poison)
    assert status == 70 and "step 3/" not in out
    assert "the loss is nan at step 3: " in err
    assert err.splitlines()[-1].startswith(COMMAND)
    left = tmp_path / "run" / "nonfinite-step-3"
    told = json.loads((left / "batch.json").read_text())
    assert told["problem"] == "the loss is nan" and len(told["completion"]) == len(told["advantages"]) == 4
    assert "English:" in told["prompt"][0]
    tensors = torch.load(left / "batch.pt", weights_only=True)
    assert torch.isnan(tensors["ref_per_token_logps"]).any() and tensors["completion_ids"].shape[0] == 4
    status, _, err = go()  # nothing was lost with it
    assert status == 0, err


@pytest.mark.slow
def test_the_same_seed_twice(go, tmp_path, undisturbed):
    assert go()[0] == 0
    assert differences(undisturbed, outcome(tmp_path / "run", LAST)) == []
