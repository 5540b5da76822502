"""python -m recipes.replies.train on tiny models: both phases, what they leave, kills, arms, refusals."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import replies_run
import torch
import yaml
from fault_trials import differences, trial
from process_trials import Processes
from safetensors.torch import load_file
from tiny_run import command

import recipes.replies.train  # noqa: F401  heavy imports once here, not in every forked run
import wandb_reward_callback  # noqa: F401
from rl_nmt.results import export, report  # noqa: F401
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training import loop, set_reward  # noqa: F401


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return replies_run.world(tmp_path_factory.mktemp("replies"))


def config_of(world, folder, **changes):
    values = replies_run.sections(world, folder / "run")
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    return replies_run.write_config(folder / "c.yaml", values)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """(folder of a finished run, its config, its output)."""
    work = tmp_path_factory.mktemp("finished")
    config = config_of(world, work)
    status, out, err = trial(work / "t", replies_run.train, config)
    assert status == 0, out + err
    return work / "run", config, out + err


def test_both_phases_leave_a_run_folder(finished):
    folder, _, out = finished
    for place in (folder, folder / "sft"):
        names = {path.name for path in place.iterdir()}
        wanted = "resolved_config.yaml metrics.jsonl samples.jsonl final evaluation.json pass_at_k.json report.html"
        assert set(wanted.split()) <= names, place
        assert not list(place.rglob("ref")) and (place / "final" / "adapter").is_dir()
    assert (folder / "data").is_dir() and not (folder / "sft" / "data").exists()
    assert "warning" not in out.lower() and "step 4/4" in out and "step 6/6" in out


def test_grpo_starts_where_sft_ended(finished):
    folder, _, _ = finished
    sft, grpo = (
        load_file(place / "final" / "adapter" / "adapter_model.safetensors") for place in (folder / "sft", folder)
    )
    assert sft.keys() == grpo.keys() and any(not torch.equal(sft[name], grpo[name]) for name in sft)
    tables = [json.loads((place / "evaluation.json").read_text()) for place in (folder / "sft", folder)]
    assert tables[0]["after"]["reward"] == pytest.approx(tables[1]["before"]["reward"], abs=1e-5)
    identity = json.loads((folder / "run_identity.json").read_text())["identity"]
    assert identity["sft"] == json.loads((folder / "sft" / "phase.json").read_text())["final"]


def test_final_is_the_start_model_with_the_trained_adapter(finished, world):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 6, 7, 8]])
    for place in (finished[0] / "sft", finished[0]):
        start = AutoModelForCausalLM.from_pretrained(world["policy"], attn_implementation="eager")
        adapted = PeftModel.from_pretrained(start, place / "final" / "adapter").eval()
        merged = AutoModelForCausalLM.from_pretrained(place / "final", attn_implementation="eager").eval()
        with torch.no_grad():
            assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-4)


def test_metrics_of_every_step(finished):
    rows = MetricsFile(finished[0] / "metrics.jsonl").rows()
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2, 4]
    assert all(0 <= row["self_bleu"] <= 1 for row in rows if row["kind"] == "eval")  # of held-out samples
    assert train[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is where GRPO begins
    for row in train:
        for key in ("policy_loss", "avg_reward", "kl_penalty", "reward/relevance", "reward/fluency", "reward/copied"):
            assert math.isfinite(row[key]), key
    first = MetricsFile(finished[0] / "sft" / "metrics.jsonl").rows()
    assert [row["step"] for row in first if row["kind"] == "train" and math.isfinite(row["loss"])] == [1, 2, 3, 4, 5, 6]


def test_the_table_has_success_and_diversity(finished):
    table = json.loads((finished[0] / "evaluation.json").read_text())
    for side in ("before", "after"):
        found = table[side]
        assert 0 <= found["pass@1"] <= found["pass@5"] <= found["pass@10"] <= 1
        assert {"self_bleu", "distinct_1", "distinct_2", "success", "sampled_reward", "relevance"} <= found.keys()
    assert table["rows"] == 6 and "pass@1" in table["p_value"] and "likeness >=" in table["signature"]["pass@k"]
    sweep = json.loads((finished[0] / "pass_at_k.json").read_text())
    assert [row["quantile"] for row in sweep] == [0.25, 0.5, 0.75, 0.9]
    chosen = next(row for row in sweep if row["quantile"] == 0.75)
    assert chosen["before"]["pass@1"] == pytest.approx(table["before"]["pass@1"])
    sample = json.loads((finished[0] / "samples.jsonl").read_text().splitlines()[0])
    assert len(sample["before_scores"]["samples"]) == len(sample["after_scores"]["success_scores"]) == 10


def test_the_same_command_again_prints_the_table(finished):
    folder, config, _ = finished
    status, out, err = trial(folder.parent / "again", replies_run.train, config)
    assert status == 0 and "holds a finished run" in out, err
    status, _, err = trial(folder.parent / "other", replies_run.train, config, "--grpo.lr", "1e-2")
    assert status == 4 and "grpo.lr" in err


MOMENTS = [(phase, moment) for phase in ("sft", "grpo") for moment in ("step 3", "step 1", "export")]


@pytest.mark.parametrize(
    "die",
    [pytest.param(die, marks=[] if die[1] == "step 3" else pytest.mark.slow, id=" ".join(die)) for die in MOMENTS],
)
def test_killed_in_either_phase_it_continues_to_the_same_bits(world, finished, tmp_path, die):
    config = config_of(world, tmp_path)
    status, _, err = trial(tmp_path / "t", replies_run.train, config, die=die)
    assert status == 137, err
    status, out, err = trial(tmp_path / "t", replies_run.train, config)
    assert status == 0, out + err
    assert ("resuming from" in out) == (die[1] != "step 1")
    assert differences(replies_run.outcome(tmp_path / "run"), replies_run.outcome(finished[0])) == []


def test_max_hours_ends_it_with_the_command_that_continues(world, tmp_path):
    config = config_of(world, tmp_path)
    status, _, err = trial(tmp_path / "t", replies_run.train, config, "--logging.max_hours", "1e-9")
    assert status == 75 and "continue with: python -m recipes.replies.train" in err.replace("'", "")
    assert (tmp_path / "run" / "sft" / "checkpoint-1").is_dir()


# --- arms ----------------------------------------------------------------------------------------------


def started_from(finished, tmp_path, *flags):
    """Run GRPO from the finished run's SFT phase; return the weights of its adapter."""
    folder, config, _ = finished
    output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
    flags = ("--phase", "grpo", "--grpo.start_from", str(folder / "sft"), "--logging.output_dir", str(output), *flags)
    status, out, err = trial(tmp_path / "t", replies_run.train, config, *flags)
    assert status == 0, out + err
    assert not (output / "sft").exists()
    return load_file(output / "final" / "adapter" / "adapter_model.safetensors")


