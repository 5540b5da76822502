"""Train real Gemma 3 270M by configs/gemma3_270m_laptop.yaml, and compare with the model before and with RAFT.

    python -m bench.real_gemma --gemma FOLDER --pairs PAIRS [--runs 2] [--threads 1] [-- FLAGS of train_grpo_en_ta.py]

FOLDER: google/gemma-3-270m. PAIRS: English–Tamil, JSONL or TSV: SFT reads rows 1–700, GRPO and RAFT the English of rows
701–900, all only those of at most `max_chars` characters; the results are measured on rows 901–1,000. The arms:

  base    the model as it is
  sft     after fine-tuning on the pairs; all later arms start from it
  grpo    GRPO with the likelihood reward by FOLDER itself, `runs` times with other seeds
  raft    --method raft with as many samples

Each arm is a process with `threads` threads; finished ones are not repeated. All are measured on the same greedy
translations. Launch gate and headroom report are left out, ten minutes each on one core; docs/LOG.md has both.
Intervals are 95 % percentiles of a paired bootstrap over rows, for GRPO over rows and runs. Writes table.md and, for a
reader, samples.tsv to `output`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.pocket_seeds import write_table

CONFIG = "configs/gemma3_270m_laptop.yaml"
ARMS = ("base", "sft", "grpo", "raft")
NAMES = {"base": "as it is", "sft": "after SFT", "raft": "RAFT"}
IN_RUN = 16  # held-out rows that a run itself evaluates; the bench measures on all
NEW_TOKENS = 96  # in measuring: 99 % of NTREX's Tamil references are shorter
COLUMNS = {"chrF++": 1, "in Tamil": 2, "gated": 2, "reward": 3}  # with the digits shown
GRPO = {"max_steps": 14}  # half the preset's: a step of 24 samples takes more than a minute
RAFT = {"method": "raft", "raft.rounds": 3, "raft.batch_size": 12}  # a round chooses about 15 outputs
SKIPPED = ["--skip_launch_gate", "--headroom_prompts", "0"]


def processes(arms: Sequence[str], runs: int) -> list[str]:
    """Return the names of the runs of these arms, in order: base, sft, grpo-1, grpo-2, raft."""
    return [name for arm in arms for name in ([f"grpo-{n + 1}" for n in range(runs)] if arm == "grpo" else [arm])]


def write_data(args: argparse.Namespace) -> None:
    """Write sft.jsonl, english.jsonl and heldout.jsonl. Raises SystemExit for too few rows and for other settings."""
    from rl_nmt.data import tables
    from rl_nmt.data.cleaning import clean_document

    pairs, (first, second, last) = tables.read_pairs(args.pairs, "pairs"), args.rows
    if len(pairs) < first + second + last:
        raise SystemExit(f"pairs: {args.pairs} has {len(pairs)} rows, {sum(args.rows)} are needed; lower --rows")
    digest = hashlib.sha256(Path(args.pairs).read_bytes()).hexdigest()[:16]
    asked = {"pairs": digest, **{name: getattr(args, name) for name in ("gemma", "rows", "max_chars", "flags")}}
    known = args.output / "settings.json"
    if known.exists() and json.loads(known.read_text(encoding="utf-8")) != asked:
        raise SystemExit(f"output: {args.output} has runs with other settings; name another --output")
    rows = [{"english": pair.source, "tamil": pair.output} for pair in pairs]
    cleaned = [clean_document(row["english"], 1, args.max_chars)[0] for row in rows[first : first + second]]
    parts = {"sft": [row for row in rows[:first] if len(row["english"]) <= args.max_chars]}
    parts |= {"english": [{"text": text} for text in dict.fromkeys(filter(None, cleaned))]}
    parts |= {"heldout": rows[first + second :][:last]}
    args.output.mkdir(parents=True, exist_ok=True)
    for name, lines in parts.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (args.output / f"{name}.jsonl").write_text(text, encoding="utf-8")
    known.write_text(json.dumps(asked, ensure_ascii=False), encoding="utf-8")


def model(args: argparse.Namespace, name: str) -> str:
    """Return the folder of the model that a run ends with; "base": as it is."""
    folder = args.output / name / "final"
    return str({"base": args.gemma, "sft": args.output / "sft/sft/final"}.get(name, folder))


def flags(args: argparse.Namespace, name: str) -> list[str]:
    """Return the settings of one run."""
    english, heldout = (args.output / f"{part}.jsonl" for part in ("english", "heldout"))
    prompts = english.read_text(encoding="utf-8").count("\n")
    in_run = min(IN_RUN, prompts // 4)
    named: dict[str, Any] = {"config": CONFIG, "model_id": args.gemma, "likelihood_model": args.gemma}
    named |= {"dataset_name": "json", "data_files": english, "eval_file": heldout, "max_chars": args.max_chars}
    named |= {"num_eval_samples": in_run, "num_train_samples": prompts - in_run, "min_chars": 1}
    named |= {"seed": name.partition("-")[2] or 1, "output_dir": args.output / name} | GRPO
    own: dict[str, Any] = {"base": {}, "sft": {"warm_start_file": args.output / "sft.jsonl"}}
    named |= own.get(name, {"model_id": model(args, "sft")}) | (RAFT if name == "raft" else {})
    return [*(word for key, value in named.items() for word in (f"--{key}", str(value))), *SKIPPED, *args.flags]


def one(args: argparse.Namespace, name: str) -> None:
    """Train in this process, unless it is done, and measure the result on all held-out rows."""
    import train_grpo_en_ta as trainer
    from rl_nmt import config
    from rl_nmt.data import eval_sets
    from rl_nmt.runs.run import Run
    from rl_nmt.training import warm_start

    line = flags(args, name)
    cfg, _, _ = config.parse(trainer.RunCfg, line, trainer.ACTIONS, prog="bench.real_gemma", description="")
    rows = eval_sets.load_eval("", str(args.output / "heldout.jsonl"), args.rows[-1], cfg.seed)
    if name == "sft":
        trainer.check(cfg)
        with Run.open(cfg.output_dir, script="bench/real_gemma.py", argv=sys.argv[1:]) as run:
            warm_start.start_model(cfg, run, rows, trainer.make_prompt, trainer.PROMPT)
    elif name != "base" and (status := trainer.main(line)):
        raise SystemExit(status)
    cfg.max_new_tokens = max(cfg.max_new_tokens, NEW_TOKENS)
    policy, reward = trainer.load_policy(cfg, model(args, name)), trainer.build_reward(cfg)
    (args.output / name).mkdir(parents=True, exist_ok=True)
    trainer.evaluator(cfg, policy, rows, reward)(policy.model).save(args.output / name / "measured.json")


def measured(snapshots: Sequence, column: str) -> tuple[float, np.ndarray]:
    """Return a column's mean over runs and its bootstrap draws (D,) of rows and, if there are several, of runs."""
    from rl_nmt.results.evaluation import bootstrap_draws
    from rl_nmt.results.translation import CHRF, IN_LANGUAGE
    from rl_nmt.text import TAMIL
    from rl_nmt.text.unicode import script_share

    of_row = {"in Tamil": lambda text, row: script_share(text, TAMIL) >= IN_LANGUAGE}
    of_row |= {"gated": lambda text, row: bool(row["gate"]), "reward": lambda text, row: row["total"]}
    values, drawn = [], []
    for each in snapshots:
        if column == "chrF++":
            values, drawn = [*values, CHRF.corpus(each)], [*drawn, CHRF.resampled(each, 0)]
            continue
        found = np.array(list(map(of_row[column], each.outputs, each.components)), dtype=float)  # nan: not scored
        known = np.isfinite(found)
        counts = bootstrap_draws(len(found), 0)[:, known]  # the same rows for every snapshot
        values.append(found[known].mean())
        with np.errstate(invalid="ignore"):  # nan: no scored row is in the draw
            drawn.append(counts @ found[known] / counts.sum(1))
    picked = np.random.default_rng(0).integers(len(drawn), size=(len(drawn), len(drawn[0])))
    return float(np.mean(values)), np.take_along_axis(np.array(drawn), picked, axis=0).mean(0)


