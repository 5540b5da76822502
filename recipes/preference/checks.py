"""Refuse settings and rows of a preference run that cannot work, before anything expensive. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.preference.data import check_data
from recipes.preference.reward import check_source
from recipes.preference.settings import PreferenceCfg
from rl_nmt import distributed
from rl_nmt.config import excerpt
from rl_nmt.errors import ConfigError
from rl_nmt.hub import ModelUse, require_models
from rl_nmt.ranges import check_ranges
from rl_nmt.training.trl_settings import passes_per_step

MODEL, REWARD = "model.name", "reward.source"


def check(cfg: PreferenceCfg) -> None:
    """Refuse settings that cannot work. Raises ConfigError, one line that names the setting."""
    check_ranges(cfg)
    own, source = cfg.training, cfg.reward.source
    check_source(source)
    if own.method == "dpo":
        if source != "label":
            raise ConfigError(f"{REWARD}: {source} is not used by training.method dpo, which learns from the labels")
        if own.sampled:
            raise ConfigError(f"training.sampled: {own.sampled} needs training.method grpo; DPO samples nothing")
        if not own.beta:
            raise ConfigError("training.beta: 0 leaves DPO nothing to learn; use 0.1")
        if own.micro_batch_size % 2:
            raise ConfigError(
                f"training.micro_batch_size: {own.micro_batch_size} must be even: DPO takes both answers of a pair"
            )
    if own.sampled and source == "label":
        raise ConfigError(
            f"training.sampled: {own.sampled}: a sampled answer has no label; set {REWARD} to match (1 if it equals "
            "the chosen answer), heuristic or module:name"
        )
    if cfg.model.load_in_4bit and not cfg.model.lora_rank:
        raise ConfigError(
            "model.load_in_4bit: needs LoRA, since 4-bit weights cannot be trained; set model.lora_rank 16"
        )
    if not cfg.logging.output_dir.strip():
        raise ConfigError("logging.output_dir is empty; give a folder for the run")
    if distributed.deepspeed():
        raise ConfigError("ACCELERATE_USE_DEEPSPEED: this recipe scores whole models; launch it without")
    check_data(cfg.dataset)
    accumulation_steps(cfg, distributed.count())


def group_size(cfg: PreferenceCfg) -> int:
    """Return G: the two answers of a pair and the sampled ones."""
    return 2 + cfg.training.sampled


def accumulation_steps(cfg: PreferenceCfg, processes: int) -> int:
    """Return forward and backward passes per process and step. Raises ConfigError if the step does not divide."""
    sizes = {"training.pairs_per_step": cfg.training.pairs_per_step, "answers per pair": group_size(cfg)}
    return passes_per_step(sizes | {"training.micro_batch_size": cfg.training.micro_batch_size}, processes)


def steps(cfg: PreferenceCfg, rows: int) -> int:
    """Return the optimizer steps of the run. Raises ConfigError if the rows do not fill one."""
    own = cfg.training
    if rows < own.pairs_per_step:
        raise ConfigError(
            f"training.pairs_per_step: {own.pairs_per_step} is more than the {rows} training pairs; lower it, or give "
            "more rows"
        )
    return own.max_steps or max(1, int(rows * own.epochs) // own.pairs_per_step)


def models(cfg: PreferenceCfg) -> list[ModelUse]:
    """Return every model that these settings use, with the name of its setting."""
    return [ModelUse(MODEL, cfg.model.name, part="policy")]


def require_environment(cfg: PreferenceCfg) -> None:
    """Refuse packages and models that are missing here. Raises ConfigError, MissingService."""
    if cfg.model.load_in_4bit and not find_spec("bitsandbytes"):
        raise ConfigError("model.load_in_4bit: bitsandbytes is not installed; pip install bitsandbytes")
    require_models(models(cfg))


def require_sight(cfg: PreferenceCfg, rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether any row has an image. Raises ConfigError if the model cannot see it."""
    from rl_nmt.models.multimodal import sees_images

    first = next((row for row in rows if row.get("images")), None)
    if first is not None and not sees_images(cfg.model.name, MODEL):
        raise ConfigError(
            f"{MODEL}: {Path(cfg.model.name).name} reads text only, and the prompt {excerpt(first['source'])} has an "
            "image; give a Gemma 3 with a vision tower (google/gemma-3-4b-it or larger), or rows without images"
        )
    return first is not None


