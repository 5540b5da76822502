"""Trainer callbacks of a run: progress line, printed samples, held-out evaluation, rollouts, graceful stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

from transformers import TrainerCallback

from rl_nmt import distributed
from rl_nmt.audit.groups import Groups
from rl_nmt.audit.headroom import no_difference
from rl_nmt.audit.reweigh import rollout_row
from rl_nmt.distributed import is_main_process
from rl_nmt.errors import Stopped
from rl_nmt.results.divergence import DivergenceMonitor, self_bleu
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.runs.metrics_file import MetricsFile

SHOWN = (  # on a progress line: TRL's name, ours, format
    *(("reward", "reward", ".4f"), ("reward_std", "±", ".4f")),
    *(("kl", "kl", ".4f"), ("completions/mean_length", "length", ".1f")),
    *(("gains/chosen", "chosen", "+.2f"), ("gains/rejected", "rejected", "+.2f")),  # of pairs, in nats
)
SHOWN_OF_SFT = (  # also of DPO, the second line
    *(("loss", "loss", ".4f"), ("mean_token_accuracy", "token accuracy", ".3f")),
    *(("rewards/accuracies", "preferred", ".3f"), ("rewards/margins", "margin", "+.3f")),
)
PLANNED_STOP = 75
MARGIN = 1.1  # a generation cycle may take this much longer than the longest so far


class ProgressLine(TrainerCallback):
    """Print one line per log: step, reward, KL, length, tokens per second, time left.

    Also print two samples of `reward_fn.last_rows` every `sample_steps` optimizer steps; 0 prints none.
    """

    def __init__(self, reward_fn, sample_steps: int):
        self.reward_fn, self.sample_steps = reward_fn, sample_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self._start, self._first_step = time.monotonic(), state.global_step
        self._tokens = (state.num_input_tokens_seen, 0.0)  # not 0 in a resumed run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or not {"reward", "loss"} & logs.keys():
            return
        seconds = time.monotonic() - self._start
        done = state.global_step - self._first_step
        left = seconds / max(1, done) * (state.max_steps - state.global_step)
        (before, earlier), self._tokens = self._tokens, (logs.get("num_tokens") or self._tokens[0], seconds)
        rate = (self._tokens[0] - before) / max(1e-9, seconds - earlier)
        shown = SHOWN if "reward" in logs else SHOWN_OF_SFT
        parts = [f"{name} {logs[key]:{form}}" for key, name, form in shown if logs.get(key) is not None]
        step = f"step {state.global_step}/{state.max_steps}"
        print("  ".join([step, *parts, f"{rate:.0f} tok/s", f"{clock(left)} left"]), flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or not self.sample_steps or state.global_step % self.sample_steps:
            return
        rows = self.reward_fn.last_rows
        for row in rows[:: max(1, len(rows) // 2)][:2]:
            total = "no score" if row["total"] is None else f"{row['total']:.3f}"
            reason = f" gated: {row['gate']}" if row["gate"] else ""
            back = "" if row["backtranslation"] is None else f"\n    ← {row['backtranslation']}"
            print(f"    {row['source']}\n    → {row['output']}{back}\n      [{total}{reason}]", flush=True)


@dataclass(eq=False)
class HeldOut(TrainerCallback):
    """Run the held-out evaluations: at the start, every `eval_steps` optimizer steps, and at the end.

    With several processes the main one records, monitors and decides for all; `save_best` is called on every one, since
    gathering sharded weights takes all of them. `self_bleu`, how alike the samples of a group are, is computed from the
    main process's `reward.last_rows`.
    """

    before: Snapshot  # of the start policy
    evaluate: Callable[[], Snapshot]  # of the present one
    monitor: DivergenceMonitor  # its warning is printed once
    record: Callable[[str, int, dict], None]  # (kind, step, values), e.g. WandbRewardCallback.record
    reward: Any
    save_best: Callable[[], None]  # called when the present model is the best so far by the independent score
    eval_steps: int = 0  # 0: evaluate only at the start and at the end
    stop_on_divergence: bool = False  # end the run, resumable, when reward and independent score diverge
    last: Snapshot | None = None  # the newest one recorded
    _self_bleu: float | None = None

    def state_dict(self) -> dict:
        """Return the monitor's state and self_bleu; a run that resumes after its last step has no samples for it."""
        return {"self_bleu": self._diversity(), "monitor": self.monitor.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self._self_bleu = state["self_bleu"]
        self.monitor.load_state_dict(state["monitor"])

    def _diversity(self) -> float | None:
        rows = self.reward.last_rows
        found = self_bleu([row["source"] for row in rows], [row["output"] for row in rows])
        return self._self_bleu if found is None else found

    def begin(self, resumed: bool) -> None:
        """Record the evaluation before training, unless the run has already done so on the same rows and reward."""
        if resumed:
            self.monitor.restart_unless_same(self.before)
        else:
            self.take(0, self.before)

    def take(self, step: int, snapshot: Snapshot) -> bool:
        """Record an evaluation; return True when it triggered the divergence warning. Collective."""
        warning, self.last = None, snapshot
        if is_main_process():
            diversity = self._diversity()
            self.record("eval", step, ({} if diversity is None else {"self_bleu": diversity}) | snapshot.metrics)
            if warning := self.monitor.record(step, snapshot):
                print(warning, file=sys.stderr, flush=True)
        rang, best = distributed.broadcast((bool(warning), self.monitor.best_step == step))
        if step and best:
            self.save_best()
        return rang

    def on_step_end(self, args, state, control, **kwargs):
        if not self.eval_steps or state.global_step % self.eval_steps or state.global_step == state.max_steps:
            return
        snapshot = self.evaluate()
        rang = self.take(state.global_step, snapshot)
        if state.is_world_process_zero:
            shown = "  ".join(f"{name} {value:.4g}" for name, value in snapshot.metrics.items())
            print(f"held-out at step {state.global_step}: {shown}", flush=True)
        if rang and self.stop_on_divergence:
            control.should_save = control.should_training_stop = True


@dataclass(eq=False)
class NoDifference(TrainerCallback):
    """End the run, resumable, after `patience` generations in a row without a difference in any group; 0: never.

    The main process prints why. The run ends at the end of a generation cycle, where `GracefulStop` can save it.
    """

    trainer: Any  # a GuardedGRPOTrainer, which counts them
    patience: int

    def state_dict(self) -> dict:
        return {"idle": self.trainer.idle}

    def load_state_dict(self, state: dict) -> None:
        self.trainer.idle = state["idle"]

    def on_step_end(self, args, state, control, **kwargs):
        trainer, left = self.trainer, state.max_steps - state.global_step
        if not (self.patience and left > 0 and trainer.idle >= self.patience and trainer.at_cycle_end()):
            return
        groups = Groups.of_rows(distributed.gathered(trainer.reward_funcs[0].last_rows), trainer.noise_floor)
        if is_main_process():
            print(
                f"patience: {trainer.idle} generations in a row without a difference in any group. Of the last one: "
                f"{no_difference(groups, args.temperature)}. If earlier samples of this run did differ, lower lr or "
                "raise kl_beta",
                file=sys.stderr,
                flush=True,
            )
        trainer.idle = 0  # also in the checkpoint: the command that continues gets as many again
        control.should_training_stop = True


class Rollouts(TrainerCallback):
    """Write every training sample with its reward components, one line each, for rl_nmt/audit/reweigh.py.

    The samples are those of all processes, in the order of the groups. A resumed run drops rows after its checkpoint.
    `every`: optimizer steps between samples that are kept.
    """

    def __init__(self, reward_fn, path: Path, every: int = 1):
        self.reward_fn, self.file, self.every = reward_fn, MetricsFile(path), every
        self._seen: list | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.file.cut_after(state.global_step)
        self._seen = self.reward_fn.last_rows

    def on_step_end(self, args, state, control, **kwargs):
        own = self.reward_fn.last_rows
        if own is self._seen or state.global_step % self.every:  # the same generation, used for another update
            return
        self._seen, rows = own, distributed.gathered(own)
        if not state.is_world_process_zero:
            return
        for group, (_, members) in enumerate(groupby(rows, key=itemgetter("source"))):
            for row in members:
                self.file.append(rollout_row(row, state.global_step, group))


@dataclass(eq=False)
class GracefulStop(TrainerCallback):
    """On SIGTERM, SIGINT or max_hours, finish the generation cycle, save and stop. A second signal exits at once.

    Added last (loop.py), it also saves before a stop that another callback requests by `should_training_stop`, at the
    end of the cycle. It stops before `max_hours` after `started`, in time for one more save; at least one generation
    cycle is always run.
    """

    at_cycle_end: Callable[[], bool]  # whether a checkpoint made now can be resumed exactly
    max_hours: float = 0.0  # 0: never
    started: float | None = None  # time.monotonic(); None: now
    command: str = ""  # command line that continues the run, printed on a second signal

    def __post_init__(self) -> None:
        now = time.monotonic()
        started = now if self.started is None else self.started
        self.deadline = started + self.max_hours * 3600 if self.max_hours else None
        self.reason, self.exit_code = "", 0
        self.step = 0
        self._early = False  # another callback has requested a stop within the cycle
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}
        self._cycle_start = self._save_start = now
        self._longest_cycle = self._longest_save = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # handlers can only be set there
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def leave(self, newest: int | None) -> None:
        """Raise Stopped, after training, if it was stopped early. `newest`: the newest step sealed."""
        if self.exit_code:
            lost = f"this step could NOT be saved, newest checkpoint: {'none' if newest is None else newest}"
            saved = f"checkpoint-{newest} is saved" if newest == self.step else lost
            stop = Stopped(f"{self.reason}, after step {self.step}; {saved}", self.exit_code)
            stop.elsewhere = not is_main_process()  # type: ignore[attr-defined]  # all raise it, one prints it
            raise stop

    def _receive(self, number, frame) -> None:
        name = signal.Signals(number).name
        if self._signal is not None:
            # os.write, since print may be what was interrupted
            os.write(2, f"stopped: second {name}\ncontinue with: {self.command}\n".encode())
            os._exit(128 + number)
        self._signal = number
        os.write(2, f"{name}: finishing the generation cycle, then saving; a second signal stops at once\n".encode())

    def on_train_begin(self, args, state, control, **kwargs):
        self._cycle_start = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        early = control.should_training_stop and state.global_step < state.max_steps
        if not self.at_cycle_end():
            if early:
                self._early, control.should_training_stop, control.should_save = True, False, False
            return
        self._save_start = now = time.monotonic()
        self._longest_cycle = max(self._longest_cycle, now - self._cycle_start)
        self._cycle_start = now
        late = self.deadline is not None and now + MARGIN * self._longest_cycle + self._longest_save > self.deadline
        early |= self._early
        self._decide(state, control, "max_hours" if late else "training was ended early" if early else "")
        if self.exit_code:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self._longest_save = max(self._longest_save, time.monotonic() - self._save_start)
        self._decide(state, control, "")  # a signal that came during the save need not wait for another cycle

    def _decide(self, state, control, planned: str) -> None:
        """Decide alike on every process: a signal to any of them counts, else the main process decides."""
        votes = distributed.gathered([(self._signal, planned if state.global_step < state.max_steps else "")])
        number, planned = next((n for n, _ in votes if n is not None), None), votes[0][1]
        if not self.exit_code and number is not None:
            self.reason, self.exit_code = signal.Signals(number).name, 128 + number
        elif not self.exit_code and planned:
            self.reason, self.exit_code = planned, PLANNED_STOP
        if self.exit_code:
            self.step, control.should_training_stop = state.global_step, True


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss.

    >>> clock(75), clock(3661)
    ('1:15', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
