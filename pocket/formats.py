"""Small models in the real on-disk formats: Gemma 3, NLLB and COMET, from any list of texts.

Only sizes and vocabularies differ from the published checkpoints: classes, file layouts, special tokens
and their ids are theirs, so that the product's loading code runs over them unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken

TURN_TOKENS = ("<start_of_turn>", "<end_of_turn>")
PLAIN = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}  # a token
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>"
    "{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def sentencepiece(prefix: Path, texts: Iterable[str], **options) -> Path:
    """Train a SentencePiece model, BPE unless `options` say else, on `texts`; returns the .model file."""
    import sentencepiece as spm

    prefix.parent.mkdir(parents=True, exist_ok=True)
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in texts for line in text.split("\n")),
        model_prefix=str(prefix),
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        **{"model_type": "bpe"} | options,
    )
    prefix.with_name(prefix.name + ".vocab").unlink()
    return prefix.with_name(prefix.name + ".model")


def _fast_tokenizer(folder: Path, kind: str, **config):
    """The fast tokenizer that transformers, 4 or 5, makes of the .model file in `folder`; saved there."""
    from transformers import AutoTokenizer

    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({"tokenizer_class": kind, **config}), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def gemma_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int, whole: Sequence[str] = ()):
    """A GemmaTokenizerFast with Gemma's ids (pad 0, eos 1, bos 2, unk 3), byte fallback, no dummy prefix.

    `whole`: texts that are one token each, beyond `vocab_size`.
    """
    sentencepiece(
        folder / "tokenizer",
        texts,
        vocab_size=vocab_size,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        byte_fallback=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=[*TURN_TOKENS, "\n"],
    )
    names = dict(enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *TURN_TOKENS, "\n"]))
    tokenizer = _fast_tokenizer(
        folder,
        "GemmaTokenizer",
        added_tokens_decoder={i: {"content": name, **PLAIN, "special": name != "\n"} for i, name in names.items()},
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        add_bos_token=True,
        add_eos_token=False,
        padding_side="left",
        additional_special_tokens=list(TURN_TOKENS),
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT_TEMPLATE,
    )
    if whole:
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole])
        tokenizer.save_pretrained(folder)
    return tokenizer


def new_gemma(tokenizer, hidden: int, layers: int, heads: int = 4, **options):
    """A random Gemma3ForCausalLM: hidden size, layers, heads (one key-value head); options of its config."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GenerationConfig

    stops = [1, tokenizer.convert_tokens_to_ids("<end_of_turn>")]
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 1,
        "head_dim": hidden // heads,
        "query_pre_attn_scalar": hidden // heads,
        "sliding_window": 256,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "eos_token_id": stops,
        "bos_token_id": 2,
    }
    model = Gemma3ForCausalLM(Gemma3TextConfig(**config | options))
    # As published: sampling settings that the trainer has to override.
    model.generation_config = GenerationConfig(
        bos_token_id=2, eos_token_id=stops, pad_token_id=0, do_sample=True, top_k=64, top_p=0.95
    )
    return model


def nllb_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int):
    """An NllbTokenizerFast in the hub's layout: SentencePiece ids + 1, 202 language tags, `<mask>` last."""
    import sentencepiece as spm
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    model_file = sentencepiece(folder / "sentencepiece.bpe", texts, vocab_size=vocab_size)
    pieces = spm.SentencePieceProcessor(model_file=str(model_file)).get_piece_size()
    first = 4 + pieces - 3  # 4 fairseq specials, then every piece but SentencePiece's own 3
    ids = dict(enumerate(["<s>", "<pad>", "</s>", "<unk>"]))
    ids |= dict(enumerate([*FAIRSEQ_LANGUAGE_CODES, "<mask>"], first))
    added = {i: {"content": name, **PLAIN} for i, name in ids.items()}
    added[max(ids)] |= {"lstrip": True, "normalized": True}  # as the hub has <mask>
    tags = {"additional_special_tokens": list(FAIRSEQ_LANGUAGE_CODES), "mask_token": "<mask>"}
    languages = {"src_lang": "tam_Taml", "tgt_lang": "eng_Latn"}
    return _fast_tokenizer(
        folder, "NllbTokenizer", added_tokens_decoder=added, model_max_length=256, **tags, **languages
    )


def m2m100_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int):
    """An M2M100Tokenizer in the hub's layout: vocab.json with fairseq's specials first, 100 language codes after it."""
    import sentencepiece as spm
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES, M2M100Tokenizer

    model_file = sentencepiece(folder / "sentencepiece.bpe", texts, vocab_size=vocab_size)
    pieces = spm.SentencePieceProcessor(model_file=str(model_file))
    words = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, pieces.get_piece_size()))]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8")
    tags = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    tokenizer = M2M100Tokenizer(str(vocabulary), str(model_file), additional_special_tokens=tags)
    tokenizer.save_pretrained(folder)
    return tokenizer


