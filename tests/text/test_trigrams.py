"""The table of word trigrams."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from rl_nmt.errors import ConfigError
from rl_nmt.text.trigrams import KnownTrigrams, write_table

TEXTS = ["The cat drinks milk.", "The cat drinks the milk.", "It rains."]


@pytest.fixture
def table(tmp_path):
    write_table(tmp_path / "trigrams.npy", TEXTS)
    return tmp_path / "trigrams.npy"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("The cat drinks milk.", 1.0),
        (" The cat\tdrinks  milk.", 1.0),  # words are what whitespace separates
        ("the cat drinks milk.", 0.0),
        ("The cat drinks milk", 0.0),
        ("cat drinks the milk.", 1.0),
        ("The cat drinks milk. The cat drinks milk.", 0.0),  # no sentence goes over the full stop
        ("It rains.", 1.0),
        ("It", 0.0),
        ("The cat", 0.0),  # a beginning of a known trigram
        ("", 0.0),
    ],
)
def test_every_trigram_must_be_known(table, text, known):
    assert KnownTrigrams.load(table, "outside_measure")([text]) == [known]


def test_texts_keep_their_order(table):
    assert KnownTrigrams.load(table, "outside_measure")([*TEXTS, "A dog.", TEXTS[0]]) == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_the_file_is_the_same_in_every_process(table, tmp_path):
    code = (
        f"from rl_nmt.text.trigrams import write_table; write_table({str(tmp_path / 'again.npy')!r}, {TEXTS!r}[::-1])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "again.npy").read_bytes() == table.read_bytes()
    found = np.load(table)
    assert found.dtype == np.uint64 and len(found) == 5 and (np.diff(found.astype(object)) > 0).all()


@pytest.mark.parametrize("content", [b"", b"not numpy", "floats", "pickled", None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        np.save(path, np.array([0.5, 1.5]) if content == "floats" else np.array([{}]), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"outside_measure.*other\.npy"):
        KnownTrigrams.load(path, "outside_measure")
