"""Plain English: ten phrases that are hard to read stay out of what the code raises, prints and offers as help."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from field_docs import field_docs

from recipes.translategemma.settings import TranslateGemmaCfg
from train_grpo_en_ta import RunCfg

ROOT = Path(__file__).parents[1]
HARD_TO_READ = [
    r"\bis no (?!longer\b)[a-z]",
    r"\b(?:is|are) none\b",
    r"\bis (?:asked|told) (?:for|of)\b",
    r"\bto be had\b",
    r"\banew\b",
    r"\bway out\b",
    r"\b(?:lies?|stands?) (?:in|inside|beside)\b",
    r"\bgoes? on\b",
    r"\bcomes again\b",
    r"\b(?:Compared|Counted|Measured|Kept) (?:is|are)\b",
]
SPEAKING = ("print", "say", "warn", "add_argument", "error", "ConfigError", "Finding", "fail")
PLACES = ["rl_nmt", "recipes", "pocket", "bench", *(path.name for path in ROOT.glob("*.py"))]


def messages(path: Path):
    """(line, text) of every string inside raise, print, add_argument and the like, f-strings without their values."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    spoken = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        or (isinstance(node, ast.Call) and _name(node.func) in SPEAKING)
        or (isinstance(node, ast.Assign) and "ACTIONS" in map(_name, node.targets))
    )
    for node in spoken:
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.parametrize("place", PLACES)
def test_messages_are_easy_to_read(place):
    paths = sorted((ROOT / place).rglob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in paths
        for line, text in messages(path)
        if any(re.search(phrase, text, re.IGNORECASE) for phrase in HARD_TO_READ)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("settings", [RunCfg, TranslateGemmaCfg])
def test_help_is_easy_to_read(settings):
    docs = field_docs(settings)
    hard = [name for name, text in docs.items() if any(re.search(phrase, text, re.I) for phrase in HARD_TO_READ)]
    assert len(docs) > 50 and not hard


def test_the_phrases_would_be_found(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('raise ValueError(f"{1} is no number")\nprint("x")\n"is no docstring"\n', encoding="utf-8")
    assert list(messages(path)) == [(1, " is no number"), (2, "x")]
    assert [bool(re.search(HARD_TO_READ[0], text)) for _, text in messages(path)] == [True, False]


def hard_sentences() -> list[str]:
    """Lines ("file:line: text") of code and documents with one of six phrases; tests and docs/LOG.md aside."""
    phrases = re.compile(
        r"\bis no (?!longer\b)[a-z]|\b(?:are|is) none\b|\bto be had\b|\banew\b|\bway out\b|\b(?:lies?|stands?) in\b"
    )
    kinds = {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".jinja"}
    found = []
    for folder in ("", *PLACES[:4], "configs", "docs", "examples", "scripts", ".github"):
        paths = (ROOT / folder).rglob("*") if folder else ROOT.glob("*")
        for path in sorted(path for path in paths if path.suffix in kinds and path.is_file()):
            if path.name != "LOG.md" and "build" not in path.parts:
                lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
                found += [
                    f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
                    for number, line in lines
                    if phrases.search(line)
                ]
    return found


def test_code_and_documents_are_easy_to_read():
    assert len(found := hard_sentences()) <= 5, "\n".join(found)


if __name__ == "__main__":  # prints them
    print("\n".join([*(found := hard_sentences()), f"{len(found)} lines"]))
