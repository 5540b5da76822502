"""`Run`: values made once and settings that may not change; with real checkpoints, without any model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.runs.checkpoints import Keeper
from rl_nmt.runs.run import Files, Run


@dataclass
class Settings:
    group_size: int = 8
    lr: float = 1e-5


@dataclass
class Text:
    """A value that is kept in a file of its own."""

    words: str

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.words))

    @classmethod
    def load(cls, path: Path) -> Text:
        try:
            return cls(json.loads(path.read_text()))
        except ValueError as error:
            raise ConfigError(f"{path} cannot be read") from error


def seal(run: Run, step: int) -> None:
    """A checkpoint as the loop makes it."""
    target = run.folder / f"checkpoint-{step}"
    target.mkdir()
    (target / "weights.bin").write_text(f"weights of {step}")
    Keeper(run.folder, files=run.sealed, notes=run.notes).seal(step)


def refuse(*_):
    raise AssertionError("made again")


def test_a_value_is_made_once_and_carried_by_checkpoints(tmp_path):
    with Run.open(tmp_path / "run") as run:
        assert run.resume is None and run.once("gate", lambda: {"passed": True}) == {"passed": True}
        assert run.once("gate", refuse) == {"passed": True}
        seal(run, 2)
    with Run.open(tmp_path / "run") as run:
        assert run.resume.step == 2 and run.once("gate", refuse) == {"passed": True}


def test_without_a_checkpoint_it_is_made_again(tmp_path):
    for verdict in (True, False):  # the settings may have changed in between
        with Run.open(tmp_path / "run") as run:
            assert run.once("gate", lambda verdict=verdict: verdict) is verdict


def test_a_large_value_is_a_file_that_every_checkpoint_holds(tmp_path):
    with Run.open(tmp_path / "run") as run:
        assert run.once("before", lambda: Text("one"), form=Text).words == "one"
    with Run.open(tmp_path / "run") as run:  # killed before the first checkpoint: not made again
        assert run.once("before", refuse, form=Text).words == "one"
        seal(run, 2)
    (tmp_path / "run" / "before.json").write_text("[damaged")
    with Run.open(tmp_path / "run") as run:
        assert run.once("before", refuse, form=Text).words == "one"


def test_a_kept_value_that_these_settings_do_not_allow(tmp_path, capsys):
    def only_two(text):
        if text.words != "two":
            raise ConfigError("rows differ")

    folder = tmp_path / "run"
    with Run.open(folder) as run:
        run.once("before", lambda: Text("one"), form=Text)
        assert run.once("before", lambda: Text("two"), form=Text, require=only_two).words == "two"
    assert "before.json is made again: rows differ" in capsys.readouterr().out
    with Run.open(folder) as run:
        run.once("before", lambda: Text("one"), form=Text, require=lambda _: None)
        Text("one").save(folder / "before.json")
        seal(run, 2)
    with Run.open(folder) as run, pytest.raises(ResumeRefused, match=r"rows differ.*--force"):
        run.once("before", refuse, form=Text, require=only_two)
    with Run.open(folder, force=True) as run:
        assert run.once("before", lambda: Text("two"), form=Text, require=only_two).words == "two"


def test_another_identity_is_refused_only_where_a_checkpoint_is(tmp_path, capsys):
    folder = tmp_path / "run"
    for size in (8, 4):
        with Run.open(folder) as run:
            run.require_same(group_size=size)
            run.begin(Settings(size))
    with Run.open(folder) as run:
        run.require_same(group_size=4)
        run.begin(Settings(4))
        seal(run, 2)
    with Run.open(folder) as run, pytest.raises(ResumeRefused, match=r"group_size: 4 → 8.*--fresh"):
        run.require_same(group_size=8)
    with Run.open(folder, force=True) as run:
        run.require_same(group_size=8)
        run.begin(Settings(8, lr=2.0))
    out = capsys.readouterr().out
    assert "changed since the last start: group_size: 4 → 8" in out
    assert "changed since the last start: lr: 1e-05 → 2.0" in out
    assert "lr: 2.0" in (folder / "resolved_config.yaml").read_text()


def test_changed_data_are_set_aside_only_by_force(tmp_path):
    folder = tmp_path / "run"
    with Run.open(folder) as run:
        run.require_same(seed=1)
        run.begin(Settings())
        (folder / "data").mkdir()
        seal(run, 2)
    with Run.open(folder) as run, pytest.raises(ResumeRefused):
        run.require_same(("seed",), seed=2)
    assert (folder / "data").exists()
    with Run.open(folder, force=True) as run:
        run.require_same(("seed",), seed=2)
    assert not (folder / "data").exists() and (folder / "earlier-data" / "WHY.txt").read_text() == "seed: 1 → 2\n"


def test_the_hash_of_the_data_is_part_of_the_identity(tmp_path):
    """The keyword is not the list of names that comes first."""
    with Run.open(tmp_path / "run") as run:
        run.require_same(data="abc")
        run.begin(Settings())
        seal(run, 2)
    with Run.open(tmp_path / "run") as run, pytest.raises(ResumeRefused, match="data: abc → abd"):
        run.require_same(data="abd")


def test_names_of_files_and_settings(tmp_path):
    files, names = Files(metrics="train_log.jsonl"), {"eval_file": "data.eval_file"}
    with Run.open(tmp_path / "run", files=files, settings=names) as run:
        assert run.files.metrics == "train_log.jsonl" and run.files.samples == "samples.jsonl"
        assert run.setting("eval_file") == "data.eval_file" and run.setting("seed") == "seed"


def test_whatever_ends_it_names_the_command(tmp_path):
    with Run.open(tmp_path / "run", script="train.py", argv=["--lr", "1"]) as run, pytest.raises(ValueError) as caught:
        with run.under_way():
            raise ValueError("x")
    assert caught.value.__notes__ == ["continue with: python train.py --lr 1"]
