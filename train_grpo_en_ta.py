"""Teach a Gemma 3 chat model to translate English into Tamil by GRPO, without a single Tamil sentence.

English sentences (C4) → prompts → the policy samples G Tamil completions each → `CometDuPOReward` scores
them without references → TRL's GRPOTrainer updates the policy. Before and after, held-out text is
translated greedily and compared.

    python train_grpo_en_ta.py                                     # google/gemma-3-1b-it on C4, one GPU
    python train_grpo_en_ta.py --config configs/pocket.yaml        # everything small and local, a laptop CPU
    python train_grpo_en_ta.py --model_id google/gemma-3-4b-it --lr 5e-6
    python train_grpo_en_ta.py --eval_only                         # the untrained model's table, no training

Settings: the fields of RunCfg < a YAML file (--config) < flags. The result lies in `output_dir`. The same
command again continues a run that was stopped or killed, to the same bits.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rl_nmt import config, distributed, errors, hub
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.hub import ModelUse
from rl_nmt.runs import checkpoints, run_folder

# What the model is asked. It must end in the two cues that rewards_en_ta_dupo.CUES names.
PROMPT = (
    "Translate from English into Tamil. Answer with the Tamil text only, without any explanation."
    "\n\nEnglish: {source}\nTamil:"
)

DATA_FIELDS = (  # of RunCfg: what the snapshot in data/ is made from
    "dataset_name",
    "dataset_config",
    "dataset_split",
    "data_files",
    "text_field",
    "num_train_samples",
    "num_eval_samples",
    "shuffle_buffer",
    "min_chars",
    "max_chars",
    "seed",
)

COMET = "hparams.yaml"  # the file that tells a COMET checkpoint from other models

FAMILIES = ("gemma3",)  # the turns of PROMPT are Gemma's; other chat models: recipes/translategemma

ACTIONS = {
    "eval_only": "evaluate the policy on the held-out rows and stop",
    "fresh": "if output_dir is used, start anew in a folder beside it",
    "skip_launch_gate": "train although cheats may earn what translations earn; it is logged",
    "force": "resume although model, data, group size or reward have changed",
    "doctor": "say in seconds what is missing here and whether a run would fit; the exit status is go or no-go",
    "dry_step": "with --doctor: load everything and time two real steps, in a folder that is thrown away",
    "download": "fetch all models into the local cache, sizes and licences first, and stop",
}


@dataclass
class RunCfg:
    """GRPO post-training of a Gemma-3 chat model for English→Tamil, rewarded without references."""

    # Policy
    model_id: str = "google/gemma-3-1b-it"
    """The chat model to train: hub name or local folder."""
    lora_rank: int = 16
    """Rank of the LoRA adapters; 0 trains all weights (kept in fp32)."""
    lora_alpha: int = 32
    """LoRA scale numerator."""
    gradient_checkpointing: bool = False
    """Trade compute for memory in the backward pass."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention kernel of the policy."""

    # Data
    dataset_name: str = "allenai/c4"
    """English text: hub name, local file or folder, or json | parquet | text with data_files."""
    dataset_config: str = "en"
    """Configuration of a hub data set."""
    dataset_split: str = "train"
    """Split to stream."""
    data_files: tuple[str, ...] = ()
    """Local files for dataset_name json | parquet | text; globs allowed."""
    text_field: str = "text"
    """Column with the English text."""
    num_train_samples: int = 2000
    """Distinct English prompts to take from the stream; read once, then local."""
    shuffle_buffer: int = 10000
    """Rows held in the streaming shuffle buffer."""
    min_chars: int = 20
    """Shortest cleaned text that is used, in characters."""
    max_chars: int = 300
    """Longest; only whole first sentences up to it are kept."""

    # Held-out evaluation
    eval_dataset: str = "google/wmt24pp"
    """Evaluation set with references: hub name, or none."""
    eval_file: str = ""
    """Local TSV or JSONL (english, tamil) instead of eval_dataset."""
    num_eval_samples: int = 200
    """Held-out rows, chosen by hash."""
    eval_steps: int = 0
    """Evaluate during training every so many optimizer steps; 0: only before and after."""
    eval_batch_size: int = 16
    """Prompts decoded together in evaluation."""

    # GRPO
    group_size: int = 8
    """Completions sampled per prompt, ranked against each other (G)."""
    temperature: float = 1.0
    """Sampling temperature."""
    top_p: float = 1.0
    """Nucleus sampling; 1.0 is off."""
    max_new_tokens: int = 256
    """Longest completion in tokens."""
    lr: float = 1e-5
    """Peak learning rate: constant after a short warm-up (about 1e-5 for LoRA, 1e-6 for all weights)."""
    warmup_steps: int = 10
    """Optimizer steps of linear warm-up."""
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit"] = "adamw_torch_fused"
    """AdamW with fp32 moments, or with 8-bit ones (needs bitsandbytes and a CUDA device)."""
    kl_beta: float = 0.02
    """Weight of the KL penalty against the start policy; 0 loads no reference."""
    per_device_batch_size: int = 1
    """Sequences per device in one forward and backward pass."""
    gradient_accumulation_steps: int = 64
    """Passes per optimizer step; batch × accumulation / group_size prompts per step and process."""
    max_steps: int = 0
    """Optimizer steps; 0: one pass over the prompts."""
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"
    """How TRL averages the token losses."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the spread of rewards in the group, in the batch, or not at all."""
    seed: int = 42
    """Seeds data order, sampling and adapters."""
    use_vllm: bool = False
    """Sample through vLLM (requirements-vllm.txt; COMET then through scorer_python)."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """An engine beside the policy on each GPU, or one server that `trl vllm-serve` has started."""
    vllm_server_host: str = "127.0.0.1"
    """Where that server is."""
    vllm_server_port: int = 8000
    """Its port."""
    vllm_gpu_memory_utilization: float = 0.3
    """Share of a GPU's memory for the engine beside the policy."""

    # Reward
    comet_da_model: str = "Unbabel/wmt22-comet-da"
    """COMET-DA checkpoint for the cycle."""
    comet_qe_model: str = "Unbabel/wmt22-cometkiwi-da"
    """COMETKiwi checkpoint for quality estimation (gated, non-commercial licence)."""
    backtranslation_model: str = "facebook/nllb-200-distilled-1.3B"
    """NLLB model that translates Tamil back into English."""
    backtranslation_backend: Literal["transformers", "ctranslate2", "auto"] = "transformers"
    """What runs it; CTranslate2 is faster, with the same texts in float32; auto: CTranslate2 where it works."""
    backtranslation_beams: int = 4
    """Beams of the deterministic search."""
    reward_device: str = "auto"
    """Device of the COMET models: auto, cpu, cuda, cuda:N."""
    reward_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the COMET models; the score error of a lower one is measured at load."""
    dual_device: str = "auto"
    """Device of the back-translator."""
    dual_dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Precision of the back-translator."""
    scorer_python: str = ""
    """Python of another environment that COMET runs in, as .venv/bin/python; empty: in this process."""
    reward_offload: bool = False
    """Keep the reward models on the CPU while the policy trains; independent_scorer always."""
    reward_models: Literal["each", "shared"] = "each"
    """Of several processes each loads its own reward models, or one per machine does for all of them."""
    w_cycle: float = 0.6
    """Weight of the cycle term."""
    w_qe: float = 0.4
    """Weight of the quality estimation term."""
    penalty_weight_script: float = 0.2
    """Weight of the share of letters that are not Tamil."""
    penalty_weight_lenratio: float = 0.1
    """Weight of the log length ratio outside its band."""
    penalty_weight_fidelity: float = 0.1
    """Weight of the share of numbers, names and addresses that the output lost."""
    expected_length_ratio: float = 1.17
    """Tamil over English length, in code points, that costs nothing."""
    length_tolerance: float = 0.45
    """Natural-log distance from it that costs nothing; ratio 1 and tolerance 0 give |log ratio|."""
    guards: Literal["on", "off"] = "on"
    """Gate outputs that are no translation; off is the plain formula."""
    max_soft_win_share: float = 0.1
    """Launch gate: mean share of wins that cheats which could pass for translations may have."""
    independent_scorer: str = field(default="", metadata={"was": "judge_model"})
    """COMET checkpoint outside the reward, to watch it and choose best/ where held-out rows have no references."""
    on_divergence: Literal["warn", "stop"] = "warn"
    """What to do when the reward rises while the score outside it falls."""

    # Output and tracking
    output_dir: str = "runs/gemma3_1b_en_ta"
    """Run folder."""
    logging_steps: int = 1
    """Optimizer steps between progress lines."""
    sample_steps: int = 20
    """Print two samples every so many optimizer steps; 0: never."""
    save_steps: int = 50
    """Optimizer steps between checkpoints; 0: only the final model."""
    save_total_limit: int = 2
    """Checkpoints kept."""
    save_rollouts: bool = False
    """Keep every sample with its components in rollouts.jsonl, for the reward lab."""
    push_to: str = ""
    """Hub repository that final/ is pushed to at the end, made private, with the token in HF_TOKEN; empty: none."""
    max_hours: float = 0.0
    """Stop in time to have saved within so many hours of the start, to be resumed; 0: never."""
    use_wandb: bool = True
    """Log to Weights & Biases; offline when there is no login or no server."""
    wandb_project: str = "rl-nmt-en-ta"
    """W&B project."""
    wandb_entity: str = ""
    """W&B team or user; empty: your default."""
    wandb_run_name: str = ""
    """W&B run name; empty: the run folder's name."""
    wandb_mode: Literal["online", "offline", "disabled"] = "online"
    """W&B mode."""
    wandb_api_key: str = field(default="", repr=False, metadata={"secret": True})
    """Typed in here for local use only; never accepted as a flag or in YAML, never printed or saved."""


