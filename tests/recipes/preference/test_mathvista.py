"""Questions shaped like MathVista's, made by hand: what is read, the prompt, scores by type."""

from __future__ import annotations

import io
import json

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from recipes.preference import mathvista
from recipes.preference.data import open_images
from recipes.preference.mathvista import kind_of, load, prompt_of, score_answer
from rl_nmt.errors import ConfigError

CHOICE = {"pid": "1", "question": "How long is it?", "choices": ["6cm", "7cm"], "answer": "7cm"}
CHOICE |= {"question_type": "multi_choice", "answer_type": "text", "unit": None, "precision": None}
COUNT = {"pid": "2", "question": "How many?", "choices": None, "answer": "4", "unit": "g", "precision": None}
COUNT |= {"question_type": "free_form", "answer_type": "integer"}
LENGTH = COUNT | {"pid": "3", "answer": "1.2", "answer_type": "float", "precision": 1.0, "unit": None}
POINT = COUNT | {"pid": "4", "answer": "[0, 5]", "answer_type": "list", "unit": None}
WORD = COUNT | {"pid": "5", "answer": "Moon", "answer_type": "text", "unit": None}
ROWS = [CHOICE, COUNT, LENGTH, POINT, WORD]


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def questions(tmp_path):
    """A Parquet file as the hub has it: `image` is a path that does not exist here, `decoded_image` the picture."""
    picture = {"bytes": png("red"), "path": "1.png"}
    rows = [row | {"image": f"images/{row['pid']}.jpg", "decoded_image": picture} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def test_what_is_read(tmp_path, questions):
    rows = load(str(questions), tmp_path / "run")
    assert [row["pid"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert rows[0]["choices"] == ["6cm", "7cm"] and "choices" not in rows[1] and rows[2]["precision"] == 1
    (image,) = open_images(rows[0], tmp_path / "run" / "mathvista")
    assert image.size == (5, 4) and image.getpixel((0, 0)) == (255, 0, 0)
    assert [row["source"] for row in rows] == [prompt_of(row) for row in ROWS]


def test_a_resumed_run_reads_the_same_without_the_file(tmp_path, questions):
    first = load(str(questions), tmp_path / "run", 2)
    assert len(first) == 2
    questions.unlink()
    assert load(str(questions), tmp_path / "run", 2) == first
    with pytest.raises(ConfigError, match="limit was 2 and is now 3"):
        load(str(questions), tmp_path / "run", 3)


@pytest.mark.parametrize("keyed", [True, False])
def test_json_with_paths(tmp_path, keyed):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png("blue"))
    rows = [row | {"image": "images/1.png"} for row in ROWS]
    whole = {row["pid"]: row for row in rows} if keyed else rows
    (tmp_path / "m.json").write_text(json.dumps(whole, indent=1))
    found = load(str(tmp_path / "m.json"), tmp_path / "run", 4)
    assert [row["pid"] for row in found] == ["1", "2", "3", "4"]
    assert open_images(found[3], tmp_path / "run" / "mathvista")[0].getpixel((0, 0)) == (0, 0, 255)
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(ConfigError, match=r"dataset\.mathvista_file: .*row 1: image images/1\.png cannot be read"):
        load(str(tmp_path / "m.json"), tmp_path / "other")


def test_questions_that_cannot_be_scored(tmp_path, capsys):
    broken = [
        COUNT | {"pid": "6", "answer": ""},
        CHOICE | {"pid": "7", "answer": "8cm"},
        COUNT | {"pid": "8", "answer_type": "essay"},
        COUNT | {"pid": "9", "answer": "many"},
        {"pid": "10", "question": "Why?"},
    ]
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps(row | {"image": None}) + "\n" for row in [*broken, COUNT]))
    assert [row["pid"] for row in load(str(file), tmp_path / "run")] == ["2"]
    warning = capsys.readouterr().err
    assert "dataset.mathvista_file: questions that cannot be scored: 5, e.g. " in warning
    assert "line 1, pid 6, has no answer" in warning
    parts = (
        "has no answer",
        "its own answer '8cm'",
        "answer_type essay",
        "own answer 'many'",
        "has no answer, question",
    )
    for row, part in zip(broken, parts, strict=True):
        file.write_text(json.dumps(row) + "\n")
        with pytest.raises(ConfigError, match=rf"dataset\.mathvista_file: .*no question to score .*{part}"):
            load(str(file), tmp_path / "other")


def test_prompts():
    assert prompt_of(CHOICE) == "How long is it?\n(A) 6cm\n(B) 7cm\nAnswer with the letter of the right choice only."
    assert prompt_of(COUNT) == "How many? (unit: g)\nAnswer with a whole number only."
    assert prompt_of(LENGTH).endswith("with 1 digit after the point.")
    assert prompt_of(LENGTH | {"answer": "1.25", "precision": None}).endswith("with 2 digits after the point.")
    assert prompt_of(POINT).endswith("such as [1, 2].") and prompt_of(WORD).endswith("a short phrase only.")


@pytest.mark.parametrize(
    ("row", "kind", "right", "wrong"),
    [
        (CHOICE, "choice", ["B", "(b) 7cm", "7CM", "The answer is B."], ["A", "", "7", "Perhaps B"]),
        (COUNT, "integer", ["4", "4.0 g", "The answer is 4."], ["", "4 or 5", "4.4", "four"]),
        (LENGTH, "float", ["1.2", "1.24", "1.15 m"], ["1.3", "", "1"]),
        (POINT, "list", ["[0, 5]", "It is [0.0, 5]."], ["[5, 0]", "0, 5", ""]),
        (WORD, "text", ["moon", "Moon."], ["the moon", ""]),
    ],
)
def test_scores_by_type(row, kind, right, wrong):
    assert kind_of(row) == kind
    assert [score_answer(answer, row) for answer in right] == [1.0] * len(right)
    assert [score_answer(answer, row) for answer in wrong] == [0.0] * len(wrong)


def test_shares_have_an_interval_and_a_table():
    found = mathvista.share([1.0] * 3 + [0.0])
    assert found["n"] == 4 and found["value"] == 0.75 and 0 <= found["low"] < 0.75 < found["high"] <= 1
    assert mathvista.share([1.0, 1.0]) == {"n": 2, "value": 1.0, "low": 1.0, "high": 1.0}
    text = mathvista.table({"before": {"all": mathvista.share([0.0])}, "after": {"all": mathvista.share([1.0])}})
    assert "0.000 [0.000, 0.000]" in text and "1.000 [1.000, 1.000]" in text
