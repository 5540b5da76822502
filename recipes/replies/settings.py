"""The settings of a replies run, in sections; checks.py refuses invalid combinations. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rl_nmt.ranges import above, at_least, between


@dataclass
class ExperimentCfg:
    """The arm, as one word."""

    type: Literal["", "baseline", "polychromic", "grpo"] = ""
    """baseline: SFT; polychromic: SFT with sft.diversity_weight; grpo: SFT, then GRPO; empty: training.use_grpo."""


@dataclass
class TrainingCfg:
    """The phases, as a switch."""

    use_grpo: Literal["", "true", "false"] = ""  # GRPO after SFT; empty: yes


@dataclass
class ModelCfg:
    """The policy."""

    name: str = "Qwen/Qwen3-0.6B"  # a chat model with a chat template: hub name or local folder; thinking is off
    prompt: str = "Write a short, friendly reply to this post: {source}"  # the user's turn, {source} is the post
    lora_rank: int = at_least(0, 16)  # rank of the LoRA adapters; 0 trains all weights (kept in fp32)
    lora_alpha: int = at_least(1, 32)  # numerator of the LoRA scale, lora_alpha / lora_rank
    load_in_4bit: bool = False  # keep the frozen base in 4-bit nf4 (needs bitsandbytes and LoRA)
    gradient_checkpointing: bool = False  # trade compute for memory in the backward pass
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"  # attention kernel


@dataclass
class DataCfg:
    """Rows with a post and a reply."""

    train_file: str = ""  # JSONL, JSON, TSV or Parquet, split into both phases; or sft_file and grpo_file
    sft_file: str = ""  # rows of the SFT phase, e.g. train_phase1_sft.jsonl of recipes.replies.split
    grpo_file: str = ""  # rows of the GRPO phase (its replies are not used), e.g. train_phase2_grpo.jsonl
    eval_file: str = ""  # rows to evaluate on; empty: eval_count of the training rows, by a hash of the post
    eval_count: int = at_least(1, 100)  # rows to evaluate on, at most
    split_ratio: float = between(0.05, 0.95, 0.5)  # share of train_file for the SFT phase
    split_seed: int = at_least(0, 42)  # changes which rows are in which phase, and which are held out
    post_field: str = ""  # column with the post; empty: post, tweet, text or source
    reply_field: str = ""  # column with the reply; empty: reply, response, output or reference


@dataclass
class SftCfg:
    """Phase 1: supervised fine-tuning on replies."""

    epochs: float = above(0, 3.0)  # passes over its rows
    max_steps: int = at_least(0, 0)  # optimizer steps instead of epochs; 0: epochs
    lr: float = above(0, 2e-4)  # peak learning rate, linear decay
    batch_size: int = at_least(1, 8)  # rows per forward and backward pass
    gradient_accumulation_steps: int = at_least(1, 2)  # passes per optimizer step
    diversity_weight: float = at_least(0, 0.0)
    """Weight of the polychromic term: the probability that two samples continue a reply differently; 0: plain SFT."""


@dataclass
class GrpoCfg:
    """Phase 2: GRPO from the SFT model, which is also the frozen reference."""

    start_from: str = ""  # finished SFT phase of another run (its sft folder); empty: this run's own
    n_generations: int = at_least(2, 4)  # replies sampled per post (K)
    temperature: float = above(0, 0.8)  # sampling temperature
    top_p: float = between(0, 1, 0.9, open_left=True)  # nucleus sampling; 1.0 is off
    max_new_tokens: int = at_least(1, 100)  # longest reply in tokens
    kl_coeff: float = at_least(0, 0.1)  # weight of the KL penalty against the SFT model; 0: no reference
    clip_advantage: bool = True  # limit advantages to ± advantage_clip_range
    advantage_clip_range: float = above(0, 10.0)  # group z-scores of K samples never exceed (K - 1) / sqrt(K)
    set_weight: float = at_least(0, 0.0)
    """Weight of a reply's share in the value of its set, mean reward × diversity (needs n_generations ≥ 3); 0: none."""
    posts_per_step: int = at_least(1, 8)  # posts per optimizer step
    micro_batch_size: int = at_least(1, 8)  # sequences in one forward and backward pass
    max_steps: int = at_least(0, 0)  # optimizer steps; 0: one pass over the rows
    lr: float = above(0, 1e-5)  # peak learning rate, constant after warm-up
    warmup_steps: int = at_least(0, 5)  # optimizer steps of linear warm-up


