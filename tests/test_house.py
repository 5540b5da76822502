"""The rules of the house, read from the syntax trees: who may import whom, how long a file or function may be.

CONTRIBUTING.md says them in prose.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NO_TORCH = ("errors", "config", "settings_file", "ranges", "hub", "files", "text", "data", "guards", "audit")
NO_TORCH += ("licences", "training.reward_log", "training.trl_settings")
NO_TORCH += ("preflight.memory_estimate", "preflight.findings")
NO_TORCH += ("scorers.mqm.endpoint", "scorers.mqm.form", "runs.checkpoints", "runs.metrics_file", "runs.wandb_run")
NO_TORCH = (*(f"rl_nmt.{name}" for name in NO_TORCH), "recipes.translategemma.settings")
NO_TORCH += ("recipes.preference.settings", "recipes.preference.orbax", "recipes.diffusion.settings")
NO_TORCH += tuple(f"recipes.replies.{name}" for name in ("settings", "components", "cheats"))
# These may import torch inside a function, to look at the devices.
LATE_TORCH = ("distributed", "runs", "preflight")
LATE_TORCH = tuple(f"rl_nmt.{name}" for name in LATE_TORCH)
LATE_TORCH += tuple(f"recipes.translategemma.{name}" for name in ("checks", "placement", "data", "records"))
LATE_TORCH += tuple(f"recipes.replies.{name}" for name in ("checks", "data", "split", "heuristic", "measure"))
LATE_TORCH += tuple(f"recipes.preference.{name}" for name in ("data", "mathvista", "reward", "accuracy", "gate"))
LATE_TORCH += ("recipes.preference.checks", "rl_nmt.fill", "rl_nmt.training.raft")
LATE_TORCH += tuple(f"recipes.diffusion.{name}" for name in ("checks", "data", "reward", "gate", "measure", "pretrain"))
HEAVY = {"torch", "transformers", "trl"}
SKIPPED = {"build", "__pycache__"}  # and hidden folders, and what runs leave at the top
LEFT_BY_RUNS = {"runs", "wandb"}
# No package of rl_nmt imports one of its own row or a later one; audit may use guards.
LEVELS = (
    ("errors", "config", "settings_file", "ranges", "files", "hub", "distributed", "progress", "licences"),
    ("text",),
    ("data", "runs", "models"),
    ("guards", "audit", "preflight", "backtranslation", "scorers"),
    ("results", "translate", "fill"),
    ("training",),
)
FILE_LINES = {"train_grpo_en_ta.py": 380, "recipes/translategemma/train.py": 280}  # all others 400
FUNCTION_LINES = 60
REQUIRED_PARAMETERS = 6  # below the scripts


def sources(root: Path) -> Iterator[Path]:
    """Every Python file of the repository, tests aside."""
    for folder, below, files in os.walk(root):
        skipped = SKIPPED | (LEFT_BY_RUNS | {"tests"} if Path(folder) == root else set())
        below[:] = sorted(name for name in set(below) - skipped if name[0] != ".")
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file of every module, tests and bench aside."""
    found = {}
    for path in sources(root):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] != "bench":
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, name: str) -> list[str]:
    """Every module a file imports, at any depth of its code; `if TYPE_CHECKING` bodies do not count."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return imported_by(path.read_text(encoding="utf-8"), package)


@functools.cache
def imported_by(code: str, package: str) -> list[str]:
    """Every module that code of a package imports."""
    found: list[str] = []
    queue: list[ast.AST] = [ast.parse(code)]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
            continue
        queue += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


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


def is_one_of(name: str, listed: tuple[str, ...]) -> bool:
    """Whether a module, or its package, is listed."""
    return any(name == light or name.startswith(f"{light}.") for light in listed)


def level(name: str) -> int:
    """The row of LEVELS that a module of rl_nmt belongs to; -1 outside and for rl_nmt itself."""
    part = name.split(".")[1] if name.startswith("rl_nmt.") else ""
    return next((i for i, row in enumerate(LEVELS) if part in row), -1)


def upward(name: str, imported: str) -> bool:
    """Whether an import from one package of rl_nmt into another breaks LEVELS; the ground may use itself."""
    importer, target = (dotted.split(".")[1:2] for dotted in (name, imported))
    here, there = level(name), level(imported)
    if -1 in (here, there) or importer == target or (importer, target) == (["audit"], ["guards"]):
        return False
    return there > here or there == here > 0


def strings(path: Path) -> Iterator[str]:
    """Every string of a file's code that is not a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value


def named_above(text: str, scripts: set[str]) -> set[str]:
    """Scripts that a string names, and the string itself where it is a module of recipes or pocket."""
    return {word for word in re.findall(r"\w+", text) if word in scripts} | set(
        re.findall(r"^(?:recipes|pocket)(?:[.:]\w+)+$", text)
    )


