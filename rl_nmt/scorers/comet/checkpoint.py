"""Load COMET checkpoints from disk or hub into a model with exactly their weights, offline where possible.

COMET's own loader leaves missing weights random, resolves encoders against the working directory, downloads
their files from the hub and executes code in the pickle; this one refuses instead. A checkpoint that holds more
than weights is loaded only if RL_NMT_TRUST_CHECKPOINT contains the SHA-256 of the whole file.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from pathlib import Path

import torch

from rl_nmt import hub
from rl_nmt.errors import ConfigError
from rl_nmt.models.loading import fetch, no_init_weights
from rl_nmt.scorers.comet.model import ENCODERS, CometModel

CHECKPOINT = "checkpoints/model.ckpt"
TRUST = "RL_NMT_TRUST_CHECKPOINT"  # SHA-256 of files that may run code when loaded, separated by commas or spaces
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
# Weights that are never used: from older transformers, from encoders saved with their head, and from training.
UNREAD = re.compile(r"position_ids$|\.pooler\.|\.dropout_(mask|fill)$|^wordloss\.")
# Published checkpoints name their encoder without an owner, which the hub now requires.
OWNERS = {"xlm-roberta-base": "FacebookAI", "xlm-roberta-large": "FacebookAI"}


def checkpoint_file(argument: str, name: str) -> Path:
    """Return …/checkpoints/model.ckpt of a path or hub name, with hparams.yaml two levels up."""
    root = fetch(argument, name, CHECKPOINT)
    checkpoint = root if root.is_file() else root / CHECKPOINT
    if not checkpoint.is_file() or not (checkpoint.parents[1] / "hparams.yaml").is_file():
        raise ConfigError(f"{argument}: {name} is not a COMET model: it needs hparams.yaml and {CHECKPOINT}")
    return checkpoint


def load_model(argument: str, checkpoint: Path, classes: tuple[str, ...]) -> tuple[CometModel, Path]:
    """Return the model, on the CPU, and the folder that its tokenizer came from.

    Raises ConfigError for another class, an unsupported encoder, or a checkpoint that is damaged, incomplete or holds
    more than weights (see `TRUST`).
    """
    root = checkpoint.parents[1]
    described = _hparams(argument, root / "hparams.yaml")
    kind = described["class_identifier"]
    if kind not in classes:
        raise ConfigError(f"{argument}: {root} is a {kind}; give a {' or '.join(classes)}")
    weights, hparams = _read(argument, checkpoint)
    hparams = dict(hparams or described)  # the checkpoint's own take precedence, as in COMET
    if described.get("layer_transformation") == "sparsemax_patch":
        hparams["layer_transformation"] = "softmax"  # as comet.load_from_checkpoint since 2.2.4
    if (name := hparams.get("encoder_model", "XLM-RoBERTa")) not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigError(f"{argument}: {root}: encoder {name} is not supported; supported: {known}")
    given = str(hparams["pretrained_model"]), str(described.get("pretrained_model", ""))
    encoder = tokenizer = _encoder_folder(argument, given[0], root, given[1])
    if name == "MiniLM":  # distilled from XLM-R, with its tokenizer
        tokenizer = _encoder_folder(argument, "xlm-roberta-base", root)
    return _build(argument, checkpoint, (kind, hparams, encoder, tokenizer), weights), tokenizer


def _hparams(argument: str, path: Path) -> dict:
    """Return the plain data in hparams.yaml; refuse tags that would build Python objects, except tuples."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.yaml_constructors = yaml.SafeLoader.yaml_constructors | {
        "tag:yaml.org,2002:python/tuple": yaml.SafeLoader.construct_yaml_seq
    }
    try:
        described = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
        described["class_identifier"]
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{argument}: {path} contains more than plain values ({error.problem}); fetch it again"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{argument}: {path} has no class_identifier; fetch it again") from None
    return described


def _read(argument: str, checkpoint: Path) -> tuple[dict, dict]:
    """Return state_dict and hyper_parameters of a Lightning checkpoint; execute nothing in it unless it is trusted."""
    try:
        try:
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            stored = _read_trusted(argument, checkpoint, error)
        return stored["state_dict"], stored.get("hyper_parameters", {})
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{argument}: {checkpoint} is not a checkpoint, or is damaged ({_first_line(error)}); fetch it again"
        ) from error


def _read_trusted(argument: str, checkpoint: Path, refused: pickle.UnpicklingError) -> dict:
    """Return the whole pickle if the user trusts its SHA-256; else raise ConfigError with the reason.

    The file is hashed and loaded through one open handle, so that a file swapped in meanwhile is never loaded.
    """
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest in os.environ.get(TRUST, "").lower().replace(",", " ").split():
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=False)
    raise ConfigError(
        f"{argument}: {checkpoint} holds more than weights, or is damaged ({_first_line(refused)}). Loading it could "
        f"run any code. Fetch it again, or, if you trust where this very file comes from, set {TRUST}={digest}"
    ) from refused


def _first_line(error: BaseException) -> str:
    """Return the reason without torch's advice to load the file anyway."""
    if named := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
        return f"it names {named[1]}"
    lines = [line.strip() for line in str(error).split("\n")]
    return next((line for line in lines if line.startswith("Unsupported")), lines[0])[:120]


def _encoder_folder(argument: str, name: str, root: Path, corrected: str = "") -> Path:
    """Return the folder of the encoder's config and tokenizer (its weights are in the checkpoint).

    A relative path is resolved against the checkpoint's folder first, so that a model can be moved; the last part of a
    missing absolute path is looked for inside that folder. `corrected`: a hub name taken if `name` is a path of another
    machine: of AfriCOMET-QE only hparams.yaml was corrected after training.
    """
    given = Path(name).expanduser()
    for folder in (root / given, root.parent / given, given, root / given.name):
        if (folder / "config.json").is_file():
            return folder.resolve()
    if "/" in name and hub.looks_like_path(name):
        if corrected and not hub.looks_like_path(corrected):
            return _encoder_folder(argument, corrected, root)
        raise ConfigError(f"{argument}: {root}: its encoder {name} does not exist (pretrained_model in hparams.yaml)")
    known = [name] if "/" in name else [name, f"{OWNERS.get(name, name)}/{name}"]
    for cached in known:
        for filename in TOKENIZER_FILES:
            if hub.cached(cached, filename) and hub.cached(cached, "config.json"):
                from huggingface_hub import snapshot_download

                return Path(snapshot_download(cached, local_files_only=True))
    return fetch(argument, known[-1], TOKENIZER_FILES[0], ["*.json", "*.model", "*.txt"])


def _build(argument: str, checkpoint: Path, parts: tuple, weights: dict) -> CometModel:
    """Return CometModel(*parts) with exactly these weights: a missing one would stay random."""
    try:
        with no_init_weights():  # every weight is overwritten below, and drawing them takes half the time
            model = CometModel(*parts)
        result = model.load_state_dict(weights, strict=False)
    except ConfigError as error:
        raise ConfigError(f"{argument}: {checkpoint}: {error}") from error
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {checkpoint} does not fit a {parts[0]}: {reason}") from error
    wrong = [("missing", k) for k in result.missing_keys] + [("unknown", k) for k in result.unexpected_keys]
    wrong = [(what, k) for what, k in wrong if not UNREAD.search(k)]
    if wrong:
        shown = f"{len(wrong)} weights do not fit, e.g. {' '.join(wrong[0])}"
        raise ConfigError(f"{argument}: {checkpoint}: {shown}; fetch it again")
    return model
