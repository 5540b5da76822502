"""Compare GRPO with what a sceptic would do with the same policy samples: RAFT, best-of-N, a prompt filter, chance.

    python -m bench.pocket_baselines [--worlds 1 2] [--runs 2] [--arms grpo filter raft shuffled] [--starts 0 1 2 3 4]

For every world of the pocket (data, policy, back-translator, scorers), each arm trains from the same start, `runs`
times with other seeds, on as many policy samples as configs/pocket.yaml draws:

  grpo       configs/pocket.yaml
  filter     the same on a quarter of the prompts, kept by --prompt_filter headroom; the filter's samples count, so that
             fewer optimizer steps remain
  raft       --method raft
  shuffled   grpo with the rewards of each call shuffled among its samples

Best-of-8 at test time needs no training: 8 samples of the start policy for each held-out row, the one with the highest
reward counts. Prints chrF++ as means over runs with 95 % t-intervals, and where the start stands (`--headroom` on all
held-out rows). `--starts`: worlds whose start the headroom gate judges; an honest one must not be refused. Finished
runs are not repeated; the tables are in runs/pocket_baselines/table.md. In the first of these worlds, starts from which
nothing can be learned are planted; the gate must refuse them, for the right reason.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from bench.pocket_seeds import Shuffled, Wrapped, run_flags, write_table
from bench.replies_arms import cell

RUNS = Path("runs/pocket_baselines")
HELD_OUT = 200  # rows, all of which the start's headroom report samples
REPORT = ["--headroom", "--headroom_prompts", str(HELD_OUT)]
ARMS: dict[str, list[str]] = {
    "grpo": [],
    "filter": ["--prompt_filter", "headroom", "--num_train_samples", "375"],
    "raft": ["--method", "raft"],
    "shuffled": [],
}
PLANTED = ("policy without Tamil", "constant reward", "reward turned round", "temperature 0.01")
EVERY = 8  # optimizer steps between evaluations
SIDES = (("reward", 3), ("outside", 1))  # of a headroom report's line, with the digits shown


def folder(world: int, run: int, arm: str) -> Path:
    """Return the run folder of an arm, or of the report on its "start"."""
    return RUNS / f"world{world}-run{run}-{arm}"


def flags(world: int, run: int, arm: str) -> list[str]:
    """Return the settings of one arm; the seed of a run orders data and samples."""
    place = Path(f"pocket/build/seed{world}")
    line = [*run_flags(place, 100 * world + run, folder(world, run, arm)), "--model_id", str(place / "policy")]
    # The report on the start is made once for all arms; its samples do not count as theirs.
    own = REPORT if arm == "start" else ["--eval_steps", str(EVERY), "--headroom_prompts", "0", *ARMS[arm]]
    return [*line, *own]


def one(world: int, run: int, arm: str) -> int:
    """Train one arm in this process."""
    import train_grpo_en_ta as trainer
    from rl_nmt.training import prompt_filter

    plain_reward, plain_choose = trainer.build_reward, prompt_filter.choose

    def choose(cfg, run, sample, pool):
        kept = plain_choose(cfg, run, sample, pool)
        drawn = run.notes.get("prompt_filter", {}).get("samples", 0)
        cfg.max_steps -= math.ceil(drawn / (cfg.per_device_batch_size * cfg.gradient_accumulation_steps))
        return kept

    prompt_filter.choose = choose
    if arm == "shuffled":
        trainer.build_reward = lambda cfg: Shuffled(plain_reward(cfg), rng=random.Random(run))
    return trainer.main(flags(world, run, arm))


def read(world: int, run: int, arm: str, name: str = "evaluation") -> dict[str, Any]:
    return json.loads((folder(world, run, arm) / f"{name}.json").read_text(encoding="utf-8"))


def curve(world: int, run: int, arm: str) -> dict[int, float]:
    """Return optimizer step → held-out chrF++."""
    lines = (folder(world, run, arm) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["kind"] == "eval"]
    return {row["step"]: row["chrf"] for row in rows}


def best_of(world: int, run: int) -> float:
    """Return the corpus chrF++ of the start policy's samples with the highest reward."""
    from rl_nmt.results.evaluation import Snapshot
    from rl_nmt.results.translation import CHRF

    groups = read(world, run, "start", "headroom")["groups"]
    before = read(world, run, "start", "before")
    references = dict(zip(before["sources"], before["references"], strict=True))
    picked = []
    for outputs, totals in zip(groups["outputs"], groups["totals"], strict=True):
        picked.append(max(zip([-1.0 if t is None else t for t in totals], outputs, strict=True))[1])
    sources = groups["sources"]
    found = CHRF.corpus(Snapshot(sources, [references[s] for s in sources], picked, [], {}))
    assert found is not None
    return found


