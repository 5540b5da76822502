"""COMET checkpoints from disk or hub to a COMET class with exactly their weights, offline where possible.

COMET's own loader leaves missing weights at random, resolves encoders against the working directory, fetches
their files from the hub and runs what a pickle says; this one refuses instead.
"""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import torch

from rl_nmt import hub
from rl_nmt.errors import ConfigError
from rl_nmt.scorers.base import fetch

CHECKPOINT = "checkpoints/model.ckpt"
TOKENIZER_FILES = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
# Published checkpoints name their encoder as the hub did before it asked for an owner.
OWNERS = {"xlm-roberta-base": "FacebookAI", "xlm-roberta-large": "FacebookAI"}


def checkpoint_file(argument: str, name: str) -> Path:
    """…/checkpoints/model.ckpt of a path or hub name, with hparams.yaml two levels up."""
    root = fetch(argument, name, CHECKPOINT)
    checkpoint = root if root.is_file() else root / CHECKPOINT
    if not checkpoint.is_file() or not (checkpoint.parents[1] / "hparams.yaml").is_file():
        raise ConfigError(f"{argument}: {name} is no COMET model: it needs hparams.yaml and {CHECKPOINT}")
    return checkpoint


def load_model(argument: str, checkpoint: Path, classes: tuple[str, ...]) -> tuple[torch.nn.Module, str, Path]:
    """Model on the CPU, its class identifier, and the folder its encoder's tokenizer came from."""
    import yaml

    root = checkpoint.parents[1]
    try:
        described = yaml.load((root / "hparams.yaml").read_text(encoding="utf-8"), Loader=yaml.FullLoader)
        kind = described["class_identifier"]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise ConfigError(f"{argument}: {root / 'hparams.yaml'} names no class_identifier") from None
    if kind not in classes:
        raise ConfigError(f"{argument}: {root} holds a {kind}; wanted here: {' or '.join(classes)}")
    weights, hparams = _read(argument, checkpoint)
    hparams = dict(hparams or described)  # as COMET: the checkpoint's own win
    if described.get("layer_transformation") == "sparsemax_patch":
        hparams["layer_transformation"] = "softmax"  # as comet.load_from_checkpoint since 2.2.4
    encoder = _encoder_folder(argument, str(hparams["pretrained_model"]), root)
    hparams |= {"pretrained_model": str(encoder), "load_pretrained_weights": False, "local_files_only": True}
    return _build(argument, checkpoint, kind, hparams, weights), kind, encoder


def _read(argument: str, checkpoint: Path) -> tuple[dict, dict]:
    """state_dict and hyper_parameters of a Lightning checkpoint; nothing in it is executed."""
    try:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return stored["state_dict"], stored.get("hyper_parameters", {})
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise ConfigError(
            f"{argument}: {checkpoint} holds more than weights, or is damaged ({reason}); fetch it again"
        ) from error


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
            if hub.is_cached(cached, filename) and hub.is_cached(cached, "config.json"):
                from huggingface_hub import snapshot_download

                return Path(snapshot_download(cached, local_files_only=True))
    return fetch(argument, known[-1], TOKENIZER_FILES[0], ["*.json", "*.model", "*.txt"])


def _build(argument: str, checkpoint: Path, kind: str, hparams: dict, weights: dict) -> torch.nn.Module:
    """The COMET class with exactly these weights: a missing one would otherwise score at random."""
    from comet.models import str2model
    from transformers.modeling_utils import no_init_weights

    cls = str2model[kind]
    accepted = inspect.signature(cls.__init__).parameters
    try:
        with no_init_weights():  # every weight is overwritten below, and drawing them takes half the time
            model = cls(**{k: v for k, v in hparams.items() if k in accepted})
        result = model.load_state_dict(weights, strict=False)
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {checkpoint} does not fit a {kind}: {reason}") from error
    # Left over from older transformers (ids) and from encoders saved with a head that COMET never reads.
    extra = [k for k in result.unexpected_keys if not k.endswith("position_ids") and ".pooler." not in k]
    missing = [k for k in result.missing_keys if not k.endswith("position_ids") and ".pooler." not in k]
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has an unknown {extra[0]}"
        raise ConfigError(
            f"{argument}: {checkpoint} {what} ({len(missing) + len(extra)} such weights): incomplete"
        )
    return model
