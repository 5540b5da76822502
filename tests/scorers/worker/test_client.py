"""rl_nmt.scorers.worker.client: the same scores from another process, and all ways in which that process can fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hang_guard import ends_within
from tiny_metricx import build_metricx
from tiny_models import PAIRS, build_comet

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.scorers.base import Segment, Span, ask
from rl_nmt.scorers.worker import client
from rl_nmt.scorers.worker.client import WorkerError, load_in_worker, worker_environment

ROOT = Path(__file__).resolve().parents[3]
FAULTY = "tests.support.faulty_scorer:load_faulty"


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load the faulty scorer in a worker; all workers end with the test."""
    made = []

    def make(timeout: float = 20.0, python_path="", python_executable=None, load_timeout: float = 30.0, **options):
        monkeypatch.setattr(client, "TIMEOUT", timeout)
        monkeypatch.setattr(client, "LOAD_TIMEOUT", load_timeout)
        variables = worker_environment(os.environ) | ({"PYTHONPATH": python_path} if python_path else {})
        monkeypatch.setattr(client, "worker_environment", lambda inherited, gpu: variables)
        options = {"folder": str(tmp_path)} | options
        made.append(load_in_worker(FAULTY, options, python_executable=python_executable, argument="python_executable"))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def segments(*translations: str) -> list[Segment]:
    return [Segment("source", mt) for mt in translations]


