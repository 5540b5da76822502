"""Check whether a run that is killed and resumed equals an uninterrupted one bit for bit. A stage of `bench.gpu`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import torch
from torch.utils._pytree import tree_flatten

from bench import shapes, texts
from bench.measure import GROUP
from bench.train_step import Recorded
from rl_nmt import errors
from rl_nmt.runs.metrics_file import read_rows

STEPS, EVERY = 4, 2  # of the run; steps between checkpoints
CLOCKS = ("time/", "memory/", "step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
FLAGS = (
    "--lora_rank 0 --eval_dataset none --attn_implementation eager --num_train_samples 8 --num_eval_samples 8 "
    "--max_chars 600 --max_new_tokens 12 --per_device_batch_size 16 --gradient_accumulation_steps 1 --lr 1e-4 "
    f"--warmup_steps 0 --max_steps {STEPS} --save_steps {EVERY} --use_wandb False --skip_launch_gate "
    "--headroom_prompts 0 --patience 0"
).split()


class Dying(Recorded):
    """Kill the process in call number `last`, counted from 1; 0: never."""

    def __call__(self, prompts, completions, source=None, **columns):
        self.calls.append(len(completions))
        if len(self.calls) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(prompts, completions, source, **columns)


def compare(folder: Path) -> dict[str, bool]:
    """Run the flagship three times below `folder`: to its end, killed in the last step, and resumed from that.

    Rewards are those of recorded Tamil. Raises RuntimeError if a run has the wrong exit status.
    """
    lines = dict.fromkeys(json.dumps({"text": item.english}) + "\n" for item in texts.items(24 * GROUP))
    (folder / "english.jsonl").write_text("".join(lines), encoding="utf-8")
    paths = {
        "model_id": shapes.policy("tiny", folder),
        "comet_da_model": shapes.comet("regression_metric", "tiny", folder),
        "comet_qe_model": shapes.comet("unified_metric", "tiny", folder),
        "backtranslation_model": shapes.nllb("tiny", folder),
        "dataset_name": folder / "english.jsonl",
    }
    line = [*FLAGS, *(word for key, path in paths.items() for word in (f"--{key}", str(path)))]
    whole, killed = folder / "whole", folder / "killed"
    # Imports take most of the time, so the first two run concurrently.
    for runs in (((whole, 0, 0), (killed, STEPS, -signal.SIGKILL)), ((killed, 0, 0),)):
        processes = [multiprocessing.get_context("spawn").Process(target=train, args=(line, *run[:2])) for run in runs]
        for process in processes:
            process.start()
        for process, (run, _, status) in zip(processes, runs, strict=True):
            process.join()
            if process.exitcode != status:
                raise RuntimeError(f"the run in {run.name} ended with status {process.exitcode}, not {status}")
    outcomes = zip(*map(outcome, (whole, killed)), strict=True)
    return dict(zip(("weights", "optimizer", "metrics"), [equal(a, b) for a, b in outcomes], strict=True))


def train(line: list[str], run: Path, last: int) -> None:
    """Train to the end, or to reward call `last`."""
    import train_grpo_en_ta as script

    load = script.build_reward
    script.build_reward = lambda cfg: Dying(load(cfg), peaks={}, calls=[], last=last)
    errors.run(lambda: script.main([*line, "--output_dir", str(run)]))


def outcome(run: Path) -> tuple[dict, dict, list[dict]]:
    """Return weights, optimizer state and metrics at the end, without times."""
    from safetensors.torch import load_file

    last = run / f"checkpoint-{STEPS}"
    rows = read_rows(run / "metrics.jsonl")
    metrics = [{key: value for key, value in row.items() if not key.startswith(CLOCKS)} for row in rows]
    return load_file(last / "model.safetensors"), torch.load(last / "optimizer.pt", map_location="cpu"), metrics


def equal(one, other) -> bool:
    """Whether all numbers are equal to the last bit, tensors included; False without any."""
    (ours, form), (others, other_form) = tree_flatten(one), tree_flatten(other)
    same = (torch.equal(a, b) if torch.is_tensor(a) else a == b for a, b in zip(ours, others, strict=False))
    return bool(ours) and form == other_form and all(same)
