"""Run a worker process for the trainer: its socket cannot block the trainer, its process group cannot outlive it."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Mapping
from multiprocessing.connection import Pipe

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.worker.main import receive_message


class Fault(Exception):
    """A failure of the worker, not of the scorer in it. `died`: the process has ended, so a retry may help."""

    def __init__(self, reason: str, died: bool = False):
        super().__init__(reason)
        self.died = died


class WorkerProcess:
    """A running worker: its socket, read and written by threads, and its process group.

    It ends when `owner` is no longer used, and at the latest when the trainer ends.
    """

    def __init__(self, python: str, environment: Mapping[str, str], owner: object):
        self._connection, theirs = Pipe()
        try:
            self._popen = subprocess.Popen(
                [python, "-m", "rl_nmt.scorers.worker.main"],
                env=dict(environment),
                start_new_session=True,
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,  # a buffer has a lock that a fork of the trainer could not release
            )
        except OSError as error:
            raise ConfigError(f"python_executable: {python} cannot be started ({error.strerror})") from None
        finally:
            theirs.close()
        self.pid, self._owner = self._popen.pid, os.getpid()
        self._finalizer = weakref.finalize(owner, _end_group, self._popen, self._owner)
        self._messages: queue.Queue[dict | Fault] = queue.Queue()
        self._tail = b""  # the end of its output
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._drain)]
        for thread in self._threads:
            thread.start()

    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, message: dict, end: float) -> None:
        """Send on a thread: a worker that does not read must not block the trainer."""
        body, problem = json.dumps(message).encode(), []

        def write() -> None:
            try:
                self._connection.send_bytes(body)
            except OSError as error:
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
            message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise Fault(f"did not answer in time: killed{self._last_words()}") from None
        if isinstance(message, Fault):
            raise self._gone() if message.died else message
        return message

    def kill(self) -> None:
        """End the whole process group and wait for its leader; does nothing in a fork of the trainer."""
        if os.getpid() != self._owner:
            return
        self._finalizer()  # runs only once: later, the process id may belong to another process
        for thread in self._threads:
            thread.join(2)
        self._connection.close()

    def _read(self) -> None:
        try:
            while True:
                self._messages.put(receive_message(self._connection))
        except (EOFError, ConnectionError):
            self._messages.put(Fault("died", died=True))
        except (OSError, ValueError) as error:
            self._messages.put(Fault(f"sent an invalid message ({error}): killed"))

    def _drain(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            while chunk := output.read(1 << 16):
                self._tail = (self._tail + chunk)[-4096:]

    def _gone(self) -> Fault:
        try:
            code = self._popen.wait(2)
        except subprocess.TimeoutExpired:
            return Fault(f"closed its socket: killed{self._last_words()}", died=True)
        self._threads[1].join(1)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return Fault(f"{how}{self._last_words()}", died=True)

    def _last_words(self) -> str:
        lines = self._tail.decode("utf-8", "replace").strip().splitlines()
        return f" (last line of its output: {lines[-1].strip()[:300]})" if lines else ""


def _end_group(popen: subprocess.Popen, owner: int) -> None:
    """Kill a worker and all processes it started; does nothing in a fork of the trainer, which does not own it."""
    if os.getpid() != owner:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(5)
