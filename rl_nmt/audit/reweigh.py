"""Re-weigh saved reward components offline: what would another weighting have rewarded? No torch, no model.

Rows are {step, group, source, completion, components, gate, total}, as `rollout_row` makes them. The settings that
the rows were scored with must first reproduce the saved totals, else nothing is reported. The formula is the
reward's own function (row, settings) → float | None, passed in by the caller.
"""

import math
from collections import UserDict, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rl_nmt.data.tables import Row, number, read_all, sides
from rl_nmt.errors import ConfigError
from rl_nmt.files import is_number
from rl_nmt.guards import agreement

Formula = Callable[[dict[str, Any], Any], float | None]
SAME = 1e-6  # totals closer than this are equal
EXAMPLES = 3
NOT_COMPONENTS = ("source", "output", "completion", "backtranslation", "gate", "total")
# Components of runs before version 2.
OLD_NAMES = {"script_off": "foreign_script", "length_off": "length_penalty", "fidelity_off": "fidelity_loss"}


@dataclass(frozen=True)
class Sample:
    """One scored output: `row`: the formula's input (components and gate); `total`: the saved reward."""

    group: Hashable
    source: str
    completion: str
    row: dict[str, Any]
    total: float | None
    human: float | None = None


def rollout_row(row: Mapping[str, Any], step: int, group: int, **extra: Any) -> dict[str, Any]:
    """Return one line of rollouts.jsonl from a row of the reward's `score_components`; `extra` are further columns.

    `components` has every number (or None) of the row, no texts or lists.
    """
    numbers = {
        name: value
        for name, value in row.items()
        if name not in NOT_COMPONENTS and (value is None or (isinstance(value, int | float) and math.isfinite(value)))
    }
    line = {"step": step, "group": group, "source": row["source"], "completion": row["output"]}
    return line | {"components": numbers, "gate": row["gate"], "total": row["total"]} | extra


def read_rollouts(path: Path, human: str = "") -> list[Sample]:
    """Read the samples of a rollouts file; `human` names a column of numbers (also written as texts).

    Raises ConfigError for a file that cannot be read, a line that is not a row (with its number and what it lacks),
    a human score that is not a number, and a file without samples.
    """
    return [_sample(row, human) for row in read_all(path, "--reweigh")]


def _sample(row: Row, human: str) -> Sample:
    where, cells = row
    if not isinstance(cells.get("components"), dict):
        raise ConfigError(f"{where} has no components: write such rows with --rollouts, or train with --save_rollouts")
    missing = [name for name in ("gate", "total", human) if name and name not in cells]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}: it has {', '.join(cells)}")
    total = cells["total"]
    if total is not None and not is_number(total):
        raise ConfigError(f"{where}: total {total!r} is not a number")
    source, _ = sides(row)  # a run before version 2 wrote english
    group = source if cells.get("group") is None else (cells.get("step"), cells["group"])
    components = {OLD_NAMES.get(name, name): value for name, value in cells["components"].items()}
    score = number(cells[human], f"{where}: {human}") if human else None
    return Sample(group, source, str(cells.get("completion", "")), {**components, "gate": cells["gate"]}, total, score)


def load_settings(rollouts: Path, given: Path | None) -> dict[str, Any]:
    """Load the settings that the rows were scored with: a flat YAML mapping. Raises ConfigError."""
    import yaml

    places = [given] if given else [rollouts.with_suffix(".yaml"), rollouts.parent / "resolved_config.yaml"]
    place = next(filter(Path.is_file, places), None)
    if place is None:
        looked = ", ".join(map(str, places))
        raise ConfigError(f"--config: no settings found ({looked}); give the YAML file the rows were scored with")
    try:
        settings = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config: {place} cannot be read ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--config: {place} has no settings; give the run's resolved_config.yaml")
    return settings


class Settings(UserDict):
    """Settings for a formula, by key and as attributes; `read` collects the names that it reads."""

    def __init__(self, values: Mapping[str, Any]):
        self.read: set[str] = set()
        super().__init__(values)

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self[name]


