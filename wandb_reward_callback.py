"""Log the reward's own numbers, step by step, to metrics.jsonl and W&B (`WandbRewardCallback`).

At every optimizer step it reads `reward_fn.last_log`, adds an exponential moving average of each value and writes one
row that also carries what TRL logs (loss, kl, lengths, …); to W&B too when a run is active. Keys: docs/metrics.md.
"""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rl_nmt import distributed
from rl_nmt.distributed import is_main_process
from rl_nmt.errors import warn
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training.reward_log import mean


@dataclass(eq=False)
class WandbRewardCallback(TrainerCallback):
    """Log a reward's components next to the trainer's metrics. Raises ValueError for `ema` or `log_every` out of range.

    `reward_fn` has `last_log` and `last_eval_log`, dicts of scalars. With several processes, its `summarise(rows)`, if
    any, computes the scalars of `last_log` from the `last_rows` of all.
    """

    reward_fn: Any
    log_every: int = 1  # optimizer steps per row
    ema: float = 0.9  # weight of the past in the moving average, 0 ≤ ema < 1; the average starts at the first value
    path: str | Path | None = None  # the JSONL file; default `<output_dir>/metrics.jsonl`

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: {self.ema} must be at least 0 and below 1")
        if self.log_every < 1:
            raise ValueError(f"log_every: {self.log_every} must be at least 1")
        self.file = MetricsFile(self.path) if self.path else None
        self.averages: dict[str, float] = {}
        self._pending: dict[str, Any] | None = None
        self._continued: dict[str, Any] | None = None
        self._warned = False

    # Callbacks run on every process, so the reduction over processes does too; only the main one writes.

    def on_train_begin(self, args, state, control, **kwargs):
        self.file = self.file or MetricsFile(Path(args.output_dir) / "metrics.jsonl")
        continued, self._continued = self._continued, None
        if not state.is_world_process_zero:
            return
        rows = self.file.cut_after(state.global_step, continued["rows"] if continued else None)
        if continued and len(rows) < continued["rows"]:
            warn(f"{self.file.path} lacks {continued['rows'] - len(rows)} rows from before the checkpoint")
        elif not continued:  # a plain Trainer's checkpoint: the averages are in the rows, as far as they were logged
            for row in rows:
                if row.get("kind") == "train":
                    self._average({k[: -len("_ema")]: v for k, v in row.items() if k.endswith("_ema")}, reset=True)
        if state.global_step:
            self.send_again(rows)

    def send_again(self, rows: Iterable[dict[str, Any]]) -> None:
        """Send the rows of an earlier start to a W&B run that is empty: offline, or unknown to the server."""
        if not getattr(_wandb_run(), "resumed", True):
            for row in rows:
                values = {k: v for k, v in row.items() if k not in ("kind", "step")}
                self._send(row.get("kind", "train"), row.get("step", 0), values)

    def begin(self, resumed: bool) -> None:
        """Remove the rows of a start that ended before its first checkpoint."""
        if not resumed and self.file and is_main_process():
            self.file.cut_after(-1)

    def state_dict(self) -> dict[str, Any]:
        """Moving averages, and how many rows were written. Raises OSError when rows cannot be written."""
        if self.file:
            self.file.flush()
        return {"averages": dict(self.averages), "rows": len(self.file.rows()) if self.file else 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the averages; rows written after `state` are cut when training begins."""
        self.averages, self._continued = dict(state["averages"]), state

    def on_step_end(self, args, state, control, **kwargs):
        log = _over_processes(self.reward_fn)
        if not state.is_world_process_zero:
            return
        averages = self._average(log)
        if state.global_step % self.log_every == 0:
            self._pending = {"step": state.global_step, **log, **averages}
            if not control.should_log:
                self._flush()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        elsewhere = set(logs) if "wandb" in (args.report_to or []) else set()  # sent by the Trainer's own callback
        if any(key.startswith("eval_") for key in logs):
            values = {key.removeprefix("eval_"): value for key, value in logs.items()}
            elsewhere = {key.removeprefix("eval_") for key in elsewhere}
            self.record("eval", state.global_step, {**values, **self.reward_fn.last_eval_log}, elsewhere)
        elif self._pending is not None:
            self._pending = {**logs, **self._pending}
            self._flush(elsewhere)
        elif "train_runtime" in logs:
            self.record("end", state.global_step, dict(logs), elsewhere)

    def on_train_end(self, args, state, control, **kwargs):
        self._flush()

    def record(self, kind: str, step: int, values: dict[str, Any], already_logged: Collection[str] = ()) -> None:
        """Write a row of `kind` ("train", "eval", "end") to the file and any active W&B run; main process only."""
        assert self.file is not None, "record() before training began: pass path="
        if not is_main_process():
            return
        self.file.append({"step": step, "kind": kind, **values})
        self._send(kind, step, {key: value for key, value in values.items() if key not in already_logged})

    def _send(self, kind: str, step: int, values: dict[str, Any]) -> None:
        numbers = {key: value for key, value in values.items() if isinstance(value, (int, float))}
        if _wandb_run() is None or not numbers:
            return
        try:
            # Without `step=`: TRL logs many rows per optimizer step, so W&B's own counter is far ahead and a row with
            # an explicit smaller step is dropped silently. `train/global_step` is the axis instead.
            row = {f"{kind}/{key}": value for key, value in numbers.items()}
            sys.modules["wandb"].log(row | {"train/global_step": step})
        except Exception as error:  # a tracker must never end a run; metrics.jsonl has the row
            if not self._warned:
                self._warned = True
                warn(f"W&B refused a row ({error}); metrics.jsonl has everything")

    def _flush(self, already_logged: Collection[str] = ()) -> None:
        if self._pending is not None:
            row, self._pending = self._pending, None
            self.record("train", row.pop("step"), row, already_logged)

    def _average(self, log: dict[str, float], reset: bool = False) -> dict[str, float]:
        for key, value in log.items():
            if value is None or key.startswith(("time/", "backtranslation/", "cycle/", "qe/")):  # seconds and work
                continue
            past = value if reset else self.averages.get(key, value)
            self.averages[key] = self.ema * past + (1 - self.ema) * value
        return {f"{key}_ema": value for key, value in self.averages.items()}


def _wandb_run() -> Any:
    """The active W&B run of this process, or None."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _over_processes(reward_fn) -> dict[str, float]:
    """Combine `last_log` of all processes: scalars of rows are computed over all rows, others (seconds, work) averaged.

    Without the reward's `summarise(rows)`, everything is averaged.
    """
    if distributed.count() == 1:
        return dict(reward_fn.last_log)
    logs = distributed.gathered([reward_fn.last_log])
    means = {key: mean(each.get(key) for each in logs) for key in sorted(set().union(*logs))}
    log = {key: value for key, value in means.items() if value is not None}
    if hasattr(reward_fn, "summarise"):
        log |= reward_fn.summarise(distributed.gathered(reward_fn.last_rows))
    return log
