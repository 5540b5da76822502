"""The run folder: one run at a time, in a writable place, with settings that may not change."""

from __future__ import annotations

import json
import os
import sys

import pytest
from fault_trials import Trial, trial

from rl_nmt.errors import CannotWrite, ResumeRefused
from rl_nmt.runs import run_folder
from rl_nmt.runs.run_folder import (
    changed_settings,
    continue_command,
    lock,
    model_identity,
    open_run_folder,
    require_identity,
    save_identity,
)

IDENTITY = {"model": "m1", "group_size": 8, "data_files": ["a"], "reward": {"w_qe": 0.4, "qe": {"model": "kiwi"}}}

# --- opening -------------------------------------------------------------------------------------------


def test_a_missing_folder_is_made(tmp_path):
    assert open_run_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_fresh_makes_a_new_folder_next_to_it(tmp_path):
    folder = open_run_folder(tmp_path / "run")
    assert open_run_folder(folder, fresh=True) == folder  # still empty
    (folder / "x").touch()
    assert open_run_folder(folder) == folder
    second = open_run_folder(folder, fresh=True)
    (second / "x").touch()
    assert (second.name, open_run_folder(folder, fresh=True).name) == ("run-2", "run-3")


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    folder = open_run_folder(tmp_path / "run")
    with lock(folder), pytest.raises(CannotWrite, match="is in use"), lock(tmp_path / "disk"):  # one folder, two names
        pass
    assert (tmp_path / "run").is_symlink()


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for place in ("file", "file/below", "loop", "nowhere"):
        with pytest.raises(CannotWrite, match=r"output_dir: .* cannot be written") as refused:
            open_run_folder(tmp_path / place)
        assert refused.value.exit_code == 73
    assert not (tmp_path / "gone").exists()


