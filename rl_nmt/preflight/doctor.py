"""What is missing for a run on this machine, said in seconds: `diagnose` looks, `table` prints, `exit_code` decides.

Nothing is loaded, downloaded or written. Sizes are estimates (memory_estimate.py); what the network decides is
asked once and at the same time, so that the whole takes seconds without one too. torch is imported only to ask
for GPUs.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import CannotWrite, ConfigError, MissingService, UserError
from rl_nmt.hub import ModelUse
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.findings import Finding, Level, failed
from rl_nmt.preflight.memory_estimate import GIB, Shape
from rl_nmt.preflight.network import data_finding, model_finding, tracker_finding

JOINT_TOKENS = 512  # what COMETKiwi and XCOMET read of translation and source together
CHARACTERS_PER_TOKEN = 3.0  # assumed for XLM-R, English and Tamil alike, on the safe side
TIGHT, TOO_MUCH = 0.85, 1.1  # estimated over free memory: a warning, a no-go
TESTED = {  # in the environment with COMET, or in the one without it (requirements-transformers5.txt)
    "torch": ("2.13.0",),
    "transformers": ("4.57.6", "5.23.0"),
    "trl": ("1.16.0",),
    "unbabel-comet": ("2.2.7",),
}
REQUIRED = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "unbabel-comet",
    "sacrebleu",
    "sentencepiece",
    "tyro",
    "PyYAML",
    "matplotlib",
)
# package, its versions, beside package, its versions ("" any): symptom. Seen in this stack.
KNOWN_BAD = (
    ("transformers", ">=5", "unbabel-comet", "<=2.2.7", "COMET unpacks three values where XLM-R returns two"),
    ("numpy", ">=2", "unbabel-comet", "<=2.2.7", "unbabel-comet caps numpy below 2"),
    ("protobuf", ">=5", "unbabel-comet", "<=2.2.7", "unbabel-comet caps protobuf below 5"),
    ("pyarrow", ">=26", "numpy", "<2", "`import datasets` fails: pyarrow 26 needs NumPy 2 without saying so"),
    ("setuptools", ">=81", "torchmetrics", "<0.11", "`import comet` fails: pkg_resources is gone"),
    ("sentencepiece", ">=0.2.3", "protobuf", "<6", "slow-to-fast tokenizer conversion cannot import runtime_version"),
    ("huggingface-hub", ">=1", "transformers", "<5", "`import transformers` fails"),
    ("trackio", ">=0.30", "huggingface-hub", "<1.10", "`from trl import GRPOTrainer` fails"),
    ("sentence-transformers", ">=6", "transformers", "<5", "it wants transformers 5, which COMET does not run on"),
    ("vllm", "", "unbabel-comet", "", "vLLM needs protobuf >= 5.29, unbabel-comet < 5: two environments"),
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
    """What is there: (major, minor) of Python, package → version (names in lower case), GPUs, free RAM in bytes."""

    python: tuple[int, int]
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...] = ()
    ram_free: int = 0
    torch_problem: str = ""


def diagnose(
    settings: Any,
    uses: Sequence[ModelUse],
    folder: str | Path,
    check: Callable[[Any], None] | None = None,
    machine: Machine | None = None,
    *,
    environment: Callable[[Any], None] | None = None,
) -> list[Finding]:
    """Everything that could stop or spoil a run with these settings in this folder.

    Args:
        settings: RunCfg, or what has its fields.
        uses: the models that these settings ask for.
        folder: the run folder; need not exist.
        check: the recipe's own check of its settings; what it raises as UserError becomes a finding.
        machine: None looks at this one.
        environment: the recipe's own check of what its settings need here (packages, servers, another Python).

    Returns:
        Findings in the order of the table; what is the user's to mend is in them, never raised.
    """
    folder = Path(folder).expanduser()
    with ThreadPoolExecutor(8) as beside:
        reachable = functools.partial(beside.submit(hub.hub_reachable).result)
        places = [beside.submit(model_finding, model, reachable) for model in uses]
        data = beside.submit(data_finding, settings, folder, reachable)
        tracker = beside.submit(tracker_finding, settings)
        machine = look() if machine is None else machine
        models = memory_estimate.shapes(uses)
        findings = [
            *_asked("settings", settings, check),
            *_asked("environment", settings, environment),
            *version_findings(machine, settings),
            *device_findings(machine, settings),
            *(place.result() for place in places),
            data.result(),
            tracker.result(),
            disk_finding(settings, folder, models["policy"], _bf16(machine)),
            *memory_findings(settings, machine, models),
            *joint_limit_findings(settings),
            *batch_findings(settings),
        ]
    return findings


def table(findings: Iterable[Finding]) -> str:
    """The findings as text: level, what, detail, and the way out below it; the last line says go or no-go."""
    findings = list(findings)
    width = max((len(f.what) for f in findings), default=0)
    lines = []
    for f in findings:
        lines.append(f"{f.level:4}  {f.what:{width}}  {f.detail}")
        if f.way_out:
            lines.append(f"{'':4}  {'':{width}}  → {f.way_out}")
    failed, warned = (sum(f.level == level for f in findings) for level in ("fail", "warn"))
    verdict = f"no-go: {failed} to mend" if failed else "go"
    return "\n".join([*lines, f"{verdict}{f', {warned} to look at' if warned else ''}"])


def exit_code(findings: Iterable[Finding]) -> int:
    """0 for go; else the highest status of what failed."""
    return max((f.status or 1 for f in findings if f.level == "fail"), default=0)


def look() -> Machine:
    """This machine. A torch that does not import is told, not raised."""
    packages = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    gpus: list[Gpu] = []
    problem = ""
    try:
        import torch

        for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(i)
            units = torch.cuda.get_device_capability(i) >= (8, 0)  # what is_bf16_supported asks, without emulation
            gpus.append(Gpu(torch.cuda.get_device_name(i), free, total, units))
    except Exception as error:  # a broken installation raises anything
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return Machine(sys.version_info[:2], packages, tuple(gpus), _ram_free(), problem)


def _ram_free() -> int:
    try:
        import psutil

        return psutil.virtual_memory().available
    except ImportError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# --- settings, versions, devices ---------------------------------------------------------------------


def _asked(what: str, settings: Any, check: Callable[[Any], None] | None) -> list[Finding]:
    if check is None:
        return []
    try:
        check(settings)
    except UserError as error:
        return [failed(what, error)]
    return [Finding("ok", what, "valid" if what == "settings" else "has what the settings ask for")]


def version_findings(machine: Machine, settings: Any) -> list[Finding]:
    """Python, packages that are missing, pairs that are known not to work together, versions not tested."""
    found = []
    python = ".".join(map(str, machine.python))
    if machine.python not in ((3, 11), (3, 12)):
        found.append(
            Finding(
                "fail",
                "python",
                f"{python}: TRL needs 3.11, and numpy 1.26 has no wheel for 3.13",
                "use Python 3.11 or 3.12",
                ConfigError.exit_code,
            )
        )
    packages = machine.packages
    elsewhere = ("unbabel-comet",) if getattr(settings, "scorer_python", "") else ()
    needed = [name for name in REQUIRED if name not in elsewhere]
    needed += [*(["peft"] if settings.lora_rank else []), *(["wandb"] if settings.use_wandb else [])]
    needed += ["ctranslate2"] if settings.backtranslation_backend == "ctranslate2" else []
    missing = [name for name in needed if name.lower() not in packages]
    if missing or machine.torch_problem:
        detail = f"not installed: {', '.join(missing)}" if missing else f"torch: {machine.torch_problem}"
        found.append(Finding("fail", "packages", detail, "pip install -r requirements.txt", MissingService.exit_code))
    for name, versions, other, others, symptom in KNOWN_BAD:
        if _within(packages.get(name), versions) and _within(packages.get(other), others):
            pair = f"{name} {packages[name]} beside {other} {packages[other]}: {symptom}"
            found.append(Finding("fail", "packages", pair, "pip install -r requirements.txt", MissingService.exit_code))
    other = [
        f"{n} {packages[n]} (tested: {', '.join(v)})"
        for n, v in TESTED.items()
        if n in packages and packages[n].split("+")[0] not in v
    ]
    if other:
        found.append(Finding("warn", "packages", ", ".join(other), "pip install -r requirements.txt"))
    if not found:
        shown = ", ".join(f"{name} {packages[name]}" for name in TESTED if name in packages)
        found.append(Finding("ok", "versions", f"Python {python}, {shown}"))
    return found


def _within(version: str | None, versions: str) -> bool:
    if version is None:
        return False
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(version, prereleases=True)


def device_findings(machine: Machine, settings: Any) -> list[Finding]:
    """The GPUs with their free memory; devices asked for that are not there."""
    found = [
        Finding(
            "ok",
            f"cuda:{i}",
            f"{gpu.name}, {_gib(gpu.free)} of {_gib(gpu.total)} GiB free"
            + ("" if gpu.bf16 else ", no bf16 units: fp32"),
        )
        for i, gpu in enumerate(machine.gpus)
    ]
    if not machine.gpus:
        found.append(
            Finding(
                "warn",
                "devices",
                f"no CUDA device: the CPU in fp32, {_gib(machine.ram_free)} GiB free",
                "fine for configs/pocket.yaml; a model of a billion parameters wants a GPU",
            )
        )
    for name in ("reward_device", "dual_device"):
        wanted = getattr(settings, name)
        if wanted.startswith("cuda") and int(wanted.partition(":")[2] or 0) >= len(machine.gpus):
            found.append(Finding("warn", name, f"{wanted} is not there: the CPU would be used", f"--{name} auto"))
    return found


# --- sizes -------------------------------------------------------------------------------------------


def _bf16(machine: Machine) -> bool:
    return bool(machine.gpus) and machine.gpus[0].bf16


def disk_finding(settings: Any, folder: Path, policy: Shape | None, bf16: bool) -> Finding:
    """Free space where the run folder is, or will be, against what its checkpoints and models take."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding(
            "fail", "disk", f"output_dir: {place} cannot be written", "name another output_dir", CannotWrite.exit_code
        )
    free = shutil.disk_usage(place).free
    if policy is None or not policy.config:
        return Finding("warn", "disk", f"{_gib(free)} GiB free; the policy's size is not known")
    need = memory_estimate.run_bytes(policy, settings, bf16)
    one = memory_estimate.checkpoint_bytes(policy, settings)
    detail = f"{_gib(free)} GiB free; {_gib(need)} estimated (a checkpoint {_gib(one)}, save_total_limit "
    detail += f"{settings.save_total_limit} and one being written)"
    if need > free:
        return Finding(
            "fail",
            "disk",
            detail,
            "free space, lower save_total_limit, or name another output_dir",
            CannotWrite.exit_code,
        )
    return Finding("warn" if 2 * need > free else "ok", "disk", detail)


