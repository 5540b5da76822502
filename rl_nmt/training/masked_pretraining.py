"""Pretrain a masked-diffusion GPT on texts with LLaDA's loss, in a transformers.Trainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from rl_nmt import distributed
from rl_nmt.models.masked_diffusion import banned_ids, diffusion_loss, to_batch
from rl_nmt.text.templates import text_ids
from rl_nmt.training import setup

DRAWS = 4  # of masks, in the loss on held-out texts


class MaskedPretrainer(Trainer):
    """A Trainer whose loss is `diffusion_loss`; masks are drawn from torch's RNG, which checkpoints keep."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        self.state.num_input_tokens_seen += int(inputs["attention_mask"].sum()) * self.args.world_size
        return diffusion_loss(model, **inputs, tokenizer=self.processing_class)

    def log(self, logs, *args, **kwargs):
        super().log({**logs, "num_tokens": self.state.num_input_tokens_seen}, *args, **kwargs)


def token_rows(tokenizer, texts: Sequence[str], context: int) -> list[list[int]]:
    """Return the ids of the texts that fit into `context` tokens, bos and eos included, in their order."""
    return [ids for ids in text_ids(tokenizer, list(texts)) if len(ids) <= context]


def build_pretrainer(
    folder: Path, policy: setup.Policy, rows: Sequence[list[int]], save_steps: int, seed: int, **options: Any
) -> MaskedPretrainer:
    """Return a trainer of the model on `rows` (of `token_rows`); `options`: further ones of TrainingArguments."""
    args = TrainingArguments(
        output_dir=str(folder),
        lr_scheduler_type="linear",
        remove_unused_columns=False,
        **setup.trainer_options(policy, save_steps, seed),
        **options,
    )
    trainer = MaskedPretrainer(
        model=policy.model,
        args=args,
        train_dataset=rows,
        processing_class=policy.tokenizer,
        data_collator=lambda found: to_batch(policy.tokenizer, found),
    )
    setup.quieten(trainer)
    torch.manual_seed(seed + distributed.rank())  # else all processes would draw the same masks
    return trainer


@torch.no_grad()
def heldout_loss(model, tokenizer, rows: Sequence[list[int]], batch_size: int, seed: int = 0) -> float:
    """Return the loss on held-out rows in nats per token, of `DRAWS` draws of masks that depend on `seed` alone."""
    generator, special = torch.Generator(model.device).manual_seed(seed), set(banned_ids(tokenizer))
    total, count = 0.0, 0
    model.eval()
    for start in list(range(0, len(rows), batch_size)) * DRAWS:
        part = rows[start : start + batch_size]
        tokens = sum(token not in special for row in part for token in row)
        batch = to_batch(tokenizer, part, model.device)
        total += tokens * diffusion_loss(model, **batch, tokenizer=tokenizer, generator=generator).item()
        count += tokens
    return total / max(1, count)
