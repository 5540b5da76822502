"""English text → a snapshot on disk: streamed once, cleaned, split, hashed; no network after that.

Rows come from `rl_nmt.sources` (hub or local files, one path), lose their noise in `rl_nmt.cleaning`
and are sealed into a folder together with the request that made them. Evaluation sets with references:
`load_eval`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_nmt.cleaning import clean_document
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.evalsets import load_eval
from rl_nmt.sources import read_rows
from rl_nmt.streams import StreamBroken

__all__ = ["Corpus", "clean_document", "load_eval", "materialise"]

_SNAPSHOT = ("train.jsonl", "heldout.jsonl")


@dataclass
class Corpus:
    """What `materialise` left on disk.

    train, heldout: English sources, disjoint, no duplicates. sha256: over the hashes of both files.
    folder: holds train.jsonl, heldout.jsonl ({"english": …} per line) and data.json.
    counts: {"read": rows read, "kept": distinct clean rows, "rejected": {reason: rows}}.
    """

    train: list[str]
    heldout: list[str]
    sha256: str
    folder: Path
    counts: dict[str, Any]


def materialise(
    folder: str | Path,
    *,
    dataset_name: str,
    dataset_config: str,
    dataset_split: str,
    data_files: tuple[str, ...],
    text_field: str,
    num_train_samples: int,
    num_heldout: int,
    shuffle_buffer: int,
    min_chars: int,
    max_chars: int,
    seed: int,
) -> Corpus:
    """Stream, clean and split exactly num_train_samples + num_heldout distinct rows into `folder`, once.

    `dataset_name` is a local file or folder, json | parquet | text with `data_files` globs, or a hub
    name. The same request again reads the snapshot back after checking its hashes, without network.
    A row is held out when a seeded hash of its text says so, in whatever order rows arrive; only a
    source with too few rows for that rule alone is read whole and gives its smallest hashes.
    Raises ConfigError (settings, files, too few rows, another or a changed snapshot), MissingService
    (hub; says how many rows there are) and CannotWrite.
    """
    request = {key: value for key, value in locals().items() if key != "folder"}
    request["data_files"] = list(data_files)
    folder = Path(folder)
    _check_sizes(request)
    if (folder / "data.json").exists():
        return _reuse(folder, request)
    _check_writable(folder)
    source = ("dataset_name", "dataset_config", "dataset_split", "data_files", "text_field", "shuffle_buffer")
    rows = read_rows(**{name: request[name] for name in source}, seed=seed)
    try:
        train, heldout, counts = _select(rows, request)
    finally:
        rows.close()
    return _seal(folder, request, train, heldout, counts)


def _check_sizes(request: dict[str, Any]) -> None:
    least = {"num_train_samples": 1, "num_heldout": 0, "shuffle_buffer": 0, "min_chars": 1, "max_chars": 1}
    for name, bound in least.items():
        if request[name] < bound:
            raise ConfigError(f"{name} is {request[name]}: give {bound} or more")
    if request["min_chars"] > request["max_chars"]:
        bounds = f"min_chars {request['min_chars']} is above max_chars {request['max_chars']}"
        raise ConfigError(f"{bounds}: lower the one or raise the other")


def _select(rows: Iterator[Any], request: dict[str, Any]) -> tuple[list[str], list[str], dict[str, Any]]:
    """Take clean distinct rows until both splits are full; return train, heldout and the counts."""
    wanted, held_wanted = request["num_train_samples"], request["num_heldout"]
    share = held_wanted / (wanted + held_wanted)
    most = 10_000 + 200 * (wanted + held_wanted)  # an endless stream whose rows all fail must end too
    kept: dict[str, float] = {}  # text → its place in [0, 1): below `share` it is held out
    seen: set[bytes] = set()
    rejected: Counter[str] = Counter()
    read = held = 0
    try:
        for raw in rows:
            read += 1
            text, reason = clean_document(raw, request["min_chars"], request["max_chars"])
            if text is not None:
                folded = " ".join(text.casefold().split()).encode()
                digest = hashlib.sha256(folded).digest()[:16]
                if digest in seen:
                    reason = "duplicate"
                else:
                    seen.add(digest)
                    kept[text] = _place(f"{request['seed']}\n".encode() + folded)
                    held += kept[text] < share
            if reason:
                rejected[reason] += 1
            if (held >= held_wanted and len(kept) - held >= wanted) or read >= most:
                break
    except MissingService as error:
        if not read:
            raise
        later = "Run the same command again later" if isinstance(error, StreamBroken) else "Take another source"
        raise MissingService(f"{error}. {_so_far(request, read, len(kept))}. {later}") from error
    counts = {"read": read, "kept": len(kept), "rejected": dict(rejected.most_common())}
    if len(kept) < wanted + held_wanted:
        raise ConfigError(_too_few(request, counts))
    if held >= held_wanted and len(kept) - held >= wanted:
        heldout = [text for text, place in kept.items() if place < share][:held_wanted]
        train = [text for text, place in kept.items() if place >= share][:wanted]
    else:
        heldout = sorted(kept, key=kept.__getitem__)[:held_wanted]
        train = [text for text in kept if text not in set(heldout)][:wanted]
    return train, heldout, counts


def _place(data: bytes) -> float:
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "big") / 2**56


def _so_far(request: dict[str, Any], read: int, kept: int) -> str:
    wanted, held = request["num_train_samples"], request["num_heldout"]
    enough = f", enough for num_train_samples {kept - held}" if kept > held else ""
    return f"{read} rows were read and {kept} of {wanted + held} kept{enough}"


def _too_few(request: dict[str, Any], counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in counts["rejected"].items()) or "none fell out"
    return (
        f"too few rows in {request['dataset_name']}: {request['num_train_samples']} to train on and "
        f"{request['num_heldout']} held out are wanted, {counts['read']} were read and {counts['kept']} kept "
        f"({reasons}): give more data, lower num_train_samples, or widen min_chars {request['min_chars']} "
        f"and max_chars {request['max_chars']}"
    )


# --- on disk -----------------------------------------------------------------------------------------


def _check_writable(folder: Path) -> None:
    """Refuse before a long stream what would fail after it."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds files but no data.json: name another output_dir, or remove it")
    if folder.exists() and not folder.is_dir():
        raise CannotWrite(f"{folder} is a file: name another output_dir")
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise CannotWrite(f"cannot write in {parent}: {error.strerror}: name another output_dir") from error


