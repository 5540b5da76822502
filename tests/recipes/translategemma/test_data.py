"""Data of the TranslateGemma recipe: files of all formats, a local hub, rows held out by hash, snapshots."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pyarrow
import pytest
from pyarrow import parquet
from tiny_run import command

from recipes.translategemma.data import hold_out, load
from recipes.translategemma.settings import DataCfg
from rl_nmt.errors import CannotWrite, ConfigError, MissingService

PAIRS = [{"source": f"Village {i} has a school.", "target": f"கிராமம் {i} இல் பள்ளி உண்டு."} for i in range(40)]


def jsonl(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(path, content) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def data(tmp_path, seed=0, **changes):
    return load(DataCfg(**changes), tmp_path / "run", seed)


def sources(rows) -> list[str]:
    return [row["source"] for row in rows]


def as_parquet(path, rows) -> str:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


# ---------------------------------------------------------------------- shapes


SHAPES = {
    "a.jsonl": jsonl(PAIRS),
    "b.json": json.dumps(PAIRS),
    "c.json": json.dumps({"version": 1, "data": PAIRS}, indent=2),
    "d.jsonl": "\ufeff\n" + jsonl(PAIRS).replace("\n", "\r\n\n"),
    "e.json": jsonl(PAIRS),
    "f.jsonl.gz": gzip.compress(jsonl(PAIRS).encode(), mtime=0),
    "h.tsv": "source\ttarget\n" + "".join(f"{pair['source']}\t{pair['target']}\n" for pair in PAIRS),
}


@pytest.mark.parametrize("name", [*SHAPES, "g.parquet"])
def test_every_shape_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    file = as_parquet(path, PAIRS) if name == "g.parquet" else write(path, SHAPES[name])
    for settings in ({"train_file": file}, {"hf_dataset_name": file}):
        found = load(DataCfg(**settings, eval_sampling_count=5), tmp_path / "-".join(settings), 0)
        assert len(found.train) == 35 and len(found.heldout) == 5
        rows = {row["source"]: row["reference"] for row in found.train + found.heldout}
        assert rows == {pair["source"]: pair["target"] for pair in PAIRS}


def test_a_local_folder_replaces_a_hub_name(tmp_path):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", jsonl(PAIRS))
    write(tmp_path / "set" / "test.jsonl", jsonl([{"source": "Snow fell.", "target": "பனி பெய்தது."}, PAIRS[3]]))
    found = data(tmp_path, hf_dataset_name=str(tmp_path / "set"), hf_eval_split="test")
    assert sources(found.heldout) == ["Snow fell.", PAIRS[3]["source"]]
    assert len(found.train) == 39 and found.counts == {"held out too": 1}
    with pytest.raises(ConfigError, match=r"data\.hf_eval_split: .* split 'dev'"):
        load(DataCfg(hf_dataset_name=str(tmp_path / "set"), hf_eval_split="dev"), tmp_path / "other", 0)
    write(tmp_path / "set" / "train.jsonl", jsonl(PAIRS[:2]) + "{oops\n")
    with pytest.raises(ConfigError, match=r"train\.jsonl line 3 .*JSON"):
        load(DataCfg(hf_dataset_name=str(tmp_path / "set")), tmp_path / "other", 0)


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    import datasets

    rows = datasets.Dataset.from_list([{"source": f"Row {i} here.", "target": f"{i}"} for i in range(8)])
    parts = {"train": rows, "test": rows.select(range(2))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    found = data(tmp_path, hf_dataset_name=str(tmp_path / "set"), hf_eval_split="test")
    assert len(found.heldout) == 2 and len(found.train) == 6
    with pytest.raises(ConfigError, match=r"data\.hf_eval_split: .*'dev'.*train, test"):
        load(DataCfg(hf_dataset_name=str(tmp_path / "set"), hf_eval_split="dev"), tmp_path / "other", 0)


@pytest.mark.parametrize(
    ("row", "settings", "wanted"),
    [
        ({"source": "A.", "target": "அ."}, {}, {"source": "A.", "reference": "அ."}),
        ({"source": "A.", "reference": "அ."}, {}, {"source": "A.", "reference": "அ."}),
        ({"en": "A.", "ta": "அ.", "id": 7}, {}, {"id": "7", "source": "A.", "reference": "அ."}),
        ({"Src": "A.", "Ref": "அ."}, {}, {"source": "A.", "reference": "அ."}),
        ({"text": "A."}, {}, {"source": "A."}),
        ({"translation": {"en": "A.", "ta": "அ."}}, {}, {"source": "A.", "reference": "அ."}),
        ({"en": "A.", "ko_KR": "가."}, {"target_lang": "ko_KR"}, {"source": "A.", "reference": "가."}),
        ({"en": "A.", "ko-KR": "가."}, {"target_lang": "ko-kr"}, {"source": "A.", "reference": "가."}),
        ({"en": "A.", "ko": "가."}, {"target_lang": "ko_KR"}, {"source": "A.", "reference": "가."}),
        ({"de": "Regen.", "ta": "அ."}, {"source_lang": "de"}, {"source": "Regen.", "reference": "அ."}),
        (
            {"q": "A.", "r": "அ.", "n": "x"},
            {"source_field": "q", "target_field": "r", "id_field": "n"},
            {"id": "x", "source": "A.", "reference": "அ."},
        ),
        ({"source": "A.", "target": None}, {}, {"source": "A."}),
        ({"source": "A.", "target": " \u200b"}, {}, {"source": "A."}),
        (
            {"source": " A\u200b <bos>b\n c\ud800 e\u0301", "target": "அ."},
            {},
            {"source": "A b c? é", "reference": "அ."},
        ),
        (
            {"source": "A.", "target": "می\u200cروم"},
            {"target_lang": "fa"},
            {"source": "A.", "reference": "می\u200cروم"},
        ),
    ],
)
def test_fields(tmp_path, row, settings, wanted):
    file = write(tmp_path / "a.json", json.dumps([row]))
    rest = write(tmp_path / "b.jsonl", '{"source": "Held out."}\n')
    settings = {"eval_file": rest, **settings}
    if "source_field" in settings:
        rest = write(tmp_path / "b.jsonl", '{"q": "Held out.", "r": "-", "n": "1"}\n')
    elif settings.get("source_lang") == "de":
        rest = write(tmp_path / "b.jsonl", '{"de": "Held out."}\n')
    found = data(tmp_path, train_file=file, **settings)
    row = dict(found.train[0])
    if "id" not in wanted:
        assert len(row.pop("id")) == 16
    assert row == wanted


@pytest.mark.parametrize(
    ("name", "content", "settings", "parts"),
    [
        ("a.jsonl", b"", {}, ["data.train_file: ", " no row"]),
        ("a.json", b"[]", {}, ["data.train_file: ", " no row"]),
        ("a.jsonl", b'{"source": "a"}\n\n{"source": \n', {}, ["data.train_file", "line 3", "not valid JSON"]),
        ("a.jsonl", b'{"source": "a"}\n[1]\n', {}, ["line 2", "not a JSON object"]),
        ("a.json", b'[{"source": "a"},\n 3]', {}, ["row 2", "not a JSON object"]),
        ("a.json", b'[{"source": "a"},\n{"source" 3}]', {}, ["line 2", "not valid JSON"]),
        ("a.json", b'{"data": 3}', {}, ["(columns: data)", "data.source_field"]),
        ("a.json", b"3", {}, ["line 1", "not a JSON object"]),
        ("a.json", b"[" * 5000, {}, ["not valid JSON"]),
        ("a.jsonl", b'{"source": "a"}\n{"source": "caf\xe9"}\n', {}, ["line 2", "not UTF-8"]),
        ("a.jsonl", b'{"source": "a"}\n{"source": 3}\n', {}, ["line 2", "'source' is int"]),
        ("a.jsonl", b'{"source": "a", "target": [1]}\n', {}, ["line 1", "'target' is list"]),
        ("a.jsonl", b'{"name": "a", "n": 1}\n', {}, ["name, n", "English source", "data.source_field"]),
        ("a.jsonl", b'{"source": " "}\n', {}, ["no row with a source in 'source'"]),
        (
            "a.jsonl",
            b'{"source": "a"}\n',
            {"source_field": "q"},
            ["data.source_field", "column 'q'", "columns: source"],
        ),
        ("a.jsonl", b'{"source": "a"}\n', {"target_field": "q"}, ["data.target_field"]),
        ("a.jsonl", b'{"source": "a"}\n', {"id_field": "q"}, ["data.id_field"]),
        ("a.jsonl", b'{"source": "a", "q": 1}\n{"source": "b"}\n', {"id_field": "q"}, ["line 2", "'q' has no id"]),
        (
            "a.jsonl",
            b'{"source": "a", "q": 1}\n{"source": "b", "q": 1}\n',
            {"id_field": "q"},
            ["line 2: id_field q: '1' ", "line 1;"],
        ),
        ("a.jsonl", b'{"source": "a"}\n', {}, ["is left to train on"]),
        (
            "a.jsonl",
            b'{"source": "a"}\n{"source": "b"}\n',
            {"eval_sampling_count": 2},
            ["data.eval_sampling_count: 2 of 2 rows"],
        ),
        ("a.csv", b"a,b\n", {}, ["give a file that ends in .jsonl"]),
        ("a.jsonl.gz", b"nothing packed", {}, ["not a whole gzip file"]),
        ("a.jsonl.gz", gzip.compress(b'{"source": "a"}\n' * 99, mtime=0)[:-9], {}, ["not a whole gzip file"]),
        ("a.parquet", b"PAR1 nothing", {}, ["not a whole Parquet file"]),
    ],
)
def test_bad_files(tmp_path, name, content, settings, parts):
    file = write(tmp_path / name, content)
    with pytest.raises(ConfigError) as caught:
        data(tmp_path, train_file=file, **settings)
    assert all(part in str(caught.value) for part in [*parts, "a."]), caught.value
    assert not (tmp_path / "run" / "data").exists()


def test_a_bad_eval_file_is_named(tmp_path):
    file, bad = write(tmp_path / "a.jsonl", jsonl(PAIRS)), write(tmp_path / "b.jsonl", "{")
    with pytest.raises(ConfigError, match=r"data\.eval_file: .*b\.jsonl line 1 "):
        data(tmp_path, train_file=file, eval_file=bad)
    with pytest.raises(ConfigError, match="cannot be read"):
        data(tmp_path, train_file=file, eval_file=str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match=r"data\.hf_eval_split: the file"):
        data(tmp_path, hf_dataset_name=file, hf_eval_split="test")


# ---------------------------------------------------------------------- which rows


def test_dropped_rows_are_counted_by_reason(tmp_path, capsys):
    rows = [*PAIRS[:4], {"source": "village 0  HAS a school."}, {"source": ""}, {"target": "x"}]
    rows += [{"source": "Canary.", "domain": "canary"}, {"source": "Bad.", "is_bad_source": True}]
    held = write(tmp_path / "held.jsonl", jsonl([PAIRS[1], PAIRS[1], {"source": "New."}]))
    found = data(tmp_path, train_file=write(tmp_path / "a.jsonl", jsonl(rows)), eval_file=held)
    assert sources(found.train) == [PAIRS[i]["source"] for i in (0, 2, 3)]
    assert sources(found.heldout) == [PAIRS[1]["source"], "New."]
    assert found.counts == {"marked as bad source": 2, "duplicate": 1, "without a source": 2, "held out too": 1}
    said = capsys.readouterr().out
    assert "3 rows to train on, 2 held out" in said and "1 held out too" in said


def ids(count):
    return [{"id": f"s{i}", "source": f"Sentence {i}."} for i in range(count)]


def test_a_count_wins_over_the_ratio_and_nothing_depends_on_order():
    rows = ids(100)
    assert len(hold_out(rows, 7, 0.5, seed=1)) == 7
    assert {r["id"] for r in hold_out(rows[::-1], 7, 0.0, 1)} == {r["id"] for r in hold_out(rows, 7, 0.0, 1)}
    assert hold_out(rows, 7, 0.0, 1) != hold_out(rows, 7, 0.0, 2)
    assert hold_out(rows, 7, 0.0, 1) == [row for row in rows if row in hold_out(rows, 7, 0.0, 1)]


def test_with_a_ratio_rows_are_held_out_independently():
    few, many = hold_out(ids(500), 0, 0.1, 3), hold_out(ids(2000), 0, 0.1, 3)
    assert few == [row for row in many if int(row["id"][1:]) < 500]
    assert 150 < len(many) < 250
    assert len(hold_out(ids(3), 0, 1e-9, 3)) == 1


def test_ids_decide_not_texts(tmp_path):
    one = [{"id": i, "source": f"First {i}."} for i in range(50)]
    other = [{"id": i, "source": f"Second {i}."} for i in range(50)]
    found = []
    for name, rows in (("one", one), ("other", other)):
        file = write(tmp_path / f"{name}.jsonl", jsonl(rows))
        found.append(load(DataCfg(train_file=file, eval_sampling_count=9), tmp_path / name, 0))
    assert [row["id"] for row in found[0].heldout] == [row["id"] for row in found[1].heldout]
    assert sources(found[0].heldout) != sources(found[1].heldout)


def test_ids_that_are_not_unique_are_not_used(tmp_path):
    rows = [{"id": 1, "source": f"Sentence {i}."} for i in range(5)]
    found = data(tmp_path, train_file=write(tmp_path / "a.jsonl", jsonl(rows)), eval_sampling_count=1)
    assert len({row["id"] for row in found.train + found.heldout}) == 5


def test_columns_are_those_of_all_rows(tmp_path, capsys):
    """The first row has no reference and a later one no id: the others keep theirs."""
    train = [{"source": "No reference."}, {"source": "Rain.", "target": "மழை."}, {"source": "Sun.", "id": "s"}]
    held = [{"source": "Held."}, *PAIRS[:2]]
    found = data(
        tmp_path,
        train_file=write(tmp_path / "a.jsonl", jsonl(train)),
        eval_file=write(tmp_path / "b.jsonl", jsonl(held)),
    )
    assert [row.get("reference") for row in found.train] == [None, "மழை.", None]
    assert [row.get("reference") for row in found.heldout] == [None, *(pair["target"] for pair in PAIRS[:2])]
    assert "2 of 3 held-out rows have a reference" in capsys.readouterr().out
    named = DataCfg(train_file=str(tmp_path / "a.jsonl"), eval_file=str(tmp_path / "b.jsonl"), target_field="target")
    again = load(named, tmp_path / "named", 0)
    assert again.train == found.train
    with pytest.raises(ConfigError, match=r"data\.target_field: .* column 'ref'.*: source, target, id"):
        load(DataCfg(train_file=str(tmp_path / "a.jsonl"), target_field="ref"), tmp_path / "other", 0)


@pytest.mark.parametrize("with_references", [True, False])
def test_all_or_no_rows_with_a_reference_print_nothing(tmp_path, capsys, with_references):
    rows = PAIRS if with_references else [{"source": pair["source"]} for pair in PAIRS]
    data(tmp_path, train_file=write(tmp_path / "a.jsonl", jsonl(rows)))
    assert "have a reference" not in capsys.readouterr().out


def test_training_rows_in_another_format_cannot_be_held_out(tmp_path):
    train = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    same = write(tmp_path / "b.json", json.dumps(PAIRS))
    with pytest.raises(ConfigError, match=r"data\.eval_file: .*b\.json .*40 held out too"):
        data(tmp_path, train_file=train, eval_file=same)
    (tmp_path / "set").mkdir()
    for split in ("train", "test"):
        write(tmp_path / "set" / f"{split}.jsonl", jsonl(PAIRS))
    with pytest.raises(ConfigError, match=r"data\.hf_eval_split: test "):
        data(tmp_path, hf_dataset_name=str(tmp_path / "set"), hf_eval_split="test")


def test_fewer_training_rows(tmp_path):
    file = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    cfg = DataCfg(train_file=file, eval_sampling_count=5, max_train_samples=10)
    first, second = (load(cfg, tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2)))
    assert len(first.train) == len(second.train) == 10 and first.heldout == second.heldout
    assert first.train != second.train and first.counts == {"over max_train_samples": 25}
    order = [pair["source"] for pair in PAIRS]
    assert sources(first.train) == sorted(sources(first.train), key=order.index)


def test_documents_are_cut_to_sentences(tmp_path):
    page = "Home | News\nThe rain has stopped. The road is dry.\nRead more…"
    rows = [{"text": page, "reference": "x"}, {"text": "Subscribe to our newsletter"}, {"text": "The mill is old."}]
    held = write(tmp_path / "held.jsonl", jsonl([{"source": page, "reference": "அ"}]))
    file = write(tmp_path / "a.jsonl", jsonl(rows))
    found = data(tmp_path, train_file=file, eval_file=held, document_chars=(10, 60))
    assert [{k: v for k, v in row.items() if k != "id"} for row in found.train] == [
        {"source": "The rain has stopped. The road is dry."},
        {"source": "The mill is old."},
    ]
    assert found.counts == {"only URLs and boilerplate": 1}
    assert found.heldout[0]["source"].startswith("Home | News") and found.heldout[0]["reference"] == "அ"


# ---------------------------------------------------------------------- the snapshot


def test_a_resumed_run_reads_the_same_rows_without_the_file(tmp_path):
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", jsonl(PAIRS)), eval_sampling_count=5)
    first = load(cfg, tmp_path / "run", 0)
    (tmp_path / "a.jsonl").unlink()
    assert load(cfg, tmp_path / "run", 0) == first
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["data"]
    assert sorted(path.name for path in (tmp_path / "run" / "data").iterdir()) == [
        "data.json",
        "heldout.jsonl",
        "train.jsonl",
    ]


def test_equal_rows_have_equal_hashes_in_any_folder(tmp_path):
    file = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    cfg = DataCfg(train_file=file, eval_sampling_count=5)
    first, second = load(cfg, tmp_path / "one", 0), load(cfg, tmp_path / "two", 0)
    other = load(DataCfg(train_file=file, eval_sampling_count=6), tmp_path / "three", 0)
    assert first.sha256 == second.sha256 != other.sha256


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl"])
def test_a_changed_snapshot_is_refused(tmp_path, name):
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", jsonl(PAIRS)), eval_sampling_count=5)
    load(cfg, tmp_path / "run", 0)
    file = tmp_path / "run" / "data" / name
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"school", b"church", 1))
    with pytest.raises(ConfigError, match=f"{name} was changed"):
        load(cfg, tmp_path / "run", 0)
    file.unlink()
    with pytest.raises(ConfigError, match=f"{name} cannot be read"):
        load(cfg, tmp_path / "run", 0)
    file.write_bytes(whole)
    assert len(load(cfg, tmp_path / "run", 0).train) == 35
    for seal in ("{", "[]", '{"request": {}}'):
        (tmp_path / "run" / "data" / "data.json").write_text(seal)
        with pytest.raises(ConfigError, match=r"data.json cannot be read"):
            load(cfg, tmp_path / "run", 0)


def test_other_settings_are_refused(tmp_path):
    file = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    load(DataCfg(train_file=file, eval_sampling_count=5), tmp_path / "run", 0)
    with pytest.raises(ConfigError, match="eval_sampling_count was 5 and is now 6"):
        load(DataCfg(train_file=file, eval_sampling_count=6), tmp_path / "run", 0)
    with pytest.raises(ConfigError, match="seed was 0 and is now 1"):
        load(DataCfg(train_file=file, eval_sampling_count=5), tmp_path / "run", 1)


def test_an_output_folder_that_cannot_be_written(tmp_path):
    file = write(tmp_path / "a.jsonl", jsonl(PAIRS))
    with pytest.raises(CannotWrite, match=r"logging\.output_dir"):
        load(DataCfg(train_file=file), tmp_path / "a.jsonl", 0)


# ---------------------------------------------------------------------- the hub


COMMIT = "0" * 40
WMT24PP = [
    {"lp": "en-ko_KR", "domain": "canary", "segment_id": 0, "is_bad_source": True, "source": "canary", "target": "x"},
    {"lp": "en-ko_KR", "domain": "news", "segment_id": 1, "is_bad_source": True, "source": "Bad.", "target": "나쁨."},
    *(
        {
            "lp": "en-ko_KR",
            "domain": "news",
            "segment_id": i,
            "is_bad_source": False,
            "source": f"Village {i}.",
            "target": f"마을 {i}.",
        }
        for i in range(2, 42)
    ),
]
CARD = """---
configs:
- config_name: en-de_DE
  data_files: [{split: train, path: en-de_DE.jsonl}]
