"""The cheats of recipes/replies, and the launch gate with them."""

from __future__ import annotations

import pytest
from tiny_encoder import build_encoder
from tiny_replies import HELD_OUT, PAIRS, Bigrams

from recipes.replies.cheats import HARD, require_replies_launch, suite
from recipes.replies.components import words
from recipes.replies.heuristic import HeuristicReward
from recipes.replies.settings import RewardCfg
from rl_nmt.audit.launch_gate import MAX_PAIRS
from rl_nmt.errors import ConfigError, RewardRefused
from rl_nmt.models.sentence_encoder import load_encoder
from rl_nmt.scorers.likelihood import calibrate

ROWS = [{"source": post, "reference": reply} for post, reply in PAIRS]


def of(family, pairs=PAIRS):
    return {cheat.pair: cheat.text for cheat in suite(pairs) if cheat.family == family}


def test_every_family_has_a_cheat_of_every_pair():
    cheats = suite(PAIRS)
    families = dict.fromkeys(cheat.family for cheat in cheats)
    assert list(families) == [*HARD, "off_topic", "generic", "shouting", "padded_questions"]
    assert all(len(of(family)) == len(PAIRS) for family in families)
    assert {cheat.family for cheat in cheats if cheat.hard} == set(HARD)
    assert cheats == suite(list(PAIRS)) and suite([]) == []


def test_hard_families_have_the_looks_of_a_good_reply():
    for pair, text in of("word_salad").items():
        said = words(text)
        assert 50 <= len(text) <= 150 and text.endswith("?") and text.count("!") == text.count(".") == 1
        assert set(said) <= set(words(" ".join(PAIRS[pair]))) and " ".join(said) not in " ".join(PAIRS[pair]).lower()
    for text in of("emoji_only").values():
        assert 50 <= len(text) <= 150 and words(text) == ()
    assert of("echo") == {i: post for i, (post, _) in enumerate(PAIRS)}
    tiny = of("word_salad", [("Hi there", "Hello you")])[0]
    assert len(words(tiny)) == 12 and set(words(tiny)) == {"hi", "there", "hello", "you"}


def test_soft_families():
    far, near = ("Zebras run fast", "They do"), ("The bus was late", "The bus is late here too")
    pairs = [("The bus was late today", "Oh dear"), near, far]
    assert of("off_topic", pairs)[0] == "They do"
    assert of("off_topic", pairs[:1]) == {}
    assert of("shouting", pairs)[1] == "THE BUS IS LATE HERE TOO!!!"
    assert of("shouting", [("நல்ல நாள்", "நன்றி நண்பரே")]) == {}
    assert of("padded_questions", pairs)[2].startswith("They do Right? ")
    generic = of("generic", pairs)[2]
    assert len(generic) < 30 and of("generic", [("Zebras run fast", "They do")])[0] == generic
    assert of("echo", [("Hello", "Hello")]) == {}


def test_a_good_reward_passes_the_launch_gate_and_the_components_alone_are_refused(tmp_path, capsys):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("textblob")
    encoder = load_encoder(str(build_encoder(tmp_path / "words", [text for pair in PAIRS for text in pair])), "cpu")
    good = HeuristicReward(RewardCfg(), encoder, Bigrams(), calibrate(Bigrams()([], HELD_OUT), "w"))
    report = require_replies_launch(good, ROWS, 0.1, seed=0)
    assert report["passed"] and report["pairs"] == len(PAIRS) and report["hard_wins"] == 0
    assert "launch gate: passed" in capsys.readouterr().out
    bare = HeuristicReward(RewardCfg(w_copy=0.0, w_fluency=0.0), encoder)
    with pytest.raises(RewardRefused, match=r"echo wins 8 of 8 .*word_salad wins 8 of 8"):
        require_replies_launch(bare, ROWS, 0.1, seed=0)


class Lengths:
    """Rewards letters without capitals; counts the posts of honest replies."""

    def score_components(self, prompts, completions, source=None):
        self.posts = {*getattr(self, "posts", ()), *source}
        return [{"total": float(reply.startswith("reply") and "?" not in reply), "gate": None} for reply in completions]


def test_a_seeded_sample_of_the_rows_with_a_reply_is_used():
    rows = [{"source": f"post {i}", "reference": f"reply {i} of quite some length"} for i in range(90)]
    rows += [{"source": f"short {i}", "reference": "Nice!"} for i in range(9)]
    rows += [{"source": f"loud {i}", "reference": "I HAVE NOTHING TO SAY TO THIS"} for i in range(9)]
    rows += [{"source": f"the copied post number {i}", "reference": f"the copied post number {i}"} for i in range(9)]
    rows += [{"source": "bare"}, {"source": "blank", "reference": " "}, {"source": "", "reference": "reply"}]
    samples = []
    for given, seed in ((rows, 1), (rows[::-1], 1), (rows, 2)):
        reward = Lengths()
        report = require_replies_launch(reward, given, 0.3, seed)
        assert report["pairs"] == MAX_PAIRS and len(reward.posts) == 66  # the lowest tenth is not compared
        assert all(post.startswith("post ") for post in reward.posts)
        samples.append(reward.posts)
    assert samples[0] == samples[1] != samples[2]
    with pytest.raises(ConfigError, match=r"data\.eval_file: no held-out post has a reply"):
        require_replies_launch(Lengths(), rows[90:], 0.3, 1)
