"""Short replies to posts: supervised fine-tuning on people's replies, then GRPO on a transparent heuristic reward.

Rows (post, reply) → split in two → phase 1: TRL's SFTTrainer on the one half → phase 2: GRPO continues the adapter on
the posts of the other, with the SFT model as frozen reference and HeuristicReward (heuristic.py) as reward. Held-out
posts are answered before and after each phase; pass@k and diversity are measured outside the reward (measure.py).

    python -m recipes.replies.train --config recipes/replies/configs/pocket.yaml
    python -m recipes.replies.train --data.train_file rows.jsonl --limit 100     # a quick run
    python -m recipes.replies.train --config … --phase sft                       # or grpo; both is the default
    python -m recipes.replies.train --config … --grpo.set_weight 1.0             # reward sets of replies, too

Settings: settings.py < a YAML file in sections (--config) < flags. The same command again continues a run.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.replies import checks, data
from recipes.replies.cheats import require_replies_launch
from recipes.replies.heuristic import HeuristicReward
from recipes.replies.measure import load_success_scorer, require_other, task
from recipes.replies.settings import RepliesCfg
from rl_nmt import config, distributed, errors, files
from rl_nmt.errors import ConfigError
from rl_nmt.results import sampling
from rl_nmt.runs import phases, run_folder
from rl_nmt.runs.run import Run
from rl_nmt.text.prompts import chat_prompt, fill
from rl_nmt.training import setup

NAMES = {"output_dir": "logging.output_dir", "eval_file": "data.eval_file", "reward_device": "reward.device"}
ACTIONS = {
    "fresh": "if output_dir is used, start from scratch in a folder next to it",
    "skip_launch_gate": "train even if cheats earn as much as replies; it is logged",
    "force": "resume even if model, data or reward have changed",
    "doctor": "check in seconds what is missing here; exit status 0 is go",
}
MODEL = ("model.prompt", "model.lora_rank", "model.lora_alpha", "model.load_in_4bit")  # may not change in a run
MEASURE = """
evaluation.samples evaluation.success_scorer evaluation.threshold evaluation.quantile grpo.temperature grpo.top_p
seed""".split()  # likewise: how replies are sampled and scored
TOLD = """
model.lora_rank sft.epochs sft.max_steps sft.lr sft.diversity_weight grpo.n_generations grpo.temperature grpo.top_p
grpo.max_new_tokens grpo.kl_coeff grpo.set_weight grpo.posts_per_step grpo.max_steps grpo.lr reward.w_relevance
reward.w_length reward.w_sentiment reward.w_diversity reward.w_punctuation reward.w_engagement reward.w_copy
reward.w_fluency seed""".split()  # in the model card


def write_prompt(template: str, tokenizer, post: str) -> str:
    """Return the user's turn with a post, in the policy's own chat format, with thinking off."""
    return chat_prompt(tokenizer, fill(template, post))


def prompt_maker(cfg: RepliesCfg, tokenizer):
    """Return a function: post → its prompt."""
    return partial(write_prompt, cfg.model.prompt, tokenizer)


def start(cfg: RepliesCfg, phase: str) -> setup.Policy:
    """Return the policy at the start of a phase: model.name with fresh adapters, or the SFT model."""
    from rl_nmt.models import policy as models

    own, sft, final = cfg.model, phase == "sft", checks.start_folder(cfg) / "final"
    name = own.name if own.lora_rank or sft else str(final)
    options = {"attention": own.attn_implementation, "argument": "model.name", "quantise": own.load_in_4bit}
    policy = setup.load_policy(name, lora=bool(own.lora_rank), **options)
    if own.lora_rank and sft:
        policy.model = models.add_adapter(policy.model, own.lora_rank, own.lora_alpha, cfg.seed)
    elif own.lora_rank:
        policy.model = models.continue_adapter(policy.model, final / "adapter")
    return policy


def build_reward(cfg: RepliesCfg, run: Run, policy: setup.Policy, heldout: list[dict]) -> HeuristicReward:
    """Return the reward; its fluency is the likelihood under the start model before SFT, scaled on people's replies."""
    from rl_nmt.models import policy as models
    from rl_nmt.models.loading import choose_device
    from rl_nmt.models.sentence_encoder import load_encoder
    from rl_nmt.scorers.likelihood import Likelihood, calibrate

    encoder = load_encoder(cfg.reward.encoder, choose_device(cfg.reward.device, "reward.device"), "reward.encoder")
    if not cfg.reward.w_fluency:
        return HeuristicReward(cfg.reward, encoder)
    model = policy.model  # with its adapters off it is the start model
    if not cfg.model.lora_rank:
        loaded = models.load_policy(cfg.model.name, policy.tokenizer, policy.precision, argument="model.name")
        model = loaded.to(policy.precision.device).requires_grad_(False)
    end, make_prompt = models.stop_ids(policy.tokenizer)[0], prompt_maker(cfg, policy.tokenizer)
    log_probs = Likelihood(model, policy.tokenizer, end, make_prompt)

    def scale() -> list[float]:
        values = log_probs([row["source"] for row in heldout], [row["reference"] for row in heldout])
        return [round(value, 4) for value in calibrate(values, "reward.w_fluency")]

    low, high = run.once("fluency_scale", scale)
    return HeuristicReward(cfg.reward, encoder, log_probs, (low, high))


