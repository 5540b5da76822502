"""vLLM: what is missing for it is reported before anything is loaded. vLLM itself needs a GPU and is not run here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hang_guard import ends_within
from tiny_run import ROOT, Server

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.preflight import environments


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(version) lets Python's own metadata say that vLLM is there."""

    def put(version: str) -> None:
        folder = tmp_path / f"vllm-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    return put


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # what torch says of the machine, no more


def require(mode="colocate", host="127.0.0.1", port=9, model="google/gemma-3-1b-it"):
    environments.require_vllm(mode, host, port, model)


def test_the_range_is_trls_own():
    """The check that TRL makes at its import says the same (trl/import_utils.py)."""
    import trl

    source = (Path(trl.__file__).parent / "import_utils.py").read_text(encoding="utf-8")
    low, high = re.search(r'Version\("([\d.]+)"\) <= _vllm_base_version <= Version\("([\d.]+)"\)', source).groups()
    assert sorted(environments.vllm_versions().split(",")) == [f"<={high}", f">={low}"]


def test_the_requirements_are_in_that_range_and_agree_with_the_others():
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    def pins(name):
        lines = ((ROOT / name).read_text(encoding="utf-8")).splitlines()
        wanted = [Requirement(line.partition("#")[0].strip()) for line in lines if line.partition("#")[0].strip()]
        return {r.name.lower(): str(r.specifier) for r in wanted}

    ours, other = pins("requirements-vllm.txt"), pins("requirements-transformers5.txt")
    assert SpecifierSet(environments.vllm_versions()).contains(ours["vllm"].removeprefix("=="))
    assert "unbabel-comet" not in ours and ours["transformers"].startswith("==5.")
    for name in ("torch", "trl", "accelerate", "peft", "datasets", "sacrebleu", "ctranslate2"):
        assert ours[name] == other[name] and ours[name].startswith("==")


def test_without_vllm_the_fix_is_the_other_environment():
    with pytest.raises(ConfigError, match=r"vLLM is not installed.*requirements-vllm\.txt"):
        require()


@pytest.mark.parametrize("version", ["0.21.0", "0.31.1", "1.0"])
def test_another_version_than_trl_supports(installed, gpu, version):
    installed(version)
    with pytest.raises(ConfigError, match=f"vLLM {re.escape(version)} .*requirements-vllm"):
        require()


def test_without_a_gpu(installed, monkeypatch):
    installed("0.31.0+cu130")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"^use_vllm: .*CUDA"):
        require()


def test_a_colocated_engine_needs_nothing_more(installed, gpu):
    installed("0.31.0")
    asked = []
    with Server(lambda method, path: asked.append(path) or (200, {}, b"{}")) as server:
        port = int(server.url.rpartition(":")[2])
        require("colocate", port=port)
        assert asked == []
        require("server", port=port)
        assert asked != []


def test_a_missing_server_is_reported_at_once(installed, gpu):
    installed("0.31.0")
    with pytest.raises(MissingService, match=r"^vllm_server_host: .*http://127\.0\.0\.1:9 .*trl vllm-serve --model"):
        require("server")


@pytest.mark.parametrize(
    ("ready", "info", "error", "said"),
    [
        (200, 200, None, ""),
        (503, 200, MissingService, "it answers 503"),
        (200, 404, ConfigError, r"weights \(it answers 404\).*trl vllm-serve --model google/gemma-3-1b-it"),
    ],
)
def test_a_server_must_be_up_and_take_weights(installed, gpu, ready, info, error, said):
    """As in TRL's client: /health, and /server_info, which only a server in development mode has."""
    installed("0.31.0")
    asked = []

    def reply(method, path):
        asked.append(path)
        return (ready if path == "/health" else info), {}, json.dumps({}).encode()

    with Server(reply) as server:
        port = int(server.url.rpartition(":")[2])
        if error is None:
            require("server", port=port)
            assert asked == ["/health", "/server_info?config_format=json"]
        else:
            with pytest.raises(error, match=said):
                require("server", port=port)


def test_a_silent_server_costs_seconds_only(installed, gpu, monkeypatch):
    import socket

    installed("0.31.0")
    monkeypatch.setattr(environments, "SERVER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with ends_within(30), pytest.raises(MissingService, match=r"^vllm_server_host: "):
            require("server", port=silent.getsockname()[1])
