"""The launch gate: its logic with rewards whose verdict is known, and the real reward on tiny models."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import partial

import pytest
from sacrebleu.metrics import CHRF
from tiny_models import PAIRS as TINY

from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.audit import launch_gate as gate
from rl_nmt.audit.cheats import HARD, SHIPPED, build_suite, honest_pairs
from rl_nmt.audit.launch_gate import require_launch
from rl_nmt.errors import ConfigError, RewardRefused
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.text.unicode import clean_for_scoring, script_share

TAMIL = LANGUAGES["ta"]
SHIPPED_PAIRS, _ = honest_pairs(None, count=72)
PAIRS = SHIPPED_PAIRS[:20]
SUITE = partial(build_suite, language="ta", seed=0)


def launch_gate(reward, pairs, suite=SUITE, **options):
    return gate.launch_gate(reward, pairs, suite, **{"max_soft_win_share": 0.1, **options})


class Oracle:
    """A reward that knows the references: chrF of the output against the honest translation, 0 to 1.

    `clean` scores what is left after cleaning; `gates` refuses by a function (source, output) -> reason.
    """

    def __init__(self, pairs, clean=False, gates=None):
        self.references, self.clean, self.gates = dict(pairs), clean, gates
        self.sizes, self.chrf = [], CHRF()

    def score_components(self, prompts, completions, source=None):
        self.sizes.append(len(completions))
        return [self.row(e, c) for e, c in zip(source, completions, strict=True)]

    def row(self, english, completion):
        reason = self.gates and self.gates(english, completion)
        return {"total": 0.0 if reason else self.value(english, completion), "gate": reason or None}

    def value(self, english, completion):
        text = clean_for_scoring(completion) if self.clean else completion
        reference = self.references[english]
        return 1.0 if text == reference else self.chrf.sentence_score(text, [reference]).score / 101


class Copies(Oracle):
    """A planted bad reward: it rewards letters shared with the source."""

    def value(self, english, completion):
        return self.chrf.sentence_score(completion, [english]).score / 100


class Constant(Oracle):
    """A planted bad reward: everything is worth the same."""

    def value(self, english, completion):
        return 0.5


def by_name(report):
    return {family.name: family for family in report.families}


# --- the verdict ---------------------------------------------------------------------------------------


def test_a_reward_that_knows_the_references_passes():
    reward = Oracle(PAIRS)
    report = launch_gate(reward, PAIRS)
    assert report.passed and report.reasons == [] and report.soft_win_share == 0.0
    assert len(report.of(hard=True)) == len(HARD) and len(report.of(hard=False)) >= 9
    assert all(family.n > 0 for family in report.families)
    assert max(reward.sizes) == gate.BATCH  # batched
    assert sum(reward.sizes) == len(PAIRS) + sum(family.n for family in report.families)


def test_an_equal_total_is_a_win():
    report = launch_gate(Oracle(PAIRS, clean=True), PAIRS)  # cleaning turns two families into the translation
    won = {family.name: family.share for family in report.families if family.wins}
    assert won == {"control_tokens_inside": 1.0} and not report.passed
    assert report.reasons == ["control_tokens_inside wins 20 of 20 (hard: 0 allowed)"]
    constant = launch_gate(Constant(PAIRS), PAIRS)
    assert all(family.share == 1.0 for family in constant.families)


def test_float_noise_does_not_hide_a_win():
    class Noisy(Constant):
        def value(self, english, completion):
            return 0.5 if completion in self.references.values() else 0.5 - 1e-7

    assert all(family.share == 1.0 for family in launch_gate(Noisy(PAIRS), PAIRS).families)


def test_a_reward_for_copies_is_refused_with_examples():
    report = launch_gate(Copies(PAIRS), PAIRS)
    found = by_name(report)
    assert found["copied_source"].share == 1.0 and found["empty"].wins == 0
    example = found["copied_source"].examples[0]
    assert example["cheat"] == example["source"] == PAIRS[0][0] and example["honest"] == PAIRS[0][1]
    assert example["total"] == 1.0 > example["honest_total"]
    assert len(found["copied_source"].examples) == gate.EXAMPLES
    assert any(reason.startswith("copied_source wins 20 of 20") for reason in report.reasons)


def test_gated_cheats_never_win_even_where_the_honest_one_earns_nothing():
    def gates(english, completion):
        return "script" if script_share(completion, TAMIL) < 0.5 else None

    class Nothing(Oracle):
        def value(self, english, completion):
            return 0.0

    found = by_name(launch_gate(Nothing(PAIRS, gates=gates), PAIRS))
    assert (found["copied_source"].n, found["copied_source"].gated, found["copied_source"].wins) == (20, 20, 0)
    assert found["half_dropped"].wins == found["half_dropped"].n > 0  # 0 against 0, and nothing gated


def test_the_soft_bound_is_the_mean_over_families():
    class Likes(Oracle):
        """Knows the references, but gives more for an extra sentence at the end."""

        def value(self, english, completion):
            liked = completion.startswith(self.references[english] + " இது ஒரு")
            return 2.0 if liked else super().value(english, completion)

    report = launch_gate(Likes(PAIRS), PAIRS)
    families = len(report.of(hard=False))
    assert report.soft_win_share == pytest.approx(1 / families) and report.passed
    assert [family.name for family in report.above_bound] == ["extra_sentence"]
    strict = launch_gate(Likes(PAIRS), PAIRS, max_soft_win_share=0.05)
    assert not strict.passed and "above 5.0% (extra_sentence 100%)" in strict.reasons[0]
    assert launch_gate(Likes(PAIRS), PAIRS, max_soft_win_share=1 / families).passed  # the bound itself is allowed


def test_samples_without_a_score_are_counted_apart():
    class Deaf(Oracle):
        """Loses the first honest pair, and every cheat that repeats the prompt's cue."""

        def value(self, english, completion):
            if completion == PAIRS[0][1]:
                return None
            return math.nan if completion.startswith("Tamil: ") else super().value(english, completion)

    report = launch_gate(Deaf(PAIRS), PAIRS)
    found = by_name(report)
    assert report.honest_unscored == 1 and report.passed
    assert (found["copied_source"].n, found["copied_source"].unscored) == (19, 1)
    assert (found["cue_echo"].n, found["cue_echo"].unscored, found["cue_echo"].share) == (0, 20, None)


