"""From measured cards (rl_nmt/preflight/measured/*.json) to the tables of docs/benchmarks.md and README.md.

`python -m bench.gpu --tables` rewrites what stands between `<!-- NAME: … -->` and `<!-- /NAME -->`; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bench import presets
from rl_nmt import files
from rl_nmt.preflight import measurements

ROOT = Path(__file__).resolve().parent.parent
NONE = "No card has been measured yet."
BAR = 0.15  # most that a memory estimate may be away from what was measured
Card = dict


def write(root: Path = ROOT, folder: Path | None = None) -> int:
    """Rewrite both documents below `root`, print how far memory estimates are off; 1 where one misses its bar."""
    cards = measurements.cards(folder)
    for name, new in documents(root, cards).items():
        files.write(root / name, new)
    missed = False
    for card in cards:
        for peak in measurements.peaks(card):
            off = 1 / peak["ratio"] - 1
            missed = missed or abs(off) > BAR
            print(f"{card['card']}: {memory_line(peak)}, bar {BAR:.0%}: {'missed' if abs(off) > BAR else 'met'}")
    if not cards:
        print(NONE)
    return int(missed)


def documents(root: Path, cards: list[Card]) -> dict[str, str]:
    """File name → its text with the tables of these cards."""
    benchmarks, readme = ((root / name).read_text(encoding="utf-8") for name in ("docs/benchmarks.md", "README.md"))
    body = "\n\n".join("\n".join(lines(card)) for card in cards) or NONE
    readme = between(readme, "presets", preset_rows)
    readme = between(readme, "measured", lambda old: sentence(cards))
    return {"docs/benchmarks.md": between(benchmarks, "cards", lambda old: body), "README.md": readme}


def between(text: str, name: str, make) -> str:
    """`text` with `make(old)` in the place of what is between the marks of `name`. Raises ValueError without them."""
    found = re.search(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(\n<!-- /{name} -->)", text, re.S)
    if not found:
        raise ValueError(f"no marks <!-- {name}: … --> and <!-- /{name} -->")
    return text[: found.end(1)] + make(found[2]) + text[found.start(3) :]


def preset_rows(old: str) -> str:
    """The rows of presets for a GPU, with today's estimate as their last cell."""

    def row(found: re.Match) -> str:
        path = ROOT / found[2]
        if not presets.hardware(path).gpus:  # of models that have to be built first
            return found[0]
        return f"{found[1]}| {re.search(r'= ([0-9.]+ GiB) estimated', presets.estimate(path)[0].detail)[1]} |"

    return re.sub(r"(?m)^(\| `(configs/\w+\.yaml)` .*)\|[^|\n]*\|$", row, old)


def sentence(cards: list[Card]) -> str:
    """What README says of measured memory."""
    told = [f"{card['card']}: {memory_line(peak)}" for card in cards for peak in measurements.peaks(card)]
    return f"Measured: {'; '.join(told)}." if told else NONE


def memory_line(peak: dict) -> str:
    place = "away from the card between calls" if peak["offload"] else "on the card"
    return (
        f"{peak['policy']}, reward models {place}: {peak['measured']:.1f} GiB, estimated {peak['estimated']:.1f} "
        f"({1 / peak['ratio'] - 1:+.0%})"
    )


def lines(card: Card) -> Iterator[str]:
    """A card's section."""
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    memory = f"{card['memory_bytes'] / 2**30:.0f} GiB; " if card["memory_bytes"] else ""
    yield f"### {card['card']}\n"
    yield f"{memory}{versions}; {card['date']}; `--shape {card['shape']} --minutes {card['minutes']:g}`"
    for name, stage in card["stages"].items():
        title, columns = STAGES[name]
        yield f"\n**{title}**" + ("" if stage["status"] == "done" else f": {stage['status']}, {stage['reason']}")
        rows = [[value(row, column) for column in columns.split()] for row in stage["results"]]
        if rows:
            yield "\n| " + " | ".join(re.sub("[./_]", " ", column) for column in columns.split()) + " |"
            yield "|---" * len(columns.split()) + "|"
        yield from (f"| {' | '.join(map(cell, row))} |" for row in rows if any(each is not None for each in row))


def value(row: dict, column: str):
    """row["a"]["b"] for the column "a.b"; None where there is none."""
    for key in column.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row


def cell(found) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{name} {cell(part)}" for name, part in found.items())
    if found is None or isinstance(found, bool):
        return {None: "", True: "yes", False: "no"}[found]
    return f"{found:.3g}" if isinstance(found, float) else str(found).replace("|", "/")


STAGES = {  # title, columns
    "correctness": (
        "Right numbers",
        "check dtype attention max_difference dtype_error equal weights optimizer metrics skipped",
    ),
    "reward": (
        "The reward call",
        "route comet dtype attention seconds stages.guards stages.back_translate stages.cycle stages.qe per_second "
        "of_matmul.cycle of_matmul.qe max_difference equal skipped",
    ),
    "step": (
        "A GRPO step; GiB allocated, reserved and estimated per stage, without what CUDA itself takes",
        "policy offload seconds time/generate time/reward time/update reward_share peak_gib reserved_gib estimated_gib",
    ),
    "pocket": ("The pocket run", "steps seconds whole before.chrf after.chrf before.reward after.reward"),
    "vllm": ("vLLM on the same card", "completions seconds time/generate"),
}
