"""The pretrain phase: a tokenizer and a masked-diffusion GPT made from the training texts, in output_dir/pretrain."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.diffusion.settings import DiffusionCfg
from rl_nmt import config, distributed
from rl_nmt.errors import ConfigError
from rl_nmt.runs import phases
from rl_nmt.runs.run import Run

FIXED = """
tokenizer block_size hidden_size layers heads pretrain_steps pretrain_batch_size pretrain_lr seed""".split()
LOGS = 100  # rows of metrics, at most twice as many


def make_tokenizer(cfg: DiffusionCfg, texts: list[str]):
    """Return a tokenizer of the texts' characters, or the one that is named; cls and sep serve as bos and eos.

    Raises ConfigError, MissingService.
    """
    from rl_nmt.models import loading
    from rl_nmt.models.masked_diffusion import character_tokenizer, require_tokens

    if cfg.tokenizer == "characters":
        return character_tokenizer(texts, cfg.block_size)
    tokenizer = loading.load_tokenizer("tokenizer", cfg.tokenizer)
    for kind, other in (("bos_token", "cls_token"), ("eos_token", "sep_token")):
        if getattr(tokenizer, kind) is None and getattr(tokenizer, other) is not None:
            setattr(tokenizer, kind, getattr(tokenizer, other))
    require_tokens(tokenizer, "tokenizer", cfg.tokenizer)
    tokenizer.model_max_length = cfg.block_size
    return tokenizer


def choose_precision(cfg: DiffusionCfg):
    """Return the Precision of training, without autocast if not `amp`; prepares the process."""
    from rl_nmt.models import policy as models

    models.prepare_processes()
    models.quieten_transformers()
    found = models.choose_precision(lora=False)
    found = found if cfg.amp else replace(found, autocast=False, reason=f"{found.reason}, without amp")
    print(f"precision: {found.reason}", flush=True)
    return found


def make_policy(cfg: DiffusionCfg, texts: list[str]):
    """Return a setup.Policy: the tokenizer, and an untrained model that depends on texts and seed alone."""
    import torch

    from rl_nmt.models.masked_diffusion import new_generator
    from rl_nmt.training import setup

    precision = choose_precision(cfg)
    tokenizer = make_tokenizer(cfg, texts)
    sizes = {"hidden_size": cfg.hidden_size, "num_hidden_layers": cfg.layers, "num_attention_heads": cfg.heads}
    torch.manual_seed(cfg.seed)
    model = new_generator(tokenizer, **sizes, max_position_embeddings=cfg.block_size)
    return setup.Policy(tokenizer, precision, model.to(precision.device), start=lambda: None)


def pretrain(cfg: DiffusionCfg, run: Run, train: list[str], heldout: list[str], started: float) -> None:
    """Make output_dir/pretrain/final, or what is left of it. `started`: time.monotonic() at the start. Collective.

    Raises ConfigError, ResumeRefused, and as `loop.train`.
    """
    identity = {name: getattr(cfg, name) for name in FIXED}
    identity["pretrain_data"] = hashlib.sha256(json.dumps(train).encode()).hexdigest()[:16]
    with phases.open_phase(run, "pretrain") as phase:
        if phases.finished(phase, identity):
            print(f"phase pretrain: finished before, {phase.folder / 'final'}", flush=True)
            return
        with phase.under_way():
            train_phase(cfg, phase, train, heldout, started)
        phases.finish(phase)


def train_phase(cfg: DiffusionCfg, phase: Run, train: list[str], heldout: list[str], started: float) -> None:
    """Train, and write final/ and metrics.jsonl."""
    from rl_nmt.training import loop, masked_pretraining, setup
    from rl_nmt.training.callbacks import ProgressLine
    from rl_nmt.training.reward_log import RewardLog
    from wandb_reward_callback import WandbRewardCallback

    policy, size = make_policy(cfg, train), cfg.pretrain_batch_size
    rows, apart = (masked_pretraining.token_rows(policy.tokenizer, each, cfg.block_size) for each in (train, heldout))
    if not rows or not apart:
        raise ConfigError(f"block_size: no text fits into {cfg.block_size} tokens; raise it, or lower max_chars")
    print(f"phase pretrain: {len(rows)} texts ({len(train) - len(rows)} longer ones left out), {phase.folder}")
    print(f"{policy.model.num_parameters():,} weights", flush=True)

    def measure() -> float:
        return masked_pretraining.heldout_loss(policy.model, policy.tokenizer, apart, size, cfg.seed)

    before = phase.once("heldout_loss", measure)
    phase.begin(cfg)
    name = f"{cfg.wandb_run_name or Path(cfg.output_dir).name}-pretrain"
    setup.start_wandb(phase, replace(cfg, wandb_run_name=name), config.to_public_dict(cfg))
    often = max(cfg.logging_steps, cfg.pretrain_steps // LOGS)
    options = {"per_device_train_batch_size": size // distributed.count(), "learning_rate": cfg.pretrain_lr}
    options |= {"max_steps": cfg.pretrain_steps, "warmup_steps": cfg.pretrain_steps // 20, "logging_steps": often}
    options |= {"max_grad_norm": cfg.grad_clip, "gradient_checkpointing": cfg.gradient_checkpointing}
    trainer = masked_pretraining.build_pretrainer(phase.folder, policy, rows, cfg.save_steps, cfg.seed, **options)
    unrewarded = RewardLog()
    metrics = WandbRewardCallback(unrewarded, often, path=phase.folder / phase.files.metrics)
    limits: dict[str, Any] = {"keep": cfg.save_total_limit, "max_hours": cfg.max_hours, "started": started}
    loop.train(phase, trainer, [metrics, ProgressLine(unrewarded, 0)], **limits)
    if distributed.is_main_process():
        after = measure()
        metrics.record("eval", 0, {"loss": before})
        metrics.record("eval", cfg.pretrain_steps, {"loss": after})
        print(f"held-out loss: {before:.4f} before, {after:.4f} after, in nats per token", flush=True)
        policy.model.save_pretrained(phase.folder / "final")
        policy.tokenizer.save_pretrained(phase.folder / "final")
