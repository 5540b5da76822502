"""Models, data and tracker of a run, against a hub, a folder or a server in a known state."""

from __future__ import annotations

import os
import socket

import pytest
import wandb
from hang_guard import ends_within
from tiny_run import Server, write_data

from rl_nmt.hub import ModelUse
from rl_nmt.preflight import doctor
from rl_nmt.preflight.findings import Finding
from train_grpo_en_ta import RunCfg as cfg
from train_grpo_en_ta import models


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    yield
    wandb.teardown()


def test_the_models_that_the_weights_ask_for():
    names = [model.setting for model in models(cfg())]
    assert names == ["model_id", "comet_da_model", "backtranslation_model", "comet_qe_model"]
    assert [m.setting for m in models(cfg(w_cycle=0.0))] == ["model_id", "comet_qe_model"]
    judged = models(cfg(w_qe=0.0, independent_scorer="org/judge"))
    assert [m.setting for m in judged] == ["model_id", "comet_da_model", "backtranslation_model", "independent_scorer"]
    assert judged[-1] == ModelUse("independent_scorer", "org/judge", "hparams.yaml", "judge")


def test_a_hub_finding_for_each_state(monkeypatch, tiny_gemma, tmp_path):
    here = doctor.model_finding(ModelUse("model_id", str(tiny_gemma)), lambda: True)
    assert here.level == "ok" and "local folder" in here.detail
    gone = doctor.model_finding(ModelUse("model_id", "./gone"), lambda: True)
    assert (gone.level, gone.status, gone.detail) == ("fail", 2, "no such folder: ./gone")
    unreachable = doctor.model_finding(ModelUse("model_id", "acme/none"), lambda: False)
    assert (unreachable.level, unreachable.status) == ("fail", 69)


def test_a_licence_to_accept_is_named_with_its_page(monkeypatch):
    from huggingface_hub import errors
    from requests import Response

    reply = Response()
    reply.status_code = 403

    def gated(*args, **kwargs):
        raise errors.GatedRepoError("403", response=reply)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", gated)
    found = doctor.model_finding(ModelUse("comet_qe_model", "Unbabel/wmt22-cometkiwi-da", "hparams.yaml"), lambda: True)
    assert (found.level, found.status, found.detail) == ("fail", 69, "Unbabel/wmt22-cometkiwi-da is gated")
    assert "licence at https://huggingface.co/Unbabel/wmt22-cometkiwi-da" in found.way_out


def test_data(tmp_path):
    write_data(tmp_path)
    file = doctor.data_finding(cfg(dataset_name=str(tmp_path / "english.jsonl")), tmp_path, lambda: True)
    assert file == Finding("ok", "data", "1 json file here")
    gone = doctor.data_finding(cfg(dataset_name="gone.jsonl"), tmp_path, lambda: True)
    assert (gone.level, gone.status) == ("fail", 2)
    assert doctor.data_finding(cfg(), tmp_path, lambda: True).level == "ok"
    assert doctor.data_finding(cfg(), tmp_path, lambda: False).status == 69
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").write_text("{}")
    assert "already in" in doctor.data_finding(cfg(), tmp_path, lambda: False).detail


def tracker(**options):
    """The finding of a process that starts in the present environment: wandb keeps what it has read."""
    wandb.teardown()
    wandb.api = type(wandb.api)()
    return doctor.tracker_finding(cfg(**options))


def test_the_tracker(monkeypatch):
    assert doctor.tracker_finding(cfg(use_wandb=False)).detail == "off (use_wandb False)"
    assert doctor.tracker_finding(cfg(wandb_mode="offline")).level == "ok"
    nobody = tracker()
    assert nobody.level == "warn" and "no W&B key" in nobody.detail and "wandb login" in nobody.way_out
    with Server(lambda method, path: (200, {}, b"")) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert tracker(wandb_api_key="canary" * 7).level == "ok"  # typed in counts as a login
        assert "WANDB_API_KEY" not in os.environ
        monkeypatch.setenv("WANDB_API_KEY", "canary" * 7)
        assert tracker() == Finding("ok", "W&B", "online: the server answers")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with ends_within(60):
            found = tracker(wandb_api_key="canary" * 7)
        assert found.level == "warn" and "canary" not in str(found)
