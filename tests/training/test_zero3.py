"""configs/accelerate/zero3_8gpu.yaml on two CPU processes: the same weights as by DDP, resumed to the same bits.

Long, and only where DeepSpeed is there, in the environment or in the folder .venv-deepspeed:

    .venv/bin/pip install --no-deps --target .venv-deepspeed -r requirements-deepspeed.txt
    .venv/bin/python -m pytest -m slow tests/training/test_zero3.py
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tg_run
import torch
from safetensors.torch import load_file
from tiny_run import ROOT, environment, flags, settings, write_data

from rl_nmt.runs.metrics_file import MetricsFile

BESIDE = ROOT / ".venv-deepspeed"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("deepspeed") is None and not (BESIDE / "deepspeed").exists(),
        reason="no DeepSpeed: pip install --no-deps --target .venv-deepspeed -r requirements-deepspeed.txt",
    ),
]


def launch(
    launcher: list[str], line: list[str], target: tuple[str, ...] = ("train_grpo_en_ta.py",), timeout: float = 400
) -> subprocess.CompletedProcess:
    """The trainer on two processes of this machine; raises with the end of its log when it fails."""
    env = environment(
        DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", PYTHONPATH=os.pathsep.join([str(ROOT), str(BESIDE)])
    )
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *target, *line],
        cwd=ROOT,
        env=env,
        timeout=timeout,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return done


ZERO3 = [
    "accelerate.commands.launch",
    "--config_file",
    "configs/accelerate/zero3_8gpu.yaml",
    "--num_processes",
    "2",
    "--mixed_precision",
    "no",
    "--main_process_port",
    "0",
]
DDP = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_sharded_training_is_training_and_resumes_to_the_same_bits(tiny_all, tmp_path):
    """All weights with a reference model (kl_beta 0.02), 4 steps, checkpoints at 2 and 4."""
    write_data(tmp_path)
    sharded, whole = tmp_path / "zero3", tmp_path / "ddp"
    lines = {
        folder: flags(settings(tiny_all, tmp_path, folder, per_device_batch_size=4)) for folder in (sharded, whole)
    }
    launch(ZERO3, lines[sharded])
    launch(DDP, lines[whole])
    start = weights(sharded / "start_policy")
    shared = start.keys() & weights(whole / "final").keys()
    for name in ("checkpoint-2", "checkpoint-4", "final"):
        trained = weights(whole / name)
        moved = max((trained[n] - start[n]).abs().max().item() for n in shared)
        # Adam divides by the size of a gradient: the rounding of a tiny one is a larger part of its step.
        assert moved > 1e-4 and furthest(weights(sharded / name), trained) < moved / 20
    rows = [row for row in MetricsFile(sharded / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and rows[-1]["kl"] > 0
    parts = json.loads((sharded / "checkpoint-2" / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert {f"global_step2/zero_pp_rank_{i}_mp_rank_00_optim_states.pt" for i in (0, 1)} <= set(parts)

    full = weights(sharded / "final")
    for name in ("checkpoint-4", "final"):  # as a run that was killed after step 2 leaves its folder
        shutil.rmtree(sharded / name)
    for name in ("evaluation.json", "report.html"):
        (sharded / name).unlink()
    again = launch(ZERO3, lines[sharded])
    assert "checkpoint-2 (step 2" in again.stdout and "step 3/4" in again.stdout and "step 1/4" not in again.stdout
    assert furthest(weights(sharded / "final"), full) == 0.0


def test_adapters_train_under_zero3(tiny_all, tmp_path):
    write_data(tmp_path)
    folder = tmp_path / "run"
    launch(ZERO3, flags(settings(tiny_all, tmp_path, folder, per_device_batch_size=4, lora_rank=4, max_steps=2)))
    rows = [row for row in MetricsFile(folder / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2] and all(math.isfinite(row["loss"]) for row in rows)
    adapter = load_file(folder / "final" / "adapter" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)  # starts at 0
    assert weights(folder / "final")  # merged, whole


def test_the_recipe_trains_under_zero3(tiny_policy, tmp_path):
    """Adapters, two judges, token credit: as recipes/translategemma/configs/eight_gpu_27b.yaml, on two processes."""
    tg_run.write_rows(tmp_path)
    models = {"policy": tiny_policy, **tg_run.judges(tmp_path / "judges")}
    values = tg_run.sections(models, tmp_path, tmp_path / "run")
    values["model"]["lora_rank"] = 4
    values["rl"] |= {"updates": 2, "micro_batch_size": 4}
    launch(ZERO3, ["--config", str(tg_run.write_config(tmp_path / "c.yaml", values))], tg_run.MODULE)
    rows = [row for row in MetricsFile(tmp_path / "run" / "train_log.jsonl").rows() if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2] and all(math.isfinite(row["loss"]) for row in rows)
    assert any(row["token/nonzero_share"] > 0 for row in rows)
    rollouts = MetricsFile(tmp_path / "run" / "train_rollouts.jsonl").rows()
    assert len(rollouts) == 16 and all(math.isfinite(x) for row in rollouts for x in row["old_logps"])
    assert weights(tmp_path / "run" / "final")
