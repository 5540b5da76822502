"""Decide the phases of a replies run, and refuse settings that cannot work before anything is loaded. No torch."""

from __future__ import annotations

from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path

from recipes.replies.data import Phases, check_data
from recipes.replies.heuristic import check_weights
from recipes.replies.measure import load_success_scorer
from recipes.replies.settings import RepliesCfg
from rl_nmt import distributed
from rl_nmt.errors import ConfigError
from rl_nmt.hub import ModelUse, require_models
from rl_nmt.ranges import check_ranges
from rl_nmt.runs.phases import FINISHED
from rl_nmt.text.prompts import SLOT
from rl_nmt.training.trl_settings import passes_per_step

ENCODER = "modules.json"  # of a sentence-transformers model


def phases(cfg: RepliesCfg) -> tuple[str, ...]:
    """Return ("sft",), ("grpo",) or both: from --phase, else experiment.type, else training.use_grpo, else both.

    Raises ConfigError if the latter two contradict each other and --phase does not decide.
    """
    kind, switch = cfg.experiment.type, cfg.training.use_grpo
    asked = {"baseline": "sft", "polychromic": "sft", "grpo": "both", "": ""}[kind]
    switched = {"true": "both", "false": "sft", "": ""}[switch]
    if not cfg.phase and asked and switched and asked != switched:
        raise ConfigError(
            f"experiment.type: {kind} contradicts training.use_grpo: {switch}; leave one of them out, or give --phase"
        )
    chosen = cfg.phase or asked or switched or "both"
    return ("sft", "grpo") if chosen == "both" else (chosen,)


def check(cfg: RepliesCfg) -> None:
    """Refuse what cannot work. Raises ConfigError, one line that names the setting."""
    check_ranges(cfg)
    chosen, kind, weight = phases(cfg), cfg.experiment.type, cfg.sft.diversity_weight
    if (kind == "polychromic" and not weight) or (kind == "baseline" and weight):
        fix = "set it above 0" if kind == "polychromic" else "set it to 0"
        raise ConfigError(f"sft.diversity_weight: {weight} contradicts experiment.type: {kind}; {fix}")
    if cfg.grpo.start_from and "sft" in chosen:
        raise ConfigError(
            f"grpo.start_from: {cfg.grpo.start_from}: this run has an SFT phase of its own; add --phase grpo"
        )
    if chosen == ("grpo",) and not (start_folder(cfg) / FINISHED).is_file():
        raise ConfigError(
            f"grpo.start_from: {start_folder(cfg)} holds no finished SFT phase; run --phase both, or "
            "name the sft folder of another run"
        )
    if cfg.grpo.set_weight and cfg.grpo.n_generations < 3:
        raise ConfigError(f"grpo.n_generations: {cfg.grpo.n_generations} must be at least 3 with grpo.set_weight")
    if cfg.model.load_in_4bit and not cfg.model.lora_rank:
        raise ConfigError(
            "model.load_in_4bit: needs LoRA, since 4-bit weights cannot be trained; set model.lora_rank 16"
        )
    if cfg.model.prompt.count(SLOT) != 1:
        raise ConfigError(f"model.prompt: it must contain {SLOT} exactly once, in the place of the post")
    if not cfg.logging.output_dir.strip():
        raise ConfigError("logging.output_dir is empty; give a folder for the run")
    check_weights(cfg.reward)
    load_success_scorer(cfg.evaluation.success_scorer)
    if distributed.deepspeed():
        raise ConfigError("ACCELERATE_USE_DEEPSPEED: this recipe samples and scores whole models; launch it without")
    check_data(cfg.data, chosen[0] if len(chosen) == 1 else "both")
    if "grpo" in chosen:
        accumulation_steps(cfg, distributed.count())


def check_rows(cfg: RepliesCfg, chosen: tuple[str, ...], rows: Phases) -> None:
    """Refuse too few posts for one GRPO step: TRL would train on none of them. Raises ConfigError."""
    if "grpo" in chosen and len(rows.grpo) < cfg.grpo.posts_per_step:
        raise ConfigError(
            f"grpo.posts_per_step: {cfg.grpo.posts_per_step} is more than the {len(rows.grpo)} posts of that phase; "
            "lower it, or give more rows"
        )


def accumulation_steps(cfg: RepliesCfg, processes: int) -> int:
    """Return forward and backward passes per process and GRPO step. Raises ConfigError if the step does not divide."""
    names = ("grpo.posts_per_step", "grpo.n_generations", "grpo.micro_batch_size")
    return passes_per_step({name: attrgetter(name)(cfg) for name in names}, processes)


def start_folder(cfg: RepliesCfg) -> Path:
    """Return the folder of the SFT phase that GRPO starts from."""
    own = Path(cfg.logging.output_dir).expanduser() / "sft"
    return Path(cfg.grpo.start_from).expanduser() if cfg.grpo.start_from else own


def models(cfg: RepliesCfg) -> list[ModelUse]:
    """Return every model that these settings use, with the name of its setting."""
    encoder = ModelUse("reward.encoder", cfg.reward.encoder, ENCODER)
    own = [ModelUse("model.name", cfg.model.name, part="policy")]
    return [*own, encoder] if cfg.reward.encoder and find_spec("sentence_transformers") else own


def require_environment(cfg: RepliesCfg) -> None:
    """Refuse packages and models that are missing here. Raises ConfigError, MissingService."""
    if cfg.model.load_in_4bit and not find_spec("bitsandbytes"):
        raise ConfigError("model.load_in_4bit: bitsandbytes is not installed; pip install bitsandbytes")
    require_models(models(cfg))
