"""Settings that a run does not use: they may change, when it continues and when it is finished."""

from __future__ import annotations

import pytest
import torch
from fault_trials import TextReward
from tiny_run import flags, settings, write_data

import train_grpo_en_ta as script
from rl_nmt import errors
from rl_nmt.training import raft, used_settings

NONE_USED = {"raft.rounds": 3, "raft.lr": 0.5, "sft.epochs": 5, "filter_pool": 7}


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, {"raft", "sft", "filter_pool"}),
        ({"method": "raft"}, {"sft", "filter_pool", *raft.NOT_USED}),
        ({"warm_start_file": "pairs.tsv"}, {"raft", "filter_pool"}),
        ({"prompt_filter": "headroom"}, {"raft", "sft"}),
    ],
)
def test_what_is_not_used(changes, unused):
    names = {field for field in vars(script.RunCfg()) if field != "wandb_api_key"}
    assert names - used_settings.used(script.RunCfg(**changes)).keys() == unused


@pytest.fixture
def main(tiny_all, tmp_path, monkeypatch, capsys):
    """main(**settings) → (status, stdout, stderr) of the script in this process, in tmp_path/run."""
    write_data(tmp_path)
    monkeypatch.setattr(script, "build_reward", lambda cfg: TextReward())

    def call(**changes):
        few = {"max_steps": 1, "save_steps": 1, "max_new_tokens": 8, "kl_beta": 0.0, "sample_steps": 0}
        line = flags(settings(tiny_all, tmp_path, tmp_path / "run", **few | changes))
        capsys.readouterr()
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as left:
            errors.run(lambda: script.main([*line, "--skip_launch_gate"]))
        return left.value.code, *capsys.readouterr()

    return call


def test_a_run_continues_and_is_shown_whatever_the_settings_are_that_it_does_not_use(main, tmp_path):
    status, _, err = main()
    assert status == 0, err
    status, out, err = main(**NONE_USED)
    assert status == 0 and "holds a finished run" in out, err
    status, _, err = main(group_size=8)
    assert status == 4 and "group_size: 4 → 8" in err
    (tmp_path / "run" / "evaluation.json").unlink()
    status, out, err = main(max_steps=2, **NONE_USED)
    assert status == 0 and "step 2/2" in out and "step 1/2" not in out, err


def test_a_finished_run_of_raft_is_shown_whatever_the_settings_are_of_grpo(main):
    few = {"method": "raft", "raft.rounds": 1, "raft.epochs": 1, "raft.batch_size": 8, "num_train_samples": 8}
    status, _, err = main(**few, temperature=2.0)
    assert status == 0, err
    status, out, err = main(**few, temperature=2.0, lr=0.5, loss_type="grpo", eval_steps=3, warmup_steps=9)
    assert status == 0 and "holds a finished run" in out, err
    status, _, err = main(**few | {"raft.epochs": 2}, temperature=2.0)
    assert status == 4 and "raft.epochs: 1 → 2" in err
