"""Train with token credit in TRL's own loss: advantages of shape (B, T) instead of (B,).

    token reward   Σ over scorers: weight · reward of the spans it marked there     (rl_nmt.training.token_credit)
    advantage      sequence reward + token reward (− the group's mean) (+ coefficient · group z-score), normalised over
                   all tokens

TRL's `_compute_loss` takes advantages per token from a subclass, and it shuffles and splits them with the rest;
none of its loop is repeated here. The reward object has, in addition to its totals,

    credits     {scorer: (weight, SpanCredit)}
    last_rows   one dict per completion of this process, in order: "output" (cleaned text), "gate" (None for a
                translation), "spans" ({scorer: [Span] over "output", or None if it returned none})

A completion for which a scorer returned None is left out of the update: "not judged" is not "no error". The tokens of
a gated completion have reward 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from trl.models.utils import disable_gradient_checkpointing

from rl_nmt import distributed
from rl_nmt.audit.reweigh import rollout_row
from rl_nmt.errors import ConfigError
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training.token_credit import Range, SpanCredit, TokenOffsets, judged_rewards, stack_rows, token_advantages
from rl_nmt.training.trainer import GuardedGRPOTrainer


@dataclass(frozen=True)
class TokenCredit:
    """How sequence and token rewards become advantages.

    normalise: standardise sequence rewards (after the group rules) plus token rewards over all valid tokens
        (TranslateGemma, arXiv 2601.09012). False: add token rewards to TRL's own advantages.
    baseline: subtracted before the normalisation divides. "batch": the mean over all valid tokens of the
        update. "group", with normalise: for each prompt the mean over the tokens of its own samples, token rewards
        included (ours): a prompt whose samples are all marked then teaches as much as one whose samples are all clean.
    """

    normalise: bool = True
    group_coefficient: float = 0.0  # weight of the group z-score, added before the normalisation
    level: Literal["token", "sequence"] = "token"  # "sequence": all token rewards are 0, for comparison
    baseline: Literal["batch", "group"] = "batch"


@dataclass(frozen=True)
class Judged:
    """One completion after scoring: the characters of its tokens in `text`, and the token rewards from its spans."""

    text: str
    ranges: list[Range]
    rewards: list[float]  # (T,), all NaN where a scorer gave no spans
    spans: int | None  # errors marked; None for a gated completion


class TokenCreditTrainer(GuardedGRPOTrainer):
    """GuardedGRPOTrainer whose advantages are (B, T).

    With `rollouts`, every training completion is written to that path with its tokens (see `_write_rollouts`). This
    costs one more forward pass per completion if TRL does not compute the log-probabilities of sampling time itself;
    training is the same, bit for bit. Raises ConfigError for a reward function without `credits`.
    """

    def __init__(self, *args, credit: TokenCredit, rollouts: str | Path | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if credit.level == "token" and not hasattr(self.reward_funcs[0], "credits"):
            raise ConfigError(
                f"reward_funcs: {self.reward_func_names[0]} has no `credits`; use a reward with error spans, or "
                "set level: sequence"
            )
        self.credit = credit
        self.rollouts = None if rollouts is None else MetricsFile(rollouts)
        self._offsets = TokenOffsets(getattr(self.processing_class, "tokenizer", self.processing_class))
        self._ruled = torch.empty(0)
        self._sampled: list[list[int]] = []
        self._groups = (0, 0)  # step, and its groups written so far

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._ruled, self._sampled = rewards[:, 0], completion_ids_list  # of all processes; of this one
        return rewards

    def _generate_and_score_completions(self, inputs):
        out = super()._generate_and_score_completions(inputs)
        judged = self._judged()
        out["advantages"] = self._token_advantages(out, judged)
        if self.rollouts is not None and self.model.training:
            self._write_rollouts(out, judged)
        return out

    def _judged(self) -> list[Judged]:
        reward = self.reward_funcs[0]
        rows, credits = reward.last_rows, getattr(reward, "credits", {})
        if len(rows) != len(self._sampled):
            raise ValueError(f"{self.reward_func_names[0]}: {len(rows)} last_rows for {len(self._sampled)} completions")
        return [judge(row, *self._offsets(ids), credits) for row, ids in zip(rows, self._sampled, strict=True)]

    def _token_advantages(self, out: Mapping[str, Any], judged: Sequence[Judged]) -> torch.Tensor:
        """Return advantages (B, T) of this process's completions, and log the `token/…` metrics."""
        credit, mask, mode = self.credit, out["completion_mask"], "train" if self.model.training else "eval"
        size, rank = len(judged), self.accelerator.process_index
        mine = slice(rank * size, (rank + 1) * size)
        ruled = self._ruled[mine]
        tokens = stack_rows([row.rewards for row in judged], mask)  # (B, T)
        used = tokens * 0.0 if credit.level == "sequence" else tokens  # NaN stays NaN: the same rows are left out
        used = used.masked_fill(ruled.isnan()[:, None], float("nan"))
        size_of_group = self.num_generations if mode == "train" else self.num_generations_eval
        group = group_z_scores(self._ruled, size_of_group)
        if credit.baseline == "group":
            sums = self.accelerator.gather(raw_sums(ruled, used, mask))
            ruled = ruled - group_means(sums, size_of_group)[mine].to(ruled.dtype)
        advantages = token_advantages(
            ruled if credit.normalise else out["advantages"],
            used,
            mask,
            normalise=credit.normalise,
            gather=self.accelerator.gather,
            group=group[mine],
            group_coefficient=credit.group_coefficient,
        )
        sums = token_sums(tokens, advantages, mask, used.isfinite().all(1), [row.spans for row in judged])
        for name, value in token_metrics(self.accelerator.gather(sums[None]).sum(0).tolist()).items():
            self._metrics[mode][name].append(value)
        return advantages

    def _write_rollouts(self, out: Mapping[str, Any], judged: Sequence[Judged]) -> None:
        """Write one row per completion of all processes: as in rollouts.jsonl (rl_nmt.audit.reweigh), and per token

        token_ids, offsets ([start, end) in `text`, the completion as decoded), token_rewards (null: not judged),
        advantages, old_logps and ref_logps (nats, at the sampling temperature; ref_logps null without a
        reference); `spans` are [start, end, severity, confidence, category] over `completion`, the cleaned text.
        """
        old, reference = out.get("old_per_token_logps"), out.get("ref_per_token_logps")
        old = self._sampling_logps(out) if old is None else old
        advantages = out["advantages"]
        step = self.state.global_step + 1  # the first step that trains on them
        groups = self._groups[1] if self._groups[0] == step else 0
        first = self.accelerator.process_index * len(judged)
        lines = []
        for i, (row, ids, seen) in enumerate(zip(self.reward_funcs[0].last_rows, self._sampled, judged, strict=True)):
            n = len(ids)
            spans = {scorer: own and [tuple(span) for span in own] for scorer, own in (row.get("spans") or {}).items()}
            lines.append(
                rollout_row(
                    row,
                    step,
                    groups + (first + i) // self.num_generations,
                    text=seen.text,
                    spans=spans,
                    token_ids=list(map(int, ids)),
                    offsets=[list(r) for r in seen.ranges],
                    token_rewards=seen.rewards,
                    advantages=_short(advantages[i, :n]),
                    old_logps=_short(old[i, :n]),
                    ref_logps=None if reference is None else _short(reference[i, :n]),
                )
            )
        lines = distributed.gathered(lines)
        self._groups = (step, groups + len(lines) // self.num_generations)
        if self.accelerator.is_main_process:
            for line in lines:
                self.rollouts.append(line)

    def _sampling_logps(self, out: Mapping[str, Any]) -> torch.Tensor:
        """Return log-probabilities (B, T) under the sampling policy, as TRL does; random state is untouched."""
        ids = torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1)  # (B, P + T)
        mask = torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1)
        device = self.accelerator.device
        with (
            torch.no_grad(),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, out["completion_ids"].size(1), batch_size=self.args.per_device_train_batch_size
            )
        return logps


