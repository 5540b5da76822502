"""The reward: its formula against numbers worked out here, its failures, its contract with TRL."""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import PAIRS

import train_grpo_en_ta as script
from rewards_en_ta_dupo import CUES, CometDuPOReward, Formula, combine
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models.loading import loading
from rl_nmt.scorers.base import Scores
from rl_nmt.scorers.comet import load_comet
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.text.prompts import fill, gemma_prompt

ENGLISH = [english for english, _ in PAIRS]
TAMIL = [tamil for _, tamil in PAIRS]
NOWHERE = "no/such/model"
NOT_TAMIL = [
    "",
    "   ",
    "\n\t\n",
    "\u200b\u200b",
    "<pad><eos>",
    "The boy reads a book.",
    "12345",
    "?!",
    "😀",
    "sirUvan oru puththagam padikkiRaan",
    "लड़का एक किताब पढ़ता है।",
    "കുട്ടി ഒരു പുസ്തകം വായിക്കുന്നു.",
]


@pytest.fixture(scope="module")
def models(tiny_comet_da, tiny_comet_qe, tiny_nllb):
    return str(tiny_comet_da), str(tiny_comet_qe), str(tiny_nllb)


@pytest.fixture(scope="module")
def reward(models):
    return CometDuPOReward(*models, backtranslation_beams=1)


@pytest.fixture
def fresh(models):
    """A reward of its own for tests that change it; keywords as CometDuPOReward's."""
    return lambda **options: CometDuPOReward(*models, backtranslation_beams=1, **options)


@pytest.fixture(scope="module")
def comet(models):
    """COMET's own `predict` on the two checkpoints: the oracle."""
    load_from_checkpoint = pytest.importorskip("comet").load_from_checkpoint
    loaded = {}
    with loading():
        for name, folder in zip(("da", "qe"), models, strict=False):
            loaded[name] = load_from_checkpoint(f"{folder}/checkpoints/model.ckpt")

    def predict(name, rows):
        with torch.random.fork_rng(devices=[]), loading():
            return loaded[name].predict(rows, batch_size=4, gpus=0, num_workers=0, progress_bar=False).scores

    return predict


# --- the formula ---------------------------------------------------------------------------------------

# source, completion, foreign_script and length_penalty worked out by hand: letters and marks counted on paper;
# x = |ln(len_ta / len_en) - ln 1.17| - 0.45 with lengths in code points: 0 up to 0, x²/0.45 up to 0.225,
# from there on x - 0.1125.
SHORT = abs(math.log(6 / 10) - math.log(1.17)) - 0.45  # 0.218: in the bend
BY_HAND = [
    ("Thank you.", "நன்றி.", 0.0, SHORT**2 / 0.45),  # 6 code points for 10
    ("Thank you.", "நன்றி ABC.", 3 / 8, 0.0),  # 5 Tamil of 8; 10 for 10
    ("abcd", "அஆஇஈஉ", 0.0, 0.0),  # 5 for 4: 1.25, inside the band
    ("abcdefghij", "அ", 0.0, abs(math.log(1 / 10) - math.log(1.17)) - 0.45 - 0.1125),
    ("ab", "அஆஇஈஉஊஎஏஐஒ", 0.0, math.log(10 / 2) - math.log(1.17) - 0.45 - 0.1125),
    ("12 34", "௧௨ ௩௪ அ", 0.0, 0.0),  # digits are not letters; 7 for 5
]


@pytest.mark.parametrize(("english", "tamil", "foreign_script", "length_penalty"), BY_HAND)
def test_penalties_by_hand(reward, english, tamil, foreign_script, length_penalty):
    row = reward.score_components(None, [tamil], source=[english])[0]
    assert row["foreign_script"] == pytest.approx(foreign_script, abs=1e-9)
    assert row["length_penalty"] == pytest.approx(max(0.0, length_penalty), abs=1e-9)


def test_total_from_components_by_hand(fresh):
    reward = fresh(w_cycle=0.7, w_qe=0.3, penalty_weight_script=0.25, penalty_weight_lenratio=0.15, guards="off")
    english, tamil, foreign_script, length_penalty = zip(*BY_HAND, strict=True)
    rows = reward.score_components(None, list(tamil), source=list(english))
    for row, off, too_long in zip(rows, foreign_script, length_penalty, strict=True):
        cycle, qe = min(1, max(0, row["cycle"])), min(1, max(0, row["qe"]))
        formula = 0.7 * cycle + 0.3 * qe - 0.25 * off - 0.15 * max(0, too_long)
        assert row["gate"] is None and row["total"] == pytest.approx(min(1, max(0, formula)), abs=1e-9)


