"""Training under transformers 5, COMET checkpoints and all, in one environment without unbabel-comet.

Long, and only where .venv-t5 is there (or RL_NMT_T5_PYTHON names its Python):

    ONLY=.venv-t5 scripts/setup_split_envs.sh && .venv/bin/python -m pytest -m slow tests/training/test_transformers5.py
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comet_oracle import VARIANTS, rows
from tiny_models import build_comet
from tiny_run import ROOT, environment, flags, settings, write_data

from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.scorers.comet.scorer import load_comet
from rl_nmt.scorers.worker.client import load_in_worker

T5 = os.environ.get("RL_NMT_T5_PYTHON") or str(ROOT / ".venv-t5" / "bin" / "python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(T5).exists(), reason="no .venv-t5: scripts/setup_split_envs.sh makes it"),
]


def run(python: str, *line: str) -> str:
    """The standard output of a Python program that has to end well."""
    options = {"cwd": ROOT, "env": environment(), "timeout": 300, "capture_output": True, "encoding": "utf-8"}
    done = subprocess.run([python, *line], **options, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_five_steps(tiny_all, tmp_path):
    write_data(tmp_path)
    five = settings(tiny_all, tmp_path, tmp_path / "run", max_steps=5, save_steps=0)
    run(T5, "train_grpo_en_ta.py", *flags(five))
    rows = [row for row in MetricsFile(tmp_path / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(row["loss"]) and row["groups/missing_share"] == 0.0 for row in rows)
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    for part in ("cycle", "qe", "backtranslation"):
        there = result["signature"]["reward"]["environment"][part]
        assert there["transformers"].startswith("5.") and "python" not in there
    # the start policy is worth the same under transformers 4
    alone = settings(tiny_all, tmp_path, tmp_path / "alone", max_steps=1, save_steps=0)
    run(sys.executable, "train_grpo_en_ta.py", *flags(alone))
    other = json.loads((tmp_path / "alone" / "evaluation.json").read_text(encoding="utf-8"))
    for name in ("reward", "cycle", "qe", "chrf"):
        assert result["before"][name] == pytest.approx(other["before"][name], abs=1e-4)


def test_every_kind_of_checkpoint_scores_the_same(tmp_path):
    here, folders = [], []
    for number, (kind, overrides) in enumerate(VARIANTS):
        folders.append(build_comet(tmp_path / str(number), kind=kind, **overrides))
        scores = load_comet(folders[-1]).score(rows())
        here.append((scores.values, scores.spans))
    code = (
        "import json, sys; sys.path[:0] = ['tests/support', '.']\nfrom comet_oracle import rows\n"
        "from rl_nmt.scorers.comet.scorer import load_comet\n"
        "found = [load_comet(folder).score(rows()) for folder in sys.argv[1:]]\n"
        "print(json.dumps([(scores.values, scores.spans) for scores in found]))"
    )
    there = json.loads(run(T5, "-c", code, *map(str, folders)))
    for (values, spans), (others, marked) in zip(here, there, strict=True):
        assert others == pytest.approx(values, abs=1e-6)
        places = [None if spans is None else [[span[:3] for span in row] for row in spans] for spans in (spans, marked)]
        assert json.dumps(places[0]) == json.dumps(places[1])


def test_a_scorer_in_another_environment(tmp_path):
    folder = build_comet(tmp_path / "comet", "xcomet_metric", layer_norm=False)
    factory, options = "rl_nmt.scorers.comet.scorer:load_comet", {"name_or_path": str(folder)}
    here, there = load_comet(folder), load_in_worker(factory, options, python_executable=T5)
    try:
        got, expected = there.score(rows()), here.score(rows())
        assert got.values == pytest.approx(expected.values, abs=1e-6) and any(got.spans)
        assert [[span[:3] for span in row] for row in got.spans] == [[s[:3] for s in row] for row in expected.spans]
        versions = [scorer.signature()["environment"]["transformers"] for scorer in (here, there)]
        assert versions[0] != versions[1]
    finally:
        there.close()
