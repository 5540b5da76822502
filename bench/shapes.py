"""Checkpoints with random weights in the true shapes and the real file formats, for the benches.

    python -m bench.shapes [--shape tiny|base|large] [--models DIR]

tiny has the pocket world's sizes; base and large are XLM-R's, with its 250,002 rows of embedding, beside
NLLB-200 distilled 600M and 1.3B with 256,206. The tokenizers are small ones trained on generated text: their
ids use the first rows of the embeddings, the rest costs what it costs in the published models.

COMET: random encoders give near-constant scores, so linears are drawn at 1.2/sqrt(fan_in), embeddings at std
0.5, and the head is rescaled to 0.5 ± 0.15 on bench texts; layers are mixed almost evenly, so that every one
counts. An equality to 1e-5 then says something.

NLLB: a random translator never ends, and one that is cut off says nothing of routes that sort by length and
stop early. So one cross-attention is built by hand: position t of the decoder attends to position t of the
source, and the token found there is mapped to its English partner (`translate_by_word`). Every row thus ends
after as many tokens as its source has, as different rows do in life, with the cost of the full shape: all
other weights are random and small in what they add.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    GenerationConfig,
    M2M100ForConditionalGeneration,
)

from bench import texts
from pocket import formats
from rl_nmt.files import replace_folder
from rl_nmt.scorers.base import SCALE_PROBE, Segment
from rl_nmt.scorers.comet import scorer
from rl_nmt.scorers.comet.model import CometModel

HERE = Path(__file__).resolve().parent
MODELS = HERE / "build"
SHAPES = ("tiny", "base", "large")
COMET_KINDS = ("regression_metric", "unified_metric", "xcomet_metric")
PIECES = 1600  # of the trained tokenizers: 1.6 tokens an English word, 2.2 a Tamil one


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer, `layers` in encoder and decoder each; `rows` of embedding, 0: the tokenizer's."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    rows: int = 0
    head_dim: int = 0  # Gemma's


COMET = {
    "tiny": Shape(128, 3, 4, 512),
    "base": Shape(768, 12, 12, 3072, 250_002),  # FacebookAI/xlm-roberta-base
    "large": Shape(1024, 24, 16, 4096, 250_002),  # FacebookAI/xlm-roberta-large
}
NLLB = {
    "tiny": Shape(160, 2, 4, 320),
    "base": Shape(1024, 12, 16, 4096, 256_206),  # facebook/nllb-200-distilled-600M
    "large": Shape(1024, 24, 16, 8192, 256_206),  # facebook/nllb-200-distilled-1.3B
}
POLICY = {
    "tiny": Shape(128, 4, 4, 256, head_dim=32),
    "gemma3_1b": Shape(1152, 26, 4, 6912, 262_144, 256),  # google/gemma-3-1b-it
    "gemma3_4b": Shape(2560, 34, 8, 10_240, 262_208, 256),  # the text part of google/gemma-3-4b-it
}
_resident: str | None = None  # the device that `resident` draws on


def comet(kind: str, shape: str, models: Path = MODELS) -> Path:
    """The folder of a COMET checkpoint of class `kind`, built once."""
    return _once(models / f"{kind}-{shape}", lambda folder: _describe_comet(folder, kind, COMET[shape]))


def nllb(shape: str, models: Path = MODELS) -> Path:
    """The folder of an NLLB-format Tamil→English model, built once."""
    return _once(models / f"nllb-{shape}", lambda folder: _describe_nllb(folder, NLLB[shape]))


def policy(shape: str, models: Path = MODELS) -> Path:
    """The folder of a random policy in Gemma's format, built once."""
    return _once(models / f"policy-{shape}", lambda folder: _describe_policy(folder, POLICY[shape]))


