"""Settings of TRL's GRPOConfig as a section of a recipe: `trl:` in YAML, `--trl.NAME VALUE`. No torch.

    @dataclass
    class RunCfg:
        trl: TrlSettings = field(default_factory=TrlSettings)

Names, defaults and meaning are GRPOConfig's (TRL 1.16, trl/trainer/grpo_config.py); a number that may be None there is
0 here. Only settings with which a resumed run repeats the same bits are offered (docs/details.md, 46).
"""

import dataclasses
import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rl_nmt.errors import ConfigError
from rl_nmt.ranges import above, at_least, between

NONE_AT_ZERO = (
    *("steps_per_generation", "epsilon_high", "delta", "off_policy_mask_threshold", "min_p"),
    *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
)
IN_OPTIMIZER = ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")  # a resumed optimizer has the checkpoint's

OWNED = {  # GRPOConfig's name → the recipe's own setting, where the names differ
    "learning_rate": "lr",
    "num_generations": "group_size",
    "max_completion_length": "max_new_tokens",
    "beta": "kl_beta",
    "per_device_train_batch_size": "per_device_batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "generation_batch_size": "trl.steps_per_generation",
    "num_train_epochs": "max_steps",
    "optim": "optimizer",
    "data_seed": "seed",
    "report_to": "use_wandb",
    "run_name": "wandb_run_name",
    "push_to_hub": "push_to",
    "vllm_max_model_length": "max_chars and --max_new_tokens",
    "vllm_importance_sampling_cap": "trl.vllm_importance_sampling_clip_max",
}
_REFERENCE = (
    "it changes the reference model, which checkpoints do not hold, so a resumed run would differ; use --kl_beta, "
    "which penalises the distance from the start policy"
)
REFUSED = dict.fromkeys(("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps"), _REFERENCE)


@dataclass
class VllmSettings:
    """Settings of sampling through vLLM, flat in a recipe's own."""

    # vLLM
    use_vllm: bool = False  # sample through vLLM (requirements-vllm.txt)
    vllm_mode: Literal["colocate", "server"] = "colocate"  # an engine on each GPU, or one server (`trl vllm-serve`)
    vllm_server_host: str = "127.0.0.1"  # host of that server
    vllm_server_port: int = between(1, 65535, 8000)  # port of that server
    vllm_gpu_memory_utilization: float = between(0, 0.99, 0.3, open_left=True)  # share of GPU memory for an engine