- config_name: en-ko_KR
  data_files: [{split: train, path: en-ko_KR.jsonl}]
---
"""
FILES = {"README.md": CARD.encode(), "en-ko_KR.jsonl": jsonl(WMT24PP).encode(), "en-de_DE.jsonl": b"{}\n"}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that a data set with configurations needs; it has only google/wmt24pp."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):  # paths-info
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
        self.answer(200, json.dumps([entry(name) for name in FILES if name in asked]).encode())

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).removeprefix("/api").removeprefix("/datasets/").strip("/").split("/")
        rest = path[2:]
        if path[:2] != ["google", "wmt24pp"]:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        elif not rest or rest[0] == "revision":
            listed = {"id": "google/wmt24pp", "sha": COMMIT, "private": False, "gated": False, "tags": []}
            listed |= {"downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in FILES]}
            self.answer(200, json.dumps(listed).encode())
        elif rest == ["tree", COMMIT]:
            self.answer(200, json.dumps([entry(name) for name in FILES]).encode())
        elif rest[0] == "resolve" and rest[-1] in FILES:
            self.answer(200, FILES[rest[-1]])
        else:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})

    def answer(self, status: int, body: bytes, **headers):
        self.send_response(status)
        headers = {"Content-Length": len(body), "X-Repo-Commit": COMMIT, "ETag": etag(body), **headers}
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def etag(body: bytes) -> str:
    return f'"{hashlib.sha1(body).hexdigest()}"'  # the cache keeps one blob per tag


def entry(name: str) -> dict:
    return {"type": "file", "oid": "1" * 40, "size": len(FILES[name]), "path": name}


DRIVER = """
import json, sys
from recipes.translategemma.data import load
from recipes.translategemma.settings import DataCfg
from rl_nmt.errors import UserError
answers = []
for i, settings in enumerate(json.loads(sys.argv[1])):
    try:
        found = load(DataCfg(**settings), f"{sys.argv[2]}/{i}", 0)
        answers.append({"train": found.train, "heldout": found.heldout, "counts": found.counts})
    except UserError as error:
        answers.append({"said": str(error), "status": error.exit_code})
