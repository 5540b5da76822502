"""The last lines of a command, and its exit status."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from fault_trials import trial

from rl_nmt import errors
from rl_nmt.runs.run import Run


def ended(capsys, main) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        errors.run(main)
    return left.value.code, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


CODES = [
    (errors.ConfigError, 2),
    (errors.RewardRefused, 3),
    (errors.ResumeRefused, 4),
    (errors.MissingService, 69),
    (errors.NonFiniteLoss, 70),
    (errors.CannotWrite, 73),
    (errors.UserError, 1),
]


@pytest.mark.parametrize(("kind", "status"), CODES)
def test_user_errors_are_one_line(capsys, kind, status):
    assert ended(capsys, raising(kind("lr: 0\n  must be above 0"))) == (status, "error: lr: 0 must be above 0\n")


def test_success(capsys):
    assert ended(capsys, lambda: None) == (0, "") and ended(capsys, lambda: 5) == (5, "")


def test_an_error_of_the_main_process_is_not_printed_by_the_others(capsys):
    error = errors.ConfigError("lr: 0")
    error.elsewhere = True
    assert ended(capsys, raising(error)) == (2, "")


def test_a_stop(capsys):
    assert ended(capsys, raising(errors.Stopped("max_hours", 75))) == (75, "stopped: max_hours\n")
    assert ended(capsys, raising(KeyboardInterrupt())) == (130, "error: interrupted\n")
    assert not issubclass(errors.Stopped, Exception)  # a reward that survives everything must not survive this


@pytest.mark.parametrize("error", [errors.CannotWrite("x"), errors.Stopped("x", 143), KeyboardInterrupt()])
def test_last_words(capsys, error):
    def main():
        with Run(Path(), "python train.py --lr 1").under_way():
            raise error

    assert ended(capsys, main)[1].splitlines()[-1] == "continue with: python train.py --lr 1"


def test_a_full_disk_anywhere_is_one_line(capsys):
    status, said = ended(capsys, raising(OSError(errno.ENOSPC, "No space left on device", "/x/y")))
    assert (status, said) == (
        73,
        "error: cannot write /x/y (No space left on device): free space, or write elsewhere\n",
    )
    with pytest.raises(FileNotFoundError):
        errors.run(raising(FileNotFoundError(errno.ENOENT, "none")))


def test_the_unforeseen_keeps_its_traceback_and_the_last_line(tmp_path):
    def main():
        with Run(Path(), "python train.py").under_way():
            raise ZeroDivisionError("by zero")

    status, _, err = trial(tmp_path / "log", main)
    assert status == 1 and "Traceback" in err and err.splitlines()[-1] == "continue with: python train.py"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_outside_training_ends_the_command(tmp_path, number):
    def main():
        with Run(Path(), "python train.py").under_way():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except Exception:
                print("swallowed")

    status, out, err = trial(tmp_path / "log", main)
    assert (status, out) == (128 + number, "") and err.splitlines()[-1] == "continue with: python train.py"


def test_a_second_sigterm_ends_the_process_at_once(tmp_path):
    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            print("still there")

    assert trial(tmp_path / "log", main)[:2] == (143, "")


def test_the_handler_is_put_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    ended(capsys, lambda: 0)
    assert signal.getsignal(signal.SIGTERM) is before


def test_causes_end_even_in_a_circle():
    first, second = ValueError("1"), ValueError("2")
    first.__context__, second.__context__ = second, first
    assert set(map(str, errors.causes(first))) == {"1", "2"}
    assert errors.caused_by(first, ValueError) and not errors.caused_by(first, OSError)
