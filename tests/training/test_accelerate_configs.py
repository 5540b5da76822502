"""configs/accelerate: how accelerate itself reads the files, and the commands in their comments."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import train_grpo_en_ta as script
from rl_nmt import config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "accelerate"
FILES = {"ddp_2gpu": 2, "ddp_8gpu": 8, "zero3_8gpu": 8}


def command(name: str) -> list[str]:
    """The words after `accelerate launch` in the file's comment."""
    text = re.sub(r"\\\n#", " ", (FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    (line,) = re.findall(r"^# +accelerate launch (.*)$", text, flags=re.MULTILINE)
    return shlex.split(line)


def test_every_file_is_tested():
    assert {path.stem for path in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_file_as_it_is_meant(name):
    read = load_config_from_file(str(FOLDER / f"{name}.yaml"))  # unknown keys raise
    assert read.num_processes == FILES[name] and read.num_machines == 1 and not read.use_cpu
    assert read.distributed_type.value == ("DEEPSPEED" if name.startswith("zero3") else "MULTI_GPU")


@pytest.mark.parametrize("name", FILES)
def test_its_command_starts_what_it_says(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command(name)))
    assert args.num_processes == FILES[name]
    assert (args.multi_gpu, args.use_deepspeed) == ((False, True) if name == "zero3_8gpu" else (True, False))
    target = args.training_script.replace(".", "/") + ".py" if args.module else args.training_script
    assert (ROOT / target).is_file()
    settings = args.training_script_args
    assert settings[0] == "--config" and (ROOT / settings[1]).is_file()


def test_zero3_gathers_what_is_kept_and_leaves_the_steps_to_the_script(monkeypatch):
    monkeypatch.chdir(ROOT)
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(command("zero3_8gpu")))
    assert (args.zero_stage, args.zero3_init_flag, args.zero3_save_16bit_model) == (3, False, True)
    # accelerate 1.15 reads "auto" steps with int(), and ends
    assert (args.gradient_accumulation_steps, args.gradient_clipping, args.mixed_precision) == (None, "auto", "bf16")
    assert args.offload_param_device == args.offload_optimizer_device == "none"


@pytest.mark.parametrize("name", FILES)
def test_a_step_has_as_many_samples_as_on_one_card(name, monkeypatch):
    monkeypatch.chdir(ROOT)

    def samples(line, count):
        monkeypatch.setenv("WORLD_SIZE", str(count))
        cfg, _, _ = config.parse(script.RunCfg, line, {}, "test", "")
        script.check(cfg)  # whole groups, enough prompts
        return cfg.per_device_batch_size * cfg.gradient_accumulation_steps * count

    args = launch_command_parser().parse_args(command(name))
    assert samples(args.training_script_args, FILES[name]) == samples(args.training_script_args[:2], 1)
