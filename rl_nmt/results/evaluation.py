"""Before and after on held-out text: greedy outputs, what the reward says, and what it cannot see.

`evaluate` makes a `Snapshot` of one model; `compare` sets two snapshots of the same rows side by side.
chrF++ and BLEU come from sacreBLEU and need references, which no reward of this repository reads.

The p-values are a paired bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation
Evaluation", EMNLP; centred on the resamples' mean and two-sided): rows are drawn with replacement, both
systems are scored on the same draw, and p is the share of draws whose difference strays from the draws'
mean difference at least as far as the observed difference lies from zero. sacreBLEU's own paired
bootstrap counts the upper tail alone, and calls two equal systems different (its comparison is strict).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl_nmt import files
from rl_nmt.errors import ConfigError
from rl_nmt.files import finite
from rl_nmt.text.languages import TAMIL, Language
from rl_nmt.text.unicode import length, safe_unicode, script_share

RESAMPLES = 1000
SCORED_TOGETHER = 64  # rows in a call of the reward: with their neighbours scores change in the last digits
IN_LANGUAGE = 0.5  # an output counts as Tamil when at least this share of its letters is
REFERENCE_METRICS = ("chrf", "bleu")
TEXTS = ("source", "output", "backtranslation")  # of a component row; samples.jsonl names them itself


@dataclass
class Snapshot:
    """What one model made of the held-out rows. Every list has one entry per row, in the rows' order.

    `components` are the reward's rows (total, cycle, qe, penalties, gate, backtranslation);
    `metrics` are the means named in `evaluate`; `signature` says how all of it was measured.
    """

    sources: list[str]
    references: list[str | None]
    outputs: list[str]
    components: list[dict[str, Any]]
    metrics: dict[str, float]
    signature: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write as JSON, atomically. Raises CannotWrite."""
        files.write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path | str) -> Snapshot:
        """Read what `save` wrote. Raises ConfigError for a missing or damaged file."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path}: no readable snapshot ({error}): remove it to redo it") from error


def evaluate(
    model,
    tokenizer,
    rows: list[dict[str, str]],
    make_prompt: Callable[[str], str],
    reward_fn,
    *,
    max_new_tokens: int,
    language: Language = TAMIL,
    batch_size: int = 16,
) -> Snapshot:
    """Translate every row greedily and score the outputs.

    `rows` have "source" and, where there is one, "reference".
    `reward_fn.score_components(prompts, completions, source=[...])` gives one dict per output.
    Metrics: "reward" (mean total, in [0, 1], over the scored outputs), the mean of every other numeric
    component, "chrf" (chrF++) and "bleu" (both 0 to 100, over the rows with a reference; absent without
    any), "<language>_share" (share of outputs in the language), "mean_length" (code points), "scored"
    and "gated" (shares of outputs). Raises ConfigError when there are no rows.

    Of several processes each generates and scores its share, and all get the same Snapshot: that of one process,
    since batches do not depend on how many there are. Collective; `score_components` is called equally often on
    each, on some with nothing.
    """
    from rl_nmt.models.generate import generate_together

    if not rows:
        raise ConfigError("evaluation rows: there are none; give eval_file, eval_dataset or held-out rows")
    sources = [row["source"] for row in rows]
    references = [row.get("reference") for row in rows]
    prompts = [make_prompt(source) for source in sources]
    answers = generate_together(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    outputs = [safe_unicode(answer) for answer in answers]
    components = _score_together(reward_fn, prompts, outputs, sources)
    snapshot = Snapshot(sources, references, outputs, finite(components), {})
    snapshot.metrics = _metrics(snapshot, language)
    snapshot.signature = {
        "reward": finite(reward_fn.signature()),
        "decoding": _decoding(max_new_tokens),
    }
    for name in REFERENCE_METRICS:
        if name in snapshot.metrics:
            snapshot.signature[name] = _sacrebleu_signature(name, snapshot)
    return snapshot


def _score_together(reward_fn, prompts: list[str], outputs: list[str], sources: list[str]) -> list[dict[str, Any]]:
    """The reward's rows, in order; blocks of SCORED_TOGETHER rows are shared out over the processes."""
    from rl_nmt import distributed

    count = distributed.count()
    starts = range(0, len(outputs), SCORED_TOGETHER)
    own = []
    for turn in range(0, len(starts), count):  # a process without a block takes part with nothing
        start = SCORED_TOGETHER * (turn + distributed.rank())
        block = slice(start, start + SCORED_TOGETHER)
        rows = reward_fn.score_components(prompts[block], outputs[block], source=sources[block])
        own += [(start + i, row) for i, row in enumerate(rows)]
    return [row for _, row in sorted(distributed.gathered(own), key=lambda placed: placed[0])]


