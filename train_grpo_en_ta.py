"""Teach a Gemma 3 chat model to translate English into Tamil by GRPO, without a single Tamil sentence.

English sentences (C4) → prompts → the policy samples G completions each → `CometDuPOReward` scores them without
references → TRL's GRPOTrainer updates the policy. Before and after, held-out text is translated greedily and compared.

    python train_grpo_en_ta.py                                     # google/gemma-3-1b-it on C4, one GPU
    python train_grpo_en_ta.py --config configs/pocket.yaml        # small local models, on a laptop CPU
    python train_grpo_en_ta.py --target_language te                # Telugu instead; docs/another_language.md
    python train_grpo_en_ta.py --eval_only                         # the untrained model's table, no training

Settings: the fields of RunCfg < a YAML file (--config) < flags. The result is in `output_dir`. The same
command again continues a run that was stopped or killed, to the same bits.
"""

import dataclasses
import functools
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rewards_en_ta_dupo import CometDuPOReward, RewardSettings, cues
from rl_nmt import config, distributed, errors, hub
from rl_nmt.data import corpus
from rl_nmt.errors import ConfigError
from rl_nmt.hub import COMET, ModelUse
from rl_nmt.preflight import environments
from rl_nmt.ranges import above, at_least, between
from rl_nmt.runs import phases
from rl_nmt.runs.run import Run
from rl_nmt.runs.run_folder import open_run_folder
from rl_nmt.text.languages import TAMIL, Language
from rl_nmt.text.prompts import fill, gemma_prompt
from rl_nmt.training import headroom_gate, raft, reward_models, setup, trl_settings, used_settings, warm_start
from rl_nmt.training.raft import RaftSettings


def prompt_for(target: Language) -> str:
    """The prompt, with a slot for the source; it must end in the two cues of rewards_en_ta_dupo."""
    words = "Translate from English into {0}. Answer with the {0} text only, without any explanation."
    return f"{words.format(target.full_name)}\n\n{cues(target)}"


PROMPT = prompt_for(TAMIL)
# Settings in RunCfg: what the snapshot in data/ is made from, what a resumed run keeps, what the model card lists.
DATA_FIELDS = """dataset_name dataset_config dataset_split data_files text_field num_train_samples num_eval_samples
    shuffle_buffer min_chars max_chars seed prompt_filter filter_pool""".split()
FIXED_FIELDS = [*DATA_FIELDS, *"target_language method raft sft group_size max_new_tokens lora_rank lora_alpha".split()]
CARD_FIELDS = """lora_rank lora_alpha lr kl_beta group_size per_device_batch_size gradient_accumulation_steps max_steps
    temperature top_p max_new_tokens loss_type w_cycle w_qe guards seed""".split()
TRL_FIELDS = """temperature top_p warmup_steps gradient_accumulation_steps loss_type scale_rewards logging_steps
    gradient_checkpointing""".split()  # named the same in GRPOConfig
FAMILIES = ("gemma3",)  # the turns of PROMPT are Gemma's; other chat models: recipes/translategemma
ACTIONS = {
    "eval_only": "evaluate the policy on the held-out rows and stop",
    "fresh": "if output_dir is used, start from scratch in a folder next to it",
    "skip_launch_gate": "train without the check that cheats cannot win the reward; this is logged",
    "headroom": "report what the start policy could gain by this reward, and stop; training uses the report",
    "skip_headroom_gate": "train even if that report finds nothing to gain; this is logged",
    "force": "resume although model, data, group size or reward have changed",
    "doctor": "check in seconds what is missing here and whether a run would fit; exit status 0 is go",
    "dry_step": "with --doctor: load everything and time two real steps, in a temporary folder",
    "download": "print sizes and licences of all models, download them into the local cache, and stop",
}


