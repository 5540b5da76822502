"""The phases that settings choose, and settings that cannot work: one line that names the setting."""

from __future__ import annotations

import dataclasses

import pytest

from recipes.replies import checks
from recipes.replies.settings import RepliesCfg
from rl_nmt import config
from rl_nmt.errors import ConfigError
from rl_nmt.ranges import check_ranges


def made(tmp_path, *flags) -> RepliesCfg:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"post": "a", "reply": "b"}\n', encoding="utf-8")
    words = ["--data.train_file", str(rows), "--logging.output_dir", str(tmp_path / "run"), *flags]
    return config.parse(RepliesCfg, words, {}, prog="x", description="")[0]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("sft", "grpo")),
        (["--training.use_grpo", "false"], ("sft",)),
        (["--training.use_grpo", "true"], ("sft", "grpo")),
        (["--experiment.type", "baseline"], ("sft",)),
        (["--experiment.type", "polychromic"], ("sft",)),
        (["--experiment.type", "grpo"], ("sft", "grpo")),
        (["--experiment.type", "grpo", "--training.use_grpo", "true"], ("sft", "grpo")),
        (["--phase", "grpo"], ("grpo",)),
        (["--phase", "sft", "--experiment.type", "grpo", "--training.use_grpo", "false"], ("sft",)),
    ],
)
def test_phases(tmp_path, flags, expected):
    assert checks.phases(made(tmp_path, *flags)) == expected


def test_the_switch_works_in_yaml_as_in_the_original(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {use_grpo: true}\ngrpo: {n_generations: 5, kl_coeff: 0.2, clip_advantage: false}\n")
    cfg = config.parse(RepliesCfg, ["--config", str(file)], {}, prog="x", description="")[0]
    assert cfg.training.use_grpo == "true" and cfg.grpo.n_generations == 5 and not cfg.grpo.clip_advantage


def test_the_defaults_are_those_of_the_brief():
    own = RepliesCfg().grpo
    assert (own.n_generations, own.temperature, own.top_p, own.max_new_tokens, own.kl_coeff) == (4, 0.8, 0.9, 100, 0.1)
    assert own.clip_advantage and own.advantage_clip_range == 10.0
    check_ranges(RepliesCfg())


def test_the_pocket_policy_knows_the_default_prompt():
    from pocket.replies.build import PROMPT

    assert RepliesCfg().model.prompt == PROMPT


REFUSED = {
    "training.use_grpo": ["--experiment.type", "grpo", "--training.use_grpo", "false"],
    "sft.diversity_weight: 0.0 ": ["--experiment.type", "polychromic"],
    "sft.diversity_weight: 0.3 ": ["--experiment.type", "baseline", "--sft.diversity_weight", "0.3"],
    "grpo.start_from: nowhere": ["--phase", "grpo", "--grpo.start_from", "nowhere"],
    "grpo.start_from: elsewhere": ["--grpo.start_from", "elsewhere"],
    "grpo.start_from: ": ["--phase", "grpo"],
    "grpo.n_generations: 1 ": ["--grpo.n_generations", "1"],
    "grpo.n_generations: 2 ": ["--grpo.n_generations", "2", "--grpo.set_weight", "1"],
    "model.load_in_4bit": ["--model.load_in_4bit", "True", "--model.lora_rank", "0"],
    "model.prompt": ["--model.prompt", "no slot"],
    "logging.output_dir": ["--logging.output_dir", " "],
    "reward.w_": ["--reward.w_length", "0.9"],
    "data.train_file": ["--data.train_file", "missing.jsonl"],
    "grpo.micro_batch_size": ["--grpo.micro_batch_size", "5"],
    "evaluation.samples": ["--evaluation.samples", "4"],
}


@pytest.mark.parametrize("named", REFUSED)
def test_settings_that_cannot_work(tmp_path, named):
    with pytest.raises(ConfigError) as error:
        checks.check(made(tmp_path, *REFUSED[named]))
    assert named in str(error.value) and "\n" not in str(error.value)


def test_valid_settings_pass(tmp_path):
    cfg = made(tmp_path)
    checks.check(cfg)
    assert checks.accumulation_steps(cfg, 1) == 4 and checks.accumulation_steps(cfg, 2) == 2
    cfg = dataclasses.replace(cfg, grpo=dataclasses.replace(cfg.grpo, posts_per_step=3, micro_batch_size=6))
    assert checks.accumulation_steps(cfg, 1) == 2


def test_a_4bit_base_needs_bitsandbytes(tmp_path, monkeypatch):
    cfg = made(tmp_path, "--model.load_in_4bit", "True")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"model\.load_in_4bit"):
        checks.require_environment(cfg)


def test_an_encoder_folder_of_another_kind(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text("{}")
    cfg = made(tmp_path, "--reward.encoder", str(tmp_path / "encoder"), "--model.name", str(tmp_path / "encoder"))
    with pytest.raises(ConfigError, match=r"reward\.encoder"):
        checks.require_environment(cfg)


def test_deepspeed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="ACCELERATE_USE_DEEPSPEED"):
        checks.check(made(tmp_path))


@pytest.mark.parametrize("scorer", ["recipes.replies.measure:liking", "recipes.replies.heuristic:HeuristicReward"])
def test_the_success_scorer_is_checked_before_anything_is_loaded(tmp_path, scorer):
    with pytest.raises(ConfigError, match=r"evaluation\.success_scorer"):
        checks.check(made(tmp_path, "--evaluation.success_scorer", scorer))
