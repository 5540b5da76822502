"""bench.gpu: processes that fail or hang, models without files, tables; and (slow) the whole of it, tiny."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny_run import ROOT, environment

import train_grpo_en_ta as script
from bench import gpu, gpu_stages, presets, reward_throughput, shapes, tables, texts
from bench.straightforward import PaddedComet, PlainComet, plain_comet
from rl_nmt.errors import ConfigError, MissingService
from rl_nmt.preflight import capacity, measurements
from rl_nmt.preflight.memory_estimate import GIB, KNOWN, Shape, parameters
from rl_nmt.scorers.base import Segment
from rl_nmt.scorers.comet import load_comet

ITEMS = texts.items(24, "none")
SEGMENTS = {
    "regression_metric": [Segment(item.english, item.back, item.english) for item in ITEMS],
    "unified_metric": [Segment(item.english, item.tamil) for item in ITEMS],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


# ------------------------------------------------------------------ processes


@pytest.mark.parametrize(
    ("code", "status", "reason", "count"),
    [
        ("put({'a': 1}); put({'status': 'done', 'reason': ''})", "done", "", 1),
        (
            "put({'ok': True}); put({'ok': False}); put({'status': 'done', 'reason': ''})",
            "failed",
            "result is wrong",
            2,
        ),
        ("put({'status': 'skipped', 'reason': 'no vllm'})", "skipped", "no vllm", 0),
        ("put({'a': 1}); os.kill(os.getpid(), 9)", "failed", "status -9", 1),
        ("put({'a': 1}); put({'a': 2}); subprocess.run(['sleep', '600'])", "out of time", "killed", 2),
    ],
)
def test_a_stage_keeps_its_results_whatever_ends_it(tmp_path, code, status, reason, count):
    put = f"put = lambda row: open({str(tmp_path / 'x.jsonl')!r}, 'a').write(json.dumps(row) + '\\n')"
    reports = []
    seconds = 1.5 if "sleep" in code else 60
    line = [sys.executable, "-c", f"import json, os, subprocess; {put}; {code}"]
    found = gpu.run_stage(line, tmp_path / "x.jsonl", seconds, reports.append)
    assert found["status"] == status and reason in found["reason"] and len(found["results"]) == count
    assert reports[-1] == found and [len(r["results"]) for r in reports] == sorted(len(r["results"]) for r in reports)


def test_stages_that_are_not_run_keep_their_results_of_the_same_card_and_shape(tmp_path):
    path, old = tmp_path / "card.json", {"card": "A", "shape": "large", "date": "2026-01-02", "minutes": 9.0}
    old |= {"versions": {"torch": "2.0"}, "stages": {"reward": {"status": "done"}, "pocket": {"status": "failed"}}}
    new = old | {"minutes": 15.0, "stages": {"pocket": {"status": "running"}}}
    gpu.keep(path, new)
    assert list(new["stages"]) == ["pocket"]
    path.write_text(json.dumps(old), encoding="utf-8")
    for others in ({"shape": "tiny"}, {"card": "B"}):
        gpu.keep(path, other := new | others | {"stages": {}})
        assert not other["stages"]
    gpu.keep(path, same := old | {"stages": {}})
    assert same == old
    gpu.keep(path, new)
    assert new["stages"]["pocket"] == {"status": "running"}
    said = "torch 2.0; 2026-01-02; `--shape large --minutes 9`"
    assert new["stages"]["reward"] == {"status": "done", "earlier": said}
    path.write_text(json.dumps(new), encoding="utf-8")
    gpu.keep(path, again := old | {"stages": {}})
    assert again["stages"]["reward"]["earlier"] == said


# ------------------------------------------------------------------ one row


@pytest.mark.parametrize(
    ("error", "skipped"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
        (RuntimeError("CUDA failed with error out of memory"), "out of memory"),  # CTranslate2's
        (ConfigError("dual_dtype: no"), "dual_dtype: no"),
        (MissingService("no ctranslate2"), "no ctranslate2"),
    ],
)
def test_an_impossible_row_is_skipped(error, skipped):
    def make(value):
        raise error

    assert gpu_stages.attempt(make, 1) == {"skipped": skipped}
    assert gpu_stages.attempt(lambda value: {"value": value}, 1) == {"value": 1}


def test_a_wrong_row_is_not_skipped():
    with pytest.raises(ZeroDivisionError):
        gpu_stages.attempt(lambda: {"value": 1 / 0})


@pytest.mark.parametrize(
    ("dtype", "difference", "ok"),
    [("float32", 9e-6, True), ("float32", 2e-5, False), ("bfloat16", 0.019, True), ("bfloat16", 0.021, False)],
)
def test_a_half_type_may_differ_by_twice_the_error_measured_at_load(monkeypatch, dtype, difference, ok):
    error = 0.01 if dtype == "bfloat16" else 0.0
    scorer = SimpleNamespace(dtype_error=error, score=lambda segments: SimpleNamespace(values=[0.5 + difference]))
    monkeypatch.setattr(gpu_stages, "load_comet", lambda *args, **options: scorer)
    found = gpu_stages.score_error("cpu", Path(), [], [0.5], dtype, "sdpa")
    assert found["ok"] is ok and found["dtype_error"] == error


def test_a_pocket_world_that_is_not_built_is_named(tmp_path):
    with pytest.raises(MissingService, match=r"pocket/build/seed0 .* python -m pocket\.build"):
        gpu_stages.pocket_world(tmp_path / "seed0")
    (tmp_path / "build.json").write_text('{"key": "of other sources"}', encoding="utf-8")
    with pytest.raises(MissingService):
        gpu_stages.pocket_world(tmp_path)


def test_the_memory_of_an_engine_is_noted_awake_and_asleep(monkeypatch):
    class Engine:
        free = 1

        def sleep(self, level):
            Engine.free = 5

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (Engine.free * GIB, 8 * GIB))
    with gpu_stages.memory_around(Engine, "sleep", used := {}):
        Engine().sleep(level=2)
    assert used == {"awake": 7, "asleep": 3}


def test_a_straightforward_route_without_its_package_is_named(monkeypatch, models):
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(MissingService, match=r"unbabel-comet: .*requirements\.txt"):
        reward_throughput.main(["--only", "cycle", "--n", "8", "--models", str(models)])


# ------------------------------------------------------------------ models without files


@pytest.mark.parametrize("kind", SEGMENTS)
def test_padded_batches_score_as_predict_does(models, kind):
    pytest.importorskip("comet")
    folder = shapes.comet(kind, "tiny", models)
    plain, padded = (route(folder).score(SEGMENTS[kind]).values for route in (PlainComet, PaddedComet))
    assert len(set(plain)) > 20 and max(abs(a - b) for a, b in zip(plain, padded, strict=True)) <= 1e-5


def test_drawn_models_are_those_of_the_files(models, tmp_path):
    kind = "unified_metric"
    wanted = load_comet(shapes.comet(kind, "tiny", models)).score(SEGMENTS[kind]).values
    saved = shapes.nllb("tiny", models)
    with shapes.resident("cpu"):
        folder = shapes.comet(kind, "tiny", tmp_path)
        assert load_comet(folder).score(SEGMENTS[kind]).values == wanted
        assert plain_comet(folder, "cpu").score(SEGMENTS[kind]).values == pytest.approx(wanted, abs=1e-5)
        drawn = shapes.draw(shapes.nllb("tiny", tmp_path))
    assert not shapes.are_resident()
    assert (
        sum(path.stat().st_size for path in folder.rglob("*"))
        < 300_000
        < saved.joinpath("model.safetensors").stat().st_size
    )
    restored = type(drawn).from_pretrained(saved).state_dict()
    assert all(torch.equal(restored[name], weight) for name, weight in drawn.state_dict().items())


# ------------------------------------------------------------------ tables


def card(offload: bool = False, peak: float = 9.0, reward: float = 5.5, faster: float = 5.0) -> dict:
    """A measured card: the command's output for a tiny run on a CPU, with the memory that only a GPU reports."""
    found = json.loads((Path(__file__).parent / "tiny_card.json").read_text(encoding="utf-8"))
    found |= {"card": "NVIDIA A10G", "memory_bytes": 24 * GIB}
    for row, away in zip(found["stages"]["step"]["results"], (offload, not offload), strict=True):
        row |= {"offload": away, "policy": "gemma3_1b"}
        row |= {"peak_gib": {"update": peak, "reward": 5.0}, "reserved_gib": {"update": peak + 1, "reward": 6.0}}
        row |= {"estimated_gib": {"update": 10.0, "reward": reward}, "reward_share": 0.15, "length": 160}
    for row in found["stages"]["reward"]["results"]:
        if "ratios" in row:
            row["ratios"] = dict.fromkeys(row["ratios"], faster)
    return found


