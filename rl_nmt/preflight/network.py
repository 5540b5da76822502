"""What a run has to reach: its models, its training sentences, Weights & Biases. Asked, never downloaded. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import MissingService, UserError
from rl_nmt.hub import ModelUse
from rl_nmt.preflight.findings import Finding, fail, failed


def model_finding(model: ModelUse, reachable: Callable[[], bool] = hub.hub_reachable) -> Finding:
    """Where a model would come from, or why it cannot; a licence still to be accepted is named with its page."""
    try:
        place = hub.locate(model, reachable)
    except UserError as error:
        return failed(model.setting, error)
    where = {"folder": "a folder here", "cache": "in the local cache", "hub": "on the hub, to be downloaded"}[place]
    return Finding("ok", model.setting, f"{model.name}: {where}")


def data_finding(settings: Any, folder: Path, reachable: Callable[[], bool] = hub.hub_reachable) -> Finding:
    """Whether the training sentences are here, or their source is."""
    from rl_nmt.data.sources import local_files

    if (folder / "data" / "data.json").exists():
        return Finding("ok", "data", f"already in {folder / 'data'}")
    try:
        local = local_files(settings.dataset_name, list(settings.data_files))
    except UserError as error:
        return failed("data", error)
    if local is not None:
        return Finding("ok", "data", f"{len(local[1])} {local[0]} file{'s' if len(local[1]) > 1 else ''} here")
    if reachable():
        return Finding("ok", "data", f"{settings.dataset_name}: to be streamed from the hub")
    detail = f"dataset_name: {settings.dataset_name} is on the hub, which cannot be reached"
    return fail("data", detail, "give a local file or folder as --dataset_name", MissingService)


def tracker_finding(settings: Any) -> Finding:
    """How Weights & Biases would be used; a key typed into the settings counts as a login."""
    from rl_nmt.runs import wandb_run

    if not settings.use_wandb:
        return Finding("ok", "W&B", "off (use_wandb False)")
    typed = bool(getattr(settings, "wandb_api_key", ""))
    if typed and settings.wandb_mode == "online" and not wandb_run.wandb_key_known():
        problem = wandb_run.probe(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
        mode, reason = ("offline", problem) if problem else ("online", "key in the settings, the server answers")
    else:
        mode, reason = wandb_run.choose_wandb_mode(settings.wandb_mode)
    if mode == "offline" and settings.wandb_mode == "online":
        return Finding("warn", "W&B", f"offline: {reason}", "`wandb login`, or --use_wandb False")
    return Finding("ok", "W&B", f"{mode}: {reason}")
