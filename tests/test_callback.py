"""The callback: the rows in metrics.jsonl and in W&B's own record of a run."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
import types
from collections import defaultdict
from pathlib import Path

import pandas
import pytest
import torch
import wandb
from hang_guard import ends_within
from tiny_models import PAIRS
from tiny_run import ROOT, SENTENCES, FullRun
from transformers import TrainerControl, TrainerState, TrainingArguments

import train_grpo_en_ta as script
from rl_nmt.models import policy
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run
from rl_nmt.runs.wandb_run import finish_wandb, start_wandb
from wandb_reward_callback import WandbRewardCallback

ALWAYS = {"loss", "kl", "grad_norm", "completions/mean_length", "reward/total", "reward/gated_share"}
SCORED = {"reward/cycle", "reward/qe", "reward/length_penalty"}  # of outputs that pass the gates


def wandb_record(folder: Path) -> tuple[list[dict], list]:
    """(history rows, all other records) of the newest offline run below `folder`, read with W&B's own reader."""
    path = max(folder.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    for _ in range(100):  # W&B's own process may still be writing
        history, others = read_wandb(path)
        if any(record.WhichOneof("record_type") == "exit" for record in others):
            break
        time.sleep(0.1)
    return history, others


def read_wandb(path: Path) -> tuple[list[dict], list]:
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    store, history, others = DataStore(), [], []
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            history.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
        else:
            others.append(record)
    return history, others


# --- the whole run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(full_run):
    return MetricsFile(full_run.folder / "metrics.jsonl").rows()


@pytest.fixture(scope="module")
def history(full_run):
    return wandb_record(full_run.folder)[0]


def test_every_step_is_in_the_file(rows):
    kinds = [(row["kind"], row["step"]) for row in rows]
    assert [step for kind, step in kinds if kind == "train"] == [1, 2, 3, 4]
    assert [step for kind, step in kinds if kind == "eval"] == [0, 2, 4]  # before, on the way, after
    assert kinds[-2:] == [("end", 4), ("eval", 4)]
    train = [row for row in rows if row["kind"] == "train"]
    assert all(row.keys() >= ALWAYS for row in train)
    assert all((row.keys() >= SCORED) == (row["reward/gated_share"] < 1) for row in train)


def test_rows_are_in_wandbs_record(rows, history):
    """All that TRL logs too, through the one sender that may fail without harm: the Trainer's own is off."""
    assert len([row for row in history if "train/reward/total_ema" in row]) == 4
    landed = defaultdict(dict)
    for row in history:
        if "train/global_step" in row:
            landed[row["train/global_step"]].update(row)
    for row in rows:
        if row["kind"] != "train":
            continue
        there = landed[row["step"]]
        for name, value in row.items():
            if name in ("step", "kind", "epoch") or value is None:
                continue
            assert there[f"train/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    ours = [(row["step"], row["chrf"]) for row in rows if row["kind"] == "eval"]
    theirs = [(row["train/global_step"], row["eval/chrf"]) for row in history if "eval/chrf" in row]
    assert len(ours) == 3 and [step for step, _ in ours] == [step for step, _ in theirs]
    assert [value for _, value in ours] == pytest.approx([value for _, value in theirs])


def test_the_axis_is_the_optimizer_step(full_run):
    metrics = [r.metric for r in wandb_record(full_run.folder)[1] if r.WhichOneof("record_type") == "metric"]
    assert {"train/global_step", "*"} <= {m.name or m.glob_name for m in metrics}
    assert {m.step_metric for m in metrics if m.glob_name == "*"} == {"train/global_step"}


def test_averages_against_pandas(rows):
    train = pandas.DataFrame([row for row in rows if row["kind"] == "train"])
    for name in ("reward/total", "reward/gated_share", "reward/length", "reward/distinct_share"):
        expected = train[name].ewm(alpha=0.1, adjust=False).mean()
        assert train[f"{name}_ema"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9), name
    assert not [name for name in train.columns if name.startswith("time/") and name.endswith("_ema")]


def documented() -> list[str]:
    """One pattern per key of docs/metrics.md: `<…>` stands for a name."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys = re.findall(r"^- `([^`]+)`: ", text, re.MULTILINE)
    return [".+".join(map(re.escape, re.split(r"<[^>]+>", key))) for key in dict.fromkeys(keys)]


def test_every_logged_key_is_documented(rows):
    patterns = documented()
    for row in rows:
        unknown = [key for key in row if not any(re.fullmatch(pattern, key) for pattern in patterns)]
        assert unknown == [], row["kind"]


def test_nothing_is_documented_that_is_never_logged(rows):
    logged = {key for row in rows for key in row}
    elsewhere = {"reward/gate/.+", "runtime", "samples_per_second", "steps_per_second", "reward/missing_share"}
    elsewhere |= {"policy_loss", "entropy_coef", "cispo_clip_ratio", "vespo/phi_seq_mean"}  # other settings
    elsewhere |= {pattern for pattern in documented() if pattern.startswith(("sampling/", "raft/"))}  # vLLM, RAFT
    never = [p for p in documented() if p not in elsewhere and not any(re.fullmatch(p, key) for key in logged)]
    assert never == []


def test_the_key_typed_into_the_script_goes_nowhere(full_run):
    assert FullRun.KEY in (full_run.work / "train_grpo_en_ta.py").read_text(encoding="utf-8")
    key = FullRun.KEY.encode()
    files = [p for p in full_run.folder.rglob("*") if p.is_file()]
    assert len(files) > 20 and any(p.suffix == ".wandb" for p in files)
    assert [str(p) for p in files if key in p.read_bytes()] == []
    assert FullRun.KEY not in full_run.done.stdout + full_run.done.stderr
    _, others = wandb_record(full_run.folder)
    (run,) = [record.run for record in others if record.WhichOneof("record_type") == "run"]
    sent = {item.key for item in run.config.update}
    assert "lr" in sent and "wandb_api_key" not in sent
    assert not [r for r in others if b"diff.patch" in r.SerializeToString()]


def test_an_unreachable_server_is_reported_with_the_upload_command(full_run):
    said = full_run.done.stdout
    assert "W&B: offline (http://127.0.0.1:9: cannot be reached" in said
    (line,) = re.findall(r"upload later with `wandb sync (.+)`", said)
    assert list(Path(line).glob("run-*.wandb"))


# --- by itself -----------------------------------------------------------------------------------------


class Logged:
    """What a callback knows of a reward."""

    def __init__(self):
        self.last_log, self.last_eval_log, self.last_rows = {}, {}, []


@pytest.fixture
def step(tmp_path, monkeypatch):
    """step(callback, number, values) plays one optimizer step; no W&B run is active."""
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None))
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)

    def play(callback, number, values=None, logs=None, main=True, begin=False):
        state, control = TrainerState(global_step=number, is_world_process_zero=main), TrainerControl()
        control.should_log = logs is not None
        if number == 0 or begin:
            return callback.on_train_begin(args, state, control)
        if values is not None:
            callback.reward_fn.last_log = values
        callback.on_step_end(args, state, control)
        if logs is not None:
            callback.on_log(args, state, control, logs=logs)

    return play


def read(folder: Path) -> list[dict]:
    return MetricsFile(folder / "metrics.jsonl").rows()


def test_a_value_that_is_missing_for_a_while_keeps_its_average(step, tmp_path):
    callback = WandbRewardCallback(Logged(), ema=0.5)
    step(callback, 0)
    for number, values in enumerate([{"a": 1.0}, {"b": 4.0}, {"a": 0.0, "b": 2.0}, {"a": None}], 1):
        step(callback, number, values)
    found = [(row.get("a_ema"), row.get("b_ema")) for row in read(tmp_path)]
    assert found == [(1.0, None), (1.0, 4.0), (0.5, 3.0), (0.5, 3.0)]


def test_log_every_thins_rows_but_not_averages(step, tmp_path):
    callback = WandbRewardCallback(Logged(), log_every=3, ema=0.5)
    step(callback, 0)
    for number in range(1, 8):
        step(callback, number, {"a": float(number)}, logs={"loss": 0.1 * number})
    expected = pandas.Series(range(1, 8)).ewm(alpha=0.5, adjust=False).mean()
    assert [(row["step"], row["a_ema"]) for row in read(tmp_path)] == [(3, expected[2]), (6, expected[5])]
    assert [row["loss"] for row in read(tmp_path)] == pytest.approx([0.3, 0.6])


def test_a_step_without_a_trainers_log_is_written_at_once(step, tmp_path):
    callback = WandbRewardCallback(Logged())
    step(callback, 0)
    step(callback, 1, {"a": 1.0})
    assert [row["step"] for row in read(tmp_path)] == [1]
    step(callback, 2, {"a": 2.0}, logs={"loss": 0.5, "a": 1.5})  # TRL's is averaged over logging_steps: ours stays
    assert read(tmp_path)[1] == {"step": 2, "kind": "train", "loss": 0.5, "a": 2.0, "a_ema": pytest.approx(1.1)}


def test_only_the_main_process_writes(step, tmp_path):
    callback = WandbRewardCallback(Logged())
    step(callback, 0, main=False)
    step(callback, 1, {"a": 1.0}, logs={"loss": 1.0}, main=False)
    step(callback, 2, {"a": 1.0}, main=False)
    assert read(tmp_path) == [] and not (tmp_path / "metrics.jsonl").exists()


def test_a_resumed_run_continues_its_averages_and_cuts_repeated_rows(step, tmp_path):
    whole = WandbRewardCallback(Logged(), path=tmp_path / "whole.jsonl")
    step(whole, 0)
    for number in range(1, 7):
        step(whole, number, {"a": number**0.5})
    first, second = (WandbRewardCallback(Logged()) for _ in range(2))
    step(first, 0)
    for number in range(1, 6):
        step(first, number, {"a": number**0.5})
    args = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    second.on_train_begin(args, TrainerState(global_step=3, is_world_process_zero=True), TrainerControl())
    for number in range(4, 7):
        step(second, number, {"a": number**0.5})
    assert read(tmp_path) == MetricsFile(tmp_path / "whole.jsonl").rows()


@pytest.mark.parametrize(
    ("options", "said"), [({"ema": 1.0}, "ema: 1.0"), ({"ema": -0.1}, "ema"), ({"log_every": 0}, "log_every: 0")]
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        WandbRewardCallback(Logged(), **options)


def test_a_tracker_that_raises_warns_once_and_loses_no_row(step, tmp_path, monkeypatch, capsys):
    def refuse(row):
        raise OSError("disk full")

    callback = WandbRewardCallback(Logged())
    step(callback, 0)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=object(), log=refuse))
    for number in (1, 2, 3):
        step(callback, number, {"a": 1.0})
    assert [row["step"] for row in read(tmp_path)] == [1, 2, 3]
    assert capsys.readouterr().err.count("W&B refused a row") == 1


def test_wandb_gets_trls_numbers_too_where_the_trainer_does_not_send_them(step, tmp_path, monkeypatch):
    sent = []
    callback = WandbRewardCallback(Logged())
    step(callback, 0)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=object(), log=sent.append))
    step(callback, 1, {"a": 1.0}, logs={"loss": 0.5, "a": 1.0})  # report_to is empty
    assert sent == [{"train/loss": 0.5, "train/a": 1.0, "train/a_ema": 1.0, "train/global_step": 1}]


def start_again(step, folder, state):
    """A callback that continues from `state` at step 2."""
    callback = WandbRewardCallback(Logged(), path=folder / "metrics.jsonl")
    callback.load_state_dict(state)
    step(callback, 2, begin=True)
    return callback


@pytest.fixture
def stopped(step, tmp_path):
    """The state of a callback at step 2, after which the run came as far as step 3."""
    callback = WandbRewardCallback(Logged(), path=tmp_path / "metrics.jsonl")
    step(callback, 0)
    callback.record("eval", 0, {"chrf": 50.0})
    for number in (1, 2):
        step(callback, number, {"a": float(number)})
    state = callback.state_dict()
    step(callback, 3, {"a": 3.0})
    return state


def test_the_newest_folder_of_a_resumed_offline_run_holds_every_step_once(step, stopped, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    first = start_wandb("offline", tmp_path, project="p")
    finish_wandb()
    assert start_wandb("offline", tmp_path, first, project="p") == first
    try:
        callback = start_again(step, tmp_path, stopped)
        for number in (3, 4):
            step(callback, number, {"a": 10.0 * number})
    finally:
        finish_wandb()
    history, others = wandb_record(tmp_path)
    trained = [(row["train/global_step"], row["train/a"]) for row in history if "train/a" in row]
    assert trained == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]
    assert [row["eval/chrf"] for row in history if "eval/chrf" in row] == [50.0]
    assert {r.run.run_id for r in others if r.WhichOneof("record_type") == "run"} == {first}


@pytest.mark.parametrize("known, sent_again", [(True, 0), (False, 3)])
def test_rows_are_sent_again_only_to_a_server_that_does_not_know_the_run(
    step, stopped, tmp_path, monkeypatch, known, sent_again
):
    sent = []
    run = types.SimpleNamespace(resumed=known)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=run, log=sent.append))
    start_again(step, tmp_path, stopped)
    assert len(sent) == sent_again


# --- in TRL's trainer ----------------------------------------------------------------------------------


def test_training_and_evaluation_stay_apart_in_trls_trainer(tiny_all, tmp_path, monkeypatch):
    """By hand, without the script: TRL's own evaluation calls the same reward between two training steps."""
    from datasets import Dataset
    from trl import GRPOConfig

    from rewards_en_ta_dupo import CometDuPOReward
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run=None, __spec__=None))
    reward = CometDuPOReward(str(tiny_all["da"]), str(tiny_all["qe"]), str(tiny_all["nllb"]), backtranslation_beams=1)
    tokenizer = policy.load_tokenizer(str(tiny_all["policy"]))
    model = policy.load_policy(
        str(tiny_all["policy"]), tokenizer, policy.Precision("cpu", torch.float32, False, ""), "eager"
    )
    args = GRPOConfig(
        output_dir=str(tmp_path),
        num_generations=4,
        max_completion_length=24,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=8,
        max_steps=2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        learning_rate=1e-5,
    )
    known = [{"prompt": script.make_prompt(english), "source": english} for english, _ in PAIRS[:4]]
    foreign = [{"prompt": "x" * 40, "source": text} for text in SENTENCES[:2]]  # the policy babbles: gated
    with torch.random.fork_rng(devices=[]):
        trainer = GuardedGRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(known),
            eval_dataset=Dataset.from_list(foreign),
            callbacks=[WandbRewardCallback(reward)],
        )
        trainer.train()
    rows = read(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows[:4]] == [("train", 1), ("eval", 1), ("train", 2), ("eval", 2)]
    for row in rows[:4]:
        assert row["reward/total"] == pytest.approx(row["reward"], abs=1e-6)  # each kind carries its own call's numbers
    train, evaluation = rows[2], rows[3]
    assert train["reward/gated_share"] < evaluation["reward/gated_share"]
    assert not [key for key in evaluation if key.endswith("_ema") or key.startswith("eval_")]
    patterns = documented()
    assert not [key for row in rows for key in row if not any(re.fullmatch(p, key) for p in patterns)]