def test_the_documents_match_the_committed_cards():
    for name, text in tables.documents(ROOT, measurements.cards()).items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, "run python -m bench.gpu --tables"


def test_tables_of_a_measured_card(tmp_path, capsys):
    measured, documents = tmp_path / "measured", ("README.md", "docs/benchmarks.md")
    measured.mkdir()
    (tmp_path / "docs").mkdir()
    for name in documents:
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    assert measurements.cards(tmp_path / "nothing") == []
    (measured / "nvidia-a10g.json").write_text(json.dumps(card()), encoding="utf-8")
    assert tables.write(tmp_path, measured) == 0
    out = capsys.readouterr().out
    assert "update: 9.0 GiB, estimated 10.0 (+11%), bar 15%: met" in out and "missed" not in out
    assert "reward: 5.0 GiB, estimated 5.5 (+10%), bar 15%: met" in out
    assert "qe 5.0 times as fast as the straightforward route, bar 4: met" in out
    assert "the reward takes 15% of a step, bar 20%: met" in out
    readme, benchmarks = ((tmp_path / name).read_text(encoding="utf-8") for name in documents)
    assert "Measured: NVIDIA A10G: gemma3_1b, reward models on the card, update: 9.0 GiB" in readme
    assert re.search(r"gemma3_1b_24gb.* GiB; 9\.0 measured with 160 new tokens \(NVIDIA A10G\) \|\n", readme)
    section = benchmarks.split("<!-- cards:")[1].split("<!-- /cards -->")[0]
    assert "### NVIDIA A10G" in section and tables.NONE not in section + readme
    for head in ("check | dtype", "route | comet", "policy | offload", "engine | dtype", "steps | seconds"):
        rows = section.split(f"| {head}")[1].split("\n\n")[0].splitlines()
        assert len(rows) > 2 and len({row.count("|") for row in rows[1:]}) == 1
    assert "update 9, reward 5" in section and "**vLLM on the same card**: skipped" in section
    again = tables.documents(tmp_path, [card()])
    assert again == {"README.md": readme, "docs/benchmarks.md": benchmarks}
    for missed in ({"peak": 8.0}, {"reward": 8.0}, {"faster": 3.9}):
        (measured / "nvidia-a10g.json").write_text(json.dumps(card(**missed)), encoding="utf-8")
        assert tables.write(tmp_path, measured) == 1
        assert "missed" in capsys.readouterr().out


