"""rl_nmt/training/diffusion_trainer.py: fills as TRL's completions, estimators on TRL's own loss."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from tiny_diffusion import template, tiny_generator, tiny_tokenizer

from rl_nmt.models import policy as models
from rl_nmt.models.masked_diffusion import banned_ids, load_generator
from rl_nmt.models.unmasking import fill
from rl_nmt.training import diffusion_trainer, setup
from rl_nmt.training.diffusion_trainer import DiffusionTrainer

TEXTS = ("a____b", "ab______", "__c__d_e", "____", "_b_d_f_h", "gh___")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator whose log-probabilities depend on what is revealed."""
    where = tmp_path_factory.mktemp("generator")
    tokenizer = tiny_tokenizer()
    tiny_generator(tokenizer=tokenizer).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def letters_a(prompts, completions, **columns) -> list[float | None]:
    return [text.count("a") / len(text) for text in completions]


class Seen(DiffusionTrainer):
    """Keeps what each loss was computed from."""

    def __init__(self, *args, **kwargs):
        self.seen: list[dict] = []
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        self.seen.append({"loss": loss, "scored": self._scored, **inputs})
        return loss


def build(
    folder, output, *, estimator="trajectory", steps=3, micro=8, passes=2, updates=1, reward=letters_a, **options
):
    model, tokenizer = load_generator(str(folder))
    model.generation_config = models.generation_defaults(tokenizer)
    precision = models.choose_precision(lora=False)
    policy = setup.Policy(tokenizer, precision, model, lambda: load_generator(str(folder))[0])
    rows = [{"ids": template(tokenizer, text), "source": text} for text in TEXTS]
    settings = {"num_generations": 4, "max_completion_length": 10, "temperature": 0.8, "beta": 0.05, "max_steps": 1}
    settings |= {"learning_rate": 3e-3, "logging_steps": 1, "loss_type": "dapo"} | options
    batches = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": passes, "num_iterations": updates}
    return Seen(
        model=model,
        reward_funcs=reward,
        args=setup.grpo_config(output, policy, 0, 0, **settings, **batches),
        train_dataset=Dataset.from_list([{"prompt": row["source"], "row": i} for i, row in enumerate(rows)]),
        processing_class=tokenizer,
        rows=rows,
        banned=banned_ids(tokenizer),
        estimator=estimator,
        sampler={"steps": steps, "order": "random", "top_p": 1.0},
    )


