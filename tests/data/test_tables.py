"""One reader of rows: every format, columns by name, errors with their place."""

from __future__ import annotations

import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from rl_nmt.data import tables
from rl_nmt.data.tables import Pair, read, read_all, read_pairs, sides
from rl_nmt.errors import ConfigError

ROWS = [{"source": "a\u2028b", "reference": "அ"}, {"source": "c", "reference": "ஆ"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TSV = "".join(f"{row['source']}\t{row['reference']}\n" for row in ROWS)


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def cells(path, *args):
    return [row.cells for row in read(path, "--file", *args)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.JSONL", "\ufeff\n" + LINES.replace("\n", "\r\n\n")),
        ("a.json", LINES),
        ("a.json", json.dumps(ROWS)),
        ("a.jsonl", "\n" + json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", json.dumps({"data": ROWS}, indent=1)),
        ("a.jsonl.gz", LINES),
        ("a.tsv", TSV),
        ("a.tsv", "\ufeffSource\tReference\r\n" + TSV.replace("\n", "\r\n\r\n")),
        ("a.tsv.gz", TSV),
        ("a.txt", TSV),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert [sides(row) for row in read(path, "--file")] == [tuple(row.values()) for row in ROWS]


def test_parquet_single_values_and_empty_files(tmp_path):
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read_all(tmp_path / "a.parquet", "--file")[1] == (f"--file: {tmp_path}/a.parquet row 2", ROWS[1])
    assert cells(write(tmp_path / "one.json", json.dumps(ROWS[0], indent=1))) == ROWS[:1]
    assert cells(write(tmp_path / "one.txt", "only sources\nhere\n")) == [
        {"source": "only sources"},
        {"source": "here"},
    ]
    assert cells(write(tmp_path / "three.tsv", "a\tb\tc")) == [{"source": "a", "reference": "b", "column 3": "c"}]
    for name, content in (("a.jsonl", "\n \n"), ("a.tsv", ""), ("b.tsv", "en\tta\n"), ("a.json", "[]")):
        with pytest.raises(ConfigError, match=rf"--file: .*{name} holds no rows"):
            read_all(write(tmp_path / name, content), "--file")


def test_other_names_win_over_the_ending(tmp_path):
    path = write(tmp_path / "rows.data", LINES)
    assert [row.cells for row in read(path, "--file", kind="json")] == ROWS


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"src": "s", "ref": "r"}, ("s", "r")),
        ({"source": "other", "english": "s", "tamil": "r"}, ("s", "r")),  # a whole pair wins
        ({"source": "s", "target": "r", "ref": "other"}, ("s", "r")),
        ({"source": "s", "ref": "r"}, ("s", "r")),
        ({"EN": "s", "Ta": "r"}, ("s", "r")),
        ({"en": "s", "ta": None}, ("s", None)),
        ({"english": "s", "x": 1}, ("s", None)),
    ],
)
def test_the_usual_names(row, found):
    assert sides(tables.Row("here", row)) == found


def test_names_of_the_caller_win():
    row = tables.Row("here", {"source": "a", "reference": "b", "mt": "c", "Src": "d"})
    assert sides(row, "src", "mt") == ("d", "c") and sides(row, "mt") == ("c", "b")
    for names in (("gone",), ("", "gone")):
        with pytest.raises(ConfigError, match="here has no column 'gone', it has source, reference, mt, Src"):
            sides(row, *names)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"src": "x", "mt": "y", "mqm": "0.5"}\n{"src": "v", "mt": "w", "mqm": null}'),
        ("a.tsv", "MQM\tmt\tsrc\n0.5\ty\tx\n \tw\tv"),
    ],
)
def test_pairs_with_human_scores(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert read_pairs(path, "--file", "src", "mt", "mqm") == [("x", "y", 0.5), ("v", "w", None)]
    assert read_pairs(path, "--file", "src", "mt") == [Pair("x", "y"), Pair("v", "w")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "s,t", ": give a file that ends in .jsonl"),
        ("a.jsonl", b'{"src": "a", "mt": "b", "mqm": 1}\ncaf\xe9', " line 2 is not UTF-8"),
        ("a.jsonl", "{", " line 1 is not valid JSON"),
        ("a.jsonl", "[" * 100_000, " line 1 is not valid JSON"),
        ("a.jsonl", '\n{"src": "a", "mt": "b", "mqm": 1}\n\n{', " line 4 is not valid JSON"),
        ("a.json", '[{"src": "a"},\n {]', " line 2 is not valid JSON"),
        ("a.jsonl", "1\n2\n", " line 1 is not a JSON object"),
        ("a.jsonl", "[1]", " row 1 is not a JSON object"),
        ("a.json", '{"data": 3}', " line 1 has no column 'src', it has data"),
        ("a.jsonl", "{}", " line 1 has no column 'src', it has nothing"),
        ("a.jsonl", '{"src": "x", "mt": 3}', " line 1: 'mt' is int, must be a text"),
        ("a.jsonl", '{"src": null, "mt": "y"}', " line 1: 'src' is NoneType, must be a text"),
        ("a.jsonl", '{"src": "x", "mt": null}', " line 1 has no translation"),
        ("a.jsonl", '{"src": "x", "mt": "y"}', " line 1 has no column 'mqm', it has src, mt"),
        ("a.jsonl", '{"src": "x", "mt": "y", "mqm": "good"}', " line 1: mqm 'good' is not a finite number"),
        ("a.jsonl", '{"src": "x", "mt": "y", "mqm": NaN}', " line 1: mqm nan is not a finite number"),
        ("a.jsonl", '{"src": "x", "mt": "y", "mqm": true}', " line 1: mqm True is not a finite number"),
        ("a.tsv", "x\ty\t0.5", " line 1: the first line does not name the columns src, mt, mqm"),
        ("a.tsv", "src\tmt\tmqm\nx\ty", " line 2 has 2 columns, the first line names 3"),
        ("a.parquet", "PAR1", " is not a whole Parquet file"),
        ("b.parquet", None, " cannot be read: No such file"),
        ("b.jsonl", None, " cannot be read: No such file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path, name, content, said):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(ConfigError) as bad:
        read_pairs(tmp_path / name, "--file", "src", "mt", "mqm")
    assert str(bad.value).startswith(f"--file: {tmp_path / name}{said}"), bad.value


@pytest.mark.parametrize("data", [b"plain", gzip.compress(LINES.encode() * 99, mtime=0)[:-9]])
def test_a_damaged_gzip_file(tmp_path, data):
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz is not a whole gzip file"):
        cells(tmp_path / "a.jsonl.gz")


def test_rows_are_streamed(tmp_path):
    rows = read(write(tmp_path / "a.jsonl", LINES + "broken"), "--file")
    assert [next(rows).cells, next(rows).cells] == ROWS
    with pytest.raises(ConfigError, match="line 3"):
        next(rows)
