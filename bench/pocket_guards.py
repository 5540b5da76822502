"""Measure the effect of guards: train the same start with and without them.

    python -m bench.pocket_guards [--seeds 0 1 2] [--steps 60] [--only on off best]

The start is the pocket policy, trained further to copy the English of about 30 % of all sentences (those that
begin with certain words) most of the time. Three runs start from it for each seed:

  on     configs/pocket.yaml unchanged
  off    guards off: no gates, no copy factor, no fidelity; the same models and weights
  best   over-optimised on purpose: guards off, COMETKiwi alone, a high learning rate, no KL; evaluations choose
         best/ by chrF++ on half of the held-out rows; on the other half, chrF++ of that step is compared with
         that of the step with the highest reward

Prints one table: copies (outputs that repeat more than a third of their source) and chrF++ before and after.
Runs are in runs/pocket_guards/, the table in runs/pocket_guards/table.md.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench.pocket_seeds import run_flags, write_table

RUNS = Path("runs/pocket_guards")
COPIED_SOURCES = 0.3
COPY_LESSONS = (
    0.75  # share of lessons that copy such a source; the rest translate it, so that some samples are not copies
)
LESSONS = 150
VARIANTS = {
    "on": [],
    "off": ["--guards", "off"],
    "best": "--guards off --w_cycle 0 --w_qe 1 --lr 3e-4 --kl_beta 0 --eval_steps 10".split(),
}


def openers(sentences: list[str]) -> set[str]:
    """Return first words, rarest first, that together begin about 30 % of the sentences."""
    counts = Counter(sentence.split()[0] for sentence in sentences)
    chosen, covered = set(), 0
    for word, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        if covered + count <= COPIED_SOURCES * len(sentences):
            chosen.add(word)
            covered += count
    return chosen


def taught_to_copy(world: Path, seed: int) -> Path:
    """Return the folder of the world's policy trained to copy; it is made once."""
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    from pocket import corruptions, fitting, models
    from pocket.build import Sizes
    from train_grpo_en_ta import make_prompt

    folder = RUNS / f"start{seed}"
    if (folder / "config.json").exists():
        return folder
    sizes = Sizes()
    pairs = models.known_pairs(seed, sizes)
    words = openers([pair.english for pair in pairs])
    tokenizer = AutoTokenizer.from_pretrained(world / "policy")
    model = Gemma3ForCausalLM.from_pretrained(world / "policy")
    torch.manual_seed(seed)
    rng = random.Random(seed)

    def answer(pair) -> str:
        if pair.english.split()[0] in words and rng.random() < COPY_LESSONS:
            return pair.english
        return corruptions.careless(pair, rng, sizes.careless)

    def loss():
        batch = rng.sample(pairs, 64)
        return models.sft_loss(model, tokenizer, [make_prompt(p.english) for p in batch], [answer(p) for p in batch])

    fitting.train(model, loss, LESSONS, 0.005, what="learning to copy")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def one(seed: int, variant: str, steps: int) -> int:
    """Train one run in this process."""
    import train_grpo_en_ta as trainer
    from pocket.build import build

    world = build(Path(f"pocket/build/seed{seed}"), seed)
    start = world / "policy" if variant == "best" else taught_to_copy(world, seed)
    argv = run_flags(world, seed, RUNS / f"{variant}{seed}")
    # The launch gate would refuse two of these settings; the bench measures what training does with them.
    argv += ["--model_id", str(start), "--max_steps", str(steps), "--skip_launch_gate", *VARIANTS[variant]]
    argv += ["--headroom_prompts", "0", "--patience", "0"]
    return trainer.main(argv)


def copies(folder: Path) -> tuple[float, float]:
    """Return the share of outputs, before and after, that repeat more than a third of their source."""
    from rl_nmt.guards.copying import copied_share
    from rl_nmt.text.languages import TAMIL
    from rl_nmt.text.unicode import clean_for_scoring

    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    shares = []
    for side in ("before", "after"):
        found = [copied_share(row["source"], clean_for_scoring(row[side]), TAMIL) > TAMIL.max_copied for row in rows]
        shares.append(sum(found) / len(found))
    return shares[0], shares[1]


def line(seed: int, variant: str) -> str:
    """Return one row of the table."""
    folder = RUNS / f"{variant}{seed}"
    result = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    old, new = result["before"], result["after"]
    before, after = copies(folder)
    best = ""
    if variant == "best":
        reported = result["best"]["reported"]
        best = (
            f"step {result['best']['step']}: {reported['best']:.1f}, by reward step "
            f"{result['best']['best_by_reward_step']}: {reported['best by reward']:.1f}"
        )
    return (
        f"| {variant} | {seed} | {before:.1%} | {after:.1%} | {old['chrf']:.1f} | {new['chrf']:.1f} | "
        f"{old['reward']:.3f} | {new['reward']:.3f} | {best} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--one", nargs=2, metavar=("SEED", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return one(int(args.one[0]), args.one[1], args.steps)
    table = [
        "| run | seed | copies before | after | chrF++ before | after | reward before | after | best/: chrF++ on the "
        "other half |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for variant in args.only:
        for seed in args.seeds:
            command = [sys.executable, "-m", "bench.pocket_guards", "--steps", str(args.steps)]
            subprocess.run([*command, "--one", str(seed), variant], check=True)
            table.append(line(seed, variant))
    write_table(RUNS, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
