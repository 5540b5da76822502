"""The model card: its content, that the hub can read its head, and that its example runs."""

from __future__ import annotations

import copy
import doctest
import re
import shutil

import pytest
import yaml
from tiny_models import PAIRS, PROMPT

from rl_nmt.results import model_card
from rl_nmt.results.task import Task
from rl_nmt.results.translation import translation_task
from rl_nmt.text.languages import TAMIL

COMPARISON = {
    "rows": 200,
    "before": {"reward": 0.5958, "chrf": 57.22, "gated": 0.01},
    "after": {"reward": 0.6567, "chrf": 66.02, "gated": None},
    "p_value": {"reward": 0.000999, "chrf": 0.04},
    "signature": {
        "reward": {
            "identity": {
                "reward": "comet_dupo/3",
                "w_qe": 0.2,
                "cycle": {"model": "Unbabel/wmt22-comet-da", "revision": "371e9839ca4e213dde891b066cf3080f75ec7e72"},
                "qe": {"model": "Unbabel/wmt22-cometkiwi-da", "revision": None},
                "backtranslation": {"model": "facebook/nllb-200-distilled-1.3B", "revision": None},
                "judge": {"model": "kiwi | local"},
            },
            "environment": {"cycle": {"torch": "2"}},
        },
        "decoding": "greedy|max_new_tokens:32",
    },
    "best": {
        "step": 60,
        "by": "chrF++",
        "reason": "highest mean chrF++ on 91 of 200 held-out rows",
        "reported_rows": 109,
        "reported": {"start": 56.655, "best": 64.93, "last": 66.04, "best by reward": None},
    },
}


def card(comparison=COMPARISON, base="google/gemma-3-1b-it@v2", **changes) -> str:
    given = {
        "base_model": base,
        "data": {"name": "allenai/c4", "rows": 2000, "sha256": "ab" * 32},
        "settings": {"lr": 1e-5, "seed": 42},
        "prompt": PROMPT,
        "task": translation_task(TAMIL),
    }
    return model_card.model_card(comparison, **(given | changes))


def head(text: str) -> dict:
    """The YAML in front, read as the hub's own client reads it."""
    from huggingface_hub import ModelCard

    read = ModelCard(text)
    assert read.text.lstrip().startswith("# ")
    return read.data.to_dict()


def test_the_hub_reads_the_evaluation():
    """As EvalResult, by huggingface_hub's own parser."""
    from huggingface_hub import ModelCard

    data = {"name": "allenai/c4", "rows": 2000, "sha256": "ab" * 32}
    results = ModelCard(card(data=data | {"heldout": "google/wmt24pp"})).data.eval_results
    found = {(r.metric_type, r.metric_name, r.metric_value) for r in results}
    assert found == {("reward", "reward", 0.6567), ("chrf", "chrF++", 66.02)}  # gated has no value
    assert {(r.task_type, r.dataset_type, r.dataset_name) for r in results} == {
        ("translation", "google/wmt24pp", "google/wmt24pp")
    }
    (chosen,) = ModelCard(card(best=True, data=data | {"heldout": "/home/me/pairs.tsv"})).data.eval_results
    assert (chosen.metric_type, chosen.metric_value) == ("chrf", 64.93)  # on the rows that did not choose it
    assert (chosen.dataset_type, chosen.dataset_name) == ("held-out", "pairs.tsv")


def test_the_hub_reads_the_head():
    found = head(card())
    assert found.pop("model-index")[0]["name"] == "gemma-3-1b-it for English → Tamil"
    assert found == {
        "language": ["en", "ta"],
        "base_model": "google/gemma-3-1b-it",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "translation",
        "tags": ["translation", "grpo", "trl"],
    }
    assert "license" not in head(card())  # the user's to choose
    assert "# license: yours to choose" in card().split("---")[1]
    assert "base_model" not in head(card(base="/home/me/policy"))


def test_languages_that_yaml_would_take_for_something_else():
    from dataclasses import replace

    norwegian = replace(TAMIL, code="no", name="Norwegian")
    assert yaml.safe_load(card(task=translation_task(norwegian)).split("---")[1])["language"] == ["en", "no"]
    other = card(task=translation_task(norwegian, TAMIL))
    assert yaml.safe_load(other.split("---")[1])["language"] == ["ta", "no"]
    assert "for Tamil → Norwegian" in other and "2000 Tamil sentences" in other


