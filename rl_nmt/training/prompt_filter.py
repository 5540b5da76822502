"""Choose training prompts from a pool: those whose samples differ in reward, so that GRPO can learn from them.

A prompt that is too easy or too hard for the policy gives groups without a difference, and these have no gradient.
Filtering them out of every batch gained up to 12 % in under half the steps (arXiv 2504.03380). Here (ours) it is done
once, before training: the start policy's samples decide.
"""

import hashlib
import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rl_nmt import distributed, files
from rl_nmt.audit.groups import Groups, finite
from rl_nmt.errors import ConfigError, Stopped
from rl_nmt.preflight.capacity import generation
from rl_nmt.results.group_sampler import GroupSampler
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run
from rl_nmt.training.callbacks import PLANNED_STOP

NAME = "prompt_filter"
KEPT = "kept_prompts"  # the note that has their hash
PARTIAL = f"{NAME}.partial.jsonl"  # of a pass that is not finished: its identity, then one row per block
FELL = {  # verdicts of prompts that are not kept → the fix, if no prompt is kept and most have this one
    "tied": "raise temperature or group_size",
    "gated": "start from a stronger model_id, or train it on translations first",
    "missing": "the reward's scorers failed: run the same command again when they work",
}
BLOCK = 64  # most prompts of a block, rounded up to whole batches: what a killed pass loses


@dataclass
class Filtered:
    """The prompts that a pass has kept, and why the others fell."""

    identity: dict[str, Any]  # what the verdicts depend on
    kept: list[str]  # in the pool's order
    counts: dict[str, int]  # pool, read, kept, tied, gated, missing, spare, samples
    prompts: list[dict[str, Any]]  # of every prompt read, in the pool's order; see `_rows`

    def save(self, path: Path) -> None:
        """Write as JSON, atomically. Raises CannotWrite."""
        files.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises ConfigError for a damaged file."""
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            good = [row["source"] for row in found.prompts if not row["verdict"]]
            if found.kept != good[: len(found.kept)]:
                raise ValueError("prompts were kept whose samples do not differ in reward")
            return found
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}: cannot be read as filtered prompts ({error}): remove it") from error


def choose(cfg, run: Run, sample: GroupSampler, pool: list[str], started: float | None = None) -> list[str]:
    """Return the prompts to train on: the pool without a filter, else num_train_samples of it, in its order.

    G samples of each prompt are drawn from the start policy, block by block, until enough prompts are kept: those with
    the verdict "" (`Groups.verdict`). A pass that is stopped continues after its last block; a resumed run uses the
    copy of prompt_filter.json in its checkpoint. `run.notes` gets the counts. `started`: time.monotonic() from which
    max_hours count; None: now. Collective. Raises ConfigError (too few), Stopped (max_hours).
    """
    if cfg.prompt_filter == "none":
        return pool
    identity = _identity(run, sample, pool)
    began = time.monotonic() if started is None else started
    deadline = began + 3600 * (cfg.max_hours or math.inf)

    def require(found: Filtered) -> None:
        names = ["pool"] if run.resume else list(identity)  # a resumed run may have another temperature, say
        changed = [name for name in names if found.identity.get(name) != identity[name]]
        changed += ["num_train_samples"] * (len(found.kept) != cfg.num_train_samples)
        if changed:
            raise ConfigError(f"the prompts were chosen with another {', '.join(changed)}")
        read, known = [row["source"] for row in found.prompts], run.notes.get(KEPT)  # None in older checkpoints
        if read != pool[: len(read)] or (run.resume and known not in (None, _hash(found.kept))):
            raise ConfigError(f"the prompts in {NAME}.json were replaced after the run had begun")

    found = run.once(NAME, lambda: _read(cfg, run, sample, pool, identity, deadline), form=Filtered, require=require)
    run.notes |= {NAME: found.counts, KEPT: _hash(found.kept)}
    if distributed.is_main_process():
        (run.folder / PARTIAL).unlink(missing_ok=True)
    return found.kept


def _identity(run: Run, sample: GroupSampler, pool: list[str]) -> dict[str, Any]:
    """Return what the verdicts on a pool depend on, as JSON; num_train_samples is not part of it."""
    prompts = _hash([sample.make_prompt(source) for source in pool])
    known = {name: run.identity.get(name) for name in ("model", "tokenizer", "reward")}
    sizes = {name: getattr(sample, name) for name in ("group_size", "batch_size", "seed", "noise_floor")}
    return files.finite({"pool": prompts, **known, **sizes, **sample.sampling})


def _hash(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def _read(cfg, run: Run, sample: GroupSampler, pool: list[str], identity: dict[str, Any], deadline: float) -> Filtered:
    """Read the pool until enough prompts are kept. Collective. Raises ConfigError if there are too few.

    Raises Stopped between two blocks if another one may end after `deadline`; at least one is sampled.
    """
    file, wanted = MetricsFile(run.folder / PARTIAL), cfg.num_train_samples
    # Gathered, not sent: no process may look for prompt_filter.json when the main one has already saved it.
    known = distributed.gathered(_begun(file, identity) if distributed.is_main_process() else [])
    blocks = {block["start"]: block for block in known}
    batch = max(1, sample.batch_size // sample.group_size)
    size = batch * math.ceil(min(BLOCK, wanted) / batch)
    read: list[dict[str, Any]] = []
    kept: list[str] = []
    seconds = longest = 0.0  # longest: of the blocks sampled now
    while len(read) < len(pool) and len(kept) < wanted:
        start, began = len(read), time.monotonic()
        if start not in blocks:  # the place in the pool seeds the samples
            groups = sample(pool[start : start + size], start, what=f"prompt filter, {len(kept)} of {wanted} kept")
            blocks[start] = {"start": start, "prompts": _rows(groups), "seconds": time.monotonic() - began}
            longest = max(longest, blocks[start]["seconds"])
            if distributed.is_main_process():
                file.append(blocks[start])
        read += blocks[start]["prompts"]
        kept = [row["source"] for row in read if not row["verdict"]]
        seconds += blocks[start]["seconds"]
        late = distributed.broadcast(bool(longest) and time.monotonic() + longest > deadline)
        if late and len(read) < len(pool) and len(kept) < wanted:
            done = f"{len(read)} prompts read are kept in {PARTIAL}"
            stop = Stopped(f"max_hours, in the prompt filter: {done}", PLANNED_STOP)
            stop.elsewhere = not distributed.is_main_process()  # type: ignore[attr-defined]  # all raise, one prints
            raise stop
    why = Counter(row["verdict"] for row in read)
    counts = {"pool": len(pool), "read": len(read), "kept": min(len(kept), wanted)} | {name: why[name] for name in FELL}
    counts |= {"spare": len(kept) - counts["kept"], "samples": len(read) * sample.group_size}
    distributed.from_main(lambda: _require_enough(cfg, counts))
    fell = ", ".join(f"{counts[name]} {name} ({counts[name] / len(read):.0%})" for name in FELL)
    told = f"{fell}, {counts['spare']} not needed; {counts['samples']} samples in {seconds:.0f} s"
    print(f"prompt filter: {wanted} prompts kept, {len(read)} of {len(pool)} read: {told}", flush=True)
    return Filtered(identity, kept[:wanted], counts, read)


def _begun(file: MetricsFile, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the whole blocks of an earlier pass with this identity; without one start the file again, and return [].

    Blocks that lack scores are left out, and so scored again: the scorer may have been down.
    """
    first, *blocks = file.cut_after(0) or [{}]
    before = first.get("identity", {})
    if before == identity:
        whole = [block for block in blocks if all(row["verdict"] != "missing" for row in block["prompts"])]
        print(f"prompt filter: {sum(len(block['prompts']) for block in whole)} prompts were read before", flush=True)
        return whole
    if before:
        changed = ", ".join(name for name in identity if before.get(name) != identity[name])
        print(f"prompt filter: the prompts are sampled again, with another {changed}", flush=True)
    file.path.unlink(missing_ok=True)
    file.append({"identity": identity})
    return []


