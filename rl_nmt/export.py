"""The models that a run leaves: best/ and final/, both loaded by plain transformers.

    final/          the weights at the end, LoRA merged in; final/adapter/ the adapter alone
    best/           the weights of the evaluation with the best score outside the reward; best/chosen.json says which

Each has the tokenizer, both stops of Gemma's chat turns as generation defaults, and prompt.txt, which
rl_nmt.translate reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rl_nmt.checkpoints import replace_folder

CHOSEN, PROMPT_FILE = "chosen.json", "prompt.txt"


def save_best(folder: Path, trainer, prompt: str) -> None:
    """best/: the present weights, or with LoRA the adapter alone (merged by `finish_best`); replaced in one go."""
    with replace_folder(folder / "best") as draft:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(draft)
        trainer.processing_class.save_pretrained(draft)
        (draft / PROMPT_FILE).write_text(prompt, encoding="utf-8")
        (draft / CHOSEN).write_text(json.dumps({"step": trainer.state.global_step}), encoding="utf-8")


def save_final(folder: Path, trainer, tokenizer, prompt: str) -> None:
    """final/: a model that plain transformers loads, the prompt, and the LoRA adapter if there is one."""
    from rl_nmt import policy

    final = folder / "final"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(final / "adapter")
        model = model.merge_and_unload()
    model.generation_config = policy.generation_defaults(tokenizer)  # both stops, for whoever loads it plainly
    model.config.eos_token_id = policy.stop_ids(tokenizer)
    model.save_pretrained(final)
    tokenizer.save_pretrained(final)
    (final / PROMPT_FILE).write_text(prompt, encoding="utf-8")


def finish_best(folder: Path, tokenizer, choice: dict, load_start: Callable) -> dict:
    """Make best/ load with plain transformers like final/: adapters merged into the start policy, both stops.

    Args:
        folder: the run folder.
        choice: what `Watch.choice` says.
        load_start: () → the start policy, called only where an adapter has to be merged.

    Returns `choice`, with `kept` False and the reason where the chosen step's weights are gone: a run that was
    stopped after it had written best/, and went on from an older checkpoint, may have chosen otherwise since. Such
    a best/ is set aside.
    """
    from rl_nmt import policy
    from rl_nmt.checkpoints import set_aside

    best = folder / "best"
    if not best.exists():
        return choice
    step = _chosen_step(best)
    if choice["step"] != step:
        aside = set_aside(best, f"holds step {step}, the best is step {choice['step']}", prefix="earlier")
        print(f"best/ held step {step}, which is not the best any more: now {aside.name}", flush=True)
        if choice["step"]:  # step 0 is the start policy: nothing is lost
            return {**choice, "kept": False, "why_not": f"step {step} had replaced its weights before a resume"}
        return choice
    if (best / "adapter_config.json").exists():
        from peft import PeftModel

        merged = PeftModel.from_pretrained(load_start(), best).merge_and_unload()
        with replace_folder(best) as draft:
            for name in (PROMPT_FILE, CHOSEN):
                (draft / name).write_bytes((best / name).read_bytes())
            merged.save_pretrained(draft)
            tokenizer.save_pretrained(draft)
    policy.generation_defaults(tokenizer).save_pretrained(best)
    return choice


def _chosen_step(best: Path) -> int | None:
    try:
        return int(json.loads((best / CHOSEN).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
