"""GRPO for a masked-diffusion GPT that fills the masks of templates; a frozen judge scores the filled texts.

Texts → templates with masks (spans, random places, a masked end) → groups of fills by iterative unmasking → the judge
scores each filled text → TRL's GRPO loss with KL to the frozen start model. The log-probability of a fill is that of
the order in which it was written (estimator "trajectory"): exact, where a single pass is not. Held-out templates are
filled before and after; a score outside the reward says whether the texts are better or only liked.

    python -m recipes.diffusion.train recipes/diffusion/configs/pocket.yaml
    python -m recipes.diffusion.train config.py --generator_checkpoint=gpt --judge_checkpoint=judge --dataset=text.jsonl
    python -m recipes.diffusion.train --phase pretrain --dataset text.jsonl --output_dir runs/mine   # makes a generator

Settings: settings.py < a .yaml or .py file (first, or --config) < flags. The same command again continues a run.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.diffusion import checks, data
from recipes.diffusion.measure import DiffusionEvaluator, load_outside, task, told_errors
from recipes.diffusion.pretrain import choose_precision, pretrain
from recipes.diffusion.settings import DiffusionCfg
from rl_nmt import config, distributed, errors, settings_file
from rl_nmt.runs import phases
from rl_nmt.runs.run import Run
from rl_nmt.text.prompts import SLOT
from rl_nmt.training import setup

ACTIONS = {
    "fresh": "if output_dir is used, start from scratch in a folder next to it",
    "skip_launch_gate": "train even if the judge prefers cheats to texts; it is logged",
    "force": "resume even if model, data or judge have changed",
    "doctor": "check in seconds what is missing here; exit status 0 is go",
}
TOLD = """
estimator denoising_steps order temperature group_size kl_coef learning_rate templates_per_step num_iterations max_steps
span_share random_share suffix_share mask_low mask_high seed""".split()  # in the model card


def load_policy(cfg: DiffusionCfg) -> setup.Policy:
    """Return the generator on its device, in the precision of training."""
    from rl_nmt.models import policy as models
    from rl_nmt.models.masked_diffusion import load_generator

    precision, name = choose_precision(cfg), checks.generator(cfg)
    model, tokenizer = load_generator(name, checks.GENERATOR)
    model.generation_config = models.generation_defaults(tokenizer)  # TRL reads it

    def start():
        return load_generator(name, checks.GENERATOR)[0].to(precision.device)

    return setup.Policy(tokenizer, precision, model.to(precision.device), start)


def sampler(cfg: DiffusionCfg) -> dict[str, Any]:
    """Return how templates are filled: keywords of `unmasking.fill`, the temperature aside."""
    return {"steps": cfg.denoising_steps, "order": cfg.order, "top_p": cfg.top_p}


def build_trainer(cfg: DiffusionCfg, folder: Path, policy: setup.Policy, reward, rows: list[dict], banned: list[int]):
    """Return TRL's GRPOTrainer with rollouts and log-probabilities of a diffusion model."""
    from datasets import Dataset

    from rl_nmt.training.diffusion_trainer import DiffusionTrainer

    args = setup.grpo_config(
        folder,
        policy,
        cfg.save_steps,
        cfg.seed,
        num_generations=cfg.group_size,
        num_iterations=cfg.num_iterations,
        max_completion_length=max(len(row["ids"]) for row in rows),
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        beta=cfg.kl_coef,
        epsilon=cfg.clip_range,
        loss_type=cfg.loss_type,
        scale_rewards=cfg.scale_rewards,
        learning_rate=cfg.learning_rate,
        warmup_steps=cfg.warmup_steps,
        max_grad_norm=cfg.grad_clip,
        per_device_train_batch_size=cfg.batch_size,
        gradient_accumulation_steps=checks.accumulation_steps(cfg, distributed.count()),
        max_steps=checks.steps(cfg, len(rows)),
        logging_steps=cfg.logging_steps,
        gradient_checkpointing=cfg.gradient_checkpointing,
    )
    prompts = [{"prompt": row["source"], "source": row["source"], "row": i} for i, row in enumerate(rows)]
    trainer = DiffusionTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        train_dataset=Dataset.from_list(prompts),
        processing_class=policy.tokenizer,
        rows=rows,
        banned=banned,
        estimator=cfg.estimator,
        sampler=sampler(cfg),
    )
    setup.quieten(trainer)
    return trainer


