"""Score translations by a frozen language model, without decoding: how much one side of a pair tells of the other.

    reads back        1 − log P(source | translation) / log P(source)            is the meaning still there?
    follows           1 − log P(translation | source) / log P(translation)       does it follow from the source?

Both are shares of the information in a text that the other side explains, under worked examples in the prompt, put on
a scale from 0 (translations of other sentences) to 1 (right ones). The first is the reconstruction term of dual
learning (He et al. 2016, arXiv 1611.00179) and of DuPO (arXiv 2508.14460) as a likelihood instead of a decoded text.
The shares and the scale are ours: on human scores they agree better than differences of the two logarithms
(docs/LOG.md). A copy of the source reads back best of all: gates and copied share prevent it.
"""

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_nmt.errors import ConfigError
from rl_nmt.models import loading, policy
from rl_nmt.models.batching import distinct
from rl_nmt.models.generate import inference
from rl_nmt.runs import run_folder
from rl_nmt.scorers.base import Scores, Segment

Pair = tuple[str, str]  # source, translation
SCALE_PAIRS = 24  # right pairs, and as many wrong ones, that set the scale
MIN_SPREAD = 0.04  # share between wrong and right pairs below which the model cannot tell them apart (ours)
EXAMPLES = 8  # in the prompt; with three, agreement with human scores is lower (docs/LOG.md)

TOKENS = 4096  # padded tokens in one forward pass
SCORED = 512  # tokens whose logits are in memory together (0.5 GiB in fp32 with 262,144 entries)