def _once(folder: Path, describe: Callable[[Path], None]) -> Path:
    """Describe a model in `folder` and, unless `resident`, save its weights there, where this code has not done so."""
    stamp = folder / "built.json"
    digest = hashlib.sha256(str(_resident is None).encode())
    for source in (HERE / "shapes.py", HERE / "texts.py", Path(formats.__file__)):
        digest.update(source.read_bytes())
    wanted = digest.hexdigest()
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == wanted:
        return folder
    print(f"building {folder.name}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.parent == MODELS:
        (MODELS / ".gitignore").write_text("*\n", encoding="utf-8")
    with replace_folder(folder) as draft:
        describe(draft)
        if _resident is None:
            model = draw(draft)
            if isinstance(model, CometModel):
                formats.save_comet(model, _hparams(draft), draft)
            else:
                model.save_pretrained(draft)
        (draft / "built.json").write_text(json.dumps({"key": wanted}), encoding="utf-8")
    return folder


def draw(folder: Path) -> torch.nn.Module:
    """The model that a folder of this module describes, in float32 where `resident` says, else on the CPU.

    Its weights are drawn here, the same ones every time; those in the folder are not read.
    """
    with torch.random.fork_rng(), torch.no_grad(), torch.device(_resident or "cpu"):
        torch.manual_seed(0)
        if (folder / "hparams.yaml").is_file():
            model = CometModel(_hparams(folder)["class_identifier"], _hparams(folder), folder / "encoder").eval()
            _widen(model)
            _centre(model)
            return model
        config = AutoConfig.from_pretrained(folder)
        kind = M2M100ForConditionalGeneration if config.model_type == "m2m_100" else Gemma3ForCausalLM
        model = kind(config).eval()
        model.generation_config = GenerationConfig.from_pretrained(folder)
        model.config._name_or_path = str(folder)
        if config.model_type == "m2m_100":
            translate_by_word(model, AutoTokenizer.from_pretrained(folder))
        return model


def are_resident() -> bool:
    """Are we within `resident`?"""
    return _resident is not None


@contextlib.contextmanager
def resident(device: str) -> Iterator[None]:
    """Within, folders hold no weights: whatever loads one gets the model drawn on `device`. For one thread."""
    global _resident

    def comet_weights(argument, checkpoint, classes):
        return draw(checkpoint.parents[1]), checkpoint.parents[1] / "encoder"

    def from_pretrained(cls, folder, dtype=torch.float32, attn_implementation=None, output_loading_info=False, **_):
        model = draw(Path(folder)).to(dtype)
        if attn_implementation:
            model.set_attn_implementation(attn_implementation)
        return (model, {"missing_keys": []}) if output_loading_info else model

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(scorer, "load_model", comet_weights))
        for cls in (AutoModelForSeq2SeqLM, Gemma3ForCausalLM):
            stack.enter_context(mock.patch.object(cls, "from_pretrained", classmethod(from_pretrained)))
        before, _resident = _resident, device
        try:
            yield
        finally:
            _resident = before


# ------------------------------------------------------------------ COMET


def _describe_comet(folder: Path, kind: str, shape: Shape) -> None:
    """Encoder configuration, tokenizer, hparams.yaml, and a checkpoint of a few kilobytes: all weights 0."""
    tokenizer = _xlmr_tokenizer()
    sizes = {"vocab_size": shape.rows or len(tokenizer), "num_attention_heads": shape.heads}
    sizes |= {"intermediate_size": shape.ffn}
    options = {"hidden_sizes": [3 * shape.hidden, shape.hidden]}
    if kind == "xcomet_metric":
        options |= {"sent_layer": "mix", "word_layer": shape.layers, "layer_norm": True, "loss_lambda": 0.65}
        options |= {"input_segments": ["mt", "src", "ref"], "word_level_training": True}
        options |= {"error_labels": ["minor", "major", "critical"]}
    with torch.device("meta"):
        model, hparams = formats.new_comet(folder, kind, tokenizer, shape.hidden, shape.layers, sizes, **options)
    zero = torch.zeros(1)  # is all that is stored of a weight
    model.load_state_dict({name: zero.expand(x.shape) for name, x in model.state_dict().items()}, assign=True)
    formats.save_comet(model, hparams, folder)


def _hparams(folder: Path) -> dict:
    return json.loads((folder / "hparams.yaml").read_text(encoding="utf-8"))


@functools.cache
def _xlmr_tokenizer():
    return formats.xlmr_tokenizer(texts.training_texts(), PIECES)