@dataclass
class RunCfg(RewardSettings, trl_settings.VllmSettings):
    """GRPO post-training of a Gemma-3 chat model to translate from English, rewarded without references."""

    # Policy
    model_id: str = "google/gemma-3-1b-it"  # the chat model to train: hub name or local folder
    warm_start_file: str = ""  # pairs (TSV, JSONL) to fine-tune it on first, if it does not translate yet; empty: none
    sft: warm_start.SftSettings = field(default_factory=warm_start.SftSettings)  # settings of that fine-tuning
    lora_rank: int = at_least(0, 16)  # rank of the LoRA adapters; 0 trains all weights (kept in fp32)
    lora_alpha: int = at_least(1, 32)  # numerator of the LoRA scale, lora_alpha / lora_rank
    gradient_checkpointing: bool = False  # trade compute for memory in the backward pass
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"  # attention kernel of the policy

    # Data
    dataset_name: str = "allenai/c4"  # English text: hub name, local path, or json | parquet | text with data_files
    dataset_config: str = "en"  # configuration of a hub data set
    dataset_split: str = "train"  # split to stream
    data_files: tuple[str, ...] = ()  # local files for dataset_name json | parquet | text; globs allowed
    text_field: str = "text"  # column with the English text
    num_train_samples: int = at_least(1, 2000)  # distinct English prompts taken from the stream; read once, then local
    shuffle_buffer: int = at_least(1, 10000)  # rows held in the streaming shuffle buffer
    min_chars: int = at_least(1, 20)  # shortest cleaned text that is used, in characters
    max_chars: int = at_least(1, 300)  # longest; of longer texts the first whole sentences are kept
    prompt_filter: Literal["none", "headroom"] = "none"
    """headroom: before training, sample a pool of prompts and train on those whose samples differ in reward."""
    filter_pool: int = at_least(1, 3)  # prompts in that pool, times num_train_samples

    # Held-out evaluation
    eval_dataset: str = "google/wmt24pp"  # evaluation set with references: hub name, or none
    eval_file: str = ""  # local TSV or JSONL (english and the language's name) instead of eval_dataset
    num_eval_samples: int = at_least(1, 200)  # held-out rows, chosen by hash
    eval_steps: int = at_least(0, 0)  # optimizer steps between evaluations; 0: only before and after training
    eval_batch_size: int = at_least(1, 16)  # prompts decoded together in evaluation

    # Method
    method: Literal["grpo", "raft"] = "grpo"  # raft: fine-tune on the best samples, in rounds, with as many samples
    raft: RaftSettings = field(default_factory=RaftSettings)  # settings of method raft
    group_size: int = at_least(2, 8)  # completions sampled per prompt, ranked against each other (G)
    temperature: float = above(0, 1.0)  # sampling temperature
    top_p: float = between(0, 1, 1.0, open_left=True)  # nucleus sampling; 1.0 is off
    max_new_tokens: int = at_least(1, 256)  # longest completion in tokens
    lr: float = above(0, 1e-5)  # peak learning rate, constant after warm-up (about 1e-5 for LoRA, 1e-6 for all weights)
    warmup_steps: int = at_least(0, 10)  # optimizer steps of linear warm-up
    optimizer: Literal["adamw_torch_fused", "adamw_torch", "adamw_bnb_8bit"] = "adamw_torch_fused"
    """AdamW with fp32 moments, or with 8-bit ones (needs bitsandbytes and a CUDA device)."""
    kl_beta: float = at_least(0, 0.02)  # weight of the KL penalty against the start policy; 0 loads no reference
    per_device_batch_size: int = at_least(1, 1)  # sequences per device in one forward and backward pass
    gradient_accumulation_steps: int = at_least(1, 64)  # passes per step; prompts: batch × passes / group_size
    max_steps: int = at_least(0, 0)  # optimizer steps; 0: one pass over the prompts
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"] = "dapo"  # TRL's loss
    scale_rewards: Literal["group", "batch", "none"] = "group"  # spread of rewards that divides advantages
    seed: int = at_least(0, 42)  # seeds data order, sampling and adapters
    trl: trl_settings.TrlSettings = field(default_factory=trl_settings.TrlSettings)  # TRL's other settings

    # Trust
    headroom_prompts: int = at_least(0, 64)  # held-out rows sampled before training, to see what can be gained; 0: none
    patience: int = at_least(0, 10)  # stop after so many generations without a difference in any group; 0: never
    max_soft_win_share: float = between(0, 1, 0.1)
    """Launch gate: highest mean share of wins allowed for cheats that could pass for translations."""
    independent_scorer: str = field(default="", metadata={"was": "judge_model"})
    """COMET checkpoint outside the reward, to monitor it and choose best/ if held-out rows have no references."""
    on_divergence: Literal["warn", "stop"] = "warn"  # what to do when the reward rises while the score outside it falls

    # Output and tracking
    output_dir: str = "runs/gemma3_1b_en_{language}"  # run folder; {language}: the target's code
    logging_steps: int = at_least(1, 1)  # optimizer steps between progress lines
    sample_steps: int = at_least(0, 20)  # optimizer steps between printed pairs of samples; 0: none
    save_steps: int = at_least(0, 50)  # optimizer steps between checkpoints; 0: only the final model
    save_total_limit: int = at_least(1, 2)  # checkpoints kept
    save_rollouts: bool = False  # keep every sample in rollouts.jsonl, for smoke_test_rewards.py --reweigh
    push_to: str = ""  # hub repository, private if new, to push final/ to with the token in HF_TOKEN; empty: none
    max_hours: float = at_least(0, 0.0)  # save and stop, resumable, within this many hours of the start; 0: never
    use_wandb: bool = True  # log to Weights & Biases; offline without a login or server
    wandb_project: str = "rl-nmt-en-{language}"  # W&B project, likewise
    wandb_entity: str = ""  # W&B team or user; empty: your default
    wandb_run_name: str = ""  # W&B run name; empty: the run folder's name
    wandb_mode: Literal["online", "offline", "disabled"] = "online"  # W&B mode
    wandb_api_key: str = field(default="", repr=False, metadata={"secret": True})
    """Typed in here for local use only; never accepted as a flag or in YAML, never printed or saved."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("output_dir", "wandb_project"):
            setattr(self, name, getattr(self, name).replace("{language}", self.language.code))


def check(cfg: RunCfg) -> None:
    """Refuse what cannot work, before anything is loaded. Raises ConfigError."""
    cfg.check_reward()
    if not cfg.output_dir.strip():
        raise ConfigError("output_dir is empty: name a folder for the run")
    if cfg.min_chars > cfg.max_chars:
        raise ConfigError(f"min_chars: {cfg.min_chars} is above max_chars: {cfg.max_chars}")
    for part in (trl_settings, raft, warm_start):
        part.check(cfg, distributed.count())


def require_environment(cfg: RunCfg) -> None:
    """Refuse, within seconds, settings that need packages, a Python or a server that are missing. Raises UserError."""
    if cfg.use_vllm:
        environments.require_vllm(cfg.vllm_mode, cfg.vllm_server_host, cfg.vllm_server_port, cfg.model_id)
    environments.require_optimizer(cfg.optimizer)
    reward_models.require(cfg)


def models(cfg: RunCfg) -> list[ModelUse]:
    """Return every model that these settings use, with the name of its setting."""
    outside = [ModelUse("independent_scorer", cfg.independent_scorer, COMET, "judge")] if cfg.independent_scorer else []
    return [ModelUse("model_id", cfg.model_id, part="policy"), *cfg.reward_models_used(cfg.model_id), *outside]


def task(target: Language = TAMIL):
    """What the results measure in addition to the reward, and how they name it."""
    from rl_nmt.results.translation import translation_task

    return translation_task(target)


def load_data(cfg: RunCfg, folder: Path):
    """Training sentences (with a prompt filter, its pool), held-out rows, the data's hash; see `corpus.load`."""
    return corpus.load(folder / "data", cfg, pool=cfg.filter_pool if cfg.prompt_filter == "headroom" else 1)


