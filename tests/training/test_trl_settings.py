"""`trl:`: every name against the real GRPOConfig, refused settings, and runs that continue to the same bits."""

from __future__ import annotations

import dataclasses
import os
import re
import typing

import pytest
from fault_trials import at_step, die_after, differences, outcome, settings, train, trial
from tiny_run import ROOT

import train_grpo_en_ta as script
from rl_nmt import config
from rl_nmt.errors import ConfigError
from rl_nmt.training import trl_settings
from rl_nmt.training.trl_settings import OWNED, REFUSED, TrlSettings, check_save_steps

OURS = {  # defaults that are not TRL's
    "lr_scheduler_type": "constant_with_warmup",
    "vllm_enable_sleep_mode": True,
}


def grpo_fields() -> dict[str, dataclasses.Field]:
    from trl import GRPOConfig

    return {field.name: field for field in dataclasses.fields(GRPOConfig)}


def test_names_types_and_defaults_are_those_of_grpoconfig():
    from transformers import SchedulerType
    from trl import GRPOConfig
    from trl.trainer import grpo_trainer

    theirs, kinds, told = grpo_fields(), typing.get_type_hints(GRPOConfig), TrlSettings().options()
    own = typing.get_type_hints(TrlSettings)
    assert told.keys() == own.keys() and told.keys() <= theirs.keys()
    assert {name: value for name, value in told.items() if theirs[name].default != value} == OURS
    for name, kind in own.items():
        wanted = str if typing.get_origin(kind) is typing.Literal else kind
        assert wanted in (kinds[name], *typing.get_args(kinds[name])), name
        assert (told[name] is None) == (name in trl_settings.NONE_AT_ZERO and theirs[name].default is None), name
    with open(grpo_trainer.__file__, encoding="utf-8") as file:
        source = file.read()
    choices = [
        *typing.get_args(own["importance_sampling_level"]),
        *typing.get_args(own["vllm_importance_sampling_mode"]),
    ]
    choices += typing.get_args(typing.get_type_hints(script.RunCfg)["loss_type"])
    assert [choice for choice in choices if f'"{choice}"' not in source] == []
    assert set(typing.get_args(own["lr_scheduler_type"])) <= {str(kind.value) for kind in SchedulerType}


def test_a_zero_is_none_where_trl_has_one():
    assert TrlSettings(epsilon_high=0.28).options()["epsilon_high"] == 0.28
    kinds = {name: field.type for name, field in grpo_fields().items()}
    assert [name for name in trl_settings.NONE_AT_ZERO if "None" not in str(kinds[name])] == []


def test_every_name_has_a_sentence_and_is_in_the_documentation():
    assert [name for name, sentence in config.own_docs(TrlSettings).items() if not sentence] == []
    text = (ROOT / "docs" / "details.md").read_text(encoding="utf-8")
    listed = text.split("46. **`trl:`**")[1].split("A run that is killed")[0].split("    - passes:")[1]
    names = [name for name in re.findall(r"`(\w+)`", listed) if name != "constant_with_warmup"]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(TrlSettings))


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(script.RunCfg, list(argv), {}, "x", "")
    return str(caught.value)


def test_every_other_field_of_grpoconfig_is_refused_with_a_reason():
    """One of RunCfg's own by its name there, others as not supported; and none is taken for a mistyped one."""
    ours = {field.name for field in dataclasses.fields(script.RunCfg)}
    listed = {field.name for field in dataclasses.fields(TrlSettings)}
    assert ours >= {way.split()[0] for way in OWNED.values() if not way.startswith("trl.")}
    assert listed >= {way.removeprefix("trl.") for way in OWNED.values() if way.startswith("trl.")}
    assert OWNED.keys() | REFUSED.keys() <= grpo_fields().keys() and not listed & (OWNED.keys() | REFUSED.keys() | ours)
    for name in grpo_fields().keys() - listed:
        said = refusal(f"--trl.{name}", "1")
        if name in OWNED:
            assert said == f"flag --trl.{name}: use --{OWNED[name]}"
        elif name in ours:
            assert said == f"unknown flag --trl.{name}: did you mean {name}?"
        elif name not in REFUSED:
            assert said.startswith(f"flag --trl.{name}: TRL's setting is not supported")
    assert "--trl.sync_ref_model: " in refusal("--trl.sync_ref_model", "True")


