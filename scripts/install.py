"""Install a requirements file into a virtual environment, which is created or repaired first; the Makefile runs this.

    python3.11 scripts/install.py .venv requirements.txt .venv/installed

The last argument is touched when everything is installed; until then `make` starts this again, and pip installs what
is missing. Only the standard library is needed. Exit status: 1 pip or venv failed, 2 the environment has another
Python, 73 another process is installing, 130 interrupted.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path

PYTHONS = ("3.11", "3.12")
PROBE = """
import os, sys, sysconfig
if os.path.isdir(sysconfig.get_path("purelib")):  # not if the Python was replaced by another version
    print("%d.%d" % sys.version_info[:2])
"""


def main(venv: Path, requirements: Path, stamp: Path) -> None:
    lock = lock_folder_of(venv)
    prepare(venv, lock)
    print(f"installing {requirements} into {venv}", flush=True)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "-r", requirements], lock, f"{requirements} was not installed completely")
    stamp.touch()


def lock_folder_of(venv: Path) -> int:
    """Lock the folder that the environment is in until this process and its children end; return the descriptor."""
    lock = os.open(venv.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fail(f"{venv} is being installed by another process: wait until it has finished", 73)
    except OSError:
        pass  # a file system without locks
    return lock


def prepare(venv: Path, lock: int) -> None:
    """Create the environment, complete one whose creation was interrupted, or replace one whose Python is gone."""
    version = answer(venv, PROBE)
    if version and version not in PYTHONS:
        fail(f"{venv} has Python {version}, and 3.11 or 3.12 is needed: remove it (rm -rf {venv})", 2)
    if version and (venv / "bin" / "activate").exists() and answer(venv, "import pip; print(True)"):
        return
    if venv.is_dir() and not version:
        print(f"{venv} is created again: its Python was removed or replaced", flush=True)
    python, clear = (venv / "bin" / "python", []) if version else (sys.executable, ["--clear"])
    run([python, "-m", "venv", *clear, venv], lock, f"{venv} was not created")


def answer(venv: Path, code: str) -> str:
    """Return what the environment's Python prints; "" if it does not run."""
    with contextlib.suppress(OSError):
        return subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True).stdout.strip()
    return ""


def run(line: list, lock: int, failed: str) -> None:
    """Run a command, which inherits the lock; its errors are shown at its end, and not after Ctrl-C."""
    done = subprocess.run(line, pass_fds=[lock], stderr=subprocess.PIPE, text=True, errors="replace")
    print(done.stderr, end="", file=sys.stderr, flush=True)
    if done.returncode:
        fail(f"{failed} (the reason is above): run the same command again", 1)


def fail(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except KeyboardInterrupt:
        fail("interrupted: the same command continues the installation", 130)