@dataclass
class RewardCfg:
    """The heuristic reward: six weighted components less two penalties; see heuristic.py."""

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"  # sentence encoder: hub name or folder; empty: none
    w_relevance: float = at_least(0, 0.30)  # weight of relevance: cosine of post and reply, mapped to 0 to 1
    w_length: float = at_least(0, 0.15)  # weight of length in characters, best at 50 to 150
    w_sentiment: float = at_least(0, 0.15)  # weight of the agreement of TextBlob's polarities
    w_diversity: float = at_least(0, 0.10)  # weight of distinct words
    w_punctuation: float = at_least(0, 0.10)  # weight of the density of punctuation
    w_engagement: float = at_least(0, 0.20)  # weight of engagement: no generic phrase, a question, no shouting
    w_copy: float = at_least(0, 0.5)  # penalty on word triples copied from the post; 0: none
    w_fluency: float = at_least(0, 0.5)  # penalty on replies that the start model finds unlikely; 0: none
    device: str = "auto"  # auto, cpu or cuda:N, of the encoder
    max_soft_win_share: float = between(0, 1, 0.1)  # launch gate: highest mean share of wins for plausible cheats


@dataclass
class EvaluationCfg:
    """Held-out replies: one greedy, and several sampled for pass@k and diversity."""

    samples: int = at_least(10, 10)  # replies sampled per post
    success_scorer: str = "recipes.replies.measure:likeness"
    """module:name of a function (posts, replies, references) -> scores; must not be the training reward."""
    threshold: float = at_least(0, 0.0)  # a reply succeeds at this score; 0: see quantile
    quantile: float = between(0, 1, 0.75, open_left=True)  # else at this quantile of the scores before the phase
    every: int = at_least(0, 0)  # optimizer steps between evaluations; 0: only before and after GRPO
    batch_size: int = at_least(1, 32)  # replies decoded together


@dataclass
class LoggingCfg:
    """Run folder and tracking."""

    output_dir: str = "runs/replies"  # run folder; the SFT phase is in its subfolder sft
    save_every: int = at_least(0, 50)  # optimizer steps between checkpoints; 0: only the final model
    save_total_limit: int = at_least(1, 2)  # checkpoints kept
    logging_steps: int = at_least(1, 1)  # optimizer steps between progress lines
    sample_steps: int = at_least(0, 20)  # optimizer steps between printed samples; 0: none
    max_hours: float = at_least(0, 0.0)  # save and stop, resumable, within this many hours of the start; 0: never
    use_wandb: bool = False  # log to Weights & Biases; offline without a login or connection
    wandb_project: str = "rl-nmt-replies"  # W&B project
    wandb_entity: str = ""  # W&B team or user; empty: your default
    wandb_run_name: str = ""  # W&B run name; empty: the run folder's name
    wandb_mode: Literal["online", "offline", "disabled"] = "online"  # W&B mode


@dataclass
class RepliesCfg:
    """Short replies by supervised fine-tuning and then GRPO on a heuristic reward."""

    phase: Literal["", "sft", "grpo", "both"] = ""  # phases to run; empty: experiment.type, then training.use_grpo
    limit: int = at_least(0, 0)  # rows per phase and held-out rows, at most, for a quick run; 0: all
    seed: int = at_least(0, 42)  # seeds data order, sampling and adapters
    experiment: ExperimentCfg = field(default_factory=ExperimentCfg)  # the arm, as one word
    training: TrainingCfg = field(default_factory=TrainingCfg)  # the phases, as a switch
    model: ModelCfg = field(default_factory=ModelCfg)  # the policy
    data: DataCfg = field(default_factory=DataCfg)  # rows
    sft: SftCfg = field(default_factory=SftCfg)  # phase 1
    grpo: GrpoCfg = field(default_factory=GrpoCfg)  # phase 2
    reward: RewardCfg = field(default_factory=RewardCfg)  # the heuristic
    evaluation: EvaluationCfg = field(default_factory=EvaluationCfg)  # what is measured
    logging: LoggingCfg = field(default_factory=LoggingCfg)  # run folder and tracking
