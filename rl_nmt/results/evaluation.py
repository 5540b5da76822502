"""Evaluate models on held-out text: greedy outputs, rewards, and metrics outside the reward (task.py).

`evaluate` makes a `Snapshot` of one model; `compare` compares two snapshots of the same rows.

The p-values are a paired bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation
Evaluation", EMNLP; centred on the resamples' mean and two-sided): rows are drawn with replacement, both
systems are scored on the same draw, and p is the share of draws whose difference is at least as far from
the draws' mean difference as the observed difference is from zero. sacreBLEU's own paired bootstrap counts
only the upper tail, and reports two equal systems as different (its comparison is strict).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from rl_nmt import files
from rl_nmt.errors import ConfigError
from rl_nmt.files import finite
from rl_nmt.progress import progress
from rl_nmt.results.task import COMMON, REWARD, Task, mean, number
from rl_nmt.text.unicode import safe_unicode

RESAMPLES = 1000
SCORED_TOGETHER = 64  # rows per call of the reward; fixed, since the last digits of scores depend on the batch
TEXTS = ("source", "output")  # texts in a reward's row that samples.jsonl has under other names


@dataclass
class Snapshot:
    """Outputs, scores and metrics of one model. Every list has one entry per held-out row, in the rows' order."""

    sources: list[str]
    references: list[str | None]
    outputs: list[str]
    components: list[dict[str, Any]]  # the reward's rows (total, cycle, qe, penalties, gate, backtranslation)
    metrics: dict[str, float]  # the means named in `evaluate`
    signature: dict[str, Any] = field(default_factory=dict)  # how all of it was measured

    def save(self, path: Path | str) -> None:
        """Write as JSON, atomically. Raises CannotWrite."""
        files.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. Raises ConfigError for a missing or damaged file."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: cannot be read as a snapshot ({error}): remove it") from error


def evaluate(
    model,
    tokenizer,
    rows: list[dict[str, str]],
    make_prompt: Callable[[str], str],
    reward_fn,
    task: Task,
    *,
    max_new_tokens: int = 256,
    batch_size: int = 16,
) -> Snapshot:
    """Generate an output for every row greedily and score the outputs.

    `rows` have "source" and, if known, "reference". `reward_fn.score_components` returns one dict per output.
    Metrics: "reward" (mean total over the scored outputs), the mean of every other numeric component, the
    task's columns that can be measured, "mean_length" (code points), "scored" and "gated" (shares of
    outputs). Raises ConfigError when there are no rows.

    With several processes each generates and scores its share, and all get the Snapshot that a single one would make.
    Collective; each calls `score_components` equally often, some with empty lists.
    """
    from rl_nmt.models.generate import generate_together

    if not rows:
        raise ConfigError("evaluation rows: none found; give eval_file, eval_dataset or held-out rows")
    sources, references = _sides(rows)
    prompts = [make_prompt(source) for source in sources]
    sizes: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    answers = generate_together(model, tokenizer, prompts, **sizes, what="held-out generation")
    outputs = [safe_unicode(answer) for answer in answers]
    components = score_together(reward_fn, prompts, outputs, sources)
    snapshot = Snapshot(sources, references, outputs, finite(components), {})
    snapshot.metrics = measure(snapshot, task)
    snapshot.signature = measured_by(reward_fn, max_new_tokens) | {
        column.name: column.signature(snapshot)
        for column in task.columns
        if column.signature and column.name in snapshot.metrics
    }
    return snapshot


def _sides(rows: Sequence[dict[str, str]]) -> tuple[list[str], list[str | None]]:
    return [row["source"] for row in rows], [row.get("reference") for row in rows]


def score_together(
    reward_fn, prompts: list[str], outputs: list[str], sources: list[str], what: str = "held-out scoring"
) -> list[dict[str, Any]]:
    """Return the reward's rows, in order; blocks of SCORED_TOGETHER rows are distributed over the processes.

    `what`: the name of the work on its progress line.
    """
    from rl_nmt import distributed

    count = distributed.count()
    starts = range(0, len(outputs), SCORED_TOGETHER)
    own = []
    with progress(what, len(outputs), "texts") as bar:
        for turn in range(0, len(starts), count):  # a process without a block calls with empty lists
            start = SCORED_TOGETHER * (turn + distributed.rank())
            block = slice(start, start + SCORED_TOGETHER)
            rows = reward_fn.score_components(prompts[block], outputs[block], source=sources[block])
            own += [(start + i, row) for i, row in enumerate(rows)]
            bar.update(min(SCORED_TOGETHER * count, len(outputs) - bar.n))
    return [row for _, row in sorted(distributed.gathered(own), key=lambda placed: placed[0])]