def test_mistyped_names_and_values(tmp_path):
    assert refusal("--trl.epsilon_hihg", "0.3") == "unknown flag --trl.epsilon_hihg: did you mean trl.epsilon_high?"
    assert "trl.num_iterations?" in refusal("--num_iterations", "2")
    assert "--trl.epsilon is 'much', must be a finite number" in refusal("--trl.epsilon", "much")
    assert "one of token, sequence" in refusal("--trl.importance_sampling_level", "word")
    file = tmp_path / "x.yaml"
    file.write_text("trl:\n  temperature: 2\n")
    assert refusal("--config", str(file)).endswith("line 2: did you mean temperature?")


def test_the_file_and_back(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("trl:\n  num_iterations: 2\n  epsilon-high: 0.28\n")
    read = lambda *argv: config.parse(script.RunCfg, list(argv), {}, "x", "")[0]  # noqa: E731
    cfg = read("--config", str(file), "--trl.delta", "2")
    assert cfg.trl == TrlSettings(num_iterations=2, epsilon_high=0.28, delta=2.0)
    assert cfg.trl.changed() == {"trl.num_iterations": 2, "trl.epsilon_high": 0.28, "trl.delta": 2.0}
    config.save_resolved(cfg, tmp_path / "resolved.yaml")
    assert read("--config", str(tmp_path / "resolved.yaml")) == cfg


# --- what does not go together -------------------------------------------------------------------------

VLLM = {"use_vllm": True}


def refused(trl: dict | None = None, **changes) -> str:
    """The message of `check` for the default settings with these; "" when it accepts them."""
    try:
        script.check(script.RunCfg(trl=TrlSettings(**(trl or {})), **changes))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("trl", "changes", "said"),
    [
        ({"num_iterations": 0}, {}, "trl.num_iterations: 0 must be at least 1"),
        ({"top_entropy_quantile": 1.5}, {}, "trl.top_entropy_quantile: 1.5 must be in [0, 1]"),
        ({"min_p": -0.1}, {}, "trl.min_p"),
        ({"steps_per_generation": 96}, {}, "trl.steps_per_generation: 96 is not a multiple of gradient_accumulation_"),
        ({"steps_per_generation": 32, "num_iterations": 2}, {}, "trl.steps_per_generation: 32 is not a multiple"),
        ({"steps_per_generation": 30}, {}, "trl.steps_per_generation: per_device_batch_size 1 × 30"),
        ({"steps_per_generation": 128}, {"num_train_samples": 15}, "num_train_samples: 15 prompts do not fill"),
        ({"num_iterations": 4}, {}, "save_steps: 50 is inside a generation cycle of 4 optimizer steps"),
        ({"steps_per_generation": 256}, {"save_steps": 6}, "save_steps: 6 is inside a generation cycle of 4"),
        ({}, {"loss_type": "cispo"}, "trl.epsilon_high: 0.0: with loss_type cispo"),
        ({"epsilon_high": 0.1}, {}, "trl.epsilon_high: 0.1 is below trl.epsilon 0.2"),
        ({"epsilon": 1.0}, {}, "trl.epsilon: 1.0"),
        ({"delta": 1.2}, {}, "trl.delta: 1.2 must be above 1 + the upper clip = 1.2"),
        ({}, {"loss_type": "luspo"}, "trl.importance_sampling_level: token: loss_type luspo"),
        ({"importance_sampling_level": "sequence"}, {"loss_type": "vespo"}, "trl.importance_sampling_level: sequence"),
        ({"use_adaptive_entropy": True, "entropy_coef": 2.0}, {}, "trl.entropy_coef: 2.0 is above 1"),
        ({}, VLLM | {"top_p": 0.9}, "top_p: 0.9 with use_vllm"),
        ({"top_k": 50}, VLLM, "trl.top_k: 50 with use_vllm"),
        ({"min_p": 0.1}, VLLM, "trl.min_p: 0.1 with use_vllm"),
        ({"repetition_penalty": 1.1}, VLLM, "trl.repetition_penalty: 1.1 with use_vllm"),
        ({"vllm_importance_sampling_clip_min": 3.0}, VLLM, "trl.vllm_importance_sampling_clip_min: 3.0 must be below"),
        (
            {"vllm_importance_sampling_clip_max": 0.0, "vllm_importance_sampling_mode": "token_truncate"},
            VLLM,
            "trl.vllm_importance_sampling_clip_max: 0",
        ),
        ({}, VLLM | {"loss_type": "vespo"}, "trl.vllm_importance_sampling_mode: sequence_mask: loss_type vespo"),
    ],
)
def test_refused_before_anything_is_loaded(trl, changes, said):
    assert refused(trl, **changes).startswith(said)


