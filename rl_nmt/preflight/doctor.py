"""What is missing for a run on this machine, found in seconds.

Nothing is loaded, downloaded or written. Sizes are estimates (memory_estimate.py); what depends on the network is
asked once and concurrently, so that the whole takes seconds without a network too.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import UserError
from rl_nmt.hub import ModelUse
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.capacity import disk_finding, memory_findings
from rl_nmt.preflight.findings import Finding, exit_code, failed, table
from rl_nmt.preflight.machine import Machine, device_findings, look, version_findings
from rl_nmt.preflight.network import data_finding, model_finding, tracker_finding
from rl_nmt.preflight.plan import batch_findings, joint_limit_findings

__all__ = ["diagnose", "dry_step_seconds", "exit_code", "table", "time_two_steps"]


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
        Findings in the order of the table; what the user can mend is in them, never raised.
    """
    folder = Path(folder).expanduser()
    with ThreadPoolExecutor(8) as beside:
        reachable = functools.partial(beside.submit(hub.hub_reachable).result)
        places = [beside.submit(model_finding, model, reachable) for model in uses]
        data = beside.submit(data_finding, settings, folder, reachable)
        tracker = beside.submit(tracker_finding, settings)
        machine = look() if machine is None else machine
        models = memory_estimate.shapes(uses)
        return [
            *_asked("settings", settings, check, "valid"),
            *_asked("environment", settings, environment, "has what the settings ask for"),
            *version_findings(machine, settings),
            *device_findings(machine, settings),
            *(place.result() for place in places),
            data.result(),
            tracker.result(),
            disk_finding(settings, folder, models["policy"], machine.bf16),
            *memory_findings(settings, machine, models),
            *joint_limit_findings(settings),
            *batch_findings(settings),
        ]


def _asked(what: str, settings: Any, check: Callable[[Any], None] | None, good: str) -> list[Finding]:
    if check is None:
        return []
    try:
        check(settings)
    except UserError as error:
        return [failed(what, error)]
    return [Finding("ok", what, good)]


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
