"""The settings of a TranslateGemma-style run, in sections. What of them cannot work together: checks.py. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recipes.translategemma.checks import accumulation_steps as accumulation_steps
from recipes.translategemma.checks import check as check
from recipes.translategemma.checks import check_rows as check_rows
from recipes.translategemma.checks import checkpoint_folder as checkpoint_folder
from recipes.translategemma.checks import hub_environment as hub_environment
from recipes.translategemma.checks import scorer_devices as scorer_devices
from recipes.translategemma.checks import value_of as value_of


@dataclass
class ModelCfg:
    """The policy."""

    policy_name_or_path: str = "google/gemma-3-4b-it"
    """The chat model to train: hub name or local folder."""
    policy_gpu_ids: tuple[int, ...] = ()
    """GPUs of the policy, one per process; empty: the first that no scorer wants."""
    reference_gpu_ids: tuple[int, ...] = ()
    """GPUs of the reference model: the policy's, beside which TRL keeps it; empty says the same."""
    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all weights (kept in fp32)."""
    lora_alpha: int = 32
    """LoRA scale numerator."""
    gradient_checkpointing: bool = True
    """Trade compute for memory in the backward pass."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention kernel of the policy."""


@dataclass
class DataCfg:
    """Sources to train on, held-out rows to evaluate on."""

    train_file: str = ""
    """JSONL, JSON, TSV or Parquet with a source and, where there is one, a reference per row; or hf_dataset_name."""
    hf_dataset_name: str = ""
    """Data set on the hub (also name@revision), local folder or file; google/wmt24pp is known by name."""
    hf_dataset_config_name: str = ""
    """Its configuration; empty for google/wmt24pp: the target language's."""
    hf_train_split: str = "train"
    """Split to train on."""
    hf_eval_split: str = ""
    """Split to evaluate on; empty: rows sampled from the training split."""
    eval_file: str = ""
    """Local file with held-out rows; it comes before hf_eval_split and sampling."""
    eval_sampling_count: int = 0
    """Rows held out of the training rows, chosen by a hash of (eval_sampling_seed, id); wins over the ratio."""
    eval_sampling_ratio: float = 0.05
    """Share of the training rows that is held out in the same way, where no other held-out rows are named."""
    eval_sampling_seed: int = 42
    """Changes which rows are held out."""
    id_field: str = ""
    """Column with a unique id; empty: `id` where there is one, else a hash of the source."""
    source_field: str = ""
    """Column with the source; empty: found by name (the language, its code, source, src, text)."""
    target_field: str = ""
    """Column with the reference; empty: found by name (the language, its code, target, tgt, reference, ref)."""
    source_lang: str = "en"
    """Code of the source language, as en or en_US."""
    target_lang: str = "ta"
    """Code of the target language, as ta, ko_KR or zh-TW."""
    document_chars: tuple[int, ...] = ()
    """Two numbers, as 20 300: rows are English web documents, and their first clean sentences of so many characters
    are the source; empty: rows are taken as they are."""
    max_train_samples: int = 0
    """Training rows to keep, chosen by hash; 0: all."""


@dataclass
class GenerationCfg:
    """Sampling of completions."""

    num_samples_per_prompt: int = 4
    """Completions sampled per prompt, ranked against each other."""
    temperature: float = 0.4
    """Sampling temperature."""
    top_p: float = 1.0
    """Nucleus sampling; 1.0 is off."""
    top_k: int = 0
    """Sample among so many tokens; 0 is off."""
    max_new_tokens: int = 512
    """Longest completion in tokens."""
    prompt: str = ""
    """What the model is asked, with the slot {source} for the source, whatever its language; empty: what
    TranslateGemma is asked."""
    eval_batch_size: int = 16
    """Prompts decoded together in evaluation."""


@dataclass
class MetricXCfg:
    """MetricX-24 without a reference: offset - score, for the whole sequence."""

    enabled: bool = True
    """Ask this scorer."""
    weight: float = 1.0
    """Factor of offset - score in the sequence reward."""
    model_name_or_path: str = "google/metricx-24-hybrid-xl-v2p6"
    """Checkpoint: hub name or folder."""
    tokenizer_name_or_path: str = ""
    """mT5 tokenizer; empty: the checkpoint's own, or google/mt5-* of its size."""
    device: str = "auto"
    """auto, cpu or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights (mT5 overflows in float16)."""
    python_executable: str = ""
    """Python of another environment to run it in; empty: this process."""
    offset: float = 5.0
    """What the score, 0 (perfect) to 25, is taken from."""
    max_length: int = 1536
    """Longest input in tokens."""


