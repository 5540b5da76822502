"""The page and the picture of a run."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from PIL import Image

from rl_nmt.errors import CannotWrite
from rl_nmt.results import report
from rl_nmt.results.translation import translation_task
from rl_nmt.text.languages import TAMIL

TASK = translation_task(TAMIL)

HOSTILE = "<script>alert(1)</script> \"double\" 'single' & </bdi><img src=x onerror=alert(2)> \u202eevil\u2066 நட"


class Page(HTMLParser):
    """What a browser would make of the page: its elements, and the text inside each <bdi>."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.isolated, self.outside, self._depth = [], [], [], "", 0
        self.feed(html)

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
        else:
            self.outside += data


def sample(i: int, old: float | None, new: float | None, **more):
    row = {
        "source": f"source {i}",
        "before": f"முன் {i}",
        "after": f"பின் {i}",
        "before_backtranslation": f"back before {i}",
        "after_backtranslation": f"back after {i}",
        "before_scores": {"total": old, "gate": None},
        "after_scores": {"total": new, "gate": None},
    }
    return row | more


def write_run(folder, samples):
    train = [{"step": s, "kind": "train", "reward": 0.4 + s / 100, "kl": s / 1000} for s in range(1, 11)]
    held_out = [{"step": s, "kind": "eval", "reward": 0.5} for s in (5, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train + held_out), "utf-8")
    comparison = {
        "rows": 3,
        "before": {"reward": 0.4, "chrf": 60.0, "gated": 0.5, "mean_length": 20.0},
        "after": {"reward": 0.5, "chrf": 66.25, "gated": 0.1, "mean_length": 22.0},
        "p_value": {"reward": 0.0009, "chrf": 0.0312},
        "wins": {"chrf": 2},
        "losses": {"chrf": 1},
        "ties": {"chrf": 0},
        "signature": {"chrf": "nrefs:1|nw:2", "reward": {"identity": {"qe": HOSTILE}}},
    }
    (folder / "evaluation.json").write_text(json.dumps(comparison), "utf-8")
    (folder / "samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in samples), "utf-8")
    config = {"model_id": HOSTILE, "lr": 2e-4, "group_size": 8, "output_dir": "runs/x"}
    (folder / "resolved_config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf-8")


def test_everything_foreign_is_text_and_isolated(tmp_path):
    row = sample(0, 0.1, 0.2, source=HOSTILE, reference=HOSTILE, before=HOSTILE, after=HOSTILE)
    row |= {"before_backtranslation": HOSTILE, "after_backtranslation": HOSTILE}
    row["after_scores"] = {"total": 0.0, "gate": HOSTILE, HOSTILE: 0.5}
    write_run(tmp_path, [row])
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    page = Page(html)
    assert "script" not in page.tags and not {name for name, _ in page.attributes if name.startswith("on")}
    shown = HOSTILE.replace("\u202e", "U+202E").replace("\u2066", "U+2066")
    # source, reference, 2 outputs, 2 back-translations, gate, score name, model_id; the signature is JSON
    assert page.isolated.count(shown) == 9
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", html)
    assert html.count("<bdi") == html.count("</bdi>") == page.attributes.count(("dir", "auto"))


def test_the_page_is_self_contained_and_closed(tmp_path):
    write_run(tmp_path, [sample(0, 0.1, 0.2)])
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    page = Page(html)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources and all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    assert "link" not in page.tags and "@import" not in html and "url(" not in html
    for tag in ("section", "article", "table", "div", "p", "dl", "figure", "ul", "details"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag
    svg = base64.b64decode(sources[0].partition(",")[2])
    assert svg.startswith(b"<?xml") and b"<script" not in svg


def test_the_numbers_are_on_the_page(tmp_path):
    write_run(tmp_path, [sample(0, 0.1, 0.2)])
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    html = re.sub("</?bdi.*?>", "", html)
    rows = dict(re.findall(r"<tr><th scope=row>(.*?)</th>(.*?)</tr>", html))
    cells = {name: re.findall(r"<td>(.*?)</td>", row) for name, row in rows.items()}
    assert cells["chrF++"] == ["60.0", "66.2", '<span class="up">+6.2</span>', "0.031"]
    assert cells["reward"] == ["0.400", "0.500", '<span class="up">+0.100</span>', "&lt; 0.001"]
    assert cells["gated"][2] == '<span class="up">-0.400</span>'  # fewer refusals are better
    assert cells["mean length"][2] == '<span class="">+2.0</span>'
    assert "by chrF++ 2 better, 1 worse, 0 equal" in html and "nrefs:1|nw:2" in html
    assert html.count("<figure>") == 2  # reward and KL; nobody logged a length


def test_the_page_says_whether_a_licence_forbids_commercial_use(tmp_path):
    write_run(tmp_path, [])
    path = tmp_path / "evaluation.json"
    comparison = json.loads(path.read_text(encoding="utf-8"))
    comparison["signature"]["reward"] = {"identity": {"qe": {"model": "Unbabel/XCOMET-XL"}, "w_qe": 1.0}}
    path.write_text(json.dumps(comparison), encoding="utf-8")
    html = re.sub("</?bdi.*?>", "", report.write_report(tmp_path, TASK, base_model="google/gemma-3-1b-it").read_text())
    assert "commercial use is forbidden by Unbabel/XCOMET-XL (CC-BY-NC-SA-4.0); pass on the Gemma Terms" in html


def test_a_headline_that_was_not_measured_before_and_numbers_that_are_no_metrics(tmp_path):
    write_run(tmp_path, [sample(0, 0.4, 0.5, after_scores={"total": 0.5, "gate": None, "margin": 0.25, "hide": 0.125})])
    path = tmp_path / "evaluation.json"
    comparison = json.loads(path.read_text(encoding="utf-8"))
    comparison["after"]["implicit"] = 0.9753
    path.write_text(json.dumps(comparison), encoding="utf-8")
    task = dataclasses.replace(TASK, headline=("implicit", "reward", "nowhere"), hidden=("hide",))
    report.write_report(tmp_path, task)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.outside.split())
    assert "0.975 not measured before" in text and "from 0.400" in text and page.tags.count("small") >= 2
    assert "margin" in text and "0.250" in text and "0.125" not in text


def test_gains_losses_and_random_rows_are_separate(tmp_path):
    changes = [0.3, -0.2, 0.0, 0.1, -0.4, *([0.0] * 20)]
    write_run(tmp_path, [sample(i, 0.5, 0.5 + change) for i, change in enumerate(changes)])
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    gains, losses, chance = (part.split("<h3>")[0] for part in html.split("<h3>")[1:])
    assert re.findall(r"source (\d+)", gains) == ["0", "3"]
    assert re.findall(r"source (\d+)", losses) == ["4", "1"]
    assert len(re.findall(r"<article>", chance)) == report.SAMPLES
    assert not {"0", "1", "3", "4"} & set(re.findall(r"source (\d+)", chance))
    assert html == report.write_report(tmp_path, TASK).read_text("utf-8")  # same run, same page


def test_chrf_ranks_the_samples_where_references_exist(tmp_path):
    rows = [sample(0, 0.1, 0.9), sample(1, 0.9, 0.1)]
    for row, (old, new) in zip(rows, [(80.0, 20.0), (20.0, 80.0)], strict=True):
        row["before_scores"]["chrf"], row["after_scores"]["chrf"] = old, new
    write_run(tmp_path, rows)
    html = re.sub("</?bdi.*?>", "", report.write_report(tmp_path, TASK).read_text("utf-8"))
    gains = html.split("Largest gains in chrF++")[1].split("<h3>")[0]
    assert "source 1" in gains and "source 0" not in gains


def test_gated_empty_and_unscored_outputs_say_so(tmp_path):
    row = sample(0, None, 0.0, after="")
    row["after_scores"]["gate"] = "blank"
    write_run(tmp_path, [row])
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    assert "not scored" in html and "gated: " in html and "<i class=empty>empty</i>" in html


def test_an_unfinished_run_still_gives_a_page(tmp_path):
    html = report.write_report(tmp_path, TASK).read_text("utf-8")
    for name in ("metrics.jsonl", "evaluation.json", "samples.jsonl", "resolved_config.yaml"):
        assert f"{name} is not in the run folder yet" in html


def test_metrics_survive_a_resume_a_torn_line_and_nulls(tmp_path):
    lines = [
        {"step": 1, "kind": "train", "reward": 0.1},
        {"step": 2, "kind": "train", "reward": 0.2},
        {"step": 2, "kind": "eval", "reward": 0.9},
        {"step": 2, "kind": "train", "reward": 0.25},  # the step was run again after a resume
        {"step": 3, "kind": "train", "reward": None, "kl": 0.5},
        {"step": 4, "kind": "train"},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in lines) + '{"step": 5, "rew', encoding="utf-8")
    metrics = report.read_metrics(path)
    assert report.series(metrics["train"], "reward") == ([1, 2], [0.1, 0.25])
    assert report.series(metrics["train"], "kl") == ([3], [0.5])
    assert report.series(metrics["eval"], "reward") == ([2], [0.9])


def test_moving_average_against_pandas():
    pandas = pytest.importorskip("pandas")
    values = [0.5, 0.1, 0.9, 0.3, 0.3, 0.7]
    expected = pandas.Series(values).ewm(alpha=0.1, adjust=False).mean().tolist()
    assert report.moving_average(values, 0.9) == pytest.approx(expected)


def test_the_curve_is_a_picture_that_shows_the_data(tmp_path):
    write_run(tmp_path, [])
    report.reward_curve_png(tmp_path / "metrics.jsonl", tmp_path / "curve.png", TASK)
    report.reward_curve_png(tmp_path / "none.jsonl", tmp_path / "empty.png", TASK)
    curve, empty = Image.open(tmp_path / "curve.png"), Image.open(tmp_path / "empty.png")
    assert curve.size == empty.size and curve.size[0] > 800

    def teal(image):
        colors = image.convert("RGB").getcolors(1 << 24)
        return sum(count for count, color in colors if color == (15, 118, 110))

    assert teal(curve) > 500 and teal(empty) == 0


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    with pytest.raises(CannotWrite, match=r"report\.html"):
        report.write_report(tmp_path / "gone", TASK)
