"""Preference accuracy: the file's errors, the counts by hand, the interval against a bootstrap written out."""

from __future__ import annotations

import doctest
import json
import math
import random

import pytest

from rl_nmt.audit import launch_gate, preferences
from rl_nmt.audit.preferences import count, judge, read_preferences
from rl_nmt.errors import ConfigError

GOOD = {"source": "Thank you.", "chosen": "நன்றி.", "rejected": "வணக்கம்."}


def test_examples_run():
    assert doctest.testmod(preferences).failed == 0


class Lengths:
    """A reward that likes short outputs; it cannot score an empty one."""

    def __init__(self):
        self.calls = []

    def score_components(self, prompts, completions, source=None):
        assert prompts is None and len(completions) == len(source)
        self.calls.append(list(zip(source, completions, strict=True)))
        return [{"total": 1 / len(text) if text else None, "gate": None} for text in completions]


def test_counts_by_hand(monkeypatch):
    monkeypatch.setattr(launch_gate, "BATCH", 4)
    pairs = [("e1", "a", "bb"), ("e2", "aaa", "b"), ("e3", "aa", "bb"), ("e4", "", "b"), ("e5", "a", "bbb")]
    reward = Lengths()
    found = judge(reward, pairs)
    assert (found.wins, found.losses, found.ties, found.unscored) == (2, 1, 1, 1)
    assert found.accuracy == pytest.approx(2 / 3)
    assert [len(call) for call in reward.calls] == [4, 4, 2]
    assert reward.calls[0] == [("e1", "a"), ("e1", "bb"), ("e2", "aaa"), ("e2", "b")]


def test_float_noise_is_a_tie_and_nan_is_unscored():
    found = count([(0.5 + 1e-9, 0.5), (math.nan, 0.5), (math.inf, 0.1), (None, None)])
    assert (found.ties, found.unscored, found.accuracy, found.low) == (1, 3, None, None)
    assert "none decided" in str(found)


def test_interval_is_the_bootstraps():
    totals = [(1.0, 0.0)] * 70 + [(0.0, 1.0)] * 30 + [(0.5, 0.5)] * 10
    found = count(totals, seed=1)
    rng = random.Random(0)
    decided = [1] * 70 + [0] * 30
    draws = sorted(sum(rng.choices(decided, k=100)) / 100 for _ in range(2000))
    assert found.accuracy == 0.7
    assert found.low == pytest.approx(draws[50], abs=0.021) and found.high == pytest.approx(draws[1949], abs=0.021)
    assert count(totals, seed=1) == found


def test_reading(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\ufeff" + json.dumps(GOOD | {"note": 1}) + "\n\n" + json.dumps(GOOD), encoding="utf-8")
    assert read_preferences(path) == [tuple(GOOD.values())] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            json.dumps(GOOD) + '\n{"source": "x", "chosen": "y"}',
            "line 2 has no column 'rejected', it has source, ch",
        ),
        ("{}", "line 1 has no column 'source or .*, it has nothing"),
        ("[1]", "row 1 is not a JSON object"),
        ("{", "line 1 is not valid JSON"),
        ("[" * 100_000, "line 1 is not valid JSON"),
        (json.dumps(GOOD | {"chosen": None}), "line 1: chosen and rejected"),
        ("\n \n", "holds no rows"),
    ],
)
def test_bad_lines(tmp_path, text, said):
    path = tmp_path / "p.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"--pairs: .*{said}"):
        read_preferences(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"--pairs: .*gone"):
        read_preferences(tmp_path / "gone.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_preferences(tmp_path / "b.jsonl")