def sft_trainer(cfg: RepliesCfg, folder: Path, policy: setup.Policy, reward, rows: list[dict]):
    """Return TRL's SFTTrainer on posts and people's replies."""
    from rl_nmt.training.sft import build_sft_trainer, sft_rows

    make_prompt, own = prompt_maker(cfg, policy.tokenizer), cfg.sft
    prompts, replies = [make_prompt(row["source"]) for row in rows], [row["reference"] for row in rows]
    return build_sft_trainer(
        folder,
        policy,
        sft_rows(policy.tokenizer, prompts, replies),
        cfg.logging.save_every,
        cfg.seed,
        own.diversity_weight,
        num_train_epochs=own.epochs,
        max_steps=own.max_steps or -1,
        learning_rate=own.lr,
        per_device_train_batch_size=own.batch_size,
        gradient_accumulation_steps=own.gradient_accumulation_steps,
        gradient_checkpointing=cfg.model.gradient_checkpointing,
        logging_steps=cfg.logging.logging_steps,
    )


def grpo_trainer(cfg: RepliesCfg, folder: Path, policy: setup.Policy, reward, rows: list[dict]):
    """Return TRL's GRPOTrainer on posts; its reference is the SFT model: a frozen copy of the adapter, or final/."""
    from rl_nmt.training.set_reward import SetRewardTrainer

    own = cfg.grpo
    args = setup.grpo_config(
        folder,
        policy,
        cfg.logging.save_every,
        cfg.seed,
        num_generations=own.n_generations,
        max_completion_length=own.max_new_tokens,
        temperature=own.temperature,
        top_p=own.top_p,
        beta=own.kl_coeff,
        learning_rate=own.lr,
        warmup_steps=own.warmup_steps,
        per_device_train_batch_size=own.micro_batch_size,
        gradient_accumulation_steps=checks.accumulation_steps(cfg, distributed.count()),
        max_steps=own.max_steps or -1,
        logging_steps=cfg.logging.logging_steps,
        gradient_checkpointing=cfg.model.gradient_checkpointing,
    )
    trainer = SetRewardTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        processing_class=policy.tokenizer,
        train_dataset=setup.dataset([row["source"] for row in rows], prompt_maker(cfg, policy.tokenizer)),
        set_weight=own.set_weight,
        clip_range=own.advantage_clip_range if own.clip_advantage else None,
    )
    setup.quieten(trainer)
    return trainer


