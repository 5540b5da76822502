"""Fine-tune the policy on pairs before GRPO or RAFT (TRL's SFTTrainer), for a model that does not translate yet.

It is the phase `<output_dir>/sft/` (runs/phases.py). Its result, LoRA merged in, is the start and the reference of what
follows, as if it were `model_id`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rl_nmt import distributed
from rl_nmt.data import tables
from rl_nmt.data.corpus import folded
from rl_nmt.errors import ConfigError
from rl_nmt.ranges import above, at_least
from rl_nmt.runs import phases, run_folder
from rl_nmt.runs.run import Run
from rl_nmt.text.languages import TAMIL, Language
from rl_nmt.text.unicode import safe_unicode


@dataclass
class SftSettings:
    """Settings of the fine-tuning on warm_start_file; all are fixed for a run."""

    epochs: int = at_least(1, 2)  # passes over the pairs
    batch_size: int = at_least(1, 8)  # pairs per optimizer step and process
    lr: float = above(0, 2e-4)  # learning rate, falling linearly to 0


def check(cfg: Any, processes: int) -> None:
    """Refuse a warm_start_file that does not exist, or is in another script. Raises ConfigError."""
    if not cfg.warm_start_file:
        return
    if not Path(cfg.warm_start_file).expanduser().is_file():
        raise ConfigError(f"warm_start_file: no such file: {cfg.warm_start_file}; give a TSV or JSONL file of pairs")
    tables.read_pairs(cfg.warm_start_file, "warm_start_file", language=cfg.language, strict=True)


def pairs(path: str, held_out: Sequence[dict[str, Any]], language: Language = TAMIL) -> list[tuple[str, str]]:
    """Return the clean (source, translation) pairs of a file without the held-out sources.

    Raises ConfigError, also for a translation that is not in the language's script.
    """
    seen = {folded(row["source"]) for row in held_out}
    read = [
        (" ".join(safe_unicode(pair.source).split()), " ".join(safe_unicode(pair.output).split()))
        for pair in tables.read_pairs(path, "warm_start_file", language=language, strict=True)
    ]
    kept = [(source, output) for source, output in read if source and output and folded(source) not in seen]
    if not kept:
        raise ConfigError(f"warm_start_file: {path}: all {len(read)} rows are blank or held out; add pairs")
    if len(kept) < len(read):
        print(f"warm start: {len(read) - len(kept)} of {len(read)} rows are blank or held out: left out", flush=True)
    return kept


def told(cfg: Any) -> dict[str, Any]:
    """Return the settings of the fine-tuning for the model card; {} without one."""
    if not cfg.warm_start_file:
        return {}
    return {"warm_start_file": Path(cfg.warm_start_file).name} | {f"sft.{n}": v for n, v in asdict(cfg.sft).items()}


def start_model(
    cfg: Any,
    run: Run,
    held_out: Sequence[dict[str, Any]],
    make_prompt: Callable[[str], str],
    prompt: str,
    started: float | None = None,
) -> str:
    """Return the model that the run starts from: model_id, or the folder of the one fine-tuned on warm_start_file.

    `cfg`: RunCfg's names; `prompt`: the template, saved with the model. It is trained once, resumable. Collective.
    Raises ConfigError, ResumeRefused, and what `loop.train` does.
    """
    if not cfg.warm_start_file:
        return cfg.model_id
    with run.under_way(), phases.open_phase(run, "sft") as phase:
        rows = distributed.from_main(lambda: pairs(cfg.warm_start_file, held_out, cfg.language))
        digest = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()[:16]
        known = run_folder.model_identity(cfg.model_id) | asdict(cfg.sft) | {"pairs": digest, "seed": cfg.seed}
        if not phases.finished(phase, known | {"lora_rank": cfg.lora_rank, "lora_alpha": cfg.lora_alpha}):
            _train(cfg, phase, rows, make_prompt, prompt, started)
            phases.finish(phase)
    run.require_same(warm_start=phases.sealed(run.folder / "sft", "output_dir"))
    return str(run.folder / "sft" / "final")


def _train(
    cfg: Any, phase: Run, rows: list, make_prompt: Callable[[str], str], prompt: str, started: float | None
) -> None:
    from rl_nmt.models import loading
    from rl_nmt.models.policy import add_adapter
    from rl_nmt.results import export
    from rl_nmt.training import loop, setup
    from rl_nmt.training.callbacks import ProgressLine
    from rl_nmt.training.sft import build_sft_trainer, sft_rows

    own, lora = cfg.sft, bool(cfg.lora_rank)
    print(f"warm start: {len(rows)} pairs, {own.epochs} epochs, {phase.folder}", flush=True)
    policy = setup.load_policy(cfg.model_id, lora, cfg.attn_implementation)
    if lora:
        policy.model = add_adapter(policy.model, cfg.lora_rank, cfg.lora_alpha, cfg.seed)
    size = math.gcd(cfg.per_device_batch_size, own.batch_size)
    options: dict[str, Any] = {name: getattr(cfg, name) for name in ("gradient_checkpointing", "logging_steps")}
    options |= {"num_train_epochs": own.epochs, "learning_rate": own.lr, "lr_scheduler_type": "linear"}
    options |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": own.batch_size // size}
    sources, answers = zip(*rows, strict=True)
    data = sft_rows(policy.tokenizer, [make_prompt(source) for source in sources], answers)
    trainer = build_sft_trainer(phase.folder, policy, data, cfg.save_steps, cfg.seed, optim=cfg.optimizer, **options)
    limits: dict[str, Any] = {"keep": cfg.save_total_limit, "max_hours": cfg.max_hours}
    loop.train(phase, trainer, [ProgressLine(None, 0)], started=started, **limits)
    export.save_final(phase.folder, trainer, policy.tokenizer, prompt, policy.start)
    del trainer, policy
    loading.release()
