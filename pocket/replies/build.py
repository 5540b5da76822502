"""Build the world of the replies recipe: rows, a small chat model and a sentence encoder, in about a minute.

    python -m pocket.replies.build [--seed 0]

Into pocket/build/replies-seed<N>/ go rows.jsonl (posts with people's replies, half of them bad, as on real social
media), heldout.jsonl (other posts with good replies), policy/ (a Qwen3-format chat model that writes replies but has
hardly learned to fit them to the post) and encoder/ (a sentence encoder that knows topics but not moods).

Everything is keyed by a hash of this folder's code and phrases, the sizes and the seed: a second call does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pocket.build import HERE as POCKET
from pocket.build import build_once
from pocket.replies import grammar
from rl_nmt import errors

HERE = Path(__file__).resolve().parent
PROMPT = "Write a short, friendly reply to this post: {source}"  # the recipe's default


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the world of the recipe; tests take less."""

    rows: int = 3000
    careless: float = 0.5  # share of bad replies among them
    heldout: int = 120
    pretraining: int = 12000  # further rows, for the policy
    pretraining_careless: float = 0.3  # share of bad replies among them
    fitting: float = 0.2  # share of posts whose own reply the policy sees in its last steps; else that of another post
    vocab: int = 2000  # at most
    hidden: int = 128
    layers: int = 2
    steps: int = 400
    related_steps: int = 320  # of these: the first ones, with each post's own reply
    batch: int = 32
    encoder_hidden: int = 96
    encoder_layers: int = 1
    encoder_steps: int = 100
    sampled: int = 200  # replies of the policy, for the check


SMALL = Sizes(  # a world of seconds that cannot reply, to try code on
    rows=60,
    heldout=10,
    pretraining=100,
    vocab=600,
    hidden=16,
    layers=1,
    steps=4,
    related_steps=2,
    batch=8,
    encoder_hidden=16,
    encoder_steps=4,
    sampled=8,
)


def key(seed: int, sizes: Sizes) -> str:
    """Hash of the code and phrases of this folder, of how models are fitted, the sizes and the seed."""
    digest = hashlib.sha256(f"{seed} {sizes}".encode())
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*.txt"), POCKET / "fitting.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Build into `folder` unless it already holds exactly this; returns the folder.

    Raises ConfigError while another process builds there, CannotWrite where the disk is full.
    """
    sizes = sizes or Sizes()
    return build_once(folder, "replies", key(seed, sizes), seed, sizes, lambda draft: build_all(draft, seed, sizes))


def build_all(folder: Path, seed: int, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Everything of one world; returns what encoder and policy can do on the held-out posts."""
    from pocket.replies import encoder, policy

    rows = list(grammar.rows(seed, "train", sizes.rows, sizes.careless))
    # The same stream of posts: those behind the rows are for the policy.
    further = grammar.rows(seed, "train", sizes.rows + sizes.pretraining, sizes.pretraining_careless)
    chats = list(itertools.islice(further, sizes.rows, None))
    heldout = list(grammar.rows(seed, "heldout", sizes.heldout, careless=0))
    write_rows(folder / "rows.jsonl", rows)
    write_rows(folder / "heldout.jsonl", heldout)
    encoder.fit_encoder(folder / "encoder", seed, sizes)
    policy.fit_policy(folder / "policy", PROMPT, chats, seed, sizes)
    check = {
        "encoder": encoder.check_encoder(folder / "encoder", heldout, seed),
        "policy": policy.check_policy(folder / "policy", PROMPT, heldout, sizes.sampled, seed),
    }
    for part, found in check.items():
        print(f"[replies] {part}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    return check


def write_rows(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"post": post, "reply": reply}) + "\n" for post, reply in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seeds rows, policy and encoder (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/replies-seed<N>)")
    args = parser.parse_args()
    import torch

    from rl_nmt.models.loading import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    build(args.out or POCKET / "build" / f"replies-seed{args.seed}", args.seed)
    return 0


if __name__ == "__main__":
    errors.run(main)