@pytest.mark.parametrize(
    ("trl", "changes"),
    [
        ({"steps_per_generation": 128, "num_iterations": 2}, {"save_steps": 8}),
        ({"steps_per_generation": 16}, {"save_steps": 7}),
        ({"num_iterations": 3}, {"save_steps": 0}),
        ({"epsilon_high": 5.0}, {"loss_type": "cispo"}),
        ({"top_k": 50, "min_p": 0.1}, {"top_p": 0.9}),
        ({"vllm_importance_sampling_correction": False, "top_k": 50}, VLLM | {"top_p": 0.9}),
        ({"vllm_importance_sampling_clip_max": 0.0, "vllm_importance_sampling_mode": "token_mask"}, VLLM),
    ],
)
def test_what_goes_together(trl, changes):
    assert refused(trl, **changes) == ""


@pytest.mark.parametrize(
    ("save", "accumulation", "per_generation", "iterations", "legal"),
    [
        (5, 2, 2, 1, None),
        (4, 2, 2, 2, None),
        (5, 2, 2, 2, "4 or 6"),
        (1, 2, 2, 2, "2"),
        (7, 1, 4, 1, "4 or 8"),
        (3, 2, 3, 1, None),
        (4, 2, 3, 1, "3 or 6"),
        (10, 1, 4, 2, "8 or 16"),
        (3, 4, 2, 1, None),
        (0, 1, 4, 2, None),
    ],
)
def test_save_steps_inside_a_generation_cycle(save, accumulation, per_generation, iterations, legal):
    fits = (save * accumulation) % (per_generation * iterations) == 0
    assert fits == (legal is None)
    if fits:
        check_save_steps(save, accumulation, per_generation, iterations)
        return
    with pytest.raises(ConfigError, match=f"^save_steps: {save} .*: {legal}$"):
        check_save_steps(save, accumulation, per_generation, iterations)
    for value in map(int, legal.split(" or ")):
        check_save_steps(value, accumulation, per_generation, iterations)


# --- to the same bits ----------------------------------------------------------------------------------

