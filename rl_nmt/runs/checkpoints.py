"""Seal checkpoints, find the newest valid one, and save what else a run needs to continue to the same bits.

transformers and TRL write a checkpoint file by file; killed in between, they leave one that cannot be
resumed, or resumes wrong. Here a checkpoint counts only when `manifest.json`, with the size and SHA-256 of
every file, has been renamed into place last. A run folder holds

    checkpoint-N/         what the Trainer saved, run_state.json (the rest of the run), manifest.json
    resume_latest         on request: a link to the newest
    checkpoints.json      which steps were ever sealed here, and the size of the last one
    broken-checkpoint-N/  set aside on a start, with WHY.txt

No torch here: an unusable folder is refused before anything heavy is imported.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rl_nmt.errors import CannotWrite, ResumeRefused, warn
from rl_nmt.files import replace_folder, write_durable

FORMAT = 2
MANIFEST, STATE, RECORD = "manifest.json", "run_state.json", "checkpoints.json"
LATEST = "resume_latest"
MAX_FAILED_SAVES = 3  # saves in a row that may fail; the last of them stops the run
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class Broken(Exception):
    """The folder is not a valid checkpoint; the message is the reason."""


@dataclass
class Checkpoint:
    """A sealed checkpoint whose every byte was compared with its manifest.

    `state` is run_state.json; `notes` is what the run keeps for itself (W&B id, gate verdict, …).
    """

    path: Path
    step: int
    sealed_at: float
    state: dict[str, Any]
    set_aside: list[str] = field(default_factory=list)  # newer invalid ones that were renamed, and why
    by_name: bool = False  # the user named it

    @property
    def notes(self) -> dict[str, Any]:
        return self.state["notes"]

    def put_back(self, name: str, run_folder: Path) -> None:
        """Copy a JSON file of the checkpoint back into the run folder, if it is missing or damaged there."""
        try:
            json.loads((run_folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            if (self.path / name).exists():
                write_durable(run_folder / name, (self.path / name).read_text(encoding="utf-8"))

    def __str__(self) -> str:
        minutes = max(0.0, time.time() - self.sealed_at) / 60
        age = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
        why = "; ".join(self.set_aside) or "the newest, all files intact"
        return f"{self.path} (step {self.step}, {age} old: {why})"


def seal(folder: Path, step: int) -> int:
    """Write the manifest of `folder`, after every file is on the disk (fsync); returns the bytes. Raises OSError."""
    files: dict[str, dict[str, Any]] = {}
    for path in files_of(folder):
        digest, size = _digest(path, sync=True)
        files[str(path.relative_to(folder))] = {"bytes": size, "sha256": digest}
    manifest = {"format": FORMAT, "step": step, "sealed_at": time.time(), "files": files}
    write_durable(folder / MANIFEST, json.dumps(manifest, indent=1))
    return sum(entry["bytes"] for entry in files.values())


def read(folder: Path) -> Checkpoint:
    """Compare a checkpoint with its manifest, byte by byte. Raises Broken with the reason."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, step, sealed_at = manifest["format"], manifest["step"], manifest["sealed_at"]
        sealed = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise Broken(f"no {MANIFEST}: the save was not finished, or it was removed") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken(f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if version != FORMAT:
        raise Broken(f"{MANIFEST} has format {version}, this version reads {FORMAT}")
    if folder.name != f"checkpoint-{step}":
        raise Broken(f"{MANIFEST} is of step {step}")
    try:
        found = {str(path.relative_to(folder)): path for path in files_of(folder)}
        if extra := sorted(found.keys() - sealed.keys()):
            raise Broken(f"{extra[0]} is not in {MANIFEST}")
        for name, (size, sha256) in sealed.items():
            if name not in found:
                raise Broken(f"{name} is missing")
            if (there := found[name].stat().st_size) != size:
                raise Broken(f"{name} has {there} bytes instead of {size}")
            if _digest(found[name])[0] != sha256:
                raise Broken(f"{name} has changed since it was sealed (SHA-256)")
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not {"parts", "notes"} <= set(state):
            raise Broken(f"{STATE} lacks parts or notes")
    except OSError as error:
        raise Broken(f"{error.filename} cannot be read ({error.strerror})") from None
    except ValueError:
        raise Broken(f"{STATE} cannot be read") from None
    return Checkpoint(folder, step, float(sealed_at), state)


def find(run_folder: Path) -> Checkpoint | None:
    """Return the newest valid checkpoint of a run folder; None when none was ever sealed there. Main process only.

    Newer, invalid ones are set aside as `broken-checkpoint-N`, with the reason. A first save that was killed is not a
    checkpoint yet: it is set aside too, and the run starts from scratch.

    Raises ResumeRefused, and touches nothing, when checkpoints were sealed and none of them is valid: whether to
    start from step 0 is for the user to decide.
    """
    sealed, _ = record_of(run_folder)
    reasons: dict[Path, str] = {}
    valid = None
    for folder in checkpoint_folders(run_folder):
        try:
            valid = read(folder)
            break
        except Broken as error:
            reasons[folder] = str(error)
    if valid is None and (sealed or any((folder / MANIFEST).exists() for folder in reasons)):
        lines = [f"{folder.name}: {reason}" for folder, reason in reasons.items()]
        gone = [step for step in sealed if run_folder / f"checkpoint-{step}" not in reasons]
        lines += [f"checkpoint-{step}: was sealed here and is missing" for step in gone[-2:]]
        raise ResumeRefused(
            f"{run_folder} has no valid checkpoint ({'; '.join(lines)}): restore one, or start a new run with --fresh"
        )
    moved = []
    for folder, reason in reasons.items():
        aside = set_aside(folder, reason)
        moved.append(f"{folder.name} is now {aside.name}, since {reason}")
    if valid is not None:
        valid.set_aside = moved
    elif moved:
        print(f"nothing to resume: {'; '.join(moved)}; training in {run_folder} starts at its first step", flush=True)
    return valid


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Every `checkpoint-N` of a run folder, newest step first, valid or not."""
    found = [p for p in run_folder.glob("checkpoint-*") if _CHECKPOINT.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """The step in the name of a `checkpoint-N`."""
    return int(folder.name.removeprefix("checkpoint-"))


def set_aside(path: Path, reason: str, prefix: str = "broken") -> Path:
    """Rename `path` to `<prefix>-<name>` with WHY.txt in it; returns the new path. Raises CannotWrite."""
    target, number = path.with_name(f"{prefix}-{path.name}"), 2
    while target.exists():
        target = path.with_name(f"{prefix}-{path.name}-{number}")
        number += 1
    try:
        path.rename(target)
        (target / "WHY.txt").write_text(reason + "\n", encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"{path} cannot be set aside as {target.name} ({error.strerror})") from error
    return target


def files_of(folder: Path) -> list[Path]:
    """Return the files of a checkpoint, except the manifest and hidden ones, which nothing loads."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST)
    return [path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts)]