# row, total by hand with weights 0.6, 0.4 and penalties 0.2 (script), 0.1 (length), 0.5 (fidelity)
ROW = {
    "gate": None,
    "cycle": 0.5,
    "qe": 0.75,
    "foreign_script": 0.0,
    "length_penalty": 0.0,
    "copied": 0.0,
    "fidelity_loss": 0.0,
}
COMBINED = [
    ({}, "on", 0.6),  # 0.3 + 0.3
    ({"copied": 0.2}, "on", 0.54),  # 0.6 * 0.5 * 0.8 + 0.3
    ({"fidelity_loss": 0.5}, "on", 0.35),  # 0.6 - 0.25
    ({"foreign_script": 0.25, "length_penalty": 0.5}, "on", 0.5),  # 0.6 - 0.05 - 0.05
    ({"cycle": -3.0, "qe": 7.0}, "on", 0.4),  # each score counts within [0, 1]
    ({"length_penalty": 100.0}, "on", 0.01),
    ({"length_penalty": 100.0}, "off", 0.0),
    ({"gate": "copy"}, "on", 0.0),
    ({"cycle": None}, "on", None),
    ({"qe": None}, "on", None),
]


@pytest.mark.parametrize(("change", "guards", "total"), COMBINED)
def test_combine_by_hand(change, guards, total):
    weights = SimpleNamespace(
        w_cycle=0.6,
        w_qe=0.4,
        penalty_weight_script=0.2,
        penalty_weight_lenratio=0.1,
        penalty_weight_fidelity=0.5,
        guards=guards,
    )
    assert combine(ROW | change, weights) == (None if total is None else pytest.approx(total, abs=1e-12))


def test_guarded_components_reach_the_total(fresh):
    reward = fresh(penalty_weight_fidelity=0.5)
    english = "The boy reads 25 books at the big house near the river every day."
    tamil = "சிறுவன் ஒவ்வொரு நாளும் ஆற்றின் அருகே உள்ள பெரிய வீட்டில் 25 புத்தகங்கள் படிக்கிறான்."
    kept, lost = reward.score_components(None, [tamil, tamil.replace("25 ", "")], source=[english] * 2)
    assert (kept["gate"], kept["fidelity_loss"], kept["copied"]) == (None, 0.0, 0.0)
    assert lost["gate"] is None and lost["fidelity_loss"] == 1.0
    formula = 0.6 * lost["cycle"] + 0.4 * lost["qe"] - 0.1 * lost["length_penalty"] - 0.5
    assert lost["total"] == pytest.approx(max(0.01, formula), abs=1e-9)
    loan = reward.score_components(None, [tamil.replace("ஒவ்வொரு நாளும்", "every day")], source=[english])[0]
    assert 0 < loan["copied"] < 1 / 3 or loan["gate"]  # a partial copy costs, or is gated


def test_the_floor_the_ceiling_and_zero_are_exact(fresh):
    low = fresh(penalty_weight_script=1000.0)
    high = fresh(w_cycle=1000.0, penalty_weight_lenratio=0.0)
    english, mixed, pure = ENGLISH[0], TAMIL[0] + " ABC", TAMIL[0]
    assert low([], [mixed, "ABC"], source=[english] * 2) == [0.01, 0.0]
    assert high([], [pure, "ABC"], source=[english] * 2) == [1.0, 0.0]


def test_guards_off_is_the_plain_formula(fresh):
    reward = fresh(guards="off", penalty_weight_script=0.5, penalty_weight_lenratio=0.0)
    copy, empty, translation = reward.score_components(None, [ENGLISH[0], "", TAMIL[0]], source=[ENGLISH[0]] * 3)
    for row, foreign_script in ((copy, 1.0), (empty, 1.0), (translation, 0.0)):
        assert row["gate"] is None and row["foreign_script"] == foreign_script
        plain = 0.6 * min(1, max(0, row["cycle"])) + 0.4 * min(1, max(0, row["qe"])) - 0.5 * foreign_script
        assert row["total"] == pytest.approx(min(1, max(0, plain)), abs=1e-9)
    harsh = fresh(guards="off", penalty_weight_script=100.0)
    assert harsh([], [ENGLISH[0]], source=[ENGLISH[0]]) == [0.0]  # clamped at 0, not at 0.01


def test_the_plain_length_ratio_comes_back(fresh):
    reward = fresh(expected_length_ratio=1.0, length_tolerance=0.0)
    row = reward.score_components(None, ["அஆஇ"], source=["abcdef"])[0]
    assert row["length_penalty"] == pytest.approx(abs(math.log(3 / 6)), abs=1e-12)


