"""`make try`: held-out sentences before and after training, and sentences of the user's."""

from __future__ import annotations

import builtins
import doctest
import io
import json
import re
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import tiny_models

import smoke_test_rewards
from pocket import grammar, shard, show
from pocket.grammar import Pair
from rl_nmt import translate
from rl_nmt.errors import ConfigError
from rl_nmt.text.known_words import known_words, unknown_words

ROOT = Path(__file__).resolve().parents[2]


def sample(source: str, before: float, after: float, gate: str | None = None, back: str = "A cat.") -> dict:
    """A row of samples.jsonl with these chrF++."""
    row = {"source": source, "reference": "பூனை.", "before": "நாய்.", "before_backtranslation": "A dog."}
    row |= {"before_scores": {"gate": None, "chrf": before}, "after_scores": {"gate": gate, "chrf": after}}
    return row | {"after": "பூனை தூங்குகிறது.", "after_backtranslation": back}


SAMPLES = [
    sample("Ten less.", 60, 50),
    sample("Equal.", 40, 40),
    *(sample(f"{gain} more.", 40, 40 + gain) for gain in (1, 50, 2, 30, 3)),
    sample("Forty less.", 50, 10, "loop", ""),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_gemma, tiny_nllb):
    """A finished run whose policy knew nothing before, and knows tiny_models.PAIRS by heart after."""
    import torch
    from transformers import Gemma3ForCausalLM

    folder = tmp_path_factory.mktemp("show")
    world, run = folder / "world", folder / "run"
    shutil.copytree(tiny_gemma, world / "policy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Gemma3ForCausalLM(Gemma3ForCausalLM.from_pretrained(tiny_gemma).config).save_pretrained(world / "policy")
    shutil.copytree(tiny_nllb, world / "nllb")
    shard.write_words(world / "words.txt", [Pair(*pair) for pair in tiny_models.PAIRS])
    shutil.copytree(tiny_gemma, run / "final")
    (run / "final" / "prompt.txt").write_text(tiny_models.PROMPT, encoding="utf-8")
    settings = {"model_id": str(world / "policy"), "backtranslation_model": str(world / "nllb")}
    settings |= {"backtranslation_beams": 1, "max_new_tokens": 40}
    (run / "resolved_config.yaml").write_text(json.dumps(settings), encoding="utf-8")
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in SAMPLES]
    (run / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    (run / "evaluation.json").write_text("{}", encoding="utf-8")
    return run


def blocks(capsys) -> list[str]:
    return capsys.readouterr().out.strip("\n").split("\n\n")


@pytest.mark.parametrize("missing", show.FILES)
def test_a_run_that_is_not_finished(run, tmp_path, missing):
    unfinished = shutil.copytree(run, tmp_path / "run")
    (unfinished / missing).unlink()
    with pytest.raises(ConfigError, match="make train"):
        show.main(["--run", str(unfinished)])


def test_held_out_sentences_are_shown_without_a_model(run):
    code = f"from pocket import show; import sys; show.main(['--run', {str(run)!r}]); sys.exit('torch' in sys.modules)"
    line = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(line, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    head, _, *shown = done.stdout.strip("\n").split("\n\n")
    assert "8 held-out sentences: 5 rose, 2 fell, 1 unchanged." in head
    assert [re.split(" {2,}", block.splitlines()[0]) for block in shown] == [
        ["50 more.", "largest gain, chrF++ 40 → 90"],
        ["3 more.", "median gain, chrF++ 40 → 43"],
        ["Forty less.", "largest loss, chrF++ 50 → 10"],
        ["Ten less.", "median loss, chrF++ 60 → 50"],
    ]
    rows = [re.split(" {2,}", line.strip()) for line in shown[0].splitlines()[1:]]
    assert rows == [["before", "A dog.", "நாய்."], ["after", "A cat.", "பூனை தூங்குகிறது."], ["reference", "பூனை."]]
    assert "after      (invalid: loop; reward 0)" in shown[2]


def test_a_long_output_is_cut_to_two_lines_of_100_columns():
    shown = show.table_row("after", "very " * 40, "மிகவும் " * 40).splitlines()
    assert len(shown) == 2 and max(map(len, shown)) <= 100
    assert shown[0].split()[0] == "after" and shown[1].count("…") == 2


def test_a_sentence_is_translated_by_both_models(run, capsys):
    show.main(["--run", str(run), "--text", "the BOY reads, a book", "--text", "Where is the market?"])
    tamil = dict(tiny_models.PAIRS)
    for block, english in zip(blocks(capsys)[-2:], ("The boy reads a book.", "Where is the market?"), strict=True):
        title, *before, after = block.splitlines()
        assert title == english and before[0].split()[0] == "before"
        assert re.split(" {2,}", after.strip()) == ["after", english, tamil[english]]
        assert tamil[english] not in "\n".join(before)


def test_unknown_words_are_named_and_nothing_is_translated(run, capsys, monkeypatch):
    typed = "The boy sneezed at a boock.\n\n...\nசோ\n\udcff\n".encode("utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
    monkeypatch.setattr(show.Translator, "__call__", None)
    show.main(["--run", str(run)])
    named = [block.splitlines() for block in blocks(capsys)[-3:]]
    assert [line.split(": ")[1] for _, line in named] == ["sneezed, boock (book?)", "சோ", "\ufffd"]


@pytest.mark.parametrize("end", ["", EOFError, KeyboardInterrupt])
def test_a_terminal_is_asked_until_the_end(run, capsys, monkeypatch, end):
    answers = iter(["The boy sneezed.", "Squirrels wept.", end])

    def typed(_prompt: str) -> str:
        answer = next(answers)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(builtins, "input", typed)
    assert show.main(["--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.count("does not know: sneezed\n") == out.count("does not know: Squirrels, wept\n") == 1
    assert next(answers, None) is None


def test_words_are_spelled_as_inside_a_sentence(tmp_path):
    taught = [Pair("Meena's cat saw I.", ""), Pair("The cat slept.", ""), Pair("Did Ravi see the cat?", "")]
    shard.write_words(tmp_path / "words.txt", taught)
    words = (tmp_path / "words.txt").read_text(encoding="utf-8").split()
    assert words == sorted(["Meena's", "cat", "saw", "I", "the", "slept", "did", "Ravi", "see"])


def test_the_examples_of_the_documents_are_in_the_pocket_world(tmp_path):
    (tmp_path / "policy").mkdir()
    shard.write_words(tmp_path / "words.txt", islice(grammar.pairs(0, max_words=7), 3000))
    known = known_words(str(tmp_path / "policy"))
    pages = [(ROOT / "README.md").read_text(encoding="utf-8"), translate.__doc__, smoke_test_rewards.__doc__]
    lines = [line for page in pages for line in page.splitlines() if "pocket" in line]
    examples = [text for line in lines for text in re.findall(r'--(?:text|prompt) "(.+?)"', line)]
    assert len(examples) >= 3
    for text in [*examples, *re.findall('--text "(.+?)"', show.__doc__), show.EXAMPLE, smoke_test_rewards.DEMO[0][0]]:
        assert unknown_words(text, known) == [], text


def test_docstring_examples_run():
    assert doctest.testmod(show) == (0, 2)
