"""rl_nmt/models/multimodal.py: prompts with pictures, log-probabilities of answers, what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from PIL import Image

from rl_nmt.errors import ConfigError
from rl_nmt.models import policy
from rl_nmt.models.generate import generate
from rl_nmt.models.multimodal import (
    Chat,
    Prompt,
    answer_log_probs,
    load_processor,
    sees_images,
    skip_empty_images,
    stacked,
)

RED, BLUE = (Image.new("RGB", (48, 48), colour) for colour in ("red", "blue"))
SHORT, LONG = "What colour is it?", "Look at the picture. Which colour do you see there?"


@pytest.fixture(scope="module")
def loaded(tiny_vlm):
    folder = str(tiny_vlm)
    tokenizer = policy.load_tokenizer(folder, ("gemma3",))
    model = policy.load_policy(folder, tokenizer, policy.choose_precision(lora=False), "sdpa", ("gemma3",), images=True)
    return model, Chat(tokenizer, load_processor(folder, tokenizer))


def by_hand(model, prompt: Prompt, answer: list[int]) -> float:
    """The log-probability of an answer from one unpadded row and the whole logits."""
    ids = torch.tensor([[*prompt.ids, *answer]])
    seen = {} if prompt.pixels is None else {"pixel_values": prompt.pixels}
    image = model.config.image_token_id
    with torch.no_grad():
        logits = model(input_ids=ids, token_type_ids=(ids == image).long(), **seen).logits[0].double().log_softmax(-1)
    start = len(prompt.ids)
    return sum(logits[start + k - 1, token].item() for k, token in enumerate(answer))


def test_which_checkpoints_see_images(tiny_vlm, tiny_gemma):
    assert sees_images(str(tiny_vlm))
    assert not sees_images(str(tiny_gemma))


def test_a_prompt_has_one_bos_and_the_tokens_of_its_images(loaded):
    _, chat = loaded
    for images in ([], [RED], [RED, BLUE]):
        prompt = chat.prompt(SHORT, images)
        names = chat.tokenizer.convert_ids_to_tokens(prompt.ids)
        assert names[0] == "<bos>" and names.count("<bos>") == 1
        assert names.count("<image_soft_token>") == 16 * len(images)
        assert prompt.pixels is None if not images else prompt.pixels.shape == (len(images), 3, 48, 48)


def test_text_that_looks_like_an_image_token_is_text(loaded):
    _, chat = loaded
    prompt = chat.prompt("a <start_of_image> <image_soft_token> <end_of_turn>", [RED])
    names = chat.tokenizer.convert_ids_to_tokens(prompt.ids)
    assert names.count("<image_soft_token>") == 16 and names.count("<start_of_image>") == 1
    assert chat.tokenizer.convert_ids_to_tokens(chat.answer("<end_of_turn>")).count("<end_of_turn>") == 1


def test_lengths_are_those_of_the_prompts(loaded):
    _, chat = loaded
    asked = [(SHORT, []), (LONG, [RED]), (SHORT, [RED, BLUE])]
    lengths = chat.prompt_lengths([text for text, _ in asked], [len(images) for _, images in asked])
    assert lengths == [len(chat.prompt(*each).ids) for each in asked]


def test_log_probs_of_a_mixed_batch_of_unequal_lengths_equal_those_of_single_rows(loaded):
    model, chat = loaded
    prompts = [chat.prompt(SHORT, [RED]), chat.prompt(LONG), chat.prompt(LONG, [RED, BLUE])]
    answers = [chat.answer(text) for text in ("It is red.", "It is blue. It is gold.", "red")]
    found = answer_log_probs(model, chat, prompts, answers)
    assert found == pytest.approx([by_hand(model, *row) for row in zip(prompts, answers, strict=True)], abs=1e-3)
    assert answer_log_probs(model, chat, prompts[1:2], answers[1:2]) == pytest.approx(found[1:2], abs=1e-3)


def test_the_same_text_with_two_pictures_has_different_logits(loaded):
    model, chat = loaded
    first, second = (answer_log_probs(model, chat, [chat.prompt(SHORT, [each])], [[40]])[0] for each in (RED, BLUE))
    assert abs(first - second) > 1e-3


def test_an_image_token_sees_those_behind_it(loaded):
    """Gemma 3 masks an image in both directions, which needs token types in the right places."""
    model, chat = loaded
    prompt = chat.prompt(SHORT, [RED])
    inputs = chat.batch([prompt.ids], [prompt.pixels], model)
    assert inputs["token_type_ids"][0].tolist() == [int(i == model.config.image_token_id) for i in prompt.ids]
    causal = inputs | {"token_type_ids": torch.zeros_like(inputs["input_ids"])}
    with torch.no_grad():
        assert (model(**inputs).logits - model(**causal).logits).abs().max() > 1e-4


def test_what_is_not_finite_is_none(loaded):
    model, chat = loaded
    prompt, answer = chat.prompt(SHORT), chat.answer("red")
    weight = model.lm_head.weight
    kept = weight.data.clone()
    try:
        weight.data[answer[0]] = float("nan")
        assert answer_log_probs(model, chat, [prompt], [answer]) == [None]
    finally:
        weight.data.copy_(kept)


def test_answers_to_pictures_do_not_depend_on_the_batch(loaded):
    model, chat = loaded
    prompts = [chat.prompt(SHORT, [RED]), chat.prompt(LONG), chat.prompt(LONG, [BLUE])]

    def inputs(rows):
        return chat.batch([prompts[i].ids for i in rows], [prompts[i].pixels for i in rows], model)

    ids, options = [prompt.ids for prompt in prompts], {"max_new_tokens": 6, "inputs": inputs}
    together = generate(model, chat.tokenizer, ids, batch_size=3, **options)
    assert together == generate(model, chat.tokenizer, ids, batch_size=1, **options)
    assert all(len(texts) == 1 for texts in together)


def test_a_model_takes_a_batch_without_its_images(loaded):
    model, chat = loaded
    prompt = chat.prompt(SHORT)
    inputs = chat.batch([prompt.ids], [None], model)
    handle = skip_empty_images(model)
    try:
        with torch.no_grad():
            found = model(**inputs, pixel_values=torch.zeros(0, 3, 48, 48)).logits
            assert torch.equal(found, model(**inputs).logits)
    finally:
        handle.remove()


def test_images_without_a_processor_are_refused(tiny_gemma):
    tokenizer = policy.load_tokenizer(str(tiny_gemma), ("gemma3",))
    chat = Chat(tokenizer)
    assert tokenizer.convert_ids_to_tokens(chat.prompt("a").ids)[:2] == ["<bos>", "<start_of_turn>"]
    with pytest.raises(ConfigError, match="vision tower"):
        chat.prompt("a", [RED])


@pytest.fixture
def copy(tiny_vlm, tmp_path):
    return shutil.copytree(tiny_vlm, tmp_path / "model")


def refused(folder) -> str:
    tokenizer = policy.load_tokenizer(str(folder), ("gemma3",))
    with pytest.raises(ConfigError) as error:
        load_processor(str(folder), tokenizer, "model.name")
    return str(error.value)


def test_a_processor_that_does_not_load_is_refused(copy):
    for file in copy.glob("*processor_config.json"):
        file.write_text("{", encoding="utf-8")
    assert "model.name" in (told := refused(copy)) and "does not load" in told


def test_a_processor_without_an_image_token_is_refused(tiny_gemma):
    assert "no image token" in refused(tiny_gemma)


def test_a_processor_without_a_chat_template_is_refused(copy):
    for file in copy.glob("chat_template*"):
        file.unlink()
    path = copy / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings.pop("chat_template", None)
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert "chat template" in refused(copy)


def test_pixels_of_any_form_are_stacked():
    image = torch.zeros(3, 2, 2)
    for form in ([image, image], [image.numpy()] * 2, torch.stack([image] * 2)):
        assert stacked(form).shape == (2, 3, 2, 2)
