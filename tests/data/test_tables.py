"""One reader of rows: every format, columns by name, errors with their place."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

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


HARD = [
    ('He said "no".', 'அவர் "இல்லை" என்றார்.'),
    ('"Come," she said.', '"வா."'),
    ("plain", "ஆ"),
    ('"whole"', '"'),
]


def written(rows, quoting, header=("source", "reference")):
    """A TSV as csv writers, spreadsheets and pandas write it."""
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(
        [header, *rows] if header else rows
    )
    return stream.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
def test_quoted_tables_are_read_as_they_were_written(tmp_path, quoting):
    path = write(tmp_path / "a.tsv", written(HARD, quoting))
    assert [sides(row) for row in read(path, "--file")] == HARD
    assert [sides(row) for row in read(path, "--file", ("reference",))] == HARD


def test_quoted_fields_may_hold_tabs_and_line_breaks_where_the_first_line_is_quoted(tmp_path):
    rows = [("a\tb", "one\n\ntwo"), ("c", "d")]
    path = write(tmp_path / "a.tsv", written(rows, csv.QUOTE_ALL) + "\n")
    assert [sides(row) for row in read(path, "--file")] == rows
    assert [row.where.rpartition(" ")[2] for row in read(path, "--file")] == ["4", "5"]


def test_quotation_marks_of_a_plain_table_are_text(tmp_path):
    rows = [('"Come," she said.', '"வா."'), ('"We must go.', "அ"), ('He stopped."', "ஆ"), ('5" and 6""', 'a "" b')]
    for header in ("source\treference\n", ""):
        path = write(tmp_path / "a.tsv", header + "".join(f"{a}\t{b}\n" for a, b in rows))
        assert [sides(row) for row in read(path, "--file")] == rows


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (written([("a\tb", "c")], csv.QUOTE_MINIMAL), 2),  # the header is not quoted, so a tab in a field splits it
        (written([("c", "d"), ('a "x"\nb', "c")], csv.QUOTE_MINIMAL), 3),
        (written([("a\tb", "c"), ("d", "e")], csv.QUOTE_MINIMAL, header=None), 2),
        (written([("a", "b"), ("c", "d")], csv.QUOTE_ALL, header=None), 1),
        (written([('a "x"\nb', "c"), ("d", "e")], csv.QUOTE_MINIMAL, header=None), 1),
        (written([("d", "e"), ("one\ntwo", "c")], csv.QUOTE_MINIMAL, header=None), 2),
        ("source\treference\n" + written([("a", "b")], csv.QUOTE_ALL, header=None), 2),
        ('"source"\t"reference"\n"a"\t"b"\n"c" d\t"e"\n', 3),
        ('"source"\t"reference"\n"a"\t"b"\n"c\t"e"\n', 3),
        ('"source"\t"reference"\n"a"\t"b"\t"c"\n', 2),
    ],
)
def test_ambiguous_quoting_is_refused_with_its_line(tmp_path, content, line):
    with pytest.raises(ConfigError, match=rf"--file: .*a\.tsv line {line} "):
        read_all(write(tmp_path / "a.tsv", content), "--file")


@pytest.mark.parametrize("ending, pack", [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_packed_files_are_unpacked(tmp_path, ending, pack):
    packed = pack(LINES.encode())
    (tmp_path / f"a.jsonl.{ending}").write_bytes(packed)
    assert cells(tmp_path / f"a.jsonl.{ending}") == ROWS
    (tmp_path / f"b.jsonl.{ending}").write_bytes(packed[:-9])
    with pytest.raises(ConfigError, match=rf"--file: .*b\.jsonl\.{ending}"):
        cells(tmp_path / f"b.jsonl.{ending}")
    with pytest.raises(ConfigError, match=r"--file: .*a\.jsonl\.zst: \.zst is not read"):
        list(read(write(tmp_path / "a.jsonl.zst", "x"), "--file", kind="json"))


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
def test_errors_name_their_place(tmp_path, name, content, said):
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
