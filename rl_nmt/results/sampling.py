"""Measure several samples of one prompt: how likely k of them contain a success, and how different they are. No torch.

threshold = quantile_threshold(scores_of_the_start_model, 0.75)
row = sample_row(scores, outputs, threshold)    # of one prompt; a metric is the mean of its rows
"""

import math
from collections.abc import Sequence

from rl_nmt.errors import ConfigError
from rl_nmt.results.task import mean


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the probability that k of n samples, drawn without replacement, contain one of the c successes.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) of Chen et al. 2021 (arXiv 2107.03374, eq. 1). Raises ConfigError
    unless 1 <= k <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 1 <= k <= n:
        raise ConfigError(f"pass@{k}: k must be in [1, {n}], the number of samples; sample more, or lower k")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def bleu_against_others(outputs: Sequence[str]) -> list[float]:
    """Return sacreBLEU's sentence BLEU (0 to 100) of each of at least two outputs, the others being its references."""
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)  # a short output has no 4-grams
    others = ([*outputs[:i], *outputs[i + 1 :]] for i in range(len(outputs)))
    return [bleu.sentence_score(output, rest).score for output, rest in zip(outputs, others, strict=True)]


def self_bleu_of(outputs: Sequence[str]) -> float | None:
    """Return the mean BLEU (0 to 1) of each output against the others: 1 for equal texts; None for fewer than two.

    Name and idea are those of the Texygen benchmark (arXiv 1802.01886).
    """
    if len(outputs) < 2:
        return None
    # An empty output counts as a text of its own: sacreBLEU gives it 0, even against another empty one.
    scores = bleu_against_others([output if output.strip() else "∅" for output in outputs])
    return min(1.0, mean(scores) / 100)  # sacreBLEU's 100 is sometimes 100.00000000000004


def distinct_n(outputs: Sequence[str], n: int) -> float | None:
    """Return distinct word n-grams / all word n-grams of the outputs, in any case; None without any.

    After Li et al. 2016 (arXiv 1510.03055).
    """
    texts = [output.casefold().split() for output in outputs]
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def quantile_threshold(scores: Sequence[float | None], quantile: float) -> float:
    """Return the smallest finite score that a share of at least `quantile`, in (0, 1], is at or below.

    Raises ConfigError without a finite score.
    """
    known = sorted(_finite(scores))
    if not known:
        raise ConfigError("evaluation.quantile: no sample has a score to take it of; give evaluation.threshold")
    return next(score for place, score in enumerate(known, 1) if place / len(known) >= quantile)


def sample_row(
    scores: Sequence[float | None], outputs: Sequence[str], threshold: float, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float | None]:
    """Return the metrics of the samples of one prompt; an output succeeds if its score is at least `threshold`.

    pass@k is None if an output has no finite score; a metric that these outputs do not have is None.
    """
    known = _finite(scores)
    complete, successes = len(known) == len(scores), sum(score >= threshold for score in known)
    passes = {f"pass@{k}": pass_at_k(len(known), successes, k) if complete else None for k in ks}
    distinct = {f"distinct_{n}": distinct_n(outputs, n) for n in (1, 2)}
    return {**passes, "self_bleu": self_bleu_of(outputs), **distinct}


def _finite(scores: Sequence[float | None]) -> list[float]:
    return [float(score) for score in scores if score is not None and math.isfinite(score)]
