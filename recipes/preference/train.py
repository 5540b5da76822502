"""Preference pairs with or without images: GRPO whose groups are a chosen and a rejected answer, for Gemma 3.

Rows (prompt, chosen, rejected, images) → both answers of a row are a group of two → the reward, by default the label →
TRL's GRPO loss with KL to the frozen start model. Measured on held-out pairs before and after: how often the reward,
and how often the model, prefers the chosen answer (β · log-ratio to the start, as DPO), the latter also with every
picture exchanged for another row's.

    python -m recipes.preference.train --config recipes/preference/configs/pocket.yaml
    python -m recipes.preference.train --dataset.train_file pairs.jsonl --limit 100      # a quick run
    python -m recipes.preference.train --config … --training.method dpo                  # TRL's DPOTrainer instead

Settings: settings.py < a YAML file in sections (--config) < flags. The same command again continues a run.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from recipes.preference import accuracy, checks, data, gate, mathvista
from recipes.preference.settings import PreferenceCfg
from rl_nmt import config, distributed, errors, files
from rl_nmt.hub import split_revision
from rl_nmt.runs.run import Run
from rl_nmt.text.prompts import SLOT
from rl_nmt.training import setup

NAMES = {"output_dir": "logging.output_dir", "eval_file": "dataset.eval_file"}
ACTIONS = {
    "fresh": "if output_dir is used, start from scratch in a folder next to it",
    "skip_launch_gate": "train even if the reward prefers rejected answers or cheats; it is logged",
    "force": "resume even if model, data or reward have changed",
    "doctor": "check in seconds what is missing here; exit status 0 is go",
}
ASSUMED = (600, 1)  # tokens and images of the longest prompt, for the doctor, who reads no data
TOLD = """
training.method training.beta training.sampled training.scale_rewards training.lr training.pairs_per_step
training.max_steps training.epochs model.lora_rank reward.source seed""".split()  # in the model card


def common(cfg: PreferenceCfg, total: int) -> dict[str, Any]:
    """Return what both trainers are configured with alike."""
    own = cfg.training
    return {
        "beta": own.beta,
        "learning_rate": own.lr,
        "warmup_steps": own.warmup_steps,
        "gradient_accumulation_steps": checks.accumulation_steps(cfg, distributed.count()),
        "max_steps": total,
        "logging_steps": cfg.logging.logging_steps,
        "gradient_checkpointing": cfg.model.gradient_checkpointing,
    }


def grpo_trainer(cfg: PreferenceCfg, folder: Path, policy: setup.Policy, chat, reward, rows: list[dict], open_images):
    """Return TRL's GRPOTrainer on groups that begin with the two answers of a row."""
    from datasets import Dataset

    from recipes.preference.trainer import PairTrainer
    from rl_nmt.models.policy import lora_config

    own = cfg.training
    args = setup.grpo_config(
        folder,
        policy,
        cfg.logging.save_every,
        cfg.seed,
        num_generations=checks.group_size(cfg),
        max_completion_length=own.max_new_tokens,
        temperature=own.temperature,
        scale_rewards=own.scale_rewards,
        log_multimodal=False,  # a process whose rows have no images would leave the others waiting for its pictures
        per_device_train_batch_size=own.micro_batch_size,
        **common(cfg, checks.steps(cfg, len(rows))),
    )
    trainer = PairTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        processing_class=policy.processor or policy.tokenizer,
        train_dataset=Dataset.from_list(
            [{"prompt": chat.trl_prompt(r["source"]), "source": r["source"], "row": i} for i, r in enumerate(rows)]
        ),
        peft_config=lora_config(cfg.model.lora_rank, cfg.model.lora_alpha),
        rows=rows,
        chat=chat,
        open_images=open_images,
    )
    setup.quieten(trainer)
    return trainer


