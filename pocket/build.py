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
import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rl_nmt import errors, progress
from rl_nmt.errors import CannotWrite, ConfigError

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sizes:
    """How much of everything. The defaults make the pocket world."""

    documents: int = 4000
    references: int = 300
    max_words: int = 7  # English words per sentence
    pairs: int = 20000  # known pairs for supervised fitting
    vocab: int = 2600
    policy_hidden: int = 192
    policy_layers: int = 2
    careless: float = 0.65  # policy: how often its teacher gives in to each bad habit
    policy_steps: int = 300  # again until it reaches policy_chrf, then a quarter more with a falling rate
    policy_chrf: float = 50.0
    stronger_steps: int = 60
    nllb_hidden: int = 160
    nllb_layers: int = 2
    nllb_steps: int = 400
    comet_hidden: int = 128
    comet_layers: int = 2
    da_steps: int = 200
    tag_steps: int = 300
    qe_steps: int = 300
    sampled_prompts: int = 400
    samples_each: int = 4
    processes: int = 2  # that fit models at the same time, with one thread each


SMALL = Sizes(  # a world of seconds that can translate nothing, to try code on
    documents=60,
    references=20,
    pairs=300,
    vocab=700,
    policy_hidden=32,
    policy_layers=1,
    policy_steps=4,
    stronger_steps=2,
    nllb_hidden=32,
    nllb_layers=1,
    nllb_steps=4,
    comet_hidden=32,
    comet_layers=1,
    da_steps=20,
    tag_steps=20,
    qe_steps=120,
    sampled_prompts=8,
    samples_each=2,
    processes=1,
)

# Each part is a folder that is made whole or not at all, from those it names.
PARTS = {
    "policy": (),
    "nllb": (),
    "tags": (),
    "graded0": ("policy", "nllb"),
    "graded1": ("policy", "nllb"),
    "comet_qe": ("tags", "graded0", "graded1"),
    "comet_da": ("graded0", "graded1"),
}
NEEDED = 200 * 2**20  # bytes of disk


def key(seed: int, sizes: Sizes) -> str:
    """Hash of the builder's code and words, the prompt, the sizes and the seed."""
    from train_grpo_en_ta import PROMPT

    digest = hashlib.sha256(f"{seed} {sizes} {PROMPT}".encode())
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*.txt")]):
        if path.name != "show.py":  # it builds nothing
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def build(folder: Path, seed: int = 0, sizes: Sizes | None = None) -> Path:
    """Build into `folder` unless it already holds exactly this; returns the folder. A build that was stopped continues.

    Raises ConfigError while another process builds there, CannotWrite where the disk is full.
    """
    sizes = sizes or Sizes()
    stamp = folder / "build.json"
    wanted = key(seed, sizes)
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == wanted:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(folder.name + ".part")
    with only_one(folder.with_name(folder.name + ".lock")), room(folder.parent):
        begin(draft, wanted)
        start = time.monotonic()
        report = build_all(draft, seed, sizes)
        report["seconds"] = round(time.monotonic() - start)
        stamped = {"key": wanted, "seed": seed, "sizes": asdict(sizes), **report}
        (draft / "build.json").write_text(json.dumps(stamped, indent=1), encoding="utf-8")
        for name in ("key", "tags", "graded0", "graded1", "policy/stronger"):  # only needed on the way
            remove(draft / name)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    print(f"pocket world ready in {folder} after {report['seconds']} s", flush=True)
    return folder


