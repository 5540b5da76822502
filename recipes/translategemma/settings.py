"""The settings of a TranslateGemma-style run, in sections; checks.py refuses invalid combinations. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rl_nmt.ranges import above, at_least, at_most, between


@dataclass
class ModelCfg:
    """The policy."""

    policy_name_or_path: str = "google/gemma-3-4b-it"  # the chat model to train: hub name or local folder
    policy_gpu_ids: tuple[int, ...] = ()  # GPUs of the policy, one per process; empty: the first that no scorer wants
    reference_gpu_ids: tuple[int, ...] = ()  # leave empty, or repeat policy_gpu_ids: TRL keeps the reference there
    lora_rank: int = at_least(0, 0)  # Rank of LoRA adapters; 0 trains all weights (kept in fp32)
    lora_alpha: int = at_least(1, 32)  # LoRA scale numerator
    gradient_checkpointing: bool = True  # trade compute for memory in the backward pass
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"  # attention kernel of the policy


@dataclass
class DataCfg:
    """Sources to train on, held-out rows to evaluate on."""

    train_file: str = ""  # JSONL, JSON, TSV or Parquet: a source per row, optionally a reference; or hf_dataset_name
    hf_dataset_name: str = ""  # data set on the hub (also name@revision; google/wmt24pp is known), local folder or file
    hf_dataset_config_name: str = ""  # its configuration; empty for google/wmt24pp: the target language's
    hf_train_split: str = "train"  # split to train on
    hf_eval_split: str = ""  # split to evaluate on; empty: rows sampled from the training split
    eval_file: str = ""  # local file with held-out rows, instead of hf_eval_split or sampling
    eval_sampling_count: int = at_least(0, 0)  # rows to hold out, by hash of (eval_sampling_seed, id); 0: use the ratio
    eval_sampling_ratio: float = between(0, 0.99, 0.05)  # share held out likewise, if no other rows are set
    eval_sampling_seed: int = 42  # changes which rows are held out
    id_field: str = ""  # column with a unique id; empty: `id` if there is one, else a hash of the source
    source_field: str = ""  # column with the source; empty: found by name (the language, its code, source, src, text)
    target_field: str = ""  # column with the reference; empty: found likewise (or as target, tgt, reference, ref)
    source_lang: str = "en"  # code of the source language, e.g. en or en_US
    target_lang: str = "ta"  # code of the target language, e.g. ta, ko_KR or zh-TW
    document_chars: tuple[int, ...] = ()
    """Two numbers, e.g. 20 300: rows are English web documents, and the source is their first clean sentences with so
    many characters; empty: rows are used unchanged."""
    max_train_samples: int = at_least(0, 0)  # training rows to keep, chosen by hash; 0: all


@dataclass
class GenerationCfg:
    """Sampling of completions."""

    num_samples_per_prompt: int = at_least(2, 4)  # completions sampled per prompt, compared with each other
    temperature: float = above(0, 0.4)  # sampling temperature
    top_p: float = between(0, 1, 1.0, open_left=True)  # nucleus sampling; 1.0 is off
    top_k: int = at_least(0, 0)  # sample among the k most likely tokens; 0 is off
    max_new_tokens: int = at_least(1, 512)  # longest completion in tokens
    prompt: str = ""  # the prompt, with {source} in the place of the source; empty: TranslateGemma's prompt
    eval_batch_size: int = at_least(1, 16)  # prompts decoded together in evaluation


@dataclass
class MetricXCfg:
    """MetricX-24 without a reference: offset - score, for the whole sequence."""

    enabled: bool = True  # use this scorer
    weight: float = at_least(0, 1.0)  # factor of offset - score in the sequence reward
    model_name_or_path: str = "google/metricx-24-hybrid-xl-v2p6"  # checkpoint: hub name or folder
    tokenizer_name_or_path: str = ""  # mT5 tokenizer; empty: the checkpoint's own, or google/mt5-* of the same size
    device: str = "auto"  # auto, cpu or cuda:N
    dtype: Literal["float32", "bfloat16"] = "float32"  # precision of the weights (mT5 overflows in float16)
    python_executable: str = ""  # Python of another environment to run it in; empty: this process
    offset: float = 5.0  # the score, 0 (perfect) to 25, is subtracted from it
    max_length: int = at_least(2, 1536)  # longest input in tokens


@dataclass
class SpanCfg:
    """Token rewards of error spans, for any scorer that marks them."""

    enabled: bool = True  # use this scorer
    weight: float = at_least(0, 1.0)  # factor of its spans' token rewards; 0 leaves them out
    sentence_weight: float = at_least(0, 0.0)  # factor of its score (0 to 1; MQM -25 to 0) in the sequence reward
    overlap: Literal["any", "majority"] = "any"  # a span covers a token by one character, or by half of its characters
    combine: Literal["sum", "min", "max"] = "sum"  # several spans on one token: add, lowest, highest reward
    minor: float = at_most(0, -1.0)  # reward of a token in a minor error
    major: float = at_most(0, -5.0)  # in a major error
    critical: float = at_most(0, -10.0)  # in a critical error
    scale: float = above(0, 1.0)  # factor of all three, to match scorers of different ranges


@dataclass
class XcometCfg(SpanCfg):
    """XCOMET without a reference: error spans for tokens, and a score for the sequence."""

    use_confidence: bool = False  # multiply a span's reward by its confidence
    model_name_or_path: str = "Unbabel/XCOMET-XL"  # checkpoint: hub name (gated, non-commercial licence) or folder
    device: str = "auto"  # auto, cpu or cuda:N
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # precision; a lower one changes some spans
    python_executable: str = ""  # Python of another environment to run it in; empty: this process


@dataclass
class MqmCfg(SpanCfg):
    """A language model as MQM annotator (GEMBA-MQM) behind an OpenAI-compatible endpoint."""

    enabled: bool = False  # use this scorer
    endpoint: str = ""  # Base address, e.g. http://host:8000/v1
    model: str = ""  # the endpoint's name for the model
    api_key_env: str = ""  # environment variable with the key; empty: no key is sent
    form: Literal["auto", "json", "text"] = "auto"  # of the reply: JSON schema, lists under headings, or what works
    max_tokens: int = at_least(1, 1024)  # longest reply in tokens, thoughts included; a truncated reply gives no score
    concurrency: int = at_least(1, 8)  # most requests at once
    timeout: float = above(0, 60.0)  # seconds for one request
    deadline: float = above(0, 180.0)  # seconds for one step's requests, retries included


@dataclass
class RewardCfg:
    """Scorers, gates and launch gate."""

    guards: Literal["on", "off"] = "on"  # gate invalid outputs before any model scores them
    overlong: Literal["truncate", "skip"] = "truncate"  # inputs too long for a scorer: cut off the end, or no score
    cache_size: int = at_least(0, 100_000)  # cached scores per scorer, by (source, translation); 0: none
    max_soft_win_share: float = between(0, 1, 0.1)  # launch gate: highest mean share of wins for plausible cheats
    metricx: MetricXCfg = field(default_factory=MetricXCfg)  # MetricX-24: a sequence reward
    xcomet: XcometCfg = field(default_factory=XcometCfg)  # XCOMET: error spans, optionally a sequence reward
    mqm: MqmCfg = field(default_factory=MqmCfg)  # an MQM judge: error spans, optionally a sequence reward


@dataclass
class RlCfg:
    """Credit and optimizer."""

    backend: Literal["trl"] = "trl"  # the trainer: TRL's GRPO, with advantages per token
    credit: Literal["token", "sequence"] = "token"  # reward tokens by error spans, or leave spans out (for comparison)
    normalise: bool = True  # advantages over all tokens of the update; False: TRL's group advantages + token rewards
    baseline: Literal["batch", "group"] = "batch"  # mean to subtract: over all tokens of the update, or of the prompt
    group_coefficient: float = at_least(0, 0.0)  # weight of the group z-score, added before normalisation
    clip: float = between(0, 0.99, 0.2, open_left=True)  # PPO clip range of the probability ratio
    clip_high: float = at_least(0, 0.0)  # upper side of the clip range; 0: same as clip
    kl: float = at_least(0, 0.01)  # weight of the KL penalty against the start policy; 0 loads no reference
    lr: float = above(0, 1e-6)  # peak learning rate, constant after warm-up (about 1e-5 for LoRA, 1e-6 for all weights)
    warmup_steps: int = at_least(0, 10)  # updates of linear warm-up
    prompts_per_update: int = at_least(1, 8)  # prompts per update, over all processes
    micro_batch_size: int = at_least(1, 4)  # sequences per process in one forward and backward pass
    iterations: int = at_least(1, 1)  # passes over the same completions
    updates: int = at_least(0, 720)  # optimizer steps; 0: one pass over the prompts
    eval_every: int = at_least(0, 20)  # updates between evaluations; 0: only before and after
    save_every: int = at_least(0, 20)  # updates between checkpoints; 0: only the final model
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"] = "dapo"  # how TRL averages the token losses
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor"] = "adamw_torch"  # optimizer
    max_hours: float = at_least(0, 0.0)  # save and stop within so many hours of the start; 0: never
    seed: int = at_least(0, 42)  # seeds data order, sampling and adapters


@dataclass
class LoggingCfg:
    """Run folder and tracking."""

    output_dir: str = "runs/translategemma"  # run folder
    save_rollouts: bool = False  # keep completions, log-probs, offsets and token rewards in train_rollouts.jsonl
    save_eval_outputs: bool = True  # keep the outputs of every evaluation in eval_outputs.jsonl
    auto_resume: bool = True  # continue an unfinished run from its newest valid checkpoint
    resume_from_checkpoint: str = ""  # continue from this checkpoint, even if newer ones exist; needs auto_resume False
    save_only_best: bool = False  # keep only best and the newest checkpoint
    save_total_limit: int = at_least(1, 2)  # checkpoints kept
    logging_steps: int = at_least(1, 1)  # updates between progress lines
    sample_steps: int = at_least(0, 20)  # print two samples every so many updates; 0: never
    use_wandb: bool = False  # log to Weights & Biases; offline without a login or connection
    wandb_project: str = "rl-nmt-translategemma"  # W&B project
    wandb_entity: str = ""  # W&B team or user; empty: your default
    wandb_run_name: str = ""  # W&B run name; empty: the run folder's name
    wandb_mode: Literal["online", "offline", "disabled"] = "online"  # W&B mode


@dataclass
class MiscCfg:
    """The machine, the hub, and a scorer outside the reward."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # cpu uses no GPU
    huggingface_cache_dir: str = ""  # folder for models and data sets from the hub; empty: its own default
    huggingface_token_env: str = ""  # environment variable with the hub token; empty: your login, or HF_TOKEN
    huggingface_token: str = field(
        default="",
        repr=False,
        metadata={"secret": True, "in_file": "name an environment variable in misc.huggingface_token_env instead"},
    )
    """Accepted in a file with a warning, never as a flag; never printed or saved."""
    independent_scorer: str = field(default="", metadata={"was": "judge_model"})
    """COMET checkpoint outside the reward, to monitor it and to choose best if held-out rows have no references."""
    on_divergence: Literal["warn", "stop"] = "warn"  # action when the reward rises while the score outside it falls


@dataclass
class TranslateGemmaCfg:
    """Reinforcement learning of a translation model on MetricX, XCOMET and MQM spans, with credit per token."""

    model: ModelCfg = field(default_factory=ModelCfg)  # the policy
    data: DataCfg = field(default_factory=DataCfg)  # rows to train on and to hold out
    generation: GenerationCfg = field(default_factory=GenerationCfg)  # sampling
    reward: RewardCfg = field(default_factory=RewardCfg)  # scorers and guards
    rl: RlCfg = field(default_factory=RlCfg)  # credit and optimizer
    logging: LoggingCfg = field(default_factory=LoggingCfg)  # run folder and tracking
    misc: MiscCfg = field(default_factory=MiscCfg)  # the machine
