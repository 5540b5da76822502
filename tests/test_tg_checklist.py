"""The table of capabilities in the recipe's README names tests that exist, for each of 28 lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = (TESTS.parent / "recipes" / "translategemma" / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| (\d+) \| .* \| ((?:`test_\w+\.py::test_\w+`(?:, )?)+) \|$", README, re.MULTILINE)
NAMED = [name for _, names in LINES for name in re.findall(r"`(\w+\.py)::(\w+)`", names)]


def test_there_are_28():
    assert [int(number) for number, _ in LINES] == list(range(1, 29))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_named_test_exists(file, name):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_configuration_is_in_the_table():
    configs = {path.name for path in (TESTS.parent / "recipes" / "translategemma" / "configs").glob("*.yaml")}
    assert configs == set(re.findall(r"`(\w+\.yaml)`", README)) - {"resolved_config.yaml"}
