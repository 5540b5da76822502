"""Load the policy's tokenizer and causal chat model; choose device and precision once and print the reason."""

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from rl_nmt import distributed, hub
from rl_nmt.errors import ConfigError, UserError
from rl_nmt.models import gemma3, loading
from rl_nmt.text import prompts

FAMILIES = {"gemma3": ("Gemma 3", ("gemma3_text", "gemma3"))}  # family → its name, its values of model_type
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
FILES = ["*.json", "*.jinja", "*.model", "*.txt", "model*.safetensors"]  # of a hub model; not the same weights twice
# The text part of google/gemma-3-4b-it and larger, in the layouts of transformers 4 and 5.
TEXT_PART = {r"^(model\.)?language_model\.(model\.)?": "model."}


@dataclass(frozen=True)
class Precision:
    """The policy's precision in training. `weights`: dtype of the loaded weights; `autocast`: bf16 autocast on."""

    device: str
    weights: torch.dtype
    autocast: bool
    reason: str


def choose_precision(lora: bool) -> Precision:
    """Choose bf16 if the GPU has bf16 units, else fp32; never fp16 (Gemma 3 overflows in it).

    With LoRA the frozen base may be bf16. Full fine-tuning keeps fp32 weights under bf16 autocast: with
    bf16 weights most updates at such learning rates round to nothing.
    """
    if not torch.cuda.is_available():
        return Precision("cpu", torch.float32, False, "no CUDA device: CPU in fp32")
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name()
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision("cuda", torch.float32, False, f"{name} has no bf16 units: fp32")
    if lora:
        return Precision("cuda", torch.bfloat16, True, f"{name}: bf16 base, LoRA in fp32")
    return Precision("cuda", torch.float32, True, f"{name}: fp32 weights under bf16 autocast")


def load_tokenizer(model_id: str, families: Sequence[str] = (), argument: str = "model_id"):
    """Load the policy's tokenizer: left-padded, pad = eos, with the tokens at which the model's turns end.

    `families`: the accepted ones of `FAMILIES`; empty for any chat model. `argument`: the setting to name. Raises
    ConfigError without a tokenizer, or if it is not of a chat model of these families; MissingService as `hub.explain`.
    """
    loading.fetch(argument, model_id, "config.json", FILES)  # transformers would download without showing progress
    name, revision = hub.split_revision(model_id)
    if Path(name).is_dir() and not any((Path(name) / file).exists() for file in VOCABULARIES):
        # transformers 5 would create an empty one
        raise ConfigError(f"{argument}: {model_id}: its tokenizer does not load: none of {', '.join(VOCABULARIES)}")
    tokenizer = loading.load_tokenizer(argument, model_id, padding_side="left")
    if not prompts.is_gemma(tokenizer):
        if "gemma3" in families:
            raise ConfigError(f"{argument}: {model_id}: its tokenizer has no <end_of_turn>: not a Gemma chat model")
        try:
            prompts.chat_prompt(tokenizer, "a")  # refuses models without a chat template
        except ConfigError as error:
            raise ConfigError(f"{argument}: {error}") from error
        tokenizer.further_stops = _declared_stops(name, revision)
    if tokenizer.eos_token is None:
        raise ConfigError(f"{argument}: {model_id}: its tokenizer has no eos token, so texts would not end; set one")
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _declared_stops(name: str, revision: str | None) -> list[int]:
    """Return the stop ids of the checkpoint's own generation settings; [] without any."""
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(name, revision=revision).eos_token_id
    except (OSError, ValueError):
        return []
    return [ids] if isinstance(ids, int) else list(ids or [])


def stop_ids(tokenizer) -> list[int]:
    """Return the ids that end a turn: the end-of-turn token, eos, then any others that the checkpoint declares."""
    chats = tokenizer.chat_template or prompts.is_gemma(tokenizer)
    turn = prompts.end_of_turn(tokenizer) if chats else None
    ids = [] if turn is None else [tokenizer.convert_tokens_to_ids(turn)]
    return list(dict.fromkeys([*ids, tokenizer.eos_token_id, *getattr(tokenizer, "further_stops", [])]))


