"""Ranges next to the fields: what is refused, with the setting's name, also in sections and tuples."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from rl_nmt.errors import ConfigError
from rl_nmt.ranges import above, at_least, between, check_ranges


@dataclass
class Inner:
    share: float = between(0, 1, 0.5, open_left=True)


@dataclass
class Settings:
    count: int = at_least(1, 3)
    lr: float = above(0, 0.1)
    sizes: tuple[int, ...] = at_least(0, (1, 2))
    name: str = "free"
    inner: Inner = field(default_factory=Inner)


def test_defaults_and_bounds_hold():
    check_ranges(Settings())
    check_ranges(Settings(count=1, lr=1e-9, sizes=(), inner=Inner(1.0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count: 0 must be at least 1"),
        ({"lr": 0.0}, "lr: 0.0 must be above 0"),
        ({"lr": math.nan}, "lr: nan must be above 0"),
        ({"lr": math.inf}, "lr: inf must be above 0"),
        ({"sizes": (1, -1)}, "sizes: -1 must be at least 0"),
        ({"inner": Inner(0.0)}, "inner.share: 0.0 must be in (0, 1]"),
        ({"inner": Inner(1.5)}, "inner.share: 1.5 must be in (0, 1]"),
    ],
)
def test_what_is_out_of_range_is_named(changes, message):
    with pytest.raises(ConfigError) as refused:
        check_ranges(Settings(**changes))
    assert str(refused.value) == message
