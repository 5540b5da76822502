"""Likelihoods against a plain loop over the tokens, one answer at a time."""

from __future__ import annotations

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from tiny_models import PAIRS, PROMPT
from tiny_qwen import tiny_qwen

from recipes.replies.train import write_prompt
from rl_nmt.errors import ConfigError
from rl_nmt.models import policy as models
from rl_nmt.scorers.likelihood import MIN_SPREAD, Likelihood, calibrate, on_scale
from rl_nmt.text.prompts import chat_prompt
from rl_nmt.training import setup


@pytest.fixture(scope="module")
def loaded():
    return setup.load_policy(str(tiny_qwen()), lora=True, attention="eager")


def by_hand(model, tokenizer, prompt: str, answer: str, end: int) -> float:
    before = tokenizer(prompt)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], end]
    with torch.no_grad():
        table = model.eval()(input_ids=torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(table[len(before) + i - 1, token].item() for i, token in enumerate(after)) / len(after)


def texts(tokenizer):
    answers = ["", "a", *(tamil for _, tamil in PAIRS)]
    return [chat_prompt(tokenizer, PAIRS[i % len(PAIRS)][0]) for i in range(len(answers))], answers


def test_a_batch_has_the_values_of_a_loop(loaded):
    tokenizer, end = loaded.tokenizer, models.stop_ids(loaded.tokenizer)[0]
    prompts, answers = texts(tokenizer)
    found = Likelihood(loaded.model, tokenizer, end)(prompts, answers)
    expected = [by_hand(loaded.model, tokenizer, p, a, end) for p, a in zip(prompts, answers, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert Likelihood(loaded.model, tokenizer, end)([], []) == []


def test_what_it_has_learned_is_likelier_than_shuffled_words(loaded):
    tokenizer = loaded.tokenizer
    score = Likelihood(loaded.model, tokenizer, models.stop_ids(tokenizer)[0])
    prompts = [chat_prompt(tokenizer, PROMPT.format(source=english)) for english, _ in PAIRS]
    honest = score(prompts, [tamil for _, tamil in PAIRS])
    salad = score(prompts, [" ".join(reversed(tamil.split())) for _, tamil in PAIRS])
    assert sum(honest) / len(honest) > sum(salad) / len(salad) + 0.5


def test_adapters_are_off_in_the_call_and_on_after_it(loaded):
    from peft import get_peft_model

    end = models.stop_ids(loaded.tokenizer)[0]
    prompts, answers = texts(loaded.tokenizer)
    expected = Likelihood(loaded.model, loaded.tokenizer, end)(prompts, answers)
    policy = setup.load_policy(str(tiny_qwen()), lora=True, attention="eager")
    with torch.random.fork_rng(devices=[]):
        adapted = get_peft_model(policy.model, models.lora_config(4, 8))
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = adapted.eval()(ids).logits
    found = Likelihood(adapted, policy.tokenizer, end)(prompts, answers)
    assert found == pytest.approx(expected, abs=1e-5)
    with torch.no_grad():
        assert torch.equal(adapted.eval()(ids).logits, before)
    assert any(p.requires_grad for n, p in adapted.named_parameters() if "lora_" in n)


def test_a_copy_in_another_process_scores_the_same(loaded):
    tokenizer, end = loaded.tokenizer, models.stop_ids(loaded.tokenizer)[0]
    score = Likelihood(loaded.model, tokenizer, end, partial(write_prompt, "Say: {source}", tokenizer))
    assert pickle.loads(pickle.dumps(score))(["x"], ["y"]) == score(["x"], ["y"])


def test_a_model_that_is_not_finite_gives_none(loaded):
    policy = setup.load_policy(str(tiny_qwen()), lora=True, attention="eager")
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(float("nan"))
    score = Likelihood(policy.model, policy.tokenizer, models.stop_ids(policy.tokenizer)[0])
    assert score([chat_prompt(policy.tokenizer, "a")], ["b"]) == [None]


def test_calibration_keeps_human_replies_fluent():
    values = [-2.0, -2.5, -3.0, -3.5, -4.0, -5.0, -2.2, None, math.nan]
    scale = calibrate(values, "w")
    known = [value for value in values if value is not None and math.isfinite(value)]
    assert on_scale(float(np.quantile(known, 0.05)), scale) == pytest.approx(0.75)
    assert on_scale(scale[0], scale) == on_scale(-99.0, scale) == 0.0
    assert on_scale(scale[1], scale) == on_scale(0.0, scale) == 1.0
    assert on_scale(sum(scale) / 2, scale) == pytest.approx(0.5)
    assert [on_scale(odd, scale) for odd in (None, math.nan, -math.inf)] == [None] * 3
    low, high = calibrate([-3.0] * 5, "w")
    assert (low, high) == (-3.0 - MIN_SPREAD, -3.0)
    with pytest.raises(ConfigError, match=r"w_fluency: 4 of 6 .*w_fluency 0"):
        calibrate([-1.0, -2.0, -3.0, -4.0, None, math.nan], "reward.w_fluency")
