"""recipes/diffusion/gate.py: which judges may be trained on."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from recipes.diffusion.gate import HARD, MIN_MASKS, cheats, require_honest_judge
from recipes.diffusion.reward import JudgeReward
from rl_nmt.errors import RewardRefused
from rl_nmt.models.masked_diffusion import SPECIAL, character_tokenizer
from rl_nmt.text.templates import text_ids

HERE = "tests.recipes.diffusion.test_gate"
NAMES, VERBS, PLACES = "Anna Ben Clara David".split(), "sings sleeps reads".split(), "garden kitchen library".split()
SENTENCES = [f"{name} {verb} in the {place} today." for name in NAMES for verb in VERBS for place in PLACES]
KNOWN = {word for sentence in SENTENCES for word in sentence.split()}
FAMILIES = {*HARD, "shuffled", "repeated word"}


def spaces(prompts, completions, **columns):
    return [text.count(" ") for text in completions]


def known_words(prompts, completions, **columns):
    """Share of known words between single spaces, each counted once."""
    said = [text.split(" ") for text in completions]
    return [sum(word in KNOWN for word in {*text}) / len(text) for text in said]


def letters_in_order(prompts, completions, **columns):
    """Knows no order: a shuffled text is as good as the text."""
    return [-sum((Counter(text) - Counter("".join(SENTENCES))).values()) for text in completions]


def silent(prompts, completions, **columns):
    return [None] * len(completions)


@pytest.fixture(scope="module", params=["characters", "subwords"])
def tokenizer(request):
    if request.param == "characters":
        return character_tokenizer(SENTENCES)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE(unk_token="[UNK]"))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = [*SPECIAL.values()]
    words.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=60, special_tokens=special))
    return PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **SPECIAL)


def rows_of(tokenizer, share: float = 0.5) -> list[dict]:
    """Templates with a masked span in the middle, which is never a whole sentence."""
    rows = []
    for text in SENTENCES:
        ids = text_ids(tokenizer, [text])[0]
        count = max(1, int(share * len(ids)))
        start = random.Random(text).randint(1, len(ids) - 1 - count)
        template = [*ids[:start], *[tokenizer.mask_token_id] * count, *ids[start + count :]]
        given = [
            tokenizer.decode(part[part[0] == tokenizer.bos_token_id :])
            for part in (ids[:start], ids[start + count : -1])
            if part
        ]
        rows.append({"ids": template, "source": " [MASK] ".join(given), "reference": text})
    return rows


def test_cheats_keep_the_given_tokens_and_fill_the_masks(tokenizer):
    rows = rows_of(tokenizer)
    made = cheats(rows, tokenizer, 0)
    assert {cheat.family for cheat in made} == FAMILIES and all(cheat.hard == (cheat.family in HARD) for cheat in made)
    assert made == cheats(rows, tokenizer, 0) != cheats(rows, tokenizer, 1)
    for cheat in made:
        row = rows[cheat.pair]
        start = row["ids"].index(tokenizer.mask_token_id)
        before = tokenizer.decode(row["ids"][1:start])
        assert cheat.text.startswith(before) and cheat.text != row["reference"]
    texts = {(cheat.family, cheat.pair): cheat.text for cheat in made}
    if len(tokenizer("sings", add_special_tokens=False)["input_ids"]) == 5:
        assert all(len(cheat.text) == len(rows[cheat.pair]["reference"]) for cheat in made)
        assert all(
            sorted(text) == sorted(rows[i]["reference"]) for (family, i), text in texts.items() if family == "shuffled"
        )
        common = Counter(letter for text in SENTENCES for letter in text if letter.isalpha()).most_common(1)[0][0]
        count = rows[0]["ids"].count(tokenizer.mask_token_id)
        assert common * count in texts["same character", 0] and " " * count in texts["blanks", 0]


def test_a_cheat_that_equals_the_reference_is_left_out():
    words = character_tokenizer(["aaaaaaa a"])
    ids = [*text_ids(words, ["aaaaaaa a"])[0]]
    ids[1:8] = [words.mask_token_id] * 7
    found = cheats([{"ids": ids, "source": "[MASK] a", "reference": "aaaaaaa a"}], words, 0)
    assert {cheat.family for cheat in found} == {"blanks", "repeated word"}


def test_a_judge_that_likes_spaces_is_refused(tokenizer, capsys):
    with pytest.raises(RewardRefused, match=rf"^judge_checkpoint: {HERE}:spaces: .*--skip_launch_gate") as refused:
        require_honest_judge(JudgeReward(f"{HERE}:spaces"), rows_of(tokenizer), 0, tokenizer)
    assert refused.value.exit_code == 3 and "blanks wins" in capsys.readouterr().out


def test_a_judge_that_likes_references_passes(tokenizer, capsys):
    verdict = require_honest_judge(JudgeReward(f"{HERE}:known_words"), rows_of(tokenizer), 0, tokenizer)
    assert verdict["passed"] and verdict["hard_wins"] == 0 and verdict["pairs"] == len(SENTENCES)
    assert {family["name"] for family in verdict["families"]} == FAMILIES
    assert "launch gate: passed" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "part"), [("letters_in_order", "shuffled"), ("silent", "have no score")])
def test_a_judge_without_order_or_scores_is_refused(name, part, capsys):
    words = character_tokenizer(SENTENCES)
    with pytest.raises(RewardRefused):
        require_honest_judge(JudgeReward(f"{HERE}:{name}"), rows_of(words), 0, words)
    assert part in capsys.readouterr().out


def test_without_references_or_masks_nothing_is_compared(capsys):
    words, reward = character_tokenizer(SENTENCES), JudgeReward(f"{HERE}:spaces")
    own = [{"ids": row["ids"], "source": row["source"]} for row in rows_of(words)]
    few = [{"ids": [words.mask_token_id] * (MIN_MASKS - 1), "source": "[MASK]", "reference": "in the"}]
    for rows in ([], own, few):
        verdict = require_honest_judge(reward, rows, 0, words)
        assert verdict["passed"] is None and "no held-out row has a reference" in verdict["reasons"][0]
        assert verdict["reasons"][0] in capsys.readouterr().out
