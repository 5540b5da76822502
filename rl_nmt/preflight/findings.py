"""What a check has found, as one line with its way out. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rl_nmt.errors import UserError

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. `status`: the exit code that a "fail" asks for (rl_nmt/errors.py), else 0."""

    level: Level
    what: str
    detail: str
    way_out: str = ""
    status: int = 0


def failed(what: str, error: UserError) -> Finding:
    """An error's line, cut where the way out begins: at its first ". " or "; ".

    >>> from rl_nmt.errors import ConfigError
    >>> failed("lr", ConfigError("lr: 5 is too high; take 1e-5"))
    Finding(level='fail', what='lr', detail='5 is too high', way_out='take 1e-5', status=2)
    """
    message = " ".join(str(error).split()).removeprefix(f"{what}: ")
    cuts = [message.find(mark) for mark in (". ", "; ") if mark in message]
    at = min(cuts, default=len(message))
    return Finding("fail", what, message[:at], message[at + 2 :], error.exit_code)
