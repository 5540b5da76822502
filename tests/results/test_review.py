"""The review sheet: what a reviewer sees and does not see, answers and back, and the same in a real browser."""

from __future__ import annotations

import base64
import csv
import doctest
import hashlib
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from scipy.stats import binomtest

from rl_nmt.errors import ConfigError
from rl_nmt.results import review, review_answers
from rl_nmt.results.review_answers import kappa, plain_cell, spreadsheet_cell, wilson

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "<script>alert(1)</script> \"double\" 'single' & </bdi><img src=x onerror=alert(2)> \u2028\u202eevil\u2066\x00 நட"
)
SEEN = HOSTILE.replace("\u202e", "U+202E").replace("\u2066", "U+2066").replace("\x00", "")


def sample(i: int, **more):
    scores = {"total": i / 100, "chrf": 50.0, "gate": None}
    row = {"source": f"text {i}", "before": f"முன் {i}", "after": f"பின் {i}"}
    return {**row, "before_scores": scores, "after_scores": scores | {"total": 0.5}, **more}


def write_run(folder: Path, rows, name="samples.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.fixture
def run(tmp_path):
    """A run of twelve rows, two of them with equal outputs."""
    return write_run(
        tmp_path / "run", [sample(i) for i in range(10)] + [sample(i, before="=", after="=") for i in (10, 11)]
    )


def key_of(paths) -> dict:
    return json.loads(paths[2].read_text("utf-8"))


def answered(key: dict, wanted: dict[int, str], **more) -> dict:
    """The file that the page saves; `wanted`: row → after, before, same or both bad."""
    sides = {row["row"]: {row["left"]: "left", review.SIDES[row["left"] == "before"]: "right"} for row in key["rows"]}
    rows = [{"row": row, "choice": sides[row].get(choice, choice), "note": ""} for row, choice in wanted.items()]
    return {"sheet": key["sheet"], "run": key["run"], "reviewer": "", "answers": rows, **more}


def saved(path: Path, content) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


class Page(HTMLParser):
    """What a browser would make of the page: its elements, and the text inside each <bdi>."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.isolated, self._depth = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "bdi":
            self._depth += 1
            self.isolated.append("")

    def handle_endtag(self, tag):
        self._depth -= tag == "bdi"

    def handle_data(self, data):
        if self._depth:
            self.isolated[-1] += data


# The page


def test_everything_foreign_is_text(tmp_path):
    name = "a<script>b</script>\"'&"
    shown, key = review.make_sheet([sample(0, source=HOSTILE, before=HOSTILE, after=HOSTILE + "!")], name, 5, 0)
    text = review.page(shown, key)
    page = Page(text)
    assert sorted(page.isolated) == sorted([SEEN, SEEN, SEEN + "!", name])
    assert page.tags.count("script") == text.count("<script") == 1 and "img" not in page.tags
    assert ("data-run", name) in page.attributes and not [n for n, _ in page.attributes if n.startswith("on")]
    assert not re.search("[\x00\u202a-\u202e\u2066-\u2069]", text)


def test_the_page_loads_nothing_and_runs_only_its_own_script(run):
    text = review.write_sheet(run, seed=0)[0].read_text("utf-8")
    page = Page(text)
    (policy,) = [v for n, v in page.attributes if n == "content" and "default-src" in v]
    (script,) = re.findall("<script>(.*)</script>", text, re.S)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in policy and policy.startswith("default-src 'none'")
    assert not {"link", "img", "iframe"} & set(page.tags) and "url(" not in text and "@import" not in text
    assert not [name for name, _ in page.attributes if name in ("src", "href")]
    buttons = [value for name, value in page.attributes if name == "value"]
    assert [v for v in buttons if v in ("left", "right", "same", "both bad")] == [
        "left",
        "right",
        "same",
        "both bad",
    ] * 10


def test_nothing_tells_which_side_is_which(run):
    """With before and after exchanged, page and CSV differ only where the texts and the sheet's hash do."""
    swapped = [row | {"before": row["after"], "after": row["before"]} for row in review.read_samples(run)]
    for make in (review.page, lambda shown, key: review.paper(shown, key["sheet"])):
        pages = []
        for rows in (review.read_samples(run), swapped):
            shown, key = review.make_sheet(rows, "run", 50, seed=3)
            text = make(shown, key).replace(key["sheet"], "SHEET")
            assert not re.search("before|after|reward|chrf", text, re.I)
            pages.append(re.sub("முன்|பின்", "TEXT", text))
            assert text.count("முன்") == text.count("பின்") == 10
        assert pages[0] == pages[1]
    keys = [review.make_sheet(rows, "run", 50, seed=3)[1] for rows in (review.read_samples(run), swapped)]
    assert [row["left"] for row in keys[0]["rows"]] == [row["left"] for row in keys[1]["rows"]]
    assert keys[0]["sheet"] != keys[1]["sheet"]


def test_rows_and_sides_are_drawn_by_the_seed(run):
    rows = review.read_samples(run)
    shown, key = review.make_sheet(rows, "run", 4, 0)
    assert (shown, key) == review.make_sheet(rows, "run", 4, 0)
    assert [row["row"] for row in shown] == [1, 2, 3, 4] and len({row["source"] for row in shown}) == 4
    sheets = [review.make_sheet(rows, "run", 4, seed) for seed in range(30)]
    assert len({key["sheet"] for _, key in sheets}) == 30
    alone = {review.make_sheet(rows, "run", 1, seed)[1]["rows"][0]["left"] for seed in range(30)}
    assert alone == {"before", "after"}
    lefts = {tuple(row["left"] for row in key["rows"]) for _, key in sheets}
    assert len(lefts) == 6 and all(left.count("after") == 2 for left in lefts)  # C(4, 2)
    for shown, key in sheets:
        for seen, secret in zip(shown, key["rows"], strict=True):
            assert seen["left"].startswith("பின்" if secret["left"] == "after" else "முன்")


def test_equal_outputs_are_left_out_and_counted(run):
    paths = review.write_sheet(run)
    key = key_of(paths)
    assert (len(key["rows"]), key["differing"], key["equal"], key["held_out"]) == (10, 10, 2, 12)
    assert "2 more\nrows have two equal outputs" in paths[0].read_text("utf-8")
    out = review.read_sheet(run, [saved(run / "a.json", answered(key, {1: "after"}))])
    assert "10 of the 10 rows whose outputs differ; 2 more have equal outputs" in out


def test_only_the_last_step_counts_and_a_recipe_may_name_its_samples_otherwise(tmp_path):
    rows = [{"step": step, **sample(i, after=f"new {step}")} for step in (0, 5, 10) for i in range(3)]
    run = write_run(tmp_path / "tg", rows, "eval_outputs.jsonl")
    assert {row["after"] for row in review.read_samples(run)} == {"new 10"}


def test_a_second_sheet_keeps_the_first(run, tmp_path, capsys):
    assert review.main([str(run), "--rows", "3"]) == review.main([str(run), "--rows", "3"]) == 0
    printed = capsys.readouterr().out
    files = sorted(path.name for path in (run / "review").iterdir())
    assert len(files) == 6 and all(name in printed for name in files)
    first = review.write_sheet(run, 3, seed=1)
    contents = [path.read_bytes() for path in first]
    assert review.write_sheet(run, 3, seed=1) == first and [path.read_bytes() for path in first] == contents
    saved(first[2], "other")
    with pytest.raises(ConfigError, match="--seed"):
        review.write_sheet(run, 3, seed=1)


# Paper


def test_the_csv_runs_no_formula_and_comes_back(tmp_path):
    texts = ["=1+1", "+1", "-1", "@a", "\tx", "＝1", "'quoted", 'plain, with "quotes"', "two\nlines", "", "நட \u202e"]
    assert [plain_cell(spreadsheet_cell(text)) for text in texts] == texts
    run = write_run(tmp_path / "run", [sample(i, before=text, after=text + "x") for i, text in enumerate(texts)])
    content = review.write_sheet(run, seed=0)[1].read_bytes()
    assert content.startswith("\ufeffsheet,row,source,left,right,choice,note\r\n".encode())
    rows = list(csv.reader(content.decode("utf-8-sig").splitlines(keepends=True)))[1:]
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t＝")] and len(rows) == len(texts)
    outputs = {plain_cell(cell) for row in rows for cell in row[3:5]}
    assert {text.replace("\u202e", "[U+202E]") for text in texts} <= outputs
    assert all(row[5:] == ["", ""] and re.fullmatch("s[0-9a-f]{12}", row[0]) for row in rows)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_filled_csv_says_the_same_as_the_page(run, separator):
    paths = review.write_sheet(run, seed=0)
    key = key_of(paths)
    wanted = answered(key, {1: "after", 2: "after", 3: "before", 5: "same"})
    given = {row["row"]: row["choice"] for row in wanted["answers"]}
    wanted["answers"][0]["note"] = "-- ஒரு குறிப்பு"
    rows = list(csv.reader(paths[1].read_text("utf-8-sig").splitlines()))
    for row in rows[1:]:
        row[5] = given.get(int(row[1]), "").title() + " "  # as people and spreadsheets write it
        row[6] = spreadsheet_cell("-- ஒரு குறிப்பு") if row[1] == "1" else ""
    with (run / "paper.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([[*rows[0], ""], *rows[1:], [""] * 7])
    page = review.read_sheet(run, [saved(run / "answers.json", wanted)])
    paper = review.read_sheet(run, [run / "paper.csv"])
    assert paper.replace("paper.csv", "answers.json").split() == page.split()
    assert "ஒரு குறிப்பு" in paper


# Numbers


def test_win_rate_and_agreement_by_hand(tmp_path):
    """Scores: the reward rises in rows of even text number, chrF++ in 0 to 5 only; row 9 has no total."""
    rows = []
    for i in range(10):
        old = {"total": 0.5, "chrf": 50.0, "note": "text"}
        new = {"total": 0.5 + (0.1 if i % 2 == 0 else -0.1), "chrf": 60.0 if i <= 5 else 40.0, "flag": True}
        rows.append(sample(i, before_scores=old, after_scores=new | ({"total": None} if i == 9 else {})))
    run = write_run(tmp_path / "run", rows)
    shown, key = review.make_sheet(review.read_samples(run), "run", 50, 1)
    review.write_sheet(run, seed=1)
    row_of = {int(row["source"].split()[1]): row["row"] for row in shown}
    anna = {
        0: "after",
        1: "after",
        2: "after",
        3: "after",
        4: "before",
        5: "before",
        6: "same",
        7: "both bad",
        9: "after",
    }
    files = [saved(run / "anna.json", answered(key, {row_of[i]: c for i, c in anna.items()}, reviewer="Anna"))]
    out = review.read_sheet(run, files)
    low, high = binomtest(5, 7).proportion_ci(method="wilson")
    line = next(line for line in out.splitlines() if "(Anna)" in line)
    assert line.split("(Anna)")[1].split() == ["9", "5", "2", "1", "1", "0.714", f"[{low:.3f},", f"{high:.3f}]"]
    # after 0 1 2 3, before 4 5; the reward prefers after in 0 2 4: agrees in 0, 2 and 5
    assert re.search(r"reward +3 of 6 +0\.500", out)
    # chrF++ prefers after in 0 to 5, before in 9: agrees in 0 1 2 3
    assert re.search(r"chrF\+\+ +4 of 7 +0\.571", out) and "flag" not in out

    ravi = {0: "after", 1: "after", 2: "before", 3: "same", 4: "before", 5: "same", 8: "before"}
    files.append(saved(run / "ravi.json", answered(key, {row_of[i]: c for i, c in ravi.items()})))
    both = review.read_sheet(run, files)
    # per row: after 0 1 3 9, before 4 5 8, neither 2 (one each) 6 7
    assert "majority of each row: after 4, before 3, neither 3; win rate of after 0.571" in both
    assert "3 of 6 rows alike (0.500), kappa" in both  # 0 1 4


def test_agreement_is_that_of_the_choices_as_they_were_seen(run):
    """Left and right: p_o 3 / 4, p_e 1/2 · 1/4 + 1/2 · 3/4 = 1/2. A third file answers other rows."""
    key, paths = key_of(review.write_sheet(run)), []
    for name, first, choices in (
        ("a", 1, "left left right right"),
        ("b", 1, "left right right right"),
        ("c", 7, "left"),
    ):
        rows = [{"row": row, "choice": choice} for row, choice in enumerate(choices.split(), first)]
        paths.append(saved(run / f"{name}.json", {"sheet": key["sheet"], "answers": rows}))
    out = review.read_sheet(run, paths)
    assert f"{paths[0]} and {paths[1]}: 3 of 4 rows alike (0.750), kappa 0.500" in out
    assert out.count("no row has both answers") == 2


def test_answers_without_a_preference_are_a_result(run):
    """Both bad everywhere is the most telling one: shown with its notes, without a win rate."""
    key = key_of(review.write_sheet(run))
    rows = [{"row": row, "choice": "both bad", "note": f"no. {row}"} for row in (1, 2, 3)]
    path = saved(run / "anna.json", {"sheet": key["sheet"], "answers": rows})
    lines = review.read_sheet(run, [path]).splitlines()
    (line,) = [line for line in lines if line.startswith(str(path))]
    assert line.split()[1:] == ["3", "0", "0", "0", "3", "–"] and any(line.endswith("no. 2") for line in lines)
    assert not any("the preferred output" in line for line in lines)


def test_a_file_given_twice_is_refused(run):
    key = key_of(review.write_sheet(run))
    one = saved(run / "a.json", answered(key, {1: "after"}))
    other = saved(run / "b.json", answered(key, {1: "after"}))
    for paths in ([one, one], [one, other]):
        with pytest.raises(ConfigError, match=r"--read: .* the same content"):
            review.read_sheet(run, paths)


def test_kappa_and_wilson_against_other_sources():
    # Cohen's kappa by hand: 20 of 50 both yes, 15 both no, 5 and 10 mixed: p_o 0.7, p_e 0.5 · 0.6 + 0.5 · 0.4 = 0.5
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("a", "b"), ("b", "c"), ("c", "a")]) == pytest.approx(-0.5)  # p_o 0, p_e 3 / 9
    assert kappa([("a", "a")] * 3) is None
    for hits, count in ((0, 1), (0, 20), (7, 9), (20, 20), (31, 42)):
        assert wilson(hits, count) == pytest.approx(
            tuple(binomtest(hits, count).proportion_ci(method="wilson")), abs=1e-9
        )


