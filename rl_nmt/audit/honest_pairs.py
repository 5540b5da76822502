"""Honest translations for the launch gate: evaluation references, or the pairs that come with the code. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rl_nmt.audit.cheats import build_suite
from rl_nmt.audit.launch_gate import MAX_PAIRS, Pair, Reward, require_launch
from rl_nmt.data.eval_sets import Row, choose
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.text.unicode import script_share

SHIPPED = "pairs that come with the code"
# Hand-checked English–Tamil pairs (ours): 72 sentences of 4 to 25 words.
HONEST_FILE = Path(__file__).parents[1] / "data" / "honest_en_ta.jsonl"


def honest_pairs(
    rows: Sequence[Row] | None, seed: int = 0, count: int = MAX_PAIRS, language: str = "ta"
) -> tuple[list[Pair], str]:
    """Up to `count` (source, translation) pairs for the gate, and a phrase that says where they are from.

    `rows` are evaluation rows {"source", "reference"?}; those with a reference in the language's own script are
    used, chosen by a seeded hash whatever their order. Without any the shipped pairs are.
    """
    tongue = LANGUAGES[language]
    found = [r for r in rows or () if r.get("reference") and script_share(r["reference"], tongue) >= 0.5]
    shipped = map(json.loads, HONEST_FILE.read_text(encoding="utf-8").splitlines())
    chosen = choose(found or shipped, count, seed)
    return [(r["source"], r["reference"]) for r in chosen], "evaluation references" if found else SHIPPED


def require_translation_launch(
    reward: Reward, rows: list[dict[str, str]], bound: float, seed: int = 0, language: str = "ta"
) -> dict[str, Any]:
    """The launch gate over these rows, or shipped pairs, with the cheats of `language`; see `require_launch`.

    `bound`: mean share of wins that soft cheats may have. Raises RewardRefused.
    """
    pairs, origin = honest_pairs(rows, seed, language=language)
    return require_launch(reward, pairs, partial(build_suite, language=language, seed=seed), bound, origin)
