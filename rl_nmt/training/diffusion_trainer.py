"""GRPO on fills of templates: rollouts by iterative unmasking, log-probabilities by one of three estimators.

TRL's loss is used as it is. A completion is the whole filled template; `env_mask` says which of its tokens were
written, so given ones have no loss. What the estimator needs of a rollout, its step map, travels in TRL's batch, which
shuffles and splits it with the other rows: policy, old policy and reference are scored in the same states.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from rl_nmt.models.masked_diffusion import to_batch
from rl_nmt.models.unmasking import Estimator, Fill, coupled_half, fill, log_probs
from rl_nmt.training.trainer import GuardedGRPOTrainer

MOST_LOGITS = 2**28  # in one step of sampling, 1 GiB in float32; several such tensors are needed (ours)


class DiffusionTrainer(GuardedGRPOTrainer):
    """GuardedGRPOTrainer for a model that fills masks; see the module.

    `rows`: have "ids", a template's tokens; the dataset's column "row" is a place in it. `banned`: ids never written.
    `sampler`: keywords of `unmasking.fill`: steps, order, top_p; the temperature is TRL's.

    Also logs policy_loss (the clipped objective without KL, mean over written tokens), advantages/mean and /std, and
    estimator/error: the largest difference, in nats, between the estimator's log-probability of a token and the
    sampler's own, before the first update from a generation.
    """

    def __init__(
        self, *args, rows: Sequence[dict], banned: list[int], estimator: Estimator, sampler: dict[str, Any], **kwargs
    ) -> None:
        self.rows, self.banned, self.estimator, self.sampler = rows, banned, estimator, sampler
        self._batch_rows: list[dict] = []  # of the present generation batch
        self._states: dict[str, torch.Tensor] = {}  # step_map and half, (B, T), of the batch that is scored
        self._scored: torch.Tensor | None = None  # (B, T), log-probabilities of the present micro-batch
        super().__init__(*args, rollout_func=lambda prompts, trainer: self.rollout(), **kwargs)

    def _generate_and_score_completions(self, inputs):
        self._batch_rows = [self.rows[each["row"]] for each in inputs]
        out = super()._generate_and_score_completions(inputs)
        out |= self._states  # TRL shuffles and splits them with the other rows
        advantages = self.accelerator.gather(out["advantages"])
        logged = self._metrics["train" if self.model.training else "eval"]
        logged["advantages/mean"].append(advantages.mean().item())
        logged["advantages/std"].append(advantages.std().item())
        return out

    def rollout(self) -> dict[str, Any]:
        """Fill this process's templates, each as often as TRL passes it, and keep the states they were filled in."""
        tokens = self.processing_class
        templates = [row["ids"] for row in self._batch_rows]
        ids, seen = to_batch(tokens, templates, self.accelerator.device).values()
        model, training = self.accelerator.unwrap_model(self.model), self.model.training
        model.eval()
        size = self._rows_at_once(templates)
        fixed = {"mask_id": tokens.mask_token_id, "banned": self.banned, "temperature": self.temperature}
        with self.accelerator.autocast():
            parts = [
                fill(model, some, attention_mask=mask, **fixed, **self.sampler)
                for some, mask in zip(ids.split(size), seen.split(size), strict=True)
            ]
        model.train(training)
        done = Fill(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Fill)))
        self._states = {"step_map": done.step_map}
        if self.estimator == "coupled":
            self._states["half"] = coupled_half(done.step_map)
        lengths = list(map(len, templates))

        def rows(tensor: torch.Tensor) -> list[list]:
            return [values[:length] for values, length in zip(tensor.tolist(), lengths, strict=True)]

        written = rows((done.step_map > 0).long())
        return {
            "prompt_ids": templates,
            "completion_ids": rows(done.ids),
            "logprobs": rows(done.log_probs),
            "env_mask": written,
        }

    def _rows_at_once(self, templates: list[list[int]]) -> int:
        """Return how many templates can be filled together with at most MOST_LOGITS logits in a step."""
        masks = max(row.count(self.processing_class.mask_token_id) for row in templates)
        whole = self.sampler["order"] == "confidence"  # which computes those of all masks that are left
        of_row = masks if whole else math.ceil(masks / (self.sampler["steps"] or masks))
        return max(1, MOST_LOGITS // (of_row * len(self.processing_class)))

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **_
    ):
        """Return (log-probabilities, entropies, None) of the completions by `estimator`, (B, T)."""
        ids, seen = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:]
        found = []
        for start in range(0, len(ids), size := batch_size or len(ids)):
            part = slice(start, start + size)
            states = {name: tensor[part] for name, tensor in self._states.items()}
            with self.accelerator.autocast():
                found.append(
                    log_probs(
                        model,
                        ids[part],
                        mask_id=self.processing_class.mask_token_id,
                        banned=self.banned,
                        attention_mask=seen[part],
                        estimator=self.estimator,
                        temperature=self.temperature,
                        **states,
                    )
                )
        logps, entropies = (torch.cat(each) for each in zip(*found, strict=True))
        if torch.is_grad_enabled():
            self._scored = logps.detach()
        return logps, entropies, None

    def _compute_loss(self, model, inputs):
        self._states = {name: inputs[name] for name in ("step_map", "half") if name in inputs}
        loss = super()._compute_loss(model, inputs)
        mask, scored = inputs["step_map"] > 0, self._scored
        old, advantages = inputs.get("old_per_token_logps", scored), inputs["advantages"][:, None]
        ratio = torch.exp(scored - old)
        clipped = ratio.clamp(1 - self.epsilon_low, 1 + self.epsilon_high)
        values = -torch.min(ratio * advantages, clipped * advantages)
        logged = self._metrics["train" if self.model.training else "eval"]
        logged["policy_loss"].append(self.accelerator.gather(values[mask].mean()).mean().item())
        if self._step % (self.args.steps_per_generation * self.num_iterations) < self.args.steps_per_generation:
            error = (scored - inputs["sampling_per_token_logps"])[mask].abs().max()
            logged["estimator/error"].append(self.accelerator.gather(error).max().item())
        return loss
