"""Evaluation sets from files in every state, and the hub's records in their real shapes."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from rl_nmt.data import eval_sets
from rl_nmt.data.eval_sets import choose, from_flores, from_in22, from_wmt24pp, load_eval
from rl_nmt.errors import ConfigError, MissingService

PAIR = {"source": "Good morning.", "reference": "காலை வணக்கம்."}


def load(path, count=100, seed=0):
    return load_eval("none", str(path), count, seed)


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.tsv", "Good morning.\tகாலை வணக்கம்.\n", [PAIR]),
        ("a.tsv", "english\ttamil\nGood morning.\tகாலை வணக்கம்.\r\n\n", [PAIR]),
        ("a.tsv", "\ufeffen\tta\nGood  morning.\t காலை வணக்கம். ", [PAIR]),
        ("a.txt", "Only English.\n", [{"source": "Only English."}]),
        ("a.tsv", "One.\t\nTwo.\t\u200b\n\tமூன்று\n", [{"source": "One."}, {"source": "Two."}]),
        ("a.jsonl", json.dumps(PAIR), [PAIR]),
        ("a.jsonl", json.dumps({"en": PAIR["source"], "ta": PAIR["reference"]}), [PAIR]),
        ("a.jsonl", json.dumps({"source": PAIR["source"], "target": PAIR["reference"], "x": 1}), [PAIR]),
        ("a.jsonl", json.dumps({"src": PAIR["source"], "ref": PAIR["reference"]}), [PAIR]),
        ("a.jsonl", '{"en": "A."}\n\n{"en": "B.", "ta": null}', [{"source": "A."}, {"source": "B."}]),
        ("a.jsonl", '{"source": "A\\n b\\ud800"}', [{"source": "A b?"}]),
    ],
)
def test_files(tmp_path, name, content, rows):
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert load(tmp_path / name) == rows
    assert load_eval(str(tmp_path / name), "", 100, 0) == rows


def test_packed_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(PAIR).encode(), mtime=0))
    assert load(tmp_path / "a.jsonl.gz") == [PAIR]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.tsv", b"a\tb\tc\n", ["line 1", "3 columns"]),
        ("a.tsv", b"a\tb\ncaf\xe9\tx\n", ["line 2", "not UTF-8"]),
        ("a.tsv", b"", ["holds no rows"]),
        ("a.tsv", b"english\ttamil\n", ["holds no rows"]),
        ("a.jsonl", b'{"source": "a"}\n{"source": \n', ["line 2", "not valid JSON"]),
        ("a.jsonl", b"[1]\n", ["row 1", "not a JSON object"]),
        ("a.jsonl", b'{"text": "a"}\n', ["line 1", "it has text"]),
        ("a.jsonl", b"{}\n", ["line 1", "it has nothing"]),
        ("a.jsonl", b'{"source": 3}\n', ["line 1", "must be a text"]),
        ("a.jsonl", b'{"source": "a", "reference": 3}\n', ["line 1", "'reference' is int"]),
        ("a.jsonl.gz", b"plain", ["gzip"]),
        ("a.csv", b"a,b\n", [".tsv"]),
    ],
)
def test_broken_files(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name)
    message = str(caught.value)
    assert name in message and "\n" not in message
    assert all(part in message for part in parts), message


def test_missing_file_unknown_name_and_none(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.tsv cannot be read: No such file"):
        load(tmp_path / "no.tsv")
    with pytest.raises(ConfigError, match=r"^eval_dataset: google/wmt24 .*google/wmt24pp"):
        load_eval("google/wmt24", "", 10, 0)
    assert load_eval("none", "", 0, 0) == load_eval("", "", 10, 0) == []
    with pytest.raises(ConfigError, match=r"^num_eval_samples: 0 "):
        load_eval("google/wmt24pp", "", 0, 0)


def test_choice_is_by_hash_not_by_order(tmp_path):
    rows = [{"source": f"Sentence {i}.", "reference": f"வாக்கியம் {i}."} for i in range(100)]
    chosen = choose(rows, 20, 1)
    assert len(chosen) == 20 and [row for row in rows if row in chosen] == chosen
    backwards = choose(rows[::-1], 20, 1)
    assert sorted(map(str, backwards)) == sorted(map(str, chosen))
    assert choose(rows, 10, 1) == [row for row in chosen if row in choose(rows, 10, 1)]
    assert choose(rows, 20, 2) != chosen
    assert choose(rows + rows, 500, 1) == rows


def test_wmt24pp_records():
    records = [
        {"lp": "en-ta_IN", "is_bad_source": False, "source": "Good morning.", "target": "காலை வணக்கம்."},
        {"lp": "en-ta_IN", "is_bad_source": True, "source": "CANARY", "target": "CANARY"},
    ]
    assert from_wmt24pp(records) == [PAIR]


def test_flores_records_are_joined_by_id():
    english = [{"id": 1, "text": "One."}, {"id": 2, "text": "Good morning."}, {"id": 9, "text": "Alone."}]
    tamil = [{"id": 2, "text": "காலை வணக்கம்."}, {"id": 1, "text": "ஒன்று."}]
    assert from_flores(english, tamil) == [{"source": "One.", "reference": "ஒன்று."}, PAIR]


@pytest.mark.parametrize("prefix", ["", "sentence_"])
def test_in22_records(prefix):
    record = {f"{prefix}eng_Latn": "Good morning.", f"{prefix}tam_Taml": "காலை வணக்கம்."}
    assert from_in22([record], "ai4bharat/IN22-Gen") == [PAIR]
    with pytest.raises(ConfigError, match=r"^eval_dataset: .*tam_Taml, it has eng_Latn"):
        from_in22([{"eng_Latn": "x"}], "ai4bharat/IN22-Gen")


@pytest.mark.parametrize("name", ["google/wmt24pp", "openlanguagedata/flores_plus", "ai4bharat/IN22-Conv"])
def test_no_hub(monkeypatch, name):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(MissingService, match=name):
        load_eval(name, "", 10, 0)


TELUGU = {"source": "Good morning.", "reference": "శుభోదయం."}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "Good morning.\tశుభోదయం.\n"),
        ("a.tsv", "english\ttelugu\nGood morning.\tశుభోదయం.\n"),
        ("a.tsv", "en\tte\nGood morning.\tశుభోదయం.\n"),
        ("a.tsv", "en\tta\tte\nGood morning.\tகாலை வணக்கம்.\tశుభోదయం.\n"),
        ("a.jsonl", json.dumps({"english": "Good morning.", "tamil": "காலை வணக்கம்.", "Telugu": "శుభోదయం."})),
        ("a.jsonl", json.dumps({"source": "Good morning.", "target": "శుభోదయం.", "te": "x"})),
    ],
)
def test_columns_by_the_name_of_the_language(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_eval("none", str(tmp_path / name), 10, 0, "te") == [TELUGU]


def test_references_in_another_language_are_not_taken(tmp_path):
    (tmp_path / "a.tsv").write_text("english\ttamil\nGood morning.\tகாலை வணக்கம்.\n", encoding="utf-8")
    assert load_eval("none", str(tmp_path / "a.tsv"), 10, 0, "te") == [{"source": "Good morning."}]
    assert load_eval("none", str(tmp_path / "a.tsv"), 10, 0) == [PAIR]
    with pytest.raises(ConfigError, match=r"^eval_file: .*: write english<TAB>telugu$"):
        (tmp_path / "a.tsv").write_text("a\tb\tc\n", encoding="utf-8")
        load_eval("none", str(tmp_path / "a.tsv"), 10, 0, "te")


@pytest.mark.parametrize("column", ["zh", "zh_TW", "zh-TW", "ZH-tw", "Chinese"])
def test_columns_of_a_region(tmp_path, column):
    (tmp_path / "a.tsv").write_text(f"en\t{column}\nGood morning.\t早安。\n", encoding="utf-8")
    rows = [{"source": "Good morning.", "reference": "早安。"}]
    assert load_eval("none", str(tmp_path / "a.tsv"), 10, 0, "zh_TW") == rows


def test_references_in_another_script_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_text("source\treference\nGood morning.\tகாலை வணக்கம்.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^eval_file: .*a\.tsv line 2 is not in Telugu script: .*1 of 1 rows"):
        load_eval("none", str(tmp_path / "a.tsv"), 10, 0, "te")


@pytest.mark.parametrize(
    ("name", "target", "asked"),
    [
        ("google/wmt24pp", "ta", ["en-ta_IN"]),
        ("google/wmt24pp", "te", ["en-te_IN"]),
        ("google/wmt24pp", "pt", ["en-pt_BR"]),
        ("google/wmt24pp", "pt-PT", ["en-pt_PT"]),
        ("google/wmt24pp", "ar", ["en-ar_SA"]),
        ("openlanguagedata/flores_plus", "ta", ["eng_Latn", "tam_Taml"]),
        ("openlanguagedata/flores_plus", "zh_TW", ["eng_Latn", "cmn_Hant"]),
        ("openlanguagedata/flores_plus", "et", ["eng_Latn", "ekk_Latn"]),
        ("ai4bharat/IN22-Gen", "te", [None]),
    ],
)
def test_sets_by_name_are_read_in_the_language(monkeypatch, name, target, asked):
    """Only the configurations that are asked for and the columns are checked: the hub is not there."""
    found = []

    def load(name, config=None, split=None):
        found.append(config)
        both = {"source": "Good morning.", "target": "శుభోదయం.", "eng_Latn": "Good morning.", "tel_Telu": "శుభోదయం."}
        return [both | {"id": 1, "text": "Good morning." if config == "eng_Latn" else "శుభోదయం."}]

    monkeypatch.setattr(eval_sets, "require_hub", lambda *args: None)
    monkeypatch.setattr(eval_sets, "_load", load)
    assert load_eval(name, "", 10, 0, target) == [TELUGU] and found == asked


def test_a_set_without_the_language_is_refused_before_the_hub_is_asked():
    with pytest.raises(ConfigError, match=r"^eval_dataset: ai4bharat/IN22-Gen has no French; google/wmt24pp and "):
        load_eval("ai4bharat/IN22-Gen", "", 10, 0, "fr")
    with pytest.raises(ConfigError, match=r"^target_language: WMT24\+\+ has no te_US; use te_IN$"):
        load_eval("google/wmt24pp", "", 10, 0, "te_US")
