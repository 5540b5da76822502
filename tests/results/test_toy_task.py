"""Launch gate, evaluation, divergence, report and model card on a task without translation: count the vowels."""

from __future__ import annotations

import json
import re

import pytest

from rl_nmt.audit.launch_gate import Cheat, launch_gate, require_launch
from rl_nmt.errors import RewardRefused
from rl_nmt.results import evaluation, report
from rl_nmt.results.divergence import DivergenceMonitor
from rl_nmt.results.model_card import model_card
from rl_nmt.results.task import Column, Task

WORDS = "stone river apple onion queue rhythm cloud idea lamp orange sky audio".split()
ROWS = [{"source": word} for word in WORDS]


def vowels(word: str) -> int:
    return len(re.findall("[aeiou]", word))


def exact(snapshot) -> list[float]:
    return [float(out == str(vowels(word))) for word, out in zip(snapshot.sources, snapshot.outputs, strict=True)]


TASK = Task(
    title="Counting vowels",
    columns=(
        Column("exact", "exactly right", 2, better=1, rows=exact),
        Column("digits", "only digits", value=lambda s: sum(text.isdigit() for text in s.outputs) / len(s.outputs)),
        Column("off", "off by", 1, better=-1),  # a component of the reward
    ),
    headline=("exact", "reward"),
    texts={"seen": "vowels seen"},
    inputs="words",
    outputs="counts",
    settings=("lr",),
)


class Reward:
    """1 for the right count, less the further off; `lenient` pays for any answer."""

    def __init__(self, lenient: bool = False):
        self.lenient = lenient

    def score_components(self, prompts, completions, source=None):
        return [self.row(word, text) for word, text in zip(source, completions, strict=True)]

    def row(self, word, text):
        if not text.isdigit():
            return {"total": float(self.lenient), "off": None, "gate": None if self.lenient else "no number"}
        off = abs(int(text) - vowels(word))
        seen = "".join(re.findall("[aeiou]", word))
        return {"total": 1 / (1 + off), "off": off, "gate": None, "seen": seen, "source": word, "output": text}

    def signature(self):
        return {"identity": {"reward": "vowels/1", "lenient": self.lenient}, "environment": {}}


def suite(pairs):
    families = (
        ("empty", True, lambda word: ""),
        ("echo", True, lambda word: word),
        ("letters", False, lambda word: str(len(word))),
    )
    return [Cheat(name, hard, i, make(word)) for name, hard, make in families for i, (word, _) in enumerate(pairs)]


PAIRS = [(word, str(vowels(word))) for word in WORDS]


def measured(monkeypatch, answer, reward=None) -> evaluation.Snapshot:
    """What a model that answers by `answer` would get."""
    made = lambda model, tokenizer, prompts, **_: [answer(prompt.split()[-1]) for prompt in prompts]  # noqa: E731
    monkeypatch.setattr("rl_nmt.models.generate.generate_together", made)
    prompt = "How many vowels has {}".format
    return evaluation.evaluate(None, None, ROWS, prompt, reward or Reward(), TASK, max_new_tokens=4)


def test_the_launch_gate_takes_the_suite(capsys):
    verdict = require_launch(Reward(), PAIRS, suite, 0.1, "a list of words")
    assert verdict["passed"] and verdict["pairs"] == len(WORDS)
    assert [family["name"] for family in verdict["families"]] == ["empty", "echo", "letters"]
    assert "launch gate: passed" in capsys.readouterr().out
    assert not launch_gate(Reward(lenient=True), PAIRS, suite, 0.1).passed
    with pytest.raises(RewardRefused, match="echo wins 12 of 12"):
        require_launch(Reward(lenient=True), PAIRS, suite, 0.1)


def test_evaluation_measures_and_names_the_tasks_columns(monkeypatch):
    before = measured(monkeypatch, lambda word: str(len(word)))
    after = measured(monkeypatch, lambda word: str(vowels(word)) if word != "sky" else "none")
    assert list(after.metrics) == ["reward", "off", "exact", "digits", "mean_length", "scored", "gated"]
    assert after.metrics["exact"] == after.metrics["digits"] == pytest.approx(11 / 12)
    result = evaluation.compare(before, after, TASK)
    assert set(result["p_value"]) == {"reward", "exact"} and result["p_value"]["exact"] < 0.01
    assert result["wins"]["exact"] == 11 and result["losses"]["exact"] == 0
    table = evaluation.print_table(result, TASK)
    assert re.search(r"^exactly right +0\.00 +0\.92 +\+0\.92 +0\.001$", table, re.MULTILINE), table
    row = evaluation.sample_rows(before, after, TASK)[0]
    assert row["after_scores"] == {"total": 1.0, "off": 0, "gate": None, "exact": 1.0} and row["after_seen"] == "oe"


def test_divergence_takes_any_outside_score(monkeypatch):
    monitor = DivergenceMonitor("exact", exact, WORDS)
    monitor.record(0, measured(monkeypatch, lambda word: str(vowels(word) + 2)))
    monitor.record(1, measured(monkeypatch, lambda word: str(vowels(word))))
    paid_for_nothing = measured(monkeypatch, lambda word: "many", Reward(lenient=True))
    assert monitor.record(2, paid_for_nothing) is None  # the reward is as high as before, not higher
    assert monitor.best_step == 1 and monitor.choice()["by"] == "exact"


def test_report_and_card_say_nothing_of_translation(monkeypatch, tmp_path):
    before = measured(monkeypatch, lambda word: str(len(word)))
    after = measured(monkeypatch, lambda word: str(vowels(word)))
    result = evaluation.compare(before, after, TASK)
    (tmp_path / "evaluation.json").write_text(json.dumps(result), encoding="utf-8")
    evaluation.write_samples(tmp_path / "samples.jsonl", before, after, TASK)
    rows = [{"step": step, "kind": "eval", "reward": 0.5, "exact": 0.1 * step} for step in (0, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "resolved_config.yaml").write_text("lr: 1.0e-5\nseed: 1\n", encoding="utf-8")
    page = report.write_report(tmp_path, TASK).read_text(encoding="utf-8")
    report.reward_curve_png(tmp_path / "metrics.jsonl", tmp_path / "curve.png", TASK)
    text = re.sub("</?bdi.*?>", "", page)
    assert "<h1>Counting vowels, before and after</h1>" in text and "Largest gains in exactly right" in text
    assert "<span>vowels seen</span>" in text and "All other settings (1)" in text and page.count("<figure>") == 2
    data = {"name": "words", "rows": 12, "sha256": "0" * 64}
    card = model_card(result, base_model="me/tiny", data=data, settings={"lr": 1e-5}, prompt="Count", task=TASK)
    assert "# tiny for Counting vowels" in card and "12 words" in card and "| exactly right | 0.00 | 1.00 |" in card
    assert "pipeline_tag: text-generation" in card and "language:" not in card
    for shown in (text.partition("</style>")[2], card, evaluation.print_table(result, TASK)):
        assert not re.search("transl|tamil|english|chrf|bleu", shown, re.IGNORECASE)
