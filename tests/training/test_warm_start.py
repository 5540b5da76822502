"""The fine-tuning before GRPO, by the script's own main with a tiny policy and a planted reward."""

from __future__ import annotations

import json
import os

import pytest
import raft_run
import torch
from fault_trials import trial
from safetensors.torch import load_file
from tiny_models import PAIRS
from tiny_run import SENTENCES

from rl_nmt.errors import ConfigError
from rl_nmt.models import policy as models
from rl_nmt.scorers.likelihood import Likelihood
from rl_nmt.training import warm_start

LESSONS = [(source, PAIRS[i % len(PAIRS)][1]) for i, source in enumerate(SENTENCES[8:20])]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pairs.tsv"
    rows = [*LESSONS, (SENTENCES[1].upper(), "நன்றி.")]  # the last one is held out
    path.write_text("".join(f"{source}\t{output}\n" for source, output in rows), encoding="utf-8")
    return path


def chosen(policy, folder, file, **changes) -> dict:
    own = {"method": "grpo", "max_steps": 2, "save_steps": 1, "lr": 1e-4, "temperature": 1.2}
    own |= {"warm_start_file": str(file), "sft": {"epochs": 3, "batch_size": 4, "lr": 1e-2}}
    return raft_run.values(policy, folder, **own | changes)


def dies_in_fine_tuning(settings: dict) -> int:
    """Run, and end as by kill -9 in the fifth step of the fine-tuning; only in a forked child."""
    from rl_nmt.training import sft

    build = sft.build_sft_trainer

    def dying(*args, **kwargs):
        trainer = build(*args, **kwargs)
        step = trainer.training_step

        def training_step(*args, **kwargs):
            if trainer.state.global_step == 4:
                os._exit(137)
            return step(*args, **kwargs)

        trainer.training_step = training_step
        return trainer

    sft.build_sft_trainer = dying
    return raft_run.train(settings)


def log_prob(model: str, tokenizer) -> float:
    """Mean log-probability of the lessons' outputs."""
    loaded = models.load_policy(model, tokenizer, models.Precision("cpu", torch.float32, False, ""))
    stop = models.stop_ids(tokenizer)[0]
    values = Likelihood(loaded, tokenizer, stop, raft_run.script.make_prompt)(*map(list, zip(*LESSONS, strict=True)))
    return sum(values) / len(values)


@pytest.mark.parametrize("lora", [True, False])
def test_the_run_starts_from_the_fine_tuned_model(tiny_policy, tmp_path, file, lora):
    folder = tmp_path / "run"
    sft = {"epochs": 3, "batch_size": 4, "lr": 1e-2 if lora else 2e-3}
    settings = chosen(tiny_policy, folder, file, lora_rank=4 * lora, sft=sft)
    status, out, err = trial(folder, raft_run.train, settings)
    assert status == 0, err
    assert "1 of 13 rows are blank or held out" in out and "warm start: 12 pairs, 3 epochs" in out
    tokenizer = models.load_tokenizer(str(tiny_policy))
    start, tuned = (log_prob(str(model), tokenizer) for model in (tiny_policy, folder / "sft" / "final"))
    assert tuned > start + 0.1
    card = (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert "| warm_start_file | pairs.tsv |" in card and "| sft.epochs | 3 |" in card
    before = json.loads((folder / "before.json").read_text(encoding="utf-8"))
    alone = trial(
        tmp_path / "alone",
        raft_run.train,
        settings
        | {"output_dir": str(tmp_path / "alone"), "warm_start_file": ""}
        | {"model_id": str(folder / "sft" / "final")},
    )
    assert alone[0] == 0, alone[2]
    same = json.loads((tmp_path / "alone" / "before.json").read_text(encoding="utf-8"))
    assert before["outputs"] == same["outputs"]  # as if it were model_id
    status, _, err = trial(folder, raft_run.train, settings | {"sft": settings["sft"] | {"lr": 1e-3}})
    assert status == 4 and "sft" in err


def test_killed_in_the_fine_tuning_it_continues_to_the_same_bits(tiny_policy, tmp_path, file):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert trial(whole, raft_run.train, chosen(tiny_policy, whole, file))[0] == 0
    settings = chosen(tiny_policy, killed, file)
    assert trial(killed, dies_in_fine_tuning, settings)[0] == 137
    assert (killed / "sft" / "checkpoint-4").exists() and not (killed / "sft" / "final").exists()
    status, out, err = trial(killed, raft_run.train, settings)
    assert status == 0 and "resuming from" in out, err
    for part in ("sft/final", "final"):
        one, other = (load_file(folder / part / "model.safetensors") for folder in (whole, killed))
        assert all(torch.equal(one[name], other[name]) for name in one), part


def test_a_missing_file_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="warm_start_file"):
        raft_run.script.check(raft_run.script.RunCfg(warm_start_file="no/pairs.tsv"))


def test_a_file_without_a_usable_pair_is_refused(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("The sun sets.\tசூரியன் மறைகிறது.\n\t\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="warm_start_file"):
        warm_start.pairs(str(path), [{"source": "the sun  SETS."}])
    assert warm_start.pairs(str(path), []) == [("The sun sets.", "சூரியன் மறைகிறது.")]
