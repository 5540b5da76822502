"""Read rows to train on and rows to hold out, from files or the hub, into a snapshot in the run folder. No torch.

They are read once and saved with hashes: a resumed run reads the same rows without network, and a changed snapshot is
refused. Which rows are held out depends on their ids and the seed alone, not on their order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.translategemma.records import read_hub, train_records
from rl_nmt.config import to_public_dict
from rl_nmt.data.cleaning import clean_document
from rl_nmt.data.snapshot import Sealed, Snapshot
from rl_nmt.data.tables import Row as Record
from rl_nmt.data.tables import clean_text, read_all
from rl_nmt.errors import ConfigError
from rl_nmt.text.languages import language
from rl_nmt.text.unicode import is_blank, safe_unicode

if TYPE_CHECKING:
    from recipes.translategemma.settings import DataCfg

Row = dict[str, str]  # "id", "source" and, where there is one, "reference"


def load(cfg: DataCfg, folder: str | Path, seed: int) -> Sealed:
    """Read, clean and split the rows, or read the snapshot in `folder`/data back.

    Its counts say how many rows were dropped for which reason.
    Sources are distinct, also between the two lists: the first of equal ones is kept, and a training row whose source
    is held out is dropped. `seed` chooses the rows of max_train_samples.

    Raises:
        ConfigError: a missing file or field, a row that cannot be read (with its line), no rows left, or a
            snapshot of other settings or with changed files.
        MissingService: the hub cannot be reached within seconds, or refuses.
        CannotWrite: the snapshot cannot be written.
    """
    request = to_public_dict(cfg) | {"seed": seed}
    snapshot = Snapshot(Path(folder) / "data", request, "logging.output_dir")
    if snapshot.exists:
        return snapshot.read()
    counts: Counter[str] = Counter()
    name = cfg.train_file or cfg.hf_dataset_name
    train = _rows(train_records(cfg), name, cfg, counts, cfg.document_chars)
    if cfg.eval_file:
        heldout = _rows(read_all(cfg.eval_file, "data.eval_file"), cfg.eval_file, cfg, Counter())
    elif cfg.hf_eval_split:
        records = read_hub(cfg, cfg.hf_eval_split, "data.hf_eval_split")
        heldout = _rows(records, f"{name} {cfg.hf_eval_split}", cfg, Counter())
    else:
        heldout = hold_out(train, cfg.eval_sampling_count, cfg.eval_sampling_ratio, cfg.eval_sampling_seed)
        ids = {row["id"] for row in heldout}
        train = [row for row in train if row["id"] not in ids]
    train = _apart(train, heldout, counts)
    if cfg.max_train_samples and len(train) > cfg.max_train_samples:
        counts["over max_train_samples"] = len(train) - cfg.max_train_samples
        train = _smallest(train, cfg.max_train_samples, f"train {seed}")
    if not train and counts["held out too"] and (cfg.eval_file or cfg.hf_eval_split):
        held = f"eval_file: {cfg.eval_file}" if cfg.eval_file else f"hf_eval_split: {cfg.hf_eval_split}"
        raise ConfigError(
            f"data.{held} holds out all training rows of {name} ({_said(counts)}); evaluate on other rows, or leave it "
            "empty to hold some out"
        )
    if not train:
        raise ConfigError(f"data: {name}: no row is left to train on ({_said(counts)}); give more rows")
    data = snapshot.write(train, heldout, dict(counts))
    print(f"data: {len(train)} rows to train on, {len(heldout)} held out, sha256 {data.sha256[:12]}", flush=True)
    referenced = sum("reference" in row for row in heldout)
    if 0 < referenced < len(heldout):
        share = f"{referenced} of {len(heldout)}"
        print(f"data: {share} held-out rows have a reference; chrF++ and BLEU use only these", flush=True)
    if counts:
        print(f"data: rows not used for training: {_said(counts)}", flush=True)
    return data


def hold_out(rows: list[Row], count: int, ratio: float, seed: int) -> list[Row]:
    """Return the rows to evaluate on, in order: those with the `count` smallest hashes of (seed, id), or below `ratio`.

    With a ratio, whether a row is held out does not depend on the others; at least one row is held out. Raises
    ConfigError if nothing would be left to train on.
    """
    if count >= len(rows) and count:
        raise ConfigError(
            f"data.eval_sampling_count: {count} of {len(rows)} rows held out leave none to train on; lower it"
        )
    if count:
        return _smallest(rows, count, str(seed))
    return [row for row in rows if _place(str(seed), row["id"]) < ratio] or _smallest(rows, 1, str(seed))


def _smallest(rows: list[Row], count: int, seed: str) -> list[Row]:
    chosen = {row["id"] for row in sorted(rows, key=lambda row: _place(seed, row["id"]))[:count]}
    return [row for row in rows if row["id"] in chosen]


def _place(seed: str, key: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:7], "big") / 2**56


def _apart(train: list[Row], heldout: list[Row], counts: Counter[str]) -> list[Row]:
    """Return the training rows whose source is not held out."""
    seen = {_folded(row["source"]) for row in heldout}
    apart = [row for row in train if _folded(row["source"]) not in seen]
    if len(apart) < len(train):
        counts["held out too"] = len(train) - len(apart)
    return apart


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in counts.items()) or "none fell out"


# ---------------------------------------------------------------------- records to rows


def _rows(
    records: list[Record], name: str, cfg: DataCfg, counts: Counter[str], document_chars: tuple[int, ...] = ()
) -> list[Row]:
    """Return clean rows with distinct sources and ids; count the dropped ones in `counts`."""
    records = [Record(where, _flat(record)) for where, record in records]
    if not records:
        raise ConfigError(f"{name} has no rows; give a file or split with rows")
    kept = [(w, r) for w, r in records if not (r.get("is_bad_source") or r.get("domain") == "canary")]
    if len(kept) < len(records):
        counts["marked as bad source"] += len(records) - len(kept)
    source, target, key = _fields(kept, name, cfg)
    rows: list[Row] = []
    ids: dict[str, str] = {}
    seen: set[str] = set()
    for where, record in kept:
        text, reason = clean_text(record, source, where), ""
        if document_chars and text:
            passage, reason = clean_document(record[source], *document_chars)
            text = clean_text({source: passage}, source, where)
        if is_blank(text):
            counts[reason or "without a source"] += 1
            continue
        if _folded(text) in seen:
            counts["duplicate"] += 1
            continue
        seen.add(_folded(text))
        row = {"id": _id(record, key, text, where), "source": text}
        if row["id"] in ids:
            raise ConfigError(
                f"{where}: id_field {key}: {row['id']!r} is also the id of {ids[row['id']]}; name a column of unique "
                "values"
            )
        ids[row["id"]] = where
        reference = clean_text(record, target, where) if target and not document_chars else ""
        rows.append(row if is_blank(reference) else {**row, "reference": reference})
    if not rows:
        raise ConfigError(f"{name} has no row with a source in {source!r}; give another file or data.source_field")
    return rows


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its pair of translations ({"translation": {"en": …, "ta": …}}) as top-level fields."""
    inner = record.get("translation")
    return {**record, **inner} if isinstance(inner, dict) else record


