"""Findings of the doctor's checks, their table and the exit code. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rl_nmt.errors import ConfigError, UserError

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the table. `status`: the exit code of a "fail" (rl_nmt/errors.py), else 0. `way_out`: the fix."""

    level: Level
    what: str
    detail: str
    way_out: str = ""
    status: int = 0


def fail(what: str, detail: str, way_out: str = "", error: type[UserError] = ConfigError) -> Finding:
    """Return a finding that stops a run, with the exit code of `error`."""
    return Finding("fail", what, detail, way_out, error.exit_code)


def failed(what: str, error: UserError) -> Finding:
    """Return an error as a finding; its fix begins after the first ". " or "; " of the message.

    >>> from rl_nmt.errors import ConfigError
    >>> failed("lr", ConfigError("lr: 5 is too high; take 1e-5"))
    Finding(level='fail', what='lr', detail='5 is too high', way_out='take 1e-5', status=2)
    """
    message = " ".join(str(error).split()).removeprefix(f"{what}: ")
    at = min((message.find(mark) for mark in (". ", "; ") if mark in message), default=len(message))
    return fail(what, message[:at], message[at + 2 :], type(error))


def table(findings: Iterable[Finding]) -> str:
    """Return the findings as text: level, what, detail, and the fix below it; the last line is go or no-go."""
    findings = list(findings)
    width = max((len(f.what) for f in findings), default=0)
    lines = []
    for f in findings:
        lines.append(f"{f.level:4}  {f.what:{width}}  {f.detail}")
        if f.way_out:
            lines.append(f"{'':4}  {'':{width}}  → {f.way_out}")
    failed, warned = (sum(f.level == level for f in findings) for level in ("fail", "warn"))
    verdict = f"no-go: {failed} to fix" if failed else "go"
    return "\n".join([*lines, f"{verdict}{f', {warned} to look at' if warned else ''}"])


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 for go, else the highest status of what failed."""
    return max((f.status or 1 for f in findings if f.level == "fail"), default=0)
