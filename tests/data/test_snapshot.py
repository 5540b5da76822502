"""Snapshots: written rows are read back; changed rows and those of other settings are refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest

from rl_nmt.data.snapshot import Sealed, Snapshot
from rl_nmt.errors import CannotWrite, ConfigError

TRAIN = [{"source": "One.", "n": 1}, {"source": "A\u2028B \u0bb5\n<eos>"}]
HELDOUT = [{"source": "Two."}]


def snapshot(folder, **request) -> Snapshot:
    return Snapshot(folder, {"seed": 3} | request, "output_dir")


def test_what_is_written_comes_back(tmp_path):
    written = snapshot(tmp_path / "run" / "data").write(TRAIN, HELDOUT, {"read": 9})
    assert snapshot(tmp_path / "run" / "data").exists and not snapshot(tmp_path / "run").exists
    assert snapshot(tmp_path / "run" / "data").read() == written
    files = [(tmp_path / "run" / "data" / name).read_bytes() for name in ("train.jsonl", "heldout.jsonl")]
    each = [hashlib.sha256(data).hexdigest() for data in files]
    assert written == Sealed(TRAIN, HELDOUT, hashlib.sha256("".join(each).encode()).hexdigest(), {"read": 9})
    assert [json.loads(line) for line in files[0].decode().strip("\n").split("\n")] == TRAIN
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["data"]
    assert (tmp_path / "run" / "data").stat().st_mode & 0o777 == 0o755


def test_no_held_out_rows(tmp_path):
    snapshot(tmp_path / "data").write(TRAIN, [], {})
    assert snapshot(tmp_path / "data").read().heldout == []


def test_another_request_is_refused_by_name(tmp_path):
    snapshot(tmp_path / "data", chars=10).write(TRAIN, HELDOUT, {})
    with pytest.raises(ConfigError) as caught:
        snapshot(tmp_path / "data", chars=20, seed=4, more=True).read()
    message = str(caught.value)
    assert message.startswith(f"output_dir: {tmp_path / 'data'} ") and "\n" not in message
    assert "(seed was 3 and is now 4, chars was 10 and is now 20, more was None and is now True)" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", b'{"source": "Another sentence stands here."}\n', "SHA-256"),
        ("heldout.jsonl", b"", "SHA-256"),
        ("train.jsonl", None, "cannot be read"),
        ("data.json", b"{", "cannot be read"),
        ("data.json", b"[]", "cannot be read"),
        ("data.json", b'{"request": {}, "counts": {}}', "cannot be read"),
        ("data.json", b"\xff", "cannot be read"),
    ],
)
def test_a_changed_snapshot_is_refused(tmp_path, name, content, message):
    snapshot(tmp_path / "data").write(TRAIN, HELDOUT, {})
    file = tmp_path / "data" / name
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        snapshot(tmp_path / "data").read()
    assert str(caught.value).startswith(f"output_dir: {file} ")


def test_a_crash_leaves_nothing_half(tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            snapshot(tmp_path / "data").write(TRAIN, HELDOUT, {})
    assert list(tmp_path.iterdir()) == []
    snapshot(tmp_path / "data").write(TRAIN, HELDOUT, {})


def test_the_second_of_two_processes_takes_what_the_first_wrote(tmp_path):
    first = snapshot(tmp_path / "other").write(TRAIN, HELDOUT, {})
    shutil.copytree(tmp_path / "other", tmp_path / "data")
    assert snapshot(tmp_path / "data").write(HELDOUT, TRAIN, {}) == first


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match=r"^output_dir: .*file/data "):
        snapshot(tmp_path / "file" / "data").write(TRAIN, HELDOUT, {})


def test_a_link_to_an_empty_folder_stays_a_link(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    snapshot(tmp_path / "link").write(TRAIN, HELDOUT, {})
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "data.json").exists()
