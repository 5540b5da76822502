"""The checklists name tests that exist, and the recipes' READMEs name their configurations."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.checklists import CHECKLISTS

ROOT = Path(__file__).resolve().parents[1]
NAMED = sorted({test for _, lines in CHECKLISTS.values() for tests in lines.values() for test in tests})


@pytest.mark.parametrize("recipe", CHECKLISTS)
def test_no_line_is_missing(recipe):
    count, lines = CHECKLISTS[recipe]
    assert [int(line.split()[0]) for line in lines] == list(range(1, count + 1))
    assert all(lines.values())


@pytest.mark.parametrize("named", NAMED)
def test_the_named_test_exists(named):
    file, name = named.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("recipe", CHECKLISTS)
def test_every_configuration_is_in_the_readme(recipe):
    folder = ROOT / "recipes" / recipe
    readme = (folder / "README.md").read_text(encoding="utf-8")
    configs = {path.name for path in (folder / "configs").glob("*.yaml")}
    assert configs and configs == set(re.findall(r"`(\w+\.yaml)`", readme)) - {"resolved_config.yaml"}