def import_violations(root: Path) -> list[str]:
    """Every broken rule about imports, one line each."""
    known = modules(root)
    scripts = {name for name in known if "." not in name and known[name].parent == root}
    bad = []
    for name, path in known.items():
        area = name.split(".")
        for imported in imports(path, name):
            top, *rest = imported.split(".")
            if area[0] == "rl_nmt" and top in scripts | {"recipes", "pocket", "tests"}:
                bad.append(f"{name} imports {imported} from above")
            if upward(name, imported):
                bad.append(f"{name} imports {imported}: no lower level")
            if area[0] == "recipes" and top == "recipes" and rest and area[1:2] != rest[:1]:
                bad.append(f"{name} imports another recipe, {imported}")
            if area[0] == "recipes" and top in ("pocket", "tests", "bench"):
                bad.append(f"{name} imports {imported}: a recipe stands on rl_nmt")
            if area[0] == "pocket" and top == "recipes":
                bad.append(f"{name} imports {imported} from above")
            if area[:2] == ["rl_nmt", "scorers"] and top in ("trl", "datasets"):
                bad.append(f"{name} imports {imported}: scorers run in any environment")
        if area[0] == "rl_nmt":
            named = {above for text in strings(path) for above in named_above(text, scripts)}
            bad += [f"{name} names {above} in a string" for above in sorted(named)]
        if area[0] == "rl_nmt" and len(area) > 1 and level(name) < 0:
            bad.append(f"{name} is at no level")
        if is_one_of(name, NO_TORCH):
            heavy = sorted(HEAVY & {imported.split(".")[0] for imported in reachable(name, known)})
            bad += [f"{name} reaches {imported}" for imported in heavy]
        if len(way := circle(name, known)) > 1:
            bad.append(f"{' → '.join(way)}: a circle")
    return bad


def circle(name: str, known: dict[str, Path]) -> list[str]:
    """A shortest chain of imports from a module back to itself; [] without one.

    Of `from package import module` the module counts, not the package too.
    """
    chains, seen = [[name]], set()
    while chains:
        chain = chains.pop(0)
        direct = set(imports(known[chain[-1]], chain[-1])) & set(known)
        for imported in sorted(direct - {longer.rpartition(".")[0] for longer in direct}):
            if imported == name:
                return [*chain, name]
            if imported not in seen:
                seen.add(imported)
                chains.append([*chain, imported])
    return []


