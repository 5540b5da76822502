"""Supervised fine-tuning of a chat model by TRL's SFTTrainer, as a phase before GRPO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rl_nmt.text.prompts import end_of_turn
from rl_nmt.training import setup

IGNORED = -100  # label of a token without a loss


def sft_rows(tokenizer, prompts: Sequence[str], answers: Sequence[str]):
    """Return a dataset with input_ids and labels: the loss is on the answer and on the token that ends its turn.

    The tokens of a prompt are those that GRPO samples after; control tokens in an answer are read as text.
    """
    from datasets import Dataset

    turn = [tokenizer.convert_tokens_to_ids(end_of_turn(tokenizer) or tokenizer.eos_token)]
    options = {"add_special_tokens": False, "split_special_tokens": True}
    before = tokenizer(list(prompts))["input_ids"]  # as TRL does in GRPO
    after = [ids + turn for ids in tokenizer(list(answers), **options)["input_ids"]]
    rows = zip(before, after, strict=True)
    return Dataset.from_list([{"input_ids": p + a, "labels": [IGNORED] * len(p) + a} for p, a in rows])


def build_sft_trainer(
    folder: Path, policy: setup.Policy, rows, save_steps: int, seed: int, diversity_weight: float = 0.0, **options: Any
):
    """Return TRL's SFTTrainer on `rows` (of `sft_rows`); `options`: further ones of SFTConfig.

    `diversity_weight`: λ of `PolychromicLoss`; 0 is TRL's own loss.
    """
    from trl import SFTConfig, SFTTrainer

    from rl_nmt.models.policy import precise_adapters

    args = SFTConfig(
        output_dir=str(folder),
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        **setup.trainer_options(policy, save_steps, seed),
        **options,
    )
    with precise_adapters(policy.model):
        trainer = SFTTrainer(
            model=policy.model,
            args=args,
            train_dataset=rows,
            processing_class=policy.tokenizer,
            compute_loss_func=PolychromicLoss(diversity_weight) if diversity_weight else None,
        )
    trainer.create_model_card = lambda *args, **kwargs: None  # results/model_card.py writes the run's
    setup.quieten(trainer)
    return trainer


class PolychromicLoss:
    """Cross-entropy − λ · D: fit the answers, and keep other continuations possible.

    D, 0 to 1, is the mean over the answer's tokens of 1 − Σ p²: the probability that two samples of the model continue
    differently there (Simpson's diversity of the next token). It has a gradient, other than a score of sampled texts.
    Form and name of the arm are those of a public recipe whose diversity term had none; this definition is ours.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        """`outputs.logits`: (B, L, V); `labels`: (B, L), IGNORED: no loss; `num_items_in_batch`: of all passes."""
        asked = labels[:, 1:] != IGNORED  # (B, L - 1)
        logits = outputs.logits[:, :-1][asked].float()  # (N, V)
        if not len(logits):
            return outputs.logits.sum() * 0.0
        count = len(logits) if num_items_in_batch is None else num_items_in_batch
        entropy = torch.nn.functional.cross_entropy(logits, labels[:, 1:][asked], reduction="sum")
        diversity = 1 - logits.softmax(-1).square().sum(-1)  # (N,)
        return (entropy - self.weight * diversity.sum()) / count
