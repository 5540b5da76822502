"""A worker process seen from the trainer: pipes that cannot block it, a process group that does not outlive it."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.worker.main import BadFrame, read_frame, write_frame

MAX_NOISE = 1 << 20  # bytes a worker may print before its first frame
_INHERITED: list[WorkerProcess] = []  # a fork must not close these: a lock of theirs may be held for ever


class Fault(Exception):
    """The worker, not the scorer in it, failed. `died`: it is gone, so that trying again may help."""

    def __init__(self, reason: str, died: bool = False):
        super().__init__(reason)
        self.died = died


class WorkerProcess:
    """A running worker: its pipes, read and written by threads, and its process group.

    `greeted`: the stream of frames has begun. `ended_by_itself`: it was gone before it was killed.
    """

    def __init__(self, python: str, environment: Mapping[str, str]):
        token = secrets.token_hex(8)
        try:
            self._popen = subprocess.Popen(
                [python, "-m", "rl_nmt.scorers.worker.main", token],
                env=dict(environment),
                start_new_session=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise ConfigError(f"python_executable: {python} cannot be started ({error.strerror})") from None
        self.pid, self._owner = self._popen.pid, os.getpid()
        self.greeted = self.ended_by_itself = False
        self._finalizer: weakref.finalize | None = None
        self._frames: queue.Queue[dict | Fault] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=20)
        threads = (("out", self._read, token), ("err", self._drain, self._popen.stderr))
        self._threads = [
            threading.Thread(target=run, args=(arg,), name=f"worker-{name}", daemon=True) for name, run, arg in threads
        ]
        for thread in self._threads:
            thread.start()

    def end_with(self, owner: object) -> None:
        """End the worker when `owner` is no longer used, and at the latest when the trainer ends."""
        self._finalizer = weakref.finalize(owner, _end_group, self._popen, self._owner)

    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: dict, end: float) -> None:
        """Write on a thread: a worker that does not read must not hold the trainer."""
        problem: list[Exception] = []

        def write() -> None:
            try:
                write_frame(self._popen.stdin, message)
            except (OSError, ValueError) as error:
                problem.append(error)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        writer.join(max(0.0, end - time.monotonic()))
        if writer.is_alive():
            raise Fault("does not read: killed")
        if problem:
            raise self._gone()

    def receive(self, end: float) -> dict:
        try:
            frame = self._frames.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise Fault(f"gave no answer in time: killed{self._last_words()}") from None
        if isinstance(frame, Fault):
            raise self._gone() if frame.died else frame
        return frame

    def kill(self) -> None:
        """End the whole process group and wait for its leader. In a fork of the trainer only let go of it."""
        if os.getpid() != self._owner:
            _INHERITED.append(self)
            return
        if self._finalizer is None:
            _end_group(self._popen, self._owner)
        else:
            self._finalizer()  # and never again: the process id may be another's by then
        for thread in self._threads:
            thread.join(2)
        for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def _read(self, token: str) -> None:
        stream, noise = self._popen.stdout, 0
        try:
            while (line := stream.readline(1 << 16)) != f"{token}\n".encode():
                noise += len(line)
                if not line or noise > MAX_NOISE:
                    raise EOFError
                if line.strip():
                    self._tail.append(line.decode("utf-8", "replace").strip())
            self.greeted = True
            while (frame := read_frame(stream)) is not None:
                self._frames.put(frame)
            self._frames.put(Fault("died", died=True))
        except BadFrame as bad:
            self._frames.put(Fault(f"sent {bad}: killed"))
        except (EOFError, OSError, ValueError):
            self._frames.put(Fault("died", died=True))

    def _drain(self, stream) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in iter(lambda: stream.readline(1 << 16), b""):
                if line.strip():
                    self._tail.append(line.decode("utf-8", "replace").strip())

    def _gone(self) -> Fault:
        try:
            code = self._popen.wait(2)
            self.ended_by_itself = True
        except subprocess.TimeoutExpired:
            return Fault(f"closed its pipe: killed{self._last_words()}", died=True)
        self._threads[1].join(1)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return Fault(f"{how}{self._last_words()}", died=True)

    def _last_words(self) -> str:
        return f" (its last line: {self._tail[-1][:300]})" if self._tail else ""


def _end_group(popen: subprocess.Popen, owner: int) -> None:
    """Kill a worker with all it started. Does nothing in a fork of the trainer, whose worker it is not."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(5)
