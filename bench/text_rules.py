"""Are the text rules linear? Every rule on hostile texts of 10,000, 20,000 and 200,000 characters.

    python -m bench.text_rules [--repeats 3]

Prints, per rule, the worst ratio of times at 20,000 against 10,000 characters (bar: 2.5), the text that gave
it, and the longest time at 200,000. Exit status 1 when a ratio is above the bar. Times are processor time, the best
of --repeats; texts are made anew for every repeat, so that no cache of words helps.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable

from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import fidelity
from rl_nmt.guards.gates import verdict
from rl_nmt.text.languages import TAMIL
from rl_nmt.text.unicode import clean_for_scoring, length_penalty, script_share

BAR = 2.5
SHORT, DOUBLE, LONG = 10_000, 20_000, 200_000
LATIN = "abcdefghijklmnoprstuvw"
LETTERS = "கசடதபறமனரலவஜஸஹ"
SIGNS = ["", "ா", "ி", "ு", "ெ", "ே", "ை", "ொ", "்"]

RULES: dict[str, Callable[[str, str], object]] = {
    "clean_for_scoring": lambda source, output: clean_for_scoring(output),
    "script_share": lambda source, output: script_share(output, TAMIL),
    "length_penalty": lambda source, output: length_penalty(source, output, TAMIL),
    "verdict": lambda source, output: verdict(source, output, TAMIL, prompt=source),
    "copied_share": lambda source, output: copied_share(source, output, TAMIL),
    "fidelity": lambda source, output: fidelity(source, output, TAMIL),
}


def _english(rng: random.Random) -> str:
    word = "".join(rng.choices(LATIN, k=rng.randint(1, 9)))
    return rng.choice((word, word, word.title(), "the", "of")) + rng.choice((" ", " ", ", ", ". "))


def _tamil(rng: random.Random) -> str:
    return "".join(rng.choice(LETTERS) + rng.choice(SIGNS) for _ in range(rng.randint(2, 6))) + " "


def _address(rng: random.Random) -> str:
    number = rng.randrange(10**6)
    forms = (f"a{number}@b.org ", f"https://x.in/{number} ", f"{{x{number}}} ", f"<b{number}> ", f"{number:,} ")
    return rng.choice(forms)


# name -> what stands again and again in (source, output)
TEXTS: dict[str, tuple[Callable[[random.Random], str], Callable[[random.Random], str]]] = {
    "prose": (_english, _tamil),
    "copy": (_english, _english),
    "same words": (lambda rng: "the note is ", lambda rng: "தி நோட் இஸ் "),
    "addresses": (_address, _address),
    "names": (lambda rng: f"Ravi{rng.choice(LATIN)}{rng.choice(LATIN)} ", _tamil),
    "one word": (lambda rng: rng.choice(LATIN), lambda rng: rng.choice(LETTERS)),
    "numbers": (lambda rng: f"{rng.randrange(99)}.", lambda rng: f"{rng.randrange(99)},"),
    "marks": (lambda rng: "a\u0301\u0323", lambda rng: "க\u0bcd\u0301"),
    "notes": (lambda rng: "x. ", lambda rng: "குறிப்பு note ( "),
    "openings": (lambda rng: "x ", lambda rng: rng.choice(("<a ", "{", "**", "| ", "<bos", "[", '"'))),
    "lines": (lambda rng: "x\n", lambda rng: "\nதமிழ் "),
    "joiners": (lambda rng: "a\u200d", lambda rng: "க\u200d\u200c\u200b"),
}


def text(piece: Callable[[random.Random], str], size: int, rng: random.Random) -> str:
    """Pieces up to `size` characters."""
    pieces, total = [], 0
    while total < size:
        pieces.append(piece(rng))
        total += len(pieces[-1])
    return "".join(pieces)[:size]


def seconds(rule: Callable[[str, str], object], kind: str, size: int, repeats: int) -> float:
    """Best processor time of `repeats` calls on fresh texts of one kind."""
    best = float("inf")
    for repeat in range(repeats):
        rng = random.Random(f"{kind} {size} {repeat}")
        source, output = (text(piece, size, rng) for piece in TEXTS[kind])
        start = time.process_time()
        rule(source, output)
        best = min(best, time.process_time() - start)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="calls per time (%(default)s)")
    repeats = parser.parse_args().repeats
    print(f"{'rule':<18}{'worst ratio':>12}  {'on':<12}{f's at {LONG:,}':>15}  on")
    failed = False
    for name, rule in RULES.items():
        ratios, long = {}, {}
        for kind in TEXTS:
            short = seconds(rule, kind, SHORT, repeats)
            ratios[kind] = seconds(rule, kind, DOUBLE, repeats) / max(short, 1e-6)
            long[kind] = seconds(rule, kind, LONG, 1)
        worst, slowest = max(ratios, key=ratios.get), max(long, key=long.get)
        failed = failed or ratios[worst] > BAR
        print(f"{name:<18}{ratios[worst]:>12.2f}  {worst:<12}{long[slowest]:>15.2f}  {slowest}", flush=True)
    print(f"bar {BAR}: {'not met' if failed else 'met'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
