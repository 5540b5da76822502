"""Fit the pocket COMET models on outputs of known quality, and check the reward that they make."""

from __future__ import annotations

import json
import random
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pocket import corruptions, formats, grammar
from pocket.fitting import train
from pocket.models import chrf, known_pairs, load_policy, sample, say, spelled
from rl_nmt.progress import progress
from rl_nmt.scorers.base import Segment
from train_grpo_en_ta import make_prompt

SAMPLING_TEMPERATURE, W_CYCLE, W_QE = 0.8, 0.8, 0.2  # what configs/pocket.yaml trains with
BATCH, TAG_BATCH = 32, 64  # rows


def grade(folder: Path, half: int, seed: int, sizes) -> None:
    """Write outputs with their back-translations and true quality: samples of the start policy and a stronger one,
    and damaged references, so that a scorer has seen what it must not fall for. `half`: 0 or 1, of the work."""
    from rl_nmt.backtranslation.translator import load_backtranslator

    start, parts, pairs = time.monotonic(), folder.parent, known_pairs(seed, sizes)
    rng = random.Random(f"{seed}/graded{half}")
    torch.manual_seed(seed + 1 + half)
    translator = load_backtranslator(str(parts / "nllb"), beams=1)
    rows: list[dict] = []
    systems = (("", 1.2), ("", SAMPLING_TEMPERATURE), ("stronger", 0.7))
    with progress(f"graded outputs {half + 1}", 7 * len(systems) * (sizes.sampled_prompts // 2) // 4, "prompts") as bar:
        for name, temperature in systems:
            model, tokenizer = load_policy(parts / "policy" / name)
            chosen = rng.sample(pairs, sizes.sampled_prompts // 2)
            texts = sample(model, tokenizer, [make_prompt(p.english) for p in chosen], sizes.samples_each, temperature)
            for pair, group in zip(chosen, texts, strict=True):
                rows += [{"en": pair.english, "ta": pair.tamil, "mt": text} for text in group if text]
            bar.update(len(chosen))
        for pair in rng.sample(pairs, len(rows) // 2):  # what no policy writes yet, but one may come to
            damage = rng.choice((corruptions.careless, corruptions.corrupt, unrelated, stuttering))
            rows.append({"en": pair.english, "ta": pair.tamil, "mt": damage(pair, rng, rng.random())})
        for at in range(0, len(rows), 512):
            part = rows[at : at + 512]
            for row, back in zip(part, translator([row["mt"] for row in part]), strict=True):
                row["back"] = back
            bar.update(len(part) // (2 * sizes.samples_each))
    for row, value in zip(rows, chrf([row["mt"] for row in rows], [row["ta"] for row in rows]), strict=True):
        row["quality"] = value
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    say(start, f"{len(rows)} graded outputs, mean quality {np.mean([row['quality'] for row in rows]):.3f}")


def graded(parts: Path) -> list[dict]:
    """The rows of both halves: en, ta, mt, back, quality in [0, 1]."""
    files = (parts / f"graded{half}" / "rows.jsonl" for half in (0, 1))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def unrelated(pair, rng: random.Random, _level: float) -> str:
    """Another sentence's Tamil: fluent and wrong."""
    return corruptions.unrelated(pair, rng)


def stuttering(pair, rng: random.Random, level: float) -> str:
    """One word of the Tamil said two to five times, and some of the rest damaged."""
    words = corruptions.corrupt(pair, rng, 0.5 * level).split()
    at = rng.randrange(len(words))
    return " ".join(words[:at] + [words[at].rstrip(".?")] * rng.randint(1, 4) + words[at:])


def fit_da(folder: Path, seed: int, sizes) -> None:
    """COMET-DA: is this English the source again? Corrupted sources, and the policies' back-translations."""
    start, pairs, outputs = time.monotonic(), known_pairs(seed, sizes), graded(folder.parent)
    rng = random.Random(seed + 3)
    rows = [{"src": g["en"], "mt": g["back"], "score": g["quality"]} for g in outputs]
    chosen = rng.sample(pairs, min(len(pairs), len(outputs) // 2))
    damaged = [corruptions.corrupt_english(p.english, rng, rng.random() ** 2) for p in chosen]
    for pair, text, quality in zip(chosen, damaged, chrf(damaged, [p.english for p in chosen]), strict=True):
        rows.append({"src": pair.english, "mt": text, "score": quality})
    tokenizer = formats.xlmr_tokenizer([p.english for p in pairs[:5000]], sizes.vocab)
    torch.manual_seed(seed)
    model, hparams = formats.new_comet(folder, "regression_metric", tokenizer, sizes.comet_hidden, sizes.comet_layers)

    def loss() -> torch.Tensor:
        batch = rng.sample(rows, min(len(rows), BATCH))
        score = model([Segment(row["src"], row["mt"], row["src"]) for row in batch]).score
        return torch.nn.functional.mse_loss(score, torch.tensor([row["score"] for row in batch]))

    train(model, loss, sizes.da_steps, 0.01, what="COMET-DA")
    formats.save_comet(model, hparams, folder)
    say(start, f"COMET-DA: {sizes.da_steps} steps on {len(rows)} rows")


class Tagged:
    """A COMETKiwi model with a head for word tags (is this word in the reference?) that is not part of its checkpoint.

    The tags teach a new encoder which word stands for which.
    """

    def __init__(self, folder: Path, tokenizer, rows: list[dict], seed: int, sizes) -> None:
        torch.manual_seed(seed)
        made = formats.new_comet(folder, "unified_metric", tokenizer, sizes.comet_hidden, sizes.comet_layers)
        self.model, self.hparams = made
        self.both = torch.nn.ModuleList([self.model, torch.nn.Linear(sizes.comet_hidden, 1)])
        self.rows, self.rng = rows, random.Random(seed + 4)
        for row in rows:
            row["tags"] = word_tags(tokenizer, row["mt"], row["ta"])

    def losses(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of sentence scores and of tags on one batch."""
        batch = self.rng.sample(self.rows, min(len(self.rows), size))
        seen = {}
        hook = self.model.encoder.model.register_forward_hook(lambda _m, _i, out: seen.update(states=out[0]))
        score = self.model([Segment(row["en"], row["mt"]) for row in batch]).score
        hook.remove()
        logits = self.both[1](seen["states"])[..., 0]  # (B, T)
        tags = torch.full(logits.shape, -1.0)  # (B, T), -1: not a token of the translation
        for i, row in enumerate(batch):
            tags[i, : len(row["tags"])] = torch.tensor(row["tags"])
        known = tags >= 0
        tag_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], tags[known])
        return torch.nn.functional.mse_loss(score, torch.tensor([row["quality"] for row in batch])), tag_loss


def fit_tags(folder: Path, seed: int, sizes) -> None:
    """The first half of COMETKiwi: word tags of damaged references, before there is any output."""
    start, pairs = time.monotonic(), known_pairs(seed, sizes)
    rng = random.Random(seed + 4)
    rows = [{"en": p.english, "ta": p.tamil, "mt": corruptions.corrupt(p, rng, rng.random() ** 2)} for p in pairs]
    for row in rows:
        row["quality"] = 0.0  # not asked for
    tokenizer = formats.xlmr_tokenizer(spelled(pairs), sizes.vocab)
    tagged = Tagged(folder, tokenizer, rows, seed, sizes)
    train(tagged.both, lambda: tagged.losses(TAG_BATCH)[1], sizes.tag_steps, 0.01, what="COMETKiwi's words")
    torch.save(tagged.both.state_dict(), folder / "both.pt")
    say(start, f"COMETKiwi: {sizes.tag_steps} steps on the words of {len(rows)} damaged references")


def fit_qe(folder: Path, seed: int, sizes) -> None:
    """COMETKiwi: is this Tamil a translation of this English? Corrupted references, and the policies' outputs.

    From what `fit_tags` has made, with sentence scores and the tags beside them.
    """
    from transformers import XLMRobertaTokenizerFast

    start, pairs, outputs = time.monotonic(), known_pairs(seed, sizes), graded(folder.parent)
    rng, tags = random.Random(seed + 5), folder.parent / "tags"
    rows = [{name: g[name] for name in ("en", "ta", "mt", "quality")} for g in outputs]
    chosen = rng.sample(pairs, min(len(pairs), len(outputs)))
    damaged = [corruptions.corrupt(p, rng, rng.random() ** 2) for p in chosen]
    for pair, text, quality in zip(chosen, damaged, chrf(damaged, [p.tamil for p in chosen]), strict=True):
        rows.append({"en": pair.english, "ta": pair.tamil, "mt": text, "quality": quality})
    tokenizer = XLMRobertaTokenizerFast.from_pretrained(tags / "encoder")
    tagged = Tagged(folder, tokenizer, rows, seed, sizes)
    tagged.both.load_state_dict(torch.load(tags / "both.pt"))

    def loss() -> torch.Tensor:
        score, tag = tagged.losses(BATCH)
        return score + 0.1 * tag

    train(tagged.both, loss, sizes.qe_steps, 0.005, what="COMETKiwi")
    formats.save_comet(tagged.model, tagged.hparams, folder)
    say(start, f"COMETKiwi: {sizes.qe_steps} steps on {len(rows)} rows")


def word_tags(tokenizer, output: str, reference: str) -> list[float]:
    """Per token of `output`: 1 its word is in the reference, 0 it is not, -1 a special token."""
    words, known = output.split(), set(reference.strip(".?").split())
    tags = []
    for word in tokenizer(output, truncation=True, max_length=200).word_ids():
        tags.append(-1.0 if word is None or word >= len(words) else float(words[word].strip(".?") in known))
    return tags


# ------------------------------------------------------------------ the check before training


def check_scorers(folder: Path, seed: int, sizes, prompts: int = 64, group: int = 8) -> dict:
    """Reward and its parts against sentence chrF++ on held-out samples of the start policy itself."""
    from rewards_en_ta_dupo import CometDuPOReward

    start = time.monotonic()
    chosen = list(islice(grammar.pairs(seed + 5, part="heldout", max_words=sizes.max_words), prompts))
    policy, tokenizer = load_policy(folder / "policy")
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