def _digest(path: Path, sync: bool = False) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if sync:
            os.fsync(file.fileno())
        return digest, file.tell()


def record_of(run_folder: Path) -> tuple[list[int], int]:
    """Return (steps ever sealed, bytes of the last one) from checkpoints.json, else ([], 0). Raises ResumeRefused."""
    path = run_folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return [int(step) for step in record["sealed"]], int(record["bytes"])
    except FileNotFoundError:
        return [], 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        if any((folder / MANIFEST).exists() for folder in checkpoint_folders(run_folder)):
            return [], 0  # the manifests hold the same information
        raise ResumeRefused(
            f"{path} cannot be read ({type(error).__name__}) and the folder has no checkpoint: whether this run "
            "had any is unknown; remove the file to start at step 0, or start a new run with --fresh"
        ) from None


@dataclass
class Keeper:
    """Seal the Trainer's checkpoints together with the rest of the run's state, and keep the newest `keep`."""

    folder: Path  # of the run
    keep: int = 2  # sealed checkpoints kept; an older one is removed only after a newer one is sealed
    parts: dict[str, Any] = field(default_factory=dict)
    """Name → object with `state_dict` and `load_state_dict`; one without them is left out."""
    files: Sequence[str] = ()  # paths, from the run folder, of JSON files that are copied into every checkpoint
    notes: dict[str, Any] = field(default_factory=dict)  # JSON of the run, stored as it is at each save
    link: bool = False  # keep a link `resume_latest` to the newest
    newest: int | None = None  # the newest step sealed, or resumed from
    failures: int = 0  # saves in a row that failed

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.parts = {name: part for name, part in self.parts.items() if hasattr(part, "load_state_dict")}
        self._sealed, self._bytes = record_of(self.folder)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Give every part its state back; the Trainer's own is loaded by `train(resume_from_checkpoint=…)`."""
        self.newest = checkpoint.step
        for name, state in checkpoint.state["parts"].items():
            if name in self.parts:
                self.parts[name].load_state_dict(state)

    def lack_of_room(self) -> str | None:
        """Return why the next save would not fit, judged by the size of the last one; None if it fits."""
        fits = shutil.disk_usage(self.folder).free >= self._bytes
        return None if fits else f"the last checkpoint took {self._bytes:,} bytes"

    def seal(self, step: int) -> None:
        """Add the run's state to checkpoint-`step`, seal it, and remove the oldest. Raises OSError."""
        target = self.folder / f"checkpoint-{step}"
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        state = {"step": step, "parts": parts, "notes": self.notes}
        (target / STATE).write_text(json.dumps(state, ensure_ascii=False, indent=1), encoding="utf-8")
        for name in self.files:
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, target / Path(name).name)
        self._bytes = seal(target, step)
        self.newest, self.failures = step, 0
        self._sealed = [*(earlier for earlier in self._sealed if earlier < step), step]
        write_durable(self.folder / RECORD, json.dumps({"sealed": self._sealed, "bytes": self._bytes}))
        if self.link:
            draft = self.folder / f".{LATEST}.part"
            draft.unlink(missing_ok=True)
            draft.symlink_to(target.name)
            os.replace(draft, self.folder / LATEST)
        rotate(self.folder, self.keep)

    def discard(self, step: int, reason: str) -> None:
        """Remove the files of a failed save and warn. Raises CannotWrite at the third failure in a row."""
        target = self.folder / f"checkpoint-{step}"
        shutil.rmtree(target, ignore_errors=True)
        self.failures += 1
        newest = "no checkpoint yet" if self.newest is None else f"the newest is checkpoint-{self.newest}"
        line = f"{target} was not saved ({reason}; {shutil.disk_usage(self.folder).free:,} bytes free): {newest}"
        if aside := sorted(path.name for path in self.folder.glob("broken-checkpoint-*")):
            line += f"; {', '.join(aside)} may be removed"
        if self.failures >= MAX_FAILED_SAVES:
            raise CannotWrite(f"{line}; {self.failures} saves failed in a row: free space")
        warn(f"{line}; training continues")


