"""python -m recipes.replies.split: two files of distinct posts that `load` accepts, a table, errors in one line."""

from __future__ import annotations

import json
import re

import pytest

from recipes.replies.data import load
from recipes.replies.settings import DataCfg
from recipes.replies.split import NAMES, main
from rl_nmt.errors import CannotWrite, ConfigError, run

ROWS = [{"tweet": f"Post number {i} {'is long ' * (i % 5)}😀", "response": f"Reply {i}"} for i in range(40)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_the_files_are_those_of_both_phases(tmp_path, file, capsys):
    folder = tmp_path / "data" / "processed"
    main(f"--input {file} --output-dir {folder} --split-ratio 0.25 --seed 42".split())
    said = capsys.readouterr().out
    sft, grpo = ([json.loads(line) for line in (folder / name).open(encoding="utf-8")] for name in NAMES)
    assert len(sft) == 10 and len(grpo) == 30 and set(sft[0]) == {"post", "reply"}
    assert {(r["post"], r["reply"]) for r in sft + grpo} == {(r["tweet"], r["response"]) for r in ROWS}
    counts = re.findall(r"^(?:short|medium|long) .* (\d+) +(\d+)$", said, re.M)
    assert len(counts) >= 3 and [sum(map(int, column)) for column in zip(*counts, strict=True)] == [10, 30]
    assert f"10 rows in {folder / NAMES[0]}, 30 in {folder / NAMES[1]}" in said
    cfg = DataCfg(sft_file=str(folder / NAMES[0]), grpo_file=str(folder / NAMES[1]), eval_count=5)
    assert [len(rows) for rows in load(cfg, tmp_path / "run")[:3]] == [10, 25, 5]
    before = [(folder / name).read_bytes() for name in NAMES]
    main(f"--input {file} --output_dir {folder} --split_ratio 0.25 --post_field tweet --reply-field RESPONSE".split())
    assert [(folder / name).read_bytes() for name in NAMES] == before


@pytest.mark.parametrize(
    ("changes", "error", "part"),
    [
        ("--split-ratio 1.5", ConfigError, r"split_ratio: 1\.5 must be in"),
        ("--split-ratio nan", ConfigError, "split_ratio: nan must be in"),
        ("--input none.jsonl", ConfigError, r"--input: none\.jsonl cannot be read"),
        ("--post-field title", ConfigError, "--input: .* has no column title"),
        ("--output-dir {file}", CannotWrite, r"--output-dir: .*rows\.jsonl"),
    ],
)
def test_one_line_for_each_mistake(tmp_path, file, capsys, changes, error, part):
    words = f"--input {file} --output-dir {tmp_path / 'out'} {changes.format(file=file)}".split()
    with pytest.raises(SystemExit) as left:
        run(lambda: main(words))
    said = capsys.readouterr().err
    assert left.value.code == error.exit_code and re.search(part, said) and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_too_few_posts(tmp_path, file):
    file.write_text(json.dumps(ROWS[0]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--input: .* too few posts .*: 1"):
        main(["--input", str(file), "--output-dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
