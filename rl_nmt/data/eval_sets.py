"""Load evaluation sets: English sources with Tamil references, from a file or from the hub by name. No torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl_nmt.data import tables
from rl_nmt.data.sources import hub_error, quiet_datasets, require_hub
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.hub import split_revision
from rl_nmt.text.unicode import is_blank, safe_unicode

Row = dict[str, str]  # "source", and "reference" where there is one
HUB_SETS = ("google/wmt24pp", "openlanguagedata/flores_plus", "ai4bharat/IN22-Gen", "ai4bharat/IN22-Conv")


def load_eval(eval_dataset: str, eval_file: str, num_eval_samples: int, seed: int) -> list[Row]:
    """Return up to num_eval_samples rows {"source", "reference"?}, chosen by a seeded hash, in file order.

    `eval_file` (TSV english<TAB>tamil, or JSONL) takes precedence over `eval_dataset`: a path, a name in HUB_SETS
    (also name@revision), or none. Which rows are chosen does not depend on their order. Raises
    ConfigError (bad file, unknown name) and MissingService (hub not reachable within seconds, gated).
    """
    if num_eval_samples < 1 and (eval_file or eval_dataset not in ("", "none")):
        raise ConfigError(f"num_eval_samples: {num_eval_samples} must be at least 1; or set eval_dataset to 'none'")
    if eval_file:
        rows = _read_file(eval_file, "eval_file")
    elif eval_dataset in ("", "none"):
        return []
    elif Path(eval_dataset).expanduser().is_file():
        rows = _read_file(eval_dataset, "eval_dataset")
    elif split_revision(eval_dataset)[0] in HUB_SETS:
        rows = _read_hub(eval_dataset)
    else:
        raise ConfigError(
            f"eval_dataset: {eval_dataset} is neither a file nor one of {', '.join(HUB_SETS)}, none; "
            "choose one of these, or give a TSV or JSONL file as --eval_file"
        )
    return choose(rows, num_eval_samples, seed)


def choose(rows: Iterable[Row], count: int, seed: int) -> list[Row]:
    """Return the `count` distinct rows with the smallest seeded hash, in their original order."""
    distinct = {(row["source"], row.get("reference", "")): row for row in rows}

    def place(key: tuple[str, str]) -> bytes:
        return hashlib.sha256(f"{seed}\n{key[0]}\n{key[1]}".encode("utf-8", "replace")).digest()

    chosen = set(sorted(distinct, key=place)[:count])
    return [row for key, row in distinct.items() if key in chosen]


def _rows(pairs: Iterable[tuple[str, str | None]]) -> list[Row]:
    """Return clean rows, each side on one line; pairs without an English side are dropped."""
    rows = []
    for pair in pairs:
        english, tamil = (" ".join(safe_unicode(side or "").split()) for side in pair)
        if not is_blank(english):
            rows.append({"source": english} if is_blank(tamil) else {"source": english, "reference": tamil})
    return rows


def _read_file(path: str, argument: str) -> list[Row]:
    records = tables.read_all(path, argument)
    wide = next((record for record in records if "column 3" in record.cells), None)
    if wide:
        raise ConfigError(f"{wide.where} has {len(wide.cells)} columns: write english<TAB>tamil")
    rows = _rows(map(tables.sides, records))
    if not rows:
        raise ConfigError(f"{argument}: {path} holds no rows with a source: give english<TAB>tamil lines or JSONL")
    return rows


def _read_hub(name: str) -> list[Row]:
    require_hub("eval_dataset", name)
    repository, _ = split_revision(name)
    try:
        with quiet_datasets(log=True):
            if repository == "google/wmt24pp":
                return from_wmt24pp(_load(name, "en-ta_IN"))
            if repository == "openlanguagedata/flores_plus":
                return from_flores(_load(name, "eng_Latn", "devtest"), _load(name, "tam_Taml", "devtest"))
            return from_in22(_load(name), name)
    except UserError:
        raise
    except Exception as error:  # whatever the hub's client raises
        raise hub_error("eval_dataset", name, error) from error


def _load(name: str, config: str | None = None, split: str | None = None) -> Iterable[dict[str, Any]]:
    import datasets

    repository, revision = split_revision(name)
    loaded = datasets.load_dataset(repository, config, split=split, revision=revision)
    return loaded if split else next(iter(loaded.values()))  # sets with one split name it differently


def from_wmt24pp(records: Iterable[dict[str, Any]]) -> list[Row]:
    """Read WMT24++ (Deutsch et al. 2025): `source`, `target`; rows marked is_bad_source are dropped."""
    return _rows((r["source"], r["target"]) for r in records if not r.get("is_bad_source"))


def from_flores(english: Iterable[dict[str, Any]], tamil: Iterable[dict[str, Any]]) -> list[Row]:
    """Read FLORES+: one configuration per language, `text` joined by `id`."""
    references = {r["id"]: r["text"] for r in tamil}
    return _rows((r["text"], references[r["id"]]) for r in english if r["id"] in references)


def from_in22(records: Iterable[dict[str, Any]], name: str) -> list[Row]:
    """Read IN22 (Gala et al. 2023): one column per language, with or without the prefix sentence_."""
    pairs = []
    for record in records:
        prefix = "sentence_" if "sentence_eng_Latn" in record else ""
        columns = f"{prefix}eng_Latn", f"{prefix}tam_Taml"
        if not record.keys() >= set(columns):
            raise ConfigError(f"eval_dataset: {name} lacks eng_Latn or tam_Taml, it has {', '.join(record)}")
        pairs.append((record[columns[0]], record[columns[1]]))
    return _rows(pairs)
