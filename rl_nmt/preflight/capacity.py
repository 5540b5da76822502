"""Whether a run fits: disk and memory that it is estimated to take against what is free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_nmt.errors import CannotWrite
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.findings import Finding, fail
from rl_nmt.preflight.machine import Machine
from rl_nmt.preflight.memory_estimate import Shape, gib

TIGHT, TOO_MUCH = 0.85, 1.1  # estimated over free memory: a warning, a no-go


def disk_finding(settings: Any, folder: Path, policy: Shape | None, bf16: bool) -> Finding:
    """Free space where the run folder is, or will be, against what its checkpoints and models take."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        return fail("disk", f"output_dir: {place} cannot be written", "name another output_dir", CannotWrite)
    free = shutil.disk_usage(place).free
    if policy is None or not policy.config:
        return Finding("warn", "disk", f"{gib(free)} GiB free; the policy's size is not known")
    need = memory_estimate.run_bytes(policy, settings, bf16)
    one = memory_estimate.checkpoint_bytes(policy, settings)
    detail = f"{gib(free)} GiB free; {gib(need)} estimated (a checkpoint {gib(one)}, save_total_limit "
    detail += f"{settings.save_total_limit} and one being written)"
    if need > free:
        return fail("disk", detail, "free space, lower save_total_limit, or name another output_dir", CannotWrite)
    return Finding("warn" if 2 * need > free else "ok", "disk", detail)


def memory_findings(settings: Any, machine: Machine, models: Mapping[str, Shape | None]) -> list[Finding]:
    """Estimated peak per device against what is free there. `models`: see `memory_estimate.shapes`."""
    policy = models["policy"]
    if policy is None or policy.config.get("model_type") != "gemma3_text":
        return [Finding("warn", "memory", "not estimated: the size of model_id is not known without its config.json")]
    unknown = [name for name, shape in models.items() if shape is None]
    found = []
    total = machine.gpus[0].total if machine.gpus else 0
    needs = memory_estimate.memory_needs(settings, models, len(machine.gpus), machine.bf16, total)
    for device, need in needs.items():
        free = machine.ram_free if device == "cpu" else machine.gpus[int(device[5:])].free
        parts = [f"{name} {gib(size)}" for name, size in need.resident.items()]
        stage = max(need.passing, key=need.passing.get, default="")
        parts += [f"{stage} {gib(need.passing[stage])}"] if stage else []
        detail = f"{device}: {' + '.join(parts)} = {gib(need.peak)} GiB estimated, {gib(free)} free"
        if unknown:
            detail += f" (without {', '.join(unknown)}: size not known)"
        share = need.peak / max(1, free)
        if share > TOO_MUCH:
            found.append(fail("memory", detail, _smaller(settings, stage, device)))
        elif share > TIGHT:
            found.append(Finding("warn", "memory", detail, _smaller(settings, stage, device)))
        else:
            found.append(Finding("ok", "memory", detail))
    return found


def _smaller(settings: Any, stage: str, device: str) -> str:
    several = settings.per_device_batch_size > 1
    ways = {
        "--gradient_checkpointing True": stage == "update" and not settings.gradient_checkpointing,
        "a lower per_device_batch_size with more gradient_accumulation_steps": stage == "update" and several,
        "--lora_rank 16": not settings.lora_rank,
        "--reward_offload True": device != "cpu" and not settings.reward_offload,
        "--dual_dtype bfloat16": settings.dual_dtype == "float32" and settings.w_cycle,
    }
    helpful = [way for way, helps in ways.items() if helps]
    return ", or ".join(helpful) or "a smaller model, or a device with more memory"