def test_the_doctor_names_what_was_measured_on_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(measurements, "FOLDER", tmp_path)
    (tmp_path / "nvidia-a10g.json").write_text(json.dumps(card()), encoding="utf-8")
    cfg, machine = script.RunCfg(), presets.Hardware(1, 24, True, 32).machine()
    shapes_ = {name: Shape(parameters(config), config) for name, config in KNOWN.items()}
    named = {"policy": "google/gemma-3-1b-it", "translator": "facebook/nllb-200-distilled-1.3B"}
    models = {part: shapes_[name] for part, name in named.items()}
    assert "of its estimate" not in capacity.memory_findings(cfg, machine, models)[0].detail  # of another name
    a10 = type(machine)(
        **vars(machine) | {"gpus": (type(machine.gpus[0])(**vars(machine.gpus[0]) | {"name": "NVIDIA A10G"}),)}
    )
    detail = capacity.memory_findings(cfg, a10, models)[0].detail
    assert detail.endswith("on a card of this name a step of gemma3_1b took 9.0 GiB, 0.90 of its estimate")
    assert measurements.measured_ratio("NVIDIA A10G", offload=True)


def test_missing_marks_are_an_error():
    with pytest.raises(ValueError, match="<!-- cards"):
        tables.between("text", "cards", lambda old: "")


