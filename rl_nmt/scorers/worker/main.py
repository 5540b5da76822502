"""The other end of rl_nmt/scorers/worker/client.py: loads one scorer in this Python environment and answers messages.

Started as `python -m rl_nmt.scorers.worker.main` with a socket as standard input. Imports nothing but the standard
library and rl_nmt.scorers.base until it is told which scorer to load, so that any environment can say what it lacks.
Messages are JSON; the socket becomes another descriptor and standard input empty before any library could read it.
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

MAX_MESSAGE = 256 << 20  # bytes; a longer one is a stream out of step
PARENT_CHECK = 1.0  # seconds between two looks at whether the parent lives


def send_message(connection: Connection, message: dict) -> None:
    """Raises ValueError for NaN or infinity in `message`, which JSON does not have."""
    connection.send_bytes(json.dumps(message, allow_nan=False).encode())


def receive_message(connection: Connection) -> dict:
    """The next message. Raises EOFError at the end of the stream, OSError or ValueError for anything else."""
    message = json.loads(connection.recv_bytes(MAX_MESSAGE))
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def complaint(error: BaseException) -> dict[str, str]:
    """An exception as a message: its class, whether it is one of rl_nmt.errors, and what it says."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    said = " ".join(str(error).split())[:2000]
    return {"kind": type(error).__name__, "module": type(error).__module__, "message": said, "missing": missing}


def serve(messages: queue.Queue[dict], connection: Connection) -> None:
    """Answer one message after the other, for ever."""
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
                    torch.cuda.empty_cache()  # else an offloaded model's memory stays this process's
        except Exception as error:  # of a scorer of any kind: the trainer decides
            answer["error"] = complaint(error)
        try:
            send_message(connection, answer)
        except (TypeError, ValueError) as error:  # NaN, or no JSON at all: nothing has been written yet
            send_message(connection, {"id": answer["id"], "error": complaint(error)})


def _end() -> None:
    """End this process and every one it started; nothing may outlive the trainer."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _watch(parent: int) -> None:
    """End when the parent is gone, also where another process holds the socket open."""
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
            _end()  # the trainer has closed the socket or died, perhaps in the middle of a call

    threading.Thread(target=read, daemon=True).start()
    send_message(connection, {"python": platform.python_version(), "code": os.path.dirname(rl_nmt.__file__)})
    serve(messages, connection)


if __name__ == "__main__":
    main()