def judge(
    row: Mapping[str, Any], text: str, ranges: list[Range], credits: Mapping[str, tuple[float, SpanCredit]]
) -> Judged:
    """Token rewards (T,) of one completion over all scorers with a weight: Σ weight · reward.

    `row` is one of the reward's `last_rows`; `text` and `ranges` are those of `TokenOffsets`. Raises ConfigError for
    a severity that has no weight.
    """
    rewards = [0.0] * len(ranges)
    if row["gate"] is not None:
        return Judged(text, ranges, rewards, None)
    marked = 0
    for name, (weight, how) in credits.items():
        if weight:
            spans = row["spans"].get(name)
            own = judged_rewards(text, ranges, row["output"], spans, how)
            rewards = [total + weight * r for total, r in zip(rewards, own, strict=True)]
            marked += len(spans or ())
    return Judged(text, ranges, rewards, marked)


def group_z_scores(rewards: torch.Tensor, size: int) -> torch.Tensor:
    """(r - mean) / (std + 1e-4) inside each group of `size`, over the rewards that exist; 0 for NaN. (B,) → (B,).

    The standard deviation is the sample's (n - 1), as TRL's advantages have it with scale_rewards="group".
    """
    grouped = rewards.view(-1, size)  # (P, G)
    valid = grouped.isfinite()
    count = valid.sum(1, keepdim=True)
    deviation = torch.where(valid, grouped, 0.0)
    deviation = torch.where(valid, grouped - deviation.sum(1, keepdim=True) / count.clamp(min=1), 0.0)
    std = (deviation.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return (deviation / (std + 1e-4)).view(-1)


def raw_sums(sequence: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, 2) float64: per completion the sum of sequence + token reward over its tokens, and their number.

    Both are 0 for a row without a reward or with an unjudged token, so that it counts in no mean.
    """
    raw = (sequence[:, None] + tokens).double()  # (B, T)
    mask = mask.bool()
    counted = mask & (raw.isfinite() | ~mask).all(1, keepdim=True)
    return torch.stack([raw.masked_fill(~counted, 0.0).sum(1), counted.sum(1).double()], dim=1)


def group_means(sums: torch.Tensor, size: int) -> torch.Tensor:
    """Mean reward per token of each completion's group of `size`, from `raw_sums` of all processes. (B, 2) → (B,)."""
    total, count = sums.view(-1, size, 2).sum(1).unbind(1)  # (P,)
    return (total / count.clamp(min=1)).repeat_interleave(size)


def token_sums(
    tokens: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    counted: torch.Tensor,
    spans: Sequence[int | None],
) -> torch.Tensor:
    """Return the sums of one process that `token_metrics` needs, to be added over all processes: (11,) float64.

    `tokens`: (B, T) rewards, NaN rows where a scorer gave no spans. `advantages`, `mask`: (B, T). `counted`: (B,) rows
    that take part in the update. `spans`: errors per row; None for a gated one.
    """
    mask, judged = mask.bool(), tokens.isfinite().all(1)  # (B, T), (B,)
    seen, used = mask & judged[:, None], mask & counted[:, None]
    rewards, exact = tokens.masked_fill(~seen, 0.0).double(), advantages.double()
    lengths, per_row = used.sum(1).double(), exact.masked_fill(~used, 0.0).sum(1)
    translated = [n for n, ok in zip(spans, judged.tolist(), strict=True) if ok and n is not None]
    parts = (
        rewards.sum(),
        (rewards != 0).sum(),
        seen.sum(),
        (~judged).sum(),
        judged.numel(),
        sum(translated),
        len(translated),
        lengths.sum(),
        per_row.sum(),
        exact.masked_fill(~used, 0.0).square().sum(),
        (per_row.square() / lengths.clamp(min=1)).sum(),
    )
    return torch.tensor([float(part) for part in parts], dtype=torch.float64, device=tokens.device)


def token_metrics(sums: Sequence[float]) -> dict[str, float]:
    """Return the `token/…` metrics (docs/metrics.md) from the sums over all processes; those without samples are left
    out."""
    reward, nonzero, seen, unjudged, rows, spans, translated, used, total, squares, between = sums
    found = {"token/unjudged_share": unjudged / rows}
    if seen:
        found |= {"token/reward_mean": reward / seen, "token/nonzero_share": nonzero / seen}
    if translated:
        found["token/spans_per_sample"] = spans / translated
    if used:
        mean = total / used
        variance = max(0.0, squares / used - mean * mean)
        found["token/advantage_std"] = variance**0.5
        if variance > 1e-12:
            found["token/within_share"] = min(1.0, max(0.0, (squares - between) / used / variance))
    return found


def _short(values: torch.Tensor) -> list[float]:
    """float32 values in the shortest form that gives their bits back."""
    return [float(str(value)) for value in values.detach().float().cpu().numpy()]
