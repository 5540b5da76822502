"""metrics.jsonl, and a W&B server that is probed before anything waits for it."""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from fault_trials import trial
from hang_guard import ends_within
from tiny_run import Server, command

from rl_nmt import errors
from rl_nmt.files import finite
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.wandb_run import choose_wandb_mode, finish_wandb, probe, start_wandb


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    getattr(sys.modules.get("wandb"), "teardown", lambda: None)()


def mode(wanted="online", **options):
    """`choose_wandb_mode`, as a process that starts in the present environment sees it."""
    import wandb

    wandb.teardown()  # what it has read of the environment stays for the life of a process
    wandb.api = type(wandb.api)()
    return choose_wandb_mode(wanted, **options)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.5, 1.5),
        (float("nan"), None),
        (float("-inf"), None),
        (3, 3),
        (True, True),
        (None, None),
        ("x", "x"),
        (np.float32(0.5), 0.5),
        (np.float64("nan"), None),
        (np.int64(7), 7),
        (np.array([1.0, np.inf]), [1.0, None]),
        (torch.tensor(2.5), 2.5),
        (torch.tensor(float("inf")), None),
        (torch.tensor([1, 2]), [1, 2]),
        ({"a": {1: float("nan")}}, {"a": {"1": None}}),
        ((1, [float("inf")]), [1, [None]]),
    ],
)
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


