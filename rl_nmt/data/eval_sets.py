"""Load evaluation sets: English sources with references in a language, from a file or the hub by name. No torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rl_nmt.data import tables
from rl_nmt.data.sources import hub_error, quiet_datasets, require_hub
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.hub import split_revision
from rl_nmt.text.languages import ENGLISH, language, wmt24pp_code
from rl_nmt.text.unicode import is_blank, safe_unicode

Row = dict[str, str]  # "source", and "reference" where there is one
WMT24PP_SET, FLORES, *IN22 = HUB_SETS = (
    *("google/wmt24pp", "openlanguagedata/flores_plus"),
    *("ai4bharat/IN22-Gen", "ai4bharat/IN22-Conv"),
)
# FLORES+'s own tags where they are not NLLB's; the tags that IN22 has of the language table.
FLORES_TAGS = {"zho_Hans": "cmn_Hans", "zho_Hant": "cmn_Hant", "est_Latn": "ekk_Latn", "tgl_Latn": "fil_Latn"}
IN22_CODES = "bn gu hi kn ml mr pa ta te ur".split()


def load_eval(eval_dataset: str, eval_file: str, num_eval_samples: int, seed: int, target: str = "ta") -> list[Row]:
    """Return up to num_eval_samples rows {"source", "reference"?}, chosen by a seeded hash, in file order.

    `eval_file` (TSV source<TAB>reference, or JSONL) takes precedence over `eval_dataset`: a path, a name in HUB_SETS
    (also name@revision), or none. `target`: code of the references' language. Which rows are chosen does not depend on
    their order. Raises ConfigError (bad file, unknown name, a set without the language, references in another script)
    and MissingService (hub not reachable within seconds, gated).
    """
    if num_eval_samples < 1 and (eval_file or eval_dataset not in ("", "none")):
        raise ConfigError(f"num_eval_samples: {num_eval_samples} must be at least 1; or set eval_dataset to 'none'")
    if eval_file:
        rows = _read_file(eval_file, "eval_file", target)
    elif eval_dataset in ("", "none"):
        return []
    elif Path(eval_dataset).expanduser().is_file():
        rows = _read_file(eval_dataset, "eval_dataset", target)
    elif split_revision(eval_dataset)[0] in HUB_SETS:
        rows = _read_hub(eval_dataset, target)
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
        english, other = (" ".join(safe_unicode(side or "").split()) for side in pair)
        if not is_blank(english):
            rows.append({"source": english} if is_blank(other) else {"source": english, "reference": other})
    return rows


def _read_file(path: str, argument: str, target: str) -> list[Row]:
    records, row = tables.read_all(path, argument), language(target, "target_language")
    columns = f"english<TAB>{row.name.lower()}"
    wide = next((record for record in records if "column 3" in record.cells), None)
    if wide:
        raise ConfigError(f"{wide.where} has {len(wide.cells)} columns: write {columns}")
    sides = [tables.sides(record, language=row) for record in records]
    told = zip(records, sides, strict=True)
    tables.require_script([(record.where, reference) for record, (_, reference) in told if reference], row)
    rows = _rows(sides)
    if not rows:
        raise ConfigError(f"{argument}: {path} holds no rows with a source: give {columns} lines or JSONL")
    return rows


def _read_hub(name: str, target: str) -> list[Row]:
    repository, _ = split_revision(name)
    row = language(target, "target_language")
    if repository in IN22 and row.code not in IN22_CODES:
        others = f"{WMT24PP_SET} and {FLORES} have it; choose one of them, or give an eval_file"
        raise ConfigError(f"eval_dataset: {name} has no {row.name}; {others}")
    config = f"en-{wmt24pp_code(target, 'target_language')}" if repository == WMT24PP_SET else None
    require_hub("eval_dataset", name)
    try:
        with quiet_datasets(log=True):
            if repository == WMT24PP_SET:
                return from_wmt24pp(_load(name, config))
            if repository == FLORES:
                ours, theirs = ENGLISH.nllb, FLORES_TAGS.get(row.nllb, row.nllb)
                return from_flores(_load(name, ours, "devtest"), _load(name, theirs, "devtest"))
            return from_in22(_load(name), name, row.nllb)
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


def from_flores(english: Iterable[dict[str, Any]], other: Iterable[dict[str, Any]]) -> list[Row]:
    """Read FLORES+: one configuration per language, `text` joined by `id`."""
    references = {r["id"]: r["text"] for r in other}
    return _rows((r["text"], references[r["id"]]) for r in english if r["id"] in references)


def from_in22(records: Iterable[dict[str, Any]], name: str, tag: str = "tam_Taml") -> list[Row]:
    """Read IN22 (Gala et al. 2023): one column per language, with or without the prefix sentence_; `tag`: NLLB's."""
    pairs = []
    for record in records:
        prefix = "sentence_" if "sentence_eng_Latn" in record else ""
        columns = f"{prefix}eng_Latn", f"{prefix}{tag}"
        if not record.keys() >= set(columns):
            raise ConfigError(f"eval_dataset: {name} lacks eng_Latn or {tag}, it has {', '.join(record)}")
        pairs.append((record[columns[0]], record[columns[1]]))
    return _rows(pairs)
