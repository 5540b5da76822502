"""Check whether a run fits: free disk and memory, text lengths, batch sizes, checkpoints."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rl_nmt import distributed, hub
from rl_nmt.errors import CannotWrite
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.findings import Finding, fail
from rl_nmt.preflight.machine import Machine
from rl_nmt.preflight.measurements import measured_ratio
from rl_nmt.preflight.memory_estimate import Shape, gib

TIGHT, TOO_MUCH = 0.85, 1.1  # estimated over free memory: a warning, a no-go
# File that a quality estimation model is known by → name, limit of tokens for translation and source together.
JOINT_TOKENS = {hub.COMET: ("COMETKiwi", 512), "config.json": ("MetricX", 1536)}
CHARACTERS_PER_TOKEN = 3.0  # assumed for XLM-R and mT5, English and Tamil alike, on the safe side


def disk_finding(settings: Any, folder: Path, policy: Shape | None, bf16: bool) -> Finding:
    """Compare the free space where the run folder is, or will be, with the size of its checkpoints and models."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
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
    """Compare each device's estimated peak with its free memory. `models`: see `memory_estimate.shapes`."""
    policy = models["policy"]
    if policy is None or policy.config.get("model_type") != "gemma3_text":
        return [Finding("warn", "memory", "not estimated: the size of model_id is not known without its config.json")]
    unknown = [name for name, shape in models.items() if shape is None]
    found = []
    total = machine.gpus[0].total if machine.gpus else 0
    needs = memory_estimate.memory_needs(settings, models, len(machine.gpus), machine.bf16, total)
    for device, need in needs.items():
        note = f" (without {', '.join(unknown)}: size not known)" if unknown else ""
        if device == "cuda:0" and (measured := measured_ratio(machine.gpus[0].name, settings.reward_offload)):
            note += f"; {measured}"
        found.append(compared(device, need, machine, note, partial(_smaller, settings, device)))
    return found


def compared(
    device: str, need: memory_estimate.Need, machine: Machine, note: str, fix: Callable[[str], str]
) -> Finding:
    """Compare the estimated peak of one device with its free memory. `fix`: the largest stage → what to change."""
    free = machine.ram_free if device == "cpu" else machine.gpus[int(device[5:])].free
    stage = max(need.passing, key=lambda name: need.passing[name], default="")
    sizes = need.resident | ({stage: need.passing[stage]} if stage else {})
    parts = " + ".join(f"{name} {gib(size)}" for name, size in sizes.items())
    detail = f"{device}: {parts} = {gib(need.peak)} GiB estimated, {gib(free)} free{note}"
    share = need.peak / max(1, free)
    if share > TOO_MUCH:
        return fail("memory", detail, fix(stage))
    return Finding("warn", "memory", detail, fix(stage)) if share > TIGHT else Finding("ok", "memory", detail)


def _smaller(settings: Any, device: str, stage: str) -> str:
    several = settings.per_device_batch_size > 1
    engine = device != "cpu" and settings.use_vllm and settings.vllm_mode == "colocate"
    ways = {
        "--gradient_checkpointing True": stage == "update" and not settings.gradient_checkpointing,
        "a lower per_device_batch_size with more gradient_accumulation_steps": stage == "update" and several,
        "--trl.vllm_enable_sleep_mode True": engine and not settings.trl.vllm_enable_sleep_mode,
        "a lower vllm_gpu_memory_utilization": engine and stage == "generation",
        "--lora_rank 16": not settings.lora_rank,
        "--reward_offload True": device != "cpu" and not settings.reward_offload,
        "--dual_dtype bfloat16": settings.dual_dtype == "float32" and settings.w_cycle,
    }
    helpful = [way for way, helps in ways.items() if helps]
    return ", or ".join(helpful) or "a smaller model, or a device with more memory"