def evaluator(cfg: RepliesCfg, tokenizer, rows: list[dict], reward, task) -> sampling.SampledEvaluator:
    """Return a function: model → Snapshot of its replies to the held-out posts."""
    own, grpo, scorer = cfg.evaluation, cfg.grpo, cfg.evaluation.success_scorer
    sizes = {"samples": own.samples, "seed": cfg.seed, "batch_size": own.batch_size, "quantile": own.quantile}
    sizes |= {"max_new_tokens": grpo.max_new_tokens, "threshold": own.threshold or None, "check": require_other}
    drawn, success = {"temperature": grpo.temperature, "top_p": grpo.top_p}, load_success_scorer(scorer, reward)
    make_prompt = prompt_maker(cfg, tokenizer)
    return sampling.SampledEvaluator(rows, tokenizer, make_prompt, reward, task, success, scorer, drawn, **sizes)


def train_phase(cfg: RepliesCfg, run: Run, phase: str, rows: data.Phases, skip_gate: bool, started: float) -> None:
    """Do one phase, or the rest of it from `run.resume`: evaluate, check the reward, train, evaluate, report."""
    from rl_nmt.results import export
    from rl_nmt.results.divergence import DivergenceMonitor
    from rl_nmt.training import loop
    from rl_nmt.training.callbacks import HeldOut, ProgressLine
    from wandb_reward_callback import WandbRewardCallback

    log, sft = cfg.logging, phase == "sft"
    trained = rows.sft if sft else rows.grpo
    print(f"phase {phase}: {len(trained)} rows, {run.folder}", flush=True)
    policy = start(cfg, phase)
    reward = build_reward(cfg, run, policy, rows.heldout)
    measure = {name: attrgetter(name)(cfg) for name in MEASURE}  # or before and after could not be compared
    run.require_same(**setup.identity(cfg.model.name, reward), **measure)
    with run.under_way():
        evaluate = evaluator(cfg, policy.tokenizer, rows.heldout, reward, task(phase))
        tokens = cfg.grpo.max_new_tokens
        before = setup.evaluate_before(run, lambda: evaluate(policy.model), rows.heldout, reward, tokens)
        evaluate.take(before)
        if cfg.evaluation.threshold and not sft:  # the start model before SFT may well have no success
            sampling.require_reachable(cfg.evaluation.threshold, before, "evaluation.threshold")
        run.begin(cfg)
        gate = partial(require_replies_launch, reward, rows.heldout, cfg.reward.max_soft_win_share, cfg.seed)
        unasked = "skipped by --skip_launch_gate" if skip_gate else "skipped: this run trains on no reward"
        setup.ask_launch_gate(run, gate, unasked if skip_gate or checks.phases(cfg) == ("sft",) else "")
        outside = cfg.evaluation.success_scorer.rpartition(":")[2]
        monitor = DivergenceMonitor(outside, lambda s: [row["success"] for row in s.components], before.sources)
        name = f"{log.wandb_run_name or Path(log.output_dir).name}{'-sft' if sft else ''}"
        setup.start_wandb(run, dataclasses.replace(log, wandb_run_name=name), config.to_public_dict(cfg))
        trainer = (sft_trainer if sft else grpo_trainer)(cfg, run.folder, policy, reward, trained)
        if not sft:
            trainer.noise_floor = setup.noise_floor(run, reward, before)
        metrics = WandbRewardCallback(reward, path=run.folder / run.files.metrics)
        held_out = HeldOut(
            before,
            lambda: evaluate(trainer.model),
            monitor,
            metrics.record,
            reward,
            save_best=lambda: export.save_best(run.folder, trainer, cfg.model.prompt),
            eval_steps=0 if sft else cfg.evaluation.every,
        )
        limits: dict[str, Any] = {"keep": log.save_total_limit, "max_hours": log.max_hours}
        callbacks = [metrics, held_out, ProgressLine(reward, log.sample_steps)]
        loop.train(run, trainer, callbacks, parts={"reward": reward}, started=started, **limits)
        source = {"name": cfg.data.train_file or (cfg.data.sft_file if sft else cfg.data.grpo_file)}
        source |= {"rows": len(trained), "sha256": rows.sha256, "heldout": cfg.data.eval_file or "held-out rows"}
        told = {name: attrgetter(name)(cfg) for name in TOLD if not (sft and name.startswith("grpo."))}
        card = {"base_model": cfg.model.name, "data": source, "settings": told, "prompt": cfg.model.prompt}
        setup.finish(run, trainer, policy, held_out, task(phase), card, cfg.seed)
        if distributed.is_main_process():
            thresholds = sampling.sweep(before, held_out.last)
            files.write_json(run.folder / "pass_at_k.json", thresholds)
            print(sampling.sweep_table(thresholds), flush=True)


