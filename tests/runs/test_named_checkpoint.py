"""A named checkpoint: with later ones next to it, and of another run, which is not touched."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_run import tree

from rl_nmt.errors import ResumeRefused
from rl_nmt.runs.checkpoints import Keeper, find, named, read, take_up


class Counter:
    """The smallest thing with a state."""

    def __init__(self, value: int):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def _save(folder: Path, keeper: Keeper, step: int) -> None:
    target = folder / f"checkpoint-{step}"
    target.mkdir()
    (target / "weights.bin").write_text(f"weights of {step}")
    keeper.seal(step)


def test_a_named_checkpoint_counts_whatever_came_after(tmp_path):
    keeper = Keeper(tmp_path, keep=5, link=True)
    for step in (10, 20, 30):
        _save(tmp_path, keeper, step)
    before = tree(tmp_path)
    found = named(tmp_path / "checkpoint-10", tmp_path)
    assert found.step == 10 and tree(tmp_path) == before  # not before it is known to fit
    found = take_up(found, tmp_path)
    assert found.step == 10 and len(found.set_aside) == 2
    assert sorted(p.name for p in tmp_path.glob("*checkpoint-*")) == [
        "abandoned-checkpoint-20",
        "abandoned-checkpoint-30",
        "checkpoint-10",
    ]
    assert find(tmp_path).step == 10
    with pytest.raises(ResumeRefused, match="manifest"):
        named(tmp_path, tmp_path)


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_of_another_run_is_taken_over_and_that_run_untouched(tmp_path, links, monkeypatch):
    other, own = tmp_path / "other", tmp_path / "own"
    own.mkdir()
    other.mkdir()
    keeper = Keeper(other, keep=5, parts={"counter": Counter(3)}, link=True)
    for step in (10, 20, 30):
        _save(other, keeper, step)
    before = tree(other)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "Invalid cross-device link")))
    found = take_up(named(other / "checkpoint-10", own), own)
    assert tree(other) == before
    assert found.path == own / "checkpoint-10" and read(found.path).step == find(own).step == 10
    assert "taken over from" in str(found) and found.state["parts"] == {"counter": {"value": 3}}
    # it continues; the same command again starts from there once more, and the other run is still untouched
    keeper = Keeper(own, keep=5, link=True)
    keeper.restore(found)
    _save(own, keeper, 20)
    assert json.loads((own / "checkpoints.json").read_text())["sealed"] == [10, 20]
    again = take_up(named(other / "checkpoint-10", own), own)
    assert again.step == find(own).step == 10 and "checkpoint-20 is now abandoned-checkpoint-20" in str(again)
    keeper = Keeper(own, keep=1)
    _save(own, keeper, 30)  # rotates checkpoint-10 away
    assert tree(other) == before


@pytest.mark.parametrize("steps", [(5,), (10,), (5, 20)])
def test_a_folder_with_a_run_of_its_own_takes_no_other(tmp_path, steps):
    for name, its, keep in (("other", (10, 20), 2), ("own", steps, 1)):
        (tmp_path / name).mkdir()
        keeper = Keeper(tmp_path / name, keep=keep)
        for step in its:
            _save(tmp_path / name, keeper, step)
    before = tree(tmp_path)
    with pytest.raises(ResumeRefused, match=r"/own .*/other/checkpoint-10: .*--fresh"):
        named(tmp_path / "other" / "checkpoint-10", tmp_path / "own")
    assert tree(tmp_path) == before
