"""One run on disk: its folder and lock, the checkpoint it continues from, its one-time decisions, its identity.

    with Run.open("runs/mine", script="train.py") as run:
        run.require_same(group_size=8)                   # refused, status 4, if a checkpoint has another value
        verdict = run.once("launch_gate", ask)           # called once, also over resumes; the same on every process
        with run.under_way():                            # an error in here names the command that continues
            loop.train(run, trainer, callbacks)

With several processes, all of them call every method; the main one reads, decides and writes.
"""

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rl_nmt import config, distributed, errors
from rl_nmt.errors import ConfigError
from rl_nmt.runs import checkpoints, run_folder, wandb_run
from rl_nmt.runs.checkpoints import Checkpoint


@dataclass(frozen=True)
class Files:
    """Names of a run folder's files; a recipe may have others."""

    metrics: str = "metrics.jsonl"
    rollouts: str = "rollouts.jsonl"
    samples: str = "samples.jsonl"


@dataclass
class Run:
    """See the module."""

    folder: Path
    command: str = ""  # command line that continues it
    resume: Checkpoint | None = None  # the checkpoint it continues from
    force: bool = False  # continue although the identity has changed
    files: Files = field(default_factory=Files)
    settings: Mapping[str, str] = field(default_factory=dict)  # "output_dir" → its name in the script
    notes: dict[str, Any] = field(default_factory=dict)  # JSON that every checkpoint carries
    identity: dict[str, Any] = field(default_factory=dict)  # values passed to `require_same` so far
    sealed: list[str] = field(default_factory=list)  # paths of files that every checkpoint holds a copy of

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        wanted: str | Path,
        *,
        script: str = "",
        argv: list[str] | None = None,
        fresh: bool = False,
        find: Callable[[Path], Checkpoint | None] = checkpoints.find,
        continue_with: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Iterator[Self]:
        """Create or open the folder, lock it, and find the newest valid checkpoint.

        Args:
            wanted: the folder; with `fresh`, a new one next to it unless it is empty.
            script, argv, continue_with: for `command`; see `run_folder.continue_command`.
            find: folder → the checkpoint to continue from, called by the main process.
            settings, options: fields of `Run`.

        Raises CannotWrite if the folder cannot be written or is in use, ResumeRefused.
        """
        settings = settings or {}
        setting = settings.get("output_dir", "output_dir")
        folder = distributed.from_main(lambda: run_folder.open_run_folder(wanted, fresh, setting))
        command = run_folder.continue_command(argv, script, folder, fresh, f"--{setting}", continue_with)
        with run_folder.lock(folder, setting):
            resume = distributed.from_main(lambda: find(folder))
            notes = dict(resume.notes) if resume else {}
            yield cls(folder, command, resume, settings=settings, notes=notes, **options)

    def setting(self, name: str) -> str:
        """Return this run's script's name for the setting `name`, for messages."""
        return self.settings.get(name, name)

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Add the command that continues to whatever the block raises; also end a W&B run started inside."""
        try:
            with distributed.together():
                yield
        except BaseException as error:
            error.add_note(f"continue with: {self.command}")
            raise
        finally:
            wandb_run.finish_wandb(exit_code=int(sys.exc_info()[0] is not None))

    def require_same(self, data: Collection[str] = (), /, **identity: Any) -> None:
        """Refuse to continue under another identity; with `force`, print what has changed.

        It is compared with the run that the checkpoint belongs to, even if that is in another folder. `data`: names in
        `identity` that the snapshot in data/ is made from; with `force`, a change of one of them sets data/ aside.
        Raises ResumeRefused.
        """
        self.identity |= identity
        if self.resume is not None:
            distributed.from_main(lambda: self._compare(identity, data))

    def _compare(self, identity: dict[str, Any], data: Collection[str]) -> None:
        assert self.resume is not None
        changes = run_folder.require_identity(self.resume.path.parent, identity, self.force)
        for change in changes:
            print(f"changed since the last start: {change}", flush=True)
        if any(change.split(":")[0] in data for change in changes) and (self.folder / "data").exists():
            aside = checkpoints.set_aside(self.folder / "data", "; ".join(changes), prefix="earlier")
            print(f"the earlier data are in {aside}", flush=True)

    def begin(self, cfg: Any) -> None:
        """Write run_identity.json and resolved_config.yaml, list harmless changes, take over a named checkpoint.

        `cfg`: the settings, a dataclass (secrets are left out). Raises CannotWrite.
        """
        public, resume = config.to_public_dict(cfg), self.resume
        if resume:
            began = resume.path.parent
            if not (began / run_folder.IDENTITY).exists() and began.resolve() != self.folder.resolve():
                unknown = f"it is not known whether {resume.path.name} belongs to a run with these settings"
                errors.warn(f"{began} has no {run_folder.IDENTITY}: {unknown}")
            for change in run_folder.changed_settings(began, public, besides=self.identity):
                print(f"changed since the last start: {change}", flush=True)
        run_folder.save_identity(self.folder, self.identity, public)
        if distributed.is_main_process():
            config.save_resolved(cfg, self.folder / "resolved_config.yaml")
        if resume and resume.by_name:
            if resume.path.parent != self.folder.resolve():
                self.notes.pop("wandb_id", None)  # the other run's
            self.resume = distributed.from_main(lambda: checkpoints.take_up(resume, self.folder))

    def once(
        self, name: str, make: Callable[[], Any], form: Any = None, require: Callable[[Any], None] = lambda value: None
    ) -> Any:
        """Return what `make` returned the first time, also in a resumed run; the same on every process.

        Args:
            name: the key in `notes`, or with `form` the file `<name>.json`, where the value is kept.
            make: () → JSON value, called by the main process alone; with `form` by all, as collective work.
            form: a class with `save(path)` and `load(path)` (raises ConfigError) for values that are large.
            require: raises ConfigError for a kept value that this run's settings do not allow.

        Raises ResumeRefused if a resumed run has such a value, without `force`; else the value is made again.
        """
        if form is None:
            if name not in self.notes:
                self.notes[name] = distributed.from_main(make)
            return self.notes[name]
        path = self.folder / f"{name}.json"
        self.sealed.append(path.name)
        if self.resume:
            self.resume.put_back(path.name, self.folder)
        if path.exists():
            try:
                value = form.load(path)
                require(value)
                return value
            except ConfigError as error:
                if self.resume is not None and not self.force:
                    raise run_folder.other_settings(self.folder, str(error)) from None
                print(f"{path.name} is made again: {error}", flush=True)
        value = make()
        if distributed.is_main_process():
            value.save(path)
        return value
