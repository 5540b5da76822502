"""Phases of a run: each is a Run in its own subfolder, and the next one starts from its final/. No torch.

with phases.open_phase(run, "sft") as sft:
    if not phases.finished(sft, identity):
        ...                                  # train, write final/
        phases.finish(sft)
run.require_same(sft=phases.sealed(run.folder / "sft", "output_dir"))
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rl_nmt import distributed, files
from rl_nmt.errors import ConfigError
from rl_nmt.runs import checkpoints, run_folder
from rl_nmt.runs.run import Run

FINISHED = "phase.json"  # written last, with the hash of final/


@dataclass
class Kept:
    """JSON that a phase keeps in a file: a form for `Run.once`."""

    values: dict[str, Any]

    def save(self, path: Path | str) -> None:
        files.write_json(path, files.finite(self.values))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Raises ConfigError for a missing or damaged file."""
        try:
            return cls(dict(json.loads(Path(path).read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}): remove it") from error


@contextlib.contextmanager
def open_phase(run: Run, name: str) -> Iterator[Run]:
    """Open the phase's Run in the run's folder; the command that continues it is the run's. Raises as Run.open."""
    with Run.open(run.folder / name, force=run.force, settings=run.settings) as phase:
        phase.command = run.command
        yield phase


def finished(phase: Run, identity: dict[str, Any]) -> bool:
    """Return whether the phase was finished before, with this identity; takes note of the identity if not.

    Raises ResumeRefused if it was begun or finished with another identity, without --force.
    """
    if not (phase.folder / FINISHED).exists():
        phase.require_same(**identity)
        return False
    for change in distributed.from_main(lambda: run_folder.require_identity(phase.folder, identity, phase.force)):
        print(f"changed since {phase.folder} was finished, and not applied to it: {change}", flush=True)
    return True


def finish(phase: Run) -> None:
    """Seal final/: write its hash. Collective: afterwards every process can start from it. Raises CannotWrite."""
    final = phase.folder / "final"
    distributed.from_main(lambda: files.write_json(phase.folder / FINISHED, {"final": _hash(final)}))


def sealed(folder: Path, setting: str) -> str:
    """Return the hash of a finished phase's final/. Collective.

    Raises ConfigError if it is not finished or has changed since.
    """

    def read() -> str:
        try:
            found = str(json.loads((folder / FINISHED).read_text(encoding="utf-8"))["final"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{setting}: {folder} holds no finished phase: run it first") from None
        if _hash(folder / "final") != found:
            raise ConfigError(f"{setting}: {folder / 'final'} has changed since it was finished: run that phase again")
        return found

    return distributed.from_main(read)


def newest_checkpoint(folder: Path, name: str = "round-") -> checkpoints.Checkpoint | None:
    """Return the checkpoint that a run continues from: its own, or that of the newest of its phases `<name>N`.

    A run whose phases carry its notes and identity is then resumed like any other (`Run.open`, find). Raises
    ResumeRefused.
    """
    found = checkpoints.find(folder)
    numbers = [path.name.removeprefix(name) for path in folder.glob(f"{name}*")]
    for number in sorted((int(n) for n in numbers if n.isdecimal()), reverse=True):
        found = found or checkpoints.find(folder / f"{name}{number}")
    return found


def _hash(folder: Path) -> str:
    """Return a hash of a model's weights, also of its adapter's."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        total.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]
