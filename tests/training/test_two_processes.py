"""A run in several processes over gloo on the CPU: the same result as with one process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import fault_trials
import pytest
import tiny_run
import torch
from process_trials import Processes
from tiny_models import PAIRS

from bench import replay_processes
from rl_nmt import distributed
from rl_nmt.models import generate, policy
from rl_nmt.results import evaluation
from rl_nmt.runs.metrics_file import MetricsFile

# --- held-out evaluation -------------------------------------------------------------------------------


def _evaluate(models, rows):
    """The Snapshot, and how many rows this process has scored and batches it has generated."""
    import train_grpo_en_ta as script
    from rewards_en_ta_dupo import CometDuPOReward

    evaluation.SCORED_TOGETHER = 4
    batches, scored = [], []
    original = generate._generate_batch
    generate._generate_batch = lambda model, rows, settings: batches.append(rows) or original(model, rows, settings)
    tokenizer = policy.load_tokenizer(models["policy"])
    model = policy.load_policy(models["policy"], tokenizer, policy.Precision("cpu", torch.float32, False, "test"))
    reward = CometDuPOReward(models["da"], models["qe"], models["nllb"], backtranslation_beams=1)
    components = reward.score_components
    reward.score_components = lambda *a, **k: scored.append(len(a[1])) or components(*a, **k)
    shot = evaluation.evaluate(
        model, tokenizer, rows, script.make_prompt, reward, script.task(), max_new_tokens=16, batch_size=3
    )
    return dataclasses.asdict(shot), scored, len(batches)


def test_evaluation_in_several_processes_is_that_of_one(tiny_all, tmp_path):
    """Eleven rows: four batches, three blocks; the third of three processes has a batch and a block."""
    models = {name: str(path) for name, path in tiny_all.items()}
    rows = [{"source": english, "reference": tamil} for english, tamil in PAIRS[:10]] + [{"source": "Rain."}]
    ((alone, scored, batches),) = Processes(tmp_path / "1", [0], _evaluate, models, rows).results(120)
    assert scored == [4, 4, 3] and batches == 4 and len({text for text in alone["outputs"]}) > 4
    for count, calls, made in ((2, [[4, 3], [4, 0]], [2, 2]), (3, [[4], [4], [3]], [2, 1, 1])):
        told = Processes(tmp_path / str(count), list(range(count)), _evaluate, models, rows).results(120)
        assert [each[1] for each in told] == calls and [each[2] for each in told] == made
        assert all(each[0] == alone for each in told)


def _generate_under_zero3(model, prompts):
    """With DeepSpeed's ZeRO-3 transformers keeps all processes generating as long as one does: all must take part."""
    from transformers.integrations import deepspeed

    batches = []
    original = generate._generate_batch
    generate._generate_batch = lambda model, rows, settings: batches.append(rows) or original(model, rows, settings)
    tokenizer = policy.load_tokenizer(model)
    loaded = policy.load_policy(model, tokenizer, policy.Precision("cpu", torch.float32, False, "test"))
    zero3 = type("ZeRO3", (), {"is_zero3": lambda self: True, "config": {}})()
    if int(os.environ["WORLD_SIZE"]) > 1:
        distributed.start()
        deepspeed.set_hf_deepspeed_config(zero3)
    return generate.generate_together(loaded, tokenizer, prompts, max_new_tokens=8, batch_size=2), len(batches)


def test_no_process_is_idle_while_others_generate_with_sharded_weights(tiny_policy, tmp_path):
    import train_grpo_en_ta as script

    prompts = [script.make_prompt(english) for english, _ in PAIRS[:5]]
    ((alone, _),) = Processes(tmp_path / "1", [0], _generate_under_zero3, str(tiny_policy), prompts).results()
    told = Processes(tmp_path / "2", [0, 1], _generate_under_zero3, str(tiny_policy), prompts).results()
    assert told == [(alone, 2), (alone, 2)] and len(set(alone)) > 1  # three batches for two: the second has one extra


# --- groups --------------------------------------------------------------------------------------------


def _advantages(line, folder):
    """Advantages of this process's recorded samples, and what the trainer logs about all groups."""
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    found, logged = [], {}
    original = GuardedGRPOTrainer._generate_and_score_completions

    def keep(self, inputs):
        self.noise_floor = 1e-3
        out = original(self, inputs)
        found.extend(out["advantages"].tolist())
        logged.update({name: values[-1] for name, values in self._metrics["train"].items() if name[:6] == "groups"})
        return out

    GuardedGRPOTrainer._generate_and_score_completions = keep
    replay_processes.replay(line, folder)
    return found, logged


