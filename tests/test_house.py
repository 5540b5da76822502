"""Who may import whom (the house rules), read from the syntax trees; and the docstring examples that run."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_TORCH = ("errors", "config", "hub", "files", "text", "data", "guards", "audit", "runs", "training.reward_log")
NO_TORCH += ("preflight.network", "preflight.memory_estimate", "preflight.environments", "preflight.findings")
NO_TORCH += ("scorers.mqm.endpoint", "scorers.mqm.form")
NO_TORCH = tuple(f"rl_nmt.{name}" for name in NO_TORCH)
NO_TORCH += tuple(f"recipes.translategemma.{name}" for name in ("settings", "checks", "placement", "data", "records"))
HEAVY = {"torch", "transformers", "trl"}
SKIPPED = {".venv", ".venv-t5", ".git", "runs", "build", "__pycache__", ".ci"}


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file of every Python file of the repository, tests aside."""
    found = {}
    for folder, below, files in os.walk(root):
        below[:] = sorted(set(below) - SKIPPED)
        for path in (Path(folder, name) for name in sorted(files) if name.endswith(".py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] not in ("tests", "bench"):
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, name: str) -> Iterator[str]:
    """Every module a file imports, at any depth of its code; `if TYPE_CHECKING` bodies do not count."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    queue: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
            continue
        queue += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def reachable(name: str, known: dict[str, Path]) -> set[str]:
    """Every module that `name` may import, through the repository's own modules."""
    seen: set[str] = set()
    queue = [name]
    while queue:
        current = queue.pop()
        for imported in imports(known[current], current):
            if imported not in seen:
                seen.add(imported)
                if imported in known:
                    queue.append(imported)
    return seen


def is_light(name: str) -> bool:
    """Whether a module, or its package, must not reach HEAVY."""
    return any(name == light or name.startswith(f"{light}.") for light in NO_TORCH)


def violations(root: Path) -> list[str]:
    """Every broken rule of the house, one line each."""
    known = modules(root)
    scripts = {name for name in known if "." not in name and known[name].parent == root}
    bad = []
    for name, path in known.items():
        area = name.split(".")
        for imported in imports(path, name):
            top, *rest = imported.split(".")
            if area[0] == "rl_nmt" and top in scripts | {"recipes", "pocket", "tests"}:
                bad.append(f"{name} imports {imported} from above")
            if area[0] == "recipes" and top == "recipes" and rest and area[1:2] != rest[:1]:
                bad.append(f"{name} imports another recipe, {imported}")
            if area[0] == "recipes" and top in ("pocket", "tests", "bench"):
                bad.append(f"{name} imports {imported}: a recipe stands on rl_nmt")
            if area[0] == "pocket" and top == "recipes":
                bad.append(f"{name} imports {imported} from above")
            if area[:2] == ["rl_nmt", "scorers"] and top in ("trl", "datasets"):
                bad.append(f"{name} imports {imported}: scorers run in any environment")
    for name in known:
        if is_light(name):
            heavy = sorted(HEAVY & {imported.split(".")[0] for imported in reachable(name, known)})
            bad += [f"{name} reaches {imported}" for imported in heavy]
    return bad


def test_nobody_breaks_the_rules():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("rl_nmt/a.py", "import train_x", "from above"),
        ("rl_nmt/a.py", "def f():\n    from pocket.world import build", "from above"),
        ("rl_nmt/scorers/a.py", "from recipes import x", "from above"),
        ("rl_nmt/scorers/a.py", "def f():\n    import datasets", "any environment"),
        ("rl_nmt/text/unicode.py", "def f():\n    if 1:\n        from torch import nn", "reaches torch"),
        ("rl_nmt/text/unicode.py", "from .. import helper", "reaches transformers"),
        ("rl_nmt/text/unicode.py", "from ..helper import g", "reaches transformers"),
        ("rl_nmt/text/prompts.py", "from rl_nmt.helper import g", "reaches transformers"),
        ("recipes/one/train.py", "import recipes.two.train", "another recipe"),
        ("recipes/one/train.py", "def f():\n    import pocket.world", "stands on rl_nmt"),
        ("pocket/a.py", "from recipes.one import train", "from above"),
        ("recipes/translategemma/data.py", "def f():\n    from rl_nmt.helper import g", "reaches transformers"),
        ("recipes/one/train.py", "import wandb_x\nimport torch", None),
        ("rl_nmt/text/unicode.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
        ("rl_nmt/a.py", "import torch\nfrom rl_nmt import errors", None),
        ("recipes/one/train.py", "from recipes.one import x\nfrom rl_nmt import a", None),
    ],
)
def test_the_rules_can_be_broken(tmp_path, file, code, complaint):
    there = ("rl_nmt/__init__.py", "rl_nmt/scorers/__init__.py", "pocket/world.py", "train_x.py", "wandb_x.py")
    for name in (*there, file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "rl_nmt" / "helper.py").write_text("def g():\n    import transformers")
    (tmp_path / file).write_text(code)
    found = violations(tmp_path)
    assert complaint in found[0] if complaint else found == []


def light() -> list[str]:
    return sorted(name for name in modules(ROOT) if is_light(name) and not name.endswith("__main__"))


def test_light_modules_load_nothing_heavy():
    code = f"import sys, {', '.join(light())}; print(sorted({{'datasets', *{HEAVY}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", light())
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_docstring_examples_exist():
    assert doctest.testmod(importlib.import_module("rl_nmt.text.unicode")).attempted >= 8
