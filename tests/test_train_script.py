"""train_grpo_en_ta.py from the command line: whole runs on tiny models, and everything that is refused."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from field_docs import field_docs
from tiny_models import PAIRS
from tiny_run import ROOT, SENTENCES, command, environment, flags, settings, tree, write_data

import train_grpo_en_ta as script
from rl_nmt import config, errors, translate
from rl_nmt.models import policy
from rl_nmt.results import evaluation
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training import trl_settings

NOISE = "Warning|WARNING|Encoder model frozen|mtime|Traceback|new PAD/BOS/EOS|Could not estimate|Fetching|it/s"


@pytest.fixture
def small(tiny_all, tmp_path):
    """small(**changes) → flags of a run of seconds in tmp_path/run."""
    write_data(tmp_path)
    return lambda **changes: flags(settings(tiny_all, tmp_path, tmp_path / "run", **changes))


# --- the whole run -------------------------------------------------------------------------------------


def test_the_run_folder_is_complete(full_run):
    names = {path.name for path in full_run.folder.iterdir()}
    expected = {
        "resolved_config.yaml",
        "data",
        "metrics.jsonl",
        "samples.jsonl",
        "before.json",
        "evaluation.json",
        "final",
        "report.html",
        "reward_curve.png",
        "checkpoint-2",
        "checkpoint-4",
    }
    assert expected <= names
    assert (full_run.folder / "reward_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len((full_run.folder / "data" / "train.jsonl").read_text().splitlines()) == 24
    assert len((full_run.folder / "samples.jsonl").read_text().splitlines()) == 6


def test_the_screen_tells_the_story(full_run):
    out = full_run.done.stdout
    assert re.search(r"^data: 24 prompts, sha256 [0-9a-f]{12}$", out, re.MULTILINE)
    assert "precision: no CUDA device: CPU in fp32" in out
    assert "evaluating the start policy on 6 held-out rows" in out
    lines = re.findall(
        r"^step (\d)/4  reward \d\.\d{4}  ± \d\.\d{4}  kl \S+  length \S+  \d+ tok/s  \d+:\d\d left$", out, re.M
    )
    assert lines == ["1", "2", "3", "4"]
    assert out.count("    → ") == 4  # two samples at steps 2 and 4
    assert re.search(r"^chrF\+\+ +\d", out, re.MULTILINE) and "reward signature" in out
    assert out.rstrip().endswith(f"report {full_run.folder / 'report.html'}")


def test_no_noise_on_the_screen(full_run):
    assert not re.search(NOISE, full_run.done.stdout + full_run.done.stderr), full_run.done.stderr


def test_evaluation_json_has_the_keys_of_the_contract(full_run):
    result = json.loads((full_run.folder / "evaluation.json").read_text(encoding="utf-8"))
    for side in ("before", "after"):
        assert {"reward", "cycle", "qe", "chrf", "bleu", "tamil_share", "mean_length"} <= result[side].keys()
    assert set(result["p_value"]) == {"reward", "chrf", "bleu"}
    assert all(0 < p <= 1 for p in result["p_value"].values())
    assert {"reward", "chrf", "bleu"} <= result["signature"].keys()
    samples = [json.loads(line) for line in (full_run.folder / "samples.jsonl").open(encoding="utf-8")]
    assert {"source", "before", "after", "after_backtranslation", "before_scores", "after_scores"} <= samples[0].keys()


def test_launch_gate_monitor_and_choice_are_in_the_record(full_run):
    result = json.loads((full_run.folder / "evaluation.json").read_text(encoding="utf-8"))
    gate, best = result["launch_gate"], result["best"]
    assert gate["passed"] is True and gate["hard_wins"] == 0 and gate["source"] == "evaluation references"
    assert best["by"] == "chrF++" and best["step"] in (0, 2, 4)
    assert set(best["reported"]) == {"start", "best", "last", "best by reward"}
    assert (full_run.folder / "best").exists() == (best["step"] > 0)
    out = full_run.done.stdout
    assert "launch gate: passed" in out and "score outside the reward: chrF++" in out
    floor = float(re.search(r"^noise floor: (\S+);", out, re.MULTILINE)[1])
    assert 0 <= floor < 1e-5
    state = json.loads((full_run.folder / "checkpoint-4" / "run_state.json").read_text(encoding="utf-8"))
    assert state["notes"]["noise_floor"] == pytest.approx(floor, rel=0.1)
    assert [known[0] for known in state["parts"]["HeldOut"]["monitor"]["evaluations"]] == [0, 2]
    assert state["notes"]["launch_gate"]["passed"] is True


def test_the_doctors_dry_step_times_real_steps_and_leaves_nothing(small, tmp_path, main):
    assert main(*small(), "--dry_step")[0] == 2
    status, out, err = main(*small(max_steps=0), "--doctor", "--dry_step")
    assert status == 0, out + err
    assert re.search(r"^dry step: \d+\.\d s, the second \d+\.\d s: about \d:\d\d:\d\d for 12 steps$", out, re.MULTILINE)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_rollouts_hold_every_sample_and_the_lab_reads_them(full_run, capsys):
    import smoke_test_rewards

    rows = [json.loads(line) for line in (full_run.folder / "rollouts.jsonl").open(encoding="utf-8")]
    assert len(rows) == 4 * 8 and sorted({row["step"] for row in rows}) == [1, 2, 3, 4]
    assert all(len([r for r in rows if (r["step"], r["group"]) == (2, g)]) == 4 for g in (0, 1))
    trained = [
        json.loads(line)["reward/total"]
        for line in (full_run.folder / "metrics.jsonl").open(encoding="utf-8")
        if json.loads(line)["kind"] == "train"
    ]
    totals = [[r["total"] for r in rows if r["step"] == step] for step in (1, 2, 3, 4)]
    assert [sum(t) / len(t) for t in totals] == pytest.approx(trained)
    assert smoke_test_rewards.main(["--reweigh", str(full_run.folder / "rollouts.jsonl"), "--set", "w_qe=0.9"]) == 0
    assert "flip" in capsys.readouterr().out


@pytest.mark.parametrize("skip", [False, True])
def test_a_reward_that_cheats_can_win_is_not_trained_on(small, tmp_path, main, skip):
    line = small(guards="off", max_steps=1, save_steps=1)
    status, out, err = main(*line, *(["--skip_launch_gate"] if skip else []))
    if not skip:
        assert status == 3 and "launch gate" in err and "hard: 0 allowed" in err
        assert not list((tmp_path / "run").glob("checkpoint-*"))
        return
    assert status == 0 and "launch gate: skipped" in out
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert result["launch_gate"]["passed"] is None


def test_final_and_best_have_a_card(full_run):
    card = (full_run.folder / "final" / "README.md").read_text(encoding="utf-8")
    result = json.loads((full_run.folder / "evaluation.json").read_text(encoding="utf-8"))
    signature = evaluation.short_signature(result["signature"]["reward"]).split()[0]
    assert f"Signature `{signature}`" in card and f"| chrF++ | {result['before']['chrf']:.1f} |" in card
    assert "24 English sentences" in card and script.PROMPT in card and "| w_qe | 0.4 |" in card
    assert str(full_run.work) not in card and "canary" not in card
    assert (full_run.folder / "best" / "README.md").exists() == (result["best"]["step"] > 0)


def test_the_run_folder_has_no_model_card_of_another_tool(full_run):
    assert not (full_run.folder / "README.md").exists()
    assert "None" not in (full_run.folder / "final" / "README.md").read_text(encoding="utf-8").split("##")[0]


def test_a_finished_run_is_not_shown_for_other_settings(full_run, main):
    before = tree(full_run.folder)
    line = ("--config", full_run.config)
    status, out, err = main(*line, "--lr", "5e-6", "--trl.num_iterations", "2", "--max_new_tokens", "9")
    assert (status, out) == (4, "") and err.startswith("error: output_dir: ") and err.count("\n") == 1
    assert (
        " → 5e-06" in err
        and "lr: " in err
        and "trl.num_iterations" in err
        and "max_new_tokens" in err
        and "--fresh" in err
    )
    assert tree(full_run.folder) == before


def test_a_finished_run_is_shown_whatever_its_output_was_set_to(full_run, main):
    changes = {"logging_steps": 3, "sample_steps": 0, "save_steps": 4, "save_total_limit": 1, "save_rollouts": False}
    changes |= {"max_hours": 2.0, "use_wandb": False, "wandb_project": "other", "wandb_mode": "offline"}
    words = [str(word) for name, value in changes.items() for word in (f"--{name}", value)]
    assert not changes.items() <= full_run.settings.items()
    status, out, err = main("--config", full_run.config, *words)
    assert status == 0 and "holds a finished run" in out and "changed" not in err


def test_a_finished_run_is_pushed_when_asked(full_run, main, monkeypatch):
    for token, said in (("", "HF_TOKEN is not set"), ("hf_canary", "the hub cannot be reached")):
        monkeypatch.setenv("HF_TOKEN", token)
        status, out, err = main("--config", full_run.config, "--push_to", "me/tamil")
        assert status in (2, 69) and out == "" and said in err and "canary" not in err


def test_another_chat_model_is_refused(small, main):
    from tiny_qwen import tiny_qwen

    status, _, err = main(*small(model_id=tiny_qwen()))
    assert status == 2 and "not a Gemma chat model" in err


def test_the_resolved_configuration_reads_back_as_it_was(full_run):
    path = full_run.folder / "resolved_config.yaml"
    cfg, _, _ = config.parse(script.RunCfg, ["--config", str(path)], {}, "x", "x")
    given, _, _ = config.parse(script.RunCfg, ["--config", str(full_run.config)], {}, "x", "x")
    assert cfg == given
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert set(stored) == {f.name for f in dataclasses.fields(script.RunCfg)} - {"wandb_api_key"}


def test_final_loads_with_plain_transformers_and_stops_by_itself(full_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(full_run.folder / "final")
    model = AutoModelForCausalLM.from_pretrained(full_run.folder / "final")
    assert type(model).__name__ == "Gemma3ForCausalLM"
    ids = tokenizer(script.make_prompt(PAIRS[0][0]), return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=40)[0, ids.input_ids.shape[1] :].tolist()
    turn = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert out[-1] == turn and out.count(turn) == 1 and len(out) < 40
    assert (full_run.folder / "final" / "prompt.txt").read_text(encoding="utf-8") == script.PROMPT


def test_final_translates(full_run, tmp_path):
    english = [english for english, _ in PAIRS]
    (tmp_path / "in.txt").write_text("\n".join(english) + "\n", encoding="utf-8")
    line = ["--model", full_run.folder / "final", "--file", tmp_path / "in.txt", "--out", tmp_path / "out.txt"]
    assert translate.main([*map(str, line), "--max_new_tokens", "24", "--device", "cpu"]) == 0
    output = (tmp_path / "out.txt").read_text(encoding="utf-8").splitlines()
    after = {
        row["source"]: row["after"]
        for row in map(json.loads, (full_run.folder / "samples.jsonl").open(encoding="utf-8"))
    }
    assert {source: output[english.index(source)] for source in after} == after  # what the table was made of


def test_training_changed_the_weights_and_kept_the_start(full_run, tiny_policy):
    from safetensors.torch import load_file

    start, kept, final = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_policy, full_run.folder / "start_policy", full_run.folder / "final")
    )
    assert all(torch.equal(start[name], kept[name]) for name in start)
    assert all(not torch.equal(start[name], final[name]) for name in start)


def test_the_second_call_prints_the_table_and_does_nothing(full_run, main, monkeypatch):
    before = tree(full_run.folder)
    status, out, err = main("--config", full_run.config)
    assert (status, err) == (0, "")
    table = full_run.done.stdout[full_run.done.stdout.index("held-out, 6 rows") :].splitlines()
    assert out.splitlines()[:-1] == table[: len(out.splitlines()) - 1] and "--fresh" in out.splitlines()[-1]
    assert tree(full_run.folder) == before
    for name in ("require_environment", "load_policy", "build_reward"):  # a table needs none of them
        monkeypatch.setattr(script, name, lambda *_: pytest.fail("it was called"))
    monkeypatch.setattr(script.hub, "require_models", lambda *_: pytest.fail("it was called"))
    assert main("--config", full_run.config) == (0, out, "")


def test_eval_only_prints_a_table_and_leaves_the_run_alone(full_run, main):
    before = tree(full_run.folder)
    status, out, _ = main("--config", full_run.config, "--eval_only")
    assert status == 0 and "held-out, 6 rows" in out and "step 1/" not in out
    assert tree(full_run.folder) == before
    (line,) = re.findall(r"^chrF\+\+ {2,}.*", out, re.MULTILINE)
    start = json.loads((full_run.folder / "before.json").read_text(encoding="utf-8"))["metrics"]
    assert line.split()[1] == f"{start['chrf']:.1f}"


def test_eval_only_in_a_new_folder(small, main, tmp_path):
    status, out, _ = main(*small(), "--eval_only")
    assert status == 0 and "held-out, 6 rows" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"data"}


def test_fresh_starts_next_to_it_and_never_overwrites(full_run, main, tmp_path):
    used = tmp_path / "used"
    used.mkdir()
    (used / "evaluation.json").write_text("{}")
    line = flags(
        full_run.settings | {"output_dir": used, "use_wandb": False, "max_steps": 1, "save_steps": 0, "eval_steps": 0}
    )
    status, out, err = main(*line, "--fresh")
    assert status == 0, err
    assert tree(used) == {"evaluation.json": b"{}"}
    assert (tmp_path / "used-2" / "evaluation.json").exists() and "step 1/1" in out
    assert not list((tmp_path / "used-2").glob("checkpoint-*"))
    status, out, err = main(*line)
    assert (status, out) == (2, "") and "evaluation.json cannot be read" in err  # damaged: said, not redone


def test_lora_with_kl_and_no_tracker(small, main, tmp_path, tiny_all, monkeypatch):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("WANDB_DISABLED", "true")  # with use_wandb on, transformers alone would raise here
    lora = {"lora_rank": 4, "lora_alpha": 8, "lr": 1e-3, "gradient_checkpointing": True}
    # Without gates, samples that differ have rewards that differ, whatever this machine's samples are.
    line = small(**lora, guards="off", temperature=1.2, max_steps=2, save_steps=0, use_wandb=True)
    status, out, err = main(*line, "--skip_launch_gate")
    assert status == 0, err
    assert "W&B: disabled (WANDB_DISABLED is set)" in out and not (tmp_path / "run" / "wandb").exists()
    assert not (tmp_path / "run" / "start_policy").exists()  # the base without adapters is the reference
    rows = [row for row in MetricsFile(tmp_path / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2] and all("kl" in row for row in rows)
    final = tmp_path / "run" / "final"
    merged = AutoModelForCausalLM.from_pretrained(final).eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_all["policy"]).eval()
    ids = policy.load_tokenizer(str(final))(script.make_prompt(PAIRS[0][0]), return_tensors="pt")
    with torch.no_grad():
        start = base.double()(**ids).logits  # fp64: that sums are taken in another order does not count
        adapted = PeftModel.from_pretrained(base, final / "adapter").double().eval()(**ids).logits
        torch.testing.assert_close(merged.double()(**ids).logits, adapted, atol=1e-5, rtol=1e-5)
    assert (adapted - start).abs().max() > 1e-3


def test_a_killed_run_continues_from_its_newest_checkpoint(small, main, tmp_path, monkeypatch):
    """kill -9 in the middle of step 4 or later; and, on the way, W&B wanted without a key: it never asks.

    The precision of the reward is chosen once: the second machine would choose another.
    """
    line = small(max_steps=40, save_steps=2, use_wandb=True, reward_dtype="auto")
    log = (tmp_path / "log.txt").open("w")
    process = subprocess.Popen(
        [sys.executable, "train_grpo_en_ta.py", *line],
        cwd=ROOT,
        env=environment(HOME=tmp_path),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
    )
    folder, deadline = tmp_path / "run", time.monotonic() + 120
    while not (folder / "checkpoint-4" / "manifest.json").exists():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
        time.sleep(0.02)
    while not (metrics := MetricsFile(folder / "metrics.jsonl").rows()) or metrics[-1]["step"] < 5:
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log.txt").read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    log.close()
    said = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "W&B: offline (no W&B key" in said
    assert said.count("reward_dtype auto: float32 (on cpu)") == 1
    newest = max(int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*") if (p / "manifest.json").exists())
    before, config_text = (folder / "before.json").read_bytes(), (folder / "resolved_config.yaml").read_text()

    # what would only be found out when the table is drawn is refused before anything is touched
    def untouched():
        return {name: data for name, data in tree(folder).items() if not name.startswith(("wandb/", ".lock"))}

    left = untouched()
    for change, said in (
        ({"w_qe": 0.1}, "reward.w_qe: 0.4 → 0.1"),
        ({"max_new_tokens": 20}, "max_new_tokens: 24 → 20"),
        ({"group_size": 8}, "group_size: 4 → 8"),
        ({"num_train_samples": 16}, "num_train_samples: 24 → 16"),
    ):
        status, _, err = main(*small(max_steps=40, save_steps=2, **change))
        assert status == 4 and f"with other settings ({said})" in err and "--fresh" in err, err
    assert untouched() == left

    last = newest + 2
    monkeypatch.setattr("rl_nmt.scorers.comet.precision.half_types", lambda device: ("bfloat16",))
    monkeypatch.setattr("rl_nmt.scorers.comet.precision.LARGEST_ERROR", 1.0)
    status, out, err = main(*small(max_steps=last, save_steps=2, reward_dtype="auto"))
    assert status == 0 and "reward_dtype auto" not in err, err
    assert f"resuming from {folder}/checkpoint-{newest} (step {newest}, 0 min old: " in out
    assert f"changed since the last start: max_steps: 40 → {last}" in out
    assert "evaluating the start policy" not in out and (folder / "before.json").read_bytes() == before
    rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, last + 1))
    assert re.findall(r"^step (\d+)/", out, re.MULTILINE) == [str(newest + 1), str(last)]
    assert (folder / "evaluation.json").exists()
    assert (
        config_text.replace("max_steps: 40", f"max_steps: {last}").replace("use_wandb: true", "use_wandb: false")
        == (folder / "resolved_config.yaml").read_text()
    )


@pytest.mark.slow
def test_force_continues_under_other_settings(small, main, tmp_path):
    """Changed data are read again, the old are kept, and the start policy is measured again with the new reward."""
    folder = tmp_path / "run"
    assert main(*small(max_steps=2))[0] == 0
    start = json.loads((folder / "before.json").read_text(encoding="utf-8"))["signature"]["reward"]["identity"]["w_qe"]
    (folder / "evaluation.json").unlink()
    status, out, err = main(*small(max_steps=3, num_train_samples=16, w_qe=0.1), "--force")
    assert status == 0, err
    for change in ("reward.w_qe: 0.4 → 0.1", "num_train_samples: 24 → 16", "max_steps: 2 → 3"):
        assert f"changed since the last start: {change}" in out
    assert "before.json is made again" in out and "step 3/3" in out and "step 2/3" not in out
    assert "num_train_samples: 24 → 16" in (folder / "earlier-data" / "WHY.txt").read_text(encoding="utf-8")
    assert len((folder / "data" / "train.jsonl").read_text().splitlines()) == 16
    again = json.loads((folder / "before.json").read_text(encoding="utf-8"))["signature"]["reward"]["identity"]["w_qe"]
    assert (start, again) == (0.4, 0.1)


# --- help ----------------------------------------------------------------------------------------------


def test_help_comes_at_once_and_loads_nothing_heavy():
    code = (
        "import sys\n"
        "import train_grpo_en_ta as t\n"
        "try: t.main(['--help'])\n"
        "except SystemExit as left: status = left.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'numpy', 'comet'} & set(sys.modules)\n"
        "print(status, sorted(heavy), file=sys.stderr)"
    )
    done = command("-c", code)
    assert done.stderr == "0 []\n"
    shown = done.stdout
    assert all(f"--{f.name}" in shown for f in dataclasses.fields(script.RunCfg) if f.name != "wandb_api_key")
    assert "wandb_api_key" not in shown and all(f"--{name}" in shown for name in script.ACTIONS)


def test_help_of_the_command_itself():
    done = command("train_grpo_en_ta.py", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "--num_train_samples" in done.stdout


def test_every_field_has_a_sentence():
    docs = field_docs(script.RunCfg)
    assert [name for name, text in docs.items() if not text] == []


# --- shapes --------------------------------------------------------------------------------------------

GONE = {"model_id": "/gone/policy", "comet_da_model": "/gone/da"}


@pytest.mark.parametrize(
    ("batch", "accumulation", "group", "processes"),
    [(1, 7, 8, 1), (3, 4, 8, 1), (2, 5, 4, 1), (1, 1, 8, 1), (6, 1, 4, 1), (5, 3, 8, 2), (1, 100, 16, 1)],
)
def test_batch_shapes_that_do_not_divide_name_the_nearest(main, monkeypatch, batch, accumulation, group, processes):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    shape = {"per_device_batch_size": batch, "gradient_accumulation_steps": accumulation, "group_size": group}
    status, out, err = main(*flags(GONE | shape | {"num_train_samples": 10_000}))
    assert status == 2 and out == "" and err.startswith("error: gradient_accumulation_steps: ")  # not the missing model
    named = [int(n) for n in re.findall(r"\d+", err.split("nearest that work:")[1])]
    legal = [a for a in range(1, 2000) if a * batch * processes % group == 0]
    below, above = [a for a in legal if a < accumulation][-1:], [a for a in legal if a > accumulation][:2]
    assert (
        set(named) <= {*below, *above}
        and named == sorted(named)
        and min(abs(n - accumulation) for n in named) == min(abs(a - accumulation) for a in legal)
    )
    for value in named:
        status, _, err = main(
            *flags(GONE | shape | {"gradient_accumulation_steps": value, "num_train_samples": 10_000})
        )
        assert "error: model_id: no such folder: /gone/policy" in err  # the shape is accepted now


def test_too_few_prompts_for_one_step(main):
    """TRL would train zero steps and say nothing."""
    status, _, err = main(*flags(GONE | {"num_train_samples": 7}))  # the defaults take 8 prompts a step
    assert status == 2 and "num_train_samples: 7 prompts do not fill one generation of 8" in err


def test_grpoconfigs_arguments_for_vllm():
    from trl import GRPOConfig

    cfg = script.RunCfg(use_vllm=True, vllm_mode="server", vllm_server_host="node7", vllm_server_port=8123)
    told = trl_settings.vllm_options(cfg)
    assert told == {
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_host": "node7",
        "vllm_server_port": 8123,
        "vllm_gpu_memory_utilization": 0.3,
        "vllm_max_model_length": 4 * 300 + 100 + 256,
    }
    assert set(told) <= {f.name for f in dataclasses.fields(GRPOConfig)}
    assert trl_settings.vllm_options(script.RunCfg()) == {}


def test_every_optimizer_is_one_that_transformers_has():
    from typing import get_args, get_type_hints

    from transformers.training_args import OptimizerNames, TrainingArguments

    names = get_args(get_type_hints(script.RunCfg)["optimizer"])
    assert set(names) <= {member.value for member in OptimizerNames} and len(names) == 3
    assert script.RunCfg().optimizer == TrainingArguments(output_dir="x", use_cpu=True).optim  # TRL's


def test_the_longest_prompt_fits_vllms_limit(tiny_policy):
    tokenizer = policy.load_tokenizer(str(tiny_policy))
    for text in ("\U0001f642" * 20, "x" * 80):
        prompt = tokenizer(script.make_prompt(text)).input_ids
        cfg = script.RunCfg(use_vllm=True, max_chars=len(text), max_new_tokens=1)
        assert len(prompt) <= trl_settings.vllm_options(cfg)["vllm_max_model_length"]


# --- bad input -----------------------------------------------------------------------------------------

SETTINGS = [
    (["--group_size", "1"], 2, "group_size: 1 must be at least 2"),
    (["--num_train_samples", "0"], 2, "num_train_samples: 0 must be at least 1"),
    (["--max_new_tokens", "-5"], 2, "max_new_tokens: -5 must be at least 1"),
    (["--per_device_batch_size", "0"], 2, "per_device_batch_size: 0"),
    (["--gradient_accumulation_steps", "-1"], 2, "gradient_accumulation_steps: -1"),
    (["--num_eval_samples", "0"], 2, "num_eval_samples: 0"),
    (["--shuffle_buffer", "0"], 2, "shuffle_buffer: 0"),
    (["--lora_rank", "-1"], 2, "lora_rank: -1 must be at least 0"),
    (["--save_total_limit", "0"], 2, "save_total_limit: 0"),
    (["--max_steps", "-1"], 2, "max_steps: -1"),
    (["--max_hours", "-1"], 2, "max_hours: -1.0 must be at least 0"),
    (["--min_chars", "50", "--max_chars", "10"], 2, "min_chars: 50 is above max_chars: 10"),
    (["--lr", "0"], 2, "lr: 0"),
    (["--lr", "nan"], 2, "lr is 'nan', must be a finite number"),
    (["--temperature", "0"], 2, "temperature: 0.0"),
    (["--top_p", "0"], 2, "top_p: 0.0 must be in (0, 1]"),
    (["--top_p", "1.5"], 2, "top_p: 1.5"),
    (["--kl_beta", "-0.1"], 2, "kl_beta: -0.1"),
    (["--w_cycle", "-1"], 2, "w_cycle: -1.0 must be at least 0"),
    (["--w_cycle", "0", "--w_qe", "0"], 2, "both 0"),
    (["--expected_length_ratio", "0"], 2, "expected_length_ratio: 0.0 must be above 0"),
    (["--output_dir", " "], 2, "output_dir is empty"),
    (["--use_vllm", "True"], 2, "use_vllm: vLLM is not installed"),
    (["--vllm_mode", "beside"], 2, "vllm_mode"),
    (["--vllm_server_port", "0"], 2, "vllm_server_port: 0 must be in [1, 65535]"),
    (["--vllm_gpu_memory_utilization", "1.5"], 2, "vllm_gpu_memory_utilization: 1.5 must be in (0, 0.99]"),
    (["--optimizer", "adamw_bnb_8bit"], 2, "optimizer: adamw_bnb_8bit needs "),  # bitsandbytes, or a CUDA device
    (["--push_to", "me/tamil"], 2, "push_to: HF_TOKEN is not set"),
    (["--use_wandb", "maybe"], 2, "must be True or False"),
    (["--groupsize", "4"], 2, "did you mean group_size?"),
    (["--wandb_api_key", "canary-key"], 2, "WANDB_API_KEY"),
    (["--config", "no/such.yaml"], 2, "no such file"),
    (["--model_id", "/gone/policy"], 2, "model_id: no such folder: /gone/policy"),
    (["--model_id", "acme/policy"], 69, "model_id: acme/policy is not on this machine"),
    (["--comet_qe_model", "acme/kiwi"], 69, "comet_qe_model: acme/kiwi is not on this machine"),
    (["--backtranslation_model", "/gone/nllb"], 2, "backtranslation_model: no such folder"),
]


@pytest.mark.parametrize(("argv", "status", "said"), SETTINGS, ids=[" ".join(case[0]) for case in SETTINGS])
def test_bad_settings_are_one_line(small, main, tmp_path, argv, status, said, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    found, out, err = main(*small(), *argv)
    assert (found, out) == (status, "") and said in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "canary" not in err
    assert not (tmp_path / "run").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"lr: [1, 2", "is not valid YAML"),
        (b"- lr\n- 1", "is not a mapping"),
        (b"lr: \xff", "is not UTF-8"),
        (b"learning_rate: 1", "unknown key 'learning_rate'"),
        (b"lr: fast", "lr"),
        (b"wandb_api_key: canary-key", "is a secret"),
    ],
)
def test_bad_yaml_is_one_line(main, tmp_path, content, said):
    (tmp_path / "bad.yaml").write_bytes(content)
    status, out, err = main("--config", tmp_path / "bad.yaml")
    assert (status, out) == (2, "") and said in err and "canary" not in err
    assert err.startswith("error: ") and err.count("\n") == 1


def write(path, data: bytes):
    path.write_bytes(data)
    return path


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


DATA = [
    ("gone.jsonl", None, {}, "no such file"),
    ("a.jsonl", jsonl({"text": s} for s in SENTENCES), {"text_field": "body"}, "has no column 'body', it has text"),
    ("a.jsonl", jsonl({"text": s} for s in SENTENCES[:60]) + b'{"text": \n', {}, "line 61 is not valid JSON"),
    ("a.jsonl", jsonl({"text": s} for s in SENTENCES[:20]) + b'{"text": "\xff"}\n', {}, "line 21 is not UTF-8"),
    ("a.json.gz", gzip.compress(jsonl({"text": s} for s in SENTENCES), mtime=0)[:400], {}, "is not a whole gzip file"),
    ("a.parquet", b"PAR1 nothing else", {}, "is not a whole Parquet file"),
    ("a.jsonl", jsonl({"text": s} for s in SENTENCES[:10]), {}, "10 were read"),
    ("a.jsonl", jsonl({"text": s} for s in SENTENCES), {"min_chars": 75}, "too few rows"),
    ("a.jsonl", b"", {}, "is empty"),
]


@pytest.mark.parametrize(("name", "content", "changes", "said"), DATA, ids=[f"{d[0]} {d[3]}" for d in DATA])
def test_bad_data_is_one_line(small, main, tmp_path, name, content, changes, said):
    if content is not None:
        write(tmp_path / name, content)
    status, out, err = main(*small(dataset_name=tmp_path / name, **changes))
    assert (status, out) == (2, "") and said in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert tree(tmp_path / "run") == {}


def test_too_few_rows_say_why_they_fell_out(small, main, tmp_path):
    rows = [*SENTENCES[:10], "short", "short", SENTENCES[0], "var x = {1};"]
    write(tmp_path / "a.jsonl", jsonl({"text": s} for s in rows))
    _, _, err = main(*small(dataset_name=tmp_path / "a.jsonl"))
    assert "14 were read and 10 kept" in err and "duplicate 1" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"one\ttwo\tthree\n", "has 3 columns"),
        (b"\xff\t\xff\n", "is not UTF-8"),
        (b"", "holds no row"),
    ],
)
def test_bad_evaluation_files_are_one_line(small, main, tmp_path, content, said):
    path = tmp_path / "bad.tsv"
    if content is not None:
        path.write_bytes(content)
    status, out, err = main(*small(eval_file=path))
    assert (status, out) == (2, "") and said in err and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("place", ["file", "file/below"])
@pytest.mark.parametrize("action", [[], ["--fresh"], ["--eval_only"]])
def test_an_output_folder_that_cannot_be_written(small, main, tmp_path, place, action):
    """A file in the way: tests may run as root, who may write anywhere."""
    (tmp_path / "file").write_text("mine")
    status, out, err = main(*small(output_dir=tmp_path / place), *action)
    assert (status, out) == (73, "") and err.startswith(f"error: output_dir: {tmp_path / place} cannot be written")
    assert err.count("\n") == 1 and (tmp_path / "file").read_text() == "mine"


def test_a_run_without_references_prints_it_and_continues(small, main, tmp_path):
    status, out, _ = main(*small(eval_file="", eval_dataset="none"), "--eval_only")
    assert status == 0 and "evaluation without references" in out and "held-out, 6 rows" in out
    assert "\nchrF++ " not in out
    status, out, _ = main(*small(eval_file="", eval_dataset="google/wmt24pp"), "--eval_only")  # the hub is not there
    assert status == 0 and "no evaluation references" in out and "evaluation without references" in out


def test_training_sentences_are_not_evaluated_on(tmp_path, tiny_all, capsys):
    write_data(tmp_path)
    rows = [*SENTENCES[:60], *(english.upper() for english, _ in PAIRS[:6])]  # upper case hides nothing
    write(tmp_path / "a.jsonl", jsonl({"text": s} for s in rows))
    changes = {"dataset_name": str(tmp_path / "a.jsonl"), "num_train_samples": 54, "num_eval_samples": 12}
    cfg = script.RunCfg(**settings(tiny_all, tmp_path, tmp_path / "run", **changes))
    (tmp_path / "run").mkdir()
    train, held_out, _ = script.load_data(cfg, tmp_path / "run")
    overlap = {english.casefold() for english, _ in PAIRS} & {text.casefold() for text in train}
    assert len(train) == 54 and len(overlap) >= 3
    assert {row["source"] for row in held_out} == {e for e, _ in PAIRS if e.casefold() not in overlap}
    assert f"{len(overlap)} evaluation rows are in the training data: left out" in capsys.readouterr().out


def test_no_gpu_and_no_hub_is_reported_within_seconds():
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": "/nonexistent"}
    done = command("train_grpo_en_ta.py", timeout=60, **nowhere)  # the hub's own retries can take longer
    assert done.returncode == 69 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: model_id: google/gemma-3-1b-it is not on this machine")
    assert "make train" in done.stderr


def test_the_command_itself_ends_in_one_line():
    done = command("train_grpo_en_ta.py", "--group_size", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: group_size: 1") and done.stderr.count("\n") == 1


def test_defaults_are_those_of_the_contract():
    cfg = script.RunCfg()
    script.check(cfg)
    assert (cfg.model_id, cfg.dataset_name, cfg.dataset_config) == ("google/gemma-3-1b-it", "allenai/c4", "en")
    assert (cfg.num_train_samples, cfg.group_size, cfg.per_device_batch_size) == (2000, 8, 1)
    assert cfg.lora_rank > 0 and cfg.gradient_accumulation_steps > 1 and cfg.eval_dataset == "google/wmt24pp"
    assert "canary" not in repr(script.RunCfg(wandb_api_key="canary"))


def test_a_comparison_is_possible_only_on_the_same_measure(tmp_path):
    rows = [{"source": "a", "reference": "அ"}]

    class Reward:
        def signature(self):
            return {"identity": {"w": 1}, "environment": {"torch": "2"}}

    decoding = "greedy|max_new_tokens:8"
    before = evaluation.Snapshot(
        ["a"], ["அ"], ["x"], [{}], {}, {"reward": {"identity": {"w": 1}}, "decoding": decoding}
    )
    evaluation.require_same_measure(before, rows, Reward(), 8)
    for changed in (([{"source": "b", "reference": "அ"}], 8), ([{"source": "a"}], 8), (rows, 9)):
        with pytest.raises(errors.ConfigError):
            evaluation.require_same_measure(before, changed[0], Reward(), changed[1])


def test_the_doctor_says_go_and_writes_nothing_or_no_go_with_its_worst_status(small, main, tmp_path):
    status, out, err = main(*small(), "--doctor")
    assert (status, err) == (0, "") and out.splitlines()[-1].startswith("go") and not (tmp_path / "run").exists()
    status, out, _ = main(*small(group_size=3, comet_qe_model="acme/none"), "--doctor")
    assert status == 69 and "comet_qe_model" in out and "nearest that work" in out
    assert out.splitlines()[-1].startswith("no-go: 3")  # settings, the model, batches