def test_groups_that_are_split_over_processes_obey_the_rules_as_one(tiny_all, tmp_path):
    """Three groups of four over four processes of three samples: each group is split.

    By its part alone the first would be a tie on both processes, the second would be ranked where its scores are,
    and the third would be ranked by noise.
    """
    totals = [1.0, 1.0, 1.0, 0.0, 0.2, 0.9, None, None, 0.5, 0.5004, 0.5, 0.5002]
    line = tiny_run.split_argv(tiny_all, tmp_path)
    Processes(tmp_path / "record", [0], replay_processes.record, line, tmp_path).results(120)
    recorded = torch.load(tmp_path / replay_processes.ROLLOUTS, weights_only=True)
    for row, total in zip(recorded["rows"], totals, strict=True):
        row["total"] = total
    torch.save(recorded, tmp_path / replay_processes.ROLLOUTS)
    told = Processes(tmp_path / "four", [0, 1, 2, 3], _advantages, line, tmp_path).results(120)
    by_hand = [0.25 / 0.5001] * 3 + [-0.75 / 0.5001] + [0.0] * 8  # mean 0.75, deviation 0.5, TRL adds 1e-4
    assert [value for each in told for value in each[0]] == pytest.approx(by_hand, abs=1e-6)
    for _, logged in told:
        assert logged == pytest.approx(
            {
                "groups/skipped_share": 1 / 3,
                "groups/tied_share": 1 / 3,
                "groups/missing_share": 2 / 12,
            }
        )


# --- reward models of one machine ----------------------------------------------------------------------


def _rewards(models, batches, how):
    from rewards_en_ta_dupo import CometDuPOReward

    reward = CometDuPOReward(models["da"], models["qe"], models["nllb"], backtranslation_beams=1, reward_models=how)
    loaded = [part is not None for part in (getattr(reward.qe, "_model", reward.qe), reward.da)]
    english, tamil = zip(*batches[distributed.rank()], strict=True)
    totals = [reward(None, list(tamil), source=list(english)) for _ in range(2)]
    return totals, loaded, reward.signature(), reward.last_log


def test_shared_reward_models_give_what_those_of_each_process_give(tiny_all, tmp_path):
    """In the second process every output is gated: it has nothing to ask, and must come by all the same."""
    models = {name: str(path) for name, path in tiny_all.items()}
    batches = [PAIRS[:5], [(english, english) for english, _ in PAIRS[5:8]], PAIRS[3:8]]
    told = {
        how: Processes(tmp_path / how, [0, 1, 2], _rewards, models, batches, how).results(120)
        for how in ("each", "shared")
    }
    assert [loaded for _, (loaded, _), _, _ in told["shared"]] == [True, False, False]
    assert told["shared"][1][0] == [[0.0] * 3] * 2
    for each, shared in zip(told["each"], told["shared"], strict=True):
        for ours, theirs in zip(each[0], shared[0], strict=True):
            assert theirs == pytest.approx(ours, abs=1e-5) and None not in theirs
        assert each[2] == shared[2]


def _chosen(model, how):
    from rewards_en_ta_dupo import CometDuPOReward
    from rl_nmt.scorers.comet import precision

    measured = []
    precision.half_types = lambda device: measured.append(device) or ("bfloat16",)  # as on a card
    precision.LARGEST_ERROR = 1.0
    reward = CometDuPOReward("", model, "", w_cycle=0.0, reward_dtype="auto", reward_models=how)
    return measured, reward.settings.reward_dtype, reward.signature()["identity"]["qe"]["dtype"]


@pytest.mark.parametrize("how", ["each", "shared"])
def test_the_main_process_chooses_the_precision_for_all(tiny_comet_qe, tmp_path, how):
    told = Processes(tmp_path, [0, 1], _chosen, str(tiny_comet_qe), how).results(120)
    assert told == [(["cpu"], "bfloat16", "bfloat16"), ([], "bfloat16", "bfloat16")]


# --- a run ---------------------------------------------------------------------------------------------


def _train(cfg, prepare=None):
    distributed.start()
    distributed.mute_others()
    print(f"process {distributed.rank()}")
    with distributed.together():
        fault_trials.train(cfg, prepare=prepare)


