"""Build tiny real models in the real file formats, in seconds; the tests use them instead of mocks.

`build_gemma` (Gemma3ForCausalLM + GemmaTokenizerFast), `build_nllb` (M2M100 + NllbTokenizerFast) and
`build_comet` (hparams.yaml + checkpoints/model.ckpt + encoder/) each take a folder and return its path.
Same seed, same files; the caller's random state does not change.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import transformers

from pocket import formats
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet.model import ENCODERS, CometModel

TAUGHT = 60 if transformers.__version__ < "5" else 90  # steps: transformers 5 initialises weights differently
PAIRS = [
    ("The boy reads a book.", "சிறுவன் ஒரு புத்தகத்தைப் படிக்கிறான்."),
    ("The girl drinks water.", "சிறுமி தண்ணீர் குடிக்கிறாள்."),
    ("My mother cooks rice.", "என் அம்மா சோறு சமைக்கிறார்."),
    ("The teacher goes to school.", "ஆசிரியர் பள்ளிக்குச் செல்கிறார்."),
    ("It is raining today.", "இன்று மழை பெய்கிறது."),
    ("Where is the market?", "சந்தை எங்கே இருக்கிறது?"),
    ("The boy drinks water.", "சிறுவன் தண்ணீர் குடிக்கிறான்."),
    ("The girl goes to the market.", "சிறுமி சந்தைக்குச் செல்கிறாள்."),
    ("My friend bought a new house in the city.", "என் நண்பர் நகரத்தில் ஒரு புதிய வீடு வாங்கினார்."),
    ("The train arrives at five in the evening.", "ரயில் மாலை ஐந்து மணிக்கு வருகிறது."),
    ("Thank you.", "நன்றி."),
    ("We speak Tamil.", "நாங்கள் தமிழ் பேசுகிறோம்."),
]
# Independent of the trainer's default prompt: any instruction works here.
PROMPT = "Translate the sentence to Tamil.\n\nEnglish: {source}\nTamil:"
GEMMA_TURN = "<bos><start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"


def build_gemma(folder: str | Path, steps: int = TAUGHT, seed: int = 0) -> Path:
    """Build a Gemma3ForCausalLM of about 0.1 M parameters, trained `steps` steps on PAIRS; return `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = PROMPT.replace("source", "english")  # the slot's old name: golden numbers depend on the tokenizer
    texts = [words, "user", "model"] + [text for pair in PAIRS for text in pair]
    tokenizer = formats.gemma_tokenizer(folder, texts, vocab_size=700)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = formats.new_gemma(tokenizer, 64, layers=2, heads=2, sliding_window=64)
        texts = [GEMMA_TURN.format(user=PROMPT.format(source=en)) + ta + "<end_of_turn>" for en, ta in PAIRS]
        teach(model, tokenizer, texts, steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_nllb(folder: str | Path, steps: int = 120, seed: int = 0) -> Path:
    """Build an M2M100 model with NLLB's 202 language tags, trained `steps` steps of Tamil→English on PAIRS."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = formats.nllb_tokenizer(folder, [text for pair in PAIRS for text in pair], vocab_size=300)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        model = formats.new_nllb(tokenizer, 32, layers=2, heads=2)
        tokenizer.src_lang, tokenizer.tgt_lang = "tam_Taml", "eng_Latn"
        batch = tokenizer(
            [ta for _, ta in PAIRS], text_target=[en for en, _ in PAIRS], return_tensors="pt", padding=True
        )
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
        train(model, lambda: model(**batch).loss, steps, lr=1e-2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_comet(folder: str | Path, kind: str = "regression_metric", seed: int = 0, **overrides) -> Path:
    """Build a random COMET checkpoint of class `kind` with well spread scores around 0.5; return `folder`.

    `overrides` replace hyper-parameters (layer, pool, layer_norm, word_level_training …). The encoder's
    configuration and tokenizer are in `folder/encoder`; hparams have its absolute path, since COMET's own
    loader resolves a relative one against the working directory.
    """
    folder = Path(folder)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    save_encoder(folder / "encoder", overrides.get("encoder_model", "XLM-RoBERTa"))
    hparams = comet_hparams(kind, str((folder / "encoder").resolve())) | overrides
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        layers = hparams["layer_transformation"].removesuffix("_patch")
        model = CometModel(kind, hparams | {"layer_transformation": layers}, folder / "encoder").eval()
        _widen(model)
        _centre(model)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": hparams,
        "pytorch-lightning_version": "2.0.0",
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(checkpoint, folder / "checkpoints" / "model.ckpt")
    (folder / "hparams.yaml").write_text(json.dumps(hparams, indent=1))  # JSON is YAML
    return folder


def xlmr_tokenizer():
    """Build an XLMRobertaTokenizerFast with a hand-written Unigram vocabulary, the same at every call."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import XLMRobertaTokenizerFast

    words = sorted({word.strip(".?") for pair in PAIRS for text in pair for word in text.split()})
    letters = [chr(i) for i in range(0x21, 0x7F)] + [chr(i) for i in range(0xB80, 0xC00) if chr(i).isprintable()]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    vocab += [("▁" + word, -6.0 - 0.01 * i) for i, word in enumerate(words)]
    vocab += [(letter, -9.0 - 0.01 * i) for i, letter in enumerate(letters)] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=512)


def save_encoder(folder: Path, name: str = "XLM-RoBERTa") -> None:
    """Save configuration and tokenizer of the encoder that COMET calls `name`."""

    tokenizer = xlmr_tokenizer()
    getattr(transformers, f"{ENCODERS[name]}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def comet_hparams(kind: str, encoder: str) -> dict:
    """Return hyper-parameters as in the published checkpoint of each class."""
    common = {
        "class_identifier": kind,
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": encoder,
        "layer_transformation": "sparsemax",
        "layer_norm": False,
        "hidden_sizes": [24, 12],
        "activations": "Tanh",
        "final_activation": None,
        "dropout": 0.1,
        "nr_frozen_epochs": 0.3,
        "keep_embeddings_frozen": True,
        "batch_size": 4,
    }
    if kind in ("unified_metric", "xcomet_metric"):
        segments = ["mt", "src"] if kind == "unified_metric" else ["mt", "src", "ref"]
        word_level = kind == "xcomet_metric"
        return common | {
            "sent_layer": "mix",
            "word_layer": 3,
            "input_segments": segments,
            "word_level_training": word_level,
            "error_labels": ["minor", "major", "critical"][: 3 if word_level else 2],
            "loss_lambda": 0.65,
            "layer_norm": True,
        }
    return common | {"layer": "mix", "pool": "avg"}


def _widen(model: torch.nn.Module) -> None:
    """Draw random weights wide enough that different texts get clearly different scores (tenths apart)."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0.0, 1.2 / math.sqrt(module.in_features))
            module.bias.normal_(0.0, 0.1)
        elif isinstance(module, torch.nn.Embedding):
            module.weight.normal_(0.0, 0.5)
    if model.layerwise_attention is not None:
        for i, weight in enumerate(model.layerwise_attention.scalar_parameters):
            weight.fill_(0.1 * i)


def _centre(model) -> None:
    """Scale the head so that PAIRS and their mismatches score 0.5 ± 0.15 (before a sigmoid: 0 ± 1)."""
    rows = [(en, ta, other) for en, ta in PAIRS for other, _ in (PAIRS[0], PAIRS[5])]
    rows += [(en, en, en) for en, _ in PAIRS]
    score = model([Segment(src, mt, ref if model.reads_reference else None) for src, mt, ref in rows]).score
    head = [m for m in model.estimator.modules() if isinstance(m, torch.nn.Linear)][-1]
    spread, middle = 0.15, 0.5
    if model.hparams["final_activation"] == "Sigmoid":
        score, spread, middle = score.logit(), 1.0, 0.0
    factor = spread / score.std().item()
    head.weight.mul_(factor)
    head.bias.copy_((head.bias - score.mean()) * factor + middle)


def teach(model: torch.nn.Module, tokenizer, texts: list[str], steps: int) -> None:
    """Train `steps` steps on these texts, which contain their special tokens."""
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    with torch.enable_grad():
        train(model, lambda: model(**batch, labels=labels).loss, steps, lr=1e-2)


def train(model: torch.nn.Module, loss_of, steps: int, lr: float) -> None:
    """Take `steps` AdamW steps on one fixed batch with a linearly falling rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
