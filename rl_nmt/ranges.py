"""Declare the range of a setting next to its default, and check all of them at once.

@dataclass
class Settings:
    group_size: int = at_least(2, 8)
    top_p: float = between(0, 1, 1.0, open_left=True)

check_ranges(Settings(group_size=1))    # ConfigError: group_size: 1 must be at least 2
"""

import dataclasses
import math
from typing import Any

from rl_nmt.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, without `low` where `open_left`."""

    low: float = -math.inf
    high: float = math.inf
    open_left: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_left else value >= self.low
        return math.isfinite(value) and above and value <= self.high

    def __str__(self) -> str:
        if self.low == -math.inf:
            return f"must be at most {self.high}"
        if self.high < math.inf:
            return f"must be in {'(' if self.open_left else '['}{self.low}, {self.high}]"
        return f"must be {'above' if self.open_left else 'at least'} {self.low}"


def at_least(low: float, default: Any, **metadata: Any) -> Any:
    """Return a dataclass field for numbers from `low` on."""
    return dataclasses.field(default=default, metadata={"range": Range(low), **metadata})


def above(low: float, default: Any) -> Any:
    """Return a dataclass field for numbers above `low`."""
    return dataclasses.field(default=default, metadata={"range": Range(low, open_left=True)})


def at_most(high: float, default: Any) -> Any:
    """Return a dataclass field for numbers up to `high`."""
    return dataclasses.field(default=default, metadata={"range": Range(high=high)})


def between(low: float, high: float, default: Any, open_left: bool = False) -> Any:
    """Return a dataclass field for numbers in [low, high], or (low, high]."""
    return dataclasses.field(default=default, metadata={"range": Range(low, high, open_left)})


def check_ranges(cfg: Any, prefix: str = "") -> None:
    """Raise ConfigError for the first field, also of a section, whose number (or one of them) is out of its range."""
    for field in dataclasses.fields(cfg):
        value, allowed = getattr(cfg, field.name), field.metadata.get("range")
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{prefix}{field.name}.")
        for number in (value if isinstance(value, tuple) else (value,)) if allowed else ():
            if not allowed.holds(number):
                raise ConfigError(f"{prefix}{field.name}: {number} {allowed}")
