"""Run recipes.replies on tiny models: its settings, a world of posts and replies, forked runs that can be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from fault_trials import without_clock
from tiny_encoder import build_encoder
from tiny_qwen import tiny_qwen

from rl_nmt.runs.metrics_file import MetricsFile

THINGS = ("train", "garden", "cake", "phone", "dog", "film", "match", "bus", "song", "book")
POSTS = ("My {} made me so happy today, number {}.", "The {} was terrible again this morning, number {}.")
REPLIES = (
    "That sounds lovely! Which part of the {} did you like best?",
    "Oh no, I am sorry about the {}. What went wrong?",
)


def write_rows(folder: Path) -> Path:
    """Write rows.jsonl: 60 posts with a reply each."""
    rows = [
        {"post": POSTS[i % 2].format(THINGS[i % 10], i), "reply": REPLIES[i % 2].format(THINGS[i % 10])}
        for i in range(60)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def world(folder: Path) -> dict[str, Path]:
    """Build rows and an encoder that knows their words; the policy is the tiny Qwen3."""
    rows = write_rows(folder)
    encoder = build_encoder(folder / "encoder", [rows.read_text(encoding="utf-8")])
    return {"rows": rows, "encoder": encoder, "policy": tiny_qwen()}


def sections(world: dict[str, Path], output: Path) -> dict:
    """Return the settings of a run of seconds: six SFT steps in two epochs, four GRPO steps of 2 posts × 4 replies."""
    return {
        "model": {"name": str(world["policy"]), "lora_rank": 4, "lora_alpha": 8, "attn_implementation": "eager"},
        "data": {"train_file": str(world["rows"]), "eval_count": 6},
        "sft": {"epochs": 2, "batch_size": 9, "gradient_accumulation_steps": 1, "lr": 1e-3},
        "grpo": {"max_new_tokens": 8, "posts_per_step": 2, "micro_batch_size": 8, "max_steps": 4, "lr": 1e-3},
        "reward": {"encoder": str(world["encoder"])},
        "evaluation": {"batch_size": 60, "every": 2},
        "logging": {"output_dir": str(output), "save_every": 2, "sample_steps": 2},
    }


def write_config(path: Path, values: dict) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def train(config: Path, *flags: str, die: tuple[str, str] | None = None) -> int:
    """Run the recipe's own main, in a forked child. `die`: (phase, moment): end there as by kill -9.

    Moments: "step 1" (before the first checkpoint), "step 3" (between two), "export" (while final/ is written).
    """
    from recipes.replies import train as script
    from rl_nmt.results import export
    from rl_nmt.training import loop

    sys.modules.pop("transformers.models.gemma3.modeling_gemma3", None)  # of other tests; no Gemma is loaded here
    if die:
        phase, moment = die
        original, final = loop.train, export.save_final

        def there(run) -> bool:
            return (run.folder.name == "sft") == (phase == "sft")

        def killed(run, trainer, callbacks, **options):
            if there(run) and moment.startswith("step"):
                callbacks = [*callbacks, Killer(int(moment.split()[1]))]
            original(run, trainer, callbacks, **options)

        def half(folder, *parts):
            final(folder, *parts)
            if moment == "export" and (folder.name == "sft") == (phase == "sft"):
                (folder / "final" / "config.json").unlink()  # not everything was written
                os.kill(os.getpid(), signal.SIGKILL)

        loop.train, export.save_final = killed, half
    return script.main(["--config", str(config), "--skip_launch_gate", *flags])


def die_at(moment: str) -> None:
    """Let this process end at a moment of its only phase as by kill -9: "step 3", or "export"."""
    from rl_nmt.results import export
    from rl_nmt.training import loop

    original, final = loop.train, export.save_final

    def killed(run, trainer, callbacks, **options):
        if moment.startswith("step"):
            callbacks = [*callbacks, Killer(int(moment.split()[1]))]
        original(run, trainer, callbacks, **options)

    def half(folder, *parts):
        final(folder, *parts)
        if moment == "export":
            (folder / "final" / "config.json").unlink()  # not everything was written
            os.kill(os.getpid(), signal.SIGKILL)

    loop.train, export.save_final = killed, half


class Killer:
    """A callback that kills the process at the beginning of a step."""

    def __new__(cls, step: int):
        from transformers import TrainerCallback

        class Kill(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        return Kill()


def outcome(folder: Path) -> dict:
    """Return what a finished run left, times aside: weights, tables, metrics, samples, of both phases."""
    found = {}
    for place in (folder / "sft", folder):
        for name in ("final/model.safetensors", "final/adapter/adapter_model.safetensors", "evaluation.json"):
            found[f"{place.name}/{name}"] = (place / name).read_bytes()
        found[f"{place.name}/metrics"] = [without_clock(row) for row in MetricsFile(place / "metrics.jsonl").rows()]
        found[f"{place.name}/samples"] = (place / "samples.jsonl").read_text(encoding="utf-8")
    return found
