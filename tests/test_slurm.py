"""scripts/slurm_train.sh against a stand-in for Slurm: it requeues what was stopped in time, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import ROOT, command, environment, flags, settings, write_data

TRAINING = """
import pathlib, signal, sys, time
status, seal = int(sys.argv[1]), sys.argv[2] == "seal"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
if seal:
    folder = pathlib.Path("runs/mine/checkpoint-1")
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()
pathlib.Path("arguments").write_text(" ".join(sys.argv[3:]))
for _ in range(600 if "wait" in sys.argv else 0):  # one long sleep might begin just after the signal
    time.sleep(0.1)
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
    jobs = []

    def submit(*arguments, **changes):
        env = environment(PATH=f"{scontrol.parent}:{os.environ['PATH']}", SLURM_JOB_ID=7)
        env |= {"LAUNCH": sys.executable, "SCRIPT": "train.py", "SLURM_JOB_END_TIME": "", **changes}
        with (tmp_path / "job.log").open("a") as log:  # as Slurm's, of all jobs of this id
            line = ["bash", str(ROOT / "scripts" / "slurm_train.sh"), *arguments]
            jobs.append(subprocess.Popen(line, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True))
        return jobs[-1]

    yield submit
    for job in jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def requeued(folder: Path) -> list[str]:
    path = folder / "requeued"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def until(job: subprocess.Popen, found) -> None:
    """Wait until the training of this job has written what `found` looks for."""
    deadline = time.monotonic() + 300
    while not found():
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 69, 70, 73, 75, 130, 143])
def test_a_job_that_ends_by_itself_is_not_requeued(cluster, tmp_path, status):
    """75 is on_divergence stop where the job's end is not known or far away, 143 somebody's `kill`."""
    job = cluster(str(status), "seal", "--lr", "1e-5")
    assert job.wait(60) == status and requeued(tmp_path) == []
    assert (tmp_path / "arguments").read_text(encoding="utf-8") == "--lr 1e-5"


@pytest.mark.parametrize(("status", "expected"), [(143, ["requeue 7"]), (1, ["requeue 7"]), (0, []), (70, [])])
def test_slurms_warning_reaches_the_training_and_the_job_is_requeued(cluster, tmp_path, status, expected):
    """1 is what torchrun makes of 143."""
    job = cluster(str(status), "seal", "wait")
    until(job, (tmp_path / "arguments").exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == (0 if expected else status) and requeued(tmp_path) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(3600, []), (302, ["requeue 7"])])
def test_the_time_that_is_left_is_max_hours_and_its_stop_requeues(cluster, tmp_path, seconds, expected):
    """The stand-in stops after 2 seconds: long before the end, or in the last quarter of the time."""
    (tmp_path / "train.py").write_text(TRAINING.replace("range(600 ", "range(20 "), encoding="utf-8")
    ends = int(time.time()) + seconds
    # In a job of 302 seconds the last quarter begins after 226: the clock of the script is moved on instead.
    clock = tmp_path / "bin" / "date"
    clock.write_text("#!/bin/sh\n/bin/date +%s > now; [ -e arguments ] && echo $(($(cat now) + 298)) || cat now\n")
    clock.chmod(0o755)
    job = cluster("75", "seal", "wait", SLURM_JOB_END_TIME=str(ends))
    assert job.wait(60) == (0 if expected else 75) and requeued(tmp_path) == expected
    flag, hours = (tmp_path / "arguments").read_text(encoding="utf-8").split()[-2:]
    assert flag == "--max_hours" and 0 <= float(hours) <= (seconds - 300) / 3600


def test_a_job_that_is_nearly_over_is_refused(cluster, tmp_path):
    job = cluster("0", "seal", SLURM_JOB_END_TIME=str(int(time.time()) + 200))
    assert job.wait(60) == 2 and "--time" in (tmp_path / "job.log").read_text(encoding="utf-8")


def test_a_cancelled_job_is_not_requeued(cluster, tmp_path):
    """scancel signals all its processes."""
    job = cluster("143", "seal", "wait")
    until(job, (tmp_path / "arguments").exists)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(60) == 143 and requeued(tmp_path) == []


def test_a_job_without_progress_is_not_requeued_for_ever(cluster, tmp_path):
    job = cluster("143", "no seal", "wait")
    until(job, (tmp_path / "arguments").exists)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(60) == 143 and requeued(tmp_path) == []
    (line,) = (tmp_path / "job.log").read_text(encoding="utf-8").splitlines()
    assert line.startswith("error: no new checkpoint below runs (RUNS)")


def test_outside_slurm_nothing_is_started(cluster, tmp_path):
    job = cluster("0", "seal", SLURM_JOB_ID="")
    assert job.wait(60) == 2 and not (tmp_path / "arguments").exists()
    (line,) = (tmp_path / "job.log").read_text(encoding="utf-8").splitlines()
    assert line.startswith("error: SLURM_JOB_ID") and "sbatch" in line


# --- the real training ---------------------------------------------------------------------------------

STEP = re.compile(r"^step (\d+)/", re.MULTILINE)


def newest(run: Path) -> int:
    """Return the step of the newest sealed checkpoint, 0 without one."""
    return max((int(path.parent.name.split("-")[1]) for path in run.glob("checkpoint-*/manifest.json")), default=0)


def advanced(cluster, run: Path, line: list[str], **names) -> subprocess.Popen:
    """Return a job that has sealed its first checkpoint."""
    before, job = newest(run), cluster(*line, **names)
    until(job, lambda: newest(run) > before)
    return job


@pytest.mark.slow
def test_four_jobs_end_with_the_bits_of_one_run(cluster, tiny_all, tmp_path):
    """The first two are warned, the third is killed with its shell, as when a node fails."""
    write_data(tmp_path)
    script, run = str(ROOT / "train_grpo_en_ta.py"), tmp_path / "runs" / "mine"
    cfg = settings(tiny_all, tmp_path, tmp_path / "alone", max_steps=24, save_steps=3)
    assert command(script, *flags(cfg)).returncode == 0
    line = flags(cfg | {"output_dir": run})
    for count in (1, 2):
        job = advanced(cluster, run, line, SCRIPT=script)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(300) == 0 and requeued(tmp_path) == ["requeue 7"] * count
    job = advanced(cluster, run, line, SCRIPT=script)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert cluster(*line, SCRIPT=script).wait(300) == 0 and len(requeued(tmp_path)) == 2
    for name in ("final/model.safetensors", "evaluation.json", "samples.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    steps = [int(step) for step in STEP.findall((tmp_path / "job.log").read_text(encoding="utf-8"))]
    assert set(steps) == set(range(1, 25)) and len(steps) <= 24 + 3  # the kill lost less than a checkpoint's steps


@pytest.mark.slow
def test_two_processes_of_torchrun_are_stopped_in_time(cluster, tiny_all, tmp_path):
    write_data(tmp_path)
    run, names = tmp_path / "runs" / "mine", {"SCRIPT": str(ROOT / "train_grpo_en_ta.py")}
    names["LAUNCH"] = f"{sys.executable} -m torch.distributed.run --standalone --nproc_per_node 2"
    line = flags(settings(tiny_all, tmp_path, run, max_steps=12, per_device_batch_size=4))
    job = advanced(cluster, run, line, **names)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(300) == 0 and requeued(tmp_path) == ["requeue 7"]
    assert cluster(*line, **names).wait(300) == 0 and len(requeued(tmp_path)) == 1
    steps = STEP.findall((tmp_path / "job.log").read_text(encoding="utf-8"))
    assert [int(step) for step in steps] == list(range(1, 13))
