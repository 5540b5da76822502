"""Phases in subfolders: sealed when finished, refused with another identity or changed weights."""

from __future__ import annotations

import json

import pytest

from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.runs import checkpoints, phases
from rl_nmt.runs.run import Run


def make(folder, identity, weights=b"weights"):
    """Do the phase if it is not finished; return whether it was done."""
    with Run.open(folder, script="train.py", argv=["--x", "1"]) as run, phases.open_phase(run, "sft") as phase:
        assert phase.folder == run.folder / "sft" and phase.command == run.command
        if phases.finished(phase, identity):
            return False
        phase.identity |= identity
        from rl_nmt.runs import run_folder

        run_folder.save_identity(phase.folder, phase.identity, {})
        (phase.folder / "final").mkdir(parents=True)
        (phase.folder / "final" / "model.safetensors").write_bytes(weights)
        phases.finish(phase)
        return True


def test_a_finished_phase_is_not_done_again(tmp_path):
    assert make(tmp_path / "run", {"sft.lr": 1.0})
    assert not make(tmp_path / "run", {"sft.lr": 1.0})
    assert len(phases.sealed(tmp_path / "run" / "sft", "x")) == 16


def test_other_settings_are_refused(tmp_path):
    make(tmp_path / "run", {"sft.lr": 1.0})
    with pytest.raises(ResumeRefused, match=r"sft\.lr"):
        make(tmp_path / "run", {"sft.lr": 2.0})


def test_forced_settings_are_named_and_not_applied(tmp_path, capsys):
    make(tmp_path / "run", {"sft.lr": 1.0})
    with Run.open(tmp_path / "run", force=True) as run, phases.open_phase(run, "sft") as phase:
        assert phases.finished(phase, {"sft.lr": 2.0})
    assert "sft.lr: 1.0" in capsys.readouterr().out


def test_the_seal_is_of_the_weights(tmp_path):
    make(tmp_path / "a", {}, b"one")
    make(tmp_path / "b", {}, b"two")
    assert phases.sealed(tmp_path / "a" / "sft", "x") != phases.sealed(tmp_path / "b" / "sft", "x")
    (tmp_path / "a" / "sft" / "final" / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ConfigError, match=r"start_from: .* has changed"):
        phases.sealed(tmp_path / "a" / "sft", "start_from")
    with pytest.raises(ConfigError, match=r"start_from: .* no finished phase"):
        phases.sealed(tmp_path, "start_from")


def checkpoint(folder, step: int) -> None:
    """Seal a checkpoint of this step in a folder."""
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    (place / checkpoints.STATE).write_text(json.dumps({"parts": {}, "notes": {"from": folder.name}}))
    checkpoints.seal(place, step)


def test_a_run_continues_from_its_own_checkpoint_or_its_newest_rounds(tmp_path):
    assert phases.newest_checkpoint(tmp_path) is None
    (tmp_path / "round-12").mkdir()  # begun, without a checkpoint
    (tmp_path / "round-old").mkdir()
    checkpoint(tmp_path / "round-2", 7)
    checkpoint(tmp_path / "round-10", 3)
    assert phases.newest_checkpoint(tmp_path).notes == {"from": "round-10"}
    checkpoint(tmp_path, 1)
    assert phases.newest_checkpoint(tmp_path).notes == {"from": tmp_path.name}


def test_rotation_keeps_the_newest_or_nothing(tmp_path):
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    (tmp_path / checkpoints.RECORD).write_text(json.dumps({"sealed": [1, 2, 3], "bytes": 1}))
    checkpoints.rotate(tmp_path, 1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    checkpoints.rotate(tmp_path, 0)
    assert list(tmp_path.iterdir()) == [] and checkpoints.find(tmp_path) is None


def test_what_a_phase_keeps_is_read_back_or_refused(tmp_path):
    kept = phases.Kept({"outputs": ["அ"], "reward": None})
    kept.save(tmp_path / "kept.json")
    assert phases.Kept.load(tmp_path / "kept.json") == kept
    (tmp_path / "kept.json").write_text("[1]")
    for path in (tmp_path / "kept.json", tmp_path / "none.json"):
        with pytest.raises(ConfigError, match=path.name):
            phases.Kept.load(path)
