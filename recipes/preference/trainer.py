"""GRPO on given answers: a group is the chosen and the rejected answer of a row, then samples of the policy.

TRL's loss is used as it is. With two answers a group and scale_rewards "group" the advantages are ± 0.71, whatever the
rewards are ("It Takes Two: Your GRPO Is Secretly DPO", arXiv 2510.00977); with "none" they are ± half of the margin.
The given answers are not sampled from the policy, and the ratio of new to old probabilities is 1 in their one update:
this is a contrastive gradient, which the KL term against the frozen start model holds back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rl_nmt import distributed
from rl_nmt.models.multimodal import Chat, skip_empty_images, stacked
from rl_nmt.training.trainer import GuardedGRPOTrainer

CHOSEN, REJECTED, SAMPLED = "chosen", "rejected", "sampled"  # places in a group
SIDES = {CHOSEN: 1, REJECTED: -1, SAMPLED: 0}


class PairTrainer(GuardedGRPOTrainer):
    """GuardedGRPOTrainer whose groups of G = num_generations begin with the two answers of a row.

    `rows`: have "chosen" and "rejected"; the dataset's column "row" is a place in it. `open_images`: row → its PIL
    images. The reward gets the columns chosen, rejected and slot (CHOSEN, REJECTED, SAMPLED).

    Also logs, of chosen and of rejected answers, logps/… and gains/…: the mean log-probability of an answer in nats,
    and how much of it was gained on the reference.
    """

    def __init__(
        self, *args, rows: Sequence[dict], chat: Chat, open_images: Callable[[dict], list[Any]], **kwargs
    ) -> None:
        self.rows, self.chat, self.open_images = rows, chat, open_images
        self._batch_rows: list[dict] = []  # of the present generation batch, one per sequence
        self._log_probs: torch.Tensor | None = None  # (B, T), of the present micro-batch
        super().__init__(*args, rollout_func=lambda prompts, trainer: self.rollout(prompts), **kwargs)
        for model in (self.model, self.ref_model):
            if chat.processor is not None and model is not None:
                skip_empty_images(model)

    def _generate_and_score_completions(self, inputs):
        self._batch_rows = [self.rows[each["row"]] for each in inputs]
        if self.chat.processor is not None:  # [] and not None without images: TRL then takes mixed batches
            images = [self.open_images(row) for row in self._batch_rows]
            inputs = [each | {"images": own} for each, own in zip(inputs, images, strict=True)]
        out = super()._generate_and_score_completions(inputs)
        sides = [SIDES[slot] for slot in self.slots(len(inputs))]
        out["side"] = torch.tensor(sides, device=out["advantages"].device)  # (B,), shuffled and split with the others
        return out

    def slots(self, count: int) -> list[str]:
        """Return the place in its group of each of this process's `count` sequences; a group may be split."""
        size = self.num_generations if self.model.training else self.num_generations_eval
        places = ((distributed.rank() * count + i) % size for i in range(count))
        return [(CHOSEN, REJECTED)[place] if place < 2 else SAMPLED for place in places]

    def rollout(self, prompts: list) -> dict[str, Any]:
        """Return token ids of prompts and answers; TRL passes each prompt G times, in group order."""
        rows, slots = self._batch_rows, self.slots(len(prompts))
        known: dict[int, list[int]] = {}  # ids of a row's prompt
        for row, prompt in zip(rows, prompts, strict=True):
            if id(row) not in known:
                known[id(row)] = self._tokenize_prompts([prompt])[0][0]
        ids = [known[id(row)] for row in rows]
        answers = [
            [] if slot == SAMPLED else self.chat.answer(row[slot]) for row, slot in zip(rows, slots, strict=True)
        ]
        if places := [i for i, slot in enumerate(slots) if slot == SAMPLED]:
            _, images, fields = self._tokenize_prompts([prompts[i] for i in places])
            sampled, _ = self._generate_single_turn([ids[i] for i in places], images, fields, self.num_generations)
            for i, answer in zip(places, sampled, strict=True):
                answers[i] = answer
        columns = {name: [row[name] for row in rows] for name in (CHOSEN, REJECTED)}
        return {"prompt_ids": ids, "completion_ids": answers, "logprobs": None, "slot": slots, **columns}

    def _tokenize_prompts(self, prompts):
        """Tokenize prompts one at a time: Gemma3Processor of transformers 4.57 fails on several of unequal length."""
        if self.chat.processor is None:
            return super()._tokenize_prompts(prompts)
        found = [super(PairTrainer, self)._tokenize_prompts([prompt]) for prompt in prompts]
        fields: dict[str, Any] = {}
        for _, _, own in found:
            for name, values in own.items():  # token types: a list per prompt; pixel values: one per image
                fields.setdefault(name, []).extend(values)
        if "pixel_values" in fields:
            fields["pixel_values"] = stacked(fields["pixel_values"])
        return [ids[0] for ids, _, _ in found], [images[0] if images else [] for _, images, _ in found], fields

    def _get_per_token_logps_and_entropies(self, model, input_ids, *args, **kwargs):
        if self.chat.processor is not None:
            # TRL 1.16 makes them from a text with two BOS: one place off, and Gemma's mask of an image with them.
            kwargs["token_type_ids"] = (input_ids == self.chat.image_token).long()
        found = super()._get_per_token_logps_and_entropies(model, input_ids, *args, **kwargs)
        if torch.is_grad_enabled():
            self._log_probs = found[0].detach()
        return found

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        mask, sides = inputs["completion_mask"], self.accelerator.gather(inputs["side"])
        own = (self._log_probs * mask).sum(1)  # (B,)
        reference = (inputs["ref_per_token_logps"] * mask).sum(1) if self.beta else own
        values = {"logps": self.accelerator.gather(own), "gains": self.accelerator.gather(own - reference)}
        for name, value in values.items():
            for slot in (CHOSEN, REJECTED):
                if (here := sides == SIDES[slot]).any():
                    self._metrics["train"][f"{name}/{slot}"].append(value[here].mean().item())
        return loss
