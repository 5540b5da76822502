"""A vision tower's estimate against a real model counted weight by weight and tensors kept by autograd."""

from __future__ import annotations

import copy

import pytest
import torch

import train_grpo_en_ta as script
from rl_nmt.preflight import memory_estimate, vision_estimate
from rl_nmt.preflight.memory_estimate import KNOWN, Shape

GEMMA_1B = Shape(999_885_952, KNOWN["google/gemma-3-1b-it"])


@pytest.fixture(scope="module")
def seeing(tiny_vlm):
    from transformers import Gemma3ForConditionalGeneration

    return Gemma3ForConditionalGeneration.from_pretrained(tiny_vlm)


def test_a_vision_tower_is_counted_exactly(seeing, tiny_vlm):
    vision, count = vision_estimate.vision_config(str(tiny_vlm)), 0
    for name, weight in seeing.named_parameters():
        count += weight.numel() if "vision_tower" in name or "projector" in name else 0
    assert vision_estimate.vision_parameters(vision, seeing.config.text_config.hidden_size) == count


def test_lora_on_a_vision_tower_is_counted_exactly(seeing):
    from peft import get_peft_model

    from rl_nmt.models.policy import lora_config

    adapted = get_peft_model(copy.deepcopy(seeing), lora_config(4, 8))
    count = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name and "vision_tower" in name)
    assert vision_estimate.vision_lora_parameters(seeing.config.vision_config.to_dict(), 4) == count > 0


@pytest.mark.parametrize("layers", [1, 3])
def test_activations_of_a_vision_tower_are_what_autograd_keeps(layers):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=128,
        intermediate_size=480,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=64,
        patch_size=8,
        vision_use_head=False,
    )
    model = SiglipVisionModel(config)
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        if tensor.data_ptr() not in own and tensor.is_floating_point():
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(pixel_values=torch.zeros(3, 3, 64, 64))
    estimated = vision_estimate.vision_activations(config.to_dict(), 3, 4, False)
    assert estimated == pytest.approx(sum(kept.values()), rel=0.25)


def test_which_models_have_a_vision_tower(tiny_vlm, tiny_gemma, tmp_path):
    assert vision_estimate.vision_config("google/gemma-3-4b-it@v1") == vision_estimate.SIGLIP
    for name in ("google/gemma-3-1b-it", str(tiny_gemma), str(tmp_path)):
        assert vision_estimate.vision_config(name) is None


def test_images_need_more_memory(tiny_vlm):
    vision, settings = vision_estimate.SIGLIP, script.RunCfg(lora_rank=0)
    before = memory_estimate.policy_need(GEMMA_1B, settings, True, True, prompt_tokens=300)
    after = memory_estimate.policy_need(GEMMA_1B, settings, True, True, prompt_tokens=300)
    vision_estimate.add_images(after, vision, 1152, settings, 2, True)
    tower = vision_estimate.vision_parameters(vision, 1152)
    for name, bytes_each in {"policy": 4, "reference": 4, "gradients": 4, "optimizer": 8}.items():
        assert after.resident[name] - before.resident[name] == bytes_each * tower
    pictures = 2 * settings.per_device_batch_size
    expected = vision_estimate.vision_activations(vision, pictures, 2, settings.gradient_checkpointing)
    assert after.passing["update"] - before.passing["update"] == expected > 0
