"""The settings of a diffusion run, flat; checks.py refuses invalid combinations. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rl_nmt import config, settings_file
from rl_nmt.ranges import above, at_least, between


@dataclass
class DiffusionCfg:
    """GRPO for a masked-diffusion GPT, with a frozen judge."""

    # Models
    generator_checkpoint: str = ""  # masked-diffusion GPT to refine: folder or hub name; empty: of the pretrain phase
    judge_checkpoint: str = ""  # frozen sequence-regression checkpoint, or module:name of a reward function
    phase: Literal["grpo", "pretrain", "both"] = "grpo"  # pretrain makes a generator in output_dir/pretrain

    # Text
    dataset: str = "allenai/c4"  # text: hub name, local path, or json | parquet | text with data_files
    dataset_config: str = "en"  # configuration of a hub data set
    dataset_split: str = "train"  # split to stream
    data_files: tuple[str, ...] = ()  # local files for dataset json | parquet | text; globs allowed
    text_field: str = "text"  # column with the text
    num_train_samples: int = at_least(1, 2000)  # distinct texts taken from the stream; read once, then local
    num_eval_samples: int = at_least(1, 200)  # held-out texts, chosen by hash
    shuffle_buffer: int = at_least(1, 10000)  # rows held in the streaming shuffle buffer
    min_chars: int = at_least(1, 20)  # shortest cleaned text that is used, in characters
    max_chars: int = at_least(1, 300)  # longest; of longer texts the first whole sentences are kept
    template_file: str = ""  # templates of your own instead of texts: a line each, [MASK] or [MASK:8] where to write

    # Masks
    span_share: float = between(0, 1, 0.4)  # share of templates with one masked span
    random_share: float = between(0, 1, 0.2)  # with masks at random places
    suffix_share: float = between(0, 1, 0.4)  # with a masked end: a prompt and its continuation
    mask_low: float = between(0, 1, 0.3, open_left=True)  # least share of a text's tokens that is masked
    mask_high: float = between(0, 1, 0.7, open_left=True)  # greatest share, but never fewer masks than denoising_steps

    # Sampler
    denoising_steps: int = at_least(0, 8)  # S, steps in which the masks are revealed; 0: one mask at a time
    order: Literal["random", "confidence"] = "random"  # of revealing; confidence makes every estimator inexact
    temperature: float = above(0, 0.8)  # of sampling, and of the log-probabilities
    top_p: float = between(0, 1, 1.0, open_left=True)  # nucleus sampling; 1.0 is off; not with estimator trajectory

    # GRPO
    estimator: Literal["trajectory", "one_step", "coupled"] = (
        "trajectory"  # of log-probabilities; only the first is exact
    )
    group_size: int = at_least(2, 8)  # fills sampled per template, ranked against each other (G)
    kl_coef: float = at_least(0, 0.1)  # weight of the KL penalty against the start; 0 loads no reference
    learning_rate: float = above(0, 1e-5)  # peak rate, constant after warm-up
    warmup_steps: int = at_least(0, 10)  # optimizer steps of linear warm-up
    templates_per_step: int = at_least(1, 16)  # templates per optimizer step
    batch_size: int = at_least(1, 16)  # fills in one forward and backward pass
    num_iterations: int = at_least(1, 1)  # updates from each generation
    clip_range: float = above(0, 0.2)  # ε: how far the ratio of new to old probabilities counts
    grad_clip: float = above(0, 1.0)  # greatest norm of a gradient
    loss_type: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = "dapo"  # TRL's loss
    scale_rewards: Literal["group", "batch", "none"] = "group"  # spread of rewards that divides advantages
    max_steps: int = at_least(0, 0)  # optimizer steps; 0: one pass over the templates
    amp: bool = True  # bf16 autocast where the GPU has bf16 units
    gradient_checkpointing: bool = False  # trade compute for memory in the backward pass
    seed: int = between(0, 2**32 - 1, 42)  # seeds data, masks and sampling

    # Pretraining (--phase pretrain or both)
    tokenizer: str = "characters"  # one token per character of the texts, or a folder or hub name
    block_size: int = at_least(8, 1024)  # longest sequence in tokens
    hidden_size: int = at_least(8, 256)  # width of the model
    layers: int = at_least(1, 6)  # transformer blocks
    heads: int = at_least(1, 4)  # attention heads; divides hidden_size
    pretrain_steps: int = at_least(1, 5000)  # optimizer steps
    pretrain_batch_size: int = at_least(1, 64)  # texts per step
    pretrain_lr: float = above(0, 1e-3)  # peak learning rate, falling to 0

    # Evaluation
    outside_measure: str = ""  # table of word trigrams (.npy), or module:name of a function; never part of the reward
    eval_steps: int = at_least(0, 0)  # optimizer steps between evaluations; 0: only before and after
    eval_batch_size: int = at_least(1, 64)  # fills sampled together in evaluation

    # Output and tracking
    output_dir: str = "runs/diffusion"  # run folder
    save_steps: int = at_least(0, 50)  # optimizer steps between checkpoints; 0: only the final model
    save_total_limit: int = at_least(1, 2)  # checkpoints kept
    logging_steps: int = at_least(1, 1)  # optimizer steps between progress lines
    sample_steps: int = at_least(0, 20)  # optimizer steps between dumps of samples; 0: none
    max_hours: float = at_least(0, 0.0)  # save and stop, resumable, within this many hours of the start; 0: never
    use_wandb: bool = False  # log to Weights & Biases; offline without a login or connection
    wandb_project: str = "rl-nmt-diffusion"  # W&B project
    wandb_entity: str = ""  # W&B team or user; empty: your default
    wandb_run_name: str = ""  # W&B run name; empty: the run folder's name
    wandb_mode: Literal["online", "offline", "disabled"] = "online"  # W&B mode

    @classmethod
    def from_file(cls, path: str | Path) -> DiffusionCfg:
        """Return the settings in a YAML file, or in a Python file that assigns them. Raises ConfigError."""
        return config.parse(cls, settings_file.flags([str(path)]), {}, "", "")[0]