def results(runs: list[tuple[int, int]], arms: list[str]) -> list[str]:
    """Return the table of held-out chrF++, one column per arm, and the differences to grpo."""
    columns = {"start": [read(*key, arms[0])["before"]["chrf"] for key in runs]}
    columns |= {"best-of-8 at test time": [best_of(*key) for key in runs]}
    columns |= {arm: [read(*key, arm)["after"]["chrf"] for key in runs] for arm in arms}
    lines = [f"| held-out chrF++ | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines.append(f"| mean of {len(runs)} runs | {' | '.join(cell(found, 1) for found in columns.values())} |")
    for i, (world, run) in enumerate(runs):
        lines.append(f"| world {world}, run {run} | {' | '.join(f'{found[i]:.1f}' for found in columns.values())} |")
    if "grpo" in columns:
        for name in [name for name in columns if name not in ("start", "grpo")]:
            gaps = [ours - theirs for ours, theirs in zip(columns["grpo"], columns[name], strict=True)]
            lines.append(f"\ngrpo − {name}, paired by run: {cell(gaps, 1, '+')}")
    return lines


def start(runs: list[tuple[int, int]]) -> list[str]:
    """Return the table of what the start's samples hold, as means over the runs' reports."""
    reports = [read(*key, "start", "headroom")["report"]["lines"] for key in runs]
    lines = [f"| start, {HELD_OUT} held-out rows | reward | chrF++, mean of sentences |", "|---|---|---|"]
    for label in reports[0]:
        cells = [cell([report[label][side]["mean"] for report in reports], *form) for side, *form in SIDES]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def with_filter(runs: list[tuple[int, int]]) -> list[str]:
    """Return when the filtered arm reaches the final chrF++ of the unfiltered one, the filter's samples included."""
    lines = ["| run | filter: kept of read | its samples, in optimizer steps | steps to grpo's final chrF++ | grpo |"]
    lines += ["|---|---|---|---|---|"]
    for key in runs:
        goal, told = curve(*key, "grpo"), read(*key, "filter")["prompt_filter"]
        last = max(goal)
        cost = math.ceil(told["samples"] / 192)
        reached = [step + cost for step, chrf in curve(*key, "filter").items() if chrf >= goal[last]]
        first = [step for step, chrf in goal.items() if chrf >= goal[last]]
        lines.append(
            f"| world {key[0]}, run {key[1]} | {told['kept']} of {told['read']} | {cost} | "
            f"{min(reached) if reached else f'not within {last}'} | {min(first)} |"
        )
    return lines


def judged(world: int) -> str:
    """Return the headroom gate's verdict on a world's start with the default settings, as a line of a table."""
    place = Path(f"pocket/build/seed{world}")
    where = RUNS / f"start{world}"
    line = ["train_grpo_en_ta.py", *run_flags(place, world, where), "--model_id", str(place / "policy"), "--headroom"]
    status = subprocess.run([sys.executable, *line], check=False).returncode
    if status not in (0, 3):
        raise SystemExit(f"the report on the start of world {world} ended with status {status}")
    return f"| {world} | {'refused' if status else 'passed'} |"


class Turned(Wrapped):
    """A reward that prefers the worse of two outputs that pass."""

    def score_components(self, *args, **kwargs):
        rows = self.reward.score_components(*args, **kwargs)
        return [row if row["gate"] or row["total"] is None else row | {"total": 1 - row["total"]} for row in rows]


class Constant(Wrapped):
    """A reward that is the same for every output that passes."""

    def score_components(self, *args, **kwargs):
        rows = self.reward.score_components(*args, **kwargs)
        return [row if row["gate"] else row | {"total": 0.5} for row in rows]


def echoing(world: int) -> Path:
    """Return the folder of the world's policy trained to repeat its English source; it is made once."""
    import torch
    from transformers import AutoTokenizer, Gemma3ForCausalLM

    from pocket import fitting, models
    from pocket.build import Sizes
    from train_grpo_en_ta import make_prompt

    folder, policy = RUNS / f"echoing{world}", Path(f"pocket/build/seed{world}/policy")
    if (folder / "config.json").exists():
        return folder
    sentences = [pair.english for pair in models.known_pairs(world, Sizes())]
    tokenizer, model = AutoTokenizer.from_pretrained(policy), Gemma3ForCausalLM.from_pretrained(policy)
    torch.manual_seed(world)
    rng = random.Random(world)

    def loss():
        batch = rng.sample(sentences, 64)
        return models.sft_loss(model, tokenizer, list(map(make_prompt, batch)), batch)

    fitting.train(model, loss, 100, 0.005, what="learning to echo")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def plant(world: int, name: str) -> None:
    """Report in this process on a start that the gate must refuse; ends it with the gate's status."""
    import train_grpo_en_ta as trainer
    from rl_nmt import errors

    place, wrapper = Path(f"pocket/build/seed{world}"), {"reward turned round": Turned, "constant reward": Constant}
    line = [*run_flags(place, world, RUNS / f"planted-{name.replace(' ', '_')}"), "--headroom", "--model_id"]
    line += [str(echoing(world) if name == "policy without Tamil" else place / "policy")]
    line += ["--temperature", "0.01"] if name == "temperature 0.01" else []
    if name in wrapper:
        plain = trainer.build_reward
        trainer.build_reward = lambda cfg: wrapper[name](plain(cfg))
    errors.run(lambda: trainer.main(line))


def refused(world: int, name: str) -> str:
    """Return what the gate says of a planted start, as a line of a table."""
    command = [sys.executable, "-m", "bench.pocket_baselines", "--plant", str(world), name]
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    (said,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")] or ["error: "]
    return f"| {name} | {'refused' if done.returncode == 3 else f'status {done.returncode}'}: {said[7:150]}… |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=2, help="runs per world")
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=[*ARMS])
    parser.add_argument("--starts", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--plant", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plant:
        plant(int(args.plant[0]), args.plant[1])
    if args.one:
        world, run, arm = args.one
        return one(int(world), int(run), arm)
    from pocket.build import build

    for world in sorted({*args.worlds, *args.starts}):
        build(Path(f"pocket/build/seed{world}"), world)
    runs = list(product(args.worlds, range(args.runs)))
    for key, arm in product(runs, ["start", *args.arms]):
        if not (folder(*key, arm) / ("headroom.json" if arm == "start" else "evaluation.json")).exists():
            command = [sys.executable, "-m", "bench.pocket_baselines", "--one", *map(str, key), arm]
            subprocess.run(command, check=True)
    lines = [*start(runs), "", *results(runs, args.arms), ""]
    lines += [*with_filter(runs), ""] if {"grpo", "filter"} <= {*args.arms} else []
    if args.starts:
        lines += ["| start of world | headroom gate |", "|---|---|", *map(judged, args.starts)]
        lines += [refused(args.starts[0], name) for name in PLANTED]
    write_table(RUNS, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
