"""Run any scorer in a process of its own: another Python environment or GPU, and a crash does not end the trainer.

    scorer = load_in_worker("rl_nmt.scorers.comet.scorer:load_comet", {"name_or_path": "Unbabel/wmt22-comet-da"},
                            python_executable=".venv-t5/bin/python")

behaves as the scorer itself does, with the same identity in its signature. If a worker dies, hangs or sends invalid
answers, that call returns None for every segment, and the next call restarts the worker.
"""

import itertools
import json
import os
import re
import shutil
import sys
import threading
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rl_nmt
from rl_nmt import errors
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.files import is_number
from rl_nmt.scorers.base import Scores, Segment, Span
from rl_nmt.scorers.worker.process import Fault, WorkerProcess

ROOT = Path(rl_nmt.__file__).resolve().parents[1]
TIMEOUT = 600.0  # seconds for one call of `score`; a slower worker is killed
LOAD_TIMEOUT = 1800.0  # seconds for starting Python and loading the model
# Variables that would make a child one of the trainer's ranks, or put it into the trainer's environment.
DROPPED = re.compile(
    r"(?:LOCAL_|GROUP_|ROLE_|NODE_)?(?:RANK|WORLD_SIZE)|CROSS_RANK|ROLE_NAME|MASTER_(?:ADDR|PORT)|TORCHELASTIC_.*"
    r"|(?:ACCELERATE|FSDP|DEEPSPEED|PMI|PMIX|OMPI)_.*|PYTHON(?:HOME|PATH|STARTUP)|VIRTUAL_ENV|__PYVENV_LAUNCHER__"
)


class WorkerError(RuntimeError):
    """An exception of the scorer in the worker that is not from rl_nmt.errors."""


def load_in_worker(
    factory: str,
    options: Mapping[str, Any],
    *,
    python_executable: str | None = None,
    gpu: str | None = None,
    argument: str = "python_executable",
) -> "WorkerScorer":
    """Load a scorer in another process; return when it is ready.

    Args:
        factory: "module:function" that loads it there, e.g. rl_nmt.scorers.metricx:load_metricx.
        options: its keyword arguments; they must be JSON.
        python_executable: the Python to run it with; None takes this one. Its environment needs what the scorer
            imports; rl_nmt itself comes from this repository.
        gpu: CUDA_VISIBLE_DEVICES of the worker; None leaves it unchanged.
        argument: the setting that names the executable, for messages.

    Raises ConfigError (no such executable, not a Python, an environment without a package that the scorer needs),
    MissingService (it does not start in time, or dies while it loads), the factory's own errors if they are from
    rl_nmt.errors, and WorkerError for anything else.
    """
    # Made absolute, but not resolved: a virtual environment is recognised by its symbolic link.
    python = shutil.which(os.path.expanduser(python_executable)) if python_executable else sys.executable
    if not python:
        raise ConfigError(f"{argument}: {python_executable} is not executable; give the path of a bin/python")
    scorer = WorkerScorer(factory, options, os.path.abspath(python), worker_environment(os.environ, gpu), argument)
    try:
        scorer._start()
    except Fault as fault:
        raise MissingService(f"{argument}: the worker for {factory} {fault}") from None
    return scorer


def worker_environment(inherited: Mapping[str, str], gpu: str | None = None) -> dict[str, str]:
    """Return a worker's variables: the trainer's without its rank and Python; rl_nmt comes from this repository."""
    kept = {name: value for name, value in inherited.items() if not DROPPED.fullmatch(name)}
    kept |= {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})