# ------------------------------------------------------------------ the whole


def test_the_reward_texts_have_the_lengths_they_claim(models):
    english, tamil, tokens = gpu_stages.completions(shapes.nllb("tiny", models), gpu_stages.COMPLETIONS)
    assert len(english) == len(tamil) == 64 and len(set(english)) == 8 and 20 <= min(tokens) < max(tokens) <= 80


def test_the_step_is_that_of_the_preset_where_the_card_has_bf16(monkeypatch, tmp_path):
    def parsed():
        return gpu_stages.train_step.parse(gpu_stages.step_flags(gpu_stages.Task("large", "cuda", tmp_path, 0.0)))

    monkeypatch.setattr(gpu_stages, "half_types", lambda device: ("float16",))
    assert parsed().dual_dtype == "float32"
    monkeypatch.setattr(gpu_stages, "half_types", lambda device: ("bfloat16", "float16"))
    args = parsed()
    preset = yaml.safe_load((ROOT / "configs" / "gemma3_1b_24gb.yaml").read_text(encoding="utf-8"))
    assert (args.lora_rank, args.batch, args.gradient_checkpointing, args.dual_dtype) == tuple(
        preset[name] for name in ("lora_rank", "per_device_batch_size", "gradient_checkpointing", "dual_dtype")
    )
    assert args.prompts * args.group_sizes[0] == args.batch * preset["gradient_accumulation_steps"]


@pytest.mark.slow
def test_the_command(tmp_path):
    line = [sys.executable, "-m", "bench.gpu", "--shape", "tiny", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=3700)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*.json")
    text = path.read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["versions"]["torch"] == torch.__version__ and found["shape"] == "tiny" and str(ROOT) not in text
    states = {name: stage["status"] for name, stage in found["stages"].items()}
    assert states == {name: "skipped" if name == "vllm" else "done" for name in gpu.SHARES}
    results = {name: stage["results"] for name, stage in found["stages"].items()}
    checks = {(row["check"], row.get("dtype"), row.get("attention")): row for row in results["correctness"]}
    assert checks["qe scores", "float32", "sdpa"]["ok"] and checks["cycle scores", "bfloat16", "sdpa"]["ok"]
    assert checks["back-translations", "float32", None]["equal"] == 1.0
    assert all(checks["killed and resumed", None, None][name] for name in ("weights", "optimizer", "metrics"))
    routes = {(row["route"], row["dtype"], row["attention"]): row for row in results["reward"] if "route" in row}
    assert routes["straightforward", "float32", None]["seconds"] > 0
    ours = routes["ours", "float32", "sdpa"]
    assert ours["max_difference"] < 1e-5 and ours["equal"] == 1.0 and 0 < ours["of_matmul"]["qe"]
    assert set(ours["stages"]) == set(ours["ratios"]) == {"guards", "back_translate", "cycle", "qe"}
    assert [row["offload"] for row in results["step"]] == [False, True]
    for row in results["step"]:
        assert row["time/generate"] > 0 and set(row["estimated_gib"]) == {"sampling", "reward", "update"}
    engines = {(row["engine"], row["dtype"]): row for row in results["engines"]}
    assert tuple(engines) == gpu_stages.ENGINES
    assert engines["transformers", "float32"]["equal"] == engines["ctranslate2", "float32"]["equal"] == 1.0
    assert results["pocket"][0]["steps"] == gpu_stages.FIRST_STEPS and results["pocket"][-1]["after"]["chrf"] >= 0