def dpo_trainer(cfg: PreferenceCfg, folder: Path, policy: setup.Policy, chat, reward, rows: list[dict], open_images):
    """Return TRL's DPOTrainer on the same pairs, steps, learning rate and beta."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from rl_nmt.models.multimodal import clean
    from rl_nmt.models.policy import lora_config

    def written(row: dict[str, Any]) -> dict[str, Any]:
        columns = {name: [{"role": "assistant", "content": clean(row[name])}] for name in ("chosen", "rejected")}
        return columns | {"prompt": [{"role": "user", "content": clean(row["source"])}]}

    def opened(batch: dict[str, list]) -> dict[str, list]:
        """Read the pictures of a batch only now."""
        found = [written(rows[i]) | {"images": open_images(rows[i])} for i in batch["row"]]
        return {name: [row[name] for row in found] for name in found[0]}

    places = Dataset.from_dict({"row": range(len(rows))})
    args = DPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=cfg.training.micro_batch_size // 2,
        max_length=None,  # it would cut image tokens
        remove_unused_columns=False,
        **setup.trainer_options(policy, cfg.logging.save_every, cfg.seed),
        **common(cfg, checks.steps(cfg, len(rows))),
    )
    trainer = DPOTrainer(
        model=policy.model,
        args=args,
        processing_class=policy.processor or policy.tokenizer,
        train_dataset=places.with_transform(opened)
        if policy.processor
        else Dataset.from_list(list(map(written, rows))),
        peft_config=lora_config(cfg.model.lora_rank, cfg.model.lora_alpha),
    )
    trainer.create_model_card = lambda *args, **kwargs: None  # results/model_card.py writes the run's
    setup.quieten(trainer)
    return trainer


def evaluator(cfg: PreferenceCfg, chat, rows: list[dict], reward, open_images):
    """Return a function: model → Snapshot of the held-out pairs."""
    from recipes.preference.measure import PairEvaluator, other_images

    own, shuffled = cfg.training, cfg.evaluation.shuffled_images
    sizes = {"max_new_tokens": own.max_new_tokens, "batch_size": cfg.evaluation.batch_size}
    others = other_images(rows, cfg.seed) if shuffled else []
    return PairEvaluator(rows, chat, reward, open_images, own.beta or 1.0, shuffled=others, **sizes)


def load(cfg: PreferenceCfg, run: Run):
    """Return (pairs, benchmark, policy, chat): rows that fit the model, with a vision tower if a row has images."""
    from recipes.preference.measure import Benchmark
    from rl_nmt.models.multimodal import Chat, sees_images
    from rl_nmt.models.policy import make_reference_loadable

    own, longest = cfg.model, cfg.training.max_new_tokens
    pairs = distributed.from_main(lambda: data.load(cfg.dataset, run.folder, cfg.limit))
    name = cfg.dataset.mathvista_file
    questions = distributed.from_main(lambda: mathvista.load(name, run.folder, cfg.limit)) if name else []
    images = checks.require_sight(cfg, [*pairs.train, *pairs.heldout, *questions])
    options: dict[str, Any] = {"attention": own.attn_implementation, "families": ("gemma3",), "argument": checks.MODEL}
    policy = setup.load_policy(own.name, bool(own.lora_rank), quantise=own.load_in_4bit, images=images, **options)
    elsewhere = split_revision(own.name)[1] or images != sees_images(own.name, checks.MODEL)
    if elsewhere and cfg.training.beta and not own.lora_rank:
        # TRL loads the reference by the model's name alone: of another revision, or with a vision tower
        make_reference_loadable(policy.model, policy.processor or policy.tokenizer, run.folder / "start_policy")
    chat = Chat(policy.tokenizer, policy.processor)
    context = policy.model.config.get_text_config().max_position_embeddings
    fits = partial(checks.fitting, chat=chat, context=context, longest=longest)
    train, heldout = fits(pairs.train, argument="dataset.train_file"), fits(pairs.heldout, argument="dataset.eval_file")
    checks.require_room(questions, chat, context, longest, "dataset.mathvista_file")
    tokens, most = max(row["prompt_tokens"] for row in train), max(len(row["images"]) for row in train)
    memory = checks.memory(cfg, tokens, most)
    print(f"memory: {memory.detail}{'' if memory.level == 'ok' else f'; try {memory.way_out}'}", flush=True)
    opened = partial(data.open_images, folder=run.folder / "mathvista")
    benchmark = Benchmark(questions, chat, opened, longest, cfg.evaluation.batch_size) if questions else None
    return pairs._replace(train=train, heldout=heldout), benchmark, policy, chat


def train(cfg: PreferenceCfg, run: Run, skip_gate: bool, started: float) -> None:
    """Train the whole run, or the rest of it from `run.resume`."""
    from recipes.preference.reward import PreferenceReward
    from rl_nmt.results import export
    from rl_nmt.results.divergence import DivergenceMonitor
    from rl_nmt.training import loop
    from rl_nmt.training.callbacks import HeldOut, ProgressLine
    from wandb_reward_callback import WandbRewardCallback

    log, own = cfg.logging, cfg.training
    pairs, benchmark, policy, chat = load(cfg, run)
    reward, open_images = PreferenceReward(cfg.reward), partial(data.open_images, folder=run.folder)
    run.require_same(**setup.identity(cfg.model.name, reward), **checks.fixed(cfg), data=pairs.sha256)
    evaluate = evaluator(cfg, chat, pairs.heldout, reward, open_images)
    with run.under_way():
        rows = [row | {"reference": row["chosen"]} for row in pairs.heldout]
        before = setup.evaluate_before(run, lambda: evaluate(policy.model), rows, reward, own.max_new_tokens)
        evaluate.take(before)
        solved = run.once("mathvista", lambda: benchmark(policy.model)) if benchmark else None
        run.begin(cfg)
        ask = partial(gate.require_agreement, reward, before, pairs.heldout, open_images, bool(own.sampled), cfg.seed)
        setup.ask_launch_gate(run, ask, "skipped by --skip_launch_gate" if skip_gate else "")
        shown = [" ".join([row["source"], row["chosen"], *row["images"]]) for row in pairs.heldout]
        monitor = DivergenceMonitor("implicit accuracy", accuracy.with_halves, shown)  # prompts may be equal
        setup.start_wandb(run, log, config.to_public_dict(cfg))
        build = grpo_trainer if own.method == "grpo" else dpo_trainer
        trainer = build(cfg, run.folder, policy, chat, reward, pairs.train, open_images)
        if own.method == "grpo":
            trainer.noise_floor = run.once("noise_floor", lambda: gate.noise_floor(reward, pairs.heldout, open_images))
        metrics = WandbRewardCallback(reward, path=run.folder / run.files.metrics)
        held_out = HeldOut(
            before,
            lambda: evaluate(trainer.model),
            monitor,
            metrics.record,
            reward,
            save_best=lambda: export.save_best(run.folder, trainer, SLOT),
            eval_steps=cfg.evaluation.every,
        )
        limits: dict[str, Any] = {"keep": log.save_total_limit, "max_hours": log.max_hours}
        callbacks = [metrics, held_out, ProgressLine(reward, log.sample_steps)]
        loop.train(run, trainer, callbacks, parts={"reward": reward}, started=started, **limits)
        after = evaluate(trainer.model)
        held_out.evaluate = lambda: after
        found = accuracy.as_dict(before, after, cfg.seed)
        if benchmark:
            found["mathvista"] = distributed.from_main(
                lambda: {"before": solved, "after": benchmark(trainer.accelerator.unwrap_model(trainer.model))}
            )
        if distributed.is_main_process():  # before the files that mark the run as finished
            files.write_json(run.folder / "preference.json", found)
        source = {"name": cfg.dataset.train_file, "rows": len(pairs.train), "sha256": pairs.sha256}
        source["heldout"] = cfg.dataset.eval_file or "held-out rows"
        told = {name: attrgetter(name)(cfg) for name in TOLD}
        card = {"base_model": cfg.model.name, "data": source, "settings": told, "prompt": SLOT}
        images = policy.processor is not None
        setup.finish(run, trainer, policy, held_out, accuracy.task(own.method, images), card, cfg.seed)
        print(accuracy.summary(before, after, cfg.seed), flush=True)
        if benchmark:
            print(mathvista.table(found["mathvista"]), flush=True)


def diagnose(cfg: PreferenceCfg) -> int:
    """Print what is missing on this machine; returns the exit status."""
    from rl_nmt.preflight import doctor

    log, own, training = cfg.logging, cfg.model, cfg.training
    view = SimpleNamespace(lora_rank=own.lora_rank, kl_beta=training.beta, optimizer="adamw_torch_fused")
    view.save_steps, view.save_total_limit = log.save_every, log.save_total_limit
    view.use_wandb, view.wandb_mode, view.backtranslation_backend = log.use_wandb, log.wandb_mode, ""
    view.reward_device = view.dual_device = "cpu"
    ask = (checks.check, checks.require_environment)
    findings = doctor.diagnose(cfg, checks.models(cfg), log.output_dir, *ask, view=view)
    findings.append(checks.memory(cfg, *ASSUMED))
    print(doctor.table(findings), flush=True)
    return doctor.exit_code(findings)


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    words, prog = sys.argv[1:] if argv is None else argv, "python -m recipes.preference.train"
    cfg, actions, _ = config.parse(PreferenceCfg, words, ACTIONS, prog=prog, description=__doc__)
    distributed.mute_others()
    if actions["doctor"]:
        return diagnose(cfg)
    checks.check(cfg)
    folder, settings = Path(cfg.logging.output_dir).expanduser(), config.to_public_dict(cfg)
    task = accuracy.task(cfg.training.method)
    if not actions["fresh"] and setup.finished(folder, task, settings, NAMES["output_dir"]):
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # of rollout_func, whose version is pinned
    checks.require_environment(cfg)
    distributed.start()
    where = {"script": "-m recipes.preference.train", "argv": argv, "fresh": actions["fresh"]}
    with Run.open(cfg.logging.output_dir, **where, force=actions["force"], settings=NAMES) as run:
        cfg.logging.output_dir = str(run.folder)  # with --fresh another one
        train(cfg, run, actions["skip_launch_gate"], started)
    return 0


if __name__ == "__main__":
    errors.run(main)
