"""Kill, disturb and restart runs: helpers of test_checkpoints.py and test_faults.py.

A trial is a forked child of the test process: everything is already imported, so one takes two or three
seconds. Only the reward is lighter than in a real run (text measures, no neural scorer); the policy, the
trainer, its callbacks and every file are real.
"""

from __future__ import annotations

import builtins
import faulthandler
import gc
import io
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from tiny_run import SENTENCES

import train_grpo_en_ta as script
import wandb_reward_callback  # noqa: F401  heavy imports once here, not in every child
from rl_nmt import distributed, errors
from rl_nmt.results import export, report  # noqa: F401
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.text.languages import TAMIL
from rl_nmt.text.unicode import script_share
from rl_nmt.training import setup  # noqa: F401

REFERENCE = "அம்மா இங்கே வா வா ஆசை முத்தம் தா தா இலையில் சோறு போட்டு ஈயைத் தூர ஓட்டு"
CLOCK = ("time/", "memory/", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")


class TextReward:
    """Reward Tamil letters, penalise length: a real reward function with a state but no model."""

    __name__ = "comet_dupo"

    def __init__(self):
        self.last_log, self.last_eval_log, self.last_rows, self.seen = {}, {}, [], 0

    def __call__(self, prompts, completions, source=None, **columns):
        self.seen += len(completions)
        self.last_rows = self.score_components(prompts, completions, source=source)
        totals = [row["total"] for row in self.last_rows]
        self.last_log = {"reward/total": sum(totals) / len(totals), "reward/seen": float(self.seen)}
        return totals

    def score_components(self, prompts, completions, source):
        return [
            {"source": english, "output": text, "gate": None, "total": script_share(text, TAMIL) - len(text) % 17 / 100}
            for english, text in zip(source, completions, strict=True)
        ]

    def signature(self):
        return {"identity": {"reward": "text/1"}, "environment": {}}

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def settings(model: Path, folder: Path, **changes) -> script.RunCfg:
    """Six steps of two prompts, KL on, a checkpoint every second step."""
    return script.RunCfg(
        **{
            "model_id": str(model),
            "attn_implementation": "eager",
            "lora_rank": 0,
            "kl_beta": 0.05,
            "group_size": 4,
            "per_device_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": 6,
            "max_new_tokens": 8,
            "lr": 1e-3,
            "warmup_steps": 3,
            "save_steps": 2,
            "sample_steps": 0,
            "eval_steps": 3,
            "save_rollouts": True,
            "output_dir": str(folder),
            "use_wandb": False,
            "headroom_prompts": 0,
            "patience": 0,
            **changes,
        }
    )


def train(cfg: script.RunCfg, sentences=16, prepare=None, force=False, during_evaluation=None) -> int:
    """Run the script's own `main` with lighter parts; in a separate process, since they stay replaced.

    `prepare(trainer)` is called just before training, `during_evaluation(trainer)` in every evaluation.
    """
    build, evaluator = script.build_trainer, script.evaluator
    trainers = []

    def build_trainer(*parts):
        trainers.append(build(*parts))
        if prepare:
            prepare(trainers[0])
        return trainers[0]

    def moving(cfg, policy, rows, reward):
        """Evaluations whose scores depend on the weights, so that best/ changes with them."""
        evaluate = evaluator(cfg, policy, rows, reward)

        def look(model):
            if during_evaluation and trainers:
                during_evaluation(trainers[0])
            snapshot = evaluate(model)
            weight = max(float(p.detach().abs().sum()) for p in model.parameters() if p.requires_grad) % 1.0
            snapshot.outputs = [REFERENCE[: 1 + int(weight * len(REFERENCE))]] * len(rows)
            snapshot.components = [{**row, "total": weight} for row in snapshot.components]
            return snapshot

        return look

    rows = [{"source": text, "reference": REFERENCE} for text in SENTENCES[:4]]
    script.load_data = lambda cfg, folder: (SENTENCES[:sentences], rows, "data")
    script.build_reward = lambda cfg: TextReward()
    script.require_environment, script.models = (lambda cfg: None), (lambda cfg: [])
    script.build_trainer, script.evaluator = build_trainer, moving
    config = Path(f"{cfg.output_dir}-log{distributed.rank()}.yaml")  # each of several processes writes its own
    script.config.save_resolved(cfg, config)
    return script.main(["--config", str(config), "--skip_launch_gate", *(["--force"] if force else [])])


# --- forked trials -------------------------------------------------------------------------------------


class Trial:
    """A forked child that runs `function(*args)` through errors.run; .wait() gives (status, stdout, stderr)."""

    def __init__(self, log: Path, function, *args, **kwargs):
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        sys.stdout.flush(), sys.stderr.flush()
        # A child must not destroy what has threads in its parent: a CTranslate2 translator would wait for them forever.
        gc.collect()
        gc.freeze()
        self.pid = os.fork()
        if self.pid == 0:
            self._child(function, args, kwargs)
        gc.unfreeze()

    def _child(self, function, args, kwargs):
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            for path, stream in ((self.out, 1), (self.err, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), stream)
            sys.stdout, sys.stderr = io.TextIOWrapper(io.FileIO(1, "w")), io.TextIOWrapper(io.FileIO(2, "w"))
            faulthandler.enable(sys.stderr)  # a child that does not end prints where it hangs
            torch.set_num_threads(1)
            torch.manual_seed(time.time_ns() % 2**31)  # nothing may depend on the parent's random state
            try:
                errors.run(lambda: function(*args, **kwargs) and None)
            except SystemExit as left:
                status = left.code
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
        finally:
            os._exit(status)

    def wait(self, seconds: float = 300) -> tuple[int, str, str]:
        """Return exit status (128 + signal when killed) and output; after `seconds`, end it with its traceback."""
        deadline = time.monotonic() + seconds
        while (done := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGABRT)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"no end after {seconds} s: {self.out.read_text()}{self.err.read_text()}")
            time.sleep(0.01)
        status = os.waitstatus_to_exitcode(done[1])
        return (128 - status if status < 0 else status), self.out.read_text(), self.err.read_text()

    def until(self, condition, seconds: float = 120) -> None:
        """Wait until `condition()`; the child must be alive."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert os.waitpid(self.pid, os.WNOHANG)[0] == 0, self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)


def trial(folder: Path, function, *args, **kwargs) -> tuple[int, str, str]:
    """Run `function` in a forked child and wait for it; the log is next to `folder`."""
    return Trial(folder.with_name(folder.name + "-log"), function, *args, **kwargs).wait()


# --- what must be identical ----------------------------------------------------------------------------


def die_after(step: int):
    """Return a `prepare` for `train`: die as by kill -9 in the reward call of the step after `step`."""
    return at_step(step, "_calculate_rewards", lambda: os._exit(137))


def at_step(step: int, method: str, action):
    """Return a `prepare` for `train`: after `step` steps, call `action()` in the next call of `trainer.method`."""

    def prepare(trainer):
        original, done = getattr(trainer, method), []

        def wrapped(*args, **kwargs):
            if trainer.state.global_step >= step and not done:
                done.append(True)
                action()
            return original(*args, **kwargs)

        setattr(trainer, method, wrapped)

    return prepare


def without_clock(row: dict) -> dict:
    return {key: value for key, value in row.items() if not key.startswith(CLOCK)}


def outcome(folder: Path, step: int) -> dict:
    """Return parameters, optimizer, schedule, random state, other state and metrics at the end of a run."""
    last = folder / f"checkpoint-{step}"
    weights = next(p for p in (last / "adapter_model.safetensors", last / "model.safetensors") if p.exists())
    state = json.loads((last / "run_state.json").read_text())
    state["parts"]["trainer"]["unlogged_metrics"] = {
        mode: without_clock(metrics) for mode, metrics in state["parts"]["trainer"]["unlogged_metrics"].items()
    }
    metrics = state["parts"]["WandbRewardCallback"]
    metrics["averages"] = without_clock(metrics["averages"])
    history = json.loads((last / "trainer_state.json").read_text())
    history["log_history"] = [without_clock(row) for row in history["log_history"]]
    return {
        "weights": weights.read_bytes(),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "scheduler": torch.load(last / "scheduler.pt", weights_only=True),
        "random": torch.load(last / "rng_state.pth", weights_only=False),
        "state": state,
        "trainer": history,
        "metrics": [without_clock(row) for row in MetricsFile(folder / "metrics.jsonl").rows()],
        "table": (folder / "evaluation.json").read_text(),
        "rollouts": MetricsFile(folder / "rollouts.jsonl").rows(),
        "best": {p.name: p.read_bytes() for p in (folder / "best").glob("*.safetensors")},
    }


def differences(a, b, path: str = "") -> list[str]:
    """Return where two outcomes are not bit for bit equal; [] if they are."""
    if type(a) is not type(b):
        return [f"{path}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{path}: keys {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [line for key in a for line in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} entries"]
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in differences(x, y, f"{path}/{i}")]
    if torch.is_tensor(a):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [f"{path}: tensors differ"]
    if hasattr(a, "tolist"):
        return differences(a.tolist(), b.tolist(), path)
    return [] if a == b or (a != a and b != b) else [f"{path}: {str(a)[:60]} and {str(b)[:60]}"]


# --- faults --------------------------------------------------------------------------------------------


class DiskFault:
    """Count the writes inside checkpoint saves, and make the `at`-th one fail.

    `how`: "die" leaves the file incomplete and ends the process as kill -9 would; "full" raises ENOSPC instead,
    at that write and, with `stays`, at every later one of the save.
    """

    def __init__(self, at: int | None, how: str = "die", save: int = 2, stays: bool = False):
        self.at, self.how, self.save, self.stays = at, how, save, stays
        self.count, self.saves, self.inside = 0, 0, False

    def __call__(self, trainer) -> None:
        import peft.peft_model
        import transformers.modeling_utils

        original = trainer._save_checkpoint

        def save(model, trial):
            self.saves += 1
            self.inside = self.saves >= self.save if self.stays else self.saves == self.save
            try:
                original(model, trial)
            finally:
                self.inside = False
                Path(f"{trainer.args.output_dir}.writes").write_text(str(self.count))

        trainer._save_checkpoint = save
        torch.save = self._whole(torch.save, 1)
        transformers.modeling_utils.safe_save_file = self._whole(transformers.modeling_utils.safe_save_file, 1)
        peft.peft_model.safe_save_file = self._whole(peft.peft_model.safe_save_file, 1)
        builtins.open = io.open = self._opened(builtins.open)
        os.replace, os.rename, os.unlink = map(self._before, (os.replace, os.rename, os.unlink))
        shutil.rmtree = self._before(shutil.rmtree)

    def _hit(self) -> bool:
        if not self.inside:
            return False
        self.count += 1
        return self.at is not None and (self.count == self.at or (self.stays and self.count > self.at))

    def _fail(self, path=None):
        if self.how == "die":
            os._exit(137)
        raise OSError(28, "No space left on device", str(path))

    def _whole(self, write, position):
        def wrapped(*args, **kwargs):
            hit = self._hit()
            inside, self.inside = self.inside, False  # files that it opens itself belong to the same write
            try:
                write(*args, **kwargs)
            finally:
                self.inside = inside
            if hit:
                path = args[position]
                os.truncate(path, os.path.getsize(path) // 2)
                self._fail(path)

        return wrapped

    def _opened(self, open_):
        def wrapped(file, mode="r", *args, **kwargs):
            hit = not isinstance(file, int) and any(letter in mode for letter in "wax+") and self._hit()
            opened = open_(file, mode, *args, **kwargs)
            if hit:
                opened.close()
                self._fail(file)
            return opened

        return wrapped

    def _before(self, function):
        def wrapped(*args, **kwargs):
            if self._hit() and self.how == "die":
                os._exit(137)
            return function(*args, **kwargs)

        return wrapped


def flip(folder):
    """Change one bit of a checkpoint's weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(bytes(data))
