"""The bench of the scorer worker: identical scores, a difference per call, and a status that says so."""

from __future__ import annotations

import json

import pytest

from bench import worker_overhead
from rl_nmt.errors import ConfigError


@pytest.fixture
def world(tmp_path, tiny_comet_da, tiny_comet_qe):
    for name, folder in (("comet_da", tiny_comet_da), ("comet_qe", tiny_comet_qe)):
        (tmp_path / name).symlink_to(folder)
    return tmp_path


@pytest.mark.slow
def test_scores_are_identical_and_the_difference_is_that_of_the_pairs(world, capsys):
    assert worker_overhead.main(["--world", str(world), "--rounds", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == ["comet_da", "comet_qe"]
    for row in rows:
        assert row["equal"] is True and row["same_identity"] is True and list(row["calls"]) == ["1", "8", "64"]
        assert all(call["here_ms"] > 0 and call["worker_ms"] > 0 for call in row["calls"].values())
        assert row["calls"]["64"]["here_ms"] > row["calls"]["1"]["here_ms"]


@pytest.mark.slow
def test_a_score_that_differs_is_the_exit_status(world, monkeypatch, capsys):
    compare = worker_overhead.compare
    monkeypatch.setattr(worker_overhead, "SIZES", (1,))
    monkeypatch.setattr(worker_overhead, "compare", lambda *a: compare(*a) | {"equal": False})
    assert worker_overhead.main(["--world", str(world), "--rounds", "1"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_bad_arguments_are_one_clear_error(tmp_path, world):
    with pytest.raises(ConfigError, match=r"--world: .*comet_da is no COMET model; build the pocket world"):
        worker_overhead.main(["--world", str(tmp_path / "none")])
    with pytest.raises(ConfigError, match="--python: /gone/python is no program"):
        worker_overhead.main(["--world", str(world), "--python", "/gone/python"])