def test_the_docstring_examples_hold():
    found = doctest.testmod(review_answers)
    assert found.failed == 0 and found.attempted >= 4


def simulated(rows, seed: int, folder: Path, noise: float) -> tuple[float, float]:
    """The interval that --read prints for a reviewer who prefers the higher chrF++ in a share 1 - noise of the rows."""
    _, key = review.make_sheet(rows, "run", 50, seed)
    saved(folder / "review" / f"{key['sheet']}.key.json", key)
    chance = random.Random(f"{seed} {noise}")
    wanted = {}
    for row in key["rows"]:
        better = "after" if row["after"]["chrf"] > row["before"]["chrf"] else "before"
        other = "before" if better == "after" else "after"
        wanted[row["row"]] = "same" if chance.random() < 0.1 else other if chance.random() < noise else better
    out = review.read_sheet(folder, [saved(folder / "a.json", answered(key, wanted))])
    return tuple(float(bound) for bound in re.search(r"a\.json .*\[(.*), (.*)\]", out).groups())


def test_the_win_rate_of_simulated_reviewers_is_recovered(tmp_path):
    (tmp_path / "run" / "review").mkdir(parents=True)
    draw = random.Random(0)
    gains = [draw.gauss(3, 10) for _ in range(400)]
    rows = [sample(i, before_scores={"chrf": 50.0}, after_scores={"chrf": 50 + gain}) for i, gain in enumerate(gains)]
    truth = sum(0.8 if gain > 0 else 0.2 for gain in gains) / len(gains)
    assert 0.53 < truth < 0.63
    inside = [low <= truth <= high for low, high in (simulated(rows, s, tmp_path / "run", 0.2) for s in range(200))]
    assert sum(inside) >= 184  # 95 % of 200 are 190
    opposite = [low <= truth <= high for low, high in (simulated(rows, s, tmp_path / "run", 0.8) for s in range(40))]
    assert sum(opposite) <= 28  # the same check can fail


