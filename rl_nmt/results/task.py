"""Describe a task for the results: metric columns in addition to the reward, labels, languages. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rl_nmt.files import is_number
from rl_nmt.text.unicode import length

if TYPE_CHECKING:
    import numpy as np

    from rl_nmt.results.evaluation import Snapshot


@dataclass(frozen=True)
class Column:
    """One line of the table before and after; without functions it only sets how a component of the reward is shown.

    `rows` is for counting wins and ranking samples; `value` and `resampled` default to its mean and resampled means.
    """

    name: str  # key in evaluation.json and metrics.jsonl
    label: str = ""  # on the screen, by default the name
    digits: int = 3  # shown after the point
    better: int = 0  # 1: more is better, -1: less, 0: neither
    rows: Callable[[Snapshot], list[float | None]] | None = None  # one number per row, None where not measurable
    value: Callable[[Snapshot], float | None] | None = None  # the number for all rows
    resampled: Callable[[Snapshot, int], np.ndarray] | None = None  # seed → (RESAMPLES,), on `bootstrap_draws`
    signature: Callable[[Snapshot], str] | None = None  # how it was measured
    drawn: str = "greedy"  # how the outputs that it measures were decoded

    def of(self, snapshot: Snapshot) -> float | None:
        """The number for all rows."""
        if self.value:
            return self.value(snapshot)
        return mean(self.rows(snapshot)) if self.rows else None

    def show(self, value: Any) -> str:
        """Return a value with this column's digits; a dash if it is not a finite number."""
        return "–" if number(value) is None else f"{value:.{self.digits}f}"


def number(value: Any) -> float | None:
    """A finite int or float as a float; None for anything else, also for a bool."""
    return float(value) if is_number(value) else None


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    import numpy as np  # here, since `--help` imports this module

    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _totals(snapshot: Snapshot) -> list[float | None]:
    return [number(row.get("total")) for row in snapshot.components]


def _share(holds: Callable[[Mapping[str, Any]], bool]) -> Callable[[Snapshot], float | None]:
    return lambda snapshot: mean([holds(row) for row in snapshot.components])


# Of every task: the mean total over the scored outputs; code points; shares of outputs.
REWARD = Column("reward", better=1, rows=_totals)
COMMON = (
    Column("mean_length", "mean length", 1, value=lambda s: mean([length(text) for text in s.outputs])),
    Column("scored", better=1, value=_share(lambda row: number(row.get("total")) is not None)),
    Column("gated", better=-1, value=_share(lambda row: bool(row.get("gate")))),
)


@dataclass(frozen=True)
class Task:
    """Columns and words of a task for the results. The defaults have only the reward."""

    title: str  # of report and model card, e.g. "English → Tamil"
    columns: tuple[Column, ...] = ()  # metrics in addition to the reward, in the table's order
    headline: tuple[str, ...] = (REWARD.name,)  # columns that the report shows large
    texts: Mapping[str, str] = field(default_factory=dict)  # further texts in a row of the reward: name → label
    hidden: tuple[str, ...] = ()  # numbers in a row of the reward that are not metrics of their own
    source_language: str = ""  # BCP 47 code, also of `texts`; "" without one
    output_language: str = ""
    inputs: str = "prompts"  # plural for prose: the model's inputs
    outputs: str = "answers"  # plural for prose: the model's outputs
    method: str = "GRPO"  # for the card: "Trained with " this
    reward: str = "the reward below"  # for the card: "Trained with GRPO from …, with " this
    drawn: str = "greedy"  # how they are decoded in evaluation
    pipeline: str = "text-generation"  # the hub's pipeline tag
    example: str = "Hello."  # a source for the card's example
    settings: tuple[str, ...] = ()  # shown first in the report

    def column(self, name: str) -> Column:
        """Return the column of a metric or component of the reward; an unknown one has its name and three digits.

        >>> task = Task("count", (Column("hits", "hits in %", 1),))
        >>> [task.column(name).label or name for name in ("hits", "mean_length", "total", "new")]
        ['hits in %', 'mean length', 'reward', 'new']
        """
        name = REWARD.name if name == "total" else name
        known = {column.name: column for column in (REWARD, *self.columns, *COMMON)}
        return known.get(name) or Column(name)

    def label(self, name: str) -> str:
        """Return the name of a metric for the screen."""
        column = self.column(name)
        return column.label or column.name.replace("_", " ")

    @property
    def by_row(self) -> tuple[Column, ...]:
        """The columns that have a value for every row."""
        return tuple(column for column in self.columns if column.rows)
