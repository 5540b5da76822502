"""recipes/preference/trainer.py: what is in a group, its log-probabilities, what moves and what must not."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from PIL import Image
from tiny_vlm import COLOURS, QUESTIONS

from recipes.preference.trainer import PairTrainer
from rl_nmt.models import policy as models
from rl_nmt.models.multimodal import Chat, answer_log_probs
from rl_nmt.training import setup

PICTURES = {name: Image.new("RGB", (48, 48), colour) for name, colour in COLOURS.items()}
NAMES = list(COLOURS)


def rows(count: int = 16, pictured=lambda i: i % 4 != 0) -> list[dict]:
    """Rows of unequal length, by default every fourth without a picture."""
    found = []
    for i in range(count):
        right, wrong = NAMES[i % 4], NAMES[(i + 1 + i // 4 % 3) % 4]
        row = {"source": QUESTIONS[i % 2], "chosen": f"It is {right}." + " It is." * (i % 3)}
        found.append(row | {"rejected": f"It is {wrong}.", "images": [right] if pictured(i) else []})
    return found


def open_images(row: dict) -> list[Image.Image]:
    return [PICTURES[name] for name in row["images"]]


def label(prompts, completions, slot, **columns) -> list[float | None]:
    return [{"chosen": 1.0, "rejected": 0.0, "sampled": 0.5}[each] for each in slot]


class Seen(PairTrainer):
    """Keeps what each loss was computed from."""

    def __init__(self, *args, **kwargs):
        self.micro_batches: list[dict] = []
        super().__init__(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        for i, ids in enumerate(inputs["completion_ids"]):
            answer = tuple(ids[mask[i].bool()].tolist())
            found = {"answer": answer, "side": inputs["side"][i].item(), "advantage": inputs["advantages"][i].item()}
            self.micro_batches.append(found | {"log_prob": (self._log_probs[i] * mask[i]).sum().item()})
        return loss


def build(
    folder, output, data, *, lora=0, sampled=0, micro=4, pairs=4, steps=1, beta=0.1, lr=1e-3, reward=label, **options
):
    images = options.pop("images", True)
    policy = setup.load_policy(str(folder), bool(lora), "sdpa", ("gemma3",), "model.name", images=images)
    chat, size = Chat(policy.tokenizer, policy.processor), 2 + sampled
    args = setup.grpo_config(
        output,
        policy,
        0,
        0,
        num_generations=size,
        max_completion_length=6,
        beta=beta,
        learning_rate=lr,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=pairs * size // micro,
        max_steps=steps,
        gradient_checkpointing=False,
        logging_steps=1,
        **options,
    )
    prompts = [chat.trl_prompt(row["source"]) for row in data]
    trainer = Seen(
        model=policy.model,
        reward_funcs=reward,
        args=args,
        processing_class=policy.processor or policy.tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompt, "row": i} for i, prompt in enumerate(prompts)]),
        peft_config=models.lora_config(lora, 2 * lora),
        rows=data,
        chat=chat,
        open_images=open_images,
    )
    setup.quieten(trainer)
    return trainer, chat


def scores(model, chat, data, side: str) -> list[float]:
    prompts = [chat.prompt(row["source"], open_images(row)) for row in data]
    return answer_log_probs(model, chat, prompts, [chat.answer(row[side]) for row in data])


def weights(model, part: str = "") -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if part in name}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_the_trainers_log_probs_are_those_of_single_rows(tiny_vlm, tmp_path, micro):
    """In mixed micro-batches, in those without any picture, and for prompts of unequal length."""
    data = rows()
    trainer, chat = build(tiny_vlm, tmp_path, data, micro=micro)
    known = {}
    for side, sign in (("chosen", 1), ("rejected", -1)):
        for row, value in zip(data, scores(trainer.model, chat, data, side), strict=True):
            known.setdefault((tuple(chat.answer(row[side])), sign), []).append(value)
    trainer.train()
    assert len(trainer.micro_batches) == 8
    for found in trainer.micro_batches:
        choices = known[found["answer"], found["side"]]
        assert min(abs(found["log_prob"] - value) for value in choices) < 2e-4


def test_a_group_is_the_pair_and_then_samples(tiny_vlm, tmp_path):
    calls = []

    def reward(prompts, completions, slot, chosen, rejected, **columns):
        calls.append((slot, [each[0]["content"] for each in completions], chosen, rejected))
        return label(prompts, completions, slot)

    data = rows()
    trainer, _ = build(tiny_vlm, tmp_path, data, sampled=2, reward=reward)
    trainer.train()
    ((slots, answers, chosen, rejected),) = calls
    assert slots == ["chosen", "rejected", "sampled", "sampled"] * 4
    for i, slot in enumerate(slots):
        if slot != "sampled":
            assert answers[i] == {"chosen": chosen, "rejected": rejected}[slot][i]
    assert len({answers[i] for i, slot in enumerate(slots) if slot == "sampled"}) > 1
    assert {each["side"] for each in trainer.micro_batches} == {1, -1, 0}


@pytest.mark.parametrize(("scale", "size"), [("group", 0.7070), ("none", 0.15)])
def test_margins_count_only_without_scaling(tiny_vlm, tmp_path, scale, size):
    def reward(prompts, completions, slot, **columns):
        return [0.5 if each == "chosen" else 0.2 for each in slot]

    trainer, _ = build(tiny_vlm, tmp_path, rows(), reward=reward, scale_rewards=scale)
    trainer.train()
    for found in trainer.micro_batches:
        assert found["advantage"] == pytest.approx(found["side"] * size, abs=1e-3)


@pytest.mark.parametrize("lora", [0, 4])
def test_chosen_rises_and_rejected_falls_and_the_reference_stays(tiny_vlm, tmp_path, lora):
    data = [row | {"chosen": row["chosen"][: row["chosen"].index(".") + 1]} for row in rows(8)]  # of equal form
    trainer, chat = build(tiny_vlm, tmp_path, data, pairs=8, steps=12, lr=2e-2 if lora else 3e-3, lora=lora)
    before = {side: sum(scores(trainer.model, chat, data, side)) for side in ("chosen", "rejected")}
    frozen = weights(trainer.model, "base_layer") if lora else weights(trainer.ref_model)
    trainer.train()
    after = {side: sum(scores(trainer.model, chat, data, side)) for side in ("chosen", "rejected")}
    assert after["chosen"] > before["chosen"] + 1 and after["rejected"] < before["rejected"] - 1
    assert frozen and same(frozen, weights(trainer.model, "base_layer") if lora else weights(trainer.ref_model))


@pytest.mark.parametrize("pictured", [False, True])
def test_only_rows_with_pictures_move_the_vision_tower(tiny_vlm, tmp_path, pictured):
    trainer, _ = build(tiny_vlm, tmp_path, rows(8, lambda i: pictured), steps=2)
    before, text = weights(trainer.model, "vision_tower"), weights(trainer.model, "language_model")
    trainer.train()
    assert before and same(before, weights(trainer.model, "vision_tower")) is not pictured
    assert not same(text, weights(trainer.model, "language_model"))


def test_a_text_only_model_trains_on_pairs(tiny_gemma, tmp_path):
    data = rows(8, lambda i: False)
    trainer, chat = build(tiny_gemma, tmp_path, data, images=False, sampled=1, micro=4, steps=2)
    expected = scores(trainer.model, chat, data, "chosen")
    trainer.train()
    first = [each for each in trainer.micro_batches[:12] if each["side"] == 1]
    for found in first:
        assert min(abs(found["log_prob"] - value) for value in expected) < 2e-3


def test_what_is_logged_of_pairs(tiny_vlm, tmp_path):
    trainer, _ = build(tiny_vlm, tmp_path, rows(), steps=2)
    trainer.train()
    first, second = [row for row in trainer.state.log_history if "loss" in row][:2]
    assert first["gains/chosen"] == pytest.approx(0, abs=1e-4) == first["gains/rejected"]
    assert second["gains/chosen"] > second["gains/rejected"]
    own = [each["log_prob"] for each in trainer.micro_batches[:8] if each["side"] == 1]
    assert first["logps/chosen"] == pytest.approx(sum(own) / len(own), abs=0.2)