def cell(value: float, draws: np.ndarray, digits: int, sign: str = "") -> str:
    """Return value [2.5 %, 97.5 %] of the draws."""
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(snapshots: dict[str, Any]) -> list[str]:
    """Return the table's lines. `snapshots`: name of `processes` → its Snapshot."""
    rows = {NAMES.get(name, name.replace("grpo-", "GRPO, run ")): [found] for name, found in snapshots.items()}
    grpo = [found for name, found in snapshots.items() if name.startswith("grpo-")]
    rows |= {f"GRPO, mean of {len(grpo)} runs": grpo} if len(grpo) > 1 else {}
    found = {label: {c: measured(each, c) for c in COLUMNS} for label, each in rows.items()}
    for other in [NAMES[name] for name in ("sft", "raft") if grpo and name in snapshots]:
        ours, theirs = found[[*rows][-1] if len(grpo) > 1 else "GRPO, run 1"], found[other]
        gaps = {c: (ours[c][0] - theirs[c][0], ours[c][1] - theirs[c][1]) for c in COLUMNS}
        found[f"GRPO − {other}, paired by row"] = gaps
    n = len(next(iter(snapshots.values())).sources)
    lines = [f"| {n} held-out rows | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label, cells in found.items():
        sign = "+" if "−" in label else ""
        lines.append(f"| {label} | {' | '.join(cell(*cells[c], COLUMNS[c], sign) for c in COLUMNS)} |")
    return lines


def samples(snapshots: dict[str, Any]) -> str:
    """Return a TSV of sources, references and what each run made of them with its reward, or why it was gated."""
    from rl_nmt.results.task import REWARD

    first = next(iter(snapshots.values()))
    columns = {"source": first.sources, "reference": [text or "" for text in first.references]}
    for name, found in snapshots.items():
        columns[name] = found.outputs
        columns[f"{name} reward"] = [row["gate"] or REWARD.show(row["total"]) for row in found.components]
    lines = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join("\t".join(" ".join(text.split()) for text in line) + "\n" for line in lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--gemma", "--pairs"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rows", type=int, nargs=3, default=[700, 200, 100], help="for SFT, GRPO and RAFT, measuring")
    parser.add_argument("--max_chars", type=int, default=140, help="longest English text that is used")
    parser.add_argument("--runs", type=int, default=2, help="of GRPO")
    parser.add_argument("--arms", nargs="+", default=[*ARMS], choices=ARMS)
    parser.add_argument("--threads", type=int, default=1, help="of torch, per process")
    parser.add_argument("--output", type=Path, default=Path("runs/real_gemma"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help="after --: settings of all runs, e.g. -- --max_steps 5")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.one:
        one(args, args.one)
        return 0
    from rl_nmt.results.evaluation import Snapshot

    write_data(args)
    given, env = list(sys.argv[1:] if argv is None else argv), os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    snapshots = {}
    for name in processes(args.arms, args.runs):
        path, start = args.output / name / "measured.json", time.monotonic()
        if not path.exists():
            subprocess.run([sys.executable, "-m", "bench.real_gemma", "--one", name, *given], check=True, env=env)
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        snapshots[name] = Snapshot.load(path)
    (args.output / "samples.tsv").write_text(samples(snapshots), encoding="utf-8")
    write_table(args.output, table(snapshots))
    return 0


if __name__ == "__main__":
    sys.exit(main())