def running(pid: int) -> bool:
    """Whether this process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 8.0) -> bool:
    end = time.monotonic() + seconds
    while running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not running(pid)


# ---------------------------------------------------------------------- the same scorer


def test_values_spans_and_attributes_come_through(load):
    scorer = load()
    got = scorer.score([Segment("s", "கொ🙂"), Segment("s", "\ud800\0\n"), Segment("s", "", ""), Segment("s", "x", "r")])
    assert got.values == [3.0, 3.0, 0.0, 1.0]
    assert got.spans[0] == [Span(0, 3, "minor", 1.0, "all")]
    assert (scorer.name, scorer.range, scorer.higher_is_better, scorer.revision) == ("faulty", (0.0, 100.0), True, "r1")
    assert scorer.stats["pid"] == scorer.process_id != os.getpid()
    assert scorer.score([]).values == []
    assert scorer.score(segments("nothing")).spans == [None]
    assert len(scorer.score(segments("large", "b")).spans[1][0].severity) == 1_000_000


def test_a_real_scorer_scores_the_same_in_a_worker(tmp_path):
    from rl_nmt.scorers.metricx import load_metricx

    folder = build_metricx(tmp_path / "metricx")
    rows = [Segment(en, ta) for en, _ in PAIRS[:4] for _, ta in PAIRS[:3]]
    here = load_metricx(folder)
    there = load_in_worker("rl_nmt.scorers.metricx:load_metricx", {"name_or_path": str(folder)})
    try:
        assert there.score(rows) == here.score(rows)
        assert there.signature()["identity"] == here.signature()["identity"]
        assert there.range == here.range and there.higher_is_better is False
    finally:
        there.close()


@pytest.mark.slow
def test_comet_and_xcomet_score_the_same_in_a_worker(tmp_path):
    from rl_nmt.scorers.comet.scorer import load_comet

    rows = [Segment(en, ta, en) for en, _ in PAIRS[:4] for _, ta in PAIRS[:3]]
    for kind in ("regression_metric", "unified_metric", "xcomet_metric"):
        folder = build_comet(tmp_path / kind, kind=kind, layer_norm=False)
        here = load_comet(folder)
        there = load_in_worker("rl_nmt.scorers.comet.scorer:load_comet", {"name_or_path": str(folder)})
        for part in (rows[:1], rows[:8], rows):
            assert there.score(part) == here.score(part)
        assert there.signature()["identity"] == here.signature()["identity"]
        there.close()


# ---------------------------------------------------------------------- five faults


def test_fault_1_killed(load, capsys):
    scorer = load()
    first = scorer.process_id
    assert scorer.score(segments("a", "killed")).values == [None, None]
    assert "SIGKILL" in capsys.readouterr().err
    assert scorer.score(segments("ab")).values == [2.0]
    assert gone(first) and scorer.process_id != first and scorer.stats["lost"] == 1
    assert scorer.score(segments("a", "killed_once")).values == [1.0, 11.0]  # a retry helps, and is made at once
    os.kill(scorer.process_id, signal.SIGKILL)  # between two calls
    assert scorer.score(segments("abc")).values == [3.0] and scorer.stats["lost"] == 1


@pytest.mark.parametrize("way", ["hung", "busy", "stopped"])
def test_fault_2_hung(load, way, capsys):
    scorer = load(timeout=0.5)
    first = scorer.process_id
    with ends_within(30):
        assert scorer.score(segments(way, "b")).values == [None, None]
    assert gone(first)
    assert "in time: killed" in capsys.readouterr().err
    assert scorer.score(segments("ab")).values == [2.0] and scorer.stats["restarts"] == 1


def test_fault_3_noisy_on_stdout(load, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("print('hello from a start-up file', flush=True)\nprint('x' * 50000)\n")
    scorer = load(python_path=f"{ROOT}{os.pathsep}{tmp_path}")
    first = scorer.process_id
    assert scorer.score(segments("noisy", "ab")).values == [5.0, 2.0]
    assert scorer.score(segments("ab")).values == [2.0] and scorer.process_id == first


@pytest.mark.parametrize(
    "way, complaint",
    [
        ("short", "1 values for 2"),
        ("long", "3 values for 2"),
        ("few_spans", "spans of 1 segments, not 2"),
        ("no_spans", "invalid spans"),
        ("text", "not numbers"),
        ("truth", "not numbers"),
    ],
)
def test_fault_4_wrong_length_or_kind(load, way, complaint, capsys):
    scorer = load()
    got = scorer.score(segments("ab", way))
    assert got.values == got.spans == [None, None]
    assert complaint in capsys.readouterr().err
    assert scorer.score(segments("ab")).values == [2.0]


def test_spans_outside_their_translation_cost_that_row_its_spans_alone(load, capsys):
    """As for a scorer in process: no restart, and the other rows keep everything."""
    scorer = load()
    first, batch = scorer.process_id, segments("ab", "outside")
    found = ask("reward.xcomet", scorer, batch)
    assert found.values == [2.0, 7.0] and found.spans[0] is None and found.spans[1] is not None
    assert "reward.xcomet: 1 of 2 outputs get no spans (outside their text)" in capsys.readouterr().err
    assert scorer.process_id == first and scorer.stats["restarts"] == 0


def test_a_value_that_is_not_finite_is_an_error(load):
    with pytest.raises(WorkerError, match="ValueError"):
        load().score(segments("not_a_number"))


class TestFault5WrongEnvironment:
    def test_no_program(self, load, tmp_path):
        (tmp_path / "file").write_text("not executable")
        for name in ("/no/such/python", str(tmp_path / "file"), str(tmp_path), "no-such-program-here"):
            with pytest.raises(ConfigError, match="python_executable"):
                load(python_executable=name)

    @pytest.mark.parametrize("program", ["/bin/true", "/bin/cat"])
    def test_no_python(self, load, program):
        with pytest.raises(ConfigError, match=f"python_executable: {program} .*worker"):
            load(python_executable=program)

    def test_an_environment_without_the_package(self, load, tmp_path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
        bare = str(tmp_path / "bare" / "bin" / "python")
        with pytest.raises(ConfigError, match=r"/bare/bin/python .*package torch.*setup_split_envs"):
            load_in_worker("rl_nmt.scorers.comet.scorer:load_comet", {"name_or_path": "x"}, python_executable=bare)
        assert load(python_executable=bare).score(segments("ab")).values == [2.0]  # no heavy package is needed to start

    def test_a_package_the_scorer_lacks(self, load):
        with pytest.raises(ConfigError, match="package no_such_package"):
            load(at_load="missing")

    def test_another_rl_nmt(self, load, tmp_path):
        import shutil

        shutil.copytree(ROOT / "rl_nmt", tmp_path / "rl_nmt", ignore=shutil.ignore_patterns("__pycache__"))
        with pytest.raises(ConfigError, match=rf"another rl_nmt \({tmp_path}"):
            load(python_path=str(tmp_path))

    @pytest.mark.parametrize(
        "say",
        [
            "printf '\\377\\377\\377\\377{}' >&0",
            "printf '\\000\\000\\000\\002[]' >&0; sleep 9",
            "printf '\\000\\000\\000\\020{' >&0",
            "yes >&0",
            "yes",
        ],
    )
    def test_a_program_that_answers_something_else(self, load, tmp_path, say):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{say}\n")
        program.chmod(0o755)
        with pytest.raises((ConfigError, MissingService), match="python_executable"):
            load(python_executable=str(program), load_timeout=5)


# ---------------------------------------------------------------------- errors of the scorer itself


@pytest.mark.parametrize(
    "at_load, kind, message",
    [
        ("config", ConfigError, "^model: there is none$"),
        ("service", MissingService, "^model: not here$"),
        ("bug", WorkerError, "ZeroDivisionError: nothing to divide"),
        ("exit", MissingService, r"status 7 .*: out of everything\)"),
    ],
)
def test_errors_at_load_are_as_if_loaded_here(load, at_load, kind, message):
    with pytest.raises(kind, match=message):
        load(at_load=at_load)


def test_a_worker_that_never_gets_ready(load):
    with pytest.raises(MissingService, match="in time: killed"):
        load(at_load="hang", load_timeout=1.5)


def test_errors_while_scoring_are_raised_and_the_worker_lives(load):
    scorer = load()
    first = scorer.process_id
    with pytest.raises(ConfigError, match=r"^ref: there is none$"):
        scorer.score(segments("config"))
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        scorer.score(segments("bug"))
    assert scorer.score(segments("ab")).values == [2.0] and scorer.process_id == first


def test_bad_arguments(load):
    for factory, kind in (("rl_nmt.scorers.nothing:load", ConfigError), ("rl_nmt.errors:nothing", WorkerError)):
        with pytest.raises(kind, match="nothing"):
            load_in_worker(factory, {})
    with pytest.raises(TypeError, match="JSON"):
        load(model=object())


# ---------------------------------------------------------------------- restarts


def test_a_restarted_worker_must_be_the_same_scorer(load, tmp_path, capsys):
    scorer = load()
    (tmp_path / "changed").touch()
    os.kill(scorer.process_id, signal.SIGKILL)
    assert scorer.score(segments("ab")).values == [None]
    assert "(model changed): not used" in capsys.readouterr().err
    (tmp_path / "changed").unlink()
    assert scorer.score(segments("ab")).values == [2.0]


def test_the_device_is_kept_over_a_restart(load, tmp_path):
    scorer = load()
    scorer.to("elsewhere")
    (tmp_path / "device").unlink()
    os.kill(scorer.process_id, signal.SIGKILL)
    scorer.score(segments("a"))
    assert (tmp_path / "device").read_text() == "elsewhere"
    with pytest.raises(ConfigError, match="nowhere"):
        scorer.to("nowhere")


def test_an_interrupted_call_does_not_answer_the_next(load):
    scorer = load()
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        scorer.score(segments("late"))
    assert scorer.score(segments("abcdefg")).values == [7.0]


def test_a_closed_worker_starts_again(load):
    scorer = load()
    first = scorer.process_id
    scorer.close()
    assert gone(first) and scorer.process_id is None
    assert scorer.score(segments("ab")).values == [2.0]


def test_calls_from_several_threads_do_not_mix(load):
    scorer, wrong = load(), []

    def ask(n: int) -> None:
        for _ in range(20):
            if scorer.score(segments("x" * n, "y")).values != [float(n), 1.0]:
                wrong.append(n)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


# ---------------------------------------------------------------------- nothing is left behind


def test_started_in_a_thread_that_ends(load):
    made = []
    thread = threading.Thread(target=lambda: made.append(load()))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert made[0].score(segments("ab")).values == [2.0] and made[0].stats["restarts"] == 0


def test_what_a_worker_started_ends_with_it(load, tmp_path):
    scorer = load()
    scorer.score(segments("children"))
    worker, child = scorer.process_id, int((tmp_path / "child").read_text())
    assert running(child)
    scorer.close()
    assert gone(worker) and gone(child)


def test_an_unused_scorer_ends_its_worker(load, tmp_path):
    scorer = load_in_worker(FAULTY, {"folder": str(tmp_path)})
    pid = scorer.process_id
    del scorer
    assert gone(pid)


PARENT = """
import os, sys, time
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.worker.client import load_in_worker
scorer = load_in_worker("tests.support.faulty_scorer:load_faulty", {"folder": sys.argv[1]})
scorer.score([Segment("s", "children")])
if sys.argv[2] == "fork" and not os.fork():
    time.sleep(20)
    os._exit(0)
