"""Whether lengths, batches and checkpoints of a run's settings go together."""

from __future__ import annotations

import math
from typing import Any

from rl_nmt import distributed
from rl_nmt.preflight.findings import Finding, fail

JOINT_TOKENS = 512  # what COMETKiwi and XCOMET read of translation and source together
CHARACTERS_PER_TOKEN = 3.0  # assumed for XLM-R, English and Tamil alike, on the safe side


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
    unit, group = settings.per_device_batch_size * distributed.count(), settings.group_size
    accumulation = settings.gradient_accumulation_steps
    generated = getattr(settings, "steps_per_generation", None) or accumulation
    per_step, prompts = unit * accumulation, unit * generated / group
    if prompts != int(prompts) or prompts < 1:
        way_out = "make per_device_batch_size × gradient_accumulation_steps × processes a multiple of group_size"
        return [fail("batches", f"{per_step} sequences a step are no whole groups of {group}", way_out)]
    if prompts > settings.num_train_samples:
        detail = f"{settings.num_train_samples} prompts do not fill a generation batch of {int(prompts)}"
        return [fail("batches", f"{detail}: nothing would be trained", "raise num_train_samples")]
    rounds = generated * getattr(settings, "num_iterations", 1)
    cycle = rounds // math.gcd(rounds, accumulation)
    one_pass = int(settings.num_train_samples // prompts) * cycle
    steps = settings.max_steps or one_pass
    detail = f"{per_step} sequences a step ({per_step / group:g} prompts × {group}), {steps} steps = "
    return [
        Finding("ok", "batches", f"{detail}{steps / one_pass:.2g} × the prompts"),
        _checkpoint_finding(settings.save_steps, steps, cycle),
    ]


def _checkpoint_finding(save: int, steps: int, cycle: int) -> Finding:
    quarter = f"--save_steps {max(1, steps // 4 // cycle) * cycle}"
    if not save:
        return Finding("warn", "checkpoints", "save_steps 0: a run that stops starts over", quarter)
    if save % cycle:
        legal = [n for n in (save // cycle * cycle, (save // cycle + 1) * cycle) if n]
        detail = f"save_steps {save} lies inside a generation cycle of {cycle} steps"
        return fail("checkpoints", detail, f"--save_steps {' or '.join(map(str, legal))}")
    if save > steps:
        return Finding("warn", "checkpoints", f"save_steps {save} is beyond the last step, {steps}", quarter)
    return Finding("ok", "checkpoints", f"every {save} steps, a generation cycle is {cycle}")
