"""What a person watching a run sees: a progress line, two samples now and then, held-out evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable

from transformers import TrainerCallback


class ProgressLine(TrainerCallback):
    """One line per log: step, reward, KL, length, tokens per second, time left; samples every so often.

    Args:
        reward_fn: has `last_rows`, the rows of the last training call.
        sample_steps: print two samples every so many optimizer steps; 0 prints none.
    """

    def __init__(self, reward_fn, sample_steps: int):
        self.reward_fn, self.sample_steps = reward_fn, sample_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self._start, self._first_step = time.monotonic(), state.global_step
        self._tokens = (state.num_input_tokens_seen, 0.0)  # not 0 in a resumed run

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or "reward" not in logs:
            return
        seconds = time.monotonic() - self._start
        done = state.global_step - self._first_step
        left = seconds / max(1, done) * (state.max_steps - state.global_step)
        total = logs.get("num_tokens") or 0
        before, self._tokens = self._tokens, (total, seconds)
        rate = (total - before[0]) / max(1e-9, seconds - before[1])
        parts = [f"step {state.global_step}/{state.max_steps}"]
        for key, name, form in (
            ("reward", "reward", "{:.4f}"), ("reward_std", "±", "{:.4f}"), ("kl", "kl", "{:.4f}"),
            ("completions/mean_length", "length", "{:.1f}"),
        ):  # fmt: skip
            if logs.get(key) is not None:
                parts.append(f"{name} {form.format(logs[key])}")
        print("  ".join([*parts, f"{rate:.0f} tok/s", f"{clock(left)} left"]), flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        if not state.is_world_process_zero or not self.sample_steps or state.global_step % self.sample_steps:
            return
        rows = self.reward_fn.last_rows
        for row in rows[:: max(1, len(rows) // 2)][:2]:
            total = "no score" if row["total"] is None else f"{row['total']:.3f}"
            reason = f" gated: {row['gate']}" if row["gate"] else ""
            back = "" if row["backtranslation"] is None else f"\n    ← {row['backtranslation']}"
            print(f"    {row['english']}\n    → {row['output']}{back}\n      [{total}{reason}]", flush=True)


class PeriodicEvaluation(TrainerCallback):
    """Greedy decoding of the held-out rows every `eval_steps` optimizer steps.

    Args:
        eval_steps: 0 evaluates never.
        evaluate: () → dict of scalars.
        record: called with (kind, step, values), e.g. WandbRewardCallback.record.
    """

    def __init__(self, eval_steps: int, evaluate: Callable[[], dict], record: Callable[[str, int, dict], None]):
        self.eval_steps, self.evaluate, self.record = eval_steps, evaluate, record

    def on_step_end(self, args, state, control, **kwargs):
        if not self.eval_steps or state.global_step % self.eval_steps or state.global_step == state.max_steps:
            return
        values = self.evaluate()
        if state.is_world_process_zero:
            self.record("eval", state.global_step, values)
            shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, (int, float)))
            print(f"held-out at step {state.global_step}: {shown}", flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss.

    >>> clock(75), clock(3661)
    ('1:15', '1:01:01')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
