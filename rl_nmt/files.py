"""Write files and folders whole: after a crash the old content or the new one, never half of it. No torch."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rl_nmt.errors import CannotWrite


def write_durable(path: Path, content: str | bytes) -> None:
    """Write a draft next to `path`, fsync it, rename it, fsync the folder. Raises OSError, after removing the draft.

    A lone surrogate cannot be encoded as UTF-8: it becomes "?", and the file stays readable.
    """
    data = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    draft = path.with_name(f".{path.name}.part")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError:  # some file systems cannot; the rename itself is done
        pass
    finally:
        os.close(folder)


def write(path: str | Path, content: str | bytes, argument: str = "") -> None:
    """`write_durable` for a user's file. Raises CannotWrite, which names `argument`, the setting with the path."""
    try:
        write_durable(Path(path), content)
    except OSError as error:
        raise cannot_write(path, error, argument) from error


def write_json(path: str | Path, value: Any, argument: str = "") -> None:
    """Write `finite(value)` as indented JSON. Raises CannotWrite as `write` does."""
    write(path, json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n", argument)


def finite(value: Any) -> Any:
    """Return a JSON-safe copy: non-finite floats become None, tensors and NumPy values become numbers or lists."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite JSON number, not a bool or tensor."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield a draft folder, which replaces `target` when the block ends without an error. Raises CannotWrite."""
    draft = target.with_name(f".{target.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    except (OSError, SafetensorError) as error:
        raise cannot_write(target, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def cannot_write(path: str | Path, error: Exception, argument: str = "") -> CannotWrite:
    """Return the error for a path that cannot be written: argument, path, reason and fix in one line."""
    setting, reason = f"{argument}: " if argument else "", getattr(error, "strerror", None) or error
    return CannotWrite(f"{setting}{path} cannot be written ({reason}): free space, or write elsewhere")
