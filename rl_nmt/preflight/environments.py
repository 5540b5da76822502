"""Check what a run needs from its environment: another Python, vLLM, an 8-bit optimizer. No torch at import.

The checks take seconds and come before anything is loaded. TRL uses vLLM in two modes
(trl/generation/vllm_generation.py): "colocate" runs an engine next to the policy on each GPU; "server" sends prompts to
one that `trl vllm-serve` has started elsewhere, and the weights after every step.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib.util import find_spec

from rl_nmt.errors import ConfigError, MissingService

PYTHON_SECONDS = 30.0  # time-out for starting Python: a cold disk takes seconds, a working Python no longer
SERVER_SECONDS = 3.0  # a vLLM server on the same network answers in milliseconds
# -I: Python ignores this environment's variables and the working directory.
_LOOK = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps([list(sys.version_info[:2]), [m for m in sys.argv[1:] if u.find_spec(m) is None]]))"
)


def require_python(argument: str, executable: str, modules: Sequence[str] = ()) -> str:
    """Return the path of a Python that has these modules (top-level names, as "comet"), without importing them.

    `argument`: the setting, for messages. `executable`: a path, also with ~, or a command on PATH; symbolic links are
    kept, since Python finds its environment by them. Raises ConfigError if the program is missing, if it is not
    Python 3.10 or newer, or lacks one of the modules.
    """
    found = shutil.which(os.path.expanduser(executable))  # not Path, which would turn ./python into a command
    if not found:
        raise ConfigError(f"{argument}: {executable} cannot be run; give an environment's bin/python")
    try:
        done = subprocess.run(
            [found, "-I", "-c", _LOOK, *modules],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PYTHON_SECONDS,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
        )
        version, missing = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise ConfigError(
            f"{argument}: {executable} does not run as Python ({type(error).__name__}); give another"
        ) from None
    if tuple(version) < (3, 10):
        raise ConfigError(f"{argument}: {executable} is Python {version[0]}.{version[1]}; 3.10 or newer is needed")
    if missing:
        raise ConfigError(
            f"{argument}: the environment of {executable} has no {', '.join(missing)}; install it there, or make both "
            "environments with scripts/setup_split_envs.sh"
        )
    return os.path.abspath(found)


def require_optimizer(name: str) -> None:
    """Raise ConfigError for an 8-bit optimizer without bitsandbytes or a CUDA device."""
    if not name.startswith("adamw_bnb"):
        return
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"optimizer: {name} needs bitsandbytes: install it, or --optimizer adamw_torch")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(f"optimizer: {name} needs a CUDA device: --optimizer adamw_torch")


def vllm_versions() -> str:
    """Return the versions of vLLM that the installed TRL works with, as a specifier; "" if it names none."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in importlib.metadata.requires("trl") or []]
    except importlib.metadata.PackageNotFoundError:  # the doctor names what is missing
        return ""
    return next((str(r.specifier) for r in wanted if r.name == "vllm"), "")


def require_vllm(mode: str, host: str, port: int, model: str) -> None:
    """Raise unless TRL could generate with vLLM here, in `mode` "colocate" or with the "server" at host and port.

    `model`: what the server should be serving, for the message. Raises ConfigError for a vLLM that is not installed, in
    a version that TRL does not support, or without a CUDA device, and for a server that does not take weights;
    MissingService for one that does not answer.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    wanted = vllm_versions()
    try:
        found = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"use_vllm: vLLM is not installed; TRL needs vllm{wanted}: make an environment from "
            "requirements-vllm.txt, or --use_vllm False"
        ) from None
    if not SpecifierSet(wanted).contains(Version(found).base_version, prereleases=True):
        raise ConfigError(f"use_vllm: vLLM {found} is installed, TRL needs vllm{wanted}: see requirements-vllm.txt")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("use_vllm: vLLM and its weight transfer need a CUDA device, none was found: --use_vllm False")
    if mode == "colocate":
        return
    url, start = f"http://{host}:{port}", f"start it with `trl vllm-serve --model {model} --port {port}`"
    if problem := _problem(f"{url}/health"):
        raise MissingService(
            f"vllm_server_host: no vLLM server at {url} ({problem}): {start}, or use --vllm_mode colocate"
        )
    if problem := _problem(f"{url}/server_info?config_format=json"):
        raise ConfigError(f"vllm_server_host: the server at {url} does not accept weights ({problem}): {start}")


def _problem(url: str) -> str | None:
    """Return why this address cannot be read, or None."""
    try:
        with urllib.request.urlopen(url, timeout=SERVER_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
