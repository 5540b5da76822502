"""Measure whether the text rules are linear, fast and right: on hostile texts and on files of human translations.

    python -m bench.text_rules [--repeats 3]
    python -m bench.text_rules --pairs FILE [--language ta]    # JSONL or TSV of sources and their translations
    python -m bench.text_rules --names FILE                    # names and their Tamil spelling
    python -m bench.text_rules --cases FILE                    # english, tamil, correct, phenomenon

Without a file: per rule, the worst ratio of times at 20,000 and 10,000 characters (bar: 2.5), its text, and the longest
time at 200,000. Exit status 1 if a ratio is above the bar. Times are processor time, the best of --repeats; every
repeat has new texts, so that no cache of words helps.

--pairs: milliseconds per pair of all rules, with new and with repeated words; a digest of all their results, the same
in every process; what they look for and do not find; and the share found in the translation of another source (by
chance). --names: the share found in each case, with endings of the pocket grammar. --cases: correct translations that
are gated or lose more than half of their fidelity, and wrong ones that no rule detects.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import bench  # noqa: F401  (prints how to run this file)
from pocket.lexicon import Noun, oblique
from pocket.morphology import noun_forms
from rl_nmt.data.tables import Pair, read, read_pairs, sides
from rl_nmt.errors import run
from rl_nmt.guards.copying import copied_share
from rl_nmt.guards.facts import check, fidelity
from rl_nmt.guards.gates import verdict
from rl_nmt.text.languages import LANGUAGES, TAMIL, Language
from rl_nmt.text.pair import TextPair
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


# name -> the pieces repeated in (source, output)
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
    """Return pieces of together `size` characters."""
    pieces, total = [], 0
    while total < size:
        pieces.append(piece(rng))
        total += len(pieces[-1])
    return "".join(pieces)[:size]


def seconds(rule: Callable[[str, str], object], kind: str, size: int, repeats: int) -> float:
    """Return the best processor time of `repeats` calls on new texts of one kind."""
    best = float("inf")
    for repeat in range(repeats):
        rng = random.Random(f"{kind} {size} {repeat}")
        source, output = (text(piece, size, rng) for piece in TEXTS[kind])
        start = time.process_time()
        rule(source, output)
        best = min(best, time.process_time() - start)
    return best


def on_pairs(pairs: Sequence[Pair], language: Language) -> None:
    """Print the rules' time and results on translations."""
    said = []
    for words in ("new", "known"):
        start = time.process_time()
        said = [_all_rules(TextPair(source, output, language)) for source, output, _ in pairs]
        print(f"{(time.process_time() - start) / len(pairs) * 1000:.2f} ms a pair, its words {words}")
    print(f"digest {hashlib.sha256(repr(said).encode()).hexdigest()[:16]}")
    print(f"gated {sum(reason is not None for reason, _ in said) / len(pairs):.2%} of {len(pairs)}")
    asked, lost = Counter(), Counter()
    for _, found in said:
        asked.update(kind for (kind, _), _ in found)
        lost.update(kind for (kind, _), there in found if not there)
    rows = [[there for _, there in found] for _, found in said if found]
    missing = sum(not all(row) for row in rows)
    print(f"asked {dict(asked)}, not found {dict(lost)}; rows with any loss {missing} of {len(rows)}")
    half, chance = len(pairs) // 2, Counter()
    for index, (source, _, _) in enumerate(pairs):
        found = check(source, pairs[(index + half) % len(pairs)].output, language)
        chance.update(kind for (kind, _), there in found.items() if there)
    shares = {kind: f"{chance[kind] / asked[kind]:.1%}" for kind in ("name", "acronym", "number") if asked[kind]}
    print(f"found in the translation of another source: {shares}")


def _all_rules(pair: TextPair) -> tuple[str | None, list[tuple[tuple[str, str], bool]]]:
    length_penalty(pair.clean_source, pair.clean_output, pair.language)
    script_share(pair.clean_output, pair.language)
    return verdict(pair), list(check(pair).items())


def on_names(names: Sequence[tuple[str, str]]) -> None:
    """Print the share of names that are found in each case."""
    for case in ("nom", "acc", "dat", "loc", "gen"):
        missed = []
        for name, written in names:
            noun = Noun(name, name, written, f"{written}கள்", oblique(written), "n", "name", "in")
            output = f"நேற்று {noun_forms(noun, False)[case].rstrip('^')} அங்கே."
            asked = [
                there
                for (kind, _), there in check(f"Yesterday we saw {name} there.", output, TAMIL).items()
                if kind == "name"
            ]
            if not (asked and all(asked)):
                missed.append(name)
        print(f"{case} {1 - len(missed) / len(names):.1%} of {len(names)}; not found: {', '.join(missed) or '-'}")


def on_cases(path: Path) -> None:
    """Print correct translations that the rules penalise and wrong ones that they do not detect."""
    for row in read(path, "--cases", ("english", "tamil", "correct")):
        english, tamil, correct, why = (row.cells.get(name) for name in ("english", "tamil", "correct", "phenomenon"))
        pair = TextPair(english, tamil, TAMIL)
        gate, kept, lost = verdict(pair), fidelity(pair), [what for what, there in check(pair).items() if not there]
        if correct and (gate or (kept is not None and kept < 0.5)):
            print(f"right: {gate or lost} | {why} | {english} | {tamil}")
        if not correct and not gate and not lost:
            print(f"wrong: not detected | {why} | {english} | {tamil}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="calls per time (%(default)s)")
    for name in ("pairs", "names", "cases"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument(
        "--language", default="ta", choices=sorted(LANGUAGES), help="target language of --pairs (%(default)s)"
    )
    given = parser.parse_args(arguments)
    if given.pairs:
        language = LANGUAGES[given.language]
        on_pairs(read_pairs(given.pairs, "--pairs", language=language), language)
    if given.names:
        on_names([sides(row) for row in read(given.names, "--names")])
    if given.cases:
        on_cases(given.cases)
    return 0 if given.pairs or given.names or given.cases else linear(given.repeats)


def linear(repeats: int) -> int:
    """Print how the times of the rules grow; return 1 if one grows too fast."""
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
    run(main)
