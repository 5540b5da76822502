"""Write and read JSON-lines files such as metrics.jsonl, and cut them back to a checkpoint on a resume."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rl_nmt.errors import warn
from rl_nmt.files import finite, write_durable


class MetricsFile:
    """Write one JSON object per line, flushed at once, so that a killed run keeps what it logged.

    Rows that cannot be written (full disk) are kept in memory and written, in order, with the next row. The first
    failure prints a warning.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting: list[str] = []
        self._warned = False

    def append(self, row: dict[str, Any]) -> None:
        self._waiting.append(json.dumps(finite(row), ensure_ascii=False) + "\n")
        try:
            self.flush()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warn(f"{self.path} cannot be written ({error.strerror}); its rows are kept in memory until it can")

    def flush(self) -> None:
        """Write the rows kept in memory. Raises OSError, and leaves no half row behind."""
        if not self._waiting:
            return
        data = "".join(self._waiting).encode("utf-8", "replace")
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise
        self._waiting.clear()

    def rows(self) -> list[dict[str, Any]]:
        """All rows on the disk; see `read_rows`."""
        return list(read_rows(self.path))

    def cut_after(self, step: int, count: int | None = None) -> list[dict[str, Any]]:
        """Drop the rows past `step`, or past the first `count`, and return those kept; atomic.

        A resumed run writes them again. `count` also drops what was written at `step` itself after its
        checkpoint: the last evaluation, the end row. Raises OSError.
        """
        self._waiting.clear()
        rows = [row for row in self.rows() if row.get("step", 0) <= step][:count]
        if self.path.exists():
            write_durable(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return rows


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of such a file, none if it does not exist; a line cut off by a crash is left out."""
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            if isinstance(row := json.loads(line), dict):
                yield row
