"""Sealed checkpoints: what counts as one, what is kept, and a resume to the same bits."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from fault_trials import TextReward, die_after, differences, flip, outcome, settings, train, trial

from rl_nmt.errors import CannotWrite, ResumeRefused
from rl_nmt.runs import checkpoints
from rl_nmt.runs.checkpoints import Broken, Keeper, checkpoint_folders, find, read, seal, set_aside

STATE = {"step": 0, "parts": {}, "notes": {"id": "a1"}}


class Counter:
    """The smallest thing with a state."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def written(folder, step):
    """checkpoint-`step` as the Trainer leaves it."""
    path = folder / f"checkpoint-{step}"
    (path / "deep").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(os.urandom(1000))
    (path / "deep" / "optimizer.pt").write_bytes(os.urandom(500) + bytes([step]))
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


@pytest.fixture
def run(tmp_path):
    """A run folder with checkpoint-2 and checkpoint-4, sealed by a Keeper."""
    keeper = Keeper(tmp_path, keep=3, parts={"counter": Counter(7)}, notes={"id": "a1"})
    for step in (2, 4):
        written(tmp_path, step)
        keeper.seal(step)
    return tmp_path


# --- what counts ---------------------------------------------------------------------------------------


def test_the_newest_is_found_with_its_state(run):
    found = find(run)
    assert (found.path, found.step, found.notes, found.set_aside) == (run / "checkpoint-4", 4, {"id": "a1"}, [])
    assert found.state["parts"] == {"counter": {"value": 7}}
    assert str(found).startswith(f"{run}/checkpoint-4 (step 4, 0 min old: the newest")
    assert json.loads((run / "checkpoints.json").read_text())["sealed"] == [2, 4]


def test_sizes_and_hashes_are_those_of_sha256sum(run):
    import hashlib

    manifest = json.loads((run / "checkpoint-4" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "deep/optimizer.pt", "trainer_state.json", "run_state.json"}
    for name, entry in manifest["files"].items():
        data = (run / "checkpoint-4" / name).read_bytes()
        assert entry == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_an_empty_or_new_folder_has_nothing_to_resume(tmp_path):
    assert find(tmp_path) is None
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert find(tmp_path) is None and (tmp_path / "checkpoint-best").exists()


def swap(folder):
    shutil.copy(folder.parent / "checkpoint-2" / "manifest.json", folder)


def bomb(folder):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(folder.parent / "exploded"),)

    path = folder / "deep" / "optimizer.pt"
    path.write_bytes(pickle.dumps(Bomb()).ljust(path.stat().st_size, b"."))


def rewrite(**changes):
    def change(folder):
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