def make_prompt(source: str, target: Language = TAMIL) -> str:
    """One Gemma user turn; the tokenizer adds the only <bos>."""
    return gemma_prompt(fill(prompt_for(target), source))


def build_reward(cfg: RunCfg):
    """Return the reward with these settings."""
    return CometDuPOReward(settings=cfg, likelihood_model=cfg.likelihood_model or cfg.model_id)


def setup_wandb(cfg: RunCfg, run: Run) -> bool:
    """Start or continue the run's W&B run; see `setup.start_wandb`."""
    if cfg.wandb_api_key:
        os.environ["WANDB_API_KEY"] = cfg.wandb_api_key
    return setup.start_wandb(run, cfg, config.to_public_dict(cfg))


def load_policy(cfg: RunCfg, name: str = ""):
    """The policy on its device, from the folder `name` or model_id; see `setup.Policy`."""
    return setup.load_policy(name or cfg.model_id, bool(cfg.lora_rank), cfg.attn_implementation, FAMILIES)


def evaluator(cfg: RunCfg, policy, rows: list[dict], reward):
    """model → Snapshot of its greedy translations of the held-out rows."""
    from rl_nmt.results import evaluation

    sizes = {"max_new_tokens": cfg.max_new_tokens, "batch_size": cfg.eval_batch_size}
    write, named = functools.partial(make_prompt, target=cfg.language), task(cfg.language)
    return lambda model: evaluation.evaluate(model, policy.tokenizer, rows, write, reward, named, **sizes)


