"""Read rows over an unreliable network: reopen the stream after a failure, with back-off and a deadline. No torch.

A stream with a shuffle buffer cannot be resumed in the middle. It is read again from its start, which gives
the same rows in the same order; those already delivered are compared by hash and skipped.
"""

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

from rl_nmt.errors import MissingService, UserError, causes, describe, warn

RETRY_SECONDS = 600.0  # limit without a new row, whether the stream fails or is only slow
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts: doubled each time
DAMAGED_ATTEMPTS = 3  # a file that ends too early may be cut in transit, or on the server
_TRANSIENT_STATUS = (408, 425, 429)
_PERMANENT = ("OfflineModeIsEnabled", "DatasetNotFoundError", "EntryNotFoundError", "LocalEntryNotFoundError")
_NETWORK = ("RequestException", "ClientError", "RequestError", "TransportError", "HTTPError", "HTTPException")


class StreamBroken(MissingService):
    """The source failed for too long, or has changed."""


def persistent(
    name: str, open_rows: Callable[[], Iterator[Any]], argument: str = "dataset_name"
) -> Generator[Any, None, None]:
    """Yield the rows of `open_rows()`; after a network failure, call it again and continue after the last row.

    `open_rows` gives the same rows in the same order each time; `name` and `argument`, the setting that names it, are
    for messages. Raises StreamBroken after RETRY_SECONDS without a new row or if the rows differ from before, and any
    error of `open_rows` that a retry cannot fix.
    """
    delivered, count = hashlib.sha256(), 0
    last, wait, damaged = time.monotonic(), FIRST_WAIT, 0
    while True:
        rows, before = _Watched(open_rows), time.monotonic()
        try:
            again, left = hashlib.sha256(), count
            while (row := rows.next(last + RETRY_SECONDS - time.monotonic())) is not _END:
                mark = repr(row).encode("utf-8", "replace")
                if left:  # read again from the start: a shuffle buffer cannot be resumed in the middle
                    again.update(mark)
                    left -= 1
                    last += time.monotonic() - before  # old rows do not count against the deadline
                    before = time.monotonic()
                    _require_same(argument, name, bool(left) or again.digest() == delivered.digest())
                    continue
                delivered.update(mark)
                count += 1
                last, wait, damaged = time.monotonic(), FIRST_WAIT, 0
                yield row
            _require_same(argument, name, not left)
            return
        except Exception as error:
            kind = what_failed(error)
            damaged += kind == "damaged"
            if kind is None or damaged >= DAMAGED_ATTEMPTS:
                raise
            pause = max(wait, _retry_after(error))
            # `datasets` reports only a disconnection; the server's answer, if there was one, tells more.
            said = describe(next((e for e in causes(error) if getattr(e, "response", None) is not None), error))
        finally:
            rows.stop()
        if time.monotonic() + pause >= last + RETRY_SECONDS:
            silent = time.monotonic() - last
            raise StreamBroken(f"{argument}: {name} has sent no new row for {silent:.0f} s ({said})")
        warn(f"{name}: {said}; trying again in {pause:.0f} s, {count} rows so far")
        time.sleep(pause)
        wait = min(LONGEST_WAIT, 2 * wait)


def what_failed(error: BaseException) -> str | None:
    """Return "network" or "damaged" (a file cut short) for an error worth a retry, None for others.

    >>> what_failed(ConnectionResetError("by peer")), what_failed(EOFError("compressed file")), what_failed(KeyError())
    ('network', 'damaged', None)
    """
    for e in causes(error):
        if isinstance(e, UserError):
            return None
        names = {cls.__name__ for cls in type(e).__mro__}
        status = getattr(getattr(e, "response", None), "status_code", None)
        if isinstance(status, int):
            return "network" if status >= 500 or status in _TRANSIENT_STATUS else None
        if names & set(_PERMANENT):
            return None
        if isinstance(e, (ConnectionError, TimeoutError)) or names & set(_NETWORK):
            return "network"
        if isinstance(e, EOFError) or type(e).__module__ in ("gzip", "zlib"):
            return "damaged"
    return None


def _retry_after(error: BaseException) -> float:
    """Return the seconds that a server asked to wait (Retry-After), else 0."""
    for e in causes(error):
        asked = getattr(getattr(e, "response", None), "headers", None) or {}
        if str(asked.get("Retry-After", "")).isdigit():
            return float(asked["Retry-After"])
    return 0.0


def _require_same(argument: str, name: str, same: bool) -> None:
    if not same:
        raise StreamBroken(f"{argument}: {name} has changed while it was read: pin it as {name}@COMMIT")


_END = object()


class _Watched:
    """An iterator read in its own thread, so that a slow server cannot block the caller."""

    def __init__(self, open_rows: Callable[[], Iterator[Any]]):
        self._queue: queue.Queue = queue.Queue(maxsize=64)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(open_rows,), daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> Any:
        """Return the next row or `_END`. Raises the stream's error, and TimeoutError after `seconds`."""
        try:
            row, error = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError("it answers too slowly") from None
        if error is not None:
            raise error
        return row

    def stop(self) -> None:
        """End the thread. One that hangs in a read is left running; as a daemon it does not keep the program alive."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):  # frees a thread that waits for a place in the queue
            while True:
                self._queue.get_nowait()
        self._thread.join(timeout=1.0)

    def _read(self, open_rows: Callable[[], Iterator[Any]]) -> None:
        try:
            for row in open_rows():
                self._queue.put((row, None))
                if self._stopped.is_set():
                    return
            self._queue.put((_END, None))
        except BaseException as error:
            self._queue.put((None, error))
