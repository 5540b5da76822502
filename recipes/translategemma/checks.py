"""Refuse settings of a TranslateGemma-style run that cannot work, in one line, before anything is loaded. No torch."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.translategemma.placement import check_ids, scorer_devices
from rl_nmt.errors import ConfigError
from rl_nmt.hub import COMET, ModelUse, require_models, split_revision
from rl_nmt.preflight.environments import require_python
from rl_nmt.ranges import check_ranges
from rl_nmt.text.languages import ENGLISH, language, wmt24pp_code
from rl_nmt.text.prompts import SLOT
from rl_nmt.training.trl_settings import passes_per_step

if TYPE_CHECKING:
    from recipes.translategemma.settings import DataCfg, TranslateGemmaCfg

POLICY = "model.policy_name_or_path"
WMT24PP = "google/wmt24pp"


def check(cfg: TranslateGemmaCfg, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse settings that cannot work, before anything is loaded; read only train_file and eval_file, to compare them.

    `environ`: WORLD_SIZE and the variables that the settings name. Raises ConfigError, one line naming the settings.
    """
    check_ranges(cfg)
    _check_pairs(cfg)
    _check_languages(cfg.data)
    _check_data(cfg.data)
    _check_scorers(cfg)
    check_ids(cfg.model.policy_gpu_ids, cfg.model.reference_gpu_ids, scorer_devices(cfg))
    accumulation_steps(cfg, int(environ.get("WORLD_SIZE", "1")))
    _check_folder(cfg)
    key = cfg.reward.mqm.api_key_env if cfg.reward.mqm.enabled else ""
    token = cfg.misc.huggingface_token_env
    for setting, name, advice in (
        ("reward.mqm.api_key_env", key, "export it with the key as its value"),
        ("misc.huggingface_token_env", token, "export it, or leave the setting empty to use your login"),
    ):
        if name and not environ.get(name):
            raise ConfigError(f"{setting}: the environment variable {name} is not set; {advice}")


def require_environment(cfg: TranslateGemmaCfg) -> None:
    """Refuse, within seconds, packages and models that are missing here or in a scorer's environment.

    Raises ConfigError, and MissingService for a model that the hub does not provide.
    """
    metricx, xcomet, independent = cfg.reward.metricx, cfg.reward.xcomet, cfg.misc.independent_scorer
    if metricx.enabled and metricx.python_executable:
        require_python("reward.metricx.python_executable", metricx.python_executable, ("torch", "transformers"))
    comet = xcomet.enabled or independent  # the independent scorer runs in XCOMET's environment
    if comet and xcomet.python_executable:
        argument = "reward.xcomet.python_executable"
        require_python(argument, xcomet.python_executable, ("torch", "transformers"))
    require_models(
        [
            ModelUse(POLICY, cfg.model.policy_name_or_path),
            ModelUse("reward.metricx.model_name_or_path", metricx.model_name_or_path if metricx.enabled else ""),
            ModelUse("reward.xcomet.model_name_or_path", xcomet.model_name_or_path if xcomet.enabled else "", COMET),
            ModelUse("misc.independent_scorer", independent, COMET),
        ]
    )


def accumulation_steps(cfg: TranslateGemmaCfg, processes: int) -> int:
    """Return forward and backward passes per process and update. Raises ConfigError if the update does not divide."""
    names = ("rl.prompts_per_update", "generation.num_samples_per_prompt", "rl.micro_batch_size")
    return passes_per_step({name: attrgetter(name)(cfg) for name in names}, processes)


def checkpoint_folder(cfg: TranslateGemmaCfg) -> Path | None:
    """Return the folder of logging.resume_from_checkpoint, a path or a name inside output_dir; None if it is empty."""
    wanted = cfg.logging.resume_from_checkpoint
    if not wanted:
        return None
    path, inside = Path(wanted).expanduser(), Path(cfg.logging.output_dir).expanduser() / wanted
    return inside if not path.is_dir() and inside.is_dir() else path


