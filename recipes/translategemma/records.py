"""Read rows unchanged from files, local folders or the hub. No torch.

An existing path takes precedence over a hub name. Errors in a file name the line.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.translategemma.checks import WMT24PP
from rl_nmt.data import tables
from rl_nmt.data.sources import hub_error, is_saved, quiet_datasets, require_hub, saved
from rl_nmt.data.tables import Row
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.hub import split_revision
from rl_nmt.text.languages import ENGLISH, language, wmt24pp_code

if TYPE_CHECKING:
    from recipes.translategemma.settings import DataCfg

FORMATS = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


def train_records(cfg: DataCfg) -> list[Row]:
    """Return the training rows that the settings name. Raises ConfigError and MissingService."""
    if cfg.train_file:
        return tables.read_all(cfg.train_file, "data.train_file")
    if Path(cfg.hf_dataset_name).expanduser().is_file():
        if cfg.hf_eval_split:
            raise ConfigError(f"data.hf_eval_split: the file {cfg.hf_dataset_name} has no splits; give data.eval_file")
        return tables.read_all(cfg.hf_dataset_name, "data.hf_dataset_name")
    return read_hub(cfg, cfg.hf_train_split, "data.hf_train_split")


def read_hub(cfg: DataCfg, split: str, argument: str) -> list[Row]:
    """Return a split of a data set on the hub, or of a local folder of files."""
    import datasets

    name, config = cfg.hf_dataset_name, cfg.hf_dataset_config_name
    repository, revision = split_revision(name)
    local = Path(name).expanduser()
    reverse = repository == WMT24PP and language(cfg.target_lang) is ENGLISH
    if not local.is_dir():
        require_hub("data.hf_dataset_name", name)
        if repository == WMT24PP and not config:
            other = (cfg.source_lang, "data.source_lang") if reverse else (cfg.target_lang, "data.target_lang")
            config = f"en-{wmt24pp_code(*other)}"
    with quiet_datasets(log=not local.is_dir()), tempfile.TemporaryDirectory() as scratch:
        try:
            source = {"path": str(local), "cache_dir": scratch} if local.is_dir() else {"path": repository}
            options = {"name": config or None, "split": split, "revision": revision}
            found = saved(local, split, argument) if is_saved(local) else datasets.load_dataset(**source, **options)
            rows = found.to_list()
        except ConfigError:
            raise
        except Exception as error:  # pyarrow, fsspec and the hub's client raise many classes
            raise _explained(cfg, split, argument, local, error) from error
    if reverse:  # its source is English
        rows = [row | {"source": row["target"], "target": row["source"]} for row in rows]
    return [Row(f"{argument}: {name} {split} row {number}", row) for number, row in enumerate(rows, 1)]


def _explained(cfg: DataCfg, split: str, argument: str, local: Path, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:200]
    if isinstance(error, ValueError) and "split" in text.lower():
        return ConfigError(f"{argument}: {cfg.hf_dataset_name} has no split {split!r} ({text})")
    if isinstance(error, ValueError) and "BuilderConfig" in text:
        return ConfigError(f"data.hf_dataset_config_name: {cfg.hf_dataset_config_name!r} is not valid ({text})")
    if not local.is_dir():
        return hub_error("data.hf_dataset_name", cfg.hf_dataset_name, error)
    for file in sorted(p for p in local.rglob("*") if p.name.lower().endswith(FORMATS)):
        try:
            tables.read_all(file, "data.hf_dataset_name")
        except ConfigError as problem:
            return problem
    return ConfigError(f"data.hf_dataset_name: the folder {local} cannot be read ({type(error).__name__}: {text})")