def _metrics(snapshot: Snapshot, language: Language) -> dict[str, float]:
    outputs, components = snapshot.outputs, snapshot.components
    metrics: dict[str, float] = {}
    names = dict.fromkeys(["total", *(key for row in components for key in row)])
    names.pop("length", None)  # "mean_length" says it for every reward
    for name in names:
        values = [value for row in components if (value := number(row.get(name))) is not None]
        if values:
            metrics["reward" if name == "total" else name] = float(np.mean(values))
    for name in REFERENCE_METRICS:
        stats = _statistics(name, snapshot)
        if len(stats):
            metrics[name] = _corpus_score(name, stats.sum(axis=0))
    in_language = [script_share(text, language) >= IN_LANGUAGE for text in outputs]
    metrics[f"{language.name.lower()}_share"] = float(np.mean(in_language))
    metrics["mean_length"] = float(np.mean([length(text) for text in outputs]))
    metrics["scored"] = float(np.mean([number(row.get("total")) is not None for row in components]))
    metrics["gated"] = float(np.mean([bool(row.get("gate")) for row in components]))
    return metrics


def compare(before: Snapshot, after: Snapshot, seed: int = 0) -> dict[str, Any]:
    """Two snapshots of the same rows side by side, ready for evaluation.json.

    "before" and "after" are the snapshots' metrics; "p_value", "wins", "losses" and "ties" have one entry
    per metric that exists in both ("reward", "chrf", "bleu"; wins per row: sentence-level, chrF++ and
    reward only). Rows without a total on both sides are left out of the reward's p-value and wins.
    Raises ConfigError when rows, reward identity or decoding differ: the numbers would not compare.
    """
    _check_comparable(before, after)
    result: dict[str, Any] = {"rows": len(before.sources), "before": before.metrics, "after": after.metrics}
    result |= {"p_value": {}, "wins": {}, "losses": {}, "ties": {}}
    for name, per_row in (("reward", _totals), ("chrf", sentence_chrf)):
        pairs = zip(per_row(before), per_row(after), strict=True)
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if not both:
            continue
        change = np.array([b - a for a, b in both])
        result["wins"][name] = int((change > 1e-9).sum())
        result["losses"][name] = int((change < -1e-9).sum())
        result["ties"][name] = len(both) - result["wins"][name] - result["losses"][name]
        if name == "reward":
            draws = _draws(len(both), seed) @ change[:, None] / len(both)  # (RESAMPLES, 1)
            result["p_value"][name] = bootstrap_p_value(draws[:, 0], float(change.mean()))
    for name in REFERENCE_METRICS:
        if name in before.metrics and name in after.metrics:
            draws = bootstrap_scores(name, after, seed) - bootstrap_scores(name, before, seed)
            observed = after.metrics[name] - before.metrics[name]
            result["p_value"][name] = bootstrap_p_value(draws, observed)
    test = f"paired bootstrap|two-sided, centred|resamples:{RESAMPLES}|seed:{seed}"
    result["signature"] = {**after.signature, "p_value": test}
    return finite(result)


def require_same_measure(
    before: Snapshot, rows: list[dict[str, str]], reward_fn, max_new_tokens: int, language: Language = TAMIL
) -> None:
    """Refuse, before a resumed run goes on, what `compare` would refuse at its end. Raises ConfigError."""
    sources, references = [row["source"] for row in rows], [row.get("reference") for row in rows]
    measure = {"reward": finite(reward_fn.signature()), "decoding": _decoding(max_new_tokens)}
    _check_comparable(before, Snapshot(sources, references, [], [], {}, measure))


def _decoding(max_new_tokens: int) -> str:
    return f"greedy|max_new_tokens:{max_new_tokens}"


def _check_comparable(before: Snapshot, after: Snapshot) -> None:
    for name in ("sources", "references"):
        if getattr(before, name) != getattr(after, name):
            raise ConfigError(f"before/after: their {name} differ; measure both on the same held-out rows")
    for name in ("reward", "decoding"):
        old, new = (snapshot.signature.get(name) for snapshot in (before, after))
        if isinstance(old, dict) and isinstance(new, dict):  # package versions may change, the metric not
            old, new = old.get("identity", old), new.get("identity", new)
        if old != new:
            raise ConfigError(f"before/after: the {name} changed from {old} to {new}; measure both again")


def bootstrap_p_value(draws: np.ndarray, observed: float) -> float:
    """Two-sided p in (0, 1]: `draws` (n,) are resampled differences, `observed` the difference itself."""
    strays = np.abs(draws - draws.mean()) >= abs(observed)
    return float((strays.sum() + 1) / (len(draws) + 1))


def bootstrap_scores(metric: str, snapshot: Snapshot, seed: int) -> np.ndarray:
    """Corpus scores (RESAMPLES,) of "chrf" or "bleu" on draws of the rows that have references.

    Equal seeds draw equal rows. The n-gram counts of a corpus are sums over its sentences, so a draw is
    one row of a matrix product and no text is read again.
    """
    stats = _statistics(metric, snapshot)  # (rows, counts)
    sums = _draws(len(stats), seed) @ stats  # (RESAMPLES, counts)
    return np.array([_corpus_score(metric, row) for row in sums])


def _draws(rows: int, seed: int) -> np.ndarray:
    """How often each row is in each draw: (RESAMPLES, rows) int64, every line sums to `rows`."""
    index = np.random.default_rng(seed).integers(rows, size=(RESAMPLES, rows))
    offsets = np.arange(RESAMPLES)[:, None] * rows
    return np.bincount((index + offsets).ravel(), minlength=RESAMPLES * rows).reshape(RESAMPLES, rows)


