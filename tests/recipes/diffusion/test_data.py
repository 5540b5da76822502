"""Templates: masks drawn from texts, templates of a file, two kinds of tokenizers, refusals with their place."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipes.diffusion.data import load, masked_places
from recipes.diffusion.settings import DiffusionCfg
from rl_nmt.errors import ConfigError
from rl_nmt.models.masked_diffusion import character_tokenizer
from rl_nmt.text.templates import encode_template, filled_text, shown

WORDS = ["red", "small", "brown", "tired", "young", "quiet"]
TEXTS = [f"The {a} dog sees the {b} cat in the {c} house." for a in WORDS for b in WORDS for c in WORDS]
CFG = DiffusionCfg(num_train_samples=150, num_eval_samples=30, denoising_steps=4, min_chars=5)
CHARACTERS = character_tokenizer([*TEXTS, "[PAD]<mask>é,"])
CONTEXT = 64


def byte_level() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<mask>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS, trainer)
    names = dict(zip(("pad_token", "mask_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)


BYTES = byte_level()


def corpus(folder, texts=TEXTS, **changes) -> DiffusionCfg:
    (folder / "texts.txt").write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return replace(CFG, dataset=str(folder / "texts.txt"), **changes)


def of_lines(folder, lines, tokenizer=CHARACTERS, context=CONTEXT, **changes):
    path = folder / "templates.txt"
    path.write_bytes("\n".join(lines).encode() if isinstance(lines, list) else lines)
    return load(replace(CFG, template_file=str(path), denoising_steps=0, **changes), folder, tokenizer, context)


# ---------------------------------------------------------------------- texts


@pytest.mark.parametrize("tokenizer", [CHARACTERS, BYTES])
def test_a_row_is_its_text_with_masks(tmp_path, tokenizer):
    found = load(corpus(tmp_path), tmp_path / "run", tokenizer, CONTEXT)
    assert (len(found.train), len(found.heldout)) == (150, 30)
    assert not {row["reference"] for row in found.train} & {row["reference"] for row in found.heldout}
    for row in found.train + found.heldout:
        whole = tokenizer(row["reference"], add_special_tokens=False)["input_ids"]
        assert row["reference"] in TEXTS
        assert (row["ids"][0], row["ids"][-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        masks = [i == tokenizer.mask_token_id for i in row["ids"][1:-1]]
        assert [a for a, mask in zip(row["ids"][1:-1], masks, strict=True) if not mask] == [
            a for a, mask in zip(whole, masks, strict=True) if not mask
        ]
        assert sum(masks) == row["source"].count("_") >= 4
        if tokenizer is CHARACTERS:
            hidden = "".join("_" if mask else a for a, mask in zip(row["reference"], masks, strict=True))
            assert row["source"] == hidden and 0.3 <= sum(masks) / len(masks) + 0.01 and sum(masks) <= 0.71 * len(masks)


def test_masks_depend_on_seed_and_text_alone(tmp_path):
    first = load(corpus(tmp_path), tmp_path / "a", CHARACTERS, CONTEXT)
    mixed = random.Random(1).sample(TEXTS, len(TEXTS))
    second = load(corpus(tmp_path, mixed, num_eval_samples=20), tmp_path / "b", CHARACTERS, CONTEXT)
    known = {row["reference"]: row for row in first.train + first.heldout}
    common = [row for row in second.train if row["reference"] in known]
    assert len(common) > 50 and all(row == known[row["reference"]] for row in common)
    other = replace(CFG, seed=1)
    assert sum(masked_places(40, CFG, text) != masked_places(40, other, text) for text in TEXTS) > 200


def test_a_snapshot_is_read_back(tmp_path):
    cfg = corpus(tmp_path)
    first = load(cfg, tmp_path / "run", CHARACTERS, CONTEXT)
    (tmp_path / "texts.txt").unlink()
    assert load(cfg, tmp_path / "run", CHARACTERS, CONTEXT) == first
    with pytest.raises(ConfigError, match=r"output_dir: .*\(dataset was .* and is now 'else'\)"):
        load(replace(cfg, dataset="else"), tmp_path / "run", CHARACTERS, CONTEXT)


def kind(places: list[int], length: int) -> str:
    run = places == list(range(places[0], places[-1] + 1))
    return "suffix" if run and places[-1] == length - 1 else "span" if run else "random"


def test_patterns_have_their_shares():
    cfg = replace(CFG, span_share=0.5, random_share=0.2, suffix_share=0.3)
    drawn = [kind(masked_places(200, cfg, f"text {i}"), 200) for i in range(3000)]
    for name, share in (("span", 0.5), ("random", 0.2), ("suffix", 0.3)):
        assert abs(drawn.count(name) / 3000 - share) < 0.04  # more than four standard errors; few spans end at the end
    only = replace(CFG, span_share=0.0, random_share=0.0, suffix_share=1.0)
    assert {kind(masked_places(50, only, f"text {i}"), 50) for i in range(300)} == {"suffix"}


def test_how_many_are_masked():
    counts = [len(masked_places(1000, CFG, f"text {i}")) for i in range(2000)]
    assert 300 <= min(counts) < 310 and 690 < max(counts) <= 700 and abs(sum(counts) / 2000 - 500) < 12
    for steps, least in ((0, 1), (1, 1), (6, 6)):
        few = replace(CFG, denoising_steps=steps, mask_low=0.01, mask_high=0.02)
        assert {len(masked_places(8, few, f"text {i}")) for i in range(50)} == {least}
    whole = replace(CFG, mask_low=1.0, mask_high=1.0)
    assert {tuple(masked_places(9, whole, f"text {i}")) for i in range(50)} == {tuple(range(9))}


def test_unfit_texts_are_left_out_and_counted(tmp_path, capsys):
    longest = max(TEXTS[:37], key=len)
    odd = ["The Zebra sees the red dog.", longest.replace("house", "houses")]
    cfg = corpus(tmp_path, [*TEXTS[:37], *odd, "The cat."], num_train_samples=30, num_eval_samples=10)
    found = load(replace(cfg, denoising_steps=9), tmp_path / "run", CHARACTERS, len(longest) + 2)
    assert {row["reference"] for row in found.train + found.heldout} == set(TEXTS[:37])
    counts = ["1 with unknown characters", "1 longer than the model reads", "1 with fewer tokens than denoising_steps"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "not used" in line)
    assert all(count in line for count in counts)


@pytest.mark.parametrize(
    ("tokenizer", "context", "changes", "fix"),
    [
        (character_tokenizer(["dog"]), 64, {}, "no text to train on .*180 with unknown .*pretrained on"),
        (CHARACTERS, 10, {}, "longer than the model reads.*lower max_chars"),
        (CHARACTERS, 64, {"denoising_steps": 60}, "lower denoising_steps, or raise min_chars"),
    ],
)
def test_no_text_fits(tmp_path, tokenizer, context, changes, fix):
    with pytest.raises(ConfigError, match=rf"dataset: .*{fix}"):
        load(corpus(tmp_path, **changes), tmp_path / "run", tokenizer, context)


@pytest.mark.parametrize("name", ["", "./none.txt", "json"])
def test_errors_name_the_setting_of_this_recipe(tmp_path, name):
    with pytest.raises(ConfigError, match=r"^dataset[: ]") as caught:
        load(replace(CFG, dataset=name), tmp_path, CHARACTERS, CONTEXT)
    assert "dataset_name" not in str(caught.value)


# ---------------------------------------------------------------------- a file of templates


def test_templates_of_a_file(tmp_path, capsys):
    lines = [f"The {word} [MASK:{i}] sees a cat.\r" for i, word in enumerate(WORDS, 1)]
    lines += ["", "   ", "[MASK][MASK] house", " [MASK:2] house ", "in the [MASK:3]"]
    found = of_lines(tmp_path, lines)
    rows = found.train + found.heldout
    shown_lines = {f"The {word} {'_' * i} sees a cat." for i, word in enumerate(WORDS, 1)}
    assert {row["source"] for row in rows} == shown_lines | {"__ house", "in the ___"}
    assert (len(found.train), len(found.heldout)) == (6, 2)  # a quarter at most
    assert all(row.keys() == {"ids", "source"} for row in rows)
    assert "duplicate templates that are not used: 1" in capsys.readouterr().out
    assert found.sha256 == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert of_lines(tmp_path, lines[::-1]).heldout == found.heldout
    assert {of_lines(tmp_path, lines, seed=seed).heldout[0]["source"] for seed in range(9)} > {"__ house"}
    assert len(of_lines(tmp_path, lines, num_eval_samples=1).heldout) == 1
    assert [len(part) for part in of_lines(tmp_path, lines[:2])[:2]] == [1, 1]


@pytest.mark.parametrize(
    ("line", "changes", "part"),
    [
        ("The red dog.", {}, "'The red dog.' has no mask"),
        (
            "The [MASK:3] dog.",
            {"steps": 4},
            r"more steps than masks \(denoising_steps 4, masks 3\); lower",
        ),
        ("The [MASK:60] dog.", {}, "71 tokens, but the generator reads 64"),
        ("The [MASK:3] Zebra.", {}, "does not know 'Z'"),
        ("The [MASK:0] dog.", {}, r"\[MASK:0\] needs a whole number"),
        ("The [MASK] dog [MASK:a].", {}, r"\[MASK:a\] needs a whole number"),
        ("The [MASK:] dog.", {}, r"\[MASK:\] needs a whole number"),
        ("The [MASK:99999999999999] dog.", {}, "needs a whole number"),
    ],
)
def test_bad_lines(tmp_path, line, changes, part):
    path = tmp_path / "templates.txt"
    path.write_text(f"The [MASK:9] dog.\n\n{line}\n", encoding="utf-8")
    cfg = replace(CFG, template_file=str(path), denoising_steps=changes.get("steps", 0))
    with pytest.raises(ConfigError, match=rf"^template_file: .*templates\.txt line 3: .*{part}"):
        load(cfg, tmp_path, CHARACTERS, CONTEXT)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "different templates: 0; write at least 2"),
        (b"The [MASK] dog.\nThe [MASK:1] dog.\n", "different templates: 1; write at least 2"),
        (b"The [MASK] dog.\n\xff [MASK]\n", r"line 2.*UTF-8"),
    ],
)
def test_bad_files(tmp_path, content, part):
    with pytest.raises(ConfigError, match=rf"^template_file: .*templates\.txt.*{part}"):
        of_lines(tmp_path, content)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"^template_file: none\.txt cannot be read"):
        load(replace(CFG, template_file="none.txt"), tmp_path, CHARACTERS, CONTEXT)


# ---------------------------------------------------------------------- tokens and text


@pytest.mark.parametrize(
    ("tokenizer", "text", "tokens"),
    [
        (CHARACTERS, "a [MASK:2]t[MASK]", ["[BOS]", "a", " ", "[MASK]", "[MASK]", "t", "[MASK]", "[EOS]"]),
        (CHARACTERS, "[PAD][MASK]", ["[BOS]", *"[PAD]", "[MASK]", "[EOS]"]),
        (CHARACTERS, "e\u0301[MASK]", ["[BOS]", "é", "[MASK]", "[EOS]"]),
        (BYTES, "The [MASK:2] dog", ["<s>", "The", "Ġ", "<mask>", "<mask>", "Ġdog", "</s>"]),
        (BYTES, "<mask>[MASK]", ["<s>", *"<mask>", "<mask>", "</s>"]),
    ],
)
def test_tokens_of_a_template(tokenizer, text, tokens):
    ids = encode_template(text, tokenizer, "here")
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert ids.count(tokenizer.mask_token_id) == text.count("[MASK]") + 2 * text.count(":2")


def test_just_enough_tokens_and_masks():
    assert len(encode_template("[MASK:62]", CHARACTERS, "here", 64, 62)) == 64
    for context, steps in ((63, 62), (64, 63)):
        with pytest.raises(ConfigError, match=r"^here: "):
            encode_template("[MASK:62]", CHARACTERS, "here", context, steps)


def test_a_lone_surrogate_is_an_unknown_character():
    with pytest.raises(ConfigError, match=r"^here: the tokenizer does not know"):
        encode_template("\ud800[MASK]", CHARACTERS, "here")


@pytest.mark.parametrize("tokenizer", [CHARACTERS, BYTES])
@pytest.mark.parametrize("text", ["The  red dog , sees é .", "<mask>[PAD]", " dog "])
def test_text_of_a_fill_is_unchanged(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    padded = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert filled_text(padded, tokenizer) == shown(padded, tokenizer) == text
    assert shown([*padded, tokenizer.mask_token_id], tokenizer) == text + "_"