@dataclass
class TrlSettings:
    """Settings of GRPOConfig beyond the recipe's own."""

    # Passes over a generation; both are fixed for a run
    num_iterations: int = at_least(1, 1)  # passes over each generation (μ of GRPO)
    steps_per_generation: int = at_least(0, 0)  # batches per generation; 0: gradient_accumulation_steps

    # Loss
    epsilon: float = above(0, 0.2)  # clip the probability ratio at 1 - epsilon, and at 1 + epsilon without epsilon_high
    epsilon_high: float = at_least(0, 0.0)  # upper clip at 1 + this (DAPO 0.28), for cispo at this (5.0); 0: epsilon
    delta: float = at_least(0, 0.0)  # upper bound of the ratio for negative advantages (INTELLECT-2); 0: none
    importance_sampling_level: Literal["token", "sequence"] = "token"  # one ratio per token or sequence (GSPO)
    mask_truncated_completions: bool = False  # leave completions cut at max_new_tokens out of the loss (DAPO)
    top_entropy_quantile: float = between(0, 1, 1.0)  # train on this share of tokens, by highest entropy; 1: all
    off_policy_mask_threshold: float = at_least(0, 0.0)
    """Leave out sequences with negative advantage and a KL above this (DeepSeek-V3.2); 0: none."""
    use_bias_correction_kl: bool = True  # multiply the KL penalty by the ratio, which makes its gradient unbiased
    entropy_coef: float = at_least(0, 0.0)  # weight of an entropy bonus
    use_adaptive_entropy: bool = False  # move that weight by 0.005 a step to hold entropy_target (Skywork-OR1)
    entropy_target: float = at_least(0, 0.2)  # nats per token; above it the adaptive bonus is off
    sapo_temperature_neg: float = above(0, 1.05)  # loss_type sapo: temperature of tokens with negative advantage
    sapo_temperature_pos: float = above(0, 1.0)  # the same with positive advantage
    vespo_k_pos: float = at_least(0, 2.0)  # loss_type vespo: exponent of low weights, positive advantages
    vespo_lambda_pos: float = at_least(0, 3.0)  # decay of high weights, positive advantages
    vespo_k_neg: float = at_least(0, 3.0)  # exponent of low weights, negative advantages
    vespo_lambda_neg: float = at_least(0, 2.0)  # decay of high weights, negative advantages

    # Sampling
    top_k: int = at_least(0, 0)  # sample from this many most probable tokens; 0: all
    min_p: float = between(0, 1, 0.0)  # leave out tokens below this share of the highest probability; 0: none
    repetition_penalty: float = above(0, 1.0)  # divides the logits of tokens in prompt and text so far; 1: none

    # Optimizer; weight decay, betas and epsilon are fixed for a run
    lr_scheduler_type: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    """Learning rate after the warm-up: constant, or falling to 0 at the last step."""
    max_grad_norm: float = at_least(0, 1.0)  # clip the gradient's norm at this; 0: never
    weight_decay: float = at_least(0, 0.0)  # weight decay of AdamW
    adam_beta1: float = between(0, 0.9999, 0.9)  # decay of AdamW's first moment
    adam_beta2: float = between(0, 0.9999, 0.999)  # decay of AdamW's second moment
    adam_epsilon: float = above(0, 1e-8)  # added to AdamW's denominator

    # vLLM
    vllm_enable_sleep_mode: bool = True  # colocate: free the engine's memory between generations
    vllm_importance_sampling_correction: bool = True  # weight by the trainer's probability over the engine's
    vllm_importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    """Clip that weight at its bounds or drop what is outside, per token or per sequence."""
    vllm_importance_sampling_clip_max: float = at_least(0, 3.0)  # upper bound of that weight; 0: none
    vllm_importance_sampling_clip_min: float = at_least(0, 0.0)  # lower bound; 0: none

    def options(self) -> dict[str, Any]:
        """Return the settings as GRPOConfig's keywords."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {name: None for name in NONE_AT_ZERO if not values[name]}

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, under "trl.NAME"."""
        fields = dataclasses.fields(self)
        return {f"trl.{f.name}": getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}

    def batches(self, accumulation: int) -> int:
        """Return how many batches one generation is split into."""
        return self.steps_per_generation or accumulation

    @staticmethod
    def why_not(name: str) -> str:
        """Return why GRPOConfig's `name` cannot be set here; "" for a name that it does not have."""
        if name in OWNED:
            return f"use --{OWNED[name]}"
        if name in REFUSED:
            return REFUSED[name]
        return "TRL's setting is not supported here; --help lists those that are" if name in _grpo_fields() else ""


def _grpo_fields() -> set[str]:
    """Return the fields of the installed GRPOConfig, read from its source: importing it would take seconds."""
    found: set[str] = set()
    for package, file in (
        ("trl", "trainer/grpo_config.py"),
        ("trl", "trainer/base_config.py"),
        ("transformers", "training_args.py"),
    ):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            found |= set(re.findall(r"^    (\w+): ", (Path(folder) / file).read_text(encoding="utf-8"), re.M))
    return found


def identity(cfg: Any, processes: int) -> dict[str, Any]:
    """Return what may not change when a run continues: the sampling cycle, and what the saved optimizer brings back."""
    unit, accumulation = cfg.per_device_batch_size * processes, cfg.gradient_accumulation_steps
    fixed = {f"trl.{name}": getattr(cfg.trl, name) for name in ("num_iterations", *IN_OPTIMIZER)}
    generation = unit * cfg.trl.batches(accumulation)
    return {"sequences_per_step": unit * accumulation, "sequences_per_generation": generation, **fixed}


