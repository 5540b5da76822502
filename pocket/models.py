"""Fit the pocket models: policy, back-translator and the two COMET scorers."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pocket import corruptions, formats, grammar, shard
from rl_nmt.scorers.base import Segment
from train_grpo_en_ta import PROMPT, make_prompt

SAMPLING_TEMPERATURE, W_CYCLE, W_QE = 0.8, 0.8, 0.2  # what configs/pocket.yaml trains with


def build_all(folder: Path, seed: int, sizes) -> dict:
    """Everything of one pocket world; returns the scorers' correlations with true quality."""
    torch.manual_seed(seed)
    words = sizes.max_words
    shard.write_shard(folder / "c4" / "c4-train.00000-of-00001.json.gz", sizes.documents, seed, words)
    shard.write_references(folder / "heldout.jsonl", sizes.references, seed, words)
    pairs = list(islice(grammar.pairs(seed, part="train", max_words=words), sizes.pairs))
    shard.write_words(folder / "words.txt", pairs)
    taught = fit_policy(folder / "policy", pairs, seed, sizes)
    fit_backtranslator(folder / "nllb", pairs, seed, sizes)
    graded = graded_outputs(folder, taught, pairs, seed, sizes)
    fit_da(folder / "comet_da", graded, pairs, seed, sizes)
    fit_qe(folder / "comet_qe", graded, pairs, seed, sizes)
    return {"check": check_scorers(folder, *taught[:2], seed, sizes)}


def say(start: float, text: str) -> None:
    print(f"[pocket] {text} ({time.monotonic() - start:.0f} s)", flush=True)


