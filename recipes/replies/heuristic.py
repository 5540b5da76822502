"""Score short replies: `HeuristicReward`, six components from 0 to 1 less two penalties.

    total = clamp(Σ w_i · component_i − w_copy · copied − w_fluency · (1 − fluency), 0, 1)

    relevance    (cosine + 1) / 2 of post and reply in a sentence encoder
    length       characters: below 20 0.3, below 50 0.6, to 150 1.0, to 280 0.8, above 0.4
    sentiment    1 − |polarity of the post − polarity of the reply| / 2, by TextBlob, whose lexicon is English
    diversity    distinct words / words; × 0.7 if that is below 0.5; 0 without words
    punctuation  "!?.," per character: below 0.01 0.7, below 0.02 0.8, to 0.08 1.0, to 0.15 0.8, above 0.3
    engagement   1 / (1.1 · 1.05); × 1.1 with one question, × 0.5 with more than two, × 1.05 with two sentence marks
                 ("!!!" is one), × 0.5 with a generic phrase in fewer than 30 characters, × 0.6 when all letters are
                 capitals in more than 10
    copied       share of the reply's word triples that are in the post
    fluency      clip((lp − low) / (high − low), 0, 1); lp: mean log-probability of the reply's tokens

The components alone are easy to cheat: an echo of the post or its words shuffled beat a good reply (cheats.py), hence
the penalties; empty questions at its end still pay where the model finds them fluent. Texts are cleaned first
(`clean_for_scoring`). Replies below 3 characters of cleaned text have a total of 0.0, those above 500 a total of 0.3,
and nothing else is computed. Without an encoder or TextBlob its component is 0.5. A model that fails leaves None: TRL
ignores samples without a total.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from recipes.replies import components
from recipes.replies.settings import RewardCfg
from rl_nmt.audit import variance_shares
from rl_nmt.errors import ConfigError, describe, warn
from rl_nmt.scorers.base import isolate, warn_lost
from rl_nmt.scorers.likelihood import on_scale
from rl_nmt.text.prompts import read_texts
from rl_nmt.text.unicode import clean_for_scoring, length
from rl_nmt.training.reward_log import RewardLog, common_scalars, mean

if TYPE_CHECKING:
    from rl_nmt.models.sentence_encoder import Encoder

OF_REPLY = ("length_score", "diversity", "punctuation", "engagement")
# Names in a row, whose `length` is in characters, as in every reward; in settings they have w_ and no _score.
COMPONENTS = ("relevance", "length_score", "sentiment", "diversity", "punctuation", "engagement")
PARTS = (*COMPONENTS, "copied", "fluency")
GATES = {"too_short": 0.0, "too_long": 0.3}  # totals
MISSING = 0.5  # a component whose model is missing
_warn_once = cache(warn)


def check_weights(cfg: RewardCfg) -> dict[str, float]:
    """Return the six weights by the names in COMPONENTS. Raises ConfigError unless they sum to 1."""
    weights = {name: getattr(cfg, f"w_{name.removesuffix('_score')}") for name in COMPONENTS}
    if not abs(sum(weights.values()) - 1.0) <= 1e-6:
        shown = " + ".join(f"{name.removesuffix('_score')} {weight:g}" for name, weight in weights.items())
        raise ConfigError(f"reward.w_*: {shown} = {sum(weights.values()):.8g}; change them so that they sum to 1")
    return weights


class HeuristicReward(RewardLog):
    """The reward as TRL calls it; see the module.

    Args: `settings`; `encoder` (rl_nmt.models.sentence_encoder), None makes relevance 0.5; `log_probs`: (posts,
    replies) → mean log-probability of each reply's tokens in nats, None if it failed; `scale`: (low, high) of fluency.
    Without log_probs, or with w_fluency 0, fluency is left out. Raises ConfigError for weights that do not sum to 1 and
    for log_probs without a scale.
    """

    __name__ = "heuristic"

    def __init__(self, settings: RewardCfg, encoder: Encoder | None, log_probs: Callable | None = None, scale=None):
        super().__init__()
        self.settings, self.weights, self.encoder, self.scale = settings, check_weights(settings), encoder, scale
        self.log_probs = log_probs if settings.w_fluency else None
        if self.log_probs and not (scale and scale[0] < scale[1]):
            raise ConfigError(f"scale: {scale} must be (low, high) for log_probs; take it from calibrate(…)")
        self.textblob = find_spec("textblob") is not None
        if encoder is None and self.weights["relevance"]:
            why = "`pip install sentence-transformers`" if settings.encoder else "set it"
            _warn_once(f"reward.encoder: without one relevance is {MISSING} for every reply; {why}")
        if not self.textblob and self.weights["sentiment"]:
            _warn_once(f"reward.w_sentiment: without textblob it is {MISSING} for every reply; `pip install textblob`")

    def score_components(self, prompts, completions, source=None, **_) -> list[dict[str, Any]]:
        """Return one JSON row per completion, in order; gated ones have no components."""
        return self._score(source, completions)[0]

    def _score(self, posts: Sequence | None, replies: Sequence) -> tuple[list[dict[str, Any]], dict[str, float]]:
        if posts is None or len(posts) != len(replies):
            found = "no posts" if posts is None else f"{len(posts)} posts"
            raise ConfigError(f"source: {found} for {len(replies)} replies; give each its post in a column 'source'")
        times: dict[str, float] = {}
        texts = zip(read_texts("source", posts, "user"), read_texts("completions", replies), strict=True)
        rows = [self._text_row(clean_for_scoring(post), clean_for_scoring(reply)) for post, reply in texts]
        alive = [row for row in rows if row["gate"] is None]
        pairs = [(row["source"], row["output"]) for row in alive]
        if self.encoder:
            vectors = _each("encoder", self.encoder.encode, [text for pair in pairs for text in pair], times)
            for row in alive:
                row["relevance"] = components.relevance(vectors[row["source"]], vectors[row["output"]])
        if self.log_probs:
            found = _each("fluency", lambda part: self.log_probs(*map(list, zip(*part, strict=True))), pairs, times)
            for row, pair in zip(alive, pairs, strict=True):
                row["fluency"] = on_scale(found[pair], self.scale)
        for row in alive:
            terms = self._terms(row).values()
            row["total"] = None if None in terms else min(1.0, max(0.0, sum(terms)))
        return rows, times

    def _text_row(self, post: str, reply: str) -> dict[str, Any]:
        count = length(reply)
        gate = "too_short" if count < 3 else "too_long" if count > 500 else None
        row = {"source": post, "output": reply, "gate": gate, "total": GATES.get(gate), "length": count}
        row |= {"backtranslation": None, **dict.fromkeys(PARTS)}
        if gate is None:
            row |= {name: getattr(components, name)(reply) for name in OF_REPLY}
            row |= {"copied": components.copied(post, reply), "relevance": MISSING}
            row["sentiment"] = components.sentiment(post, reply) if self.textblob else MISSING
        return row

    def _terms(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        """Return what each part with a weight adds to the total, None where it is missing."""
        factors = {**self.weights, "copied": -self.settings.w_copy}
        terms = {name: None if row[name] is None else factor * row[name] for name, factor in factors.items() if factor}
        if self.log_probs:
            terms["fluency"] = None if row["fluency"] is None else self.settings.w_fluency * (row["fluency"] - 1.0)
        return terms

    def __call__(self, prompts, completions, source=None, **columns) -> list[float | None]:
        """Return one total per completion, None where a model failed; fill `last_rows` and `last_log`."""
        rows, times = self._score(source, completions)
        return self.keep(rows, {**self.summarise(rows), **times}, columns)

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the metrics of one call, explained in this recipe's README; {} for an empty batch."""
        if not rows:
            return {}
        log = common_scalars(rows) | {f"reward/{name}": mean(row[name] for row in rows) for name in PARTS}
        totals, groups = [row["total"] for row in rows], [row["source"] for row in rows]
        terms = [self._terms(row) for row in rows]
        worth = {name: [found[name] for found in terms] for name in terms[0]}
        for name, values in worth.items():
            log[f"rank/{name}"] = variance_shares.rank_correlation(totals, values, groups)
        shares = variance_shares.shares(totals, worth, groups)
        log |= {f"variance_share/{name}": share for name, share in shares.items()}
        return {key: value for key, value in log.items() if value is not None}

    def score_pair(self, post: str, reply: str) -> float | None:
        return self.compute_rewards_batch([post], [reply])[0]

    def compute_rewards_batch(self, posts: Sequence[str], replies: Sequence[str]) -> list[float | None]:
        return [row["total"] for row in self._score(posts, replies)[0]]

    def get_component_scores(self, post: str, reply: str) -> dict[str, float | None]:
        """Return total and parts by the names of the settings; parts are None for a gated reply."""
        row = self._score([post], [reply])[0][0]
        return {name.removesuffix("_score"): row[name] for name in ("total", *PARTS)}

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return `identity` (if it changes, rewards are not comparable) and `environment`."""
        from rl_nmt.models import loading

        identity = {
            "reward": "replies/1",
            **{name: value for name, value in vars(self.settings).items() if name.startswith("w_")},
            "encoder": self.encoder.identity if self.encoder else f"missing: {MISSING}",
            "textblob": "installed" if self.textblob else f"missing: {MISSING}",
            "fluency": list(self.scale) if self.log_probs else "left out",
        }
        packages = ("sentence-transformers", "textblob", "transformers", "tokenizers", "torch")
        return {"identity": identity, "environment": loading.versions(*packages)}


def _each(name: str, function: Callable, items: Iterable, times: dict[str, float]) -> dict[Any, Any]:
    """Call a model on the distinct items; return item → result, None where it fails (with a warning); add its time."""
    start, asked = time.perf_counter(), list(dict.fromkeys(items))
    found, errors = isolate(function, asked)
    if errors:
        warn_lost(f"reward.{name}", "score", sum(value is None for value in found), len(asked), describe(errors[0]))
    times[f"time/{name}"] = time.perf_counter() - start
    return dict(zip(asked, found, strict=True))