def check(cfg: RunCfg) -> None:
    """Refuse what cannot work, before anything is loaded. Raises ConfigError."""
    from rewards_en_ta_dupo import check_settings
    from rl_nmt.audit.launch_gate import check_bound
    from rl_nmt.preflight import vllm

    for name in (
        "num_train_samples",
        "shuffle_buffer",
        "min_chars",
        "max_chars",
        "num_eval_samples",
        "eval_batch_size",
        "max_new_tokens",
        "per_device_batch_size",
        "gradient_accumulation_steps",
        "lora_alpha",
        "backtranslation_beams",
        "logging_steps",
        "save_total_limit",
    ):
        if getattr(cfg, name) < 1:
            raise ConfigError(f"{name}: {getattr(cfg, name)} must be at least 1")
    for name in ("lora_rank", "eval_steps", "warmup_steps", "max_steps", "sample_steps", "save_steps", "seed"):
        if getattr(cfg, name) < 0:
            raise ConfigError(f"{name}: {getattr(cfg, name)} must be at least 0")
    if not cfg.lr > 0 or not cfg.temperature > 0:
        raise ConfigError(f"lr: {cfg.lr} and temperature: {cfg.temperature} must both be above 0")
    if not 0 < cfg.top_p <= 1 or not cfg.kl_beta >= 0:
        raise ConfigError(f"top_p: {cfg.top_p} must lie in (0, 1], kl_beta: {cfg.kl_beta} must be at least 0")
    if not cfg.max_hours >= 0:
        raise ConfigError(f"max_hours: {cfg.max_hours} must be at least 0")
    check_bound(cfg.max_soft_win_share)
    vllm.check_settings(cfg.vllm_mode, cfg.vllm_server_port, cfg.vllm_gpu_memory_utilization)
    if not cfg.output_dir.strip():
        raise ConfigError("output_dir is empty: name a folder for the run")
    check_settings(cfg)
    if cfg.min_chars > cfg.max_chars:
        raise ConfigError(f"min_chars: {cfg.min_chars} is above max_chars: {cfg.max_chars}")
    if cfg.group_size < 2:
        raise ConfigError(f"group_size: {cfg.group_size}: a group of one has nothing to be compared with; use 2–16")
    unit = cfg.per_device_batch_size * distributed.count()
    sequences = cfg.gradient_accumulation_steps * unit
    if sequences % cfg.group_size:
        legal = [
            a
            for a in range(1, 4 * cfg.gradient_accumulation_steps + 8 * cfg.group_size)
            if a * unit % cfg.group_size == 0
        ]
        nearest = sorted(sorted(legal, key=lambda a: abs(a - cfg.gradient_accumulation_steps))[:2])
        raise ConfigError(
            f"gradient_accumulation_steps: per_device_batch_size {cfg.per_device_batch_size} × "
            f"{cfg.gradient_accumulation_steps} × {distributed.count()} processes = {sequences} sequences are no "
            f"multiple of group_size {cfg.group_size}; nearest that work: {' or '.join(map(str, nearest))}"
        )
    if cfg.num_train_samples < sequences // cfg.group_size:
        raise ConfigError(
            f"num_train_samples: {cfg.num_train_samples} prompts do not fill one step of "
            f"{sequences // cfg.group_size}; raise it or lower gradient_accumulation_steps"
        )


