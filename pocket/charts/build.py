"""Build the world of the preference recipe: pictures with questions, and a small Gemma 3 that sees, in a minute or two.

    python -m pocket.charts.build [--seed 0]

Into pocket/build/charts-seed<N>/ go rows.jsonl and heldout.jsonl (a question, a right and a wrong answer, and a
picture; one row in ten has no picture), their pictures in images/, and policy/ (a Gemma 3 in the published format
that reads pictures and trusts its habits more).

Everything is keyed by a hash of this folder's code, the sizes and the seed: a second call does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pocket.build import HERE as POCKET
from pocket.build import build_once
from pocket.charts import draw, questions
from pocket.charts.draw import Scene
from pocket.charts.questions import Row
from rl_nmt import errors

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the world of the recipe; tests take less."""

    rows: int = 600  # even, as all rows are: they come in twins
    heldout: int = 400
    warm_up: int = 6000  # further rows, for the policy
    looks: float = 0.2  # how often its second teacher looks at the picture
    vocab: int = 400
    hidden: int = 64
    layers: int = 2
    vision_hidden: int = 48
    vision_layers: int = 1
    steps: int = 200  # with right answers: again until it reads pictures, and a quarter more with a falling rate
    exam: int = 400  # rows of the warm-up on which it is asked whether it does
    known: float = 0.9  # accuracy for each kind of picture question at which it does
    habit_steps: int = 60  # with the teacher who seldom looks
    habit_lr: float = 0.003
    batch: int = 64


SMALL = Sizes(  # a world of seconds that sees nothing, to try code on
    rows=40, heldout=20, warm_up=120, hidden=16, vision_hidden=16, steps=4, exam=20, known=0, habit_steps=2, batch=8
)


def key(seed: int, sizes: Sizes) -> str:
    """Hash of the code of this folder, of how models are made and fitted, the sizes and the seed."""
    digest = hashlib.sha256(f"{seed} {sizes}".encode())
    for path in sorted([*HERE.glob("*.py"), POCKET / "fitting.py", POCKET / "formats.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Build into `folder` unless it already holds exactly this; returns the folder.

    Raises ConfigError while another process builds there, CannotWrite where the disk is full.
    """
    sizes = sizes or Sizes()
    return build_once(folder, "charts", key(seed, sizes), seed, sizes, lambda draft: build_all(draft, seed, sizes))


def build_all(folder: Path, seed: int, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Everything of one world; returns what the policy can do on the held-out rows."""
    from pocket.charts import policy

    (folder / "images").mkdir()
    rows, heldout, warm_up = parts(seed, sizes)
    write_rows(folder, "rows", rows)
    write_rows(folder, "heldout", heldout)
    model, processor = policy.fit_policy(folder / "policy", warm_up, seed, sizes)
    check = {"policy": policy.check_policy(model, processor, heldout)}
    for part, found in check.items():
        print(f"[charts] {part}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)
    return check


def parts(seed: int, sizes: Sizes) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows, the held-out rows and those of the warm-up; no part contains a picture of another."""
    rng, used = random.Random(seed), set[Scene | str]()
    rows, heldout = (questions.rows(rng, count, used) for count in (sizes.rows, sizes.heldout))
    return rows, heldout, questions.rows(rng, sizes.warm_up, used, repeat=True)


def write_rows(folder: Path, name: str, rows: Iterable[Row]) -> None:
    """Write <name>.jsonl and images/<name>-<number>.png."""
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines:
        for i, row in enumerate(rows):
            line = {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}
            if row.scene:
                line["image"] = f"images/{name}-{i:04}.png"
                draw.save(row.scene, folder / line["image"])
            lines.write(json.dumps(line) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seeds rows, pictures and policy (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/charts-seed<N>)")
    args = parser.parse_args()
    import torch

    from rl_nmt.models.loading import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)  # a second one makes matrices this small slower
    build(args.out or POCKET / "build" / f"charts-seed{args.seed}", args.seed)
    return 0


if __name__ == "__main__":
    errors.run(main)
