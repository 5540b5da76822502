"""python -m recipes.translategemma.train as a user runs it: whole runs on tiny models."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil

import pytest
import tg_run
import yaml
from judge_server import HTML, JudgeServer
from tiny_models import PAIRS
from tiny_run import command, tree

from rl_nmt.runs.metrics_file import MetricsFile


@pytest.fixture(scope="module")
def models(tiny_policy, tmp_path_factory):
    return {"policy": tiny_policy, **tg_run.judges(tmp_path_factory.mktemp("judges"))}


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """(folder of a finished run, its config, the process)."""
    work = tmp_path_factory.mktemp("tg")
    tg_run.write_rows(work)
    config = tg_run.write_config(work / "c.yaml", tg_run.sections(models, work, work / "run"))
    done = tg_run.run(config)
    assert done.returncode == 0, done.stderr + done.stdout
    return work / "run", config, done


def rows(path) -> list[dict]:
    return MetricsFile(path).rows()


def test_the_model_card_does_not_list_a_disabled_scorer():
    from recipes.translategemma import train
    from recipes.translategemma.settings import TranslateGemmaCfg

    cfg = TranslateGemmaCfg()
    assert "reward.xcomet.weight" in train.told(cfg) and not any("mqm" in name for name in train.told(cfg))
    cfg.reward.mqm.enabled, cfg.reward.xcomet.enabled = True, False
    assert train.told(cfg)["reward.mqm.weight"] == 1.0 and "reward.xcomet.weight" not in train.told(cfg)


def test_gpus_are_hidden_before_the_driver_starts(monkeypatch, capsys):
    """It reads CUDA_VISIBLE_DEVICES once, and `is_available` already starts it."""
    import torch

    from recipes.translategemma import train
    from recipes.translategemma.settings import TranslateGemmaCfg

    def wakes():
        raise AssertionError("asked before CUDA_VISIBLE_DEVICES was set")

    monkeypatch.setattr(torch.cuda, "is_available", wakes)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cfg = TranslateGemmaCfg()
    cfg.model.policy_gpu_ids, cfg.reward.metricx.device, cfg.reward.xcomet.enabled = [2], "cuda:0", False
    assert train.place_models(cfg) == {"metricx": "cuda:1"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,0"
    assert "policy cuda:2  metricx cuda:0" in capsys.readouterr().out


def test_the_run_folder_bears_the_names_of_the_recipe(finished):
    folder, _, _ = finished
    names = {path.name for path in folder.iterdir()}
    assert {
        "train_log.jsonl",
        "train_rollouts.jsonl",
        "eval_outputs.jsonl",
        "resolved_config.yaml",
        "data",
        "final",
        "evaluation.json",
        "report.html",
        "checkpoint-2",
        "checkpoint-4",
        "resume_latest",
    } <= names
    assert not {"metrics.jsonl", "rollouts.jsonl", "samples.jsonl"} & names


def test_every_update_and_every_evaluation_is_logged(finished):
    log = rows(finished[0] / "train_log.jsonl")
    train = [row for row in log if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert [row["step"] for row in log if row["kind"] == "eval"] == [0, 2, 4]
    for row in train:
        for key in ("reward/metricx", "reward/xcomet", "spans/xcomet", "token/reward_mean", "kl", "time/xcomet"):
            assert math.isfinite(row[key]), key


def test_rollouts_keep_log_probs_offsets_and_token_rewards(finished):
    found = rows(finished[0] / "train_rollouts.jsonl")
    assert len(found) == 4 * 8
    spanned = 0
    for row in found:
        n = len(row["token_ids"])
        columns = ("offsets", "token_rewards", "advantages", "old_logps", "ref_logps")
        assert n and all(len(row[name]) == n for name in columns)
        spanned += any(row["token_rewards"])
        assert row["gate"] is None or not any(row["token_rewards"])
    assert spanned


def test_eval_outputs_have_each_evaluation_and_the_start(finished):
    found = rows(finished[0] / "eval_outputs.jsonl")
    assert [row["step"] for row in found] == [2] * 6 + [4] * 6
    assert all({"source", "reference", "before", "after", "after_scores"} <= row.keys() for row in found)
    table = json.loads((finished[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert {"metricx", "xcomet", "xcomet_errors", "chrf"} <= table["after"].keys()
    assert "MetricX" in (finished[0] / "report.html").read_text(encoding="utf-8") or table


def test_the_same_command_again_prints_the_table(finished):
    done = tg_run.run(finished[1])
    assert done.returncode == 0 and "holds a finished run" in done.stdout
    assert "--logging.output_dir" in done.stdout.splitlines()[-1]
    done = tg_run.run(finished[1], "--rl.lr", "3e-6", "--logging.sample_steps", "7")
    assert done.returncode == 4 and "rl.lr" in done.stderr and "sample_steps" not in done.stderr


def test_the_resolved_configuration_is_the_one_that_ran(finished):
    resolved = yaml.safe_load((finished[0] / "resolved_config.yaml").read_text(encoding="utf-8"))
    assert resolved["rl"]["updates"] == 4 and resolved["reward"]["xcomet"]["overlap"] == "any"
    assert "huggingface_token" not in resolved["misc"]


def test_a_stopped_run_goes_on_to_the_same_bits(finished, models, tmp_path):
    """Stopped after two updates by max_hours, then the same command again."""
    tg_run.write_rows(tmp_path)
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    config = tg_run.write_config(tmp_path / "c.yaml", values)
    stopped = tg_run.run(config, "--rl.max_hours", "1e-9")
    assert stopped.returncode == 75, stopped.stderr
    assert "checkpoint-" in stopped.stderr
    resumed = tg_run.run(config)
    assert resumed.returncode == 0 and "resuming from" in resumed.stdout, resumed.stderr
    whole = finished[0]
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == (
        whole / "final" / "model.safetensors"
    ).read_bytes()
    assert rows(tmp_path / "run" / "train_rollouts.jsonl") == rows(whole / "train_rollouts.jsonl")


def go_on(stopped):
    """Run the command in the stopped run's last line."""
    said = stopped.stderr.strip().splitlines()[-1]
    assert said.startswith("continue with: "), stopped.stderr
    words = shlex.split(said.removeprefix("continue with: "))
    return command(*words[1:], "--rl.max_hours", "0")


