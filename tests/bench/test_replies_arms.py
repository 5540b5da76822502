"""The table of bench.replies_arms from results on disk."""

from __future__ import annotations

import argparse
import json

import pytest

from bench import replies_arms
from recipes.replies.settings import RepliesCfg
from rl_nmt import config


def test_the_table_has_every_measure_and_world(tmp_path, monkeypatch):
    monkeypatch.setattr(replies_arms, "RUNS", tmp_path)
    for seed, value in enumerate((0.2, 0.3, 0.4)):
        sides = {"before": dict.fromkeys(replies_arms.SHOWN, 0.1), "after": dict.fromkeys(replies_arms.SHOWN, value)}
        for place in (f"sft{seed}/sft", f"grpo{seed}"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "evaluation.json").write_text(json.dumps(sides))
    lines = replies_arms.table([0, 1, 2], ["start", "sft", "grpo"])
    assert lines[0] == "| mean of 3 worlds | start | sft | grpo |"
    assert "| pass@1 | 0.100 ± 0.000 | 0.300 ± 0.248 | 0.300 ± 0.248 |" in lines
    assert lines[-1] == "| world 2: pass@1, Self-BLEU | 0.100, 0.100 | 0.400, 0.400 | 0.400, 0.400 |"


@pytest.mark.parametrize("arm", ["sft", "polychromic", "grpo", "set"])
def test_the_flags_of_an_arm_are_settings(arm):
    args = argparse.Namespace(diversity_weight=0.3, set_weight=1.0)
    cfg, _, _ = config.parse(RepliesCfg, replies_arms.flags(1, arm, args), {}, prog="x", description="")
    assert cfg.phase == ("sft" if arm in ("sft", "polychromic") else "grpo") and cfg.seed == 1
    assert (cfg.grpo.set_weight > 0) == (arm == "set") and (cfg.sft.diversity_weight > 0) == (arm == "polychromic")
    assert bool(cfg.grpo.start_from) == (arm in ("grpo", "set"))
