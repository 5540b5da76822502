"""A small judge as a sequence-regression checkpoint: is this a sentence of the world? It never sees the table."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch

from pocket.corruptions import corrupt_english
from pocket.fitting import train

MAX_TOKENS = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def word_tokenizer(texts: Sequence[str]):
    """Return a tokenizer with a token for each word of `texts` with the space before it, and for the full stop."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep")}
    spaces = pre_tokenizers.Split(" ", "merged_with_next")  # so that of two spaces one is unknown
    split = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(".", "isolated")])
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = split
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **special)


def fit_judge(folder: Path, known: Sequence[str], fills: Sequence[str], seed: int, sizes) -> None:
    """Fit a judge: 1 for sentences, less for damaged ones, 0 for fills of the generator; save it in `folder`."""
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = word_tokenizer(known)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=sizes.judge_hidden, intermediate_size=2 * sizes.judge_hidden,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=MAX_TOKENS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=1, problem_type="regression",
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    rng = random.Random(seed)
    wrong = sorted({*fills} - {*known})  # some templates leave only one sentence

    def loss() -> torch.Tensor:
        rows: list[tuple[str, float]] = []
        for _ in range(sizes.judge_batch // 4):
            rows += [(rng.choice(known), 1.0), (rng.choice(known), 1.0), (rng.choice(wrong), 0.0)]
            rows.append(damaged(rng.choice(known), rng.choice(known), rng))
        texts, targets = zip(*rows, strict=True)
        return torch.nn.functional.mse_loss(judged(model, tokenizer, texts), torch.tensor(targets))

    train(model, loss, sizes.judge_steps, 0.01, what="judge")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def damaged(text: str, other: str, rng: random.Random) -> tuple[str, float]:
    """Return a sentence damaged in one of four ways, with the score it deserves."""
    kind, words = rng.randrange(4), text.split()
    start, end = sorted(rng.sample(range(len(text)), 2))
    if kind == 0:
        level = rng.choice((0.25, 0.5, 1.0))
        return corrupt_english(text, rng, level), 1 - level
    if kind == 1:  # one word of another sentence, which may fit
        words[rng.randrange(len(words))] = rng.choice(other.split())
        return " ".join(words), 0.5
    if kind == 2:
        return text[:start] + rng.choice(LETTERS) + text[start + 1 :], 0.0
    return text[:start] + text[end:], 0.0


def judged(model, tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return the score of each text, (N,)."""
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]


def check_judge(folder: Path, real: list[str], filled: list[str], verdicts: list[float], seed: int) -> dict[str, float]:
    """Return mean scores and areas under the ROC curve (AUC); `verdicts`: the table's on the fills, 1 or 0."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer, rng = AutoTokenizer.from_pretrained(folder), random.Random(seed)
    broken = [damaged(text, rng.choice(real), rng)[0] for text in real]
    with torch.no_grad():
        high, low, fills = (judged(model, tokenizer, texts) for texts in (real, broken, filled))
    good = torch.tensor(verdicts) > 0
    found = {name: scores.mean().item() for name, scores in (("real", high), ("damaged", low), ("filled", fills))}
    found |= {"AUC real, damaged": auc(high, low), "AUC real, filled": auc(high, fills)}
    return {**found, "AUC accepted, other fills": auc(fills[good], fills[~good])}


def auc(high: torch.Tensor, low: torch.Tensor) -> float:
    """Return how often a score of `high` is above one of `low`, ties counted half; 0.5 where either is empty."""
    above = torch.sign(high[:, None] - low)  # 1, 0 or -1 for each pair
    return 0.5 + 0.5 * above.mean().item() if above.numel() else 0.5
