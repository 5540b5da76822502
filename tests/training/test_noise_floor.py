"""noise_floor: real scorers in float32 hardly jitter, in bfloat16 they do, and a planted jitter is found."""

from __future__ import annotations

import pytest
from tiny_models import PAIRS

from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.training.setup import measure_jitter

ENGLISH, TAMIL = zip(*PAIRS, strict=True)


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 0.0, 1e-6), ("bfloat16", 0.0, 5e-2)])
def test_real_scorers(tiny_comet_qe, dtype, low, high):
    reward = CometDuPOReward("", str(tiny_comet_qe), "", w_cycle=0.0, reward_dtype=dtype)
    assert low <= measure_jitter(reward, ENGLISH, TAMIL[::-1]) <= high


class Batchy:
    """A scorer whose value depends on how many segments share the call, by `step` each."""

    def __init__(self, step: float):
        self.step = step

    def score_components(self, prompts, completions, source):
        return [{"total": None if text == "lost" else 0.5 + self.step * len(completions)} for text in completions]


def test_a_planted_jitter_is_measured():
    assert measure_jitter(Batchy(0.001), ["a"] * 8, ["b"] * 8) == pytest.approx(0.004)  # 8 against 4 in a call
    assert measure_jitter(Batchy(0.0), ["a"] * 8, ["b"] * 8) == 0.0


def test_segments_without_a_score_do_not_count():
    assert measure_jitter(Batchy(0.001), ["a"] * 8, ["lost"] * 8) == 0.0
    assert measure_jitter(Batchy(0.001), [], []) == 0.0