def test_answers_are_read_when_the_samples_have_changed(run):
    key = key_of(review.write_sheet(run))
    write_run(run, [])
    assert "1.000" in review.read_sheet(run, [saved(run / "a.json", answered(key, {1: "after"}))])


def test_notes_say_which_side_is_which_and_cannot_act_in_a_terminal(run):
    key = key_of(review.write_sheet(run))
    content = answered(key, {1: "after"}, reviewer="A\x1b\nB")
    content["answers"].append({"row": 2, "note": "left \x1b[31mwrong\nname"})
    out = review.read_sheet(run, [saved(run / "a.json", content)])
    assert f"note on row 2 (left is {key['rows'][1]['left']})" in out
    assert "left [31mwrong name" in out and "\x1b" not in out and re.search(r"a\.json \(A B\) +1 +1 +0", out)


# What is refused


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "samples.jsonl not found"),
        ([], "not every row"),
        ([{"source": "a", "before": "b"}], "not every row"),
        ([sample(0, before="x\n", after=" x")], "equal in all 1 rows"),
    ],
)
def test_a_run_without_a_review_is_refused(tmp_path, rows, message):
    run = tmp_path / "run"
    if rows is not None:
        write_run(run, rows)
    with pytest.raises(ConfigError, match=f"RUN: .*{message}"):
        review.write_sheet(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: json.dumps(a)[:-5], "damaged JSON"),
        (lambda a: "[" * 100_000, "has no answers"),
        (lambda a: '{"a":' + "[" * 100_000, "damaged JSON"),
        (lambda a: "", "has no answers"),
        (lambda a: a | {"sheet": "s0123456789ab"}, "no key of the sheet 's0123456789ab' of the run 'run'"),
        (lambda a: a | {"sheet": "../" + "x" * 500}, "no key of the sheet"),
        (lambda a: a | {"sheet": 5}, "must be a text"),
        (lambda a: a | {"run": "other", "sheet": "s0123456789ab"}, "of the run 'other'"),
        (lambda a: a | {"extra": 1}, "key 'extra' is unknown"),
        (lambda a: a | {"answers": {"1": "left"}}, "answers a list"),
        (lambda a: a | {"answers": ["left"]}, "has no row and choice"),
        (lambda a: a | {"answers": [{"row": 1, "choise": "left"}]}, "key 'choise' is unknown"),
        (lambda a: a | {"answers": [{"row": 1, "choice": "middle"}]}, "choice 'middle' is unknown"),
        (lambda a: a | {"answers": [{"row": 1, "choice": ["left"]}]}, "choice .* is unknown"),
        (lambda a: a | {"answers": [{"row": 1, "note": 3}]}, "note 3 is unknown"),
        (lambda a: a | {"answers": [{"row": "one", "choice": "left"}]}, "row 'one'"),
        (lambda a: a | {"answers": [{"choice": "left"}]}, "row None"),
        (lambda a: a | {"answers": [{"row": 11, "choice": "left"}]}, "no row 11"),
        (lambda a: a | {"answers": a["answers"] * 2}, "row 1 is answered twice"),
        (lambda a: a | {"answers": []}, "no row is answered"),
        (lambda a: f"sheet,row,choise\r\n{a['sheet']},1,left\r\n", "key 'choise' is unknown"),
        (lambda a: f"sheet,row\r\n{a['sheet']},1\r\n", "a column is missing"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},1\r\n", "a column is missing"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},1,left\r\n{a['sheet']},1,right\r\n", "row 1 is answered twice"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},1.5,left\r\n", "row '1.5'"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},{'1' * 5000},left\r\n", "row '111"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},1,middle\r\n", "choice 'middle' is unknown"),
        (lambda a: f"sheet,row,choice\r\n{a['sheet']},1,left\r\nother,2,left\r\n", "name 2 sheets"),
        (lambda a: "sheet,row,choice\r\n", "name 0 sheets"),
        (lambda a: "sheet,row,choice\r\n" + "x" * 200_000, "not a readable CSV"),
    ],
)
def test_wrong_answers_are_refused(run, change, message):
    key = key_of(review.write_sheet(run))
    path = saved(run / "answers.json", change(answered(key, {1: "after"})))
    with pytest.raises(ConfigError, match=f"--read: .*{message}") as error:
        review.main([str(run), "--read", str(path)])
    assert "\n" not in str(error.value)


