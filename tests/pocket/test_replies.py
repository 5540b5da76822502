"""The world of the replies recipe: posts, replies, the check whether they fit, and the formats of its models."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections import defaultdict

import pytest

from pocket.replies import build, encoder, grammar, policy
from pocket.replies.grammar import careless_reply, describe, good_reply, known, parse, rows, success, topics
from rl_nmt.errors import ConfigError
from rl_nmt.text.prompts import chat_prompt, fill

POST = "Our team won the derby and it was brilliant. I am so proud!"
SAD = "I burnt the cake again and it is terrible. I could cry."
ASKED = "Which phone would you buy for a child of ten? Any ideas?"


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_good_replies_succeed_and_have_the_wanted_lengths(part):
    found = list(rows(0, part, 300, careless=0))
    posts, replies = zip(*found, strict=True)
    assert success(posts, replies) == [1.0] * 300
    assert all(40 <= len(post) <= 140 for post in posts) and all(50 <= len(reply) <= 150 for reply in replies)
    assert {describe(post) for post in posts} == {(topic, mood) for topic in topics() for mood in grammar.MOODS}


@pytest.mark.parametrize(
    "post, reply, wanted",
    [
        (POST, "That is great news! Your fans will enjoy a perfect season. How did it feel?", 1.0),
        (POST, "Wow, the coach must have been delighted.", 1.0),
        (POST, "The crowd must have been thrilled.", 1.0),
        (SAD, "Oh dear, I hate it when a recipe fails and the crust is ruined.", 1.0),
        (ASKED, "Let me think. I would look at the camera and the case. Does that help?", 1.0),
        (POST, "That is great news! The bees will love your herbs. How did it feel?", 0.5),  # off-topic
        (POST, "That is great news! Your fans will enjoy a perfect season. Which seeds will you buy next?", 0.5),
        (SAD, "I love this! A crust like that is perfect with jam.", 0.5),  # wrong mood
        (SAD, "How sad. A crust like that is perfect with jam.", 0.5),  # two moods
        (SAD, "I am so sorry.", 0.5),  # no topic
        (POST, "I am so sorry.", 0.0),
        (POST, "How sad. The bees will love your herbs.", 0.0),
        (POST, POST, 0.0),
        (POST, "Our team won the derby and it was brilliant. So true.", 0.0),
        (POST, "Agreed!", 0.0),
        (POST, "SO TRUE!!!", 0.0),
        (POST, "THE CROWD MUST HAVE BEEN THRILLED.", 0.0),
        (POST, "The crowd must have been thrilled. 🎉", 0.0),
        (POST, "the crowd must have been thrilled.", 0.0),
        (POST, "Wow, The crowd must have been thrilled.", 0.0),
        (POST, "The crowd must have been thrilled", 0.0),
        (POST, "The thrilled been coach crowd must fans.", 0.0),
        (POST, "The crowd must have been thrilled. The coach must have been thrilled.", 0.0),
        (POST, "How did it feel? The crowd must have been thrilled.", 0.0),
        (POST, "I love this! I love this! The crowd must have been thrilled.", 0.0),
        (POST, "Wow.", 0.0),
        (POST, "", 0.0),
    ],
)
def test_success_by_hand(post, reply, wanted):
    assert success([post], [reply]) == [wanted]


@pytest.mark.parametrize(
    "kind, wanted",
    [("generic", 0), ("off_topic", 0.5), ("wrong_mood", 0.5), ("short", 0.5), ("shouting", 0), ("echo", 0)],
)
def test_careless_replies_get_what_they_deserve(kind, wanted):
    rng = random.Random(0)
    posts = [post for post, _ in rows(1, "train", 100, careless=0)]
    replies = [careless_reply(rng, kind, post) for post in posts]
    assert set(success(posts, replies)) == {wanted}
    assert kind in grammar.CARELESS and len(set(replies)) >= 5


def test_the_share_of_careless_replies_is_the_one_that_was_given():
    values = success(*zip(*rows(0, "train", 1000, careless=0.5), strict=True))
    assert 0.45 < values.count(1.0) / 1000 < 0.55 and values.count(0.5) > 150 and values.count(0.0) > 150


def test_shuffled_words_never_succeed():
    rng = random.Random(0)
    found = list(rows(2, "train", 200, careless=0))
    salads = [" ".join(rng.sample(reply.split(), len(reply.split()))) for _, reply in found]
    assert set(success([post for post, _ in found], salads)) == {0.0}


def test_success_reads_nothing_but_the_two_texts():
    assert success([POST, SAD], ["Agreed!", "How sad."], references=["x", "y"]) == success(
        [POST, SAD], ["Agreed!", "How sad."]
    )
    imported = re.findall(r"^(?:from|import) ([\w.]+)", inspect.getsource(grammar), re.M)
    assert "random" in imported and [name for name in imported if "rl_nmt" in name] == ["rl_nmt.errors"]
    assert not {"recipes", "textblob", "torch", "pocket"} & {name.split(".")[0] for name in imported}


def test_a_post_of_another_world_is_refused():
    with pytest.raises(ConfigError, match="post"):
        success(["Hello, world!"], ["Agreed!"])


def test_posts_do_not_repeat_and_parts_share_none():
    train, held = (
        [post for post, _ in rows(seed, part, 2000 if part == "train" else 500, 0)]
        for seed, part in ((0, "train"), (1, "heldout"))
    )
    assert len(set(train)) == 2000 and len(set(held)) == 500 and not set(train) & set(held)
    with pytest.raises(ConfigError, match="count"):
        list(rows(0, "heldout", 10**5, 0))


def test_a_seed_gives_the_same_rows_whatever_the_carelessness_of_their_posts():
    first = list(rows(3, "train", 50, 0.5))
    assert first == list(rows(3, "train", 50, 0.5)) != list(rows(4, "train", 50, 0.5))
    assert [post for post, _ in first] == [post for post, _ in rows(3, "train", 50, 0)]


def test_a_post_has_hundreds_of_good_replies():
    rng = random.Random(0)
    for topic in topics():
        for mood in grammar.MOODS:
            assert len({good_reply(rng, topic, mood) for _ in range(400)}) > 200


def test_sentences_have_one_meaning_and_few_words():
    every = [one for lines in grammar.phrases().values() for texts in lines for one in texts]
    assert len(every) == len(known()) and len(topics()) == 12
    assert 400 < len({word for one in every for word in re.findall(r"[a-z]+", one.text.lower())}) < 600
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z, ]*[.?!]+|[A-Za-z ]+", text) and "  " not in text for text in known())
    assert all(len(parse(text)) == 1 for text in known())


def test_replies_use_topic_words_of_their_own():
    """A word of at most two topics is a topic's; no topic has one in posts and in replies."""
    roles = defaultdict(lambda: defaultdict(set))  # word → topic → roles
    for one in known().values():
        for word in re.findall(r"[a-z]+", one.text.lower()):
            roles[word][one.topic].add(one.role)
    own = {word: found for word, found in roles.items() if len(found) <= 2 and "any" not in found}
    assert len(own) > 250
    assert [
        word for word, found in own.items() if any("post" in some and len(some) > 1 for some in found.values())
    ] == []


