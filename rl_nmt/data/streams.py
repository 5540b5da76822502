"""Rows over a network that fails: opened again behind the last row, with back-off, up to a deadline. No torch.

A stream with a shuffle buffer cannot be taken up in the middle. It is read again from its start, which gives
the same rows in the same order; those already delivered are compared by hash and left out.
"""

import contextlib
import hashlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rl_nmt.errors import MissingService, UserError, causes, describe

RETRY_SECONDS = 600.0  # without a new row, whether the stream fails or only drips
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts: doubled each time
DAMAGED_ATTEMPTS = 3  # a file that ends too early may be cut on the way, or on the server
_TRANSIENT_STATUS = (408, 425, 429)
_PERMANENT = ("OfflineModeIsEnabled", "DatasetNotFoundError", "EntryNotFoundError", "LocalEntryNotFoundError")
_NETWORK = ("RequestException", "ClientError", "RequestError", "TransportError", "HTTPError", "HTTPException")


class StreamBroken(MissingService):
    """The source failed for too long, or is not what it was."""


def persistent(name: str, open_rows: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """The rows of `open_rows()`; after a failure of the network it is called again and continues where it was.

    `open_rows` gives the same rows in the same order each time; `name` is the source's, for messages. Raises
    StreamBroken when RETRY_SECONDS have passed without a new row or the rows are others than before, and whatever
    `open_rows` raises that trying again cannot mend.
    """
    delivered, count = hashlib.sha256(), 0
    last, wait, damaged = time.monotonic(), FIRST_WAIT, 0
    while True:
        rows, before = _Watched(open_rows), time.monotonic()
        try:
            again, left = hashlib.sha256(), count
            while (row := rows.next(last + RETRY_SECONDS - time.monotonic())) is not _END:
                mark = repr(row).encode("utf-8", "replace")
                if left:
                    again.update(mark)
                    left -= 1
                    last += time.monotonic() - before  # the clock stands still while old rows come again
                    before = time.monotonic()
                    _require_same(name, bool(left) or again.digest() == delivered.digest())
                    continue
                delivered.update(mark)
                count += 1
                last, wait, damaged = time.monotonic(), FIRST_WAIT, 0
                yield row
            _require_same(name, not left)
            return
        except Exception as error:
            kind = what_failed(error)
            damaged += kind == "damaged"
            if kind is None or damaged >= DAMAGED_ATTEMPTS:
                raise
            pause = max(wait, _retry_after(error))
            # `datasets` says only that it was disconnected: what the server answered, where it did, says more.
            said = describe(next((e for e in causes(error) if getattr(e, "response", None) is not None), error))
        finally:
            rows.stop()
        if time.monotonic() + pause >= last + RETRY_SECONDS:
            silent = time.monotonic() - last
            raise StreamBroken(f"dataset_name: {name} has sent no new row for {silent:.0f} s ({said})")
        print(f"{name}: {said}; trying again in {pause:.0f} s, {count} rows so far", file=sys.stderr, flush=True)
        time.sleep(pause)
        wait = min(LONGEST_WAIT, 2 * wait)


def what_failed(error: BaseException) -> str | None:
    """ "network" and "damaged" (a file cut short) may be better at the next attempt; None will not.

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
    """Seconds that a server asked to be left alone (Retry-After), 0 when it did not."""
    for e in causes(error):
        asked = getattr(getattr(e, "response", None), "headers", None) or {}
        if str(asked.get("Retry-After", "")).isdigit():
            return float(asked["Retry-After"])
    return 0.0


def _require_same(name: str, same: bool) -> None:
    if not same:
        raise StreamBroken(f"dataset_name: {name} has changed while it was read: pin it as {name}@COMMIT")


_END = object()


class _Watched:
    """An iterator read in a thread of its own, so that a server that drips cannot hold the caller."""

    def __init__(self, open_rows: Callable[[], Iterator[Any]]):
        self._queue: queue.Queue = queue.Queue(maxsize=64)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(open_rows,), daemon=True)
        self._thread.start()

    def next(self, seconds: float) -> Any:
        """The next row, `_END`, or what the stream raised. Raises TimeoutError after `seconds`."""
        try:
            row, error = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            raise TimeoutError("it answers too slowly") from None
        if error is not None:
            raise error
        return row

    def stop(self) -> None:
        """Let the thread end. One that hangs in a read is left behind; it keeps no program alive."""
        self._stopped.set()
        with contextlib.suppress(queue.Empty):  # a thread that waits for a place in the queue gets one
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
