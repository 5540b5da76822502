"""The Makefile's .venv: every start ends with a complete one or with one clear line. `venv` and `pip` are stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = """
import os, pathlib, signal, sys, time
if __name__ == "__main__":  # not in `import pip`
    signal.signal(signal.SIGINT, lambda *_: sys.exit("ERROR: Operation cancelled by user"))
    here = pathlib.Path()
    with (here / "pip.log").open("a") as log:
        print(sys.argv[-1], file=log)
    if (here / "broken").exists():
        sys.exit("ERROR: no matching distribution")
    if (here / "slow").exists():
        (here / "installer").write_text(str(os.getppid()))
        while (here / "slow").exists():
            time.sleep(0.01)
"""
VENV = f"""
import pathlib, shutil, sys
venv, python = pathlib.Path(sys.argv[-1]), pathlib.Path(sys._base_executable).resolve()
if "--clear" in sys.argv:
    shutil.rmtree(venv, ignore_errors=True)
packages = venv / "lib" / "python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
for folder in (venv / "bin", packages):
    folder.mkdir(parents=True, exist_ok=True)
(venv / "pyvenv.cfg").write_text(f"home = {{python.parent}}\\ninclude-system-site-packages = false")
(venv / "bin" / "python").exists() or (venv / "bin" / "python").symlink_to(python)
(packages / "pip.py").write_text({PIP!r})
(venv / "bin" / "activate").touch()
"""


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, two empty requirements files, and a build and a training that leave a file each."""
    for name in ("Makefile", "scripts/install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("requirements.txt", "requirements-dev.txt", "pocket/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("pocket/build.py", "train_grpo_en_ta.py"):
        (tmp_path / name).write_text(f"open('{Path(name).stem} ran', 'w')", encoding="utf-8")
    (tmp_path / "stand_ins").mkdir()
    (tmp_path / "stand_ins" / "venv.py").write_text(VENV, encoding="utf-8")
    yield tmp_path
    (tmp_path / "slow").unlink(missing_ok=True)  # ends a pip that a failed test has left


def start(checkout: Path, *words: str, **changes: str) -> subprocess.Popen:
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env |= {"PYTHONPATH": str(checkout / "stand_ins"), "PYTHON": sys.executable, **changes}
    line = [shutil.which("make"), *(words or ["train"])]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        line, cwd=checkout, env=env, stdout=pipe, stderr=pipe, encoding="utf-8", start_new_session=True
    )


def make(checkout: Path, *words: str, **changes: str) -> tuple[int, str, list[str]]:
    """Run make → (exit status, stdout, lines of stderr without make's own)."""
    job = start(checkout, *words, **changes)
    out, err = job.communicate(timeout=60)
    return job.returncode, out, [line for line in err.splitlines() if not line.startswith("make")]


def trained(checkout: Path) -> bool:
    return all((checkout / name).exists() for name in (".venv/installed", "build ran", "train_grpo_en_ta ran"))


def installations(checkout: Path) -> list[str]:
    return (checkout / "pip.log").read_text(encoding="utf-8").splitlines()


def in_pip(checkout: Path, job: subprocess.Popen) -> int:
    """Wait until pip is at work; returns the process id of what started it."""
    path, deadline = checkout / "installer", time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    return int(path.read_text())


def test_what_is_complete_is_not_installed_again(checkout):
    status, out, err = make(checkout)
    assert status == 0 and err == [] and trained(checkout) and "installing requirements.txt into .venv" in out
    assert make(checkout, ".venv/developer")[0] == make(checkout, ".venv/developer")[0] == make(checkout)[0] == 0
    assert installations(checkout) == ["requirements.txt", "requirements-dev.txt"]
    later = time.time() + 60
    os.utime(checkout / "requirements.txt", (later, later))
    assert make(checkout)[0] == 0 and installations(checkout)[2:] == ["requirements.txt"]


