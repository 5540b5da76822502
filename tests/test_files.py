"""rl_nmt/files.py: files and folders appear whole or not at all."""

from __future__ import annotations

import json
import math
import os

import pytest

from rl_nmt import files
from rl_nmt.errors import CannotWrite


def test_what_is_written_is_read_back(tmp_path):
    files.write(tmp_path / "a.txt", "வா \ud800\n")
    assert (tmp_path / "a.txt").read_bytes() == "வா ?\n".encode()
    files.write(str(tmp_path / "a.txt"), b"\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\xff"
    files.write_json(tmp_path / "a.json", {"வா": [math.nan, (1, math.inf)]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"வா": [None, [1, None]]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"]


def test_the_order_is_draft_fsync_rename_fsync_of_the_folder(tmp_path, monkeypatch):
    said = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (said.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (said.append(f"{a} {b}"), replace(a, b)))
    files.write_durable(tmp_path / "x", "new")
    assert said == [f"{tmp_path}/.x.part", f"{tmp_path}/.x.part {tmp_path}/x", str(tmp_path)]


def test_a_crash_before_the_rename_keeps_the_old_content(tmp_path, monkeypatch):
    files.write(tmp_path / "x", "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "old"


def test_a_failure_names_setting_path_and_reason_and_leaves_no_draft(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotWrite, match=r"^--out: .*folder cannot be written \(Is a directory\): free space"):
        files.write(tmp_path / "folder", "x", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(FileNotFoundError):  # sealing a checkpoint needs the OSError
        files.write_durable(tmp_path / "gone" / "x", "x")


def test_a_folder_is_replaced_when_the_block_ends_well(tmp_path):
    target = tmp_path / "best"
    for text in ("one", "two"):
        with files.replace_folder(target) as draft:
            (draft / text).write_text(text)
    assert [path.name for path in target.iterdir()] == ["two"]
    with pytest.raises(CannotWrite, match=r"best cannot be written \(No space left"), files.replace_folder(target):
        raise OSError(28, "No space left on device")
    assert [path.name for path in target.iterdir()] == ["two"] and len(list(tmp_path.iterdir())) == 1