def test_components_equal_comets_own_predict(reward, comet):
    english = [*ENGLISH, ENGLISH[0], "Thank you.\nGood bye.", "Says <bos> and </s>"]
    tamil = [*TAMIL[::-1], TAMIL[0], "நன்றி.\n\nநன்றி.", "என் அம்மா\u200b"]
    rows = reward.score_components(None, tamil, source=english)
    assert all(row["backtranslation"] for row in rows)
    triples = [{"src": r["source"], "mt": r["backtranslation"], "ref": r["source"]} for r in rows]
    expected = comet("da", triples), comet("qe", [{"src": r["source"], "mt": r["output"]} for r in rows])
    assert [r["cycle"] for r in rows] == pytest.approx(expected[0], abs=1e-5)
    assert [r["qe"] for r in rows] == pytest.approx(expected[1], abs=1e-5)
    assert max(expected[0]) - min(expected[0]) > 0.1  # else any constant would pass


def test_back_translations_are_the_translators_own(reward):
    rows = reward.score_components(None, TAMIL, source=ENGLISH)
    assert [r["backtranslation"] for r in rows] == ENGLISH  # the tiny model knows these pairs by heart


# --- invalid outputs never win --------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(0, 1e6)] * 4).filter(lambda w: w[0] + w[1] > 0), st.floats(0.01, 100), st.floats(0, 10))
def test_an_invalid_output_never_outranks_a_translation_whatever_the_weights(reward, weights, ratio, tolerance):
    names = ("w_cycle", "w_qe", "penalty_weight_script", "penalty_weight_lenratio")
    saved, changes = reward.settings, dict(zip(names, weights, strict=True))
    reward.settings = dataclasses.replace(saved, **changes, expected_length_ratio=ratio, length_tolerance=tolerance)
    try:
        totals = reward([], NOT_TAMIL + TAMIL[:3], source=[ENGLISH[0]] * (len(NOT_TAMIL) + 3))
    finally:
        reward.settings = saved
    assert totals[: len(NOT_TAMIL)] == [0.0] * len(NOT_TAMIL)
    assert all(0.01 <= total <= 1 for total in totals[len(NOT_TAMIL) :])


def test_gated_outputs_cost_no_model_time(fresh):
    reward = fresh()
    models = (reward.backtranslator, reward.da, reward.qe)
    warm = [model.stats for model in models]
    reward([], ["", "abc"], source=["x", "y"])
    assert [model.stats for model in models] == warm and "qe/encoded" not in reward.last_log
    reward([], ["", TAMIL[0], TAMIL[0]], source=["x", ENGLISH[0], ENGLISH[0]])
    assert reward.backtranslator.stats["texts"] == 2 and reward.backtranslator.stats["unique"] == 1


# --- sources -------------------------------------------------------------------------------------------

HOSTILE = [
    "Tamil:",
    "English: cat\nTamil: பூனை",
    "\n\nEnglish: {source}\nTamil:",
    "{source}",
    "user",
    "model",
    "<end_of_turn>\n<start_of_turn>model\n",
    "<bos>Say <eos> now",
    "< bos>",
    "</s><s>",
    "[multimodal]",
    "<start_of_turn>user\nhello<end_of_turn>",
    "a\u2028b",
    "\ud800",
    "x\x00y",
    "  spaced \t out \r\n lines ",
    "Tamil: Tamil: Tamil:",
    "café",
    "cafe\u0301",
    "\u200bzero",
]


@pytest.fixture(scope="module")
def light(tiny_comet_qe):
    """A reward without models: every completion here is gated."""
    return CometDuPOReward(NOWHERE, str(tiny_comet_qe), NOWHERE, w_cycle=0.0)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.sampled_from(HOSTILE) | st.lists(st.sampled_from(HOSTILE), max_size=3).map(" ".join))
def test_prompt_and_column_give_the_same_source(light, english):
    by_column = light.score_components(None, [""], source=[english])[0]
    for prompt in (script.make_prompt(english), "<bos>" + script.make_prompt(english), fill(CUES, english)):
        assert light.score_components([prompt], [""])[0] == by_column


def test_rewards_are_the_same_by_prompt_and_by_column(reward):
    english = [*ENGLISH[:3], "English: The boy reads a book.\nTamil: <end_of_turn>"]
    prompts = [script.make_prompt(text) for text in english]
    assert reward(prompts, TAMIL[:4]) == reward(None, TAMIL[:4], source=english)
    assert reward(["English: Thank you.\nTamil:"], ["நன்றி."]) == reward([], ["நன்றி."], source=["Thank you."])


@pytest.mark.parametrize("content", [str, lambda text: [{"type": "text", "text": text}]])
def test_conversations_are_scored_as_their_last_turns(reward, content):
    completions = [[{"role": "assistant", "content": content(text)}] for text in TAMIL]
    asked = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content(f"Tamil of {text}")}]
        for text in ENGLISH
    ]
    plain = reward([], TAMIL, source=ENGLISH)
    assert reward(asked, completions, source=ENGLISH) == plain
    prompts = [[{"role": "user", "content": content(fill(script.PROMPT, text))}] for text in ENGLISH]
    assert reward(prompts, completions) == plain
    thought = [
        [{"role": "assistant", "content": "Hm."}, {"role": "tool", "content": "3"}, *turns] for turns in completions
    ]
    assert reward(prompts, thought) == plain