def build_trainer(cfg: RunCfg, folder: Path, policy, reward, train: list[str]):
    """Return TRL's GRPOTrainer with RunCfg's settings."""
    from rl_nmt.models.policy import lora_config, make_reference_loadable, stop_ids
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    if (cfg.kl_beta and not cfg.lora_rank) or (cfg.use_vllm and cfg.vllm_mode == "colocate"):
        make_reference_loadable(policy.model, policy.tokenizer, folder / "start_policy")
    args = setup.grpo_config(
        folder,
        policy,
        cfg.save_steps,
        cfg.seed,
        num_generations=cfg.group_size,
        max_completion_length=cfg.max_new_tokens,
        learning_rate=cfg.lr,
        beta=cfg.kl_beta,
        per_device_train_batch_size=cfg.per_device_batch_size,
        max_steps=cfg.max_steps or -1,
        optim=cfg.optimizer,
        **{name: getattr(cfg, name) for name in TRL_FIELDS},
        **trl_settings.vllm_options(cfg),
        **cfg.trl.options(),
    )
    trainer = GuardedGRPOTrainer(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        train_dataset=setup.dataset(train, functools.partial(make_prompt, target=cfg.language)),
        processing_class=policy.tokenizer,
        peft_config=lora_config(cfg.lora_rank, cfg.lora_alpha),
    )
    assert set(stop_ids(policy.tokenizer)) <= set(trainer.eos_token_ids)
    setup.quieten(trainer)
    return trainer


def train(cfg: RunCfg, run: Run, asked: dict[str, bool], started: float) -> None:
    """Do the whole run, or what is left of it from `run.resume`. `asked`: of ACTIONS."""
    from rl_nmt.results import export
    from rl_nmt.results.group_sampler import GroupSampler
    from rl_nmt.results.translation import divergence_monitor
    from rl_nmt.training import loop, prompt_filter
    from rl_nmt.training.callbacks import HeldOut, NoDifference, ProgressLine, Rollouts
    from wandb_reward_callback import WandbRewardCallback

    headroom_gate.require(asked, cfg.headroom_prompts, run)
    fixed = {n: value for n, value in used_settings.used(cfg).items() if n in FIXED_FIELDS} | raft.identity(cfg)
    run.require_same(DATA_FIELDS, **fixed, **trl_settings.identity(cfg, distributed.count()))
    sentences, rows, data_hash = setup.load_data(run, lambda: load_data(cfg, run.folder))
    prompt, write = prompt_for(cfg.language), functools.partial(make_prompt, target=cfg.language)
    start = warm_start.start_model(cfg, run, rows, write, prompt, started)
    policy, reward = load_policy(cfg, start), build_reward(cfg.settled(run.once))
    run.require_same(**setup.identity(start, reward), data=data_hash)
    evaluate, sample = evaluator(cfg, policy, rows, reward), GroupSampler.of(cfg, policy, write, reward)
    with run.under_way():
        before = setup.evaluate_before(run, lambda: evaluate(policy.model), rows, reward, cfg.max_new_tokens)
        run.begin(cfg)
        skip = setup.skipped(asked, "skip_launch_gate", "headroom")
        setup.ask_translation_gate(run, reward, rows, cfg.max_soft_win_share, cfg.seed, cfg.language, skip=skip)
        device = "cpu" if cfg.reward_offload else cfg.reward_device
        monitor = divergence_monitor(rows, cfg.independent_scorer, device, setting=run.setting)
        sample.noise_floor = setup.noise_floor(run, reward, before)
        skip = setup.skipped(asked, "skip_headroom_gate")
        headroom_gate.ask(run, sample, before, monitor, cfg.headroom_prompts, skip)
        if asked["headroom"]:
            return
        sentences = prompt_filter.choose(cfg, run, sample, sentences, started)
        setup_wandb(cfg, run)
        metrics = WandbRewardCallback(reward, path=run.folder / run.files.metrics)

        def held_out(trainer) -> HeldOut:
            save = functools.partial(export.save_best, run.folder, trainer, prompt)
            told: dict[str, Any] = {"eval_steps": cfg.eval_steps, "stop_on_divergence": cfg.on_divergence == "stop"}
            return HeldOut(before, lambda: evaluate(trainer.model), monitor, metrics.record, reward, save, **told)

        if cfg.method == "raft":
            trainer, watched = raft.train(cfg, run, policy, sample, sentences, held_out, started, prompt, metrics)
        else:
            trainer = build_trainer(cfg, run.folder, policy, reward, sentences)
            trainer.noise_floor, watched = sample.noise_floor, held_out(trainer)
            callbacks = [metrics, watched, NoDifference(trainer, cfg.patience), ProgressLine(reward, cfg.sample_steps)]
            callbacks += [Rollouts(reward, run.folder / run.files.rollouts)] if cfg.save_rollouts else []
            limits: dict[str, Any] = {"keep": cfg.save_total_limit, "max_hours": cfg.max_hours}
            loop.train(run, trainer, callbacks, parts={"reward": reward}, started=started, **limits)
        data = {"name": cfg.dataset_name, "rows": len(sentences), "sha256": data_hash}
        data["heldout"] = cfg.eval_file or cfg.eval_dataset
        told = raft.told(cfg, CARD_FIELDS) | warm_start.told(cfg)
        card = {"base_model": cfg.model_id, "data": data, "settings": told, "prompt": prompt}
        named = dataclasses.replace(task(cfg.language), method=cfg.method.upper())
        setup.finish(run, trainer, policy, watched, named, card, cfg.seed)
        if cfg.push_to and distributed.is_main_process():
            export.push(run.folder / "final", cfg.push_to)


