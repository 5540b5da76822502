"""Score translations into Tamil, or another language, without references: `CometDuPOReward`.

    total = w_cycle * cycle * (1 - copied) + w_qe * qe - penalties       clamped to [0.01, 1]
    total = 0                                                            for an invalid output (gated)

cycle    COMET-DA of the back-translation against the English source (hypothesis = the output put back into English
         by a frozen translator, src = ref = source). Dual-task reconstruction as in DuPO (arXiv 2508.14460).
copied   share of the source that the output repeats, in either script (rl_nmt/guards/copying.py).
qe       quality estimation of (source, output), no reference: COMETKiwi (arXiv 2209.06243), MetricX-24 or another.
penalties
         script: share of letters that are not of the language's script;
         length: how far log(len_output / len_source) is outside the band around the expected ratio. Lengths are NFC
         code points. expected_length_ratio=1, length_tolerance=0 is the plain |log ratio|;
         fidelity: share of the source's numbers, names and addresses that the output lost.

A gated output (rl_nmt/guards/gates.py) gets exactly 0.0 and costs no model time; one that passes gets at least 0.01,
so that nothing gated ever outranks it; one that a scorer could not score gets None, which TRL leaves out of its
group. guards="off" is the plain formula: no gates, no (1 - copied), no fidelity, clamped to [0, 1]. By hand:

    reward = CometDuPOReward("Unbabel/wmt22-comet-da", "Unbabel/wmt22-cometkiwi-da",
                             "facebook/nllb-200-distilled-1.3B")
    reward(["English: The door is open.\nTamil:"], ["கதவு திறந்திருக்கிறது."])
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Self

from rl_nmt import distributed
from rl_nmt.audit import variance_shares
from rl_nmt.errors import ConfigError
from rl_nmt.guards import copied_share, fidelity, gate_identity, verdict
from rl_nmt.hub import ModelUse
from rl_nmt.ranges import above, at_least, check_ranges
from rl_nmt.scorers.base import Segment, ask, require_scale
from rl_nmt.text import TAMIL, TextPair, language
from rl_nmt.text.languages import ENGLISH, Language, canonical
from rl_nmt.text.prompts import read_source, read_texts
from rl_nmt.text.unicode import clean_for_scoring, length, length_penalty, script_share
from rl_nmt.training import reward_models
from rl_nmt.training.reward_log import RewardLog, common_scalars, mean, work_done

GATED, PASSING_FLOOR = 0.0, 0.01
OF_LANGUAGE = ("expected_length_ratio", "length_tolerance")  # settings that are the language's own unless given
COMPONENTS = ("cycle", "qe", "foreign_script", "length_penalty", "copied", "fidelity_loss")


def cues(target: Language) -> str:
    """Return how every prompt for a language ends; the source is read from it."""
    return f"English: {{source}}\n{target.full_name}:"


CUES = cues(TAMIL)


@dataclass
class Formula:
    """What the reward depends on in addition to the models; all of it is in the reward's identity."""

    w_cycle: float = at_least(0, 0.6)  # weight of the cycle term; at 0 its models are neither loaded nor run
    w_qe: float = at_least(0, 0.4)  # weight of the quality estimation term; likewise
    penalty_weight_script: float = at_least(0, 0.2)  # weight of the share of letters in another script
    penalty_weight_lenratio: float = at_least(0, 0.1)  # weight of the log length ratio outside its band
    penalty_weight_fidelity: float = at_least(0, 0.1)  # weight of the share of numbers, names and addresses lost
    expected_length_ratio: float = above(0, None)
    """Output over English length, in code points, that costs nothing; by default the target language's own."""
    length_tolerance: float = at_least(0, None)
    """Natural-log distance from it that costs nothing, by default likewise; ratio 1 and 0 give |log ratio|."""
    guards: Literal["on", "off"] = "on"  # gate invalid outputs; off is the plain formula
    normalize: Literal["identity"] = "identity"  # how scores are mapped: identity clamps them to [0, 1]


