"""Steps that every recipe shares: load the policy, configure GRPO, evaluate, check the reward, finish a run."""

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rl_nmt import distributed, files
from rl_nmt.data.snapshot import OtherRequest
from rl_nmt.errors import ConfigError, ResumeRefused
from rl_nmt.progress import progress
from rl_nmt.results.task import Task
from rl_nmt.runs import checkpoints, run_folder
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Files, Run
from rl_nmt.runs.run_folder import model_identity
from rl_nmt.text.languages import ENGLISH, Language

# Settings that may differ from those of a finished run, at the top level or in a section.
_CHANGES_NO_RESULT = re.compile(
    r"(phase|logging\.\w+|misc\.huggingface_\w+|(\w+\.)?(output_dir|push_to|max_hours|logging_steps|(sample|save)_\w+"
    r"|headroom_prompts|patience|(use_)?wandb\w*)):"
)
T = TypeVar("T")
JITTER_ROUNDS = 4  # the first scores all at once, the others shuffled halves: each segment gets other batch neighbours


@dataclass
class Policy:
    """A causal language model on its device, with its tokenizer; `start` loads it again, untrained."""

    tokenizer: Any
    precision: Any
    model: Any
    start: Callable[[], Any]
    processor: Any = None  # of a model with a vision tower


def load_policy(
    name: str,
    lora: bool,
    attention: str,
    families: Sequence[str] = (),
    argument: str = "model_id",
    quantise: bool = False,
    images: bool = False,
) -> Policy:
    """Load a policy; precision and device are chosen once and printed.

    `families`: chat formats that the caller can write, () for all; `argument`: the setting that names the model;
    `quantise`: its base in 4-bit (`start` loads it whole); `images`: with its vision tower and its processor.
    Raises ConfigError, MissingService.
    """
    from rl_nmt.models import multimodal, policy

    policy.prepare_processes()
    tokenizer = policy.load_tokenizer(name, families, argument)
    precision = policy.choose_precision(lora=lora)
    print(f"precision: {precision.reason}", flush=True)

    processor = multimodal.load_processor(name, tokenizer, argument) if images else None
    start = partial(policy.load_policy, name, tokenizer, precision, attention, families, argument, images=images)
    model = start(quantise=True) if quantise else start().to(precision.device)
    return Policy(tokenizer, precision, model, start, processor)


def grpo_config(folder: Path, policy: Policy, save_steps: int, seed: int, **options: Any):
    """Return a GRPOConfig with what every recipe sets alike, explicitly: several TRL defaults depend on the machine."""
    from trl import GRPOConfig

    options.setdefault("lr_scheduler_type", "constant_with_warmup")
    shared = trainer_options(policy, save_steps, seed)
    return GRPOConfig(output_dir=str(folder), num_train_epochs=1, **shared, **options)


def trainer_options(policy: Policy, save_steps: int, seed: int) -> dict[str, Any]:
    """Return what every trainer's configuration sets alike: seeds, checkpoints, precision and device, no reports."""
    return {
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps" if save_steps else "no",
        "save_steps": save_steps or 1,
        "bf16": policy.precision.autocast,
        "fp16": False,
        **distributed.training_device(policy.precision.device),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": policy.precision.device != "cpu",
        # A batch without images leaves the vision tower without gradients.
        "ddp_find_unused_parameters": policy.processor is not None,
    }


def dataset(sources: Sequence[str], make_prompt: Callable[[str], str]):
    """Return the rows that TRL samples from: prompt, source."""
    from datasets import Dataset

    return Dataset.from_list([{"prompt": make_prompt(source), "source": source} for source in sources])


def quieten(trainer) -> None:
    """Remove the Trainer's log lines in favour of ours; warn of 16-bit weights, which hardly train."""
    from transformers import PrinterCallback

    from rl_nmt.models.policy import losing_combination

    if warning := losing_combination(trainer.model):
        print(warning, file=sys.stderr, flush=True)
    trainer.remove_callback(PrinterCallback)


def identity(model: str, reward) -> dict[str, Any]:
    """Return the identity of policy, tokenizer and reward, which may not change when a run continues."""
    return {**model_identity(model), "reward": files.finite(reward.signature()["identity"])}