@dataclass
class XcometCfg:
    """XCOMET without a reference: error spans for tokens, and a score for the sequence."""

    enabled: bool = True
    """Ask this scorer."""
    weight: float = 1.0
    """Factor of its spans' token rewards; 0 leaves them out."""
    sentence_weight: float = 0.0
    """Factor of its score, 0 to 1, in the sequence reward."""
    model_name_or_path: str = "Unbabel/XCOMET-XL"
    """Checkpoint: hub name (gated, non-commercial licence) or folder."""
    device: str = "auto"
    """auto, cpu or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of linears and attention; a lower one changes some spans."""
    python_executable: str = ""
    """Python of another environment to run it in, as one with transformers 4; empty: this process."""
    overlap: Literal["any", "majority"] = "any"
    """Which tokens a span touches: any that share a character, or those with half of theirs in it."""
    combine: Literal["sum", "min", "max"] = "sum"
    """Of several spans on one token: add up, the worst, the mildest."""
    use_confidence: bool = False
    """Multiply a span's reward by its confidence."""
    minor: float = -1.0
    """Reward of a token in a minor error."""
    major: float = -5.0
    """In a major error."""
    critical: float = -10.0
    """In a critical error."""
    scale: float = 1.0
    """Factor of all three, to bring scorers of different ranges together."""


@dataclass
class MqmCfg:
    """A language model as MQM annotator (GEMBA-MQM) behind an OpenAI-compatible endpoint."""

    enabled: bool = False
    """Ask this scorer."""
    weight: float = 1.0
    """Factor of its spans' token rewards; 0 leaves them out."""
    sentence_weight: float = 0.0
    """Factor of its score, -25 to 0, in the sequence reward."""
    endpoint: str = ""
    """Base address, as http://host:8000/v1."""
    model: str = ""
    """The endpoint's name for the model."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty: no key is sent."""
    form: Literal["auto", "json", "text"] = "auto"
    """How it answers: a JSON schema, headed lists, or the first that the server takes."""
    max_tokens: int = 1024
    """Longest reply in tokens, thoughts included; one that is cut off counts as none."""
    concurrency: int = 8
    """Most requests under way at once."""
    timeout: float = 60.0
    """Seconds for one request."""
    deadline: float = 180.0
    """Seconds for one step's requests, retries included."""
    overlap: Literal["any", "majority"] = "any"
    """Which tokens a span touches."""
    combine: Literal["sum", "min", "max"] = "sum"
    """Of several spans on one token: add up, the worst, the mildest."""
    minor: float = -1.0
    """Reward of a token in a minor error."""
    major: float = -5.0
    """In a major error."""
    critical: float = -10.0
    """In a critical error."""
    scale: float = 1.0
    """Factor of all three."""


@dataclass
class RewardCfg:
    """What a translation is worth."""

    guards: Literal["on", "off"] = "on"
    """Gate outputs that are no translation, before any model is asked."""
    overlong: Literal["truncate", "skip"] = "truncate"
    """Inputs longer than a scorer takes: cut off at their end, or left without a score."""
    cache_size: int = 100_000
    """Scores remembered per scorer for equal (source, translation); 0: none."""
    max_soft_win_share: float = 0.1
    """Launch gate: mean share of wins that cheats which could pass for translations may have."""
    metricx: MetricXCfg = field(default_factory=MetricXCfg)
    """MetricX-24: a sequence reward."""
    xcomet: XcometCfg = field(default_factory=XcometCfg)
    """XCOMET: error spans, and a sequence reward on request."""
    mqm: MqmCfg = field(default_factory=MqmCfg)
    """An MQM judge: error spans, and a sequence reward on request."""