def test_textblob_finds_the_moods():
    blob = pytest.importorskip("textblob").TextBlob
    for post, reply in rows(5, "train", 600, careless=0):
        mood = describe(post)[1]
        for value in (blob(post).sentiment.polarity, blob(reply).sentiment.polarity):
            assert {"happy": value > 0.12, "sad": value < -0.12, "neutral": abs(value) <= 0.15}[mood], (post, reply)


# ------------------------------------------------------------------ the builder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("pocket") / "replies-seed0", seed=0, sizes=build.SMALL)


def test_a_second_build_does_nothing_and_other_sizes_build_again(world):
    stamp = (world / "build.json").stat().st_mtime_ns
    assert build.build(world, seed=0, sizes=build.SMALL) == world
    assert (world / "build.json").stat().st_mtime_ns == stamp
    assert len({build.key(0, build.SMALL), build.key(1, build.SMALL), build.key(0, build.Sizes())}) == 3
    assert not world.with_name("replies-seed0.part").exists()


def test_the_rows_are_the_grammars(world):
    texts = {name: (world / name).read_text().splitlines() for name in ("rows.jsonl", "heldout.jsonl")}
    read = {name: [tuple(json.loads(line).values()) for line in lines] for name, lines in texts.items()}
    assert read["rows.jsonl"] == list(rows(0, "train", 60, 0.5))
    assert success(*zip(*read["heldout.jsonl"], strict=True)) == [1.0] * 10
    assert list(json.loads(texts["rows.jsonl"][0])) == ["post", "reply"]