def require_environment(cfg: RunCfg) -> None:
    """Refuse, within seconds, what this machine lacks: packages, another Python, a server. Raises as they do."""
    from importlib.util import find_spec

    from rl_nmt.preflight import environments, vllm

    if cfg.scorer_python:
        environments.require_python("scorer_python", cfg.scorer_python, ("comet", "torch", "transformers"))
    elif find_spec("comet") is None:
        raise ConfigError(
            "scorer_python: there is no COMET in this environment: give one that has it (--scorer_python "
            ".venv/bin/python), or pip install -r requirements.txt"
        )
    if cfg.use_vllm:
        vllm.require_vllm(cfg.vllm_mode, cfg.vllm_server_host, cfg.vllm_server_port, cfg.model_id)
    if cfg.optimizer.startswith("adamw_bnb"):
        if find_spec("bitsandbytes") is None:
            raise ConfigError(f"optimizer: {cfg.optimizer} needs bitsandbytes: install it, or --optimizer adamw_torch")
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(f"optimizer: {cfg.optimizer} needs a CUDA device: --optimizer adamw_torch")


def models(cfg: RunCfg) -> list[ModelUse]:
    """Every model that these settings ask for, under the name of its setting."""
    return [
        ModelUse("model_id", cfg.model_id, part="policy"),
        *reward_models(cfg),
        *([ModelUse("independent_scorer", cfg.independent_scorer, COMET, "judge")] if cfg.independent_scorer else []),
    ]


