"""Twenty steps whose metrics are written down: a change of TRL, torch or our own code that moves them shows.

`python tests/test_golden.py` writes tests/golden_metrics.json anew; a change of reward or loss is a reason to,
and is labelled in docs/LOG.md.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers

GOLDEN = Path(__file__).with_name("golden_metrics.json")
KEYS = ("loss", "grad_norm", "kl", "entropy", "reward/total", "completions/mean_length", "learning_rate")


def twenty_steps(folder: Path) -> list[dict[str, float]]:
    """KEYS of 20 steps from a random policy, on one thread."""
    from fault_trials import Trial, settings, train
    from tiny_models import build_gemma

    model = build_gemma(folder / "policy", steps=0)
    cfg = settings(model, folder / "run", max_steps=20, save_steps=0, eval_steps=0, lr=1e-6, seed=7)
    status, _, error = Trial(folder / "log", train, cfg, sentences=48).wait()
    assert status == 0, error
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "train"]
    return [{key: row[key] for key in KEYS} for row in rows]


def test_twenty_steps_as_written_down(tmp_path):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if golden["torch"] != torch.__version__.split("+")[0] or transformers.__version__ > "5":
        pytest.skip(f"written down with torch {golden['torch']} and transformers 4, which builds another tiny policy")
    rows = twenty_steps(tmp_path)
    assert len(rows) == 20 and len({row["reward/total"] for row in rows}) > 10
    for step, (row, wanted) in enumerate(zip(rows, golden["rows"], strict=True), start=1):
        assert row == pytest.approx(wanted, rel=1e-6, abs=1e-6), f"step {step}"


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    with tempfile.TemporaryDirectory() as place:
        rows = twenty_steps(Path(place))
    GOLDEN.write_text(json.dumps({"torch": torch.__version__.split("+")[0], "rows": rows}, indent=1) + "\n")