def _fields(records: list[Record], name: str, cfg: DataCfg) -> tuple[str, str | None, str | None]:
    """Return the columns of source, reference and id; the latter two are None if the file has no such columns."""
    columns = dict.fromkeys(column for _, record in records for column in record)  # not every row has each of them
    there = ", ".join(map(str, columns)) or "nothing"
    for argument in ("id_field", "source_field", "target_field"):
        field = getattr(cfg, argument)
        if field and field not in columns:
            raise ConfigError(f"data.{argument}: {name} has no column {field!r}; its columns: {there}")
    folded = {str(column).lower().replace("-", "_"): column for column in columns}

    def find(code: str, *words: str) -> str | None:
        side = language(code)
        names = (side.name.lower(), code.lower().replace("-", "_"), side.code.lower(), *words)
        return next((folded[word] for word in names if word in folded), None)

    source = cfg.source_field or find(cfg.source_lang, "source", "src", "text", "sentence")
    if source is None:
        raise ConfigError(
            f"{name}: no column for the {language(cfg.source_lang).name} source found (columns: {there}); name it in "
            "data.source_field"
        )
    target = cfg.target_field or find(cfg.target_lang, "target", "tgt", "reference", "ref")
    automatic = "id" if all(record.get("id") is not None for _, record in records) else ""
    values = [str(record["id"]) for _, record in records] if automatic and not cfg.id_field else []
    return source, target, cfg.id_field or (automatic if len(set(values)) == len(records) else None)


def _id(record: dict[str, Any], field: str | None, text: str, where: str) -> str:
    if field is None:
        return hashlib.sha256(text.encode()).hexdigest()[:16]
    if record.get(field) is None:
        raise ConfigError(f"{where}: column {field!r} has no id; fill it, or leave data.id_field empty")
    return safe_unicode(str(record[field]))
