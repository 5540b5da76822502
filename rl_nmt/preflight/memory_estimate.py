"""Estimate a run's size from model configurations alone: parameters, memory per device, checkpoints. No torch.

Everything here is an estimate: weights, gradients and optimizer are counted exactly, activations and caches by
the tensors that the stock kernels keep.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_nmt import hub
from rl_nmt.hub import ModelUse

GIB = 2**30
CUDA_CONTEXT = int(0.6 * GIB)  # what a process holds on a GPU before its first tensor (ours, rounded up)
ADAM, ADAM_8BIT = 8.0, 2 + 8 / 256  # bytes per trained parameter: two fp32 moments; two of 1 byte, fp32 scale per 256
LOGIT_TILE = (4096, 32768)  # TRL 1.16, trl/kernels/chunked_logprob.py: most tokens × vocabulary entries at once
COMET_TOKENS = 8192  # rl_nmt/scorers/comet/scorer.py and metricx.py, most tokens encoded at once
METRICX_LENGTH = 512  # tokens of source and translation together that MetricX's attention is estimated for (ours)
LIKELIHOOD_TOKENS = 4096  # rl_nmt/scorers/reconstruction.py, most tokens in one pass
TRANSLATOR_TOKENS = 4096  # rl_nmt/backtranslation/translator.py, most source tokens in one batch


_GEMMA = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim"
_NLLB = "vocab_size d_model encoder_ffn_dim decoder_ffn_dim encoder_layers decoder_layers"
_T5 = "vocab_size d_model d_kv d_ff num_layers num_decoder_layers num_heads tie_word_embeddings"
_XLMR = "vocab_size hidden_size num_hidden_layers intermediate_size max_position_embeddings type_vocab_size"


def _config(model_type: str, fields: str, *values: int) -> dict[str, Any]:
    return {"model_type": model_type, **dict(zip(fields.split(), values, strict=True))}


_XLMR_LARGE = _config("xlm-roberta", _XLMR, 250002, 1024, 24, 4096, 514, 1)
# The sizes in config.json of the models named in the README and presets, for those that are not on this machine.
KNOWN: dict[str, dict[str, Any]] = {
    "google/gemma-3-270m": _config("gemma3_text", _GEMMA, 262144, 640, 2048, 18, 4, 1, 256),
    "google/gemma-3-270m-it": _config("gemma3_text", _GEMMA, 262144, 640, 2048, 18, 4, 1, 256),
    "google/gemma-3-1b-it": _config("gemma3_text", _GEMMA, 262144, 1152, 6912, 26, 4, 1, 256),
    "google/gemma-3-4b-it": _config("gemma3_text", _GEMMA, 262208, 2560, 10240, 34, 8, 4, 256),
    "google/gemma-3-12b-it": _config("gemma3_text", _GEMMA, 262208, 3840, 15360, 48, 16, 8, 256),
    "google/gemma-3-27b-it": _config("gemma3_text", _GEMMA, 262208, 5376, 21504, 62, 32, 16, 128),
    "facebook/nllb-200-distilled-600M": _config("m2m_100", _NLLB, 256206, 1024, 4096, 4096, 12, 12),
    "facebook/nllb-200-distilled-1.3B": _config("m2m_100", _NLLB, 256206, 1024, 8192, 8192, 24, 24),
    "facebook/nllb-200-3.3B": _config("m2m_100", _NLLB, 256206, 2048, 8192, 8192, 24, 24),
    "facebook/m2m100_418M": _config("m2m_100", _NLLB, 128112, 1024, 4096, 4096, 12, 12),
    "facebook/m2m100_1.2B": _config("m2m_100", _NLLB, 128112, 1024, 8192, 8192, 24, 24),
    "google/madlad400-3b-mt": _config("t5", _T5, 256000, 1024, 128, 8192, 32, 32, 16, False),
    "google/metricx-24-hybrid-large-v2p6": _config("mt5", _T5, 250112, 1024, 64, 2816, 24, 24, 16, False),
    "google/metricx-24-hybrid-xl-v2p6": _config("mt5", _T5, 250112, 2048, 64, 5120, 24, 24, 32, False),
    "google/metricx-24-hybrid-xxl-v2p6": _config("mt5", _T5, 250112, 4096, 64, 10240, 24, 24, 64, False),
    # extra: the head on top of the encoder
    "Unbabel/wmt22-comet-da": _XLMR_LARGE | {"extra": 22_025_217},
    "Unbabel/wmt22-cometkiwi-da": _XLMR_LARGE | {"extra": 6_296_577},
}


@dataclass(frozen=True)
class Shape:
    """The size of a model: its number of parameters, and its configuration ({} if not known)."""

    parameters: int
    config: Mapping[str, Any]


def gib(size: float) -> str:
    """Bytes as GiB, for messages."""
    return f"{size / GIB:.1f}" if size >= GIB / 10 else f"{size / GIB:.3f}"


def model_shape(name: str) -> Shape | None:
    """Shape of a local, cached or known model; None when its size cannot be known without the network."""
    if folder := folder_of(name):
        config, counted = _read_config(folder), _counted(folder)
        counted = parameters(config) if counted is None else counted
        if counted is not None:
            return Shape(counted, config)
    known = KNOWN.get(hub.split_revision(name)[0].removesuffix("-bfloat16"))
    return Shape(parameters(known), known) if known else None


def parameters(config: Mapping[str, Any]) -> int | None:
    """Parameters of a Gemma 3 text model, M2M100, T5 v1.1, mT5 or XLM-RoBERTa from its configuration, else None.

    >>> parameters(KNOWN["google/gemma-3-1b-it"]), parameters(KNOWN["facebook/nllb-200-distilled-1.3B"])
    (999885952, 1370638336)
    """
    kind = config.get("model_type")
    try:
        if kind == "gemma3_text":
            d = config["hidden_size"]
            layer = sum(i * o for i, o in gemma_linears(config)) + 4 * d + 2 * config["head_dim"]
            return config["vocab_size"] * d + config["num_hidden_layers"] * layer + d
        if kind == "m2m_100":
            d = config["d_model"]
            layers = config["encoder_layers"] * _layer(d, config["encoder_ffn_dim"], attentions=1)
            layers += config["decoder_layers"] * _layer(d, config["decoder_ffn_dim"], attentions=2)
            return config["vocab_size"] * d + layers + 4 * d
        if kind in ("t5", "mt5"):
            return _t5(config)
        if kind in ("xlm-roberta", "xlm-roberta-xl"):
            d = config["hidden_size"]
            embeddings = config["vocab_size"] + config["max_position_embeddings"] + config["type_vocab_size"] + 2
            layers = config["num_hidden_layers"] * _layer(d, config["intermediate_size"], attentions=1)
            return embeddings * d + layers + config.get("extra", 0)
    except KeyError:
        pass
    return None


def _layer(d: int, ffn: int, attentions: int) -> int:
    """Parameters of a layer with biases and a layer norm per block: attention (one or two), feed-forward."""
    return attentions * (4 * (d * d + d) + 2 * d) + 2 * d * ffn + ffn + d + 2 * d


def _t5(config: Mapping[str, Any]) -> int:
    """Parameters of a T5 with gated feed-forward and, per stack, one bias for each head and 32 distances."""
    d, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    feed = 3 * d * config["d_ff"] + d
    layers = config["num_layers"] * (4 * d * inner + d + feed)
    layers += config["num_decoder_layers"] * (8 * d * inner + 2 * d + feed)
    tables = 1 if config["tie_word_embeddings"] else 2
    return tables * config["vocab_size"] * d + layers + 2 * (d + 32 * config["num_heads"])


def gemma_linears(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the seven linear layers of one decoder layer, those that LoRA adapts."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return [*attention, (hidden, ffn), (hidden, ffn), (ffn, hidden)]


def lora_parameters(config: Mapping[str, Any], rank: int) -> int:
    """Trained parameters with LoRA of this rank on every linear layer (Hu et al. 2021: r·(in + out) each).

    >>> lora_parameters(KNOWN["google/gemma-3-1b-it"], 16)
    13045760
    """
    return config["num_hidden_layers"] * rank * sum(i + o for i, o in gemma_linears(config))


@dataclass
class Need:
    """Bytes on one device: `resident` all the time, by name; `passing` by stage, one stage at a time."""

    resident: dict[str, int] = field(default_factory=dict)
    passing: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        return sum(self.resident.values()) + max(self.passing.values(), default=0)


def policy_need(shape: Shape, settings: Any, cuda: bool, bf16: bool, prompt_tokens: int | None = None) -> Need:
    """Memory of policy, reference, gradients, optimizer, generation and update.

    `cuda`: on a GPU, where the process itself takes memory; `bf16`: it has bf16 units; `prompt_tokens`: of the longest
    prompt, else estimated from max_chars.
    """
    config = shape.config
    weights, value = 2 if bf16 and settings.lora_rank else 4, 2 if bf16 else 4  # activations are bf16 without LoRA too
    need = Need({"policy": weights * shape.parameters})
    trained = trained_parameters(shape, settings)
    if settings.lora_rank:
        need.resident["LoRA"] = 4 * trained
    elif settings.kl_beta:
        need.resident["reference"] = 4 * shape.parameters
    need.resident["gradients"] = 4 * trained
    need.resident["optimizer"] = int(moments(settings) * trained)
    if cuda:
        need.resident["CUDA"] = CUDA_CONTEXT
    if prompt_tokens is None:  # the instruction has about 40; a token of English is assumed to have 3 characters
        prompt_tokens = 40 + math.ceil(settings.max_chars / 3)
    length = prompt_tokens + settings.max_new_tokens
    keys = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    sequences = settings.per_device_batch_size * settings.trl.batches(settings.gradient_accumulation_steps)
    if not settings.use_vllm:  # its engine has its share, or a card of its own
        need.passing["generation"] = sequences * (length * keys * value + 3 * 4 * config["vocab_size"])
    tokens = settings.per_device_batch_size * length
    # Log-probs of the sampled tokens are computed tile by tile, so that full logits never exist in the update. If all
    # weights are trained, the head's gradient is a separate tensor before it is added.
    head = value * min(tokens, LOGIT_TILE[0]) * min(config["vocab_size"], LOGIT_TILE[1])
    if not settings.lora_rank:
        head += 4 * config["vocab_size"] * config["hidden_size"]
        head += 2 * shape.parameters if bf16 else 0  # autocast's copies of the weights
    need.passing["update"] = head + activations(config, tokens, value, settings.gradient_checkpointing)
    return need


def trained_parameters(shape: Shape, settings: Any) -> int:
    """Return the number of trained parameters: LoRA's if it is used, else all."""
    return lora_parameters(shape.config, settings.lora_rank) if settings.lora_rank else shape.parameters