def train(cfg: DiffusionCfg, run: Run, skip_gate: bool, started: float) -> None:
    """Do the GRPO phase, or what is left of it from `run.resume`."""
    from recipes.diffusion.gate import require_honest_judge
    from recipes.diffusion.reward import JudgeReward
    from rl_nmt.models.masked_diffusion import banned_ids
    from rl_nmt.results import export
    from rl_nmt.results.divergence import DivergenceMonitor
    from rl_nmt.training import loop
    from rl_nmt.training.callbacks import HeldOut, ProgressLine, Rollouts
    from wandb_reward_callback import WandbRewardCallback

    policy, outside = load_policy(cfg), load_outside(cfg.outside_measure)
    context, banned = policy.model.config.max_position_embeddings, banned_ids(policy.tokenizer)
    rows = distributed.from_main(lambda: data.load(cfg, run.folder, policy.tokenizer, context))
    checks.steps(cfg, len(rows.train))  # refuses too few templates before anything expensive
    reward = JudgeReward(cfg.judge_checkpoint)
    reward.require_vocabulary([row["reference"] for row in rows.heldout if row.get("reference")])
    identity = setup.identity(checks.generator(cfg), reward)
    run.require_same(**identity, **checks.fixed(cfg), data=rows.sha256)
    drawn = sampler(cfg) | {"temperature": cfg.temperature}
    sizes: dict[str, Any] = {"seed": cfg.seed, "batch_size": cfg.eval_batch_size, "banned": banned}
    evaluate = DiffusionEvaluator(rows.heldout, policy.tokenizer, reward, outside, drawn, **sizes)
    with run.under_way():
        before = setup.evaluate_before(run, lambda: evaluate(policy.model), rows.heldout, reward, evaluate.decoding)
        run.begin(cfg)
        ask = partial(require_honest_judge, reward, rows.heldout, cfg.seed, policy.tokenizer)
        setup.ask_launch_gate(run, ask, "skipped by --skip_launch_gate" if skip_gate else "")
        print(told_errors(evaluate.errors(policy.model), cfg.estimator, drawn), flush=True)
        column = task(outside.name).column(outside.name)
        monitor = DivergenceMonitor(outside.name, column.rows or (lambda s: [None] * len(s.sources)), before.sources)
        setup.start_wandb(run, cfg, config.to_public_dict(cfg))
        trainer = build_trainer(cfg, run.folder, policy, reward, rows.train, banned)
        trainer.noise_floor = setup.noise_floor(run, reward, before)
        reference = trainer.ref_model if cfg.kl_coef else policy.start()
        metrics = WandbRewardCallback(reward, path=run.folder / run.files.metrics)
        held_out = HeldOut(
            before,
            lambda: evaluate(trainer.accelerator.unwrap_model(trainer.model), reference),
            monitor,
            metrics.record,
            reward,
            save_best=lambda: export.save_best(run.folder, trainer, SLOT),
            eval_steps=cfg.eval_steps,
        )
        callbacks = [metrics, held_out, ProgressLine(reward, cfg.sample_steps)]
        if cfg.sample_steps:
            callbacks.append(Rollouts(reward, run.folder / run.files.rollouts, cfg.sample_steps))
        limits: dict[str, Any] = {"keep": cfg.save_total_limit, "max_hours": cfg.max_hours}
        loop.train(run, trainer, callbacks, parts={"reward": reward}, started=started, **limits)
        source = {"name": cfg.template_file or cfg.dataset, "rows": len(rows.train), "sha256": rows.sha256}
        source["heldout"] = "held-out templates"
        told = {name: getattr(cfg, name) for name in TOLD}
        base = cfg.generator_checkpoint or "the model of the pretrain phase"
        card = {"base_model": base, "data": source, "settings": told, "prompt": SLOT}
        setup.finish(run, trainer, policy, held_out, task(outside.name), card, cfg.seed)


def diagnose(cfg: DiffusionCfg) -> int:
    """Print what is missing on this machine; returns the exit status."""
    from rl_nmt.preflight import doctor

    view = SimpleNamespace(lora_rank=0, kl_beta=cfg.kl_coef, optimizer="adamw_torch_fused", backtranslation_backend="")
    view.save_steps, view.save_total_limit = cfg.save_steps, cfg.save_total_limit
    view.use_wandb, view.wandb_mode = cfg.use_wandb, cfg.wandb_mode
    view.reward_device = view.dual_device = "cpu"
    ask = (checks.check, checks.require_environment)
    findings = doctor.diagnose(cfg, checks.models(cfg), cfg.output_dir, *ask, view=view)
    print(doctor.table(findings), flush=True)
    return doctor.exit_code(findings)


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    words, prog = settings_file.flags(sys.argv[1:] if argv is None else argv), "python -m recipes.diffusion.train"
    cfg, actions, _ = config.parse(DiffusionCfg, words, ACTIONS, prog=prog, description=__doc__)
    distributed.mute_others()
    if actions["doctor"]:
        return diagnose(cfg)
    checks.check(cfg)
    if actions["fresh"] and cfg.phase == "grpo" and not cfg.generator_checkpoint:
        fix = f"give its model as --{checks.GENERATOR} {checks.pretrained(cfg)}, or use --phase both"
        raise errors.ConfigError(f"--fresh: a new folder has no pretrain phase; {fix}")
    folder, chosen = Path(cfg.output_dir).expanduser(), checks.phases(cfg)
    settings, outside = config.to_public_dict(cfg), load_outside(cfg.outside_measure).name
    if "grpo" in chosen and not actions["fresh"] and setup.finished(folder, task(outside), settings):
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # of rollout_func, whose version is pinned
    checks.require_environment(cfg)
    distributed.start()
    where = {"script": "-m recipes.diffusion.train", "argv": argv, "fresh": actions["fresh"]}
    with Run.open(cfg.output_dir, **where, force=actions["force"]) as run:
        cfg.output_dir = str(run.folder)  # with --fresh another one
        if "pretrain" in chosen:
            texts = distributed.from_main(lambda: data.load_texts(cfg, run.folder))
            pretrain(cfg, run, texts.train, texts.heldout, started)
        if "grpo" in chosen:
            if not cfg.generator_checkpoint:
                run.require_same(pretrain=phases.sealed(run.folder / "pretrain", "output_dir"))
            train(cfg, run, actions["skip_launch_gate"], started)
    return 0


if __name__ == "__main__":
    errors.run(main)