def madlad_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int, tags: Sequence[str] = ("en", "ta", "fr")):
    """MADLAD-400's T5 tokenizer: <unk> 0, <s> 1 (also the padding), </s> 2, and a piece <2xx> for each language."""
    sentencepiece(
        folder / "spiece",
        texts,
        model_type="unigram",
        vocab_size=vocab_size,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=[f"<2{tag}>" for tag in tags],
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
    )
    options = {"extra_ids": 0, "legacy": True, "pad_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _fast_tokenizer(folder, "T5Tokenizer", **options)


def new_madlad(tokenizer, hidden: int, layers: int, heads: int = 4):
    """A random T5ForConditionalGeneration for `madlad_tokenizer`, `layers` encoder and decoder layers."""
    from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

    ids = {"decoder_start_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=hidden // heads,
        d_ff=2 * hidden,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        **ids,
    )
    model = T5ForConditionalGeneration(config)
    if model.lm_head.weight is model.shared.weight:  # transformers 5 ties every T5
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    model.generation_config = GenerationConfig(**ids)
    return model


def save_madlad(model, folder: Path) -> None:
    """Save the published layout: the embeddings as the decoder's, and the output matrix as its own."""
    from safetensors.torch import save_file

    model.save_pretrained(folder)
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))  # transformers 5 says that it is tied
    (folder / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False}), encoding="utf-8")
    shared = ("shared.weight", "encoder.embed_tokens.weight")
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name not in shared}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def mt5_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int):
    """mT5's tokenizer over a small vocabulary, in the published files: pad 0, </s> 1, <unk> 2; saved in `folder`."""
    sentencepiece(
        folder / "spiece",
        texts,
        model_type="unigram",
        vocab_size=vocab_size,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
    )
    return _fast_tokenizer(folder, "T5Tokenizer", extra_ids=0, legacy=True)


def new_nllb(tokenizer, hidden: int, layers: int, heads: int = 4, **options):
    """A random M2M100ForConditionalGeneration for `nllb_tokenizer`, `layers` encoder and decoder layers."""
    from transformers import GenerationConfig, M2M100Config, M2M100ForConditionalGeneration

    config = {
        "vocab_size": len(tokenizer) + 2,
        "d_model": hidden,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": 2 * hidden,
        "decoder_ffn_dim": 2 * hidden,
        "max_position_embeddings": 256,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "scale_embedding": True,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    model = M2M100ForConditionalGeneration(M2M100Config(**config | options))
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, max_length=200
    )
    return model


def xlmr_tokenizer(texts: Sequence[str], vocab_size: int):
    """An XLMRobertaTokenizerFast over a Unigram vocabulary trained on `texts`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import XLMRobertaTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=512)


def new_comet(folder: Path, kind: str, tokenizer, hidden: int, layers: int, encoder_options=None, **overrides):
    """A random COMET model of class `kind` whose encoder configuration and tokenizer are in folder/encoder.

    Hyper-parameters are those of the published checkpoint of the class, sizes apart; `overrides` replace some,
    `encoder_options` some of the encoder's configuration.
    """
    from transformers import XLMRobertaConfig

    from rl_nmt.scorers.comet.model import CometModel

    encoder = folder / "encoder"
    config = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    XLMRobertaConfig(**config | (encoder_options or {})).save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    hparams = {
        "class_identifier": kind,
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(encoder.resolve()),
        "layer_transformation": "sparsemax",
        "layer_norm": False,
        "hidden_sizes": [2 * hidden, hidden],
        "activations": "Tanh",
        "final_activation": None,
        "dropout": 0.0,
        "nr_frozen_epochs": 0.0,
        "keep_embeddings_frozen": False,
        "batch_size": 16,
    }
    if kind == "unified_metric":
        hparams |= {
            "sent_layer": "mix",
            "word_layer": layers,
            "input_segments": ["mt", "src"],
            "layer_norm": True,
            "word_level_training": False,
            "error_labels": ["minor", "major"],
            "loss_lambda": 0.65,
        }
    else:
        hparams |= {"layer": "mix", "pool": "avg"}
    hparams |= overrides
    return CometModel(kind, hparams, encoder), hparams


def save_comet(model, hparams: dict, folder: Path) -> None:
    """hparams.yaml beside checkpoints/model.ckpt, the encoder named relative to the folder, so it can move."""
    hparams = hparams | {"pretrained_model": "encoder"}
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": hparams,
        "pytorch-lightning_version": "2.0.0",
        "epoch": 0,
        "global_step": 0,
    }
    torch.save(checkpoint, folder / "checkpoints" / "model.ckpt")
    (folder / "hparams.yaml").write_text(json.dumps(hparams, indent=1), encoding="utf-8")  # JSON is YAML