def joint_limit_findings(settings: Any) -> list[Finding]:
    """Check texts against the limit of the quality estimation: COMETKiwi and XCOMET read the first 512 tokens.

    The longest translation assumed is the longest without a length penalty: max_chars × expected_length_ratio ×
    e^length_tolerance.
    """
    if not settings.w_qe or settings.qe != "model":
        return []
    longer = settings.expected_length_ratio * math.exp(settings.length_tolerance)
    tokens = 4 + math.ceil(settings.max_chars * (1 + longer) / CHARACTERS_PER_TOKEN)
    name, limit = JOINT_TOKENS[hub.scorer_file(settings.comet_qe_model)]
    detail = f"max_chars {settings.max_chars} with its translation: about {tokens} of {name}'s {limit} tokens"
    if tokens <= limit:
        return [Finding("ok", "length", detail)]
    most = int((limit - 4) * CHARACTERS_PER_TOKEN / (1 + longer))
    return [Finding("warn", "length", f"{detail}: the end is not scored", f"--max_chars {most} or less")]


def generation(settings: Any) -> tuple[int, int]:
    """Return (batches that one generation is split into, prompts in it)."""
    batches = settings.trl.batches(settings.gradient_accumulation_steps)
    return batches, settings.per_device_batch_size * distributed.count() * batches // settings.group_size


def one_pass(settings: Any) -> int:
    """Return the optimizer steps of one pass over the prompts; prompts that do not fill a generation are left out."""
    batches, prompts = generation(settings)
    used = settings.num_train_samples // prompts * batches * settings.trl.num_iterations
    return math.ceil(used / settings.gradient_accumulation_steps)


def prompts_drawn(settings: Any) -> int:
    """Return for how many prompts, with repetition, GRPO samples in the whole run; method raft does for as many."""
    batches, prompts = generation(settings)
    steps = one_pass(settings)
    passes, rest = divmod(settings.max_steps or steps, max(1, steps))
    begun = math.ceil(rest * settings.gradient_accumulation_steps / (batches * settings.trl.num_iterations))
    return prompts * (passes * (settings.num_train_samples // prompts) + begun)


def batch_findings(settings: Any) -> list[Finding]:
    """Check sequences and prompts per generation, the optimizer steps, and whether a stopped run could continue."""
    group, save = settings.group_size, settings.save_steps
    batches, prompts = generation(settings)
    sequences = settings.per_device_batch_size * distributed.count() * batches
    if sequences % group:
        way_out = "make per_device_batch_size × gradient_accumulation_steps × processes a multiple of group_size"
        return [fail("batches", f"{sequences} sequences per generation are not whole groups of {group}", way_out)]
    if prompts > settings.num_train_samples:
        detail = f"{settings.num_train_samples} prompts do not fill a generation batch of {prompts}"
        return [fail("batches", f"{detail}: nothing would be trained", "raise num_train_samples")]
    steps = settings.max_steps or one_pass(settings)
    if getattr(settings, "method", "grpo") == "raft":
        detail = f"{prompts_drawn(settings)} prompts × {group} outputs in {settings.raft.rounds} rounds, as many as in "
        none = Finding("warn", "checkpoints", "save_steps 0: a round that is stopped starts again", "--save_steps 50")
        return [Finding("ok", "batches", f"{detail}{steps} steps of GRPO"), *([] if save else [none])]
    each = batches * settings.trl.num_iterations / settings.gradient_accumulation_steps
    per = "step" if each == 1 else f"generation of {each:g} steps"
    detail = f"{sequences} sequences per {per} ({prompts} prompts × {group}), {steps} steps = "
    found = Finding("ok", "batches", f"{detail}{steps / one_pass(settings):.2g} × the prompts")
    quarter = f"--save_steps {max(1, steps // 4)}"
    if not save:
        return [found, Finding("warn", "checkpoints", "save_steps 0: a stopped run starts from scratch", quarter)]
    if save > steps:
        detail = f"save_steps {save} is beyond the last step, {steps}"
        return [found, Finding("warn", "checkpoints", detail, quarter)]
    return [found, Finding("ok", "checkpoints", f"every {save} steps")]
