"""Inspect this machine: Python, packages, GPUs and memory. torch is imported only to find GPUs."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

from rl_nmt.errors import MissingService, describe
from rl_nmt.preflight.findings import Finding, fail
from rl_nmt.preflight.memory_estimate import gib

TESTED = {  # in the environment of requirements.txt, or in that of requirements-transformers5.txt
    "torch": ("2.13.0",),
    "transformers": ("4.57.6", "5.23.0"),
    "trl": ("1.16.0",),
}
REQUIRED = (*TESTED, "accelerate", "datasets", "sacrebleu", "sentencepiece", "tyro", "PyYAML", "matplotlib")
# package, its versions, together with package, its versions ("" any): symptom. Seen in this stack.
KNOWN_BAD = (
    ("pyarrow", ">=26", "numpy", "<2", "`import datasets` fails: pyarrow 26 needs NumPy 2 without saying so"),
    ("sentencepiece", ">=0.2.3", "protobuf", "<6", "slow-to-fast tokenizer conversion cannot import runtime_version"),
    ("huggingface-hub", ">=1", "transformers", "<5", "`import transformers` fails"),
    ("trackio", ">=0.30", "huggingface-hub", "<1.10", "`from trl import GRPOTrainer` fails"),
    ("sentence-transformers", ">=6", "transformers", "<5", "it needs transformers 5"),
)


@dataclass(frozen=True)
class Gpu:
    """name; free and total bytes; bf16 units."""

    name: str
    free: int
    total: int
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """(major, minor) of Python, package → version (names in lower case), GPUs, free RAM in bytes, why torch fails."""

    python: tuple[int, int]
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...] = ()
    ram_free: int = 0
    torch_problem: str = ""

    @property
    def bf16(self) -> bool:
        return bool(self.gpus) and self.gpus[0].bf16


def look() -> Machine:
    """Inspect this machine. If torch cannot be imported, the reason is in the result and is not raised."""
    packages = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    gpus: list[Gpu] = []
    problem = ""
    try:
        import torch

        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(i)
            units = torch.cuda.get_device_capability(i) >= (8, 0)  # as is_bf16_supported, without emulation
            gpus.append(Gpu(torch.cuda.get_device_name(i), free, total, units))
    except Exception as error:  # a broken installation raises anything
        problem = describe(error)
    return Machine(sys.version_info[:2], packages, tuple(gpus), _ram_free(), problem)


def _ram_free() -> int:
    try:
        import psutil

        return psutil.virtual_memory().available
    except ImportError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def requirements(packages: Mapping[str, str]) -> str:
    """Return the requirements file that an environment with these packages was made from."""
    if "vllm" in packages:
        return "requirements-vllm.txt"
    return "requirements-transformers5.txt" if _within(packages.get("transformers"), ">=5") else "requirements.txt"


def version_findings(machine: Machine, settings: Any) -> list[Finding]:
    """Check Python, missing packages, pairs that are known not to work together, and versions not tested."""
    found, packages = [], machine.packages
    install = f"pip install -r {requirements(packages)}"
    python = ".".join(map(str, machine.python))
    if machine.python not in ((3, 11), (3, 12)):
        detail = f"{python}: TRL needs 3.11, and numpy 1.26 has no wheel for 3.13"
        found.append(fail("python", detail, "use Python 3.11 or 3.12"))
    needed = [*REQUIRED, *(["peft"] if settings.lora_rank else []), *(["wandb"] if settings.use_wandb else [])]
    needed += ["ctranslate2"] if settings.backtranslation_backend == "ctranslate2" else []
    missing = [name for name in needed if name.lower() not in packages]
    if missing or machine.torch_problem:
        detail = f"not installed: {', '.join(missing)}" if missing else f"torch: {machine.torch_problem}"
        found.append(fail("packages", detail, install, MissingService))
    for name, versions, other, others, symptom in KNOWN_BAD:
        if _within(packages.get(name), versions) and _within(packages.get(other), others):
            pair = f"{name} {packages[name]} with {other} {packages[other]}: {symptom}"
            found.append(fail("packages", pair, install, MissingService))
    installed = {name: packages[name] for name in TESTED if name in packages}
    untested = [n for n, version in installed.items() if version.split("+")[0] not in TESTED[n]]
    if untested:
        detail = ", ".join(f"{name} {installed[name]} (tested: {', '.join(TESTED[name])})" for name in untested)
        found.append(Finding("warn", "packages", detail, install))
    if not found:
        shown = ", ".join(f"{name} {version}" for name, version in installed.items())
        found.append(Finding("ok", "versions", f"Python {python}, {shown}"))
    return found


def _within(version: str | None, versions: str) -> bool:
    if version is None:
        return False
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(version, prereleases=True)


def device_findings(machine: Machine, settings: Any) -> list[Finding]:
    """Report the GPUs with their free memory, and devices in the settings that do not exist."""
    found = []
    for i, gpu in enumerate(machine.gpus):
        units = "" if gpu.bf16 else ", no bf16 units: fp32"
        found.append(Finding("ok", f"cuda:{i}", f"{gpu.name}, {gib(gpu.free)} of {gib(gpu.total)} GiB free{units}"))
    if not machine.gpus:
        detail = f"no CUDA device: the CPU in fp32, {gib(machine.ram_free)} GiB free"
        way_out = "fine for configs/pocket.yaml; a model of a billion parameters needs a GPU"
        found.append(Finding("warn", "devices", detail, way_out))
    for name in ("reward_device", "dual_device"):
        wanted = getattr(settings, name)
        if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= len(machine.gpus):
            found.append(Finding("warn", name, f"{wanted} does not exist: the CPU would be used", f"--{name} auto"))
    return found