def diagnose(cfg: RepliesCfg) -> int:
    """Print what is missing on this machine; returns the exit status."""
    from rl_nmt.preflight import doctor

    log, own = cfg.logging, cfg.model
    view = SimpleNamespace(lora_rank=own.lora_rank, kl_beta=cfg.grpo.kl_coeff, optimizer="adamw_torch_fused")
    view.save_steps, view.save_total_limit = log.save_every, log.save_total_limit
    view.use_wandb, view.wandb_mode, view.backtranslation_backend = log.use_wandb, log.wandb_mode, ""
    view.reward_device = view.dual_device = cfg.reward.device
    ask = (checks.check, checks.require_environment)
    findings = doctor.diagnose(cfg, checks.models(cfg), log.output_dir, *ask, view=view)
    print(doctor.table(findings), flush=True)
    return doctor.exit_code(findings)


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    words, prog = sys.argv[1:] if argv is None else argv, "python -m recipes.replies.train"
    cfg, actions, _ = config.parse(RepliesCfg, words, ACTIONS, prog=prog, description=__doc__)
    distributed.mute_others()
    if actions["doctor"]:
        return diagnose(cfg)
    checks.check(cfg)
    if actions["fresh"] and checks.phases(cfg) == ("grpo",) and not cfg.grpo.start_from:
        raise ConfigError("--fresh: a new folder has no SFT phase; name one as --grpo.start_from, or drop --phase grpo")
    chosen, folder = checks.phases(cfg), Path(cfg.logging.output_dir).expanduser()
    last = folder if "grpo" in chosen else folder / "sft"
    settings = config.to_public_dict(cfg)
    if not actions["fresh"] and setup.finished(last, task(chosen[-1]), settings, NAMES["output_dir"]):
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    checks.require_environment(cfg)
    distributed.start()
    where = {"script": "-m recipes.replies.train", "argv": argv, "fresh": actions["fresh"], "force": actions["force"]}
    with Run.open(cfg.logging.output_dir, **where, settings=NAMES) as run:
        cfg.logging.output_dir = str(run.folder)  # with --fresh another one
        rows = distributed.from_main(lambda: data.load(cfg.data, run.folder, cfg.limit))
        checks.check_rows(cfg, chosen, rows)
        model = {name: attrgetter(name)(cfg) for name in MODEL}
        if "sft" in chosen:
            own = {f"sft.{name}": value for name, value in settings["sft"].items()} | {"seed": cfg.seed}
            with phases.open_phase(run, "sft") as sft:
                if not phases.finished(sft, model | own | {"data": rows.sha256}):
                    train_phase(cfg, sft, "sft", rows, actions["skip_launch_gate"], started)
                    phases.finish(sft)
            from rl_nmt.models.loading import release

            release()  # the SFT model, before GRPO loads it again
        if "grpo" in chosen:
            begun = checks.start_folder(cfg)
            sealed, same = phases.sealed(begun, "grpo.start_from"), model | run_folder.model_identity(cfg.model.name)
            distributed.from_main(lambda: run_folder.require_identity(begun, same, run.force))
            names = ("n_generations", "max_new_tokens", "set_weight")
            own = {f"grpo.{name}": getattr(cfg.grpo, name) for name in names}
            run.require_same(**model, **own, data=rows.sha256, sft=sealed)
            train_phase(cfg, run, "grpo", rows, actions["skip_launch_gate"], started)
    return 0


if __name__ == "__main__":
    errors.run(main)
