"""Find in seconds what is missing for a run on this machine.

Nothing is loaded, downloaded or written. Sizes are estimates (memory_estimate.py). Network checks run once and
concurrently, so that the whole takes seconds without a network too.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import ConfigError, MissingService, UserError
from rl_nmt.hub import ModelUse
from rl_nmt.licences import commercial_use
from rl_nmt.preflight import capacity, memory_estimate
from rl_nmt.preflight.capacity import batch_findings, disk_finding, joint_limit_findings, memory_findings
from rl_nmt.preflight.findings import Finding, exit_code, fail, failed, table
from rl_nmt.preflight.machine import Machine, device_findings, look, version_findings
from rl_nmt.progress import progress

__all__ = ["diagnose", "dry_step", "exit_code", "table", "time_two_steps"]


def diagnose(
    settings: Any,
    uses: Sequence[ModelUse],
    folder: str | Path,
    check: Callable[[Any], None],
    environment: Callable[[Any], None],
    machine: Machine | None = None,
    view: Any = None,
) -> list[Finding]:
    """Check everything that could stop or spoil a run with these settings (RunCfg's) and models in this folder.

    `view`: settings of another dataclass under RunCfg's names; data, memory and batches are then not checked.

    `check`, `environment`: the recipe's own checks of its settings, and of what they need here (packages, servers,
    another Python). `machine`: None inspects this one. Returns findings in the order of the table; errors that the user
    can fix are among them and are not raised.
    """
    folder = Path(folder).expanduser()
    with ThreadPoolExecutor(8) as pool:
        reachable = pool.submit(hub.hub_reachable).result
        places = [pool.submit(model_finding, model, reachable) for model in uses]
        data = pool.submit(data_finding, settings, folder, reachable) if view is None else None
        shown = settings if view is None else view
        tracker = pool.submit(tracker_finding, shown)
        machine = look() if machine is None else machine
        models = memory_estimate.shapes(uses)
        return [
            _asked("settings", settings, check, "valid"),
            _asked("environment", settings, environment, "has what the settings need"),
            *version_findings(machine, shown),
            *device_findings(machine, shown),
            *(place.result() for place in places),
            Finding("ok", "licences", commercial_use(model.name for model in uses)),
            *([data.result()] if data else []),
            tracker.result(),
            disk_finding(shown, folder, models["policy"], machine.bf16),
            *(memory_findings(settings, machine, models) if view is None else []),
            *(joint_limit_findings(settings) if view is None else []),
            *(batch_findings(settings) if view is None else []),
        ]


def _asked(what: str, settings: Any, check: Callable[[Any], None], good: str) -> Finding:
    try:
        check(settings)
    except UserError as error:
        return failed(what, error)
    return Finding("ok", what, good)


def model_finding(model: ModelUse, reachable: Callable[[], bool]) -> Finding:
    """Report where a model would be loaded from, or why it cannot be; a licence to accept is named with its page."""
    try:
        place = hub.locate(model, reachable)
    except UserError as error:
        return failed(model.setting, error)
    where = {"folder": "a local folder", "cache": "in the local cache", "hub": "on the hub, to be downloaded"}[place]
    return Finding("ok", model.setting, f"{model.name}: {where}")


def data_finding(settings: Any, folder: Path, reachable: Callable[[], bool]) -> Finding:
    """Report whether the training sentences, or their source, are available."""
    from rl_nmt.data.sources import local_files

    if (folder / "data" / "data.json").exists():
        return Finding("ok", "data", f"already in {folder / 'data'}")
    try:
        local = local_files(settings.dataset_name, list(settings.data_files))
    except UserError as error:
        return failed("data", error)
    if local is not None:
        return Finding("ok", "data", f"{len(local[1])} {local[0]} file{'s' if len(local[1]) > 1 else ''} here")
    if reachable():
        return Finding("ok", "data", f"{settings.dataset_name}: to be streamed from the hub")
    detail = f"dataset_name: {settings.dataset_name} is on the hub, which cannot be reached"
    return fail("data", detail, "give a local file or folder as --dataset_name", MissingService)


def tracker_finding(settings: Any) -> Finding:
    """Report how Weights & Biases would be used; a key typed into the settings counts as a login."""
    from rl_nmt.runs import wandb_run

    if not settings.use_wandb:
        return Finding("ok", "W&B", "off (use_wandb False)")
    mode, reason = wandb_run.choose_wandb_mode(settings.wandb_mode, bool(getattr(settings, "wandb_api_key", "")))
    if mode == "offline" and settings.wandb_mode == "online":
        return Finding("warn", "W&B", f"offline: {reason}", "`wandb login`, or --use_wandb False")
    return Finding("ok", "W&B", f"{mode}: {reason}")


def dry_step(cfg: Any, build: Callable[[Any, Path], Any]) -> None:
    """Time two real steps of this configuration in a temporary folder, on as few sentences as they need.

    `cfg`: RunCfg's names; `build`: (settings, folder) → trainer.
    """
    if getattr(cfg, "method", "grpo") != "grpo":
        raise ConfigError(f"--dry_step times steps of GRPO, not of method {cfg.method}: omit it")
    batches, prompts = capacity.generation(cfg)
    per_step = prompts * max(1, cfg.gradient_accumulation_steps // batches)
    short = {"num_train_samples": 2 * per_step, "max_steps": 0, "save_steps": 0, "prompt_filter": "none"}
    with tempfile.TemporaryDirectory() as place:
        trainer = build(dataclasses.replace(cfg, **short), Path(place))
        time_two_steps(trainer, cfg.max_steps or capacity.one_pass(cfg))


def time_two_steps(trainer: Any, steps: int) -> list[float]:
    """Time two real optimizer steps: print their seconds, with an estimate for `steps` of them, and return them.

    The first one includes whatever is loaded lazily. If a generation serves several steps, two such cycles are timed,
    each printed as the mean of its steps. The trainer must not be used again: its policy has been trained and its
    schedule run. No checkpoint is made.
    """
    from transformers import TrainerCallback

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            times.append(-time.perf_counter())

        def on_step_end(self, args, state, control, **kwargs):
            times[-1] += time.perf_counter()
            control.should_save = False
            bar.update()

    args = trainer.args
    cycle = max(1, args.steps_per_generation * args.num_iterations // args.gradient_accumulation_steps)
    args.max_steps, args.save_strategy = 2 * cycle, "no"
    trainer.add_callback(Clock())
    with progress("dry step", args.max_steps, "steps") as bar:
        trainer.train()
    first, second = sum(times[:cycle]) / cycle, sum(times[cycle:]) / cycle
    left = timedelta(seconds=round(steps * second))
    print(f"dry step: {first:.1f} s, the second {second:.1f} s: about {left} for {steps} steps", flush=True)
    return times
