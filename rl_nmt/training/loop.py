"""What a run does around TRL's loop, the same for every recipe: resume or refuse, look, watch, save.

A recipe builds data, policy, reward and trainer; here they meet the run folder. Nothing here decides what a
run is about.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_nmt import distributed, files
from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.runs import checkpoints, run_folder
from rl_nmt.runs.checkpoints import Checkpoint
from rl_nmt.runs.run_folder import USUAL_FILES, FileNames


@dataclass(frozen=True)
class Schedule:
    """What happens while a run trains, and when. Fields as in RunCfg; 0 is never."""

    eval_steps: int = 0
    sample_steps: int = 0
    save_total_limit: int = 2
    max_hours: float = 0.0
    stop_on_divergence: bool = False
    latest: str = ""  # of the checkpoints: see checkpoints.Keeper


# ---------------------------------------------------------------------- may this folder's run go on?


def accept_settings(
    folder: Path, settings: dict[str, Any], data_fields: Collection[str], resume: Checkpoint | None, force: bool
) -> None:
    """Refuse, before anything is loaded, to resume under other `settings`; with `force` changed data are read anew.

    Compared is with the run that the checkpoint is of. `data_fields`: the settings that the snapshot in data/ is made
    from. Raises ResumeRefused.
    """
    if resume is None:
        return
    changes = run_folder.require_identity(resume.path.parent, settings, force)
    if any(change.split(":")[0] in data_fields for change in changes) and (folder / "data").exists():
        aside = checkpoints.set_aside(folder / "data", "; ".join(changes), prefix="earlier")
        print(f"the data so far are in {aside}", flush=True)


def accept_identity(
    folder: Path, identity: dict[str, Any], public: dict[str, Any], resume: Checkpoint | None, force: bool
) -> None:
    """The same for what had to be loaded first; prints what has changed. Raises ResumeRefused.

    `identity`: what must stay the same; `public`: all settings but secrets, whose changes are only listed.
    """
    if resume:
        began = resume.path.parent
        if not (began / run_folder.IDENTITY).exists() and began.resolve() != folder.resolve():
            print(
                f"warning: {began} has no {run_folder.IDENTITY}: whether {resume.path.name} is of a run with these "
                "settings is not known",
                file=sys.stderr,
                flush=True,
            )
        forced = run_folder.require_identity(began, identity, force)
        for change in [*forced, *run_folder.harmless_changes(began, public, identity)]:
            print(f"changed since the last start: {change}", flush=True)


def earlier_evaluation(
    folder: Path,
    rows: list[dict],
    reward,
    max_new_tokens: int,
    resume: Checkpoint | None,
    force: bool,
):
    """The evaluation before training that a run in this folder has already made, or None to make it.

    Raises ResumeRefused when its numbers would not compare with those at the end of this run.
    """
    from rl_nmt.results import evaluation

    if resume:
        resume.put_back("before.json", folder)
    path = folder / "before.json"
    if not path.exists():
        return None
    try:
        before = evaluation.Snapshot.load(path)
        evaluation.require_same_measure(before, rows, reward, max_new_tokens)
    except ConfigError as error:
        if resume is None or force:
            print(f"the start policy is evaluated again: {error}", flush=True)
            return None
        raise ResumeRefused(
            f"{folder} holds a run that was begun with other settings ({error}): set them back, start anew beside it "
            "with --fresh, or go on all the same with --force"
        ) from None
    return before


def finished(folder: Path, task, argument: str = "output_dir") -> bool:
    """Has this folder's run ended? Then print its table instead of doing it again.

    `task` names the table's lines, `argument` the setting with the folder. Raises ConfigError for a table that cannot
    be read.
    """
    from rl_nmt.results.evaluation import print_table

    path = folder / "evaluation.json"
    if not path.exists():
        return False
    try:
        table = print_table(json.loads(path.read_text(encoding="utf-8")), task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{argument}: {path} cannot be read ({error}); use --fresh or another folder") from None
    if not (folder / "report.html").exists():  # killed between the two
        return False
    print(table)
    print(f"{folder} holds a finished run; --fresh starts anew beside it, --{argument} elsewhere", flush=True)
    return True


def noise_floor(reward, before) -> float:
    """Spread of rewards below which a group is a tie: the scorers' jitter on the start policy's own outputs."""
    from rl_nmt.audit.noise_floor import measure_jitter

    floor = measure_jitter(reward, before.sources[:64], before.outputs[:64])
    print(f"noise floor: {floor:.1e}; a group whose rewards spread less is a tie", flush=True)
    return floor


# ---------------------------------------------------------------------- training


def train(
    folder: Path,
    trainer,
    reward,
    before,
    evaluate: Callable[[], Any],
    monitor,
    metrics,
    schedule: Schedule,
    *,
    resume: Checkpoint | None,
    notes: dict[str, Any],
    save_best: Callable[[], None],
    started: float,
    command: str,
    callbacks: Sequence = (),
):
    """Train from the checkpoint `resume`, or from the start; returns the evaluation at the end.

    Every step lands in metrics.jsonl, and so do the evaluations `before` (step 0), on the way and at the end.

    Args:
        trainer: a `GuardedGRPOTrainer` that was not trained yet.
        reward: has `last_rows`; its `state_dict`, if any, is kept in checkpoints.
        before: the Snapshot of the start policy; evaluate: () → Snapshot of the present one.
        monitor: a `rl_nmt.results.divergence.DivergenceMonitor`.
        metrics: the callback that writes metrics.jsonl, with `record` and `begin_anew`.
        notes: JSON values that every checkpoint carries along.
        save_best: called when the present model is the best so far.
        started: time.monotonic() of the start; command: what to type to go on.
        callbacks: further ones.

    Raises Stopped after a signal or max_hours, with a checkpoint to go on from.
    """
    from rl_nmt.results.divergence import self_bleu
    from rl_nmt.training.callbacks import GracefulStop, HeldOut, ProgressLine

    def repeats():
        rows = reward.last_rows
        return self_bleu([row["source"] for row in rows], [row["output"] for row in rows])

    held_out = HeldOut(
        schedule.eval_steps, evaluate, metrics.record, monitor, save_best, repeats, schedule.stop_on_divergence
    )
    for callback in (metrics, held_out, ProgressLine(reward, schedule.sample_steps), *callbacks):
        trainer.add_callback(callback)
    trainer.checkpoints = keeper = checkpoints.Keeper(
        folder,
        keep=schedule.save_total_limit,
        parts={"trainer": trainer, "reward": reward, "metrics": metrics, "divergence": monitor, "held_out": held_out},
        files=("before.json",),
        notes=notes,
        latest=schedule.latest,
    )
    if resume:
        print(f"resuming from {resume}; --fresh starts anew beside it", flush=True)
        keeper.restore(resume)
        monitor.restart_unless_same(before)
    else:
        trainer.noise_floor = distributed.from_main(lambda: noise_floor(reward, before))
        metrics.begin_anew()
        held_out.take(0, before)
    with GracefulStop(trainer.at_cycle_end, schedule.max_hours, started, command) as stop:
        trainer.add_callback(stop)
        trainer.train(resume_from_checkpoint=str(resume.path) if resume else None)
    stop.leave(keeper.newest)
    after = evaluate()
    held_out.take(trainer.state.global_step, after)
    return after


class EvalOutputs:
    """Every evaluation's outputs beside the start policy's in one JSONL file: rows of samples.jsonl with their step.

    Args:
        path: the file; rows past the step from which a run continues are cut.
        before: Snapshot of the start policy.
        task: a `rl_nmt.results.task.Task`.
        resumed_at: that step, 0 for a new run.
    """

    def __init__(self, path: Path, before, task, resumed_at: int = 0):
        from rl_nmt.runs.metrics_file import MetricsFile

        self.before, self.task, self.file = before, task, MetricsFile(path)
        if distributed.is_main_process():
            self.file.cut_after(resumed_at)

    def take(self, step: int, snapshot) -> None:
        """Add an evaluation, once per step; the main process writes."""
        from rl_nmt.results.evaluation import sample_rows

        if distributed.is_main_process():
            self.file.cut_after(step - 1)
            for row in sample_rows(self.before, snapshot, self.task):
                self.file.append({"step": step, **row})


def write_results(
    folder: Path,
    before,
    after,
    best: dict[str, Any],
    notes: dict[str, Any],
    seed: int,
    task,
    names: FileNames = USUAL_FILES,
) -> None:
    """Samples, evaluation.json, the curve and the report; prints the table.

    `best` is what `DivergenceMonitor.choice` returns, `notes["launch_gate"]` what the launch gate found, if it ran.
    A file of samples under another name than samples.jsonl is `EvalOutputs`' and is left as it is.
    """
    from rl_nmt.results import evaluation, report

    comparison = evaluation.compare(before, after, task, seed)
    comparison["best"] = best
    if "launch_gate" in notes:
        comparison["launch_gate"] = {k: v for k, v in notes["launch_gate"].items() if k != "families"}
    if names == USUAL_FILES:
        evaluation.write_samples(folder / names.samples, before, after, task)
    files.write_json(folder / "evaluation.json", comparison)
    report.reward_curve_png(folder / names.metrics, folder / "reward_curve.png", task)
    report.write_report(folder, task, names)
    print(evaluation.print_table(comparison, task))
    print(f"model {folder / 'final'}   report {folder / 'report.html'}", flush=True)