def moments(settings: Any) -> float:
    """Return the bytes of optimizer state per trained parameter."""
    return ADAM_8BIT if settings.optimizer.endswith("8bit") else ADAM


def activations(config: Mapping[str, Any], tokens: int, value: int, checkpointing: bool) -> int:
    """Return the bytes kept for the decoder's backward pass for `tokens` positions, `value` bytes per number.

    Per layer: the input of each linear layer and of GELU, both factors of the gated product, queries, keys and
    values after their rotation, attention's output, and the norms in fp32. With checkpointing: the input of every
    layer, and all of these for one layer.
    """
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    linear = value * (2 * hidden + 4 * ffn + 3 * queries + 4 * keys)
    norms = 4 * 2 * (4 * hidden + queries + keys)
    layer, layers = linear + norms, config["num_hidden_layers"]
    return tokens * (layers * value * hidden + layer if checkpointing else layers * layer)


def translator_need(shape: Shape, dtype: str, beams: int) -> tuple[int, int]:
    """(weights, working memory) of a back-translator: the keys and values of a full batch of texts of equal length.

    M2M100 (NLLB) keeps those of the source once per text, T5 once per beam; a chat model answers greedily. A model of
    another kind has no known working memory, which then counts 0.
    """
    value = {"bfloat16": 2, "float16": 2, "int8": 1}.get(dtype, 4)
    config = shape.config
    kind = config.get("model_type")
    if kind == "m2m_100":
        layers, width, copies = config["decoder_layers"], config["d_model"], 1 + beams
    elif kind == "t5":
        layers, width = config["num_decoder_layers"], config["num_heads"] * config["d_kv"]
        copies = 2 * beams
    else:  # the answer is assumed to be as long as the prompt
        layers, copies = config.get("num_hidden_layers", 0), 2
        width = config.get("num_key_value_heads", 0) * config.get("head_dim", 0)
    return value * shape.parameters, max(2, value) * 2 * layers * width * TRANSLATOR_TOKENS * copies


