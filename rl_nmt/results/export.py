"""Save the models of a run, best/ and final/, so that plain transformers loads them, and push them to the hub.

    final/          the weights at the end, LoRA merged in; final/adapter/ the adapter alone
    best/           the weights of the evaluation with the best score outside the reward; best/chosen.json has its step

Each has the tokenizer, every stop of the model's chat turns as generation defaults, prompt.txt (for
rl_nmt.translate), and a model card. "Collective": every process may hold a part of the weights (ZeRO-3, FSDP).
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rl_nmt import distributed, files, hub
from rl_nmt.distributed import is_main_process
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.results.model_card import model_card

CHOSEN, PROMPT_FILE, CARD = "chosen.json", "prompt.txt", "README.md"


def whole_state(trainer) -> dict[str, Any]:
    """Return name → tensor of all the weights, complete on the main process. Collective. Raises ConfigError."""
    model = trainer.deepspeed if getattr(trainer, "is_deepspeed_enabled", False) else trainer.model
    try:
        return trainer.accelerator.get_state_dict(model)
    except ValueError as error:  # accelerate's message names three ways to set it
        raise ConfigError(
            f"the weights cannot be gathered ({error}): set zero3_save_16bit_model: true in accelerate's configuration"
        ) from None


def merged_state(state: Mapping[str, Any], model) -> dict[str, Any]:
    """Return name → tensor of the base model with its LoRA weights added: W + (alpha / r) · B A (Hu et al. 2021).

    Computed in fp32 and rounded to the base's precision once. `state` is `whole_state` of `model`, a PEFT model with
    one adapter of plain LoRA on linear layers. The model's own weights are neither changed nor read.
    """
    from peft.tuners.lora import Linear

    merged, adapter = {}, model.active_adapter
    layers = {name: m for name, m in model.named_modules() if isinstance(m, Linear)}
    for name, tensor in state.items():
        layer, _, part = name.rpartition(".base_layer.")
        if part == "weight":
            down, up = (state[f"{layer}.lora_{side}.{adapter}.weight"].float() for side in "AB")  # (r, in), (out, r)
            tensor = (tensor.float() + layers[layer].scaling[adapter] * (up @ down)).to(tensor.dtype)
        elif ".lora_" in name:
            continue
        merged[name.removeprefix("base_model.model.").replace(".base_layer.", ".")] = tensor
    return merged


def _save(model, folder: Path, state: Mapping[str, Any]) -> None:
    """Save a model with these weights; tied ones (lm_head to the embeddings) are written once."""
    tied = model._tied_weights_keys or () if model.config.tie_word_embeddings else ()
    model.save_pretrained(folder, state_dict={name: t for name, t in state.items() if name not in tied})


def save_best(folder: Path, trainer, prompt: str) -> None:
    """Write best/: all weights, or the LoRA adapter, which `finish_best` merges. Collective. Raises CannotWrite."""
    state = whole_state(trainer)
    if not is_main_process():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    with files.replace_folder(folder / "best") as draft:
        if hasattr(model, "merge_and_unload"):
            model.save_pretrained(draft, state_dict=state)
        else:
            _save(model, draft, state)
        trainer.processing_class.save_pretrained(draft)
        (draft / PROMPT_FILE).write_text(prompt, encoding="utf-8")
        (draft / CHOSEN).write_text(json.dumps({"step": trainer.state.global_step}), encoding="utf-8")


def save_final(folder: Path, trainer, tokenizer, prompt: str, load_start: Callable) -> None:
    """Write final/: a model for plain transformers, the prompt, and the LoRA adapter if there is one. Collective.

    `load_start` loads the start policy, into which an adapter that was trained on a 4-bit base is merged.
    """
    from rl_nmt.models import policy

    state = whole_state(trainer)
    if not is_main_process():
        return
    final = folder / "final"
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model.save_pretrained(final / "adapter", state_dict=state)
        (final / "adapter" / PROMPT_FILE).write_text(prompt, encoding="utf-8")  # read by rl_nmt.translate
        (final / "adapter" / CARD).unlink(missing_ok=True)  # PEFT's template for a card; ours is in final/
        if getattr(model, "is_loaded_in_4bit", False):
            model, state = _merged(load_start, final / "adapter")
        else:
            state, model = merged_state(state, model), model.get_base_model()
    model.generation_config = policy.generation_defaults(tokenizer)  # all stops, for plain transformers
    model.config.eos_token_id = policy.stop_ids(tokenizer)
    _save(model, final, state)
    tokenizer.save_pretrained(final)
    (final / PROMPT_FILE).write_text(prompt, encoding="utf-8")


def _merged(load_start: Callable, adapter: Path):
    """Return the start policy and its weights with the adapter of a folder added."""
    from peft import PeftModel

    with distributed.outside_zero3():
        model = PeftModel.from_pretrained(load_start(), adapter)
    return model.get_base_model(), merged_state(model.state_dict(), model)


def finish_best(folder: Path, tokenizer, choice: dict, load_start: Callable) -> dict:
    """Make best/ loadable by plain transformers like final/: merge adapters into the start policy, set all stops.

    `choice` is `DivergenceMonitor.choice()`; `load_start` loads the start policy, if an adapter has to be merged.
    Returns `choice`, with `kept` False and the reason if the weights of the chosen step are gone: a run that was
    stopped after it had written best/, and continued from an older checkpoint, may have chosen another step since.
    Such a best/ is set aside. Only the main process does this.
    """
    from rl_nmt.models import policy
    from rl_nmt.runs.checkpoints import set_aside

    best = folder / "best"
    if not is_main_process() or not best.exists():
        return choice
    try:
        step = json.loads((best / CHOSEN).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        step = None
    if choice["step"] != step:
        aside = set_aside(best, f"holds step {step}, the best is step {choice['step']}", prefix="earlier")
        print(f"best/ held step {step}, which is no longer the best; it is now {aside.name}", flush=True)
        if choice["step"]:  # step 0 is the start policy: nothing is lost
            return {**choice, "kept": False, "why_not": f"step {step} had replaced its weights before a resume"}
        return choice
    if (best / "adapter_config.json").exists():
        model, state = _merged(load_start, best)
        with files.replace_folder(best) as draft:
            for name in (PROMPT_FILE, CHOSEN):
                (draft / name).write_bytes((best / name).read_bytes())
            _save(model, draft, state)
            tokenizer.save_pretrained(draft)
    policy.generation_defaults(tokenizer).save_pretrained(best)
    return choice


def write_cards(folder: Path, comparison: Mapping[str, Any], **card: Any) -> None:
    """README.md in final/ and best/; `comparison`, `card`: arguments of `model_card`. Raises CannotWrite."""
    for name in ("final", "best"):
        if (folder / name / "config.json").exists():
            files.write(folder / name / CARD, model_card(comparison, **card, best=name == "best"))


def require_push(name: str) -> None:
    """Refuse, before anything is trained, a push that would fail. Only HF_TOKEN is used; it is never printed.

    Raises ConfigError for the name, a missing token or its namespace, MissingService if the hub cannot be reached or
    rejects the token.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"push_to: {name!r} is not a repository name ({error}); write user/name") from None
    api = _hub_api()
    if not hub.hub_reachable():
        raise MissingService(
            "push_to: the hub cannot be reached (HF_ENDPOINT, HF_HUB_OFFLINE): train without --push_to; later the same "
            "command with it pushes the finished run"
        )
    try:
        account = api.whoami()
    except Exception as error:  # requests' own, the hub client's, OSError
        raise MissingService(f"push_to: the hub rejects HF_TOKEN ({_reason(error)}): create a new one") from None
    spaces = {account.get("name"), *(org.get("name") for org in account.get("orgs", []))}
    space = name.rpartition("/")[0]
    if space and space not in spaces:
        raise ConfigError(f"push_to: HF_TOKEN belongs to {account.get('name')}, who is not a member of {space}")


def push(model: Path, name: str) -> None:
    """Upload a model folder to the hub repository `name`, made private if it is new. Raises MissingService."""
    api = _hub_api()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id, folder_path=model, ignore_patterns=[".*"], commit_message=f"Upload {model.name}"
        )
    except Exception as error:  # requests' own, the hub client's, OSError
        raise MissingService(
            f"push_to: {name} was not written ({_reason(error)}); the model is in {model}: run the same command again "
            "to push it"
        ) from None
    print(f"pushed {model} to {address}", flush=True)


def _hub_api():
    from huggingface_hub import HfApi

    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise ConfigError("push_to: HF_TOKEN is not set: export a token with write permission, or omit --push_to")
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)


def _reason(error: Exception) -> str:
    """Return the error as one short line, with the token removed."""
    line = " ".join(str(error).split())[:200] or type(error).__name__
    return line.replace(os.environ.get("HF_TOKEN", "").strip() or "\0", "…")
