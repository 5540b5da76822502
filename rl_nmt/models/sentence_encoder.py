"""Load a sentence encoder of sentence-transformers. No torch until one is loaded."""

import hashlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from rl_nmt import hub
from rl_nmt.errors import ConfigError, describe

# Files that decide the vectors.
CONTENT = """
    modules.json config.json sentence_bert_config.json config_sentence_transformers.json tokenizer.json vocab.txt
    model.safetensors pytorch_model.bin""".split()


@dataclass(frozen=True)
class Encoder:
    """A SentenceTransformer and what identifies it: model, revision, content (a hash of its files)."""

    model: Any
    identity: dict[str, Any]

    def encode(self, texts: list[str]):
        """Return the vectors of the texts, float64 (B, d)."""
        from rl_nmt.models import loading

        with loading.full_precision():
            return self.model.encode(texts, convert_to_numpy=True, show_progress_bar=False).astype("float64")


def load_encoder(name: str, device: str = "auto", argument: str = "encoder") -> Encoder | None:
    """Load a sentence encoder from the hub or a folder; None for "" or when sentence-transformers is not installed.

    `argument`: the setting that names it; `device`: as `choose_device`. Raises ConfigError for a missing folder and for
    a model without modules.json, of which sentence-transformers would make an encoder of its own; MissingService for a
    hub name that cannot be downloaded.
    """
    if not name or find_spec("sentence_transformers") is None:
        return None
    from rl_nmt.models import loading

    place = loading.choose_device(device, "device")
    patterns = [f"*{ending}" for ending in (*CONTENT, ".json", ".txt", ".model")]
    folder = loading.fetch(argument, name, "modules.json", patterns)
    if not (folder / "modules.json").is_file():
        raise ConfigError(f"{argument}: {name} has no modules.json; give a sentence-transformers model")
    try:
        with loading.loading():
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(str(folder), device=place, local_files_only=True).requires_grad_(False)
    except Exception as error:  # whatever transformers, tokenizers and safetensors raise for bad files
        raise ConfigError(f"{argument}: {name} does not load ({describe(error)}); fetch it again") from error
    files = sorted(file for file in folder.rglob("*") if file.name in CONTENT)
    content = hashlib.sha256("+".join(map(loading.fingerprint, files)).encode()).hexdigest()[:16]
    called, revision = hub.recorded_as(name, folder)
    return Encoder(model, {"model": called, "revision": revision, "content": content})
