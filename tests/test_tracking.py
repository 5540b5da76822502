"""metrics.jsonl, and a W&B server that is probed before anything waits for it."""

from __future__ import annotations

import json
import socket
import time

import numpy as np
import pytest
import torch
from tiny_run import Server

from rl_nmt.tracking import MetricsFile, choose_wandb_mode, finite, probe, wandb_key_known


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5), (float("nan"), None), (float("-inf"), None), (3, 3), (True, True), (None, None), ("x", "x"),
        (np.float32(0.5), 0.5), (np.float64("nan"), None), (np.int64(7), 7), (np.array([1.0, np.inf]), [1.0, None]),
        (torch.tensor(2.5), 2.5), (torch.tensor(float("inf")), None), (torch.tensor([1, 2]), [1, 2]),
        ({"a": {1: float("nan")}}, {"a": {"1": None}}), ((1, [float("inf")]), [1, [None]]),
    ],
)  # fmt: skip
def test_finite_is_json_safe(value, expected):
    assert finite(value) == expected
    json.dumps(finite(value), allow_nan=False)


def test_rows_survive_a_crash_in_the_middle_of_a_letter(tmp_path):
    file = MetricsFile(tmp_path / "deep" / "metrics.jsonl")
    file.append({"step": 1, "kind": "train", "note": "தமிழ்\u2028", "x": torch.tensor(0.5), "y": float("nan")})
    file.append({"step": 2, "kind": "train"})
    whole = file.path.read_bytes()
    torn = json.dumps({"step": 3, "note": "தமிழ்"}, ensure_ascii=False).encode()[:-4]
    file.path.write_bytes(whole + torn)
    assert [row["step"] for row in file.rows()] == [1, 2]
    assert file.rows()[0] == {"step": 1, "kind": "train", "note": "தமிழ்\u2028", "x": 0.5, "y": None}
    assert [row["step"] for row in file.cut_after(5)] == [1, 2]
    assert file.path.read_bytes() == whole  # the torn end is gone: the next row starts on its own line


def test_rows_past_the_resumed_step_are_cut(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert file.rows() == file.cut_after(3) == []
    for step in (1, 2, 3, 4):
        file.append({"step": step, "kind": "train"})
    assert [row["step"] for row in file.cut_after(2)] == [1, 2]
    assert [row["step"] for row in file.rows()] == [1, 2]


def test_modes_without_a_server(monkeypatch):
    assert choose_wandb_mode("disabled")[0] == "disabled"
    assert choose_wandb_mode("offline")[0] == "offline"
    mode, reason = choose_wandb_mode("online")
    assert mode == "offline" and "WANDB_API_KEY" in reason
    monkeypatch.setenv("WANDB_MODE", "online")  # the environment never switches on what the config switched off
    assert choose_wandb_mode("offline")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert choose_wandb_mode("online")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_wandb_mode("online")[0] == "disabled"


@pytest.mark.parametrize("value", ["true", "True", "1", "YES", "on"])
def test_wandb_disabled_wins(monkeypatch, value):
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert choose_wandb_mode("online")[0] == "disabled"


def test_the_key_may_lie_in_netrc(monkeypatch, tmp_path):
    assert not wandb_key_known()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_key_known()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not wandb_key_known()


def test_a_server_that_answers_is_used(monkeypatch):
    seen = []
    monkeypatch.setenv("WANDB_API_KEY", "canary-key")
    for status, mode in ((200, "online"), (302, "online"), (404, "online"), (500, "offline"), (503, "offline")):
        with Server(lambda method, path, status=status: (status, {}, seen.append(path) or b"")) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            assert choose_wandb_mode("online")[0] == mode, status
    assert len(seen) == 5


@pytest.mark.parametrize("listening", [True, False], ids=["silent socket", "closed port"])
def test_a_server_that_does_not_answer_costs_seconds(monkeypatch, listening):
    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        if listening:
            quiet.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{quiet.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "canary-key")
        start = time.monotonic()
        mode, reason = choose_wandb_mode("online")
        assert time.monotonic() - start < 8
    assert mode == "offline" and "cannot be reached" in reason and "canary" not in reason


def test_a_name_that_does_not_exist():
    assert "cannot be reached" in probe("https://no-such-host.invalid", seconds=3)