def parse_changes(words: Sequence[str]) -> dict[str, float]:
    """Parse `name=number` words. Raises ConfigError for an invalid, infinite, negative or repeated number."""
    changes: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = name.strip().replace("-", "_")
        try:
            value = float(text)
        except ValueError:
            value = None
        if not name or value is None:
            raise ConfigError(f"--set: {word!r} is not name=number")
        if not math.isfinite(value) or value < 0:
            raise ConfigError(f"--set: {name}={text.strip()} must be a finite number of at least 0")
        if name in changes:
            raise ConfigError(f"--set: {name} is given twice")
        changes[name] = value
    return changes


def weigh(samples: Sequence[Sample], formula: Formula, settings: Mapping[str, Any]) -> tuple[list, set[str]]:
    """Return the totals of all samples under `settings`, and the names of settings that the formula read.

    Raises ConfigError if the formula needs a missing setting or cannot use one.
    """
    recorder = Settings(settings)
    try:
        totals = [formula(sample.row, recorder) for sample in samples]
    except (KeyError, AttributeError) as error:
        raise ConfigError(f"--formula needs {error}, which is neither in the settings nor in the rows") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--formula cannot use these settings or rows: {error}") from None
    return totals, recorder.read


def reweigh(
    samples: Sequence[Sample], formula: Formula, settings: Mapping[str, Any], changes: Mapping[str, float]
) -> list[float | None]:
    """Return new totals, one per sample, after checking that the old settings reproduce the saved ones.

    Raises ConfigError if they do not, for a name that the formula does not read as a number, for a component that
    was not measured in this file, and if all new totals are the same.
    """
    old, known = weigh(samples, formula, settings)
    for sample, total in zip(samples, old, strict=True):
        if (total is None) != (sample.total is None) or (total is not None and abs(total - sample.total) > SAME):
            raise ConfigError(
                f"--config: these settings do not reproduce the saved totals ({total} instead of {sample.total} for "
                f"{sample.source[:60]!r}); give the YAML file that the rows were scored with"
            )
    numeric = sorted(name for name in known if isinstance(settings.get(name), int | float))
    for name in changes:
        if name not in numeric:
            raise ConfigError(f"--set: {name} is not a number of the formula; use one of {', '.join(numeric)}")
    new, _ = weigh(samples, formula, {**settings, **changes})
    lost = [sample for sample, total in zip(samples, new, strict=True) if total is None and sample.total is not None]
    if lost:
        missing = [name for name, value in lost[0].row.items() if value is None and name != "gate"]
        raise ConfigError(
            f"--set: {len(lost)} of {len(samples)} samples have no {', '.join(missing)}, which these weights need; "
            "score the texts again with that weight above 0"
        )
    passing = [t for s, t in zip(samples, new, strict=True) if s.row["gate"] is None and t is not None]
    if len(passing) < 2:
        raise ConfigError(f"--reweigh: {len(passing)} of {len(samples)} samples pass the gates; at least 2 are needed")
    if max(passing) - min(passing) <= SAME:
        raise ConfigError(
            f"--set: all {len(passing)} samples that pass the gates get the same total {passing[0]:.3f}; "
            "give other weights"
        )
    return new