def generation_defaults(tokenizer):
    """Return a GenerationConfig that stops where a turn ends and samples from the model's own distribution."""
    from transformers import GenerationConfig

    return GenerationConfig(
        eos_token_id=stop_ids(tokenizer), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def load_policy(
    model_id: str,
    tokenizer,
    precision: Precision,
    attn_implementation: str = "eager",
    families: Sequence[str] = (),
    argument: str = "model_id",
    quantise: bool = False,
    images: bool = False,
):
    """Load the causal chat model (the text part of a multimodal Gemma 3 checkpoint), ready for TRL.

    It stops at `stop_ids`. The checkpoint's own sampling settings (top_k, top_p) are reset, so that only the trainer's
    apply. `families`, `argument`: see `load_tokenizer`; no families: any causal model that this transformers knows.
    `quantise`: linear layers in 4-bit nf4 by bitsandbytes (QLoRA, arXiv 2305.14314), for LoRA on top. `images`: with
    the vision tower, of a checkpoint that has one (multimodal.sees_images).
    Raises ConfigError for another architecture or weights that do not fit, and MissingService.
    """
    hub.require_model(argument, model_id)
    quieten_transformers()
    name, revision = hub.split_revision(model_id)
    try:
        cls, options = _model_class(model_id, name, revision, families, argument, images)
        if quantise:
            options |= {"quantization_config": _four_bit(precision), "device_map": precision.device}
        model, info = cls.from_pretrained(
            name,
            revision=revision,
            dtype=precision.weights,
            attn_implementation=attn_implementation,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and torch raise a dozen classes for bad files
        if Path(model_id).exists():
            raise ConfigError(f"{argument}: {model_id} does not load: {error}") from error
        raise hub.explain(argument, model_id, error) from error
    missing = [key for key in info["missing_keys"] if "lm_head" not in key]
    if missing:
        raise ConfigError(f"{argument}: {model_id}: {len(missing)} weights missing, e.g. {missing[0]}; fetch it again")
    if model.base_model is model and not images:  # TRL knows where a multimodal model has its decoder
        gemma3.name_decoder(type(model))  # Gemma 3 under transformers 4
    if "key_mapping" in options:
        model._weight_conversions = None  # transformers 5 would try to undo the renaming on saving, and fail
    model.generation_config = generation_defaults(tokenizer)
    # One id each, as in the tokenizer: if they differ, the Trainer rewrites them with a warning.
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.bos_token_id = tokenizer.bos_token_id
    if images:  # TRL sets the pad token of the text part alone
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if hasattr(model, "warnings_issued"):  # gone in transformers 5
        model.warnings_issued["estimate_tokens"] = True  # no warning that TRL's batches have no input_ids
    return model


def quieten_transformers() -> None:
    """Turn off, for the process, transformers 5's bars at every load and save and its advice on names that TRL uses."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing` is deprecated", FutureWarning)


@contextlib.contextmanager
def gemma_loads_under_zero3() -> Iterator[None]:
    """Let `from_pretrained` load a Gemma 3 model while DeepSpeed's ZeRO-3 shards its weights.

    The embedding's scale is a buffer that no checkpoint has. So transformers 4.57 initialises the embedding again and
    writes into a row of a weight that is on another process. Here such an embedding keeps its values.
    """
    from transformers import __version__

    if not __version__.startswith("4.") or not distributed.deepspeed():
        yield
        return
    from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding as Embedding

    Embedding._is_hf_initialized = True
    try:
        yield
    finally:
        del Embedding._is_hf_initialized


def _model_class(
    model_id: str, name: str, revision: str | None, families: Sequence[str], argument: str, images: bool = False
):
    """Return the class that loads the checkpoint, and its options. Raises ConfigError for an unsupported model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    kind = config.model_type
    if families and not any(kind in FAMILIES[family][1] for family in families):
        known = " or ".join(FAMILIES[family][0] for family in families)
        raise ConfigError(f"{argument}: {model_id} is a {kind!r} model; this trainer is for {known}")
    if kind in FAMILIES["gemma3"][1] and images:
        from transformers import Gemma3ForConditionalGeneration

        gemma3.repair_gemma3()  # not needed here, but reward_log.py sees that Gemma 3's module is loaded
        return Gemma3ForConditionalGeneration, {}
    if kind in FAMILIES["gemma3"][1]:
        from transformers import Gemma3ForCausalLM  # here: its module tells reward_log.py that a Gemma was loaded

        # AutoModelForCausalLM would keep a multimodal checkpoint's vision tower. transformers 4 finds the text part by
        # this class's prefix, 5 needs the mapping.
        finds = kind == "gemma3_text" or Gemma3ForCausalLM.base_model_prefix == "language_model"
        return Gemma3ForCausalLM, {} if finds else {"key_mapping": TEXT_PART}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"{argument}: {model_id} is a {kind!r} model, not a causal language model")
    return AutoModelForCausalLM, {}


def _four_bit(precision: Precision):
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.weights,
    )