def logged(trainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.fixture(autouse=True)
def silence(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_the_trajectory_estimator_is_the_samplers_log_probability(folder, tmp_path, steps):
    trainer = build(folder, tmp_path, steps=steps)
    trainer.train()
    assert len(trainer.seen) == 2
    for seen in trainer.seen:
        written = seen["step_map"] > 0
        assert (seen["scored"] - seen["sampling_per_token_logps"])[written].abs().max() <= 1e-5
    assert logged(trainer, "estimator/error")[0] <= 1e-5


@pytest.mark.parametrize(("steps", "at_once"), [(0, 3), (1, 1), (3, 1)])
def test_few_templates_are_sampled_together_where_their_logits_are_many(folder, tmp_path, monkeypatch, steps, at_once):
    """Three masks fit: one a row and step at S = 0; at S = 1 and 3 each row has at least two, and is alone."""
    trainer, sizes = build(folder, tmp_path, steps=steps), []
    monkeypatch.setattr(diffusion_trainer, "MOST_LOGITS", 3 * len(trainer.processing_class))

    def spied(model, some, **options):
        sizes.append(len(some))
        return fill(model, some, **options)

    monkeypatch.setattr(diffusion_trainer, "fill", spied)
    trainer.train()
    assert set(sizes) <= {at_once, 16 % at_once} and sum(sizes) == 16
    assert logged(trainer, "estimator/error")[0] <= 1e-5


@pytest.mark.parametrize("estimator", ["one_step", "coupled"])
def test_the_other_estimators_log_their_error(folder, tmp_path, estimator):
    trainer = build(folder, tmp_path, estimator=estimator)
    trainer.train()
    assert logged(trainer, "estimator/error")[0] > 0.1
    assert ("half" in trainer.seen[0]) == (estimator == "coupled")


@pytest.mark.parametrize("estimator", ["trajectory", "one_step", "coupled"])
def test_at_the_first_update_new_old_and_reference_are_equal(folder, tmp_path, estimator):
    """So the ratio is 1 and the KL 0; at the second update from the same fills they differ."""
    trainer = build(folder, tmp_path, estimator=estimator, updates=2, max_steps=2)
    trainer.train()
    first, second = trainer.seen[:2], trainer.seen[2:]
    for seen in first:
        written = seen["step_map"] > 0
        for name in ("old_per_token_logps", "ref_per_token_logps"):
            assert torch.allclose(seen["scored"][written], seen[name][written], atol=1e-5), name
    for seen in second:
        written = seen["step_map"] > 0
        assert (seen["scored"] - seen["old_per_token_logps"])[written].abs().max() > 1e-3
        assert torch.equal(seen["old_per_token_logps"], next(f for f in first if torch.equal(f["completion_ids"],
            seen["completion_ids"]))["old_per_token_logps"])  # fmt: skip
    assert logged(trainer, "kl")[0] == pytest.approx(0, abs=1e-6) and logged(trainer, "kl")[1] > 1e-5


def test_the_states_stay_with_their_rows_when_trl_shuffles(folder, tmp_path):
    trainer = build(folder, tmp_path, micro=4, passes=4)
    trainer.train()
    mask, pad = trainer.processing_class.mask_token_id, trainer.processing_class.pad_token_id
    shapes = set()
    for seen in trainer.seen:
        for prompt, ids, steps in zip(seen["prompt_ids"], seen["completion_ids"], seen["step_map"], strict=True):
            template_ids = prompt[prompt != pad]
            ids, steps = ids[: len(template_ids)], steps[: len(template_ids)]
            assert torch.equal(steps > 0, template_ids == mask)
            assert torch.equal(ids[steps == 0], template_ids[steps == 0]) and (ids != mask).all()
            shapes.add(len(template_ids))
    assert len(shapes) > 1


def test_given_tokens_have_no_gradient_in_the_loss(folder, tmp_path, monkeypatch):
    trainer = build(folder, tmp_path)
    trainer.train()
    seen = {name: value for name, value in trainer.seen[0].items() if name not in ("loss", "scored")}
    leaf = trainer.seen[0]["scored"].clone().requires_grad_()
    monkeypatch.setattr(
        "rl_nmt.training.diffusion_trainer.log_probs", lambda *args, **kwargs: (leaf, torch.zeros_like(leaf))
    )
    trainer._compute_loss(trainer.model, seen).backward()
    written = seen["step_map"] > 0
    assert (leaf.grad[~written] == 0).all()
    assert (leaf.grad[written & (seen["advantages"][:, None] != 0)] != 0).all()


def test_the_reference_stays_and_the_reward_rises(folder, tmp_path):
    trainer = build(folder, tmp_path, max_steps=25)
    start = {name: tensor.clone() for name, tensor in trainer.ref_model.state_dict().items()}
    trainer.train()
    reward = logged(trainer, "reward")
    assert sum(reward[-5:]) > sum(reward[:5]) + 0.5
    assert all(torch.equal(tensor, start[name]) for name, tensor in trainer.ref_model.state_dict().items())
    for name in ("advantages/mean", "advantages/std", "policy_loss", "reward_std", "kl"):
        assert len(logged(trainer, name)) == 25, name
    assert max(map(abs, logged(trainer, "advantages/mean"))) < 1e-5


def letters(prompts, completions, **columns) -> list[float | None]:
    return [sum(map(ord, text)) / 1000 for text in completions]


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_policy_loss_is_the_objective_without_kl(folder, tmp_path, loss_type):
    """Without KL, and with as many masks in every row, it is TRL's loss; dr_grpo divides by the longest completion."""
    options = {"loss_type": loss_type, "beta": 0.0, "updates": 2, "max_steps": 2, "passes": 1, "reward": letters}
    trainer = build(folder, tmp_path, **options)
    trainer.rows = [row | {"ids": template(trainer.processing_class, "_____")} for row in trainer.rows]
    trainer.train()
    own, trl = logged(trainer, "policy_loss"), logged(trainer, "loss")
    assert trl[1] == pytest.approx(own[1] * (0.5 if loss_type == "dr_grpo" else 1), abs=1e-4)
    assert abs(own[1]) > 1e-3