def _rows(groups: Groups) -> list[dict[str, Any]]:
    """Return source, verdict, spread of the rewards (None without any) and share of outputs that passed, per prompt."""
    rows = []
    for i, source in enumerate(groups.sources):
        known, passed = finite(groups.totals[i]), [not gate for gate in groups.gates[i]]
        spread, share = max(known) - min(known) if known else None, sum(passed) / len(passed)
        rows.append({"source": source, "verdict": groups.verdict(i), "spread": spread, "passed": share})
    return rows


def _require_enough(cfg, counts: dict[str, int]) -> None:
    """Refuse too few kept prompts, with settings that would be enough. Raises ConfigError."""
    kept, pool, wanted = counts["kept"], counts["pool"], cfg.num_train_samples
    if kept == wanted:
        return
    fix = FELL[max(FELL, key=lambda name: counts[name])]
    if kept:
        fix = f"add --filter_pool {math.ceil(1.2 * pool / kept)} --fresh, about enough at this rate"
        # num_train_samples × filter_pool is then the same pool: neither data/ nor the verdicts are made again.
        fewer = max(n for n in range(1, kept + 1) if pool % n == 0)
        if fewer >= generation(cfg)[1]:
            fix += f", or --num_train_samples {fewer} --filter_pool {pool // fewer}, which uses the same samples"
    fell = ", ".join(f"{name} {counts[name]}" for name in FELL)
    raise ConfigError(
        f"filter_pool: {cfg.filter_pool}: {kept} of {pool} prompts read have samples that differ in reward, and "
        f"num_train_samples {wanted} are wanted (the others: {fell}); {fix}"
    )
