"""Progress of long work: redrawn in a terminal, plain lines elsewhere, nothing for short work; and who shows it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios

import pytest
from tiny_models import PAIRS, PROMPT
from tiny_run import SENTENCES, write_data

from rl_nmt import errors, progress, translate
from rl_nmt.audit import launch_gate, preferences
from rl_nmt.audit.launch_gate import Cheat
from rl_nmt.data import corpus
from rl_nmt.guards.__main__ import main as guards
from rl_nmt.results import evaluation, translation
from rl_nmt.scorers.base import Scores
from rl_nmt.text.languages import TAMIL
from rl_nmt.training.setup import measure_jitter


@pytest.fixture
def clock(monkeypatch):
    """[seconds since the start], the time that progress lines see."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    """terminal(columns) makes standard output and error a terminal; the function it returns ends that and reads it."""

    def become(columns: int):
        reader, writer = pty.openpty()
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("4H", 24 if columns else 0, columns, 0, 0))
        screen = open(writer, "w", encoding="utf-8", buffering=1)
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setattr(sys, "stderr", screen)

        def read() -> str:
            screen.close()
            parts = []
            with contextlib.suppress(OSError):  # no writer is left
                while part := os.read(reader, 2**16):
                    parts.append(part)
            os.close(reader)
            return b"".join(parts).decode()

        return read

    return become


def work(clock, seconds: float, unit: str = "pieces", what: str = "work", say: str = "") -> None:
    """Ten pieces that take `seconds` each; a warning after the sixth."""
    with progress.progress(what, 10, unit) as bar:
        for done in range(1, 11):
            clock[0] += seconds
            bar.update()
            if say and done == 6:
                errors.warn(say)


def screen(written: str) -> list[str]:
    """The lines that a terminal shows."""
    lines = []
    for line in written.split("\r\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        lines.append(cells.rstrip())
    return lines


# --- the line ------------------------------------------------------------------------------------------


def test_without_a_terminal_a_line_every_few_seconds(clock, capsys):
    work(clock, 2.0)
    lines = ["work: 3 of 10 pieces, 00:14 left", "work: 6 of 10 pieces, 00:08 left", "work: 9 of 10 pieces, 00:02 left"]
    assert capsys.readouterr().out.splitlines() == lines
    work(clock, 1000.0, unit="")
    assert capsys.readouterr().out.startswith("work: 1 of 10, 2:30:00 left\n")


def test_short_work_and_work_without_a_name_print_nothing(clock, capsys):
    work(clock, 0.4)
    work(clock, 60.0, what="")
    assert capsys.readouterr() == ("", "")


def test_lines_are_whole_and_not_repeated(clock, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    work(clock, 2.0, say="careful")
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == [f"work: {n} of 10 pieces" for n in (3, 6, 9)]
    assert err == "warning: careful\n" and out.endswith(" left\n")
    with pytest.raises(ValueError), progress.progress("work", 10) as bar:
        clock[0] += 6
        bar.update(4)
        raise ValueError
    assert capsys.readouterr().out.count("\n") == 1


def test_in_a_terminal_one_line_is_redrawn_and_goes_away(clock, terminal):
    read = terminal(80)
    work(clock, 2.0, say="careful")
    print("done")
    written = read()
    assert written.count("\r\n") == 2 and screen(written) == ["warning: careful", "done", ""]
    until_the_end = written[: written.rindex("work: 10 of 10")]
    assert screen(until_the_end)[-1] == "work: 9 of 10 pieces, 00:02 left"
    assert [f"work: {n} of 10 pieces" in written for n in range(11)] == [True] * 11


def test_a_terminal_without_columns_gets_lines(clock, terminal):
    read = terminal(0)
    work(clock, 2.0)
    assert read().startswith("work: 3 of 10 pieces, 00:14 left\r\nwork: 6 of 10")


# --- who shows it --------------------------------------------------------------------------------------


class Half:
    """A reward, and a scorer, that gives everything a half."""

    def score_components(self, prompts, completions, source=None):
        return [{"total": 0.5, "gate": None} for _ in completions]

    def signature(self):
        return {"identity": {}}


def counted(text: str, what: str) -> list[int]:
    """The numbers of the lines about `what`, which must be all lines of `text`."""
    lines = text.splitlines()
    found = [re.fullmatch(rf"{what}: (\d+) of \d+ \w+, \d\d:\d\d left", line) for line in lines]
    assert all(found), lines
    return [int(match[1]) for match in found]


@pytest.fixture(params=["long", "short"])
def long(request, monkeypatch):
    """Whether work is long: a line at every update."""
    if request.param == "long":
        monkeypatch.setattr(progress, "EVERY", 0.0)
    return request.param == "long"


def test_evaluation(tiny_gemma, monkeypatch, capsys, long):
    monkeypatch.setattr(evaluation, "SCORED_TOGETHER", 2)
    model, tokenizer = translate.load(tiny_gemma, "cpu")
    rows = [{"source": english, "reference": tamil} for english, tamil in PAIRS[:5]]
    sizes = {"max_new_tokens": 2, "batch_size": 2}
    evaluation.evaluate(model, tokenizer, rows, str, Half(), translation.translation_task(TAMIL), **sizes)
    out = capsys.readouterr().out
    generated, scored = out.splitlines()[:2], out.splitlines()[2:]
    assert counted("\n".join(generated), "held-out generation") == [2, 4][: 2 * long]
    assert counted("\n".join(scored), "held-out scoring") == [2, 4][: 2 * long]


def test_launch_gate(monkeypatch, capsys, long):
    monkeypatch.setattr(launch_gate, "BATCH", 4)
    suite = lambda pairs: [Cheat("copy", True, i, pair[0]) for i, pair in enumerate(pairs)]  # noqa: E731
    launch_gate.launch_gate(Half(), PAIRS[:5], suite, 0.1)
    assert counted(capsys.readouterr().out, "launch gate") == [4, 8][: 2 * long]
    launch_gate.score_rows(Half(), ["a"] * 9, ["b"] * 9)
    assert capsys.readouterr().out == ""


def test_independent_scorer(monkeypatch, capsys, long):
    class Lengths:
        name, range, higher_is_better = "lengths", (0.0, 200.0), True

        def score(self, segments):
            return Scores([float(len(segment.mt)) for segment in segments])

    monkeypatch.setattr("rl_nmt.scorers.comet.load_comet", lambda **options: Lengths())
    monkeypatch.setattr(translation, "SCORED_TOGETHER", 2)
    monitor = translation.divergence_monitor([{"source": "a"}] * 5, "a scorer", device="cpu")
    capsys.readouterr()
    outputs = ["", "b", "bb", "bbb", "bbbb"]
    assert monitor.independent(evaluation.Snapshot(["a"] * 5, [None] * 5, outputs, [], {})) == [0, 1, 2, 3, 4]
    assert counted(capsys.readouterr().out, "independent scorer") == [2, 4][: 2 * long]


def test_preferences(monkeypatch, capsys, long):
    monkeypatch.setattr(launch_gate, "BATCH", 4)
    preferences.judge(Half(), [("a", "b", "c")] * 5)
    assert counted(capsys.readouterr().out, "preferences") == [4, 8][: 2 * long]


def test_noise_floor(capsys, long):
    measure_jitter(Half(), ["a"] * 4, ["b"] * 4)
    assert counted(capsys.readouterr().out, "noise floor") == [4, 6, 8, 10, 12, 14][: 6 * long]


def test_data(tmp_path, capsys, long):
    file, _ = write_data(tmp_path)
    source = {"dataset_name": str(file), "num_train_samples": 20, "num_eval_samples": 5, "min_chars": 1}
    corpus.materialise(tmp_path / "data", corpus.CorpusSettings(**source, max_chars=len(max(SENTENCES, key=len))))
    assert counted(capsys.readouterr().out, "data") == [*range(1, 25)][: 24 * long]


def test_translation_keeps_standard_output_clean(tiny_gemma, tmp_path, capsys, long):
    (tmp_path / "in.txt").write_text("\n\n".join(english for english, _ in PAIRS[:5]), encoding="utf-8")
    words = ["--model", str(tiny_gemma), "--template", PROMPT, "--file", str(tmp_path / "in.txt")]
    assert translate.main([*words, "--batch_size", "2", "--max_new_tokens", "40", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[::2] == [tamil for _, tamil in PAIRS[:5]]
    assert counted("\n".join(err.splitlines()[-2 * long :] if long else []), "translation") == [2, 4][: 2 * long]
    assert "translation:" not in out and ("translation:" in err) == long


def test_gates_keep_standard_output_clean(tmp_path, capsys, long):
    (tmp_path / "pairs.tsv").write_text("source\treference\na\tb\nc\td\ne\tf\n", encoding="utf-8")
    assert guards([str(tmp_path / "pairs.tsv")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("gate ") and counted(err, "gates") == [1, 2][: 2 * long]
