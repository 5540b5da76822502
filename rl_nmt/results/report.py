"""Write a run as one page: curves, the table before and after, and outputs side by side.

`write_report` reads what a run folder holds (resolved_config.yaml, metrics.jsonl, evaluation.json,
samples.jsonl) and writes report.html beside it: no script, no outside file, and everything that a model
or a data set wrote is escaped and isolated, so that it can be neither markup nor turn the page around.
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from rl_nmt import files
from rl_nmt.results.task import REWARD, Task, number
from rl_nmt.runs.run import Files
from rl_nmt.text.unicode import safe_unicode

INK, MUTED, ACCENT, SECOND = "#1c2430", "#9aa5b1", "#0f766e", "#c2410c"
SAMPLES = 6  # per group: gains, losses, random


def read_metrics(path: Path | str) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl as {"train": rows, "eval": rows}, each by step. A file that is not there is empty.

    A resumed run writes a step again: the last row of a step counts. A torn last line is left out.
    """
    kinds: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "eval": {}}
    for row in _read_jsonl(Path(path)):
        step, kind = row.get("step"), row.get("kind", "train")
        if kind in kinds and _is_number(step):
            kinds[kind][step] = kinds[kind].get(step, {}) | row
    return {kind: [rows[step] for step in sorted(rows)] for kind, rows in kinds.items()}