class Explained:
    """Mean log-probability per token, in nats, of one side of pairs given the other, under worked examples.

    `names`: how the prompt calls the given side and the scored one; `examples`: (given, scored) texts. The prompt's
    prefix is computed once. Values of the scored side alone are kept over calls.
    """

    def __init__(self, model, tokenizer, names: tuple[str, str], examples: Sequence[tuple[str, str]]):
        self.model, self.tokenizer, self.names = model, tokenizer, names
        self.prefix = "".join(f"{names[0]}: {given}\n{names[1]}: {scored}\n\n" for given, scored in examples)
        self._cache: Any = None

    def forget(self) -> None:
        """Compute the prefix again at the next call, e.g. on another device."""
        self._cache = None

    def __call__(self, given: Sequence[str], scored: Sequence[str]) -> list[float]:
        """Return log P(scored | given) per token; `given` "" is the unconditional likelihood."""
        if not scored:
            return []
        before = [f"{self.names[0]}: {text}".rstrip() + f"\n{self.names[1]}:" for text in given]
        options = {"add_special_tokens": False, "split_special_tokens": True}
        pairs, places = distinct(list(zip(before, scored, strict=True)))
        asked = self.tokenizer([text for text, _ in pairs], **options)["input_ids"]
        answered = self.tokenizer([f" {text}" for _, text in pairs], **options)["input_ids"]
        values = self._mean_log_probs(asked, answered)
        return [values[place] for place in places]

    def _mean_log_probs(self, before: list[list[int]], after: list[list[int]]) -> list[float]:
        lengths = [len(b) + len(a) for b, a in zip(before, after, strict=True)]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        values = [0.0] * len(lengths)
        with inference(self.model):
            start = self._prefix_length()
            while order:
                size = max(1, TOKENS // (start + lengths[order[0]]))
                batch, order = order[:size], order[size:]
                found = self._batch([before[i] for i in batch], [after[i] for i in batch])
                for i, value in zip(batch, found, strict=True):
                    values[i] = value
        return values

    def _prefix_length(self) -> int:
        if self._cache is None:
            ids = torch.tensor([self.tokenizer(self.prefix)["input_ids"]], device=self.model.device)
            self._cache = self._decode(ids, None, 0)[1], ids.shape[1]
        return self._cache[1]

    def _decode(self, ids: torch.Tensor, past: Any, start: int) -> tuple[torch.Tensor, Any]:
        """Return the last hidden states (B, L, H) of rows that begin at place `start`, and the cache."""
        places = torch.arange(start, start + ids.shape[1], device=ids.device).expand(len(ids), -1)
        out = self.model.get_decoder()(input_ids=ids, position_ids=places, past_key_values=past, use_cache=True)
        return out.last_hidden_state, out.past_key_values

    def _batch(self, before: list[list[int]], after: list[list[int]]) -> list[float]:
        rows = [b + a for b, a in zip(before, after, strict=True)]
        width, device = max(map(len, rows)), self.model.device
        # Padded at the end, where nothing that counts sees it; a gap after the prefix would shift sliding windows.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, L)
        past = copy.deepcopy(self._cache[0])
        past.batch_repeat_interleave(len(rows))
        hidden, _ = self._decode(ids, past, self._cache[1])  # (B, L, H)
        row = torch.tensor([i for i, a in enumerate(after) for _ in a], device=device)  # (N,), N scored tokens
        place = torch.tensor(
            [len(b) + t for b, a in zip(before, after, strict=True) for t in range(len(a))], device=device
        )
        found = torch.cat(
            [
                self._log_probs(hidden[r, p - 1], ids[r, p])
                for r, p in zip(row.split(SCORED), place.split(SCORED), strict=True)
            ]
        )
        sums = torch.zeros(len(rows), device=device).index_add_(0, row, found)
        return (sums / torch.tensor([len(a) for a in after], device=device)).tolist()

    def _log_probs(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities (N,) of tokens `ids` (N,) after hidden states (N, H)."""
        logits = self.model.get_output_embeddings()(hidden).float()  # (N, V)
        if cap := getattr(self.model.config, "final_logit_softcapping", None):
            logits = cap * torch.tanh(logits / cap)
        return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


@dataclass(frozen=True)
class Worked:
    """Right pairs of the language pair: the first are the examples in the prompt, the others set the scale."""

    names: tuple[str, str]  # of source and target language, in the prompt
    pairs: Sequence[Pair]
    examples: int = EXAMPLES


def load_reconstruction(
    name_or_path: str | Path,
    *,
    worked: Worked,
    side: str,
    device: str = "cpu",
    dtype: str = "float32",
    argument: str = "likelihood_model",
) -> "Reconstruction":
    """Load any causal language model once for both sides; return the scorer of one.

    Args:
        name_or_path: a folder or hub name.
        side: "source": how well it reads back from the translation; "translation": how well that follows from it.
        device: cpu, cuda or cuda:N; dtype: float32, bfloat16 or float16.
        argument: the setting that names the model, for messages.

    Raises ConfigError (another kind of model, a model that does not know the language), MissingService.
    """
    tokenizer, model = _language_model(str(name_or_path), device, dtype, argument)
    identity = {**run_folder.model_identity(str(name_or_path)), "dtype": dtype}
    return Reconstruction(model, tokenizer, worked, side == "source", identity, argument)


@lru_cache(maxsize=1)
def _language_model(name: str, device: str, dtype: str, argument: str) -> tuple[Any, Any]:
    kind = loading.torch_dtype(argument, dtype, loading.require_device(argument, device))
    tokenizer = loading.load_tokenizer(argument, name)
    with loading.loading():
        precision = policy.Precision(device, kind, False, "")
        model = policy.load_policy(name, tokenizer, precision, "sdpa", argument=argument)
    return tokenizer, model.to(device).eval().requires_grad_(False)


class Reconstruction:
    """A `Scorer`: 0 … 1, how well a translation reads back (`back`) or follows from its source; see the module.

    Raises ConfigError if the model cannot tell right pairs from wrong ones. `argument`: the setting that names it.
    """

    range, higher_is_better = (0.0, 1.0), True

    def __init__(self, model, tokenizer, worked: Worked, back: bool, identity: dict[str, Any], argument: str):
        source, target = worked.names
        shown = [(mt, src) if back else (src, mt) for src, mt in worked.pairs[: worked.examples]]
        self.explained = Explained(model, tokenizer, (target, source) if back else (source, target), shown)
        self.back, self.name = back, "likelihood " + ("of the source" if back else "of the translation")
        self.model = model
        self.stats: dict[str, float] = {}
        self._alone: dict[str, float] = {}
        right = worked.pairs[worked.examples :][:SCALE_PAIRS]
        wrong = [(source, other) for (source, _), (_, other) in zip(right, [*right[1:], right[0]], strict=True)]
        high, low = (self.shares([Segment(*pair) for pair in pairs]) for pairs in (right, wrong))
        # Most right pairs stay below 1, so that their differences count.
        self.scale = round(float(np.median(low)), 4), round(float(np.quantile(high, 0.95)), 4)
        if not np.median(high) - np.median(low) >= MIN_SPREAD:  # nan too
            raise ConfigError(
                f"{argument}: the other side explains {np.median(high):.0%} of translations and {np.median(low):.0%} "
                "of other sentences: this model does not know the language; give a larger one"
            )
        told = json.dumps([worked.names, list(worked.pairs[: worked.examples])], ensure_ascii=False)
        self._identity = identity | {
            "class": "likelihood",
            "side": "source" if back else "translation",
            "examples": hashlib.sha256(told.encode()).hexdigest()[:16],
            "scale": list(self.scale),
        }

    def shares(self, segments: Sequence[Segment]) -> list[float]:
        """Return 1 − log P(one side | other side) / log P(one side) per segment; below 0 if the other harms.

        nan where one of the two is not finite.
        """
        sides = [(s.mt, s.src) if self.back else (s.src, s.mt) for s in segments]
        if not self.back:
            self._alone.clear()  # sources come again in every group and epoch, translations hardly
        new = list({scored: None for _, scored in sides if scored not in self._alone})
        self._alone |= dict(zip(new, self.explained([""] * len(new), new), strict=True))
        given = self.explained([g for g, _ in sides], [scored for _, scored in sides])
        alone = [self._alone[scored] for _, scored in sides]
        finite = np.isfinite(given) & np.isfinite(alone)  # else −inf alone would make a share of 1
        # A text that is certain on its own has nothing to explain.
        return [1 - g / min(a, -1e-3) if ok else math.nan for g, a, ok in zip(given, alone, finite, strict=True)]

    def score(self, segments: Sequence[Segment]) -> Scores:
        """Return values in [0, 1], in order; None where a log-probability is not finite or a side is blank."""
        if not segments:
            return Scores([])
        low, high = self.scale
        blank = [not (s.src.strip() and s.mt.strip()) for s in segments]
        asked = [s for s, empty in zip(segments, blank, strict=True) if not empty]
        found = iter(self.shares(asked) if asked else [])
        values = [math.nan if empty else (next(found) - low) / (high - low) for empty in blank]
        return Scores([min(1.0, max(0.0, value)) if math.isfinite(value) else None for value in values])

    def to(self, device: str) -> None:
        """Move the model."""
        self.model.to(device)
        self.explained.forget()

    def signature(self) -> dict[str, dict]:
        """Return the identity (model, examples, scale) and the environment."""
        return {"identity": self._identity, "environment": loading.versions("torch", "transformers")}
