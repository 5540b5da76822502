"""Errors a user can act on, and the exit status each one ends a command with."""

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})


class UserError(Exception):
    """An error that the user can fix; printed as one line, without a traceback.

    The message names the argument, the value and the fix. `exit_code` is the status the command ends with.
    """

    exit_code = 1


class ConfigError(UserError):
    """A setting, file or flag is wrong."""

    exit_code = 2


class RewardRefused(UserError):
    """The reward could not be trusted or a score is missing."""

    exit_code = 3


class ResumeRefused(UserError):
    """A used run folder cannot be continued, or not with these settings."""

    exit_code = 4


class MissingService(UserError):
    """A model, data set or server cannot be reached."""

    exit_code = 69


class NonFiniteLoss(UserError):
    """Loss or gradient is NaN or infinite."""

    exit_code = 70


class CannotWrite(UserError):
    """A file or folder cannot be written."""

    exit_code = 73


def warn(line: str) -> None:
    """Print a warning, one line on standard error, above a progress line; the run continues."""
    bars = sys.modules.get("tqdm")  # not imported: no progress line is drawn
    (bars.tqdm.write if bars else print)(f"warning: {line}", file=sys.stderr)


def describe(error: BaseException) -> str:
    """Return an exception as one short line: its class and message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and everything that led to it (`__cause__`, `__context__`), each once."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            queue += [e for e in (current.__cause__, current.__context__) if e is not None]


def caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    """Return whether the error, or anything that led to it, is of this class."""
    return any(isinstance(e, kind) for e in causes(error))


class Stopped(BaseException):
    """The command was asked to stop. A BaseException, so that no `except Exception` on the way swallows it.

    `exit_code`: 128 + signal, or 75 for a stop that was planned.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with the right status and one clear line.

    Notes of the exception (`Run.under_way`) follow that line; an unforeseen exception keeps its traceback,
    which ends in them. SIGTERM ends `main` as Ctrl-C does; a second signal ends the process at once.
    """
    with _sigterm_raises():
        try:
            status = main() or 0
        except (UserError, Stopped) as error:
            word = "stopped" if isinstance(error, Stopped) else "error"
            _say(f"{word}: {' '.join(str(error).split())}", error)
            status = error.exit_code
        except KeyboardInterrupt as error:
            _say("error: interrupted", error)
            status = 130
        except BrokenPipeError:  # the reader closed the pipe, as `head` does: flush nothing at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 141  # what a shell shows for SIGPIPE
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            where = f" {error.filename}" if error.filename else ""
            _say(f"error: cannot write{where} ({error.strerror}): free space, or write elsewhere", error)
            status = CannotWrite.exit_code
        except Exception:
            if not _hanging:
                raise
            traceback.print_exc()
            status = 1
    if _hanging:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


_hanging: list[str] = []


def leave_behind(what: str) -> None:
    """Tell `run` that something (a W&B server) no longer answers: the process must end without waiting for it."""
    _hanging.append(what)


def _say(line: str, error: BaseException) -> None:
    if getattr(error, "elsewhere", False):  # the main process prints it (rl_nmt/distributed.py)
        return
    print("\n".join([line, *getattr(error, "__notes__", ())]), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def first(signum, frame):
        signal.signal(signum, lambda *_: os._exit(128 + signum))
        raise Stopped("SIGTERM", 128 + signum)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
