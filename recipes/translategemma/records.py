"""Where rows come from, as they stand there: files, local folders, the hub. No torch.

A path that exists beats a hub name. What is wrong with a file is said with its line.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.translategemma.checks import WMT24PP
from rl_nmt.data.sources import hub_error, quiet_datasets, require_hub
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.hub import split_revision
from rl_nmt.text.languages import wmt24pp_code

if TYPE_CHECKING:
    from recipes.translategemma.settings import DataCfg

Record = tuple[str, dict[str, Any]]  # where it stands ("line 3"), and what stands there
FORMATS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


def train_records(cfg: DataCfg) -> list[Record]:
    """What the settings name to train on. Raises ConfigError and MissingService."""
    if cfg.train_file:
        return read_file(cfg.train_file, "data.train_file")
    if Path(cfg.hf_dataset_name).expanduser().is_file():
        if cfg.hf_eval_split:
            raise ConfigError(f"data.hf_eval_split: the file {cfg.hf_dataset_name} has no splits: give data.eval_file")
        return read_file(cfg.hf_dataset_name, "data.hf_dataset_name")
    return read_hub(cfg, cfg.hf_train_split, "data.hf_train_split")


def read_hub(cfg: DataCfg, split: str, argument: str) -> list[Record]:
    """A split of a data set on the hub, or of a local folder of files."""
    import datasets

    name, config = cfg.hf_dataset_name, cfg.hf_dataset_config_name
    repository, revision = split_revision(name)
    local = Path(name).expanduser()
    if not local.is_dir():
        require_hub("data.hf_dataset_name", name)
        if repository == WMT24PP and not config:
            config = f"en-{wmt24pp_code(cfg.target_lang, 'data.target_lang')}"
    with quiet_datasets(log=not local.is_dir()), tempfile.TemporaryDirectory() as scratch:
        try:
            if local.is_dir():
                rows = datasets.load_dataset(str(local), config or None, split=split, cache_dir=scratch).to_list()
            else:
                rows = datasets.load_dataset(repository, config or None, split=split, revision=revision).to_list()
        except UserError:
            raise
        except Exception as error:  # whatever pyarrow, fsspec or the hub's client raise
            raise _explained(cfg, split, argument, local, error) from error
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _explained(cfg: DataCfg, split: str, argument: str, local: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, ValueError) and "split" in text.lower():
        return ConfigError(f"{argument}: {cfg.hf_dataset_name} has no split {split!r} ({text})")
    if isinstance(error, ValueError) and "BuilderConfig" in text:
        return ConfigError(f"data.hf_dataset_config_name: {cfg.hf_dataset_config_name!r} does not fit ({text})")
    if not local.is_dir():
        return hub_error("data.hf_dataset_name", cfg.hf_dataset_name, error)
    for file in sorted(p for p in local.rglob("*") if p.name.lower().endswith(FORMATS)):
        try:
            read_file(str(file), "data.hf_dataset_name")
        except ConfigError as problem:
            return problem
    return ConfigError(f"data.hf_dataset_name: the folder {local} cannot be read ({type(error).__name__}: {text})")


def read_file(file: str, argument: str) -> list[Record]:
    """The rows of a JSONL, JSON (an array, or {"data": [...]}) or Parquet file. Raises ConfigError with the line."""
    path = Path(file).expanduser()
    if not path.name.lower().endswith(FORMATS):
        raise ConfigError(f"{argument} {file}: give a file that ends in {', '.join(FORMATS)}")
    try:
        if path.name.lower().endswith(".parquet"):
            return _parquet(path, argument)
        data = path.read_bytes()
        data = gzip.decompress(data) if path.name.lower().endswith(".gz") else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(f"{argument} {file} is no whole gzip file: fetch it again") from error
    except OSError as error:
        raise ConfigError(f"{argument} {file} cannot be read: {error.strerror or error}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{argument} {file}, line {line} is not UTF-8: save it as UTF-8") from error
    return _json(text, f"{argument} {file}")


def _json(text: str, name: str) -> list[Record]:
    """One value for the whole file, else one object per line."""
    rows = None
    try:
        whole = json.loads(text)
        if isinstance(whole, dict) and "data" not in whole:
            return [("line 1", whole)]
        rows = whole["data"] if isinstance(whole, dict) else whole
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == "[":
            line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise ConfigError(f"{name}{line} is not valid JSON ({getattr(error, 'msg', error)})") from error
    if rows is not None:
        if not isinstance(rows, list):
            raise ConfigError(f'{name}: write an array of objects, {{"data": [...]}}, or one object per line')
        found: Iterable[tuple[str, Any]] = ((f"row {number}", row) for number, row in enumerate(rows, 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        found = ((f"line {number}", _line(line, name, number)) for number, line in lines if line.strip())
    records = []
    for where, row in found:
        if not isinstance(row, dict):
            raise ConfigError(f'{name}, {where} is no JSON object: write {{"source": "…", "target": "…"}}')
        records.append((where, row))
    return records


def _line(line: str, name: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}, line {number} is not valid JSON ({getattr(error, 'msg', error)})") from error


def _parquet(path: Path, argument: str) -> list[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ValueError, pyarrow.ArrowException) as error:
        problem = " ".join(str(error).split())[:160]
        raise ConfigError(f"{argument} {path} is no whole Parquet file ({problem}): fetch it again") from error
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]