def reward_models(cfg: RunCfg) -> list[ModelUse]:
    """Those that the weights of the reward ask for."""
    cycle = [
        ModelUse("comet_da_model", cfg.comet_da_model, COMET, "comet_da"),
        ModelUse("backtranslation_model", cfg.backtranslation_model, part="NLLB"),
    ]
    qe = [ModelUse("comet_qe_model", cfg.comet_qe_model, COMET, "comet_qe")]
    return [*(cycle if cfg.w_cycle else []), *(qe if cfg.w_qe else [])]


def load_data(cfg: RunCfg, folder: Path) -> tuple[list[str], list[dict], str]:
    """Training sentences, held-out rows {"english", "tamil"?} that share none with them, the data's hash."""
    from rl_nmt.data import corpus

    eval_rows: list[dict] = []
    try:
        eval_rows = corpus.load_eval(cfg.eval_dataset, cfg.eval_file, cfg.num_eval_samples, cfg.seed)
    except MissingService as error:
        print(f"no evaluation references: {error}", flush=True)
    data = corpus.materialise(folder / "data", corpus.CorpusSettings.of(cfg))
    print(f"data: {len(data.train)} prompts, sha256 {data.sha256[:12]}", flush=True)
    seen = {" ".join(text.split()).casefold() for text in data.train}
    apart = [row for row in eval_rows if " ".join(row["source"].split()).casefold() not in seen]
    if len(apart) < len(eval_rows):
        print(f"{len(eval_rows) - len(apart)} evaluation rows are in the training data: left out", flush=True)
    if not apart:
        print("evaluation without references: on held-out rows of the corpus, by the reward alone", flush=True)
        apart = [{"source": text} for text in data.heldout]
    return data.train, apart, data.sha256