def _die_in_the_second(step):
    """kill -9 of process 1 in the reward call after this step."""
    original = fault_trials.die_after(step)
    return lambda trainer: original(trainer) if distributed.rank() == 1 else None


def _settings(model, folder):
    """Six samples per process and step: of three groups of four the middle one is split."""
    return fault_trials.settings(model, folder, per_device_batch_size=2, gradient_accumulation_steps=3, kl_beta=0.0)


def _state(folder):
    """Everything that a run has come to, but for clock readings, and each process's random state."""
    last = folder / "checkpoint-6"
    random = {path.name: torch.load(path, weights_only=False) for path in sorted(last.glob("rng_state*"))}
    return {
        "weights": (last / "model.safetensors").read_bytes(),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "random": random,
        "metrics": [fault_trials.without_clock(row) for row in MetricsFile(folder / "metrics.jsonl").rows()],
        "rollouts": MetricsFile(folder / "rollouts.jsonl").rows(),
        "best": [path.read_bytes() for path in folder.glob("best/model.safetensors")],  # none: the start policy
    }


@pytest.fixture(scope="module")
def whole(tiny_policy, tmp_path_factory):
    """(the group, the folder) of a run of six steps in two processes, never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    group = Processes(folder.with_name("group"), [0, 1], _train, _settings(tiny_policy, folder))
    group.results(120)
    return group, folder


def test_the_main_process_alone_prints_and_writes(whole):
    group, folder = whole
    main, other = (trial.out.read_text() for trial in group.trials)
    assert main.startswith("process 0\n") and main.count("step 6/6") == 1 and "held-out at step 3" in main
    assert other == ""
    rows = MetricsFile(folder / "metrics.jsonl").rows()
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 3, 6]
    assert {path.name for path in (folder / "checkpoint-6").glob("rng*")} == {"rng_state_0.pth", "rng_state_1.pth"}


def test_the_samples_of_all_processes_are_kept_in_whole_groups(whole):
    rollouts = MetricsFile(whole[1] / "rollouts.jsonl").rows()
    assert [row["step"] for row in rollouts] == [step for step in range(1, 7) for _ in range(12)]
    assert [row["group"] for row in rollouts] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2] * 6
    for start in range(0, len(rollouts), 4):
        assert len({row["source"] for row in rollouts[start : start + 4]}) == 1


def test_logs_are_about_the_samples_of_all_processes(whole):
    metrics = [row for row in MetricsFile(whole[1] / "metrics.jsonl").rows() if row["kind"] == "train"]
    rollouts = MetricsFile(whole[1] / "rollouts.jsonl").rows()
    for row, start in zip(metrics, range(0, 72, 12), strict=True):
        totals = [sample["total"] for sample in rollouts[start : start + 12]]
        assert row["reward/total"] == pytest.approx(sum(totals) / 12)
        assert row["reward"] == pytest.approx(sum(totals) / 12, abs=1e-5)  # TRL's own, which is float32
        lengths = {len(set(totals[:6])), len(set(totals[6:]))}
        assert lengths != {1}


def test_a_run_that_lost_a_process_continues_to_the_same_bits(whole, tiny_policy, tmp_path):
    folder = tmp_path / "run"
    cfg = _settings(tiny_policy, folder)
    (status, _, error), (died, _, _) = Processes(tmp_path / "a", [0, 1], _train, cfg, _die_in_the_second(5)).wait(120)
    assert (status, died) == (69, 137)
    assert "error: process 0 of 2 " in error
    assert error.splitlines()[-1].startswith("continue with: ")
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    group = Processes(tmp_path / "b", [0, 1], _train, cfg)
    group.results(120)
    assert "resuming from" in group.trials[0].out.read_text()
    assert fault_trials.differences(_state(folder), _state(whole[1])) == []


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(tiny_policy, tmp_path):
    cfg = _settings(tiny_policy, tmp_path / "run")
    signalled = fault_trials.at_step(2, "_calculate_rewards", lambda: os.kill(os.getpid(), signal.SIGTERM))
    group = Processes(tmp_path / "a", [0, 1], _train, cfg, lambda t: signalled(t) if distributed.rank() == 1 else None)
    ends = group.wait(120)
    assert [status for status, _, _ in ends] == [143, 143]
    assert "SIGTERM, after step 3; checkpoint-3 is saved" in ends[0][2]
    assert (tmp_path / "run" / "checkpoint-3" / "manifest.json").exists()


@pytest.mark.slow
def test_losses_not_logged_yet_are_those_of_each_process(tiny_policy, tmp_path):
    """Logged at steps 3 and 6, saved at 4: each process's own loss of step 4 belongs to the mean at 6."""
    rows = []
    for name, deaths in (("whole", ()), ("resumed", (5,))):
        cfg = dataclasses.replace(_settings(tiny_policy, tmp_path / name), logging_steps=3)
        for step in deaths:
            Processes(tmp_path / f"{name}-dies", [0, 1], _train, cfg, _die_in_the_second(step)).wait(120)
        Processes(tmp_path / f"{name}-ends", [0, 1], _train, cfg).results(120)
        rows.append([fault_trials.without_clock(r) for r in MetricsFile(tmp_path / name / "metrics.jsonl").rows()])
    assert rows[0] == rows[1] and sum("loss" in row for row in rows[0]) == 2