def test_rows_written_at_a_step_after_its_checkpoint_are_cut_too(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step, kind in ((1, "train"), (2, "train"), (2, "end"), (2, "eval")):
        file.append({"step": step, "kind": kind})
    assert [row["kind"] for row in file.cut_after(2, 2)] == ["train", "train"] == [row["kind"] for row in file.rows()]
    assert len(file.cut_after(2, 9)) == 2


def limited(path, size):
    """Rows while no file may grow above `size` bytes: a full disk, for real. Runs in a forked child."""
    file = MetricsFile(path)
    row = {"step": 1, "text": "அ" * 1000}
    file.append(row)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    for step in (2, 3, 4):
        file.append({**row, "step": step})
    with pytest.raises(OSError, match="File too large"):
        file.flush()
    assert [r["step"] for r in file.rows()] == [1] and path.read_bytes().endswith(b"\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    file.append({**row, "step": 5})
    assert [r["step"] for r in file.rows()] == [1, 2, 3, 4, 5]


def test_rows_are_kept_while_the_disk_is_full(tmp_path):
    status, _, err = trial(tmp_path / "log", limited, tmp_path / "metrics.jsonl", 4000)
    assert status == 0 and err.count("metrics.jsonl cannot be written") == 1, err


def test_modes_without_a_server(monkeypatch):
    assert mode("disabled")[0] == "disabled"
    assert mode("offline")[0] == "offline"
    chosen, reason = mode()
    assert chosen == "offline" and "WANDB_API_KEY" in reason
    monkeypatch.setenv("WANDB_MODE", "online")  # the environment never switches on what the config switched off
    assert mode("offline")[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert mode()[0] == "offline"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode()[0] == "disabled"


def test_a_missing_wandb_switches_it_off(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert choose_wandb_mode("online") == ("disabled", "wandb is not installed")


@pytest.mark.parametrize("value", ["true", "True", "1", "YES", "on"])
def test_wandb_disabled_wins(monkeypatch, value):
    monkeypatch.setenv("WANDB_DISABLED", value)
    assert mode()[0] == "disabled"


def test_the_key_may_be_in_netrc(monkeypatch, tmp_path):
    monkeypatch.setattr("rl_nmt.runs.wandb_run.probe", lambda url: None)
    assert mode()[0] == "offline"
    write_netrc(monkeypatch, tmp_path, "api.wandb.ai")
    assert mode()[0] == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert mode()[0] == "offline"
    assert mode(key_given=True)[0] == "online"


def write_netrc(monkeypatch, folder, machine):
    """What `wandb login` writes."""
    (folder / "netrc").write_text(f"machine {machine}\n  login user\n  password {'canary01' * 5}\n")
    (folder / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(folder / "netrc"))


@pytest.mark.parametrize("told", ["settings file", "environment"])
def test_a_server_of_ones_own_is_found_with_its_key(monkeypatch, tmp_path, told):
    """`wandb login --host` leaves the address in its settings file and the key in netrc, under host and port."""
    asked = []
    with Server(lambda method, path: (200, {}, asked.append(path) or b"")) as server:
        write_netrc(monkeypatch, tmp_path, server.url.removeprefix("http://"))
        if told == "environment":
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
        else:
            (tmp_path / "config").mkdir()
            (tmp_path / "config" / "settings").write_text(f"[default]\nbase_url = {server.url}\n")
        assert mode() == ("online", "the server answers") and asked
        monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
        chosen, reason = mode()
        assert chosen == "offline" and server.url in reason


def test_wandb_offline_in_its_settings_file_counts(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "canary01" * 5)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nmode = offline\n")
    chosen, reason = mode()
    assert chosen == "offline" and "settings" in reason


def test_a_key_that_wandb_refuses_is_not_printed(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary with blanks")
    chosen, reason = mode()
    assert chosen == "offline" and "canary" not in reason


def test_a_server_that_answers_is_used(monkeypatch):
    seen = []
    monkeypatch.setenv("WANDB_API_KEY", "canary01" * 5)
    for status, expected in ((200, "online"), (302, "online"), (404, "online"), (500, "offline"), (503, "offline")):
        with Server(lambda method, path, status=status: (status, {}, seen.append(path) or b"")) as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            assert mode()[0] == expected, status
    assert len(seen) == 5


@pytest.mark.parametrize("listening", [True, False], ids=["silent socket", "closed port"])
def test_a_server_that_does_not_answer_costs_seconds(monkeypatch, listening):
    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        if listening:
            quiet.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{quiet.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "canary01" * 5)
        with ends_within(60):
            chosen, reason = mode()
    assert chosen == "offline" and "cannot be reached" in reason and "canary" not in reason


def test_a_name_that_does_not_exist():
    assert "cannot be reached" in probe("https://no-such-host.invalid", seconds=3)


# --- W&B itself ------------------------------------------------------------------------------------------


class Refusing(BaseHTTPRequestHandler):
    """A server that accepts no key: 401 to every POST."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b'{"errors": [{"message": "user is not logged in"}]}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def test_a_key_that_the_server_refuses_is_an_offline_run(monkeypatch, tmp_path, capsys):
    import wandb

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("WANDB_API_KEY", "canary01" * 5)
    try:
        assert mode()[0] == "online"
        with ends_within(60):
            run_id = start_wandb("online", tmp_path, project="p")
        assert wandb.run.id == run_id and wandb.run.settings._offline
    finally:
        finish_wandb()
        server.shutdown()
        server.server_close()
    said = capsys.readouterr()
    assert "W&B: offline, since online failed" in said.out and "upload later with `wandb sync " in said.out
    assert "canary" not in said.out + said.err
    assert wandb.run is None


def test_a_server_that_stops_answering_after_the_probe_does_not_block(tmp_path):
    """wandb.init would wait for ever, and so would the end of the process: it is abandoned."""
    code = (
        "import sys, pathlib; from rl_nmt import errors\nfrom rl_nmt.runs import wandb_run\n"
        "wandb_run.INIT_SECONDS = 2\n"
        "def main():\n"
        "    assert wandb_run.start_wandb('online', pathlib.Path(sys.argv[1]), project='p') is None\n"
        "    wandb_run.finish_wandb()\n"
        "    raise errors.CannotWrite('the end')\n"
        "errors.run(main)"
    )
    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        quiet.listen()
        url = f"http://127.0.0.1:{quiet.getsockname()[1]}"
        done = command("-c", code, tmp_path, timeout=60, WANDB_BASE_URL=url, WANDB_API_KEY="canary01" * 5)
    assert done.returncode == 73 and done.stderr == "error: the end\n", done.stderr
    assert "W&B: off, " in done.stdout and "within 2 s" in done.stdout


def test_a_resumed_run_keeps_its_id(monkeypatch, tmp_path):
    import wandb

    first = start_wandb("offline", tmp_path, project="p")
    finish_wandb()
    assert start_wandb("offline", tmp_path, first, project="p") == first == wandb.run.id
    finish_wandb()


@pytest.mark.parametrize("behaviour", ["hangs", "raises"])
def test_the_end_is_bounded_whatever_the_server_does(monkeypatch, capsys, behaviour):
    def finish(exit_code):
        if behaviour == "hangs":
            time.sleep(600)
        raise ConnectionError("gone away")

    monkeypatch.setattr(errors, "_hanging", [])
    run = types.SimpleNamespace(dir="/runs/wandb/run-1/files")
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run, finish=finish))
    with ends_within(60):
        finish_wandb(seconds=0.3)
    assert "W&B did not finish" in (said := capsys.readouterr().err) and "`wandb sync /runs/wandb/run-1`" in said
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))
    finish_wandb()
