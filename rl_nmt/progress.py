"""Show how far long work is: one redrawn line in a terminal, elsewhere a plain line every few seconds."""

import os
import sys
from typing import ClassVar
from weakref import WeakSet

from tqdm import tqdm

EVERY = 5.0  # seconds between plain lines; shorter work prints none
LINE = "{desc}: {n_fmt} of {total_fmt}{unit}{postfix}, {remaining} left"


class _Lines(tqdm):
    """tqdm where the output is not a terminal: every state on a line of its own, without the first and the last."""

    _instances: ClassVar[WeakSet] = WeakSet()  # not tqdm's, which `errors.warn` draws again below its line

    def display(self, msg=None, pos=None):
        if msg is None and 0 < self.n < self.total:  # "" on closing
            self.fp.write(f"{self}\n")
            self.fp.flush()


_place: int | None = None  # line of the terminal, where several processes work at the same time


def place(line: int) -> None:
    """Set this process's line of the terminal, 0 or more."""
    global _place
    _place = line


def progress(what: str, total: int, unit: str = "") -> tqdm:
    """Return a tqdm to call `update(n)` on, for `total` pieces of work; use it in a `with` statement.

    `what`: "" shows nothing. The line goes away at the end. While it is drawn, print only with `errors.warn`.
    """
    # Some containers have a terminal without columns, where tqdm shows nothing.
    terminal = sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0
    kind, often = (tqdm, 0.1) if terminal else (_Lines, EVERY)
    return kind(
        total=total,
        desc=what,
        unit=unit and f" {unit}",
        disable=not what,
        position=_place,
        bar_format=LINE,
        mininterval=often,
        miniters=1,
        leave=False,
        file=sys.stdout,
        dynamic_ncols=terminal,
        ncols=None if terminal else 1000,  # whatever COLUMNS is
    )
