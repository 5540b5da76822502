"""TranslateGemma-style reinforcement learning: a metric ensemble with credit per token, for any language pair.

Sources (JSONL, JSON, Parquet or the hub) → TranslateGemma's prompt → the policy samples G completions each →
MetricX-24 scores them as a whole, XCOMET or an MQM judge marks error spans (reward.py) → every token gets the
sequence reward plus the rewards of the spans that hold it (rl_nmt/training/token_credit.py) → TRL's GRPO loss.

    python -m recipes.translategemma.train --config recipes/translategemma/configs/pocket.yaml
    python -m recipes.translategemma.train --config … --eval_only             # only evaluate the start policy
    python -m recipes.translategemma.train --config … --rl.credit sequence    # any setting is a flag
    accelerate launch --config_file configs/accelerate/zero3_8gpu.yaml -m recipes.translategemma.train --config …

Settings: settings.py < a YAML file in sections (--config) < flags. The same command again continues a run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from recipes.translategemma import checks, data, settings
from recipes.translategemma.placement import place_models
from recipes.translategemma.settings import TranslateGemmaCfg
from rl_nmt import config, distributed, errors
from rl_nmt.runs import checkpoints
from rl_nmt.runs.run import Files, Run
from rl_nmt.text.languages import bcp47, language
from rl_nmt.text.prompts import chat_prompt, fill
from rl_nmt.training import setup

# The prompt of TranslateGemma's own training (technical report, arXiv 2601.09012).
PROMPT = (
    "You are a professional {source} ({source_code}) to {target} ({target_code}) translator. Your goal is to "
    "accurately convey the meaning and nuances of the original {source} text while adhering to {target} grammar, "
    "vocabulary, and cultural sensitivities.\nProduce only the {target} translation, without any additional "
    "explanations or commentary. Please translate the following {source} text into {target}:\n\n\n"
)

FILES = Files(metrics="train_log.jsonl", rollouts="train_rollouts.jsonl", samples="eval_outputs.jsonl")
EVAL_ONLY = "eval_only_outputs.jsonl"  # of --eval_only: a training run's own evaluations are not changed
NAMES = {  # a setting's name in messages of shared modules → its name here
    "output_dir": "logging.output_dir",
    "eval_file": "data.eval_file",
    "independent_scorer": "misc.independent_scorer",
    "python": "reward.xcomet.python_executable",
    "reward_device": "misc.device",
}

ACTIONS = {
    "eval_only": "evaluate the policy on the held-out rows and stop",
    "fresh": "if output_dir is used, start from scratch in a folder next to it",
    "skip_launch_gate": "train even if cheats earn as much as translations; it is logged",
    "force": "resume even if model, data, group size or reward have changed",
}

DATA = [*(f"data.{field.name}" for field in fields(settings.DataCfg)), "rl.seed"]  # settings that determine data/
# Settings that must not change in a resumed run.
FIXED = """
generation.num_samples_per_prompt generation.max_new_tokens generation.prompt model.lora_rank model.lora_alpha
rl.prompts_per_update rl.credit rl.normalise rl.baseline rl.group_coefficient rl.iterations""".split()
# Settings in the model card.
TOLD = """
model.lora_rank generation.num_samples_per_prompt generation.temperature rl.credit rl.normalise rl.baseline
rl.group_coefficient rl.prompts_per_update rl.updates rl.lr rl.kl rl.loss_type rl.seed reward.guards
reward.metricx.weight reward.xcomet.weight reward.xcomet.sentence_weight reward.mqm.weight
reward.mqm.sentence_weight""".split()


def prompt_template(cfg: TranslateGemmaCfg) -> str:
    """Return the prompt with the slot {source} for the source, in any language."""
    source, target = cfg.data.source_lang, cfg.data.target_lang
    words = {"source": language(source).name, "source_code": bcp47(source)}
    words |= {"target": language(target).name, "target_code": bcp47(target)}
    return cfg.generation.prompt or PROMPT.format(**words) + "{source}"


def prompt_maker(cfg: TranslateGemmaCfg, tokenizer) -> Callable[[str], str]:
    """Return a function: source → the user's turn in the policy's own chat format."""
    template = prompt_template(cfg)
    return lambda source: chat_prompt(tokenizer, fill(template, source))


def task(cfg: TranslateGemmaCfg):
    """Return the metrics of the results other than the reward, and their names."""
    from rl_nmt.results.translation import translation_task

    return translation_task(language(cfg.data.target_lang), language(cfg.data.source_lang))


def build_trainer(cfg: TranslateGemmaCfg, folder: Path, policy, reward, rows: list[dict]):
    """Build TRL's trainer with advantages per token."""
    from rl_nmt.models.policy import lora_config, make_reference_loadable
    from rl_nmt.training.token_credit_trainer import TokenCredit, TokenCreditTrainer

    rl, gen, log = cfg.rl, cfg.generation, cfg.logging
    if rl.kl and not cfg.model.lora_rank:
        start = folder / "start_policy"
        distributed.from_main(lambda: make_reference_loadable(policy.model, policy.tokenizer, start))
        policy.model.config._name_or_path = str(start)
    args = setup.grpo_config(
        folder,
        policy,
        rl.save_every,
        rl.seed,
        num_generations=gen.num_samples_per_prompt,
        max_completion_length=gen.max_new_tokens,
        temperature=gen.temperature,
        top_p=gen.top_p,
        top_k=gen.top_k,
        learning_rate=rl.lr,
        warmup_steps=rl.warmup_steps,
        beta=rl.kl,
        epsilon=rl.clip,
        epsilon_high=rl.clip_high or None,
        num_iterations=rl.iterations,
        loss_type=rl.loss_type,
        optim=rl.optimizer,
        per_device_train_batch_size=rl.micro_batch_size,
        gradient_accumulation_steps=checks.accumulation_steps(cfg, distributed.count()),
        max_steps=rl.updates or -1,
        logging_steps=log.logging_steps,
        gradient_checkpointing=cfg.model.gradient_checkpointing,
    )
    trainer = TokenCreditTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        processing_class=policy.tokenizer,
        train_dataset=setup.dataset([row["source"] for row in rows], prompt_maker(cfg, policy.tokenizer)),
        peft_config=lora_config(cfg.model.lora_rank, cfg.model.lora_alpha),
        credit=TokenCredit(rl.normalise, rl.group_coefficient, rl.credit, rl.baseline),
        rollouts=folder / FILES.rollouts if log.save_rollouts else None,
    )
    setup.quieten(trainer)
    return trainer