print(scorer.process_id, open(sys.argv[1] + "/child").read(), flush=True)
if sys.argv[2] == "exit":
    sys.exit()
scorer.score([Segment("s", "hung")])
"""


@pytest.mark.parametrize("way", ["exit", "kill", "terminate", "fork"])
def test_no_orphans_when_the_trainer_ends(tmp_path, way):
    """Also during a call, and if a forked child of the trainer still holds the socket."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), way],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        worker, child = map(int, parent.stdout.readline().split())
        if way != "exit":
            parent.send_signal(signal.SIGTERM if way == "terminate" else signal.SIGKILL)
        assert gone(worker) and gone(child)
        parent.wait(10)
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if way == "fork" else None
        parent.stdout.close()


def test_a_forked_trainer_does_not_end_its_parents_worker(load):
    scorer = load()
    child = os.fork()
    if child == 0:
        done = 1
        try:
            scorer._process._finalizer()
            done = 0 if scorer.score(segments("abc")).values == [3.0] else 2  # from a worker of its own
            scorer.close()
        finally:
            os._exit(done)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert scorer.score(segments("ab")).values == [2.0] and scorer.stats["restarts"] == 0


def test_the_worker_is_not_one_of_the_trainers_ranks():
    inherited = dict.fromkeys(
        (
            "RANK",
            "LOCAL_RANK",
            "WORLD_SIZE",
            "LOCAL_WORLD_SIZE",
            "GROUP_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
            "PYTHONHOME",
            "TORCHELASTIC_RUN_ID",
            "ACCELERATE_USE_CPU",
            "VIRTUAL_ENV",
            "PYTHONSTARTUP",
        ),
        "1",
    ) | {"PATH": "/bin", "HF_HOME": "/models", "CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "2"}
    kept = worker_environment(inherited, gpu="1")
    assert {name: value for name, value in kept.items() if not name.startswith("PYTHON")} == {
        "PATH": "/bin",
        "HF_HOME": "/models",
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_NUM_THREADS": "2",
    }
    assert worker_environment(inherited)["CUDA_VISIBLE_DEVICES"] == "0,1" and kept["PYTHONPATH"] == str(ROOT)


def test_a_worker_loads_nothing_heavy_by_itself():
    code = "import sys, rl_nmt.scorers.worker.main, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "transformers", "comet", "trl", "datasets", "numpy", "httpx"}
