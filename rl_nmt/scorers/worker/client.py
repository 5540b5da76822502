"""Any scorer in a process of its own: another Python environment, another GPU, a crash that is not the trainer's.

    scorer = load_in_worker("rl_nmt.scorers.comet.scorer:load_comet", {"name_or_path": "Unbabel/wmt22-comet-da"},
                            python_executable=".venv-t5/bin/python")

behaves as the scorer itself does, with the same identity in its signature. A worker that dies, hangs or sends invalid
answers costs its call (None for every segment, never a number) and is restarted at the next one.
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
# What makes a child believe that it is one of the trainer's ranks, or in the trainer's environment.
DROPPED = re.compile(
    r"(?:LOCAL_|GROUP_|ROLE_|NODE_)?(?:RANK|WORLD_SIZE)|CROSS_RANK|ROLE_NAME|MASTER_(?:ADDR|PORT)|TORCHELASTIC_.*"
    r"|(?:ACCELERATE|FSDP|DEEPSPEED|PMI|PMIX|OMPI)_.*|PYTHON(?:HOME|PATH|STARTUP)|VIRTUAL_ENV|__PYVENV_LAUNCHER__"
)


class WorkerError(RuntimeError):
    """The scorer in the worker raised an exception that is not in rl_nmt.errors."""


def load_in_worker(
    factory: str,
    options: Mapping[str, Any],
    *,
    python_executable: str | None = None,
    gpu: str | None = None,
    argument: str = "python_executable",
) -> "WorkerScorer":
    """Load a scorer in another process; returns when it is ready.

    Args:
        factory: "module:function" that loads it there, as rl_nmt.scorers.metricx:load_metricx.
        options: its keyword arguments; they must be JSON.
        python_executable: the Python to run it with; None takes this one. Its environment needs what the scorer
            imports; rl_nmt itself comes from this repository.
        gpu: CUDA_VISIBLE_DEVICES of the worker; None leaves the variable.
        argument: the setting that names the executable, for messages.

    Raises ConfigError (no such executable, not a Python, an environment without a package the scorer needs),
    MissingService (it does not start in time, or dies while it loads), whatever of rl_nmt.errors the factory raises,
    and WorkerError for anything else.
    """
    # Made absolute, but not resolved: a virtual environment is recognised by its symbolic link.
    python = shutil.which(os.path.expanduser(python_executable)) if python_executable else sys.executable
    if not python:
        raise ConfigError(f"{argument}: {python_executable} cannot be run; give a path to bin/python")
    scorer = WorkerScorer(factory, options, os.path.abspath(python), worker_environment(os.environ, gpu), argument)
    try:
        scorer._start()
    except Fault as fault:
        raise MissingService(f"{argument}: the worker of {factory} {fault}") from None
    return scorer


def worker_environment(inherited: Mapping[str, str], gpu: str | None = None) -> dict[str, str]:
    """The variables of a worker: the trainer's, less its rank and its Python; rl_nmt from this repository alone."""
    kept = {name: value for name, value in inherited.items() if not DROPPED.fullmatch(name)}
    kept |= {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})