# --- W&B's start ---------------------------------------------------------------------------------------


@pytest.fixture
def wandb_free(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    wandb.teardown()  # what it has read of the environment stays for the life of a process
    yield monkeypatch
    wandb.teardown()


def test_switched_off(wandb_free, tmp_path):
    assert script.setup_wandb(script.RunCfg(use_wandb=False), Run(tmp_path)) is False
    wandb_free.setenv("WANDB_DISABLED", "true")
    assert script.setup_wandb(script.RunCfg(), Run(tmp_path)) is False
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_costs_seconds_and_the_key_is_not_written(wandb_free, tmp_path, capsys):
    import wandb

    with socket.socket() as quiet:
        quiet.bind(("127.0.0.1", 0))
        quiet.listen()  # accepts, and never answers
        wandb_free.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{quiet.getsockname()[1]}")
        try:
            with ends_within(60):
                assert script.setup_wandb(script.RunCfg(wandb_api_key=FullRun.KEY), Run(tmp_path)) is True
            assert wandb.run.settings._offline and wandb.run.settings.disable_git and not wandb.run.settings.save_code
            assert wandb.run.config["lr"] == script.RunCfg.lr and "wandb_api_key" not in wandb.run.config
        finally:
            wandb.finish()
            wandb_free.delenv("WANDB_API_KEY", raising=False)
    assert "W&B: offline" in capsys.readouterr().out
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and FullRun.KEY.encode() in p.read_bytes()]