def terms(row: dict[str, Any], formula: Formula) -> dict[str, float]:
    """Return what each component adds to the reward of a scored row, weight and sign included."""
    return {
        # English comes back best when it was never translated, so the cycle term shrinks by the copied share.
        "cycle": formula.w_cycle * _unit(row.get("cycle")) * (1.0 - (row.get("copied") or 0.0)),
        "qe": formula.w_qe * _unit(row.get("qe")),
        "script": -formula.penalty_weight_script * row["foreign_script"],
        "length": -formula.penalty_weight_lenratio * row["length_penalty"],
        "fidelity": -formula.penalty_weight_fidelity * (row.get("fidelity_loss") or 0.0),
    }


def combine(row: dict[str, Any], formula: Formula) -> float | None:
    """Return the reward of one sample from its components; None if a component with a weight is missing."""
    if row["gate"] is not None:
        return GATED
    if (formula.w_cycle and row["cycle"] is None) or (formula.w_qe and row["qe"] is None):
        return None
    floor = PASSING_FLOOR if formula.guards == "on" else 0.0
    return min(1.0, max(floor, sum(terms(row, formula).values())))


def _unit(value: float | None) -> float:
    return min(1.0, max(0.0, value or 0.0))


@dataclass
class RewardSettings(Formula):
    """Every setting of the reward; the trainer's RunCfg has them too. Raises ConfigError for an unknown language."""

    target_language: str = "ta"  # language to translate into: a code such as ta, te or zh_TW (docs/another_language.md)
    cycle: Literal["backtranslation", "likelihood"] = "backtranslation"
    """Does the meaning come back: COMET-DA of a back-translation, or how likely a language model finds the source."""
    qe: Literal["model", "likelihood"] = "model"  # comet_qe_model, or how likely the output is, given the source
    likelihood_model: str = ""  # causal language model, frozen, for the value likelihood; empty: the policy's own start
    worked_examples: str = ""  # right pairs (TSV, JSONL) for its prompt and scale; empty: those of the code, for Tamil
    comet_da_model: str = "Unbabel/wmt22-comet-da"  # COMET-DA checkpoint for the cycle: hub name or local folder
    comet_qe_model: str = "Unbabel/wmt22-cometkiwi-da"
    """Quality estimation: COMETKiwi (gated, non-commercial licence), XCOMET, AfriCOMET-QE or MetricX-24 hybrid."""
    backtranslation_model: str = "facebook/nllb-200-distilled-1.3B"  # NLLB, M2M100, MADLAD-400 or a chat model; frozen
    language_identifier: str = ""  # fastText model for the gate `language`: hub name, file or folder; empty: lid.176
    backtranslation_backend: Literal["transformers", "ctranslate2", "auto"] = "transformers"
    """Its back-end; CTranslate2 is faster, with the same texts in float32; auto: CTranslate2 where it works."""
    backtranslation_beams: int = at_least(1, 4)  # beams of the deterministic search
    reward_device: str = "auto"  # device of the COMET models: auto, cpu, cuda, cuda:N
    reward_dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    """Precision of the COMET models, its score error measured at load; auto: half on a GPU if that is at most 5e-3."""
    dual_device: str = "auto"  # device of the back-translator
    dual_dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    """Its precision; with CTranslate2 also int8, and float16 on a GPU."""
    reward_offload: bool = False  # keep the reward models on the CPU while the policy trains; independent_scorer always
    reward_models: Literal["each", "shared"] = "each"
    """Each of several processes loads its own reward models, or they share one copy per machine."""

    def __post_init__(self) -> None:
        self.target_language = canonical(self.target_language, "target_language")
        for name in OF_LANGUAGE:
            setattr(self, name, getattr(self.language if getattr(self, name) is None else self, name))

    @property
    def language(self) -> Language:
        """The row of target_language."""
        return language(self.target_language, "target_language")

    def check_reward(self) -> None:
        """Raise ConfigError for invalid values, before a model is loaded."""
        check_ranges(self)
        if self.normalize != "identity":
            raise ConfigError(f"normalize: {self.normalize!r} is unknown; the only value is 'identity'")
        if self.guards not in ("on", "off"):
            raise ConfigError(f"guards: {self.guards!r} must be 'on' or 'off'")
        if self.language is ENGLISH:
            way = "give another, or use recipes/translategemma, which also translates into English"
            raise ConfigError(f"target_language: {self.target_language} is the source language here; {way}")
        if self.w_cycle + self.w_qe == 0:
            raise ConfigError("w_cycle and w_qe are both 0, so no score would count; set one of them above 0")
        for name in ("cycle", "qe") if self.reward_dtype == "auto" else ():
            if getattr(self, f"w_{name}") and getattr(self, name) == "likelihood":
                raise ConfigError(f"reward_dtype: auto is not measured for {name} likelihood; set float32 or bfloat16")
        reward_models.worked_pairs(self, self.language)  # refuses too few, and those in another script

    def require_devices(self, explain: bool = False) -> tuple[str, str]:
        """Return the devices of COMET and back-translator after checking their precisions, before anything is loaded.

        `explain`: print the reason if one is the CPU. Raises ConfigError, MissingService (of CTranslate2).
        """
        return reward_models.devices(self, explain)

    def settled(self, once: Callable = lambda name, make: distributed.from_main(make)) -> Self:
        """Return the settings with a measured reward_dtype for "auto". Collective; `once`: a run's, which saves it."""
        if self.reward_dtype != "auto":
            return self
        from rl_nmt.scorers.comet.precision import choose_dtype

        choose = functools.partial(choose_dtype, self.reward_models_used(), self.require_devices()[0])
        return dataclasses.replace(self, reward_dtype=once("reward_dtype", choose))

    def reward_models_used(self, start: str = "") -> list[ModelUse]:
        """Return the models that weights above 0 need, under the names of their settings; `start`: the policy's own."""
        return reward_models.used(self, start)


