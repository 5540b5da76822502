"""Open and lock the folder of a run, and compare its identity and settings before the run continues.

`run_identity.json` holds the identity of the run (model, tokenizer, data, group size, reward: a change makes its
results incomparable) and the settings of its last start (a change is only listed).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from rl_nmt.distributed import is_main_process
from rl_nmt.errors import CannotWrite, ResumeRefused, warn
from rl_nmt.files import write_durable
from rl_nmt.hub import cached, split_revision
from rl_nmt.runs.checkpoints import FORMAT

IDENTITY = "run_identity.json"
NEVER_FORCED = ("method",)  # checkpoints of one method are not those of another
WHOLE_FILE = 64 << 20  # fingerprints read larger files in samples


def model_identity(name: str) -> dict[str, str]:
    """{"model": …, "tokenizer": …}: hub name and commit, or hashes of a local folder's files.

    A file above 64 MiB is hashed by its size and 64 evenly spaced MiB: any training changes those.
    """
    folder = Path(name).expanduser()
    if not folder.exists():
        config = cached(name)
        pinned = f"{split_revision(name)[0]}@{config.parent.name if config else 'not cached'}"
        return {"model": pinned, "tokenizer": pinned}
    weights = [p for p in folder.iterdir() if p.name == "config.json" or p.suffix in (".safetensors", ".bin")]
    words = [p for p in folder.iterdir() if re.match(r"token|special_tokens|added_tokens|chat_template|vocab", p.name)]
    return {"model": _fingerprint(weights), "tokenizer": _fingerprint(words)}


def _fingerprint(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= WHOLE_FILE:
                total.update(file.read())
                continue
            for i in range(64):
                file.seek(i * (size - (1 << 20)) // 63)
                total.update(file.read(1 << 20))
    return total.hexdigest()[:16]


def require_identity(run_folder: Path, identity: dict[str, Any], force: bool) -> list[str]:
    """Refuse to resume under another `identity`, which may be a part of the run's; with `force`, return the changes.

    Each is "name: old → new"; [] without run_identity.json. Raises ResumeRefused, for NEVER_FORCED also with `force`.
    """
    stored = _read_identity(run_folder).get("identity", {})
    shared = [name for name in identity if name in stored]
    before, now = (flat({name: side[name] for name in shared}) for side in (stored, identity))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    changes = [f"{name}: {before.get(name, 'nothing')} → {now.get(name, 'nothing')}" for name in names]
    never = any(name in NEVER_FORCED for name in names)
    if changes and (never or not force):
        raise other_settings(run_folder, "; ".join(changes), never)
    return changes


def other_settings(run_folder: Path, changes: str, never: bool = False) -> ResumeRefused:
    """Return the error for a run that does not fit its new settings; `never`: --force does not help."""
    fresh = "start from scratch in a folder next to it with --fresh"
    ways = f"set them back, or {fresh}" if never else f"set them back, {fresh}, or continue anyway with --force"
    return ResumeRefused(f"{run_folder} holds a run that was started with other settings ({changes}): {ways}")


def changed_settings(run_folder: Path, settings: dict[str, Any], besides: Collection[str] = ()) -> list[str]:
    """Return the settings that differ from the last start's, of sections one by one, without the names in `besides`."""
    before, now = flat(_read_identity(run_folder).get("settings", {})), flat(settings)
    names = [name for name in now if name in before and name not in besides]
    return [f"{name}: {before[name]} → {now[name]}" for name in names if before[name] != now[name]]


def save_identity(run_folder: Path, identity: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write run_identity.json, by the main process; `settings` without secrets. Raises OSError."""
    if is_main_process():
        stored = {"format": FORMAT, "identity": identity, "settings": settings}
        write_durable(run_folder / IDENTITY, json.dumps(stored, ensure_ascii=False, indent=1))


def _read_identity(run_folder: Path) -> dict[str, Any]:
    path = run_folder / IDENTITY
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ResumeRefused(
            f"{path} cannot be read ({type(error).__name__}): remove it to continue without the comparison"
        ) from None


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as {"a.b": value}, with JSON's types."""
    if not isinstance(value, dict):
        return {prefix: json.loads(json.dumps(value))}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return found


def open_run_folder(wanted: str | Path, fresh: bool = False, argument: str = "output_dir") -> Path:
    """Create the run folder that the setting `argument` names, with `fresh` one next to it. Raises CannotWrite."""
    folder = first = Path(wanted).expanduser()
    number = 2
    try:
        while fresh and folder.exists() and any(folder.iterdir()):
            folder = Path(f"{first}-{number}")
            number += 1
        if folder.is_symlink() and not folder.exists():
            raise FileNotFoundError(None, f"is a link to {os.readlink(folder)}, which does not exist")
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CannotWrite(f"{argument}: {folder} cannot be written ({error.strerror or error})") from None
    return folder


@contextlib.contextmanager
def lock(folder: Path, argument: str = "output_dir") -> Iterator[None]:
    """Lock a folder against other runs; the kernel releases the lock with the process, however that ends.

    Raises CannotWrite when another process holds it. Where the file system has no locks the run continues,
    with a warning. With several processes only the main one takes the lock. `argument`: as for `open_run_folder`.
    """
    if not is_main_process():
        yield
        return
    path = folder / ".lock"
    file = _locked(path, argument)
    try:
        file.truncate(0)
        print(f"process {os.getpid()}", file=file, flush=True)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is still ours
        file.close()


def _locked(path: Path, argument: str) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
            file.close()  # its owner removed it while we opened it
        except BlockingIOError:
            file.seek(0)
            who = file.read().strip() or "another process"
            file.close()
            raise CannotWrite(
                f"{argument}: {path.parent} is in use by {who}: wait for it, or name another folder (--fresh, "
                f"--{argument})"
            ) from None
        except OSError as error:
            warn(f"{path.parent} cannot be locked ({error.strerror}): start only one run there")
            return file


def continue_command(
    argv: list[str] | None, script: str, folder: Path, fresh: bool, flag: str = "--output_dir", also: Sequence[str] = ()
) -> str:
    """Return the shell command that continues the run in `folder`: the command line that started it.

    `argv`: the arguments of `main`, None for those of the process. --fresh and --force, meant for one start, are
    removed; a run that was started with --fresh is named by its folder, with `flag`. `also`: flags needed to continue,
    put last, since the last of repeated flags counts.
    """
    words = (_launched() or sys.orig_argv) if argv is None else ["python", script, *argv]
    words = [word for word in words if word not in ("--fresh", "--force")]
    return shlex.join([*words, *([flag, str(folder)] if fresh else []), *also])


def _launched() -> list[str] | None:
    """Return the command of the launcher (torchrun, accelerate launch) that started this and other processes."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text(encoding="utf-8").split("\0")[:-1]
    except (OSError, ValueError):
        words = []
    if sys.argv[1:] and words[-len(sys.argv) + 1 :] == sys.argv[1:]:
        return words
    line = [word for word in sys.orig_argv[1:] if word != "-u"]
    return ["torchrun", "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1"), *line]
