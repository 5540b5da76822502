"""Make any transformers.Trainer resumable: stopped anywhere, it continues to the same bits.

    class MyTrainer(Resumable, Trainer): ...        or        make_resumable(trainer)

`state_dict` keeps what the Trainer loses on a resume: losses and metrics not logged yet. A loss or gradient that is
not finite raises NonFiniteLoss before the optimizer step; the batch is written to the run folder.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from rl_nmt.distributed import gathered
from rl_nmt.errors import NonFiniteLoss, ResumeRefused, describe
from rl_nmt.runs.checkpoints import Keeper
from rl_nmt.runs.metrics_file import MetricsFile

Mixed: Any = object  # Any: the type checker does not know the Trainer's attributes
SAVE_FAILURES = (OSError, RuntimeError, SafetensorError)  # how Python, torch and safetensors report a full disk


class Resumable(Mixed):
    """Mixin in front of a Trainer class; see the module."""

    checkpoints: Keeper | None = None  # seals what is saved; a save that fails is discarded and the run continues
    rollouts: MetricsFile | None = None  # cut back to where a run resumes
    _unlogged_loss: Any = 0.0  # the Trainer's running sum of losses since the last log
    _unlogged_losses: tuple[float, ...] | list[float] = ()  # those of all processes, at the last save
    _continued: dict[str, Any] | None = None
    _batch: dict[str, Any] | None = None
    _unread: list[str] | tuple[str, ...] = ()  # names of weights that the Trainer did not find where it looked

    def compute_loss(self, model, inputs, *args, **kwargs):
        self._batch = inputs
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._require_finite(loss)
        if self._continued is not None:  # the Trainer's sum starts at 0: 0 + (past + loss) is past + loss
            loss = loss + self._continued["unlogged_loss"]
            self._continued = None
        return loss

    def _require_finite(self, loss: torch.Tensor) -> None:
        """Raise NonFiniteLoss after the backward pass, before clipping, which would spread one NaN to every weight."""
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
        """Write batch.pt (tensors), batch.json (texts and advantages), and the run's settings."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().cpu() for k, v in (self._batch or {}).items() if torch.is_tensor(v)}
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

    def at_cycle_end(self) -> bool:
        """Return whether a run can resume from a checkpoint made now; always true in plain training."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state that transformers and TRL leave out of a checkpoint; floats survive JSON exactly."""
        return {
            "unlogged_losses": self._unlogged_losses or [float(self._unlogged_loss)],
            "unlogged_metrics": {
                mode: {name: [float(value) for value in values] for name, values in metrics.items()}
                for mode, metrics in getattr(self, "_metrics", {}).items()
            },
            "last_logged_step": self._globalstep_last_logged,
            "logged_loss": self._total_loss_scalar,
            "tokens": getattr(self, "_total_train_tokens", None),  # SFTTrainer's count
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keep `state` until training begins, since the Trainer resets its counters there."""
        losses = state["unlogged_losses"]  # one per process; their mean where there are now more or fewer
        same = len(losses) == self.accelerator.num_processes
        own = losses[self.accelerator.process_index] if same else sum(losses) / len(losses)
        self._continued = {**state, "unlogged_loss": own}

    def get_train_dataloader(self):
        self._train_batch_size = self.args.train_batch_size  # the Trainer would take the checkpoint's
        return super().get_train_dataloader()

    def compare_trainer_and_checkpoint_args(self, training_args, trainer_state):
        """Do nothing: `Continue` applies the new values, where the Trainer would only warn."""

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        self._unread = []
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._unread:
            _load_renamed(self.model if model is None else model, Path(resume_from_checkpoint))

    def _issue_warnings_after_load(self, load_result):
        tied = set(getattr(self.model, "_tied_weights_keys", None) or ())  # saved once, under their other name
        self._unread = [*load_result.unexpected_keys, *(n for n in load_result.missing_keys if n not in tied)]

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        if self.control.should_training_stop:  # resumed after the last step
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
        failure = _first(keeper.lack_of_room() if self.args.should_save else None)
        if failure is None:
            failure = _first(_failure(super()._save_checkpoint, model, trial))
        if self.args.should_save:
            if failure is None:
                failure = _failure(keeper.seal, step)
            if failure is not None:
                keeper.discard(step, failure)
        elif failure is None:
            keeper.newest = step


class Continue(TrainerCallback):
    """Restore the counters of a resumed run; allow no checkpoint inside a generation cycle."""

    def __init__(self, trainer: Resumable):
        self.trainer: Any = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        state.compute_steps(args, state.max_steps)  # a resumed state comes with the old save_steps and logging_steps
        if trainer._continued is not None:
            trainer._globalstep_last_logged = trainer._continued["last_logged_step"]
            trainer._total_loss_scalar = trainer._continued["logged_loss"]
            if trainer._continued.get("tokens") is not None:
                trainer._total_train_tokens = trainer._continued["tokens"]
            trainer._initial_global_step = 0  # transformers 5 would divide the whole run's loss by the steps since
            for mode, values in trainer._continued["unlogged_metrics"].items():
                trainer._metrics[mode].update(values)
        if state.global_step:
            _adopt_learning_rate(trainer)
        if trainer.rollouts is not None and state.is_world_process_zero:
            trainer.rollouts.cut_after(state.global_step)
        if state.global_step >= state.max_steps:  # the Trainer would train one step more
            control.should_training_stop = True
            if trainer._continued is not None:
                trainer._total_loss_scalar += trainer._continued["unlogged_loss"]

    def on_step_end(self, args, state, control, **kwargs):
        if not self.trainer.at_cycle_end():  # a checkpoint here would have to hold the sampled completions too
            control.should_save = False


def _load_renamed(model, folder: Path) -> None:
    """Load the weights of a checkpoint by the model's own class, exactly.

    Multimodal models are saved under the names of their first version. `from_pretrained` translates these; the Trainer,
    of transformers 4.57 and 5.23 alike, would go on from the weights it happens to have. Raises ResumeRefused.
    """
    from rl_nmt.models.loading import loading

    with loading():
        dtype = next(model.parameters()).dtype
        saved, told = type(model).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    unread = [*told["missing_keys"], *told["unexpected_keys"]]
    if unread or saved.state_dict().keys() != model.state_dict().keys():
        raise ResumeRefused(f"{folder}: its weights do not fit the model, e.g. {(unread or ['other names'])[0]}")
    model.load_state_dict(saved.state_dict())


def _adopt_learning_rate(trainer) -> None:
    """Apply a changed learning rate: a resumed optimizer brings the old one back."""
    scheduler, wanted = trainer.lr_scheduler, trainer.args.learning_rate
    if all(rate == wanted for rate in scheduler.base_lrs):
        return
    for group, old in zip(trainer.optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = wanted * (group["lr"] / old)
        group["initial_lr"] = wanted
    scheduler.base_lrs = [wanted] * len(scheduler.base_lrs)
    scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]  # what is logged


def make_resumable(trainer) -> None:
    """Add the methods of `Resumable` to a Trainer that was built without them."""
    if not isinstance(trainer, Resumable):
        kind = type(trainer)
        trainer.__class__ = type(kind.__name__, (Resumable, kind), {})
        trainer.add_callback(Continue(trainer))


def _failure(save: Callable[..., None], *arguments: Any) -> str | None:
    """Return why `save` failed, e.g. a full disk; None when it succeeded."""
    try:
        save(*arguments)
    except SAVE_FAILURES as error:
        return describe(error)
    return None


def _first(failure: str | None) -> str | None:
    """Return the first failure of any process; also wait until all have written their part."""
    return next((f for f in gathered([failure]) if f is not None), None)
