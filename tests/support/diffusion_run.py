"""Run recipes.diffusion on a tiny generator and a tiny judge: its settings, forked runs that can be killed."""

from __future__ import annotations

from pathlib import Path

import torch
from fault_trials import without_clock
from replies_run import die_at, write_config
from tiny_diffusion import tiny_generator
from tiny_judge import build_judge

from rl_nmt.models.masked_diffusion import character_tokenizer
from rl_nmt.runs.metrics_file import MetricsFile

__all__ = ["outcome", "train", "values", "world", "write_config"]
NAMES = ("cat", "dog", "friend", "teacher", "farmer", "child")
DOES = ("sees", "finds", "wants", "likes")
FILES = ("final/model.safetensors", "evaluation.json", "rollouts.jsonl", "samples.jsonl")


def texts() -> list[str]:
    """Return 120 sentences of 20 to 35 characters."""
    return [
        f"The {a} {does} the {b} of {c}s." for a in NAMES for b in NAMES for does in DOES for c in NAMES[:1] if a != b
    ]


def world(folder: Path) -> Path:
    """Write texts.txt, generator/ and judge/; the generator is untrained, with distributions far from uniform."""
    (folder / "texts.txt").write_text("\n".join(texts()) + "\n", encoding="utf-8")
    tokenizer = character_tokenizer(texts(), context=64)
    tiny_generator(tokenizer=tokenizer, max_position_embeddings=64).save_pretrained(folder / "generator")
    tokenizer.save_pretrained(folder / "generator")
    build_judge(folder / "judge", texts())
    return folder


def values(world: Path, output: Path, **changes) -> dict:
    """Return the settings of a run of seconds: four steps of 4 templates × 4 fills."""
    own = {"generator_checkpoint": "generator", "judge_checkpoint": "judge", "dataset": "texts.txt"}
    small = {"num_train_samples": 80, "num_eval_samples": 10, "min_chars": 10, "max_chars": 60, "denoising_steps": 4}
    grpo = {"group_size": 4, "templates_per_step": 4, "batch_size": 8, "learning_rate": 1e-3, "max_steps": 4}
    logs = {"eval_steps": 2, "save_steps": 2, "sample_steps": 2, "output_dir": str(output)}
    return {name: str(world / part) for name, part in own.items()} | small | grpo | logs | changes


def train(config: Path, *flags: str, die: str = "") -> int:
    """Run the recipe's own main, in a forked child. `die`: end at this moment as by kill -9.

    Moments: "step 1" (before the first checkpoint), "step 3" (between two), "export" (while final/ is written).
    """
    from recipes.diffusion import train as script

    torch.set_num_threads(1)
    if die:
        die_at(die)
    return script.main([str(config), "--skip_launch_gate", *flags])


def outcome(folder: Path) -> dict:
    """Return what a finished run left, times aside: weights, tables, metrics, samples."""
    found = {name: (folder / name).read_bytes() for name in FILES}
    return found | {"metrics": [without_clock(row) for row in MetricsFile(folder / "metrics.jsonl").rows()]}
