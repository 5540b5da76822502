"""Estimated sizes against real models counted weight by weight, tensors kept by autograd, and sums made by hand."""

from __future__ import annotations

import doctest

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

import train_grpo_en_ta as script
from rl_nmt.hub import ModelUse
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.memory_estimate import GIB, KNOWN, Need, Shape, model_shape
from rl_nmt.training.trl_settings import TrlSettings

GEMMA_1B = Shape(999_885_952, KNOWN["google/gemma-3-1b-it"])


def gemma(hidden, ffn, layers, heads, keys, head, vocab=300):
    return Gemma3TextConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        head_dim=head,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        query_pre_attn_scalar=head,
        sliding_window=512,
        attn_implementation="sdpa",
    )


GEMMAS = [gemma(64, 128, 2, 2, 1, 32), gemma(96, 256, 3, 4, 2, 16, 411)]
M2M = M2M100Config(
    vocab_size=207,
    d_model=24,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=2,
    encoder_ffn_dim=40,
    decoder_attention_heads=2,
    decoder_ffn_dim=56,
)
XLMR = XLMRobertaConfig(
    vocab_size=99,
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=40,
    max_position_embeddings=34,
    type_vocab_size=1,
)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())  # tied weights once


def test_docstrings():
    assert doctest.testmod(memory_estimate).failed == 0


@pytest.mark.parametrize("config", GEMMAS)
def test_gemma_is_counted_weight_by_weight(config):
    assert memory_estimate.parameters(config.to_dict()) == count(Gemma3ForCausalLM(config))


def test_nllb_and_xlmr_are_counted_weight_by_weight():
    assert memory_estimate.parameters(M2M.to_dict()) == count(M2M100ForConditionalGeneration(M2M))
    assert memory_estimate.parameters(XLMR.to_dict()) == count(XLMRobertaModel(XLMR, add_pooling_layer=False))


@pytest.mark.parametrize("tied", [True, False])
def test_t5_is_counted_weight_by_weight(tied):
    sizes = {"vocab_size": 99, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3}
    sizes |= {"num_heads": 3, "tie_word_embeddings": tied, "feed_forward_proj": "gated-gelu"}
    t5, mt5 = T5Config(**sizes), MT5Config(**sizes)
    assert memory_estimate.parameters(t5.to_dict()) == count(T5ForConditionalGeneration(t5))
    if tied == mt5.tie_word_embeddings:  # transformers 5 ties every mT5
        assert memory_estimate.parameters(mt5.to_dict()) == count(MT5ForConditionalGeneration(mt5))


def test_metricx_by_hand():
    xl = model_shape("google/metricx-24-hybrid-xl-v2p6-bfloat16@main")
    table, value = 250_112 * 2048, 2
    assert xl.parameters == 3_742_619_648  # mT5-XL, "3.7B" in its paper
    weights, work = memory_estimate.metricx_need(xl, "bfloat16")
    assert weights == value * (3_742_619_648 - table)  # the output matrix is dropped
    assert work == value * 8192 * (8 * 2048 + 3 * 5120) + 2 * 4 * 32 * 8192 * 512
    needs = memory_estimate.memory_needs(cfg(reward_dtype="bfloat16"), {**models(), "comet_qe": xl}, 1, True)
    assert needs["cuda:0"].resident["comet_qe"] == weights


@pytest.mark.parametrize(
    ("name", "total"),  # known apart from the formula
    [
        ("google/gemma-3-270m-it", 268_098_176),
        ("google/gemma-3-1b-it", 999_885_952),
        ("facebook/nllb-200-distilled-600M", 615_073_792),
        ("facebook/nllb-200-distilled-1.3B", 1_370_638_336),
        ("facebook/nllb-200-3.3B", 3_344_863_232),
        ("facebook/m2m100_418M", 483_905_536),
        ("facebook/m2m100_1.2B", 1_239_470_080),
        ("google/metricx-24-hybrid-large-v2p6", 1_229_581_312),
    ],
)
def test_known_models_have_their_size(name, total):
    assert memory_estimate.parameters(KNOWN[name]) == total