def require_room(rows: Sequence[dict], chat: Any, context: int, longest: int, argument: str) -> None:
    """Give each row its "prompt_tokens", those of its images included.

    `context`: tokens that the model can read. Raises ConfigError for a prompt that is too long for it with an answer of
    `longest` tokens; nothing would be truncated.
    """
    lengths = chat.prompt_lengths([row["source"] for row in rows], [len(row["images"]) for row in rows])
    for row, length in zip(rows, lengths, strict=True):
        row["prompt_tokens"] = length
        if length + longest > context:
            raise ConfigError(
                f"{argument}: the prompt {excerpt(row['source'])} has {length} tokens with its {len(row['images'])} "
                f"images; with training.max_new_tokens {longest} that is more than the model's {context}; shorten or "
                "remove it"
            )


def fitting(rows: Sequence[dict], chat: Any, context: int, longest: int, argument: str) -> list[dict]:
    """Return the rows whose answers have at most `longest` tokens; the others are counted on the screen.

    Raises ConfigError as `require_room`, and if no row is left.
    """
    require_room(rows, chat, context, longest, argument)
    answers = [max(len(chat.answer(row[name])) for name in ("chosen", "rejected")) for row in rows]
    kept = [row for row, length in zip(rows, answers, strict=True) if length <= longest]
    if len(kept) < len(rows):
        what = f"{len(rows) - len(kept)} of {len(rows)} pairs have an answer of more than {longest} tokens"
        if not kept:
            raise ConfigError(f"{argument}: {what}; raise training.max_new_tokens")
        print(f"{argument}: {what} (training.max_new_tokens); they are not used", flush=True)
    return kept


def memory(cfg: PreferenceCfg, prompt_tokens: int, images: int, machine: Any = None) -> Any:
    """Return the Finding on the policy's memory, image tokens and the vision tower included.

    `prompt_tokens`: of the longest prompt, with its `images`. `machine`: None inspects this one.
    """
    from rl_nmt.preflight import capacity, memory_estimate, vision_estimate
    from rl_nmt.preflight.findings import Finding
    from rl_nmt.preflight.machine import look

    machine = look() if machine is None else machine
    shape, vision = memory_estimate.model_shape(cfg.model.name), vision_estimate.vision_config(cfg.model.name)
    if shape is None or "hidden_size" not in shape.config:
        return Finding("warn", "memory", f"not estimated: the size of {MODEL} is not known without its config.json")
    own, accumulation = cfg.training, accumulation_steps(cfg, distributed.count())
    view = SimpleNamespace(lora_rank=cfg.model.lora_rank, kl_beta=own.beta, optimizer="adamw_torch_fused")
    view.per_device_batch_size, view.gradient_accumulation_steps = own.micro_batch_size, accumulation
    view.gradient_checkpointing, view.max_new_tokens = cfg.model.gradient_checkpointing, own.max_new_tokens
    view.use_vllm, view.trl = False, SimpleNamespace(batches=lambda passes: passes)
    device = "cuda:0" if machine.gpus else "cpu"
    need = memory_estimate.policy_need(shape, view, device != "cpu", machine.bf16, prompt_tokens)
    if images and vision:
        vision_estimate.add_images(need, vision, shape.config["hidden_size"], view, images, machine.bf16)
    fix = "a lower training.micro_batch_size, --model.gradient_checkpointing True or --model.lora_rank 16"
    note = f" (prompts of {prompt_tokens} tokens, {images} images)"
    return capacity.compared(device, need, machine, note, lambda stage: fix)


FIXED = """
model.lora_rank model.lora_alpha model.load_in_4bit training.method training.beta training.sampled
training.scale_rewards training.max_new_tokens training.pairs_per_step training.temperature seed""".split()


def fixed(cfg: PreferenceCfg) -> dict[str, Any]:
    """Return the settings that must not change in a resumed run."""
    return {name: attrgetter(name)(cfg) for name in FIXED}