def begin(draft: Path, wanted: str) -> None:
    """Keep the parts of an earlier build of exactly this world, and nothing else."""
    mark = draft / "key"
    if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        mark.write_text(wanted, encoding="utf-8")
    for path in draft.glob("*.part"):  # what was not finished
        remove(path)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def build_all(draft: Path, seed: int, sizes: Sizes) -> dict:
    """Every part that is not there yet; returns the scorers' correlations with true quality."""
    from pocket import models, scorers, shard

    shard.write_shard(draft / "c4" / "c4-train.00000-of-00001.json.gz", sizes.documents, seed, sizes.max_words)
    shard.write_references(draft / "heldout.jsonl", sizes.references, seed, sizes.max_words)
    shard.write_words(draft / "words.txt", models.known_pairs(seed, sizes))
    workers = min(sizes.processes, os.cpu_count() or 1)
    if workers > 1:
        in_processes(workers, draft, seed, sizes)
    else:
        for name in PARTS:
            make(name, draft, seed, sizes)
    return {"check": scorers.check_scorers(draft, seed, sizes)}


def in_processes(workers: int, draft: Path, seed: int, sizes: Sizes) -> None:
    """Make the parts in `workers` processes, each as soon as what it needs is there."""
    context = multiprocessing.get_context("spawn")
    tqdm.set_lock(context.RLock())
    places = context.Queue()
    for place in range(workers):
        places.put(place)
    left, running = dict(PARTS), {}
    with ProcessPoolExecutor(workers, context, initializer=begin_worker, initargs=(places, tqdm.get_lock())) as pool:
        while left or running:
            for name in [n for n, needs in left.items() if not {*left, *running.values()} & {*needs}]:
                running[pool.submit(make, name, draft, seed, sizes)] = name
                del left[name]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                future.result()


def begin_worker(places, lock) -> None:
    """One thread and a line of the terminal for this process; it ends with the process that started it."""
    import torch

    from rl_nmt.models.loading import keep_freed_memory

    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    progress.place(places.get())
    tqdm.set_lock(lock)
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def make(name: str, draft: Path, seed: int, sizes: Sizes) -> None:
    """Make one part, if it is not there: in a folder next to it, which is renamed at the end."""
    from pocket import models, scorers

    if (draft / name).exists():
        return
    part = draft / f"{name}.part"
    part.mkdir()
    maker = {
        "policy": models.fit_policy,
        "nllb": models.fit_backtranslator,
        "tags": scorers.fit_tags,
        "graded0": partial(scorers.grade, half=0),
        "graded1": partial(scorers.grade, half=1),
        "comet_qe": scorers.fit_qe,
        "comet_da": scorers.fit_da,
    }[name]
    maker(part, seed=seed, sizes=sizes)
    part.rename(draft / name)


@contextlib.contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Raise ConfigError if another process is inside."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{lock.with_suffix('')}: another process is building it; wait for it or stop it"
            ) from None
        yield


@contextlib.contextmanager
def room(folder: Path) -> Iterator[None]:
    """Raise CannotWrite if there is too little room to begin with, or if a failure comes from a full disk."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED:
        raise CannotWrite(f"{folder}: {free >> 20} MB are free, and the pocket world needs {NEEDED >> 20} MB")
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in errors.NO_ROOM or shutil.disk_usage(folder).free < 2**20:
            raise CannotWrite(f"{folder}: the disk is full; free some space, and the build continues") from error
        raise


def build_once(folder: Path, what: str, wanted: str, seed: int, sizes: Any, make: Callable[[Path], Any]) -> Path:
    """Build a small world into `folder` unless it already has the key `wanted`; returns the folder.

    `make` fills a draft of it and returns a check of its models, as JSON; `sizes`: a dataclass. Raises ConfigError
    while another process builds there, CannotWrite where the disk is full.
    """
    stamp = folder / "build.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8"))["key"] == wanted:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(folder.name + ".part")
    with only_one(folder.with_name(folder.name + ".lock")), room(folder.parent):
        start = time.monotonic()
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        check = make(draft)
        seconds = round(time.monotonic() - start)
        stamped = {"key": wanted, "seed": seed, "sizes": asdict(sizes), "check": check, "seconds": seconds}
        (draft / "build.json").write_text(json.dumps(stamped, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    print(f"{what} world ready in {folder} after {seconds} s", flush=True)
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
