"""python -m recipes.preference.train on tiny models: what a run leaves, kills, DPO, mixed groups, refusals."""

from __future__ import annotations

import json
import math
import shutil

import preference_run
import pytest
import yaml
from fault_trials import differences, trial
from preference_run import sections, write_config
from process_trials import Processes
from safetensors.torch import load_file
from tiny_run import command
from tiny_vlm import build as tiny_vlm_build
from tiny_vlm import write_pairs

import recipes.preference.train  # noqa: F401  heavy imports once here, not in every forked run
import wandb_reward_callback  # noqa: F401
from recipes.preference import measure, trainer  # noqa: F401
from rl_nmt.results import export, report  # noqa: F401
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training import loop  # noqa: F401


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), count=30)


def config_of(policy, pairs, folder, **changes):
    values = sections(policy, pairs, folder / "run")
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return write_config(folder / "c.yaml", values)


@pytest.fixture(scope="module")
def finished(tiny_vlm, pairs, tmp_path_factory):
    """(folder of a finished run, its config, its output)."""
    work = tmp_path_factory.mktemp("finished")
    config = config_of(tiny_vlm, pairs, work)
    status, out, err = trial(work / "t", preference_run.train, config)
    assert status == 0, out + err
    return work / "run", config, out + err


def test_a_run_leaves_its_folder(finished):
    folder, _, out = finished
    names = {path.name for path in folder.iterdir()}
    wanted = "resolved_config.yaml metrics.jsonl samples.jsonl final evaluation.json preference.json report.html data"
    assert set(wanted.split()) <= names
    assert "warning" not in out.lower() and "step 4/4" in out and "memory: cpu:" in out
    assert "prefers the chosen answer" in out and "the heuristic of length" in out


def test_final_loads_with_its_processor(finished):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, _, _ = finished
    assert AutoProcessor.from_pretrained(folder / "final").image_processor is not None
    model = AutoModelForImageTextToText.from_pretrained(folder / "final")
    saved = load_file(folder / "final" / "model.safetensors")
    vision = [name for name in saved if "vision_tower" in name]
    assert vision and type(model).__name__ == "Gemma3ForConditionalGeneration"


def test_metrics_of_every_step(finished):
    rows = MetricsFile(finished[0] / "metrics.jsonl").rows()
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2, 4]
    assert train[0]["kl"] == pytest.approx(0, abs=1e-6)
    for row in train:
        for key in ("logps/chosen", "logps/rejected", "gains/chosen", "gains/rejected", "reward/chosen"):
            assert math.isfinite(row[key]), key
        assert row["reward/chosen"] == 1.0 and row["reward/rejected"] == 0.0


def test_the_table_has_both_accuracies_and_other_pictures(finished):
    table = json.loads((finished[0] / "evaluation.json").read_text())
    assert table["rows"] == 6 and table["after"]["reward_accuracy"] == 1.0
    assert "implicit_accuracy" not in table["before"]  # the start model is the reference: all pairs tie
    assert 0 <= table["after"]["implicit_accuracy"] <= 1
    rows = [json.loads(line) for line in (finished[0] / "samples.jsonl").read_text().splitlines()]
    margins = [row["after_scores"]["margin"] for row in rows]
    wins, losses = sum(m > 1e-6 for m in margins), sum(m < -1e-6 for m in margins)
    assert table["after"]["implicit_accuracy"] == pytest.approx(wins / (wins + losses))
    assert all(row["before_scores"]["margin"] == 0 for row in rows)
    pictured = [row for row in rows if "margin_shuffled" in row["after_scores"]]
    assert all(row["after_scores"]["images"] for row in pictured)  # the names of their pictures in data/images
    assert 0 < len(pictured) < 6 and any(
        r["after_scores"]["margin_shuffled"] != r["after_scores"]["margin"] for r in pictured
    )
    found = json.loads((finished[0] / "preference.json").read_text())
    assert {"reward_accuracy", "implicit_accuracy", "implicit_accuracy_shuffled"} <= found.keys()


