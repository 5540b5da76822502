"""Build the twins of a pocket world: what the metric-ensemble recipe needs besides policy and data.

    python -m pocket.twins.build [--seed 0]

Into pocket/build/twins-seed<N>/ go a MetricX-24-format model (error points 0 to 25 of source and translation), an
XCOMET-format model (a quality score, and the words that are wrong), and the references that pocket/twins/judge.py
judges by. Both models are fitted on samples of the world's start policy, of a better one, and on damaged references,
whose errors are known exactly. The world itself is built first if it is not there.

Everything is keyed by the world, a hash of this folder's code and the sizes: a second call does nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from pocket import build as worlds
from rl_nmt import errors

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the pocket twins; tests take less."""

    max_words: int = 7  # English words per sentence, as in the world
    pairs: int = 20000  # known pairs for fitting
    sampled_prompts: int = 2800  # for each of three ways to sample ...
    samples_each: int = 1  # ... one output: many sources teach more than many outputs of one
    better_steps: int = 50  # of a more careful teacher: the policy as it may become
    batch: int = 64
    vocab: int = 1600
    hidden: int = 128
    layers: int = 3
    metricx_steps: int = 1300
    with_reference: float = 0.1  # share of MetricX' batches that show the reference
    xcomet_steps: int = 700
    web_sentences: int = 7  # per document of the world's shard, which holds fewer: what the judge can look up


def key(world: Path, sizes: Sizes) -> str:
    """Hash of the world's key, the code of this folder and the sizes."""
    stamp = json.loads((world / "build.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(f"{stamp['key']} {sizes}".encode())
    for path in sorted(HERE.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, world: Path, sizes: Sizes | None = None) -> Path:
    """Build the twins of `world` into `folder` unless it already holds exactly these; returns the folder."""
    sizes = sizes or Sizes()
    stamp, wanted = folder / "build.json", key(world, sizes)
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == wanted:
        return folder
    start, used = time.monotonic(), time.process_time()
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    described = json.loads((world / "build.json").read_text(encoding="utf-8"))
    report = build_all(draft, world, described["seed"], described["sizes"]["documents"], sizes)
    report |= {"seconds": round(time.monotonic() - start), "cpu_seconds": round(time.process_time() - used)}
    stamped = {"key": wanted, "world": described["key"], "seed": described["seed"], "sizes": asdict(sizes), **report}
    (draft / "build.json").write_text(json.dumps(stamped, indent=1), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    print(f"pocket twins ready in {folder} after {report['seconds']} s", flush=True)
    return folder


def build_all(folder: Path, world: Path, seed: int, documents: int, sizes: Sizes) -> dict:
    """Everything of one world's twins; returns how well they agree with what is known."""
    from pocket import models
    from pocket.twins import graded, metricx, xcomet

    start = time.monotonic()
    pairs = models.known_pairs(seed, sizes)
    write_references(folder, world, pairs, seed, documents, sizes)
    rows = graded.fitting_rows(world, pairs, seed, sizes)
    models.say(start, f"{len(rows)} outputs with known errors")
    metricx.fit_metricx(folder / "metricx", rows, pairs, seed, sizes)
    xcomet.fit_xcomet(folder / "xcomet", rows, pairs, seed, sizes)
    group = 8
    held = graded.heldout_samples(world, seed, sizes, group=group)
    check = {
        "known errors": graded.check_points(held, group),
        "metricx": metricx.check_metricx(folder / "metricx", held, group),
        "xcomet": xcomet.check_xcomet(folder / "xcomet", held, group),
    }
    for name, found in check.items():
        figures = f"Pearson {found['pearson']:.3f}, in-group Spearman {found['spearman']:.3f}"
        models.say(start, f"{name} against sentence chrF++ on {len(held)} held-out samples: {figures}")
    words = check["xcomet"]["words"]
    models.say(
        start,
        f"xcomet words: F1 {words['f1']:.3f} (all words marked: {words['f1_of_all']:.3f}), precision "
        f"{words['precision']:.3f}, recall {words['recall']:.3f}, Matthews {words['mcc']:.3f}",
    )
    return {"check": check}


def write_references(folder: Path, world: Path, pairs, seed: int, documents: int, sizes: Sizes) -> None:
    """What the judge knows: the sentences of the web shard, the held-out ones, and those of supervised fitting."""
    from pocket import grammar
    from pocket.twins.judge import REFERENCES

    web = islice(grammar.pairs(seed, part="web", max_words=sizes.max_words), sizes.web_sentences * documents)
    rows = [{"english": pair.english, "tamil": pair.tamil} for pair in (*pairs, *web)]
    rows += [json.loads(line) for line in (world / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    file = folder / REFERENCES
    file.parent.mkdir()
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the world (default 0)")
    parser.add_argument("--out", type=Path, help="folder (default pocket/build/twins-seed<N>)")
    args = parser.parse_args()
    kept = worlds.HERE / "build"
    world = worlds.build(kept / f"seed{args.seed}", args.seed)
    build(args.out or kept / f"twins-seed{args.seed}", world)
    return 0


if __name__ == "__main__":
    errors.run(main)