class WorkerScorer:
    """A scorer in another process; see `load_in_worker`. A `Scorer`, with one call at a time.

    `stats`: the scorer's own of the last call, plus `restarts` and `lost` (calls without an answer) of the whole run.
    `process_id`: of the running worker, None without one.
    """

    def __init__(self, factory: str, options: Mapping[str, Any], python: str, environment: dict, argument: str):
        self.factory, self.options, self.python, self.environment = factory, options, python, environment
        self.argument = argument
        self.stats: dict[str, float] = {}
        self._restarts = self._lost = 0
        self._signature: dict[str, dict] = {}  # empty until it has been loaded once
        self._device: str | None = None
        self._lock = threading.Lock()
        self._process: WorkerProcess | None = None

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the worker and all processes it started; the next call starts it again."""
        with self._lock:
            self._kill()

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return the scorer's values and spans, all None if the worker failed. Raises what the scorer raises."""
        scores, stats = Scores([None] * len(segments), [None] * len(segments)), {}
        with self._lock:
            for last_try in (False, True):
                try:
                    self._start()
                    message = {"score": [[s.src, s.mt, s.ref] for s in segments]}
                    answer = self._ask(message, time.monotonic() + TIMEOUT)
                    scores, stats = _scores(answer, segments), answer["stats"]
                    break
                except Fault as fault:
                    self._give_up_on(fault)
                    if last_try or not fault.died:
                        self._lost += 1
                        break
            self.stats = {**stats, "restarts": self._restarts, "lost": self._lost}
        return scores

    def to(self, device: str) -> None:
        """Move the model in the worker, also after a restart. Raises ConfigError for a missing device."""
        with self._lock:
            self._device = device
            try:
                self._start()
                self._ask({"to": device}, time.monotonic() + TIMEOUT)
            except Fault as fault:  # the next call starts the worker on that device
                self._give_up_on(fault)

    def signature(self) -> dict[str, dict]:
        """Return the scorer's own signature; the environment is the worker's, with its Python version."""
        return json.loads(json.dumps(self._signature))

    def _start(self) -> None:
        """Start the worker and load the scorer, unless it runs. Raises the scorer's error, or Fault."""
        if self._process is not None and self._process.alive():
            return
        self._kill()
        self._restarts += bool(self._signature)
        end = time.monotonic() + LOAD_TIMEOUT
        process = self._process = WorkerProcess(self.python, self.environment, self)
        self._numbers = itertools.count()
        hello: dict[str, Any] = {}
        try:
            hello = process.receive(end)
            if hello.get("code") != str(ROOT / "rl_nmt"):
                raise ConfigError(
                    f"{self.argument}: {self.python} imports another rl_nmt ({hello.get('code')}); uninstall it there"
                )
            self._accept(self._ask({"load": self.factory, "options": self.options}, end)["ready"], hello)
            if self._device is not None:
                self._ask({"to": self._device}, end)
        except BaseException as error:
            ended_by_itself = not process.alive()
            self._kill()
            if isinstance(error, Fault) and not hello and ended_by_itself:
                raise ConfigError(
                    f"{self.argument}: {self.python} cannot run a worker ({error}); give the bin/python of an "
                    "environment with Python 3.10 or newer"
                ) from None
            raise

    def _give_up_on(self, fault: Fault) -> None:
        self._kill()
        errors.warn(f"{self.argument}: the worker for {self.factory} {fault}")

    def _accept(self, ready: dict[str, Any], hello: dict[str, Any]) -> None:
        """Store the scorer's name, range and signature; after a restart they must be the same."""
        signature = ready["signature"]
        signature["environment"] |= {"python": hello["python"]}
        if self._signature and signature != self._signature:
            before, now = (dict(ChainMap(*parts.values())) for parts in (self._signature, signature))
            changed = [key for key in now if now[key] != before.get(key)]
            raise Fault(f"is another scorer after a restart ({', '.join(changed) or 'fewer parts'} changed): not used")
        self._signature = signature
        self.name, self.higher_is_better = ready["name"], ready["higher_is_better"]
        self.range, self.revision = tuple(ready["range"]), ready["revision"]

    def _ask(self, message: dict, end: float) -> dict:
        """Send one message and return its answer. Raises the scorer's error, or Fault."""
        assert self._process is not None
        number = next(self._numbers)
        self._process.send(message | {"id": number}, end)
        while (answer := self._process.receive(end)).get("id") != number:
            pass  # the answer to an interrupted call
        if "error" in answer:
            self._raise(answer["error"])
        return answer

    def _raise(self, error: Mapping[str, str]) -> None:
        kind, said, missing = error["kind"], error["message"], error["missing"]
        if missing and missing == self.factory.partition(".")[0]:
            raise ConfigError(f"factory: {self.factory} does not exist ({said})")
        if missing or kind == "ImportError":
            what = f"has no package {missing}" if missing else f"cannot import a package ({said})"
            raise ConfigError(
                f"{self.argument}: the environment of {self.python} {what}, needed by {self.factory}; install it "
                "there, or create both environments with scripts/setup_split_envs.sh"
            )
        if error["module"] == "rl_nmt.errors":
            raise getattr(errors, kind)(said)
        raise WorkerError(f"{self.factory} in {self.python}: {kind}: {said}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def _scores(answer: Mapping[str, Any], segments: Sequence[Segment]) -> Scores:
    """Return values and spans of an answer; raise Fault if they are invalid for these segments."""
    values, spans = answer["values"], answer["spans"]
    if len(values) != len(segments):
        raise Fault(f"returned {len(values)} values for {len(segments)} segments: killed")
    if not all(value is None or is_number(value) for value in values):
        raise Fault("returned values that are not numbers: killed")
    if spans is None:
        return Scores(values)
    if len(spans) != len(segments):
        raise Fault(f"returned spans of {len(spans)} segments, not {len(segments)}: killed")
    try:
        return Scores(values, [None if row is None else [_span(fields) for fields in row] for row in spans])
    except (TypeError, ValueError):
        raise Fault("returned invalid spans: killed") from None


def _span(fields: Sequence) -> Span:
    """Return the span, its types checked; `ask` drops spans outside their translation, as for a scorer in process."""
    span = Span(*fields)
    if not isinstance(span.severity, str) or not all(map(is_number, (span.start, span.end, span.confidence))):
        raise ValueError("invalid span")
    return span