def test_the_margin_is_beta_times_the_log_ratio(finished):
    row = json.loads((finished[0] / "samples.jsonl").read_text().splitlines()[0])
    own, start = row["after_scores"], row["before_scores"]
    gains = [own[f"logp_{side}"] - start[f"logp_{side}"] for side in ("chosen", "rejected")]
    assert own["margin"] == pytest.approx(0.1 * (gains[0] - gains[1]), abs=1e-6)
    assert own["ref_logp_chosen"] == start["logp_chosen"]


def test_the_same_command_again_prints_the_table(finished):
    folder, config, _ = finished
    status, out, err = trial(folder.parent / "again", preference_run.train, config)
    assert status == 0 and "holds a finished run" in out, err
    status, _, err = trial(folder.parent / "other", preference_run.train, config, "--training.lr", "1e-2")
    assert status == 4 and "training.lr" in err


@pytest.mark.parametrize(
    "die", ["step 3", pytest.param("step 1", marks=pytest.mark.slow), pytest.param("export", marks=pytest.mark.slow)]
)
def test_killed_it_continues_to_the_same_bits(tiny_vlm, pairs, finished, tmp_path, die):
    config = config_of(tiny_vlm, pairs, tmp_path)
    status, _, err = trial(tmp_path / "t", preference_run.train, config, die=die)
    assert status == 137, err
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    assert ("resuming from" in out) == (die != "step 1")
    assert differences(preference_run.outcome(tmp_path / "run"), preference_run.outcome(finished[0])) == []


@pytest.mark.parametrize("method", ["grpo", "dpo"])
def test_killed_with_lora_and_samples_or_in_dpo_it_continues_to_the_same_bits(tiny_vlm, pairs, tmp_path, method):
    own = {"sampled": 2, "micro_batch_size": 8} if method == "grpo" else {"method": "dpo"}
    changes = {
        "training": own,
        "model": {"lora_rank": 4},
        "reward": {"source": "match" if method == "grpo" else "label"},
    }
    outcomes = []
    for name, die in (("whole", ""), ("killed", "step 3")):
        (work := tmp_path / name).mkdir()
        config = config_of(tiny_vlm, pairs, work, **changes)
        status, out, err = trial(work / "t", preference_run.train, config, die=die)
        assert status == (137 if die else 0), out + err
        if die:
            status, out, err = trial(work / "t", preference_run.train, config)
            assert status == 0 and "resuming from" in out, out + err
        outcomes.append(preference_run.outcome(work / "run"))
    assert differences(*outcomes) == []


def test_dpo_trains_on_the_same_pairs(tiny_vlm, pairs, tmp_path):
    """TRL's trainer on mixed rows: its margins at the end are those of the samples file, up to the batch."""
    config = config_of(tiny_vlm, pairs, tmp_path, training={"method": "dpo", "lr": 3e-3}, limit=8)
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    rows = [row for row in MetricsFile(tmp_path / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)  # before the first step both margins are 0
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert "preferred" in out and "margin" in out and "token accuracy" in out  # on the progress line
    card = (tmp_path / "run" / "final" / "README.md").read_text(encoding="utf-8")
    assert "DPO" in card and "image-text-to-text" in card


def test_text_only_pairs_on_a_text_only_model(tiny_gemma, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", count=20, text_only=1)
    config = config_of(tiny_gemma, pairs, tmp_path)
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "implicit_accuracy" in table["after"] and "implicit_accuracy_shuffled" not in table["after"]


def test_text_only_pairs_load_the_text_part_of_a_model_that_sees(tiny_vlm, tmp_path):
    pairs = write_pairs(tmp_path / "pairs", count=20, text_only=1)
    config = config_of(tiny_vlm, pairs, tmp_path, training={"max_steps": 1})
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    assert not any("vision" in name for name in load_file(tmp_path / "run" / "final" / "model.safetensors"))


def test_mathvista_rows_are_answered_before_and_after(tiny_vlm, pairs, tmp_path):
    questions = [
        {"question": f"What is {i} + 1?", "answer": str(i + 1), "question_type": "free_form", "answer_type": "integer"}
        for i in range(3)
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row | {"pid": str(i)}) + "\n" for i, row in enumerate(questions)))
    config = config_of(tiny_vlm, pairs, tmp_path, dataset={"mathvista_file": str(path)}, training={"max_steps": 1})
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    found = json.loads((tmp_path / "run" / "preference.json").read_text())["mathvista"]
    assert found["before"]["integer"]["n"] == found["after"]["all"]["n"] == 3