def comet_need(shape: Shape, dtype: str, cuda: bool) -> tuple[int, int]:
    """Return (weights, working memory) of a COMET model. Linear layers exist twice: on a CPU also prepacked, otherwise
    also in half precision; in float32 on CUDA only queries, keys and values, joined in one matrix.

    dtype "auto" may become half precision, with its copies of the weights, or float32, with larger activations: on
    CUDA the larger of both is counted.
    """
    half = dtype in ("bfloat16", "float16") or (dtype == "auto" and cuda)
    value, config = 2 if half else 4, shape.config
    hidden, ffn, layers = (config.get(k, 0) for k in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    linears = layers * (4 * hidden * hidden + 2 * hidden * ffn)
    copied = layers * 3 * hidden * hidden if cuda and not half else linears
    weights = 4 * shape.parameters + value * copied
    return weights, (4 if dtype == "auto" else value) * COMET_TOKENS * (8 * hidden + 2 * ffn)


def metricx_need(shape: Shape, dtype: str) -> tuple[int, int]:
    """Return (weights, working memory) of a MetricX model: without its output matrix, with attention in fp32."""
    value, config = 2 if dtype == "bfloat16" else 4, shape.config
    unused = 0 if config["tie_word_embeddings"] else config["vocab_size"] * config["d_model"]
    work = value * COMET_TOKENS * (8 * config["d_model"] + 3 * config["d_ff"])
    return value * (shape.parameters - unused), work + 8 * config["num_heads"] * COMET_TOKENS * METRICX_LENGTH


def likelihood_need(shape: Shape, dtype: str) -> tuple[int, int]:
    """Return (weights, working memory) of a causal language model that scores texts: logits of 512 tokens, in fp32."""
    config, value = shape.config, 4 if dtype == "float32" else 2
    numbers = 8 * config.get("hidden_size", 0) + 3 * config.get("intermediate_size", 0)
    return value * shape.parameters, 2 * 4 * 512 * config.get("vocab_size", 0) + value * LIKELIHOOD_TOKENS * numbers


def shapes(models: Iterable[ModelUse]) -> dict[str, Shape | None]:
    """Part → shape of the models that a run loads: policy, translator, comet_da, comet_qe, likelihood, judge."""
    return {model.part: model_shape(model.name) for model in models}


def memory_needs(
    settings: Any, models: Mapping[str, Shape | None], gpus: int, bf16: bool, gpu_bytes: int = 0
) -> dict[str, Need]:
    """Return device ("cuda:N" or "cpu") → its need; the policy's device first.

    `models`: as from `shapes`, with a known policy; a model of unknown size counts 0. `gpus`: their number; a device
    that does not exist becomes the CPU, as when models are loaded. `gpu_bytes`: the memory of a GPU, of which vLLM
    takes its share: while it samples, or all the time without sleep mode.
    """

    def place(wanted: str) -> str:
        wanted = "cuda:0" if wanted in ("auto", "cuda") else wanted
        return wanted if wanted.startswith("cuda:") and int(wanted[5:]) < gpus else "cpu"

    home = place("auto")
    needs = {home: policy_need(models["policy"], settings, home != "cpu", bf16)}
    if settings.use_vllm and settings.vllm_mode == "colocate":
        share = int(settings.vllm_gpu_memory_utilization * gpu_bytes)
        if settings.trl.vllm_enable_sleep_mode:  # its weights and cache are dropped between generations
            needs[home].passing["generation"] = share
        else:
            needs[home].resident["vLLM"] = share
    offloaded: Counter[str] = Counter()  # device → weights moved there for each reward call
    for name, shape in models.items():
        if name == "policy" or shape is None:
            continue
        device = place(settings.dual_device if name == "translator" else settings.reward_device)
        if name == "judge" and settings.reward_offload:  # it is used in evaluations only
            device = "cpu"
        if name == "translator":
            weights, work = translator_need(shape, settings.dual_dtype, settings.backtranslation_beams)
        elif name == "likelihood":
            weights, work = likelihood_need(shape, settings.reward_dtype)
        elif shape.config.get("model_type") == "mt5":
            weights, work = metricx_need(shape, settings.reward_dtype)
        else:
            weights, work = comet_need(shape, settings.reward_dtype, device != "cpu")
        need = needs.setdefault(device, Need({"CUDA": CUDA_CONTEXT} if device != "cpu" else {}))
        if settings.reward_offload and device != "cpu":  # all of them move there for every call
            needs.setdefault("cpu", Need()).resident[name] = weights
            offloaded[device] += weights
        else:
            need.resident[name] = weights
        need.passing["reward"] = max(need.passing.get("reward", 0), work)
    for device, weights in offloaded.items():
        needs[device].passing["reward"] += weights
    return needs


def checkpoint_bytes(shape: Shape, settings: Any) -> int:
    """Size of one checkpoint: trained weights and two moments in fp32, and 2 MB for the rest."""
    return int((4 + moments(settings)) * trained_parameters(shape, settings)) + 2_000_000


def run_bytes(shape: Shape, settings: Any, bf16: bool) -> int:
    """Disk that a run takes: its checkpoints and one being written, the final model, the start policy for KL."""
    weights = 2 if bf16 and settings.lora_rank else 4
    total = weights * shape.parameters
    if settings.save_steps:
        total += (settings.save_total_limit + 1) * checkpoint_bytes(shape, settings)
    if getattr(settings, "method", "grpo") == "raft":  # each round's model, and a finished round's last checkpoint
        total += (settings.raft.rounds - 1) * weights * shape.parameters
        total += checkpoint_bytes(shape, settings) if settings.save_steps else 0
    elif settings.kl_beta and not settings.lora_rank:
        total += 4 * shape.parameters
    return total


def folder_of(name: str) -> Path | None:
    """Return the model's local folder, or that in the hub cache."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():  # the .ckpt of a COMET model
        return path.parent.parent
    if hub.looks_like_path(name):
        return None
    found = hub.cached(name) or hub.cached(name, hub.COMET)
    return found and found.parent


def _read_config(folder: Path) -> dict[str, Any]:
    """Return config.json, the text part of a multimodal one, or that of a COMET model's encoder; {} if missing."""
    for place in (folder, folder / "encoder"):
        try:
            config = json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        text = config.get("text_config")
        return text if isinstance(text, dict) else config
    return dict(_XLMR_LARGE) if (folder / hub.COMET).is_file() else {}


def _counted(folder: Path) -> int | None:
    """Count parameters by the weight files: safetensors headers, or the size of an fp32 .ckpt or .bin."""
    if safetensors := list(folder.glob("*.safetensors")):
        try:
            return sum(map(safetensors_parameters, safetensors))
        except (OSError, ValueError, KeyError):
            return None
    pickles = [*folder.glob("checkpoints/model.ckpt"), *folder.glob("pytorch_model*.bin")]
    return sum(p.stat().st_size for p in pickles) // 4 if pickles else None


def safetensors_parameters(path: Path) -> int:
    """Count the numbers in a safetensors file by its header, without vision towers."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 100_000_000:
            raise ValueError(f"{path} is not a safetensors file")
        header = json.loads(file.read(size))
    others = ("__metadata__", "vision_tower", "multi_modal_projector")
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if not any(part in name for part in others))
