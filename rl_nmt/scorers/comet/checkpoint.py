"""COMET checkpoints from disk or hub to a model with exactly their weights, offline where possible.

COMET's own loader leaves missing weights at random, resolves encoders against the working directory, fetches
their files from the hub and runs what a pickle says; this one refuses instead. A checkpoint that holds more
than weights is loaded only when RL_NMT_TRUST_CHECKPOINT names the SHA-256 of the whole file.
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
# Left over from older transformers, from encoders saved with a head that COMET never reads, and from training.
UNREAD = re.compile(r"position_ids$|\.pooler\.|\.dropout_(mask|fill)$|^wordloss\.")
# Published checkpoints name their encoder as the hub did before it asked for an owner.
OWNERS = {"xlm-roberta-base": "FacebookAI", "xlm-roberta-large": "FacebookAI"}


def checkpoint_file(argument: str, name: str) -> Path:
    """…/checkpoints/model.ckpt of a path or hub name, with hparams.yaml two levels up."""
    root = fetch(argument, name, CHECKPOINT)
    checkpoint = root if root.is_file() else root / CHECKPOINT
    if not checkpoint.is_file() or not (checkpoint.parents[1] / "hparams.yaml").is_file():
        raise ConfigError(f"{argument}: {name} is not a COMET model: it needs hparams.yaml and {CHECKPOINT}")
    return checkpoint


def load_model(argument: str, checkpoint: Path, classes: tuple[str, ...]) -> tuple[CometModel, Path]:
    """Model on the CPU, and the folder its tokenizer came from.

    Raises ConfigError: another class, an encoder of another family, damaged, incomplete, or more than weights inside
    (see `TRUST`).
    """
    root = checkpoint.parents[1]
    described = _hparams(argument, root / "hparams.yaml")
    kind = described["class_identifier"]
    if kind not in classes:
        raise ConfigError(f"{argument}: {root} holds a {kind}; wanted here: {' or '.join(classes)}")
    weights, hparams = _read(argument, checkpoint)
    hparams = dict(hparams or described)  # as COMET: the checkpoint's own win
    if described.get("layer_transformation") == "sparsemax_patch":
        hparams["layer_transformation"] = "softmax"  # as comet.load_from_checkpoint since 2.2.4
    if (name := hparams.get("encoder_model", "XLM-RoBERTa")) not in ENCODERS:
        known = ", ".join(ENCODERS)
        raise ConfigError(f"{argument}: {root} has a {name} encoder, which is not supported here; known: {known}")
    encoder = tokenizer = _encoder_folder(argument, str(hparams["pretrained_model"]), root)
    if name == "MiniLM":  # distilled from XLM-R, whose words it reads
        tokenizer = _encoder_folder(argument, "xlm-roberta-base", root)
    return _build(argument, checkpoint, (kind, hparams, encoder, tokenizer), weights), tokenizer


def _hparams(argument: str, path: Path) -> dict:
    """The plain data in hparams.yaml; tags that would build Python objects are refused, but for tuples."""
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
            f"{argument}: {path} holds more than plain values ({error.problem}); fetch it again"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{argument}: {path} names no class_identifier") from None
    return described


def _read(argument: str, checkpoint: Path) -> tuple[dict, dict]:
    """state_dict and hyper_parameters of a Lightning checkpoint; nothing in it is executed unless trusted."""
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
    """The whole pickle, if its SHA-256 is one that the user trusts. Raises ConfigError with the reason if not.

    Hashed and loaded through one open file: what is put in its place meanwhile is not what is loaded.
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
    """What is wrong, without torch's advice to load it all the same."""
    if named := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
        return f"it names {named[1]}"
    lines = [line.strip() for line in str(error).split("\n")]
    return next((line for line in lines if line.startswith("Unsupported")), lines[0])[:120]


def _encoder_folder(argument: str, name: str, root: Path) -> Path:
    """Folder of the encoder's config and tokenizer (its weights are in the checkpoint).

    A relative path counts from the checkpoint's folder first, so that a model may be moved; an absolute one
    that is gone is looked for by its last name inside it.
    """
    given = Path(name).expanduser()
    for folder in (root / given, root.parent / given, given, root / given.name):
        if (folder / "config.json").is_file():
            return folder.resolve()
    if "/" in name and hub.looks_like_path(name):
        raise ConfigError(f"{argument}: the encoder {name} of {root} is not there (pretrained_model)")
    known = [name] if "/" in name else [name, f"{OWNERS.get(name, name)}/{name}"]
    for cached in known:
        for filename in TOKENIZER_FILES:
            if hub.cached(cached, filename) and hub.cached(cached, "config.json"):
                from huggingface_hub import snapshot_download

                return Path(snapshot_download(cached, local_files_only=True))
    return fetch(argument, known[-1], TOKENIZER_FILES[0], ["*.json", "*.model", "*.txt"])


def _build(argument: str, checkpoint: Path, parts: tuple, weights: dict) -> CometModel:
    """CometModel(*parts) with exactly these weights: a missing one would otherwise score at random."""
    try:
        with no_init_weights():  # every weight is overwritten below, and drawing them takes half the time
            model = CometModel(*parts)
        result = model.load_state_dict(weights, strict=False)
    except ConfigError as error:
        raise ConfigError(f"{argument}: {checkpoint}: {error}") from error
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {checkpoint} does not fit a {parts[0]}: {reason}") from error
    wrong = [("lacks", k) for k in result.missing_keys] + [("has an unknown", k) for k in result.unexpected_keys]
    wrong = [(what, k) for what, k in wrong if not UNREAD.search(k)]
    if wrong:
        raise ConfigError(f"{argument}: {checkpoint} {' '.join(wrong[0])} ({len(wrong)} such weights): incomplete")
    return model
