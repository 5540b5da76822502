"""Keep the rows and scalars of a reward's calls; stop the run when nothing can be scored. No torch.

Rows are dicts, one per sample, with source, output (cleaned), gate (a reason, or None if it passes), length, and total
(None: not scored).
"""

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from rl_nmt.config import excerpt, load_callable
from rl_nmt.errors import ConfigError, MissingService, describe, warn
from rl_nmt.files import is_number


class RewardLog:
    """Base class of a reward, with the attributes that trainer, callback and checkpoints read."""

    max_dead_calls = 3  # calls in a row without a single complete sample before the run is stopped
    asked = "model"  # named in the message then

    def __init__(self) -> None:
        self.last_log: dict[str, float] = {}  # scalars of the last training call
        self.last_eval_log: dict[str, float] = {}
        self.last_rows: list[dict[str, Any]] = []  # of the last call
        self.evaluating = False  # set by the trainer, so that an evaluation does not overwrite last_log
        self.calls = self._dead_calls = 0  # training calls so far

    def keep(
        self, rows: list[dict[str, Any]], log: dict[str, float], columns: Mapping[str, Any], extra: Sequence[str] = ()
    ) -> list[float | None]:
        """Keep a call's rows and scalars and return its totals.

        `columns` is what TRL passed; its `log_extra` gets the columns `extra`. Raises MissingService after
        `max_dead_calls` calls in a row in which no passing sample was `complete`.
        """
        self.last_rows = rows
        if self.evaluating:
            self.last_eval_log = log
        else:
            self.last_log = log
            self.calls += 1
            if self.calls == 1 and (problem := unrepaired_gemma3()):
                warn(problem)
        for name in extra if columns.get("log_extra") else ():
            columns["log_extra"](name, [row[name] for row in rows])
        passing = [row for row in rows if row["gate"] is None]  # no model scores the others
        dead = bool(passing) and not any(self.complete(row) for row in passing)
        self._dead_calls = self._dead_calls + 1 if dead else 0
        if self._dead_calls >= self.max_dead_calls:
            raise MissingService(
                f"reward: no sample could be scored in {self.max_dead_calls} calls in a row; the warnings above "
                f"name the {self.asked} that failed"
            )
        return [row["total"] for row in rows]

    def complete(self, row: Mapping[str, Any]) -> bool:
        """Return whether a passing row has every score that training needs."""
        return row["total"] is not None

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "dead_calls": self._dead_calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls, self._dead_calls = state["calls"], state["dead_calls"]


def unrepaired_gemma3() -> str | None:
    """Return a warning when this process has loaded Gemma 3 and TRL would fail on it (models/gemma3.py), else None."""
    module = sys.modules.get("transformers.models.gemma3.modeling_gemma3")  # there once a Gemma 3 model was loaded
    loaded = getattr(module, "Gemma3ForCausalLM", None)
    if getattr(loaded, "base_model_prefix", "") != "language_model" or "base_model" in vars(loaded):
        return None
    return (
        f"Gemma3ForCausalLM in transformers {version('transformers')}: TRL's loss will fail with \"'CausalLMOutputWith"
        "Past' object has no attribute 'last_hidden_state'\"; call rl_nmt.models.repair_gemma3() before the trainer is "
        "built"
    )


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None without any.

    >>> mean([1, None, 0.5]), mean([None])
    (0.75, None)
    """
    there = [float(value) for value in values if value is not None]
    return sum(there) / len(there) if there else None


def common_scalars(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return every reward's scalars, "reward/…", of at least one row: total, length, shares, and each gate's share."""
    log = {
        "reward/total": mean(row["total"] for row in rows),
        "reward/gated_share": mean(row["gate"] is not None for row in rows),
        "reward/missing_share": mean(row["total"] is None for row in rows),
        "reward/length": mean(row["length"] for row in rows),
        "reward/distinct_share": len({(row["source"], row["output"]) for row in rows}) / len(rows),
    }
    for reason in sorted({row["gate"] for row in rows if row["gate"]}):
        log[f"reward/gate/{reason}"] = mean(row["gate"] == reason for row in rows)
    return log


def work_done(rows: Iterable[Mapping[str, Any]], models: Iterable[tuple[str, Any, Sequence[str]]]) -> dict[str, float]:
    """Return the `stats` of each (part, model, names) that the model has, under "part/name".

    Empty where every row was gated: no model was called, so their stats are those of an earlier call.
    """
    if all(row["gate"] is not None for row in rows):
        return {}
    found = {(part, name): getattr(model, "stats", {}).get(name) for part, model, names in models for name in names}
    return {f"{part}/{name}": float(value) for (part, name), value in found.items() if value is not None}


def function_scores(
    name: str, argument: str, count: int, call: Callable[[Callable], Sequence[Any]]
) -> list[float | None]:
    """Return the `count` scores that `call` gets from the function that the setting `argument` names "module:name".

    Raises ConfigError, naming the setting, if the function fails or returns anything but a finite number or None for
    each completion.
    """
    function = load_callable(name, argument)
    try:
        found = list(call(function)) if count else []
    except Exception as error:
        raise ConfigError(f"{argument}: {name} fails ({describe(error)}); correct it") from error
    found = [value.item() if hasattr(value, "item") else value for value in found]
    if len(found) != count or not all(value is None or is_number(value) for value in found):
        wanted = f"it must return a finite number or None for each of {count} completions"
        raise ConfigError(f"{argument}: {name} returns {excerpt(str(found))}; {wanted}")
    return [None if value is None else float(value) for value in found]


def function_identity(name: str, argument: str) -> dict[str, str]:
    """Return the name of a function, "module:name", and a hash of its module's source ("" if there is none).

    Call it once, when the module is imported: later it would hash a file that was edited since. Raises ConfigError.
    """
    try:
        source = inspect.getsource(sys.modules[load_callable(name, argument).__module__])
    except (AttributeError, KeyError, TypeError, OSError):  # a builtin, an instance, no file
        source = ""
    return {"function": name, "module": hashlib.sha256(source.encode()).hexdigest()[:16] if source else ""}
