"""English text → a snapshot on disk: streamed once, cleaned, split, hashed; no network after that.

Rows come from `rl_nmt.data.sources` (hub or local files, one path), lose their noise in `rl_nmt.data.cleaning`
and are sealed into a folder together with the request that made them. Evaluation sets with references:
`load_eval`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_nmt.data.cleaning import clean_document
from rl_nmt.data.eval_sets import load_eval
from rl_nmt.data.snapshot import Sealed, Snapshot
from rl_nmt.data.sources import read_rows
from rl_nmt.data.streams import StreamBroken
from rl_nmt.errors import CannotWrite, ConfigError, MissingService

__all__ = ["Corpus", "clean_document", "load_eval", "materialise"]


@dataclass
class Corpus:
    """What `materialise` left on disk.

    train, heldout: English sources, disjoint, no duplicates. sha256: over the hashes of both files.
    folder: holds train.jsonl, heldout.jsonl ({"source": …} per line) and data.json.
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
    snapshot = Snapshot(folder, request, "output_dir", asked="another request", again="stream")
    if snapshot.exists:
        return _corpus(folder, snapshot.read())
    _check_writable(folder)
    source = ("dataset_name", "dataset_config", "dataset_split", "data_files", "text_field", "shuffle_buffer")
    rows = read_rows(**{name: request[name] for name in source}, seed=seed)
    try:
        train, heldout, counts = _select(rows, request)
    finally:
        rows.close()
    rows_of = [[{"source": text} for text in texts] for texts in (train, heldout)]
    return _corpus(folder, snapshot.write(*rows_of, counts))


def _corpus(folder: Path, sealed: Sealed) -> Corpus:
    train, heldout = ([row["source"] for row in rows] for rows in (sealed.train, sealed.heldout))
    return Corpus(train, heldout, sealed.sha256, folder, sealed.counts)


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
