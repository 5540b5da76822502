"""Split rows with a post and a reply into a file for SFT and one for GRPO; no post is in both.

    python -m recipes.replies.split --input rows.jsonl --output-dir data/processed --split-ratio 0.5 --seed 42

Give the files as data.sft_file and data.grpo_file. Both have equal shares of short, medium and long posts and of
negative, neutral and positive ones (terciles). A run with data.train_file does the same without files.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from recipes.replies.data import by_post, read_rows, split, strata
from recipes.replies.settings import DataCfg
from rl_nmt import files
from rl_nmt.errors import ConfigError, run
from rl_nmt.ranges import check_ranges

NAMES = ("train_phase1_sft.jsonl", "train_phase2_grpo.jsonl")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read, split, write both files and print the posts per stratum."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.replies.split",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="JSONL, JSON, TSV or Parquet")
    parser.add_argument(
        "--output-dir", "--output_dir", required=True, metavar="FOLDER", help="where to write the files"
    )
    parser.add_argument(
        "--split-ratio", "--split_ratio", type=float, default=0.5, metavar="SHARE", help="of SFT, %(default)s"
    )
    parser.add_argument("--seed", type=int, default=42, help="changes which posts are for SFT, %(default)s")
    parser.add_argument("--post-field", "--post_field", default="", metavar="COLUMN", help="column of the posts")
    parser.add_argument("--reply-field", "--reply_field", default="", metavar="COLUMN", help="column of the replies")
    given = parser.parse_args(arguments)
    check_ranges(DataCfg(split_ratio=given.split_ratio), "--")
    rows = read_rows(given.input, "--input", given.post_field, given.reply_field)
    phases = split(rows, given.split_ratio, given.seed)
    if not all(phases):
        raise ConfigError(f"--input: {given.input} has too few posts for two phases: {len(by_post(rows, 0))}")
    folder, found = Path(given.output_dir).expanduser(), strata(by_post(rows, given.seed))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error, "--output-dir") from error
    for name, phase in zip(NAMES, phases, strict=True):
        lines = [json.dumps({"post": r["source"], "reply": r["reference"]}, ensure_ascii=False) for r in phase]
        files.write(folder / name, "\n".join(lines) + "\n", "--output-dir")
    sft, grpo = (Counter(found[post] for post in by_post(phase, 0)) for phase in phases)
    print(f"{'length':<9}{'sentiment':<11}{'SFT':>6}{'GRPO':>6}")
    for stratum in sorted(sft | grpo):
        names = f"{('short', 'medium', 'long')[stratum[0]]:<9}{('low', 'middle', 'high')[stratum[1]]:<11}"
        print(f"{names}{sft[stratum]:>6}{grpo[stratum]:>6}")
    print(f"{len(phases[0])} rows in {folder / NAMES[0]}, {len(phases[1])} in {folder / NAMES[1]}")


if __name__ == "__main__":
    run(main)
