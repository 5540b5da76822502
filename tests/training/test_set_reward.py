"""Set shares by brute force, why the set's value alone teaches nothing, and the trainer's terms."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from tiny_models import PAIRS
from tiny_qwen import tiny_qwen

from rl_nmt.models.policy import lora_config
from rl_nmt.text.prompts import chat_prompt
from rl_nmt.training import setup
from rl_nmt.training.set_reward import SetRewardTrainer, distances, set_shares

NAN = float("nan")
SAME, OTHER = "rain all day long", "sunny and warm here"


def value(rewards, texts) -> float:
    """V of the docstring, in plain Python."""

    def pairs(text):
        words = text.lower().split()
        return set(pairwise(words)) or {tuple(words)}

    apart = [1 - len(pairs(a) & pairs(b)) / len(pairs(a) | pairs(b)) for a, b in combinations(texts, 2)]
    return sum(rewards) / len(rewards) * sum(apart) / len(apart)


words = st.lists(st.sampled_from("abcd"), max_size=5).map(" ".join)


@given(st.lists(st.tuples(st.floats(0, 1, width=32) | st.just(NAN), words), min_size=2, max_size=6))
def test_shares_against_brute_force(samples):
    rewards, texts = [r for r, _ in samples], [t for _, t in samples]
    found = set_shares(torch.tensor(rewards), texts).tolist()
    there = [i for i, r in enumerate(rewards) if not math.isnan(r)]
    for i, share in enumerate(found):
        if i not in there:
            assert math.isnan(share)
        elif len(there) < 3:
            assert share == 0
        else:
            rest = [k for k in there if k != i]
            whole = value([rewards[k] for k in there], [texts[k] for k in there])
            without = value([rewards[k] for k in rest], [texts[k] for k in rest])
            assert share == pytest.approx(len(there) * (whole - without), abs=1e-5)


def z(rewards: torch.Tensor) -> torch.Tensor:
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


def test_a_value_that_the_set_shares_vanishes_and_the_shares_do_not():
    rewards, texts = torch.full((4,), 0.6), [SAME, SAME, SAME, OTHER]
    shared = torch.full((4,), value(rewards.tolist(), texts))
    assert z(rewards + shared).abs().max() < 1e-3  # every sample gets the same: nothing to learn
    advantages = z(rewards + set_shares(rewards, texts))
    assert advantages[3] > 1 and (advantages[:3] < 0).all()  # three alike and another: the tie is broken


def test_distances():
    apart = distances(["a b c", "A b c", "x y", "one"])
    assert apart[0, 1] == 0 and apart[0, 2] == apart[2, 3] == 1 and torch.equal(apart, apart.T)


class Given:
    """A reward that gives the same totals in every call."""

    __name__ = "given"

    def __init__(self, totals):
        self.totals, self.last_rows, self.last_log, self.last_eval_log = totals, [], {}, {}

    def __call__(self, prompts, completions, **columns):
        return (self.totals * len(completions))[: len(completions)]


def trainer(folder, totals, **options):
    policy = setup.load_policy(str(tiny_qwen()), lora=True, attention="eager")
    policy.model = get_peft_model(policy.model, lora_config(4, 8))
    args = setup.grpo_config(
        folder,
        policy,
        0,
        1,
        num_generations=4,
        max_completion_length=8,
        per_device_train_batch_size=8,
        beta=0.1,
        max_steps=2,
        learning_rate=1e-3,
        logging_steps=1,
    )
    rows = setup.dataset([english for english, _ in PAIRS], lambda text: chat_prompt(policy.tokenizer, text))
    return SetRewardTrainer(
        model=policy.model,
        reward_funcs=Given(totals),
        args=args,
        processing_class=policy.tokenizer,
        train_dataset=rows,
        **options,
    )


def advantages(made) -> torch.Tensor:
    made.model.train()
    return made._generate_and_score_completions(next(iter(made.get_train_dataloader())))["advantages"]


def test_advantages_are_clipped(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        free = advantages(trainer(tmp_path, [0.0, 0.0, 0.0, 1.0]))
        torch.manual_seed(1)
        clipped = advantages(trainer(tmp_path, [0.0, 0.0, 0.0, 1.0], clip_range=0.7))
    assert free.abs().max() > 1.4 and torch.equal(clipped, free.clamp(-0.7, 0.7))


def test_without_spread_every_advantage_is_zero_unless_the_set_differs(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        assert not advantages(trainer(tmp_path, [0.5])).any()
        torch.manual_seed(1)
        made = trainer(tmp_path, [0.5], set_weight=1.0)
        assert advantages(made).any()
        assert made._metrics["train"]["set/share_std"][0] > 0


def test_the_names_of_the_original_are_logged(tmp_path):
    with torch.random.fork_rng(devices=[]):
        made = trainer(tmp_path, [0.1, 0.9, 0.4, 0.6])
        made.train()
    rows = [row for row in made.state.log_history if "policy_loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["avg_reward"] == pytest.approx(0.5)
        assert row["kl_penalty"] == pytest.approx(0.1 * row["kl"])
        assert row["policy_loss"] == pytest.approx(row["loss"] - row["kl_penalty"])