def check(cfg: Any, processes: int = 1) -> None:
    """Refuse settings that do not go together, with RunCfg's names: batches, saves, the loss, vLLM. Raises ConfigError.

    Single values are checked by `check_ranges`.
    """
    accumulation, batches = cfg.gradient_accumulation_steps, cfg.trl.batches(cfg.gradient_accumulation_steps)
    setting = "trl.steps_per_generation" if cfg.trl.steps_per_generation else "gradient_accumulation_steps"
    _check_batch(cfg.group_size, cfg.per_device_batch_size, batches, processes, setting)
    prompts = cfg.per_device_batch_size * batches * processes // cfg.group_size
    if cfg.num_train_samples < prompts:
        raise ConfigError(
            f"num_train_samples: {cfg.num_train_samples} prompts do not fill one generation of {prompts}; raise it or "
            f"lower {setting}"
        )
    if batches % accumulation and (accumulation % batches or cfg.trl.num_iterations > 1):
        raise ConfigError(
            f"trl.steps_per_generation: {batches} is not a multiple of gradient_accumulation_steps {accumulation}"
            f"{' (num_iterations 1 allows a divisor, too)' if cfg.trl.num_iterations > 1 else ' or a divisor of it'}: "
            f"an optimizer step would mix generations; 0 means {accumulation}"
        )
    check_save_steps(cfg.save_steps, accumulation, batches, cfg.trl.num_iterations)
    _check_loss(cfg.loss_type, cfg.trl)
    if cfg.use_vllm:
        _check_vllm(cfg)


def _check_batch(group_size: int, per_device: int, batches: int, processes: int, setting: str) -> None:
    """Refuse a generation that does not hold whole groups."""
    unit = per_device * processes
    sequences = batches * unit
    if sequences % group_size:
        legal = [n for n in range(1, 4 * batches + 8 * group_size) if n * unit % group_size == 0]
        nearest = sorted(sorted(legal, key=lambda n: abs(n - batches))[:2])
        raise ConfigError(
            f"{setting}: per_device_batch_size {per_device} × {batches} × {processes} processes = {sequences} "
            f"sequences is not a multiple of group_size {group_size}; nearest that work: "
            f"{' or '.join(map(str, nearest))}"
        )


def passes_per_step(sizes: dict[str, int], processes: int) -> int:
    """Return forward and backward passes per process and optimizer step.

    `sizes`: setting → value, of prompts per step, samples per prompt and sequences per pass, in this order. Raises
    ConfigError if the step does not divide into whole passes.
    """
    (of_prompts, prompts), (of_samples, samples), (of_size, size) = sizes.items()
    sequences = prompts * samples
    if sequences % (size * processes):
        legal = [n for n in range(1, sequences + 1) if sequences % (n * processes) == 0]
        advice = f"make {of_prompts} a multiple of {processes}"
        if legal:
            nearest = sorted(sorted(legal, key=lambda n: abs(n - size))[:2])
            advice = f"use {' or '.join(map(str, nearest))}"
        raise ConfigError(
            f"{of_size}: {of_prompts} {prompts} × {of_samples} {samples} = {sequences} sequences are not a multiple of "
            f"{size} × {processes} processes; {advice}"
        )
    return sequences // (size * processes)