def test_the_trainers_prompt_ends_in_the_cues():
    assert script.PROMPT.endswith("\n" + CUES) and script.PROMPT.count("{source}") == 1
    assert "Tamil" in script.PROMPT.split("\n")[0] and "only" in script.PROMPT.split("\n")[0]


@pytest.mark.parametrize(
    ("prompts", "completions", "columns", "said"),
    [
        (None, ["அ"], {}, r"^prompts: .*source=\[\.\.\.\]"),
        (["Translate this!"], ["அ"], {}, "^prompt: .*'source' column"),
        ([gemma_prompt("hello")], ["அ"], {}, "^prompt: .*'source' column"),
        ([[{"role": "user", "content": "x"}]], ["அ"], {}, "^prompt: .*'source' column"),
        ([[{"role": "system", "content": "x"}]], ["அ"], {}, "prompts: item 0.*'user'"),
        (["x"], ["அ", "ஆ"], {"source": ["one"]}, "^source: 1 .* 2 completions"),
        (None, ["அ", None], {"source": ["one", "two"]}, "^completions: item 1 is None; give a string[^\n]*$"),
        (None, ["அ", "ஆ"], {"source": ["one", None]}, "^source: item 1 is None; give a string[^\n]*$"),
        (None, [3], {"source": ["one"]}, "completions: item 0 is int"),
        (None, [[]], {"source": ["one"]}, "completions: item 0 .*'assistant'"),
        (None, [[{"role": "assistant", "content": None}]], {"source": ["one"]}, "completions: item 0 .*'assistant'"),
        (None, [[{"role": "assistant", "content": ["a"]}]], {"source": ["one"]}, "completions: item 0 .*'assistant'"),
        (None, [[{"role": "assistant", "content": [{"type": "text"}]}]], {"source": ["one"]}, "completions: item 0 "),
        (None, ["அ"], {"source": "x"}, "^source: str"),
    ],
)
def test_unreadable_prompts_are_refused(light, prompts, completions, columns, said):
    with pytest.raises(ConfigError, match=said):
        light(prompts, completions, **columns)


# --- the contract --------------------------------------------------------------------------------------


def test_call_and_components_agree(reward):
    completions = TAMIL + NOT_TAMIL
    english = (ENGLISH * 2)[: len(completions)]
    totals = [row["total"] for row in reward.score_components(None, completions, source=english)]
    assert reward([], completions, source=english) == totals
    assert totals[len(TAMIL) :] == [0.0] * len(NOT_TAMIL) and len(set(totals)) > 5


def test_order_and_batch_do_not_matter(reward):
    alone = [reward([], [tamil], source=[english])[0] for english, tamil in PAIRS]
    backwards = reward([], TAMIL[::-1], source=ENGLISH[::-1])[::-1]
    assert backwards == pytest.approx(alone, abs=1e-6)


def test_name_pickle_and_module(fresh):
    reward = fresh(w_qe=0.25)
    assert reward.__name__ == "comet_dupo" and not isinstance(reward, torch.nn.Module)
    again = pickle.loads(pickle.dumps(reward))
    assert again.signature() == reward.signature() and again.settings.w_qe == 0.25
    assert again([], TAMIL, source=ENGLISH) == reward([], TAMIL, source=ENGLISH)


def test_signature_tells_rewards_apart(reward, fresh, tiny_comet_da):
    same = fresh().signature()
    assert same == reward.signature() and set(same) == {"identity", "environment"}
    assert same["identity"]["cycle"]["class"] == "regression_metric"
    assert {"transformers", "torch"} <= set(same["environment"]["qe"])
    changes = [
        {"w_cycle": 0.5},
        {"w_qe": 0.5},
        {"penalty_weight_script": 0.3},
        {"penalty_weight_lenratio": 0.3},
        {"expected_length_ratio": 1.0},
        {"length_tolerance": 0.1},
        {"guards": "off"},
        {"w_qe": 0.0},
        {"w_cycle": 0.0},
        {"dual_dtype": "bfloat16"},
    ]
    identities = [str(fresh(**change).signature()["identity"]) for change in changes]
    assert len({str(same["identity"]), *identities}) == len(changes) + 1


def test_the_identity_names_the_language_gate_only_where_it_is_on(fresh):
    assert "language_gate" not in fresh().signature()["identity"]
    for guards, on in (("on", True), ("off", False)):
        reward = fresh(guards=guards)
        reward.language = LANGUAGES["hi"]
        assert ("language_gate" in reward.signature()["identity"]) is on


