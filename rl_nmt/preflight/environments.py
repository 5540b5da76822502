"""Another Python environment, looked at before anything is loaded: does it run, has it what is needed? No torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec

from rl_nmt.errors import ConfigError

SECONDS = 30.0  # for starting Python alone: a cold disk takes seconds, nothing takes longer that works
# -I: neither this environment's variables nor the working directory decide what is found there.
_LOOK = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps([list(sys.version_info[:2]), [m for m in sys.argv[1:] if u.find_spec(m) is None]]))"
)


def require_python(argument: str, executable: str, modules: Sequence[str] = ()) -> str:
    """The absolute path of a Python that has these modules; nothing is imported there.

    Args:
        argument: the setting that names it, for messages.
        executable: a path, also with ~, or a command on PATH. Symbolic links stay: an environment is known by its.
        modules: top-level names that must be importable there, as "comet".

    Raises:
        ConfigError: no such program, one that is no Python, older than 3.10, or without one of the modules.
    """
    found = shutil.which(os.path.expanduser(executable))  # not Path: it would make a command of ./python
    if not found:
        raise ConfigError(f"{argument}: {executable} is no program that can be run; give an environment's bin/python")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            [found, "-I", "-c", _LOOK, *modules],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=False,
        )
        version, missing = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise ConfigError(
            f"{argument}: {executable} is no Python ({type(error).__name__}); give an environment's bin/python"
        ) from None
    if tuple(version) < (3, 10):
        raise ConfigError(f"{argument}: {executable} is Python {version[0]}.{version[1]}; 3.10 or newer is needed")
    if missing:
        raise ConfigError(
            f"{argument}: the environment of {executable} has no {', '.join(missing)}; install it there, or make both "
            "environments with scripts/setup_split_envs.sh"
        )
    return os.path.abspath(found)


def require_comet(scorer_python: str) -> None:
    """Raise ConfigError unless COMET can be imported here, or in the environment of `scorer_python`."""
    if scorer_python:
        require_python("scorer_python", scorer_python, ("comet", "torch", "transformers"))
    elif find_spec("comet") is None:
        raise ConfigError(
            "scorer_python: COMET is not installed in this environment: give one that has it (--scorer_python "
            ".venv/bin/python), or pip install -r requirements.txt"
        )