@pytest.mark.parametrize("others", ["no Python at all", "an older python3"])
def test_no_usable_python(checkout, others):
    (checkout / "bin").mkdir()
    if others == "an older python3":
        (checkout / "bin" / "python3").symlink_to("/bin/false")
    python = "python3.11 python3.12 python3"
    status, out, err = make(checkout, PATH=str(checkout / "bin"), PYTHON=python)
    assert status == 2 and out == "" and not (checkout / ".venv").exists()
    (line,) = err
    assert line.startswith("error: Python 3.11 or 3.12 is needed") and "set PYTHON=" in line and python in line
    assert f"PYTHON ?= {python}\n" in (checkout / "Makefile").read_text(encoding="utf-8")


def test_a_failed_pip(checkout):
    (checkout / "broken").touch()
    for _ in range(2):
        status, _, (reason, line) = make(checkout)
        assert status == 2 and reason == "ERROR: no matching distribution"
        assert line.startswith("error: requirements.txt was not installed completely")
        assert not (checkout / ".venv" / "installed").exists() and not (checkout / "build ran").exists()
    (checkout / "broken").unlink()
    assert make(checkout)[0] == 0 and trained(checkout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_installation_is_continued(checkout, number):
    (checkout / "slow").touch()
    job = start(checkout)
    in_pip(checkout, job)
    os.killpg(job.pid, number)
    _, err = job.communicate(timeout=60)
    assert job.returncode != 0 and not (checkout / ".venv" / "installed").exists()
    assert ("error: interrupted: the same command" in err) == (number == signal.SIGINT) and "Traceback" not in err
    (checkout / "slow").unlink()
    assert make(checkout)[0] == 0 and trained(checkout)
    assert not (checkout / "build ran").stat().st_mtime < (checkout / ".venv" / "installed").stat().st_mtime


@pytest.mark.parametrize("missing", ["bin/activate", "lib/*/site-packages/pip.py"])
def test_an_environment_whose_creation_was_interrupted_is_completed(checkout, missing):
    make(checkout, ".venv")
    (checkout / ".venv" / "installed").unlink()
    (path,) = (checkout / ".venv").glob(missing)
    path.unlink()
    (checkout / ".venv" / "mine").touch()
    assert make(checkout)[0] == 0 and trained(checkout) and path.exists() and (checkout / ".venv" / "mine").exists()


@pytest.mark.parametrize("what", ["removed", "replaced by another version"])
def test_a_python_that_is_gone(checkout, what):
    make(checkout, ".venv", ".venv/developer")
    python = checkout / ".venv" / "bin" / "python"
    if what == "removed":
        python.unlink()
        python.symlink_to("/gone/python3.11")
    else:
        (packages,) = (checkout / ".venv" / "lib").iterdir()
        packages.rename(packages.with_name("python3.9"))
    status, out, err = make(checkout, ".venv/developer")
    assert status == 0 and err == [] and ".venv is created again: its Python was removed or replaced" in out
    assert installations(checkout) == ["requirements.txt", "requirements-dev.txt"] * 2
    assert not (checkout / ".venv" / "lib" / "python3.9").exists() and make(checkout)[0] == 0 and trained(checkout)


def test_an_environment_of_another_python_is_left_alone(checkout):
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 3.10\n", encoding="utf-8")
    python.chmod(0o755)
    status, _, (line,) = make(checkout)
    assert status == 2 and line.startswith("error: .venv has Python 3.10") and "rm -rf .venv" in line
    assert python.exists() and not (checkout / "pip.log").exists()


def test_two_at_the_same_time(checkout):
    """The second is refused as long as any part of the first is at work."""
    (checkout / "slow").touch()
    first = start(checkout)
    installer = in_pip(checkout, first)
    for _ in range(2):
        status, out, (line,) = make(checkout)
        assert status == 2 and out == "" and line.startswith("error: .venv is being installed by another process")
        assert installations(checkout) == ["requirements.txt"] and not (checkout / ".venv" / "installed").exists()
        if first.poll() is None:
            os.kill(installer, signal.SIGKILL)  # its pip goes on
            first.wait(60)
    (checkout / "slow").unlink()
    first.communicate(timeout=60)
    assert make(checkout)[0] == 0 and trained(checkout)