def rotate(run_folder: Path, keep: int) -> None:
    """Remove all checkpoints of a run folder but the newest `keep`; without any left, also the record of them."""
    folders = checkpoint_folders(run_folder)
    kept = [folder for folder in folders if (folder / MANIFEST).exists()][:keep]
    if not keep:
        (run_folder / RECORD).unlink(missing_ok=True)
    for folder in folders:
        if folder not in kept:
            (folder / MANIFEST).unlink(missing_ok=True)  # first, so that a half-removed folder does not look valid
            shutil.rmtree(folder, ignore_errors=True)


def named(path: Path, run_folder: Path) -> Checkpoint:
    """Return the checkpoint that the user names for the run in `run_folder`; `take_up` then makes it the newest there.

    Raises ResumeRefused when it is not a valid checkpoint, or is elsewhere while `run_folder` holds steps that did not
    come after it.
    """
    path = path.resolve()
    try:
        checkpoint = read(path)
    except Broken as error:
        raise ResumeRefused(f"{path} is not a valid checkpoint ({error}): name another one") from None
    if path.parent != run_folder.resolve() and not _leads_to(checkpoint, run_folder):
        raise ResumeRefused(
            f"{run_folder} holds another run than that of {path}: name a folder that is not used yet, or add --fresh"
        )
    return replace(checkpoint, by_name=True)


def _leads_to(checkpoint: Checkpoint, run_folder: Path) -> bool:
    """Return whether everything ever sealed in `run_folder` came after this checkpoint of another folder."""
    there = [step for step in record_of(run_folder)[0] if step <= checkpoint.step]
    try:
        same = run_folder / checkpoint.path.name / MANIFEST
        return there in ([], [checkpoint.step]) and same.read_bytes() == (checkpoint.path / MANIFEST).read_bytes()
    except OSError:
        return not there


def take_up(checkpoint: Checkpoint, run_folder: Path) -> Checkpoint:
    """Make a `named` checkpoint the newest of `run_folder`, once settings are known to fit. Main process only.

    Later ones in this folder are set aside. A checkpoint of another folder is hard-linked into this one (copied where
    links are impossible), so that this run does not depend on the other folder, which is not changed.
    Raises CannotWrite, and OSError for the record.
    """
    moved = []
    for folder in checkpoint_folders(run_folder):
        if step_of(folder) > checkpoint.step:
            reason = f"later than {checkpoint.path}, from which the run was continued by name"
            aside = set_aside(folder, reason, prefix="abandoned")
            moved.append(f"{folder.name} is now {aside.name}")
    if checkpoint.path.parent == run_folder.resolve():
        return replace(checkpoint, set_aside=moved)
    target = run_folder / checkpoint.path.name
    if not target.exists():
        with replace_folder(target) as draft:
            for file in [*files_of(checkpoint.path), checkpoint.path / MANIFEST]:
                _link(file, draft / file.relative_to(checkpoint.path))
        size = sum(file.stat().st_size for file in files_of(target))
        write_durable(run_folder / RECORD, json.dumps({"sealed": [checkpoint.step], "bytes": size}))
    return replace(checkpoint, path=target, set_aside=[*moved, f"taken over from {checkpoint.path}"])


def _link(file: Path, target: Path) -> None:
    """Hard-link a file that is never written again, or copy it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())
