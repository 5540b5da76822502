"""Train any transformers.Trainer in a `Run`: resume, seal, stop in time; what else happens hangs on it as callbacks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rl_nmt.runs import checkpoints
from rl_nmt.runs.run import Run
from rl_nmt.training.callbacks import GracefulStop
from rl_nmt.training.resumable import make_resumable


@dataclass(frozen=True)
class Limits:
    """How many checkpoints are kept, and how long a run may take. `link`: keep `resume_latest` on the newest."""

    save_total_limit: int = 2
    max_hours: float = 0.0
    link: bool = False


def train(
    run: Run,
    trainer,
    callbacks: Sequence = (),
    *,
    parts: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    started: float | None = None,
) -> None:
    """Train from `run.resume`, or from the start.

    Args:
        trainer: any transformers.Trainer that was not trained yet, on every process.
        callbacks: TrainerCallbacks. One with `begin(resumed)` is called once state is restored and before the first
            step; one with `state_dict` and `load_state_dict` is kept in checkpoints, under its class's name.
        parts: name → further objects with these two methods, e.g. the reward.
        started: time.monotonic() of the start, from which `max_hours` counts; default now.

    Raises Stopped after a signal or max_hours, with a checkpoint to continue from; NonFiniteLoss; CannotWrite when
    the third save in a row has failed.
    """
    limits = limits or Limits()
    make_resumable(trainer)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.checkpoints = keeper = checkpoints.Keeper(
        run.folder,
        keep=limits.save_total_limit,
        parts={"trainer": trainer, **{type(each).__name__: each for each in callbacks}, **(parts or {})},
        files=run.sealed,
        notes=run.notes,
        link=limits.link,
    )
    if run.resume:
        print(f"resuming from {run.resume}; --fresh starts again next to it", flush=True)
        keeper.restore(run.resume)
    for callback in callbacks:
        if hasattr(callback, "begin"):
            callback.begin(run.resume is not None)
    started = time.monotonic() if started is None else started
    with GracefulStop(trainer.at_cycle_end, limits.max_hours, started, run.command) as stop:
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(run.resume.path) if run.resume else None)
    stop.leave(keeper.newest)
