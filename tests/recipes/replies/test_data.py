"""Rows of the replies recipe: columns, clean text, two phases without a common post, held-out posts, the snapshot."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from dataclasses import replace

import pytest

from recipes.replies import data
from recipes.replies.data import by_post, check_data, load, read_rows, split, strata
from recipes.replies.settings import DataCfg
from rl_nmt.errors import ConfigError

MOODS = ("What a wonderful, happy day", "This is a terrible, sad day", "The bus leaves at nine")
PAIRS = [{"post": f"{MOODS[i % 3]} {i}{' indeed' * (i % 7)}", "reply": f"Reply {i}."} for i in range(60)]


def write(path, rows) -> str:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows_of(pairs=PAIRS):
    return [{"source": pair["post"], "reference": pair["reply"]} for pair in pairs]


def sources(rows) -> set[str]:
    return {row["source"].casefold() for row in rows}


# ---------------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ({"post": "A.", "reply": "B."}, ()),
        ({"Tweet": "A.", "Response": "B.", "id": 3}, ()),
        ({"text": "A.", "output": "B."}, ()),
        ({"source": "A.", "reference": "B."}, ()),
        ({"source": "x", "post": "A.", "reply": "B."}, ()),
        ({"post": "x", "q": "A.", "Answer": "B."}, ("Q", "answer")),
        ({"post": " A\u200b.<bos>\n", "reply": "\ufeffB."}, ()),
    ],
)
def test_columns(tmp_path, row, fields):
    assert read_rows(write(tmp_path / "a.jsonl", [row]), "--file", *fields) == [{"source": "A.", "reference": "B."}]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("post\treply\nA.\tB.\n", ()),
        ("id\tTweet\tresponse\n7\tA.\tB.\n", ()),
        ("q\ta\nA.\tB.\n", ("q", "a")),
        ("A.\tB.\n", ()),
    ],
)
def test_tables_with_and_without_a_header(tmp_path, text, fields):
    assert read_rows(write(tmp_path / "a.tsv", text), "--file", *fields) == [{"source": "A.", "reference": "B."}]


def test_joined_emoji_stay_whole(tmp_path):
    row = {"post": "A 👩\u200d👧", "reply": "❤\ufe0f"}
    assert read_rows(write(tmp_path / "a.jsonl", [row]), "--file") == rows_of([row])


def test_equal_rows_are_dropped_and_other_replies_kept(tmp_path, capsys):
    pairs = [("A.", "B."), ("a. ", "b."), ("A.", "C."), ("A.", "B.")]
    file = write(tmp_path / "a.jsonl", [{"post": post, "reply": reply} for post, reply in pairs])
    assert [row["reference"] for row in read_rows(file, "--file")] == ["B.", "C."]
    assert "not used: 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "fields", "part"),
    [
        ([PAIRS[0], {"post": "x", "reply": " "}], (), "line 2 .*rows without reply"),
        ([PAIRS[0], {"post": "x"}], (), "line 2 .*rows without reply"),
        ([PAIRS[0], {"post": "\u200b", "reply": "x"}], (), "line 2 .*rows without post"),
        ([{"post": "x", "reply": 3}], (), "line 1: column 'reply' is int"),
        ([{"post": "x", "answer": "y"}], (), "reply or response.*only post, answer.*reply_field"),
        ([{"question": "x", "reply": "y"}], (), "post or tweet.*only question, reply.*post_field"),
        ([PAIRS[0]], ("q", ""), "column q, only post, reply"),
        ([{}], (), "only empty rows"),
    ],
)
def test_bad_rows(tmp_path, rows, fields, part):
    with pytest.raises(ConfigError, match=rf"--file: .*a\.jsonl.*{part}"):
        read_rows(write(tmp_path / "a.jsonl", rows), "--file", *fields)


def test_rows_that_need_no_reply(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"post": "A.", "reply": ""}, {"post": "B."}, PAIRS[0]])
    expected = [{"source": "A."}, {"source": "B."}, *rows_of(PAIRS[:1])]
    assert read_rows(file, "--file", reply_field="answer", replies=False) == [{"source": r["source"]} for r in expected]
    assert read_rows(file, "--file", replies=False) == expected
    assert read_rows(write(tmp_path / "b.jsonl", [{"post": "A."}]), "--file", replies=False) == [{"source": "A."}]


# ---------------------------------------------------------------------- the split


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.9])
def test_every_stratum_has_its_share(ratio):
    pytest.importorskip("textblob")
    sft, grpo = split(rows_of(), ratio, 42)
    places = strata(by_post(rows_of(), 0))
    assert len(set(places.values())) == 9
    share = Counter(places[post] for post in by_post(sft, 0))
    for stratum, count in Counter(places.values()).items():
        assert abs(share[stratum] - ratio * count) < 1
    assert len(sft) == round(ratio * 60) and len(sft) + len(grpo) == 60


def test_terciles():
    pytest.importorskip("textblob")
    texts = [f"{mood} {'x' * size}" for mood in MOODS for size in (1, 40, 90)]
    places = strata({text: [{"source": text}] for text in texts})
    assert [places[text][1] for text in texts] == [2, 2, 2, 0, 0, 0, 1, 1, 1]
    assert Counter(place[0] for place in places.values()) == {0: 3, 1: 3, 2: 3}
    same = strata({str(i): [{"source": "abc"}] for i in range(10)})
    assert set(same.values()) == {(1, 1)}


def test_order_changes_nothing_and_the_seed_does():
    shuffled = random.Random(1).sample(rows_of(), 60)
    assert split(shuffled, 0.5, 42) == split(rows_of(), 0.5, 42)
    assert sources(split(rows_of(), 0.5, 1)[0]) != sources(split(rows_of(), 0.5, 42)[0])


def test_rows_of_a_post_stay_together():
    rows = [{"source": f"{post} {i}", "reference": r} for i in range(30) for post, r in (("Post", "a"), ("POST ", "b"))]
    sft, grpo = split(rows, 0.5, 42)
    assert len(sft) == len(grpo) == 30
    assert not by_post(sft, 0).keys() & by_post(grpo, 0)


def test_without_textblob_the_length_counts(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "textblob", None)
    data._polarity.cache_clear()
    try:
        found = strata(by_post(rows_of(), 0))
        split(rows_of(), 0.5, 42)
    finally:
        data._polarity.cache_clear()
    assert {place[1] for place in found.values()} == {1} and {place[0] for place in found.values()} == {0, 1, 2}
    assert capsys.readouterr().err.count("warning: textblob") == 1


# ---------------------------------------------------------------------- load


def test_one_file(tmp_path, capsys):
    pairs = [*PAIRS, {"post": PAIRS[3]["post"].upper(), "reply": "Another."}]
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", pairs), eval_count=10)
    found = load(cfg, tmp_path / "run")
    assert len(found.heldout) == 10 and len(found.grpo) == len(sources(found.grpo)) == 25
    assert len(sources(found.sft)) == 25
    lists = [sources(rows) for rows in found[:3]]
    assert len(set.union(*lists)) == 60
    assert all("phase" not in row and row["reference"] for rows in found[:3] for row in rows)
    assert "25 posts for GRPO, 10 held out" in capsys.readouterr().out


def test_a_resumed_run_reads_the_same_rows_without_the_files(tmp_path):
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", PAIRS), eval_count=10)
    first = load(cfg, tmp_path / "run", 5)
    write(tmp_path / "a.jsonl", random.Random(1).sample(PAIRS, 60))
    assert load(cfg, tmp_path / "other", 5) == first  # the order of rows does not matter
    (tmp_path / "a.jsonl").unlink()
    assert load(cfg, tmp_path / "run", 5) == first
    with pytest.raises(ConfigError, match=r"limit was 5 and is now 6"):
        load(cfg, tmp_path / "run", 6)
    with pytest.raises(ConfigError, match=r"split_seed was 42"):
        load(replace(cfg, split_seed=1), tmp_path / "run", 5)
    saved = tmp_path / "run" / "data" / "train.jsonl"
    saved.write_text(saved.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"train\.jsonl was changed"):
        load(cfg, tmp_path / "run", 5)


def test_two_files(tmp_path):
    grpo = [{"post": pair["post"]} for pair in PAIRS[30:50]] + PAIRS[50:]
    cfg = DataCfg(
        sft_file=write(tmp_path / "s.jsonl", PAIRS[:30]), grpo_file=write(tmp_path / "g.jsonl", grpo), eval_count=4
    )
    found = load(cfg, tmp_path / "run")
    assert [len(rows) for rows in found[:3]] == [30, 26, 4]
    assert sources(found.heldout) <= sources(rows_of(PAIRS[50:])) and all(row["reference"] for row in found.heldout)
    assert sources(found.sft) == sources(rows_of(PAIRS[:30])) and not sources(found.grpo) & sources(found.heldout)


def test_one_phase_alone(tmp_path):
    file = write(tmp_path / "a.jsonl", PAIRS)
    assert [len(rows) for rows in load(DataCfg(sft_file=file, eval_count=4), tmp_path / "s")[:3]] == [56, 0, 4]
    assert [len(rows) for rows in load(DataCfg(grpo_file=file, eval_count=4), tmp_path / "g")[:3]] == [0, 56, 4]


def test_posts_of_the_eval_file_are_in_no_phase(tmp_path):
    held = [{"post": pair["post"].upper(), "reply": "Mine."} for pair in PAIRS[:20]]
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", PAIRS), eval_file=write(tmp_path / "e.jsonl", held))
    found = load(replace(cfg, eval_count=8), tmp_path / "run")
    assert len(found.heldout) == 8 and {row["reference"] for row in found.heldout} == {"Mine."}
    assert sources(found.sft) | sources(found.grpo) == sources(rows_of(PAIRS[20:]))


def test_limit_keeps_the_first_of_each_list(tmp_path):
    cfg = DataCfg(train_file=write(tmp_path / "a.jsonl", PAIRS), eval_count=10)
    whole, few = load(cfg, tmp_path / "whole"), load(cfg, tmp_path / "few", 7)
    assert list(few[:3]) == [rows[:7] for rows in whole[:3]]


@pytest.mark.parametrize(
    ("files", "changes", "part"),
    [
        (
            {"sft_file": PAIRS[:9], "grpo_file": PAIRS[7:]},
            {},
            r"data\.grpo_file: .*data\.sft_file: 2, e\.g\. '.*remove",
        ),
        ({"train_file": PAIRS}, {"eval_count": 60}, r"data\.train_file: .*for SFT is left .*60 held out.*eval_count"),
        ({"train_file": PAIRS[:5]}, {"eval_count": 4}, r"data\.train_file: .*no post for GRPO is left"),
        ({"sft_file": PAIRS[:9], "grpo_file": PAIRS[9:]}, {}, r"data\.grpo_file: .*no post for GRPO is left"),
        ({"sft_file": PAIRS[:9], "grpo_file": [{"post": "x"}]}, {}, r"data\.grpo_file: .*data\.eval_file"),
        ({"train_file": PAIRS, "eval_file": PAIRS}, {}, r"data\.train_file: .*for SFT is left.*data\.eval_file"),
        ({"train_file": PAIRS, "eval_file": [{"post": "x", "reply": ""}]}, {}, r"data\.eval_file: .*line 1 "),
        ({"sft_file": [{"post": "x", "reply": ""}], "grpo_file": PAIRS}, {}, r"data\.sft_file: .*line 1 "),
    ],
)
def test_rows_that_cannot_be_divided(tmp_path, files, changes, part):
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    with pytest.raises(ConfigError, match=part):
        load(DataCfg(**paths, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "data").exists()


# ---------------------------------------------------------------------- check_data


@pytest.mark.parametrize(
    ("settings", "phase", "part"),
    [
        ({}, "both", r"data\.sft_file is empty"),
        ({}, "grpo", r"data\.grpo_file is empty"),
        ({"sft_file": "a"}, "both", r"data\.grpo_file is empty.*data\.train_file"),
        ({"grpo_file": "a"}, "both", r"data\.sft_file is empty"),
        ({"grpo_file": "a"}, "sft", r"data\.sft_file is empty"),
        ({"train_file": "a", "grpo_file": "b"}, "both", r"data\.grpo_file: data\.train_file"),
        ({"train_file": "none"}, "both", r"data\.train_file: no such file: .*none"),
        ({"train_file": "a", "eval_file": "none"}, "both", r"data\.eval_file: no such file"),
        ({"train_file": "a", "eval_file": "sub/../a"}, "both", r"data\.eval_file: .* is also data\.train_file"),
        ({"sft_file": "a", "grpo_file": "b", "eval_file": "b"}, "both", r"data\.eval_file: .*data\.grpo_file"),
    ],
)
def test_refused_settings(tmp_path, settings, phase, part):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "a", "never read"), write(tmp_path / "b", "never read")
    with pytest.raises(ConfigError, match=part):
        check_data(DataCfg(**{name: str(tmp_path / file) for name, file in settings.items()}), phase)


@pytest.mark.parametrize(
    ("settings", "phase"),
    [
        ({"train_file": "a"}, "both"),
        ({"train_file": "a", "eval_file": "b"}, "grpo"),
        ({"sft_file": "a"}, "sft"),
        ({"grpo_file": "a", "eval_file": "b"}, "grpo"),
        ({"sft_file": "a", "grpo_file": "b"}, "both"),
    ],
)
def test_settings_that_work(tmp_path, settings, phase):
    write(tmp_path / "a", "never read"), write(tmp_path / "b", "never read")
    check_data(DataCfg(**{name: str(tmp_path / file) for name, file in settings.items()}), phase)
