"""Phases in subfolders: sealed when finished, refused with another identity or changed weights."""

from __future__ import annotations

import pytest

from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.runs import phases
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
