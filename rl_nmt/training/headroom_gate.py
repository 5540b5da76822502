"""The headroom gate: measure before training what the start policy's samples could gain, and refuse a hopeless run."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rl_nmt import distributed, errors, files
from rl_nmt.errors import ConfigError
from rl_nmt.runs.run import Run

REPORT = "headroom"  # <run folder>/headroom.json


def require(asked: Mapping[str, bool], prompts: int, run: Run | None = None) -> None:
    """Refuse the flag --headroom where it has nothing to report: with other flags, or once `run` has begun.

    `prompts`: the setting headroom_prompts. Raises ConfigError.
    """
    if not asked["headroom"]:
        return
    for other in ("eval_only", "skip_headroom_gate"):
        if asked[other]:
            raise ConfigError(f"--headroom cannot be combined with --{other}: give one of them")
    if not prompts:
        raise ConfigError("headroom_prompts: 0: --headroom would measure nothing; set it to 64, for example")
    if run is not None and (run.resume or (run.folder / "evaluation.json").exists()):
        raise ConfigError(
            f"--headroom: {run.folder} holds a run that has begun; for a report on its start policy, add --fresh or "
            f"name another --{run.setting('output_dir')}"
        )


def ask(run: Run, sample, before, monitor, prompts: int, skip: str = "") -> None:
    """Measure once per run what the start policy's samples could gain, and refuse where nothing can be learned.

    The report is kept in headroom.json and measured again only if what it depends on has changed or scores were
    missing; a resumed run is not judged again. Collective.

    Args:
        sample: a `GroupSampler`; before: the start policy's Snapshot; monitor: has the score outside the reward.
        prompts: held-out rows to sample, the first ones of `before`; 0: nothing is done.
        skip: why the run is not judged; then nothing is measured, and a report of an earlier start is only noted.

    Raises RewardRefused.
    """
    if not prompts or run.resume is not None:  # older runs have no report, and temperature may have changed since
        return
    from rl_nmt.audit.headroom import Headroom

    identity = _identity(run, sample, before, prompts, distributed.broadcast(monitor.name))

    def same(report) -> None:
        if changed := [name for name in identity if report.identity.get(name) != identity[name]]:
            raise ConfigError(f"it was measured with another {', '.join(changed)}")
        if missing := report.groups.verdicts.count("missing"):  # a scorer may have been down
            raise ConfigError(f"{missing} of {len(report.groups)} groups have too few scores")

    if skip:
        print(f"headroom gate: {skip}", flush=True)
        run.notes["headroom_gate"] = {"passed": None, "reasons": [skip]} | _kept(run, same)
        return
    report = run.once(REPORT, lambda: _measure(sample, before, monitor, prompts, identity), form=Headroom, require=same)
    report.groups.noise_floor = sample.noise_floor  # measured at every start; samples and scores do not depend on it
    run.notes["headroom_gate"] = files.finite(report.as_dict())
    verdict = "REFUSED" if report.reasons else "passed"
    print(f"{report.table()}\nheadroom gate: {verdict}   report {run.folder / f'{REPORT}.json'}", flush=True)
    report.require_passed()
    for warning in report.warnings if distributed.is_main_process() else ():
        errors.warn(warning)


def _identity(run: Run, sample, before, prompts: int, outside: str) -> dict[str, Any]:
    """Return what a report depends on, as JSON."""
    rows = json.dumps([before.sources[:prompts], before.references[:prompts]])
    named = {name: run.identity.get(name) for name in ("model", "tokenizer", "reward")}
    named |= {**sample.sampling, "group_size": sample.group_size, "seed": sample.seed}
    named |= {"held-out rows": hashlib.sha256(rows.encode()).hexdigest()[:16], "score outside the reward": outside}
    return files.finite(named)


def _kept(run: Run, same) -> dict[str, Any]:
    """Return the numbers of the report in the run folder; {} without one that fits."""
    from rl_nmt.audit.headroom import Headroom

    try:
        report = Headroom.load(run.folder / f"{REPORT}.json")
        same(report)
    except ConfigError:
        return {}
    numbers = files.finite(report.as_dict())
    return {name: value for name, value in numbers.items() if name not in ("passed", "reasons", "warnings")}


def _measure(sample, before, monitor, prompts: int, identity: dict[str, Any]):
    """Sample the first rows of `before` and score the samples, with the greedy outputs, outside the reward."""
    from rl_nmt.audit.headroom import Headroom
    from rl_nmt.results.evaluation import Snapshot

    sources, references = before.sources[:prompts], before.references[:prompts]
    count, size = len(sources), sample.group_size
    print(f"headroom: sampling {size} outputs of each of {count} held-out prompts", flush=True)
    groups = sample(sources, what="headroom")
    outputs = [*before.outputs[:prompts], *(text for texts in groups.outputs for text in texts)]
    rows = [*range(count), *(row for row in range(count) for _ in range(size))]  # of each output
    shot = Snapshot([sources[row] for row in rows], [references[row] for row in rows], outputs, [], {})
    scores = distributed.from_main(lambda: monitor.independent(shot))
    outside = [scores[start : start + size] for start in range(count, len(scores), size)]
    greedy = [row.get("total") for row in before.components[:prompts]]
    return Headroom(groups, greedy, scores[:count], outside, identity["score outside the reward"], identity)
