"""Run several processes of one run in a test: forked children that communicate over gloo, as under torchrun."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from pathlib import Path

from fault_trials import Trial


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Processes:
    """`len(local_ranks)` children that call `function(*args)`, each with the variables that torchrun sets.

    local_ranks: the rank of each on its machine: [0, 1] is one machine, [0, 0] are two.
    """

    def __init__(self, folder: Path, local_ranks: list[int], function, *args, **kwargs):
        folder.mkdir(parents=True, exist_ok=True)
        port = str(free_port())
        self.folder = folder
        self.trials = [
            Trial(folder / f"log{rank}", self._one, rank, local, local_ranks, port, function, args, kwargs)
            for rank, local in enumerate(local_ranks)
        ]

    def _one(self, rank, local, local_ranks, port, function, args, kwargs):
        os.environ |= {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(local_ranks)),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(max(local_ranks) + 1),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)  # the parent may have been one process by itself
        (self.folder / f"result{rank}").write_bytes(pickle.dumps(function(*args, **kwargs)))

    def wait(self, seconds: float = 60) -> list[tuple[int, str, str]]:
        """Return (exit status, stdout, stderr) of each; all must end within `seconds`."""
        deadline = time.monotonic() + seconds
        try:
            return [trial.wait(max(0.1, deadline - time.monotonic())) for trial in self.trials]
        finally:
            self.kill()

    def results(self, seconds: float = 60) -> list:
        """Return the result of `function` in each; all must have succeeded."""
        ends = self.wait(seconds)
        assert [status for status, _, _ in ends] == [0] * len(ends), "\n".join(err for _, _, err in ends)
        return [pickle.loads((self.folder / f"result{rank}").read_bytes()) for rank in range(len(ends))]

    def kill(self) -> None:
        for trial in self.trials:
            try:
                os.kill(trial.pid, signal.SIGKILL)
                os.waitpid(trial.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
