"""Settings of the TranslateGemma recipe: names, configurations, and one line for each that cannot work."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from field_docs import field_docs

from recipes.translategemma.checks import (
    accumulation_steps,
    check,
    check_rows,
    checkpoint_folder,
    hub_environment,
)
from recipes.translategemma.placement import scorer_devices
from recipes.translategemma.settings import TranslateGemmaCfg
from rl_nmt import config
from rl_nmt.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = ROOT / "recipes" / "translategemma" / "configs"
WMT = ("--data.hf_dataset_name", "google/wmt24pp")
NO_ZERO = """model.lora_alpha generation.max_new_tokens generation.eval_batch_size reward.mqm.concurrency
reward.mqm.max_tokens rl.prompts_per_update rl.micro_batch_size rl.iterations logging.save_total_limit
logging.logging_steps generation.temperature rl.lr rl.clip reward.xcomet.scale reward.mqm.scale reward.mqm.timeout
reward.mqm.deadline""".split()
NOTHING_NEGATIVE = """model.lora_rank data.eval_sampling_count data.max_train_samples generation.top_k reward.cache_size
reward.metricx.weight reward.xcomet.weight reward.xcomet.sentence_weight reward.mqm.weight reward.mqm.sentence_weight
rl.group_coefficient rl.clip_high rl.kl rl.warmup_steps rl.updates rl.eval_every rl.save_every rl.max_hours rl.seed
logging.sample_steps""".split()
# The published key names of such a system; they must not change.
PUBLISHED = """
model.policy_name_or_path model.policy_gpu_ids model.reference_gpu_ids data.train_file data.hf_dataset_name
data.hf_dataset_config_name data.hf_train_split data.hf_eval_split data.eval_file data.eval_sampling_count
data.eval_sampling_ratio data.eval_sampling_seed data.id_field generation.num_samples_per_prompt
generation.temperature generation.top_p generation.top_k generation.max_new_tokens reward.metricx.enabled
reward.metricx.weight reward.metricx.device reward.metricx.python_executable reward.xcomet.enabled reward.xcomet.weight
reward.xcomet.device reward.xcomet.python_executable reward.mqm.enabled reward.mqm.weight rl.backend rl.clip rl.kl
rl.updates logging.output_dir logging.save_rollouts logging.save_eval_outputs logging.auto_resume
logging.resume_from_checkpoint logging.save_only_best misc.device misc.huggingface_cache_dir misc.huggingface_token_env
misc.huggingface_token
""".split()


def parse(*argv: str) -> TranslateGemmaCfg:
    return config.parse(TranslateGemmaCfg, list(argv), {}, "train", "d")[0]


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check(parse(*argv), environ)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 320
    return message


def names(cls=TranslateGemmaCfg) -> set[str]:
    return set(field_docs(cls))


def test_the_published_names():
    assert set(PUBLISHED) <= names()


def test_every_field_has_a_sentence():
    docs = field_docs(TranslateGemmaCfg)
    assert [name for name, text in docs.items() if not text] == []


def test_defaults_work_with_data():
    cfg = parse(*WMT)
    check(cfg, {})
    assert scorer_devices(cfg) == {"metricx": "auto", "xcomet": "auto"}
    assert cfg.reward.metricx.offset == 5.0
    assert (cfg.reward.xcomet.minor, cfg.reward.xcomet.major, cfg.reward.xcomet.critical) == (-1, -5, -10)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_works(path, tmp_path):
    """Each begins with its command and is valid; settings left to the command line or a build are added here."""
    text = path.read_text(encoding="utf-8")
    comment = text.split("model:")[0]
    assert f"--config recipes/translategemma/configs/{path.name}" in comment
    assert "GPU" in comment or "CPU" in comment
    (tmp_path / "rows.jsonl").write_text('{"source": "Rain."}\n')
    cfg = parse("--config", str(path))
    extra = []
    if not cfg.data.hf_dataset_name:  # given with the command, or built with the pocket world
        extra = ["--data.train_file", str(tmp_path / "rows.jsonl"), "--data.eval_file="]
    processes = len(cfg.model.policy_gpu_ids) or 1
    cfg = parse("--config", str(path), *extra)
    check(cfg, {"WORLD_SIZE": str(processes), "JUDGE_API_KEY": "canary"})
    assert accumulation_steps(cfg, processes) >= 1
    assert cfg.logging.output_dir.startswith("runs/tg_")
    assert set(yaml.safe_load(text)) <= {field.name for field in dataclasses.fields(cfg)}


def test_the_configurations_in_the_readme():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        "pocket",
        "toy_en_ko_wmt24pp",
        "en_ta_wmt24pp",
        "one_gpu_4b",
        "eight_gpu_27b",
        "qwen3_5_mqm_only",
    }


def test_resolved_settings_read_back(tmp_path):
    cfg = parse(*WMT, "--rl.lr", "3e-6", "--model.policy_gpu_ids", "0", "2", "--reward.xcomet.enabled", "False")
    config.save_resolved(cfg, tmp_path / "resolved_config.yaml")
    assert parse("--config", str(tmp_path / "resolved_config.yaml")) == cfg


# ---------------------------------------------------------------------- what cannot work


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], ["data.train_file and data.hf_dataset_name: neither"]),
        (["--data.train_file", "x.jsonl", *WMT], ["data.train_file and data.hf_dataset_name: both"]),
        (["--data.train_file", "no/such.jsonl"], ["data.train_file: ", "no/such.jsonl"]),
        ([*WMT, "--data.eval_file", "no/such.jsonl"], ["data.eval_file: ", "no/such.jsonl"]),
        ([*WMT, "--data.eval_sampling_ratio", "0"], ["data.eval_sampling_ratio: ", "data.eval_sampling_count"]),
        ([*WMT, "--data.eval_sampling_ratio", "1"], ["data.eval_sampling_ratio: 1.0 ", "[0, 0.99]"]),
        ([*WMT, "--data.hf_eval_split", "train"], ["data.hf_eval_split: train ", "data.hf_train_split"]),
        ([*WMT, "--data.target_lang", "kr"], ["data.target_lang: 'kr'"]),
        ([*WMT, "--data.target_lang", "en"], ["data.target_lang: en ", "source language (en)"]),
        ([*WMT, "--data.source_lang", "de"], ["data.source_lang: de", "google/wmt24pp is en", "data.target_lang en"]),
        ([*WMT, "--data.source_lang", "de_CH", "--data.target_lang", "en"], ["data.source_lang: ", "de_CH", "de_DE"]),
        ([*WMT, "--data.target_lang", "pt_AO"], ["data.target_lang: ", "pt_AO", "pt_BR"]),
        ([*WMT, "--data.document_chars", "20"], ["data.document_chars: 20", "20 300"]),
        ([*WMT, "--data.document_chars", "30", "20"], ["data.document_chars: 30 20"]),
        ([*WMT, "--data.document_chars", "20", "30"], ["data.document_chars: ", "reference"]),
        ([*WMT, "--generation.num_samples_per_prompt", "1"], ["generation.num_samples_per_prompt: 1 "]),
        ([*WMT, "--generation.top_p", "0"], ["generation.top_p: 0.0"]),
        ([*WMT, "--generation.prompt", "Translate."], ["generation.prompt: ", "{source}"]),
        ([*WMT, "--rl.clip", "1"], ["rl.clip: 1.0"]),
        ([*WMT, "--rl.baseline", "group", "--rl.normalise", "False"], ["rl.baseline: group", "rl.normalise"]),
        ([*WMT, "--rl.iterations", "3"], ["rl.save_every: 20", "rl.iterations 3", "18 or 21"]),
        ([*WMT, "--rl.iterations", "4", "--rl.save_every", "2"], ["rl.save_every: 2 ", "use 4"]),
        ([*WMT, "--rl.clip_high", "0.1"], ["rl.clip_high: 0.1 ", "rl.clip 0.2"]),
        ([*WMT, "--reward.max_soft_win_share", "2"], ["reward.max_soft_win_share: 2.0"]),
        ([*WMT, "--reward.metricx.max_length", "1"], ["reward.metricx.max_length: 1"]),
        (
            [*WMT, "--reward.metricx.enabled", "False", "--reward.xcomet.enabled", "False"],
            ["reward: ", "reward.xcomet.enabled"],
        ),
        ([*WMT, "--reward.metricx.enabled", "False"], ["reward: ", "reward.xcomet.sentence_weight"]),
        ([*WMT, "--reward.metricx.weight", "0"], ["reward: ", "reward.metricx.weight"]),
        ([*WMT, "--reward.xcomet.enabled", "False"], ["rl.credit: token "]),
        ([*WMT, "--reward.xcomet.weight", "0"], ["rl.credit: token "]),
        ([*WMT, "--reward.xcomet.major", "5"], ["reward.xcomet.major: 5.0 "]),
        ([*WMT, "--reward.mqm.minor", "0.5"], ["reward.mqm.minor"]),
        ([*WMT, "--reward.metricx.model_name_or_path="], ["reward.metricx.model_name_or_path is empty"]),
        ([*WMT, "--reward.mqm.enabled", "True"], ["reward.mqm.endpoint: ''"]),
        (
            [*WMT, "--reward.mqm.enabled", "True", "--reward.mqm.endpoint", "localhost:1"],
            ["reward.mqm.endpoint: 'localhost:1'"],
        ),
        ([*WMT, "--misc.huggingface_token_env", "MY_TOKEN"], ["misc.huggingface_token_env: ", "MY_TOKEN"]),
        (
            [*WMT, "--model.policy_gpu_ids", "0", "--reward.xcomet.device", "cuda:0"],
            ["model.policy_gpu_ids (0)", "reward.xcomet.device (cuda:0)"],
        ),
        ([*WMT, "--model.policy_gpu_ids", "0", "0"], ["model.policy_gpu_ids: 0, 0"]),
        ([*WMT, "--model.reference_gpu_ids", "1"], ["model.reference_gpu_ids: 1"]),
        ([*WMT, "--reward.metricx.device", "gpu"], ["reward.metricx.device: 'gpu'"]),
        ([*WMT, "--logging.output_dir", " "], ["logging.output_dir is empty"]),
        ([*WMT, "--logging.resume_from_checkpoint", "checkpoint-5"], ["checkpoint-5", "--logging.auto_resume False"]),
        (
            [*WMT, "--logging.resume_from_checkpoint", "c-5", "--logging.auto_resume", "False"],
            ["logging.resume_from_checkpoint: ", "folder: c-5"],
        ),
        (
            [*WMT, "--logging.save_only_best", "True", "--rl.eval_every", "0"],
            ["logging.save_only_best", "rl.eval_every"],
        ),
        ([*WMT, "--rl.micro_batch_size", "5"], ["rl.micro_batch_size", "8 ×", "= 32 sequences", "2 or 4"]),
    ],
)
def test_refusals(argv, parts):
    message = refusal(*argv)
    assert all(part in message for part in parts), message


JUDGE = ("--reward.mqm.enabled", "True", "--reward.mqm.endpoint", "http://localhost:1/v1", "--reward.mqm.model", "m")


def test_the_judge():
    check(parse(*WMT, *JUDGE), {})
    check(parse(*WMT, *JUDGE, "--reward.mqm.api_key_env", "KEY"), {"KEY": "canary"})
    message = refusal(*WMT, *JUDGE, "--reward.mqm.api_key_env", "KEY")
    assert message.startswith("reward.mqm.api_key_env: ") and "variable KEY " in message
    assert "reward.mqm.model is empty" in refusal(*WMT, *JUDGE, "--reward.mqm.model", " ")
    assert "reward.mqm.deadline: 10.0" in refusal(*WMT, *JUDGE, "--reward.mqm.deadline", "10")


def test_disabled_scorers_are_not_checked():
    alone = [*WMT, "--reward.metricx.enabled", "False", "--reward.xcomet.enabled", "False", *JUDGE]
    alone += ["--reward.mqm.sentence_weight", "0.2", "--reward.metricx.model_name_or_path="]
    cfg = parse(*alone, "--reward.metricx.device", "cuda:0", "--model.policy_gpu_ids", "0")
    check(cfg, {})
    assert scorer_devices(cfg) == {}
    check(parse(*WMT, "--reward.mqm.api_key_env", "KEY"), {})
    check(parse(*WMT, "--reward.xcomet.enabled", "False", "--rl.credit", "sequence"), {})


@pytest.mark.parametrize(
    ("prompts", "group", "size", "processes", "steps"),
    [(8, 4, 4, 1, 8), (8, 4, 32, 1, 1), (8, 4, 4, 2, 4), (6, 8, 4, 3, 4), (1, 2, 1, 1, 2)],
)
def test_batches(prompts, group, size, processes, steps):
    cfg = parse(
        *WMT,
        "--rl.prompts_per_update",
        str(prompts),
        "--generation.num_samples_per_prompt",
        str(group),
        "--rl.micro_batch_size",
        str(size),
    )
    check(cfg, {"WORLD_SIZE": str(processes)})
    assert accumulation_steps(cfg, processes) == steps
    assert steps * size * processes == prompts * group


def test_checkpoints_are_saved_between_generations():
    for every in range(25):
        line = (*WMT, "--rl.iterations", "3", f"--rl.save_every={every}")
        if every % 3:
            assert refusal(*line).startswith(f"rl.save_every: {every}")
        else:
            check(parse(*line), {})


def test_batches_that_no_micro_batch_size_fits():
    message = refusal(*WMT, "--rl.prompts_per_update", "7", WORLD_SIZE="3")
    assert "rl.prompts_per_update a multiple of 3" in message
    check_rows(parse(*WMT), 8)
    with pytest.raises(ConfigError, match=r"rl\.prompts_per_update: 8 .*7 training rows"):
        check_rows(parse(*WMT), 7)


@pytest.mark.parametrize("name", [*NO_ZERO, *NOTHING_NEGATIVE])
def test_ranges(name):
    bad = "0" if name in NO_ZERO else "-1"
    message = refusal(*WMT, f"--{name}={bad}")
    assert message.startswith(f"{name}: ") and "must be" in message
    assert name in names()


def test_train_and_eval_file_must_differ(tmp_path):
    first, second, other = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl"))
    first.write_text('{"source": "Rain."}\n')
    second.write_text('{"source": "Rain."}\n')
    other.write_text('{"source": "Snow."}\n')
    link = tmp_path / "link.jsonl"
    link.symlink_to(first)
    for file in (first, second, link, tmp_path / "x" / ".." / "a.jsonl"):
        (tmp_path / "x").mkdir(exist_ok=True)
        message = refusal("--data.train_file", str(first), "--data.eval_file", str(file))
        assert message.startswith("data.eval_file: ") and f"data.train_file {first}" in message
    check(parse("--data.train_file", str(first), "--data.eval_file", str(other)), {})
    both = ["--data.train_file", str(first), "--data.eval_file", str(other), "--data.hf_eval_split", "test"]
    assert "data.hf_eval_split" in refusal(*both)


def test_a_named_checkpoint(tmp_path):
    (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
    inside = [*WMT, "--logging.output_dir", str(tmp_path / "run"), "--logging.auto_resume", "False"]
    for name in ("checkpoint-5", str(tmp_path / "run" / "checkpoint-5")):
        cfg = parse(*inside, "--logging.resume_from_checkpoint", name)
        check(cfg, {})
        assert checkpoint_folder(cfg) == tmp_path / "run" / "checkpoint-5"
    assert checkpoint_folder(parse(*WMT)) is None
    message = refusal(*inside, "--logging.resume_from_checkpoint", "checkpoint-6")
    assert message.startswith("logging.resume_from_checkpoint: ") and "logging.output_dir" in message


def test_the_token_is_taken_from_a_file_alone_and_never_shown(tmp_path, capsys):
    (tmp_path / "x.yaml").write_text("misc:\n  huggingface_token: canary\n")
    cfg = parse("--config", str(tmp_path / "x.yaml"), *WMT)
    assert "huggingface_token_env" in capsys.readouterr().err
    config.save_resolved(cfg, tmp_path / "c.yaml")
    assert "canary" not in repr(cfg) + (tmp_path / "c.yaml").read_text() + str(config.to_public_dict(cfg))
    assert hub_environment(cfg, {}) == {"HF_TOKEN": "canary"}
    with pytest.raises(ConfigError, match="process list"):
        parse("--misc.huggingface_token", "canary")


def test_the_hubs_variables(tmp_path):
    assert hub_environment(parse(*WMT), {"OTHER": "x"}) == {}
    cfg = parse(*WMT, "--misc.huggingface_cache_dir", str(tmp_path), "--misc.huggingface_token_env", "MY_TOKEN")
    wanted = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    assert hub_environment(cfg, {"MY_TOKEN": "canary"}) == wanted | {"HF_TOKEN": "canary"}


def test_help_is_quick_and_whole():
    code = (
        "import sys\nfrom recipes.translategemma.settings import TranslateGemmaCfg\nfrom rl_nmt import config\n"
        "try:\n    config.parse(TranslateGemmaCfg, ['--help'], {}, 'p', 'd')\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'trl', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("[]"), done.stderr
    for name in names() - {"misc.huggingface_token"}:
        if not dataclasses.is_dataclass(attrgetter(name)(TranslateGemmaCfg())):
            assert f"--{name} " in done.stdout, name
