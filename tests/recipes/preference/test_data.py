"""Preference pairs: every source of rows and pictures, refusals with their line, held-out rows, the snapshot."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
from contextlib import contextmanager
from dataclasses import replace

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from recipes.preference import data
from recipes.preference.data import check_data, groups, hold_out, load, open_images
from recipes.preference.settings import DatasetCfg
from rl_nmt.data import sources
from rl_nmt.errors import ConfigError, MissingService

TEXTS = [
    {"prompt": f"What is {i} plus {i}?", "chosen": f"It is {2 * i}.", "rejected": f"{2 * i + 1}"} for i in range(40)
]
RED_ANSWERS = {"prompt": "Which colour?", "chosen": "Red.", "rejected": "Blue."}


def picture(color="red", size=(4, 3), form="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, form)
    return file.getvalue()


RED, BLUE = picture(), picture("blue")
COLORS = [picture((i, 0, 0)) for i in range(40)]


def write(path, rows) -> str:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def pairs_of(folder, rows, count=1, limit=0, **fields):
    """What load gives for a JSONL file of these rows and one more, which is held out or not."""
    file = write(folder / "rows.jsonl", [*rows, {"prompt": "Another?", "chosen": "Yes.", "rejected": "No."}])
    cfg = DatasetCfg(train_file=file, eval_count=count, **fields)
    check_data(cfg)
    return load(cfg, folder / "run", limit)


def everything(found):
    return sorted(found.train + found.heldout, key=lambda row: (row["source"], row["images"], row["chosen"]))


def first_of(folder, row, **fields):
    return next(each for each in everything(pairs_of(folder, [row], **fields)) if each["source"] != "Another?")


def refusal(folder, rows, **fields) -> str:
    with pytest.raises(ConfigError) as caught:
        pairs_of(folder, rows, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- texts


USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "Q?"), ("assistant", "G."), ("assistant", "B.")))
PARTS = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Q?"}]}


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"prompt": "Q?", "chosen": "G.", "rejected": "B."}, {}),
        ({"Question": "Q?", "Chosen": "G.", "Rejected": "B.", "id": 1}, {}),
        ({"prompt": None, "instruction": "Q?", "chosen": "G.", "rejected": "B."}, {}),
        (
            {"prompt": "x", "q": "Q?", "a": "G.", "b": "B."},
            {"prompt_field": "Q", "chosen_field": "a", "rejected_field": "b"},
        ),
        ({"prompt": " Q?<bos>", "chosen": "G.<end_of_turn>\n", "rejected": "\x00B."}, {}),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}, {}),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, {}),
        ({"prompt": "Q?", "chosen": [USER, GOOD], "rejected": "B."}, {}),
        ({"prompt": [{**PARTS, "content": PARTS["content"][1:]}], "chosen": [GOOD], "rejected": [BAD]}, {}),
    ],
)
def test_columns_and_messages(tmp_path, row, fields):
    other = {"chosen": "Yes.", "rejected": "No."} | {fields.get(f"{n}_field", n): f"{n}." for n in ("prompt", "chosen")}
    other |= {fields.get("rejected_field", "rejected"): "No."}
    file = write(tmp_path / "a.jsonl", [row, other])
    found = load(DatasetCfg(train_file=file, eval_count=1, **fields), tmp_path / "run")
    expected = {"source": "Q?", "chosen": "G.", "rejected": "B.", "images": []}
    assert expected in found.train + found.heldout and len(found.train) == len(found.heldout) == 1


def test_line_breaks_of_answers_stay(tmp_path):
    row = first_of(tmp_path, {"prompt": "List?", "chosen": "- a\r\n- b\n", "rejected": "c"})
    assert row["chosen"] == "- a\n- b"


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"chosen": " B. ", "rejected": "B."}, "chosen and rejected are equal"),
        ({"chosen": ""}, "has no chosen in chosen, only prompt, chosen, rejected: .*dataset.chosen_field"),
        ({"rejected": "\u200b"}, "has no rejected"),
        ({"prompt": " <bos> "}, "has no prompt in prompt or question"),
        ({"prompt": None}, "has no prompt"),
        ({"chosen": 3}, "chosen is int; it must be a text or a list of messages"),
        ({"prompt": [USER, GOOD, USER]}, "prompt has messages of user, assistant, user; it must have one user message"),
        ({"prompt": [{"role": "system", "content": "x"}, USER]}, "messages of system, user"),
        ({"chosen": [USER, GOOD, USER, GOOD]}, "chosen has messages of user, assistant, user, assistant"),
        ({"chosen": [GOOD, USER]}, "chosen has messages of assistant, user"),
        ({"chosen": [USER, GOOD], "prompt": "Other?"}, "different questions"),
        ({"chosen": []}, "has no chosen"),
        ({"chosen": [{"role": "assistant"}]}, "no message of role 'assistant' with a text"),
        ({"chosen": [{"from": "gpt", "value": "G."}]}, "messages of None"),
        ({"prompt": [PARTS]}, "its messages mark 1 images, but its image column has 0"),
    ],
)
def test_bad_rows_are_refused_with_their_line(tmp_path, row, part):
    rows = [TEXTS[0], {"prompt": "Q?", "chosen": "G.", "rejected": "B."} | row]
    with pytest.raises(ConfigError, match=rf"dataset\.train_file: .*rows\.jsonl line 2.*{part}"):
        pairs_of(tmp_path, rows)


def test_missing_columns(tmp_path):
    assert "its messages" not in refusal(tmp_path, [{"prompt": "x", "better": "y"}])
    assert "has no chosen in best" in refusal(tmp_path, TEXTS[:1], chosen_field="best")
    assert "dataset.image_field: no row" in refusal(tmp_path, TEXTS[:1], image_field="photo")
    assert "line 1 has no chosen in chosen" in refusal(tmp_path, [{"prompt": "Human: a"}])


def test_duplicates_are_dropped_and_counted(tmp_path, capsys):
    found = pairs_of(tmp_path, [*TEXTS, TEXTS[0], {**TEXTS[1], "chosen": TEXTS[1]["chosen"] + " "}], 5)
    assert len(everything(found)) == 41
    said = capsys.readouterr().out
    assert "duplicate rows that are not used: 2\n" in said and "data: 36 pairs, 5 held out, 0 pictures" in said


# ---------------------------------------------------------------------- sources of pictures


def sources_of_a_picture(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "red.png").write_bytes(RED)
    url = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    return {
        "relative": "sub/red.png",
        "absolute": str(folder / "sub" / "red.png"),
        "struct with a path": {"bytes": None, "path": "sub/red.png"},
        "data URL": url,
        "list": ["sub/red.png"],
    }


@pytest.mark.parametrize("kind", ["relative", "absolute", "struct with a path", "data URL", "list"])
@pytest.mark.parametrize("form", ["jsonl", "json", "parquet"])
def test_pictures_from_files(tmp_path, kind, form):
    value = sources_of_a_picture(tmp_path)[kind]
    rows = [RED_ANSWERS | {"image": value}, RED_ANSWERS | {"image": None}, TEXTS[0] | {"image": None}]
    file = tmp_path / f"rows.{form}"
    if form == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        write(file, rows if form == "jsonl" else json.dumps(rows))
    found = load(DatasetCfg(train_file=str(file), eval_count=1), tmp_path / "run")
    (name,) = next(row["images"] for row in everything(found) if row["images"])
    assert name == f"{hashlib.sha256(RED).hexdigest()[:16]}.png"
    assert (tmp_path / "run" / "data" / "images" / name).read_bytes() == RED
    assert [len(row["images"]) for row in everything(found)].count(1) == 1 and len(everything(found)) == 3


def test_bytes_in_parquet_with_and_without_a_struct(tmp_path):
    rows = [
        RED_ANSWERS | {"images": [{"bytes": RED, "path": "gone.png"}, {"bytes": BLUE, "path": None}], "image": None},
        RED_ANSWERS | {"images": None, "image": BLUE},
        TEXTS[0] | {"images": [], "image": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = everything(load(DatasetCfg(train_file=str(tmp_path / "rows.parquet"), eval_count=1), tmp_path / "run"))
    by_count = {len(row["images"]): row for row in found}
    colors = [image.getpixel((0, 0)) for image in open_images(by_count[2], tmp_path / "run")]
    assert colors == [(255, 0, 0), (0, 0, 255)] and open_images(by_count[0], tmp_path / "run") == []
    assert by_count[1]["images"] == by_count[2]["images"][1:]


def saved_rows(folder, splits):
    import datasets

    features = {name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")}
    features = datasets.Features(features | {"image": datasets.Image()})
    made = {
        split: datasets.Dataset.from_list(
            [row | {"image": {"bytes": color, "path": None}} for row, color in zip(rows, COLORS, strict=False)],
            features,
        )
        for split, rows in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return made


def test_a_folder_of_save_to_disk(tmp_path):
    saved_rows(tmp_path / "saved", {"train": TEXTS[:6], "test": TEXTS[6:8]})
    name = str(tmp_path / "saved")
    cfg = DatasetCfg(train_file=name, eval_file=name, eval_split="test")
    check_data(cfg)
    found = load(replace(cfg, seed=3), tmp_path / "other")
    assert {row["source"] for row in found.heldout} == {row["prompt"] for row in TEXTS[6:8]}
    assert len(found.train) == 4 and all(len(row["images"]) == 1 for row in found.train)  # two share a picture
    assert open_images(found.train[0], tmp_path / "other")[0].size == (4, 3)
    with pytest.raises(ConfigError, match=r"dataset\.train_file: .*no split 'validation', it has train, test"):
        load(replace(cfg, split="validation"), tmp_path / "third")
    (tmp_path / "saved" / "train" / "data-00000-of-00001.arrow").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"dataset\.train_file: .*saved cannot be loaded"):
        load(cfg, tmp_path / "fourth")


@pytest.fixture
def hub_set(tmp_path, monkeypatch):
    """The places of rows read of org/pairs, a hub data set whose files are local: Parquet, and JSON as @json."""
    import datasets

    made = saved_rows(tmp_path / "saved", {"train": TEXTS})["train"]
    made.to_parquet(str(tmp_path / "train.parquet"))
    write(tmp_path / "train.json", TEXTS)
    seen, real, own_row = [], datasets.load_dataset, data._row

    def load_dataset(path, name, split, revision, streaming):
        assert (path, streaming) == ("org/pairs", True)
        if name or split != "train":
            raise ValueError(f"Bad split: {split}. Available splits: ['train']")
        form = {"abc": "parquet", "json": "json"}[revision]
        return real(form, data_files=str(tmp_path / f"train.{form}"), split=split, streaming=True)

    monkeypatch.setattr(data, "_row", lambda record, *rest: seen.append(record.where) or own_row(record, *rest))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(sources, "require_hub", lambda argument, name: None)
    return seen


def test_a_hub_data_set(tmp_path, hub_set):
    cfg = DatasetCfg(train_file="org/pairs@abc", eval_count=10)
    check_data(cfg)
    found = load(cfg, tmp_path / "run")
    assert len(found.train) == 30 and len(found.heldout) == 10 and len(hub_set) == 40
    assert open_images(found.train[0], tmp_path / "run")[0].mode == "RGB"
    for changes in ({"split": "test"}, {"config": "x"}):
        with pytest.raises(ConfigError, match=r"dataset\.train_file: org/pairs@abc has no split .*Available splits"):
            load(replace(cfg, **changes), tmp_path / "other")


def test_a_damaged_hub_data_set(tmp_path, hub_set):
    whole = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingService, match=r"dataset\.train_file: org/pairs@abc could not be read \(ArrowInvalid"):
        load(DatasetCfg(train_file="org/pairs@abc"), tmp_path / "run")


def test_a_hub_data_set_of_json(tmp_path, hub_set):
    found = load(DatasetCfg(train_file="org/pairs@json", eval_count=10), tmp_path / "run")
    assert len(found.train) == 30 and len(found.heldout) == 10 and len(hub_set) == 40


def test_with_a_limit_only_the_first_rows_of_the_hub_are_used(tmp_path, hub_set):
    found = load(DatasetCfg(train_file="org/pairs@abc", eval_count=2), tmp_path / "run", limit=3)
    assert {row["source"] for row in everything(found)} == {row["prompt"] for row in TEXTS[:5]}
    assert len(found.train) == 3 and len(found.heldout) == 2
    assert hub_set == [f"dataset.train_file: org/pairs@abc train row {i}" for i in (1, 2, 3, 4, 5)]


def test_paths_in_hub_rows_are_not_read_here(tmp_path, hub_set, monkeypatch):
    (tmp_path / "own.png").write_bytes(RED)
    row = RED_ANSWERS | {"image": {"bytes": None, "path": str(tmp_path / "own.png")}}

    @contextmanager
    def one_row(*_):
        yield [sources.tables.Row("dataset.train_file: org/pairs row 1", row)]

    monkeypatch.setattr("recipes.preference.data.closing", one_row)
    with pytest.raises(ConfigError, match=r"row 1: its image is the path .*own\.png, not a picture"):
        load(DatasetCfg(train_file="org/pairs@abc"), tmp_path / "run")


def test_a_hub_that_cannot_be_reached(tmp_path):
    with pytest.raises(MissingService, match=r"dataset\.train_file: the data set org/pairs is not here"):
        load(DatasetCfg(train_file="org/pairs"), tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, r"image a\.png cannot be read from .*No such file"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab", "Git LFS pointer"),
        (b"%PDF-1.7", "a PDF"),
        (b"<!doctype html>", "HTML, SVG or XML"),
        (b"hello, I am text", r"is not a picture .*begins with b'hello, I'"),
        (RED[:45], r"image a\.png is a damaged picture"),
        (picture(form="JPEG", size=(64, 64))[:-200], "is a damaged picture"),
        (picture(form="PPM"), "is not a picture"),
    ],
)
def test_bad_pictures_are_refused_with_their_line(tmp_path, content, part):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"rows\.jsonl line 2: .*{part}"):
        pairs_of(tmp_path, [TEXTS[0], RED_ANSWERS | {"image": "a.png"}])


@pytest.mark.parametrize(
    ("value", "part"), [(7, "is int; give a path"), ("data:image/png;base64,=", "data URL"), ({"x": 1}, "is NoneType")]
)
def test_other_values_in_place_of_a_picture(tmp_path, value, part):
    assert part in refusal(tmp_path, [RED_ANSWERS | {"image": value}])


# ---------------------------------------------------------------------- what open_images makes of them


def test_pictures_are_upright_rgb_and_on_white(tmp_path):
    import numpy as np

    turned = Image.Exif()
    turned[0x0112] = 6  # its top is at the right: turn by 90 degrees
    stripes = Image.new("RGB", (16, 32), "red")
    stripes.paste((0, 0, 255), (0, 0, 16, 16))
    stripes.save(tmp_path / "turned.png", exif=turned)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 51)).save(tmp_path / "faint.png")
    Image.fromarray(np.full((4, 4), 25600, np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "grey.jpg")
    names = ["turned.png", "clear.png", "faint.png", "deep.png", "grey.jpg"]
    row = first_of(tmp_path, RED_ANSWERS | {"images": names})
    opened = open_images(row, tmp_path / "run")
    assert [image.mode for image in opened] == ["RGB"] * 5 and row["images"][4].endswith(".jpeg")
    assert opened[0].size == (32, 16)
    assert opened[0].getpixel((0, 0)) == (255, 0, 0) and opened[0].getpixel((31, 0)) == (0, 0, 255)
    colors = [image.getpixel((0, 0)) for image in opened[1:]]
    assert colors == [(255, 255, 255), (204, 204, 204), (100, 100, 100), (7, 7, 7)]


# ---------------------------------------------------------------------- held-out rows


def rows_with(*parts):
    """One row per (prompt, its pictures): the letters of a word."""
    return [
        {"source": prompt, "chosen": f"c{i}", "rejected": "r", "images": list(letters)}
        for i, (prompt, letters) in enumerate(parts)
    ]


def test_rows_that_must_stay_together():
    rows = rows_with(("Q", ""), ("q ", ""), ("Q", "a"), ("Q", "b"), ("R", "a"), ("S", "cb"), ("Q?", ""))
    found = sorted(sorted(row["chosen"] for row in part) for part in groups(rows, 0))
    assert found == [["c0", "c1"], ["c2", "c4"], ["c3", "c5"], ["c6"]]


cells = st.lists(st.tuples(st.sampled_from("QRSTUV"), st.sets(st.sampled_from("abcdefgh"), max_size=2)), min_size=1)


@given(parts=cells, count=st.integers(1, 6), seed=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_no_prompt_or_picture_is_in_both_lists(parts, count, seed, order):
    rows = rows_with(*((prompt, "".join(sorted(letters))) for prompt, letters in parts))
    train, heldout = hold_out(rows, count, seed)
    assert 1 <= len(heldout) <= count
    pictures = [{name for row in part for name in row["images"]} for part in (train, heldout)]
    prompts = [{row["source"] for row in part if not row["images"]} for part in (train, heldout)]
    assert not pictures[0] & pictures[1] and not prompts[0] & prompts[1]
    shuffled = order.sample(rows, len(rows))
    assert hold_out(shuffled, count, seed) == (train, heldout)


def test_one_prompt_may_have_many_pictures(tmp_path):
    for i, color in enumerate(COLORS):
        (tmp_path / f"{i}.png").write_bytes(color)
    rows = [RED_ANSWERS | {"image": f"{i}.png"} for i in range(40)]
    found = pairs_of(tmp_path, rows, 10)
    held = {name for row in found.heldout for name in row["images"]}
    assert len(found.heldout) == 10 and len(found.train) == 31
    assert not held & {name for row in found.train for name in row["images"]}
    other = load(DatasetCfg(train_file=str(tmp_path / "rows.jsonl"), eval_count=10, seed=1), tmp_path / "other")
    assert {name for row in other.heldout for name in row["images"]} != held


def test_rows_of_an_eval_file_are_not_trained_on(tmp_path, capsys):
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "again.png").write_bytes(RED)
    train = [*TEXTS, RED_ANSWERS | {"image": "red.png"}]
    held = [
        {**TEXTS[0], "prompt": TEXTS[0]["prompt"].upper(), "chosen": "Mine."},
        {"prompt": "What is it?", "chosen": "A red area.", "rejected": "A dog.", "image": "again.png"},
    ]
    cfg = DatasetCfg(train_file=write(tmp_path / "t.jsonl", train), eval_file=write(tmp_path / "e.jsonl", held))
    found = load(cfg, tmp_path / "run")
    assert {row["chosen"] for row in found.heldout} == {"Mine.", "A red area."}
    assert {row["source"] for row in found.train} == {row["prompt"] for row in TEXTS[1:]}
    assert "eval_file has their picture or prompt: 2" in capsys.readouterr().out
    one = load(replace(cfg, eval_count=1), tmp_path / "one")
    assert len(one.heldout) == 1 and one.train == found.train


@pytest.mark.parametrize("rows", [TEXTS[:3], [{**TEXTS[0], "chosen": f"a{i}"} for i in range(9)]])
def test_too_few_rows(tmp_path, rows):
    file = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=r"dataset\.train_file: .*all its rows are held out; .*dataset\.eval_count"):
        load(DatasetCfg(train_file=file, eval_count=5), tmp_path / "run")
    cfg = DatasetCfg(train_file=file, eval_file=write(tmp_path / "e.jsonl", rows[:9]))
    with pytest.raises(ConfigError, match="give other rows as dataset"):
        load(cfg, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds no rows"):
        load(DatasetCfg(train_file=write(tmp_path / "none.jsonl", "")), tmp_path / "run")


# ---------------------------------------------------------------------- the snapshot


def test_a_resumed_run_reads_the_same_rows_and_pictures(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    (tmp_path / "blue.png").write_bytes(BLUE)
    rows = [*TEXTS, RED_ANSWERS | {"image": "red.png"}, {**RED_ANSWERS, "prompt": "Or?", "image": "blue.png"}]
    file = write(tmp_path / "a.jsonl", rows)
    cfg = DatasetCfg(train_file=file, eval_count=10)
    first = load(cfg, tmp_path / "run")
    write(tmp_path / "a.jsonl", random.Random(1).sample(rows, len(rows)))
    assert load(cfg, tmp_path / "other") == first  # the order of rows does not matter
    for name in ("a.jsonl", "red.png", "blue.png"):
        (tmp_path / name).unlink()
    assert load(replace(cfg, mathvista_file="x"), tmp_path / "run") == first
    with pytest.raises(ConfigError, match=r"logging\.output_dir: .*eval_count was 10 and is now 9"):
        load(replace(cfg, eval_count=9), tmp_path / "run")
    images = tmp_path / "run" / "data" / "images"
    assert len(list(images.iterdir())) == 2 and sorted(p.name for p in (tmp_path / "run").iterdir()) == ["data"]
    path = sorted(images.iterdir())[0]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ConfigError, match=rf"logging\.output_dir: .*{path.name} was changed .*remove .*data"):
        load(cfg, tmp_path / "run")
    path.unlink()
    with pytest.raises(ConfigError, match=rf"{path.name} cannot be read \(No such file"):
        load(cfg, tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"{path.name} cannot be read as a picture"):
        open_images({"images": [path.name]}, tmp_path / "run")


def test_limit_and_the_pictures_that_are_kept(tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(COLORS[i])
    rows = [RED_ANSWERS | {"image": f"{i}.png"} for i in range(30)]
    found = pairs_of(tmp_path, rows, 10, limit=4)
    assert (len(found.train), len(found.heldout)) == (4, 4)
    used = {name for row in everything(found) for name in row["images"]}
    assert {path.name for path in (tmp_path / "run" / "data" / "images").iterdir()} == used


def test_a_limit_is_also_one_for_held_out_rows(tmp_path):
    found = pairs_of(tmp_path, TEXTS[:11], 200, limit=4)
    assert (len(found.train), len(found.heldout)) == (4, 4)


def test_a_refused_row_leaves_nothing_behind(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    refusal(tmp_path, [RED_ANSWERS | {"image": "red.png"}, RED_ANSWERS | {"image": "gone.png"}])
    assert list((tmp_path / "run").iterdir()) == []


# ---------------------------------------------------------------------- refusals before reading


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({}, r"dataset\.train_file is empty"),
        ({"train_file": "./none.jsonl"}, r"dataset\.train_file: \./none\.jsonl: no such file"),
        ({"train_file": "org/pairs", "eval_file": "none.parquet"}, r"dataset\.eval_file: none\.parquet: no such"),
        ({"train_file": "org/pairs", "mathvista_file": "/none"}, r"dataset\.mathvista_file: /none: no such"),
        ({"train_file": "."}, r"dataset\.train_file: \.: no such file, nor a folder"),
        ({"train_file": "org/pairs", "eval_file": "org/pairs"}, r"dataset\.eval_file: org/pairs is also"),
        ({"train_file": "AI4Math/MathVista"}, r"dataset\.train_file: AI4Math/MathVista: .*licence.*mathvista_file"),
        ({"train_file": "org/my-mathvista_pairs@main"}, r"dataset\.train_file: .*licence"),
        ({"train_file": "org/pairs", "eval_file": "x/MATHVISTA"}, r"dataset\.eval_file: .*licence"),
    ],
)
def test_refused_before_anything_is_read(fields, part):
    with pytest.raises(ConfigError, match=part):
        check_data(DatasetCfg(**fields))


def test_allowed(tmp_path):
    file = write(tmp_path / "mathvista_like.jsonl", TEXTS)
    check_data(DatasetCfg(train_file=file, mathvista_file="AI4Math/MathVista"))
    check_data(DatasetCfg(train_file="org/pairs", eval_file="org/pairs", eval_split="test"))


@pytest.mark.parametrize("field", ["train_file", "eval_file"])
def test_columns_of_mathvista_are_refused(tmp_path, field):
    own = [row | {"PID": str(i), "question_type": "free_form", "answer_type": "integer"} for i, row in enumerate(TEXTS)]
    files = {"train_file": write(tmp_path / "t.jsonl", TEXTS), "eval_file": write(tmp_path / "e.jsonl", TEXTS[:3])}
    files[field] = write(tmp_path / "m.jsonl", own)
    message = rf"dataset\.{field}: .*m\.jsonl line 1 .*answer_type, pid, question_type.*dataset\.mathvista_file"
    with pytest.raises(ConfigError, match=message):
        load(DatasetCfg(**files), tmp_path / "run")


def test_a_folder_that_cannot_be_written(tmp_path):
    from rl_nmt.errors import CannotWrite

    (tmp_path / "run").write_text("a file")
    with pytest.raises(CannotWrite, match=r"logging\.output_dir: "):
        load(DatasetCfg(train_file=write(tmp_path / "a.jsonl", TEXTS), eval_count=3), tmp_path / "run")


def test_an_image_column_with_another_name_is_not_overlooked(tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "img": "a.png"} for i in range(3)]
    assert refusal(tmp_path, rows).startswith("dataset.image_field: ") and "'img'" in refusal(tmp_path, rows)
    assert len(first_of(tmp_path, rows[0], image_field="img")["images"]) == 1


@pytest.mark.parametrize(
    ("mode", "size", "part"), [("I", (4, 4), "32 bits"), ("F", (4, 4), "32 bits"), ("1", (9000, 9000), "9000 × 9000")]
)
def test_pictures_that_would_be_misread_or_are_too_large(tmp_path, mode, size, part):
    from rl_nmt.data.pictures import keep_pictures

    Image.new(mode, size).save(tmp_path / "a.tiff")
    with pytest.raises(ConfigError, match=f"rows.jsonl:1: image a.tiff has {part}"):
        keep_pictures("a.tiff", "rows.jsonl:1", tmp_path, tmp_path)


def test_structs_without_a_picture_and_impossible_paths(tmp_path):
    from rl_nmt.data.pictures import keep_pictures

    assert keep_pictures([{"bytes": None, "path": None}, None, ""], "x:1", tmp_path, tmp_path) == []
    with pytest.raises(ConfigError, match="x:1: image a"):
        keep_pictures("a\0b.png", "x:1", tmp_path, tmp_path)