def _widen(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0.0, 1.2 / math.sqrt(module.in_features))
            module.bias.normal_(0.0, 0.1)
        elif isinstance(module, torch.nn.Embedding):
            module.weight.normal_(0.0, 0.5)
    for i, weight in enumerate(model.layerwise_attention.scalar_parameters):
        weight.fill_(0.002 * i)


def _centre(model) -> None:
    """Scale the head: bench texts score 0.5 ± 0.15, or less spread if `require_scale` would refuse the model."""
    rows = [Segment(item.english, item.back, item.english) for item in texts.items(24, "none", seed=1)]
    rows += SCALE_PROBE
    score = model(rows if model.needs_reference else [Segment(row.src, row.mt) for row in rows]).score
    probe, score = score[-len(SCALE_PROBE) :], score[: -len(SCALE_PROBE)]
    head = [module for module in model.estimator.modules() if isinstance(module, torch.nn.Linear)][-1]
    factor = min(0.15 / score.std().item(), 0.5 / (probe - score.mean()).abs().max().item())
    head.weight.mul_(factor)
    head.bias.copy_((head.bias - score.mean()) * factor + 0.5)


# ------------------------------------------------------------------ NLLB


def _describe_nllb(folder: Path, shape: Shape) -> None:
    tokenizer = formats.nllb_tokenizer(folder, texts.training_texts(), PIECES)
    sizes = {
        "vocab_size": shape.rows or len(tokenizer) + 2,
        "encoder_ffn_dim": shape.ffn,
        "decoder_ffn_dim": shape.ffn,
        "max_position_embeddings": 1024,
    }
    with torch.device("meta"):
        model = formats.new_nllb(tokenizer, shape.hidden, shape.layers, shape.heads, **sizes)
    _save_description(model, tokenizer, folder)


def _save_description(model, tokenizer, folder: Path) -> None:
    model.config.architectures = [type(model).__name__]
    for part in (model.config, model.generation_config, tokenizer):
        part.save_pretrained(folder)


