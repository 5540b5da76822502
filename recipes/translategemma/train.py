"""TranslateGemma-style reinforcement learning: a metric ensemble with credit per token, for any language pair.

Sources (JSONL, JSON, Parquet or the hub) → TranslateGemma's prompt → the policy samples G completions each →
MetricX-24 scores them as a whole, XCOMET or an MQM judge marks error spans (reward.py) → every token gets the
sequence reward plus the rewards of the spans it lies in (rl_nmt/training/token_credit.py) → TRL's GRPO loss.

    python -m recipes.translategemma.train --config recipes/translategemma/configs/pocket.yaml
    python -m recipes.translategemma.train --config … --eval_only             # the table of the start policy alone
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
from pathlib import Path
from typing import Any

from recipes.translategemma import settings
from recipes.translategemma.checks import require_environment
from recipes.translategemma.settings import TranslateGemmaCfg, accumulation_steps, check, hub_environment
from rl_nmt import config, distributed, errors, hub
from rl_nmt.errors import ConfigError
from rl_nmt.hub import ModelUse
from rl_nmt.runs import checkpoints, named_checkpoint, run_folder
from rl_nmt.runs.run_folder import FileNames, SettingNames
from rl_nmt.text.languages import bcp47, language

# The prompt that TranslateGemma's models are trained with (its technical report, arXiv 2601.09012).
PROMPT = (
    "You are a professional {source} ({source_code}) to {target} ({target_code}) translator. Your goal is to "
    "accurately convey the meaning and nuances of the original {source} text while adhering to {target} grammar, "
    "vocabulary, and cultural sensitivities.\nProduce only the {target} translation, without any additional "
    "explanations or commentary. Please translate the following {source} text into {target}:\n\n\n"
)

FILES = FileNames(metrics="train_log.jsonl", rollouts="train_rollouts.jsonl", samples="eval_outputs.jsonl")

NAMES = SettingNames(
    "logging.output_dir", "data.eval_file", "misc.independent_scorer", "reward.xcomet.python_executable", "misc.device"
)
POLICY = "model.policy_name_or_path"
COMET = "hparams.yaml"  # the file that tells a COMET checkpoint from other models
EVAL_ONLY = "eval_only_outputs.jsonl"  # of --eval_only: a training run's own evaluations stay as they are

ACTIONS = {
    "eval_only": "evaluate the policy on the held-out rows and stop",
    "fresh": "if output_dir is used, start anew in a folder beside it",
    "skip_launch_gate": "train although cheats may earn what translations earn; it is logged",
    "force": "resume although model, data, group size or reward have changed",
}

FIXED = (  # settings under which alone a run can go on
    "generation.num_samples_per_prompt",
    "generation.max_new_tokens",
    "generation.prompt",
    "model.lora_rank",
    "model.lora_alpha",
    "rl.prompts_per_update",
    "rl.credit",
    "rl.normalise",
    "rl.baseline",
    "rl.group_coefficient",
    "rl.iterations",
)

DATA = (*(f"data.{field.name}" for field in fields(settings.DataCfg)), "rl.seed")  # what data/ is made from

TOLD = (  # settings in the model card
    "model.lora_rank",
    "generation.num_samples_per_prompt",
    "generation.temperature",
    "rl.credit",
    "rl.normalise",
    "rl.baseline",
    "rl.group_coefficient",
    "rl.prompts_per_update",
    "rl.updates",
    "rl.lr",
    "rl.kl",
    "rl.loss_type",
    "rl.seed",
    "reward.guards",
    "reward.metricx.weight",
    "reward.xcomet.weight",
    "reward.xcomet.sentence_weight",
    "reward.mqm.weight",
    "reward.mqm.sentence_weight",
)


def prompt_template(cfg: TranslateGemmaCfg) -> str:
    """What the model is asked, with the slot {source} for the source, whatever its language."""
    if cfg.generation.prompt:
        return cfg.generation.prompt
    source, target = cfg.data.source_lang, cfg.data.target_lang
    words = PROMPT.format(
        source=language(source).name,
        source_code=bcp47(source),
        target=language(target).name,
        target_code=bcp47(target),
    )
    return words + "{source}"


def prompt_maker(cfg: TranslateGemmaCfg, tokenizer) -> Callable[[str], str]:
    """source → the user's turn in the policy's own chat format."""
    from rl_nmt.text.prompts import chat_prompt, fill

    template = prompt_template(cfg)
    return lambda source: chat_prompt(tokenizer, fill(template, source))


# ---------------------------------------------------------------------- reward, policy and trainer


def build_reward(cfg: TranslateGemmaCfg, placed: dict[str, str]):
    """The ensemble as the configuration wants it; `placed` says where its models go ("cpu", "cuda:N")."""
    from recipes.translategemma.reward import EnsembleReward
    from recipes.translategemma.scorers import load_parts

    parts, memories = load_parts(cfg, placed)
    source, target = language(cfg.data.source_lang), language(cfg.data.target_lang)
    return EnsembleReward(parts, target, source, cfg.reward.guards, memories)


def models(cfg: TranslateGemmaCfg) -> list[ModelUse]:
    """Every model that these settings ask for, under the name of its setting."""
    metricx, xcomet, independent = cfg.reward.metricx, cfg.reward.xcomet, cfg.misc.independent_scorer
    return [
        ModelUse(POLICY, cfg.model.policy_name_or_path),
        *([ModelUse("reward.metricx.model_name_or_path", metricx.model_name_or_path)] if metricx.enabled else []),
        *([ModelUse("reward.xcomet.model_name_or_path", xcomet.model_name_or_path, COMET)] if xcomet.enabled else []),
        *([ModelUse("misc.independent_scorer", independent, COMET)] if independent else []),
    ]


def place_models(cfg: TranslateGemmaCfg) -> dict[str, str]:
    """Where the scorers go, printed with what shares a GPU; hides the GPUs from this process that it must not use.

    Comes before CUDA is first used: the policy's GPU becomes the first that the process sees.
    """
    import torch

    from recipes.translategemma.placement import place

    # not `is_available`: it wakes the driver, which reads CUDA_VISIBLE_DEVICES then and never again
    count = torch.cuda.device_count() if cfg.misc.device != "cpu" else 0
    if cfg.misc.device == "cuda" and not count:
        raise ConfigError("misc.device: cuda is not to be had here; use auto or cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(distributed.count())))
    placement = place(
        count,
        scorers=settings.scorer_devices(cfg),
        policy_gpu_ids=cfg.model.policy_gpu_ids,
        reference_gpu_ids=cfg.model.reference_gpu_ids,
        processes=here,
    )
    if count:
        visible = placement.visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
    elif cfg.misc.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for warning in placement.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    policy = ", ".join(f"cuda:{i}" if isinstance(i, int) else i for i in placement.policy)
    print("placement: policy " + "  ".join([policy, *(f"{n} {at}" for n, at in placement.scorers.items())]), flush=True)
    return placement.renumbered().scorers


def load_policy(cfg: TranslateGemmaCfg):
    """(tokenizer, precision, policy on its device)."""
    from rl_nmt.models import policy

    policy.prepare_processes()
    tokenizer = policy.load_tokenizer(cfg.model.policy_name_or_path, argument=POLICY)
    precision = policy.choose_precision(lora=bool(cfg.model.lora_rank))
    print(f"precision: {precision.reason}", flush=True)
    return tokenizer, precision, start_policy(cfg, tokenizer, precision).to(precision.device)


def start_policy(cfg: TranslateGemmaCfg, tokenizer, precision):
    from rl_nmt.models import policy

    return policy.load_policy(
        cfg.model.policy_name_or_path, tokenizer, precision, cfg.model.attn_implementation, argument=POLICY
    )


def build_trainer(cfg: TranslateGemmaCfg, folder: Path, model, tokenizer, precision, reward, rows: list[dict]):
    """TRL's trainer with advantages per token; every setting explicit, as TRL's defaults depend on the machine."""
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOConfig

    from rl_nmt.models.policy import lora_config, losing_combination, make_reference_loadable
    from rl_nmt.training.token_credit_trainer import TokenCredit, TokenCreditTrainer

    rl, gen, log = cfg.rl, cfg.generation, cfg.logging
    if rl.kl and not cfg.model.lora_rank:
        distributed.from_main(lambda: make_reference_loadable(model, tokenizer, folder / "start_policy"))
        model.config._name_or_path = str(folder / "start_policy")
    args = GRPOConfig(
        output_dir=str(folder),
        num_generations=gen.num_samples_per_prompt,
        max_completion_length=gen.max_new_tokens,
        temperature=gen.temperature,
        top_p=gen.top_p,
        top_k=gen.top_k,
        learning_rate=rl.lr,
        beta=rl.kl,
        epsilon=rl.clip,
        epsilon_high=rl.clip_high or None,
        num_iterations=rl.iterations,
        loss_type=rl.loss_type,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=rl.warmup_steps,
        optim=rl.optimizer,
        per_device_train_batch_size=rl.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(cfg, distributed.count()),
        scale_rewards="group",
        max_steps=rl.updates or -1,
        num_train_epochs=1,
        seed=rl.seed,
        data_seed=rl.seed,
        logging_steps=log.logging_steps,
        save_strategy="steps" if rl.save_every else "no",
        save_steps=rl.save_every or 1,
        save_total_limit=log.save_total_limit,
        gradient_checkpointing=cfg.model.gradient_checkpointing,
        bf16=precision.autocast,
        fp16=False,
        **distributed.training_device(precision.device),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=precision.device != "cpu",
        ddp_find_unused_parameters=False,
    )
    make_prompt = prompt_maker(cfg, tokenizer)
    trainer = TokenCreditTrainer(
        model=model,
        reward_funcs=reward,
        args=args,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": make_prompt(r["source"]), "source": r["source"]} for r in rows]),
        peft_config=lora_config(cfg.model.lora_rank, cfg.model.lora_alpha),
        credit=TokenCredit(rl.normalise, rl.group_coefficient, rl.credit, rl.baseline),
        rollouts=folder / FILES.rollouts if log.save_rollouts else None,
    )
    if warning := losing_combination(trainer.model):
        print(warning, file=sys.stderr, flush=True)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


# ---------------------------------------------------------------------- the run


def task(cfg: TranslateGemmaCfg):
    """What the results measure beside the reward, and how they name it."""
    from rl_nmt.results.translation import translation_task

    return translation_task(language(cfg.data.target_lang), language(cfg.data.source_lang))


def launch(cfg: TranslateGemmaCfg, reward, rows: list[dict], notes: dict, skip: bool) -> None:
    """Train only on a reward that cheats cannot win; asked once per run. Raises RewardRefused."""
    from functools import partial

    from rl_nmt.audit.cheats import TONGUES, build_suite
    from rl_nmt.audit.honest_pairs import honest_pairs
    from rl_nmt.audit.launch_gate import require_launch

    code = bcp47(cfg.data.target_lang).split("-")[0]
    if "launch_gate" in notes:
        return
    if skip or code not in TONGUES:
        why = "skipped by --skip_launch_gate" if skip else f"no cheats are known for {language(code).name}: not asked"
        print(f"launch gate: {why}", flush=True)
        notes["launch_gate"] = {"passed": None, "reasons": [why]}
    else:
        pairs, origin = honest_pairs(rows, cfg.rl.seed, language=code)
        suite = partial(build_suite, language=code, seed=cfg.rl.seed)
        notes["launch_gate"] = distributed.from_main(
            lambda: require_launch(reward, pairs, suite, cfg.reward.max_soft_win_share, origin)
        )


def setup_wandb(cfg: TranslateGemmaCfg, folder: Path, notes: dict) -> None:
    """Start a W&B run if wanted and possible within seconds, or go on with the one in `notes`; no keys, no code."""
    from rl_nmt.runs import wandb_run

    log = cfg.logging
    if not log.use_wandb or not distributed.is_main_process():
        return
    mode, reason = wandb_run.choose_wandb_mode(log.wandb_mode)
    print(f"W&B: {mode} ({reason})", flush=True)
    if mode != "disabled":
        run_id = wandb_run.start_wandb(
            mode,
            folder,
            notes.get("wandb_id"),
            project=log.wandb_project,
            entity=log.wandb_entity or None,
            name=log.wandb_run_name or folder.name,
            config=config.to_public_dict(cfg),
        )
        notes |= {"wandb_id": run_id} if run_id else {}


def fixed_settings(cfg: TranslateGemmaCfg) -> dict:
    """The settings under which alone a run can go on, known before anything is loaded."""
    return {name: settings.value_of(cfg, name) for name in (*DATA, *FIXED)}


def identity_of(cfg: TranslateGemmaCfg, data_hash: str, reward) -> dict:
    """What a run is: what must stay the same for it to go on."""
    from rl_nmt.files import finite

    return {
        **fixed_settings(cfg),
        **run_folder.model_identity(cfg.model.policy_name_or_path),
        "data": data_hash,
        "reward": finite(reward.signature()["identity"]),
    }


def evaluator(cfg: TranslateGemmaCfg, tokenizer, rows: list[dict], reward) -> Callable:
    """model → Snapshot of its greedy translations of the held-out rows."""
    from rl_nmt.results import evaluation

    make_prompt = prompt_maker(cfg, tokenizer)
    return lambda model: evaluation.evaluate(
        model,
        tokenizer,
        rows,
        make_prompt,
        reward,
        task(cfg),
        max_new_tokens=cfg.generation.max_new_tokens,
        batch_size=cfg.generation.eval_batch_size,
    )


def schedule(cfg: TranslateGemmaCfg):
    from rl_nmt.training.loop import Schedule

    log = cfg.logging
    return Schedule(
        cfg.rl.eval_every,
        log.sample_steps,
        log.save_total_limit,
        cfg.rl.max_hours,
        cfg.misc.on_divergence == "stop",
        latest="only" if log.save_only_best else "link",
    )


def run(
    cfg: TranslateGemmaCfg,
    folder: Path,
    resume,
    actions: dict[str, bool],
    placed: dict[str, str],
    started: float,
    command: str,
) -> None:
    """The whole run, or what is left of it from the checkpoint `resume`."""
    from recipes.translategemma import data
    from rl_nmt.results import export, translation
    from rl_nmt.runs.wandb_run import finish_wandb
    from rl_nmt.training import loop
    from wandb_reward_callback import WandbRewardCallback

    template = prompt_template(cfg)
    force = actions["force"]
    distributed.from_main(lambda: loop.accept_settings(folder, fixed_settings(cfg), DATA, resume, force))
    rows = distributed.from_main(lambda: data.load(cfg.data, folder, cfg.rl.seed))
    settings.check_rows(cfg, len(rows.train))
    reward = build_reward(cfg, placed)
    tokenizer, precision, model = load_policy(cfg)
    evaluate = evaluator(cfg, tokenizer, rows.heldout, reward)
    if actions["eval_only"]:
        return evaluate_only(cfg, folder, evaluate(model))
    identity, public = identity_of(cfg, rows.sha256, reward), config.to_public_dict(cfg)
    loop.accept_identity(folder, identity, public, resume, force)
    before = loop.earlier_evaluation(folder, rows.heldout, reward, cfg.generation.max_new_tokens, resume, force)
    run_folder.save_identity(folder, identity, public)
    if distributed.is_main_process():
        config.save_resolved(cfg, folder / "resolved_config.yaml")
    notes = dict(resume.notes) if resume else {}  # what else every checkpoint carries along
    if resume and cfg.logging.resume_from_checkpoint:
        if resume.path.parent != folder.resolve():
            notes.pop("wandb_id", None)  # the other run's
        resume = distributed.from_main(lambda: named_checkpoint.take_up(resume, folder))
    with errors.last_words(command), distributed.together():
        if before is None:
            print(f"evaluating the start policy on {len(rows.heldout)} held-out rows", flush=True)
            before = evaluate(model)
            if distributed.is_main_process():
                before.save(folder / "before.json")
        launch(cfg, reward, rows.heldout, notes, actions["skip_launch_gate"])
        monitor = translation.divergence_monitor(
            rows.heldout,
            cfg.misc.independent_scorer,
            placed.get("xcomet", "auto"),
            cfg.reward.xcomet.python_executable,
            NAMES,
        )
        setup_wandb(cfg, folder, notes)
        try:
            trainer = build_trainer(cfg, folder, model, tokenizer, precision, reward, rows.train)
            outputs = loop.EvalOutputs(folder / FILES.samples, before, task(cfg), resume.step if resume else 0)

            def look():
                """The held-out translations of the present policy; those of the last evaluation are always kept."""
                step, snapshot = trainer.state.global_step, evaluate(trainer.model)
                if cfg.logging.save_eval_outputs or step == trainer.state.max_steps:
                    outputs.take(step, snapshot)
                return snapshot

            after = loop.train(
                folder,
                trainer,
                reward,
                before,
                look,
                monitor,
                WandbRewardCallback(reward, path=folder / FILES.metrics),
                schedule(cfg),
                resume=resume,
                notes=notes,
                started=started,
                command=command,
                save_best=lambda: export.save_best(folder, trainer, template),
            )
            export.save_final(folder, trainer, tokenizer, template)
            best = export.finish_best(
                folder, tokenizer, monitor.choice(), lambda: start_policy(cfg, tokenizer, precision)
            )
            if distributed.is_main_process():
                loop.write_results(folder, before, after, best, notes, cfg.rl.seed, task(cfg), FILES)
                export.write_cards(
                    folder,
                    base_model=cfg.model.policy_name_or_path,
                    prompt=template,
                    task=task(cfg),
                    settings=told(cfg),
                    data={
                        "name": cfg.data.train_file or cfg.data.hf_dataset_name,
                        "rows": len(rows.train),
                        "sha256": rows.sha256,
                    },
                )
        finally:
            finish_wandb(exit_code=int(sys.exc_info()[0] is not None))


def told(cfg: TranslateGemmaCfg) -> dict[str, Any]:
    """What the model card says of the settings; of a judge that is not asked nothing."""
    asked = {"metricx": cfg.reward.metricx, "xcomet": cfg.reward.xcomet, "mqm": cfg.reward.mqm}
    silent = tuple(f"reward.{name}." for name, section in asked.items() if not section.enabled)
    return {name: settings.value_of(cfg, name) for name in TOLD if not name.startswith(silent)}


def evaluate_only(cfg: TranslateGemmaCfg, folder: Path, snapshot) -> None:
    """Print the table of the policy as it is and keep its outputs, of the last time alone; nothing is trained."""
    from rl_nmt.results import evaluation
    from rl_nmt.training import loop

    loop.EvalOutputs(folder / EVAL_ONLY, snapshot, task(cfg)).take(0, snapshot)
    print(evaluation.print_table(evaluation.compare(snapshot, snapshot, task(cfg)), task(cfg)), flush=True)


def find_resume(cfg: TranslateGemmaCfg, folder: Path):
    """The checkpoint to go on from: the newest valid one, the one that is named, or None. Raises ResumeRefused."""
    named = cfg.logging.resume_from_checkpoint
    if named:
        return named_checkpoint.named(settings.checkpoint_folder(cfg), folder)
    return checkpoints.find(folder, distributed.is_main_process()) if cfg.logging.auto_resume else None


def flags_to_continue(cfg: TranslateGemmaCfg) -> list[str]:
    """Flags that make any command line go on from the newest checkpoint of its folder."""
    automatic = ["--logging.auto_resume", "True", "--logging.resume_from_checkpoint="]
    return [] if cfg.logging.auto_resume else automatic


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    cfg, actions, _ = config.parse(
        TranslateGemmaCfg,
        sys.argv[1:] if argv is None else argv,
        ACTIONS,
        prog="python -m recipes.translategemma.train",
        description=__doc__,
    )
    check(cfg)
    distributed.mute_others()
    named = cfg.logging.resume_from_checkpoint
    fresh = actions["fresh"] or not (cfg.logging.auto_resume or named)
    if not (actions["eval_only"] or fresh or named):
        from rl_nmt.training.loop import finished

        if finished(Path(cfg.logging.output_dir).expanduser(), task(cfg), NAMES.output_dir):
            return 0
    os.environ.update(hub_environment(cfg))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    require_environment(cfg)
    hub.require_models(models(cfg))
    placed = place_models(cfg)
    distributed.start()
    folder = distributed.from_main(lambda: run_folder.open_run_folder(cfg.logging.output_dir, fresh, NAMES.output_dir))
    command = run_folder.continue_command(
        argv, "-m recipes.translategemma.train", folder, fresh, f"--{NAMES.output_dir}", flags_to_continue(cfg)
    )
    with run_folder.lock(folder, NAMES.output_dir):
        resume = None if actions["eval_only"] else distributed.from_main(lambda: find_resume(cfg, folder))
        run(cfg, folder, resume, actions, placed, started, command)
    return 0


if __name__ == "__main__":
    errors.run(main)
