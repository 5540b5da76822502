"""Write the report of a run as one page: curves, the table before and after, and outputs side by side.

`write_report` reads a run folder (resolved_config.yaml, metrics.jsonl, evaluation.json, samples.jsonl) and
writes report.html there. The page has no script and loads no other file. Text from models and data sets is
escaped and isolated, so that it can neither act as markup nor change the text direction of the page.
"""

import base64
import io
import json
import random
from collections.abc import Callable, Iterable
from functools import partial
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rl_nmt import files
from rl_nmt.licences import commercial_use
from rl_nmt.results.evaluation import reward_models, table_cells
from rl_nmt.results.task import REWARD, Task, number
from rl_nmt.runs.metrics_file import read_rows
from rl_nmt.runs.run import Files
from rl_nmt.runs.run_folder import flat
from rl_nmt.text.unicode import safe_unicode

INK, MUTED, ACCENT, SECOND = "#1c2430", "#9aa5b1", "#0f766e", "#c2410c"
SAMPLES = 6  # per group: gains, losses, random
DIRECTION_MARKS = (0x200E, 0x200F, 0x61C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
SPELLED_OUT = {mark: f'<i class="mark">U+{mark:04X}</i>' for mark in DIRECTION_MARKS}


def read_metrics(path: Path | str) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl as {"train": rows, "eval": rows}, each by step. A missing file counts as empty.

    A resumed run writes a step again: the last row of a step counts. A torn last line is left out.
    """
    kinds: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    for row in read_rows(Path(path)):
        step, kind = row.get("step"), row.get("kind", "train")
        if kind in kinds and number(step) is not None:
            kinds[kind][step] = kinds[kind].get(step, {}) | row
    return {kind: [rows[step] for step in sorted(rows)] for kind, rows in kinds.items()}


def series(rows: Iterable[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows in which `key` is a finite number."""
    points = [(row["step"], row[key]) for row in rows if number(row.get(key)) is not None]
    return [step for step, _ in points], [value for _, value in points]


def moving_average(values: list[float], ema: float) -> list[float]:
    """e_0 = v_0, e_t = ema · e_(t-1) + (1 - ema) · v_t; `ema` in [0, 1)."""
    return list(accumulate(values, lambda past, value: ema * past + (1 - ema) * value))


def reward_curve_png(metrics_jsonl: Path | str, png: Path | str, task: Task, ema: float = 0.9) -> None:
    """Plot the reward by optimizer step with its moving average, and held-out values of the rows of kind "eval".

    A second panel shows the first evaluated column of the task that has a value per row; it is outside the reward.
    Without any rows the picture says so. Raises CannotWrite.
    """
    metrics = read_metrics(metrics_jsonl)
    outside = [column for column in task.by_row if series(metrics["eval"], column.name)[0]][:1]
    panels = [(REWARD.name, task.label(REWARD.name), task.drawn)]
    panels += [(column.name, task.label(column.name), column.drawn) for column in outside]
    width = 7.2 if len(panels) == 1 else 9.6
    files.write(png, _figure(metrics, panels, ema, size=(width, 3.6), kind="png"))


def _figure(metrics, panels: list[tuple[str, str, str]], ema: float, size: tuple[float, float], kind: str) -> bytes:
    # Figure without pyplot: no global state, no display, whatever back-end the caller has chosen.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "svg.hashsalt": "rl-nmt", "axes.edgecolor": "#cbd2d9", "axes.labelcolor": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, metrics, *panel, ema)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _panel(axes, metrics, key: str, name: str, drawn: str, ema: float) -> None:
    steps, values = series(metrics["train"], key)
    if steps:
        mark = "." if len(steps) < 3 else None  # a line through one point is invisible
        axes.plot(steps, values, color=ACCENT, alpha=0.3, linewidth=1, marker=mark, label=name)
        smooth = moving_average(values, ema)
        axes.plot(steps, smooth, color=ACCENT, linewidth=2, label=f"moving average ({ema:g})")
    held_out = series(metrics["eval"], key)
    if held_out[0]:
        axes.plot(*held_out, color=SECOND, linewidth=1.2, marker="o", markersize=4, label=f"held-out, {drawn}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axes.tick_params(colors="#616e7c", length=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(name)
    if steps or held_out[0]:
        axes.legend(frameon=False, loc="best", fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color=MUTED)


def write_report(run_folder: Path | str, task: Task, names: Files | None = None, base_model: str = "") -> Path:
    """Write `run_folder`/report.html from what the folder already holds; return its path. Raises CannotWrite.

    If there are samples of several steps, those of the last are shown. Missing parts are named on the page.
    `base_model`: the start policy, for the line about licences.
    """
    import yaml
    from jinja2 import Environment, FileSystemLoader

    folder, names = Path(run_folder), names or Files()
    comparison = _read(folder / "evaluation.json", json.loads)
    samples = list(read_rows(folder / names.samples))
    last = max((row.get("step", 0) for row in samples), default=0)
    settings = flat(_read(folder / "resolved_config.yaml", yaml.safe_load))
    first = {name: settings[name] for name in task.settings if name in settings}
    signature = comparison.get("signature", {})
    models = reward_models(signature.get("reward", {}))
    here = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(here), autoescape=True)
    environment.filters |= {"text": text, "number": number, "json": partial(json.dumps, ensure_ascii=False, indent=1)}
    page = environment.get_template("report.html.jinja").render(
        run=folder.resolve().name,
        style=(here / "report.css").read_text(encoding="utf-8"),
        task=task,
        comparison=comparison,
        lines=_lines(comparison, task) if comparison else {},
        curves=_curves(read_metrics(folder / names.metrics), task),
        groups=_groups([row for row in samples if row.get("step", 0) == last], task),
        first_settings=first,
        other_settings={name: value for name, value in settings.items() if name not in first},
        signature=signature,
        licences=commercial_use([base_model, *(part["model"] for part in models.values())]),
    )
    path = folder / "report.html"
    files.write(path, page)
    return path


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    return (parse(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def text(value: Any, language: str = "") -> Markup:
    """Return foreign text as harmless HTML: cleaned, escaped, and isolated from the page's text direction.

    <bdi> would contain explicit direction marks (U+202A–E, U+2066–9), but they could still make one text look like
    another: they are spelled out instead.
    """
    shown = escape(safe_unicode(str(value))).translate(SPELLED_OUT)
    lang = f' lang="{escape(language)}"' if language else ""
    return Markup(f'<bdi dir="auto"{lang}>{shown}</bdi>')


def _lines(comparison: dict[str, Any], task: Task) -> dict[str, dict[str, str]]:
    """Return each metric's line of the table; the tone of a change is "up" for an improvement."""
    lines, p_values = {}, comparison["p_value"]
    for name, (label, before, after, change, p) in table_cells(comparison, task).items():
        gain = float(change or 0) * task.column(name).better
        lines[name] = {
            "label": label,
            "before": before,
            "after": after,
            "change": "0" if change and not float(change) else change,
            "tone": "up" if gain > 0 else "down" if gain < 0 else "",
            "p": "< 0.001" if p_values.get(name, 1) < 0.001 else p,
        }
    return lines


def _curves(metrics: dict[str, list[dict[str, Any]]], task: Task) -> list[tuple[str, str, str]] | None:
    """(name, note, SVG in base64) of each curve; None without any row."""
    if not metrics["train"] and not metrics["eval"]:
        return None
    outside = [(column.name, task.label(column.name), column.drawn) for column in task.by_row]
    curves = []
    for key, name, drawn, note in (
        ("reward", "Reward", task.drawn, "mean total per step, and its moving average"),
        *((*column, f"held-out, {column[-1]}; not part of the reward") for column in outside),
        ("mean_token_accuracy", "Accuracy", "", "fine-tuning: share of the tokens that are the model's first choice"),
        ("kl", "KL", "", "distance from the start policy, nats per token"),
        ("completions/mean_length", "Length", "", "mean completion, tokens"),
    ):
        if any(series(rows, key)[0] for rows in metrics.values()):
            svg = _figure(metrics, [(key, name.lower(), drawn)], 0.9, size=(4.0, 2.6), kind="svg")
            curves.append((name, note, base64.b64encode(svg).decode()))
    return curves


def _groups(rows: list[dict[str, Any]], task: Task) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Return (title, metric in the title, rows): the largest gains, the largest losses, and some of the others."""
    by_row = (column.name for column in task.by_row)
    key = next((name for name in by_row if any(name in row.get("after_scores", {}) for row in rows)), "total")
    gains = {}
    for i, row in enumerate(rows):
        old, new = (number(row.get(f"{side}_scores", {}).get(key)) for side in ("before", "after"))
        if old is not None and new is not None:
            gains[i] = new - old
    ranked = sorted(gains, key=gains.__getitem__, reverse=True)
    best = [i for i in ranked if gains[i] > 0][:SAMPLES]
    worst = [i for i in reversed(ranked) if gains[i] < 0][:SAMPLES]
    others = [i for i in range(len(rows)) if i not in {*best, *worst}]
    chance = sorted(random.Random(0).sample(others, min(SAMPLES, len(others))))
    measure = task.label(key)
    groups = (
        ("Largest gains in", measure, best),
        ("Largest losses in", measure, worst),
        ("Drawn at random", "", chance),
    )
    return [(title, named, [rows[i] for i in picks]) for title, named, picks in groups if picks]
