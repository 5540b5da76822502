"""A masked-diffusion GPT: a bidirectional transformer that fills masks in any order, in Hugging Face's format.

A template is a sequence of token ids with the mask token where something is to be written (unmasking.py fills it).
The training loss is that of LLaDA (Nie et al. 2025, arXiv 2502.09992, eq. 3; its guidelines for pretraining).

Importing this module makes the model known to AutoConfig and AutoModelForCausalLM, by which TRL loads the reference.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from rl_nmt.errors import ConfigError, describe
from rl_nmt.models import loading

FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
LEAST_MASKED = 1e-3  # smallest probability of a mask in the loss, which divides by it
SPECIAL = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}


class MaskedDiffusionConfig(PretrainedConfig):
    """Sizes of the model; the ids of pad, bos and eos are those of its tokenizer.

    `initializer_range`: standard deviation of new weights; 0: that of GPT-2, 0.02 at width 768, scaled to the width.
    """

    model_type = "masked_diffusion_gpt"
    auto_map: ClassVar[dict[str, str]] = {}  # TRL reads it where transformers has no class of this name

    def __init__(
        self,
        vocab_size: int = 128,
        hidden_size: int = 256,
        num_hidden_layers: int = 4,
        num_attention_heads: int = 4,
        max_position_embeddings: int = 1024,
        initializer_range: float = 0.0,
        **kwargs: Any,
    ):
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range or 0.02 * (768 / hidden_size) ** 0.5
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class Block(nn.Module):
    """Attention of every position to every other one, then a feed-forward layer, each after a norm.

    Queries and keys are rotated by their positions (Su et al. 2021, arXiv 2104.09864): small character models learn
    much sooner than with learned positions.
    """

    def __init__(self, config: MaskedDiffusionConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, angles: torch.Tensor) -> torch.Tensor:
        """`x`: (B, L, d); `mask`: (B, 1, 1, L) bool, True where there is a token; `angles`: (L, d / heads / 2)."""
        rows, length, width = x.shape
        split = self.qkv(self.norm_attention(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # (B, heads, L, d / heads) each
        query, key = rotated(query, angles), rotated(key, angles)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(functional.gelu(self.up(self.norm_feed(x))))


def rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Return `x` (B, heads, L, d) with each pair of places i and i + d / 2 rotated by `angles` (L, d / 2)."""
    first, second = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).type_as(x)


class MaskedDiffusionGPT(PreTrainedModel):
    """The model: rotary positions, pre-norm blocks, a head of its own; no dropout."""

    config_class = MaskedDiffusionConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ("Block",)

    def __init__(self, config: MaskedDiffusionConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False
        self.post_init()
        if hasattr(self, "warnings_issued"):  # gone in transformers 5
            self.warnings_issued["estimate_tokens"] = True  # no warning that TRL's batches have no input_ids

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        **_: Any,
    ) -> MaskedLMOutput:
        """Return the logits of the token at each position (not of the next one), (B, L, V).

        `input_ids`: (B, L), padded on the right; `attention_mask`: (B, L), 1 for a token; `keep`: (B, L) bool, only
        these N positions get logits, (N, V), row by row. Raises ValueError for more than `max_position_embeddings`.
        """
        length, limit = input_ids.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(f"input_ids: {length} tokens are more than the model's {limit}; give shorter texts")
        width = self.config.hidden_size // self.config.num_attention_heads
        speeds = 1e4 ** -(torch.arange(0, width, 2, device=input_ids.device) / width)  # (d / heads / 2,)
        angles = torch.arange(length, device=input_ids.device)[:, None] * speeds
        x = self.embed_tokens(input_ids)
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None, :]
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block.__call__, x, mask, angles)
            else:
                x = block(x, mask, angles)
        x = self.norm(x if keep is None else x[keep])
        return MaskedLMOutput(logits=self.lm_head(x))


AutoConfig.register(MaskedDiffusionConfig.model_type, MaskedDiffusionConfig, exist_ok=True)
AutoModelForCausalLM.register(MaskedDiffusionConfig, MaskedDiffusionGPT, exist_ok=True)