def make_prompt(english: str) -> str:
    """One Gemma user turn; the tokenizer adds the only <bos>."""
    from rl_nmt.text.prompts import fill, gemma_prompt

    return gemma_prompt(fill(PROMPT, english))


def build_reward(cfg: RunCfg):
    """The reward as the configuration wants it."""
    from rewards_en_ta_dupo import CometDuPOReward

    names = (
        "w_cycle",
        "w_qe",
        "penalty_weight_script",
        "penalty_weight_lenratio",
        "penalty_weight_fidelity",
        "expected_length_ratio",
        "length_tolerance",
        "guards",
        "reward_device",
        "reward_dtype",
        "dual_device",
        "dual_dtype",
        "backtranslation_backend",
        "backtranslation_beams",
        "reward_offload",
        "scorer_python",
        "reward_models",
    )
    return CometDuPOReward(
        cfg.comet_da_model, cfg.comet_qe_model, cfg.backtranslation_model, **{n: getattr(cfg, n) for n in names}
    )


def setup_wandb(cfg: RunCfg, folder: Path, notes: dict | None = None) -> bool:
    """Start a W&B run if wanted and possible within seconds, or go on with the one in `notes`.

    Never prompts, never uploads code or keys.
    """
    from rl_nmt.runs import wandb_run

    if not cfg.use_wandb or not distributed.is_main_process():
        return False
    if cfg.wandb_api_key:
        os.environ["WANDB_API_KEY"] = cfg.wandb_api_key
    mode, reason = wandb_run.choose_wandb_mode(cfg.wandb_mode)
    print(f"W&B: {mode} ({reason})", flush=True)
    if mode == "disabled":
        return False
    notes = {} if notes is None else notes
    run_id = wandb_run.start_wandb(
        mode,
        folder,
        notes.get("wandb_id"),
        project=cfg.wandb_project,
        entity=cfg.wandb_entity or None,
        name=cfg.wandb_run_name or folder.name,
        config=config.to_public_dict(cfg),
    )
    if run_id:
        notes["wandb_id"] = run_id
    return bool(run_id)


def sampling_engine(cfg: RunCfg) -> dict:
    """What GRPOConfig is told about vLLM; nothing without it."""
    if not cfg.use_vllm:
        return {}
    names = ("use_vllm", "vllm_mode", "vllm_server_host", "vllm_server_port", "vllm_gpu_memory_utilization")
    longest = 4 * cfg.max_chars + 100 + cfg.max_new_tokens  # a character is at most four byte tokens
    return {name: getattr(cfg, name) for name in names} | {"vllm_max_model_length": longest}