def test_unreadable_files_and_keys_are_refused(run, tmp_path):
    paths = [review.write_sheet(run, seed=seed) for seed in (0, 1)]
    files = [saved(run / f"{i}.json", answered(key_of(path), {1: "after"})) for i, path in enumerate(paths)]
    with pytest.raises(ConfigError, match=r"1\.json is of the sheet"):
        review.read_sheet(run, files)
    with pytest.raises(ConfigError, match=r"gone\.json cannot be read"):
        review.read_sheet(run, [run / "gone.json"])
    (run / "latin.csv").write_bytes("sheet,row,choice\r\né".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        review.read_sheet(run, [run / "latin.csv"])
    with pytest.raises(ConfigError, match=r"RUN: .*folder not found"):
        review.read_sheet(tmp_path / "gone", files[:1])
    for content in ("{", "[]", json.dumps(key_of(paths[1])), json.dumps(key_of(paths[0]) | {"rows": [{"row": 1}]})):
        saved(paths[0][2], content)
        with pytest.raises(ConfigError, match=r"RUN: .*key\.json is damaged"):
            review.read_sheet(run, files[:1])
    paths[0][2].unlink()
    with pytest.raises(ConfigError, match="has no key of the sheet"):
        review.read_sheet(run, files[:1])


@pytest.mark.parametrize("flags", [["--rows=0"], ["--seed=-1"]])
def test_flags_out_of_range_are_refused(run, flags):
    with pytest.raises(ConfigError, match=flags[0].split("=")[0]):
        review.main([str(run), *flags])


def test_the_command_answers_help_without_torch_and_ends_with_status_2(tmp_path):
    line = [sys.executable, "-X", "importtime", "-m", "rl_nmt.results.review"]
    done = subprocess.run([*line, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--read" in done.stdout
    assert not re.search(r"\| +(torch|numpy|jinja2|matplotlib)$", done.stderr, re.M)
    done = subprocess.run([*line[:1], *line[3:], tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: RUN: ") and done.stderr.count("\n") == 1


# A real browser

needs_browser = pytest.mark.skipif(not browser.PROGRAM, reason="needs chromium, chromium-browser or google-chrome")
PROGRESS = "document.getElementById('progress').textContent"


@pytest.mark.slow
@needs_browser
def test_a_real_browser_takes_keeps_and_saves_the_answers(run, tmp_path):
    paths = review.write_sheet(run, seed=0)
    url, sheet = paths[0].as_uri(), key_of(paths)["sheet"]
    with browser.tab(tmp_path / "home") as tab:
        tab.open(url)
        for key in ("1", "ArrowRight", "s", "B"):  # rows 1 to 4
            tab.press(key)
        for key in ("ArrowDown", "j", "k", "2"):  # row 6; row 5 stays open
            tab.press(key)
        for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):  # row 5
            tab.press(key)
        tab.press("2")  # row 6: taken back
        assert tab.run(PROGRESS) == "5 of 10"
        tab.press("2")  # row 6 again; then row 7
        tab.press("1", modifiers=browser.CONTROL)
        tab.press("1", autoRepeat=True)
        tab.press("o", "KeyS")  # another keyboard layout: o is not s
        assert tab.run(PROGRESS) == "6 of 10"
        tab.press("ள", "KeyS")  # a Tamil keyboard has no s: its place counts
        tab.press("n")  # note on row 8
        tab.call("Input.insertText", text="பெயர் </script>\u2028")
        tab.press("1")
        tab.press("Escape")
        tab.tap("#reviewer")
        tab.call("Input.insertText", text="அண்ணா")
        tab.press("2")
        tab.tap("article:nth-of-type(9) [value=right]")
        assert tab.run(PROGRESS) == "8 of 10" and tab.run("current") == 9
    with browser.tab(tmp_path / "home") as tab:
        tab.open(url)
        assert tab.run(PROGRESS) == "8 of 10" and tab.run("current") == 7  # the first without an answer
        tab.tap("#export")
        file = tmp_path / "home" / "Downloads" / f"answers-{sheet}-அண்ணா2.json"
        while not file.exists():
            tab.run("0")  # until the limit of the tab
        content = json.loads(file.read_text("utf-8"))
        tab.run("window.confirm = () => true")
        tab.tap("#clear")
        tab.open("about:blank")
        tab.open(url)
        assert tab.run(PROGRESS) == "0 of 10"
    assert (content["reviewer"], content["run"], content["sheet"]) == ("அண்ணா2", "run", sheet)
    choices = ["left", "right", "same", "both bad", "left", "right", "same", "", "right"]
    assert [(row["row"], row["choice"]) for row in content["answers"]] == list(enumerate(choices, 1))
    assert [row["note"] for row in content["answers"]] == ["", "", "", "", "", "", "", "பெயர் </script>\u20281", ""]
    out = review.read_sheet(run, [file])
    assert re.search(r"json \(அண்ணா2\) +8 ", out) and "note on row 8" in out


@pytest.mark.slow
@needs_browser
def test_a_phone_shows_the_sheet_and_takes_touches(run, tmp_path):
    long = " ".join(["நீளமான"] * 200)
    write_run(run, [sample(i, source="word" * 50, before=long, after=f"{long}.") for i in range(3)])
    page = review.write_sheet(run)[0]
    with browser.tab(tmp_path / "home") as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=True)
        tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
        tab.open(page.as_uri())
        assert tab.run("document.documentElement.scrollWidth") == 360
        rectangle = "document.querySelector('article:nth-of-type({}) [value=same]').getBoundingClientRect().toJSON()"
        tab.tap("article:nth-of-type(1) [value=same]", touch=True)
        tab.wait(f"{PROGRESS} === '1 of 3' && current === 1")
        button = tab.run(rectangle.format(2))  # in sight, although its row is longer than the screen
        assert button["height"] >= 48 and button["width"] >= 48 and 0 < button["top"] < button["bottom"] <= 640


@pytest.mark.slow
@needs_browser
def test_a_real_browser_runs_nothing_foreign(tmp_path):
    """The page's own script runs under its policy; one that were injected in spite of all escaping would not."""
    hostile = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    run = write_run(tmp_path / "run", [sample(i, source=hostile, before=HOSTILE, after=hostile) for i in range(2)])
    page = review.write_sheet(run)[0]
    page.write_text(page.read_text("utf-8").replace("</html>", f"{hostile}</html>"), "utf-8")
    with browser.tab(tmp_path / "home") as tab:
        tab.open(page.as_uri())
        assert tab.run("document.title") == "Review · run"
        assert tab.run("document.querySelectorAll('script').length") == 2  # the injected one is there
        assert tab.run("cards.length") == 2 and tab.run("document.querySelector('.source').innerText") == hostile