def check_rows(cfg: TranslateGemmaCfg, rows: int) -> None:
    """Refuse too few training rows for one update: TRL would train on none of them. Raises ConfigError."""
    if rows < cfg.rl.prompts_per_update:
        raise ConfigError(
            f"rl.prompts_per_update: {cfg.rl.prompts_per_update} is more than the {rows} training rows; lower it or "
            "give more rows"
        )


def hub_environment(cfg: TranslateGemmaCfg, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables to set before the hub's libraries are imported; never print them, one may be the token."""
    cache = cfg.misc.huggingface_cache_dir
    folder = Path(cache).expanduser().absolute()
    wanted = {"HF_HUB_CACHE": str(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "datasets")} if cache else {}
    token = environ.get(cfg.misc.huggingface_token_env) or cfg.misc.huggingface_token
    return wanted | ({"HF_TOKEN": token} if token else {})


def _check_pairs(cfg: TranslateGemmaCfg) -> None:
    """Refuse settings that are valid alone but not together."""
    if cfg.generation.prompt and cfg.generation.prompt.count(SLOT) != 1:
        raise ConfigError(f"generation.prompt: it must contain {SLOT} exactly once, in the place of the source")
    if 0 < cfg.rl.clip_high < cfg.rl.clip:
        raise ConfigError(f"rl.clip_high: {cfg.rl.clip_high} is below rl.clip {cfg.rl.clip}; raise it, or set 0")
    if cfg.rl.baseline == "group" and not cfg.rl.normalise:
        raise ConfigError("rl.baseline: group needs rl.normalise True; set that, or rl.baseline batch")
    every, passes = cfg.rl.save_every, cfg.rl.iterations
    if every % passes:  # as trl_settings.check_save_steps, which the trainer calls only after loading
        nearest = [n for n in (every // passes * passes, every // passes * passes + passes) if n]
        raise ConfigError(
            f"rl.save_every: {every} is not a multiple of rl.iterations {passes}: a checkpoint between passes over the "
            f"same completions could not be resumed exactly; use {' or '.join(map(str, nearest))}"
        )


def _check_languages(data: DataCfg) -> None:
    source, target = data.source_lang, data.target_lang
    out_of, into = language(source, "data.source_lang"), language(target, "data.target_lang")
    if out_of.name == into.name:
        raise ConfigError(f"data.target_lang: {target} is also the source language ({source}); give another")
    if split_revision(data.hf_dataset_name)[0] == WMT24PP:
        if ENGLISH not in (out_of, into):
            raise ConfigError(
                f"data.source_lang: {source}: one side of {WMT24PP} is en; set en, or data.target_lang en"
            )
        other, argument = (source, "data.source_lang") if into is ENGLISH else (target, "data.target_lang")
        wmt24pp_code(other, argument)


def _check_data(data: DataCfg) -> None:
    if bool(data.train_file) == bool(data.hf_dataset_name):
        what = "both are given" if data.train_file else "neither is given"
        give = f"give one, e.g. --data.train_file rows.jsonl or --data.hf_dataset_name {WMT24PP}"
        raise ConfigError(f"data.train_file and data.hf_dataset_name: {what}; {give}")
    if data.train_file and data.hf_eval_split:
        raise ConfigError("data.hf_eval_split: data.train_file has no splits; give data.eval_file instead")
    if data.eval_file and data.hf_eval_split:
        raise ConfigError("data.eval_file and data.hf_eval_split: both name held-out rows; leave one empty")
    if data.hf_eval_split and data.hf_eval_split == data.hf_train_split:
        raise ConfigError(
            f"data.hf_eval_split: {data.hf_eval_split} is also data.hf_train_split; leave it empty to hold rows out by "
            "data.eval_sampling_count or data.eval_sampling_ratio"
        )
    if not (data.eval_file or data.hf_eval_split or data.eval_sampling_count or data.eval_sampling_ratio):
        raise ConfigError(
            "data.eval_sampling_ratio: no row is held out; give data.eval_file, data.hf_eval_split, "
            "data.eval_sampling_count or data.eval_sampling_ratio"
        )
    if size := data.document_chars:
        if not (len(size) == 2 and 1 <= size[0] <= size[1]):
            given = " ".join(map(str, size))
            raise ConfigError(f"data.document_chars: {given}: give the fewest and the most characters, e.g. 20 300")
        if language(data.source_lang) is not ENGLISH:
            source = data.source_lang
            raise ConfigError(f"data.document_chars: works for English only, not for {source}; leave it empty")
        if data.target_field or split_revision(data.hf_dataset_name)[0] == WMT24PP:
            raise ConfigError("data.document_chars: a cut document no longer matches its reference; leave it empty")
    for name, file in (("train_file", data.train_file), ("eval_file", data.eval_file)):
        if file and not Path(file).expanduser().is_file():
            raise ConfigError(f"data.{name}: no such file: {file}")
    if not (data.train_file and data.eval_file):
        return
    try:
        same = filecmp.cmp(Path(data.train_file).expanduser(), Path(data.eval_file).expanduser(), shallow=False)
    except OSError as error:
        raise ConfigError(f"data: {error.filename} cannot be read: {error.strerror}") from error
    if same:
        raise ConfigError(
            f"data.eval_file: {data.eval_file} has the same content as data.train_file {data.train_file}; give other "
            "rows, or leave it empty to hold some out"
        )


def _check_scorers(cfg: TranslateGemmaCfg) -> None:
    metricx, xcomet, mqm = cfg.reward.metricx, cfg.reward.xcomet, cfg.reward.mqm
    if not (metricx.enabled or xcomet.enabled or mqm.enabled):
        raise ConfigError(
            "reward: no scorer is enabled; set reward.metricx.enabled, reward.xcomet.enabled or reward.mqm.enabled True"
        )
    if not ((metricx.enabled and metricx.weight) or any(s.enabled and s.sentence_weight for s in (xcomet, mqm))):
        raise ConfigError(
            "reward: no enabled scorer has a weight in the sequence reward; set reward.metricx.weight, "
            "reward.xcomet.sentence_weight or reward.mqm.sentence_weight above 0"
        )
    if cfg.rl.credit == "token" and not any(s.enabled and s.weight for s in (xcomet, mqm)):
        raise ConfigError(
            "rl.credit: token needs error spans; enable reward.xcomet or reward.mqm with a weight above 0, or set "
            "rl.credit sequence"
        )
    for name, scorer in (("metricx", metricx), ("xcomet", xcomet)):
        if scorer.enabled and not scorer.model_name_or_path.strip():
            raise ConfigError(f"reward.{name}.model_name_or_path is empty; give a checkpoint, or disable the scorer")
    if not mqm.enabled:
        return
    if not mqm.endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"reward.mqm.endpoint: {mqm.endpoint!r} is not an http address; give the base of an "
            "OpenAI-compatible API, e.g. http://localhost:8000/v1"
        )
    if not mqm.model.strip():
        raise ConfigError("reward.mqm.model is empty; give the endpoint's name for the model")
    if mqm.deadline < mqm.timeout:
        raise ConfigError(
            f"reward.mqm.deadline: {mqm.deadline} s for a step is less than reward.mqm.timeout {mqm.timeout} s for one "
            "request; raise the first or lower the second"
        )


def _check_folder(cfg: TranslateGemmaCfg) -> None:
    logging = cfg.logging
    if not logging.output_dir.strip():
        raise ConfigError("logging.output_dir is empty; give a folder for the run")
    wanted = logging.resume_from_checkpoint
    if wanted and logging.auto_resume:
        raise ConfigError(
            f"logging.resume_from_checkpoint: {wanted}: logging.auto_resume would continue from the newest instead; "
            "add --logging.auto_resume False"
        )
    if wanted and not checkpoint_folder(cfg).is_dir():
        beside = f"also not in logging.output_dir {logging.output_dir}"
        raise ConfigError(f"logging.resume_from_checkpoint: no such folder: {wanted}, {beside}")
    if logging.save_only_best and not cfg.rl.eval_every:
        raise ConfigError("logging.save_only_best: evaluations find the best; set rl.eval_every to 1 or more")