print(json.dumps(answers))
"""


def test_wmt24pp_by_name(tmp_path):
    asked = [
        {"hf_dataset_name": "google/wmt24pp", "target_lang": "ko", "eval_sampling_count": 4},
        {"hf_dataset_name": "google/wmt24pp", "target_lang": "ko_KR", "eval_sampling_ratio": 0.1},
        {"hf_dataset_name": "google/wmt24pp", "hf_dataset_config_name": "en-xx_XX"},
        {"hf_dataset_name": "google/wmt24pp", "target_lang": "ko", "hf_train_split": "test"},
        {"hf_dataset_name": "google/nothing"},
        {"hf_dataset_name": "google/wmt24pp", "source_lang": "ko", "target_lang": "en", "eval_sampling_count": 4},
    ]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        env = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
            "HF_HOME": tmp_path / "home",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        done = command("-c", DRIVER, json.dumps(asked), tmp_path / "runs", **env)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    count, ratio, config, split, unknown, back = json.loads(done.stdout.splitlines()[-1])
    everything = {f"Village {i}.": f"마을 {i}." for i in range(2, 42)}
    assert {row["source"]: row["reference"] for row in count["train"] + count["heldout"]} == everything
    assert {row["reference"]: row["source"] for row in back["train"] + back["heldout"]} == everything
    assert len(count["heldout"]) == 4 and count["counts"] == {"marked as bad source": 2}
    assert 1 <= len(ratio["heldout"]) < 12 and len(ratio["train"]) + len(ratio["heldout"]) == 40
    assert config["status"] == 2 and "data.hf_dataset_config_name: 'en-xx_XX'" in config["said"], config
    assert split["status"] == 2 and "data.hf_train_split: google/wmt24pp has no split 'test'" in split["said"], split
    assert unknown["status"] == 69 and "no data set on the hub is called google/nothing" in unknown["said"]


def test_no_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingService, match=r"data\.hf_dataset_name: the data set google/wmt24pp is not here"):
        data(tmp_path, hf_dataset_name="google/wmt24pp")
