"""The snapshot: from small real files, exactly the requested rows, once."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import socket

import pytest

from rl_nmt.data import corpus
from rl_nmt.errors import CannotWrite, ConfigError

REQUEST = {
    "dataset_name": "json",
    "dataset_config": "en",
    "dataset_split": "train",
    "data_files": (),
    "text_field": "text",
    "num_train_samples": 40,
    "num_eval_samples": 10,
    "shuffle_buffer": 16,
    "min_chars": 10,
    "max_chars": 80,
    "seed": 3,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Local data must not open one connection, nor look up one name."""

    calls = []

    def refuse(*args, **kwargs):
        calls.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert calls == []  # datasets swallows the errors of its download counter


def sentence(i: int) -> str:
    return f"Village number {i} has a school and {i + 2} wells."


def c4_shard(path, numbers, noise=True):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for i in numbers:
            text = f"Home | News\n{sentence(i)} It rained in the ho" if noise else sentence(i)
            row = {"text": text, "timestamp": "2019-04-25T12:57:54Z", "url": f"https://example.org/{i}"}
            file.write(json.dumps(row) + "\n")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def make(folder, **changes):
    return corpus.materialise(folder, corpus.CorpusSettings(**{**REQUEST, **changes}))


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "c4").mkdir()
    for k in range(3):
        c4_shard(tmp_path / "c4" / f"c4-train.0000{k}-of-00003.json.gz", range(30 * k, 30 * k + 30))
    return tmp_path / "c4"


def test_c4_shards(shards, tmp_path):
    data = make(tmp_path / "run" / "data", data_files=(f"{shards}/*.json.gz",))
    assert (len(data.train), len(data.heldout)) == (40, 10)
    wanted = {sentence(i) for i in range(90)}
    assert set(data.train) < wanted and set(data.heldout) < wanted
    assert len({*data.train, *data.heldout}) == 50
    assert data.counts["read"] >= data.counts["kept"] >= 50 and data.counts["rejected"] == {}


def test_files_in_the_folder(shards, tmp_path):
    folder = tmp_path / "data"
    data = make(folder, dataset_name=str(shards))
    assert sorted(os.listdir(folder)) == ["data.json", "heldout.jsonl", "train.jsonl"]
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    assert rows == [{"source": text} for text in data.train]
    seal = json.loads((folder / "data.json").read_text())
    for name in ("train.jsonl", "heldout.jsonl"):
        assert seal["sha256"][name] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert seal["request"]["seed"] == 3 and seal["counts"] == data.counts
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_all_formats_give_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = [sentence(i) for i in range(70)]
    jsonl(tmp_path / "a.jsonl", [{"text": text, "n": 1} for text in texts])
    (tmp_path / "b.json").write_text(json.dumps([{"text": text} for text in texts]))
    (tmp_path / "c.txt").write_text("\n".join(texts))
    table = pyarrow.table({"id": range(70), "text": texts})
    parquet.write_table(table, tmp_path / "d.parquet", row_group_size=7)
    c4_shard(tmp_path / "e.json.gz", range(70), noise=False)
    results = [
        make(tmp_path / f"out-{file}", dataset_name=str(tmp_path / file))
        for file in ("a.jsonl", "b.json", "c.txt", "d.parquet", "e.json.gz")
    ]
    assert len({result.sha256 for result in results}) == 1


