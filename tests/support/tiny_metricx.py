"""Build a tiny MetricX-24 checkpoint in the published format: mT5 classes, 250,112 tokens, one logit as the score."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import PAIRS

from pocket import formats

WORDS, SCORE_ID = 250_112, 250_089


def build_metricx(folder: Path, seed: int = 1, tied: bool = False, tokenizer: bool = True, dtype=None) -> Path:
    """Build a random mT5 whose scores over tiny_models.PAIRS and mismatches have mean 10 and deviation 3.

    tied: output matrix = embeddings; tokenizer: also save one; dtype: of the weights on disk.
    """
    from transformers import MT5Config, MT5ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for pair in PAIRS for text in pair] + ["source: candidate: reference:"] * 3
    words = formats.mt5_tokenizer(folder if tokenizer else folder.with_name(folder.name + "_words"), texts * 4, 240)
    config = MT5Config(
        vocab_size=WORDS,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        tie_word_embeddings=tied,
        dropout_rate=0.0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = MT5ForConditionalGeneration(config).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.out_features != WORDS:
                module.weight.normal_(0.0, 0.7 / module.in_features**0.5)
        if not tied:  # transformers 5 ties every mT5
            model.lm_head.weight = torch.nn.Parameter(torch.randn(WORDS, 16))
        _spread(model, words, tied)
    model.to(dtype or torch.float32).save_pretrained(folder)
    _as_published(model, folder, tied)
    if tokenizer:
        words.save_pretrained(folder)
    return folder


def _as_published(model, folder: Path, tied: bool) -> None:
    """Change the files to the published ones, written by transformers 4: class, ties, and lm_head saved."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"tie_word_embeddings": tied, "architectures": ["MT5ForRegression"]}  # save_pretrained names its own
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shared = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *(["lm_head.weight"] if tied else [])]
    weights = {name: value for name, value in model.state_dict().items() if name not in shared}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _spread(model, tokenizer, tied: bool) -> None:
    """Set the score's row so that scores depend on the centred hidden state: mean 10, deviation about 3."""
    texts = [f"source: {en} candidate: {ta}" for en, _ in PAIRS for _, ta in (PAIRS[0], PAIRS[3], PAIRS[7])]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    hidden = model(
        **batch,
        decoder_input_ids=torch.zeros(len(texts), 1, dtype=torch.long),
        output_hidden_states=True,
        use_cache=False,
    ).decoder_hidden_states[-1][:, 0]
    centre, axes = hidden.mean(0), torch.linalg.svd(hidden - hidden.mean(0)).Vh
    row = 3.0 * axes[0] / ((hidden - centre) @ axes[0]).std()
    # The component along the mean, equal for all texts, gives the constant.
    flat = centre - ((centre @ axes[:2].T) @ axes[:2])
    row += (10.0 - centre @ row) * flat / (flat @ centre)
    weight = model.shared.weight if tied else model.lm_head.weight
    weight[SCORE_ID] = row * (model.config.d_model**0.5 if tied else 1.0)