def measure(snapshot: Snapshot, task: Task) -> dict[str, float]:
    """Return the metrics that `evaluate` lists, in the table's order; what cannot be measured is left out."""
    names = dict.fromkeys(key for row in snapshot.components for key in row)
    for name in ("total", "length", *task.hidden):  # the first are the columns "reward" and "mean_length"
        names.pop(name, None)
    metrics = {REWARD.name: REWARD.of(snapshot)}
    metrics |= {name: mean([number(row.get(name)) for row in snapshot.components]) for name in names}
    columns = (column for column in (*task.columns, *COMMON) if column.rows or column.value)
    metrics |= {column.name: column.of(snapshot) for column in columns}
    return {name: value for name, value in metrics.items() if value is not None}


def compare(before: Snapshot, after: Snapshot, task: Task, seed: int = 0) -> dict[str, Any]:
    """Compare two snapshots of the same rows; return the content of evaluation.json.

    "before" and "after" are the snapshots' metrics; "wins", "losses" and "ties" count rows, for the reward and
    every column with `rows`; "p_value" exists for these and for every column that can be `resampled`. Rows
    without a value on both sides are left out.
    Raises ConfigError when rows, reward identity or decoding differ: the numbers would not be comparable.
    """
    _check_comparable(before, after)
    result: dict[str, Any] = {"rows": len(before.sources), "before": before.metrics, "after": after.metrics}
    result |= {"p_value": {}, "wins": {}, "losses": {}, "ties": {}}
    for column in (REWARD, *task.columns):
        name, change = column.name, np.zeros(0)
        if column.rows:
            pairs = zip(column.rows(before), column.rows(after), strict=True)
            change = np.array([b - a for a, b in pairs if a is not None and b is not None])
        if len(change):
            wins, losses = int((change > 1e-9).sum()), int((change < -1e-9).sum())
            result["wins"][name], result["losses"][name] = wins, losses
            result["ties"][name] = len(change) - wins - losses
        if column.resampled and name in before.metrics and name in after.metrics:
            draws = column.resampled(after, seed) - column.resampled(before, seed)
            result["p_value"][name] = bootstrap_p_value(draws, after.metrics[name] - before.metrics[name])
        elif len(change) and not column.resampled:
            draws = bootstrap_draws(len(change), seed) @ change[:, None] / len(change)  # (RESAMPLES, 1)
            result["p_value"][name] = bootstrap_p_value(draws[:, 0], float(change.mean()))
    test = f"paired bootstrap|two-sided, centred|resamples:{RESAMPLES}|seed:{seed}"
    result["signature"] = {**after.signature, "p_value": test}
    return finite(result)


def require_same_measure(before: Snapshot, rows: Sequence[dict[str, str]], reward_fn, decoding: int | str) -> None:
    """Refuse, before a resumed run continues, what `compare` would refuse at its end. Raises ConfigError."""
    _check_comparable(before, Snapshot(*_sides(rows), [], [], {}, measured_by(reward_fn, decoding)))


def measured_by(reward_fn, decoding: int | str) -> dict[str, Any]:
    """Return the part of a Snapshot's signature that must be the same before and after.

    `decoding`: how outputs are made, as text; a number is the greatest length of greedy ones, in tokens.
    """
    greedy = isinstance(decoding, int)
    return {
        "reward": finite(reward_fn.signature()),
        "decoding": f"greedy|max_new_tokens:{decoding}" if greedy else decoding,
    }


def _check_comparable(before: Snapshot, after: Snapshot) -> None:
    for name in ("sources", "references"):
        if getattr(before, name) != getattr(after, name):
            raise ConfigError(f"before/after: their {name} differ; measure both on the same held-out rows")
    for name in ("reward", "decoding"):
        old, new = (snapshot.signature.get(name) for snapshot in (before, after))
        if isinstance(old, dict) and isinstance(new, dict):  # package versions may differ, the identity may not
            old, new = old.get("identity", old), new.get("identity", new)
        if old != new:
            raise ConfigError(f"before/after: the {name} changed from {old} to {new}; measure both again")


