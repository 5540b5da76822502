"""Build a tiny random judge: a BERT of one layer with one output, and a tokenizer with a token per character."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

SPECIAL = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def build_judge(folder: Path, texts: Iterable[str], seed: int = 0, **config) -> Path:
    """Write a judge that knows the characters of `texts`; its scores of different texts differ by tenths."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    letters = sorted({letter for text in texts for letter in text})
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    ends = [(token, vocabulary[token]) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    limits = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, "num_labels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(BertConfig(**(sizes | limits | config)))
        for weights in model.parameters():
            torch.nn.init.normal_(weights, std=0.5)
        model.save_pretrained(folder)
    return folder