def test_a_reward_that_scores_too_little_is_refused():
    class Dead(Oracle):
        def value(self, english, completion):
            return None

    report = launch_gate(Dead(PAIRS), PAIRS)
    assert not report.passed and report.soft_win_share is None
    assert re.match(r"(\d+) of \1 comparisons have no score", report.reasons[0])


@pytest.mark.parametrize(("refused", "passes"), [(1, True), (2, False)])
def test_gates_may_refuse_few_honest_translations(refused, passes):
    bad = {honest for _, honest in PAIRS[:refused]}
    reward = Oracle(PAIRS, gates=lambda english, completion: "copy" if completion in bad else None)
    report = launch_gate(reward, PAIRS)
    assert report.honest_gated == refused and report.passed is passes  # 1 of 20 is 5 %
    assert by_name(report)["copied_source"].n == 20 - refused
    if not passes:
        assert report.reasons == ["the gates refuse 2 of 20 honest outputs"]


def test_one_of_few_may_be_refused():
    for refused in (1, 2):
        bad = {honest for _, honest in PAIRS[:refused]}
        reward = Oracle(PAIRS, gates=lambda english, completion, bad=bad: "copy" if completion in bad else None)
        assert launch_gate(reward, PAIRS[:8]).passed is (refused == 1)


def test_same_seed_same_report():
    one, other = (partial(build_suite, language="ta", seed=seed) for seed in (1, 2))
    assert launch_gate(Copies(PAIRS), PAIRS, one) == launch_gate(Copies(PAIRS), PAIRS, one)
    assert launch_gate(Copies(PAIRS), PAIRS, one) != launch_gate(Copies(PAIRS), PAIRS, other)


def test_the_table_and_the_json(tmp_path):
    report = launch_gate(Copies(PAIRS), PAIRS, source="twenty pairs")
    lines = report.table(everything=True).splitlines()
    numbers = {line.split()[0]: line for line in lines[1:] if not line.startswith("    ")}
    assert numbers["copied_source"].split() == ["copied_source", "hard", "20", "20", "100.0%", "0", "0", "←"]
    assert set(HARD) <= set(numbers)
    assert len({line.index(" hard ") for name, line in numbers.items() if name in HARD}) == 1
    assert "20 honest pairs (twenty pairs): 0 gated, 0 unscored" in lines and "REFUSED" in lines[-1]
    data = json.loads(json.dumps(report.as_dict(), ensure_ascii=False, allow_nan=False))
    assert data["passed"] is False and data["hard_wins"] == sum(f.wins for f in report.of(hard=True))
    assert data["families"][6]["name"] == "copied_source" and data["families"][6]["share"] == 1.0
    assert "won" in lines[0] and launch_gate(Oracle(PAIRS), PAIRS).table(everything=True).endswith(
        "launch gate: passed"
    )


def test_invisible_examples_are_shown():
    shown = launch_gate(Constant(PAIRS[:2]), PAIRS[:2]).table(everything=True)
    assert "cheat  ''" in shown and "\u200b" not in shown and "\\u200b" in shown


@pytest.mark.parametrize("bound", [-0.1, 1.01, math.nan])
def test_bad_bounds(bound):
    with pytest.raises(ConfigError, match="max_soft_win_share"):
        launch_gate(Oracle(PAIRS), PAIRS, max_soft_win_share=bound)


