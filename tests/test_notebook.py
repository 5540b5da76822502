"""notebooks/quickstart.ipynb: kept without outputs, and what it names exists. .ci/run_notebook.py runs it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from tiny_run import ROOT

import train_grpo_en_ta as script
from rl_nmt import config, translate

NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
DOCUMENT = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
CELLS = {cell["id"]: "".join(cell["source"]) for cell in DOCUMENT["cells"]}
CODE = {cell["id"]: CELLS[cell["id"]] for cell in DOCUMENT["cells"] if cell["cell_type"] == "code"}
CONFIGS = ["configs/pocket.yaml", "configs/gemma3_1b_16gb.yaml"]
OF_OTHERS = {"depth", "without-pip", "python", "quiet", "disable-pip-version-check", "index-url", "version"}
OF_OTHERS |= {"query-gpu", "format", "help"}


def settings() -> dict:
    nodes = ast.parse(CODE["settings"]).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


@pytest.fixture
def execute(monkeypatch):
    """(ids of cells, settings) → their namespace, after they ran with these environment variables."""

    def ran(*names, **overrides):
        stub = SimpleNamespace(HTML=str, Image=str, display=print)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(display=stub))
        monkeypatch.setitem(sys.modules, "IPython.display", stub)
        for name, value in overrides.items():
            monkeypatch.setenv(f"RL_NMT_NOTEBOOK_{name}", value)
        space: dict = {}
        for name in names:
            exec(compile(CODE[name], name, "exec"), space)
        return space

    return ran


def test_it_is_kept_as_nbformat_4_5_without_outputs():
    assert (DOCUMENT["nbformat"], DOCUMENT["nbformat_minor"]) == (4, 5)
    assert len(CELLS) == len(DOCUMENT["cells"]) > 10  # ids are unique
    assert all(re.fullmatch(r"[\w-]{1,64}", name) for name in CELLS)
    for cell in DOCUMENT["cells"]:
        kept = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        assert cell == {key: cell[key] for key in ("cell_type", "id", "source")} | {"metadata": {}} | kept
    assert DOCUMENT["metadata"]["kernelspec"]["name"] == "python3" and "widgets" not in DOCUMENT["metadata"]


@pytest.mark.parametrize("name", CODE)
def test_cells_are_plain_python(name):
    compile(CODE[name], name, "exec")


def test_one_line_is_to_fill_in():
    lines = [line for line in CODE["settings"].splitlines() if "REPO_URL" in line]
    assert len(lines) == 1 and lines[0].startswith('REPO_URL = ""  #') and settings()["REPO_URL"] == ""


def test_files_modules_and_pages_that_it_names_exist():
    text = "\n".join(CELLS.values())
    files = re.findall(r"\b(?:configs|docs|notebooks)/\w+\.\w+|\b\w+_\w+\.py\b", text)
    modules = re.findall(r'"-m", "(\w+\.\w+)"', text)
    assert {*CONFIGS, "docs/licences.md", "train_grpo_en_ta.py"} <= set(files)
    assert [name for name in files if not (ROOT / name).is_file()] == []
    assert set(modules) == {"pocket.build", "rl_nmt.translate"} and all(map(find_spec, modules))
    links = re.findall(r"\]\((?!https)(.+?)\)", text)
    assert len(links) > 5 and all((NOTEBOOK.parent / link).is_file() for link in links)


def test_flags_that_it_names_exist():
    known = {"config", *config.to_public_dict(script.RunCfg()), *script.ACTIONS, *OF_OTHERS}
    known |= set(vars(translate._arguments(["--model", "x"])))
    flags = re.findall(r"(?<!\w)--([a-z][\w-]+)", "\n".join(CELLS.values()))
    assert {"doctor", "download", "dry_step", "max_steps", "max_hours", "text_field"} <= set(flags) <= known


@pytest.mark.parametrize("name", CONFIGS)
def test_the_settings_are_accepted(name):
    words = ["--config", str(ROOT / name), "--max_hours", str(settings()["MAX_HOURS"])]
    words += [*shlex.split(settings()["FLAGS"]), "--max_steps", "2", "--output_dir", "x"]
    cfg, _, _ = config.parse(script.RunCfg, words, script.ACTIONS, "train_grpo_en_ta.py", "")
    script.check(cfg)
    linked = set(re.findall(r"huggingface\.co/([\w.-]+/[\w.-]+)", CELLS["about-models"])) - {"settings/tokens"}
    assert len(linked) == 2
    assert "pocket" in name or linked <= {use.name for use in script.models(cfg)}


def test_no_token_is_kept_or_printed():
    assert re.search(r"hf_\w{8}", NOTEBOOK.read_text(encoding="utf-8")) is None
    calls = [n for code in CODE.values() for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)]
    printed = [ast.unparse(call) for call in calls if getattr(call.func, "id", "") in ("print", "display", "Stop")]
    assert len(printed) > 8 and not any(re.search(r"\bENV\b|\benviron\b|secret\(", call) for call in printed)


def test_outside_a_checkout_the_address_is_needed(execute, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="REPO_URL is empty") as caught:
        execute("settings", "checkout")
    assert caught.value._render_traceback_() == [str(caught.value)] and "\n" not in str(caught.value)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_address_is_cloned_once(execute, monkeypatch, tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    for folder in (source, work):
        folder.mkdir()
    (source / "train_grpo_en_ta.py").touch()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *line], cwd=source, check=True)
    monkeypatch.chdir(work)
    for _ in range(2):
        root = execute("settings", "checkout", REPO_URL=source.as_uri())["ROOT"]
        assert root == work / "rl-nmt" and (root / "train_grpo_en_ta.py").exists()


def test_environment_variables_override_the_settings(execute, monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)
    space = execute("settings", "checkout", CPU="1", STEPS="2", MAX_HOURS="0.5", RUN="runs/a")
    assert (space["CPU"], space["STEPS"], space["MAX_HOURS"]) == (True, 2, 0.5)
    assert (space["ROOT"], space["CONFIG"], space["RUN_FOLDER"]) == (ROOT, CONFIGS[0], ROOT / "runs" / "a")
    assert space["ENV"]["CUDA_VISIBLE_DEVICES"] == ""
    assert execute("settings", "checkout", CPU="0", RUN="/b")["CONFIG"] == CONFIGS[1]


def test_a_command_is_shown_and_its_failure_is_one_line(execute, capsys):
    space = execute("settings", "checkout", CPU="1")
    assert space["run"](sys.executable, "-c", "print('தமிழ்'); raise SystemExit(75)", fine=(0, 75)) == 75
    assert "தமிழ்\n" in capsys.readouterr().out
    with pytest.raises(space["Stop"], match="status 3"):
        space["run"](sys.executable, "-c", "raise SystemExit(3)")


STOPPABLE = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: (print("saved"), sys.exit(130)))
print("training", flush=True)
time.sleep(60)
"""