def required(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many arguments a call of it must give, self and cls aside."""
    arguments = function.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    positional = positional[: len(positional) - len(arguments.defaults)]
    return len(set(positional) - {"self", "cls"}) + sum(default is None for default in arguments.kw_defaults)


def budget_violations(root: Path) -> list[str]:
    """Files, functions and signatures that are too long, one line each."""
    bad = []
    for path in sources(root):
        file, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        if text.count("\n") > FILE_LINES.get(file, 400):
            bad.append(f"{file} is too long")
        a_script = "/" not in file or file.endswith("/train.py")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if node.end_lineno - node.lineno >= FUNCTION_LINES:
                    bad.append(f"{file}: {node.name} is too long")
                if required(node) > REQUIRED_PARAMETERS and not a_script:
                    bad.append(f"{file}: {node.name} requires too many arguments")
    return bad


def test_nobody_breaks_the_rules():
    assert import_violations(ROOT) + budget_violations(ROOT) == []


def test_hardly_a_line_is_kept_from_the_formatter():
    files = [*sources(ROOT), *(ROOT / "tests").rglob("*.py")]
    assert sum(path.read_text(encoding="utf-8").count("# fmt: " + "skip") for path in files) <= 20


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("rl_nmt/hub.py", "import train_x", "from above"),
        ("rl_nmt/hub.py", "def f():\n    from pocket.world import build", "from above"),
        ("rl_nmt/scorers/a.py", "from recipes import x", "from above"),
        ("rl_nmt/scorers/a.py", "def f():\n    import datasets", "any environment"),
        ("rl_nmt/text/unicode.py", "def f():\n    if 1:\n        from torch import nn", "reaches torch"),
        ("rl_nmt/text/unicode.py", "from .. import distributed", "reaches transformers"),
        ("rl_nmt/text/unicode.py", "from ..distributed import g", "reaches transformers"),
        ("rl_nmt/text/prompts.py", "from rl_nmt.distributed import g", "reaches transformers"),
        ("recipes/one/train.py", "import recipes.two.train", "another recipe"),
        ("recipes/one/train.py", "def f():\n    import pocket.world", "stands on rl_nmt"),
        ("pocket/a.py", "from recipes.one import train", "from above"),
        (
            "recipes/translategemma/settings.py",
            "def f():\n    from rl_nmt.distributed import g",
            "reaches transformers",
        ),
        ("recipes/one/train.py", "import wandb_x\nimport torch", None),
        ("rl_nmt/text/unicode.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
        ("rl_nmt/models/a.py", "import torch\nfrom rl_nmt import distributed", None),
        ("recipes/one/train.py", "from recipes.one import x\nfrom rl_nmt import a", None),
        ("rl_nmt/a.py", "", "at no level"),
        ("rl_nmt/text/a.py", "def f():\n    from rl_nmt.guards import b", "no lower level"),
        ("rl_nmt/guards/a.py", "from ..scorers import b", "no lower level"),
        ("rl_nmt/audit/a.py", "from rl_nmt.guards import b", None),
        ("rl_nmt/results/a.py", "import rl_nmt.scorers.b", None),
        ("rl_nmt/training/a.py", "LOADER = 'train_x:make'", "train_x in a string"),
        ("rl_nmt/training/a.py", "f('start with python train_x.py')", "train_x in a string"),
        ("rl_nmt/training/a.py", "LOADER = 'pocket.world:load'", "pocket.world:load in a string"),
        ("rl_nmt/training/a.py", "'As train_x does.'\nf('configs/pocket.yaml')", None),
        ("wandb_x.py", "def f():\n    import train_x", "train_x → wandb_x → train_x: a circle"),
    ],
)
def test_the_rules_can_be_broken(tmp_path, file, code, complaint):
    there = ("rl_nmt/__init__.py", "rl_nmt/scorers/__init__.py", "pocket/world.py", "train_x.py", "wandb_x.py")
    for name in (*there, file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train_x.py").write_text("import wandb_x")
    (tmp_path / "rl_nmt" / "distributed.py").write_text("def g():\n    import transformers")
    (tmp_path / file).write_text(code)
    found = import_violations(tmp_path)
    assert complaint in found[0] if complaint else found == []


@pytest.mark.parametrize(
    ("signature", "count"),
    [
        ("a, b, /, c, *, d, e=1", 4),
        ("self, a, b=1, *more, c, **others", 2),
        ("cls", 0),
    ],
)
def test_required_arguments(signature, count):
    assert required(ast.parse(f"def f({signature}): pass").body[0]) == count


def test_the_budgets_can_be_broken(tmp_path):
    long = "def f(a, b, c, d, e, f, g):\n" + "    pass\n" * 60
    for file in ("rl_nmt/a.py", "train_x.py", "tests/test_a.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(long + "\n" * 340)
    found = [f"{file}: f is too long" for file in ("train_x.py", "rl_nmt/a.py")]
    assert set(budget_violations(tmp_path)) == {*found, *(line.replace(": f", "") for line in found)} | {
        "rl_nmt/a.py: f requires too many arguments"
    }


HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    sys.argv, shown = [name, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(shown):
            (runpy.run_path if name.endswith(".py") else runpy.run_module)(name, run_name="__main__")
    except SystemExit as left:
        print(name, left.code, "--" in shown.getvalue(), sorted({"torch", "trl", "datasets"} & set(sys.modules)))
"""


def test_help_loads_nothing_heavy():
    scripts = ["train_grpo_en_ta.py", "smoke_test_rewards.py", "rl_nmt.translate", "rl_nmt.guards"]
    scripts += [f"recipes.{path.parent.name}.train" for path in sorted((ROOT / "recipes").glob("*/train.py"))]
    line = [sys.executable, "-c", HELP, *scripts]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [f"{name} 0 True []" for name in scripts], done.stderr


def test_the_tree_in_contributing_is_the_tree():
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## The tree")[1].split("```")[1]
    top, below = re.findall(r"^([\w.]+/?)", tree, re.M), re.findall(r"^  ([\w.]+/?)", tree, re.M)
    assert sorted(top) == listing(ROOT)
    assert sorted(below) == listing(ROOT / "rl_nmt")
    for folder, modules in re.findall(r"^  (\w+)/ +(.+(?:\n {10,}.+)*)", tree, re.M):
        named = [name if name.endswith("/") else f"{name}.py" for name in re.findall(r"[\w]+/?", modules)]
        assert sorted(named) == listing(ROOT / "rl_nmt" / folder), folder


def listing(folder: Path) -> list[str]:
    """Python files and folders in a folder, sorted; without what a run, Python or git leaves there."""
    left = SKIPPED | {"__init__.py", "__main__.py"} | (LEFT_BY_RUNS if folder == ROOT else set())
    return sorted(
        path.name + "/" * path.is_dir()
        for path in folder.iterdir()
        if path.name not in left and path.name[0] != "." and (path.suffix == ".py" or path.is_dir())
    )


def light() -> list[str]:
    return sorted(
        name for name in modules(ROOT) if is_one_of(name, NO_TORCH + LATE_TORCH) and not name.endswith("__main__")
    )


def test_light_modules_load_nothing_heavy():
    code = f"import sys, {', '.join(light())}; print(sorted({{'datasets', *{HEAVY}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", light())
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_docstring_examples_exist():
    assert doctest.testmod(importlib.import_module("rl_nmt.text.unicode")).attempted >= 8


def test_the_paths_of_the_contributors_page_exist():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| (`.+) \|$", page.split("## Where do I change …?")[1], re.M)
    assert len(rows) == 10
    assert [path for row in rows for path in re.findall(r"`(.+?)`", row) if not (ROOT / path).exists()] == []