class WorkerScorer:
    """A scorer in another process; see `load_in_worker`. A `Scorer`, whose calls wait for each other.

    `stats`: the scorer's own of the last call, and of the whole run `restarts` and `lost` (calls that got no
    answer). `process_id`: of the worker that runs now, None without one.
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
        """End the worker and all it started. It is started again when it is needed."""
        with self._lock:
            self._kill()

    def score(self, segments: Sequence[Segment]) -> Scores:
        """The scorer's values and spans; all None, both, where the worker failed. Raises what the scorer raises."""
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
        """Move the model in the worker, and after a restart as well. Raises ConfigError for a missing device."""
        with self._lock:
            self._device = device
            try:
                self._start()
                self._ask({"to": device}, time.monotonic() + TIMEOUT)
            except Fault as fault:  # the next call starts it there
                self._give_up_on(fault)

    def signature(self) -> dict[str, dict]:
        """The scorer's own; its environment part is that of the worker, with the Python version."""
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
                    f"{self.argument}: {self.python} runs another rl_nmt ({hello.get('code')}); uninstall it there"
                )
            self._accept(self._ask({"load": self.factory, "options": self.options}, end)["ready"], hello)
            if self._device is not None:
                self._ask({"to": self._device}, end)
        except BaseException as error:
            ended_by_itself = not process.alive()
            self._kill()
            if isinstance(error, Fault) and not hello and ended_by_itself:
                raise ConfigError(
                    f"{self.argument}: {self.python} does not run a worker ({error}); give an environment's "
                    "bin/python, 3.10 or newer"
                ) from None
            raise

    def _give_up_on(self, fault: Fault) -> None:
        self._kill()
        errors.warn(f"{self.argument}: the worker of {self.factory} {fault}")

    def _accept(self, ready: dict[str, Any], hello: dict[str, Any]) -> None:
        """Take over what the scorer says of itself; after a restart it must be the same scorer."""
        signature = ready["signature"]
        signature["environment"] |= {"python": hello["python"]}
        if self._signature and signature != self._signature:
            before, now = (dict(ChainMap(*parts.values())) for parts in (self._signature, signature))
            changed = [key for key in now if now[key] != before.get(key)]
            raise Fault(f"came back as another scorer ({', '.join(changed) or 'fewer parts'} changed): not used")
        self._signature = signature
        self.name, self.higher_is_better = ready["name"], ready["higher_is_better"]
        self.range, self.revision = tuple(ready["range"]), ready["revision"]

    def _ask(self, message: dict, end: float) -> dict:
        """One message and its answer. Raises the scorer's error, or Fault."""
        assert self._process is not None
        number = next(self._numbers)
        self._process.send(message | {"id": number}, end)
        while (answer := self._process.receive(end)).get("id") != number:
            pass  # the answer to a question that was interrupted
        if "error" in answer:
            self._raise(answer["error"])
        return answer

    def _raise(self, error: Mapping[str, str]) -> None:
        kind, said, missing = error["kind"], error["message"], error["missing"]
        if missing and missing == self.factory.partition(".")[0]:
            raise ConfigError(f"factory: {self.factory} is not there ({said})")
        if missing or kind == "ImportError":
            what = f"has no package {missing}" if missing else f"cannot import a package ({said})"
            raise ConfigError(
                f"{self.argument}: the environment of {self.python} {what}, which {self.factory} needs; install it "
                "there, or make both environments with scripts/setup_split_envs.sh"
            )
        if error["module"] == "rl_nmt.errors":
            raise getattr(errors, kind)(said)
        raise WorkerError(f"{self.factory} in {self.python}: {kind}: {said}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def _scores(answer: Mapping[str, Any], segments: Sequence[Segment]) -> Scores:
    """Values and spans of an answer; raises Fault where they cannot be those of these segments."""
    values, spans = answer["values"], answer["spans"]
    if len(values) != len(segments):
        raise Fault(f"gave {len(values)} values for {len(segments)} segments: killed")
    if not all(value is None or is_number(value) for value in values):
        raise Fault("gave values that are no numbers: killed")
    if spans is None:
        return Scores(values)
    if len(spans) != len(segments):
        raise Fault(f"gave spans for other than {len(segments)} segments: killed")
    try:
        return Scores(values, [None if row is None else [_span(fields) for fields in row] for row in spans])
    except (TypeError, ValueError):
        raise Fault("returned invalid spans: killed") from None


def _span(fields: Sequence) -> Span:
    """A span of the right kinds; one that lies outside its translation costs that row, as in process (`ask`)."""
    span = Span(*fields)
    if not isinstance(span.severity, str) or not all(map(is_number, (span.start, span.end, span.confidence))):
        raise ValueError("no span")
    return span