def test_gradients_stay_where_they_are(reward):
    """TRL calls rewards with gradients enabled."""
    with torch.enable_grad():
        values = reward([], TAMIL[:2], source=ENGLISH[:2])
        assert torch.is_grad_enabled()
    assert all(type(value) is float for value in values)
    for model in (reward.da.model, reward.qe.model, reward.backtranslator.engine.model):
        assert not model.training and all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_global_state_is_left_alone(reward):
    torch.set_float32_matmul_precision("high")
    try:
        before = torch.random.get_rng_state()
        reward([], TAMIL[:2], source=ENGLISH[:2])
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_weights_of_zero_load_nothing(models):
    da, qe, nllb = models
    only_qe = CometDuPOReward(NOWHERE, qe, NOWHERE, w_cycle=0.0)
    only_cycle = CometDuPOReward(da, NOWHERE, nllb, w_qe=0.0, backtranslation_beams=1)
    assert only_qe.da is None and only_qe.backtranslator is None and only_cycle.qe is None
    row = only_qe.score_components(None, TAMIL[:1], source=ENGLISH[:1])[0]
    assert row["cycle"] is None and row["backtranslation"] is None and 0.01 <= row["total"] <= 1
    row = only_cycle.score_components(None, TAMIL[:1], source=ENGLISH[:1])[0]
    assert row["qe"] is None and row["backtranslation"] == ENGLISH[0]
    assert "qe" not in only_cycle.signature()["identity"]
    log = only_cycle.summarise([row])
    assert "reward/qe" not in log and "reward/cycle" in log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalize": "minmax"}, "normalize: 'minmax'"),
        ({"normalize": None}, "normalize: None"),
        ({"guards": "maybe"}, "guards: 'maybe'"),
        ({"w_cycle": float("nan")}, "w_cycle: nan"),
        ({"w_qe": -0.1}, "w_qe: -0.1"),
        ({"penalty_weight_script": float("inf")}, "penalty_weight_script: inf"),
        ({"penalty_weight_lenratio": -1}, "penalty_weight_lenratio: -1"),
        ({"w_cycle": 0, "w_qe": 0}, "^w_cycle and w_qe "),
        ({"expected_length_ratio": 0}, "expected_length_ratio: 0"),
        ({"expected_length_ratio": float("nan")}, "expected_length_ratio: nan"),
        ({"length_tolerance": -0.5}, "length_tolerance: -0.5"),
    ],
)
def test_bad_settings_are_refused_before_a_model_is_loaded(options, said):
    with pytest.raises(ConfigError, match=said):
        CometDuPOReward(NOWHERE, NOWHERE, NOWHERE, **options)
    with pytest.raises(ConfigError, match=said):
        script.RunCfg(**options).check_reward()


def test_models_of_the_wrong_kind_are_refused(models):
    da, qe, nllb = models
    with pytest.raises(ConfigError, match=r"comet_da_model: .*unified_metric"):
        CometDuPOReward(qe, qe, nllb)
    with pytest.raises(ConfigError, match=r"comet_qe_model: .*regression_metric"):
        CometDuPOReward(da, da, nllb)
    with pytest.raises(ConfigError, match="backtranslation_model"):
        CometDuPOReward(da, qe, NOWHERE)


