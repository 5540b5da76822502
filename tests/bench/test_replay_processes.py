"""bench.replay_processes: the gradient of two processes on recorded samples; the comparison can fail."""

from __future__ import annotations

import json
import math

import pytest
import tiny_run
import torch
from process_trials import Processes

from bench import replay_processes as bench
from rl_nmt.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tiny_all, tmp_path_factory):
    """A folder with one recording, replayed in one process and in two."""
    folder = tmp_path_factory.mktemp("replay")
    line = tiny_run.split_argv(tiny_all, folder)
    for stage, processes in ((bench.record, [0]), (bench.replay, [0]), (bench.replay, [0, 1])):
        Processes(folder / f"{stage.__name__}-{len(processes)}", processes, stage, line, folder).results(120)
    return folder


def test_two_processes_have_the_gradient_of_one(folder):
    found = bench.compare(folder, 2)
    assert found["relative_difference"] <= 3e-5 and found["largest_difference"] <= 1e-5
    assert found["samples"] == 12 and found["distinct_rewards"] > 2 and found["norm"] > 1e-3


def test_another_reward_is_another_gradient(folder, tiny_all, tmp_path):
    """The reward of one sample, in the split group if it can be: the result must change even for so small a part."""
    recorded = torch.load(folder / bench.ROLLOUTS, weights_only=True)
    rows = recorded["rows"]
    groups = [rows[i : i + 4] for i in range(0, 12, 4)]

    def alike(i: int) -> int:
        return sum(row["ids"] == rows[i]["ids"] for row in groups[i // 4])

    rare = min([*range(4, 8), *range(4), *range(8, 12)], key=alike)  # the split group first
    own, others = rows[rare]["total"], [row["total"] for row in groups[rare // 4] if row is not rows[rare]]
    # To the other side of its group: where the others are equal, its distance from them alone does not count.
    rows[rare]["total"] = max(others) + 0.5 if own <= sum(others) / 3 else min(others) - 0.5
    torch.save(recorded, tmp_path / bench.ROLLOUTS)
    torch.save(torch.load(folder / "gradient-1.pt", weights_only=True), tmp_path / "gradient-1.pt")
    line = tiny_run.split_argv(tiny_all, tmp_path)
    Processes(tmp_path / "group", [0, 1], bench.replay, line, tmp_path).results(120)
    assert bench.compare(tmp_path, 2)["relative_difference"] > 1e-2


def test_rows_in_another_order_are_refused(monkeypatch):
    rows = [{"prompt": name, "ids": [1], "total": 0.5} for name in "aabb"]
    player = bench.Replay(rows)
    assert player(["a", "a", "b", "b"], None) == [0.5] * 4
    monkeypatch.setenv("RANK", "1")
    assert player.part(["b", "b"]) == rows[2:]
    with pytest.raises(RuntimeError, match="another order than"):
        player.part(["a", "b"])


def test_difference_by_hand():
    one = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    other = {"a": torch.tensor([3.0, 0.5]), "b": torch.tensor([[4.0]])}
    found = bench.difference(one, other)
    assert found == {"relative_difference": 0.1, "largest_difference": 0.125, "norm": 5.0, "weights": 3}
    with pytest.raises(RuntimeError, match="gradient is zero"):
        bench.difference({"a": torch.zeros(2)}, {"a": torch.ones(2)})
    with pytest.raises(RuntimeError, match="same weights"):
        bench.difference(one, {"a": one["a"]})
    assert math.isnan(bench.difference({"a": torch.ones(1)}, {"a": torch.tensor([math.nan])})["relative_difference"])


def test_a_batch_that_does_not_divide_is_refused_before_anything_runs(tiny_all, tmp_path):
    with pytest.raises(ConfigError, match=r"per_device_batch_size: 12 .*5 processes"):
        bench.main(["--processes", "5", *tiny_run.split_argv(tiny_all, tmp_path)])


@pytest.mark.slow
def test_the_command(tiny_all, tmp_path, capsys):
    assert bench.main(["--json", *tiny_run.split_argv(tiny_all, tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["relative_difference"] <= bench.BAR