@pytest.mark.slow
def test_the_printed_command_continues_the_run(finished, models, tmp_path):
    """With auto_resume false the same command would start from scratch in a new folder; the printed one must not."""
    tg_run.write_rows(tmp_path)
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    values["logging"]["auto_resume"] = False
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "used").touch()
    stopped = tg_run.run(tg_run.write_config(tmp_path / "c.yaml", values), "--rl.max_hours", "1e-9")
    assert stopped.returncode == 75, stopped.stderr
    done = go_on(stopped)
    assert done.returncode == 0 and "resuming from" in done.stdout, done.stderr
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run", "run-2"]
    for name in ("final/model.safetensors", "train_rollouts.jsonl"):
        assert (tmp_path / "run-2" / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.slow
def test_changed_data_are_refused_and_forced(finished, tmp_path):
    """As for any setting that must not change: status 4 before anything is loaded; --force reads the rows again."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder, symlinks=True)
    (folder / "evaluation.json").unlink()  # it was stopped just before its end
    held = (finished[1].parent / "heldout.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (tmp_path / "fewer.jsonl").write_text("\n".join(held), encoding="utf-8")
    changes = (
        "--logging.output_dir",
        folder,
        "--data.eval_file",
        tmp_path / "fewer.jsonl",
        "--rl.lr",
        "3e-5",
        "--data.max_train_samples",
        "30",
    )
    before = tree(folder)
    assert "data.max_train_samples: 0 → 30" in refused(finished[1], *changes, status=4)
    assert tree(folder) == before
    done = tg_run.run(finished[1], *changes, "--force")
    assert done.returncode == 0, done.stderr
    assert "data: 30 rows to train on, 4 held out" in done.stdout and "divergence: evaluations so far" in done.stdout
    assert "changed since the last start: rl.lr: 0.0001 → 3e-05" in done.stdout
    assert (folder / "earlier-data" / "data.json").exists()
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["rows"] == 4


def test_eval_only_trains_nothing(finished):
    """In the folder of a finished run: one more file, and the others unchanged."""
    folder, config, _ = finished
    before = tree(folder)
    done = tg_run.run(config, "--eval-only")
    assert done.returncode == 0, done.stderr
    assert "metricx" in done.stdout and "chrF++" in done.stdout and "step 1/" not in done.stdout
    after = tree(folder)
    assert [row["step"] for row in rows(folder / "eval_only_outputs.jsonl")] == [0] * 6
    assert set(after) - set(before) == {"eval_only_outputs.jsonl"}
    assert {name: after[name] for name in before} == before
    (folder / "eval_only_outputs.jsonl").unlink()


@pytest.mark.slow
def test_two_processes_train_one_policy_with_one_copy_of_each_judge(finished, models, tmp_path):
    """torchrun and gloo over the same code path: one log, one set of rollouts, every group whole."""
    tg_run.write_rows(tmp_path)
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    values["rl"] |= {"micro_batch_size": 4, "updates": 2}
    config = tg_run.write_config(tmp_path / "c.yaml", values)
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", *tg_run.MODULE)
    done = tg_run.command(*launcher, "--config", config)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 1/2") == 1
    folder = tmp_path / "run"
    rollouts = rows(folder / "train_rollouts.jsonl")
    assert [row["step"] for row in rollouts] == [1] * 8 + [2] * 8
    groups = {(row["step"], row["group"]): set() for row in rollouts}
    for row in rollouts:
        groups[row["step"], row["group"]].add(row["source"])
    assert len(groups) == 4 and all(len(sources) == 1 for sources in groups.values())
    before, whole = (json.loads((f / "before.json").read_text(encoding="utf-8")) for f in (folder, finished[0]))
    assert before["outputs"] == whole["outputs"]  # the same start policy, whichever process translates a row
    assert [row["step"] for row in rows(folder / "train_log.jsonl") if row["kind"] == "train"] == [1, 2]


@pytest.mark.slow
def test_a_named_checkpoint_is_gone_on_from_whatever_came_after(finished, models, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder, symlinks=True)
    (tmp_path / "train.jsonl").write_bytes((finished[1].parent / "train.jsonl").read_bytes())
    (tmp_path / "heldout.jsonl").write_bytes((finished[1].parent / "heldout.jsonl").read_bytes())
    values = tg_run.sections(models, finished[1].parent, folder)
    values["logging"] |= {"auto_resume": False, "resume_from_checkpoint": "checkpoint-2", "save_only_best": True}
    done = tg_run.run(tg_run.write_config(tmp_path / "c.yaml", values))
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout and "checkpoint-2 (step 2" in done.stdout
    assert "step 3/4" in done.stdout and "step 2/4" not in done.stdout
    names = {path.name for path in folder.iterdir()}
    # the newest checkpoint, its link and best are kept; everything after step 2 was set aside, not removed
    assert "resume_latest" in names and [n for n in names if n.startswith("checkpoint-")] == ["checkpoint-4"]
    assert "abandoned-checkpoint-4" in names
    latest = json.loads((folder / "resume_latest" / "trainer_state.json").read_text(encoding="utf-8"))
    assert latest["global_step"] == 4
    for name in ("final/model.safetensors", "train_rollouts.jsonl"):
        assert (folder / name).read_bytes() == (finished[0] / name).read_bytes()


@pytest.mark.slow
def test_a_checkpoint_of_another_run_starts_a_new_run_and_is_not_changed(finished, models, tmp_path):
    """Refused under other settings; after a stop, the printed command continues from this run's newest checkpoint."""
    other, data = finished[0], finished[1].parent
    before = tree(other)
    values = tg_run.sections(models, data, tmp_path / "run")
    values["logging"] |= {"auto_resume": False, "resume_from_checkpoint": str(other / "checkpoint-2")}
    values["rl"]["save_every"] = 1
    config = tg_run.write_config(tmp_path / "c.yaml", values)
    for changed in (("--generation.max_new_tokens", "20"), ("--reward.metricx.offset", "6")):
        done = tg_run.run(config, *changed)
        assert done.returncode == 4 and str(other) in done.stderr and "Traceback" not in done.stderr, done.stderr
    stopped = tg_run.run(config, "--rl.max_hours", "1e-9")
    assert stopped.returncode == 75 and "taken over from" in stopped.stdout, stopped.stderr
    assert "step 3/4" in stopped.stdout and "step 2/4" not in stopped.stdout
    done = go_on(stopped)
    assert done.returncode == 0 and "checkpoint-3 (step 3" in done.stdout, done.stderr
    assert tree(other) == before
    assert (tmp_path / "run" / "final/model.safetensors").read_bytes() == before["final/model.safetensors"]


@pytest.mark.slow
def test_a_judge_that_dies_costs_its_groups_but_not_the_run(models, tmp_path):
    """64 completions and one judge, which ends after the first test question."""
    tg_run.write_rows(tmp_path)
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    with JudgeServer(lambda src, mt: [], mode=lambda number: "status_503" if number else "plain") as server:
        values["reward"] = {
            "guards": "off",
            "metricx": {"enabled": False},
            "xcomet": {"enabled": False},
            "mqm": {
                "enabled": True,
                "endpoint": server.url,
                "model": "judge",
                "sentence_weight": 1.0,
                "timeout": 5,
                "deadline": 5,
            },
        }
        values["generation"]["num_samples_per_prompt"] = 8
        values["rl"] |= {"prompts_per_update": 8, "micro_batch_size": 64, "updates": 2}
        done = tg_run.run(tg_run.write_config(tmp_path / "c.yaml", values), "--skip_launch_gate")
    assert done.returncode == 0, done.stderr
    steps = [row for row in rows(tmp_path / "run" / "train_log.jsonl") if row["kind"] == "train"]
    assert [row["groups/skipped_share"] for row in steps] == [1.0, 1.0]
    assert all(row["token/unjudged_share"] > 0.9 for row in steps)  # empty completions need no judge
    assert all(row["time/mqm"] < 6 and row["mqm/calls"] < 64 for row in steps)
    start, final = (tmp_path / "run" / name / "model.safetensors" for name in ("start_policy", "final"))
    assert start.read_bytes() == final.read_bytes()  # without scores, nothing was learnt


# ---------------------------------------------------------------------- refused, before the policy is loaded


def refused(config, *flags, status=2, **env) -> str:
    """Return the last line of the failing command."""
    done = tg_run.run(config, *flags, **env)
    assert done.returncode == status, done.stderr
    assert "precision:" not in done.stdout and "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def config(models, tmp_path):
    tg_run.write_rows(tmp_path)
    return tg_run.write_config(tmp_path / "c.yaml", tg_run.sections(models, tmp_path, tmp_path / "run"))


def test_an_endpoint_that_answers_html_is_refused(config):
    from tiny_run import Server

    with Server(lambda method, path: (200, {"Content-Type": "text/html"}, HTML)) as server:
        flags = ("--reward.mqm.enabled", "True", "--reward.mqm.endpoint", server.url, "--reward.mqm.model", "judge")
        said = refused(config, *flags, status=69)
    assert "reward.mqm.endpoint" in said


def test_a_scorer_environment_without_the_package_is_refused(config, tmp_path):
    """A Python that runs, but has nothing installed."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    for name, lacks in (("xcomet", "torch, transformers"), ("metricx", "torch, transformers")):
        said = refused(config, f"--reward.{name}.python_executable", python)
        assert f"reward.{name}.python_executable" in said and f"has no {lacks};" in said
    said = refused(
        config,
        "--misc.independent_scorer",
        "/gone",
        "--reward.xcomet.enabled",
        "False",
        "--rl.credit",
        "sequence",
        "--reward.xcomet.python_executable",
        python,
    )
    assert "reward.xcomet.python_executable" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--rl.lrr", "1"), "rl.lr"),
        (("--optim.lr", "1"), "optim"),
        (
            (
                "--reward.mqm.enabled",
                "True",
                "--reward.mqm.endpoint",
                "http://x/v1",
                "--reward.mqm.model",
                "m",
                "--reward.mqm.api_key_env",
                "NO_SUCH_KEY",
            ),
            "NO_SUCH_KEY",
        ),
        (("--model.policy_gpu_ids", "0", "--reward.xcomet.device", "cuda:0"), "overlap"),
        (("--reward.metricx.model_name_or_path", "/nowhere/metricx"), "reward.metricx.model_name_or_path"),
        (("--rl.micro_batch_size", "3"), "micro_batch_size"),
    ],
)
def test_settings_that_cannot_work_are_one_line(config, flags, named):
    assert named in refused(config, *flags)


def test_evaluating_on_the_training_rows_is_refused(config, tmp_path):
    assert "data.eval_file" in refused(config, "--data.eval_file", tmp_path / "train.jsonl")


def test_translation_into_english(models, tmp_path):
    """From Tamil, with the recipe's own prompt; its cheats are those that need no words, of the held-out references."""
    back = [{"id": f"{i}", "source": tamil, "target": english} for i, (english, tamil) in enumerate(PAIRS)]
    for name, part in (("train", back[8:]), ("heldout", back[:8])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part), encoding="utf-8")
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    values["data"] |= {"source_lang": "ta", "target_lang": "en"}
    values["generation"]["prompt"] = ""
    values["rl"] |= {"updates": 2, "eval_every": 0, "save_every": 0}
    done = tg_run.run(tg_run.write_config(tmp_path / "c.yaml", values))
    assert done.returncode == 0, done.stderr + done.stdout
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    gate = table["launch_gate"]
    assert gate["passed"] and gate["pairs"] == 8 and gate["source"].endswith("need no words of English")
    assert "english_share" in table["after"] and math.isfinite(table["after"]["chrf"])
    card = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert "Tamil → English" in card and "professional Tamil (ta) to English (en) translator" in card
    assert sum(row["kind"] == "train" for row in rows(tmp_path / "run" / "train_log.jsonl")) == 2