def build_trainer(cfg: RunCfg, folder: Path, policy, tokenizer, precision, reward, train: list[str]):
    """GRPOTrainer with everything RunCfg says, explicitly, since several TRL defaults depend on the machine."""
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOConfig

    from rl_nmt.models.policy import lora_config, losing_combination, make_reference_loadable, stop_ids
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    if (cfg.kl_beta and not cfg.lora_rank) or (cfg.use_vllm and cfg.vllm_mode == "colocate"):
        make_reference_loadable(policy, tokenizer, folder / "start_policy")
    args = GRPOConfig(
        output_dir=str(folder),
        num_generations=cfg.group_size,
        max_completion_length=cfg.max_new_tokens,
        temperature=cfg.temperature,
        top_p=cfg.top_p,
        learning_rate=cfg.lr,
        beta=cfg.kl_beta,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=cfg.warmup_steps,
        per_device_train_batch_size=cfg.per_device_batch_size,
        gradient_accumulation_steps=cfg.gradient_accumulation_steps,
        max_steps=cfg.max_steps or -1,
        num_train_epochs=1,
        loss_type=cfg.loss_type,
        scale_rewards=cfg.scale_rewards,
        seed=cfg.seed,
        data_seed=cfg.seed,
        logging_steps=cfg.logging_steps,
        save_strategy="steps" if cfg.save_steps else "no",
        save_steps=cfg.save_steps or 1,
        save_total_limit=cfg.save_total_limit,
        gradient_checkpointing=cfg.gradient_checkpointing,
        bf16=precision.autocast,
        fp16=False,
        **distributed.training_device(precision.device),
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=precision.device != "cpu",
        ddp_find_unused_parameters=False,
        optim=cfg.optimizer,
        **sampling_engine(cfg),
    )
    rows = Dataset.from_list([{"prompt": make_prompt(text), "source": text} for text in train])
    trainer = GuardedGRPOTrainer(
        model=policy,
        reward_funcs=reward,
        args=args,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=lora_config(cfg.lora_rank, cfg.lora_alpha),
    )
    if warning := losing_combination(trainer.model):
        print(warning, file=sys.stderr, flush=True)
    assert set(stop_ids(tokenizer)) <= set(trainer.eos_token_ids)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def task():
    """What the results measure beside the reward, and how they name it."""
    from rl_nmt.results.translation import translation_task
    from rl_nmt.text.languages import TAMIL

    return translation_task(TAMIL)


def launch(cfg: RunCfg, reward, eval_rows: list[dict], notes: dict, skip: bool) -> None:
    """Train only on a reward that cheats cannot win; asked once per run. Raises RewardRefused."""
    from functools import partial

    from rl_nmt.audit.cheats import build_suite
    from rl_nmt.audit.honest_pairs import honest_pairs
    from rl_nmt.audit.launch_gate import require_launch

    if skip:
        print("launch gate: skipped by --skip_launch_gate", flush=True)
        notes["launch_gate"] = {"passed": None, "reasons": ["skipped by --skip_launch_gate"]}
    elif "launch_gate" not in notes:
        pairs, origin = honest_pairs(eval_rows, cfg.seed)
        suite = partial(build_suite, language="ta", seed=cfg.seed)
        notes["launch_gate"] = distributed.from_main(
            lambda: require_launch(reward, pairs, suite, cfg.max_soft_win_share, origin)
        )


def schedule(cfg: RunCfg):
    """What happens while it trains, as `rl_nmt.training.loop` calls it."""
    from rl_nmt.training.loop import Schedule

    return Schedule(cfg.eval_steps, cfg.sample_steps, cfg.save_total_limit, cfg.max_hours, cfg.on_divergence == "stop")


def run_training(
    cfg: RunCfg, folder: Path, trainer, reward, before, evaluate, monitor, resume, notes, started, command
):
    """Train from the checkpoint `resume`, or from the start; returns the evaluation at the end. See training.train."""
    from rl_nmt.results import export
    from rl_nmt.training import loop
    from rl_nmt.training.callbacks import Rollouts
    from wandb_reward_callback import WandbRewardCallback

    return loop.train(
        folder,
        trainer,
        reward,
        before,
        evaluate,
        monitor,
        WandbRewardCallback(reward, path=folder / "metrics.jsonl"),
        schedule(cfg),
        resume=resume,
        notes=notes,
        save_best=lambda: export.save_best(folder, trainer, PROMPT),
        started=started,
        command=command,
        callbacks=[Rollouts(reward, folder / "rollouts.jsonl")] if cfg.save_rollouts else [],
    )


def fixed_settings(cfg: RunCfg) -> dict:
    """The settings under which alone a run can go on, known before anything is loaded."""
    prompts = cfg.per_device_batch_size * cfg.gradient_accumulation_steps * distributed.count()
    names = (*DATA_FIELDS, "group_size", "max_new_tokens", "lora_rank", "lora_alpha")
    return {name: config.to_public_dict(cfg)[name] for name in names} | {"sequences_per_step": prompts}


def identity_of(cfg: RunCfg, data_hash: str, reward) -> dict:
    """What a run is: settings, model, data and reward that must stay the same for it to go on."""
    from rl_nmt.files import finite

    return {
        **fixed_settings(cfg),
        **run_folder.model_identity(cfg.model_id),
        "data": data_hash,
        "reward": finite(reward.signature()["identity"]),
    }


