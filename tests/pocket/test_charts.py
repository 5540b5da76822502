"""The world of the preference recipe: pictures, twin questions, and the formats of its Gemma 3 with a vision tower."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from pocket.charts import build, draw, questions
from pocket.charts.draw import CELL, COLOURS, SIDE, Scene
from pocket.charts.questions import VALUES, Row

BARS = Scene(("blue", "gold", "lime", "pink"), (2, 4, 1, 3))
SHAPES = Scene(("cyan", "blue", "pink", "gold"), ("plus", "disc", "kite", "ring"))
BLUE, PINK, GOLD, LIME = (COLOURS[name] for name in ("blue", "pink", "gold", "lime"))
GROUND = (255, 255, 255)


def middle(picture, down, right):
    """The colour in the middle of a cell."""
    return tuple(picture[down * CELL + CELL // 2, right * CELL + CELL // 2])


# ------------------------------------------------------------------ pictures


def test_a_bar_fills_as_many_cells_as_it_is_high():
    picture = draw.draw(BARS)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    wanted = [
        [GROUND, GOLD, GROUND, GROUND],
        [GROUND, GOLD, GROUND, PINK],
        [BLUE, GOLD, GROUND, PINK],
        [BLUE, GOLD, LIME, PINK],
    ]
    assert [[middle(picture, down, right) for right in range(4)] for down in range(4)] == wanted


def test_a_shape_is_in_its_quarter():
    picture = draw.draw(SHAPES)
    centres = [tuple(picture[down, right]) for down in (12, 36) for right in (12, 36)]
    assert centres == [COLOURS["cyan"], BLUE, PINK, GROUND]  # a ring is hollow
    assert tuple(picture[36, 36 + 9]) == GOLD and tuple(picture[0, 0]) == GROUND
    areas = {shape: int(draw.mask(shape).sum()) for shape in draw.SHAPES}
    assert all(60 < area < 400 for area in areas.values()) and len(set(areas.values())) == 4


# ------------------------------------------------------------------ rows


@pytest.fixture(scope="module")
def parts():
    return build.parts(0, build.Sizes(warm_up=2000))


def read(row: Row) -> set[str]:
    """The values that answer the question, read off the picture by its pixels, or off the prompt."""
    if row.kind == "numbers":
        low, high = sorted(row.numbers.split(" or "))
        return {high if row.about == "larger" else low}
    names = {colour: name for name, colour in COLOURS.items()}
    picture = draw.draw(row.scene)
    if row.kind == "tallest":
        return {names[colour] for colour in (middle(picture, 0, i) for i in range(4)) if colour in names}
    if row.kind == "height":
        heights = {
            names[middle(picture, 3, i)]: sum(middle(picture, down, i) != GROUND for down in range(4)) for i in range(4)
        }
        return {str(heights[row.about])}
    found = dict(zip(row.scene.marks, row.scene.colours, strict=True))
    return {found[row.about]} if row.kind == "colour" else {shape for shape, name in found.items() if name == row.about}


def test_right_answers_are_what_the_pictures_show(parts):
    for row in (row for part in parts for row in part):
        assert read(row) == {row.right}, row
        assert {row.right, row.wrong} <= set(VALUES[row.kind]) and row.right != row.wrong


def test_twins_exchange_right_and_wrong(parts):
    for part in parts:
        for one, other in zip(part[::2], part[1::2], strict=True):
            assert (one.right, one.wrong, one.numbers) == (other.wrong, other.right, other.numbers)
            if one.scene:
                assert (one.prompt, one.chosen, one.rejected) == (other.prompt, other.rejected, other.chosen)
                assert one.scene != other.scene
            else:
                assert one.prompt.replace("larger", "smaller") == other.prompt
                assert one.chosen.replace("larger", "smaller") == other.rejected


def test_texts_tell_nothing_about_the_right_answer(parts):
    """Each question and answer about pictures is right as often as wrong."""
    for rows in parts[:2]:
        right = Counter((row.prompt, row.chosen) for row in rows if row.scene)
        wrong = Counter((row.prompt, row.rejected) for row in rows if row.scene)
        assert right == wrong and sum(right.values()) == 0.9 * len(rows)


def test_the_wrong_colour_or_shape_is_in_the_picture_too(parts):
    for row in parts[0]:
        if row.kind in ("tallest", "colour"):
            assert row.wrong in row.scene.colours
        if row.kind == "shape":
            assert sorted(row.scene.marks) == sorted(draw.SHAPES) and row.about in row.scene.colours


def test_parts_share_no_picture_and_rows_repeat_none(parts):
    shown = [[draw.draw(row.scene).tobytes() for row in part if row.scene] for part in parts]
    assert len(set(shown[0])) == 540 and len(set(shown[1])) == 360
    assert not set(shown[0]) & set(shown[1]) and not set(shown[2]) & {*shown[0], *shown[1]}
    numbers = [{row.numbers for row in part if not row.scene} for part in parts]
    assert [len(found) for found in numbers[:2]] == [30, 20]
    assert not numbers[0] & numbers[1] and not numbers[2] & (numbers[0] | numbers[1])


def test_kinds_take_turns(parts):
    assert Counter(row.kind for row in parts[0]) == {
        "tallest": 150,
        "height": 120,
        "shape": 150,
        "colour": 120,
        "numbers": 60,
    }


def test_a_seed_gives_the_same_rows():
    small = [build.parts(seed, build.SMALL) for seed in (3, 3, 4)]
    assert small[0] == small[1] != small[2]


# ------------------------------------------------------------------ the builder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("pocket") / "charts-seed0", seed=0, sizes=build.SMALL)


@pytest.fixture(scope="module")
def loaded(world):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = world / "policy"
    return AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder).eval()


def test_a_second_build_does_nothing_and_other_sizes_or_code_build_again(world, tmp_path, monkeypatch):
    stamp = (world / "build.json").stat().st_mtime_ns
    assert build.build(world, seed=0, sizes=build.SMALL) == world
    assert (world / "build.json").stat().st_mtime_ns == stamp
    keys = {build.key(0, build.SMALL), build.key(1, build.SMALL), build.key(0, build.Sizes())}
    (tmp_path / "draw.py").write_text("CELL = 13\n")
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert len(keys | {build.key(0, build.SMALL)}) == 4
    assert not world.with_name("charts-seed0.part").exists()


def test_the_same_seed_builds_the_same_files(world, tmp_path):
    again = build.build(tmp_path / "charts-seed0", seed=0, sizes=build.SMALL)
    for file in ("rows.jsonl", "heldout.jsonl", "images/rows-0000.png", "policy/model.safetensors"):
        assert (again / file).read_bytes() == (world / file).read_bytes(), file


def test_the_files_hold_the_rows_and_their_pictures(world):
    from PIL import Image

    for name, rows in zip(("rows", "heldout"), build.parts(0, build.SMALL), strict=False):
        lines = [json.loads(line) for line in (world / f"{name}.jsonl").read_text().splitlines()]
        assert [(line["prompt"], line["chosen"], line["rejected"]) for line in lines] == [
            (row.prompt, row.chosen, row.rejected) for row in rows
        ]
        for line, row in zip(lines, rows, strict=True):
            assert ("image" in line) == (row.scene is not None)
            if row.scene:
                assert (np.asarray(Image.open(world / line["image"])) == draw.draw(row.scene)).all()


def test_answers_of_a_pair_have_equal_length_in_characters_and_tokens(loaded):
    tokenizer = loaded[0].tokenizer
    for kind, values in VALUES.items():
        answers = [Row(kind, value, "", about="pink").chosen for value in values]
        assert len({len(answer) for answer in answers}) == 1
        ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        assert len({len(one) for one in ids}) == 1 and all(tokenizer.unk_token_id not in one for one in ids)
        assert [sum(a != b for a, b in zip(ids[0], one, strict=True)) for one in ids] == [0] + [1] * (len(ids) - 1)


def test_the_policy_loads_as_the_published_one_does(world, loaded):
    from rl_nmt.models.policy import load_tokenizer, stop_ids

    processor, model = loaded
    assert type(processor).__name__ == "Gemma3Processor" and type(model).__name__ == "Gemma3ForConditionalGeneration"
    tokenizer = load_tokenizer(str(world / "policy"), families=("gemma3",))
    assert stop_ids(tokenizer) == tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<eos>"])
    assert (tokenizer.boi_token, tokenizer.eoi_token, tokenizer.image_token) == (
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    )
    assert (
        model.config.image_token_id == tokenizer.image_token_id
        and len(tokenizer) == model.config.text_config.vocab_size
    )


def test_the_chat_template_writes_images_and_texts(loaded):
    parts = [{"type": "image"}, {"type": "text", "text": " Which shape is pink? "}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A ring."}]
    wanted = "<start_of_turn>user\n{}Which shape is pink?<end_of_turn>\n<start_of_turn>model\n"
    for source in (loaded[0], loaded[0].tokenizer):
        written = source.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        assert written == "<bos>" + wanted.format("<start_of_image>")
        written = source.apply_chat_template(messages, tokenize=False)
        assert written == "<bos>" + wanted.format("<start_of_image>") + "A ring.<end_of_turn>\n"


def test_the_warm_up_reads_what_the_processor_gives(loaded):
    import torch
    from PIL import Image

    from pocket.charts import policy

    processor, model = loaded
    row = Row("shape", "kite", "ring", SHAPES, "pink")
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row.prompt}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
    wanted = processor(
        text=[prompt], images=[[Image.fromarray(draw.draw(SHAPES))]], add_special_tokens=False, return_tensors="pt"
    )
    examples = policy.encode(processor, [row], [row.right])
    inputs, answers = policy.batch_of(model, examples, [SHAPES])
    asked = wanted["input_ids"].shape[1]
    assert torch.equal(inputs["input_ids"][:, :asked], wanted["input_ids"])
    assert torch.equal(inputs["token_type_ids"][:, :asked], wanted["token_type_ids"])
    assert torch.allclose(inputs["pixel_values"], wanted["pixel_values"], atol=1e-5)
    assert processor.decode(inputs["input_ids"][0, 1:][answers[0]]) == "The pink shape is a kite.<end_of_turn>\n"
    assert wanted["token_type_ids"].sum() == 16 and wanted["pixel_values"].shape == (1, 3, SIDE, SIDE)


def test_two_pictures_give_the_same_text_different_logits(loaded):
    from pocket.charts import policy

    processor, model = loaded
    row = Row("tallest", "gold", "blue", BARS)
    example = policy.encode(processor, [row], [row.right])
    other = Scene(("blue", "gold", "lime", "pink"), (4, 2, 1, 3))
    first, second, again = (float(policy.log_probs(model, example, [scene])) for scene in (BARS, other, BARS))
    assert first == again and abs(first - second) > 1e-6


def test_log_probs_are_those_of_the_answer(loaded):
    import torch

    from pocket.charts import policy

    processor, model = loaded
    rows = [Row("tallest", "gold", "blue", BARS), Row("numbers", "7", "3", about="larger", numbers="3 or 7")]
    examples = policy.encode(processor, rows, [row.right for row in rows])
    found = policy.log_probs(model, examples, [BARS])  # one batch of two lengths, one picture
    for value, (prompt, answer), scene in zip(found, examples, ([BARS], []), strict=True):
        wanted = 0.0
        for i in range(len(answer)):  # one token after the other
            inputs, _ = policy.batch_of(model, [(prompt + answer[:i], [])], scene)
            with torch.no_grad():
                wanted += float(model(**inputs).logits[0, -1].log_softmax(-1)[answer[i]])
        assert float(value) == pytest.approx(wanted, abs=1e-3)


def test_cells_by_hand():
    from pocket.charts.policy import cells

    colours, marks = cells(BARS)  # blue 1, pink 2, gold 3, cyan 4, lime 5
    assert colours == (0, 3, 0, 0, 0, 3, 0, 2, 1, 3, 0, 2, 1, 3, 5, 2)
    assert marks == (2, 4, 1, 3) * 4
    colours, marks = cells(SHAPES)  # disc 5, ring 6, kite 7, plus 8
    assert colours == (4, 4, 1, 1, 4, 4, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3)
    assert marks == (8, 8, 5, 5, 8, 8, 5, 5, 7, 7, 6, 6, 7, 7, 6, 6)


def test_the_check_has_a_number_for_every_kind(world):
    check = json.loads((world / "build.json").read_text())["check"]
    assert set(check["policy"]) == {"all", *VALUES, "shuffled", "well formed"}
    assert all(0 <= value <= 1 for value in check["policy"].values())


def test_nothing_but_the_policy_imports_torch():
    import subprocess
    import sys

    code = "import sys; from pocket.charts import build, draw, questions; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
    assert questions.TEXT_ONLY == 10


@pytest.mark.slow
def test_the_policy_of_the_recipe_reads_pictures_in_part(tmp_path):
    build.build(tmp_path / "charts-seed0")
    check = json.loads((tmp_path / "charts-seed0" / "build.json").read_text())["check"]["policy"]
    assert check["well formed"] >= 0.98 and 0.6 <= check["all"] <= 0.85 and 0.35 <= check["shuffled"] <= 0.65
