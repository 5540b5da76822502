"""The settings of a preference run, in sections; checks.py refuses invalid combinations. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rl_nmt.ranges import above, at_least, between


@dataclass
class ModelCfg:
    """The policy."""

    name: str = "google/gemma-3-4b-it"  # a Gemma 3 chat model: hub name or local folder; 270M and 1B are text only
    lora_rank: int = at_least(0, 16)  # rank of the LoRA adapters; 0 trains all weights (kept in fp32)
    lora_alpha: int = at_least(1, 32)  # numerator of the LoRA scale, lora_alpha / lora_rank
    load_in_4bit: bool = False  # keep the frozen base in 4-bit nf4 (needs bitsandbytes and LoRA)
    gradient_checkpointing: bool = False  # trade compute for memory in the backward pass
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"  # attention kernel


@dataclass
class DatasetCfg:
    """Rows with a prompt, a chosen and a rejected answer, and images where there are some."""

    train_file: str = ""  # JSONL, JSON or Parquet, a folder of save_to_disk, or a hub name
    eval_file: str = ""  # the same, to evaluate on; empty: eval_count of the training prompts, by their hash
    eval_count: int = at_least(1, 200)  # rows to evaluate on, at most
    split: str = "train"  # split of a hub data set or of a save_to_disk folder
    eval_split: str = ""  # the same of eval_file; empty: split
    config: str = ""  # configuration of a hub data set that has several
    prompt_field: str = ""  # column with the prompt; empty: prompt, question, instruction or input
    chosen_field: str = ""  # column with the better answer; empty: chosen
    rejected_field: str = ""  # column with the worse answer; empty: rejected
    image_field: str = ""  # column with an image or a list of images (path or bytes); empty: images or image
    mathvista_file: str = ""  # MathVista-shaped rows, for evaluation only: their licence forbids training
    seed: int = at_least(0, 42)  # changes which rows are held out


@dataclass
class TrainingCfg:
    """The method and its step."""

    method: Literal["grpo", "dpo"] = "grpo"  # grpo: pairs as groups of two; dpo: TRL's DPOTrainer, for comparison
    beta: float = at_least(0, 0.1)  # weight of the KL penalty against the frozen start model; of DPO: its beta
    sampled: int = at_least(0, 0)  # answers sampled by the policy per group, next to the pair (mixed groups)
    scale_rewards: Literal["group", "none"] = "group"  # none: the margin of the rewards sets the size of a step
    max_new_tokens: int = at_least(1, 256)  # longest answer, given or sampled, in tokens
    temperature: float = above(0, 1.0)  # of sampled answers
    pairs_per_step: int = at_least(1, 8)  # pairs per optimizer step
    micro_batch_size: int = at_least(1, 4)  # sequences in one forward and backward pass
    epochs: float = above(0, 1.0)  # passes over the rows
    max_steps: int = at_least(0, 0)  # optimizer steps instead of epochs; 0: epochs
    lr: float = above(0, 5e-6)  # peak learning rate, constant after warm-up
    warmup_steps: int = at_least(0, 10)  # optimizer steps of linear warm-up


@dataclass
class RewardCfg:
    """What an answer of a pair, or a sampled one, is worth."""

    source: str = "label"
    """label: chosen 1, rejected 0; heuristic: see reward.py; or module:name of a reward callable."""
    length_cap: float = between(0, 1, 0.5)  # heuristic: highest part for length, one hundredth per character
    reasoning_cap: float = between(0, 1, 0.3)  # heuristic: highest part for reasoning words, 0.1 each
    structure_cap: float = between(0, 1, 0.2)  # heuristic: highest part for . ! and ?, one fifth each


@dataclass
class EvaluationCfg:
    """Held-out pairs: reward accuracy and implicit preference accuracy."""

    every: int = at_least(0, 0)  # optimizer steps between evaluations; 0: only before and after
    batch_size: int = at_least(1, 16)  # answers scored or decoded together
    shuffled_images: bool = True  # measure again with every picture replaced by another row's


@dataclass
class LoggingCfg:
    """Run folder and tracking."""

    output_dir: str = "runs/preference"  # run folder
    save_every: int = at_least(0, 50)  # optimizer steps between checkpoints; 0: only the final model
    save_total_limit: int = at_least(1, 2)  # checkpoints kept
    logging_steps: int = at_least(1, 1)  # optimizer steps between progress lines
    sample_steps: int = at_least(0, 20)  # optimizer steps between printed samples; 0: none
    max_hours: float = at_least(0, 0.0)  # save and stop, resumable, within this many hours of the start; 0: never
    use_wandb: bool = False  # log to Weights & Biases; offline without a login or connection
    wandb_project: str = "rl-nmt-preference"  # W&B project
    wandb_entity: str = ""  # W&B team or user; empty: your default
    wandb_run_name: str = ""  # W&B run name; empty: the run folder's name
    wandb_mode: Literal["online", "offline", "disabled"] = "online"  # W&B mode


@dataclass
class PreferenceCfg:
    """GRPO on preference pairs, text or multimodal."""

    limit: int = at_least(0, 0)  # training rows and held-out rows, at most, for a quick run; 0: all
    seed: int = at_least(0, 42)  # seeds data order, sampling and adapters
    model: ModelCfg = field(default_factory=ModelCfg)  # the policy
    training: TrainingCfg = field(default_factory=TrainingCfg)  # the method and its step
    dataset: DatasetCfg = field(default_factory=DatasetCfg)  # rows
    reward: RewardCfg = field(default_factory=RewardCfg)  # what an answer is worth
    evaluation: EvaluationCfg = field(default_factory=EvaluationCfg)  # what is measured
    logging: LoggingCfg = field(default_factory=LoggingCfg)  # run folder and tracking
