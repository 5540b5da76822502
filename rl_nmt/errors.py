"""Errors a user can act on, and the exit status each one ends a command with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can put right; printed as one line, without a traceback.

    The message names the argument, the value and the way out. `exit_code` is the status the
    command ends with.
    """

    exit_code = 1


class ConfigError(UserError):
    """A setting, file or flag is wrong."""

    exit_code = 2


class RewardRefused(UserError):
    """The reward could not be trusted or a score is missing."""

    exit_code = 3


class MissingService(UserError):
    """A model, data set or server cannot be reached."""

    exit_code = 69


class NonFiniteLoss(UserError):
    """Loss or gradient is NaN or infinite."""

    exit_code = 70


class CannotWrite(UserError):
    """A file or folder cannot be written."""

    exit_code = 73


def run(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with the right status and one clear line."""
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        status = error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr, flush=True)
        status = 130
    except BrokenPipeError:  # the reader left, as `head` does: nothing more to say, and nothing to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141  # what a shell shows for SIGPIPE
    sys.exit(status)