def test_no_pairs():
    with pytest.raises(ConfigError, match=r"^launch gate: no honest pairs"):
        launch_gate(Oracle(PAIRS), [])


# --- the pairs -----------------------------------------------------------------------------------------


def test_shipped_pairs_are_clean_sentences_of_all_kinds():
    pairs = SHIPPED_PAIRS
    assert len(pairs) >= 60 and len(set(pairs)) == len({english for english, _ in pairs}) == len(pairs)
    for english, tamil in pairs:
        assert 4 <= len(english.split()) <= 25 and english.isascii() and english[-1] in ".?"
        assert tamil == clean_for_scoring(tamil) and tamil[-1] == english[-1] and script_share(tamil, TAMIL) > 0.5
        latin = {word for word in tamil.split() if any(char.isascii() and char.isalpha() for char in word)}
        assert all(word in english for word in latin)  # only what the source has in Latin letters
        ratio = math.log(len(tamil) / len(english)) - math.log(TAMIL.expected_length_ratio)
        assert abs(ratio) < 2 * TAMIL.length_tolerance
        assert sorted(filter(str.isdigit, tamil)) == sorted(filter(str.isdigit, english))
    kinds = Counter(mark for english, _ in pairs for mark in "?%@" if mark in english)
    assert kinds["?"] >= 10 and kinds["%"] >= 2 and kinds["@"] >= 1
    assert sum(any(char.isdigit() for char in english) for english, _ in pairs) >= 10
    assert sum(any(word.isupper() and len(word) > 2 for word in english.split()) for english, _ in pairs) >= 4


def test_references_come_first_and_are_chosen_whatever_their_order():
    rows = [{"source": f"Sentence {i}.", "reference": f"வாக்கியம் {i}."} for i in range(100)]
    chosen, source = honest_pairs(rows, seed=1, count=10)
    again, _ = honest_pairs(rows[::-1], seed=1, count=10)
    assert source == "evaluation references" and set(chosen) == set(again) and len(chosen) == 10
    assert set(honest_pairs(rows, seed=2, count=10)[0]) != set(chosen)
    assert honest_pairs(rows[:3] * 2)[0] == [(row["source"], row["reference"]) for row in rows[:3]]


@pytest.mark.parametrize("rows", [None, [], [{"source": "Hello."}], [{"source": "x", "reference": "not Tamil"}]])
def test_without_references_the_shipped_pairs_are_used(rows):
    pairs, source = honest_pairs(rows)
    assert source == SHIPPED and len(pairs) == gate.MAX_PAIRS and set(pairs) <= set(SHIPPED_PAIRS)


# --- require_launch --------------------------------------------------------------------------------


def test_require_launch_returns_the_verdict_and_prints_the_table(capsys):
    rows = [{"source": english, "reference": tamil} for english, tamil in PAIRS]
    pairs, source = honest_pairs(rows)
    verdict = require_launch(Oracle(PAIRS), pairs, SUITE, 0.1, source)
    assert verdict["passed"] and verdict["pairs"] == 20 and verdict["source"] == "evaluation references"
    assert "launch gate: passed" in capsys.readouterr().out


def test_require_launch_refuses_with_status_3_and_names_the_families():
    with pytest.raises(RewardRefused, match=r"copied_source wins 20 of 20 .*--skip_launch_gate") as refused:
        require_launch(Copies(PAIRS), PAIRS, SUITE, 0.1)
    assert refused.value.exit_code == 3


# --- the real reward, tiny models ----------------------------------------------------------------------

SETTINGS = {
    "default": {},
    "cycle alone": {"w_qe": 0.0},
    "qe alone": {"w_cycle": 0.0},
    "no penalties": {"penalty_weight_script": 0.0, "penalty_weight_lenratio": 0.0},
}


@pytest.fixture(scope="module")
def gate_of(tiny_comet_da, tiny_comet_qe, tiny_nllb):
    """gate_of(guards, **weights) → the report on the tiny models' own pairs."""
    models = str(tiny_comet_da), str(tiny_comet_qe), str(tiny_nllb)
    pairs = [pair for pair in TINY if len(pair[0]) >= 20]

    def run(guards, **weights):
        reward = CometDuPOReward(*models, backtranslation_beams=1, guards=guards, **weights)
        return launch_gate(reward, pairs)

    return run


@pytest.mark.parametrize("name", SETTINGS)
def test_the_plain_formula_is_refused(gate_of, name):
    report = gate_of("off", **SETTINGS[name])
    assert not report.passed and len([family for family in report.of(hard=True) if family.wins]) >= 5


@pytest.mark.parametrize("name", SETTINGS)
def test_with_guards_no_hard_family_ever_wins(gate_of, name):
    report = gate_of("on", **SETTINGS[name])
    assert {family.name: family.examples[0]["cheat"] for family in report.of(hard=True) if family.wins} == {}
    assert report.honest_gated == report.honest_unscored == 0