def test_comets_by_hand():
    encoder = (250_002 + 514 + 1 + 2) * 1024 + 24 * (4 * (1024**2 + 1024) + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024)
    da = 6 * 1024 * 3072 + 3072 + 3072 * 1024 + 1024 + 1024 + 1  # src, ref, products and differences → 3072 → 1024 → 1
    qe = 1024 * 3072 + 3072 + 3072 * 1024 + 1024 + 1024 + 1
    assert memory_estimate.parameters(KNOWN["Unbabel/wmt22-comet-da"]) == encoder + da
    assert memory_estimate.parameters(KNOWN["Unbabel/wmt22-cometkiwi-da"]) == encoder + qe


@pytest.mark.parametrize("config", [{}, {"model_type": "llama"}, {"model_type": "gemma3_text", "vocab_size": 9}])
def test_what_is_not_known_has_no_size(config):
    assert memory_estimate.parameters(config) is None


@pytest.mark.parametrize("rank", [1, 8])
def test_lora_is_counted_by_peft(rank):
    from peft import LoraConfig, get_peft_model

    config = GEMMAS[1]
    lora = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    trained, _ = get_peft_model(Gemma3ForCausalLM(config), lora).get_nb_trainable_parameters()
    assert memory_estimate.lora_parameters(config.to_dict(), rank) == trained


