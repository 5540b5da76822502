"""Another Python is checked in its own process, before anything is loaded."""

from __future__ import annotations

import os
import sys

import pytest

from rl_nmt.errors import ConfigError
from rl_nmt.preflight import environments
from rl_nmt.preflight.environments import require_python


def program(path, text: str, mode: int = 0o755) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def test_a_python_that_has_what_is_needed_is_returned_with_its_own_link(tmp_path, monkeypatch):
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert require_python("python_executable", str(link), ("json", "xml")) == str(link)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert require_python("python_executable", "~/python") == str(link)
    monkeypatch.chdir(tmp_path)
    assert require_python("python_executable", "./python") == str(link)


def test_nothing_of_this_environment_is_seen_there(tmp_path, monkeypatch):
    (tmp_path / "only_here_xyz.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="has no only_here_xyz"):
        require_python("python_executable", sys.executable, ("json", "only_here_xyz"))


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("#!/bin/sh\necho hello", 0o755, "does not run as Python (JSONDecodeError)"),
        ("#!/bin/sh\nexit 1", 0o755, "does not run as Python"),
        ("\x7fELF not really", 0o755, "does not run as Python (OSError)"),
        ("#!/bin/sh\necho '[3]'", 0o755, "does not run as Python"),
        ("#!/bin/sh\necho '[[3, 8], []]'", 0o755, "is Python 3.8; 3.10 or newer"),
        ("print('not executable')", 0o644, "cannot be run"),
    ],
    ids=["other program", "fails", "broken", "other JSON", "old", "not executable"],
)
def test_an_unusable_python_is_one_clear_error(tmp_path, text, mode, said):
    path = program(tmp_path / "python", text, mode)
    with pytest.raises(ConfigError) as caught:
        require_python("python_executable", path)
    assert str(caught.value).startswith(f"python_executable: {path} ") and said in str(caught.value)


def test_a_program_that_never_ends_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "PYTHON_SECONDS", 0.3)
    with pytest.raises(ConfigError, match=r"\(TimeoutExpired\)"):
        require_python("python_executable", program(tmp_path / "python", "#!/bin/sh\nexec sleep 30"))


@pytest.mark.parametrize("name", ["/gone/bin/python", "no-such-command-xyz", os.path.dirname(sys.executable)])
def test_a_missing_program_is_refused(name):
    with pytest.raises(ConfigError, match=f": {name} cannot be run"):
        require_python("python_executable", name)
