"""Write the tables of docs/benchmarks.md and README.md from measured cards (rl_nmt/preflight/measured/*.json).

`python -m bench.gpu --tables` rewrites the text between `<!-- NAME: … -->` and `<!-- /NAME -->`; a test compares.
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
BAR = 0.15  # largest relative error of a memory estimate
FASTER, REWARD_SHARE = 4.0, 0.2  # least ratio of each reward stage; largest share of the reward in a step of 1B
Card = dict
MIRRORED = "configs/gemma3_1b_24gb.yaml"  # the preset of the stage `step`, except its 160 new tokens
STAGES = {  # title, columns
    "correctness": (
        "Right numbers",
        "check dtype attention max_difference dtype_error ok equal weights optimizer metrics skipped",
    ),
    "reward": (
        "The reward call; ratios: straightforward route / ours",
        "route comet dtype attention seconds ratio stages.guards stages.back_translate stages.cycle stages.qe "
        "ratios.back_translate ratios.cycle ratios.qe per_second of_matmul.cycle of_matmul.qe max_difference equal "
        "skipped",
    ),
    "step": (
        "A GRPO step; GiB per stage, without what CUDA itself takes: the doctor compares its estimate of what is "
        "allocated with the free memory; what torch reserves is more",
        "policy offload length seconds time/generate time/reward time/update reward_share peak_gib reserved_gib "
        "estimated_gib skipped",
    ),
    "engines": ("Back-translation by engine", "engine dtype seconds per_second equal skipped"),
    "vllm": ("vLLM on the same card", "completions seconds time/generate used_gib.awake used_gib.asleep"),
    "pocket": ("The pocket run", "steps seconds whole before.chrf after.chrf before.reward after.reward"),
}


def write(root: Path = ROOT, folder: Path | None = None) -> int:
    """Rewrite both documents below `root` and print every bar; return 1 if one is missed."""
    cards = measurements.cards(folder)
    for name, new in documents(root, cards).items():
        files.write(root / name, new)
    found = [(card["card"], *bar) for card in cards for bar in bars(card)]
    for card, text, met in found:
        print(f"{card}: {text}: {'met' if met else 'missed'}")
    if not cards:
        print(NONE)
    return int(not all(met for *_, met in found))


def bars(card: Card) -> Iterator[tuple[str, bool]]:
    """Yield (text, met) per bar: memory per stage of a step, stages of our fastest reward call, its share of a step."""
    for peak in measurements.peaks(card):
        yield f"{memory_line(peak)}, bar {BAR:.0%}", abs(1 / peak["ratio"] - 1) <= BAR
    rows = {name: stage["results"] for name, stage in card["stages"].items()}
    if ours := [row for row in rows.get("reward", ()) if "ratios" in row]:
        best = min(ours, key=lambda row: row["seconds"])
        for name in ("back_translate", "cycle", "qe"):
            text = f"reward in {best['dtype']}, {best['attention']}: {name} {best['ratios'][name]:.1f} times as fast"
            yield f"{text} as the straightforward route, bar {FASTER:g}", best["ratios"][name] >= FASTER
    for row in rows.get("step", ()):
        if row["policy"] == "gemma3_1b" and "reward_share" in row:
            share = row["reward_share"]
            text = f"reward models {place(row)}: the reward takes {share:.0%} of a step, bar {REWARD_SHARE:.0%}"
            yield text, share <= REWARD_SHARE


def documents(root: Path, cards: list[Card]) -> dict[str, str]:
    """Return file name → its text with the tables of these cards."""
    benchmarks, readme = ((root / name).read_text(encoding="utf-8") for name in ("docs/benchmarks.md", "README.md"))
    body = "\n\n".join("\n".join(lines(card)) for card in cards) or NONE
    readme = between(readme, "presets", lambda old: preset_rows(old, cards))
    readme = between(readme, "measured", lambda old: sentence(cards))
    return {"docs/benchmarks.md": between(benchmarks, "cards", lambda old: body), "README.md": readme}


def between(text: str, name: str, make) -> str:
    """Replace the text between the marks of `name` by `make(old)`. Raises ValueError without such marks."""
    found = re.search(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(\n<!-- /{name} -->)", text, re.S)
    if not found:
        raise ValueError(f"the marks <!-- {name}: … --> and <!-- /{name} --> are missing")
    return text[: found.end(1)] + make(found[2]) + text[found.start(3) :]


def preset_rows(old: str, cards: list[Card]) -> str:
    """Return the table's rows with the present estimate last, and the measurement of one preset."""
    told = "".join(
        f"; {peak['measured']:.1f} measured with {peak['length']} new tokens ({card['card']})"
        for card in cards
        for peak in measurements.highest(card)
        if peak["policy"] == "gemma3_1b" and not peak["offload"]
    )

    def row(found: re.Match) -> str:
        estimate = re.search(r"= ([0-9.]+ GiB) estimated", presets.estimate(ROOT / found[2])[0].detail)
        if not estimate:  # the pocket's models must be built first
            return found[0]
        return f"{found[1]}| {estimate[1]}{told if found[2] == MIRRORED else ''} |"

    return re.sub(r"(?m)^(\| `(configs/\w+\.yaml)` .*)\|[^|\n]*\|$", row, old)


def sentence(cards: list[Card]) -> str:
    """Return README's sentence about measured memory."""
    told = [f"{card['card']}: {memory_line(peak)}" for card in cards for peak in measurements.highest(card)]
    return f"Measured: {'; '.join(told)}." if told else NONE


def place(row: dict) -> str:
    return "away from the card between calls" if row["offload"] else "on the card"


def memory_line(peak: dict) -> str:
    return (
        f"{peak['policy']}, reward models {place(peak)}, {peak['stage']}: {peak['measured']:.1f} GiB, "
        f"estimated {peak['estimated']:.1f} ({1 / peak['ratio'] - 1:+.0%})"
    )


def circumstances(card: Card) -> str:
    """Return versions, date and command of a card's results."""
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return f"{versions}; {card['date']}; `--shape {card['shape']} --minutes {card['minutes']:g}`"


def lines(card: Card) -> Iterator[str]:
    """Yield the lines of a card's section."""
    memory = f"{card['memory_bytes'] / 2**30:.0f} GiB; " if card["memory_bytes"] else ""
    yield f"### {card['card']}\n"
    yield memory + circumstances(card)
    for name in (name for name in STAGES if name in card["stages"]):
        (title, columns), stage = STAGES[name], card["stages"][name]
        state = "" if stage["status"] == "done" else f": {stage['status']}, {stage['reason']}"
        yield f"\n**{title}**{state}" + (f" ({stage['earlier']})" if "earlier" in stage else "")
        rows = [[value(row, column) for column in columns.split()] for row in stage["results"]]
        if rows:
            yield "\n| " + " | ".join(re.sub("[./_]", " ", column) for column in columns.split()) + " |"
            yield "|---" * len(columns.split()) + "|"
        yield from (f"| {' | '.join(map(cell, row))} |" for row in rows if any(each is not None for each in row))


def value(row: dict, column: str):
    """Return row["a"]["b"] for the column "a.b"; None for a missing key."""
    for key in column.split("."):
        row = row.get(key) if isinstance(row, dict) else None
    return row


def cell(found) -> str:
    if isinstance(found, dict):
        return ", ".join(f"{name} {cell(part)}" for name, part in found.items())
    if found is None or isinstance(found, bool):
        return {None: "", True: "yes", False: "no"}[found]
    return f"{found:.3g}" if isinstance(found, float) else str(found).replace("|", "/")
