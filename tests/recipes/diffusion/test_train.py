"""python -m recipes.diffusion.train on tiny models: what a run leaves, kills, phases, estimators, refusals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import diffusion_run
import pytest
from diffusion_run import values, write_config
from fault_trials import differences, trial
from process_trials import Processes

import recipes.diffusion.train
import wandb_reward_callback  # noqa: F401
from recipes.diffusion import checks, gate  # noqa: F401
from recipes.diffusion.settings import DiffusionCfg
from rl_nmt import settings_file
from rl_nmt.errors import ConfigError
from rl_nmt.models.masked_diffusion import load_generator
from rl_nmt.results import export, report  # noqa: F401
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.scorers.sequence_judge import load_judge
from rl_nmt.training import diffusion_trainer, loop, masked_pretraining  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return diffusion_run.world(tmp_path_factory.mktemp("world"))


def run(world, folder, *flags, die="", **changes):
    """(exit status, output and errors) of a run in folder/run."""
    config = write_config(folder / "c.yaml", values(world, folder / "run", **changes))
    status, out, err = trial(folder / "t", diffusion_run.train, config, *flags, die=die)
    return status, out + err


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """(folder of a finished run, its output)."""
    work = tmp_path_factory.mktemp("finished")
    before = {path: path.read_bytes() for path in (world / "judge").iterdir()}
    status, told = run(world, work)
    assert status == 0, told
    assert before == {path: path.read_bytes() for path in (world / "judge").iterdir()}
    return work / "run", told


def test_a_run_leaves_its_folder(finished):
    folder, told = finished
    wanted = "resolved_config.yaml data metrics.jsonl rollouts.jsonl samples.jsonl final evaluation.json report.html"
    assert set(wanted.split()) <= {path.name for path in folder.iterdir()}
    assert "warning" not in told.lower() and "step 4/4" in told and "kl" in told
    assert "estimator trajectory; log p of a fill less the sampler's own" in told
    card = (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert "python -m rl_nmt.fill" in card and "fill-mask" in card and "prompt.txt" not in card


def test_metrics_of_every_step(finished):
    rows = MetricsFile(finished[0] / "metrics.jsonl").rows()
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2, 4]
    assert train[0]["kl"] == pytest.approx(0, abs=1e-6) and train[0]["estimator/error"] <= 1e-5
    for row in train:
        for key in ("policy_loss", "kl", "reward", "reward_std", "advantages/mean", "advantages/std", "reward/total"):
            assert math.isfinite(row[key]), key


def test_samples_are_dumped_between_the_ends(finished):
    rows = [json.loads(line) for line in (finished[0] / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {row["step"] for row in rows} == {2, 4} and len(rows) == 2 * 16
    for row in rows:
        given, mask, _ = row["source"].partition("_")
        assert mask and "_" not in row["completion"] and row["completion"].startswith(given.strip())


def test_the_table_has_reward_and_distance_to_the_start(finished, world):
    folder, _ = finished
    table = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert table["rows"] == 10 and table["before"]["kl_fill"] == 0 != table["after"]["kl_fill"]
    assert "sampled|" in table["signature"]["decoding"]
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    judge = load_judge(str(world / "judge"))  # of the filled text alone
    assert judge([row["after"] for row in rows]) == pytest.approx([row["after_scores"]["total"] for row in rows])
    assert all(row["reference"] in diffusion_run.texts() for row in rows)


def test_final_is_a_generator_and_the_start_is_unchanged(finished, world):
    model, tokenizer = load_generator(str(finished[0] / "final"))
    start, _ = load_generator(str(world / "generator"))
    assert len(tokenizer) == model.config.vocab_size
    assert any((a != b).any() for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_the_same_command_again_prints_the_table(finished, world):
    folder, _ = finished
    status, told = run(world, folder.parent)
    assert status == 0 and "holds a finished run" in told
    for name, value in (("learning_rate", "1e-2"), ("eval_batch_size", "3")):  # the latter shares random numbers
        status, told = run(world, folder.parent, f"--{name}", value)
        assert status == 4 and name in told


@pytest.mark.parametrize(
    "die", ["step 3", pytest.param("step 1", marks=pytest.mark.slow), pytest.param("export", marks=pytest.mark.slow)]
)
def test_killed_it_continues_to_the_same_bits(world, finished, tmp_path, die):
    status, told = run(world, tmp_path, die=die)
    assert status == 137, told
    status, told = run(world, tmp_path)
    assert status == 0, told
    assert ("resuming from" in told) == (die != "step 1")
    assert differences(diffusion_run.outcome(tmp_path / "run"), diffusion_run.outcome(finished[0])) == []


@pytest.mark.parametrize("changes", [{"estimator": "coupled", "num_iterations": 2}, {"order": "confidence"}])
def test_inexact_settings_say_so_and_continue_to_the_same_bits(world, tmp_path, changes):
    outcomes = []
    for name, die in (("whole", ""), ("killed", "step 3")):
        (work := tmp_path / name).mkdir()
        status, told = run(world, work, die=die, **changes)
        assert status == (137 if die else 0), told
        if die:
            status, told = run(world, work, **changes)
            assert status == 0 and "resuming from" in told, told
        assert ("no estimator counts it" in told) == ("order" in changes)
        assert not re.search(r"-\d+ tok/s", told), told  # a second update from the same fills has no new tokens
        outcomes.append(diffusion_run.outcome(work / "run"))
    assert differences(*outcomes) == []


def test_both_phases_and_templates_of_a_file(world, tmp_path):
    """A generator is made, then refined; then another run fills templates of a file with it."""
    sizes = {"hidden_size": 16, "layers": 1, "heads": 2, "block_size": 64, "pretrain_steps": 20}
    phases = sizes | {"phase": "both", "generator_checkpoint": "", "pretrain_batch_size": 16}
    status, told = run(world, tmp_path, die="step 1", **phases)  # of the pretraining
    assert status == 137, told
    status, told = run(world, tmp_path, **phases)
    assert status == 0 and "held-out loss" in told, told
    status, told = run(world, tmp_path, **phases | {"phase": "pretrain"})
    assert status == 0 and "phase pretrain: finished before" in told, told
    status, told = run(world, tmp_path, "--fresh", **phases | {"phase": "grpo"})
    assert status == 2 and f"--generator_checkpoint {tmp_path / 'run' / 'pretrain' / 'final'}" in told, told
    assert not (tmp_path / "run-2").exists()
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"] == 10
    (tmp_path / "mine").mkdir()
    (tmp_path / "templates.txt").write_text("".join(f"The [MASK:{n}] sees [MASK:4].\n" for n in range(4, 12)))
    made = {"generator_checkpoint": str(tmp_path / "run" / "pretrain" / "final")}
    made |= {"template_file": str(tmp_path / "templates.txt"), "templates_per_step": 2, "max_steps": 2}
    status, told = run(world, tmp_path / "mine", **made)
    assert status == 0, told
    rows = [json.loads(line) for line in (tmp_path / "mine" / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["after"].startswith("The ") and "reference" not in row for row in rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_p": 0.9}, "top_p: 0.9 with estimator trajectory"),
        ({"span_share": 0.5}, "the shares of mask patterns must sum to 1"),
        ({"judge_checkpoint": ""}, "judge_checkpoint is empty"),
        ({"judge_checkpoint": "nowhere:score"}, "judge_checkpoint: nowhere:score cannot be imported"),
        ({"generator_checkpoint": ""}, "generator_checkpoint is empty"),
        ({"outside_measure": "JUDGE"}, "is judge_checkpoint; a measure of its own"),
        ({"batch_size": 5}, "batch_size: templates_per_step 4 × group_size 4"),
        ({"phase": "both"}, "generator_checkpoint: phase both makes a generator"),
        ({"denoising_steps": 60}, "lower denoising_steps"),
        ({"templates_per_step": 200}, "templates_per_step: 200 is more than the 80 templates"),
        ({"num_iterations": 2, "save_steps": 3}, "save_steps: 3 is inside a generation cycle"),
        ({"seed": 2**32}, "seed: 4294967296"),
    ],
)
def test_bad_settings_are_one_clear_line(world, tmp_path, changes, message):
    changes = {name: str(world / "judge") if value == "JUDGE" else value for name, value in changes.items()}
    status, told = run(world, tmp_path, **changes)
    assert status == 2 and message in told, told
    assert "Traceback" not in told and "evaluating" not in told


def test_processes_must_divide_the_pretraining_batch(world, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="pretrain_batch_size: 3"):
        checks.check(DiffusionCfg(phase="pretrain", pretrain_batch_size=3))


def test_a_judge_of_another_vocabulary(world, tmp_path):
    from tiny_judge import build_judge

    judge = build_judge(tmp_path / "judge", ["xyz"])
    status, told = run(world, tmp_path, judge_checkpoint=str(judge))
    assert status == 2 and "another vocabulary" in told, told


def test_a_causal_model_is_refused(world, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    causal = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=1, n_positions=32))
    causal.save_pretrained(tmp_path / "gpt2")
    status, told = run(world, tmp_path, generator_checkpoint=str(tmp_path / "gpt2"))
    assert status == 2 and "is a 'gpt2' model, which does not fill masks" in told, told


def test_the_launch_gate_refuses_a_judge_that_likes_blanks(world, tmp_path):
    config = write_config(
        tmp_path / "c.yaml", values(world, tmp_path / "run", judge_checkpoint="test_train_judges:blanks")
    )
    (tmp_path / "test_train_judges.py").write_text(
        "def blanks(completions, **columns):\n    return [text.count(' ') / len(text) for text in completions]\n"
    )
    status, out, err = trial(tmp_path / "t", gated, config, tmp_path)
    assert status == 3 and "blanks" in out + err, out + err


def gated(config, folder):
    import sys

    sys.path.insert(0, str(folder))
    return recipes.diffusion.train.main(["--config", str(config)])


def test_a_python_file_of_settings_and_flags(world, tmp_path):
    path = tmp_path / "settings.py"
    found = values(world, tmp_path / "run")
    path.write_text("import os\n" + "".join(f"{name} = {value!r}\n" for name, value in found.items()))
    cfg = recipes.diffusion.settings.DiffusionCfg.from_file(path)
    assert cfg.learning_rate == 1e-3 and cfg.dataset == found["dataset"] and cfg.kl_coef == 0.1
    words = settings_file.flags([str(path), "--learning_rate=3e-4"])
    assert words == settings_file.flags(["--config", str(path), "--learning_rate=3e-4"])
    for unlike in (["--config"], ["--config", "--seed", "3"], ["--config", "a.yaml"]):
        assert settings_file.flags(unlike) == unlike
    parsed = recipes.diffusion.train.config.parse(type(cfg), words, {}, "", "")[0]
    assert parsed.learning_rate == 3e-4 and parsed.group_size == 4


def test_values_of_a_python_file(tmp_path):
    """No value is left out in silence."""
    path = tmp_path / "settings.py"
    path.write_text(
        "from __future__ import annotations\nfrom pathlib import Path\nimport numpy as np\n_own = {}\n"
        "output_dir = Path('a b')\nkl_coef = np.float32(0.5)\ngroup_size = np.int64(4)\namp = False\n"
        "data_files = ('a.txt', 'b.txt')\nwandb_run_name = '--x'\n"
    )
    cfg = DiffusionCfg.from_file(path)
    assert (cfg.output_dir, cfg.kl_coef, cfg.group_size, cfg.amp) == ("a b", 0.5, 4, False)
    assert cfg.data_files == ("a.txt", "b.txt") and cfg.wandb_run_name == "--x"
    for line in ("template_file = None", "settings = {'group_size': 4}", "group_size = object()"):
        path.write_text(line)
        with pytest.raises(ConfigError, match=line.split()[0]):
            DiffusionCfg.from_file(path)


@pytest.mark.slow
def test_two_processes_with_checkpointed_blocks(world, tmp_path):
    """Several forward passes before one backward pass, as many as the longest template has masks."""
    own = {"gradient_checkpointing": True, "denoising_steps": 0, "num_iterations": 2}
    config = write_config(tmp_path / "c.yaml", values(world, tmp_path / "run", **own))
    assert Processes(tmp_path / "p", [0, 1], diffusion_run.train, config).results(300) == [0, 0]


def test_settings_reach_trl(world, tmp_path, monkeypatch):
    """Those of the step, and AMP: bf16 autocast where the precision says so, and not with amp False."""
    from recipes.diffusion import data, pretrain, train
    from rl_nmt.models.masked_diffusion import banned_ids
    from rl_nmt.models.policy import Precision

    own = {"grad_clip": 0.5, "clip_range": 0.1, "kl_coef": 0.07, "temperature": 0.6, "scale_rewards": "none"}
    own |= {"loss_type": "grpo", "num_iterations": 2, "order": "confidence", "learning_rate": 2e-4}
    cfg = train.DiffusionCfg(**values(world, tmp_path / "run", **own))
    policy = train.load_policy(cfg)
    rows = data.load(cfg, tmp_path, policy.tokenizer, 64)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    reward = recipes.diffusion.reward.JudgeReward(cfg.judge_checkpoint)
    trainer = train.build_trainer(cfg, tmp_path, policy, reward, rows.train, banned_ids(policy.tokenizer))
    args = trainer.args
    assert (args.max_grad_norm, args.epsilon, args.beta, args.temperature) == (0.5, 0.1, 0.07, 0.6)
    assert (args.scale_rewards, args.loss_type, args.num_iterations, args.num_generations) == ("none", "grpo", 2, 4)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.learning_rate) == (8, 2, 2e-4)
    assert trainer.sampler == {"steps": 4, "order": "confidence", "top_p": 1.0} and trainer.estimator == "trajectory"
    assert trainer.ref_model is not None and args.bf16 is False
    bf16 = Precision("cpu", policy.precision.weights, True, "a card with bf16 units")
    monkeypatch.setattr("rl_nmt.models.policy.choose_precision", lambda lora: bf16)
    assert pretrain.choose_precision(cfg).autocast
    assert not pretrain.choose_precision(train.DiffusionCfg(amp=False)).autocast


def test_wandb_offline(world, tmp_path, finished):
    status, told = run(world, tmp_path, use_wandb=True, wandb_mode="offline", max_steps=2)
    assert status == 0 and "W&B: offline" in told, told
    assert list((tmp_path / "run").glob("**/offline-run-*")) and not list(finished[0].glob("**/offline-run-*"))


def test_the_world_of_letters_trains(tmp_path):
    """The embedded default, a world of seconds: with the table of trigrams as the measure outside the reward."""
    from pocket.letters.build import SMALL, build

    made = build(tmp_path / "world", 0, SMALL)
    own = {"generator_checkpoint": "generator", "judge_checkpoint": "judge", "dataset": "c4"}
    named = {name: str(made / part) for name, part in (own | {"outside_measure": "trigrams.npy"}).items()}
    status, told = run(tmp_path, tmp_path, num_train_samples=30, num_eval_samples=5, max_steps=2, **named)
    assert status == 0, told
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert "known_trigrams" in table["after"] and table["best"]["by"] == "known_trigrams"


def test_the_doctor(world, tmp_path):
    status, told = run(world, tmp_path, "--doctor")
    assert "generator_checkpoint" in told and "judge_checkpoint" in told and status == 0, told
    status, told = run(world, tmp_path, "--doctor", judge_checkpoint=str(tmp_path / "none"))
    assert "no-go" in told and "fail  judge_checkpoint" in told, told


CONFIGS = sorted((ROOT / "recipes" / "diffusion" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configurations_are_valid(path):
    cfg = recipes.diffusion.settings.DiffusionCfg.from_file(path)
    if path.name != "pocket.yaml":  # whose generator is not built yet
        recipes.diffusion.checks.check(cfg)
