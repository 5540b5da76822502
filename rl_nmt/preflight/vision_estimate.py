"""Estimate what the vision tower of a multimodal Gemma 3 adds to a run's memory. No torch.

Its weights are counted exactly; activations by the tensors that the stock kernels keep.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from rl_nmt import hub
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.memory_estimate import Need

# vision_config in config.json of google/gemma-3-4b-it and larger (SigLIP so400m), for those not on this machine
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "image_size": 896,
    "patch_size": 14,
}
KNOWN = ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it")


def vision_config(name: str) -> dict[str, Any] | None:
    """Return the configuration of a model's vision tower; None if it has none, or is not known without the network."""
    if folder := memory_estimate.folder_of(name):
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        found = config.get("vision_config")
        return found if isinstance(found, dict) else None
    return SIGLIP if hub.split_revision(name)[0] in KNOWN else None


def vision_parameters(vision: Mapping[str, Any], text_hidden: int) -> int:
    """Return the parameters of the tower and of the projection into the decoder.

    >>> vision_parameters(SIGLIP, 2560)
    419816304
    """
    d, ffn = vision["hidden_size"], vision["intermediate_size"]
    layer = 4 * (d * d + d) + 2 * d * ffn + ffn + d + 4 * d
    patches, pixels = (vision["image_size"] // vision["patch_size"]) ** 2, 3 * vision["patch_size"] ** 2
    tower = pixels * d + d + patches * d + vision["num_hidden_layers"] * layer + 2 * d
    return tower + d * text_hidden + d


def vision_lora_parameters(vision: Mapping[str, Any], rank: int) -> int:
    """Return the trained parameters with LoRA of this rank on every linear layer of the tower."""
    d, ffn = vision["hidden_size"], vision["intermediate_size"]
    return vision["num_hidden_layers"] * rank * (4 * 2 * d + 2 * (d + ffn))


def vision_activations(vision: Mapping[str, Any], images: int, value: int, checkpointing: bool) -> int:
    """Return the bytes kept for the tower's backward pass for `images` pictures, `value` bytes per number.

    Per layer and patch: the inputs of queries, keys and values (one tensor), of attention's output and of both linear
    layers of the feed-forward part, that of GELU, queries, keys, values, and the inputs of both norms. With
    checkpointing: the input of every layer, and all of these for one layer.
    """
    d, ffn, layers = vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"]
    patches = images * (vision["image_size"] // vision["patch_size"]) ** 2
    layer = value * (8 * d + 2 * ffn)
    return patches * (layers * value * d + layer if checkpointing else layers * layer)


def add_images(need: Need, vision: Mapping[str, Any], text_hidden: int, settings: Any, images: int, bf16: bool) -> None:
    """Add the vision tower and `images` pictures a sequence to the need of a policy (memory_estimate.policy_need)."""
    whole, rank = vision_parameters(vision, text_hidden), settings.lora_rank
    weights, value = 2 if bf16 and rank else 4, 2 if bf16 else 4
    trained = vision_lora_parameters(vision, rank) if rank else whole
    added = {"policy": weights * whole, "gradients": 4 * trained}
    added["optimizer"] = int(memory_estimate.moments(settings) * trained)
    added |= {"LoRA": 4 * trained} if rank else {"reference": 4 * whole} if settings.kl_beta else {}
    for name, size in added.items():
        need.resident[name] = need.resident.get(name, 0) + size
    pictures = images * settings.per_device_batch_size
    need.passing["update"] += vision_activations(vision, pictures, value, settings.gradient_checkpointing)
    pixels = 3 * 4 * vision["image_size"] ** 2
    need.passing["generation"] = need.passing.get("generation", 0) + math.ceil(pictures * pixels)