def check_save_steps(steps: int, accumulation: int, batches: int, iterations: int) -> None:
    """Refuse save_steps inside a generation cycle: such a checkpoint could not be resumed exactly.

    A cycle is the number of optimizer steps after which a generation and a step end together. `steps`: below 1 never
    saves; `batches`: those of one generation (steps_per_generation). Raises ConfigError with the nearest legal values.
    """
    cycle = batches * iterations // math.gcd(batches * iterations, accumulation)
    if steps < 1 or steps % cycle == 0:
        return
    legal = [n for n in (steps // cycle * cycle, (steps // cycle + 1) * cycle) if n]
    raise ConfigError(
        f"save_steps: {steps} is inside a generation cycle of {cycle} optimizer steps (steps_per_generation "
        f"{batches} × num_iterations {iterations}, gradient_accumulation_steps {accumulation}): such a checkpoint "
        f"could not be resumed exactly; nearest that work: {' or '.join(map(str, legal))}"
    )


def vllm_options(cfg: Any) -> dict[str, Any]:
    """Return GRPOConfig's keywords for vLLM; nothing without it."""
    if not cfg.use_vllm:
        return {}
    names = ("use_vllm", "vllm_mode", "vllm_server_host", "vllm_server_port", "vllm_gpu_memory_utilization")
    longest = 4 * cfg.max_chars + 100 + cfg.max_new_tokens  # a character is at most four byte tokens
    return {name: getattr(cfg, name) for name in names} | {"vllm_max_model_length": longest}


def _check_loss(loss_type: str, trl: TrlSettings) -> None:
    """Refuse bounds and ratios that the loss is not defined for."""
    if loss_type == "cispo" and trl.epsilon_high < 1:
        raise ConfigError(
            f"trl.epsilon_high: {trl.epsilon_high}: with loss_type cispo it bounds the ratio itself, which is near 1; "
            "set at least 1 (5.0 in ScaleRL)"
        )
    if 0 < trl.epsilon_high < trl.epsilon:
        raise ConfigError(f"trl.epsilon_high: {trl.epsilon_high} is below trl.epsilon {trl.epsilon}; 0 means the same")
    if trl.epsilon >= 1 and loss_type not in ("cispo", "sapo", "vespo"):
        raise ConfigError(f"trl.epsilon: {trl.epsilon}: the lower clip, 1 - epsilon, must be above 0; set 0.2")
    highest = 1 + (trl.epsilon_high or trl.epsilon)
    if 0 < trl.delta <= highest:
        raise ConfigError(f"trl.delta: {trl.delta} must be above 1 + the upper clip = {highest:g}; 0 turns it off")
    levels = {"luspo": "sequence", "vespo": "token"}
    if (level := trl.importance_sampling_level) != levels.get(loss_type, level):
        raise ConfigError(
            f"trl.importance_sampling_level: {level}: loss_type {loss_type} needs {levels[loss_type]}; set that"
        )
    if trl.entropy_coef > 1 and trl.use_adaptive_entropy:
        raise ConfigError(f"trl.entropy_coef: {trl.entropy_coef} is above 1, the maximum with use_adaptive_entropy")


def _check_vllm(cfg: Any) -> None:
    """Refuse sampling that biases the importance weights (huggingface/trl#6789), and bounds that TRL refuses later.

    The engine's probabilities are of the tokens left after top_p, top_k, min_p, and of penalised logits; the trainer's
    are of all tokens. Their ratio is the probability mass kept: 0.896 in the mean at top_p 0.8 with top_k 1024
    (huggingface/trl, pull request 7269).
    """
    trl = cfg.trl
    if not trl.vllm_importance_sampling_correction:
        return
    neutral = {"top_p": 1.0, "trl.top_k": 0, "trl.min_p": 0.0, "trl.repetition_penalty": 1.0}
    values = {name: getattr(trl if "." in name else cfg, name.rpartition(".")[2]) for name in neutral}
    for name, value in values.items():
        if value != neutral[name]:
            raise ConfigError(
                f"{name}: {value} with use_vllm: vLLM's probabilities are those after {name}, the trainer's those "
                f"before it, which biases every importance weight; set {name} {neutral[name]}, or "
                "trl.vllm_importance_sampling_correction False"
            )
    low, high = trl.vllm_importance_sampling_clip_min, trl.vllm_importance_sampling_clip_max
    if 0 < high <= low:
        raise ConfigError(f"trl.vllm_importance_sampling_clip_min: {low} must be below the upper bound, {high}")
    mode = trl.vllm_importance_sampling_mode
    if mode.endswith("truncate") and not (low or high):
        raise ConfigError(f"trl.vllm_importance_sampling_clip_max: 0: {mode} needs a bound; set one (3.0)")
    if cfg.loss_type == "vespo" and mode.startswith("sequence"):
        raise ConfigError(
            f"trl.vllm_importance_sampling_mode: {mode}: loss_type vespo takes weights per token; set token_truncate"
        )
