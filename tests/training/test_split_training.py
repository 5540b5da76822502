"""Training on transformers 5 with COMET in the other environment: both made by scripts/setup_split_envs.sh.

Long, and only where .venv-t5 is there (or RL_NMT_T5_PYTHON names its Python):

    scripts/setup_split_envs.sh && .venv/bin/python -m pytest -m slow tests/training/test_split_training.py
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import ROOT, environment, flags, settings, write_data

from rl_nmt.runs.metrics_file import MetricsFile

T5 = os.environ.get("RL_NMT_T5_PYTHON") or str(ROOT / ".venv-t5" / "bin" / "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(T5).exists(), reason="no .venv-t5: scripts/setup_split_envs.sh makes it"),
]


def train(line: list[str], timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [T5, "train_grpo_en_ta.py", *line],
        cwd=ROOT,
        env=environment(),
        timeout=timeout,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_five_steps_on_transformers_5_with_comet_beside(tiny_all, tmp_path):
    write_data(tmp_path)
    split = settings(tiny_all, tmp_path, tmp_path / "run", max_steps=5, save_steps=0, scorer_python=sys.executable)
    done = train(flags(split))
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [row for row in MetricsFile(tmp_path / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["loss"]) and row["groups/missing_share"] == 0.0 for row in rows)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    for part in ("cycle", "qe"):
        there = result["signature"]["reward"]["environment"][part]
        assert there["transformers"].startswith("4.") and there["unbabel-comet"]
    assert result["signature"]["reward"]["environment"]["backtranslation"]["transformers"].startswith("5.")
    # the start policy is worth the same as in one environment
    alone = settings(tiny_all, tmp_path, tmp_path / "alone", max_steps=1, save_steps=0)
    one = subprocess.run(
        [sys.executable, "train_grpo_en_ta.py", *flags(alone)],
        cwd=ROOT,
        env=environment(),
        timeout=300,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert one.returncode == 0, one.stderr[-3000:]
    other = json.loads((tmp_path / "alone" / "evaluation.json").read_text(encoding="utf-8"))
    for name in ("reward", "cycle", "qe", "chrf"):
        assert result["before"][name] == pytest.approx(other["before"][name], abs=1e-4)


def test_without_comet_and_without_the_other_python_it_says_what_to_do(tiny_all, tmp_path):
    write_data(tmp_path)
    done = train(flags(settings(tiny_all, tmp_path, tmp_path / "run")), timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "scorer_python: there is no COMET in this environment" in done.stderr
    assert not (tmp_path / "run").exists()