def train(
    model: torch.nn.Module,
    loss_of: Callable[[], torch.Tensor],
    steps: int,
    lr: float,
    ready: Callable[[int], bool] | None = None,
) -> int:
    """AdamW: warm-up, constant rate, and a last quarter of linear decay; returns the steps taken.

    With `ready` the constant part continues until it says so, asked after each `steps`, at most four times: small
    models learn slowly until they have found which word stands for which, and when that is depends on the seed.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    taken = 0

    def step(rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for lap in range(4):
        model.train()
        for _ in range(steps if ready else steps - steps // 4):
            taken += 1
            step(lr * min(1.0, taken / 20))
        if ready is None or lap == 3 or ready(taken):
            break
    model.train()
    decay = max(1, steps // 4)
    for left in range(decay, 0, -1):
        step(lr * left / decay)
    model.eval()
    return taken + decay


# ------------------------------------------------------------------ policy


def fit_policy(folder: Path, pairs, seed: int, sizes):
    """The start policy: taught by SFT on the work of a careless translator, and stopped early.

    Most of what it reads leaves words out or gets the tense wrong, as web text does; that, and few steps, is
    the room reinforcement learning has. Bare pairs come first, then the product's prompt.

    Returns it, its tokenizer, and one taught by a more careful translator that knows `bare_prompt` alone: the
    scorers are fitted on samples of both, as published metrics are on the outputs of many systems.
    """
    start = time.monotonic()
    words = PROMPT.replace("{source}", "{english}")  # the slot's old name: worlds of a seed stay the same
    texts = [text for pair in pairs[:5000] for text in (pair.english, pair.tamil)] + [words, "user", "model"] * 500
    tokenizer = formats.gemma_tokenizer(folder, texts, sizes.vocab)
    torch.manual_seed(seed)
    model = formats.new_gemma(tokenizer, sizes.policy_hidden, sizes.policy_layers)
    rng = random.Random(seed)

    def fit(student, steps: int, lr: float, careless: float, prompt=make_prompt, ready=None) -> int:
        def loss() -> torch.Tensor:
            batch = rng.sample(pairs, 64)
            answers = [corruptions.careless(pair, rng, careless) for pair in batch]
            return sft_loss(student, tokenizer, [prompt(pair.english) for pair in batch], answers)

        return train(student, loss, steps, lr, ready)

    probe = rng.sample(pairs, min(len(pairs), 100))

    def knows_its_words(steps: int) -> bool:
        answers = sample(model, tokenizer, [bare_prompt(p.english) for p in probe], 1, temperature=0.01)
        found = 100 * float(np.mean(chrf([a for (a,) in answers], [p.tamil for p in probe])))
        say(start, f"policy: chrF++ {found:.1f} after {steps} steps")
        return found >= sizes.policy_chrf

    fit(model, sizes.bare_steps, 3e-3, sizes.careless, bare_prompt, knows_its_words)
    stronger = copy.deepcopy(model)
    fit(model, sizes.chat_steps, 1e-3, sizes.careless)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    fit(stronger, sizes.bare_steps // 2, 2e-3, sizes.careless / 3, bare_prompt)
    say(start, f"policy: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    return model, tokenizer, stronger


def bare_prompt(english: str) -> str:
    """Only the cues: what the policy reads before it learns the chat prompt. A third of the tokens."""
    return f"English: {english}\nTamil:"


def sft_loss(model, tokenizer, questions: list[str], replies: list[str]) -> torch.Tensor:
    """Cross-entropy on the tokens of the replies and the end of turn, not on the prompts."""
    prompts = tokenizer(questions)["input_ids"]
    answers = tokenizer([reply + "<end_of_turn>" for reply in replies], add_special_tokens=False)["input_ids"]
    lengths = torch.tensor([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)])
    width = int(lengths.max())
    ids = torch.zeros(len(prompts), width, dtype=torch.long)  # (B, T), right-padded
    labels = torch.full((len(prompts), width), -100)
    for row, (question, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : lengths[row]] = torch.tensor(question + answer)
        labels[row, len(question) : lengths[row]] = torch.tensor(answer)
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


# ------------------------------------------------------------------ back-translator


def fit_backtranslator(folder: Path, pairs, seed: int, sizes) -> None:
    """Tamil→English, fitted until greedy back-translation of its own world is exact."""
    start = time.monotonic()
    texts = [text for pair in pairs[:5000] for text in (pair.english, pair.tamil)]
    tokenizer = formats.nllb_tokenizer(folder, texts, sizes.vocab)
    torch.manual_seed(seed)
    model = formats.new_nllb(tokenizer, sizes.nllb_hidden, sizes.nllb_layers)
    tokenizer.src_lang, tokenizer.tgt_lang = "tam_Taml", "eng_Latn"
    rng = random.Random(seed)

    def loss() -> torch.Tensor:
        rows = rng.sample(pairs, 64)
        batch = tokenizer(
            [p.tamil for p in rows], text_target=[p.english for p in rows], return_tensors="pt", padding=True
        )
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] == tokenizer.pad_token_id, -100)
        return model(**batch).loss

    train(model, loss, sizes.nllb_steps, 3e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    say(start, f"back-translator: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


# ------------------------------------------------------------------ scorers


def chrf(hypotheses: list[str], references: list[str]) -> list[float]:
    """Sentence chrF++ of each hypothesis in [0, 1]: what stands for a human judgement in this world."""
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=2)
    return [metric.sentence_score(h, [r]).score / 100 for h, r in zip(hypotheses, references, strict=True)]


def graded_outputs(folder: Path, taught: tuple, pairs, seed: int, sizes) -> list[dict]:
    """Outputs with their back-translations and true quality: samples of a weak, the start and a strong policy,
    and damaged references, so that a scorer has seen what it must not fall for."""
    from rl_nmt.backtranslation.translator import load_backtranslator

    start = time.monotonic()
    rng = random.Random(seed + 1)
    torch.manual_seed(seed + 1)
    policy, tokenizer, stronger = taught  # what fit_policy returned
    rows = []
    for model, prompt, temperature in (
        (policy, make_prompt, 1.2),
        (policy, make_prompt, SAMPLING_TEMPERATURE),
        (stronger, bare_prompt, 0.7),
    ):
        chosen = rng.sample(pairs, sizes.sampled_prompts)
        texts = sample(model, tokenizer, [prompt(p.english) for p in chosen], sizes.samples_each, temperature)
        for pair, group in zip(chosen, texts, strict=True):
            rows += [{"en": pair.english, "ta": pair.tamil, "mt": text} for text in group if text]
    for pair in rng.sample(pairs, len(rows) // 2):  # what no policy writes yet, but one may come to
        damage = rng.choice((corruptions.careless, corruptions.corrupt, unrelated, stuttering))
        rows.append({"en": pair.english, "ta": pair.tamil, "mt": damage(pair, rng, rng.random())})
    backs = load_backtranslator(str(folder / "nllb"), beams=1)([row["mt"] for row in rows])
    quality = chrf([row["mt"] for row in rows], [row["ta"] for row in rows])
    for row, back, value in zip(rows, backs, quality, strict=True):
        row |= {"back": back, "quality": value}
    say(start, f"{len(rows)} graded outputs, mean quality {np.mean(quality):.3f}")
    return rows


def unrelated(pair, rng: random.Random, _level: float) -> str:
    """Another sentence's Tamil: fluent and wrong."""
    return corruptions.unrelated(pair, rng)


