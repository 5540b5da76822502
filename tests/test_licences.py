"""The line that says whether a licence of a run's models forbids commercial use, and the page with the same table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rl_nmt import config, licences
from rl_nmt.licences import commercial_use, licence

ROOT = Path(__file__).resolve().parents[1]
FREE = "no licence named here forbids commercial use"
GEMMA = "; pass on the Gemma Terms of Use"


@pytest.mark.parametrize(
    ("name", "text", "commercial"),
    [
        ("Unbabel/wmt22-cometkiwi-da", "CC-BY-NC-SA-4.0 (gated)", False),
        ("Unbabel/wmt23-cometkiwi-da-xl@main", "CC-BY-NC-SA-4.0 (gated)", False),
        ("Unbabel/XCOMET-XXL", "CC-BY-NC-SA-4.0 (gated)", False),
        ("google/metricx-24-hybrid-xl-v2p6-bfloat16", "Apache-2.0", True),
        ("facebook/nllb-200-3.3B@refs/pr/3", "CC-BY-NC-4.0", False),
        ("facebook/m2m100_418M", "MIT", True),
        ("google/madlad400-3b-mt", "Apache-2.0", True),
        ("masakhane/africomet-qe-stl", "Apache-2.0", True),
        ("google/gemma-3-27b-it", "Gemma Terms of Use (gated)", True),
    ],
)
def test_licences(name, text, commercial):
    assert (str(licence(name)), licence(name).commercial) == (text, commercial)


@pytest.mark.parametrize("name", ["google/gemma-2-2b-it", "unbabel/xcomet-xl", "me/gemma-3-1b-it", "/m/XCOMET-XL"])
def test_other_names_are_not_guessed(name):
    assert licence(name) is None
    assert commercial_use([name]) == f"unknown: read the card of {name.removeprefix('/m/')}"


def test_the_three_lines():
    free = ["google/gemma-3-1b-it", "Unbabel/wmt22-comet-da", "google/metricx-24-hybrid-xl-v2p6", ""]
    assert commercial_use(free[1:]) == FREE
    assert commercial_use(free) == FREE + GEMMA
    one = commercial_use([*free, "facebook/nllb-200-3.3B@v1", "facebook/nllb-200-3.3B"])
    assert one == "commercial use is forbidden by facebook/nllb-200-3.3B (CC-BY-NC-4.0)" + GEMMA
    both = commercial_use(["Unbabel/XCOMET-XL", "me/mine", "me/other@x"])
    assert both == "commercial use is forbidden by Unbabel/XCOMET-XL (CC-BY-NC-SA-4.0); " + (
        "unknown: read the card of me/mine, me/other"
    )


@pytest.mark.parametrize(
    ("file", "told", "line"),
    [
        ("config.json", {"_name_or_path": "facebook/nllb-200-3.3B"}, "forbidden by facebook/nllb-200-3.3B (CC"),
        ("adapter_config.json", {"base_model_name_or_path": "google/gemma-3-1b-it"}, FREE),
        ("config.json", {"_name_or_path": "/home/me/XCOMET-XL"}, "unknown: read the card of XCOMET-XL"),
        ("config.json", {"_name_or_path": None}, "unknown: read the card of XCOMET-XL"),
        ("config.json", ["facebook/nllb-200-3.3B"], "unknown: read the card of XCOMET-XL"),
        ("hparams.yaml", {"pretrained_model": "microsoft/infoxlm-large"}, "unknown: read the card of XCOMET-XL"),
    ],
)
def test_a_local_folder_is_known_only_by_its_own_configuration(tmp_path, monkeypatch, file, told, line):
    folder = tmp_path / "Unbabel" / "XCOMET-XL"  # its own name says nothing
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(told), encoding="utf-8")
    assert line in commercial_use([str(folder)])
    monkeypatch.chdir(tmp_path)
    assert line in commercial_use(["Unbabel/XCOMET-XL"])
    assert str(tmp_path) not in commercial_use([str(folder), f"{folder}/gone"])


def test_the_page_has_the_same_table():
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    rows = [
        f"| {row.part} | {', '.join(f'`{name}`' for name in row.models)} | {row} | "
        f"{('yes; ' + row.terms if row.terms else 'yes') if row.commercial else 'no'} |"
        for row in licences.table()
    ]
    shown = page.split("| model |")[1].split("\n\n")[0].splitlines()[2:]
    assert shown == rows


def test_the_models_of_every_preset_and_default_are_in_the_table():
    import train_grpo_en_ta as script

    for path in [None, *(ROOT / "configs").glob("gemma*.yaml")]:
        cfg, _, _ = config.parse(script.RunCfg, ["--config", str(path)] if path else [], {}, "x", "x")
        line = commercial_use(model.name for model in script.models(cfg))
        assert "unknown" not in line and GEMMA in line
        free = path is not None and ("permissive" in path.name or "laptop" in path.name)
        assert line.startswith(FREE) == free, path


def test_a_permissive_preset_with_one_other_model_names_it():
    import train_grpo_en_ta as script

    preset = str(ROOT / "configs" / "gemma3_1b_permissive.yaml")
    flags = ["--config", preset, "--comet_qe_model", "Unbabel/wmt22-cometkiwi-da"]
    cfg, _, _ = config.parse(script.RunCfg, flags, {}, "x", "x")
    line = commercial_use(model.name for model in script.models(cfg))
    assert line == "commercial use is forbidden by Unbabel/wmt22-cometkiwi-da (CC-BY-NC-SA-4.0)" + GEMMA