def kept_by_autograd(config, rows: int, length: int, checkpointing: bool) -> int:
    """Bytes of the tensors that a forward pass of the decoder leaves for the backward pass, weights aside."""
    model = Gemma3ForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.randint(5, 200, (rows, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("config", [gemma(128, 512, 4, 4, 1, 32), gemma(160, 640, 3, 4, 4, 40)])
def test_activations_are_what_autograd_keeps(config):
    kept = kept_by_autograd(config, 4, 50, checkpointing=False)
    assert memory_estimate.activations(config.to_dict(), 200, 4, False) == pytest.approx(kept, rel=0.1)


def test_checkpointing_keeps_an_input_per_layer():
    config = gemma(128, 512, 6, 4, 1, 32)
    kept = kept_by_autograd(config, 4, 50, checkpointing=True)
    whole_layer = memory_estimate.activations(config.to_dict() | {"num_hidden_layers": 1}, 200, 4, False)
    estimated = memory_estimate.activations(config.to_dict(), 200, 4, True)
    assert estimated - whole_layer == 6 * 200 * 4 * 128  # a layer's input for each of six
    assert estimated - whole_layer <= kept <= estimated  # and besides what the masks and positions take


# --- by hand -------------------------------------------------------------------------------------------


def cfg(**changes):
    return script.RunCfg(**changes)


def test_policy_with_lora_on_a_bf16_gpu_by_hand():
    need = memory_estimate.policy_need(GEMMA_1B, cfg(), cuda=True, bf16=True)
    lora = 13_045_760
    assert need.resident == {
        "policy": 1_999_771_904,
        "LoRA": 4 * lora,
        "gradients": 4 * lora,
        "optimizer": 8 * lora,
        "CUDA": int(0.6 * GIB),
    }
    # 300 characters are 100 tokens, 40 of instruction, 256 new: 396 of 26 layers × (key, value) × 256 in bf16;
    # 64 sequences together, each with logits over 262,144 three times in fp32
    assert need.passing["generation"] == 64 * (396 * 26 * 2 * 256 * 2 + 3 * 4 * 262_144)
    # one sequence at a time; 115,200 bytes a layer and token; a tile of logits in bf16
    assert need.passing["update"] == 396 * 26 * 115_200 + 2 * 396 * 32_768
    assert need.peak == sum(need.resident.values()) + need.passing["update"]


def test_policy_with_all_weights_by_hand():
    settings = cfg(lora_rank=0, kl_beta=0.02, per_device_batch_size=2)
    n = 999_885_952
    need = memory_estimate.policy_need(GEMMA_1B, settings, cuda=True, bf16=True)
    assert need.resident == {
        "policy": 4 * n,
        "reference": 4 * n,
        "gradients": 4 * n,
        "optimizer": 8 * n,
        "CUDA": int(0.6 * GIB),
    }
    head_gradient, autocast_copies = 4 * 262_144 * 1152, 2 * n
    tile = 2 * 2 * 396 * 32_768
    assert need.passing["update"] == 2 * 396 * 26 * 115_200 + tile + head_gradient + autocast_copies
    assert "reference" not in memory_estimate.policy_need(GEMMA_1B, cfg(lora_rank=0, kl_beta=0), True, True).resident
    on_cpu = memory_estimate.policy_need(GEMMA_1B, cfg(), cuda=False, bf16=False).resident
    assert on_cpu["policy"] == 4 * n and "CUDA" not in on_cpu


def test_judges_by_hand():
    nllb = Shape(1_370_638_336, KNOWN["facebook/nllb-200-distilled-1.3B"])
    # 24 layers × (key, value) × 1024, of 4,096 source tokens once and of 4 beams of as many
    cache = 24 * 2 * 1024 * 4096 * 5
    assert memory_estimate.translator_need(nllb, "float32", 4) == (4 * 1_370_638_336, 4 * cache)
    assert memory_estimate.translator_need(nllb, "bfloat16", 4) == (2 * 1_370_638_336, 2 * cache)
    assert memory_estimate.translator_need(nllb, "float16", 4) == (2 * 1_370_638_336, 2 * cache)
    assert memory_estimate.translator_need(nllb, "int8", 1) == (1_370_638_336, 2 * 24 * 2 * 1024 * 4096 * 2)
    comet = Shape(580_000_000, KNOWN["Unbabel/wmt22-comet-da"])
    linears = 24 * (4 * 1024**2 + 2 * 1024 * 4096)
    work = 8192 * (8 * 1024 + 2 * 4096)
    assert memory_estimate.comet_need(comet, "float32", True) == (4 * 580_000_000 + JOINED, 4 * work)
    assert memory_estimate.comet_need(comet, "float32", False) == (4 * 580_000_000 + 4 * linears, 4 * work)
    assert memory_estimate.comet_need(comet, "bfloat16", True) == (4 * 580_000_000 + 2 * linears, 2 * work)
    # auto: half precision's copies of the weights, float32's activations, since either may come
    assert memory_estimate.comet_need(comet, "auto", True) == (4 * 580_000_000 + 2 * linears, 4 * work)
    assert memory_estimate.comet_need(comet, "auto", False) == memory_estimate.comet_need(comet, "float32", False)


def test_checkpoints_and_disk_by_hand():
    lora = 13_045_760
    settings = cfg(save_total_limit=2)
    assert memory_estimate.checkpoint_bytes(GEMMA_1B, settings) == 12 * lora + 2_000_000
    assert memory_estimate.run_bytes(GEMMA_1B, settings, True) == 1_999_771_904 + 3 * (12 * lora + 2_000_000)
    full = cfg(lora_rank=0, save_total_limit=1)
    one = 12 * 999_885_952 + 2_000_000
    assert memory_estimate.run_bytes(GEMMA_1B, full, True) == 2 * 4 * 999_885_952 + 2 * one
    assert memory_estimate.run_bytes(GEMMA_1B, cfg(save_steps=0), False) == 4 * 999_885_952


JOINED = 4 * 24 * 3 * 1024**2  # queries, keys and values of COMET in one matrix


def small(parameters):
    return Shape(parameters, KNOWN["Unbabel/wmt22-comet-da"])


def models():
    nllb = Shape(10**9, KNOWN["facebook/nllb-200-distilled-1.3B"])
    return {"policy": GEMMA_1B, "translator": nllb, "comet_da": small(5 * 10**8), "comet_qe": None}


def test_each_device_gets_its_own():
    needs = memory_estimate.memory_needs(cfg(dual_device="cuda:1", reward_device="cuda"), models(), 2, True)
    assert list(needs) == ["cuda:0", "cuda:1"]
    assert needs["cuda:0"].resident["comet_da"] == 2 * 10**9 + JOINED
    assert "translator" not in needs["cuda:0"].resident
    assert needs["cuda:1"].resident == {"CUDA": int(0.6 * GIB), "translator": 4 * 10**9}
    one_gpu = memory_estimate.memory_needs(cfg(dual_device="cuda:1"), models(), 1, True)
    assert one_gpu["cpu"].resident == {"translator": 4 * 10**9}  # a device that is not there is the CPU
    assert list(memory_estimate.memory_needs(cfg(), models(), 0, False)) == ["cpu"]


def test_the_keys_and_values_of_each_kind_of_translator():
    def work(name: str, beams: int, dtype: str = "float32") -> int:
        weights, cache = memory_estimate.translator_need(model_shape(name), dtype, beams)
        assert weights == {"float32": 4, "bfloat16": 2}[dtype] * model_shape(name).parameters
        return cache

    tokens = 4096
    assert work("facebook/m2m100_418M", 4) == 4 * 2 * 12 * 1024 * tokens * (1 + 4)  # the source once per text
    assert work("google/madlad400-3b-mt", 4) == 4 * 2 * 32 * (16 * 128) * tokens * 2 * 4  # once per beam
    assert work("google/gemma-3-1b-it", 4, "bfloat16") == 2 * 2 * 26 * (1 * 256) * tokens * 2  # greedy
    assert memory_estimate.translator_need(Shape(10, {"model_type": "llama"}), "float32", 4) == (40, 0)


def test_stages_do_not_add_up_and_offloaded_models_come_together():
    here = memory_estimate.memory_needs(cfg(), models(), 1, True)["cuda:0"]
    cache, work = 4 * 24 * 2 * 1024 * 4096 * 5, 4 * 8192 * (8 * 1024 + 2 * 4096)
    assert here.passing["reward"] == max(cache, work) and here.resident["translator"] == 4 * 10**9
    assert here.peak == sum(here.resident.values()) + max(here.passing.values())
    away = memory_estimate.memory_needs(cfg(reward_offload=True), models(), 1, True)
    assert "translator" not in away["cuda:0"].resident
    assert away["cuda:0"].passing["reward"] == max(cache, work) + 4 * 10**9 + 2 * 10**9 + JOINED
    assert away["cpu"].resident == {"translator": 4 * 10**9, "comet_da": 2 * 10**9 + JOINED}
    assert Need().peak == 0


def test_eight_bit_moments_are_a_quarter():
    full = memory_estimate.policy_need(GEMMA_1B, cfg(lora_rank=0), True, True)
    small = memory_estimate.policy_need(GEMMA_1B, cfg(lora_rank=0, optimizer="adamw_bnb_8bit"), True, True)
    n = GEMMA_1B.parameters
    assert full.resident["optimizer"] == 8 * n
    assert small.resident["optimizer"] == pytest.approx(2 * n + 2 * 4 * n / 256, abs=1)  # a scale for every 256
    saved = memory_estimate.checkpoint_bytes(GEMMA_1B, cfg(lora_rank=0)) - memory_estimate.checkpoint_bytes(
        GEMMA_1B, cfg(lora_rank=0, optimizer="adamw_bnb_8bit")
    )
    assert saved == full.resident["optimizer"] - small.resident["optimizer"]


def test_vllm_takes_its_share_and_no_generation_of_ours_is_counted():
    card = 80 * 10**9
    asleep, awake = (
        memory_estimate.memory_needs(
            cfg(use_vllm=True, trl=TrlSettings(vllm_enable_sleep_mode=sleeps)), models(), 1, True, card
        )["cuda:0"]
        for sleeps in (True, False)
    )
    assert awake.resident["vLLM"] == 24 * 10**9 and "generation" not in awake.passing
    assert asleep.passing["generation"] == 24 * 10**9 and "vLLM" not in asleep.resident
    assert awake.peak - asleep.peak == max(awake.passing.values())  # the share is larger than reward and update are
    apart = memory_estimate.memory_needs(
        cfg(use_vllm=True, vllm_mode="server", vllm_gpu_memory_utilization=0.3), models(), 1, True, card
    )["cuda:0"]
    assert "vLLM" not in apart.resident and "generation" not in apart.passing


def test_the_judge_stays_on_the_cpu_where_others_are_offloaded():
    judged = models() | {"judge": small(3 * 10**8)}
    here = memory_estimate.memory_needs(cfg(independent_scorer="x"), judged, 1, True)
    assert here["cuda:0"].resident["judge"] == 4 * 3 * 10**8 + JOINED
    away = memory_estimate.memory_needs(cfg(independent_scorer="x", reward_offload=True), judged, 1, True)
    linears = 24 * (4 * 1024**2 + 2 * 1024 * 4096)
    assert away["cpu"].resident["judge"] == 4 * 3 * 10**8 + 4 * linears  # prepacked: its linear layers are there twice
    assert "judge" not in away["cuda:0"].resident
    settings = cfg(model_id="x", w_cycle=0.0, w_qe=0.0, independent_scorer="Unbabel/wmt22-cometkiwi-da")
    assert list(memory_estimate.shapes(script.models(settings))) == ["policy", "judge"]


@pytest.mark.parametrize(("name", "billions"), [("4b", 3.88), ("12b", 11.77), ("27b", 27.01)])
def test_the_published_sizes_of_gemmas_text_part(name, billions):
    assert model_shape(f"google/gemma-3-{name}-it").parameters / 1e9 == pytest.approx(billions, abs=0.01)


# --- files ---------------------------------------------------------------------------------------------


def test_local_models_are_counted_from_their_headers(tiny_gemma, tiny_nllb, tiny_comet_da, tiny_comet_qe):
    assert model_shape(str(tiny_gemma)).parameters == count(Gemma3ForCausalLM.from_pretrained(tiny_gemma))
    nllb = M2M100ForConditionalGeneration.from_pretrained(tiny_nllb)
    assert model_shape(str(tiny_nllb)).parameters == count(nllb)
    for folder in (tiny_comet_da, tiny_comet_qe):
        state = torch.load(folder / "checkpoints" / "model.ckpt", weights_only=True)["state_dict"]
        weights = sum(tensor.numel() for tensor in state.values())
        assert weights <= model_shape(str(folder)).parameters <= 1.6 * weights  # tiny ones are half zip file
        assert model_shape(str(folder / "checkpoints" / "model.ckpt")) == model_shape(str(folder))


def test_multimodal_checkpoints_count_their_text_part(tmp_path, tiny_gemma):
    import json

    from safetensors.torch import load_file, save_file

    text = load_file(tiny_gemma / "model.safetensors")
    vision = {"vision_tower.a": torch.zeros(1000, 1000), "multi_modal_projector.b": torch.zeros(99)}
    save_file({f"language_model.{k}": v for k, v in text.items()} | vision, tmp_path / "model-00001-of-1.safetensors")
    config = json.loads((tiny_gemma / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": config}))
    assert model_shape(str(tmp_path)).parameters == model_shape(str(tiny_gemma)).parameters
    assert model_shape(str(tmp_path)).config["model_type"] == "gemma3_text"


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{not json}"])
def test_damaged_headers_fall_back_to_the_configuration(tmp_path, tiny_gemma, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_text((tiny_gemma / "config.json").read_text())
    assert model_shape(str(tmp_path)).parameters == count(Gemma3ForCausalLM.from_pretrained(tiny_gemma))


def test_names_that_lead_to_no_size(tmp_path):
    for name in ("acme/none", str(tmp_path), str(tmp_path / "gone"), "./gone"):
        assert model_shape(name) is None
    assert model_shape("google/gemma-3-1b-it@v1").parameters == 999_885_952
    uses = [ModelUse("model_id", "acme/none", part="policy")]
    uses += [ModelUse("comet_qe_model", "Unbabel/wmt22-cometkiwi-da", "hparams.yaml", "comet_qe")]
    found = memory_estimate.shapes(uses)
    assert {name: bool(shape) for name, shape in found.items()} == {"policy": False, "comet_qe": True}