def ask_launch_gate(cfg: TranslateGemmaCfg, run: Run, reward, rows: list[dict], skip: bool) -> None:
    """Refuse to train on a reward that cheats can win: Tamil's, or those that held-out references give."""
    target, source = language(cfg.data.target_lang), language(cfg.data.source_lang)
    skipped = "skipped by --skip_launch_gate" if skip else ""
    bound = cfg.reward.max_soft_win_share
    setup.ask_translation_gate(run, reward, rows, bound, cfg.rl.seed, target, source, skipped)


def evaluator(cfg: TranslateGemmaCfg, tokenizer, rows: list[dict], reward) -> Callable:
    """Return a function: model → Snapshot of its greedy translations of the held-out rows."""
    from rl_nmt.results import evaluation

    make_prompt = prompt_maker(cfg, tokenizer)
    sizes = {"max_new_tokens": cfg.generation.max_new_tokens, "batch_size": cfg.generation.eval_batch_size}
    return lambda model: evaluation.evaluate(model, tokenizer, rows, make_prompt, reward, task(cfg), **sizes)


def load(cfg: TranslateGemmaCfg, folder: Path, placed: dict[str, str]):
    """Return (rows, reward, policy); `placed`: the scorers' devices ("cpu", "cuda:N")."""
    from recipes.translategemma.scorers import build_reward

    rows = distributed.from_main(lambda: data.load(cfg.data, folder, cfg.rl.seed))
    checks.check_rows(cfg, len(rows.train))
    reward, own = build_reward(cfg, placed), cfg.model
    options = {"lora": bool(own.lora_rank), "attention": own.attn_implementation, "argument": checks.POLICY}
    return rows, reward, setup.load_policy(own.policy_name_or_path, **options)


