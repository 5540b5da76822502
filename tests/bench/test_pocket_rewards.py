"""The table of bench.pocket_rewards from results on disk, and the settings of its arms."""

from __future__ import annotations

import json

import pytest

import train_grpo_en_ta as script
from bench import pocket_rewards
from rl_nmt import config


def test_the_table_has_every_run_and_the_mean_change(tmp_path, monkeypatch):
    monkeypatch.setattr(pocket_rewards, "RUNS", tmp_path)
    for seed, end in enumerate((64.0, 66.0)):
        folder = pocket_rewards.folder("likelihood", seed)
        folder.mkdir()
        found = {
            "before": {"chrf": 60.0, "reward": 0.5},
            "after": {"chrf": end, "reward": 0.625},
            "p_value": {"chrf": 0.001},
        }
        (folder / "evaluation.json").write_text(json.dumps(found))
    lines = pocket_rewards.results([0, 1], ["likelihood"])
    assert "| likelihood | 1 | 60.0 | 66.0 | +6.0 | 0.001 | 0.500 | 0.625 |" in lines
    assert lines[-1] == "| likelihood | mean of 2 | | | +5.0 ± 12.7 | | | |"


@pytest.mark.parametrize("arm", [*pocket_rewards.PARTS])
def test_the_flags_of_an_arm_are_settings(arm):
    cfg, _, _ = config.parse(script.RunCfg, pocket_rewards.flags(arm, 1, 5), script.ACTIONS, prog="x", description="")
    assert cfg.model_id == "pocket/build/seed1/policy" and cfg.max_steps == 5
    assert cfg.output_dir == str(pocket_rewards.folder(arm, 1))
    settings = {use.setting for use in cfg.reward_models_used()}
    assert settings == (
        {"likelihood_model"} if arm == "likelihood" else {"comet_da_model", "comet_qe_model", "backtranslation_model"}
    )
    named = "".join(use.name for use in cfg.reward_models_used())
    assert ("rewards-seed1" in named) == (arm != "default")


@pytest.mark.parametrize("arm", [*pocket_rewards.PARTS])
def test_the_weights_of_published_sizes_are_known(arm):
    cfg = script.RunCfg(**pocket_rewards.PUBLISHED[arm])
    found = pocket_rewards.loaded_bytes(cfg)
    assert found == 4 * 268_098_176 if arm == "likelihood" else found > 8e9
