"""Build small models for the reward's other settings on a pocket world: `likelihood`, and a permissive preset's models.

    python -m pocket.rewards.build [--seed 0] [--parts language_model m2m100 metricx]

Into pocket/build/rewards-seed<N>/ go, for `--cycle likelihood --qe likelihood`, language_model/ (a Gemma 3 that knows
both languages, and worked.jsonl, the setting worked_examples); for configs/gemma3_1b_permissive.yaml's models, m2m100/
and metricx/ (the twin of pocket/twins, from the same code). The world itself is built first if it is not there.

Every part is keyed by the world, its own code, that of the twins, and the sizes: a second call does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocket import build as worlds
from pocket.build import build_once
from pocket.twins import build as twins
from rl_nmt import errors

HERE = Path(__file__).resolve().parent
PARTS = ("language_model", "m2m100", "metricx")
CODE = {"language_model": "language_model.py", "m2m100": "translator.py"}  # MetricX's is in the twins' key
GROUP = 8  # held-out outputs of one source, in the checks


@dataclass(frozen=True)
class Sizes(twins.Sizes):
    """How much of everything: the twins' sizes, of which MetricX is made, and those of the other two."""

    lm_hidden: int = 192
    lm_layers: int = 2
    lm_batch: int = 48  # pairs
    lm_steps: int = 600
    lm_rate: float = 0.02
    m2m100_vocab: int = 2600
    m2m100_hidden: int = 160
    m2m100_layers: int = 2
    m2m100_steps: int = 400


SMALL = Sizes(  # models of seconds: language model and M2M100 know 36 sentences by heart, MetricX nothing
    pairs=36,
    sampled_prompts=6,
    better_steps=2,
    batch=8,
    vocab=400,
    hidden=16,
    layers=1,
    metricx_steps=4,
    lm_hidden=64,
    lm_layers=1,
    lm_steps=200,
    m2m100_vocab=400,
    m2m100_hidden=64,
    m2m100_layers=1,
    m2m100_steps=150,
)


def key(part: str, world: Path, sizes: Sizes) -> str:
    """Hash of the twins' key, the part, its own code and the sizes."""
    digest = hashlib.sha256(f"{part} {twins.key(world, sizes)}".encode())
    if part in CODE:
        digest.update((HERE / CODE[part]).read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, world: Path, parts: Sequence[str] = PARTS, sizes: Sizes | None = None) -> Path:
    """Build parts for `world` into `folder`, unless it already holds exactly these; returns the folder.

    Raises ConfigError while another process builds there, CannotWrite where the disk is full.
    """
    sizes = sizes or Sizes()
    seed = json.loads((world / "build.json").read_text(encoding="utf-8"))["seed"]
    for part in parts:

        def make(draft: Path, part: str = part) -> dict:
            return fit(part, draft, world, seed, sizes)

        build_once(folder / part, f"{part} of the pocket", key(part, world, sizes), seed, sizes, make)
    return folder


def fit(part: str, folder: Path, world: Path, seed: int, sizes: Sizes) -> dict:
    """Make one part; returns what it can do on held-out outputs of the start policy."""
    from pocket import models
    from pocket.rewards import language_model, translator
    from pocket.twins import graded, metricx

    held = graded.heldout_samples(world, seed, sizes, group=GROUP)
    if part == "language_model":
        language_model.fit_language_model(folder, world, seed, sizes)
        return language_model.check_language_model(folder, held, GROUP)
    if part == "m2m100":
        translator.fit_m2m100(folder, seed, sizes)
        return translator.check_m2m100(folder, held)
    pairs = models.known_pairs(seed, sizes)
    rows = graded.fitting_rows(world, pairs, seed, sizes)
    metricx.fit_metricx(folder / "model", rows, pairs, seed, sizes)
    return metricx.check_metricx(folder / "model", held, GROUP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the world (default 0)")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/rewards-seed<N>)")
    args = parser.parse_args()
    from rl_nmt.models.loading import keep_freed_memory

    keep_freed_memory()
    kept = worlds.HERE / "build"
    world = worlds.build(kept / f"seed{args.seed}", args.seed)
    build(args.out or kept / f"rewards-seed{args.seed}", world, args.parts)
    return 0


if __name__ == "__main__":
    errors.run(main)
