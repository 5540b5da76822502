"""Train any transformers.Trainer in a `Run`: resume it, seal its checkpoints, stop it in time, run its callbacks."""

from collections.abc import Mapping, Sequence
from typing import Any

from rl_nmt.runs import checkpoints
from rl_nmt.runs.run import Run
from rl_nmt.training.callbacks import GracefulStop
from rl_nmt.training.resumable import make_resumable


def train(
    run: Run,
    trainer,
    callbacks: Sequence = (),
    *,
    parts: Mapping[str, Any] | None = None,
    keep: int = 2,
    link: bool = False,
    max_hours: float = 0.0,
    started: float | None = None,
) -> None:
    """Train from `run.resume`, or from the start.

    Args:
        trainer: any transformers.Trainer that was not trained yet, on every process.
        callbacks: TrainerCallbacks. Their `begin(resumed)`, if any, is called after state is restored and before the
            first step. Those with `state_dict` and `load_state_dict` are kept in checkpoints, under their class's name.
        parts: name → further objects with these two methods, e.g. the reward.
        keep: checkpoints kept; link: keep `resume_latest` on the newest.
        max_hours, started: see `GracefulStop`.

    Raises Stopped after a signal or max_hours, with a checkpoint to continue from; NonFiniteLoss; CannotWrite when
    the third save in a row has failed.
    """
    make_resumable(trainer)
    trainer.args.save_total_limit = None  # else it deletes old ones, by file time, before the new one is sealed
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.checkpoints = keeper = checkpoints.Keeper(
        run.folder,
        keep=keep,
        parts={"trainer": trainer, **{type(each).__name__: each for each in callbacks}, **(parts or {})},
        files=run.sealed,
        notes=run.notes,
        link=link,
    )
    if run.resume:
        print(f"resuming from {run.resume}; --fresh starts from scratch in a folder next to it", flush=True)
        keeper.restore(run.resume)
    for callback in callbacks:
        if hasattr(callback, "begin"):
            callback.begin(run.resume is not None)
    with GracefulStop(trainer.at_cycle_end, max_hours, started, run.command) as stop:
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(run.resume.path) if run.resume else None)
    stop.leave(keeper.newest)