def test_a_read_only_folder(tmp_path):
    """As a user without rights: tests may run as root, who may write anywhere."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)

    def attempt():
        if os.getuid() == 0:
            os.chdir(folder)
            os.seteuid(65534)
            open_run_folder(".")
        open_run_folder(folder)

    status, _, err = trial(tmp_path / "log", attempt)
    assert status == 73 and "cannot be written (Permission denied)" in err


# --- one at a time -------------------------------------------------------------------------------------


def test_two_processes_in_one_folder(tmp_path):
    def hold():
        with lock(tmp_path):
            (tmp_path / "held").touch()
            os.read(pipe[0], 1)

    def enter():
        with lock(tmp_path):
            pass

    pipe = os.pipe()
    first = Trial(tmp_path / "first", hold)
    first.until((tmp_path / "held").exists)
    status, _, err = trial(tmp_path / "second", enter)
    assert status == 73
    assert err.startswith(f"error: output_dir: {tmp_path} is in use by process {first.pid}: wait for it")
    os.write(pipe[1], b"x")
    assert first.wait()[0] == 0 and not (tmp_path / ".lock").exists()
    enter()


def test_messages_name_the_folder_as_the_recipe_does(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"^logging\.output_dir: .* cannot be written"):
        open_run_folder(tmp_path / "file", argument="logging.output_dir")
    here = r"^logging\.output_dir: .* is in use .* \(--fresh, --logging\.output_dir\)$"
    with lock(tmp_path), pytest.raises(CannotWrite, match=here), lock(tmp_path, "logging.output_dir"):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    def die():
        with lock(tmp_path):
            os._exit(137)

    assert trial(tmp_path / "a", die)[0] == 137 and (tmp_path / ".lock").exists()
    with lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()}\n"


def test_a_lock_file_that_is_removed_while_it_is_opened_does_not_count(tmp_path, monkeypatch):
    """Its owner removes it when it ends: a process that has just opened the old file must lock the new one."""
    taken = []

    def flock(file, how):
        if not taken:
            (tmp_path / ".lock").unlink()
        taken.append(file)

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)
    with lock(tmp_path):
        assert len(taken) == 2 and (tmp_path / ".lock").exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", none)
    with lock(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_one_of_several_processes_takes_the_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with lock(tmp_path), lock(tmp_path):
        assert not (tmp_path / ".lock").exists()


# --- identity ------------------------------------------------------------------------------------------


def test_nothing_stored_or_nothing_changed(tmp_path):
    assert require_identity(tmp_path, IDENTITY, force=False) == []
    save_identity(tmp_path, IDENTITY, {})
    assert require_identity(tmp_path, IDENTITY, force=False) == []
    assert require_identity(tmp_path, {"group_size": 8}, force=False) == []  # what is known early


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"group_size": 4}, "group_size: 8 → 4"),
        ({"data_files": ["a", "b"]}, "data_files: ['a'] → ['a', 'b']"),
        ({"reward": {"w_qe": 0.1, "qe": {"model": "kiwi"}}}, "reward.w_qe: 0.4 → 0.1"),
        ({"reward": {"w_qe": 0.4, "qe": {"model": "xl"}}}, "reward.qe.model: kiwi → xl"),
        ({"reward": {"w_qe": 0.4}}, "reward.qe.model: kiwi → nothing"),
        ({"reward": {"w_qe": 0.4, "qe": {"model": "kiwi"}, "new": 1}}, "reward.new: nothing → 1"),
    ],
)
def test_a_changed_identity_is_refused_with_the_difference(tmp_path, change, line):
    save_identity(tmp_path, IDENTITY, {})
    with pytest.raises(ResumeRefused) as refused:
        require_identity(tmp_path, IDENTITY | change, force=False)
    assert f"({line})" in str(refused.value) and refused.value.exit_code == 4
    assert require_identity(tmp_path, IDENTITY | change, force=True) == [line]
    assert require_identity(tmp_path, change, force=True) == [line]


def test_other_settings_are_listed(tmp_path):
    save_identity(tmp_path, IDENTITY, {"lr": 1e-5, "group_size": 8, "max_steps": 80})
    now = {"lr": 2e-5, "group_size": 4, "max_steps": 80, "new": 1}
    assert changed_settings(tmp_path, now, IDENTITY) == ["lr: 1e-05 → 2e-05"]
    save_identity(tmp_path, {"rl.seed": 1}, {"rl": {"seed": 1, "lr": 1e-5, "ids": (1, 2)}, "model": {"path": "m"}})
    now = {"rl": {"seed": 2, "lr": 2e-5, "ids": (1, 2)}, "model": {"path": "m"}}
    assert changed_settings(tmp_path, now, {"rl.seed": 2, "model": "hash"}) == ["rl.lr: 1e-05 → 2e-05"]


def test_an_identity_that_cannot_be_read(tmp_path):
    (tmp_path / "run_identity.json").write_text('{"identity"')
    with pytest.raises(ResumeRefused, match=r"run_identity\.json cannot be read"):
        require_identity(tmp_path, IDENTITY, force=True)


def test_the_model_is_known_by_its_files(tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (tmp_path / name).write_text(name)
    first = model_identity(str(tmp_path))
    (tmp_path / "README.md").write_text("other")
    assert model_identity(str(tmp_path)) == first
    (tmp_path / "tokenizer.json").write_text("other")
    second = model_identity(str(tmp_path))
    assert second["model"] == first["model"] and second["tokenizer"] != first["tokenizer"]
    monkeypatch.setattr(run_folder, "WHOLE_FILE", 1000)
    big = bytearray(3 << 20)
    (tmp_path / "model.safetensors").write_bytes(big)
    third = model_identity(str(tmp_path))
    big[(2 << 20) + 5] = 1
    (tmp_path / "model.safetensors").write_bytes(big)
    assert model_identity(str(tmp_path))["model"] != third["model"]
    assert model_identity("acme/none") == {"model": "acme/none@not cached", "tokenizer": "acme/none@not cached"}


# --- the command that continues ------------------------------------------------------------------------


def test_the_command_as_it_was_typed(tmp_path, monkeypatch):
    assert continue_command(["--lr", "1e-5"], "t.py", tmp_path, False) == "python t.py --lr 1e-5"
    assert continue_command(["--force", "--wandb_run_name", "a b"], "t.py", tmp_path, False) == (
        "python t.py --wandb_run_name 'a b'"
    )
    found = continue_command(["--output_dir", "run", "--fresh"], "t.py", tmp_path / "run-2", True)
    assert found == f"python t.py --output_dir run --output_dir {tmp_path}/run-2"  # the last one counts
    more = ("--a.resume=",)
    found = continue_command(["--a.resume", "no", "--fresh"], "t.py", tmp_path / "run-2", True, "--a.dir", more)
    assert found == f"python t.py --a.resume no --a.dir {tmp_path}/run-2 --a.resume="
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-u", "train.py", "--fresh", "--config", "x.yaml"])
    assert continue_command(None, "t.py", tmp_path, False) == "python3 -u train.py --config x.yaml"


def test_the_command_of_one_of_several_processes_begins_with_its_launcher(tmp_path, monkeypatch):
    """Here no launcher is the parent: the processes are as many again on this machine."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "x.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-u", "train.py", "--force", "--config", "x.yaml"])
    assert continue_command(None, "t.py", tmp_path, False) == "torchrun --nproc_per_node 2 train.py --config x.yaml"


def test_nothing_secret_is_written(tmp_path):
    import train_grpo_en_ta as script

    cfg = script.RunCfg(wandb_api_key="canary")
    save_identity(tmp_path, {"seed": cfg.seed}, script.config.to_public_dict(cfg))
    text = (tmp_path / "run_identity.json").read_text()
    assert "canary" not in text and json.loads(text)["settings"]["lr"] == cfg.lr