def add_adapter(model, rank: int, alpha: int, seed: int):
    """Return the model with fresh LoRA adapters, drawn from `seed`; they change nothing before they are trained."""
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(seed)
    return get_peft_model(model, lora_config(rank, alpha))


def continue_adapter(model, folder: str | Path):
    """Return the model with the LoRA adapter in `folder`, to be trained further.

    With KL, TRL keeps a frozen copy of it under the name "ref" as the reference (trainer.py). Raises ConfigError.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder, is_trainable=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{folder}: its LoRA adapter does not fit the model ({error})") from error


def make_reference_loadable(model, tokenizer, folder: Path) -> None:
    """Save the text-only start policy and set it as the model's origin.

    With KL and without LoRA, TRL rebuilds the reference from `config._name_or_path`, as vLLM does its engine;
    from a multimodal checkpoint that would be another class, with a vision tower. Collective.
    """

    def save() -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    distributed.from_main(save)
    model.config._name_or_path = model.name_or_path = str(folder)


def lora_config(rank: int, alpha: int):
    """Return LoRA on every linear layer of the decoder, or None for rank 0, full fine-tuning."""
    if rank == 0:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", target_modules="all-linear"
    )


@contextlib.contextmanager
def precise_adapters(model) -> Iterator[None]:
    """Keep the adapters on a 4-bit base as they are, in fp32; TRL's trainers round them to bf16 when they are built."""
    kept = {}
    if getattr(model, "is_loaded_in_4bit", False):
        kept = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    yield
    for name, values in kept.items():
        model.get_parameter(name).data = values


def losing_combination(model) -> str | None:
    """Return a warning if weights to be trained are 16-bit, else None. LoRA's own weights count, not its base's.

    Measured: of bf16 weights at learning rate 1e-6, 3 % had changed after 5 steps; of fp32 weights under
    bf16 autocast, and of LoRA weights, all.
    """
    small = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)}
    if not small:
        return None
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in small)
    return (
        f"warning: the weights to be trained are {names}: at such learning rates most updates round to nothing. "
        "Use LoRA (lora_rank above 0), or load the weights in float32 and train under bf16 autocast"
    )


def prepare_processes() -> None:
    """Prepare the process for training: its memory on a CPU, and several visible GPUs under plain `python`.

    Call it before accelerate is imported.

    The Trainer would wrap the model in DataParallel, which TRL refuses. A distributed start with one process
    keeps the policy on the first GPU and leaves the others to the reward models.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        loading.keep_freed_memory()
    if count < 2 or "LOCAL_RANK" in os.environ or "RANK" in os.environ:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    print(f"{count} GPUs visible, no launcher: one process, policy on cuda:0", flush=True)
