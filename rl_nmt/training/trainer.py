"""Extend TRL's GRPOTrainer with rules for whole groups, stage times, and exact resume.

A reward call sees only its process's completions, so a group of G samples may be split over processes.
Everything about groups therefore happens here, on the gathered rewards.
"""

import time
from functools import partial

import torch
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from rl_nmt.audit.groups import MIN_VALID
from rl_nmt.errors import ConfigError, NonFiniteLoss
from rl_nmt.models.policy import gemma_loads_under_zero3, precise_adapters
from rl_nmt.training.resumable import Continue, Resumable
from rl_nmt.training.trl_settings import check_save_steps


def apply_group_rules(
    rewards: torch.Tensor, group_size: int, noise_floor: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """Give groups that cannot be ranked no advantage. Pure.

    `rewards`: (B,) float, B = P·G in group order, NaN = no score. `group_size`: G. `noise_floor`: a group whose valid
    rewards spread (max − min) by at most this is a tie.

    Returns new (B,) rewards: all NaN in skipped groups (fewer than MIN_VALID·G valid rewards), their mean in ties
    (either way advantage 0), NaN for ±inf. Also returns the shares of skipped and tied groups and of missing samples.
    """
    grouped = rewards.view(-1, group_size)  # (P, G)
    valid = torch.isfinite(grouped)  # (P, G)
    grouped = grouped.masked_fill(~valid, float("nan"))
    # Too few scores do not rank a group: mean and spread would be those of the samples that happened to be scored.
    skipped = valid.sum(1) < MIN_VALID * group_size  # (P,)
    high = grouped.masked_fill(~valid, float("-inf")).amax(1)  # (P,)
    low = grouped.masked_fill(~valid, float("inf")).amin(1)
    # TRL divides a group's rewards by their spread: a spread that is only rounding would become a full-size gradient.
    tied = (high - low <= noise_floor) & ~skipped
    means = torch.nanmean(grouped, dim=1, keepdim=True)  # (P, 1)
    grouped = torch.where(tied[:, None] & valid, means, grouped).masked_fill(skipped[:, None], float("nan"))
    shares = {"skipped": skipped, "tied": tied, "missing": ~valid}
    return grouped.view(-1), {f"groups/{name}_share": held.float().mean().item() for name, held in shares.items()}


class EpochSampler(RepeatSampler):
    """TRL's sampler, except that epoch e has the seed's e-th permutation in a resumed process too."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


class GuardedGRPOTrainer(Resumable, GRPOTrainer):
    """GRPOTrainer that applies the group rules, logs the time of each stage, and can be stopped anywhere.

    Raises ConfigError for more than one reward function (TRL silently ignores a None from one of several)
    and for save_steps inside a generation cycle.
    """

    noise_floor = 0.0  # reward spread up to which a group is a tie; 0: only exact ties
    idle = 0  # generations in a row, up to the last one, without a difference in any group

    def __init__(self, model, reward_funcs, *args, **kwargs):
        if isinstance(reward_funcs, (list, tuple)) and len(reward_funcs) != 1:
            raise ConfigError(f"reward_funcs: {len(reward_funcs)} functions were given; combine them into one")
        with gemma_loads_under_zero3(), precise_adapters(model):  # the former for the reference, loaded sharded
            super().__init__(model, reward_funcs, *args, **kwargs)
        if (told := self.args).save_strategy == "steps":
            accumulation, batches = told.gradient_accumulation_steps, told.steps_per_generation
            check_save_steps(told.save_steps, accumulation, batches, told.num_iterations)
        if "ref" in getattr(self.model, "peft_config", {}):  # made again from the adapter that GRPO began with
            # In a checkpoint, transformers 4 would load this frozen copy in place of the trained adapter.
            self.model.save_pretrained = partial(self.model.save_pretrained, selected_adapters=["default"])
        self._stage_seconds = self._update_seconds = 0.0
        self.add_callback(Continue(self))

    def create_model_card(self, *args, **kwargs) -> None:
        """Write nothing: TRL's card would name a model "None"; results/model_card.py writes the run's cards."""

    def create_optimizer(self):
        """Remove empty parameter groups under DeepSpeed: it drops them, and the scheduler would count one too many."""
        optimizer = super().create_optimizer()
        if self.is_deepspeed_enabled:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _generate(self, prompts):
        start = time.perf_counter()
        try:
            out = super()._generate(prompts)
        except RuntimeError as error:
            if "probability tensor contains" not in str(error):
                raise
            raise NonFiniteLoss(self._lost("the policy's probabilities are not finite")) from error
        self._clock("time/generate", start)
        return out

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        training = self.model.training
        for reward_func in self.reward_funcs:
            if hasattr(reward_func, "evaluating"):
                reward_func.evaluating = not training
        start = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (B, 1)
        self._clock("time/reward", start)
        group_size = self.num_generations if training else self.num_generations_eval
        column, stats = apply_group_rules(rewards[:, 0], group_size, self.noise_floor)
        for name, value in stats.items():
            self._metrics["train" if training else "eval"][name].append(value)
        if training:
            teaches = stats["groups/skipped_share"] + stats["groups/tied_share"] < 1 - 1e-6
            self.idle = 0 if teaches else self.idle + 1
        return column[:, None]

    def training_step(self, model, inputs, num_items_in_batch):
        self._stage_seconds = 0.0
        start = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._update_seconds += time.perf_counter() - start - self._stage_seconds
        if self._step % self.current_gradient_accumulation_steps == 0:  # as TRL's own step_time
            self._metrics["train"]["time/update"].append(self._update_seconds)
            self._update_seconds = 0.0
        return loss

    def _clock(self, name: str, start: float) -> None:
        seconds = time.perf_counter() - start
        self._stage_seconds += seconds
        self._metrics["train" if self.model.training else "eval"][name].append(seconds)

    def at_cycle_end(self) -> bool:
        """Return whether every sampled completion has been trained on as often as it will be."""
        # Checkpoints are made only then: in between they would have to hold the completions themselves.
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        sampler.__class__ = EpochSampler
        return sampler
