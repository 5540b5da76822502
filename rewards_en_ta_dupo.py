"""What a Tamil translation is worth, without a reference: `CometDuPOReward`.

    total = w_cycle * cycle * (1 - copied) + w_qe * qe - penalties       clamped to [0.01, 1]
    total = 0                                                            for what is no translation (gated)

cycle    COMET-DA of the back-translation against the English source (hypothesis = NLLB's Tamil→English
         of the output, src = ref = source). Dual-task reconstruction as in DuPO (arXiv 2508.14460).
         English comes back best of all when it was never translated, so the term shrinks by the share of
         the source that the output repeats, in Latin or in Tamil letters (rl_nmt/guards/copying.py).
qe       COMETKiwi of (source, Tamil): quality estimation, no reference (arXiv 2209.06243).
penalties
         script: share of letters that are not Tamil;
         length: how far log(len_ta / len_en) leaves the band around the expected ratio. Lengths are NFC
         code points. expected_length_ratio=1, length_tolerance=0 is the plain |log(len_ta / len_en)|;
         fidelity: share of the source's numbers, names and addresses that the output lost.

An output that is no translation at all (rl_nmt/guards/gates.py) gets exactly 0.0 and costs no model time; one
that passes gets at least 0.01, so that nothing gated ever outranks it; one that a scorer could not score
gets None, which TRL leaves out of its group. guards="off" is the plain formula, for comparisons:
no gates, no (1 - copied), no fidelity, clamped to [0, 1]. By hand:

    reward = CometDuPOReward("Unbabel/wmt22-comet-da", "Unbabel/wmt22-cometkiwi-da",
                             "facebook/nllb-200-distilled-1.3B")
    reward(["English: The door is open.\nTamil:"], ["கதவு திறந்திருக்கிறது."])
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rl_nmt import distributed
from rl_nmt.audit import variance_shares
from rl_nmt.errors import ConfigError
from rl_nmt.guards import copied_share, fidelity, verdict
from rl_nmt.scorers.base import Segment, ask
from rl_nmt.scorers.shared import Shared, SharedTranslator
from rl_nmt.text import TAMIL, TextPair
from rl_nmt.text.prompts import read_source
from rl_nmt.text.unicode import clean_for_scoring, length, length_penalty, script_share
from rl_nmt.training.reward_log import RewardLog, common_scalars, mean, work_done

CUES = "English: {source}\nTamil:"  # how every prompt of this project ends; the source is read from it
GATED, PASSING_FLOOR = 0.0, 0.01
COMPONENTS = ("cycle", "qe", "foreign_script", "length_penalty", "copied", "fidelity_loss")


class CometDuPOReward(RewardLog):
    """Reference-free reward for English→Tamil, as TRL calls it: a batch in, a list out, None = no score.

    Args:
        comet_da_model, comet_qe_model, backtranslation_model: local folders or hub names.
        w_cycle, w_qe: weights of the two scores; a weight of 0 neither loads nor runs its models.
        penalty_weight_script, penalty_weight_lenratio, penalty_weight_fidelity: weights of the penalties.
        expected_length_ratio: Tamil over English length that costs nothing; None takes the language's.
        length_tolerance: natural-log distance from it that costs nothing; None takes the language's.
        guards: "on" or "off" (off: the plain formula, for comparisons).
        normalize: "identity", the only mapping of scores known: clamp to [0, 1].
        reward_device: where the COMET models live; "auto" is CUDA if there is one, else CPU.
        reward_dtype: what they compute in: "float32", or "bfloat16" | "float16" (CUDA), which measure their
            score error at load.
        dual_device, dual_dtype: the same for the back-translator; dtype "float32", "bfloat16", or "int8"
            with ctranslate2.
        backtranslation_backend: "transformers", "ctranslate2", or "auto" (ctranslate2 where it works).
        backtranslation_beams: beams of the deterministic search.
        reward_offload: keep the models on the CPU between calls.
        reward_models: "each" of several processes has its own, or they are "shared": loaded once per machine, and
            then every process must call this reward equally often, also with nothing.
        scorer_python: Python of another environment, in which the COMET models run, each in a process of its own
            with the same scores; "" runs them in this one.

    Raises:
        ConfigError: a bad weight, an unknown `normalize`, a checkpoint of the wrong class.
        MissingService: a model that cannot be reached.
    """

    __name__ = "comet_dupo"

    def __init__(
        self,
        comet_da_model: str = "Unbabel/wmt22-comet-da",
        comet_qe_model: str = "Unbabel/wmt22-cometkiwi-da",
        backtranslation_model: str = "facebook/nllb-200-distilled-1.3B",
        *,
        w_cycle: float = 0.6,
        w_qe: float = 0.4,
        penalty_weight_script: float = 0.2,
        penalty_weight_lenratio: float = 0.1,
        penalty_weight_fidelity: float = 0.1,
        expected_length_ratio: float | None = None,
        length_tolerance: float | None = None,
        guards: str = "on",
        normalize: str = "identity",
        reward_device: str = "auto",
        reward_dtype: str = "float32",
        dual_device: str = "auto",
        dual_dtype: str = "float32",
        backtranslation_backend: str = "transformers",
        backtranslation_beams: int = 4,
        reward_offload: bool = False,
        scorer_python: str = "",
        reward_models: str = "each",
    ):
        self._settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.language = TAMIL
        self.w_cycle, self.w_qe = w_cycle, w_qe
        self.penalty_weight_script = penalty_weight_script
        self.penalty_weight_lenratio = penalty_weight_lenratio
        self.penalty_weight_fidelity = penalty_weight_fidelity
        self.expected_length_ratio = (
            self.language.expected_length_ratio if expected_length_ratio is None else expected_length_ratio
        )
        self.length_tolerance = self.language.length_tolerance if length_tolerance is None else length_tolerance
        self.guards, self.normalize, self.reward_offload = guards, normalize, reward_offload
        check_settings(self)
        self._load(
            backtranslation_model,
            backtranslation_backend,
            backtranslation_beams,
            reward_device,
            dual_device,
            dual_dtype,
        )

    # ------------------------------------------------------------------ set-up

    def _load(self, backtranslation_model, backend, beams, reward_device, dual_device, dual_dtype) -> None:
        from rl_nmt.models.loading import choose_device

        self.shared = self._settings["reward_models"] == "shared" and distributed.count() > 1
        self.reward_device = choose_device(reward_device, "reward_device")
        self.dual_device = choose_device(dual_device, "dual_device")
        self.backtranslator = self.da = self.qe = None
        if self.w_cycle:
            from rl_nmt.backtranslation.translator import load_backtranslator

            load = functools.partial(
                load_backtranslator,
                backtranslation_model,
                source=self.language.nllb,
                target="eng_Latn",
                backend=backend,
                beams=beams,
                device=self.dual_device,
                dtype=dual_dtype,
            )
            self.backtranslator = SharedTranslator(load) if self.shared else load()
            self.da = self._load_comet("comet_da_model", "regression_metric")
        if self.w_qe:
            self.qe = self._load_comet(
                "comet_qe_model", "unified_metric", "referenceless_regression_metric", "xcomet_metric"
            )
        self._warm_up()
        if self.reward_offload:
            self._place("cpu", "cpu")

    def _load_comet(self, argument: str, *classes: str):
        """The COMET model of this setting, in this process or behind a worker in the environment of scorer_python."""
        name, python = self._settings[argument], self._settings["scorer_python"]
        options = {
            "device": self.reward_device,
            "dtype": self._settings["reward_dtype"],
            "argument": argument,
            "classes": classes,
            # Offloaded it lies on the CPU without computing there: nothing is prepared for that each time.
            "linears": "torch" if self.reward_offload and self.reward_device != "cpu" else "auto",
        }
        if not python:
            from rl_nmt.scorers.comet.scorer import load_comet

            load = functools.partial(load_comet, name, **options)
        else:
            from rl_nmt.scorers.worker.client import load_in_worker

            load = functools.partial(
                load_in_worker,
                "rl_nmt.scorers.comet.scorer:load_comet",
                {"name_or_path": str(name), **options},
                python_executable=python,
                argument="scorer_python",
            )
        return Shared(load) if self.shared else load()

    def _warm_up(self) -> None:
        """One call of each model, so that the first timed step pays for no lazy loading and a broken one shows now."""
        if self.backtranslator is not None:
            self.backtranslator(["1 2 3"])
        if self.da is not None:
            self.da.score([Segment("1 2 3", "1 2 3", "1 2 3")])
        if self.qe is not None:
            self.qe.score([Segment("1 2 3", "1 2 3")])

    def _place(self, reward_device: str, dual_device: str) -> None:
        for model, device in (
            (self.da, reward_device),
            (self.qe, reward_device),
            (self.backtranslator, dual_device),
        ):
            if model is not None:
                model.to(device)

    def __reduce__(self):
        """Pickled as its settings: the copy loads its models anew."""
        return functools.partial(type(self), **self._settings), ()

    # ------------------------------------------------------------------ the formula

    def _text_components(self, source: str, completion: str) -> dict[str, Any]:
        """Everything that needs no model; see `score_components`."""
        pair = TextPair(source, completion, self.language)
        guarded = self.guards == "on"
        reason = verdict(pair) if guarded else None
        kept = fidelity(pair) if guarded and reason is None else None
        return {
            "source": str(pair.clean_source),
            "output": str(pair.clean_output),
            "gate": reason,
            "foreign_script": 1.0 - script_share(pair.clean_output, self.language),
            "length_penalty": length_penalty(
                pair.clean_source, pair.clean_output, self.language, self.expected_length_ratio, self.length_tolerance
            ),
            "copied": copied_share(pair) if guarded and reason is None else 0.0,
            "fidelity_loss": 0.0 if kept is None else 1.0 - kept,
            "length": length(pair.clean_output),
            "backtranslation": None,
            "cycle": None,
            "qe": None,
        }

    # ------------------------------------------------------------------ scoring

    def score_components(
        self, prompts: Sequence[str] | None, completions: Sequence[str], source: Sequence[str] | None = None, **columns
    ) -> list[dict[str, Any]]:
        """One row per sample, in order, with every part of its reward.

        Args:
            prompts: prompts that end in `CUES`; read only when `source` is not given.
            completions: what the policy wrote, decoded without special tokens; may be empty.
            source: the texts to translate, one per completion (the dataset column; `english=` is its old name).

        Returns:
            Rows with source, output (cleaned), gate (reason or None), backtranslation; cycle and qe in
            COMET's own scale (about 0–1; None: not scored); foreign_script, copied and fidelity_loss in [0, 1];
            length_penalty ≥ 0 in natural log; length; total.
        """
        rows, _times = self._score(self._sources(prompts, completions, source, columns), completions)
        return rows

    def _sources(self, prompts, completions, source, columns) -> list[str]:
        sources = columns.pop("english", None) if source is None else source
        if sources is None:
            if prompts is None:
                raise ConfigError("score_components: give prompts, or the sources as source=[...]")
            sources = [read_source(prompt, CUES) for prompt in prompts]
        if len(sources) != len(completions):
            raise ConfigError(f"{len(completions)} completions but {len(sources)} sources")
        return list(sources)

    def _score(self, sources, completions) -> tuple[list[dict[str, Any]], dict[str, float]]:
        start = time.perf_counter()
        rows = [self._text_components(s, c) for s, c in zip(sources, completions, strict=True)]
        alive = [row for row in rows if row["gate"] is None]
        times = {"time/guards": time.perf_counter() - start}
        asked = bool(alive) or self.shared  # other processes may have something to ask
        try:
            if self.reward_offload and asked:
                self._place(self.reward_device, self.dual_device)
            if asked:
                self._judge(alive, times)
        finally:  # also when a scorer has to stop the run: what is saved then may need the room
            if self.reward_offload and asked:
                self._place("cpu", "cpu")
        for row in rows:
            row["total"] = combine(row, self)
        return rows, times

    def _judge(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        """Fill in cycle and qe; at the same time where back-translator and judges have a device each."""
        apart = self.reward_device.split(":0")[0] != self.dual_device.split(":0")[0]  # cuda is cuda:0
        if self.w_cycle and self.w_qe and apart:
            with ThreadPoolExecutor(1) as beside:
                quality = beside.submit(self._quality, alive, times)
                self._cycle(alive, times)
                quality.result()
            return
        if self.w_cycle:
            self._cycle(alive, times)
        if self.w_qe:
            self._quality(alive, times)

    def _quality(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        start = time.perf_counter()
        values = ask("comet_qe_model", self.qe, [Segment(r["source"], r["output"]) for r in alive]).values
        for row, value in zip(alive, values, strict=True):
            row["qe"] = value
        times["time/qe"] = time.perf_counter() - start

    def _cycle(self, alive: list[dict[str, Any]], times: dict[str, float]) -> None:
        start = time.perf_counter()
        backs = ask("backtranslation_model", self.backtranslator, [r["output"] for r in alive]).values
        times["time/back_translate"] = time.perf_counter() - start
        start = time.perf_counter()
        done = []
        for row, back in zip(alive, backs, strict=True):
            if back is not None:
                row["backtranslation"] = clean_for_scoring(back)
                done.append(row)
        segments = [Segment(r["source"], r["backtranslation"], r["source"]) for r in done]
        for row, value in zip(done, ask("comet_da_model", self.da, segments).values, strict=True):
            row["cycle"] = value
        times["time/cycle"] = time.perf_counter() - start

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], source: Sequence[str] | None = None, **columns
    ) -> list[float | None]:
        """Rewards in [0, 1], one per completion, None where a score is missing: what TRL calls.

        Side effects: `last_log` (training) or `last_eval_log`, `last_rows`; the same scalars and columns
        also go to TRL's `log_metric` and `log_extra` when it passes them.
        """
        rows, times = self._score(self._sources(prompts, completions, source, columns), completions)
        log = {**self.summarise(rows), **times, **self._machine_log(rows)}
        extra = ("source", "backtranslation", "gate", "cycle", "qe", "copied", "fidelity_loss")
        return self.keep(rows, log, columns, extra)

    def summarise(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Scalars of these rows of `score_components`; the names are documented in docs/metrics.md."""
        return summarise(rows, self)

    def _machine_log(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """How much work the models had: distinct texts, cut and runaway back-translations, padding."""
        return work_done(
            rows,
            (
                ("backtranslation", self.backtranslator, ("unique", "sentences", "truncated", "hit_cap")),
                ("cycle", self.da, ("encoded", "padded_share")),
                ("qe", self.qe, ("encoded", "padded_share")),
            ),
        )

    def signature(self) -> dict[str, dict[str, Any]]:
        """What makes the number: `identity` (a change makes rewards incomparable), `environment`."""
        identity: dict[str, Any] = {
            "reward": "comet_dupo/2",
            "language": self.language.code,
            "w_cycle": self.w_cycle,
            "w_qe": self.w_qe,
            "penalty_weight_script": self.penalty_weight_script,
            "penalty_weight_lenratio": self.penalty_weight_lenratio,
            "penalty_weight_fidelity": self.penalty_weight_fidelity,
            "expected_length_ratio": self.expected_length_ratio,
            "length_tolerance": self.length_tolerance,
            "guards": self.guards,
            "normalize": self.normalize,
        }
        environment: dict[str, Any] = {}
        for part, model in (("cycle", self.da), ("qe", self.qe), ("backtranslation", self.backtranslator)):
            if model is not None:
                signature = model.signature()
                identity[part] = signature["identity"]
                environment[part] = signature["environment"]
        return {"identity": identity, "environment": environment}


def terms(row: dict[str, Any], settings) -> dict[str, float]:
    """What each component adds to the formula of a scored row, weight and sign included."""
    copied = row.get("copied") or 0.0
    return {
        "cycle": settings.w_cycle * _unit(row.get("cycle")) * (1.0 - copied),
        "qe": settings.w_qe * _unit(row.get("qe")),
        "script": -settings.penalty_weight_script * row["foreign_script"],
        "length": -settings.penalty_weight_lenratio * row["length_penalty"],
        "fidelity": -settings.penalty_weight_fidelity * (row.get("fidelity_loss") or 0.0),
    }


def combine(row: dict[str, Any], settings) -> float | None:
    """The reward of one sample from its components; the only place where they are weighed.

    `settings` has the weights and `guards` as attributes: the reward itself, or a RunCfg. None when a
    component with a weight is missing.
    """
    if row["gate"] is not None:
        return GATED
    if (settings.w_cycle and row["cycle"] is None) or (settings.w_qe and row["qe"] is None):
        return None
    formula = sum(terms(row, settings).values())
    return min(1.0, max(PASSING_FLOOR if settings.guards == "on" else 0.0, formula))


def _unit(value: float | None) -> float:
    return min(1.0, max(0.0, value or 0.0))


def check_settings(settings) -> None:
    """Refuse numbers that make no reward, before a model is loaded.

    `settings` has the reward's settings as attributes: the reward itself, or the trainer's RunCfg.
    Raises ConfigError.
    """
    normalize = getattr(settings, "normalize", "identity")
    if normalize != "identity":
        raise ConfigError(f"normalize: {normalize!r} is unknown; the only value is 'identity'")
    if settings.guards not in ("on", "off"):
        raise ConfigError(f"guards: {settings.guards!r} is neither 'on' nor 'off'")
    for name in ("w_cycle", "w_qe", "penalty_weight_script", "penalty_weight_lenratio", "penalty_weight_fidelity"):
        value = getattr(settings, name)
        if not math.isfinite(value) or value < 0:
            raise ConfigError(f"{name}: {value} must be a finite number of at least 0")
    if settings.w_cycle + settings.w_qe == 0:
        raise ConfigError("w_cycle and w_qe are both 0: the reward would not depend on any score")
    if not (math.isfinite(settings.expected_length_ratio) and settings.expected_length_ratio > 0):
        raise ConfigError(f"expected_length_ratio: {settings.expected_length_ratio} must be above 0")
    if not (math.isfinite(settings.length_tolerance) and settings.length_tolerance >= 0):
        raise ConfigError(f"length_tolerance: {settings.length_tolerance} must be at least 0")


def summarise(rows: list[dict[str, Any]], settings) -> dict[str, float]:
    """Scalars of one reward call; the names are documented in docs/metrics.md. Empty batch: empty dict."""
    if not rows:
        return {}
    passing = [row for row in rows if row["gate"] is None]
    log = {
        **common_scalars(rows),
        **{f"reward/{name}": mean(r[name] for r in passing) for name in COMPONENTS},
        "reward/clamped_share": mean(r["total"] in (0.0, PASSING_FLOOR, 1.0) for r in passing),
    }
    return {key: value for key, value in {**log, **_who_decides(rows, settings)}.items() if value is not None}


def _who_decides(rows: list[dict[str, Any]], settings) -> dict[str, float | None]:
    """Each component's share of the spread inside the groups, and its rank correlation with the total there."""
    totals, groups = [row["total"] for row in rows], [row["source"] for row in rows]
    scored = [terms(row, settings) if row["gate"] is None and row["total"] is not None else {} for row in rows]
    names = next((list(s) for s in scored if s), [])
    columns = {name: [s.get(name) for s in scored] for name in names}
    log = {f"variance_share/{name}": share for name, share in variance_shares.shares(totals, columns, groups).items()}
    for name in ("cycle", "qe"):
        log[f"rank/{name}"] = variance_shares.rank_correlation(totals, [row[name] for row in rows], groups)
    return log
