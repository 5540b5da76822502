"""TRL's GRPOTrainer plus rules over whole groups, stage times, and a run that continues to the same bits.

A reward call sees only its process's completions, so a group of G samples may be split over processes.
Everything about groups therefore happens here, on the gathered rewards.

What the Trainer forgets on a resume is kept in `state_dict`: losses and metrics not logged yet. The order of
the prompts is a function of seed and epoch, and checkpoints are made only where a generation cycle ends.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from rl_nmt.distributed import gathered
from rl_nmt.errors import ConfigError, NonFiniteLoss
from rl_nmt.models.policy import gemma_loads_under_zero3
from rl_nmt.runs.checkpoints import Keeper

MIN_VALID = 0.75  # share of a group that must have a score, else the group is skipped (ours)
SAVE_FAILURES = (OSError, RuntimeError, SafetensorError)  # what a full disk is to Python, torch and safetensors


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


class EpochSampler(RepeatSampler):
    """TRL's sampler with an order that depends on seed and epoch, not on how often it was read before.

    Epoch e has the e-th permutation that TRL's own would draw. TRL's starts over with the first one in a
    process that resumes in a later epoch.
    """

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()


class GuardedGRPOTrainer(GRPOTrainer):
    """GRPOTrainer that applies the group rules, says where a step's time goes, and can be stopped anywhere.

    `noise_floor` (default 0: only exact ties) is the reward spread up to which a group is a tie.
    `checkpoints`, when set, seals what is saved; a save that fails is discarded and the run goes on. A loss
    or gradient that is not finite raises NonFiniteLoss before the optimizer step, and leaves the batch.

    Raises ConfigError for more than one reward function (TRL drops a None of one among several silently)
    and for save_steps inside a generation cycle.
    """

    noise_floor = 0.0
    checkpoints: Keeper | None = None

    def __init__(self, model, reward_funcs, *args, **kwargs):
        if isinstance(reward_funcs, (list, tuple)) and len(reward_funcs) != 1:
            raise ConfigError(f"reward_funcs: {len(reward_funcs)} were given; compose them in one callable")
        with gemma_loads_under_zero3():  # of the reference, while it is sharded
            super().__init__(model, reward_funcs, *args, **kwargs)
        check_save_steps(self.args)
        self._stage_seconds = self._update_seconds = 0.0
        self._unlogged_loss = torch.tensor(0.0)  # the Trainer's running sum of losses since the last log
        self._unlogged_losses: list[float] = []  # those of all processes, at the last save
        self._continued: dict[str, Any] | None = None
        self._batch: dict[str, Any] = {}
        self.add_callback(_Continue(self))

    def create_optimizer(self):
        """Without empty groups where DeepSpeed steps: it drops them, and the scheduler would count one too many."""
        optimizer = super().create_optimizer()
        if self.is_deepspeed_enabled:
            optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    # ------------------------------------------------------------------ rewards and times

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
        return column[:, None]

    def training_step(self, model, inputs, num_items_in_batch):
        self._stage_seconds = 0.0
        start = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._require_finite(loss)
        self._update_seconds += time.perf_counter() - start - self._stage_seconds
        if self._step % self.current_gradient_accumulation_steps == 0:  # as TRL's own step_time
            self._metrics["train"]["time/update"].append(self._update_seconds)
            self._update_seconds = 0.0
        if self._continued is not None:  # the Trainer's sum starts at 0: 0 + (past + loss) is past + loss
            loss = loss + self._continued["unlogged_loss"]
            self._continued = None
        return loss

    def _clock(self, name: str, start: float) -> None:
        seconds = time.perf_counter() - start
        self._stage_seconds += seconds
        self._metrics["train" if self.model.training else "eval"][name].append(seconds)

    # ------------------------------------------------------------------ losses that are no numbers

    def compute_loss(self, model, inputs, *args, **kwargs):
        self._batch = inputs
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _require_finite(self, loss: torch.Tensor) -> None:
        """After the backward pass and before clipping, which would spread one NaN over every weight."""
        problem = None if torch.isfinite(loss) else f"the loss is {loss.item()}"
        if problem is None and self.accelerator.sync_gradients:
            named = [(n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None]
            norms = torch._foreach_norm([gradient for _, gradient in named]) if named else []
            if norms and not torch.isfinite(torch.stack([norm.float() for norm in norms])).all():
                bad = [name for (name, _), norm in zip(named, norms, strict=True) if not torch.isfinite(norm)]
                problem = f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(named)} tensors)"
        if problem:
            raise NonFiniteLoss(self._lost(problem))

    def _lost(self, problem: str) -> str:
        step = self.state.global_step + 1
        which = f"-process-{self.accelerator.process_index}" if self.accelerator.process_index else ""
        folder = Path(self.args.output_dir) / f"nonfinite-step-{step}{which}"
        try:
            self._leave_batch(folder, problem)
            left = f"the batch and the settings are in {folder}"
        except SAVE_FAILURES as error:
            left = f"the batch could not be written to {folder} ({error})"
        return f"{problem} at step {step}: stopped before the optimizer step, no weight was changed; {left}; lower lr"

    def _leave_batch(self, folder: Path, problem: str) -> None:
        """batch.pt (tensors), batch.json (texts and advantages), and the run's settings."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu() for k, v in self._batch.items() if torch.is_tensor(v)}
        torch.save(tensors, folder / "batch.pt")
        texts = {}
        for side in ("prompt", "completion"):
            ids, mask = tensors.get(f"{side}_ids"), tensors.get(f"{side}_mask")
            if ids is not None and mask is not None:
                texts[side] = [self.processing_class.decode(r[m.bool()]) for r, m in zip(ids, mask, strict=True)]
        advantages = tensors["advantages"].tolist() if "advantages" in tensors else []
        told = {"problem": problem, "step": self.state.global_step + 1, **texts, "advantages": advantages}
        (folder / "batch.json").write_text(json.dumps(told, ensure_ascii=False, indent=1), encoding="utf-8")
        settings = Path(self.args.output_dir) / "resolved_config.yaml"
        if settings.exists():
            shutil.copy(settings, folder)

    # ------------------------------------------------------------------ stopping and continuing

    def at_cycle_end(self) -> bool:
        """Has every sampled completion been trained on as often as it will be? Only then can a run resume."""
        return self._step % (self.args.steps_per_generation * self.num_iterations) == 0

    def state_dict(self) -> dict[str, Any]:
        """What transformers and TRL leave out of a checkpoint; floats survive JSON exactly."""
        return {
            "noise_floor": self.noise_floor,
            "unlogged_losses": self._unlogged_losses or [float(self._unlogged_loss)],
            "unlogged_metrics": {
                mode: {name: [float(value) for value in values] for name, values in metrics.items()}
                for mode, metrics in self._metrics.items()
            },
            "last_logged_step": self._globalstep_last_logged,
            "logged_loss": self._total_loss_scalar,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Taken up when training begins, since the Trainer resets its counters there."""
        self.noise_floor = state["noise_floor"]
        losses = state["unlogged_losses"]  # one per process; their mean where there are now more or fewer
        same = len(losses) == self.accelerator.num_processes
        own = losses[self.accelerator.process_index] if same else sum(losses) / len(losses)
        self._continued = {**state, "unlogged_loss": own}

    def get_train_dataloader(self):
        self._train_batch_size = self.args.train_batch_size  # the Trainer would take the checkpoint's
        return super().get_train_dataloader()

    def _get_train_sampler(self, dataset=None):
        sampler = super()._get_train_sampler(dataset)
        return EpochSampler(
            sampler.data_source,
            sampler.mini_repeat_count,
            sampler.batch_size,
            sampler.repeat_count,
            sampler.shuffle,
            sampler.seed,
        )

    def compare_trainer_and_checkpoint_args(self, training_args, trainer_state):
        """Nothing: `_Continue` lets the new values count where the Trainer would only warn."""

    def _issue_warnings_after_load(self, load_result):
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())  # saved once, under their other name
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.control.should_training_stop:  # resumed where nothing is left
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _maybe_log_save_evaluate(self, tr_loss, *args, **kwargs):
        self._unlogged_loss = tr_loss  # set to 0 in place when it is logged, and saved after that
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        keeper, step = self.checkpoints, self.state.global_step
        if keeper is None:
            return super()._save_checkpoint(model, trial)
        self._unlogged_losses = gathered([float(self._unlogged_loss)])
        failure = keeper.lack_of_room() if self.args.should_save else None
        failure = self._first(failure)
        if failure is None:
            try:
                super()._save_checkpoint(model, trial)
            except SAVE_FAILURES as error:
                failure = _short(error)
            failure = self._first(failure)
        if self.args.should_save:
            if failure is None:
                try:
                    keeper.seal(step)
                except SAVE_FAILURES as error:
                    failure = _short(error)
            if failure is not None:
                keeper.discard(step, failure)
        elif failure is None:
            keeper.newest = step

    def _first(self, failure: str | None) -> str | None:
        """The first failure of any process; also waits until all have written their part."""
        return next((f for f in gathered([failure]) if f is not None), None)

    def _rotate_checkpoints(self, use_mtime=False, output_dir=None):
        # By step, not by the clock: a resumed or copied run folder has other times. A keeper rotates by itself,
        # once the new one is sealed.
        if self.checkpoints is None:
            super()._rotate_checkpoints(use_mtime=False, output_dir=output_dir)


class _Continue(TrainerCallback):
    """Counters taken up where a run resumes; no checkpoint inside a generation cycle."""

    def __init__(self, trainer: GuardedGRPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        state.compute_steps(args, state.max_steps)  # a resumed state comes with the old save_steps and logging_steps
        if trainer._continued is not None:
            trainer._globalstep_last_logged = trainer._continued["last_logged_step"]
            trainer._total_loss_scalar = trainer._continued["logged_loss"]
            for mode, values in trainer._continued["unlogged_metrics"].items():
                trainer._metrics[mode].update(values)
        if state.global_step:
            _adopt_learning_rate(trainer)
        if state.global_step >= state.max_steps:  # the Trainer would train one step more
            control.should_training_stop = True
            if trainer._continued is not None:
                trainer._total_loss_scalar += trainer._continued["unlogged_loss"]

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.at_cycle_end():
            control.should_save = False


def _adopt_learning_rate(trainer) -> None:
    """A resumed optimizer comes with the old rate: let a changed setting count."""
    scheduler, wanted = trainer.lr_scheduler, trainer.args.learning_rate
    if all(rate == wanted for rate in scheduler.base_lrs):
        return
    for group, old in zip(trainer.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = wanted * (group["lr"] / old)
        group["initial_lr"] = wanted
    scheduler.base_lrs = [wanted] * len(scheduler.base_lrs)
    scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]  # what is logged


def check_save_steps(args) -> None:
    """Refuse save_steps inside a generation cycle: such a checkpoint resumes to something else.

    A cycle are the optimizer steps after which generation batches and steps end together:
    (save_steps · gradient_accumulation_steps) % (steps_per_generation · num_iterations) == 0. Raises
    ConfigError with the nearest legal values.
    """
    batches = args.steps_per_generation * args.num_iterations
    cycle = batches // math.gcd(batches, args.gradient_accumulation_steps)
    steps = args.save_steps
    if args.save_strategy != "steps" or steps < 1 or steps % cycle == 0:
        return
    legal = [n for n in (steps // cycle * cycle, (steps // cycle + 1) * cycle) if n]
    raise ConfigError(
        f"save_steps: {steps} lies inside a generation cycle of {cycle} optimizer steps (steps_per_generation "
        f"{args.steps_per_generation} × num_iterations {args.num_iterations}, gradient_accumulation_steps "
        f"{args.gradient_accumulation_steps}): such a checkpoint could not be resumed exactly; nearest that work: "
        f"{' or '.join(map(str, legal))}"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