def new_generator(tokenizer, **sizes: int) -> MaskedDiffusionGPT:
    """Return an untrained model for a tokenizer; `sizes`: fields of MaskedDiffusionConfig. Draws from torch's RNG."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return MaskedDiffusionGPT(MaskedDiffusionConfig(vocab_size=len(tokenizer), **ids, **sizes))


def load_generator(name: str, argument: str = "generator_checkpoint", dtype: torch.dtype = torch.float32):
    """Return (model, tokenizer) of a folder or hub name, the model in evaluation mode on the CPU.

    Raises ConfigError for another kind of model, weights that are missing and a tokenizer that does not fit;
    MissingService as `loading.fetch`.
    """
    folder = loading.fetch(argument, name, "config.json", FILES)
    try:
        kind = AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type
    except (OSError, ValueError) as error:
        raise ConfigError(f"{argument}: {name}: its config.json is not of a known model ({describe(error)})") from error
    if kind != MaskedDiffusionConfig.model_type:
        raise ConfigError(
            f"{argument}: {name} is a {kind!r} model, which does not fill masks in any order (a causal model reads "
            "only to the left); give a masked-diffusion GPT, e.g. one made with --phase pretrain"
        )
    try:
        with loading.loading():
            model, told = MaskedDiffusionGPT.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except Exception as error:  # whatever transformers and safetensors raise for bad files
        raise ConfigError(f"{argument}: {name} does not load ({describe(error)}); make or fetch it again") from error
    if lost := sorted(map(str, {*told["missing_keys"], *told["mismatched_keys"], *told["unexpected_keys"]})):
        raise ConfigError(
            f"{argument}: {name}: {len(lost)} weights are missing or unknown, e.g. {lost[0]}; make or fetch it again"
        )
    tokenizer = loading.load_tokenizer(argument, folder)
    tokenizer.clean_up_tokenization_spaces = False  # TRL decodes by it; texts must be those of evaluation
    require_tokens(tokenizer, argument, name)
    if len(tokenizer) != model.config.vocab_size:
        raise ConfigError(
            f"{argument}: {name}: its tokenizer has {len(tokenizer)} tokens and the model {model.config.vocab_size}; "
            "they do not belong together"
        )
    return model.eval(), tokenizer


def require_tokens(tokenizer, argument: str, name: str) -> None:
    """Raise ConfigError unless the tokenizer has mask, pad, bos and eos tokens, the mask one used for nothing else."""
    for kind in ("mask", "pad", "bos", "eos"):
        if getattr(tokenizer, f"{kind}_token_id") is None:
            raise ConfigError(f"{argument}: the tokenizer of {name} has no {kind} token; add one, and pretrain with it")
    others = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos", "unk")}
    if same := [kind for kind, token in others.items() if token == tokenizer.mask_token_id]:
        raise ConfigError(
            f"{argument}: the tokenizer of {name} uses its mask token as {same[0]}; give it one of its own"
        )


def banned_ids(tokenizer) -> list[int]:
    """Return the ids that may never be written into a mask: mask, pad, bos, eos, unknown and the like."""
    return sorted(tokenizer.all_special_ids)


def character_tokenizer(texts, context: int = 1024):
    """Return a tokenizer with one token per character of `texts`, for models of `context` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted({letter for text in texts for letter in text})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    options = {"clean_up_tokenization_spaces": False, "model_max_length": context}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, **options)


def padded(rows: list[list[int]], value: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return rows of unequal length as (B, L) int64, filled up with `value` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], device=device)


def to_batch(tokenizer, rows: Sequence[list[int]], device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Return input_ids and attention_mask of rows of ids, (B, L), padded on the right."""
    ones = [[1] * len(row) for row in rows]
    return {
        "input_ids": padded(list(rows), tokenizer.pad_token_id, device),
        "attention_mask": padded(ones, 0, device),
    }


def diffusion_loss(
    model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, tokenizer, generator=None
) -> torch.Tensor:
    """Return LLaDA's loss: an upper bound on −log p of the texts, in nats per token.

    Each row draws t ~ U(0, 1) and masks each of its tokens (never bos, eos or padding) with that probability; the
    cross-entropy of a masked token counts 1 / t. `input_ids`, `attention_mask`: (B, L). `generator`: torch's, on their
    device, else the global one.
    """
    fixed = torch.tensor(banned_ids(tokenizer), device=input_ids.device)
    maskable = attention_mask.bool() & ~torch.isin(input_ids, fixed)  # (B, L)
    drawn = torch.rand(len(input_ids), 1, generator=generator, device=input_ids.device)
    share = LEAST_MASKED + (1 - LEAST_MASKED) * drawn  # (B, 1)
    noise = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    masked = maskable & (noise < share)
    hidden = input_ids.masked_fill(masked, tokenizer.mask_token_id)
    logits = model(input_ids=hidden, attention_mask=attention_mask, keep=masked).logits.float()  # (N, V)
    losses = functional.cross_entropy(logits, input_ids[masked], reduction="none")
    return (losses / share.expand_as(masked)[masked]).sum() / maskable.sum().clamp(min=1)
