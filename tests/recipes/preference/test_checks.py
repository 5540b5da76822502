"""Settings, rows and models of a preference run that cannot work: one line that names the setting."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from recipes.preference import checks
from recipes.preference.settings import PreferenceCfg
from rl_nmt import config
from rl_nmt.errors import ConfigError
from rl_nmt.models import policy
from rl_nmt.models.multimodal import Chat, load_processor
from rl_nmt.preflight.machine import Machine
from rl_nmt.ranges import check_ranges


def made(tmp_path, *flags) -> PreferenceCfg:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', encoding="utf-8")
    words = ["--dataset.train_file", str(rows), "--logging.output_dir", str(tmp_path / "run"), *flags]
    return config.parse(PreferenceCfg, words, {}, prog="x", description="")[0]


def test_the_defaults_are_those_of_the_brief():
    cfg = PreferenceCfg()
    assert cfg.training.beta == 0.1 and checks.group_size(cfg) == 2 and cfg.reward.source == "label"
    assert (cfg.reward.length_cap, cfg.reward.reasoning_cap, cfg.reward.structure_cap) == (0.5, 0.3, 0.2)
    check_ranges(cfg)


def test_a_yaml_file_with_the_sections_of_the_original(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: {name: x}\ntraining: {beta: 0.2}\ndataset: {eval_count: 5}\nevaluation: {batch_size: 3}\n")
    cfg = config.parse(PreferenceCfg, ["--config", str(file)], {}, prog="x", description="")[0]
    assert (cfg.model.name, cfg.training.beta, cfg.dataset.eval_count, cfg.evaluation.batch_size) == ("x", 0.2, 5, 3)


REFUSED = {
    "reward.source": ["--reward.source", "lable"],
    "reward.source: heuristic": ["--training.method", "dpo", "--reward.source", "heuristic"],
    "training.sampled: 2 needs": ["--training.method", "dpo", "--training.sampled", "2"],
    "training.sampled: 2: ": ["--training.sampled", "2"],
    "training.beta": ["--training.method", "dpo", "--training.beta", "0"],
    "training.micro_batch_size: 1": ["--training.method", "dpo", "--training.micro_batch_size", "1"],
    "training.micro_batch_size: training.pairs_per_step": ["--training.micro_batch_size", "5"],
    "model.load_in_4bit": ["--model.load_in_4bit", "True", "--model.lora_rank", "0"],
    "logging.output_dir": ["--logging.output_dir", " "],
    "dataset.train_file": ["--dataset.train_file", "./missing.jsonl"],
    "training.lr": ["--training.lr", "0"],
}


@pytest.mark.parametrize("named", REFUSED)
def test_refused(tmp_path, named):
    with pytest.raises(ConfigError) as error:
        checks.check(made(tmp_path, *REFUSED[named]))
    assert str(error.value).startswith(named)


def test_samples_need_a_reward_that_knows_them(tmp_path):
    for source in ("match", "heuristic", "operator:length_hint"):
        checks.check(made(tmp_path, "--training.sampled", "2", "--reward.source", source))


@pytest.mark.parametrize(("flags", "rows", "steps"), [([], 80, 10), (["--training.epochs", "2.5"], 80, 25)])
def test_steps(tmp_path, flags, rows, steps):
    assert checks.steps(made(tmp_path, *flags), rows) == steps
    assert checks.steps(made(tmp_path, *flags, "--training.max_steps", "3"), rows) == 3


def row(source: str, images: int = 0, answer: str = "red") -> dict:
    return {"source": source, "chosen": answer, "rejected": "blue", "images": ["x.png"] * images}


def test_a_model_without_a_vision_tower_meets_an_image(tmp_path, tiny_gemma, tiny_vlm):
    cfg = made(tmp_path, "--model.name", str(tiny_gemma))
    assert checks.require_sight(cfg, [row("a"), row("b")]) is False
    with pytest.raises(ConfigError, match=r"^model\.name.*'b'"):
        checks.require_sight(cfg, [row("a"), row("b", 1)])
    assert checks.require_sight(made(tmp_path, "--model.name", str(tiny_vlm)), [row("a"), row("b", 1)]) is True


@pytest.fixture(scope="module")
def chat(tiny_vlm):
    tokenizer = policy.load_tokenizer(str(tiny_vlm), ("gemma3",))
    return Chat(tokenizer, load_processor(str(tiny_vlm), tokenizer))


def test_image_tokens_count_for_the_context(chat):
    length = chat.prompt_lengths(["What colour?"], [2])[0]
    assert length - chat.prompt_lengths(["What colour?"], [0])[0] >= 2 * 16
    rows = [row("What colour?", 2)]
    (kept,) = checks.fitting(rows, chat, length + 20, 20, "dataset.train_file")
    assert kept["prompt_tokens"] == length
    with pytest.raises(ConfigError, match=rf"^dataset\.train_file.*{length} tokens with its 2 images"):
        checks.fitting(rows, chat, length + 19, 20, "dataset.train_file")


def test_long_answers_are_counted_and_left_out(chat, capsys):
    rows = [row("a"), row("b", answer="red " * 40)]
    assert [each["source"] for each in checks.fitting(rows, chat, 500, 20, "dataset.eval_file")] == ["a"]
    assert "dataset.eval_file: 1 of 2 pairs" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"^dataset\.eval_file: 1 of 1 .*training\.max_new_tokens"):
        checks.fitting(rows[1:], chat, 500, 20, "dataset.eval_file")


def test_the_memory_of_a_run_counts_its_images(tmp_path):
    gpu = SimpleNamespace(name="GPU", total=24 << 30, free=23 << 30, bf16=True)
    machine = Machine((3, 11), {}, (gpu,), 64 << 30)
    cfg = made(tmp_path, "--model.name", "google/gemma-3-4b-it", "--training.micro_batch_size", "2")
    without, with_images = checks.memory(cfg, 600, 0, machine), checks.memory(cfg, 600, 1, machine)
    assert without.detail != with_images.detail and "600 tokens, 1 images" in with_images.detail
    unknown = made(tmp_path, "--model.name", "somebody/unknown")
    assert "not estimated" in checks.memory(unknown, 600, 0, machine).detail