def stuttering(pair, rng: random.Random, level: float) -> str:
    """One word of the Tamil said two to five times, and some of the rest damaged."""
    words = corruptions.corrupt(pair, rng, 0.5 * level).split()
    at = rng.randrange(len(words))
    return " ".join(words[:at] + [words[at].rstrip(".?")] * rng.randint(1, 4) + words[at:])


def sample(model, tokenizer, prompts: list[str], each: int, temperature: float) -> list[list[str]]:
    """`each` samples of every prompt."""
    from rl_nmt.models.generate import generate

    return generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=32,
        batch_size=256,
        do_sample=True,
        temperature=temperature,
        num_return_sequences=each,
    )


def fit_da(folder: Path, graded, pairs, seed: int, sizes) -> None:
    """COMET-DA: is this English the source again? Corrupted sources, and the policies' back-translations."""
    start = time.monotonic()
    rng = random.Random(seed + 3)
    rows = [{"src": g["en"], "mt": g["back"], "ref": g["en"], "score": g["quality"]} for g in graded]
    chosen = rng.sample(pairs, min(len(pairs), len(graded) // 2))
    damaged = [corruptions.corrupt_english(p.english, rng, rng.random() ** 2) for p in chosen]
    for pair, text, quality in zip(chosen, damaged, chrf(damaged, [p.english for p in chosen]), strict=True):
        rows.append({"src": pair.english, "mt": text, "ref": pair.english, "score": quality})
    tokenizer = formats.xlmr_tokenizer([p.english for p in pairs[:5000]], sizes.vocab)
    torch.manual_seed(seed)
    model, hparams = formats.new_comet(folder, "regression_metric", tokenizer, sizes.comet_hidden, sizes.comet_layers)

    def loss() -> torch.Tensor:
        batch = rng.sample(rows, 64)
        score = model([Segment(row["src"], row["mt"], row["ref"]) for row in batch]).score
        return torch.nn.functional.mse_loss(score, torch.tensor([row["score"] for row in batch]))

    train(model, loss, sizes.da_steps, 1e-3)
    formats.save_comet(model, hparams, folder)
    say(start, f"COMET-DA: {sizes.da_steps} steps on {len(rows)} rows")


def fit_qe(folder: Path, graded, pairs, seed: int, sizes) -> None:
    """COMETKiwi: is this Tamil a translation of this English? Corrupted references, and the policies' outputs.

    First from word tags (is this word in the reference?), which teach a new encoder which word stands for
    which, then from sentence scores with the tags beside them. The tag head is not part of the checkpoint.
    """
    start = time.monotonic()
    rng = random.Random(seed + 4)
    rows = [{"src": g["en"], "mt": g["mt"], "score": g["quality"], "ref": g["ta"]} for g in graded]
    chosen = rng.sample(pairs, min(len(pairs), 2 * len(graded)))
    damaged = [corruptions.corrupt(p, rng, rng.random() ** 2) for p in chosen]
    for pair, text, quality in zip(chosen, damaged, chrf(damaged, [p.tamil for p in chosen]), strict=True):
        rows.append({"src": pair.english, "mt": text, "score": quality, "ref": pair.tamil})
    texts = [text for p in pairs[:5000] for text in (p.english, p.tamil)]
    tokenizer = formats.xlmr_tokenizer(texts, sizes.vocab)
    torch.manual_seed(seed)
    model, hparams = formats.new_comet(folder, "unified_metric", tokenizer, sizes.comet_hidden, sizes.comet_layers)
    tagger = torch.nn.Linear(sizes.comet_hidden, 1)
    for row in rows:
        row["tags"] = word_tags(tokenizer, row["mt"], row.pop("ref"))

    def losses() -> tuple[torch.Tensor, torch.Tensor]:
        batch = rng.sample(rows, 64)
        seen = {}
        hook = model.encoder.model.register_forward_hook(lambda _m, _i, out: seen.update(states=out[0]))
        score = model([Segment(row["src"], row["mt"]) for row in batch]).score
        hook.remove()
        logits = tagger(seen["states"])[..., 0]  # (B, T)
        tags = torch.full(logits.shape, -1.0)  # (B, T), -1: not a token of the translation
        for i, row in enumerate(batch):
            tags[i, : len(row["tags"])] = torch.tensor(row["tags"])
        known = tags >= 0
        tag_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], tags[known])
        return torch.nn.functional.mse_loss(score, torch.tensor([row["score"] for row in batch])), tag_loss

    both = torch.nn.ModuleList([model, tagger])
    train(both, lambda: losses()[1], sizes.qe_tag_steps, 2e-3)
    train(both, lambda: (lambda score, tag: score + 0.1 * tag)(*losses()), sizes.qe_steps, 1e-3)
    formats.save_comet(model, hparams, folder)
    say(start, f"COMETKiwi: {sizes.qe_tag_steps} + {sizes.qe_steps} steps on {len(rows)} rows")


