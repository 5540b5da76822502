"""Run recipes.preference on a tiny Gemma 3 with a vision tower: its settings, forked runs that can be killed."""

from __future__ import annotations

from pathlib import Path

from fault_trials import without_clock
from replies_run import die_at, write_config

from rl_nmt.runs.metrics_file import MetricsFile

__all__ = ["outcome", "sections", "train", "write_config"]
FILES = ("final/model.safetensors", "evaluation.json", "preference.json")


def sections(model: Path, pairs: Path, output: Path) -> dict:
    """Return the settings of a run of seconds: four steps of 4 pairs, some with a picture."""
    return {
        "model": {"name": str(model), "lora_rank": 0},
        "dataset": {"train_file": str(pairs), "eval_count": 6},
        "training": {"max_new_tokens": 24, "pairs_per_step": 4, "micro_batch_size": 4, "max_steps": 4, "lr": 1e-3},
        "evaluation": {"batch_size": 4, "every": 2},
        "logging": {"output_dir": str(output), "save_every": 2, "sample_steps": 2},
    }


def train(config: Path, *flags: str, die: str = "") -> int:
    """Run the recipe's own main, in a forked child. `die`: end at this moment as by kill -9.

    Moments: "step 1" (before the first checkpoint), "step 3" (between two), "export" (while final/ is written).
    """
    from recipes.preference import train as script

    if die:
        die_at(die)
    return script.main(["--config", str(config), *flags])


def outcome(folder: Path) -> dict:
    """Return what a finished run left, times aside: weights, tables, metrics, samples."""
    found = {name: (folder / name).read_bytes() for name in FILES}
    found["metrics"] = [without_clock(row) for row in MetricsFile(folder / "metrics.jsonl").rows()]
    return found | {"samples": (folder / "samples.jsonl").read_text(encoding="utf-8")}
