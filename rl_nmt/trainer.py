"""TRL's GRPOTrainer plus what a reward call cannot do alone: rules over whole groups, and stage times.

A reward call sees only its process's completions, so a group of G samples may be split over processes.
Everything about groups therefore happens here, on the gathered rewards.
"""

from __future__ import annotations

import time

import torch
from trl import GRPOTrainer

from rl_nmt.errors import ConfigError

MIN_VALID = 0.75  # share of a group that must have a score, else the group is skipped (ours)


def apply_group_rules(
    rewards: torch.Tensor, group_size: int, noise_floor: float = 0.0, min_valid: float = MIN_VALID
) -> tuple[torch.Tensor, dict[str, float]]:
    """Make groups that cannot be ranked neutral. Pure.

    Args:
        rewards: (B,) float, B = P·G in group order, NaN = no score.
        group_size: G.
        noise_floor: a group whose valid rewards spread (max − min) by at most this is a tie.
        min_valid: a group with fewer than min_valid·G valid rewards is skipped.

    Returns:
        New (B,) rewards: skipped groups are all NaN, ties all have their mean (either way advantage 0),
        ±inf became NaN; and the shares of skipped and tied groups, of missing samples and the number of
        groups.
    """
    grouped = rewards.clone().view(-1, group_size)  # (P, G)
    grouped[~torch.isfinite(grouped)] = float("nan")
    valid = ~torch.isnan(grouped)  # (P, G)
    skipped = valid.sum(1) < min_valid * group_size  # (P,)
    filled_low = torch.where(valid, grouped, torch.full_like(grouped, float("inf")))
    filled_high = torch.where(valid, grouped, torch.full_like(grouped, float("-inf")))
    spread = filled_high.amax(1) - filled_low.amin(1)  # (P,)
    tied = (spread <= noise_floor) & ~skipped
    missing = (~valid).float().mean().item()
    means = torch.nanmean(grouped, dim=1, keepdim=True)  # (P, 1)
    grouped = torch.where((tied[:, None]) & valid, means.expand_as(grouped), grouped)
    grouped[skipped] = float("nan")
    stats = {
        "groups/skipped_share": skipped.float().mean().item(),
        "groups/tied_share": tied.float().mean().item(),
        "groups/missing_share": missing,
    }
    return grouped.view(-1), stats


class GuardedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that applies the group rules and says where a step's time goes.

    `noise_floor` (default 0: only exact ties) is the reward spread up to which a group is a tie. Takes
    one reward function (TRL drops a None of one among several silently): raises ConfigError for more.
    """

    noise_floor = 0.0

    def __init__(self, model, reward_funcs, *args, **kwargs):
        if isinstance(reward_funcs, (list, tuple)) and len(reward_funcs) != 1:
            raise ConfigError(f"reward_funcs: {len(reward_funcs)} were given; compose them in one callable")
        super().__init__(model, reward_funcs, *args, **kwargs)
        self._stage_seconds = self._update_seconds = 0.0

    def _generate(self, prompts):
        start = time.perf_counter()
        out = super()._generate(prompts)
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

    def _rotate_checkpoints(self, use_mtime=False, output_dir=None):
        # By step, not by the clock: a resumed or copied run folder has other times.
        super()._rotate_checkpoints(use_mtime=False, output_dir=output_dir)

    def _clock(self, name: str, start: float) -> None:
        seconds = time.perf_counter() - start
        self._stage_seconds += seconds
        self._metrics["train" if self.model.training else "eval"][name].append(seconds)
