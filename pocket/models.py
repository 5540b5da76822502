"""Fit the pocket policy and the pocket back-translator."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pocket import corruptions, formats, grammar
from pocket.fitting import batches, train
from pocket.grammar import Pair
from train_grpo_en_ta import PROMPT, make_prompt

BATCH = 48  # sentences


@cache
def known_pairs(seed: int, sizes) -> tuple[Pair, ...]:
    """The sentences that models are fitted on."""
    return tuple(islice(grammar.pairs(seed, part="train", max_words=sizes.max_words), sizes.pairs))


def spelled(pairs: Sequence[Pair]) -> list[str]:
    """The texts that vocabularies are made from."""
    return [text for pair in pairs[:5000] for text in (pair.english, pair.tamil)]


def like_lengths(pairs: Sequence[Pair], rng: random.Random):
    """Endless batches of pairs of like length."""
    lengths = [len(pair.english) + len(pair.tamil) for pair in pairs]
    return ([pairs[i] for i in places] for places in batches(lengths, BATCH, rng, pool=4))


def load_policy(folder: Path):
    """A pocket policy and its tokenizer."""
    from transformers import Gemma3ForCausalLM

    from rl_nmt.models.policy import load_tokenizer

    return Gemma3ForCausalLM.from_pretrained(folder).eval(), load_tokenizer(str(folder))


def say(start: float, text: str) -> None:
    tqdm.write(f"[pocket] {text} ({time.monotonic() - start:.0f} s)")


# ------------------------------------------------------------------ policy


def fit_policy(folder: Path, seed: int, sizes) -> None:
    """The start policy: taught by SFT on the work of a careless translator, and stopped early.

    Most of what it reads leaves words out or gets the tense wrong, as web text does; that, and few steps, is
    the room reinforcement learning has. Into folder/stronger goes one taught further by a more careful translator: the
    scorers are fitted on samples of both, as published metrics are on the outputs of many systems.
    """
    start, pairs = time.monotonic(), known_pairs(seed, sizes)
    before, after = PROMPT.split("{source}")
    whole = (before.rstrip(), after)  # one token each, so that the prompt is a third of a sequence
    tokenizer = formats.gemma_tokenizer(folder, [*spelled(pairs), *["user", "model"] * 500], sizes.vocab, whole)
    torch.manual_seed(seed)
    model = formats.new_gemma(tokenizer, sizes.policy_hidden, sizes.policy_layers)
    rng = random.Random(seed)
    drawn = like_lengths(pairs, rng)

    def fit(student, steps: int, lr: float, careless: float, what: str, ready=None) -> int:
        def loss() -> torch.Tensor:
            batch = next(drawn)
            answers = [corruptions.careless(pair, rng, careless) for pair in batch]
            return sft_loss(student, tokenizer, [make_prompt(pair.english) for pair in batch], answers)

        return train(student, loss, steps, lr, ready, what)

    probe = rng.sample(pairs, min(len(pairs), 100))

    def knows_its_words(steps: int) -> bool:
        answers = sample(model, tokenizer, [make_prompt(p.english) for p in probe], 1, temperature=0.01)
        found = 100 * float(np.mean(chrf([a for (a,) in answers], [p.tamil for p in probe])))
        say(start, f"policy: chrF++ {found:.1f} after {steps} steps")
        return found >= sizes.policy_chrf

    fit(model, sizes.policy_steps, 0.03, sizes.careless, "policy", knows_its_words)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    stronger = copy.deepcopy(model)
    fit(stronger, sizes.stronger_steps, 0.02, sizes.careless / 3, "a stronger policy")
    tokenizer.save_pretrained(folder / "stronger")
    stronger.save_pretrained(folder / "stronger")
    say(start, f"policy: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def sft_loss(model, tokenizer, questions: list[str], replies: list[str]) -> torch.Tensor:
    """Cross-entropy on the tokens of the replies and the end of turn, not on the prompts."""
    prompts = tokenizer(questions)["input_ids"]
    answers = tokenizer([reply + "<end_of_turn>" for reply in replies], add_special_tokens=False)["input_ids"]
    lengths = torch.tensor([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)])
    width = int(lengths.max())
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # (B, T), right-padded
    labels = torch.full((len(prompts), width), -1)  # (B, T), the next token; -1: not asked
    for row, (question, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : lengths[row]] = torch.tensor(question + answer)
        labels[row, len(question) - 1 : lengths[row] - 1] = torch.tensor(answer)
    mask, asked = (torch.arange(width)[None] < lengths[:, None]).long(), labels >= 0
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(states[asked]), labels[asked])


# ------------------------------------------------------------------ back-translator


def fit_backtranslator(folder: Path, seed: int, sizes) -> None:
    """Tamil→English, fitted on the same sentences."""
    start, pairs = time.monotonic(), known_pairs(seed, sizes)
    tokenizer = formats.nllb_tokenizer(folder, spelled(pairs), sizes.vocab)
    torch.manual_seed(seed)
    model = formats.new_nllb(tokenizer, sizes.nllb_hidden, sizes.nllb_layers)
    tokenizer.src_lang, tokenizer.tgt_lang = "tam_Taml", "eng_Latn"
    drawn = like_lengths(pairs, random.Random(seed))

    def loss() -> torch.Tensor:
        rows = next(drawn)
        batch = tokenizer(
            [p.tamil for p in rows], text_target=[p.english for p in rows], return_tensors="pt", padding=True
        )
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
        return model(**batch).loss

    train(model, loss, sizes.nllb_steps, 0.01, what="back-translator")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(start, f"back-translator: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


# ------------------------------------------------------------------ outputs and their quality


def chrf(hypotheses: list[str], references: list[str]) -> list[float]:
    """Sentence chrF++ of each hypothesis in [0, 1]: what stands for a human judgement in this world."""
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=2)
    return [metric.sentence_score(h, [r]).score / 100 for h, r in zip(hypotheses, references, strict=True)]


def sample(model, tokenizer, prompts: list[str], each: int, temperature: float) -> list[list[str]]:
    """`each` samples of every prompt."""
    from rl_nmt.models.generate import generate

    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=24,
        batch_size=256,
        do_sample=True,
        temperature=temperature,
        num_return_sequences=each,
    )
