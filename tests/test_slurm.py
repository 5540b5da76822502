"""scripts/slurm_train.sh against a stand-in for Slurm: it requeues what was stopped in time, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "slurm_train.sh"
TRAINING = """
import pathlib, signal, sys, time
status, seal = int(sys.argv[1]), sys.argv[2] == "seal"
def stop(*_):
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("arguments").write_text(" ".join(sys.argv[3:]))
if seal:
    folder = pathlib.Path("runs/mine/checkpoint-1")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(str(time.time()))
if status == 143:
    pathlib.Path("started").touch()
    time.sleep(60)
sys.exit(status)
"""


@pytest.fixture
def cluster(tmp_path):
    """submit(*arguments, **environment) → a running job; `scontrol` writes down what it was told."""
    (tmp_path / "train.py").write_text(TRAINING, encoding="utf-8")
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/requeued"\n', encoding="utf-8")
    scontrol.chmod(0o755)

    def submit(*arguments, **environment):
        env = os.environ | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
        env |= {"LAUNCH": sys.executable, "SCRIPT": "train.py", **environment}
        line = ["bash", str(SCRIPT), *arguments]
        return subprocess.Popen(
            line, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )

    return submit


def requeued(folder: Path) -> list[str]:
    path = folder / "requeued"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 69, 70, 73, 130])
def test_a_job_that_ended_for_another_reason_is_not_requeued(cluster, tmp_path, status):
    job = cluster(str(status), "seal")
    job.communicate(timeout=60)
    assert job.returncode == status and requeued(tmp_path) == []


def test_a_planned_stop_is_requeued_with_the_time_that_is_left(cluster, tmp_path):
    job = cluster("75", "seal", "--lr", "1e-5", SLURM_JOB_END_TIME=str(int(time.time()) + 3600 + 15 * 60))
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0 and requeued(tmp_path) == ["requeue 7"], err
    *given, flag, hours = (tmp_path / "arguments").read_text(encoding="utf-8").split()
    assert given == ["--lr", "1e-5"] and flag == "--max_hours" and 0.99 < float(hours) <= 1


def test_the_warning_before_the_end_reaches_the_training(cluster, tmp_path):
    job = cluster("143", "seal")
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 0 and requeued(tmp_path) == ["requeue 7"]


def test_a_job_without_progress_is_not_requeued_for_ever(cluster, tmp_path):
    job = cluster("75", "no seal")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 75 and requeued(tmp_path) == [] and "checkpoint" in err


@pytest.mark.parametrize(
    "environment, said", [({"SLURM_JOB_ID": ""}, "sbatch"), ({"SLURM_JOB_END_TIME": "1"}, "--time")]
)
def test_what_cannot_work_is_refused_before_it_starts(cluster, tmp_path, environment, said):
    job = cluster("0", "seal", **environment)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "arguments").exists()