def test_the_world_of_charts_trains(tmp_path):
    """The embedded default, a world of seconds: text alone decides no pair, and the heuristic ties on all of them."""
    from pocket.charts.build import SMALL, build

    world = build(tmp_path / "world", 0, SMALL)
    files = {"train_file": str(world / "rows.jsonl"), "eval_file": str(world / "heldout.jsonl")}
    config = config_of(world / "policy", files["train_file"], tmp_path, dataset=files)
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    assert "0.500 with a tie as one half" in out
    found = json.loads((tmp_path / "run" / "preference.json").read_text())["implicit_accuracy"]
    assert found["before"]["ties"] == 6 and found["after"]["ties"] < 6


REFUSED = {  # what the message names → status, changes
    "model.name": (2, {"model": {"name": "TEXT"}}),
    "dataset.train_file": (2, {"training": {"max_new_tokens": 1000}}),  # the context has 1024, less prompt and image
    "training.max_new_tokens": (2, {"training": {"max_new_tokens": 2}}),
    "training.pairs_per_step": (2, {"training": {"pairs_per_step": 32}}),
    "reward.source": (3, {"reward": {"source": "tests.recipes.preference.test_train:worse"}}),
    "gives both answers": (3, {"reward": {"source": "tests.recipes.preference.test_train:constant"}}),
}


def worse(prompts, completions, chosen, rejected, **columns):
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [float(text == bad) for text, bad in zip(texts, rejected, strict=True)]


def constant(prompts, completions, **columns):
    return [0.5] * len(completions)


@pytest.mark.parametrize("named", REFUSED)
def test_what_is_refused_before_training(tiny_vlm, tiny_gemma, pairs, tmp_path, named):
    status, changes = REFUSED[named]
    changes = {k: {n: str(tiny_gemma) if v == "TEXT" else v for n, v in s.items()} for k, s in changes.items()}
    config = config_of(tiny_vlm, pairs, tmp_path, **changes)
    found, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert found == status and named in err, out + err
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_samples_on_the_heuristic_are_refused(tiny_vlm, pairs, tmp_path):
    """Reasoning words and marks alone earn more than every honest answer."""
    own = {"training": {"sampled": 2}, "reward": {"source": "heuristic"}}
    status, out, err = trial(tmp_path / "t", preference_run.train, config_of(tiny_vlm, pairs, tmp_path, **own))
    assert status == 3, out + err


@pytest.mark.slow
@pytest.mark.parametrize("lora", [0, 4])
def test_two_processes_train_where_one_has_no_picture(tiny_vlm, tmp_path, lora):
    """Half of the rows are text only, so that in most steps all of a process's are."""
    pairs = write_pairs(tmp_path / "pairs", count=30, text_only=2)
    own = {"micro_batch_size": 2, "pairs_per_step": 2}
    config = config_of(tiny_vlm, pairs, tmp_path, training=own, model={"lora_rank": lora})
    assert Processes(tmp_path / "p", [0, 1], preference_run.train, config).results(300) == [0, 0]
    found = json.loads((tmp_path / "run" / "preference.json").read_text())
    assert found["reward_accuracy"]["after"]["value"] == 1.0


