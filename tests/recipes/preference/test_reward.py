"""The reward of preference pairs: label, heuristic, a function of the user's; expected values by hand."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.preference.reward import PARTS, PreferenceReward, check_source, heuristic, saturation
from recipes.preference.settings import RewardCfg
from rl_nmt.errors import ConfigError

QUESTIONS = ["What is 2 + 2?"] * 3
PAIR = {"source": QUESTIONS, "chosen": ["It is 4."] * 3, "rejected": ["Five."] * 3}
SLOTS = ["chosen", "rejected", "sampled"]


def totals(cfg, completions, **columns):
    return [row["total"] for row in PreferenceReward(cfg).score_components(None, completions, **columns)]


# ---------------------------------------------------------------------- label


def test_labels_of_slots():
    cut = ["It is", "Fi", " It is 4.\n"]  # as decoded: the slots say what they are
    assert totals(RewardCfg(), cut, **PAIR, slot=SLOTS) == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "label"), [("It is 4.", 1.0), (" Five. ", 0.0), ("it is 4.", None), ("", None), ("It is 4.<pad>", 1.0)]
)
def test_sampled_answers_have_the_label_of_the_one_they_equal(answer, label):
    assert totals(RewardCfg(), [answer] * 3, **PAIR) == [label] * 3
    assert totals(RewardCfg(), [answer] * 3, **PAIR, slot=["sampled"] * 3) == [label] * 3


def test_match_gives_every_sampled_answer_a_score():
    cfg = RewardCfg(source="match")
    assert totals(cfg, ["x", "y", "Six."], **PAIR, slot=SLOTS) == [1.0, 0.0, 0.0]
    assert totals(cfg, [" It is 4.", "it is 4.", ""], **PAIR) == [1.0, 0.0, 0.0]


def test_trl_calls_it_with_conversations():
    reward = PreferenceReward(RewardCfg())
    prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which?"}]}]] * 3
    answers = [[{"role": "assistant", "content": text}] for text in ("It is 4.", "Five.", "Six.")]
    columns = {"chosen": PAIR["chosen"], "rejected": [[{"role": "assistant", "content": "Five."}]] * 3}
    assert reward(prompts, answers, **columns, slot=SLOTS, completion_ids=[[1]] * 3) == [1.0, 0.0, None]
    assert [row["source"] for row in reward.last_rows] == ["Which?"] * 3
    assert [row["output"] for row in reward.last_rows] == ["It is 4.", "Five.", "Six."]
    log = reward.last_log
    assert log["reward/chosen"] == 1.0 and log["reward/rejected"] == 0.0 and "reward/sampled" not in log
    assert log["reward/total"] == 0.5 and log["reward/missing_share"] == pytest.approx(1 / 3)
    assert json.loads(json.dumps(reward.last_rows)) == reward.last_rows
    assert reward([], [], **{name: [] for name in PAIR}) == []


def test_samples_without_a_label_do_not_stop_the_run():
    reward = PreferenceReward(RewardCfg())
    for _ in range(4):
        assert reward(None, ["Six."] * 3, **PAIR) == [None] * 3


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"chosen": None}, "chosen: give this column"),
        ({"rejected": ["x"]}, "rejected: give this column, with one value for each of 3"),
        ({"slot": ["chosen"]}, "slot: give"),
        ({"slot": ["chosen", "best", "sampled"]}, "slot: 'best' must be one of chosen, rejected, sampled"),
        ({"source": None}, "source: give"),
        ({"chosen": ["a", None, "b"]}, "chosen: item 1 is None"),
    ],
)
def test_columns_that_are_missing_or_wrong(changes, part):
    with pytest.raises(ConfigError, match=part):
        totals(RewardCfg(), ["a", "b", "c"], **(PAIR | {"slot": SLOTS} | changes))


# ---------------------------------------------------------------------- heuristic

HEURISTIC = RewardCfg(source="heuristic")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", (0.0, 0.0, 0.0)),
        ("abcdefghij", (0.1, 0.0, 0.0)),
        ("x" * 49, (0.49, 0.0, 0.0)),
        ("x" * 50, (0.5, 0.0, 0.0)),
        ("x" * 500, (0.5, 0.0, 0.0)),
        ("because", (0.07, 0.1, 0.0)),
        ("Because THUS", (0.12, 0.2, 0.0)),
        ("first, first", (0.12, 0.2, 0.0)),
        ("first second third finally", (0.26, 0.3, 0.0)),
        ("secondly becauseof thusly", (0.25, 0.0, 0.0)),
        ("unfinally enthus", (0.16, 0.0, 0.0)),
        ("a.", (0.02, 0.0, 0.2)),
        ("a?!", (0.03, 0.0, 0.2)),
    ],
)
def test_heuristic(text, parts):
    found = heuristic(text, HEURISTIC)
    assert tuple(found) == PARTS and tuple(found.values()) == pytest.approx(parts)
    assert totals(HEURISTIC, [text], source=["Q?"]) == [pytest.approx(sum(parts))]


def test_the_caps_are_settings():
    cfg = RewardCfg(source="heuristic", length_cap=1.0, reasoning_cap=0.1, structure_cap=0.6)
    assert list(heuristic("x" * 80, cfg).values()) == [0.8, 0.0, 0.0]
    assert list(heuristic("thus because. ... !", cfg).values()) == pytest.approx([0.19, 0.1, 0.6])


@given(st.text())
def test_the_heuristic_is_bounded(text):
    assert 0.0 <= sum(heuristic(text, HEURISTIC).values()) <= 1.0
    assert totals(HEURISTIC, [text], source=["Q?"])[0] <= 1.0


def test_longer_wrong_answers_win_below_the_cap_and_tie_above():
    good, bad = "It is 4.", "It is certainly 17, I am quite sure of it."
    assert totals(HEURISTIC, [good, bad], source=["Q?"] * 2) == pytest.approx([0.28, 0.62])
    long = "x" * 50
    rows = [
        {"chosen": good, "rejected": bad},  # length decides
        {"chosen": "It is 4.", "rejected": "It is 5."},  # a tie
        {"chosen": long, "rejected": long + "y"},  # a tie at the cap
        {"chosen": long + " because", "rejected": long},  # both fill the cap: length decides nothing
    ]
    assert saturation(rows, HEURISTIC) == 0.75 and saturation(rows[:1], HEURISTIC) == 0.0


def test_slots_choose_the_text_of_the_heuristic():
    columns = PAIR | {"slot": SLOTS}
    assert totals(HEURISTIC, ["", "", "Six!!"], **columns) == pytest.approx([0.28, 0.25, 0.25])
    rows = PreferenceReward(HEURISTIC).score_components(None, ["", "", "Six!!"], **columns)
    assert [row["output"] for row in rows] == ["It is 4.", "Five.", "Six!!"]
    assert [row["slot"] for row in rows] == SLOTS and [row["length"] for row in rows] == [8, 5, 5]
    assert rows[2]["length_part"] == 0.05 and rows[2]["structure_part"] == 0.2
    with pytest.raises(ConfigError, match="rejected: give"):
        totals(HEURISTIC, ["", "", ""], **(columns | {"rejected": None}))
    log = PreferenceReward(HEURISTIC).summarise(rows)
    assert log["reward/length_part"] == pytest.approx((0.08 + 0.05 + 0.05) / 3)


# ---------------------------------------------------------------------- a function


@pytest.fixture
def own(monkeypatch):
    """A module named own_reward with functions to name in reward.source; `calls` are what `good` was given."""
    made = types.ModuleType("own_reward")
    made.calls = []

    def good(prompts, completions, chosen, **columns):
        made.calls.append({"prompts": prompts, "completions": completions, "chosen": chosen, **columns})
        return [float(len(text)) if isinstance(text, str) else None for text in completions]

    made.good = good
    made.numpy = lambda completions, **_: np.arange(len(completions), dtype=np.float32)
    made.short = lambda **_: [1.0]
    made.text = lambda **_: [1.0, "2", 3.0]
    made.nan = lambda **_: [1.0, float("nan"), None]
    made.flag = lambda **_: [True, False, True]
    made.nothing = lambda **_: None
    made.broken = lambda **_: 1 / 0
    made.number = 3
    monkeypatch.setitem(sys.modules, "own_reward", made)
    return made


def test_a_function_is_called_like_a_reward_of_trl(own):
    reward = PreferenceReward(RewardCfg(source="own_reward:good"))
    assert reward(["p"] * 3, ["a", "bb", "ccc"], **PAIR, slot=SLOTS, step=[7] * 3) == [8.0, 5.0, 3.0]
    (call,) = own.calls
    assert call["prompts"] == QUESTIONS and call["completions"] == ["It is 4.", "Five.", "ccc"]
    assert call["rejected"] == PAIR["rejected"] and call["slot"] == SLOTS and call["step"] == [7] * 3
    # In training with images TRL passes conversations: the function sees the same strings as in an evaluation.
    prompts = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in QUESTIONS]
    turns = [[{"role": "assistant", "content": text}] for text in "abc"]
    given = {name: PAIR[name] for name in ("chosen", "rejected")} | {"images": [["one"], [], ["two", "three"]]}
    assert reward(prompts, turns, **given, slot=SLOTS) == [8.0, 5.0, 1.0]
    assert own.calls[1]["prompts"] == QUESTIONS and own.calls[1]["completions"] == ["It is 4.", "Five.", "c"]
    assert own.calls[1]["images"] == given["images"]
    assert reward([], [], **{name: [] for name in PAIR}) == [] and len(own.calls) == 2


def test_numbers_of_numpy(own):
    assert totals(RewardCfg(source="own_reward:numpy"), ["a", "b", "c"], source=QUESTIONS) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("short", r"returns '\[1\.0\]'; it must return a finite number or None for each of 3"),
        ("text", r"returns .*'2'.*; it must return"),
        ("nan", r"returns .*nan, None.*; it must return"),
        ("flag", r"returns .*True, False.*; it must return"),
        ("nothing", r"fails \(TypeError"),
        ("broken", r"fails \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_scores_that_are_not_valid(own, name, part):
    with pytest.raises(ConfigError, match=rf"reward\.source: own_reward:{name} {part}"):
        totals(RewardCfg(source=f"own_reward:{name}"), ["a", "b", "c"], source=QUESTIONS)


@pytest.mark.parametrize("source", ["lable", "", "own_reward", "own_reward:none", "no_module:f", "own_reward:number"])
def test_a_source_that_is_not_valid(own, source):
    with pytest.raises(ConfigError, match=r"reward\.source: "):
        check_source(source)
    with pytest.raises(ConfigError, match=r"reward\.source: "):
        PreferenceReward(RewardCfg(source=source))


# ---------------------------------------------------------------------- what trainer and checkpoints use


@pytest.mark.parametrize("source", ["label", "heuristic", "operator:length_hint"])
def test_a_copy_in_another_process_is_the_same(source):
    reward = PreferenceReward(RewardCfg(source=source))
    again = pickle.loads(pickle.dumps(reward))
    assert again.signature() == reward.signature() and reward.__name__ == "preference"
    if source != "operator:length_hint":
        rows = [each.score_components(None, ["a", "b", "c"], **PAIR, slot=SLOTS) for each in (reward, again)]
        assert rows[0] == rows[1]


def test_the_signature_follows_what_decides_the_score():
    def identity(**settings):
        return PreferenceReward(RewardCfg(**settings)).signature()["identity"]

    assert identity() == {"reward": "preference/1", "source": "label"} == identity(length_cap=0.4)
    assert identity(source="heuristic") != identity(source="heuristic", length_cap=0.4)
    assert identity(source="operator:length_hint")["source"]["function"] == "operator:length_hint"


def test_an_evaluation_leaves_the_log_of_training():
    reward = PreferenceReward(RewardCfg())
    reward(None, ["", "", ""], **PAIR, slot=SLOTS)
    before, reward.evaluating = reward.last_log, True
    reward(None, ["It is 4."] * 3, **PAIR)
    assert reward.last_log == before != reward.last_eval_log and reward.last_eval_log["reward/sampled"] == 1.0


def test_imports_are_light():
    names = "reward, data, mathvista, accuracy, settings"
    heavy = {"torch", "transformers", "datasets", "trl", "PIL"}
    code = f"import sys; from recipes.preference import {names}; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
