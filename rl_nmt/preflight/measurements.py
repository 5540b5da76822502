"""Read what `bench.gpu` has measured on cards: measured/<card>.json, one file per card. No torch."""

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "measured"


def slug(card: str) -> str:
    """Return the name of a card's file, without its ending.

    >>> slug("NVIDIA H100 80GB HBM3")
    'nvidia-h100-80gb-hbm3'
    """
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def cards(folder: Path | None = None) -> list[dict[str, Any]]:
    """Return the measurements of each card, in order of file name; [] without the folder."""
    paths = sorted((folder or FOLDER).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def peaks(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each stage of each measured step: policy, offload, length (new tokens), stage, GiB, ratio.

    GiB are measured (most allocated), reserved and estimated; ratio is measured / estimated. Steps without a memory
    reading (on a CPU) are left out.
    """
    found = []
    for row in card["stages"].get("step", {}).get("results", ()):
        for stage, measured in row.get("peak_gib", {}).items():
            estimated = row["estimated_gib"][stage]
            known = {name: row[name] for name in ("policy", "offload", "length")} | {"stage": stage}
            known |= {"measured": measured, "reserved": row["reserved_gib"][stage], "estimated": estimated}
            found.append({**known, "ratio": measured / estimated})
    return found


def highest(card: dict[str, Any]) -> list[dict[str, Any]]:
    """Return, of `peaks`, the stage of each step that took the most memory."""
    found: dict[tuple, dict[str, Any]] = {}
    for peak in sorted(peaks(card), key=lambda peak: peak["measured"]):
        found[peak["policy"], peak["offload"]] = peak
    return sorted(found.values(), key=lambda peak: peak["offload"])


def measured_ratio(card: str, offload: bool, folder: Path | None = None) -> str:
    """Return one clause for the doctor about a card of this name; "" if none was measured."""
    path = (folder or FOLDER) / f"{slug(card)}.json"
    for peak in highest(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ():
        if peak["offload"] == offload:
            return (
                f"on a card of this name a step of {peak['policy']} took {peak['measured']:.1f} GiB, "
                f"{peak['ratio']:.2f} of its estimate"
            )
    return ""
