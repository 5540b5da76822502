"""Build the pocket world: everything `configs/pocket.yaml` names, once, in minutes on two cores.

    python -m pocket.build [--seed 0]

Into pocket/build/seed<N>/ go a C4-format shard of English prose, held-out reference translations, a Gemma 3
policy taught by supervised fine-tuning only far enough to leave room, an NLLB-format Tamil→English model,
and COMET-DA and COMETKiwi checkpoints. The scorers are fitted on known pairs, as the real ones were fitted
on human judgements; the policy's reinforcement learning never sees a reference.

Everything is keyed by a hash of this folder's code and words, the prompt and the seed: a second call does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rl_nmt import errors

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the pocket world."""

    documents: int = 4000
    references: int = 300
    max_words: int = 7  # English words per sentence
    pairs: int = 20000  # known pairs for supervised fitting
    vocab: int = 1600
    policy_hidden: int = 128
    policy_layers: int = 4
    careless: float = 0.55  # policy: how often its teacher gives in to each bad habit
    bare_steps: int = 400  # policy: English and Tamil alone, again until it reaches policy_chrf, then ...
    policy_chrf: float = 50.0  # ... a last quarter with a falling rate
    chat_steps: int = 40
    nllb_hidden: int = 160
    nllb_layers: int = 2
    nllb_steps: int = 800
    comet_hidden: int = 128
    comet_layers: int = 3
    da_steps: int = 300
    qe_tag_steps: int = 900
    qe_steps: int = 500
    sampled_prompts: int = 600
    samples_each: int = 4


SMALL = Sizes(  # a world of seconds that can translate nothing, to try code on
    documents=60,
    references=20,
    pairs=300,
    vocab=700,
    policy_hidden=32,
    policy_layers=1,
    bare_steps=4,
    chat_steps=2,
    nllb_hidden=32,
    nllb_layers=1,
    nllb_steps=4,
    comet_hidden=32,
    comet_layers=1,
    da_steps=3,
    qe_tag_steps=2,
    qe_steps=40,
    sampled_prompts=8,
    samples_each=2,
)


def key(seed: int, sizes: Sizes) -> str:
    """Hash of the builder's code and words, the prompt, the sizes and the seed."""
    from train_grpo_en_ta import PROMPT

    digest = hashlib.sha256(f"{seed} {sizes} {PROMPT}".encode())
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Build into `folder` unless it already holds exactly this; returns the folder."""
    sizes = sizes or Sizes()
    stamp = folder / "build.json"
    wanted = key(seed, sizes)
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == wanted:
        return folder
    from pocket import models

    start = time.monotonic()
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    report = models.build_all(draft, seed, sizes)
    report["seconds"] = round(time.monotonic() - start)
    (draft / "build.json").write_text(
        json.dumps({"key": wanted, "seed": seed, "sizes": asdict(sizes), **report}, indent=1), encoding="utf-8"
    )
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    print(f"pocket world ready in {folder} after {report['seconds']} s", flush=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seeds data, policy and scorers (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/seed<N>)")
    args = parser.parse_args()
    build(args.out or HERE / "build" / f"seed{args.seed}", args.seed)
    return 0


if __name__ == "__main__":
    errors.run(main)
