"""python -m recipes.preference.orbax: the same bits there and back, errors in one line, nothing half written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recipes.preference.orbax import INDEX, SINGLE, main
from rl_nmt.errors import CannotWrite, ConfigError, run

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"model.norm.weight": torch.ones(3), "model.embed.weight": torch.zeros(2, 3)}


@pytest.fixture
def ocp():
    return pytest.importorskip("orbax.checkpoint", reason="needs requirements-orbax.txt", exc_type=ImportError)


def model_folder(folder: Path, tensors: dict = SMALL) -> Path:
    folder.mkdir()
    save_file(tensors, folder / SINGLE, {"format": "pt"})
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def refused(words: str, capsys) -> tuple[int, str]:
    """Exit status and the one line of a command that fails."""
    with pytest.raises(SystemExit) as left:
        run(lambda: main(words.split()))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 700
    return left.value.code, said


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("export none new", r"MODEL_FOLDER: none is not a local folder"),
        ("export gs://bucket/model new", "MODEL_FOLDER: gs://bucket/model is not a local folder"),
        ("export model gs://bucket/new", "ORBAX_FOLDER: gs://bucket/new is not a local folder"),
        ("export model empty", r"ORBAX_FOLDER: {here}/empty already exists: delete it"),
        ("export empty new", "MODEL_FOLDER: {here}/empty needs model.safetensors, or model.safetensors.index.json"),
        ("export broken new", "MODEL_FOLDER: {here}/broken needs .*SafetensorError"),
        ("export shard_gone new", "MODEL_FOLDER: {here}/shard_gone needs .*FileNotFoundError"),
        ("export other_index new", "MODEL_FOLDER: .* index does not list what the files hold"),
        ("export both new --layout nested", "--layout: nested: a.b is a tensor and also a branch"),
        ("import none new --like model", "ORBAX_FOLDER: none is not a local folder"),
        ("import empty model --like model", "MODEL_FOLDER: {here}/model already exists"),
        ("import empty new --like none", "--like: none is not a local folder"),
        ("import empty new --like empty", "--like: {here}/empty needs model.safetensors"),
    ],
)
def test_one_line_for_each_mistake(tmp_path, monkeypatch, capsys, words, part):
    model_folder(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    (model_folder(tmp_path / "broken") / SINGLE).write_bytes(b"no weights")
    model_folder(tmp_path / "both", {"a.b": torch.ones(1), "a-c": torch.ones(1), "a.b.c": torch.ones(1)})
    for name, listed in (("shard_gone", {"a": "gone.safetensors"}), ("other_index", {"a": SINGLE})):
        folder = model_folder(tmp_path / name)
        (folder / SINGLE).rename(folder / "part")
        listed = {key: file.replace(SINGLE, "part") for key, file in listed.items()}
        (folder / INDEX).write_text(json.dumps({"weight_map": listed}), encoding="utf-8")
    before = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    code, said = refused(words, capsys)
    assert code == ConfigError.exit_code and re.search(part.format(here=tmp_path), said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_import_requires_a_model_folder(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["import", "orbax", "new"])
    assert "--like" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["export {here}/model {here}/new", "import {here}/o {here}/new --like {here}/model"])
def test_without_orbax_the_line_says_what_to_install(tmp_path, monkeypatch, capsys, words):
    model_folder(tmp_path / "model")
    (tmp_path / "o").mkdir()
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    code, said = refused(words.format(here=tmp_path), capsys)
    assert code == ConfigError.exit_code and "pip install -r requirements-orbax.txt" in said
    assert not (tmp_path / "new").exists()


def gemma(folder: Path, shards: bool) -> Path:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "head_dim": 16}
    config = Gemma3TextConfig(vocab_size=64, num_hidden_layers=2, num_key_value_heads=1, **shape)
    model = Gemma3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="20KB" if shards else "1GB")
    for name in ("tokenizer.json", "chat_template.jinja"):  # copied as they are
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_transformers_loads_the_same_gemma(tmp_path, monkeypatch, capsys, ocp, layout, shards):
    from transformers import Gemma3ForCausalLM

    source = gemma(tmp_path / "gemma", shards)
    assert (source / INDEX).exists() == shards
    monkeypatch.chdir(tmp_path)  # relative paths are those of this folder
    main(f"export gemma orbax/deep --layout {layout}".split())
    main("import orbax/deep back --like gemma".split())
    assert capsys.readouterr().out == "28 tensors written\n" * 2  # 13 per layer, 2 more; no lm_head, it is tied
    first, second = (Gemma3ForCausalLM.from_pretrained(f, dtype="auto").state_dict() for f in (source, "back"))
    assert first.keys() == second.keys() and first["model.norm.weight"].dtype == torch.bfloat16
    for name, tensor in first.items():
        assert torch.equal(tensor.view(torch.int16), second[name].view(torch.int16)), name
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "gemma", "orbax"]
    assert [path.name for path in (tmp_path / "orbax").iterdir()] == ["deep"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "nested"])
def test_every_bit_of_every_type(tmp_path, ocp, layout):
    bits = [0x7FC1, 0xFFFF, 0x7F81, 0x8000, 0x0001, 0x3F80]  # quiet and signalling NaN, -0, subnormal, 1
    tensors = {
        "bf.w": torch.tensor(bits, dtype=torch.uint16).view(torch.bfloat16).reshape(2, 3),
        "f16.w": torch.tensor([0x7C01, 0xFE00, 0x8000, 0x03FF], dtype=torch.uint16).view(torch.float16),
        "f32": torch.tensor([0x7F800001, 0x00000001], dtype=torch.int32).view(torch.float32),
        "f64": torch.tensor([0.1], dtype=torch.float64),
        "i64": torch.tensor([2**53 + 1, -1]),
        "i32": torch.tensor(7, dtype=torch.int32),
        "i16": torch.tensor([-5], dtype=torch.int16),
        "i8": torch.tensor([-128], dtype=torch.int8),
        "u8": torch.tensor([255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
    }
    model = model_folder(tmp_path / "model", tensors)
    main(f"export {model} {tmp_path / 'orbax'} --layout {layout}".split())
    tree = ocp.StandardCheckpointer().restore(tmp_path / "orbax")
    stored = tree["bf"]["w"] if layout == "nested" else tree["bf.w"]
    assert stored.dtype.name == "bfloat16" and stored.view(np.uint16).tolist() == [bits[:3], bits[3:]]
    main(f"import {tmp_path / 'orbax'} {tmp_path / 'back'} --like {model}".split())
    back = load_file(tmp_path / "back" / SINGLE)
    assert back.keys() == tensors.keys() and back["i32"].shape == () and back["i64"].tolist() == [2**53 + 1, -1]
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert back[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist(), name
    with safe_open(tmp_path / "back" / SINGLE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.slow
def test_a_tree_with_jax_arrays_and_lists(tmp_path, ocp):
    import jax.numpy as jnp

    like = {"layers.0.w": torch.zeros(2), "layers.1.w": torch.zeros(2), "step": torch.zeros(1)}
    tree = {"layers": [{"w": jnp.array([1, 2], jnp.bfloat16)}, {"w": np.float32([3, 4])}], "step": np.array([2**40])}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "orbax", tree)
    main(f"import {tmp_path / 'orbax'} {tmp_path / 'back'} --like {model_folder(tmp_path / 'like', like)}".split())
    back = load_file(tmp_path / "back" / SINGLE)
    assert back["layers.0.w"].dtype == torch.bfloat16 and back["layers.0.w"].tolist() == [1, 2]
    assert back["layers.1.w"].tolist() == [3, 4] and back["step"].tolist() == [2**40]


MANY = {f"model.layers.{i}.w": torch.ones(2) for i in range(5)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        (
            SMALL | {"model.norm.weight": torch.ones(4)},
            r"1 missing: model.norm.weight \(3,\); 1 unexpected: .* \(4,\);",
        ),
        (SMALL | {"lm_head.weight": torch.zeros(2, 3)}, r": 1 unexpected: lm_head.weight \(2, 3\); .* tied ones too"),
        ({"model.norm.weight": torch.ones(3)}, r": 1 missing: model.embed.weight \(2, 3\); --like"),
        (MANY, r"2 missing: .*; 5 unexpected: \S+0.w \(2,\), \S+1.w \(2,\), \S+2.w \(2,\); --like"),
    ],
)
def test_another_tree_is_refused(tmp_path, capsys, ocp, tensors, part):
    like = model_folder(tmp_path / "like")
    main(f"export {model_folder(tmp_path / 'model', tensors)} {tmp_path / 'orbax'}".split())
    code, said = refused(f"import {tmp_path / 'orbax'} {tmp_path / 'back'} --like {like}", capsys)
    assert code == ConfigError.exit_code and said.startswith("error: ORBAX_FOLDER: ") and re.search(part, said), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["like", "model", "orbax"]


@pytest.mark.slow
def test_a_folder_that_orbax_cannot_read(tmp_path, capsys, ocp):
    model = model_folder(tmp_path / "model")
    words = f"import {{folder}} {tmp_path / 'back'} --like {model}"
    for folder in (model, tmp_path):  # a model, and the parent of a checkpoint
        code, said = refused(words.format(folder=folder), capsys)
        assert code == ConfigError.exit_code and re.search("ORBAX_FOLDER: .*not an Orbax checkpoint.*_METADATA", said)
    main(f"export {model} {tmp_path / 'orbax'}".split())
    capsys.readouterr()
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", {**{n: t.numpy() for n, t in SMALL.items()}, "note": "text"})
    assert "1 unexpected: note ;" in refused(words.format(folder=tmp_path / "state"), capsys)[1]
    for path in (tmp_path / "orbax").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-9] + b"corrupted")
    code, said = refused(words.format(folder=tmp_path / "orbax"), capsys)
    assert code == ConfigError.exit_code and "ORBAX_FOLDER: " in said
    assert not (tmp_path / "back").exists()


@pytest.mark.slow
def test_nothing_half_written_remains(tmp_path, capsys, ocp):
    empty = model_folder(tmp_path / "empty", {"w": torch.ones(2), "zero": torch.ones(0, 3)})
    code, said = refused(f"export {empty} {tmp_path / 'orbax'}", capsys)
    assert code == CannotWrite.exit_code and re.search("ORBAX_FOLDER: .*zero size.*name=zero", said)
    large = model_folder(tmp_path / "large", {"w": torch.arange(200_000, dtype=torch.float32)})
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    limited += "from recipes.preference.orbax import main, run; run(main)"
    for words in (f"export {large} {tmp_path / 'orbax'}", f"import {{}} {tmp_path / 'back'} --like {large}"):
        if words.startswith("import"):
            main(f"export {large} {tmp_path / 'whole'}".split())
        command = [sys.executable, "-c", limited, *words.format(tmp_path / "whole").split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == CannotWrite.exit_code, done.stderr
        assert "cannot be written" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "large", "whole"]
