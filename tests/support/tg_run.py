"""Run recipes.translategemma on tiny models: settings in sections, as a user's YAML file and command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tiny_models import PAIRS, build_comet
from tiny_run import SENTENCES, command

import train_grpo_en_ta as flagship

MODULE = ("-m", "recipes.translategemma.train")


def judges(folder: Path) -> dict[str, Path]:
    """Build a tiny MetricX-24 and a tiny XCOMET."""
    from tiny_metricx import build_metricx

    return {
        "metricx": build_metricx(folder / "metricx"),
        "xcomet": build_comet(folder / "xcomet", kind="xcomet_metric", layer_norm=False),
    }


def write_rows(folder: Path) -> None:
    """Write train.jsonl (sources alone) and heldout.jsonl (with references)."""
    train = [{"id": f"t{i}", "source": text} for i, text in enumerate(SENTENCES[:40])]
    heldout = [{"id": f"h{i}", "source": english, "target": tamil} for i, (english, tamil) in enumerate(PAIRS[:6])]
    for name, rows in (("train", train), ("heldout", heldout)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def sections(models: dict[str, Path], data: Path, output: Path) -> dict:
    """Return the settings of a run that takes seconds: four updates of 2 prompts × 4 samples."""
    return {
        "model": {
            "policy_name_or_path": str(models["policy"]),
            "attn_implementation": "eager",
            "gradient_checkpointing": False,
        },
        "data": {"train_file": str(data / "train.jsonl"), "eval_file": str(data / "heldout.jsonl")},
        "generation": {
            "num_samples_per_prompt": 4,
            "max_new_tokens": 24,
            "temperature": 1.0,
            "prompt": flagship.PROMPT,
        },
        "reward": {
            "max_soft_win_share": 1.0,  # random scorers: their scores of soft cheats mean nothing
            "metricx": {"model_name_or_path": str(models["metricx"])},
            "xcomet": {"model_name_or_path": str(models["xcomet"])},
        },
        "rl": {
            "prompts_per_update": 2,
            "micro_batch_size": 8,
            "updates": 4,
            "eval_every": 2,
            "save_every": 2,
            "warmup_steps": 0,
            "lr": 1e-4,
        },
        "logging": {"output_dir": str(output), "save_rollouts": True, "sample_steps": 2},
    }


def write_config(path: Path, values: dict) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def run(config: Path, *flags, **env) -> subprocess.CompletedProcess:
    """Run `python -m recipes.translategemma.train --config …`."""
    return command(*MODULE, "--config", config, *flags, **env)