def test_the_policy_loads_with_the_products_own_code_and_does_not_think(world):
    from rl_nmt.models.generate import generate
    from rl_nmt.models.policy import choose_precision, load_policy, load_tokenizer, stop_ids

    tokenizer = load_tokenizer(str(world / "policy"))
    model = load_policy(str(world / "policy"), tokenizer, choose_precision(lora=False), "sdpa")
    prompt = chat_prompt(tokenizer, fill(build.PROMPT, POST))
    assert prompt == (
        f"<|im_start|>user\nWrite a short, friendly reply to this post: {POST}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert model.config.model_type == "qwen3" and type(tokenizer).__name__.startswith("Qwen2Tokenizer")
    assert stop_ids(tokenizer) == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert tokenizer.decode(tokenizer(prompt)["input_ids"]) == prompt
    assert len(generate(model, tokenizer, [prompt], max_new_tokens=4)) == 1


def test_words_and_turns_are_one_token_each():
    tokenizer = policy.chat_tokenizer([fill(build.PROMPT, text) for text in known()] * 2, 2000)
    ids = tokenizer(chat_prompt(tokenizer, fill(build.PROMPT, POST)))["input_ids"]
    words = re.findall(r"\w+|[^\w\s]", fill(build.PROMPT, POST))
    assert len(ids) == len(words) + 4  # two openings of turns, the end of a turn and its line break


@pytest.mark.parametrize("post_weight", [0.0, 0.5])
def test_the_loss_is_that_of_the_reply_and_by_weight_of_the_post(post_weight):
    import torch

    tokenizer = policy.chat_tokenizer([POST, SAD], 300)
    torch.manual_seed(0)
    model = policy.new_policy(tokenizer, 16, 1).eval()
    examples = policy.encode(tokenizer, ["x: a post: ", "x: b: "], ["Hm.", "I am so sorry."])
    shared = next(i for i in range(9) if examples[0][0][i] != examples[1][0][i])
    assert shared >= 2
    lost, weights = [], []
    for prompt, reply in examples:  # by hand, one token after the other
        for i in range(shared, len(prompt + reply)):
            logits = model(torch.tensor([(prompt + reply)[:i]])).logits[0, -1]
            weights.append(1.0 if i >= len(prompt) else post_weight)
            lost.append(-float(logits.log_softmax(-1)[(prompt + reply)[i]]) * weights[-1])
        assert reply[-1] == tokenizer.eos_token_id
    assert float(policy.reply_loss(model, examples, post_weight)) == pytest.approx(sum(lost) / sum(weights), abs=1e-5)


def test_the_encoder_is_sentence_transformers_own(world):
    import torch

    library = pytest.importorskip("sentence_transformers").SentenceTransformer
    loaded = library(str(world / "encoder"), device="cpu")
    vectors = loaded.encode([POST, SAD], convert_to_tensor=True)
    assert vectors.norm(dim=1) == pytest.approx([1, 1], abs=1e-5)
    with torch.no_grad():
        ours = encoder.embed(loaded[0].auto_model, loaded.tokenizer, [POST, SAD])
    assert torch.allclose(vectors, ours, atol=1e-5)


def test_the_check_has_a_number_for_every_kind_of_reply(world):
    check = json.loads((world / "build.json").read_text())["check"]
    assert set(check["encoder"]) == {"fitting", *grammar.CARELESS}
    assert set(check["policy"]) == {"heldout loss", "well formed", "topic right", "mood right"}
