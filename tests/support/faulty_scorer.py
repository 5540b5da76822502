"""A scorer that fails on demand, loaded by the workers of test_client.py; needs only Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.scorers.base import Scores, Segment, Span


def load_faulty(folder: str, at_load: str = "") -> Faulty:
    """folder: for its notes to the test; at_load: the fault at loading, if any."""
    if at_load == "missing":
        import no_such_package.models  # noqa: F401
    elif at_load == "config":
        raise ConfigError("model: there is none")
    elif at_load == "service":
        raise MissingService("model: not here")
    elif at_load == "bug":
        raise ZeroDivisionError("nothing to divide")
    elif at_load == "hang":
        time.sleep(1000)
    elif at_load == "exit":
        print("out of everything", file=sys.stderr)
        os._exit(7)
    return Faulty(Path(folder))


class Faulty:
    """Scores the length of a translation, unless the translation names a fault."""

    name, range, higher_is_better, revision = "faulty", (0.0, 100.0), True, "r1"

    def __init__(self, folder: Path):
        self.folder, self.device = folder, "cpu"
        self.stats = {"pid": float(os.getpid())}

    def score(self, segments: Sequence[Segment]) -> Scores:
        values: list = [float(len(s.mt)) for s in segments]
        spans: list = [[Span(0, len(s.mt), "minor", 1.0, "all")] for s in segments]
        for segment in segments:
            values, spans = getattr(self, segment.mt, lambda *both: both)(values, spans)
        return Scores(values, spans)

    def signature(self) -> dict:
        return {"identity": {"model": "b" if (self.folder / "changed").exists() else "a"}, "environment": {}}

    def to(self, device: str) -> None:
        if device == "nowhere":
            raise ConfigError("device: nowhere is no device")
        self.device = device
        (self.folder / "device").write_text(device)

    # ---- faults, named by the translation that causes them

    def killed(self, values, spans):
        os.kill(os.getpid(), signal.SIGKILL)

    def killed_once(self, values, spans):
        mark = self.folder / "killed"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return values, spans

    def hung(self, values, spans):
        time.sleep(1000)

    def busy(self, values, spans):
        while True:
            pass

    def stopped(self, values, spans):
        os.kill(os.getpid(), signal.SIGSTOP)

    def noisy(self, values, spans):
        print("x" * 3_000_000)
        print(b"\x00\x00\x00\x05{}abc", flush=True)
        os.write(1, b"\x00\x00\x00\x02{}" * 1000)
        subprocess.run(["sh", "-c", "echo from a child; cat"], check=False)  # `cat` reads stdin
        sys.stderr.write("y" * 3_000_000)
        assert sys.stdin.read() == ""
        return values, spans

    def short(self, values, spans):
        return values[:-1], spans

    def long(self, values, spans):
        return [*values, 1.0], spans

    def few_spans(self, values, spans):
        return values, spans[:-1]

    def outside(self, values, spans):
        return values, [[Span(0, 10_000, "minor", 1.0)], *spans[1:]]

    def no_spans(self, values, spans):
        return values, [[Span("0", 1, "minor", 1.0)], *spans[1:]]

    def text(self, values, spans):
        return ["0.9", *values[1:]], spans

    def truth(self, values, spans):
        return [True, *values[1:]], spans

    def not_a_number(self, values, spans):
        return [float("nan"), *values[1:]], spans

    def nothing(self, values, spans):
        return [None] * len(values), [None] * len(values)

    def bug(self, values, spans):
        raise ZeroDivisionError("nothing to divide")

    def config(self, values, spans):
        raise ConfigError("ref: there is none")

    def large(self, values, spans):
        return values, [[Span(0, 1, "m" * 1_000_000, 1.0)] for _ in spans]

    def children(self, values, spans):
        child = subprocess.Popen(["sleep", "1000"])
        (self.folder / "child").write_text(str(child.pid))
        return values, spans

    def late(self, values, spans):
        time.sleep(0.6)
        return values, spans
