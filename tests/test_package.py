"""What pyproject.toml promises: the names it lists, the installed package, the example that uses it."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version
from tiny_run import command

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXAMPLE = ROOT / "examples" / "reward_in_your_own_trl_script.py"
OWN = {"rl_nmt", "recipes", "pocket", "bench", *(path.stem for path in ROOT.glob("*.py"))}
# Imported where they are installed, or said by a script that needs them.
OPTIONAL = {"vllm", "icu", "num2words", "num_to_words", "indic_numtowords", "bitsandbytes", "orbax"}
OF_TRANSFORMERS = "4" if Version(importlib.metadata.version("transformers")).major < 5 else "5"


def names(requirements: list[str]) -> set[str]:
    """Distribution names of requirement lines, comments and versions aside, as the index normalises them."""
    found = (re.match(r"[\w.-]+", line) for line in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def pinned(file: str) -> set[str]:
    return names((ROOT / file).read_text(encoding="utf-8").splitlines())


def test_requirement_files_have_the_packages_of_the_project():
    needed, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    assert pinned("requirements.txt") == needed | names(extras["comet"])
    assert pinned("requirements-transformers5.txt") == needed
    assert pinned("requirements-vllm.txt") == needed | {"vllm"}
    assert pinned("requirements-dev.txt") == names(extras["dev"]) > pinned("requirements-replies.txt")
    assert pinned("requirements-replies.txt") == names(extras["replies"])
    assert pinned("requirements-orbax.txt") == names(extras["orbax"])


def test_every_imported_package_is_listed():
    distributions = importlib.metadata.packages_distributions()
    imported = set()
    for path in ROOT.rglob("*.py"):
        folders = path.relative_to(ROOT).parts[:-1]
        if "build" in folders or folders[:1] in (("tests",), ("runs",)) or any(f.startswith(".") for f in folders):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
    foreign = imported - OWN - OPTIONAL - set(sys.stdlib_module_names) - {"comet"}
    assert {"scipy", "requests", "safetensors", "numpy", "packaging"} <= foreign
    known = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["replies"])
    unknown = {module for module in foreign if not names(distributions[module]) & known}
    assert not unknown


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the installed package and nothing else of this repository."""
    if Version(importlib.metadata.version("setuptools")) < Version("77.0.3"):
        pytest.skip("setuptools is too old to build the package without the network")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE", "rewards_en_ta_dupo.py", "wandb_reward_callback.py"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "rl_nmt", source / "rl_nmt", ignore=shutil.ignore_patterns("__pycache__"))
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, source], check=True)
    return target


def test_the_installed_package_has_every_file(installed):
    def files(folder):
        found = (path.relative_to(folder) for path in (folder / "rl_nmt").rglob("*") if path.is_file())
        return {str(path) for path in found if "__pycache__" not in path.parts}

    assert files(installed) == files(ROOT)
    assert (installed / "rewards_en_ta_dupo.py").is_file() and (installed / "wandb_reward_callback.py").is_file()


def example(script, installed, models, folder):
    flags = [f"--{flag}={models[name]}" for flag, name in (("policy", "policy"), ("nllb", "nllb"))]
    flags += [f"--comet_{name}={models[name]}" for name in ("da", "qe")]
    env = {"PYTHONPATH": installed, "NETRC": folder / "no-netrc", "WANDB_CONFIG_DIR": folder}  # nobody is logged in
    return command(script, *flags, "--max_steps=1", f"--output_dir={folder / 'run'}", cwd=folder, **env)


def test_the_example_trains_with_the_installed_reward(installed, tiny_all, tmp_path):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 40
    done = example(EXAMPLE, installed, tiny_all, tmp_path)
    assert done.returncode == 0, done.stderr
    log = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert 0 < log["reward/total"] <= 1 and log["reward/missing_share"] == 0
    assert "repair_gemma3" not in done.stderr


@pytest.mark.skipif(OF_TRANSFORMERS == "5", reason="transformers 5 needs no repair")
def test_without_the_repair_the_reward_names_it_before_trl_fails(installed, tiny_all, tmp_path):
    text = EXAMPLE.read_text(encoding="utf-8")
    script = tmp_path / "unrepaired.py"
    script.write_text(text.replace("\nrepair_gemma3()", "\n"), encoding="utf-8")
    done = example(script, installed, tiny_all, tmp_path)
    failed = [line for line in done.stderr.splitlines() if line.startswith("AttributeError")]
    assert done.returncode != 0 and "last_hidden_state" in failed[0]
    (warning,) = [line for line in done.stderr.splitlines() if "rl_nmt.models.repair_gemma3()" in line]
    assert "Gemma3ForCausalLM" in warning