class CometDuPOReward(RewardLog):
    """Reference-free reward from English, as TRL calls it: a batch in, a list out, None = no score.

    Args:
        comet_da_model, comet_qe_model, backtranslation_model: local folders or hub names.
        settings: a `RewardSettings`, or a RunCfg, which is one; None: the defaults.
        changes: single settings by name, e.g. w_qe=0.5.

    With reward_models="shared" every process must call this reward equally often, even with an empty batch.

    Raises ConfigError for an unknown setting, a value out of range or a checkpoint of the wrong class, MissingService
    for a model that cannot be reached.
    """

    __name__ = "comet_dupo"
    language: Language = TAMIL

    def __init__(
        self,
        comet_da_model: str | None = None,
        comet_qe_model: str | None = None,
        backtranslation_model: str | None = None,
        *,
        settings: RewardSettings | None = None,
        **changes: Any,
    ):
        super().__init__()
        models = (comet_da_model, comet_qe_model, backtranslation_model)
        names = ("comet_da_model", "comet_qe_model", "backtranslation_model")
        changes |= {name: str(model) for name, model in zip(names, models, strict=True) if model is not None}
        known = {field.name for field in dataclasses.fields(RewardSettings)}
        if unknown := sorted(changes.keys() - known):
            raise ConfigError(f"{unknown[0]} is not a setting of the reward; RewardSettings lists them")
        given = {name: getattr(settings, name) for name in known} if settings else {}
        given |= dict.fromkeys(OF_LANGUAGE) if "target_language" in changes else {}
        self.settings = RewardSettings(**given | changes)
        self.language = self.settings.language
        self.settings.check_reward()
        self._load()

    def __reduce__(self):
        """Pickled as its settings: the copy loads its models again."""
        return functools.partial(type(self), settings=self.settings), ()

    def _load(self) -> None:
        self.reward_device, self.dual_device = devices = self.settings.require_devices(explain=True)
        own = self.settings = self.settings.settled()
        self.shared = own.reward_models == "shared" and distributed.count() > 1
        pairs = reward_models.worked_pairs(own, self.language)
        self.backtranslator, self.da, self.qe = reward_models.load(own, self.language, devices, self.shared, pairs)
        self._warm_up()
        if own.reward_offload:
            self._place("cpu", "cpu")

    def _warm_up(self) -> None:
        """Call each model once, so that lazy loading is not in the first timed step and a broken one fails now."""
        if self.backtranslator is not None:
            self.backtranslator(["1 2 3"])
        own = self.settings
        names = ("likelihood_model" if own.cycle == "likelihood" else "comet_da_model", self.da)
        for argument, scorer in (names, ("likelihood_model" if own.qe == "likelihood" else "comet_qe_model", self.qe)):
            if scorer is not None:
                require_scale(argument, scorer)

    def _place(self, reward_device: str, dual_device: str) -> None:
        places = ((self.da, reward_device), (self.qe, reward_device), (self.backtranslator, dual_device))
        for model, device in places:
            if model is not None:
                model.to(device)

    def _text_components(self, source: str, completion: str) -> dict[str, Any]:
        """Return the parts of a row that need no model; see `score_components`."""
        pair, own = TextPair(source, completion, self.language), self.settings
        guarded = own.guards == "on"
        reason = verdict(pair, language_identifier=own.language_identifier) if guarded else None
        guarded &= reason is None
        kept = fidelity(pair) if guarded else None
        band = (self.language, own.expected_length_ratio, own.length_tolerance)
        return {
            "source": str(pair.clean_source),
            "output": str(pair.clean_output),
            "gate": reason,
            "foreign_script": 1.0 - script_share(pair.clean_output, self.language),
            "length_penalty": length_penalty(pair.clean_source, pair.clean_output, *band),
            "copied": copied_share(pair) if guarded else 0.0,
            "fidelity_loss": 0.0 if kept is None else 1.0 - kept,
            "length": length(pair.clean_output),
            **dict.fromkeys(("backtranslation", "cycle", "qe")),
        }

    def score_components(
        self, prompts: Sequence[str] | None, completions: Sequence[str], source: Sequence[str] | None = None, **columns
    ) -> list[dict[str, Any]]:
        """Return one row per sample, in order, with every part of its reward.

        `source`: the texts to translate (the dataset column; `english=` is its old name); without it they are read
        from `prompts`, which end in `cues`. `completions`: the policy's outputs without special tokens; may be empty.
        All are strings, or conversations as TRL passes them, of which the last user or assistant turn counts.

        The rows have source, output (cleaned), gate (reason or None), backtranslation; cycle and qe in COMET's
        own scale (about 0–1; None: not scored); foreign_script, copied and fidelity_loss in [0, 1]; length_penalty ≥ 0
        in natural log; length; total.
        """
        return self._score(self._sources(prompts, completions, source, columns), completions)[0]

    def _sources(self, prompts, completions, source, columns) -> list[str]:
        sources = columns.pop("english", None) if source is None else source
        if sources is None:
            if prompts is None:
                raise ConfigError("prompts: missing; give them, or the sources as source=[...]")
            ends = cues(self.language)
            sources = [read_source(prompt, ends) for prompt in read_texts("prompts", prompts, "user")]
        if len(sources) != len(completions):
            raise ConfigError(f"source: {len(sources)} texts for {len(completions)} completions; give one for each")
        return read_texts("source", sources, "user")

    def _score(self, sources, completions) -> tuple[list[dict[str, Any]], dict[str, float]]:
        start = time.perf_counter()
        rows = [self._text_components(*p) for p in zip(sources, read_texts("completions", completions), strict=True)]
        alive = [row for row in rows if row["gate"] is None]
        times = {"time/guards": time.perf_counter() - start}
        if alive or self.shared:  # other processes may have texts to score
            self._judge(alive, times)
        for row in rows:
            row["total"] = combine(row, self.settings)
        return rows, times

    def _judge(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        """Fill in cycle and qe, concurrently if back-translator and COMET are on different devices."""
        own = self.settings
        apart = self.reward_device.split(":0")[0] != self.dual_device.split(":0")[0]  # cuda is cuda:0
        try:
            if own.reward_offload:
                self._place(self.reward_device, self.dual_device)
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(self._quality, alive, times) if own.w_qe and own.w_cycle and apart else None
                if own.w_cycle:
                    self._cycle(alive, times)
                if beside:
                    beside.result()
                elif own.w_qe:
                    self._quality(alive, times)
        finally:  # also if a scorer stops the run: saving it may need the memory
            if own.reward_offload:
                self._place("cpu", "cpu")

    def _quality(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        start = time.perf_counter()
        name = "likelihood_model" if self.settings.qe == "likelihood" else "comet_qe_model"
        values = ask(name, self.qe, [Segment(r["source"], r["output"]) for r in alive]).values
        for row, value in zip(alive, values, strict=True):
            row["qe"] = value
        times["time/qe"] = time.perf_counter() - start

    def _cycle(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        start = time.perf_counter()
        if self.backtranslator is None:  # the output itself is scored
            segments = [Segment(r["source"], r["output"]) for r in alive]
            for row, value in zip(alive, ask("likelihood_model", self.da, segments).values, strict=True):
                row["cycle"] = value
            times["time/cycle"] = time.perf_counter() - start
            return
        backs = ask("backtranslation_model", self.backtranslator, [r["output"] for r in alive]).values
        times["time/back_translate"] = time.perf_counter() - start
        start = time.perf_counter()
        for row, back in zip(alive, backs, strict=True):
            row["backtranslation"] = None if back is None else clean_for_scoring(str(back))
        done = [row for row in alive if row["backtranslation"] is not None]
        segments = [Segment(r["source"], r["backtranslation"], r["source"]) for r in done]
        for row, value in zip(done, ask("comet_da_model", self.da, segments).values, strict=True):
            row["cycle"] = value
        times["time/cycle"] = time.perf_counter() - start

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], source: Sequence[str] | None = None, **columns
    ) -> list[float | None]:
        """Return rewards in [0, 1], one per completion, None where a score is missing; called by TRL.

        Side effects: `last_log` (training) or `last_eval_log`, `last_rows`; columns for TRL's `log_extra`.
        """
        rows, times = self._score(self._sources(prompts, completions, source, columns), completions)
        work = work_done(  # distinct texts, cut and runaway back-translations, padding
            rows,
            (
                ("backtranslation", self.backtranslator, ("unique", "sentences", "truncated", "hit_cap")),
                ("cycle", self.da, ("encoded", "padded_share")),
                ("qe", self.qe, ("encoded", "padded_share")),
            ),
        )
        log = {**self.summarise(rows), **times, **work}
        extra = ("source", "backtranslation", "gate", "cycle", "qe", "copied", "fidelity_loss")
        return self.keep(rows, log, columns, extra)

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Return the scalars of these rows, {} without any; docs/metrics.md lists them."""
        if not rows:
            return {}
        passing = [row for row in rows if row["gate"] is None]
        log = common_scalars(rows) | {f"reward/{name}": mean(row[name] for row in passing) for name in COMPONENTS}
        log["reward/clamped_share"] = mean(row["total"] in (0.0, PASSING_FLOOR, 1.0) for row in passing)
        totals, groups = [row["total"] for row in rows], [row["source"] for row in rows]
        scored = [terms(row, self.settings) if row["gate"] is None and row["total"] is not None else {} for row in rows]
        names = next((list(s) for s in scored if s), [])
        columns = {name: [s.get(name) for s in scored] for name in names}
        shares = variance_shares.shares(totals, columns, groups)
        log |= {f"variance_share/{name}": share for name, share in shares.items()}
        for name in ("cycle", "qe"):
            log[f"rank/{name}"] = variance_shares.rank_correlation(totals, [row[name] for row in rows], groups)
        return {key: value for key, value in log.items() if value is not None}

    def signature(self) -> dict[str, dict[str, Any]]:
        """Return what determines the reward: `identity` (a change makes rewards incomparable), `environment`."""
        formula = {field.name: getattr(self.settings, field.name) for field in dataclasses.fields(Formula)}
        identity: dict[str, Any] = {"reward": "comet_dupo/3", "language": self.language.code, **formula}
        identity |= gate_identity(self.language, self.settings.language_identifier) if formula["guards"] == "on" else {}
        environment: dict[str, Any] = {}
        for part, model in (("cycle", self.da), ("qe", self.qe), ("backtranslation", self.backtranslator)):
            if model is not None:
                signature = model.signature()
                identity[part] = signature["identity"]
                environment[part] = signature["environment"]
        return {"identity": identity, "environment": environment}