def translate_by_word(model, tokenizer) -> None:
    """Make a random M2M100 model translate token by token: the k-th source token decides the k-th output token.

    Dimensions are shared out. Some sines and cosines of the position embedding are left to the last decoder
    layer's cross-attention, whose queries and keys read nothing else: its scores are sums of cos(w·(t − s)),
    which peak where source position s is decoder position t. The other dimensions hold the tokens, in two
    halves: a Tamil token has its code in the first, its English partner the same code in the second, and
    punctuation and </s> in both. The values of that attention are the source's token dimensions, its output
    exchanges the halves. Rows of the embedding beyond the tokenizer stay 0: no token, but part of the softmax.
    """
    config = model.config
    width, half = config.d_model, config.d_model // 2
    head = width // config.decoder_attention_heads
    # Frequencies 10000^(−i / (half − 1)) from 1 down to 0.3: of all ranges this one tells neighbours apart best
    # without bringing a far position (up to 200) near.
    waves = torch.linspace(0, (half - 1) * -math.log(0.3) / math.log(10_000), head // 2).round().long()  # (F,)
    positional = torch.cat([waves, waves + half, torch.tensor([half - 1])])
    free = torch.tensor(sorted(set(range(width)) - set(positional.tolist())))
    free = free[torch.randperm(len(free))][: len(free) // 2 * 2]
    first, second = free.chunk(2)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(("out_proj", "fc2")):
            module.weight.mul_(0.05)
    scale = (math.log(config.vocab_size) + 5) / math.sqrt(width)  # norm of a token: its logit beats the softmax
    model.model.shared.weight.copy_(_codes(tokenizer, config.vocab_size, width, first, second, scale))
    attention = model.model.decoder.layers[-1].encoder_attn
    _attend_to_own_position(attention, waves, half, head, scale)
    _exchange_halves(model, attention, tokenizer, first, second, scale)


def _codes(tokenizer, rows: int, width: int, first, second, scale: float) -> torch.Tensor:
    """The embedding (rows, width): norm `scale` per token, halves as `translate_by_word` says."""
    table = torch.zeros(rows, width)
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_ids)
    codes = torch.randn(len(tokens), len(first))  # (V, M)
    codes -= codes.mean(1, keepdim=True)
    codes *= scale / codes.norm(dim=1, keepdim=True)
    english = {start: [] for start in (True, False)}  # begins a word, or continues one
    for i, token in enumerate(tokens):
        if i not in special and texts.LATIN.search(token) and not texts.TAMIL.search(token):
            english[token.startswith("▁")].append(i)
            table[i, second] = codes[i]
    english[True].sort(key=lambda i: -len(tokens[i]))  # whole words and short endings, as English has them
    english[False].sort(key=lambda i: len(tokens[i]))
    met = {True: 0, False: 0}
    for i, token in enumerate(tokens):
        if texts.TAMIL.search(token) and i not in special:
            start = token.startswith("▁")
            partner = english[start][met[start] % len(english[start])]
            met[start] += 1
            table[i, first] = codes[partner]
        elif not table[i].any() and i != tokenizer.pad_token_id:
            table[i, first] = table[i, second] = codes[i] / math.sqrt(2)
    return table


def _attend_to_own_position(attention, waves, half: int, head: int, scale: float) -> None:
    """Queries and keys of every head: the chosen sines and cosines, less a dimension that is always near 0."""
    frequencies = 10_000 ** (-waves.double() / (half - 1))
    margin = (1 - frequencies.cos()).sum().item()  # what the nearest neighbour lacks of the peak
    # LayerNorm divides by about sqrt(0.5 + scale²): half for the position's sines, scale² for the token.
    gain = math.sqrt(10 * (0.5 + scale**2) * math.sqrt(head) / margin)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight.zero_()
        projection.bias.zero_()
        for start in range(0, projection.out_features, head):
            for k, wave in enumerate(waves.tolist()):
                for row, dimension in ((start + 2 * k, wave), (start + 2 * k + 1, wave + half)):
                    projection.weight[row, dimension] = gain
                    projection.weight[row, half - 1] = -gain


def _exchange_halves(model, attention, tokenizer, first, second, scale: float) -> None:
    """Values: the token dimensions, less their mean over real text. Output: first half to second and back."""
    tokenizer.src_lang = "tam_Taml"
    batch = tokenizer([item.tamil for item in texts.items(16, "none", seed=2)], return_tensors="pt", padding=True)
    batch = batch.to(model.device)
    states = model.model.encoder(**batch).last_hidden_state[batch["attention_mask"].bool()]  # (tokens, width)
    attention.v_proj.weight.zero_()
    attention.out_proj.weight.zero_()
    attention.out_proj.bias.zero_()
    gain = 6 * (0.5 + scale**2) / scale  # the exchanged token is then about 6 times what it is added to
    for here, there in ((first, second), (second, first)):
        attention.v_proj.weight[here, here] = 1.0
        attention.out_proj.weight[there, here] = gain
    attention.v_proj.bias.zero_()
    both = torch.cat([first, second])
    attention.v_proj.bias[both] = -states.mean(0)[both]


# ------------------------------------------------------------------ Gemma


def _describe_policy(folder: Path, shape: Shape) -> None:
    from train_grpo_en_ta import PROMPT

    tokenizer = formats.gemma_tokenizer(folder, [*texts.training_texts(), *[PROMPT, "user", "model"] * 50], PIECES)
    sizes = {
        "vocab_size": shape.rows or len(tokenizer),
        "intermediate_size": shape.ffn,
        "num_key_value_heads": max(1, shape.heads // 4),
        "head_dim": shape.head_dim,
        "query_pre_attn_scalar": shape.head_dim,
        "sliding_window": 512,
        "max_position_embeddings": 4096,
    }
    with torch.device("meta"):
        model = formats.new_gemma(tokenizer, shape.hidden, shape.layers, shape.heads, **sizes)
    _save_description(model, tokenizer, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder to build into (default bench/build)")
    args = parser.parse_args()
    for kind in COMET_KINDS:
        print(comet(kind, args.shape, args.models))
    print(nllb(args.shape, args.models))
    return 0


if __name__ == "__main__":
    sys.exit(main())
