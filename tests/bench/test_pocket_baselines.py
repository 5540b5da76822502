"""The tables of bench.pocket_baselines from results on disk, and the settings of its arms."""

from __future__ import annotations

import json

import pytest
from sacrebleu.metrics import CHRF

import train_grpo_en_ta as script
from bench import pocket_baselines
from rl_nmt import config

SOURCES, REFERENCES = ["A boy.", "A girl."], ["சிறுவன் வந்தான்.", "சிறுமி வந்தாள்."]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two finished runs of one world: grpo ends at 70 and 72 chrF++, raft 1 below, filter at 71."""
    monkeypatch.setattr(pocket_baselines, "RUNS", tmp_path)
    for run, end in enumerate((70.0, 72.0)):
        for arm, chrf in {"grpo": end, "raft": end - 1, "filter": 71.0}.items():
            folder = pocket_baselines.folder(1, run, arm)
            folder.mkdir()
            told = {"kept": 375, "read": 500, "samples": 4000}
            found = {"before": {"chrf": 60.0}, "after": {"chrf": chrf}, "prompt_filter": told}
            (folder / "evaluation.json").write_text(json.dumps(found))
            curve = [{"kind": "eval", "step": step, "chrf": 60 + (chrf - 60) * step / 40} for step in (0, 20, 40)]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
        folder = pocket_baselines.folder(1, run, "start")
        folder.mkdir()
        outputs = [["தவறு", REFERENCES[0]], [REFERENCES[1], "சிறுமி"]]
        groups = {"sources": SOURCES, "outputs": outputs, "totals": [[0.1, 0.9], [None, 0.2]]}
        lines = {"greedy": {"reward": {"mean": 0.5}, "outside": {"mean": 60.0 + 2 * run}}}
        (folder / "headroom.json").write_text(json.dumps({"groups": groups, "report": {"lines": lines}}))
        (folder / "before.json").write_text(json.dumps({"sources": SOURCES, "references": REFERENCES}))
    return [(1, 0), (1, 1)]


def test_every_arm_has_a_column_and_a_difference_by_run(runs):
    lines = pocket_baselines.results(runs, ["grpo", "raft"])
    assert lines[0] == "| held-out chrF++ | start | best-of-8 at test time | grpo | raft |"
    best = CHRF(word_order=2).corpus_score([REFERENCES[0], "சிறுமி"], [REFERENCES]).score  # of two, one without a score
    assert f"| world 1, run 1 | 60.0 | {best:.1f} | 72.0 | 71.0 |" in lines
    assert "\ngrpo − raft, paired by run: +1.0 ± 0.0" in lines


def test_the_start_is_the_mean_of_the_reports(runs):
    assert pocket_baselines.start(runs)[2:] == ["| greedy | 0.500 ± 0.000 | 61.0 ± 12.7 |"]


def test_the_filters_samples_count_as_steps(runs):
    lines = pocket_baselines.with_filter(runs)
    # 4,000 samples are 21 steps of 192. 70 is first reached at step 40 of the filtered arm, 72 never.
    assert lines[2:] == [
        "| world 1, run 0 | 375 of 500 | 21 | 61 | 40 |",
        "| world 1, run 1 | 375 of 500 | 21 | not within 40 | 40 |",
    ]


@pytest.mark.parametrize("arm", ["start", *pocket_baselines.ARMS])
def test_the_flags_of_an_arm_are_settings(arm):
    line = pocket_baselines.flags(2, 1, arm)
    cfg, actions, _ = config.parse(script.RunCfg, line, script.ACTIONS, prog="x", description="")
    assert cfg.seed == 201 and cfg.model_id == "pocket/build/seed2/policy" and actions["headroom"] == (arm == "start")
    assert (cfg.method == "raft") == (arm == "raft") and (cfg.prompt_filter == "headroom") == (arm == "filter")
