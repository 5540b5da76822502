"""A checkpoint that the user names, of this run or another one, whatever came after it. No torch.

    checkpoint = named(path, run_folder)              read, and refused where it cannot begin this run
    checkpoint = take_up(checkpoint, run_folder)      once settings are known to fit: the newest of this run's folder

Only this run's own folder is ever changed.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from rl_nmt.errors import ResumeRefused
from rl_nmt.files import replace_folder, write_durable
from rl_nmt.runs.checkpoints import (
    MANIFEST,
    RECORD,
    Broken,
    Checkpoint,
    checkpoint_folders,
    files_of,
    read,
    record_of,
    set_aside,
    step_of,
)


def named(path: Path, run_folder: Path) -> Checkpoint:
    """The checkpoint in this folder, for the run in `run_folder` to go on from; nothing is touched (`take_up`).

    Raises ResumeRefused when it is no valid checkpoint, or lies elsewhere while `run_folder` holds steps that did not
    come after it.
    """
    path = path.resolve()
    try:
        checkpoint = read(path)
    except Broken as error:
        raise ResumeRefused(f"{path} is no checkpoint to continue from ({error}): name another") from None
    if path.parent != run_folder.resolve() and not _leads_to(checkpoint, run_folder):
        raise ResumeRefused(
            f"{run_folder} holds a run of its own, and {path} is another's: name a folder that is not used yet, or add "
            "--fresh"
        )
    return replace(checkpoint, by_name=True)


def _leads_to(checkpoint: Checkpoint, run_folder: Path) -> bool:
    """Did all that was ever sealed in another folder come after this checkpoint?"""
    there = [step for step in record_of(run_folder)["sealed"] if step <= checkpoint.step]
    try:
        same = _taken(checkpoint, run_folder) / MANIFEST
        return there in ([], [checkpoint.step]) and same.read_bytes() == (checkpoint.path / MANIFEST).read_bytes()
    except OSError:
        return not there


def _taken(checkpoint: Checkpoint, run_folder: Path) -> Path:
    return run_folder / f"checkpoint-{checkpoint.step}"


def take_up(checkpoint: Checkpoint, run_folder: Path) -> Checkpoint:
    """Make a `named` checkpoint the newest of `run_folder`; by the main process.

    Later ones in this folder are set aside. Of another folder nothing is changed: its checkpoint is taken over, by
    links to its files where the file system has them, so that this run goes on whatever becomes of the other.
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
    target = _taken(checkpoint, run_folder)
    if not target.exists():
        with replace_folder(target) as draft:
            for file in [*files_of(checkpoint.path), checkpoint.path / MANIFEST]:
                _link(file, draft / file.relative_to(checkpoint.path))
        size = sum(file.stat().st_size for file in files_of(target))
        write_durable(run_folder / RECORD, json.dumps({"sealed": [checkpoint.step], "bytes": size}))
    return replace(checkpoint, path=target, set_aside=[*moved, f"taken over from {checkpoint.path}"])


def _link(file: Path, target: Path) -> None:
    """A second name for a file that is never written again, or a copy of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, target)
        with target.open("rb") as copy:
            os.fsync(copy.fileno())
