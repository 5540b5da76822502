"""Build the world of the diffusion recipe: texts, a generator of letters, a judge and a measure, in a minute or two.

    python -m pocket.letters.build [--seed 0]

Into pocket/build/letters-seed<N>/ go c4/ (a shard in C4's format: sentences of the pocket grammar in few words),
generator/ (a masked-diffusion GPT over characters, fitted on badly scanned texts: digits for some letters), judge/ (a
sequence regression: is this a sentence of that world?) and trigrams.npy (the word trigrams of 200,000 sentences, which
the judge never sees).

Everything is keyed by a hash of this folder's code, the sizes and the seed: a second call does nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from pocket.build import HERE as POCKET
from pocket.build import build_once
from pocket.letters.sentences import sentences
from rl_nmt import errors
from rl_nmt.text.trigrams import KnownTrigrams, write_table

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the world of the recipe; tests take less."""

    documents: int = 2300  # of the shard, a sentence each
    table: int = 200_000  # sentences of any part and length behind the table of trigrams
    known: int = 4000  # sentences that generator and judge are fitted on
    misread: float = 0.4  # share of o, l, s, g and t that are digits in the generator's texts
    hidden: int = 96
    layers: int = 2
    steps: int = 700
    batch: int = 64
    lr: float = 0.02
    fills: int = 1024  # of the generator, for the judge
    judge_hidden: int = 64
    judge_steps: int = 250
    judge_batch: int = 128
    checked: int = 400  # held-out sentences of the check


SMALL = Sizes(  # a world of seconds that writes nothing, to try code on
    documents=150, table=500, known=400, hidden=16, layers=1, steps=4, batch=8, fills=16, judge_hidden=16,
    judge_steps=4, judge_batch=8, checked=20,
)  # fmt: skip


def key(seed: int, sizes: Sizes) -> str:
    """Hash of the code of this folder, of sentences, damage and fitting, the sizes and the seed."""
    shared = [POCKET / name for name in ("fitting.py", "grammar.py", "patterns.py", "corruptions.py", "lexicon.txt")]
    code = b"".join(path.read_bytes() for path in [*sorted(HERE.glob("*.py")), *shared])
    return hashlib.sha256(f"{seed} {sizes}".encode() + code).hexdigest()[:16]


def build(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Build into `folder` unless it already holds exactly this; returns the folder. Raises as `build_once`."""
    sizes = sizes or Sizes()
    return build_once(folder, "letters", key(seed, sizes), seed, sizes, lambda draft: build_all(draft, seed, sizes))


def build_all(folder: Path, seed: int, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Everything of one world; returns what table, generator and judge make of held-out sentences."""
    from pocket.letters.generator import fills, fit_generator, heldout_loss
    from pocket.letters.judge import check_judge, fit_judge

    write_shard(folder / "c4" / "c4-train.00000-of-00001.json.gz", seed, sizes.documents)
    write_table(folder / "trigrams.npy", itertools.islice(sentences(seed), sizes.table))
    known = list(itertools.islice(sentences(seed, "train"), sizes.known))
    real = list(itertools.islice(sentences(seed, "heldout"), sizes.checked))
    model, tokenizer = fit_generator(folder / "generator", known, seed, sizes)
    fit_judge(folder / "judge", known, fills(model, tokenizer, known[: sizes.fills], seed), seed, sizes)
    filled = fills(model, tokenizer, real, seed + 1)
    accepts = KnownTrigrams.load(folder / "trigrams.npy", "trigrams")
    verdicts = accepts(filled)
    check = {
        "table": {"real": sum(accepts(real)) / len(real), "filled": sum(verdicts) / len(filled)},
        "generator": {"heldout loss": heldout_loss(model, tokenizer, real, seed)},
        "judge": check_judge(folder / "judge", real, filled, verdicts, seed),
    }
    for part, found in check.items():
        print(f"[letters] {part}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    return check


def write_shard(file: Path, seed: int, documents: int) -> None:
    """Write sentences of part "web" in C4's format, one a document; the same bytes for the same arguments."""
    row = {"timestamp": "2019-04-18T00:00:00Z", "url": "https://example.com/"}
    lines = [json.dumps({"text": text, **row}) + "\n" for text in itertools.islice(sentences(seed, "web"), documents)]
    file.parent.mkdir()
    file.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seeds texts, generator and judge (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/letters-seed<N>)")
    args = parser.parse_args()
    import torch

    from rl_nmt.models.loading import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)  # a second one makes matrices this small slower
    build(args.out or POCKET / "build" / f"letters-seed{args.seed}", args.seed)
    return 0


if __name__ == "__main__":
    errors.run(main)
