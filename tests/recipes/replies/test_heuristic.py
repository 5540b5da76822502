"""The heuristic reward of recipes/replies: tables of its components, guards, missing parts, hacks that must lose."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_encoder import build_encoder
from tiny_replies import ELSEWHERE, HELD_OUT, PAIRS, Bigrams

from recipes.replies import heuristic
from recipes.replies.cheats import suite
from recipes.replies.heuristic import COMPONENTS, HeuristicReward, check_weights
from recipes.replies.settings import RewardCfg
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.models import sentence_encoder
from rl_nmt.scorers.likelihood import calibrate
from rl_nmt.training.callbacks import ProgressLine

BASE = 1 / (1.1 * 1.05)  # engagement without any bonus
POSTS, REPLIES = map(list, zip(*PAIRS, strict=True))
load_encoder = partial(sentence_encoder.load_encoder, argument="reward.encoder")
GARDEN, MOUNTAIN = PAIRS[2], PAIRS[5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("textblob")
    return build_encoder(tmp_path_factory.mktemp("encoder") / "words", [*POSTS, *REPLIES, ELSEWHERE])


@pytest.fixture(scope="module")
def encoder(folder):
    return load_encoder(str(folder), "cpu")


@pytest.fixture(scope="module")
def scale():
    return calibrate(Bigrams()([], HELD_OUT), "w")


@pytest.fixture
def reward(encoder, scale):
    return HeuristicReward(RewardCfg(), encoder, Bigrams(), scale)


# ---------------------------------------------------------------------- totals


def test_the_total_is_the_formula(reward, encoder, scale):
    post, reply = PAIRS[7]
    row = reward.score_components(None, [reply], source=[post])[0]
    by_hand = 0.3 * row["relevance"] + 0.15 * row["length_score"] + 0.15 * row["sentiment"] + 0.1 * row["diversity"]
    by_hand += 0.1 * row["punctuation"] + 0.2 * row["engagement"] - 0.5 * row["copied"] - 0.5 * (1 - row["fluency"])
    assert row["total"] == pytest.approx(by_hand) and row["copied"] > 0
    ends = encoder.model.encode([post, reply]).astype(float)
    cosine = ends[0] @ ends[1] / np.linalg.norm(ends[0]) / np.linalg.norm(ends[1])
    assert row["relevance"] == pytest.approx((cosine + 1) / 2, abs=1e-6)
    assert row["fluency"] == pytest.approx(min(1, (Bigrams().mean(reply) - scale[0]) / (scale[1] - scale[0])))


def test_texts_are_cleaned_first(reward):
    post, reply = PAIRS[0]
    dirty = reward.score_components(None, [f" {reply}\u200b<eos>\n"], source=[f"<bos>{post}\u200b "])
    assert dirty == reward.score_components(None, [reply], source=[post])


def test_totals_stay_between_0_and_1(encoder, scale):
    harsh = HeuristicReward(RewardCfg(w_copy=9.0, w_fluency=9.0), encoder, Bigrams(), scale)
    assert harsh.score_pair(POSTS[0], POSTS[0]) == 0.0
    nothing = dict.fromkeys((f"w_{name.removesuffix('_score')}" for name in COMPONENTS), 0.0)
    only = HeuristicReward(RewardCfg(**nothing | {"w_length": 1.0, "w_copy": 0, "w_fluency": 0}), encoder)
    assert only.score_pair(*PAIRS[0]) == 1.0


def test_batch_and_single_calls_agree(reward):
    pairs = PAIRS + [(PAIRS[c.pair][0], c.text) for c in suite(PAIRS)] + [("a post", ""), ("a post", "b" * 501)]
    posts, replies = map(list, zip(*pairs, strict=True))
    rows = reward.score_components(None, replies, source=posts)
    alone = [reward.score_components(None, [reply], source=[post])[0] for post, reply in pairs]
    rough = ("relevance", "total")
    assert [{k: v for k, v in row.items() if k not in rough} for row in rows] == [
        {k: v for k, v in row.items() if k not in rough} for row in alone
    ]
    for row, other in zip(rows, alone, strict=True):
        assert [row[key] for key in rough] == pytest.approx([other[key] for key in rough], abs=1e-6)
    totals = [row["total"] for row in rows]
    assert reward.compute_rewards_batch(posts, replies) == totals == reward([], replies, source=posts)
    assert reward.score_pair(*PAIRS[3]) == pytest.approx(totals[3], abs=1e-6)
    named = reward.get_component_scores(*PAIRS[3])
    assert named["length"] == rows[3]["length_score"] == 1.0 and rows[3]["length"] == len(PAIRS[3][1])
    assert set(named) == {"total", "copied", "fluency", *(name.removesuffix("_score") for name in COMPONENTS)}


@pytest.mark.parametrize(
    ("reply", "gate", "total"),
    [
        ("", "too_short", 0.0),
        ("  a! ", "too_short", 0.0),
        ("\u200b" * 60 + "ab", "too_short", 0.0),
        ("abc", None, None),
        ("word " * 99 + "words", None, None),
        ("word " * 100 + "w", "too_long", 0.3),
    ],
)
def test_guards_of_single_and_batch_calls(reward, reply, gate, total):
    row = reward.score_components(None, [REPLIES[0], reply], source=POSTS[:2])[1]
    assert row["gate"] == gate == reward._score([POSTS[1]], [reply])[0][0]["gate"]
    if gate:
        assert row["total"] == total == reward.score_pair(POSTS[1], reply)
        assert all(row[name] is None for name in COMPONENTS)
    else:
        assert row["relevance"] is not None and row["total"] is not None


def test_models_see_each_distinct_text_once_and_no_gated_one(encoder, scale):
    seen, asked = [], []
    counting = replace(
        encoder, model=SimpleNamespace(encode=lambda t, **o: (seen.extend(t), encoder.model.encode(t, **o))[1])
    )

    def log_probs(posts, replies):
        asked.extend(zip(posts, replies, strict=True))
        return Bigrams()(posts, replies)

    reward = HeuristicReward(RewardCfg(), counting, log_probs, scale)
    reward([], [REPLIES[0], REPLIES[1], REPLIES[0], "", POSTS[0]], source=[POSTS[0]] * 4 + [POSTS[0]])
    assert sorted(seen) == sorted([POSTS[0], REPLIES[0], REPLIES[1]])
    assert asked == [(POSTS[0], reply) for reply in (REPLIES[0], REPLIES[1], POSTS[0])]
    assert reward([], ["", ""], source=POSTS[:2]) == [0.0, 0.0] and len(seen) == 3


# ---------------------------------------------------------------------- what TRL, callbacks and checkpoints use


def test_trl_calls_it_with_conversations_and_extra_columns(reward, capsys):
    talk = [[{"role": "assistant", "content": reply}] for reply in (*REPLIES[:3], "", ELSEWHERE, REPLIES[0])]
    posts = [POSTS[0]] * 4 + [POSTS[1]] * 2
    totals = reward(posts, talk, source=posts, completion_ids=[[1]] * 6, trainer_state=None)
    assert totals[3] == 0.0 and all(0 < total <= 1 for i, total in enumerate(totals) if i != 3)
    log = reward.last_log
    assert log["reward/total"] == pytest.approx(sum(totals) / 6) and log["reward/gate/too_short"] == pytest.approx(
        1 / 6
    )
    assert log["reward/length_score"] == 1.0 and log["reward/length"] > 60
    assert {"rank/relevance", "variance_share/fluency", "reward/copied", "time/encoder", "time/fluency"} <= set(log)
    assert sum(v for k, v in log.items() if k.startswith("variance_share/")) == pytest.approx(1.0)
    assert all(math.isfinite(value) for value in log.values())
    assert json.loads(json.dumps(reward.last_rows)) == reward.last_rows
    ProgressLine(reward, 1).on_step_end(None, SimpleNamespace(is_world_process_zero=True, global_step=1), None)
    assert f"→ {REPLIES[0]}" in capsys.readouterr().out
    reward.evaluating = True
    reward(posts[:1], talk[:1], source=posts[:1])
    assert reward.last_log == log != reward.last_eval_log
    assert reward([], [], source=[]) == []


def test_the_posts_must_be_given(reward):
    with pytest.raises(ConfigError, match="source: no posts for 1"):
        reward(["Reply to this: hello"], ["Hello you!"])
    with pytest.raises(ConfigError, match="source: 2 posts for 1"):
        reward([], ["Hello you!"], source=POSTS[:2])


def test_a_copy_in_another_process_scores_the_same(reward):
    again = pickle.loads(pickle.dumps(reward))
    assert again.compute_rewards_batch(POSTS, REPLIES) == reward.compute_rewards_batch(POSTS, REPLIES)
    assert again.signature() == reward.signature() and reward.__name__ == "heuristic"


def test_imports_are_light():
    heavy = {"torch", "sentence_transformers", "textblob", "transformers"}
    code = f"import sys, recipes.replies.heuristic, recipes.replies.cheats; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_weights_must_sum_to_1(encoder):
    assert sum(check_weights(RewardCfg()).values()) == pytest.approx(1.0)
    check_weights(RewardCfg(w_relevance=0.3 + 9e-7))
    for cfg in (RewardCfg(w_relevance=0.3 + 3e-6), RewardCfg(w_length=0.05)):
        with pytest.raises(ConfigError, match=r"reward\.w_\*: .* = (1\.000003|0\.9); .*sum to 1"):
            HeuristicReward(cfg, encoder)


# ---------------------------------------------------------------------- parts that are missing or fail


def test_a_log_prob_that_is_missing_gives_no_total(encoder, scale, capsys):
    values = {REPLIES[0]: -2.0, REPLIES[1]: None, REPLIES[2]: math.nan, REPLIES[3]: -math.inf}
    reward = HeuristicReward(RewardCfg(), encoder, lambda posts, replies: [values[reply] for reply in replies], scale)
    totals = reward([], REPLIES[:5], source=POSTS[:5])  # the fifth raises a KeyError
    assert [total is None for total in totals] == [False, True, True, True, True]
    assert reward.last_log["reward/missing_share"] == 0.8
    assert "reward.fluency: 2 of 5 outputs get no score (KeyError" in capsys.readouterr().err
    with pytest.raises(MissingService, match="3 calls in a row"):
        for _ in range(3):
            reward([], REPLIES[1:2], source=POSTS[1:2])


def test_an_encoder_that_fails_gives_no_total(encoder, capsys):
    def encode(texts, **options):
        if REPLIES[1] in texts:
            raise RuntimeError("out of memory")
        return encoder.model.encode(texts, **options)

    reward = HeuristicReward(RewardCfg(), replace(encoder, model=SimpleNamespace(encode=encode)))
    totals = reward.compute_rewards_batch(POSTS[:3], REPLIES[:3])
    assert totals[1] is None and None not in (totals[0], totals[2])
    assert "reward.encoder: 1 of 6 outputs get no score (RuntimeError: out of memory)" in capsys.readouterr().err


def test_fluency_is_left_out_without_its_model_or_weight(encoder, scale):
    without = HeuristicReward(RewardCfg(), encoder)
    unweighted = HeuristicReward(RewardCfg(w_fluency=0.0), encoder, lambda *_: 1 / 0, scale)
    for reward in (without, unweighted):
        row = reward.score_components(None, REPLIES[:1], source=POSTS[:1])[0]
        assert row["fluency"] is None and row["total"] > 0.8
        assert reward.signature()["identity"]["fluency"] == "left out"
    for scale in (None, (-2.0, -2.0)):
        with pytest.raises(ConfigError, match="scale: "):
            HeuristicReward(RewardCfg(), encoder, Bigrams(), scale)


@pytest.mark.parametrize(
    ("package", "component", "note"),
    [("sentence_transformers", "relevance", "encoder"), ("textblob", "sentiment", "textblob")],
)
def test_a_missing_package_gives_half_and_one_warning(monkeypatch, capsys, folder, package, component, note):
    heuristic._warn_once.cache_clear()
    whole = HeuristicReward(RewardCfg(encoder=str(folder)), load_encoder(str(folder), "cpu"))
    assert whole.score_components(None, REPLIES[:1], source=POSTS[:1])[0][component] != 0.5
    monkeypatch.setitem(sys.modules, package, None)
    for _ in range(2):
        reward = HeuristicReward(RewardCfg(encoder=str(folder)), load_encoder(str(folder), "cpu"))
    rows = reward.score_components(None, REPLIES, source=POSTS)
    assert {row[component] for row in rows} == {0.5} and None not in {row["total"] for row in rows}
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "0.5" in warnings[0] and "pip install" in warnings[0]
    assert reward.signature()["identity"][note] == "missing: 0.5"
    assert whole.signature()["identity"][note] != "missing: 0.5"


def test_an_empty_name_is_no_encoder(capsys):
    heuristic._warn_once.cache_clear()
    assert load_encoder("") is None
    assert HeuristicReward(RewardCfg(encoder=""), None).get_component_scores(*PAIRS[0])["relevance"] == 0.5
    assert "reward.encoder" in capsys.readouterr().err


def test_only_sentence_encoders_are_accepted(tmp_path, folder):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path / "bert")
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"x")
    no_modules = {"bert": "modules.json", "bert/config.json": "has no modules.json"}
    for name, complaint in (no_modules | {"nowhere": "no such folder", "damaged": "does not load"}).items():
        with pytest.raises(ConfigError, match=rf"reward\.encoder: .*{complaint}"):
            load_encoder(str(tmp_path / name), "cpu")
    with pytest.raises(ConfigError, match="device: 'tpu'"):
        load_encoder(str(folder), "tpu")
    with pytest.raises(MissingService, match=r"reward\.encoder: no-such-org/encoder"):
        load_encoder("no-such-org/encoder", "cpu")


def test_the_signature_follows_what_decides_the_score(tmp_path, folder, encoder, scale, reward):
    signature = reward.signature()
    assert signature["identity"]["w_copy"] == 0.5 and signature["identity"]["fluency"] == list(scale)
    assert signature["identity"]["textblob"] == "installed" and "textblob" in signature["environment"]
    moved = load_encoder(str(shutil.copytree(folder, tmp_path / "words")), "cpu")
    assert moved.identity == encoder.identity == signature["identity"]["encoder"]
    other = load_encoder(str(build_encoder(tmp_path / "other" / "words", REPLIES)), "cpu")
    assert other.identity["model"] == "words" and other.identity["content"] != encoder.identity["content"]
    changed = HeuristicReward(RewardCfg(w_copy=0.4), encoder, Bigrams(), scale).signature()["identity"]
    assert changed != signature["identity"] and json.dumps(signature)


# ---------------------------------------------------------------------- hacks


def hacks(post, reply):
    made = {c.family: c.text for c in suite([(post, reply), PAIRS[0]]) if c.pair == 0}
    return made | {"off_topic": ELSEWHERE, "Agreed!": "Agreed!", "lol": "lol"}


@pytest.mark.parametrize("pair", [GARDEN, MOUNTAIN])
def test_good_replies_rank_above_every_hack(reward, pair):
    good = reward.score_pair(*pair)
    scores = {name: reward.score_pair(pair[0], text) for name, text in hacks(*pair).items()}
    assert good > 0.85 and max(scores.values()) < good - 0.05, scores
    assert max(scores[name] for name in ("echo", "word_salad", "emoji_only", "Agreed!", "lol")) < 0.5, scores


@pytest.mark.parametrize("pair", PAIRS)
def test_each_penalty_is_for_its_hack(encoder, scale, pair):
    def totals(**weights):
        reward = HeuristicReward(RewardCfg(**{"w_copy": 0.0, "w_fluency": 0.0} | weights), encoder, Bigrams(), scale)
        texts = hacks(*pair)
        return reward.compute_rewards_batch([pair[0]] * 3, [pair[1], texts["echo"], texts["word_salad"]])

    good, echo, salad = totals()
    assert good < min(echo, salad)
    good, echo, salad = totals(w_copy=0.5)
    assert echo < good < salad
    good, echo, salad = totals(w_fluency=0.5)
    assert salad < good - 0.3


def test_empty_questions_do_not_pay_even_where_they_are_fluent(encoder):
    reward = HeuristicReward(RewardCfg(), encoder, lambda posts, replies: [-1.0] * len(replies), (-3.0, -2.0))
    post, reply = GARDEN[0], "I love red tomatoes from the garden, and so does all of my family."
    assert reward.score_pair(post, f"{reply} Right? Don't you think? Or what?") < reward.score_pair(post, reply)
    assert reward.score_pair(post, f"{reply} Are yours ripe?") > reward.score_pair(post, reply)
