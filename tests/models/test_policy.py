"""The policy: what loads, in which precision, where it stops, and what is refused."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
import transformers
from safetensors import safe_open
from tiny_models import PAIRS, PROMPT
from tiny_qwen import tiny_qwen

from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models import loading, policy
from rl_nmt.models.policy import Precision

FP32 = Precision("cpu", torch.float32, False, "test")


@pytest.fixture(scope="module")
def tokenizer(tiny_gemma):
    return policy.load_tokenizer(str(tiny_gemma))


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there are `count` GPUs; only torch's information about the machine is replaced."""

    def pretend(count: int, bf16: bool = True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Test GPU")
        # emulation counts as support unless it is excluded, as on a T4
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or bf16
        )
        monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda value: None)

    return pretend


@pytest.mark.parametrize(
    ("wanted", "count", "device", "said"),
    [
        ("auto", 0, "cpu", "reward_device: no CUDA device: using the CPU"),
        ("auto", 1, "cuda", ""),
        ("cpu", 2, "cpu", ""),
        ("cuda", 1, "cuda", ""),
        ("cuda:1", 2, "cuda:1", ""),
        ("cuda:2", 2, "cpu", "reward_device: cuda:2 does not exist (2 CUDA devices): using the CPU"),
        ("cuda", 0, "cpu", "reward_device: no CUDA device: using the CPU"),
    ],
)
def test_devices(gpu, capsys, wanted, count, device, said):
    gpu(count)
    assert loading.choose_device(wanted, "reward_device") == device
    captured = capsys.readouterr()
    assert captured.err.strip() == said and captured.out == ""  # rl_nmt.translate writes Tamil to stdout


@pytest.mark.parametrize("wanted", ["gpu", "", "cuda:x", "mps", "meta", "tpu:0"])
def test_unknown_devices_are_refused(wanted):
    with pytest.raises(ConfigError, match=r"dual_device: .* is not a valid device; use auto, cpu, cuda or cuda:N"):
        loading.choose_device(wanted, "dual_device")


@pytest.mark.parametrize(
    ("count", "bf16", "lora", "device", "weights", "autocast"),
    [
        (0, True, True, "cpu", torch.float32, False),
        (0, True, False, "cpu", torch.float32, False),
        (1, True, True, "cuda", torch.bfloat16, True),
        (1, True, False, "cuda", torch.float32, True),  # full fine-tuning of bf16 weights would hardly train
        (1, False, True, "cuda", torch.float32, False),  # no bf16 units, and fp16 overflows in Gemma 3
        (1, False, False, "cuda", torch.float32, False),
    ],
)
def test_precision(gpu, count, bf16, lora, device, weights, autocast):
    gpu(count, bf16)
    chosen = policy.choose_precision(lora)
    assert (chosen.device, chosen.weights, chosen.autocast) == (device, weights, autocast)
    assert chosen.reason


@pytest.mark.parametrize(
    ("count", "bf16", "device", "types"),
    [
        (0, True, "cpu", ()),
        (1, True, "cpu", ()),
        (1, True, "cuda", ("bfloat16", "float16")),
        (1, False, "cuda:0", ("float16",)),
    ],
)
def test_half_types(gpu, count, bf16, device, types):
    gpu(count, bf16)
    assert loading.half_types(device) == types
    for dtype in ("float32", "bfloat16", "float16"):
        if dtype == "float32" or dtype in types or (dtype, device) == ("bfloat16", "cpu"):
            assert loading.torch_dtype("reward_dtype", dtype, device) == getattr(torch, dtype)
        else:
            with pytest.raises(ConfigError, match=f"reward_dtype: {dtype} needs a .*; use (float32|bfloat16) or float"):
                loading.torch_dtype("reward_dtype", dtype, device)


ONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("gpus", "environ", "prepared"),
    [
        (0, {}, False),
        (1, {}, False),
        (2, {}, True),
        (8, {}, True),
        (2, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, False),  # torchrun
        (2, {"LOCAL_RANK": "0"}, False),  # deepspeed
        (1, {"RANK": "0"}, False),
    ],
)
def test_one_process_with_several_gpus_is_prepared_and_reported(gpu, monkeypatch, capsys, gpus, environ, prepared):
    for name in (*ONE, "MASTER_PORT"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch removes whatever is set below
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    gpu(gpus)
    policy.prepare_processes()
    found = {name: os.environ[name] for name in ONE if name in os.environ}
    assert found == (ONE if prepared else environ) and ("MASTER_PORT" in os.environ) == prepared
    assert not prepared or int(os.environ["MASTER_PORT"]) > 0
    said = f"{gpus} GPUs visible, no launcher: one process, policy on cuda:0\n"
    assert capsys.readouterr().out == (said if prepared else "")


def test_tokenizer_pads_left_with_eos_and_knows_turns(tokenizer):
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    stops = policy.stop_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(stops) == ["<end_of_turn>", "<eos>"]
    assert tokenizer("<end_of_turn>", add_special_tokens=False).input_ids == stops[:1]


def test_a_loaded_policy_stops_and_samples_as_set(tiny_gemma, tokenizer):
    model = policy.load_policy(str(tiny_gemma), tokenizer, FP32)
    assert set(model.generation_config.eos_token_id) == set(policy.stop_ids(tokenizer))
    # the checkpoint ships top_k 64 and top_p 0.95, as Gemma's own does
    shipped = json.loads((tiny_gemma / "generation_config.json").read_text())
    assert shipped["top_k"] == 64 and model.generation_config.top_k != 64
    assert model.generation_config.top_p in (1.0, None) and not model.generation_config.do_sample
    assert model.base_model is model.model and model.dtype == torch.float32
    assert (
        policy.load_policy(str(tiny_gemma), tokenizer, Precision("cpu", torch.bfloat16, True, "")).dtype
        == torch.bfloat16
    )


@pytest.fixture(scope="module")
def multimodal(tiny_gemma, tmp_path_factory):
    """A tiny checkpoint with a vision tower, like the 4B model and larger ones, with the same tokenizer."""
    folder = tmp_path_factory.mktemp("multimodal")
    shutil.copytree(tiny_gemma, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    text = transformers.Gemma3TextConfig.from_pretrained(tiny_gemma)
    vision = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_text_part_of_a_multimodal_checkpoint_has_equal_logits(multimodal, tokenizer):
    folder, whole = multimodal
    with safe_open(folder / "model.safetensors", "pt") as file:  # the layout of google/gemma-3-4b-it
        assert {key.split(".")[0] for key in file.keys()} == {"language_model", "vision_tower", "multi_modal_projector"}
    model = policy.load_policy(str(folder), tokenizer, FP32, "eager").eval()
    assert type(model) is transformers.Gemma3ForCausalLM
    assert not any("vision" in name for name, _ in model.named_parameters())
    batch = tokenizer([english for english, _ in PAIRS[:3]], return_tensors="pt", padding=True)
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        logits, expected = model(**batch).logits, whole(**batch).logits
    real = batch.attention_mask.bool()
    assert expected[real].std() > 0.1  # not all the same to begin with
    torch.testing.assert_close(logits[real], expected[real], atol=1e-5, rtol=1e-5)


def test_the_reference_is_rebuilt_from_the_text_part_alone(multimodal, tokenizer, tmp_path):
    folder, _ = multimodal
    model = policy.load_policy(str(folder), tokenizer, FP32)
    assert model.config._name_or_path == str(folder)
    policy.make_reference_loadable(model, tokenizer, tmp_path / "start_policy")
    again = transformers.AutoModelForCausalLM.from_pretrained(model.config._name_or_path)
    assert type(again) is transformers.Gemma3ForCausalLM and again.base_model is again.model
    pairs = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.skipif(not transformers.__version__.startswith("4."), reason="for what transformers 4 does")
def test_under_zero3_alone_embeddings_count_as_filled(monkeypatch):
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding as Embedding

    with policy.gemma_loads_under_zero3():
        assert not hasattr(Embedding, "_is_hf_initialized")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(KeyError), policy.gemma_loads_under_zero3():
        assert Embedding(3, 2, 0)._is_hf_initialized
        raise KeyError
    assert not hasattr(Embedding, "_is_hf_initialized")


def test_lora_reaches_every_linear_layer_of_the_decoder(tiny_gemma, tokenizer):
    from peft import get_peft_model

    assert policy.lora_config(0, 32) is None
    model = get_peft_model(policy.load_policy(str(tiny_gemma), tokenizer, FP32), policy.lora_config(4, 8))
    trained = {name.split(".lora_")[0].split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert model.peft_config["default"].lora_alpha == 8


def test_only_the_losing_combination_warns(tiny_gemma, tokenizer):
    from peft import get_peft_model

    half = Precision("cpu", torch.bfloat16, True, "")
    assert policy.losing_combination(policy.load_policy(str(tiny_gemma), tokenizer, FP32)) is None
    base = policy.load_policy(str(tiny_gemma), tokenizer, half)
    warning = policy.losing_combination(base)
    assert warning.startswith("warning: ") and "bfloat16" in warning and "LoRA" in warning
    assert policy.losing_combination(get_peft_model(base, policy.lora_config(4, 8))) is None


# --- other chat models ---------------------------------------------------------------------------------


def test_a_chatml_model_stops_where_its_checkpoint_says(tmp_path):
    folder = tiny_qwen()
    tokenizer = policy.load_tokenizer(str(folder))
    assert tokenizer.convert_ids_to_tokens(policy.stop_ids(tokenizer)) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.padding_side == "left" and tokenizer.pad_token_id == tokenizer.eos_token_id
    model = policy.load_policy(str(folder), tokenizer, FP32)
    assert type(model) is transformers.Qwen3ForCausalLM and model.base_model is model.model
    assert model.generation_config.eos_token_id == policy.stop_ids(tokenizer)
    assert not model.generation_config.do_sample and model.generation_config.top_k != 20  # as in the checkpoint
    copied = shutil.copytree(folder, tmp_path / "model")
    (copied / "generation_config.json").unlink()
    alone = policy.load_tokenizer(str(copied))
    assert policy.stop_ids(alone) == [alone.convert_tokens_to_ids("<|im_end|>")]


def test_a_trainer_for_gemma_refuses_others():
    folder = str(tiny_qwen())
    with pytest.raises(ConfigError, match=f"model_id: {folder}: .*<end_of_turn>"):
        policy.load_tokenizer(folder, families=("gemma3",))
    tokenizer = policy.load_tokenizer(folder)
    with pytest.raises(ConfigError, match=r"'qwen3' .*Gemma 3"):
        policy.load_policy(folder, tokenizer, FP32, families=("gemma3",))


@pytest.mark.parametrize("lora", [0, 4])
def test_a_chatml_model_is_trained_by_grpo(tmp_path, capsys, lora):
    """Two steps, KL against the start policy: both stops end a completion, and nothing is rewritten with a warning."""
    from datasets import Dataset
    from trl import GRPOConfig

    from rl_nmt.text.prompts import chat_prompt
    from rl_nmt.training.trainer import GuardedGRPOTrainer

    tokenizer = policy.load_tokenizer(str(tiny_qwen()))
    model = policy.load_policy(str(tiny_qwen()), tokenizer, FP32)
    if not lora:
        policy.make_reference_loadable(model, tokenizer, tmp_path / "start_policy")
    seen = []

    def reward(prompts, completions, completion_ids, **_):
        seen.extend(zip(completions, completion_ids, strict=True))
        return [len(text) / 100 for text in completions]

    args = GRPOConfig(
        output_dir=str(tmp_path),
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=40,
        beta=0.02,
        max_steps=2,
        learning_rate=1e-3,
        temperature=1.3,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    rows = Dataset.from_list([{"prompt": chat_prompt(tokenizer, PROMPT.format(source=en))} for en, _ in PAIRS])
    with torch.random.fork_rng():
        trainer = GuardedGRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=args,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=policy.lora_config(lora, 8),
        )
        assert set(policy.stop_ids(tokenizer)) == set(trainer.eos_token_ids)
        trained = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
    assert all(not torch.equal(p, trained[name]) for name, p in trainer.model.named_parameters() if name in trained)
    stops = set(policy.stop_ids(tokenizer))
    ended = [ids for _, ids in seen if ids[-1] in stops]
    assert len(seen) == 16 and len(ended) > 8 and not any(stops & set(ids[:-1]) for ids in ended)
    assert not any("<|" in text for text, _ in seen)
    assert "new PAD/BOS/EOS" not in "".join(capsys.readouterr())


# --- models that do not load ---------------------------------------------------------------------------


def broken(source, folder, change):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    change(folder)
    return str(folder)


def set_json(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_json("config.json", model_type="llama"), "'llama' .*Gemma 3"),
        (set_json("config.json", model_type="no_such"), "does not load"),
        (set_json("config.json", hidden_size=48), "does not load"),
        (
            set_json("config.json", num_hidden_layers=3, layer_types=None),
            r"\d+ weights missing, e\.g\. model\.layers\.2\.",
        ),
        (lambda f: (f / "config.json").write_text("{"), "does not load"),
        (lambda f: (f / "model.safetensors").unlink(), "does not load"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 100), "does not load"),
        (lambda f: (f / "config.json").unlink(), r"config\.json"),
    ],
    ids=["architecture", "unknown type", "shapes", "missing layer", "json", "no weights", "bad weights", "no config"],
)
def test_broken_models_are_one_clear_error(tiny_gemma, tokenizer, tmp_path, change, said):
    folder = broken(tiny_gemma, tmp_path / "model", change)
    with pytest.raises(ConfigError, match=said) as caught:
        policy.load_policy(folder, tokenizer, FP32, families=("gemma3",))
    assert str(caught.value).startswith("model_id: ") and folder in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")],
        lambda f: (f / "tokenizer.json").write_text("{"),
    ],
    ids=["no tokenizer", "damaged"],
)
def test_broken_tokenizers_are_one_clear_error(tiny_gemma, tmp_path, change):
    folder = broken(tiny_gemma, tmp_path / "model", change)
    with pytest.raises(ConfigError, match=r"model_id: .*: its tokenizer does not load"):
        policy.load_tokenizer(folder)