# --- the script, under torchrun ------------------------------------------------------------------------


def _torchrun(models, folder, **changes) -> list[str]:
    """The command of a run of the script in two processes: six samples each per step."""
    tiny_run.write_data(folder)
    changes = {"per_device_batch_size": 2, "gradient_accumulation_steps": 3, "eval_steps": 2} | changes
    settings = tiny_run.settings(models, folder, folder / "run", **changes)
    (folder / "tiny.yaml").write_text(json.dumps(settings))
    return [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "train_grpo_en_ta.py",
        "--config",
        str(folder / "tiny.yaml"),
    ]


def _child(parent: int, rank: int) -> int:
    """The process that torchrun has started with this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            ours = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if ours and f"RANK={rank}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"torchrun has no process {rank}")


@pytest.mark.slow
def test_the_script_in_two_processes_with_shared_reward_models(tiny_all, tmp_path):
    done = tiny_run.command(*_torchrun(tiny_all, tmp_path, reward_models="shared", save_rollouts=True))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("step 4/4") == done.stdout.count("launch gate: passed") == 1
    assert done.stdout.count("held-out, 6 rows") == 1
    folder = tmp_path / "run"
    assert {"final", "evaluation.json", "report.html", "resolved_config.yaml"} <= {p.name for p in folder.iterdir()}
    rollouts = MetricsFile(folder / "rollouts.jsonl").rows()
    metrics = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert len(rollouts) == 48 and len(metrics) == 4
    for row, start in zip(metrics, range(0, 48, 12), strict=True):
        samples = rollouts[start : start + 12]
        cycles = [s["components"]["cycle"] for s in samples if s["gate"] is None]
        assert row["reward/gated_share"] == pytest.approx(sum(s["gate"] is not None for s in samples) / 12)
        assert row.get("reward/cycle") == (pytest.approx(sum(cycles) / len(cycles)) if cycles else None)
    again = tiny_run.command(*_torchrun(tiny_all, tmp_path, reward_models="shared", save_rollouts=True))
    assert again.returncode == 0 and "holds a finished run" in again.stdout and again.stdout.count("before") == 1


@pytest.mark.slow
def test_kill_9_of_one_process_ends_the_job_with_a_message(tiny_all, tmp_path):
    command = [sys.executable, *_torchrun(tiny_all, tmp_path, max_steps=1000, save_steps=2, eval_steps=0)]
    log, metrics = tmp_path / "log.txt", tmp_path / "run" / "metrics.jsonl"
    with log.open("w") as out:
        job = subprocess.Popen(command, cwd=tiny_run.ROOT, env=tiny_run.environment(), stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
            assert job.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        main, other = _child(job.pid, 0), _child(job.pid, 1)
        os.kill(other, signal.SIGKILL)
        start = time.monotonic()
        assert job.wait(60) != 0
        took = time.monotonic() - start
    finally:
        job.kill()
        job.wait()
    said = log.read_text()
    print(f"down after {took:.1f} s")
    assert not Path(f"/proc/{main}").exists()
    assert "error: process 0 of 2 cannot continue: another process of this run has ended" in said
    assert "Signal 9 (SIGKILL)" in said  # torchrun's own word for the other
    (line,) = [line for line in said.splitlines() if line.startswith("continue with: ")]
    words = shlex.split(line.removeprefix("continue with: "))
    assert words == command  # the launcher included
    done = tiny_run.command(*words[1:], "--max_steps", "6")
    assert done.returncode == 0 and "resuming from" in done.stdout, done.stderr
