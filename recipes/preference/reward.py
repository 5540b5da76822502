"""Score the answers of preference pairs, and sampled ones: `PreferenceReward`, by reward.source.

    label        chosen 1, rejected 0; a sampled answer that equals one of them, once stripped, the same, else None
    match        an answer that equals the chosen one 1, any other 0: for short answers with one right form
    heuristic    min(characters / 100, length_cap) + min(0.1 · reasoning words, reasoning_cap)
                 + min((full stops + exclamation marks + question marks) / 5, structure_cap)
    module:name  a function like TRL's: fn(prompts=…, completions=…, **columns) → a finite number or None for each;
                 prompts and completions are strings, for models with images too; among the columns are chosen,
                 rejected, slot and, for these models, images: a list of PIL pictures per completion

The heuristic is that of the public system that this recipe follows. It reads neither prompt nor picture, and saturates:
50 characters are worth as much as 500, and one mark fills its part. Below that the longer answer wins, also if it is
wrong. `saturation` measures it on pairs. Reasoning words are whole words in any case, each time they occur.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from recipes.preference.settings import RewardCfg
from rl_nmt.config import load_callable
from rl_nmt.errors import ConfigError
from rl_nmt.text.prompts import read_texts
from rl_nmt.text.unicode import clean_for_scoring, clean_lines
from rl_nmt.training.reward_log import RewardLog, common_scalars, function_identity, function_scores, mean

SETTING = "reward.source"
BUILT_IN, EXACT = ("label", "match", "heuristic"), ("label", "match")  # the latter compare with the given answers
SLOTS = ("chosen", "rejected", "sampled")
PARTS = ("length_part", "reasoning_part", "structure_part")  # of the heuristic
REASONING = re.compile(r"\b(?:therefore|because|thus|first|second|third|finally)\b", re.IGNORECASE)


def check_source(source: str) -> None:
    """Raise ConfigError unless a source is built in or the name of a function that can be imported."""
    if source not in BUILT_IN:
        if ":" not in source:
            raise ConfigError(f"{SETTING}: {source!r} must be {', '.join(BUILT_IN)} or module:name of a function")
        load_callable(source, SETTING)


def heuristic(text: str, cfg: RewardCfg) -> dict[str, float]:
    """Return the three parts of the heuristic's score, each from 0 to its cap.

    >>> heuristic("First, it is red. Therefore stop!", RewardCfg())
    {'length_part': 0.33, 'reasoning_part': 0.2, 'structure_part': 0.2}
    """
    parts = (len(text) / 100, 0.1 * len(REASONING.findall(text)), sum(map(text.count, ".!?")) / 5)
    caps = (cfg.length_cap, cfg.reasoning_cap, cfg.structure_cap)
    return {name: min(part, cap) for name, part, cap in zip(PARTS, parts, caps, strict=True)}


def saturation(rows: Sequence[Mapping[str, Any]], cfg: RewardCfg) -> float:
    """Return the share, 0 to 1, of pairs (at least one) that tie or whose answers both fill the length cap."""
    found = 0
    for row in rows:
        parts = [heuristic(clean_lines(row[side]), cfg) for side in ("chosen", "rejected")]
        (chosen, longest), (rejected, longer) = ((sum(part.values()), part["length_part"]) for part in parts)
        found += abs(chosen - rejected) <= 1e-9 or min(longest, longer) >= cfg.length_cap
    return found / len(rows)


class PreferenceReward(RewardLog):
    """The reward as TRL calls it; see the module. Raises ConfigError for a source that is not valid."""

    __name__ = "preference"
    asked = SETTING

    def __init__(self, settings: RewardCfg):
        super().__init__()
        check_source(settings.source)
        self.settings, own = settings, settings.source in BUILT_IN
        self.named = settings.source if own else function_identity(settings.source, SETTING)

    def score_components(
        self, prompts, completions, source=None, chosen=None, rejected=None, slot=None, **columns
    ) -> list[dict[str, Any]]:
        """Return one JSON row per completion, in order; the heuristic's have its PARTS.

        `slot` (None: all sampled) names the text that is scored: that in column chosen or rejected, or the completion.
        Without `source` the questions are those in `prompts`. Raises ConfigError for columns and scores not as needed.
        """
        given = {"source": prompts if source is None else source, "chosen": chosen, "rejected": rejected, "slot": slot}
        sides, slots = self._sides(completions, given)
        texts, parts = [sides[name][i] for i, name in enumerate(slots)], list[dict[str, float]]({} for _ in slots)
        if self.settings.source == "label":
            labels = ({bad: 0.0, good: 1.0} for good, bad in zip(sides["chosen"], sides["rejected"], strict=True))
            totals = [label.get(text) for label, text in zip(labels, texts, strict=True)]
        elif self.settings.source == "match":
            totals = [float(text == good) for text, good in zip(texts, sides["chosen"], strict=True)]
        elif self.settings.source == "heuristic":
            parts = [heuristic(text, self.settings) for text in texts]
            totals = [sum(part.values()) for part in parts]
        else:
            known = {name: sides[name] for name in ("source", "chosen", "rejected") if name in sides}
            given = {name: values for name, values in (columns | known).items() if values is not None}
            given |= {"prompts": sides["source"], "completions": texts, "slot": slots}
            totals = function_scores(self.settings.source, SETTING, len(texts), lambda score: score(**given))
        cleaned = ([clean_for_scoring(text) for text in each] for each in (sides["source"], texts))
        return [
            {"source": question, "output": text, "length": len(text), "gate": None, "backtranslation": None}
            | {"slot": name, "total": total, **part}
            for question, text, name, total, part in zip(*cleaned, slots, totals, parts, strict=True)
        ]

    def _sides(self, completions: Sequence, given: Mapping[str, Any]) -> tuple[dict[str, list[str]], list[str]]:
        """Return the clean texts of every column that is given, the completions as "sampled", and the slots."""
        slots = ["sampled"] * len(completions) if given["slot"] is None else list(given["slot"])
        needed = {"source", *(SLOTS if self.settings.source in EXACT else slots)}
        for name, values in given.items():
            if name in needed if values is None else len(values) != len(completions):
                raise ConfigError(
                    f"{name}: give this column, with one value for each of {len(completions)} completions"
                )
        if unknown := [name for name in slots if name not in SLOTS]:
            raise ConfigError(f"slot: {unknown[0]!r} must be one of {', '.join(SLOTS)}")
        roles = {"source": "user", "chosen": "assistant", "rejected": "assistant"}
        read = {name: read_texts(name, given[name], role) for name, role in roles.items() if given[name] is not None}
        read["sampled"] = read_texts("completions", completions)
        return {name: list(map(clean_lines, texts)) for name, texts in read.items()}, slots

    def __call__(self, prompts, completions, source=None, **columns) -> list[float | None]:
        """Return one total per completion, None without a score; fill `last_rows` and `last_log`."""
        rows = self.score_components(prompts, completions, source, **columns)
        return self.keep(rows, self.summarise(rows), columns)

    def complete(self, row: Mapping[str, Any]) -> bool:
        """A sampled answer without a label has been scored like any other."""
        return row["total"] is not None or self.settings.source == "label"

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of one call, explained in this recipe's README; {} for an empty batch."""
        log = common_scalars(rows) if rows else {}
        log |= {f"reward/{name}": mean(row.get(name) for row in rows) for name in PARTS}
        log |= {f"reward/{slot}": mean(row["total"] for row in rows if row["slot"] == slot) for slot in SLOTS}
        return {key: value for key, value in log.items() if value is not None}

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return `identity` (if it changes, rewards are not comparable) and `environment`."""
        used = vars(self.settings) if self.settings.source == "heuristic" else {"source": self.named}
        return {"identity": {"reward": "preference/1", **used}, "environment": {}}
