"""The masked-diffusion GPT: what it sees, its files, its character tokenizer, its loss."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusion import ROWS, template, templates, tiny_generator, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from trl.trainer.utils import create_model_from_path

from rl_nmt.errors import ConfigError
from rl_nmt.models.masked_diffusion import (
    banned_ids,
    character_tokenizer,
    diffusion_loss,
    load_generator,
    padded,
)
from rl_nmt.text.templates import filled_text, text_ids


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny_generator()


def saved(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# --- the model ----------------------------------------------------------------------------------------


def test_every_position_sees_later_and_earlier_tokens(model, tokenizer):
    first, other = (model(input_ids=torch.tensor([template(tokenizer, text)])).logits for text in ("abcd", "abce"))
    assert (first - other).abs().amax((0, 2)).min() > 1e-4  # at every position
    assert first.softmax(-1).amax() > 0.3  # not uniform


def test_order_and_distance_matter_and_the_place_in_the_row_does_not(model):
    def last(ids):
        return model(input_ids=torch.tensor([ids])).logits[0, -1]

    assert (last([7, 8, 9]) - last([8, 7, 9])).abs().max() > 1e-3
    assert (last([7, 7, 8, 9]) - last([7, 8, 7, 9])).abs().max() > 1e-3
    unseen = torch.tensor([[1, 1, 7, 8, 9]]), torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.allclose(model(*unseen).logits[0, -1], last([7, 8, 9]), atol=1e-5)


def test_a_longer_input_than_the_model_is_made_for_is_refused(model):
    assert model(input_ids=torch.zeros(1, 32, dtype=torch.long)).logits.shape == (1, 32, 15)
    with pytest.raises(ValueError, match="33 tokens"):
        model(input_ids=torch.zeros(1, 33, dtype=torch.long))


def test_padding_changes_no_logit(model, tokenizer):
    ids, attention = templates(tokenizer)
    logits = model(input_ids=ids, attention_mask=attention).logits
    for row, text in enumerate(ROWS):
        alone = model(input_ids=torch.tensor([template(tokenizer, text)])).logits[0]
        assert torch.allclose(logits[row, : len(alone)], alone, atol=1e-5)


def test_keep_gives_the_logits_of_these_positions(model, tokenizer):
    ids, attention = templates(tokenizer)
    keep = ids == tokenizer.mask_token_id
    whole = model(input_ids=ids, attention_mask=attention).logits
    assert torch.allclose(model(input_ids=ids, attention_mask=attention, keep=keep).logits, whole[keep], atol=1e-6)


def test_gradient_checkpointing_changes_no_gradient(tokenizer):
    ids, attention = templates(tokenizer)
    found = []
    for on in (False, True):
        model = tiny_generator().train()
        if on:
            model.gradient_checkpointing_enable()
            model.blocks[0].forward = counted = Counted(model.blocks[0].forward)
        model(input_ids=ids, attention_mask=attention).logits.square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert counted.calls == 2  # once more in the backward pass
    assert torch.allclose(*found, atol=1e-6) and found[0].abs().max() > 0


class Counted:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


# --- its files ----------------------------------------------------------------------------------------


def test_texts_of_training_are_those_of_evaluation(tmp_path):
    """TRL decodes by the tokenizer's own setting, which is on for BERT's."""
    words = tiny_tokenizer(" .abc")
    words.clean_up_tokenization_spaces = True
    _, loaded = load_generator(saved(tmp_path, tiny_generator(tokenizer=words), words))
    ids = text_ids(loaded, ["a . b"])
    assert words.batch_decode(ids, skip_special_tokens=True) == ["a. b"]
    assert loaded.batch_decode(ids, skip_special_tokens=True) == [filled_text(ids[0], loaded)] == ["a . b"]


def test_every_loader_returns_the_same_bits(tmp_path, model, tokenizer):
    folder = saved(tmp_path, model, tokenizer)
    before = torch.get_rng_state()
    own, words = load_generator(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert words.get_vocab() == tokenizer.get_vocab() and banned_ids(words) == banned_ids(tokenizer) == [0, 1, 2, 3, 4]
    ids, attention = templates(tokenizer)
    for loaded in (own, AutoModelForCausalLM.from_pretrained(folder), create_model_from_path(folder)):
        assert type(loaded) is type(model) and not loaded.training
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
        assert torch.equal(*(each(input_ids=ids, attention_mask=attention).logits for each in (loaded, model)))
    assert [own.config.pad_token_id, own.config.bos_token_id, own.config.eos_token_id] == [1, 3, 4]


def test_an_initialised_model_is_near_uniform(tokenizer):
    ids, attention = templates(tokenizer)
    model = tiny_generator(initializer_range=0.02)
    assert model(input_ids=ids, attention_mask=attention).logits.abs().max() < 1
    assert tiny_generator(initializer_range=0).lm_head.weight.std().item() == pytest.approx(0.02 * 24**0.5, rel=0.1)
    assert model.norm.weight.eq(1).all() and model.blocks[0].qkv.bias.eq(0).all()


def test_a_causal_model_is_refused(tmp_path, tokenizer):
    causal = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ConfigError, match=r"^judge_x: .* is a 'gpt2' model.*causal[^\n]*$"):
        load_generator(saved(tmp_path, causal, tokenizer), "judge_x")


def test_missing_and_wrong_weights_are_refused(tmp_path, model, tokenizer):
    folder = saved(tmp_path, model, tokenizer)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if k != "lm_head.weight"}, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights are missing or unknown, e\.g\. lm_head"):
        load_generator(folder)
    save_file({**weights, "embed_positions.weight": torch.ones(5)}, path, {"format": "pt"})  # of another architecture
    with pytest.raises(ConfigError, match="1 weights are missing or unknown"):
        load_generator(folder)
    save_file({**weights, "norm.weight": torch.ones(5)}, path, {"format": "pt"})
    with pytest.raises(ConfigError, match="generator_checkpoint"):
        load_generator(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="does not load"):
        load_generator(folder)
    path.unlink()
    with pytest.raises(ConfigError, match="does not load"):
        load_generator(folder)
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_generator(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask_token": None}, "no mask token"),
        ({"eos_token": None}, "no eos token"),
        ({"mask_token": "[PAD]"}, "mask token as (pad|bos|unk)"),
        ({"mask_token": "[BOS]"}, "mask token as (pad|bos|unk)"),
        ({"unk_token": "[MASK]"}, "mask token as (pad|bos|unk)"),
    ],
)
def test_a_tokenizer_without_its_own_tokens_is_refused(tmp_path, model, change, match):
    tokenizer = tiny_tokenizer()
    for name, token in change.items():
        setattr(tokenizer, name, token)
    with pytest.raises(ConfigError, match=match):
        load_generator(saved(tmp_path, model, tokenizer))


@pytest.mark.parametrize("letters", ["abcdefgh .xyz", "abc"])
def test_a_tokenizer_of_another_size_is_refused(tmp_path, model, letters):
    with pytest.raises(ConfigError, match=r"tokens and the model 15"):
        load_generator(saved(tmp_path, model, tiny_tokenizer(letters)))


# --- the character tokenizer --------------------------------------------------------------------------

TEXTS = ["two\n\nlines\tand  spaces ", "🙂👩\u200d🔬", "தமிழ் நாடு", " [MASK] [EOS]!"]


def test_characters_come_back_also_from_a_folder(tmp_path):
    made = character_tokenizer(TEXTS)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        for text, ids in zip(TEXTS, text_ids(tokenizer, TEXTS), strict=True):
            assert len(ids) == len(text) + 2 and (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            assert not set(ids[1:-1]) & set(banned_ids(tokenizer))  # "[MASK]" written out is six letters
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert text_ids(tokenizer, ["!ж!"])[0][2] == tokenizer.unk_token_id
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids(["[MASK]", "!"])) == "[MASK]!"
        assert tokenizer.model_max_length == 1024
    assert text_ids(made, []) == [] and text_ids(made, [""]) == [[made.bos_token_id, made.eos_token_id]]


def test_the_vocabulary_depends_on_no_order():
    assert character_tokenizer(["ba", "c"]).get_vocab() == character_tokenizer(iter(["c", "ab", "a"])).get_vocab()


# --- the loss -----------------------------------------------------------------------------------------


def batch(tokenizer, texts):
    ids = text_ids(tokenizer, texts)
    return padded(ids, tokenizer.pad_token_id), padded([[1] * len(row) for row in ids], 0)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Seen(torch.nn.Module):
    """Pass calls to a model and keep their inputs."""

    def __init__(self, model):
        super().__init__()
        self.model, self.calls = model, []

    def forward(self, **inputs):
        self.calls.append(inputs)
        return self.model(**inputs)


def test_the_loss_by_hand(model, tokenizer):
    ids, attention = batch(tokenizer, ["abcd", "hi"])  # i is unknown
    t, noise = (lambda g: (torch.rand(2, 1, generator=g), torch.rand(2, 6, generator=g)))(seeded(5))
    expected, counted = 0.0, 0
    for row, places in ((0, range(1, 5)), (1, [1])):  # never bos, eos, padding, unknown
        share = 1e-3 + (1 - 1e-3) * t[row, 0].item()
        masked = [i for i in places if noise[row, i] < share]
        hidden = ids[row : row + 1].clone()
        hidden[0, masked] = tokenizer.mask_token_id
        logits = model(input_ids=hidden, attention_mask=attention[row : row + 1]).logits[0]
        for i in masked:
            expected += (logits[i].logsumexp(-1) - logits[i, ids[row, i]]).item() / share
        counted += len(places)
    assert expected > 0
    assert diffusion_loss(model, ids, attention, tokenizer, seeded(5)).item() == pytest.approx(expected / counted)


def test_only_letters_are_masked_and_all_of_them_at_times(model, tokenizer):
    ids, attention = batch(tokenizer, ["abcd", "hi", "."])
    seen, generator = Seen(model), seeded(0)
    for _ in range(60):
        diffusion_loss(seen, ids, attention, tokenizer, generator)
    ever = torch.stack([call["keep"] for call in seen.calls]).any(0)
    letters = [[0, 1, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]]
    assert ever.int().tolist() == letters
    for call in seen.calls:
        assert torch.equal(call["input_ids"], ids.masked_fill(call["keep"], tokenizer.mask_token_id))


def test_padding_changes_no_loss(model, tokenizer):
    ids, attention = batch(tokenizer, ["abcdef"])
    wide, seen = (torch.nn.functional.pad(each, (0, 3), value=v) for each, v in ((ids, 1), (attention, 0)))
    noise = torch.rand(1, 11, generator=seeded(1))
    with pytest.MonkeyPatch.context() as patch:  # the same noise for both widths
        patch.setattr(torch, "rand", lambda *size, **_: noise[:, : size[-1] if len(size) > 1 else size[0][-1]])
        narrow, padded_loss = (diffusion_loss(model, *each, tokenizer) for each in ((ids, attention), (wide, seen)))
    assert narrow > 0 and padded_loss.item() == pytest.approx(narrow.item(), rel=1e-5)


def test_a_uniform_model_has_a_loss_of_log_v(tokenizer):
    model = tiny_generator()
    torch.nn.init.zeros_(model.lm_head.weight)
    ids, attention = batch(tokenizer, ["abcdefgh"] * 500 + ["ab."] * 500)
    with torch.no_grad():
        losses = [diffusion_loss(model, ids, attention, tokenizer, seeded(seed)).item() for seed in range(4)]
    assert sum(losses) / 4 == pytest.approx(math.log(15), rel=0.03)


def test_the_loss_falls(tokenizer):
    model, generator = tiny_generator(initializer_range=0.02).train(), seeded(0)
    ids, attention = batch(tokenizer, ["abcdefgh", "hgfedcba"] * 8)
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(150):
        loss = diffusion_loss(model, ids, attention, tokenizer, generator)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])


def test_without_a_masked_token_the_loss_is_0_and_has_a_gradient(tokenizer):
    model = tiny_generator()
    loss = diffusion_loss(model, *batch(tokenizer, ["", "ж"]), tokenizer)
    loss.backward()
    assert loss.item() == 0 and all(p.grad is not None and not p.grad.any() for p in model.parameters())
