"""scripts/setup_split_envs.sh and the two requirement files it installs (the installation itself is not run here)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "setup_split_envs.sh"


def pins(name: str) -> dict[str, str]:
    """Package → the rest of its line, without comment."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return {re.split(r"[=<>!~ ]", line)[0].lower(): line for line in lines if line}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["/bin/bash", str(SCRIPT), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_comet_and_transformers_5_never_meet():
    one, other = pins("requirements.txt"), pins("requirements-transformers5.txt")
    assert one["transformers"].startswith("transformers==4.") and "unbabel-comet" in one
    assert other["transformers"].startswith("transformers==5.") and "unbabel-comet" not in other


@pytest.mark.parametrize("package", ["torch", "trl", "accelerate", "peft", "datasets", "sacrebleu", "ctranslate2"])
def test_what_both_environments_share_is_the_same_version(package):
    one, other = pins("requirements.txt"), pins("requirements-transformers5.txt")
    assert "==" in one[package] and one[package] == other[package]


def test_complete_environments_are_left_alone(tmp_path):
    for name in (".venv", ".venv-t5"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "installed").touch()
    done = run(str(tmp_path), PYTHON=sys.executable)
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, [".venv: up to date", ".venv-t5: up to date"])
    done = run(str(tmp_path), PYTHON=sys.executable, ONLY=".venv-t5")
    assert (done.returncode, done.stdout) == (0, ".venv-t5: up to date\n")


def test_the_one_with_vllm_is_made_only_when_asked_for(tmp_path):
    for name in (".venv", ".venv-t5", ".venv-vllm"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "installed").touch()
    assert ".venv-vllm" not in run(str(tmp_path), PYTHON=sys.executable).stdout
    done = run(str(tmp_path), PYTHON=sys.executable, ONLY=".venv-vllm")
    assert (done.returncode, done.stdout) == (0, ".venv-vllm: up to date\n")


@pytest.mark.parametrize("name", [".venv-t4", "venv", ".venv .venv-t5", "*"])
def test_an_unknown_environment_is_refused_with_the_known_ones(tmp_path, name):
    done = run(str(tmp_path / "envs"), PYTHON=sys.executable, ONLY=name)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "envs").exists()
    assert done.stderr == f"error: ONLY={name} is unknown; use .venv, .venv-t5 or .venv-vllm\n"


def test_no_usable_python_is_one_line(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dirname").symlink_to(shutil.which("dirname"))
    done = run(str(tmp_path), PYTHON="/bin/false", PATH=str(tmp_path / "bin"))
    assert done.returncode == 2 and done.stderr == (
        "error: Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11\n"
    )