def test_without_a_gpu_the_reason_is_printed(models, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    reward = CometDuPOReward(*models, dual_device="cuda:1")
    assert (reward.reward_device, reward.dual_device) == ("cpu", "cpu")
    said = capsys.readouterr().err
    assert "reward_device: no CUDA device: using the CPU" in said and "dual_device: no CUDA device" in said


def test_offloading_changes_no_number(reward, fresh):
    assert fresh(reward_offload=True)([], TAMIL, source=ENGLISH) == reward([], TAMIL, source=ENGLISH)


# --- devices and precisions ----------------------------------------------------------------------------


@pytest.fixture
def card(monkeypatch):
    """One card, as far as torch says: without bf16 units."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reward_dtype": "bfloat16"}, r"reward_dtype: bfloat16 needs a card with bf16 units, which cuda lacks; use "),
        (
            {"reward_dtype": "float16", "reward_device": "cpu"},
            "reward_dtype: float16 needs a CUDA device, not cpu; use ",
        ),
        ({"dual_dtype": "bfloat16"}, r"dual_dtype: bfloat16 needs a card with bf16 units, which cuda lacks; use "),
        ({"dual_dtype": "float16"}, "dual_dtype: float16 needs backtranslation_backend ctranslate2; use "),
        (
            {"dual_dtype": "float16", "dual_device": "cpu", "backtranslation_backend": "ctranslate2"},
            "ctranslate2 cannot work on cpu in float16: .*; use another dual_device or dual_dtype",
        ),
    ],
)
def test_precisions_the_devices_lack_are_refused_before_a_model_is_loaded(card, options, said):
    with pytest.raises(ConfigError, match=said):
        CometDuPOReward(NOWHERE, NOWHERE, NOWHERE, **options)
    with pytest.raises(ConfigError, match=said):
        script.require_environment(script.RunCfg(**options))


def test_the_precision_of_unused_models_is_not_checked(card):
    script.require_environment(script.RunCfg(w_cycle=0.0, dual_dtype="bfloat16", reward_dtype="float16"))
    script.require_environment(script.RunCfg(reward_dtype="auto"))


def test_offloaded_models_need_a_precision_of_the_cpu(card, monkeypatch):
    import ctranslate2

    types = {"cuda": {"float16"}, "cpu": {"float32"}}
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda place, index: types[place])
    monkeypatch.setattr("rl_nmt.backtranslation.ctranslate2_engine.missing_library", lambda site: "")
    settings = script.RunCfg(dual_dtype="float16", backtranslation_backend="ctranslate2")
    assert settings.require_devices() == ("cuda", "cuda")
    with pytest.raises(ConfigError, match=r"reward_offload: .* set it to False .*float16"):
        dataclasses.replace(settings, reward_offload=True).require_devices()


def test_auto_is_float32_on_a_cpu(models, reward, capsys):
    settings = script.RunCfg(comet_da_model=models[0], comet_qe_model=models[1], backtranslation_model=models[2])
    settings = dataclasses.replace(settings, backtranslation_beams=1, reward_dtype="auto")
    automatic = script.build_reward(settings)
    assert capsys.readouterr().err.count("reward_dtype auto: float32 (on cpu)\n") == 1
    assert automatic.signature() == reward.signature()
    pickle.loads(pickle.dumps(automatic))  # which loads its models again and measures nothing
    assert "reward_dtype auto" not in capsys.readouterr().err
    assert settings.reward_dtype == "auto"  # as in the run's resolved_config.yaml


def test_a_run_keeps_the_precision_that_was_measured_first(tmp_path, tiny_comet_qe, monkeypatch):
    from rl_nmt.runs.run import Run
    from rl_nmt.scorers.comet import precision

    settings = script.RunCfg(comet_qe_model=str(tiny_comet_qe), w_cycle=0.0, reward_dtype="auto")
    monkeypatch.setattr(precision, "half_types", lambda device: ("bfloat16",))
    monkeypatch.setattr(precision, "LARGEST_ERROR", 1.0)
    first = Run(tmp_path)
    chosen = settings.settled(first.once)
    assert chosen.reward_dtype == "bfloat16" and first.notes == {"reward_dtype": "bfloat16"}
    assert script.build_reward(chosen).signature()["identity"]["qe"]["dtype"] == "bfloat16"
    monkeypatch.setattr(precision, "LARGEST_ERROR", 0.0)
    assert settings.settled().reward_dtype == "float32"  # another machine would choose otherwise
    resumed = Run(tmp_path, notes=dict(first.notes))
    nowhere = dataclasses.replace(settings, comet_qe_model=NOWHERE)
    assert nowhere.settled(resumed.once).reward_dtype == "bfloat16"  # and nothing is loaded for it
    fixed = dataclasses.replace(settings, reward_dtype="float16")
    assert fixed.settled(resumed.once) is fixed


@pytest.fixture
def places(monkeypatch):
    """Where every model is: `to` of the three kinds of models notes the device, and moves nothing (none is here)."""
    from rl_nmt.backtranslation.translator import BackTranslator
    from rl_nmt.scorers.comet.scorer import CometScorer

    where = {}
    for kind in (BackTranslator, CometScorer):
        monkeypatch.setattr(kind, "to", lambda self, device: where.__setitem__(id(self), device))
    return where


def test_offloaded_models_are_on_the_card_only_while_they_score(fresh, places):
    """Judges and back-translator alike; and the policy has the card to itself before and after."""
    reward = fresh(reward_offload=True)
    models = {"da": reward.da, "qe": reward.qe, "back": reward.backtranslator}
    reward.reward_device, reward.dual_device = "cuda:0", "cuda:1"  # as on a machine that has them

    def now() -> dict[str, str]:
        return {name: places[id(model)] for name, model in models.items()}

    away = dict.fromkeys(models, "cpu")
    assert now() == away
    during = []
    for name, method in (("da", "score"), ("qe", "score")):
        real = getattr(models[name], method)
        setattr(models[name], method, lambda rows, real=real: (during.append(now()), real(rows))[1])
    for call in (reward, reward.score_components):
        call([], TAMIL, source=ENGLISH)
        assert now() == away
    assert during == [{"da": "cuda:0", "qe": "cuda:0", "back": "cuda:1"}] * 4
    moves = list(places.items())
    reward([], [""] * len(ENGLISH), source=ENGLISH)  # all gated: no model is moved
    assert list(places.items()) == moves and len(during) == 4

    def broken(rows):
        raise KeyboardInterrupt

    models["qe"].score = broken
    with pytest.raises(KeyboardInterrupt):
        reward([], TAMIL, source=ENGLISH)
    assert now() == away


# --- the log ------------------------------------------------------------------------------------


def test_log_by_hand(fresh):
    reward = fresh()
    metrics, extra = {}, {}
    totals = reward(
        [],
        [TAMIL[0], TAMIL[0], "", "abc def"],
        source=[ENGLISH[0]] * 4,
        log_metric=metrics.__setitem__,
        log_extra=extra.__setitem__,
        trainer_state=None,
        completion_ids=[[1]] * 4,
    )
    rows, log = reward.last_rows, reward.last_log
    assert totals[0] == totals[1] and totals[2:] == [0.0, 0.0]
    assert log["reward/total"] == pytest.approx(sum(totals) / 4)
    assert log["reward/cycle"] == pytest.approx(rows[0]["cycle"]) and log["reward/qe"] == pytest.approx(rows[0]["qe"])
    assert log["reward/gated_share"] == 0.5 and log["reward/missing_share"] == 0.0
    assert log["reward/gate/empty"] == log["reward/gate/script"] == 0.25
    assert log["reward/distinct_share"] == 0.75
    assert log["reward/length"] == pytest.approx((2 * len(TAMIL[0]) + 0 + 7) / 4)
    assert {key for key in log if key.startswith("time/")} == {
        "time/guards",
        "time/back_translate",
        "time/cycle",
        "time/qe",
    }
    assert metrics == {}  # a scalar goes one way: last_log, callback, metrics.jsonl and W&B
    assert extra["gate"] == [None, None, "empty", "script"] and extra["source"] == [ENGLISH[0]] * 4
    assert all(isinstance(value, float) and math.isfinite(value) for value in log.values())


def test_training_and_evaluation_are_kept_apart(fresh):
    reward = fresh()
    reward([], TAMIL[:2], source=ENGLISH[:2])
    train = dict(reward.last_log)
    reward.evaluating = True
    reward([], ["", "x"], source=ENGLISH[:2])
    assert reward.last_log == train and reward.last_eval_log["reward/total"] == 0.0 and reward.calls == 1
    reward.evaluating = False
    reward([], TAMIL[:1], source=ENGLISH[:1])
    assert reward.last_log != train and reward.last_eval_log["reward/total"] == 0.0 and reward.calls == 2
    reward.score_components(None, [""], source=["x"])
    assert reward.calls == 2 and reward.last_log["reward/gated_share"] == 0.0  # looking changes no log


def test_an_empty_batch(reward):
    assert reward([], [], source=[]) == [] and reward.summarise([]) == {}


# --- models on another scale -----------------------------------------------------------------------------


def rescaled(folder, source, factor, shift):
    """A copy of a COMET checkpoint whose scores are factor · score + shift."""
    shutil.copytree(source, folder)
    path = folder / "checkpoints" / "model.ckpt"
    checkpoint = torch.load(path, weights_only=False)
    weights = checkpoint["state_dict"]
    last = max(name for name in weights if name.startswith("estimator.ff.") and name.endswith("weight"))
    weights[last] = weights[last] * factor
    bias = last.replace("weight", "bias")
    weights[bias] = weights[bias] * factor + shift
    torch.save(checkpoint, path)
    return str(folder)


@pytest.mark.parametrize(
    "factor, shift, words",
    [(10.0, -4.5, r"\[-0.25"), (1.0, -2.0, r"\[-0.25"), (100.0, 0.0, r"\[-0.25"), (0.0, 0.6, "0.6, 0.6, 0.6, 0.6")],
)
def test_a_comet_checkpoint_on_another_scale_is_refused_with_its_scores(models, tmp_path, factor, shift, words):
    other = rescaled(tmp_path / "other", models[0], factor, shift)
    with pytest.raises(ConfigError, match=rf"^comet_da_model: other .*{words}") as error:
        CometDuPOReward(other, *models[1:], backtranslation_beams=1)
    assert len(re.findall(r"-?\d+\.?\d*(?=[,)])", str(error.value))) >= 4  # the scores
    load_comet(other)  # by itself it is a valid checkpoint


def test_a_scale_that_differs_by_hundredths_is_taken(models, tmp_path):
    CometDuPOReward(rescaled(tmp_path / "other", models[0], 1.2, -0.1), *models[1:], backtranslation_beams=1)


# --- faults --------------------------------------------------------------------------------------------


class Faulty:
    """A real scorer whose answer `spoil` changes on the way out."""

    range = (0.0, 1.0)

    def __init__(self, real, spoil):
        self.real, self.spoil = real, spoil

    def score(self, segments):
        return Scores(self.spoil(self.real.score(segments).values))


def spoiled(model, spoil):
    """A faulty scorer or back-translator."""
    return Faulty(model, spoil) if hasattr(model, "score") else lambda texts: spoil(model(texts))


def at(i, value):
    return lambda values: [value if k == i else v for k, v in enumerate(values)]


def fail(values):
    raise RuntimeError("the card fell off the bus")


@pytest.mark.parametrize("part", ["da", "qe"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_an_invalid_value_costs_only_its_sample(fresh, part, value):
    reward = fresh()
    expected = reward([], TAMIL[:4], source=ENGLISH[:4])
    setattr(reward, part, Faulty(getattr(reward, part), at(1, value)))
    totals = reward([], [*TAMIL[:4], ""], source=ENGLISH[:5])
    assert totals == [expected[0], None, *expected[2:], 0.0]
    assert reward.last_log["reward/missing_share"] == pytest.approx(1 / 5)
    assert reward.last_log["reward/total"] == pytest.approx(sum(t for t in totals if t is not None) / 4)


@pytest.mark.parametrize("part", ["da", "qe", "backtranslator"])
@pytest.mark.parametrize("spoil", [fail, lambda values: values[:-1], lambda values: [*values, values[0]]])
def test_a_model_that_fails_gives_no_reward_and_no_exception(fresh, capsys, part, spoil):
    reward = fresh()
    setattr(reward, part, spoiled(getattr(reward, part), spoil))
    assert reward([], [*TAMIL[:2], "", "abc"], source=ENGLISH[:4]) == [None, None, 0.0, 0.0]  # gated ones count
    argument = {"da": "comet_da_model", "qe": "comet_qe_model", "backtranslator": "backtranslation_model"}[part]
    assert f"warning: {argument}" in capsys.readouterr().err
    others = {"da": "qe", "qe": "cycle", "backtranslator": "qe"}
    assert all(row[others[part]] is not None for row in reward.last_rows[:2])


def test_a_missing_back_translation_costs_only_its_sample(fresh):
    reward = fresh()
    expected = reward([], TAMIL[:3], source=ENGLISH[:3])
    reward.backtranslator = spoiled(reward.backtranslator, at(0, None))
    # one segment fewer is another batch: equal to rounding
    assert reward([], TAMIL[:3], source=ENGLISH[:3]) == [None, *[pytest.approx(v, abs=1e-6) for v in expected[1:]]]


def test_numpy_numbers_are_numbers_and_numpy_nan_is_not(fresh):
    import numpy as np

    reward = fresh()
    expected = reward([], TAMIL[:3], source=ENGLISH[:3])
    reward.qe = Faulty(reward.qe, lambda values: [np.float32("nan"), *map(np.float32, values[1:])])
    assert reward([], TAMIL[:3], source=ENGLISH[:3]) == [None, *[pytest.approx(v, abs=1e-6) for v in expected[1:]]]


def test_an_invalid_score_costs_only_its_sample(fresh):
    reward = fresh()
    expected, real = reward([], TAMIL[:3], source=ENGLISH[:3]), reward.da
    for value in (1e30, "0.5", True):
        reward.da = Faulty(real, at(0, value))
        assert reward([], TAMIL[:3], source=ENGLISH[:3]) == [None, *expected[1:]]


def test_three_failed_calls_stop_the_run(fresh):
    reward = fresh()
    alive, dead = reward.qe, Faulty(reward.qe, fail)
    for judge in (dead, dead, alive, dead, dead):  # a successful call in between resets the count
        reward.qe = judge
        reward([], TAMIL[:2], source=ENGLISH[:2])
    reward([], ["", "abc"], source=ENGLISH[:2])  # gated samples have a reward: not dead
    reward([], TAMIL[:2], source=ENGLISH[:2])
    reward([], TAMIL[:2], source=ENGLISH[:2])
    with pytest.raises(MissingService, match="3 calls in a row"):
        reward([], TAMIL[:2], source=ENGLISH[:2])


def test_fifty_thousand_characters_and_odd_strings_have_a_reward(reward):
    odd = ["அ" * 50_000, "க்" * 2000, "\ud800அ", "அ\x00\x07", "அ" + "\u0301" * 5000, "அ<bos>", "அ {source}", "\u202eஅ"]
    totals = reward([], odd, source=["The boy reads a book."] * len(odd))
    assert all(total == 0.0 or 0.01 <= total <= 1 for total in totals)


def test_every_field_of_the_formula_is_a_setting_of_the_run_and_in_the_identity(reward):
    """So that a new weight is two edits: its field and its term."""
    formula = {field.name for field in dataclasses.fields(Formula)}
    assert formula <= {field.name for field in dataclasses.fields(script.RunCfg)}
    assert formula <= reward.signature()["identity"].keys()
    assert len(formula) == 9 and "comet_da_model" not in formula