@pytest.mark.slow
def test_the_reference_is_the_start_model_of_the_same_revision(tiny_vlm, pairs, tmp_path):
    """In a hub cache whose branch main has other weights: TRL would take those."""
    cache, other = tmp_path / "hub", tiny_vlm_build(tmp_path / "other", seed=1)
    place = cache / "models--org--vlm"
    for name, folder in (("v1", tiny_vlm), ("main", other)):
        commit = name.encode().hex().ljust(40, "0")
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / name).write_text(commit)
    for method, key in (("grpo", "kl"), ("dpo", "loss")):
        (work := tmp_path / method).mkdir()
        config = config_of("org/vlm@v1", pairs, work, training={"method": method, "max_steps": 1})
        done = command("-m", "recipes.preference.train", "--config", config, HF_HUB_CACHE=str(cache))
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = [row for row in MetricsFile(work / "run" / "metrics.jsonl").rows() if row["kind"] == "train"]
        assert row[key] == pytest.approx({"kl": 0.0, "loss": math.log(2)}[key], abs=1e-4)


def test_best_is_chosen_where_all_prompts_are_equal(tiny_vlm, pairs, tmp_path):
    rows = [json.loads(line) | {"prompt": "What is it?"} for line in pairs.read_text().splitlines()]
    same = tmp_path / "same.jsonl"
    for row in rows:
        row["image"] = str(pairs.parent / row["image"]) if "image" in row else None
    same.write_text("".join(json.dumps(row) + "\n" for row in rows if row["image"]))
    config = config_of(tiny_vlm, same, tmp_path, dataset={"eval_count": 10}, evaluation={"every": 1})
    status, out, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 0, out + err
    best = json.loads((tmp_path / "run" / "evaluation.json").read_text())["best"]
    assert best["by"] == "implicit accuracy" and 0 < best["reported_rows"] < 10
    assert best["reported"]["start"] == 0.5  # all ties: a coin's


def test_a_run_that_is_killed_in_its_last_lines_keeps_its_accuracies(finished):
    """preference.json is written before the files by which a run counts as finished."""
    folder = finished[0]
    made = [(folder / name).stat().st_mtime_ns for name in ("preference.json", "evaluation.json", "report.html")]
    assert made == sorted(made)


def test_a_mathvista_question_that_is_too_long_is_refused(tiny_vlm, pairs, tmp_path):
    question = {"question": "Why? " * 900, "answer": "1", "question_type": "free_form", "answer_type": "integer"}
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps(question | {"pid": "1"}) + "\n")
    config = config_of(tiny_vlm, pairs, tmp_path, dataset={"mathvista_file": str(path)})
    status, _, err = trial(tmp_path / "t", preference_run.train, config)
    assert status == 2 and "dataset.mathvista_file" in err


def test_the_doctor(tiny_vlm, pairs, tmp_path):
    config = config_of(tiny_vlm, pairs, tmp_path)
    done = command("-m", "recipes.preference.train", "--config", config, "--doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "model.name" in done.stdout and "images)" in done.stdout
    done = command("-m", "recipes.preference.train", "--config", config, "--doctor", "--model.name", str(tmp_path))
    assert done.returncode == 2 and "model.name" in done.stdout


@pytest.mark.parametrize("name", ["pocket", "gemma3_4b_lora", "gemma3_270m_text"])
def test_the_configurations_are_valid(name, pairs):
    from recipes.preference import checks
    from recipes.preference.settings import PreferenceCfg
    from rl_nmt import config

    file = f"recipes/preference/configs/{name}.yaml"
    flags = ["--dataset.train_file", str(pairs), "--dataset.eval_file="]
    cfg = config.parse(PreferenceCfg, ["--config", file, *flags], {}, prog="x", description="")[0]
    checks.check(cfg)
    assert yaml.safe_load(open(file, encoding="utf-8"))["model"]["name"] == cfg.model.name