def test_it_says_what_the_model_was_made_from():
    text = card()
    assert "# gemma-3-1b-it for English → Tamil" in text
    assert "[allenai/c4](https://huggingface.co/allenai/c4), 2000 English sentences, sha256 `abababababab`" in text
    assert "| lr | 1e-05 |" in text and PROMPT in text
    import hashlib
    import json

    identity = json.dumps(COMPARISON["signature"]["reward"]["identity"], sort_keys=True, ensure_ascii=False)
    assert f"Signature `{hashlib.sha256(identity.encode()).hexdigest()[:12]}`" in text


def test_it_lists_the_licences_of_the_rewards_models():
    text = card()
    page = "[{0}](https://huggingface.co/{0})"
    comet, kiwi = page.format("Unbabel/wmt22-comet-da"), page.format("Unbabel/wmt22-cometkiwi-da")
    assert f"| cycle | {comet} | 371e9839ca4e | Apache-2.0 |" in text
    assert f"| qe | {kiwi} | – | CC-BY-NC-SA-4.0 (gated) |" in text
    assert "| judge | `kiwi \\| local` | – | a checkpoint without a page |" in text
    line = re.search(r"^Licences: (.*)\. What that means", text, re.MULTILINE)[1]
    assert "forbidden by Unbabel/wmt22-cometkiwi-da (CC-BY-NC-SA-4.0), facebook/nllb-200-distilled-1.3B (CC" in line
    assert "comet-da" not in line and "read the card of kiwi | local" in line
    assert f"# license: yours to choose; {line}" in text.split("---")[1]
    assert "The base model's licence (Gemma Terms of Use (gated)) " in text
    free = copy.deepcopy(COMPARISON)
    free["signature"]["reward"]["identity"] = {"metricx": {"model": "google/metricx-24-hybrid-large-v2p6"}}
    assert "forbid" not in card(free, base="me/own")
    assert "Licences: no licence named here forbids" in card(free) and "| Apache-2.0 |" in card(free)


def test_the_table_before_and_after():
    text = card()
    assert "| reward | 0.596 | 0.657 | 0.001 |" in text
    assert "| chrF++ | 57.2 | 66.0 | 0.040 |" in text
    assert "| gated | 0.010 | – |  |" in text
    assert "decoding: `greedy\\|max_new_tokens:32`" in text or "decoding: `greedy|max_new_tokens:32`" in text
    assert "weights of step" not in text


def test_best_says_which_step_it_is_and_how_it_was_chosen():
    text = card(best=True)
    assert "weights of step 60: highest mean chrF++ on 91 of 200 held-out rows." in text
    assert re.search(r"chrF\+\+ on the 109 rows .*: start 56\.66, best 64\.93, last 66\.04\.", text)
    assert re.search("The table .* last step", text)


@pytest.mark.parametrize("path", ["/home/me/models/policy", "./models/policy", "~/x/policy"])
def test_paths_of_this_machine_stay_here(path):
    text = card(base=path, data={"name": "/data/me/english.jsonl", "rows": 3, "sha256": "00"})
    assert "`policy`" in text and "`english.jsonl`" in text
    assert "/me" not in text and "./" not in text.replace('folder := "."', "") and "~" not in text


def test_the_example_runs(tiny_gemma, tmp_path, monkeypatch, capsys):
    """On a sentence that the tiny model knows by heart."""
    english, tamil = PAIRS[0]
    folder = shutil.copytree(tiny_gemma, tmp_path / "final")
    (folder / "prompt.txt").write_text(PROMPT, encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card(), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    exec(compile(code.replace("The rain has stopped.", english), "card", "exec"), {})
    assert capsys.readouterr().out.strip() == tamil


def test_the_example_with_a_picture_runs(tiny_vlm, tmp_path, monkeypatch, capsys):
    from PIL import Image

    comparison = {"rows": 1, "before": {}, "after": {}, "p_value": {}, "wins": {}, "signature": {"reward": {}}}
    card = {"base_model": "a", "data": {"name": "b", "rows": 1, "sha256": "c"}, "settings": {}, "prompt": "{source}"}
    text = model_card.model_card(
        comparison, **card, task=Task("answers", example="What is it?", pipeline="image-text-to-text")
    )
    shutil.copytree(tiny_vlm, tmp_path / "model")
    Image.new("RGB", (48, 48), "red").save(tmp_path / "model" / "picture.png")
    monkeypatch.chdir(tmp_path / "model")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    exec(compile(code.replace("256", "4"), "card", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


def test_docstring_examples_run():
    result = doctest.testmod(model_card)
    assert result.attempted >= 1 and result.failed == 0


def test_a_local_folder_with_one_slash_is_not_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_card.on_hub("models/policy")
    (tmp_path / "models" / "policy").mkdir(parents=True)
    assert not model_card.on_hub("models/policy")
