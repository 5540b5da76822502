"""Convert the weights of a Hugging Face model folder to an Orbax folder and back, bit for bit. No torch.

    python -m recipes.preference.orbax export MODEL_FOLDER ORBAX_FOLDER [--layout flat|nested]
    python -m recipes.preference.orbax import ORBAX_FOLDER MODEL_FOLDER --like HF_FOLDER

Only the file format changes: tensors keep Hugging Face's names, shapes and types; nothing is mapped to Flax's Gemma.
`import` reads either layout and writes a whole model folder: configuration and tokenizer are copied from --like, whose
weights say which names and shapes are right and how they are divided into files; types are Orbax's. An export takes
about four times the memory of the weights. Needs requirements-orbax.txt.
"""

import argparse
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rl_nmt import files
from rl_nmt.errors import CannotWrite, ConfigError, describe, run

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def export_folder(model: str, orbax: str, layout: str = "flat") -> int:
    """Write the weights of a model folder to a new Orbax folder; return how many. Raises ConfigError, CannotWrite."""
    source, target = _folder(model, "MODEL_FOLDER"), _folder(orbax, "ORBAX_FOLDER", new=True)
    held = {name: file for file in _weights(source, "MODEL_FOLDER").values() for name in file.keys()}
    branches = {name[:end] for name in held for end, letter in enumerate(name) if letter == "."}
    if layout == "nested" and (both := sorted(branches & held.keys())):
        raise ConfigError(f"--layout: nested: {both[0]} is a tensor and also a branch with others: use --layout flat")
    with (ocp := _orbax()).StandardCheckpointer() as checkpointer:
        try:
            arrays = {name: file.get_tensor(name) for name, file in held.items()}
            checkpointer.save(target, ocp.tree.from_flat_dict(arrays, sep=".") if layout == "nested" else arrays)
            checkpointer.wait_until_finished()
        except Exception as error:  # Orbax and TensorStore raise a dozen classes, for a full disk too
            raise CannotWrite(f"ORBAX_FOLDER: {target} cannot be written ({describe(error)})") from None
        finally:  # Orbax renames this folder when it is whole
            shutil.rmtree(target.with_name(f"{target.name}.orbax-checkpoint-tmp"), ignore_errors=True)
    return len(held)


def import_folder(orbax: str, model: str, like: str) -> int:
    """Write an Orbax folder and the other files of `like` to a new model folder. Returns, raises as `export_folder`."""
    source, target = _folder(orbax, "ORBAX_FOLDER"), _folder(model, "MODEL_FOLDER", new=True)
    weights = _weights(pattern := _folder(like, "--like"), "--like")
    right = {f"{name} {tuple(file.get_slice(name).get_shape())}" for file in weights.values() for name in file.keys()}
    with (ocp := _orbax()).StandardCheckpointer() as checkpointer:
        if (found := checkpointer.metadata(source).item_metadata) is None:
            raise ConfigError(f"ORBAX_FOLDER: {source} is not an Orbax checkpoint: give the folder that has _METADATA")
        leaves = ocp.tree.to_flat_dict(found.tree, sep=".")
        held = {f"{name} {getattr(leaf, 'shape', '')}" for name, leaf in leaves.items()}
        if held != right:
            wrong = {"missing": sorted(right - held), "unexpected": sorted(held - right)}
            lists = "; ".join(f"{len(names)} {kind}: {', '.join(names[:3])}" for kind, names in wrong.items() if names)
            raise ConfigError(f"ORBAX_FOLDER: {source}: {lists}; --like {pattern} must store the same, tied ones too")
        try:  # into NumPy: JAX would want the devices it was saved on, and cut 64 bits to 32
            empty = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in leaves.items()}
            tree = checkpointer.restore(source, ocp.tree.from_flat_dict(empty, target=found.tree, sep="."))
        except Exception as error:
            raise ConfigError(f"ORBAX_FOLDER: {source} cannot be read ({describe(error)}): export it again") from None
    arrays = ocp.tree.to_flat_dict(tree, sep=".")
    with files.replace_folder(target) as draft:
        for path in (path for kind in ("json", "jinja", "model", "txt") for path in pattern.glob(f"*.{kind}")):
            shutil.copyfile(path, draft / path.name)
        for name, file in weights.items():  # transformers requires the format
            save_file({n: arrays[n] for n in file.keys()}, draft / name, {"format": "pt", **(file.metadata() or {})})
    return len(arrays)


def _folder(path: str, argument: str, new: bool = False) -> Path:
    """Return the absolute path, which Orbax needs, of a local folder that exists or, if `new`, does not."""
    folder = Path(path).expanduser().resolve()
    if new and folder.exists():
        raise ConfigError(f"{argument}: {folder} already exists: delete it, or write elsewhere")
    if "://" in path or not (new or folder.is_dir()):
        raise ConfigError(f"{argument}: {path} is not a local folder: check the path, or download it first")
    return folder


def _weights(model: Path, argument: str) -> dict[str, Any]:
    """Return file name → open safetensors file, of the files that transformers would load. Raises ConfigError."""
    try:
        if (model / SINGLE).exists():
            return {SINGLE: safe_open(model / SINGLE, framework="numpy")}
        where = json.loads((model / INDEX).read_text(encoding="utf-8"))["weight_map"]
        opened = {n: safe_open(model / n, framework="numpy") for n in sorted({Path(f).name for f in where.values()})}
        if where != {key: name for name, file in opened.items() for key in file.keys()}:
            raise ValueError("the index does not list what the files hold")
        return opened
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ConfigError(f"{argument}: {model} needs {SINGLE}, or {INDEX} and its files: {describe(error)}") from None


def _orbax() -> Any:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX would reserve most of a GPU's memory
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ConfigError(f"orbax-checkpoint is missing ({error}): pip install -r requirements-orbax.txt") from None
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # its threads also log the errors that it raises
    return orbax.checkpoint


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, and print how many tensors were written."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m recipes.preference.orbax", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="model folder to Orbax folder")
    back = commands.add_parser("import", help="Orbax folder to model folder")
    for command, read, written in ((export, "model", "orbax"), (back, "orbax", "model")):
        command.add_argument(read, metavar=f"{read.upper()}_FOLDER", help="to read")
        command.add_argument(written, metavar=f"{written.upper()}_FOLDER", help="to write; it must not exist")
    export.add_argument("--layout", choices=("flat", "nested"), default="flat", help="nested splits names at the dots")
    back.add_argument("--like", required=True, metavar="HF_FOLDER", help="model folder with the same tensors")
    given = vars(parser.parse_args(arguments))
    convert = export_folder if given.pop("command") == "export" else import_folder
    print(f"{convert(**given)} tensors written")


if __name__ == "__main__":
    run(main)
