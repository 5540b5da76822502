"""rl_nmt.distributed: values exchanged by several processes of one run, in forked children that use gloo."""

from __future__ import annotations

import doctest
import os
import pickle
import signal
import sys

import pytest
import torch
from process_trials import Processes
from tiny_run import command

from rl_nmt import distributed
from rl_nmt.errors import ConfigError, Stopped


class Odd(Exception):
    """Cannot be built from its own args."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def test_docstrings():
    assert doctest.testmod(distributed).failed == 0


def test_one_process_does_nothing_and_imports_nothing():
    code = (
        "import sys; from rl_nmt import distributed as p; rows = [1]; p.start(); p.mute_others()\n"
        "assert p.gathered(rows) is rows and p.broadcast(rows) is rows and p.from_main(lambda: rows) is rows\n"
        "print('torch' in sys.modules, 'accelerate' in sys.modules)"
    )
    done = command("-c", code)
    assert (done.returncode, done.stdout) == (0, "False False\n"), done.stderr


def _exchange():
    calls = []
    told = {
        "gathered": distributed.gathered([f"{distributed.rank()}{i}" for i in range(distributed.rank())]),
        "broadcast": distributed.broadcast({"from": distributed.rank()}),
        "from_main": distributed.from_main(lambda: calls.append(1) or os.getpid()),
        "calls": len(calls),
        "nested": distributed.from_main(
            lambda: (
                distributed.from_main(lambda: distributed.rank()),
                distributed.gathered([7]),
                distributed.broadcast(8),
            )
        ),
    }
    for name, error in (("user", ConfigError("lr: 0 is wrong")), ("odd", Odd(1, 2))):

        def fail(error=error):
            raise error

        try:
            distributed.from_main(fail)
        except Exception as raised:
            told[name] = type(raised).__name__, str(raised), getattr(raised, "elsewhere", False)
    distributed.mute_others()
    print("only once")
    print(f"from {distributed.rank()}", file=sys.stderr)
    return told


def test_three_processes_agree(tmp_path):
    group = Processes(tmp_path / "group", [0, 1, 2], _exchange)
    told = group.results()
    assert all(each["gathered"] == ["10", "20", "21"] for each in told)  # in their order, none of the main one
    assert all(each["broadcast"] == {"from": 0} for each in told)
    assert [each["from_main"] for each in told] == [group.trials[0].pid] * 3
    assert [each["calls"] for each in told] == [1, 0, 0]
    assert [each["nested"] for each in told] == [(0, [7], 8)] * 3
    assert [each["user"] for each in told] == [("ConfigError", "lr: 0 is wrong", i > 0) for i in range(3)]
    assert told[0]["odd"] == ("Odd", "1 and 2", False)
    assert told[1]["odd"] == told[2]["odd"] == ("RuntimeError", "Odd: 1 and 2", True)
    assert [trial.out.read_text() for trial in group.trials] == ["only once\n", "", ""]
    assert [trial.err.read_text() for trial in group.trials] == [f"from {i}\n" for i in range(3)]


@pytest.mark.parametrize("error", [None, ConfigError("a"), OSError(28, "full"), ValueError(1, 2), KeyError("k")])
def test_exceptions_that_survive_pickling_stay_what_they_are(error):
    copy = distributed.sendable(error)
    assert type(copy) is type(error) and str(copy) == str(error)


def test_others_become_a_runtime_error_with_the_same_text():
    for error in (Odd(1, 2), type("Local", (Exception,), {})("gone")):
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            pickle.loads(pickle.dumps(error))
        assert repr(distributed.sendable(error)) == repr(RuntimeError(f"{type(error).__name__}: {error}"))


# --- a process that is lost ----------------------------------------------------------------------------


def _lose_one(how):
    with distributed.together():
        distributed.gathered([1])
        if distributed.rank() == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ConfigError("model: this process alone has none")
        for _ in range(1000):
            distributed.gathered([1])


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_the_others_end_with_a_clear_message(tmp_path, how):
    (status, _, error), (other, _, why) = Processes(tmp_path / "group", [0, 1], _lose_one, how).wait(30)
    assert status == 69 and error.count("\n") == 1
    assert error.startswith("error: process 0 of 2 cannot continue: another process of this run has ended")
    assert (other, why) == ((137, "") if how == "killed" else (2, "error: model: this process alone has none\n"))


def test_other_errors_are_not_taken_for_a_lost_process(monkeypatch):
    others = ValueError("x"), RuntimeError("shape"), Stopped("x", 143)
    for count, error in ((2, others[0]), (2, others[1]), (2, others[2]), (1, RuntimeError("gloo"))):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        with pytest.raises(type(error), match=str(error)), distributed.together():
            raise error


# --- devices -------------------------------------------------------------------------------------------


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"^nproc_per_node: 4 processes for 2 GPUs"):
        distributed.start()


def test_scorers_are_loaded_whole_under_zero3(tiny_nllb):
    """transformers shards what is loaded while a ZeRO-3 configuration exists, and then needs DeepSpeed."""
    from transformers import AutoModelForSeq2SeqLM
    from transformers.integrations import deepspeed

    policy = type("ZeRO3", (), {"is_zero3": lambda self: True, "config": {}})()
    deepspeed.set_hf_deepspeed_config(policy)
    try:
        with pytest.raises(ImportError, match="deepspeed"):
            AutoModelForSeq2SeqLM.from_pretrained(tiny_nllb)
        with distributed.outside_zero3():
            model = AutoModelForSeq2SeqLM.from_pretrained(tiny_nllb)
            assert not deepspeed.is_deepspeed_zero3_enabled()
        assert deepspeed.is_deepspeed_zero3_enabled()  # for the policy again
        assert min(parameter.numel() for parameter in model.parameters()) > 0
    finally:
        deepspeed.unset_hf_deepspeed_config()
    with distributed.outside_zero3():
        assert not deepspeed.is_deepspeed_zero3_enabled()


@pytest.mark.parametrize(
    ("device", "launched", "told"),
    [
        ("cuda", "", {"use_cpu": False}),
        ("cuda", "true", {"use_cpu": False}),
        ("cpu", "", {"use_cpu": True}),
        ("cpu", "true", {"use_cpu": False, "ddp_backend": "gloo"}),  # ZeRO-3 without GPUs: tests/training/test_zero3.py
    ],
)
def test_device_arguments_of_the_trainer(monkeypatch, device, launched, told):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", launched)
    assert distributed.training_device(device) == told