def test_a_tokenizer_without_turns_is_refused(tiny_nllb):
    with pytest.raises(ConfigError, match=r"model_id: .*<end_of_turn>"):
        policy.load_tokenizer(str(tiny_nllb), families=("gemma3",))
    with pytest.raises(ConfigError, match=r"model_id: .*chat template"):
        policy.load_tokenizer(str(tiny_nllb))


def test_a_model_that_is_not_causal_is_refused(tiny_nllb, tokenizer):
    with pytest.raises(ConfigError, match=r"'m2m_100' .*causal"):
        policy.load_policy(str(tiny_nllb), tokenizer, FP32)


def test_hub_names_without_a_hub(tokenizer):
    for load in (policy.load_tokenizer, lambda name: policy.load_policy(name, tokenizer, FP32)):
        with pytest.raises(MissingService, match="acme/no-such-model is not on this machine"):
            load("acme/no-such-model")


@pytest.mark.parametrize("kind", ["evil", "gemma3_text"])
def test_code_in_a_model_folder_is_never_run_nor_asked_about(tiny_gemma, tmp_path, monkeypatch, kind):
    """transformers would ask on the terminal whether to run it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_gemma, folder)
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    code += "class C:\n    pass\n"
    (folder / "evil.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    hooks = {name: "evil.C" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind, "auto_map": hooks}))
    described = json.loads((folder / "tokenizer_config.json").read_text())
    described["auto_map"] = {"AutoTokenizer": ["evil.C", "evil.C"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    try:
        tokenizer = policy.load_tokenizer(str(folder))
        policy.load_policy(str(folder), tokenizer, policy.Precision("cpu", torch.float32, False, ""))
    except ConfigError:
        assert kind == "evil"
    assert not (tmp_path / "ran").exists()
