"""The other end of rl_nmt/scorers/worker/client.py: loads one scorer in this Python environment and answers over pipes.

Started as `python -m rl_nmt.scorers.worker.main TOKEN`. Imports nothing but the standard library and
rl_nmt.scorers.base until it is told which scorer to load, so that any environment can say what it lacks.

Frames are four bytes of length (big-endian) and as many of JSON. They travel over duplicates of the descriptors 0
and 1, while 1 itself becomes standard error and 0 empty: whatever a library prints or reads breaks nothing. Output
from before that moment ends at a line with TOKEN.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import queue
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from rl_nmt.scorers.base import Segment

PROTOCOL = 1
MAX_FRAME = 256 << 20  # bytes; a longer one is a stream out of step
PARENT_CHECK = 1.0  # seconds between two looks at whether the parent lives


class BadFrame(Exception):
    """What came over the pipe is no frame; the stream cannot be trusted any more."""


def write_frame(stream: BinaryIO, message: dict) -> None:
    """Raises ValueError for NaN or infinity in `message`, which JSON does not have."""
    body = json.dumps(message, allow_nan=False).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def read_frame(stream: BinaryIO) -> dict | None:
    """The next message, None at the end of the stream. Raises BadFrame."""
    head = stream.read(4)
    if not head:
        return None
    length = struct.unpack(">I", head)[0] if len(head) == 4 else MAX_FRAME + 1
    body = stream.read(length) if length <= MAX_FRAME else b""
    try:
        message = json.loads(body) if len(body) == length else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise BadFrame(f"a frame of {length} bytes that is none")
    return message


def load(factory: str, options: dict[str, Any]):
    """Call "package.module:function" with keyword arguments."""
    module, _, function = factory.partition(":")
    return getattr(importlib.import_module(module), function)(**options)


def describe(scorer) -> dict[str, Any]:
    """What the trainer must know of a loaded scorer."""
    told = {name: getattr(scorer, name) for name in ("name", "range", "higher_is_better")}
    return told | {"revision": getattr(scorer, "revision", None), "signature": scorer.signature()}


def complaint(error: BaseException) -> dict[str, str]:
    """An exception as a message: its class, whether it is one of rl_nmt.errors, and what it says."""
    missing = error.name.partition(".")[0] if isinstance(error, ModuleNotFoundError) and error.name else ""
    said = " ".join(str(error).split())[:2000]
    return {"kind": type(error).__name__, "module": type(error).__module__, "message": said, "missing": missing}


def serve(receive: Callable[[], dict | None], send: Callable[[dict], None]) -> None:
    """Answer one message after the other until there is none, or "stop"."""
    scorer = None
    while (message := receive()) is not None and "stop" not in message:
        answer: dict[str, Any] = {"id": message.get("id")}
        try:
            if "load" in message:
                scorer = load(**message["load"])
                answer["ready"] = describe(scorer)
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
            send(answer)
        except (TypeError, ValueError) as error:  # NaN, or no JSON at all: nothing has been written yet
            send({"id": answer["id"], "error": complaint(error)})


def _end() -> None:
    """End this process and every one it started; nothing may outlive the trainer."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _watch(parent: int) -> None:
    """End when the parent is gone, also where another process holds the pipe open."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK)
    _end()


def main(token: str) -> None:
    parent = os.getppid()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    messages: queue.Queue[dict] = queue.Queue()

    def read() -> None:
        try:
            while (message := read_frame(incoming)) is not None:
                messages.put(message)
        except (BadFrame, OSError, ValueError):
            pass
        _end()  # the trainer has closed the pipe or died, perhaps in the middle of a call

    threading.Thread(target=read, daemon=True).start()
    outgoing.write(f"\n{token}\n".encode())
    import rl_nmt

    hello = {
        "protocol": PROTOCOL,
        "python": platform.python_version(),
        "code": os.path.dirname(rl_nmt.__file__),
    }
    write_frame(outgoing, hello)
    serve(messages.get, lambda answer: write_frame(outgoing, answer))
    sys.stdout.flush()
    _end()


if __name__ == "__main__":
    main(sys.argv[1])