RUNS = {  # RunCfg's fields, TrlSettings' fields, metrics that show them at work in some row
    "two generations' passes": (
        {"max_steps": 12, "save_steps": 4},
        {
            "num_iterations": 2,
            "steps_per_generation": 4,
            "epsilon": 0.01,
            "epsilon_high": 0.02,
            "delta": 1.03,
            "mask_truncated_completions": True,
            "top_entropy_quantile": 0.5,
            "use_bias_correction_kl": False,
            "entropy_coef": 0.01,
            "use_adaptive_entropy": True,
            "entropy_target": 3.0,
            "top_k": 50,
            "min_p": 0.01,
            "repetition_penalty": 1.1,
            "lr_scheduler_type": "cosine",
            "max_grad_norm": 0.5,
            "weight_decay": 0.1,
            "adam_beta1": 0.8,
            "adam_beta2": 0.99,
            "adam_epsilon": 1e-7,
        },
        ("clip_ratio/region_mean", "entropy_coef", "policy_loss", "completions/clipped_ratio"),
    ),
    "sapo": (
        {"loss_type": "sapo", "max_steps": 8, "save_steps": 2},
        {
            "num_iterations": 2,
            "importance_sampling_level": "sequence",
            "off_policy_mask_threshold": 1e-6,
            "sapo_temperature_neg": 2.0,
            "sapo_temperature_pos": 1.5,
        },
        (),
    ),
    "vespo": (
        {"loss_type": "vespo", "max_steps": 8, "save_steps": 2},
        {"num_iterations": 2, "vespo_k_pos": 1.0, "vespo_lambda_pos": 2.0, "vespo_k_neg": 2.0, "vespo_lambda_neg": 1.0},
        ("vespo/phi_seq_mean",),
    ),
    "cispo, several generations a step": (
        {"loss_type": "cispo"},
        {"steps_per_generation": 1, "epsilon_high": 5.0, "lr_scheduler_type": "linear"},
        (),
    ),
    "luspo": (
        {"loss_type": "luspo", "max_steps": 8, "lora_rank": 4},
        {"importance_sampling_level": "sequence", "num_iterations": 2, "epsilon": 1e-6},
        ("clip_ratio/region_mean",),
    ),
}


def test_the_runs_have_every_setting():
    used = {name for _, trl, _ in RUNS.values() for name in trl}
    every = {field.name for field in dataclasses.fields(TrlSettings)}
    assert used == {name for name in every if not name.startswith("vllm_")}
    for _, trl, _ in RUNS.values():
        assert TrlSettings(**trl).changed().keys() == {f"trl.{name}" for name in trl}  # none at its default


@pytest.mark.parametrize("name", [next(iter(RUNS)), *(pytest.param(n, marks=pytest.mark.slow) for n in [*RUNS][1:])])
def test_a_stopped_run_ends_as_the_undisturbed_one(tiny_policy, tmp_path, name):
    changes, trl, visible = RUNS[name]
    cfg = lambda folder: settings(tiny_policy, tmp_path / folder, **changes, trl=TrlSettings(**trl))  # noqa: E731
    step = cfg("whole").max_steps

    def has_them(trainer):
        told = {name: getattr(trainer.args, name) for name in trl}
        assert told == {name: value for name, value in TrlSettings(**trl).options().items() if name in trl}

    whole = trial(tmp_path / "whole", train, cfg("whole"), prepare=has_them)
    assert whole[0] == 0, whole[2]
    inside_a_cycle = at_step(step - 3, "training_step", lambda: os._exit(137))
    killed = trial(tmp_path / "killed", train, cfg("killed"), prepare=inside_a_cycle)
    assert killed[0] == 137
    again = trial(tmp_path / "killed", train, cfg("killed"))
    assert again[0] == 0 and "resuming from" in again[1], again[2]
    ends = outcome(tmp_path / "whole", step)
    assert differences(ends, outcome(tmp_path / "killed", step)) == []
    for metric in visible:
        assert any(row.get(metric) for row in ends["metrics"]), metric


def test_what_a_changed_setting_does_to_a_resume(tiny_policy, tmp_path):
    """The cycle and what the saved optimizer holds are refused. Any other setting is printed and takes effect."""
    folder = tmp_path / "run"
    cfg = lambda **trl: settings(tiny_policy, folder, max_steps=4, trl=TrlSettings(**trl))  # noqa: E731
    assert trial(folder, train, cfg(), prepare=die_after(2))[0] == 137
    for changes, said in (
        ({"num_iterations": 2}, "trl.num_iterations: 1 → 2"),
        ({"steps_per_generation": 4}, "sequences_per_generation: 8 → 16"),
        ({"weight_decay": 0.1}, "trl.weight_decay: 0.0 → 0.1"),
    ):
        status, _, err = trial(folder, train, cfg(**changes))
        assert status == 4 and said in err
    status, out, err = trial(folder, train, cfg(epsilon_high=0.3))
    assert status == 0 and "changed since the last start: trl.epsilon_high: 0.0 → 0.3" in out, err
