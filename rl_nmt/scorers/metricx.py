"""Score with MetricX-24 hybrid: predicted MQM errors from 0 (perfect) to 25, with or without a reference.

Same numbers as google-research/metricx metricx24 (tests: within 1e-5 of its full-logits route), computed differently:
only the decoder's first position and one row of the output matrix, so the logits of all 250,112 words never exist.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rl_nmt.errors import ConfigError
from rl_nmt.files import is_number
from rl_nmt.hub import MT5_TOKENIZER, mt5_of, recorded_as
from rl_nmt.models import loading
from rl_nmt.models.batching import TokenBudget, distinct, run_batches
from rl_nmt.scorers.base import Scores, Segment, utf8

SCORE_ID = 250_089  # <extra_id_10> in mT5's vocabulary: its logit is the score
WORST = 25.0
TOKENS = 8192  # most tokens, padding included, in one encoder batch; fewer after running out of memory
MAX_LENGTH = 1536  # tokens of the input, as published
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
FIELDS = re.compile(r"(?<!\S)(?:source|candidate|reference):")  # the field labels in the model's input


def load_metricx(
    name_or_path: str | Path,
    *,
    tokenizer: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    max_length: int = MAX_LENGTH,
    overlong: str = "truncate",
    argument: str = "metricx_model",
) -> "MetricXScorer":
    """Load a MetricX-24 checkpoint once; it stays on `device`.

    Args:
        name_or_path: a folder or hub name (google/metricx-24-hybrid-{large,xl,xxl}-v2p6, also -bfloat16).
        tokenizer: folder or hub name of mT5's tokenizer; None takes the checkpoint's own, or else that of google/mt5-*
            of the same size (the published checkpoints have none).
        device: "cpu", "cuda" or "cuda:N".
        dtype: of the weights, "float32" or "bfloat16" (mT5 overflows in float16); the last product is in float32.
        max_length: longest input in tokens, end marker counted.
        overlong: "truncate" longer inputs at their end, as published, or "skip" them (no score).
        argument: the setting that names this model, for messages.

    Raises ConfigError (a missing path, another architecture, missing weights, no tokenizer, an unusable device or
    dtype) and MissingService (the hub cannot be reached).
    """
    loading.require_device(argument, device)
    if dtype == "float16":
        raise ConfigError(f"{argument}: mT5 overflows in float16; use bfloat16 or float32")
    kind = loading.torch_dtype(argument, dtype, device)
    skip = loading.skip_overlong(overlong)
    folder = loading.fetch(argument, str(name_or_path), "config.json", ["*.json", "*.safetensors", "*.bin", "*.model"])
    with loading.loading():
        model, row = _load_model(argument, folder, kind)
        words, words_folder = _load_tokenizer(argument, folder, tokenizer)
    name, revision = recorded_as(name_or_path, folder)
    identity = {
        "model": name,
        "revision": revision,
        "checkpoint": _fingerprints(folder, WEIGHTS),
        "tokenizer": _fingerprints(words_folder, MT5_TOKENIZER),
        "class": "metricx24",
        "dtype": dtype,
        "max_length": max_length,
        "overlong": overlong,
    }
    return MetricXScorer(model.to(device), row.to(device), words, identity, skip)


def _load_model(argument: str, folder: Path, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the mT5 without its output matrix, and the row of it (d_model,) that gives the score: float32, scaled."""
    from transformers import MT5ForConditionalGeneration

    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, tied = described.get("model_type"), described.get("tie_word_embeddings", False)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{argument}: {folder / 'config.json'} is not a model description: {error}") from None
    if kind != "mt5":
        raise ConfigError(f"{argument}: {folder} holds a {kind!r} model; MetricX-24 is an mT5")
    try:
        model, info = MT5ForConditionalGeneration.from_pretrained(
            str(folder), dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except Exception as error:  # transformers, safetensors and torch raise a dozen classes for bad files
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{argument}: {folder} does not load as an mT5 ({reason}); fetch it again") from error
    shared = (*TIED, "lm_head.weight") if tied else TIED
    missing = [name for name in info["missing_keys"] if name not in shared] + list(info["mismatched_keys"])
    if not tied and model.lm_head.weight.data_ptr() == model.shared.weight.data_ptr():  # transformers 5 fills it so
        missing.append("lm_head.weight")
    if missing:
        raise ConfigError(f"{argument}: {folder}: {len(missing)} weights missing, e.g. {missing[0]}; fetch it again")
    # Read `tied` from the file: transformers 5 treats every mT5 as tied and never scales.
    weight = (model.shared if tied else model.lm_head).weight
    if weight.shape[0] <= SCORE_ID:
        raise ConfigError(f"{argument}: {folder} has a vocabulary of {weight.shape[0]}; MetricX needs id {SCORE_ID}")
    row = weight[SCORE_ID].detach().float().clone() * (model.config.d_model**-0.5 if tied else 1.0)
    del model.lm_head  # as large as the embeddings, and never used again
    return model.eval().requires_grad_(False), row


def _load_tokenizer(argument: str, folder: Path, name: str | None):
    """Return mT5's tokenizer and the folder that it came from."""
    found = folder
    if name := name or mt5_of(folder):
        patterns = ["*token*.json", "config.json", "*.model"]
        found = loading.fetch(f"tokenizer of {argument}", name, "tokenizer_config.json", patterns)
    tokenizer = loading.load_tokenizer(argument, found)
    if tokenizer("x")["input_ids"][-1:] != [tokenizer.eos_token_id]:
        raise ConfigError(f"{argument}: {found}: its tokenizer does not add </s> to inputs; use mT5's tokenizer")
    return tokenizer, found


class MetricXScorer:
    """A loaded MetricX-24 model; see `load_metricx`. A `Scorer` whose values are errors: lower is better.

    A segment's `ref` is part of the model's input; without one the score is quality estimation.
    `stats` describes the last call: rows, distinct rows, tokens and share of padding.
    """

    range = (0.0, WORST)
    higher_is_better = False

    def __init__(self, model: Any, row: torch.Tensor, tokenizer: Any, identity: dict, skip_overlong: bool):
        self.model, self.tokenizer, self._row = model, tokenizer, row
        self.name, self.revision, self.dtype = (identity[key] for key in ("model", "revision", "dtype"))
        self.budget, self.skip_overlong, self._identity = TokenBudget(TOKENS), skip_overlong, identity
        self.stats: dict[str, float] = {}

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return one value per segment, 0 (perfect) to 25, in order.

        None where the model gave no finite number, an input was too long (overlong="skip") or too large for the
        memory, and where a translation contains "source:", "candidate:" or "reference:" more often than its source:
        the model reads text after such a label as another field, so a policy could write its own reference.
        """
        rows, index = distinct(segments)
        self.stats = {"rows": len(index), "distinct": len(rows), "tokens": 0, "padded": 0}
        fair = [i for i, row in enumerate(rows) if len(FIELDS.findall(row.mt)) <= len(FIELDS.findall(row.src))]
        inputs = self._inputs([rows[i] for i in fair])
        kept = [(i, ids) for i, (ids, cut) in zip(fair, inputs, strict=True) if not (cut and self.skip_overlong)]

        def run(batch: list[int]) -> list[float]:
            return self._scores([kept[k][1] for k in batch])

        with loading.full_precision():
            found = run_batches(run, [len(ids) for _, ids in kept], self.budget, argument=self.name)
        scores = dict(zip((i for i, _ in kept), found, strict=True))
        values = [scores[i] if is_number(scores.get(i)) else None for i in range(len(rows))]
        self.stats["padded_share"] = 1 - self.stats["tokens"] / max(1, self.stats.pop("padded"))
        return Scores([values[i] for i in index])

    def to(self, device: str) -> None:
        """Move the model permanently. Raises ConfigError for a missing device."""
        self.model.to(loading.require_device("device", device))
        self._row = self._row.to(device)

    def signature(self) -> dict[str, dict]:
        """See `Scorer.signature`. Moving a checkpoint to another place changes only `model` in its identity."""
        environment = loading.versions("transformers", "tokenizers", "sentencepiece", "torch")
        return {"identity": dict(self._identity), "environment": environment}

    def _inputs(self, rows: list[Segment]) -> list[tuple[list[int], bool]]:
        """Return token ids without the end marker (metricx24/predict.py drops it), and whether they were cut."""
        texts = [
            utf8(f"source: {row.src} candidate: {row.mt}" + ("" if row.ref is None else f" reference: {row.ref}"))
            for row in rows
        ]
        whole = self.tokenizer(texts, verbose=False)["input_ids"] if texts else []
        keep = self._identity["max_length"] - 1
        return [(ids[:-1][:keep], len(ids) - 1 > keep) for ids in whole]

    def _scores(self, sequences: list[list[int]]) -> list[float]:
        """Scores of one padded batch of token ids."""
        device = self._row.device
        lengths = torch.tensor([len(s) for s in sequences])
        longest = int(lengths.max())
        ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences], device=device)  # (B, L)
        mask = (torch.arange(longest) < lengths[:, None]).long().to(device)  # (B, L)
        encoded = self.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, d)
        step = self.model.decoder(
            input_ids=torch.zeros(len(sequences), 1, dtype=torch.long, device=device),
            use_cache=False,
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
        ).last_hidden_state  # (B, 1, d)
        logits = step[:, 0].float() @ self._row  # (B,)
        self.stats["tokens"] += int(lengths.sum())
        self.stats["padded"] += len(sequences) * longest
        return logits.clamp(0.0, WORST).tolist()


def _fingerprints(folder: Path, files: Sequence[str]) -> str | None:
    """Return the fingerprint of the first existing one of `files`; for an index, those of the parts that it lists."""
    file = next((folder / name for name in files if (folder / name).is_file()), None)
    if file is None:
        return None
    if not file.name.endswith(".index.json"):
        return loading.fingerprint(file)
    parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
    return "+".join(loading.fingerprint(folder / part) for part in parts)