def series(rows: Iterable[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the rows in which `key` is a finite number."""
    points = [(row["step"], row[key]) for row in rows if _is_number(row.get(key))]
    return [step for step, _ in points], [value for _, value in points]


def moving_average(values: list[float], ema: float) -> list[float]:
    """e_0 = v_0, e_t = ema · e_(t-1) + (1 - ema) · v_t; `ema` in [0, 1)."""
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else ema * smooth[-1] + (1 - ema) * value)
    return smooth


def reward_curve_png(metrics_jsonl: Path | str, png: Path | str, task: Task, ema: float = 0.9) -> None:
    """Reward by optimizer step with its moving average, and held-out values where rows of kind "eval" are.

    Next to it the first of the task's columns by row that was evaluated: the reward does not see it. Raises
    CannotWrite. Without any row the picture says so.
    """
    metrics = read_metrics(metrics_jsonl)
    outside = [column for column in task.by_row if series(metrics["eval"], column.name)[0]][:1]
    panels = [(column.name, task.label(column.name)) for column in (REWARD, *outside)]
    width = 7.2 if len(panels) == 1 else 9.6
    files.write(png, _figure(metrics, panels, ema, size=(width, 3.6), kind="png"))


def _figure(metrics, panels: list[tuple[str, str]], ema: float, size: tuple[float, float], kind: str) -> bytes:
    # Figure without pyplot: no global state, no display, whatever back-end the caller has chosen.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {"font.size": 9, "svg.hashsalt": "rl-nmt", "axes.edgecolor": "#cbd2d9", "axes.labelcolor": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        for axes, (key, name) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, metrics, key, name, ema)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _panel(axes, metrics, key: str, name: str, ema: float) -> None:
    steps, values = series(metrics["train"], key)
    if steps:
        mark = "." if len(steps) < 3 else None  # a line through one point cannot be seen
        axes.plot(steps, values, color=ACCENT, alpha=0.3, linewidth=1, marker=mark, label=name)
        smooth = moving_average(values, ema)
        axes.plot(steps, smooth, color=ACCENT, linewidth=2, label=f"moving average ({ema:g})")
    held_out = series(metrics["eval"], key)
    if held_out[0]:
        axes.plot(*held_out, color=SECOND, linewidth=1.2, marker="o", markersize=4, label="held-out, greedy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.7)
    axes.tick_params(colors="#616e7c", length=0)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(name)
    if steps or held_out[0]:
        axes.legend(frameon=False, loc="best", fontsize=8)
    else:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color=MUTED)


def write_report(run_folder: Path | str, task: Task, names: Files | None = None) -> Path:
    """Write `run_folder`/report.html from whatever the folder already holds; returns its path.

    Of samples of several steps the last ones are shown. Parts that are missing are named on the page.

    Raises CannotWrite.
    """
    folder, names = Path(run_folder), names or Files()
    comparison = _read_json(folder / "evaluation.json")
    sections = [
        _curves(read_metrics(folder / names.metrics), task),
        _table(comparison, task),
        _samples(_last(list(_read_jsonl(folder / names.samples))), task),
        _settings(_flat(_read_yaml(folder / "resolved_config.yaml")), task.settings),
        _signature(comparison.get("signature", {}), task),
    ]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = PAGE.format(
        title=f"{escape(task.title)}, before and after",
        run=escape(folder.resolve().name),
        style=style,
        lead=_lead(comparison, task),
        body="\n".join(sections),
    )
    path = folder / "report.html"
    files.write(path, page)
    return path


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings in sections as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _last(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the last step; rows without steps are all of one."""
    steps = [row["step"] if isinstance(row.get("step"), int) else 0 for row in rows]
    return [row for row, step in zip(rows, steps, strict=True) if step == max(steps)]


def text(value: Any, language: str = "") -> str:
    """Foreign text as harmless HTML: cleaned, escaped, and isolated from the page's text direction.

    Explicit direction marks (U+202A–E, U+2066–9) would be contained by <bdi>, but still show one text
    as another: they are spelled out instead.
    """
    shown = escape(safe_unicode(str(value)))
    shown = "".join(f'<i class="mark">U+{ord(c):04X}</i>' if c in DIRECTION_MARKS else c for c in shown)
    lang = f' lang="{escape(language)}"' if language else ""
    return f'<bdi dir="auto"{lang}>{shown}</bdi>'


DIRECTION_MARKS = {chr(c) for c in (0x200E, 0x200F, 0x61C, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def _lead(comparison: dict[str, Any], task: Task) -> str:
    """The result in one row of large numbers."""
    before, after = comparison.get("before", {}), comparison.get("after", {})
    tiles = []
    for name in task.headline:
        old, new, show = before.get(name), after.get(name), task.column(name).show
        if not (_is_number(old) and _is_number(new)):
            continue
        tiles.append(
            f'<div class="tile"><span>{text(task.label(name))}</span><b>{show(new)}</b>'
            f"<small>from {show(old)} {_change(task, name, old, new)}</small></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _curves(metrics, task: Task) -> str:
    if not metrics["train"] and not metrics["eval"]:
        return _section("Curves", _missing("metrics.jsonl"))
    outside = [(column.name, task.label(column.name)) for column in task.by_row]
    cards = []
    for key, name, note in (
        ("reward", "Reward", "mean total per step, and its moving average"),
        *((key, name, "held-out, greedy; the reward does not see it") for key, name in outside),
        ("kl", "KL", "distance from the start policy, nats per token"),
        ("completions/mean_length", "Length", "mean completion, tokens"),
    ):
        if not any(series(rows, key)[0] for rows in metrics.values()):
            continue
        svg = base64.b64encode(_figure(metrics, [(key, name.lower())], 0.9, size=(4.0, 2.6), kind="svg")).decode()
        image = f'<img alt="{name} by optimizer step" src="data:image/svg+xml;base64,{svg}">'
        cards.append(f"<figure>{image}<figcaption><b>{name}</b> · {note}</figcaption></figure>")
    return _section("Curves", f'<div class="curves">{"".join(cards)}</div>')


def _table(comparison: dict[str, Any], task: Task) -> str:
    if not comparison.get("before"):
        return _section("Before and after", _missing("evaluation.json"))
    before, after, p_values = comparison["before"], comparison.get("after", {}), comparison.get("p_value", {})
    rows = []
    for name in dict.fromkeys([*before, *after]):
        old, new, show = before.get(name), after.get(name), task.column(name).show
        cells = [show(old), show(new), _change(task, name, old, new), _p(p_values.get(name))]
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><th scope=row>{text(task.label(name))}</th>{numbers}</tr>")
    head = "".join(f"<th scope=col>{name}</th>" for name in ("", "before", "after", "change", "p"))
    counts = [
        f"by {text(task.label(name))} {wins} better, {comparison['losses'][name]} worse, "
        f"{comparison['ties'][name]} equal"
        for name, wins in comparison.get("wins", {}).items()
    ]
    note = "; ".join([f"{comparison.get('rows', '')} held-out rows, greedy decoding", *counts])
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return _section("Before and after", f'<div class="wide">{table}</div><p class="note">{note}.</p>')


def _samples(rows: list[dict[str, Any]], task: Task) -> str:
    if not rows:
        return _section("Side by side", _missing("samples.jsonl"))
    by_row = (column.name for column in task.by_row)
    key = next((name for name in by_row if any(name in row.get("after_scores", {}) for row in rows)), "total")
    gains = {i: gain for i, row in enumerate(rows) if (gain := _gain(row, key)) is not None}
    ranked = sorted(gains, key=gains.__getitem__, reverse=True)
    best = [i for i in ranked if gains[i] > 0][:SAMPLES]
    worst = [i for i in reversed(ranked) if gains[i] < 0][:SAMPLES]
    others = [i for i in range(len(rows)) if i not in {*best, *worst}]
    chance = sorted(random.Random(0).sample(others, min(SAMPLES, len(others))))
    measure = text(task.label(key))
    groups = (
        (f"Largest gains in {measure}", best),
        (f"Largest losses in {measure}", worst),
        ("Drawn at random", chance),
    )
    body = ""
    for name, picks in groups:
        if picks:
            body += f"<h3>{name}</h3>" + "".join(_card(rows[i], task) for i in picks)
    return _section("Side by side", body)


def _gain(row: dict[str, Any], key: str) -> float | None:
    old, new = (row.get(f"{side}_scores", {}).get(key) for side in ("before", "after"))
    return new - old if _is_number(old) and _is_number(new) else None


def _card(row: dict[str, Any], task: Task) -> str:
    parts = [f'<p class="source">{text(row["source"], task.source_language)}</p>']
    if row.get("reference"):
        reference = text(row["reference"], task.output_language)
        parts.append(f'<p class="reference"><span>reference</span>{reference}</p>')
    sides = "".join(_side(row, side, task) for side in ("before", "after"))
    return f'<article>{"".join(parts)}<div class="sides">{sides}</div></article>'


def _side(row: dict[str, Any], side: str, task: Task) -> str:
    output = row.get(side) or ""
    shown = text(output, task.output_language) if output else "<i class=empty>empty</i>"
    scores = row.get(f"{side}_scores", {})
    numbers = [
        f"<li>{text(task.label(name))} <b>{task.column(name).show(value)}</b></li>"
        for name, value in scores.items()
        if _is_number(value)
    ]
    if scores.get("gate"):
        numbers.insert(0, f'<li class="gate">gated: {text(scores["gate"])}</li>')
    elif scores.get("total") is None:
        numbers.insert(0, '<li class="gate">not scored</li>')
    further = "".join(
        f'<p class="back"><span>{label}</span>{text(row[f"{side}_{name}"], task.source_language)}</p>'
        for name, label in task.texts.items()
        if row.get(f"{side}_{name}")
    )
    return f'<div class="{side}"><h4>{side}</h4><p class="output">{shown}</p>{further}<ul>{"".join(numbers)}</ul></div>'


def _settings(config: dict[str, Any], shown_first: tuple[str, ...]) -> str:
    if not config:
        return _section("Settings", _missing("resolved_config.yaml"))

    def grid(names) -> str:
        cells = "".join(f"<dt>{text(n)}</dt><dd>{text(config[n])}</dd>" for n in names)
        return f"<dl>{cells}</dl>"

    first = [name for name in shown_first if name in config]
    rest = [name for name in config if name not in first]
    body = grid(first) if first else ""
    if rest:
        body += f"<details><summary>All other settings ({len(rest)})</summary>{grid(rest)}</details>"
    return _section("Settings", body)


def _signature(signature: dict[str, Any], task: Task) -> str:
    if not signature:
        return ""
    parts = []
    for name, value in signature.items():
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
        parts.append(f"<dt>{text(task.label(name))}</dt><dd><pre>{text(shown)}</pre></dd>")
    return _section("Signature", f"<p class=note>What produced these numbers.</p><dl>{''.join(parts)}</dl>")


def _section(name: str, body: str) -> str:
    return f"<section><h2>{name}</h2>{body}</section>"


def _missing(name: str) -> str:
    return f"<p class=note>{name} is not in the run folder yet.</p>"


def _is_number(value: Any) -> bool:
    return number(value) is not None


def _change(task: Task, name: str, old: Any, new: Any) -> str:
    if not (_is_number(old) and _is_number(new)):
        return ""
    column = task.column(name)
    change = round(new - old, column.digits)
    tone = "up" if change * column.better > 0 else "down" if change * column.better < 0 else ""
    shown = f"{change:+.{column.digits}f}" if change else "0"
    return f'<span class="{tone}">{shown}</span>'


def _p(value: Any) -> str:
    if not _is_number(value):
        return ""
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def _read_jsonl(path: Path):
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title} · {run}</title>
<style>{style}</style>
<main>
<header><p>{run}</p><h1>{title}</h1></header>
{lead}
{body}
</main>
</html>
"""
