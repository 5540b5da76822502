"""Load one scorer in this Python environment and answer the messages of rl_nmt/scorers/worker/client.py.

Started as `python -m rl_nmt.scorers.worker.main` with a socket as standard input. Imports only the standard library
and rl_nmt.scorers.base until the scorer to load is known, so that any environment can report a missing package.
Messages are JSON. The socket moves to another descriptor, and standard input is emptied, before any library reads it.
"""

import importlib
import json
import math
import os
import platform
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

import rl_nmt
from rl_nmt.scorers.base import Segment

MAX_MESSAGE = 256 << 20  # bytes; a longer one means that the stream is out of step
PARENT_CHECK = 1.0  # seconds between two checks that the parent is alive


def send_message(connection: Connection, message: dict) -> None:
    """Send a message. Raises ValueError for NaN or infinity in it, which JSON does not have."""
    connection.send_bytes(json.dumps(message, allow_nan=False).encode())


def receive_message(connection: Connection) -> dict:
    """Return the next message. Raises EOFError at the end of the stream, OSError or ValueError for anything else."""
    message = json.loads(connection.recv_bytes(MAX_MESSAGE))
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def complaint(error: BaseException) -> dict[str, str]:
    """Return an exception as a message: its class, module, text and the package that is missing."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    said = " ".join(str(error).split())[:2000]
    return {"kind": type(error).__name__, "module": type(error).__module__, "message": said, "missing": missing}


def serve(messages: queue.Queue[dict], connection: Connection) -> None:
    """Answer messages one by one, forever."""
    scorer: Any = None
    while True:
        message = messages.get()
        answer: dict[str, Any] = {"id": message["id"]}
        try:
            if "load" in message:
                module, _, function = message["load"].partition(":")
                scorer = getattr(importlib.import_module(module), function)(**message["options"])
                told = ("name", "range", "higher_is_better", "revision")
                answer["ready"] = {name: getattr(scorer, name, None) for name in told}
                answer["ready"]["signature"] = scorer.signature()
            elif "score" in message:
                scores = scorer.score([Segment(*fields) for fields in message["score"]])
                answer |= {"values": list(scores.values), "spans": scores.spans}
                stats = {k: float(v) for k, v in getattr(scorer, "stats", {}).items()}
                answer["stats"] = {k: v for k, v in stats.items() if math.isfinite(v)}
            elif "to" in message:
                scorer.to(message["to"])
                torch = sys.modules.get("torch")
                if torch is not None and torch.cuda.is_available():
                    torch.cuda.empty_cache()  # otherwise this process keeps an offloaded model's memory
        except Exception as error:  # scorers raise anything; the trainer handles it
            answer["error"] = complaint(error)
        try:
            send_message(connection, answer)
        except (TypeError, ValueError) as error:  # NaN or not JSON: nothing has been sent yet
            send_message(connection, {"id": answer["id"], "error": complaint(error)})


def _end() -> None:
    """End this process and all that it started; nothing may outlive the trainer."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _watch(parent: int) -> None:
    """End when the parent has ended, even if another process holds the socket open."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    _end()


def main() -> None:
    connection = Connection(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    messages: queue.Queue[dict] = queue.Queue()

    def read() -> None:
        try:
            while True:
                messages.put(receive_message(connection))
        except (EOFError, OSError, ValueError):
            _end()  # the trainer has closed the socket or died, maybe during a call

    threading.Thread(target=read, daemon=True).start()
    send_message(connection, {"python": platform.python_version(), "code": os.path.dirname(rl_nmt.__file__)})
    serve(messages, connection)


if __name__ == "__main__":
    main()