def _metric(name: str):
    from sacrebleu.metrics import BLEU, CHRF

    return CHRF(word_order=2) if name == "chrf" else BLEU()


def _statistics(name: str, snapshot: Snapshot) -> np.ndarray:
    """sacreBLEU's counts per sentence, (rows with a reference, counts); chrF++: hyp, ref, match per order."""
    outputs, references = _referenced(snapshot)
    if not outputs:
        return np.zeros((0, 0), dtype=np.int64)
    return np.array(_metric(name)._extract_corpus_statistics(outputs, [references]), dtype=np.int64)


def _corpus_score(name: str, counts: np.ndarray) -> float:
    return float(_metric(name)._compute_score_from_stats(counts.tolist()).score)


def _sacrebleu_signature(name: str, snapshot: Snapshot) -> str:
    metric = _metric(name)
    outputs, references = _referenced(snapshot)
    metric.corpus_score(outputs, [references])  # the signature counts the references it has seen
    return metric.get_signature().format()


def _referenced(snapshot: Snapshot) -> tuple[list[str], list[str]]:
    pairs = [(o, safe_unicode(r)) for o, r in zip(snapshot.outputs, snapshot.references, strict=True) if r]
    return [output for output, _ in pairs], [reference for _, reference in pairs]


def sentence_chrf(snapshot: Snapshot) -> list[float | None]:
    """chrF++ of each output, 0 to 100; None where the row has no reference."""
    scores = iter(_corpus_score("chrf", row) for row in _statistics("chrf", snapshot))
    return [next(scores) if reference else None for reference in snapshot.references]


def _totals(snapshot: Snapshot) -> list[float | None]:
    return [number(row.get("total")) for row in snapshot.components]


def number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


LABELS = {
    "reward": "reward",
    "chrf": "chrF++",
    "bleu": "BLEU",
    "mean_length": "mean length",
    "scored": "scored",
    "gated": "gated",
}


def label(name: str) -> str:
    """How a metric is called on the screen: "chrf" is "chrF++", "tamil_share" is "in Tamil"."""
    if name.endswith("_share"):
        return f"in {name.removesuffix('_share').capitalize()}"
    return LABELS.get(name, name.replace("_", " "))


def print_table(comparison: dict[str, Any]) -> str:
    """The comparison as text for the screen: one line per metric, then wins and losses, then signatures."""
    before, after, p_values = comparison["before"], comparison["after"], comparison["p_value"]
    title = f"held-out, {comparison['rows']} rows"
    lines = [f"{title:<24}{'before':>10}{'after':>10}{'change':>10}{'p':>9}"]
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        digits = 1 if name in (*REFERENCE_METRICS, "mean_length") else 3
        change = "" if old is None or new is None else f"{new - old:+.{digits}f}"
        cells = ["–" if value is None else f"{value:.{digits}f}" for value in (old, new)]
        p = f"{p_values[name]:.3f}" if name in p_values else ""
        lines.append(f"{label(name):<24}{cells[0]:>10}{cells[1]:>10}{change:>10}{p:>9}")
    for name, wins in comparison["wins"].items():
        losses, ties = comparison["losses"][name], comparison["ties"][name]
        lines.append(f"by {label(name)}: {wins} better, {losses} worse, {ties} equal")
    for name, value in comparison["signature"].items():
        text = value if isinstance(value, str) else short_signature(value)
        lines.append(f"{label(name)} signature: {text}")
    return "\n".join(lines)


def short_signature(signature: dict[str, Any]) -> str:
    """A hash of a reward signature's identity part; equal hashes mean comparable rewards."""
    identity = json.dumps(signature.get("identity", signature), sort_keys=True, ensure_ascii=False)
    return f"{hashlib.sha256(identity.encode()).hexdigest()[:12]} (in full in evaluation.json)"


def write_samples(path: Path | str, before: Snapshot, after: Snapshot) -> None:
    """samples.jsonl: one of `sample_rows` per line."""
    rows = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in sample_rows(before, after)]
    files.write(path, "".join(rows))


def sample_rows(before: Snapshot, after: Snapshot) -> list[dict[str, Any]]:
    """Source, reference (if any), and per side output, back-translation and scores, per held-out row; JSON."""
    chrf = {"before": sentence_chrf(before), "after": sentence_chrf(after)}
    rows = []
    for i, source in enumerate(before.sources):
        row: dict[str, Any] = {"source": source}
        if before.references[i]:
            row["reference"] = before.references[i]
        for side, snapshot in (("before", before), ("after", after)):
            component = snapshot.components[i]
            row[side] = snapshot.outputs[i]
            row[f"{side}_backtranslation"] = component.get("backtranslation") or ""
            scores = {name: value for name, value in component.items() if name not in TEXTS}
            if chrf[side][i] is not None:
                scores["chrf"] = chrf[side][i]
            row[f"{side}_scores"] = scores
        rows.append(finite(row))
    return rows