def word_tags(tokenizer, output: str, reference: str) -> list[float]:
    """Per token of `output`: 1 its word is in the reference, 0 it is not, -1 a special token."""
    words, known = output.split(), set(reference.strip(".?").split())
    tags = []
    for word in tokenizer(output, truncation=True, max_length=200).word_ids():
        tags.append(-1.0 if word is None or word >= len(words) else float(words[word].strip(".?") in known))
    return tags


# ------------------------------------------------------------------ the check before training


def check_scorers(folder: Path, policy, tokenizer, seed: int, sizes, prompts: int = 64, group: int = 8) -> dict:
    """Reward and its parts against sentence chrF++ on held-out samples of the start policy itself."""
    from rewards_en_ta_dupo import CometDuPOReward

    start = time.monotonic()
    chosen = list(islice(grammar.pairs(seed + 5, part="heldout", max_words=sizes.max_words), prompts))
    torch.manual_seed(seed + 5)
    texts = sample(policy, tokenizer, [make_prompt(p.english) for p in chosen], group, SAMPLING_TEMPERATURE)
    reward = CometDuPOReward(
        str(folder / "comet_da"),
        str(folder / "comet_qe"),
        str(folder / "nllb"),
        backtranslation_beams=1,
        w_cycle=W_CYCLE,
        w_qe=W_QE,
    )
    flat = [text for samples in texts for text in samples]
    rows = reward.score_components(None, flat, english=[p.english for p in chosen for _ in range(group)])
    quality = np.array(chrf(flat, [p.tamil for p in chosen for _ in range(group)]))  # (P·G,)
    report = {"sampled_chrf": float(100 * quality.mean())}
    for part in ("total", "cycle", "qe"):
        values = np.array([np.nan if row[part] is None else row[part] for row in rows], dtype=float)
        report[part] = found = correlations(values, quality, group)
        figures = f"Pearson {found['pearson']:.3f}, in-group Spearman {found['spearman']:.3f}"
        say(start, f"{part:6} against sentence chrF++ on {len(rows)} held-out samples: {figures}")
    return report


def correlations(values: np.ndarray, quality: np.ndarray, group: int) -> dict[str, float]:
    """Pearson over all samples that have a value; mean Spearman within groups that vary."""
    from scipy.stats import spearmanr

    there = np.isfinite(values)
    within = []
    for v, q, ok in zip(values.reshape(-1, group), quality.reshape(-1, group), there.reshape(-1, group), strict=True):
        if ok.sum() > 2 and np.ptp(v[ok]) > 0 and np.ptp(q[ok]) > 0:
            within.append(spearmanr(v[ok], q[ok]).statistic)
    return {"pearson": float(np.corrcoef(values[there], quality[there])[0, 1]), "spearman": float(np.mean(within))}
