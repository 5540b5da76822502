"""Stream English text once into a snapshot on disk: cleaned, split, hashed; no network after that."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rl_nmt.data.cleaning import clean_document
from rl_nmt.data.eval_sets import load_eval
from rl_nmt.data.snapshot import Sealed, Snapshot
from rl_nmt.data.sources import Source, read_rows
from rl_nmt.data.streams import StreamBroken
from rl_nmt.errors import CannotWrite, ConfigError, MissingService
from rl_nmt.progress import progress


@dataclass(frozen=True, kw_only=True)
class CorpusSettings(Source):
    """A source and how many of its sentences to take; the fields are settings of a run by the same names."""

    num_train_samples: int
    num_eval_samples: int
    min_chars: int  # NFC code points of a cleaned text
    max_chars: int

    @property
    def request(self) -> dict[str, Any]:
        """The request that data.json saves and compares."""
        known = asdict(self) | {"data_files": list(self.data_files)}
        return {"num_heldout" if name == "num_eval_samples" else name: value for name, value in known.items()}


def materialise(folder: str | Path, settings: CorpusSettings, pool: int = 1) -> Sealed:
    """Stream, clean and split exactly num_train_samples + num_eval_samples distinct texts into `folder`, once.

    With the same settings, a later call reads the snapshot without network, after checking its hashes. A seeded hash
    of a text decides whether it is held out, so the order of rows does not matter; only a source with too few rows for
    this rule is read whole, and its smallest hashes are held out. Raises ConfigError (files, too few rows, a changed or
    different snapshot), MissingService (hub; with the number of rows read) and CannotWrite. `pool`: how many times the
    user's own num_train_samples the settings' one is, for messages.

    Returns texts to train on and held-out ones, disjoint, no duplicates; sha256 of the snapshot; counts {"read": rows
    read, "kept": distinct clean rows, "rejected": {reason: rows}}.
    """
    folder = Path(folder)
    snapshot = Snapshot(folder, settings.request, "output_dir")
    if snapshot.exists:
        sealed = snapshot.read()
    elif folder.is_file():
        raise CannotWrite(f"output_dir: {folder} is a file; name another output_dir")
    elif folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"output_dir: {folder} has files but no data.json; name another output_dir, or remove it")
    else:
        total = settings.num_train_samples + settings.num_eval_samples
        with contextlib.closing(read_rows(settings)) as rows, progress("data", total, "sentences") as bar:
            train, heldout, counts = _select(rows, settings, pool, bar)
        sealed = snapshot.write([{"source": text} for text in train], [{"source": text} for text in heldout], counts)
    train, heldout = ([row["source"] for row in rows] for rows in (sealed.train, sealed.heldout))
    return sealed._replace(train=train, heldout=heldout)


def _select(
    rows: Iterator[Any], settings: CorpusSettings, pool: int, bar
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Take clean distinct rows until both splits are full; return train, heldout and the counts."""
    wanted, held_wanted = settings.num_train_samples, settings.num_eval_samples
    total = wanted + held_wanted
    share = held_wanted / total
    most = 10_000 + 200 * total  # an endless stream whose rows all fail must end too
    kept: dict[str, float] = {}  # text → its place in [0, 1): below `share` it is held out
    seen: set[bytes] = set()
    rejected: Counter[str] = Counter()
    read = held = 0
    try:
        for raw in rows:
            read += 1
            text, reason = clean_document(raw, settings.min_chars, settings.max_chars)
            if text is not None:
                key = folded(text).encode()
                digest = hashlib.sha256(key).digest()[:16]
                if digest in seen:
                    reason = "duplicate"
                else:
                    seen.add(digest)
                    seeded = hashlib.sha256(f"{settings.seed}\n".encode() + key).digest()
                    kept[text] = int.from_bytes(seeded[:7], "big") / 2**56
                    held += kept[text] < share
                    bar.update(min(held, held_wanted) + min(len(kept) - held, wanted) - bar.n)
            if reason:
                rejected[reason] += 1
            if (held >= held_wanted and len(kept) - held >= wanted) or read >= most:
                break
    except MissingService as error:
        if not read:
            raise
        fewer = (len(kept) - held_wanted) // pool
        enough = f", enough for num_train_samples {fewer}" if fewer > 0 else ""
        later = "Run the same command again later" if isinstance(error, StreamBroken) else "Take another source"
        message = f"{error}. {read} rows were read and {len(kept)} of {total} kept{enough}. {later}"
        raise MissingService(message) from error
    counts = {"read": read, "kept": len(kept), "rejected": dict(rejected.most_common())}
    if len(kept) < total:
        raise ConfigError(_too_few(settings, pool, counts))
    heldout = [text for text, place in kept.items() if place < share][:held_wanted]
    train = [text for text, place in kept.items() if place >= share][:wanted]
    if len(heldout) < held_wanted or len(train) < wanted:
        heldout = sorted(kept, key=kept.__getitem__)[:held_wanted]
        train = [text for text in kept if text not in set(heldout)][:wanted]
    return train, heldout, counts


def folded(text: str) -> str:
    """Return a text for comparison: without case, with single spaces."""
    return " ".join(text.casefold().split())


def _too_few(settings: CorpusSettings, pool: int, counts: dict[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in counts["rejected"].items()) or "none rejected"
    product = f" (num_train_samples {settings.num_train_samples // pool} × filter_pool {pool})" if pool > 1 else ""
    return (
        f"too few rows in {settings.dataset_name}: {settings.num_train_samples} to train on{product} and "
        f"{settings.num_eval_samples} held out are wanted, {counts['read']} were read and {counts['kept']} kept "
        f"({reasons}): give more data, lower num_train_samples{' or filter_pool' if pool > 1 else ''}, "
        f"or widen min_chars {settings.min_chars} and max_chars {settings.max_chars}"
    )


def load(folder: Path, cfg, pool: int = 1) -> tuple[list[str], list[dict[str, str]], str]:
    """Return training sentences, held-out rows {"source", "reference"?} not among them, and the data's hash.

    `folder` is the snapshot's; `cfg` has the settings of `materialise` and of `eval_sets.load_eval` as attributes.
    Without an evaluation set, the rows are the corpus's own held-out sentences, without references. `pool`: times
    num_train_samples, the training sentences to return.
    """
    rows: list[dict[str, str]] = []
    try:
        rows = load_eval(cfg.eval_dataset, cfg.eval_file, cfg.num_eval_samples, cfg.seed, cfg.target_language)
    except MissingService as error:
        print(f"no evaluation references: {error}", flush=True)
    settings = CorpusSettings(**{field.name: getattr(cfg, field.name) for field in fields(CorpusSettings)})
    data = materialise(folder, replace(settings, num_train_samples=pool * settings.num_train_samples), pool)
    print(f"data: {len(data.train)} prompts, sha256 {data.sha256[:12]}", flush=True)
    seen = set(map(folded, data.train))
    apart = [row for row in rows if folded(row["source"]) not in seen]
    if len(apart) < len(rows):
        print(f"{len(rows) - len(apart)} evaluation rows are in the training data: left out", flush=True)
    if not apart:
        print("evaluation without references: only the reward, on held-out rows of the corpus", flush=True)
        apart = [{"source": text} for text in data.heldout]
    return data.train, apart, data.sha256