def test_grpo_from_another_runs_sft_is_the_same_and_a_set_reward_is_not(finished, tmp_path):
    own = load_file(finished[0] / "final" / "adapter" / "adapter_model.safetensors")
    plain = started_from(finished, tmp_path)
    assert all(torch.equal(plain[name], own[name]) for name in own)
    shared = started_from(finished, tmp_path, "--grpo.set_weight", "1.0")
    assert any(not torch.equal(shared[name], own[name]) for name in own)


def test_sft_alone_ends_with_its_table(world, tmp_path):
    config = config_of(world, tmp_path, sft={"diversity_weight": 0.5}, experiment={"type": "polychromic"})
    status, out, err = trial(tmp_path / "t", replies_run.train, config, "--limit", "9")
    assert status == 0, out + err
    table = json.loads((tmp_path / "run" / "sft" / "evaluation.json").read_text())
    assert table["rows"] == 6 and not (tmp_path / "run" / "evaluation.json").exists()
    assert sum(1 for line in (tmp_path / "run" / "data" / "train.jsonl").read_text().splitlines() if line) == 18
    card = (tmp_path / "run" / "sft" / "final" / "README.md").read_text(encoding="utf-8")
    assert "supervised fine-tuning" in card and "grpo.lr" not in card


def test_all_weights_without_lora(world, tmp_path):
    config = config_of(
        world, tmp_path, model={"lora_rank": 0}, sft={"epochs": 1}, grpo={"max_steps": 1, "warmup_steps": 0}
    )
    status, out, err = trial(tmp_path / "t", replies_run.train, config)
    assert status == 0, out + err
    weights = [load_file(tmp_path / "run" / place / "final" / "model.safetensors") for place in ("sft", ".")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    (first,) = [row for row in MetricsFile(tmp_path / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert first["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the SFT model, not the start model


# --- refusals ------------------------------------------------------------------------------------------


def test_other_sft_settings_are_refused_after_sft(finished, tmp_path):
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation.json"))
    flags = ("--logging.output_dir", str(tmp_path / "run"), "--sft.lr", "0.5")
    status, _, err = trial(tmp_path / "t", replies_run.train, config, *flags)
    assert status == 4 and "sft.lr" in err


def test_a_changed_sft_model_is_refused(finished, tmp_path):
    folder, config, _ = finished
    shutil.copytree(folder / "sft", tmp_path / "sft")
    weights = tmp_path / "sft" / "final" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    output = str(tmp_path / "run")
    flags = ("--phase", "grpo", "--grpo.start_from", str(tmp_path / "sft"), "--logging.output_dir", output)
    status, _, err = trial(tmp_path / "t", replies_run.train, config, *flags)
    assert status == 2 and "grpo.start_from" in err


START = {  # GRPO from the finished run's SFT phase: flags that do not fit → status and setting
    "evaluation.threshold: 2": (2, ["--evaluation.threshold", "2.0"]),
    "grpo.posts_per_step: 8": (2, ["--limit", "6", "--grpo.posts_per_step", "8"]),
    "model.prompt": (4, ["--model.prompt", "Say something to {source}"]),
    "model.lora_rank": (4, ["--model.lora_rank", "8"]),
}


@pytest.mark.parametrize("named", START)
def test_grpo_that_does_not_fit_its_sft_or_its_rows(finished, tmp_path, named):
    folder, config, _ = finished
    status, flags = START[named]
    flags = ("--phase", "grpo", "--grpo.start_from", str(folder / "sft"), *flags)
    output = ("--logging.output_dir", str(tmp_path / "run"))
    found, _, err = trial(tmp_path / "t", replies_run.train, config, *output, *flags)
    assert found == status and named in err, err


def test_a_resumed_run_is_measured_as_before(world, finished, tmp_path):
    config = config_of(world, tmp_path)
    status, _, err = trial(tmp_path / "t", replies_run.train, config, die=("grpo", "step 3"))
    assert status == 137, err
    status, _, err = trial(tmp_path / "t", replies_run.train, config, "--evaluation.threshold", "0.09")
    assert status == 4 and "evaluation.threshold" in err


def test_fresh_grpo_has_no_sft_phase(finished):
    status, _, err = trial(finished[0].parent / "f", replies_run.train, finished[1], "--phase", "grpo", "--fresh")
    assert status == 2 and "grpo.start_from" in err


def test_the_trainer_gets_the_settings_of_the_brief(world, finished, tmp_path):
    from recipes.replies import train as script
    from recipes.replies.settings import RepliesCfg

    cfg = RepliesCfg()
    cfg.model.name, cfg.model.lora_rank, cfg.model.lora_alpha = str(world["policy"]), 4, 8
    cfg.model.attn_implementation, cfg.grpo.start_from = "eager", str(finished[0] / "sft")
    with torch.random.fork_rng(devices=[]):
        args = script.grpo_trainer(cfg, tmp_path, script.start(cfg, "grpo"), len, [{"source": "a"}] * 8).args
    assert (args.num_generations, args.temperature, args.top_p, args.beta) == (4, 0.8, 0.9, 0.1)
    assert args.max_completion_length == 100 and args.scale_rewards == "group"


@pytest.mark.slow
def test_two_processes_walk_both_phases(world, tmp_path):
    config = config_of(world, tmp_path, grpo={"micro_batch_size": 4})
    assert Processes(tmp_path / "p", [0, 1], replies_run.train, config).results(300) == [0, 0]
    assert (tmp_path / "run" / "evaluation.json").exists() and (tmp_path / "run" / "sft" / "phase.json").exists()


def test_the_reward_cannot_be_its_own_success_scorer(world, tmp_path):
    config = config_of(world, tmp_path)
    scorer = "recipes.replies.heuristic:HeuristicReward"
    status, _, err = trial(tmp_path / "t", replies_run.train, config, "--evaluation.success_scorer", scorer)
    assert status == 2 and "evaluation.success_scorer" in err


def test_the_doctor(world, tmp_path):
    config = config_of(world, tmp_path)
    done = command("-m", "recipes.replies.train", "--config", config, "--doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.name" in done.stdout and "reward.encoder" in done.stdout
    done = command("-m", "recipes.replies.train", "--config", config, "--doctor", "--reward.encoder", str(tmp_path))
    assert done.returncode == 2 and "reward.encoder" in done.stdout


@pytest.mark.parametrize("name", ["qwen3_600m", "qwen3_4b_4bit", "pocket"])
def test_the_configurations_are_valid(name, tmp_path):
    from recipes.replies import checks
    from recipes.replies.settings import RepliesCfg
    from rl_nmt import config

    rows = replies_run.write_rows(tmp_path)
    file = f"recipes/replies/configs/{name}.yaml"
    files = ["--data.train_file", str(rows), "--data.eval_file="]
    cfg = config.parse(RepliesCfg, ["--config", file, *files], {}, prog="x", description="")[0]
    checks.check(cfg)
    assert yaml.safe_load(open(file, encoding="utf-8"))["model"]["name"] == cfg.model.name
