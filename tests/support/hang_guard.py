"""A time limit for tests of code that must not hang; it measures nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def ends_within(seconds: int) -> Iterator[None]:
    """Fail the test if the block has not ended after `seconds`; choose a generous limit, the machine may be busy."""

    def stop(*_):
        pytest.fail(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
