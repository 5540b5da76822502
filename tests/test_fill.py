"""The command that fills templates: its output, its seed, its refusals, its help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rl_nmt.errors import ConfigError
from rl_nmt.fill import main
from rl_nmt.models.masked_diffusion import character_tokenizer, new_generator

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("final")
    tokenizer = character_tokenizer(["The red dog sees a cat.\n"], 32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
    new_generator(tokenizer, **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def printed(capsys, *words: str) -> list[str]:
    capsys.readouterr()
    assert main([*words]) == 0
    return capsys.readouterr().out.splitlines()


def test_fills_are_printed_below_their_template(model, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("\n [MASK:2] cat.\n", encoding="utf-8")
    lines = printed(capsys, model, "The [MASK:5] sees[MASK].", "--file", str(tmp_path / "more.txt"), "--count", "4")
    assert len(lines) == 10 and lines[0] == "The _____ sees_." and lines[5] == "__ cat."
    for line in lines[1:5]:
        assert len(line) == 18 and (line[:6], line[11:16], line[17:]) == ("  The ", " sees", ".")
    assert len({*lines[1:5]}) == 4 and all(len(line) == 9 and line.endswith(" cat.") for line in lines[6:])
    assert not {"_", "[", "]"} & set("".join(lines[1:5] + lines[6:]))


def test_fills_depend_on_the_seed_and_not_on_other_templates(model, capsys):
    first = printed(capsys, model, "The [MASK:9].", "--steps", "3")
    assert printed(capsys, model, "a [MASK:3]", "The [MASK:9].", "--steps", "3")[4:] == first
    assert printed(capsys, model, "The [MASK:9].", "--steps", "3", "--seed", "1") != first
    assert printed(capsys, model, "The [MASK:9].", "--steps", "1") != first


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["The [MASK:3] dog.", "a [MASK]", "--steps", "2"], r"^template 2: more steps than masks \(steps 2, masks 1\)"),
        (["The dog."], "^template 1: 'The dog.' has no mask"),
        (["The [MASK:40]"], "^template 1: 46 tokens, but the generator reads 32"),
        (["Zebra [MASK]"], "^template 1: the tokenizer does not know 'Zb'"),
        ([], "^templates: none given"),
        (["[MASK]", "--file", "none.txt"], r"^file: none\.txt cannot be read"),
        (["[MASK]", "--count", "0"], "^count: 0"),
        (["[MASK]", "--steps", "-1"], "^steps: -1"),
        (["[MASK]", "--temperature", "0"], r"^temperature: 0\.0"),
        (["[MASK]", "--temperature", "nan"], "^temperature: nan"),
        (["[MASK]", "--seed", "-1"], "^seed: -1"),
    ],
)
def test_refusals(model, words, part):
    with pytest.raises(ConfigError, match=part):
        main([model, *words])


def test_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ConfigError, match=r"^model: .*'gpt2' model"):
        main([str(tmp_path), "[MASK]"])


def test_help_loads_nothing_heavy():
    code = (
        "import sys, runpy\nsys.argv = ['fill', '--help']\n"
        "try:\n    runpy.run_module('rl_nmt.fill', run_name='__main__')\n"
        "except SystemExit as left:\n    print(left.code, {'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "--temperature" in done.stdout and done.stdout.endswith("0 set()\n"), done.stderr
