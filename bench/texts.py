"""Texts for the benches: English as long as web sentences are, groups of Tamil candidates, and their repeats.

A source is one sentence of 5 to 60 words, joined from clauses of the pocket grammar. Source lengths are the
quantiles of a log-normal (median 18 words), so that few sources stand for the whole distribution. Each source
has a group of 8 Tamil candidates and 8 English sentences that stand for their back-translations: the clauses,
some of their words damaged.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from statistics import NormalDist

from bench.measure import GROUP
from pocket import corruptions, grammar
from pocket.grammar import Pair

SHORTEST, LONGEST, MEDIAN, SPREAD = 5, 60, 18, 0.6  # English words; SPREAD: sigma of ln(words)
# How often each distinct completion of a group occurs: 16 groups that stand for 128 groups of the pocket start
# policy at temperature 0.8, where 29 % of the completions repeat an earlier one (here 31 %).
REAL = tuple(
    tuple(map(int, counts))
    for counts in (
        "311111 11111111 5111 41111 2111111 71 11111111 32111 2111111 11111111 221111 11111111 8 4211 2111111 611"
    ).split()
)
LATIN, TAMIL = re.compile("[A-Za-z]"), re.compile("[\u0b80-\u0bff]")


@dataclass(frozen=True)
class Item:
    """One sample of a reward call: source, candidate, and what a back-translator could make of it."""

    english: str
    tamil: str
    back: str


def items(n: int, duplicates: str = "real", seed: int = 0) -> list[Item]:
    """`n` samples in groups of 8 (the last one may be shorter), the same for the same arguments.

    Args:
        duplicates: "real" repeats candidates within a group as `REAL` says; "none" makes all distinct.
    """
    if duplicates not in ("real", "none"):
        raise ValueError(f"duplicates: {duplicates!r} is unknown; use real or none")
    rng = random.Random(f"{seed}/{n}/{duplicates}")
    groups = math.ceil(n / GROUP)
    clauses = grammar.pairs(seed, part="web")
    result: list[Item] = []
    for g, words in enumerate(source_lengths(groups, rng)):
        counts = REAL[g % len(REAL)] if duplicates == "real" else (1,) * GROUP
        result += _group(_source(clauses, words), counts, rng)
    return result[:n]


def source_lengths(count: int, rng: random.Random) -> list[int]:
    """English words of `count` sources: evenly spaced quantiles of the log-normal, shuffled."""
    normal = NormalDist(math.log(MEDIAN), SPREAD)
    lengths = [round(math.exp(normal.inv_cdf((i + 0.5) / count))) for i in range(count)]
    rng.shuffle(lengths)
    return [min(LONGEST, max(SHORTEST, length)) for length in lengths]


def repeat_share(texts: list[str]) -> float:
    """Share of texts that repeat an earlier one of their group of 8."""
    groups = [texts[i : i + GROUP] for i in range(0, len(texts), GROUP)]
    return 1 - sum(len(set(group)) for group in groups) / len(texts)


def training_texts(count: int = 2000) -> list[str]:
    """English and Tamil sentences to train tokenizers on, of two clauses each."""
    clauses = grammar.pairs(1, part="train")
    result = []
    for _ in range(count):
        source = list(islice(clauses, 2))
        result += [_english([pair.english for pair in source]), _tamil([pair.tamil for pair in source])]
    return result


def _source(clauses: Iterator[Pair], words: int) -> list[Pair]:
    """Clauses that have about `words` English words together, joining words included."""
    chosen: list[Pair] = []
    length = 0
    while length < words:
        pair = next(pair for pair in clauses if len(pair.english.split()) <= max(SHORTEST, words - length + 2))
        chosen.append(pair)
        length += len(pair.english.split()) + 1
    return chosen


def _group(source: list[Pair], counts: tuple[int, ...], rng: random.Random) -> list[Item]:
    english = _english([pair.english for pair in source])
    tamil = _distinct(len(counts), lambda level: _tamil([_damaged_tamil(p, rng, level) for p in source]), "")
    backs = _distinct(
        len(counts), lambda level: _english([_damaged_english(p.english, rng, level) for p in source]), english
    )
    group = [
        Item(english, ta, back) for ta, back, count in zip(tamil, backs, counts, strict=True) for _ in range(count)
    ]
    rng.shuffle(group)
    return group


def _distinct(count: int, make: Callable[[float], str], other_than: str) -> list[str]:
    """`count` different texts, damaged more the longer it takes to find them."""
    found: dict[str, None] = {}
    for attempt in range(1000):
        text = make(min(0.6, 0.15 + 0.01 * attempt))
        if text != other_than:
            found[text] = None
        if len(found) == count:
            return list(found)
    raise RuntimeError(f"no {count} different versions of a text were found")


def _damaged_tamil(pair: Pair, rng: random.Random, level: float) -> str:
    text = corruptions.corrupt(pair, rng, level)
    return pair.tamil if LATIN.search(text) else text


def _damaged_english(english: str, rng: random.Random, level: float) -> str:
    text = corruptions.corrupt_english(english, rng, level)
    return english if TAMIL.search(text) else text


def _english(clauses: list[str]) -> str:
    """One sentence: a single full stop at its end, so that no route splits it."""
    bare = [clause.rstrip(".?") for clause in clauses]
    return " and ".join([bare[0], *(c[:1].lower() + c[1:] for c in bare[1:])]) + "."


def _tamil(clauses: list[str]) -> str:
    return ", ".join(clause.rstrip(".?") for clause in clauses) + "."
