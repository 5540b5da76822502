"""Refuse settings of a diffusion run that cannot work, before anything expensive. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.diffusion.reward import is_function
from recipes.diffusion.settings import DiffusionCfg
from rl_nmt import distributed
from rl_nmt.config import load_callable
from rl_nmt.errors import ConfigError
from rl_nmt.hub import ModelUse, require_models
from rl_nmt.ranges import check_ranges
from rl_nmt.training.trl_settings import check_save_steps, passes_per_step

GENERATOR, JUDGE = "generator_checkpoint", "judge_checkpoint"
# They may not change in a run: they decide the data, the measure, or the meaning of a step.
FIXED = """
denoising_steps order temperature top_p estimator group_size kl_coef templates_per_step num_iterations outside_measure
scale_rewards loss_type clip_range seed""".split()


def check(cfg: DiffusionCfg) -> None:
    """Refuse settings that cannot work. Raises ConfigError, one line that names the setting."""
    check_ranges(cfg)
    if not cfg.output_dir.strip():
        raise ConfigError("output_dir is empty; give a folder for the run")
    if distributed.deepspeed():
        raise ConfigError("ACCELERATE_USE_DEEPSPEED: this recipe samples from whole models; launch it without")
    if cfg.min_chars > cfg.max_chars:
        raise ConfigError(f"min_chars: {cfg.min_chars} is above max_chars {cfg.max_chars}; lower it")
    if "pretrain" in phases(cfg):
        if cfg.hidden_size % (2 * cfg.heads):
            even = f"hidden_size {cfg.hidden_size} into heads of an even width"
            raise ConfigError(f"heads: {cfg.heads} does not divide {even}; use a divisor of {cfg.hidden_size // 2}")
        if cfg.generator_checkpoint:
            raise ConfigError(f"{GENERATOR}: phase {cfg.phase} makes a generator; leave it empty, or use phase grpo")
        if cfg.pretrain_batch_size % (count := distributed.count()):
            size = f"pretrain_batch_size: {cfg.pretrain_batch_size}"
            raise ConfigError(f"{size} is not a multiple of the {count} processes; change it")
        if cfg.template_file:
            raise ConfigError(f"template_file: phase {cfg.phase} learns from texts; give a dataset instead")
    if "grpo" in phases(cfg):
        _check_grpo(cfg)


def _check_grpo(cfg: DiffusionCfg) -> None:
    if cfg.mask_low > cfg.mask_high:
        raise ConfigError(f"mask_low: {cfg.mask_low} is above mask_high {cfg.mask_high}; lower it")
    shares = {name: getattr(cfg, name) for name in ("span_share", "random_share", "suffix_share")}
    if abs(sum(shares.values()) - 1) > 1e-6:
        told = " + ".join(f"{name} {value:g}" for name, value in shares.items())
        raise ConfigError(f"{told} = {sum(shares.values()):g}; the shares of mask patterns must sum to 1")
    if cfg.top_p < 1 and cfg.estimator == "trajectory":
        raise ConfigError(
            f"top_p: {cfg.top_p} with estimator trajectory: its log-probabilities are those of the whole distribution "
            "and would not be the sampler's; set top_p 1.0, or another estimator"
        )
    if not cfg.judge_checkpoint:
        raise ConfigError(f"{JUDGE} is empty; give a sequence-regression checkpoint, or module:name of a function")
    for name, wanted in ((JUDGE, cfg.judge_checkpoint), ("outside_measure", cfg.outside_measure)):
        if is_function(wanted):
            load_callable(wanted, name)
    if cfg.outside_measure == cfg.judge_checkpoint:
        raise ConfigError(f"outside_measure: {cfg.outside_measure} is {JUDGE}; a measure of its own is needed, or none")
    if cfg.phase == "grpo" and not cfg.generator_checkpoint and not (pretrained(cfg) / "config.json").exists():
        raise ConfigError(
            f"{GENERATOR} is empty, and {pretrained(cfg)} holds no model; give a masked-diffusion GPT, or make one "
            "with --phase pretrain"
        )
    passes = accumulation_steps(cfg, distributed.count())
    check_save_steps(cfg.save_steps, passes, passes, cfg.num_iterations)


def phases(cfg: DiffusionCfg) -> tuple[str, ...]:
    """Return the phases of this run, in order."""
    return ("pretrain", "grpo") if cfg.phase == "both" else (cfg.phase,)


def pretrained(cfg: DiffusionCfg) -> Path:
    """Return the folder of the pretrain phase's model."""
    return Path(cfg.output_dir).expanduser() / "pretrain" / "final"


def generator(cfg: DiffusionCfg) -> str:
    """Return the name of the generator that GRPO starts from."""
    return cfg.generator_checkpoint or str(pretrained(cfg))


def accumulation_steps(cfg: DiffusionCfg, processes: int) -> int:
    """Return forward and backward passes per process and step. Raises ConfigError if the step does not divide."""
    names = ("templates_per_step", "group_size", "batch_size")
    return passes_per_step({name: getattr(cfg, name) for name in names}, processes)


def steps(cfg: DiffusionCfg, templates: int) -> int:
    """Return the optimizer steps of the run. Raises ConfigError if the templates do not fill one generation."""
    if templates < cfg.templates_per_step:
        raise ConfigError(
            f"templates_per_step: {cfg.templates_per_step} is more than the {templates} templates; lower it, or give "
            "more text"
        )
    return cfg.max_steps or templates // cfg.templates_per_step * cfg.num_iterations


def models(cfg: DiffusionCfg) -> list[ModelUse]:
    """Return every model that these settings use, with the name of its setting."""
    used = [ModelUse(GENERATOR, cfg.generator_checkpoint, part="policy")] if cfg.generator_checkpoint else []
    if "pretrain" in phases(cfg) and cfg.tokenizer != "characters":
        used.append(ModelUse("tokenizer", cfg.tokenizer, "tokenizer.json"))
    if "grpo" in phases(cfg) and not is_function(cfg.judge_checkpoint):
        used.append(ModelUse(JUDGE, cfg.judge_checkpoint, part="judge"))
    return used


def require_environment(cfg: DiffusionCfg) -> None:
    """Refuse models that are missing here. Raises ConfigError, MissingService."""
    require_models(models(cfg))


def fixed(cfg: DiffusionCfg) -> dict[str, Any]:
    """Return the settings that must not change in a resumed run."""
    return {name: getattr(cfg, name) for name in FIXED}