def evaluate_only(cfg: RunCfg, folder: Path) -> None:
    """Print the table of the untrained policy."""
    _, rows, _ = distributed.from_main(lambda: load_data(cfg, folder))
    policy, reward = load_policy(cfg), build_reward(cfg)
    setup.evaluate_only(evaluator(cfg, policy, rows, reward)(policy.model), task(cfg.language))


def few_steps(few: RunCfg, folder: Path):
    """Load everything for a trainer of a few steps, to be timed."""
    sentences, _, _ = load_data(few, folder)
    return build_trainer(few, folder, load_policy(few), build_reward(few), sentences)


def diagnose(cfg: RunCfg, dry: bool) -> int:
    """Print what is missing on this machine; returns the exit status."""
    from rl_nmt.preflight import doctor

    findings = doctor.diagnose(cfg, models(cfg), cfg.output_dir, check, require_environment)
    print(doctor.table(findings), flush=True)
    if dry and not doctor.exit_code(findings):
        doctor.dry_step(cfg, few_steps)
    return doctor.exit_code(findings)


def main(argv: list[str] | None = None) -> int:
    started = time.monotonic()
    words = sys.argv[1:] if argv is None else argv
    cfg, actions, _ = config.parse(RunCfg, words, ACTIONS, prog="train_grpo_en_ta.py", description=__doc__)
    distributed.mute_others()
    if actions["doctor"]:
        return diagnose(cfg, actions["dry_step"])
    if actions["dry_step"]:
        raise ConfigError("--dry_step works only with --doctor: give both")
    check(cfg)
    headroom_gate.require(actions, cfg.headroom_prompts)
    if actions["download"]:
        hub.download(models(cfg))
        return 0
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is first imported
    only_reports = actions["eval_only"] or actions["headroom"]
    pushes = cfg.push_to and not only_reports and distributed.is_main_process()
    if pushes:
        from rl_nmt.results import export

        export.require_push(cfg.push_to)
    folder = Path(cfg.output_dir).expanduser()
    if not (only_reports or actions["fresh"]) and setup.finished(folder, task(cfg.language), used_settings.used(cfg)):
        if pushes:
            export.push(folder / "final", cfg.push_to)
        return 0
    require_environment(cfg)
    hub.require_models(models(cfg))
    distributed.start()  # refuses more processes than there are GPUs
    if actions["eval_only"]:
        evaluate_only(cfg, distributed.from_main(lambda: open_run_folder(cfg.output_dir, actions["fresh"])))
        return 0
    where: dict[str, Any] = {"script": "train_grpo_en_ta.py", "argv": argv, "find": phases.newest_checkpoint}
    with Run.open(cfg.output_dir, **where, fresh=actions["fresh"], force=actions["force"]) as run:
        train(cfg, run, actions, started)
    return 0


if __name__ == "__main__":
    errors.run(main)