def finished(folder: Path, task: Task, settings: dict[str, Any], setting: str = "output_dir") -> bool:
    """Return whether this folder holds a finished run; if so, print its table.

    `settings`: of this command; `setting`: the one that names the folder, for messages. Raises ConfigError for a table
    that cannot be read, ResumeRefused if settings that the result depends on have changed since.
    """
    from rl_nmt.results.evaluation import print_table

    path = folder / "evaluation.json"
    if not path.exists():
        return False
    try:
        table = print_table(json.loads(path.read_text(encoding="utf-8")), task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{setting}: {path} cannot be read ({error}); use --fresh or another folder") from None
    if not (folder / "report.html").exists():  # killed between the two
        return False
    changes = run_folder.changed_settings(folder, settings)
    if changes := [change for change in changes if not _CHANGES_NO_RESULT.match(change)]:
        raise ResumeRefused(
            f"{setting}: {folder} holds a finished run with other settings ({'; '.join(changes)}): set them back to "
            f"see its table, or train in a folder next to it with --fresh, or in another one with --{setting}"
        )
    print(table)
    print(f"{folder} holds a finished run; to train again, add --fresh or name another --{setting}", flush=True)
    return True


def load_data(run: Run, load: Callable[[], T]) -> T:
    """Return what `load` reads, on the main process, from the run's data/. Collective.

    Data of other settings that an earlier command (--headroom, --eval_only) has left there are set aside, unless the
    run has a checkpoint or data/ is a link. Raises what `load` does, CannotWrite.
    """

    def read() -> T:
        folder = run.folder / "data"
        try:
            return load()
        except OtherRequest as error:
            if run.resume is not None or folder.is_symlink():
                raise
            aside = checkpoints.set_aside(folder, str(error), prefix="earlier")
        print(f"data: {folder} had the data of other settings, now in {aside}; no step was trained on them", flush=True)
        return load()

    return distributed.from_main(read)


def evaluate_before(run: Run, evaluate: Callable[[], Any], rows: Sequence[dict], reward, decoding: int | str):
    """Return the start policy's Snapshot: made once per run, and reused only if the final one is comparable with it.

    `decoding`: see `evaluation.measured_by`.
    """
    from rl_nmt.results.evaluation import Snapshot, require_same_measure

    def make():
        print(f"evaluating the start policy on {len(rows)} held-out rows", flush=True)
        return evaluate()

    same = partial(require_same_measure, rows=rows, reward_fn=reward, decoding=decoding)
    return run.once("before", make, form=Snapshot, require=same)


def skipped(asked: Mapping[str, bool], *names: str) -> str:
    """Return why a check is skipped: the first of these flags that was given; "" without any."""
    return next((f"skipped by --{name}" for name in names if asked[name]), "")


def ask_launch_gate(run: Run, ask: Callable[[], dict], skip: str = "") -> None:
    """Check once per run that cheats cannot win the reward, and note the verdict.

    `skip`: why the check is skipped; "" runs it. `ask` runs it and raises RewardRefused.
    """

    def verdict() -> dict:
        if not skip:
            return ask()
        print(f"launch gate: {skip}", flush=True)
        return {"passed": None, "reasons": [skip]}

    run.once("launch_gate", verdict)


def ask_translation_gate(
    run: Run,
    reward,
    rows: Sequence[dict[str, str]],
    bound: float,
    seed: int,
    target: Language,
    source: Language = ENGLISH,
    skip: str = "",
) -> None:
    """Check once per run that translation's cheats cannot win the reward; see `ask_launch_gate`.

    They are made of the references in `rows` {"source", "reference"?}, for Tamil also of pairs that come with the code.
    Without enough of them the check is skipped, which is noted. `bound`: see `launch_gate`.
    """
    from rl_nmt.audit.cheats import honest_pairs, require_translation_launch, too_few

    pairs, _ = honest_pairs(rows, seed, language=target.code, source=source.code)
    gate = partial(require_translation_launch, reward, rows, bound, seed, target.code, source.code)
    lacking = too_few(pairs, target, source)
    ask_launch_gate(run, gate, skip or (lacking and f"skipped: {lacking}"))


def noise_floor(run: Run, reward, before) -> float:
    """Return the reward spread up to which a group is a tie: the scorers' jitter on the start policy's own outputs."""

    def measure() -> float:
        floor = measure_jitter(reward, before.sources[:64], before.outputs[:64])
        print(f"noise floor: {floor:.1e}; a group whose rewards spread no more is a tie", flush=True)
        return floor

    return run.once("noise_floor", measure)


def measure_jitter(reward, sources: Sequence[str], outputs: Sequence[str]) -> float:
    """Return the largest spread (max − min) of one segment's total over calls in other orders and batches.

    TRL divides a group's rewards by their spread, so rounding would become a full-size gradient: the group rules treat
    a group that spreads no more than this as a tie (trainer.py; docs/details.md, 15).

    Sources and outputs: the segments (N,), best those that training will see. 0.0 for scorers that do not depend on
    their batch. Segments that could not be scored do not count.
    """
    order = list(range(len(outputs)))
    totals: dict[int, list[float]] = defaultdict(list)
    shuffle = random.Random(0).shuffle
    with progress("noise floor", JITTER_ROUNDS * len(outputs), "scores") as bar:
        for turn in range(JITTER_ROUNDS):
            for piece in filter(None, [order[::2], order[1::2]] if turn else [order]):
                rows = reward.score_components(None, [outputs[i] for i in piece], source=[sources[i] for i in piece])
                for i, row in zip(piece, rows, strict=True):
                    if row["total"] is not None:
                        totals[i].append(row["total"])
                bar.update(len(piece))
            shuffle(order)
    return max((max(found) - min(found) for found in totals.values()), default=0.0)


def start_wandb(run: Run, wanted, settings: dict[str, Any]) -> bool:
    """Start a W&B run, or continue this run's own, if wanted and possible within seconds; return whether it runs.

    `wanted`: has use_wandb, wandb_project, wandb_entity, wandb_run_name and wandb_mode; `settings`: shown by W&B, must
    not hold keys. Code is not uploaded.
    """
    from rl_nmt.runs import wandb_run

    if not (wanted.use_wandb and distributed.is_main_process()):
        return False
    mode, reason = wandb_run.choose_wandb_mode(wanted.wandb_mode)
    print(f"W&B: {mode} ({reason})", flush=True)
    if mode == "disabled":
        return False
    names = {"project": wanted.wandb_project, "entity": wanted.wandb_entity or None}
    names["name"] = wanted.wandb_run_name or run.folder.name
    if run_id := wandb_run.start_wandb(mode, run.folder, run.notes.get("wandb_id"), **names, config=settings):
        run.notes["wandb_id"] = run_id
    return bool(run_id)


def keep_outputs(path: Path, before, step: int, snapshot, task: Task) -> None:
    """Append an evaluation's outputs with the start policy's to a samples file, as rows with their step.

    Rows of this step and later ones are removed first. The main process writes.
    """
    from rl_nmt.results.evaluation import sample_rows

    if distributed.is_main_process():
        file = MetricsFile(path)
        file.cut_after(step - 1)
        for row in sample_rows(before, snapshot, task):
            file.append({"step": step, **row})


def evaluate_only(snapshot, task: Task, outputs: Path | None = None) -> None:
    """Print the table of one Snapshot, and write its outputs to the file `outputs`, if given."""
    from rl_nmt.results import evaluation

    if outputs:
        keep_outputs(outputs, snapshot, 0, snapshot, task)
    print(evaluation.print_table(evaluation.compare(snapshot, snapshot, task), task), flush=True)


def finish(run: Run, trainer, policy: Policy, held_out, task: Task, card: dict[str, Any], seed: int = 0) -> None:
    """Evaluate the trained model, write the results of the run and print the table. Collective.

    The results are final/, best/, samples, evaluation.json, curve, report and model cards. A samples file with another
    name than samples.jsonl belongs to `keep_outputs` and is not written here. `held_out`: the run's `HeldOut`; `card`:
    base_model, data, settings, prompt; `seed`: of the bootstrap.
    """
    from rl_nmt.results import evaluation, export, report

    before, after = held_out.before, held_out.evaluate()
    held_out.take(trainer.state.global_step, after)
    export.save_final(run.folder, trainer, policy.tokenizer, card["prompt"], policy.start)
    best = export.finish_best(run.folder, policy.tokenizer, held_out.monitor.choice(), policy.start)
    if policy.processor is not None and distributed.is_main_process():
        for folder in (run.folder / "final", run.folder / "best"):
            if folder.exists():
                policy.processor.save_pretrained(folder)
    if not distributed.is_main_process():
        return
    comparison = evaluation.compare(before, after, task, seed=seed) | {"best": best}
    if "launch_gate" in run.notes:
        comparison["launch_gate"] = {k: v for k, v in run.notes["launch_gate"].items() if k != "families"}
    # "distance": from the start policy, in nats per token, where KL is not part of the training
    names = {"headroom_gate": "headroom", "prompt_filter": "prompt_filter", "distance": "distance"}
    comparison |= {shown: run.notes[name] for name, shown in names.items() if name in run.notes}
    if run.files.samples == Files().samples:
        evaluation.write_samples(run.folder / run.files.samples, before, after, task)
    files.write_json(run.folder / "evaluation.json", comparison)
    report.reward_curve_png(run.folder / run.files.metrics, run.folder / "reward_curve.png", task)
    report.write_report(run.folder, task, run.files, card["base_model"])
    print(evaluation.print_table(comparison, task))
    print(f"model {run.folder / 'final'}   report {run.folder / 'report.html'}", flush=True)
    export.write_cards(run.folder, comparison, **card, task=task)
