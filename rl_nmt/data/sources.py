"""Stream English rows from a hub data set or from local files. No torch.

An existing path takes precedence over a hub name, which may be pinned (`org/name@commit`). Reading local files
opens no connection and writes only to a temporary folder; errors name the file and line. A hub
stream survives network failures (rl_nmt/data/streams.py).
"""

import contextlib
import functools
import glob
import json
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.data import tables
from rl_nmt.data.streams import persistent
from rl_nmt.errors import ConfigError, MissingService, UserError, caused_by, describe

FORMATS = {"json": (".json", ".jsonl", ".json.gz", ".jsonl.gz"), "parquet": (".parquet",), "text": (".txt", ".txt.gz")}
SAVED = "saved"  # a folder that Dataset.save_to_disk wrote
HALF_A_PAIR = "has half of a surrogate pair (\\ud800 to \\udfff): remove it"
Local = tuple[str, list[str]]  # format or SAVED, absolute paths


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where sentences come from."""

    dataset_name: str  # a local file or folder, json | parquet | text with `data_files` globs, or a hub name
    dataset_config: str = ""  # of a hub data set; the split also of a saved folder
    dataset_split: str = "train"
    data_files: tuple[str, ...] = ()
    text_field: str = "text"  # the column with the text
    shuffle_buffer: int = 0  # rows in the buffer that `seed` shuffles; up to 1: not shuffled
    seed: int = 0


def read_rows(source: Source) -> Generator[Any, None, None]:
    """Yield the text column row by row, shuffled; a row without a text yields None or the value in its place.

    Raises ConfigError (no such file or column, broken or non-UTF-8 files, with the line) and MissingService (hub not
    reachable within seconds, gated, unknown, or failing for longer than streams.RETRY_SECONDS).
    """
    name, column = source.dataset_name, source.text_field
    if not name:
        raise ConfigError("dataset_name is empty: give a path, json | parquet | text, or a hub name")
    local = local_files(name, list(source.data_files))
    if local is None:
        require_hub("dataset_name", name)
    with quiet_datasets(log=local is None), tempfile.TemporaryDirectory() as scratch:
        try:
            # A stream that was opened once stays at the commit that it found.
            stream = functools.cache(functools.partial(_open, source, local, scratch))
            if local is None:
                yield from persistent(name, lambda: (row[column] for row in stream()))
            else:
                yield from (row[column] for row in stream())
        except UserError:
            raise
        except Exception as error:  # whatever pyarrow, gzip, fsspec or the hub's client raise
            if local is None:
                raise hub_error("dataset_name", name, error) from error
            raise ConfigError(what_is_wrong(local, column, error)) from error


def read_split(name: str, split: str, argument: str, config: str = "") -> Generator[tables.Row, None, None]:
    """Yield whole rows: of a file (`tables.read`), a folder of save_to_disk, or a hub data set, which is streamed.

    The images of the latter two are not decoded: {"bytes": …, "path": …}. `split` is of a hub data set or a saved
    folder, `config` of a hub data set. `argument`: the setting with the name. Raises ConfigError and MissingService
    like `read_rows`.
    """
    path = Path(name).expanduser()
    if path.is_file():
        yield from tables.read(path, argument)
        return
    on_hub = is_hub_name(name)
    if on_hub:
        require_hub(argument, name)
    elif not is_saved(path):
        raise ConfigError(f"{argument}: {name}: no such file, and save_to_disk wrote no folder there; give another")
    with quiet_datasets(log=on_hub):
        import datasets

        def opened() -> Any:
            repository, revision = hub.split_revision(name)
            options = {"name": config or None, "split": split, "revision": revision}
            found = datasets.load_dataset(repository, streaming=True, **options)
            return found.decode(False) if found.features else found  # unknown for JSON, which has no images to decode

        try:
            if on_hub:
                stream = functools.cache(opened)  # opened once, it stays at the commit that it found
                rows = persistent(name, lambda: iter(stream()), argument)
            else:
                rows = saved(path, split, argument).to_iterable_dataset().decode(False)
            for number, row in enumerate(rows, 1):
                yield tables.Row(f"{argument}: {name} {split} row {number}", row)
        except UserError:
            raise
        except Exception as error:  # whatever pyarrow, fsspec or the hub's client raise
            if on_hub and isinstance(error, ValueError) and re.search("split|config", str(error), re.IGNORECASE):
                wanted = f"split {split!r}" + f" of configuration {config!r}" * bool(config)
                raise ConfigError(f"{argument}: {name} has no {wanted} ({describe(error)})") from error
            if on_hub:
                raise hub_error(argument, name, error) from error
            raise ConfigError(f"{argument}: {path} cannot be loaded: {describe(error)}; save it again") from error


def is_hub_name(name: str) -> bool:
    """Return whether a name is that of a hub data set: not of an existing path, nor like one."""
    like_a_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or _format_of(name)
    return not like_a_path and not Path(name).expanduser().exists()


def _open(source: Source, local: Local | None, scratch: str) -> Any:
    """Open the text column of the source, in an order that depends only on seed and buffer."""
    import datasets

    column = source.text_field
    if local and local[0] != SAVED and not any(Path(file).stat().st_size for file in local[1]):
        raise ConfigError(f"{local[1][0]} is empty: give a file with rows")
    if local and local[0] == "json":  # its builder would read all columns, and refuse one that changes its type
        from datasets.io.generator import GeneratorDatasetInputStream  # from_generator takes no cache_dir

        arguments = {"files": local[1], "column": column}
        reader = GeneratorDatasetInputStream(_json_column, cache_dir=scratch, streaming=True, gen_kwargs=arguments)
        return _shuffled(reader.read(), source)
    if local and local[0] == SAVED:
        found = saved(local[1][0], source.dataset_split, "dataset_split")
        _require_column(column, found.column_names, source.dataset_name)
        return _shuffled(found.to_iterable_dataset().select_columns([column]), source)
    if local:
        path, files = local
        escaped = {"train": [glob.escape(file) for file in files]}
        options: dict[str, Any] = {"data_files": escaped, "split": "train", "cache_dir": scratch}
        if path == "parquet":  # the others may differ from file to file
            options["columns"] = [column]
    else:
        path, revision = hub.split_revision(source.dataset_name)
        options = {"name": source.dataset_config or None, "split": source.dataset_split, "revision": revision}
        options["data_files"] = list(source.data_files) or None
    stream = datasets.load_dataset(path, streaming=True, **options)
    columns = stream.column_names or list(next(iter(stream), {}))
    if columns:
        _require_column(column, columns, source.dataset_name)
    return _shuffled(stream.select_columns([column]), source)


def _shuffled(stream: Any, source: Source) -> Any:
    if source.shuffle_buffer > 1:
        # One shard at a time: with more, threads read them, and shutting those down costs 5 s.
        stream = stream.shuffle(seed=source.seed, buffer_size=source.shuffle_buffer, max_buffer_input_shards=1)
    return stream


def _require_column(column: str, columns: Iterable[str], name: str) -> None:
    if column not in columns:
        raise ConfigError(f"text_field: {name} has no column {column!r}, it has {', '.join(columns)}")


def _json_column(files: list[str], column: str) -> Iterator[dict[str, Any]]:
    """Yield one column of JSON files; the others may hold anything. Raises ConfigError with the line.

    Some rows may lack the column, but not the first thousand of a file.
    """
    for file in files:  # datasets passes one at a time
        first: dict[str, Any] = {}
        known = False
        for number, row in enumerate(tables.read(file, "dataset_name", kind="json")):
            first, known = first or row.cells, known or column in row.cells
            if number == 1000 and not known:
                break
            value = row.cells.get(column)
            try:
                str(value).encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{row.where} {HALF_A_PAIR}") from None
            yield {column: value}
        if first and not known:
            _require_column(column, first, file)


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` wrote this folder."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def saved(folder: str | Path, split: str, argument: str) -> Any:
    """Load the datasets.Dataset that `save_to_disk` wrote, or one of several splits.

    `argument`: the setting that names the split. Raises ConfigError for a missing split, and what `datasets` raises for
    a damaged folder.
    """
    import datasets

    found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ConfigError(f"{argument}: {folder} has no split {split!r}, it has {', '.join(found)}")
        found = found[split]
    return found


_DATASETS_CONFIG = {
    "HF_UPDATE_DOWNLOAD_COUNTS": False,
    # One attempt a read: `datasets` would sleep up to 20 minutes inside one and report it only in its log.
    **dict.fromkeys(("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"), 1),
    **dict.fromkeys(("STREAMING_READ_RETRY_INTERVAL", "STREAMING_OPEN_RETRY_INTERVAL"), 0),
    "STREAMING_READ_SERVER_UNAVAILABLE_RETRY_INTERVAL": 0,
    "STREAMING_READ_RATE_LIMIT_RETRY_INTERVAL": 0,
}


@contextlib.contextmanager
def quiet_datasets(log: bool) -> Iterator[None]:
    """Keep `datasets` from pinging its download counter, retrying and, unless `log`, from logging; restored after."""
    from datasets import config, logging

    before, verbosity = {name: getattr(config, name) for name in _DATASETS_CONFIG}, logging.get_verbosity()
    vars(config).update(_DATASETS_CONFIG)
    logging.set_verbosity(verbosity if log else logging.CRITICAL)
    try:
        yield
    finally:
        vars(config).update(before)
        logging.set_verbosity(verbosity)


def local_files(dataset_name: str, data_files: list[str]) -> Local | None:
    """Return (format, sorted absolute paths) of a local source, or None for a hub name.

    Local sources are json | parquet | text with `data_files` globs, a file, and a folder (searched recursively, or
    by `data_files` globs inside it). Raises ConfigError if no file is found, or files of two formats.
    """
    path = Path(dataset_name).expanduser()
    if dataset_name in FORMATS and (data_files or not path.exists()):
        if not data_files:
            raise ConfigError(f"dataset_name: {dataset_name} needs files; add --data_files PATH_OR_GLOB")
        files = _matching(data_files, Path())
        for file in files:
            if _format_of(file) not in (None, dataset_name):
                raise ConfigError(f"dataset_name: {dataset_name}, but {file} is {_format_of(file)}; give its format")
        return dataset_name, files
    if path.is_file():
        if data_files:
            raise ConfigError(f"dataset_name: {dataset_name} is a file; leave data_files out")
        files = [str(path.resolve())]
    elif is_saved(path):
        if data_files:
            raise ConfigError(f"dataset_name: {dataset_name} was written by save_to_disk; leave data_files out")
        return SAVED, [str(path.resolve())]
    elif path.is_dir():
        named = (inner for inner in path.rglob("[!.]*") if _format_of(inner.name) and inner.is_file())
        files = _matching(data_files, path) if data_files else sorted(str(inner.resolve()) for inner in named)
        if not files:
            raise ConfigError(f"dataset_name: the folder {path} has no .json, .jsonl, .parquet or .txt file")
    elif not is_hub_name(dataset_name):
        raise ConfigError(f"dataset_name: no such file or folder: {dataset_name}")
    else:
        return None
    kinds = sorted({_format_of(file) or "unknown" for file in files})
    if kinds == ["unknown"]:
        endings = " ".join(ending for group in FORMATS.values() for ending in group)
        raise ConfigError(
            f"dataset_name: the format of {files[0]} is unknown, its name has no known ending ({endings}); "
            "use --dataset_name json, parquet or text with --data_files"
        )
    if len(kinds) > 1:
        raise ConfigError(f"dataset_name: {dataset_name} has {' and '.join(kinds)} files; pick some with --data_files")
    return kinds[0], files


def _format_of(file: str) -> str | None:
    return next((kind for kind, endings in FORMATS.items() if file.lower().endswith(endings)), None)


def _matching(patterns: list[str], base: Path) -> list[str]:
    found: set[str] = set()
    for pattern in patterns:
        if "://" in pattern:
            raise ConfigError(f"data_files: {pattern} is a URL; download it and give its path")
        full = base / Path(pattern).expanduser()
        hits = [str(full)] if full.exists() else glob.glob(str(full), recursive=True)
        hits = [hit for hit in hits if Path(hit).is_file()]
        if not hits:
            raise ConfigError(f"data_files: {pattern} matches no file (looked for {full.absolute()})")
        found.update(str(Path(hit).resolve()) for hit in hits)
    return sorted(found)


def what_is_wrong(local: Local, text_field: str, error: BaseException) -> str:
    """Find the file and line of a failed read, by reading the files again without `datasets`."""
    kind, files = local
    if kind == SAVED:
        return f"dataset_name: {files[0]} cannot be loaded as a folder of save_to_disk: {describe(error)}"
    for file in files:
        try:
            for row in tables.read(file, "dataset_name", kind=kind):
                if kind == "parquet" and text_field not in row.cells:
                    return f"text_field: {file} has no column {text_field!r}, it has {', '.join(row.cells)}"
                json.dumps(row.cells, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            return f"{row.where} {HALF_A_PAIR}"
        except ConfigError as problem:
            return str(problem)
    shown = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return f"{shown} cannot be read as {kind}: {describe(error)}"


def require_hub(argument: str, name: str) -> None:
    """Raise MissingService, within seconds, unless the hub answers."""
    if not hub.hub_reachable():
        raise MissingService(
            f"{argument}: the data set {name} is not here and {hub.why_not()}. Give a local file or folder as "
            f"--{argument}, {hub.POCKET_HINT}"
        )


def hub_error(argument: str, name: str, error: BaseException) -> UserError:
    """Return `hub.explain` for a data set, or the error of a wrong configuration or split."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    text = " ".join(str(error).split())[:300]
    if isinstance(error, ValueError) and ("BuilderConfig" in text or "split" in text.lower()):
        return ConfigError(f"dataset_config, dataset_split: one of them does not fit {name} ({text})")
    elsewhere = caused_by(error, GatedRepoError) or caused_by(error, RevisionNotFoundError)
    if caused_by(error, DatasetNotFoundError) and not elsewhere:
        return MissingService(f"{argument}: no file here and no data set on the hub is called {name}")
    return hub.explain(argument, name, error, "datasets/")
