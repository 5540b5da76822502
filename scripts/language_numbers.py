"""Measure the gate `language` on translations of the same English sentences: a table of languages, and of pairs.

    python scripts/language_numbers.py FOLDER            # lid.176
    python scripts/language_numbers.py FOLDER MODEL      # another fastText model, as the setting language_identifier

FOLDER has a text file for each language, eng.txt among them, line by line (NTREX-128: eng.txt, deu.txt, zho-CN.txt).
"gated": share of right translations that are taken for another language. Then for each other language the share of
its sentences, of at least six English words, that pass. In brackets: not in the row's `told_apart`
(rl_nmt/text/languages.yaml), and the share of right translations that would be gated with it. It belongs there if at
most 0.5 % of the right translations are gated, and 1 % of English or 5 % of another language pass.
"""

import sys
from functools import cache
from pathlib import Path

from rl_nmt.guards.language import load_identifier, neighbours
from rl_nmt.text.languages import ENGLISH, LANGUAGES
from rl_nmt.text.pair import TextPair

WORDS = 6
NAMES = {"swa": "sw", "lav": "lv", "fas": "fa"}  # of files, other than an NLLB tag's first letters


def read(folder: Path) -> dict[str, list[str]]:
    codes = {row.nllb[:3]: code for code, row in LANGUAGES.items() if "_" not in code} | NAMES
    files = {codes.get(file.stem.split("-")[0]): file for file in sorted(folder.glob("*.txt"))}
    return {code: file.read_text(encoding="utf-8").splitlines() for code, file in files.items() if code}


folder, name = Path(sys.argv[1]), "".join(sys.argv[2:3])
texts, identifier = read(folder), load_identifier(name)
sources = texts[ENGLISH.code]
long = [len(source.split()) >= WORDS for source in sources]


@cache
def identified(code: str, script: str) -> list:
    """Return the probabilities for the texts of a language as outputs in a language of `script`."""
    row = next(row for row in LANGUAGES.values() if row.script == script)
    return [identifier.probabilities(TextPair(*pair, row)) for pair in zip(sources, texts[code], strict=True)]


print(f"{len(sources)} sentences, {sum(long)} of at least {WORDS} words\n\n{'':4}{'gated':>7}  accepted of each")
for code in texts:
    row, others = LANGUAGES[code], [other for other in neighbours(LANGUAGES[code]) if other.code in texts]
    if not others or code == ENGLISH.code:
        continue

    told, cells = list(identifier.rivals(row)), []
    right = identified(code, row.script)
    for other in others:
        candidates = told if other in told else [*told, other]
        wrong = [found for found, enough in zip(identified(other.code, row.script), long, strict=True) if enough]
        accepted = sum(not identifier.taken_for(found, row, candidates) for found in wrong) / len(wrong)
        gated = sum(bool(identifier.taken_for(found, row, candidates)) for found in right) / len(right)
        cells.append(f"{other.code} {accepted:.1%}" if other in told else f"[{other.code} {accepted:.1%}, {gated:.1%}]")
    gated = sum(bool(told and identifier.taken_for(found, row, told)) for found in right) / len(right)
    print(f"{code:4}{gated:>7.1%}  {'  '.join(cells)}", flush=True)