def load_models(cfg: RunCfg):
    """(tokenizer, precision, policy, reward), the policy on its device."""
    from rl_nmt.models import policy

    policy.prepare_processes()
    tokenizer = policy.load_tokenizer(cfg.model_id, FAMILIES)
    precision = policy.choose_precision(lora=bool(cfg.lora_rank))
    print(f"precision: {precision.reason}", flush=True)
    model = policy.load_policy(cfg.model_id, tokenizer, precision, cfg.attn_implementation, FAMILIES)
    return tokenizer, precision, model.to(precision.device), build_reward(cfg)


def evaluator(cfg: RunCfg, tokenizer, eval_rows: list[dict], reward):
    """model → Snapshot of its greedy translations of the held-out rows."""
    from rl_nmt.results import evaluation

    return lambda model: evaluation.evaluate(
        model,
        tokenizer,
        eval_rows,
        make_prompt,
        reward,
        task(),
        max_new_tokens=cfg.max_new_tokens,
        batch_size=cfg.eval_batch_size,
    )


def evaluate_only(cfg: RunCfg, folder: Path) -> None:
    """Print the table of the policy as it is; nothing is trained."""
    from rl_nmt.results import evaluation

    _, eval_rows, _ = distributed.from_main(lambda: load_data(cfg, folder))
    tokenizer, _, model, reward = load_models(cfg)
    snapshot = evaluator(cfg, tokenizer, eval_rows, reward)(model)
    print(evaluation.print_table(evaluation.compare(snapshot, snapshot, task()), task()), flush=True)


def run(cfg: RunCfg, folder: Path, resume, force: bool, skip_gate: bool, started: float, command: str) -> None:
    """The whole run, or what is left of it from the checkpoint `resume`."""
    from rl_nmt.models import policy
    from rl_nmt.results import export, translation
    from rl_nmt.runs.wandb_run import finish_wandb
    from rl_nmt.training import loop

    distributed.from_main(lambda: loop.accept_settings(folder, fixed_settings(cfg), DATA_FIELDS, resume, force))
    train, eval_rows, data_hash = distributed.from_main(lambda: load_data(cfg, folder))
    tokenizer, precision, model, reward = load_models(cfg)
    evaluate = evaluator(cfg, tokenizer, eval_rows, reward)
    identity, public = identity_of(cfg, data_hash, reward), config.to_public_dict(cfg)
    loop.accept_identity(folder, identity, public, resume, force)
    before = loop.earlier_evaluation(folder, eval_rows, reward, cfg.max_new_tokens, resume, force)
    run_folder.save_identity(folder, identity, public)
    if distributed.is_main_process():
        config.save_resolved(cfg, folder / "resolved_config.yaml")
    with errors.last_words(command), distributed.together():
        if before is None:
            print(f"evaluating the start policy on {len(eval_rows)} held-out rows", flush=True)
            before = evaluate(model)
            if distributed.is_main_process():
                before.save(folder / "before.json")
        notes = dict(resume.notes) if resume else {}  # what else every checkpoint carries along
        launch(cfg, reward, eval_rows, notes, skip_gate)
        device = "cpu" if cfg.reward_offload else cfg.reward_device
        monitor = translation.divergence_monitor(eval_rows, cfg.independent_scorer, device, cfg.scorer_python)
        setup_wandb(cfg, folder, notes)
        try:
            trainer = build_trainer(cfg, folder, model, tokenizer, precision, reward, train)
            after = run_training(
                cfg,
                folder,
                trainer,
                reward,
                before,
                lambda: evaluate(trainer.model),
                monitor,
                resume,
                notes,
                started,
                command,
            )
            export.save_final(folder, trainer, tokenizer, PROMPT)
            if distributed.is_main_process():
                best = export.finish_best(
                    folder,
                    tokenizer,
                    monitor.choice(),
                    lambda: policy.load_policy(cfg.model_id, tokenizer, precision, cfg.attn_implementation),
                )
                loop.write_results(folder, before, after, best, notes, cfg.seed, task())
                publish(cfg, folder, {"rows": len(train), "sha256": data_hash})
        finally:
            finish_wandb(exit_code=int(sys.exc_info()[0] is not None))


