"""Checkpoints are pickles: no code in one runs unless the user trusts exactly this file."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil

import pytest
import torch

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.checkpoint import TRUST
from rl_nmt.scorers.comet.scorer import load_comet

SEGMENT = Segment("The boy reads a book.", "சிறுவன் படிக்கிறான்.")


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def checkpoint(tiny_comet_qe, tmp_path):
    """(folder of a COMETKiwi, its model.ckpt): a copy to damage."""
    folder = tmp_path / "kiwi"
    shutil.copytree(tiny_comet_qe, folder)
    return folder, folder / "checkpoints" / "model.ckpt"


def add(file, **more):
    torch.save(torch.load(file, weights_only=True) | more, file)


def digest(file) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refusal(folder) -> str:
    with pytest.raises(ConfigError) as caught:
        load_comet(folder, argument="comet_qe_model")
    return str(caught.value)


@pytest.fixture(autouse=True)
def nobody_trusted(monkeypatch):
    monkeypatch.delenv(TRUST, raising=False)


@pytest.mark.parametrize("family", ["BERT", "RemBERT"])
def test_an_encoder_of_another_family_is_refused(checkpoint, family):
    folder, file = checkpoint
    add(file, hyper_parameters=torch.load(file, weights_only=True)["hyper_parameters"] | {"encoder_model": family})
    said = refusal(folder)
    assert said.startswith("comet_qe_model: ") and f"encoder {family} " in said and "XLM-RoBERTa" in said


def test_a_pickle_that_runs_code_is_refused_with_the_reason_and_the_fix(checkpoint, tmp_path):
    folder, file = checkpoint
    add(file, extra=Bomb(tmp_path / "ran"))
    message = refusal(folder)
    assert message.startswith(f"comet_qe_model: {file} holds more than weights") and "it names posix.mkdir" in message
    assert f"set {TRUST}={digest(file)}" in message and "\n" not in message and "weights_only" not in message
    assert not (tmp_path / "ran").exists()


def test_trust_is_for_this_very_file(checkpoint, tmp_path, monkeypatch):
    folder, file = checkpoint
    expected = load_comet(folder).score([SEGMENT]).values
    add(file, extra=argparse.Namespace(epochs=3))
    other = "0" * 64
    for trusted in (other, digest(file)[:16], "", "1", "true", "*"):  # only the whole hash counts
        monkeypatch.setenv(TRUST, trusted)
        assert "it names argparse.Namespace" in refusal(folder)
    for trusted in (digest(file), digest(file).upper(), f"{other}, {digest(file)}", f"{other} {digest(file)}"):
        monkeypatch.setenv(TRUST, trusted)
        assert load_comet(folder).score([SEGMENT]).values == expected
    before = os.environ[TRUST]
    add_one = torch.load(file, weights_only=False) | {"extra": Bomb(tmp_path / "ran")}
    torch.save(add_one, file)
    assert before not in digest(file) and "holds more than weights" in refusal(folder)
    assert not (tmp_path / "ran").exists()


def test_a_trusted_file_does_run_its_code(checkpoint, tmp_path, monkeypatch):
    """The control: without it the two tests above could pass because the bomb does not work."""
    folder, file = checkpoint
    add(file, extra=Bomb(tmp_path / "ran"))
    monkeypatch.setenv(TRUST, digest(file))
    load_comet(folder)
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, None])
def test_damage_is_refused_too(checkpoint, content):
    folder, file = checkpoint
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if content is None else content)
    message = refusal(folder)
    assert "damaged" in message and "fetch it again" in message.lower() and "\n" not in message


def test_hparams_with_python_tags_build_nothing(checkpoint, tmp_path):
    folder, _ = checkpoint
    path = folder / "hparams.yaml"
    text = path.read_text()
    path.write_text(f"class_identifier: unified_metric\nx: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    assert "hparams.yaml contains more than" in refusal(folder) and not (tmp_path / "ran").exists()
    path.write_text("class_identifier: unified_metric\nx: !!python/name:os.system\n")
    assert "hparams.yaml contains more than" in refusal(folder)
    described = json.loads(text)
    described.pop("hidden_sizes")
    path.write_text(json.dumps(described)[:-1] + ', "hidden_sizes": !!python/tuple [24, 12]}')
    assert load_comet(folder).score([SEGMENT]).values[0] is not None
