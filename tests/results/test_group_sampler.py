"""GroupSampler on a real tiny policy: the same groups whatever else was drawn, and a clear end when memory runs out."""

from __future__ import annotations

import pytest
import torch
from fault_trials import TextReward
from tiny_run import SENTENCES

import train_grpo_en_ta as script
from rl_nmt.errors import ConfigError
from rl_nmt.results.group_sampler import GroupSampler
from rl_nmt.training import setup, trl_settings


@pytest.fixture(scope="module")
def loaded(tiny_policy):
    return setup.load_policy(str(tiny_policy), False, "eager")


@pytest.fixture(scope="module")
def sampler(loaded):
    return made(loaded)


def made(loaded, **trl):
    cfg = script.RunCfg(
        group_size=4,
        max_new_tokens=6,
        temperature=1.3,
        per_device_batch_size=8,
        gradient_accumulation_steps=1,
        seed=3,
        trl=trl_settings.TrlSettings(**trl),
    )
    return GroupSampler.of(cfg, loaded, script.make_prompt, TextReward())


def test_the_groups_depend_on_seed_and_offset_alone(sampler):
    sources = SENTENCES[:5]
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    groups = sampler(sources)
    assert torch.rand(1) == expected  # the random state is unchanged
    assert groups.sources == sources and [len(texts) for texts in groups.outputs] == [4] * 5
    rows = sampler.reward.score_components(None, [t for texts in groups.outputs for t in texts], ["x"] * 20)
    assert [total for row in groups.totals for total in row] == [row["total"] for row in rows]
    assert groups.gates == [[None] * 4] * 5 and sampler(sources) == groups
    assert sampler(sources, offset=100).outputs != groups.outputs
    assert [len(texts) for texts in sampler(sources, samples=3).outputs] == [3] * 5


@pytest.mark.parametrize("trl", [{"top_k": 1}, {"min_p": 1.0}])
def test_trls_sampling_settings_are_those_of_the_groups(loaded, trl):
    """Only the most probable token is left: every sample is the greedy output."""
    narrow = made(loaded, **trl)
    greedy = narrow.greedy(SENTENCES[:3]).outputs
    assert narrow(SENTENCES[:3]).outputs == [texts * 4 for texts in greedy]


@pytest.mark.parametrize(("message", "kind"), [("CUDA out of memory. Tried", ConfigError), ("shapes", RuntimeError)])
def test_memory_that_runs_out_is_said_by_the_settings_name(sampler, monkeypatch, message, kind):
    generate, fits = type(sampler.model).generate, 8

    def full(model, *args, **kwargs):
        if len(kwargs["input_ids"]) * kwargs["generation_config"].num_return_sequences > fits:
            raise RuntimeError(message)
        return generate(model, *args, **kwargs)

    monkeypatch.setattr(type(sampler.model), "generate", full)
    assert len(sampler(SENTENCES[:3])) == 3  # two prompts of four samples together
    with pytest.raises(kind) as raised:
        sampler(SENTENCES[:3], samples=16)
    assert kind is RuntimeError or str(raised.value).startswith("group_size: 4: sampling 16 outputs of 6 tokens")
    fits = 2
    for decode in (sampler.greedy, lambda sources: sampler.distance(None, sources)):
        with pytest.raises(kind) as raised:
            decode(SENTENCES[:3])
        assert kind is RuntimeError or str(raised.value).startswith("group_size: 4: sampling 8 outputs of 6 tokens")
