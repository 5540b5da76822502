"""Build the configured scorers: loaded here, in a worker, or reached over HTTP."""

from __future__ import annotations

import operator
import os
from functools import partial
from typing import Any

from recipes.translategemma.reward import EnsembleReward, Part
from recipes.translategemma.settings import TranslateGemmaCfg
from rl_nmt import distributed
from rl_nmt.config import load_callable
from rl_nmt.scorers.cached import Remembered
from rl_nmt.scorers.mqm.gemba import load_gemba_mqm
from rl_nmt.scorers.shared import Shared
from rl_nmt.scorers.worker.client import load_in_worker
from rl_nmt.text.languages import language
from rl_nmt.training.token_credit import SpanCredit


def build_reward(cfg: TranslateGemmaCfg, placed: dict[str, str]) -> EnsembleReward:
    """Build the configured ensemble; see `load_parts`."""
    parts, memories = load_parts(cfg, placed)
    source, target = language(cfg.data.source_lang), language(cfg.data.target_lang)
    return EnsembleReward(parts, target, source, cfg.reward.guards, memories)


def load_parts(cfg: TranslateGemmaCfg, placed: dict[str, str]) -> tuple[dict[str, Part], dict[str, Remembered]]:
    """Return name → part of the reward, and name → cache of those that have one in this process.

    `placed`: the models' devices ("cpu", "cuda:N"). Raises what the loaders raise: ConfigError, MissingService.
    """
    wanted, parts, memories = cfg.reward, {}, {}
    # Checked before a model is loaded: an endpoint is more likely to fail than a local checkpoint.
    annotator = remembering("mqm", judge(cfg), cfg, memories) if wanted.mqm.enabled else None
    if wanted.metricx.enabled:
        options = {"tokenizer": wanted.metricx.tokenizer_name_or_path or None, "max_length": wanted.metricx.max_length}
        scorer = resident("metricx", "rl_nmt.scorers.metricx:load_metricx", options, placed["metricx"], cfg, memories)
        turn = partial(operator.sub, wanted.metricx.offset)  # offset - score turns MetricX's error into a reward
        parts["metricx"] = Part(scorer, wanted.metricx.weight, turn)
    if wanted.xcomet.enabled:
        options = {"classes": ["xcomet_metric"]}
        scorer = resident("xcomet", "rl_nmt.scorers.comet.scorer:load_comet", options, placed["xcomet"], cfg, memories)
        parts["xcomet"] = _marking(scorer, wanted.xcomet, use_confidence=wanted.xcomet.use_confidence)
    if annotator is not None:
        parts["mqm"] = _marking(annotator, wanted.mqm, beside=True)
    return parts, memories


def _marking(scorer, section, use_confidence: bool = False, beside: bool = False) -> Part:
    """Return the part of a scorer that marks error spans, with the weights of its section in the settings."""
    weights = {"minor": section.minor, "major": section.major, "critical": section.critical}
    credit = SpanCredit(weights, section.overlap, use_confidence, section.combine, section.scale)
    return Part(scorer, section.sentence_weight, span_weight=section.weight, credit=credit, beside=beside)


def resident(name: str, factory: str, options: dict[str, Any], device: str, cfg: TranslateGemmaCfg, memories: dict):
    """Load a scorer that is a model: in this process or a worker, with a cache, once per machine for all processes.

    Args:
        name: of its section under `reward`.
        factory: "module:function" that loads it.
        options: arguments of the function other than name_or_path, dtype, overlong, device and argument.
        memories: receives its cache if this process loads it.
    """
    section = getattr(cfg.reward, name)
    options |= {"name_or_path": section.model_name_or_path, "dtype": section.dtype, "overlong": cfg.reward.overlong}

    def load():
        if section.python_executable:
            here, gpu = ("cuda", visible(device.removeprefix("cuda:"))) if device.startswith("cuda:") else ("cpu", "")
            scorer = load_in_worker(
                factory,
                options | {"device": here},
                python_executable=section.python_executable,
                gpu=gpu,
                argument=f"reward.{name}.python_executable",
            )
        else:
            loader = load_callable(factory, f"reward.{name}")
            scorer = loader(**options, device=device, argument=f"reward.{name}.model_name_or_path")
        return remembering(name, scorer, cfg, memories)

    return Shared(load) if distributed.count() > 1 else load()


def remembering(name: str, scorer, cfg: TranslateGemmaCfg, memories: dict[str, Remembered]):
    """Return the scorer with a cache, and add that to `memories`; the scorer itself if the cache size is 0."""
    if cfg.reward.cache_size:
        memories[name] = scorer = Remembered(scorer, cfg.reward.cache_size)
    return scorer


def visible(gpu: str) -> str:
    """Return the CUDA_VISIBLE_DEVICES that shows a worker this process's GPU of that number."""
    inherited = os.environ.get("CUDA_VISIBLE_DEVICES")
    return inherited.split(",")[int(gpu)].strip() if inherited else gpu


def judge(cfg: TranslateGemmaCfg):
    """Return the MQM judge behind its endpoint, without a cache, after one test question."""
    mqm = cfg.reward.mqm
    return load_gemba_mqm(
        mqm.endpoint,
        mqm.model,
        source_language=language(cfg.data.source_lang).name,
        target_language=language(cfg.data.target_lang).name,
        api_key_env=mqm.api_key_env or None,
        form=mqm.form,
        concurrency=mqm.concurrency,
        timeout=mqm.timeout,
        deadline=mqm.deadline,
        max_tokens=mqm.max_tokens,
        argument="reward.mqm.endpoint",
        check=distributed.is_main_process(),
    )