def memory_findings(settings: Any, machine: Machine, models: Mapping[str, Shape | None]) -> list[Finding]:
    """Estimated peak per device against what is free there. `models`: see `footprint.shapes`."""
    policy = models["policy"]
    if policy is None or policy.config.get("model_type") != "gemma3_text":
        return [Finding("warn", "memory", "not estimated: the size of model_id is not known without its config.json")]
    unknown = [name for name, shape in models.items() if shape is None]
    found = []
    size = machine.gpus[0].total if machine.gpus else 0
    for device, need in memory_estimate.memory_needs(settings, models, len(machine.gpus), _bf16(machine), size).items():
        free = machine.ram_free if device == "cpu" else machine.gpus[int(device[5:])].free
        parts = " + ".join(f"{name} {_gib(size)}" for name, size in need.resident.items())
        stage = max(need.passing, key=need.passing.get, default="")
        if stage:
            parts += (" + " if parts else "") + f"{stage} {_gib(need.passing[stage])}"
        detail = f"{device}: {parts} = {_gib(need.peak)} GiB estimated, {_gib(free)} free"
        if unknown:
            detail += f" (without {', '.join(unknown)}: size not known)"
        share = need.peak / max(1, free)
        level: Level = "fail" if share > TOO_MUCH else "warn" if share > TIGHT else "ok"
        way_out = "" if level == "ok" else _smaller(settings, stage, device)
        found.append(Finding(level, "memory", detail, way_out, ConfigError.exit_code if level == "fail" else 0))
    return found