CORRUPTIONS = {
    "weights missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "optimizer missing": (lambda f: (f / "deep" / "optimizer.pt").unlink(), "deep/optimizer.pt is missing"),
    "state missing": (lambda f: (f / "run_state.json").unlink(), "run_state.json is missing"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors has 0 bytes"),
    "weights truncated": (lambda f: os.truncate(f / "model.safetensors", 999), "model.safetensors has 999 bytes"),
    "a bit flipped": (flip, "model.safetensors has changed"),
    "pickle bomb in place": (bomb, "deep/optimizer.pt has changed"),
    "pickle bomb added": (lambda f: (f / "scaler.pt").write_bytes(b"x"), "scaler.pt is not in manifest.json"),
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
    "manifest empty": (lambda f: (f / "manifest.json").write_text(""), "manifest.json cannot be read"),
    "manifest truncated": (lambda f: os.truncate(f / "manifest.json", 99), "manifest.json cannot be read"),
    "manifest without a dict": (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
    "manifest swapped": (swap, "manifest.json is of step 2"),
    "future version": (rewrite(format=99), "format 99"),
    "a file out of the folder": (
        rewrite(files={"../checkpoint-2/model.safetensors": {"bytes": 1, "sha256": "0"}}),
        "is not in manifest.json",
    ),
    "folder emptied": (lambda f: [shutil.rmtree(f), f.mkdir()], "no manifest.json"),
    "a folder for a file": (
        lambda f: [(f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()],
        "is missing",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_broken_one_is_set_aside_with_the_reason(run, name):
    corrupt, reason = CORRUPTIONS[name]
    corrupt(run / "checkpoint-4")
    found = find(run)
    assert found.step == 2 and reason in found.set_aside[0] and reason in str(found)
    assert not (run / "checkpoint-4").exists()
    assert reason in (run / "broken-checkpoint-4" / "WHY.txt").read_text()
    assert not (run / "exploded").exists()
    assert find(run).set_aside == []  # once


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_when_none_is_valid_it_stops_and_touches_nothing(run, name):
    corrupt, reason = CORRUPTIONS[name]
    flip(run / "checkpoint-2")
    corrupt(run / "checkpoint-4")
    for _ in range(2):  # the second time too
        with pytest.raises(ResumeRefused) as refused:
            find(run)
        message = str(refused.value)
        assert reason in message and "checkpoint-2: model.safetensors has changed" in message
        assert "--fresh" in message and refused.value.exit_code == 4
    assert [path.name for path in checkpoint_folders(run)] == ["checkpoint-4", "checkpoint-2"]


def test_missing_checkpoints_do_not_mean_a_fresh_start(run):
    for path in checkpoint_folders(run):
        shutil.rmtree(path)
    with pytest.raises(ResumeRefused, match=r"no valid checkpoint \(checkpoint-2: .*; checkpoint-4: "):
        find(run)
    (run / "checkpoints.json").write_text("{")
    with pytest.raises(ResumeRefused, match=r"checkpoints\.json cannot be read"):
        find(run)


def test_a_lost_record_does_not_matter_while_checkpoints_are_there(run):
    (run / "checkpoints.json").write_text("{")
    assert find(run).step == 4
    (run / "checkpoints.json").unlink()
    assert find(run).step == 4


def test_a_first_save_that_was_killed_is_not_a_checkpoint(tmp_path, capsys):
    """Nothing was ever promised: the same command begins again, and says so."""
    written(tmp_path, 2)
    assert find(tmp_path) is None
    told = capsys.readouterr().out
    assert told.startswith("nothing to resume: checkpoint-2 is now broken-checkpoint-2")
    assert told.endswith(f"; training in {tmp_path} starts at its first step\n")
    assert find(tmp_path) is None and checkpoint_folders(tmp_path) == []


def test_set_aside_never_overwrites(tmp_path):
    for number in ("broken-checkpoint-2", "broken-checkpoint-2-2", "broken-checkpoint-2-3"):
        assert set_aside(written(tmp_path, 2), "why").name == number


def test_links_and_hidden_files_of_the_file_system(run):
    """NFS leaves .nfs… files; a weight file may be a link to a bigger disk."""
    (run / "checkpoint-4" / ".nfs0001").write_text("x")
    (run / "checkpoint-4" / "model.safetensors").rename(run / "elsewhere")
    (run / "checkpoint-4" / "model.safetensors").symlink_to(run / "elsewhere")
    assert find(run).step == 4


def test_steps_are_numbers(tmp_path):
    for step in (9, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["checkpoint-100", "checkpoint-20", "checkpoint-9"]


def test_an_unsealed_folder_is_not_a_checkpoint(tmp_path):
    path = written(tmp_path, 3)
    with pytest.raises(Broken, match=r"no manifest\.json"):
        read(path)
    seal(path, 3)
    with pytest.raises(Broken, match=r"run_state\.json cannot be read"):
        read(path)  # sealed by hand, without the run's state


# --- keeping -------------------------------------------------------------------------------------------


def test_an_older_one_is_removed_only_when_a_newer_one_is_sealed(tmp_path):
    keeper = Keeper(tmp_path, keep=1)
    for step in (2, 4):
        written(tmp_path, step)
        assert step == 2 or read(tmp_path / "checkpoint-2").step == 2
        keeper.seal(step)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["checkpoint-4"] and find(tmp_path).step == 4


def test_an_unsealed_leftover_is_not_counted(tmp_path):
    keeper = Keeper(tmp_path, keep=2)
    for step in (2, 4, 6, 8):
        written(tmp_path, step)
        if step != 6:
            keeper.seal(step)
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["checkpoint-8", "checkpoint-4"]


def test_state_and_files_are_saved_with_it(tmp_path):
    (tmp_path / "before.json").write_text('{"chrf": 1.5}')
    parts = {"counter": Counter(3), "stateless": object()}
    written(tmp_path, 2)
    Keeper(tmp_path, parts=parts, files=("before.json", "gone.json"), notes={"gate": "passed"}).seal(2)
    found = find(tmp_path)
    for damage in ((tmp_path / "before.json").unlink, lambda: (tmp_path / "before.json").write_text('{"chrf')):
        damage()
        found.put_back("before.json", tmp_path)
        assert (tmp_path / "before.json").read_text() == '{"chrf": 1.5}'
    (tmp_path / "before.json").write_text('{"chrf": 2.5}')  # another one that can be read stays
    found.put_back("before.json", tmp_path)
    found.put_back("gone.json", tmp_path)
    assert (tmp_path / "before.json").read_text() == '{"chrf": 2.5}' and not (tmp_path / "gone.json").exists()
    counter = Counter()
    keeper = Keeper(tmp_path, parts={"counter": counter, "new": Counter(1)})
    keeper.restore(found)
    assert (counter.value, keeper.newest, found.notes) == (3, 2, {"gate": "passed"})


def test_room_is_judged_by_the_last_size(run, monkeypatch):
    size = sum(p.stat().st_size for p in (run / "checkpoint-4").rglob("*") if p.is_file() and p.name != "manifest.json")
    keeper = Keeper(run)  # also in a process that resumes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))
    assert keeper.lack_of_room() is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size - 1))
    assert f"{size:,} bytes" in keeper.lack_of_room()
    assert Keeper(run.parent).lack_of_room() is None  # before the first one nothing is known


def test_a_failed_save_is_removed_and_the_third_in_a_row_stops(run, capsys):
    keeper = Keeper(run)
    keeper.newest = 4
    for step in (6, 8):
        keeper.discard(written(run, step) and step, "OSError: disk full")
        said = capsys.readouterr().err
        assert f"warning: {run}/checkpoint-{step} was not saved (OSError: disk full; " in said
        assert "bytes free): the newest is checkpoint-4; training continues" in said
    written(run, 10)
    keeper.seal(10)  # a success resets the count
    for step in (12, 14):
        keeper.discard(step, "x")
    set_aside(written(run, 3), "why")
    with pytest.raises(CannotWrite, match=r"checkpoint-16 .*broken-checkpoint-3 .*3 saves") as stop:
        keeper.discard(16, "x")
    assert stop.value.exit_code == 73
    assert [path.name for path in checkpoint_folders(run)] == ["checkpoint-10", "checkpoint-4"]


def test_a_manifest_is_written_as_a_draft_first(run, monkeypatch):
    """The rename is what counts: dying before it leaves no manifest at all."""
    monkeypatch.setattr(checkpoints.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    path = written(run, 6)
    with pytest.raises(KeyboardInterrupt):
        seal(path, 6)
    assert not (path / "manifest.json").exists()


# --- to the same bits ----------------------------------------------------------------------------------

CASES = {
    "full": {},
    "lora, second epoch": {"lora_rank": 4, "sentences": 7},  # three steps an epoch, one sentence left over
    "full, steps not logged yet": {"logging_steps": 5, "save_steps": 3, "max_steps": 8},
}


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_ends_as_the_undisturbed_one(tiny_policy, tmp_path, name):
    options = dict(CASES[name])
    extra = {"sentences": options.pop("sentences")} if "sentences" in options else {}
    cfg = lambda folder: settings(tiny_policy, tmp_path / folder, **options)  # noqa: E731
    step = cfg("whole").max_steps
    whole = trial(tmp_path / "whole", train, cfg("whole"), **extra)
    assert whole[0] == 0, whole[2]
    killed = trial(tmp_path / "killed", train, cfg("killed"), prepare=die_after(step - 2), **extra)
    assert killed[0] == 137
    again = trial(tmp_path / "killed", train, cfg("killed"), **extra)
    assert again[0] == 0 and "resuming from" in again[1], again[2]
    assert differences(outcome(tmp_path / "whole", step), outcome(tmp_path / "killed", step)) == []


def test_the_comparison_sees_one_bit(tiny_policy, tmp_path):
    cfg = settings(tiny_policy, tmp_path / "a", max_steps=2)
    assert trial(tmp_path / "a", train, cfg)[0] == 0
    one, two = outcome(tmp_path / "a", 2), outcome(tmp_path / "a", 2)
    assert differences(one, two) == []
    two["optimizer"]["state"][0]["exp_avg"].view(-1)[3] += 1e-12
    two["metrics"][1]["loss"] += 1e-9
    two["random"]["cpu"][5] ^= 1
    found = differences(one, two)
    assert len(found) == 3 and all(any(part in line for line in found) for part in ("exp_avg", "loss", "random"))


def test_a_reward_without_state_is_left_out():
    assert Keeper("/nowhere", parts={"reward": object(), "text": TextReward()}).parts.keys() == {"text"}


# --- resume_latest, and checkpoints by name ------------------------------------------------------------


def _save(folder: Path, keeper: Keeper, step: int) -> None:
    target = folder / f"checkpoint-{step}"
    target.mkdir()
    (target / "weights.bin").write_text(f"weights of {step}")
    keeper.seal(step)


def test_a_link_names_the_newest(tmp_path):
    keeper = Keeper(tmp_path, keep=2, link=True)
    for step in (10, 20, 30):
        _save(tmp_path, keeper, step)
    assert os.readlink(tmp_path / "resume_latest") == "checkpoint-30"
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-30"]
    assert find(tmp_path).path.name == "checkpoint-30"


def test_only_the_newest_is_kept_and_found(tmp_path):
    keeper = Keeper(tmp_path, keep=1, link=True)
    for step in (10, 20):
        _save(tmp_path, keeper, step)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-20", "checkpoints.json", "resume_latest"]
    found = find(tmp_path)
    assert found.step == 20 and (found.path / "weights.bin").read_text() == "weights of 20"
    again = Keeper(tmp_path, keep=1, link=True)
    again.restore(found)
    _save(tmp_path, again, 30)
    assert find(tmp_path).step == 30 and (tmp_path / "resume_latest" / "weights.bin").read_text() == "weights of 30"


def test_killed_before_the_link_moves_the_sealed_one_is_found(tmp_path, monkeypatch):
    keeper = Keeper(tmp_path, keep=1, link=True)
    _save(tmp_path, keeper, 10)

    def killed(self, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "symlink_to", killed)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, keeper, 20)
    monkeypatch.undo()
    assert find(tmp_path).step == 20
    _save(tmp_path, Keeper(tmp_path, keep=1, link=True), 30)
    assert os.readlink(tmp_path / "resume_latest") == "checkpoint-30" and find(tmp_path).step == 30


def test_checkpoints_of_the_first_version_are_refused_in_one_line(tmp_path):
    _save(tmp_path, Keeper(tmp_path), 10)
    manifest = tmp_path / "checkpoint-10" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 1}))
    with pytest.raises(ResumeRefused, match=r"checkpoint-10: manifest\.json .*format 1.*--fresh"):
        find(tmp_path)
    assert manifest.exists()  # nothing is touched
