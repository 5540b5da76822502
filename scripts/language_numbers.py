"""Measure the gate `language` on translations of the same English sentences: a table of languages, and of pairs.

    python scripts/language_numbers.py FOLDER            # lid.176
    python scripts/language_numbers.py FOLDER MODEL      # another fastText model, as the setting language_identifier

FOLDER has a text file for each language, eng.txt among them, line by line (NTREX-128: eng.txt, deu.txt, zho-CN.txt).
Of several files of a language, that of its row's script (srp-Cyrl) or of its first region in WMT24++ (zho-CN) is read.
"gated": share of right translations that are taken for another language; "cut": the same, of their first four words.
Then for each other language the share of its sentences, of at least six English words, that pass. In brackets: not in
the row's `told_apart` (rl_nmt/text/languages.yaml), and the share of right translations that would be gated with it. It
belongs there if at most 0.5 % of the right translations are gated, and 1 % of English or 5 % of another language pass.
"""

import sys
from functools import cache
from pathlib import Path

from rl_nmt.guards.language import load_identifier, neighbours
from rl_nmt.text.languages import ENGLISH, LANGUAGES, WMT24PP
from rl_nmt.text.pair import TextPair

WORDS, CUT = 6, 4
NAMES = {"swa": "sw", "lav": "lv", "fas": "fa", "fil": "fil"}  # of files, other than an NLLB tag's first letters


def choose(folder: Path) -> dict[str, Path]:
    """Return the file of each language; of several, see above, else the one with the shortest name."""
    codes = {row.nllb[:3]: code for code, row in LANGUAGES.items() if "_" not in code} | NAMES
    regions = dict(code.split("_") for code in reversed(WMT24PP))  # the first one is the last, which counts

    def rank(file: Path) -> tuple[bool, int, str]:
        code, part = codes[file.stem.split("-")[0]], file.stem.partition("-")[2]
        return part not in (LANGUAGES[code].nllb[4:], regions.get(code)), len(file.stem), file.stem

    files = [file for file in folder.glob("*.txt") if file.stem.split("-")[0] in codes]
    best = {codes[file.stem.split("-")[0]]: file for file in sorted(files, key=rank, reverse=True)}
    return {code: best[code] for code in LANGUAGES if code in best}


folder, name = Path(sys.argv[1]), "".join(sys.argv[2:3])
files, identifier = choose(folder), load_identifier(name)
texts = {code: file.read_text(encoding="utf-8").splitlines() for code, file in files.items()}
sources = texts[ENGLISH.code]
long = [len(source.split()) >= WORDS for source in sources]


@cache
def identified(code: str, script: str, words: int | None = None) -> list:
    """Return what is found in a language's texts, or their first words, as outputs in a language of `script`."""
    row = next(row for row in LANGUAGES.values() if row.script == script)
    outputs = (" ".join(text.split()[:words]) for text in texts[code])
    return [identifier.identify(TextPair(*pair, row)) for pair in zip(sources, outputs, strict=True)]


def gated(found: list, row, others) -> float:
    return sum(bool(others and identifier.taken_for(one, row, others)) for one in found) / len(found)


print("read: " + ", ".join(f"{code} {file.name}" for code, file in files.items()))
print(f"{len(sources)} sentences, {sum(long)} of at least {WORDS} words")
print(f"\n{'':4}{'gated':>7}{'cut':>7}  accepted of each")
for code in texts:
    row, others = LANGUAGES[code], [other for other in neighbours(LANGUAGES[code]) if other.code in texts]
    if not others or code == ENGLISH.code:
        continue

    told, cells = list(identifier.rivals(row)), []
    right = identified(code, row.script)
    for other in others:
        candidates = told if other in told else [*told, other]
        wrong = [found for found, enough in zip(identified(other.code, row.script), long, strict=True) if enough]
        accepted, lost = 1 - gated(wrong, row, candidates), gated(right, row, candidates)
        cells.append(f"{other.code} {accepted:.1%}" if other in told else f"[{other.code} {accepted:.1%}, {lost:.1%}]")
    cut = gated(identified(code, row.script, CUT), row, told)
    print(f"{code:4}{gated(right, row, told):>7.1%}{cut:>7.1%}  {'  '.join(cells)}", flush=True)