def _seal(
    folder: Path, request: dict[str, Any], train: list[str], heldout: list[str], counts: dict[str, Any]
) -> Corpus:
    """Write the three files beside the folder and rename them into place together."""
    place = folder.resolve()  # a link to an empty folder stays a link
    try:
        stage = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        try:
            hashes = {}
            for name, texts in zip(_SNAPSHOT, (train, heldout), strict=True):
                lines = "".join(json.dumps({"english": text}, ensure_ascii=False) + "\n" for text in texts)
                (stage / name).write_bytes(lines.encode())
                hashes[name] = hashlib.sha256(lines.encode()).hexdigest()
            seal = {"request": request, "sha256": hashes, "counts": counts}
            (stage / "data.json").write_text(json.dumps(seal, indent=1, ensure_ascii=False), encoding="utf-8")
            stage.chmod(0o755)
            os.replace(stage, place)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        if (folder / "data.json").exists():  # another process was faster
            return _reuse(folder, request)
        raise CannotWrite(f"cannot write {folder}: {error.strerror}: name another output_dir") from error
    return Corpus(train, heldout, _combined(hashes), folder, counts)


def _combined(hashes: dict[str, str]) -> str:
    return hashlib.sha256("".join(hashes[name] for name in _SNAPSHOT).encode()).hexdigest()


def _reuse(folder: Path, request: dict[str, Any]) -> Corpus:
    """Read a sealed snapshot back, or say in which way it is not the one that is asked for."""
    elsewhere = "name another output_dir, or remove the folder to stream anew"
    try:
        seal = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        before, hashes, counts = seal["request"], seal["sha256"], seal["counts"]
        different = [name for name in request if before.get(name) != request[name]]
        hashes = {name: hashes[name] for name in _SNAPSHOT}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / 'data.json'} cannot be read: {elsewhere}") from error
    if different:
        changes = ", ".join(f"{n} was {before.get(n)!r} and is now {request[n]!r}" for n in different)
        raise ConfigError(f"{folder} holds the data of another request: {changes}: {elsewhere}")
    splits = []
    for name in _SNAPSHOT:
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be read: {error.strerror}: {elsewhere}") from error
        if hashlib.sha256(data).hexdigest() != hashes[name]:
            raise ConfigError(f"{folder / name} was changed since it was written (SHA-256): {elsewhere}")
        splits.append([json.loads(line)["english"] for line in data.decode().split("\n") if line])
    return Corpus(splits[0], splits[1], _combined(hashes), folder, counts)
