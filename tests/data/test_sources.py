"""Local files in every state, and a hub that cannot be reached."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest
from hang_guard import ends_within
from pyarrow import parquet

from rl_nmt.data.sources import Source, hub_error, local_files, read_rows
from rl_nmt.errors import ConfigError, MissingService

ROOT = Path(__file__).resolve().parents[2]


def source(name, files=(), field="text", buffer=0, seed=0):
    return Source(
        dataset_name=str(name), data_files=tuple(map(str, files)), text_field=field, shuffle_buffer=buffer, seed=seed
    )


def rows(name, files=(), field="text", buffer=0, seed=0):
    return list(read_rows(source(name, files, field, buffer, seed)))


def refusal(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        rows(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message
    return message


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def lines(path, *texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a b.jsonl", "a[1].jsonl", "a*?.jsonl", "தமி.jsonl", "a#.JSONL"])
def test_odd_file_names(tmp_path, name):
    assert rows(lines(tmp_path / name, "x", "y")) == ["x", "y"]
    assert rows("json", [tmp_path / name]) == ["x", "y"]


def test_globs_folders_and_hidden_files(tmp_path):
    (tmp_path / "sub").mkdir()
    lines(tmp_path / "b.jsonl", "b")
    lines(tmp_path / "sub" / "a.jsonl", "a")
    lines(tmp_path / ".hidden.jsonl", "h")
    (tmp_path / "README.md").write_text("no data")
    assert sorted(rows(tmp_path)) == ["a", "b"]
    assert rows(tmp_path, ["sub/*.jsonl"]) == ["a"]
    assert sorted(rows("json", [tmp_path / "**" / "*.jsonl", tmp_path / "b.jsonl"])) == ["a", "b"]


def test_relative_and_home_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    lines(tmp_path / "a.jsonl", "a")
    assert rows("a.jsonl") == rows("~/a.jsonl") == ["a"]
    assert rows("json", ["a.jsonl"]) == rows("json", ["~/a*"]) == ["a"]


def test_a_path_beats_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "allenai" / "c4").mkdir(parents=True)
    lines(tmp_path / "allenai" / "c4" / "x.jsonl", "local")
    assert rows("allenai/c4") == ["local"]
    (tmp_path / "json").mkdir()
    lines(tmp_path / "json" / "x.jsonl", "folder")
    assert rows("json") == ["folder"]


def test_shuffling_is_seeded(tmp_path):
    file = lines(tmp_path / "a.jsonl", *map(str, range(100)))
    one, two, three = (rows(file, buffer=50, seed=seed) for seed in (1, 1, 2))
    assert one == two != three and sorted(one, key=int) == rows(file)


def test_other_column_and_rows_without_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "a", "n": 1}\n{"n": 2}\n{"body": null}\n')
    assert rows(path, field="body") == ["a", None, None]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": "caf\xe9"}', ["line 2", "not UTF-8"]),
        ("a.jsonl", b'{"text": "ok"}\n\n{"text": oops}\n', ["line 3", "not valid JSON"]),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "cut', ["line 2", "not valid JSON"]),
        ("a.jsonl", b"1\n2\n", ["line 1", "not a JSON object"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n', ["line 1", "surrogate"]),
        ("a.jsonl", b"", ["is empty"]),
        ("a.jsonl", b'{"body": "x"}\n', ["text_field", "'text'", "it has body"]),
        ("a.json", b'[{"text": "a"}, {]', ["not valid JSON"]),
        ("a.json", b'[{"text": "caf\xe9"}]', ["not UTF-8"]),
        ("a.json", b'[{"text": "a"}, 2]', ["row 2", "not a JSON object"]),
        ("a.txt", b"fine\ncaf\xe9\n", ["line 2", "not UTF-8"]),
        ("a.json.gz", b'{"text": "not packed"}\n', ["gzip"]),
        ("a.json.gz", gzip.compress(b'{"text": "packed"}\n' * 100, mtime=0)[:-20], ["gzip"]),
        ("a.json.gz", gzip.compress(b'{"text": "caf\xe9"}\n', mtime=0), ["line 1", "not UTF-8"]),
        ("a.parquet", b"PAR1 no", ["not a whole Parquet"]),
        ("a.parquet", b"", ["is empty"]),
    ],
)
def test_broken_files_are_named_with_their_line(tmp_path, name, content, parts, capfd):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert name in message
    assert all(part in message for part in parts), message
    assert capfd.readouterr().err == ""


def test_damaged_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"row {i}" * 50 for i in range(500)]}), path)
    assert "it has text" in refusal(path, field="body")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole Parquet" in refusal(path)
    path.write_bytes(b"PAR1" + os.urandom(len(whole) // 2) + whole[len(whole) // 2 :])
    assert "a.parquet" in refusal(path)


def test_the_bad_file_among_good_ones_is_named(tmp_path):
    lines(tmp_path / "a.jsonl", "a")
    (tmp_path / "b.jsonl").write_text("{]\n")
    assert "b.jsonl line 1 " in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "files", "parts"),
    [
        ("", [], ["dataset_name is empty"]),
        ("json", [], ["--data_files"]),
        ("json", ["none*.jsonl"], ["data_files: none*.jsonl "]),
        ("json", ["https://example.org/a.jsonl"], ["data_files: https://example.org/a.jsonl "]),
        ("json", ["."], ["data_files: . "]),
        ("parquet", ["a.jsonl"], ["dataset_name: parquet, ", "a.jsonl is json"]),
        ("a.jsonl", ["a.jsonl"], ["dataset_name: a.jsonl ", "data_files"]),
        ("no.jsonl", [], ["no such file"]),
        ("./no", [], ["no such file"]),
        ("/no/such", [], ["no such file"]),
        ("a/b/c", [], ["no such file"]),
        ("empty", [], ["dataset_name: ", "folder empty", ".parquet"]),
        ("mixed", [], ["dataset_name: mixed ", "json and text", "--data_files"]),
        ("a.csv", [], ["dataset_name: ", "a.csv", "format", ".parquet"]),
    ],
)
def test_names_that_lead_nowhere(tmp_path, monkeypatch, name, files, parts):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "mixed"):
        (tmp_path / folder).mkdir()
    for file in ("a.jsonl", "a.csv", "mixed/a.jsonl", "mixed/b.txt"):
        lines(tmp_path / file, "x")
    message = refusal(name, files)
    assert all(part in message for part in parts), message


def test_other_columns_of_json_may_hold_anything(tmp_path):
    """Null first and a text in the next file, then a number, a list, an object; and rows without them."""
    notes = [None, None], ["x", 3], [[1], {"a": "b"}]
    for k, (first, last) in enumerate(notes):
        cells = [{"note": first}, {"note": last}, {}]
        texts = [{"text": f"Row {k} {letter}."} | more for letter, more in zip("abc", cells, strict=True)]
        (tmp_path / f"part{k}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    expected = [f"Row {k} {letter}." for k in range(3) for letter in "abc"]
    assert rows("json", [tmp_path / "part*.jsonl"]) == expected
    shuffled = rows("json", [tmp_path / "part*.jsonl"], buffer=5, seed=1)
    assert sorted(shuffled) == expected != shuffled == rows("json", [tmp_path / "part*.jsonl"], buffer=5, seed=1)


def test_some_rows_and_files_of_json_may_be_empty(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"text": "One."}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("", encoding="utf-8")
    assert rows(tmp_path) == [None, "One."]
    (tmp_path / "c.jsonl").write_text('{"id": 1}\n' * 3, encoding="utf-8")
    assert "c.jsonl" in (said := refusal(tmp_path)) and "text_field" in said and "id" in said


def test_packed_json(tmp_path):
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(b'{"text": "One."}\n'))
    assert rows("json", [tmp_path / "a.jsonl.bz2"]) == ["One."]


def test_other_columns_of_parquet_may_differ_from_file_to_file(tmp_path):
    for k, more in enumerate([{"note": [None, None]}, {"note": ["x", "y"]}, {"note": [1, 2], "other": [[1], [2]]}]):
        table = pyarrow.table({"text": [f"Row {k} a.", f"Row {k} b."], **more})
        parquet.write_table(table, tmp_path / f"part{k}.parquet")
    expected = [f"Row {k} {letter}." for k in range(3) for letter in "ab"]
    assert rows("parquet", [tmp_path / "part*.parquet"]) == rows(tmp_path) == expected
    assert sorted(rows(tmp_path, buffer=9)) == expected
    assert "text_field" in (said := refusal(tmp_path, field="nope")) and "'nope'" in said and "note" in said


def test_folders_of_save_to_disk(tmp_path):
    import datasets

    data = datasets.Dataset.from_dict({"text": ["One.", "Two."], "other": [1, 2]})
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data, "dev": data.select([1])}).save_to_disk(tmp_path / "two")
    assert rows(tmp_path / "one") == rows(tmp_path / "two") == ["One.", "Two."]
    assert sorted(rows(tmp_path / "one", buffer=2)) == ["One.", "Two."]
    assert list(read_rows(dataclasses.replace(source(tmp_path / "two"), dataset_split="dev"))) == ["Two."]
    with pytest.raises(ConfigError, match="dataset_split"):
        list(read_rows(dataclasses.replace(source(tmp_path / "two"), dataset_split="test")))
    assert "text_field" in refusal(tmp_path / "one", field="nope")
    assert "data_files" in refusal(tmp_path / "one", files=["*.arrow"])
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"no")
    assert "dataset_name" in (said := refusal(tmp_path / "one")) and "save_to_disk" in said
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "state.json").write_text('{"text": "One."}\n', encoding="utf-8")
    assert rows(tmp_path / "json") == ["One."]


def test_hub_names_are_not_local():
    assert local_files("allenai/c4", []) is None
    assert local_files("allenai/c4", ["en/c4-train.00000-of-01024.json.gz"]) is None
    assert local_files("wikitext", []) is None


@pytest.mark.parametrize("offline", ["1", ""])
def test_a_missing_hub_is_reported_within_seconds(monkeypatch, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with ends_within(20), pytest.raises(MissingService, match="allenai/c4") as caught:
        rows("allenai/c4")
    assert ("HF_HUB_OFFLINE is set" in str(caught.value)) == bool(offline)
    assert "make train" in str(caught.value)


def test_hub_errors_become_one_line():
    import requests
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError

    gated = DatasetNotFoundError("gated")
    gated.__cause__ = GatedRepoError("403", response=requests.Response())
    error = hub_error("eval_dataset", "a/b", gated)
    assert isinstance(error, MissingService) and "https://huggingface.co/datasets/a/b" in str(error)
    error = hub_error("dataset_name", "a/b", DatasetNotFoundError("gone"))
    assert isinstance(error, MissingService) and "no data set on the hub is called a/b" in str(error)
    error = hub_error("dataset_name", "a/b", ValueError("BuilderConfig 'x' not found.\nAvailable: ['en']"))
    assert isinstance(error, ConfigError) and "dataset_config" in str(error) and "'en'" in str(error)
    error = hub_error("dataset_name", "a/b", ValueError("Bad split: x. Available splits: ['train']"))
    assert isinstance(error, ConfigError) and "dataset_split" in str(error)
    assert isinstance(hub_error("dataset_name", "a/b", ConnectionError("reset")), MissingService)


def test_settings_of_datasets_are_left_as_they_were(tmp_path):
    import datasets

    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, datasets.logging.get_verbosity()
    stream = read_rows(source(lines(tmp_path / "a.jsonl", "a", "b")))
    assert next(stream) == "a"
    stream.close()
    refusal(tmp_path / "a.jsonl", field="nope")
    assert (datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, datasets.logging.get_verbosity()) == before


def test_a_local_run_writes_nothing_elsewhere(tmp_path):
    lines(tmp_path / "a.jsonl", "a")
    code = "from rl_nmt.data.sources import *; print(list(read_rows(Source(dataset_name='a.jsonl', shuffle_buffer=9))))"
    env = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "['a']\n" and done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]
