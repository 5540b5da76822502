"""The false-positive report: reading, counting, agreement with people, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from odd_texts import HONEST, SOURCE

from rl_nmt.data.tables import Pair as Row
from rl_nmt.data.tables import read_pairs
from rl_nmt.errors import ConfigError
from rl_nmt.guards.__main__ import main, report
from rl_nmt.text.languages import ENGLISH, TAMIL

ROOT = Path(__file__).resolve().parents[2]
COPY, EMPTY = SOURCE.upper(), "\u200b"


def write(path, *records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def test_reads_jsonl_and_tsv(tmp_path):
    expected = [Row("a", HONEST, 0.5), Row("b\u2028c", "d", 1.0)]
    records = [{"s": r.source, "t": r.output, "m": str(r.score), "x": [1]} for r in expected]
    assert read_pairs(write(tmp_path / "a.jsonl", *records), "FILE", "s", "t", "m") == expected
    tsv = tmp_path / "a.tsv"
    tsv.write_text("\ufeffm\ts\tt\n0.5\ta\t" + HONEST + '\n1\tb\u2028c\td\n2\t"q\t"\n', encoding="utf-8")
    assert read_pairs(tsv, "FILE", "s", "t", "m") == [*expected, Row('"q', '"', 2.0)]
    assert read_pairs(tsv, "FILE", "s", "t")[0] == Row("a", HONEST, None)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "s,t", "a.csv: give a file that ends in .jsonl"),
        ("a.jsonl", "", "holds no rows"),
        ("a.jsonl", "\n\n", "holds no row"),
        ("a.jsonl", "{", "line 1 is not valid JSON"),
        ("a.jsonl", "[1]", "row 1 is not a JSON object"),
        ("a.jsonl", '\n{"s": "x"}', "line 2 has no column 't', it has s"),
        ("a.jsonl", '{"s": "x", "t": 3, "m": 1}', "line 1: 't' is int, must be a text"),
        ("a.jsonl", '{"s": "x", "t": "y"}', "has no column 'm', it has s, t"),
        ("a.jsonl", '{"s": "x", "t": "y", "m": "good"}', "m 'good' is not a finite number"),
        ("a.jsonl", '{"s": "x", "t": "y", "m": NaN}', "m nan is not a finite number"),
        ("a.jsonl", '{"s": "x", "t": "y", "m": true}', "m True is not a finite number"),
        ("a.tsv", "s\tt\tm\na\tb\n", "line 2 has 2 columns, the first line names 3"),
        ("a.tsv", "s\tt\tm\n", "holds no rows"),
        ("a.jsonl", b"\xff", "is not UTF-8"),
        ("a.jsonl", None, "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, complaint):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=complaint.replace("[", r"\[")):
        main([str(path), "--source", "s", "--target", "t", "--score", "m"])


def table(text):
    return {line.split("  ")[0]: line.split() for line in text.splitlines() if line}


def test_report_counts():
    rows = [Row(SOURCE, out, None) for out in (HONEST, HONEST, COPY, EMPTY, HONEST, HONEST, HONEST, COPY)]
    lines = table(report(rows, TAMIL, ENGLISH))
    assert lines["copy"][1:] == ["2", "25.00%"] and lines["empty"][1:] == ["1", "12.50%"]
    assert lines["script"][1:] == ["0", "0.00%"]
    assert lines["all gates"][2:] == ["3", "37.50%", "of", "8", "rows"]
    assert lines["copied_share"][1:3] == ["8", "0.250"]
    assert lines["fidelity"][1:] == ["0"]  # nothing to check in this source
    assert "against people" not in lines


def test_report_against_people():
    rows = [Row(SOURCE, HONEST, 0.9), Row(SOURCE, HONEST, 0.8), Row(SOURCE, COPY, 0.1), Row(SOURCE, EMPTY, 0.85)]
    text = report(rows, TAMIL, ENGLISH, examples=1)
    assert "gated rows below the median score 0.825: 1 of 2 (50.0%), 0 at it" in text
    assert f"    {COPY}" in text and f"    {HONEST}" not in text
    lines = table(text)
    # copied 0, 0, 1, 0: of six pairs the three with the copy are right, the others tied
    assert lines["copied_share"][0] == "copied_share" and text.count("copied_share") == 2
    line = next(x for x in reversed(text.splitlines()) if x.startswith("copied_share")).split()
    assert line[1] == "4" and line[3:] == ["6", "75.0%", "50.0%"]


def test_the_command(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", {"source": SOURCE, "reference": HONEST}, {"source": SOURCE, "reference": COPY})
    assert main([str(path)]) == 0
    assert "all gates           1   50.00%   of 2 rows" in capsys.readouterr().out


def test_the_command_ends_with_a_clear_line(tmp_path):
    path = write(tmp_path / "a.jsonl", {"source": SOURCE})
    done = subprocess.run(
        [sys.executable, "-m", "rl_nmt.guards", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: FILE: {path} line 1 has no column 'reference', it has source\n"