def bootstrap_p_value(draws: np.ndarray, observed: float) -> float:
    """Two-sided p in (0, 1]: `draws` (n,) are resampled differences, `observed` the difference itself."""
    strays = np.abs(draws - draws.mean()) >= abs(observed)
    return float((strays.sum() + 1) / (len(draws) + 1))


def bootstrap_draws(rows: int, seed: int) -> np.ndarray:
    """Return how often each draw contains each row: (RESAMPLES, rows) int64, every draw sums to `rows`."""
    index = np.random.default_rng(seed).integers(rows, size=(RESAMPLES, rows))
    offsets = np.arange(RESAMPLES)[:, None] * rows
    return np.bincount((index + offsets).ravel(), minlength=RESAMPLES * rows).reshape(RESAMPLES, rows)


def print_table(comparison: dict[str, Any], task: Task) -> str:
    """Return the comparison as text: one line per metric, then wins and losses, then signatures."""
    head = (f"held-out, {comparison['rows']} rows", "before", "after", "change", "p")
    lines = [
        "{:<24}{:>10}{:>10}{:>10}{:>9}".format(*cells) for cells in (head, *table_cells(comparison, task).values())
    ]
    for name, wins in comparison["wins"].items():
        losses, ties = comparison["losses"][name], comparison["ties"][name]
        lines.append(f"by {task.label(name)}: {wins} better, {losses} worse, {ties} equal")
    for name, value in comparison["signature"].items():
        text = value if isinstance(value, str) else short_signature(value)
        lines.append(f"{task.label(name)} signature: {text}")
    return "\n".join(lines)


def table_cells(comparison: Mapping[str, Any], task: Task) -> dict[str, tuple[str, str, str, str, str]]:
    """Return the cells of each metric's table line: label, before, after, change, p."""
    before, after, p_values = comparison["before"], comparison["after"], comparison["p_value"]
    cells = {}
    for name in dict.fromkeys([*before, *after]):
        old, new, column = before.get(name), after.get(name), task.column(name)
        change = "" if old is None or new is None else f"{new - old:+.{column.digits}f}"
        p = f"{p_values[name]:.3f}" if name in p_values else ""
        cells[name] = (task.label(name), column.show(old), column.show(new), change, p)
    return cells


def reward_models(signature: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return part → identity of the models in a reward's signature."""
    identity = signature.get("identity", {})
    return {name: part for name, part in identity.items() if isinstance(part, dict) and "model" in part}


def short_signature(signature: dict[str, Any]) -> str:
    """Return a hash of a reward signature's identity part; equal hashes mean comparable rewards."""
    identity = json.dumps(signature.get("identity", signature), sort_keys=True, ensure_ascii=False)
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:12]} (in full in evaluation.json)"


def write_samples(path: Path | str, before: Snapshot, after: Snapshot, task: Task) -> None:
    """Write samples.jsonl: one of `sample_rows` per line."""
    rows = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in sample_rows(before, after, task)]
    files.write(path, "".join(rows))


def sample_rows(before: Snapshot, after: Snapshot, task: Task) -> list[dict[str, Any]]:
    """Return per held-out row, as JSON: source, reference (if any); per side its output, task texts and scores."""
    rows: list[dict[str, Any]] = [{"source": source} for source in before.sources]
    for row, reference in zip(rows, before.references, strict=True):
        row |= {"reference": reference} if reference else {}
    for side, snapshot in (("before", before), ("after", after)):
        by_row = {column.name: column.rows(snapshot) for column in task.by_row}
        for i, (row, component) in enumerate(zip(rows, snapshot.components, strict=True)):
            row[side] = snapshot.outputs[i]
            row |= {f"{side}_{name}": component.get(name) or "" for name in task.texts}
            scores = {name: value for name, value in component.items() if name not in (*TEXTS, *task.texts)}
            row[f"{side}_scores"] = scores | {n: values[i] for n, values in by_row.items() if values[i] is not None}
    return finite(rows)
