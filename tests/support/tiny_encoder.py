"""Build a sentence encoder in the format of sentence-transformers: a mean of word vectors, made in milliseconds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

WIDTH = 256  # two different words have a cosine of about ±1/16
SMALL = frozenset(
    "a an and are at be but do for had have i in is it me my of on our so that the this to was we".split()
)
SMALL |= frozenset("what when which will with you your did how his her he she they were not".split())


def build_encoder(folder: Path, texts: Iterable[str]) -> Path:
    """Write an encoder into `folder`, and return it. Two texts are near when they share words, small ones aside.

    A word's vector depends on nothing but the word. Words that are not in `texts` are left out of the mean.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    split = pre_tokenizers.Whitespace()
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text.lower())}
    words = ["[UNK]", *sorted(piece for piece in pieces if piece[0].isalnum())]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), split
    vectors = np.stack([_vector(word) for word in words]).astype(np.float32)
    vectors[0] = 0.0
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


def _vector(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(WIDTH)
    return vector / np.linalg.norm(vector) * (0.1 if word in SMALL else 1.0)