def publish(cfg: RunCfg, folder: Path, data: dict) -> None:
    """The model cards, and final/ to the hub where that is asked for."""
    from rl_nmt.results import export

    names = (
        "lora_rank",
        "lora_alpha",
        "lr",
        "kl_beta",
        "group_size",
        "per_device_batch_size",
        "gradient_accumulation_steps",
        "max_steps",
        "temperature",
        "top_p",
        "max_new_tokens",
        "loss_type",
        "w_cycle",
        "w_qe",
        "guards",
        "seed",
    )
    export.write_cards(
        folder,
        base_model=cfg.model_id,
        data={"name": cfg.dataset_name, **data},
        settings={name: getattr(cfg, name) for name in names},
        prompt=PROMPT,
        task=task(),
    )
    if cfg.push_to:
        export.push(folder / "final", cfg.push_to)


def dry_step(cfg: RunCfg) -> None:
    """Print what a step of this configuration takes here: two real ones on as few sentences as they need."""
    import tempfile

    from rl_nmt.preflight.doctor import dry_step_seconds
    from rl_nmt.training.callbacks import clock

    per_step = cfg.per_device_batch_size * cfg.gradient_accumulation_steps * distributed.count() // cfg.group_size
    few = dataclasses.replace(cfg, num_train_samples=2 * per_step, max_steps=2, save_steps=0)
    with tempfile.TemporaryDirectory() as place:
        train, _, _ = load_data(few, Path(place))
        tokenizer, precision, model, reward = load_models(few)
        trainer = build_trainer(few, Path(place), model, tokenizer, precision, reward, train)
        first, second = dry_step_seconds(trainer)
    steps = cfg.max_steps or cfg.num_train_samples // per_step
    left = clock(steps * second)
    print(f"dry step: {first:.1f} s, the second {second:.1f} s: about {left} for {steps} steps", flush=True)


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    cfg, actions, _ = config.parse(
        RunCfg, sys.argv[1:] if argv is None else argv, ACTIONS, prog="train_grpo_en_ta.py", description=__doc__
    )
    distributed.mute_others()
    if actions["doctor"]:
        from rl_nmt.preflight import doctor

        findings = doctor.diagnose(cfg, models(cfg), cfg.output_dir, check, environment=require_environment)
        print(doctor.table(findings), flush=True)
        if actions["dry_step"] and not doctor.exit_code(findings):
            dry_step(cfg)
        return doctor.exit_code(findings)
    if actions["dry_step"]:
        raise ConfigError("--dry_step belongs to --doctor: give both")
    check(cfg)
    if actions["download"]:
        from rl_nmt.results.model_card import licence

        hub.download(models(cfg), licence)
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    pushes = cfg.push_to and not actions["eval_only"] and distributed.is_main_process()
    if pushes:
        from rl_nmt.results import export

        export.require_push(cfg.push_to)
    if not actions["eval_only"] and not actions["fresh"]:
        from rl_nmt.training.loop import finished

        if finished(folder := Path(cfg.output_dir).expanduser(), task()):
            if pushes:
                export.push(folder / "final", cfg.push_to)
            return 0
    require_environment(cfg)
    hub.require_models(models(cfg))
    distributed.start()  # refuses more of them than there are GPUs
    folder = distributed.from_main(lambda: run_folder.open_run_folder(cfg.output_dir, actions["fresh"]))
    if actions["eval_only"]:
        evaluate_only(cfg, folder)
        return 0
    command = run_folder.continue_command(argv, "train_grpo_en_ta.py", folder, actions["fresh"])
    with run_folder.lock(folder):
        resume = distributed.from_main(lambda: checkpoints.find(folder))
        run(cfg, folder, resume, actions["force"], actions["skip_launch_gate"], started, command)
    return 0


if __name__ == "__main__":
    errors.run(main)