def _smaller(settings: Any, stage: str, device: str) -> str:
    ways = []
    if stage == "update":
        if not settings.gradient_checkpointing:
            ways.append("--gradient_checkpointing True")
        if settings.per_device_batch_size > 1:
            ways.append("a lower per_device_batch_size with more gradient_accumulation_steps")
    if not settings.lora_rank:
        ways.append("--lora_rank 16")
    if device != "cpu" and not settings.reward_offload:
        ways.append("--reward_offload True")
    if settings.dual_dtype == "float32" and settings.w_cycle:
        ways.append("--dual_dtype bfloat16")
    return ", or ".join(ways) or "a smaller model, or a device with more memory"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.3f}"


# --- shapes of the run -------------------------------------------------------------------------------


def joint_limit_findings(settings: Any) -> list[Finding]:
    """COMETKiwi reads 512 tokens of translation and source together; what is longer is scored on its beginning.

    The longest translation counted is the longest that the length penalty lets pass: max_chars ×
    expected_length_ratio × e^length_tolerance.
    """
    if not settings.w_qe:
        return []
    longer = settings.expected_length_ratio * math.exp(settings.length_tolerance)
    tokens = 4 + math.ceil(settings.max_chars * (1 + longer) / CHARACTERS_PER_TOKEN)
    detail = f"max_chars {settings.max_chars} with its translation: about {tokens} of COMETKiwi's {JOINT_TOKENS} tokens"
    if tokens <= JOINT_TOKENS:
        return [Finding("ok", "length", detail)]
    most = int((JOINT_TOKENS - 4) * CHARACTERS_PER_TOKEN / (1 + longer))
    return [Finding("warn", "length", f"{detail}: the end is not scored", f"--max_chars {most} or less")]