def compare(samples: Sequence[Sample], new: Sequence[float | None]) -> dict[str, Any]:
    """Compare old totals with new ones; return plain values.

    "rows", "groups" (with at least two scored samples); "flipped" groups whose old winner is no longer among the best,
    of the "decided" ones (not tied before); "examples" of them, the largest new margin first; "spearman" over all rows;
    per side "mean", "std" (within groups, averaged), "tied" (share of groups without any difference), "saturated"
    (share of rows at 1).
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, (sample, total) in enumerate(zip(samples, new, strict=True)):
        if sample.total is not None and total is not None:
            groups[sample.group].append(i)
    totals = np.array([[sample.total for sample in samples], new], dtype=float)  # (2, N): old, new
    scored = [i for group in groups.values() for i in group]
    several = [group for group in groups.values() if len(group) > 1]
    decided = [group for group in several if np.ptp(totals[0, group]) > SAME]
    flips = []
    for group in decided:
        winner, best = (group[side[group].argmax()] for side in totals)
        margin = totals[1, best] - totals[1, winner]
        if margin > SAME:
            flips.append((margin, winner, best))
    flips.sort(key=lambda flip: -flip[0])

    def shown(i: int) -> dict[str, Any]:
        return {"text": samples[i].completion, "old": float(totals[0, i]), "new": float(totals[1, i])}

    ranks = agreement.measure(totals[1, scored].tolist(), totals[0, scored].tolist(), range(len(scored)))
    return {
        "rows": len(samples),
        "scored": len(scored),
        "groups": len(several),
        "decided": len(decided),
        "flipped": len(flips),
        "spearman": ranks.spearman,
        "examples": [
            {"source": samples[winner].source, "old_winner": shown(winner), "new_winner": shown(best)}
            for _, winner, best in flips[:EXAMPLES]
        ],
        "old": _moments(totals[0], scored, several),
        "new": _moments(totals[1], scored, several),
    }


def _moments(totals: np.ndarray, scored: list[int], groups: list[list[int]]) -> dict[str, float | None]:
    figures: dict[str, list[Any]] = {
        "mean": list(totals[scored]),
        "std": [np.std(totals[group]) for group in groups],
        "tied": [np.ptp(totals[group]) <= SAME for group in groups],
        "saturated": list(totals[scored] >= 1 - SAME),
    }
    return {name: float(np.mean(figure)) if figure else None for name, figure in figures.items()}


def as_text(found: dict[str, Any], changes: Mapping[str, float], settings: Mapping[str, Any]) -> str:
    """Format the comparison for the screen."""
    changed = [f"{name} {settings[name]:g} → {value:g}" for name, value in changes.items()]
    share = f" ({found['flipped'] / found['decided']:.1%})" if found["decided"] else ""
    lines = [
        ", ".join(changed) or "nothing changed",
        f"{found['rows']} rows, {found['scored']} scored, {found['groups']} groups of several",
        f"winners that flip: {found['flipped']} of {found['decided']} groups{share}",
        f"rank correlation with the old reward (Spearman): {agreement.cell(found['spearman'], '.3f')}",
        f"{'':<26}{'old':>10}{'new':>10}",
    ]
    labels = {"mean": "mean", "std": "std within groups", "tied": "groups without difference", "saturated": "rows at 1"}
    for key, label in labels.items():
        old, new = (agreement.cell(found[side][key], ".3f") for side in ("old", "new"))
        lines.append(f"{label:<26}{old:>10}{new:>10}")
    for example in found["examples"]:
        lines.append(f"source     {example['source']}")
        for name in ("old_winner", "new_winner"):
            side = example[name]
            lines.append(f"{name.replace('_', ' ')} {side['old']:.3f} → {side['new']:.3f}  {side['text']}")
    return "\n".join(lines)


def report(
    rollouts: Path, formula: Formula, changes: Mapping[str, float], config: Path | None = None, human: str = ""
) -> dict[str, Any]:
    """Compare the rewards of a rollouts file under changed settings with the saved ones, on the screen and as JSON.

    `config` and `human` as in `load_settings` and `read_rollouts`; raises ConfigError as these and `reweigh` do.
    """
    samples = read_rollouts(rollouts, human)
    settings = load_settings(rollouts, config)
    new = reweigh(samples, formula, settings, changes)
    found = compare(samples, new)
    print(as_text(found, changes, settings))
    if human:
        passing = [sample.row if sample.row["gate"] is None else {} for sample in samples]
        totals = {"old total": [sample.total for sample in samples], "new total": new}
        people = agreement.table(passing, [s.human for s in samples], [s.source for s in samples], totals)
        print(agreement.as_text(people, human))
        found["human"] = {name: vars(row) for name, row in people.items()}
    return {"set": dict(changes), **found}
