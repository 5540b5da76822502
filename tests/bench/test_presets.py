"""configs/*.yaml: the hardware that each names, whether it is valid and fits there; and the bench that checks it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import train_grpo_en_ta as script
from bench import presets
from bench.presets import Hardware
from rl_nmt import config
from rl_nmt.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
EXPECTED = {
    "pocket": Hardware(0, 0, False, 3),
    "gemma3_270m_laptop": Hardware(0, 0, False, 8),
    "gemma3_1b_16gb": Hardware(1, 16, False, 24),
    "gemma3_1b_24gb": Hardware(1, 24, True, 16),
    "gemma3_1b_permissive": Hardware(1, 24, True, 16),
    "gemma3_4b_80gb": Hardware(1, 80, True, 32),
    "gemma3_4b_permissive": Hardware(1, 80, True, 32),
    "gemma3_27b_8x80gb": Hardware(8, 80, True, 640),
}


def test_every_preset_names_its_hardware():
    assert {name: presets.hardware(path) for name, path in PRESETS.items()} == EXPECTED


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_for_as_many_processes_as_it_has_gpus(name, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(max(1, EXPECTED[name].gpus)))
    cfg, _, _ = config.parse(script.RunCfg, ["--config", str(PRESETS[name])], {}, "x", "x")
    script.check(cfg)
    assert cfg.output_dir.startswith("runs/")
    if not EXPECTED[name].bf16:  # no model there uses 16 bits, so neither may the policy
        assert (cfg.dual_dtype, cfg.reward_dtype) == ("float32", "float32")


@pytest.mark.parametrize("name", PRESETS)
def test_its_command_names_existing_files(name):
    comment = re.sub(
        r"\\\n#",
        " ",
        "\n".join(line for line in PRESETS[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")),
    )
    (line,) = re.findall(r"((?:accelerate launch .*|python )train_grpo_en_ta\.py [^)\n]*)", comment)
    words = shlex.split(line)
    files = [word for word in words if word.endswith((".py", ".yaml"))]
    assert files[-1] == f"configs/{name}.yaml" and all((ROOT / file).is_file() for file in files)
    assert (words[0] == "accelerate") == (EXPECTED[name].gpus > 1)
    if EXPECTED[name].gpus > 1:
        text = (ROOT / files[0]).read_text(encoding="utf-8")
        assert f"num_processes: {EXPECTED[name].gpus}\n" in text


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "pocket"])
def test_it_fits_and_every_model_is_counted(name):
    """Sizes come from the table of published configurations: no file is needed."""
    findings = presets.estimate(PRESETS[name])
    assert findings and all(f.level in ("ok", "warn") for f in findings)
    detail = findings[0].detail
    device = "cuda:0" if EXPECTED[name].gpus else "cpu"
    assert detail.startswith(f"{device}: policy ") and "size not known" not in detail
    held = " ".join(f.detail for f in findings)
    parts = ("likelihood ",) if name == "gemma3_270m_laptop" else ("translator ", "comet_da ", "comet_qe ")
    assert all(part in held for part in parts)


def test_a_preset_that_is_too_large_is_reported_with_exit_status_1(tmp_path, capsys):
    path = tmp_path / "large.yaml"
    path.write_text("# Hardware: 1 × 16 GB GPU without bf16, 64 GB of memory\nmodel_id: google/gemma-3-27b-it\n")
    assert presets.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert "large: Hardware(gpus=1" in out and "fail  cuda:0: policy 100.6" in out  # 27.0 · 10⁹ × 4 bytes
    assert presets.main([str(PRESETS["gemma3_1b_24gb"]), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["gemma3_1b_24gb"]


@pytest.mark.parametrize("first", ["", "# Gemma on a GPU", "# Hardware: a large GPU", "model_id: x"])
def test_a_preset_without_hardware_is_refused(tmp_path, first):
    path = tmp_path / "x.yaml"
    path.write_text(first + "\nmodel_id: google/gemma-3-1b-it\n")
    with pytest.raises(ConfigError, match=r"first line .*# Hardware:"):
        presets.hardware(path)


def test_each_of_several_processes_has_its_share_of_the_memory():
    machine = Hardware(8, 80, True, 640).machine()
    assert machine.ram_free == 80 * 10**9 and len(machine.gpus) == 1
    assert Hardware(0, 0, False, 2).machine().gpus == ()
