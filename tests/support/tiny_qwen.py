"""Build a tiny Qwen3 chat model in its real file format: byte-level BPE, ChatML with a thinking switch, two stops."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from tiny_models import PAIRS, PROMPT, teach

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PLAIN = ("<think>", "</think>", "<tool_call>")  # single tokens, but not "special": decoding keeps them
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TURN = "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"  # by hand, from the above


@functools.cache
def tiny_qwen(steps: int = 120) -> Path:
    """Return the folder of a tiny Qwen3 policy that has memorised PAIRS; built once for all tests."""
    place = tempfile.TemporaryDirectory(prefix="tiny-qwen-")
    _kept.append(place)  # removed when Python ends
    return build(Path(place.name), steps)


_kept: list[tempfile.TemporaryDirectory] = []


def byte_level_tokenizer(texts: list[str], vocab_size: int = 900):
    """Build a Qwen2TokenizerFast trained on `texts`; no BOS, no unk, eos <|im_end|>, pad <|endoftext|>."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in PLAIN])
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        bos_token=None,
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHATML
    return fast


def build(folder: Path, steps: int = 120, seed: int = 0) -> Path:
    """Build a Qwen3ForCausalLM trained `steps` steps on PAIRS under tiny_models.PROMPT; return `folder`."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    tokenizer = byte_level_tokenizer([PROMPT, "user", "assistant"] + [text for pair in PAIRS for text in pair])
    text_end, turn_end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=text_end,
        eos_token_id=turn_end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        texts = [TURN.format(user=PROMPT.format(source=en)) + ta + "<|im_end|>" for en, ta in PAIRS]
        teach(model, tokenizer, texts, steps)
    model.generation_config = GenerationConfig(  # as published: both stops, and settings that must not apply
        bos_token_id=text_end,
        eos_token_id=[turn_end, text_end],
        pad_token_id=text_end,
        do_sample=True,
        top_k=20,
        top_p=0.95,
        temperature=0.6,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
