"""Score filled templates with the frozen judge that judge_checkpoint names: `JudgeReward`. No torch until it is built.

    checkpoint   a sequence-regression model, folder or hub name (rl_nmt/scorers/sequence_judge.py): its raw output
    module:name  a function like TRL's: fn(prompts=…, completions=…, **columns) → a finite number or None for each;
                 prompts are the templates as shown, completions the filled texts

Both read the completion alone: a filled text already has the given parts of its template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import warn_lost
from rl_nmt.text.prompts import read_texts
from rl_nmt.text.unicode import clean_for_scoring
from rl_nmt.training.reward_log import RewardLog, common_scalars, function_identity, function_scores, work_done

SETTING = "judge_checkpoint"


def is_function(source: str) -> bool:
    """Return whether judge_checkpoint names a function, not a checkpoint.

    >>> is_function("my_rewards:fluency"), is_function("org/judge"), is_function("org/judge@release:1")
    (True, False, False)
    """
    return ":" in source and "@" not in source and not Path(source).expanduser().exists()


class JudgeReward(RewardLog):
    """The reward as TRL calls it; `judge` is None for a function. Raises as `load_callable` and `load_judge`."""

    __name__ = "diffusion"
    asked = SETTING

    def __init__(self, source: str, device: str = "auto"):
        super().__init__()
        self.source, self.judge = source, None
        if is_function(source):
            self.identity: dict[str, Any] = function_identity(source, SETTING)  # fails here, not in the first step
        else:
            from rl_nmt.scorers.sequence_judge import load_judge

            self.judge = load_judge(source, device, SETTING)
            self.identity = dict(self.judge.identity)

    def require_vocabulary(self, texts: Sequence[str]) -> None:
        """Refuse a judge that does not know the tokens of these real texts. Raises ConfigError."""
        if self.judge:
            self.judge.require_vocabulary(texts, SETTING)

    def score_components(self, prompts, completions, source=None, **columns) -> list[dict[str, Any]]:
        """Return one JSON row per completion, in order; `source`, or else `prompts`: the templates as shown.

        Raises ConfigError for columns and scores that are not as needed, and where the judge fails.
        """
        texts = read_texts("completions", completions)
        sources = read_texts(*(("prompts", prompts) if source is None else ("source", source)), "user")
        if len(sources) != len(texts):
            raise ConfigError(f"source: {len(sources)} templates for {len(texts)} completions; give one for each")
        if self.judge is None:
            given = {name: values for name, values in columns.items() if values is not None}
            given |= {"prompts": sources, "completions": texts, "source": sources}
            totals = function_scores(self.source, SETTING, len(texts), lambda score: score(**given))
        else:
            totals = self.judge(texts)
        if texts and all(total is None for total in totals):
            why = f"{self.judge.stats}" if self.judge else "the function returns None"
            warn_lost(f"{SETTING}: {self.source}", "score", len(texts), len(texts), why)
        outputs, log = map(clean_for_scoring, texts), {"gate": None, "backtranslation": None}
        return [
            {"source": shown, "output": output, "length": len(output), **log, "total": total}
            for shown, output, total in zip(sources, outputs, totals, strict=True)
        ]

    def __call__(self, prompts, completions, source=None, **columns) -> list[float | None]:
        """Return one total per completion, None without a score; fill `last_rows` and `last_log`."""
        rows = self.score_components(prompts, completions, source, **columns)
        return self.keep(rows, self.summarise(rows), columns)

    def summarise(self, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of one call, explained in this recipe's README; {} for an empty batch."""
        log = common_scalars(rows) if rows else {}
        log |= work_done(rows, [("judge", self.judge, ("too_long", "not_finite"))])
        return {key: value for key, value in log.items() if value is not None}

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return `identity` (if it changes, rewards are not comparable) and `environment`."""
        from rl_nmt.models.loading import versions

        environment = versions("transformers", "tokenizers", "torch") if self.judge else {}
        return {"identity": {"reward": "diffusion/1", "judge": self.identity}, "environment": environment}