def batch_findings(settings: Any) -> list[Finding]:
    """Sequences and prompts per optimizer step, the number of steps, and where checkpoints may lie."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    accumulation = settings.gradient_accumulation_steps
    per_step = settings.per_device_batch_size * accumulation * processes
    generated = getattr(settings, "steps_per_generation", None) or accumulation
    iterations = getattr(settings, "num_iterations", 1)
    prompts = settings.per_device_batch_size * generated * processes / settings.group_size
    found = []
    if prompts != int(prompts) or prompts < 1:
        return [
            Finding(
                "fail",
                "batches",
                f"{per_step} sequences a step are no whole groups of {settings.group_size}",
                "make per_device_batch_size × gradient_accumulation_steps × processes a multiple of group_size",
                ConfigError.exit_code,
            )
        ]
    if prompts > settings.num_train_samples:
        detail = f"{settings.num_train_samples} prompts do not fill a generation batch of {int(prompts)}"
        return [
            Finding(
                "fail",
                "batches",
                f"{detail}: nothing would be trained",
                "raise num_train_samples",
                ConfigError.exit_code,
            )
        ]
    cycle = generated * iterations // math.gcd(generated * iterations, accumulation)
    one_pass = int(settings.num_train_samples // prompts) * cycle
    steps = settings.max_steps or one_pass
    found.append(
        Finding(
            "ok",
            "batches",
            f"{per_step} sequences a step ({per_step / settings.group_size:g} prompts × "
            f"{settings.group_size}), {steps} steps = {steps / one_pass:.2g} × the prompts",
        )
    )
    save = settings.save_steps
    if not save:
        found.append(
            Finding(
                "warn",
                "checkpoints",
                "save_steps 0: a run that stops starts over",
                f"--save_steps {max(1, steps // 4 // cycle) * cycle}",
            )
        )
    elif save % cycle:
        legal = [n for n in (save // cycle * cycle, (save // cycle + 1) * cycle) if n]
        found.append(
            Finding(
                "fail",
                "checkpoints",
                f"save_steps {save} lies inside a generation cycle of {cycle} steps",
                f"--save_steps {' or '.join(map(str, legal))}",
                ConfigError.exit_code,
            )
        )
    elif save > steps:
        found.append(
            Finding(
                "warn",
                "checkpoints",
                f"save_steps {save} is beyond the last step, {steps}",
                f"--save_steps {max(1, steps // 4 // cycle) * cycle}",
            )
        )
    else:
        found.append(Finding("ok", "checkpoints", f"every {save} steps, a generation cycle is {cycle}"))
    return found


def dry_step_seconds(trainer: Any, steps: int = 2) -> list[float]:
    """Seconds of each of `steps` real optimizer steps; the first one includes whatever is loaded lazily.

    The trainer is used up: its policy has been trained and its schedule run. No checkpoint is made.
    """
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            times.append(-time.perf_counter())

        def on_step_end(self, args, state, control, **kwargs):
            times[-1] += time.perf_counter()
            control.should_save = False

    trainer.args.max_steps, trainer.args.save_strategy = steps, "no"
    trainer.add_callback(Clock())
    trainer.train()
    return times


def time_two_steps(trainer: Any, steps: int) -> None:
    """Print how long two real steps take, and so about how long `steps` of them; see `dry_step_seconds`."""
    first, second = dry_step_seconds(trainer)
    left = timedelta(seconds=round(steps * second))
    print(f"dry step: {first:.1f} s, the second {second:.1f} s: about {left} for {steps} steps", flush=True)