def test_same_seed_same_rows_other_seed_others(shards, tmp_path):
    one, two, three = (make(tmp_path / str(i), dataset_name=str(shards), seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert one.sha256 == two.sha256 != three.sha256
    assert one.train == two.train and set(one.heldout) != set(three.heldout)


def test_held_out_rows_do_not_depend_on_order(tmp_path):
    rows = [{"text": sentence(i)} for i in range(300)]
    forth, back = (
        make(tmp_path / name, dataset_name=jsonl(tmp_path / f"{name}.jsonl", part), shuffle_buffer=0)
        for name, part in (("a", rows), ("b", rows[::-1]))
    )
    assert not set(forth.train) & set(back.heldout) and not set(back.train) & set(forth.heldout)
    exact = [rows[:50], rows[49::-1]]
    first, second = (
        make(tmp_path / name, dataset_name=jsonl(tmp_path / f"{name}.jsonl", part))
        for name, part in zip(("c", "d"), exact, strict=True)
    )
    assert set(first.heldout) == set(second.heldout) and len(first.heldout) == 10


def test_exactly_enough_rows_and_no_heldout(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", [{"text": sentence(i)} for i in range(50)])
    data = make(tmp_path / "1", dataset_name=file)
    assert {*data.train, *data.heldout} == {sentence(i) for i in range(50)}
    data = make(tmp_path / "2", dataset_name=file, num_eval_samples=0, num_train_samples=50)
    assert (len(data.train), data.heldout) == (50, [])


def test_duplicates_are_folded(tmp_path):
    rows = [{"text": sentence(i)} for i in range(50)]
    rows += [{"text": sentence(i).upper()} for i in range(50)] + [{"text": f" {sentence(3)}\n"}]
    data = make(tmp_path / "1", dataset_name=jsonl(tmp_path / "a.jsonl", rows), num_train_samples=39)
    folded = {text.casefold() for text in [*data.train, *data.heldout]}
    assert len(folded) == 49
    with pytest.raises(ConfigError, match=r"101 were read and 50 kept \(duplicate 51\)"):
        make(tmp_path / "2", dataset_name=str(tmp_path / "a.jsonl"), num_train_samples=41)


def test_too_few_rows_say_why(tmp_path):
    rows = [{"text": sentence(i)} for i in range(20)]
    rows += [{"text": "Short."}] * 3 + [{"text": None}] * 2 + [{"text": "See www.example.org."}]
    with pytest.raises(ConfigError) as caught:
        make(tmp_path / "out", dataset_name=jsonl(tmp_path / "a.jsonl", rows))
    message = str(caught.value)
    for part in ("40 to train", "10 held out", "26 were read", "20 kept", "short 3", "not text 2", "URLs"):
        assert part in message
    assert not (tmp_path / "out").exists()


def test_hostile_rows_come_back_as_written(tmp_path):
    odd = ["Say <bos> and </s> loudly.", 'He said "Tamil: no" now.', "The\u2060re is a new door \\n Tür \\u0041 அ 😀."]
    file = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in odd])
    for _ in range(2):  # written, then read back
        data = make(tmp_path / "1", dataset_name=file, num_train_samples=3, num_eval_samples=0)
        assert set(data.train) == {text.replace("\u2060", "") for text in odd}


def test_reuse_needs_no_source(shards, tmp_path):
    first = make(tmp_path / "data", dataset_name=str(shards))
    shutil.rmtree(shards)
    assert make(tmp_path / "data", dataset_name=str(shards)) == first


def test_another_request_is_refused_by_name(shards, tmp_path):
    make(tmp_path / "data", dataset_name=str(shards))
    with pytest.raises(ConfigError, match="num_train_samples was 40 and is now 41") as caught:
        make(tmp_path / "data", dataset_name=str(shards), num_train_samples=41, seed=9)
    assert "seed was 3 and is now 9" in str(caught.value) and str(caught.value).startswith("output_dir: ")


def test_nothing_is_overwritten(shards, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"^output_dir: .*no data\.json"):
        make(tmp_path / "data", dataset_name=str(shards))
    assert (tmp_path / "data" / "train.jsonl").read_text() == "mine"
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match=r"^output_dir: .*/file is a file"):
        make(tmp_path / "file", dataset_name=str(shards))
    with pytest.raises(CannotWrite, match=r"^output_dir: .*/file/data "):
        make(tmp_path / "file" / "data", dataset_name=str(shards))


def test_an_empty_folder_and_a_link_to_one_will_do(shards, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    make(tmp_path / "link", dataset_name=str(shards))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "data.json").exists()


def test_the_second_of_two_processes_takes_what_the_first_wrote(shards, tmp_path, monkeypatch):
    other = make(tmp_path / "other", dataset_name=str(shards))
    read = corpus.read_rows

    def first_is_faster(settings):
        shutil.copytree(tmp_path / "other", tmp_path / "data")
        return read(settings)

    monkeypatch.setattr(corpus, "read_rows", first_is_faster)
    assert make(tmp_path / "data", dataset_name=str(shards)).sha256 == other.sha256


def test_an_endless_stream_of_bad_rows_ends(tmp_path, monkeypatch):
    def endless(_):
        while True:
            yield "Short."

    monkeypatch.setattr(corpus, "read_rows", endless)
    with pytest.raises(ConfigError, match=r"20000 were read and 0 kept \(too short 20000\)"):
        make(tmp_path / "out")