class InterruptedOnce:
    """The lines of a pipe; the first reader is interrupted after one line, as by the button of a notebook."""

    def __init__(self, pipe):
        self.pipe, self.readers = pipe, 0

    def __iter__(self):
        self.readers += 1
        for line in self.pipe:
            yield line
            if self.readers == 1:
                raise KeyboardInterrupt


def test_an_interrupted_command_may_finish_its_work(execute, monkeypatch, capsys):
    class Popen(subprocess.Popen):
        def __init__(self, *words, **options):
            super().__init__(*words, **options)
            self.stdout = InterruptedOnce(self.stdout)

    space = execute("settings", "checkout", CPU="1")
    monkeypatch.setattr(subprocess, "Popen", Popen)
    assert space["run"](sys.executable, "-c", STOPPABLE, fine=(130,)) == 130
    assert capsys.readouterr().out.endswith("training\nsaved\n")


@pytest.fixture
def fresh_host(execute, monkeypatch, tmp_path):
    """(version of the NVIDIA driver) → (commands that the cell "environment" would run, its namespace)."""

    def host(version: str):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        space, calls = execute("settings", "checkout", CPU="0"), []
        shutil.copy(ROOT / "requirements.txt", tmp_path)
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        space["ROOT"], space["run"] = tmp_path, lambda *words, **_: calls.append(words) or 0
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(shutil.copy(shutil.which("true", path="/usr/bin:/bin"), tmp_path)))
        return space, calls

    return host


@pytest.mark.parametrize(
    ("version", "index"), [("550.54.15", "https://download.pytorch.org/whl/cu126"), ("580.82", "")]
)
def test_torch_suits_the_driver(fresh_host, tmp_path, version, index):
    space, calls = fresh_host(version)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)  # a Python that says yes to every test
    exec(CODE["environment"], space)
    assert space["driver"]() == int(version[:3]) and (tmp_path / ".venv" / "installed").exists()
    installs = [call[call.index("install") :] for call in calls if "install" in call]
    assert installs[-1][-3:] == ("pip", "-r", "requirements.txt")
    pinned = re.search(r"^torch==[\d.]+", (tmp_path / "requirements.txt").read_text(encoding="utf-8"), re.M)[0]
    assert [call[-3:] for call in installs[:-1]] == [(pinned, "--index-url", index)] * bool(index)


def test_what_the_host_lacks_is_one_line(fresh_host, monkeypatch):
    space, _ = fresh_host("580.82")
    monkeypatch.setattr(sys, "executable", "/usr/bin/false")
    with pytest.raises(space["Stop"], match=r"^Python 3.11 or 3.12 is needed[^\n]+$"):
        exec(CODE["environment"], space)
    space, _ = fresh_host("'NVIDIA-SMI has failed'")
    with pytest.raises(space["Stop"], match=r"^no GPU was found[^\n]+$"):
        exec(CODE["environment"], space)
