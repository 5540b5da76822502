"""The models of pocket/rewards: made in seconds, in the formats that the reward loads, telling right from wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from transformers import AutoConfig

from bench import pocket_rewards
from pocket import build as worlds
from pocket import models
from pocket.rewards import build, language_model
from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.backtranslation import load_backtranslator
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.quality import load_quality_estimation

SMALL = build.SMALL


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    small = replace(worlds.SMALL, policy_chrf=0.0)
    return worlds.build(tmp_path_factory.mktemp("pocket") / "seed0", seed=0, sizes=small)


@pytest.fixture(scope="module")
def made(world):
    return build.build(world.with_name("rewards-seed0"), world, sizes=SMALL)


def known(n: int = 12) -> tuple[list[str], list[str], list[str]]:
    """Sources, their translations, and those of other sentences."""
    pairs = models.known_pairs(0, SMALL)[:n]
    right = [pair.tamil for pair in pairs]
    return [pair.english for pair in pairs], right, [*right[n // 2 :], *right[: n // 2]]


def test_every_part_is_built_once(world, made):
    before = {part: (made / part / "build.json").stat().st_mtime_ns for part in build.PARTS}
    build.build(made, world, sizes=SMALL)
    assert before == {part: (made / part / "build.json").stat().st_mtime_ns for part in build.PARTS}
    assert {build.key(part, world, SMALL) for part in build.PARTS} & {
        build.key("m2m100", world, build.Sizes())
    } == set()


def test_worked_pairs_are_right_and_not_held_out(world, made):
    rows = [json.loads(line) for line in (made / "language_model" / language_model.WORKED).open(encoding="utf-8")]
    references = {pair.english: pair.tamil for pair in models.known_pairs(0, SMALL)}
    heldout = {json.loads(line)["english"] for line in (world / "heldout.jsonl").open(encoding="utf-8")}
    assert len(rows) == language_model.WORKED_PAIRS
    assert all(references[row["source"]] == row["reference"] for row in rows)
    assert not heldout & {row["source"] for row in rows}


def test_the_language_model_reads_back_what_is_right(made):
    english, right, wrong = known()
    for scorer in language_model.load_scorers(made / "language_model").values():
        good, bad = (
            [*scorer.score([Segment(*s) for s in zip(english, t, strict=True)]).values] for t in (right, wrong)
        )
        assert sum(good) / 12 > sum(bad) / 12 + 0.2


def test_the_translator_is_an_m2m100(made):
    folder = made / "m2m100" / "model"
    assert AutoConfig.from_pretrained(folder).model_type == "m2m_100"
    translator = load_backtranslator(str(folder), beams=1)
    assert translator.signature()["identity"]["family"] == "m2m100"
    english, right, _ = known()
    assert sum(models.chrf(translator(right), english)) / 12 > 0.7


def test_metricx_is_a_quality_estimation_model(made):
    scorer = load_quality_estimation(made / "metricx" / "model")
    english, right, _ = known()
    values = scorer.score([Segment(*pair) for pair in zip(english, right, strict=True)]).values
    assert all(0 <= value <= 1 for value in values)
    assert scorer.signature()["identity"]["scale"] == "(25 - score) / 25"


@pytest.fixture
def placed(world, made, monkeypatch):
    """The bench, which finds this world and these models."""
    monkeypatch.setattr(pocket_rewards, "world", lambda seed: world)
    monkeypatch.setattr(pocket_rewards, "models", lambda seed: made)
    return pocket_rewards


@pytest.mark.parametrize("arm", ["likelihood", "permissive"])
def test_a_reward_with_them_prefers_right_translations(placed, world, arm):
    line = placed.reward_flags(arm, 0)
    named = {name[2:]: value for name, value in zip(line[::2], line[1::2], strict=True)}
    named |= {"comet_da_model": str(world / "comet_da"), "backtranslation_beams": 1}
    reward = CometDuPOReward(**named, w_qe=0.4 * (arm == "likelihood"))  # this small, MetricX knows nothing
    english, right, wrong = known()
    good, bad = (reward(None, outputs, source=english) for outputs in (right, wrong))
    assert sum(good) > sum(bad)


def test_the_bench_times_rewards(placed):
    lines = placed.timed(0, ["default", "likelihood"], rounds=1)
    assert [line.count("|") for line in lines[2:]] == [8] * 4
    assert lines[-2].startswith("| default | ") and lines[-2].endswith(" | 1.00 |")
