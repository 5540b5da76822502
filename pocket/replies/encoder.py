"""A tiny sentence encoder in sentence-transformers' on-disk format, fitted to know topics but not moods."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from pocket.fitting import fit
from pocket.replies import grammar

MAX_TOKENS = 128
TEMPERATURE = 0.15  # of the softmax over cosines
PAIRS, GENERIC = 48, 6  # of a batch: pairs of one topic, and texts without a topic


def fit_encoder(folder: Path, seed: int, sizes) -> None:
    """A BertModel of two texts of one topic against the texts of others (in-batch softmax), saved in `folder`.

    The moods of the two are drawn independently, so mood cannot help. Generic replies are on nobody's topic.
    """
    from transformers import BertConfig, BertModel

    tokenizer = word_pieces(list(grammar.known()), sizes.vocab)
    torch.manual_seed(seed)
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.encoder_hidden,
            num_hidden_layers=sizes.encoder_layers,
            num_attention_heads=4,
            intermediate_size=2 * sizes.encoder_hidden,
            max_position_embeddings=MAX_TOKENS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    rng = random.Random(seed)

    def loss(done: float) -> torch.Tensor:
        topics = [rng.choice(grammar.topics()) for _ in range(PAIRS)]
        left = [text_of(rng, topic) for topic in topics]
        right = [text_of(rng, topic) for topic in topics]
        right += [grammar.draw(rng, "generic", "any", "careless") for _ in range(GENERIC)]
        vectors = embed(model, tokenizer, left + right)
        scores = vectors[:PAIRS] @ vectors[PAIRS:].T / TEMPERATURE  # (PAIRS, PAIRS + GENERIC)
        same = torch.tensor([[float(a == b) for b in topics] + [0.0] * GENERIC for a in topics])
        return torch.nn.functional.cross_entropy(scores, same / same.sum(1, keepdim=True))

    fit(model, loss, sizes.encoder_steps, 3e-3, "sentence encoder")
    save(folder, model, tokenizer)


def text_of(rng: random.Random, topic: str) -> str:
    """A post or a good reply of this topic, in any mood."""
    return rng.choice((grammar.new_post, grammar.good_reply))(rng, topic, rng.choice(grammar.MOODS))


def word_pieces(texts: list[str], vocab_size: int):
    """A BertTokenizerFast (lower case) with WordPiece trained on `texts`."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=vocab_size, min_frequency=1, show_progress=False)
    return BertTokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=MAX_TOKENS)


def embed(model, tokenizer, texts: list[str]) -> torch.Tensor:
    """The mean of each text's last hidden states, with length 1: (N, hidden)."""
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None].float()
    states = model(**batch).last_hidden_state
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def save(folder: Path, model, tokenizer) -> None:
    """The files of a published encoder: Transformer, Pooling (mean) and Normalize."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = ["Transformer", "Pooling", "Normalize"]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    described = {"modules.json": modules, "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS}}
    described |= {
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        "1_Pooling/config.json": pooling,
    }
    for name, content in described.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "2_Normalize").mkdir()


def check_encoder(folder: Path, heldout: Sequence[tuple[str, str]], seed: int) -> dict[str, float]:
    """Mean cosine of held-out posts with replies: fitting ones, of another mood, off-topic, generic, and echoes."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    posts, fitting = zip(*heldout, strict=True)
    rng = random.Random(seed)
    kinds = {kind: [grammar.careless_reply(rng, kind, post) for post in posts] for kind in grammar.CARELESS}
    found = {}
    with torch.no_grad():
        vectors = embed(model, tokenizer, list(posts))
        for kind, replies in {"fitting": fitting, **kinds}.items():
            found[kind] = float((vectors * embed(model, tokenizer, list(replies))).sum(1).mean())
    return found
