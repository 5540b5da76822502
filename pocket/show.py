"""Try the pocket world after `make train`: what training changed, then translations of your own sentences.

    python -m pocket.show                                  # type sentences, or pipe them in, one a line
    python -m pocket.show --text "The cat drinks milk."    # repeatable

"before" is the policy that training started from, "after" the trained one. Both outputs are greedy; the run's own
back-translator turns them into English again.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rl_nmt import errors
from rl_nmt.errors import ConfigError
from rl_nmt.runs.metrics_file import read_rows
from rl_nmt.text.known_words import known_words, unknown_words, words_of

FILES = ("resolved_config.yaml", "samples.jsonl", "evaluation.json", "final/prompt.txt")  # that a finished run has
LABEL, ENGLISH, TAMIL = 11, 42, 44  # widths of the columns; with two margins, 100 in all
EXAMPLE = "The cat drinks milk."


def table_row(label: str, english: str, tamil: str) -> str:
    """Return the three columns, of at most two lines: an output may be a loop.

    Tamil comes last: terminals disagree about its width, so nothing is aligned after it.
    """
    columns = (
        textwrap.wrap(t, width, max_lines=2, placeholder=" …") for t, width in ((english, ENGLISH), (tamil, TAMIL))
    )
    lines = zip_longest([label], *columns, fillvalue="")
    return "\n".join(f"  {a:<{LABEL}}{b:<{ENGLISH}} {c}".rstrip() for a, b, c in lines)


# ------------------------------------------------------------------ held-out sentences


def changes(rows: Iterable[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Return (change of the sentence's chrF++, row of samples.jsonl), the largest loss first."""
    scored = [row for row in rows if "chrf" in row["before_scores"] and "chrf" in row["after_scores"]]
    found = [(row["after_scores"]["chrf"] - row["before_scores"]["chrf"], row) for row in scored]
    return sorted(found, key=lambda pair: pair[0])


def show_held_out(run: Path) -> None:
    """Print the largest and the median gain and loss among the held-out sentences."""
    found = changes(read_rows(run / "samples.jsonl"))
    losses = [row for change, row in found if change < -1e-9]
    gains = [row for change, row in found if change > 1e-9][::-1]
    same = len(found) - len(gains) - len(losses)
    print(
        f"Sentence chrF++ of {len(found)} held-out sentences: {len(gains)} rose, {len(losses)} fell, {same} unchanged."
    )
    print(f"Shown: the largest and the median gain and loss. All of them: {run / 'samples.jsonl'}\n")
    print(table_row("", "translated back into English", "Tamil"))
    for name, rows in (("gain", gains), ("loss", losses)):
        middle = len(rows) // 2
        for size, row in [("largest", rows[0])] * bool(rows) + [("median", rows[middle])] * (middle > 0):
            before, after = (row[f"{side}_scores"]["chrf"] for side in ("before", "after"))
            title = f"{size} {name}, chrF++ {before:.0f} → {after:.0f}"
            print(f"\n{row['source']:<{LABEL + ENGLISH + 2}} {title}")
            for side in ("before", "after"):
                gate = row[f"{side}_scores"].get("gate")
                back = f"(invalid: {gate}; reward 0)" if gate else row[f"{side}_backtranslation"]
                print(table_row(side, back, row[side]))
            print(table_row("reference", "", row["reference"]))


# ------------------------------------------------------------------ sentences of your own


def problem(text: str, known: Mapping[str, str]) -> str:
    """Return which words of the text the pocket world does not know, with similar ones that it does; "" for none.

    >>> problem("The cats sneezed.", {"the": "the", "cat": "cat"})
    'the pocket world does not know: cats (cat?), sneezed'
    """
    named = []
    for word in unknown_words(text, known):
        near = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.75)
        named.append(f"{word} ({known[near[0]]}?)" if near else word)
    return f"the pocket world does not know: {', '.join(named)}" if named else ""


def as_taught(text: str, known: Mapping[str, str]) -> str:
    """Return a sentence of known words as the models have learnt to read it.

    >>> as_taught("yesterday, RAVI slept", {"yesterday": "yesterday", "ravi": "Ravi", "slept": "slept"})
    'Yesterday Ravi slept.'
    """
    words = " ".join(known[word.casefold()] for word in words_of(text))
    return words[0].upper() + words[1:] + ("?" if "?" in text else ".")


class Translator:
    """The models of a run, loaded when the first sentence needs them: sentence → rows of the table."""

    def __init__(self, run: Path, settings: Mapping[str, Any]):
        self.run, self.settings = run, settings
        self.template = (run / "final" / "prompt.txt").read_text(encoding="utf-8")

    @functools.cached_property
    def models(self) -> tuple[dict[str, tuple], Any]:
        import torch

        from rl_nmt.backtranslation.translator import load_backtranslator
        from rl_nmt.models.policy import Precision, load_policy, load_tokenizer

        policies = {}
        for side, folder in (("before", self.settings["model_id"]), ("after", str(self.run / "final"))):
            tokenizer = load_tokenizer(folder)
            policies[side] = load_policy(folder, tokenizer, Precision("cpu", torch.float32, False, "")), tokenizer
        name, beams = self.settings["backtranslation_model"], self.settings["backtranslation_beams"]
        return policies, load_backtranslator(name, beams=beams)

    def __call__(self, english: str) -> Iterator[str]:
        from rl_nmt.translate import translate

        policies, back = self.models
        for side, policy in policies.items():
            (tamil,) = translate(*policy, [english], self.template, max_new_tokens=self.settings["max_new_tokens"])
            yield table_row(side, *back([tamil]), tamil)


def ask() -> Iterator[str]:
    """Yield the lines typed at a terminal, up to an empty one, or those of standard input."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield from (line.decode("utf-8", "replace") for line in (sys.stdin.buffer if sys.stdin else ()))
        return
    print(f"\nNow a short English sentence of yours, such as “{EXAMPLE}” (an empty line ends):", flush=True)
    try:
        while line := input("> ").strip():
            yield line
    except (EOFError, KeyboardInterrupt):
        print()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pocket.show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", action="append", metavar="ENGLISH", help="a sentence to translate; repeatable")
    parser.add_argument("--run", type=Path, default=Path("runs/pocket"), help="run folder (default runs/pocket)")
    args = parser.parse_args(argv)
    if not all((args.run / name).exists() for name in FILES):
        raise ConfigError(f"run={args.run}: holds no finished run; run `make train` first")
    import yaml

    settings = yaml.safe_load((args.run / FILES[0]).read_text(encoding="utf-8"))
    known = known_words(settings["backtranslation_model"], settings["model_id"])
    show_held_out(args.run)
    translate = Translator(args.run, settings)
    for text in args.text or ask():
        if not words_of(text):
            continue
        if said := known and problem(text, known):
            print(f"\n{text.strip()}\n  {said}", flush=True)
            continue
        english = as_taught(text, known) if known else text.strip()
        print(f"\n{english}", flush=True)
        for line in translate(english):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    errors.run(main)
