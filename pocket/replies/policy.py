"""A tiny chat model in Qwen3's on-disk format, and its pretraining on chats whose replies seldom fit the posts."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from pocket.fitting import batches, padded, train
from pocket.replies import grammar
from rl_nmt.text.prompts import chat_prompt, fill

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|im_end|>"
# The turns that every prompt repeats are one token each, so that sequences are short.
OPENINGS = ("<|im_start|>user\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
SPECIAL = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, *OPENINGS)
PLAIN = ("<think>", "</think>")  # single tokens, but not "special": decoding keeps them
CHATML = (
    "{%- for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
POST_WEIGHT = 0.5  # of a token of the prompt in the loss: it teaches which words belong to a topic
WORDS = (  # how Qwen3 cuts a text before BPE; transformers 5 always uses this pattern
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def chat_tokenizer(texts: Iterable[str], vocab_size: int):
    """A Qwen2TokenizerFast with byte-level BPE trained on `texts`; no BOS, eos <|im_end|>, pad <|endoftext|>."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in PLAIN])
    fast = Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        unk_token=None,
        bos_token=None,
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHATML
    return fast


def new_policy(tokenizer, hidden: int, layers: int):
    """A random Qwen3ForCausalLM with tied embeddings; its generation settings are as published."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    text_end, turn_end = tokenizer.convert_tokens_to_ids([END_OF_TEXT, END_OF_TURN])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=text_end,
        eos_token_id=turn_end,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(  # both stops, and sampling settings that a trainer has to override
        bos_token_id=text_end,
        eos_token_id=[turn_end, text_end],
        pad_token_id=text_end,
        do_sample=True,
        top_k=20,
        top_p=0.95,
        temperature=0.6,
    )
    return model


def fit_policy(folder: Path, template: str, rows: Sequence[tuple[str, str]], seed: int, sizes) -> None:
    """The start model, saved in `folder`: in its last steps it mostly reads each post with the reply of another.

    First it reads posts with their own replies, and learns which words belong together, as a pretrained model has;
    then that most chats do not use it. So it writes replies as people do, and fits few of them to the post.
    """
    rng = random.Random(seed)
    posts, own = zip(*rows, strict=True)
    replies = [reply if rng.random() < sizes.fitting else rng.choice(own) for reply in own]
    asked = [fill(template, post) for post in posts]
    tokenizer = chat_tokenizer([*asked, *own, *grammar.known()], sizes.vocab)
    prompts = [chat_prompt(tokenizer, text) for text in asked]
    related, mixed = encode(tokenizer, prompts, own), encode(tokenizer, prompts, replies)
    torch.manual_seed(seed)
    model = new_policy(tokenizer, sizes.hidden, sizes.layers)
    drawn = batches([len(prompt) + len(reply) for prompt, reply in related], sizes.batch, rng)
    steps = itertools.count()

    def loss() -> torch.Tensor:
        examples = related if next(steps) < sizes.related_steps else mixed
        return reply_loss(model, [examples[i] for i in next(drawn)], POST_WEIGHT)

    train(model, loss, sizes.steps, 0.02, what="replies policy")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def encode(tokenizer, prompts: list[str], replies: list[str]) -> list[tuple[list[int], list[int]]]:
    """Token ids of each prompt and of each reply with its end of turn."""
    asked = tokenizer(prompts)["input_ids"]
    return list(zip(asked, tokenizer([reply + END_OF_TURN for reply in replies])["input_ids"], strict=True))


def reply_loss(model, examples: Sequence[tuple[list[int], list[int]]], post_weight: float = 0.0) -> torch.Tensor:
    """Mean cross-entropy of the tokens of the replies and their ends of turn.

    A token of a prompt counts `post_weight`, unless it is in the beginning that all prompts of the batch share.
    """
    columns = zip(*(prompt for prompt, _ in examples), strict=False)
    shared = max(1, sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns)))
    weights = [
        [0.0] * (shared - 1) + [post_weight] * (len(prompt) - shared) + [1.0] * len(reply) for prompt, reply in examples
    ]
    weight = padded(weights, 0.0)  # (B, T - 1), of the next token
    ids = padded([prompt + reply for prompt, reply in examples], 0)  # (B, T)
    mask = padded([[1] * (len(prompt) + len(reply)) for prompt, reply in examples], 0)
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]  # (B, T - 1, hidden)
    logits = model.lm_head(states[weight > 0])
    lost = torch.nn.functional.cross_entropy(logits, ids[:, 1:][weight > 0], reduction="none")
    return (lost * weight[weight > 0]).sum() / weight.sum()


def check_policy(folder: Path, template: str, heldout: Sequence[tuple[str, str]], count: int, seed: int) -> dict:
    """Loss on the held-out replies, and shares of `count` samples that are well formed, and fit in topic and mood."""
    from rl_nmt.models.generate import generate, inference
    from rl_nmt.models.policy import choose_precision, load_policy, load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    model = load_policy(str(folder), tokenizer, choose_precision(lora=False), "sdpa").cpu()
    prompts = [chat_prompt(tokenizer, fill(template, post)) for post, _ in heldout]
    examples = encode(tokenizer, prompts, [reply for _, reply in heldout])
    with inference(model):
        loss = float(reply_loss(model, examples))
    torch.manual_seed(seed)
    places = [i % len(heldout) for i in range(count)]
    sampling = {"max_new_tokens": 60, "do_sample": True, "temperature": 0.8, "top_p": 0.9}  # as the recipe samples
    samples = generate(model, tokenizer, [prompts[i] for i in places], batch_size=100, **sampling)
    read = [
        grammar.read_reply(texts[0], *grammar.describe(heldout[i][0])) for i, texts in zip(places, samples, strict=True)
    ]
    shares = [sum(values) / count for values in zip(*read, strict=True)]
    return {"heldout loss": loss} | dict(zip(("well formed", "topic right", "mood right"), shares, strict=True))
