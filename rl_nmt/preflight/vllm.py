"""Generation through vLLM, as TRL does it: what it needs, asked before anything is loaded.

Two modes (trl/generation/vllm_generation.py): "colocate" puts a vLLM engine beside the policy on each GPU; "server"
sends prompts to one that `trl vllm-serve` has started elsewhere, and the weights after every step.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, requires, version

from rl_nmt.errors import ConfigError, MissingService

SECONDS = 3.0  # a server on the same network answers in milliseconds


def supported() -> str:
    """The versions of vLLM that the installed TRL works with, as a specifier; "" where it says nothing."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("trl") or []]
    except PackageNotFoundError:
        return ""
    return next((str(r.specifier) for r in wanted if r.name == "vllm"), "")


def require_vllm(mode: str, host: str, port: int, model: str) -> None:
    """Raise unless TRL could generate with vLLM here, within seconds and before anything is loaded.

    Args:
        mode: "colocate" or "server".
        host, port: of the server; not looked at for "colocate".
        model: what the server should be serving, for the message.

    Raises:
        ConfigError: vLLM is not installed, in a version that TRL does not support, or without a CUDA device; a
            server that does not take weights.
        MissingService: the server does not answer.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    wanted = supported()
    try:
        found = version("vllm")
    except PackageNotFoundError:
        raise ConfigError(
            f"use_vllm: vLLM is not installed; TRL wants vllm{wanted}, beside which COMET cannot stand: make an "
            "environment from requirements-vllm.txt and give COMET's as --scorer_python, or --use_vllm False"
        ) from None
    if not SpecifierSet(wanted).contains(Version(found).base_version, prereleases=True):
        raise ConfigError(f"use_vllm: vLLM {found} is installed, TRL wants vllm{wanted}: see requirements-vllm.txt")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("use_vllm: vLLM and its weight transfer need a CUDA device, none is here: --use_vllm False")
    if mode == "server":
        require_server(host, port, model)


def require_server(host: str, port: int, model: str) -> None:
    """Raise unless the server is up and lets TRL send it weights. See `require_vllm`."""
    url, start = f"http://{host}:{port}", f"start it with `trl vllm-serve --model {model} --port {port}`"
    if problem := _problem(f"{url}/health"):
        raise MissingService(
            f"vllm_server_host: no vLLM server at {url} ({problem}): {start}, or use --vllm_mode colocate"
        )
    if problem := _problem(f"{url}/server_info?config_format=json"):
        raise ConfigError(f"vllm_server_host: the server at {url} takes no weights ({problem}): {start}")


def _problem(url: str) -> str | None:
    """What keeps this address from being read, or None."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
