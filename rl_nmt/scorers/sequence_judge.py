"""Score texts with a frozen regression model: a sequence classifier with one output, which is the score."""

import hashlib
from collections.abc import Sequence
from inspect import signature
from itertools import groupby
from typing import Any

import torch

from rl_nmt import hub
from rl_nmt.errors import ConfigError, describe
from rl_nmt.files import is_number
from rl_nmt.models import loading
from rl_nmt.models.batching import TokenBudget, batches, distinct, run_batches
from rl_nmt.scorers.base import utf8
from rl_nmt.text.unicode import is_blank

FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin"]
NEEDED = "give a …ForSequenceClassification with num_labels 1, which gives a text one score"
TOKENS = 16384  # most tokens in one forward pass; fewer after running out of memory
MAX_UNKNOWN = 0.2  # share of unknown tokens in real texts above which the judge has another vocabulary (ours)


def load_judge(name: str, device: str = "auto", argument: str = "judge_checkpoint") -> "SequenceJudge":
    """Load a folder or hub name, in float32, with its own tokenizer. `argument`: the setting, for messages.

    Raises ConfigError for a missing folder, another kind of model or number of outputs, weights that are missing and a
    tokenizer that does not fit; MissingService as `loading.fetch`.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    place, wrong = loading.choose_device(device, "device", explain=False), f"{argument}: {name}"
    folder = loading.fetch(argument, name, "config.json", FILES)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever transformers and safetensors raise for bad files
        raise ConfigError(f"{wrong}: config.json is not of a known model ({describe(error)}); {NEEDED}") from error
    kind = (config.architectures or ["model"])[0]
    if (config.architectures and "SequenceClassification" not in kind) or config.num_labels != 1:
        raise ConfigError(f"{wrong} is a {kind} with num_labels {config.num_labels}; {NEEDED}")
    try:
        with loading.loading():
            model, told = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:
        raise ConfigError(f"{wrong} does not load ({describe(error)}); fit or fetch it again") from error
    if lost := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise ConfigError(f"{wrong}: {len(lost)} weights are missing, e.g. {lost[0]}; fit or fetch it again")
    tokenizer, rows = loading.load_tokenizer(argument, folder), model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ConfigError(f"{wrong}: {rows} embeddings for {len(tokenizer)} tokens; give it its own tokenizer")
    prints = [loading.fingerprint(file) for file in sorted({f for pattern in FILES for f in folder.glob(pattern)})]
    identity = dict(zip(("model", "revision"), hub.recorded_as(name, folder), strict=True))
    content = hashlib.sha256("+".join(prints).encode()).hexdigest()[:16]
    return SequenceJudge(model.to(place), tokenizer, identity | {"content": content}, argument)


def _one_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Return `batches` without padding: a score does not depend on the other texts."""
    return [list(same) for batch in batches(lengths, tokens) for _, same in groupby(batch, lengths.__getitem__)]


class SequenceJudge:
    """A loaded judge. `identity`: model, revision, content. `stats`: distinct texts too_long and not_finite."""

    def __init__(self, model, tokenizer, identity: dict[str, Any], argument: str):
        self.model, self.tokenizer, self.identity, self.argument = model, tokenizer, identity, argument
        model.eval().requires_grad_(False)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = -1  # causal models refuse a batch without one
        place = getattr(getattr(model.base_model, "embeddings", None), "padding_idx", None)
        limit = (getattr(model.config, "max_position_embeddings", None) or 0) - (0 if place is None else place + 1)
        self.limit = min(n for n in (tokenizer.model_max_length, limit) if n > 0)  # RoBERTa counts from its padding
        self.budget, self.stats = TokenBudget(TOKENS), dict[str, int]()

    def __call__(self, texts: Sequence[str]) -> list[float | None]:
        """Return the model's output for each text, on its own scale, in order.

        None for a blank text, one that is longer than the model reads or the memory holds, and an output that is not
        finite. Raises ConfigError if the model fails.
        """
        rows, index = distinct(map(utf8, texts))
        tokens = self.tokenizer(rows, split_special_tokens=True, verbose=False) if rows else {"input_ids": []}
        lengths = list(map(len, tokens["input_ids"]))
        kept = [i for i, row in enumerate(rows) if 0 < lengths[i] <= self.limit and not is_blank(row)]
        names = [name for name in tokens if name in signature(self.model.forward).parameters]

        def run(batch: list[int]) -> list[float]:
            columns = [torch.tensor([tokens[name][kept[k]] for k in batch]).to(self.model.device) for name in names]
            return self.model(**dict(zip(names, columns, strict=True))).logits[:, 0].tolist()  # (B,)

        try:
            with loading.full_precision():
                found = run_batches(run, [lengths[i] for i in kept], self.budget, _one_length, self.argument)
        except Exception as error:
            raise ConfigError(f"{self.argument} fails ({describe(error)}); give another judge") from error
        scores = {i: value for i, value in zip(kept, found, strict=True) if is_number(value)}
        self.stats = {"too_long": sum(n > self.limit for n in lengths), "not_finite": len(kept) - len(scores)}
        return [scores.get(i) for i in index]

    def require_vocabulary(self, texts: Sequence[str], argument: str) -> None:
        """Raise ConfigError if more than MAX_UNKNOWN of the tokens of real texts are unknown to the judge."""
        found = self.tokenizer([*map(utf8, texts)], add_special_tokens=False)["input_ids"] if texts else []
        ids = [token for row in found for token in row]
        share = ids.count(self.tokenizer.unk_token_id) / max(1, len(ids))  # 0 without an unknown token
        if share > MAX_UNKNOWN:
            what = f"{self.identity['model']} reads {share:.0%} of the tokens of {len(texts)} held-out texts as unknown"
            raise ConfigError(f"{argument}: {what}: a judge of another vocabulary; give one fitted on such texts")