@dataclass
class RlCfg:
    """Credit and optimizer."""

    backend: Literal["trl"] = "trl"
    """The trainer: TRL's GRPO, with advantages per token."""
    credit: Literal["token", "sequence"] = "token"
    """Spans reward the tokens that carry the error, or are left out (for comparison)."""
    normalise: bool = True
    """Normalise advantages over all valid tokens of the update; False: TRL's group advantages plus token rewards."""
    baseline: Literal["batch", "group"] = "batch"
    """Subtracted when advantages are normalised: the mean over all tokens, or over those of the prompt's samples."""
    group_coefficient: float = 0.0
    """Weight of the group z-score that is added before normalisation."""
    clip: float = 0.2
    """PPO clip range of the probability ratio."""
    clip_high: float = 0.0
    """Its upper side; 0: the same."""
    kl: float = 0.01
    """Weight of the KL penalty against the start policy; 0 loads no reference."""
    lr: float = 1e-6
    """Peak learning rate: constant after a short warm-up (about 1e-5 for LoRA, 1e-6 for all weights)."""
    warmup_steps: int = 10
    """Updates of linear warm-up."""
    prompts_per_update: int = 8
    """Prompts per update, over all processes."""
    micro_batch_size: int = 4
    """Sequences per process in one forward and backward pass."""
    iterations: int = 1
    """Passes over the same completions."""
    updates: int = 720
    """Optimizer steps; 0: one pass over the prompts."""
    eval_every: int = 20
    """Updates between evaluations; 0: only before and after."""
    save_every: int = 20
    """Updates between checkpoints; 0: only the final model."""
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo"] = "dapo"
    """How TRL averages the token losses."""
    optimizer: Literal["adamw_torch", "adamw_torch_fused", "adafactor"] = "adamw_torch"
    """Optimizer."""
    max_hours: float = 0.0
    """Stop in time to have saved within so many hours of the start, to be resumed; 0: never."""
    seed: int = 42
    """Seeds data order, sampling and adapters."""


@dataclass
class LoggingCfg:
    """Run folder and tracking."""

    output_dir: str = "runs/translategemma"
    """Run folder."""
    save_rollouts: bool = False
    """Keep every completion with log-probs, offsets and token rewards in train_rollouts.jsonl."""
    save_eval_outputs: bool = True
    """Keep the outputs of every evaluation in eval_outputs.jsonl."""
    auto_resume: bool = True
    """Continue an unfinished run from its newest valid checkpoint."""
    resume_from_checkpoint: str = ""
    """Continue from this checkpoint, whatever came after it; needs auto_resume False."""
    save_only_best: bool = False
    """Keep only best and resume_latest."""
    save_total_limit: int = 2
    """Checkpoints kept."""
    logging_steps: int = 1
    """Updates between progress lines."""
    sample_steps: int = 20
    """Print two samples every so many updates; 0: never."""
    use_wandb: bool = False
    """Log to Weights & Biases; offline when there is no login or no server."""
    wandb_project: str = "rl-nmt-translategemma"
    """W&B project."""
    wandb_entity: str = ""
    """W&B team or user; empty: your default."""
    wandb_run_name: str = ""
    """W&B run name; empty: the run folder's name."""
    wandb_mode: Literal["online", "offline", "disabled"] = "online"
    """W&B mode."""


@dataclass
class MiscCfg:
    """The machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cpu leaves GPUs alone."""
    huggingface_cache_dir: str = ""
    """Folder for models and data sets from the hub; empty: its own default."""
    huggingface_token_env: str = ""
    """Environment variable with the hub token; empty: your login, or HF_TOKEN."""
    huggingface_token: str = field(
        default="",
        repr=False,
        metadata={"secret": True, "in_file": "name an environment variable in misc.huggingface_token_env instead"},
    )
    """Accepted in a file with a warning, never as a flag; never printed or saved."""
    independent_scorer: str = field(default="", metadata={"was": "judge_model"})
    """COMET checkpoint outside the reward, to watch it and choose best where held-out rows have no references."""
    on_divergence: Literal["warn", "stop"] = "warn"
    """What to do when the reward rises while the score outside it falls."""


@dataclass
class TranslateGemmaCfg:
    """Reinforcement learning of a translation model on MetricX, XCOMET and MQM spans, with credit per token."""

    model: ModelCfg = field(default_factory=ModelCfg)
    """The policy."""
    data: DataCfg = field(default_factory=DataCfg)
    """Rows to train on and to hold out."""
    generation: GenerationCfg = field(default_factory=GenerationCfg)
    """Sampling."""
    reward: RewardCfg = field(default_factory=RewardCfg)
    """Scorers and guards."""
    rl: RlCfg = field(default_factory=RlCfg)
    """Credit and optimizer."""
    logging: LoggingCfg = field(default_factory=LoggingCfg)
    """Run folder and tracking."""
    misc: MiscCfg = field(default_factory=MiscCfg)
    """The machine."""