def train(cfg: TranslateGemmaCfg, run: Run, placed: dict[str, str], skip_gate: bool, started: float) -> None:
    """Train the whole run, or the rest of it from `run.resume`."""
    from rl_nmt.results import export
    from rl_nmt.results.translation import divergence_monitor
    from rl_nmt.training import loop
    from rl_nmt.training.callbacks import HeldOut, ProgressLine
    from wandb_reward_callback import WandbRewardCallback

    log = cfg.logging
    run.require_same(DATA, **{name: attrgetter(name)(cfg) for name in (*DATA, *FIXED)})
    rows, reward, policy = load(cfg, run.folder, placed)
    run.require_same(**setup.identity(cfg.model.policy_name_or_path, reward), data=rows.sha256)
    evaluate, template = evaluator(cfg, policy.tokenizer, rows.heldout, reward), prompt_template(cfg)
    with run.under_way():
        tokens = cfg.generation.max_new_tokens
        before = setup.evaluate_before(run, lambda: evaluate(policy.model), rows.heldout, reward, tokens)
        run.begin(cfg)
        ask_launch_gate(cfg, run, reward, rows.heldout, skip_gate)
        device, python = placed.get("xcomet", "auto"), cfg.reward.xcomet.python_executable
        monitor = divergence_monitor(rows.heldout, cfg.misc.independent_scorer, device, python, run.setting)
        setup.start_wandb(run, log, config.to_public_dict(cfg))
        trainer = build_trainer(cfg, run.folder, policy, reward, rows.train)
        trainer.noise_floor = setup.noise_floor(run, reward, before)

        def evaluate_and_keep():
            """Translate the held-out rows with the present policy; those of the last evaluation are always saved."""
            step, snapshot = trainer.state.global_step, evaluate(trainer.model)
            if log.save_eval_outputs or step == trainer.state.max_steps:
                setup.keep_outputs(run.folder / FILES.samples, before, step, snapshot, task(cfg))
            return snapshot

        metrics = WandbRewardCallback(reward, path=run.folder / FILES.metrics)
        held_out = HeldOut(
            before,
            evaluate_and_keep,
            monitor,
            metrics.record,
            eval_steps=cfg.rl.eval_every,
            save_best=lambda: export.save_best(run.folder, trainer, template),
            reward=reward,
            stop_on_divergence=cfg.misc.on_divergence == "stop",
        )
        callbacks = [metrics, held_out, ProgressLine(reward, log.sample_steps)]
        limits = {"keep": 1 if log.save_only_best else log.save_total_limit, "max_hours": cfg.rl.max_hours}
        loop.train(run, trainer, callbacks, parts={"reward": reward}, link=True, started=started, **limits)
        name = cfg.data.train_file or cfg.data.hf_dataset_name
        heldout = cfg.data.eval_file or name
        source = {"name": name, "rows": len(rows.train), "sha256": rows.sha256, "heldout": heldout}
        base = cfg.model.policy_name_or_path
        card = {"base_model": base, "data": source, "settings": told(cfg), "prompt": template}
        setup.finish(run, trainer, policy, held_out, task(cfg), card, cfg.rl.seed)


def told(cfg: TranslateGemmaCfg) -> dict[str, Any]:
    """Return the settings for the model card, without those of disabled scorers."""
    asked = {"metricx": cfg.reward.metricx, "xcomet": cfg.reward.xcomet, "mqm": cfg.reward.mqm}
    silent = tuple(f"reward.{name}." for name, section in asked.items() if not section.enabled)
    return {name: attrgetter(name)(cfg) for name in TOLD if not name.startswith(silent)}


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    words, prog = sys.argv[1:] if argv is None else argv, "python -m recipes.translategemma.train"
    cfg, actions, _ = config.parse(TranslateGemmaCfg, words, ACTIONS, prog=prog, description=__doc__)
    checks.check(cfg)
    distributed.mute_others()
    log, only, named = cfg.logging, actions["eval_only"], checks.checkpoint_folder(cfg)
    fresh = actions["fresh"] or not (log.auto_resume or named)
    if not (only or fresh or named) and setup.finished(
        Path(log.output_dir).expanduser(), task(cfg), config.to_public_dict(cfg), NAMES["output_dir"]
    ):
        return 0
    os.environ.update(checks.hub_environment(cfg))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    checks.require_environment(cfg)
    placed = place_models(cfg)
    distributed.start()

    def find(folder: Path):
        """Return the checkpoint to continue from: the newest valid, the named one, or None. Raises ResumeRefused."""
        if only:
            return None
        return checkpoints.named(named, folder) if named else checkpoints.find(folder)

    where = {"script": "-m recipes.translategemma.train", "argv": argv, "fresh": fresh, "force": actions["force"]}
    newest = () if log.auto_resume else ("--logging.auto_resume", "True", "--logging.resume_from_checkpoint=")
    with Run.open(log.output_dir, **where, find=find, continue_with=newest, settings=NAMES, files=FILES) as run:
        if only:
            rows, reward, policy = load(cfg, run.folder, placed)
            snapshot = evaluator(cfg, policy.tokenizer, rows.heldout, reward)(policy.model)
            setup.evaluate_only(snapshot, task(cfg), run.folder / EVAL_ONLY)
        else:
            train(cfg, run, placed, actions["skip_launch_gate"], started)
    return 0


if __name__ == "__main__":
    errors.run(main)
