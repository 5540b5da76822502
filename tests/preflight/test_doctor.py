"""The doctor: every line of its table against a machine, a folder or a hub in a known state."""

from __future__ import annotations

import re
import socket
import time

import pytest
from hang_guard import ends_within
from tiny_run import settings, write_data

import train_grpo_en_ta as script
from rl_nmt import progress
from rl_nmt.preflight import capacity, doctor
from rl_nmt.preflight import machine as machine_
from rl_nmt.preflight.findings import Finding
from rl_nmt.preflight.machine import Gpu, Machine
from rl_nmt.preflight.memory_estimate import GIB, KNOWN, Shape
from rl_nmt.training.trl_settings import TrlSettings

GOOD = {
    "torch": "2.13.0+cpu",
    "transformers": "4.57.6",
    "trl": "1.16.0",
    "accelerate": "1.15.0",
    "datasets": "5.0.1",
    "sacrebleu": "2.6.0",
    "sentencepiece": "0.2.1",
    "tyro": "0.9",
    "pyyaml": "6.0",
    "matplotlib": "3.9",
    "peft": "0.21.2",
    "wandb": "0.28.0",
    "numpy": "1.26.4",
    "protobuf": "4.25.9",
    "pyarrow": "25.0.0",
    "setuptools": "80.10.2",
    "torchmetrics": "0.10.3",
    "huggingface-hub": "0.36.0",
}
A10 = Gpu("NVIDIA A10G", 22 * GIB, 24 * GIB, True)
MACHINE = Machine((3, 11), GOOD, (A10,), 60 * GIB)
GEMMA = Shape(999_885_952, KNOWN["google/gemma-3-1b-it"])
NLLB = Shape(1_370_638_336, KNOWN["facebook/nllb-200-distilled-1.3B"])
COMET = Shape(580_000_000, KNOWN["Unbabel/wmt22-comet-da"])


def cfg(**changes):
    return script.RunCfg(**changes)


def diagnose(settings, folder, check=lambda settings: None, machine=None):
    return doctor.diagnose(settings, script.models(settings), folder, check, lambda settings: None, machine)


def machine(**changes):
    return Machine(**{**vars(MACHINE), **changes})


def level(findings):
    return [(f.level, f.status) for f in findings]


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


# --- the whole -----------------------------------------------------------------------------------------


@pytest.fixture
def local(tiny_all, tmp_path):
    write_data(tmp_path)
    return settings(tiny_all, tmp_path, tmp_path / "run")


def test_a_run_that_can_start(local, tmp_path):
    findings = diagnose(script.RunCfg(**local), tmp_path / "run", check=script.check)
    assert [f for f in findings if f.level == "fail"] == [] and doctor.exit_code(findings) == 0
    said = {f.what: f.detail for f in findings}
    assert set(said) >= {
        "settings",
        "versions",
        "model_id",
        "comet_da_model",
        "comet_qe_model",
        "backtranslation_model",
        "licences",
        "data",
        "W&B",
        "disk",
        "memory",
        "length",
        "batches",
        "checkpoints",
    }
    text = doctor.table(findings)
    assert text.splitlines()[-1].startswith("go") and all(f.detail in text for f in findings)
    assert not (tmp_path / "run").exists()  # it only looks and writes nothing


def test_the_defaults_without_a_network_take_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with ends_within(60):
        findings = diagnose(cfg(), tmp_path / "run", machine=MACHINE)
    failed = {f.what: f for f in findings if f.level == "fail"}
    models = {"model_id", "comet_da_model", "comet_qe_model", "backtranslation_model"}
    assert set(failed) == {*models, "data"} and doctor.exit_code(findings) == 69
    for name in models:
        assert failed[name].detail.startswith(f"{getattr(cfg(), name)} is not on this machine")
        assert failed[name].way_out.startswith(f"Give a local folder as --{name}")
    assert doctor.table(findings).splitlines()[-1].startswith("no-go: 5")
    (line,) = (f.detail for f in findings if f.what == "licences")
    assert "forbidden by facebook/nllb-200-distilled-1.3B (CC-BY-NC-4.0), Unbabel/wmt22-cometkiwi-da (CC-" in line


def test_a_hub_that_drops_packets_is_probed_once(monkeypatch, tmp_path):
    """Five names on a hub that never answers: one time-out, not five."""
    asked = []

    def never(place, timeout=None):
        asked.append(place)
        time.sleep(0.5)
        raise TimeoutError

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", never)
    findings = diagnose(cfg(use_wandb=False), tmp_path, machine=MACHINE)
    assert len(asked) == 1 and sum(f.status == 69 for f in findings) == 5


def test_bad_settings_are_a_finding(tmp_path):
    findings = diagnose(cfg(min_chars=999), tmp_path, check=script.check, machine=MACHINE)
    assert findings[0] == Finding("fail", "settings", "min_chars: 999 is above max_chars: 300", "", 2)
    assert len(findings) > 10  # and the rest is looked at all the same


def test_this_machine():
    here = machine_.look()
    assert here.packages["torch"] and here.python >= (3, 11) and here.ram_free > 0 and not here.torch_problem


# --- the table -----------------------------------------------------------------------------------------


def test_exit_code_and_verdict_by_hand():
    ok, warn = Finding("ok", "a", "fine"), Finding("warn", "bb", "hm", "do x")
    memory, model = Finding("fail", "c", "no", "do y", 2), Finding("fail", "d", "no", "", 69)
    assert doctor.exit_code([]) == doctor.exit_code([ok, warn]) == 0
    assert doctor.exit_code([memory, ok]) == 2 and doctor.exit_code([memory, model, warn]) == 69
    assert doctor.exit_code([Finding("fail", "e", "no")]) == 1
    assert doctor.table([ok, warn]) == "ok    a   fine\nwarn  bb  hm\n          → do x\ngo, 1 to look at"
    assert doctor.table([memory, model]).splitlines()[-1] == "no-go: 2 to fix"


# --- versions ------------------------------------------------------------------------------------------


def test_good_versions():
    assert level(machine_.version_findings(MACHINE, cfg())) == [("ok", 0)]


@pytest.mark.parametrize(
    ("package", "version", "said"),
    [
        ("pyarrow", "26.0.0", "pyarrow 26 needs NumPy 2"),
        ("sentencepiece", "0.2.3", "runtime_version"),
        ("huggingface-hub", "1.2.0", "import transformers"),
        ("trackio", "0.30.0", "GRPOTrainer"),
        ("sentence-transformers", "6.0.0", "transformers 5"),
    ],
)
def test_known_bad_pairs(package, version, said):
    found = machine_.version_findings(machine(packages=GOOD | {package: version}), cfg())
    failed = [f for f in found if f.level == "fail"]
    assert len(failed) == 1 and said in failed[0].detail and f"{package} {version}" in failed[0].detail
    assert failed[0].status == 69 and "requirements.txt" in failed[0].way_out


@pytest.mark.parametrize(
    ("added", "file"),
    [
        ({}, "requirements.txt"),
        ({"transformers": "5.23.0"}, "requirements-transformers5.txt"),
        ({"transformers": "5.17.0", "vllm": "0.31.0"}, "requirements-vllm.txt"),
    ],
)
def test_what_is_missing_comes_from_the_file_of_this_environment(added, file):
    packages = {name: v for name, v in (GOOD | added).items() if name != "trl"}
    found = machine_.version_findings(machine(packages=packages), cfg())
    assert found[0].detail == "not installed: trl" and found[0].way_out == f"pip install -r {file}"


@pytest.mark.parametrize(
    ("package", "version"),
    [("pyarrow", "25.9.9"), ("sentencepiece", "0.2.2"), ("trackio", "0.20.0")],
)
def test_versions_below_the_limit_are_good(package, version):
    assert level(machine_.version_findings(machine(packages=GOOD | {package: version}), cfg())) == [("ok", 0)]


def test_untested_versions_are_a_warning_and_missing_ones_are_not():
    found = machine_.version_findings(machine(packages=GOOD | {"trl": "1.17.0"}), cfg())
    assert level(found) == [("warn", 0)] and "trl 1.17.0 (tested: 1.16.0)" in found[0].detail
    without = {name: v for name, v in GOOD.items() if name not in ("trl", "peft", "wandb")}
    found = machine_.version_findings(machine(packages=without), cfg())
    assert level(found) == [("fail", 69)] and found[0].detail == "not installed: trl, peft, wandb"
    found = machine_.version_findings(machine(packages=without | {"trl": "1.16.0"}), cfg(lora_rank=0, use_wandb=False))
    assert level(found) == [("ok", 0)]
    found = machine_.version_findings(machine(), cfg(backtranslation_backend="ctranslate2"))
    assert "ctranslate2" in found[0].detail
    broken = machine_.version_findings(machine(torch_problem="ImportError: libcudart.so.13"), cfg())
    assert level(broken) == [("fail", 69)] and "libcudart" in broken[0].detail


@pytest.mark.parametrize(("python", "fails"), [((3, 10), 1), ((3, 11), 0), ((3, 12), 0), ((3, 13), 1)])
def test_python(python, fails):
    assert sum(f.level == "fail" for f in machine_.version_findings(machine(python=python), cfg())) == fails


# --- devices, disk, memory -----------------------------------------------------------------------------


def test_devices():
    found = machine_.device_findings(MACHINE, cfg())
    assert found == [Finding("ok", "cuda:0", "NVIDIA A10G, 22.0 of 24.0 GiB free")]
    found = machine_.device_findings(MACHINE, cfg(dual_device="cuda:1", reward_device="cuda"))
    assert [f.what for f in found] == ["cuda:0", "dual_device"] and found[1].level == "warn"
    found = machine_.device_findings(machine(gpus=(Gpu("Tesla T4", 15 * GIB, 16 * GIB, False),)), cfg())
    assert "no bf16 units" in found[0].detail
    found = machine_.device_findings(machine(gpus=()), cfg(reward_device="cuda:0"))
    assert [f.what for f in found] == ["devices", "reward_device"] and "60.0 GiB free" in found[0].detail


def fake_disk(monkeypatch, free):
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda place: type("Usage", (), {"free": free})())


def test_disk_by_hand(monkeypatch, tmp_path):
    # LoRA: 2 bytes a weight of the merged model, and three checkpoints of 12 bytes a LoRA weight and 2 MB
    need = 2 * 999_885_952 + 3 * (12 * 13_045_760 + 2_000_000)
    for free, wanted in ((need - 1, ("fail", 73)), (need, ("warn", 0)), (2 * need, ("ok", 0))):
        fake_disk(monkeypatch, free)
        found = capacity.disk_finding(cfg(), tmp_path / "not" / "yet", GEMMA, bf16=True)
        assert (found.level, found.status) == wanted and "2.3 estimated (a checkpoint 0.1" in found.detail
    found = capacity.disk_finding(cfg(), tmp_path, None, bf16=True)
    assert (found.level, found.status) == ("warn", 0)
    (tmp_path / "file").write_text("")
    found = capacity.disk_finding(cfg(), tmp_path / "file", GEMMA, bf16=True)
    assert (found.level, found.status) == ("fail", 73)


def memory(machine, **changes):
    models = {"policy": GEMMA, "translator": NLLB, "comet_da": COMET, "comet_qe": COMET}
    return capacity.memory_findings(cfg(**changes), machine, models)


def with_free(gib):
    return machine(gpus=(Gpu("x", int(gib * GIB), 80 * GIB, True),))


def test_memory_by_hand():
    # 1.86 policy + 4 × 0.049 LoRA + 0.6 CUDA + 5.11 NLLB + 2 × 2.44 COMET + 3.75 keys and values of NLLB's beams
    found = memory(with_free(40))
    assert level(found) == [("ok", 0)] and " = 16.4 GiB estimated, 40.0 free" in found[0].detail
    for part in ("policy 1.9", "LoRA 0.049", "optimizer 0.097", "translator 5.1", "comet_da 2.4", "reward 3.8"):
        assert part in found[0].detail, found[0].detail
    assert level(memory(with_free(16))) == [("warn", 0)]  # 102 %
    assert level(memory(with_free(15))) == [("warn", 0)]  # 109 %: estimates are not that exact
    found = memory(with_free(14))
    assert level(found) == [("fail", 2)]
    assert found[0].way_out == "--reward_offload True, or --dual_dtype bfloat16"


def test_memory_says_what_is_in_the_way():
    big = memory(with_free(8), per_device_batch_size=16, gradient_accumulation_steps=4, w_cycle=0.0, w_qe=1.0)
    assert "update" in big[0].detail
    assert big[0].way_out.startswith("--gradient_checkpointing True, or a lower per_device_batch_size")
    full = memory(with_free(10), lora_rank=0)
    assert "reference 3.7" in full[0].detail and "--lora_rank 16" in full[0].way_out
    asleep = memory(with_free(20), use_vllm=True)
    assert "generation 24" in asleep[0].detail and asleep[0].way_out.startswith("a lower vllm_gpu_memory_utilization")
    awake = memory(with_free(20), use_vllm=True, trl=TrlSettings(vllm_enable_sleep_mode=False))
    assert "vLLM 24" in awake[0].detail and awake[0].way_out.startswith("--trl.vllm_enable_sleep_mode True")


def test_memory_per_device_and_unknown_sizes():
    two = machine(gpus=(A10, A10))
    models = {"policy": GEMMA, "translator": NLLB, "comet_da": None, "comet_qe": COMET}
    found = capacity.memory_findings(cfg(dual_device="cuda:1"), two, models)
    assert [f.detail.split(":")[0] + ":" + f.detail.split(":")[1] for f in found] == ["cuda:0", "cuda:1"]
    assert "without comet_da: size not known" in found[0].detail
    found = capacity.memory_findings(cfg(), MACHINE, models | {"policy": None})
    assert level(found) == [("warn", 0)] and "not estimated" in found[0].detail


# --- shapes --------------------------------------------------------------------------------------------


def test_the_joint_limit_by_hand():
    # the longest translation is 1.17 × e^0.45 = 1.835 times the source; 508 tokens × 3 characters / 2.835 = 537
    assert level(capacity.joint_limit_findings(cfg(max_chars=537))) == [("ok", 0)]
    found = capacity.joint_limit_findings(cfg(max_chars=538))
    assert level(found) == [("warn", 0)] and found[0].way_out == "--max_chars 537 or less"
    assert "about 513 of COMETKiwi's 512 tokens" in found[0].detail  # 4 + 538 × 2.835 / 3
    assert capacity.joint_limit_findings(cfg(max_chars=9999, w_qe=0.0)) == []
    found = capacity.joint_limit_findings(cfg(max_chars=1700, comet_qe_model="google/metricx-24-hybrid-xl-v2p6"))
    assert level(found) == [("warn", 0)] and "of MetricX's 1536 tokens" in found[0].detail


def test_batches_by_hand(monkeypatch):
    found = capacity.batch_findings(cfg())  # 1 × 64 sequences, groups of 8, 2,000 prompts
    assert found[0] == Finding("ok", "batches", "64 sequences per step (8 prompts × 8), 250 steps = 1 × the prompts")
    assert found[1] == Finding("ok", "checkpoints", "every 50 steps")
    assert "100 steps = 0.4 × the prompts" in capacity.batch_findings(cfg(max_steps=100))[0].detail
    assert level(capacity.batch_findings(cfg(gradient_accumulation_steps=12))) == [("fail", 2)]  # 12 in groups of 8
    assert level(capacity.batch_findings(cfg(num_train_samples=7))) == [("fail", 2)]
    twice = cfg(trl=TrlSettings(steps_per_generation=128, num_iterations=3))  # 125 generations of 2 × 3 steps
    assert capacity.batch_findings(twice)[0].detail == (
        "128 sequences per generation of 6 steps (16 prompts × 8), 750 steps = 1 × the prompts"
    )
    quarter = cfg(trl=TrlSettings(steps_per_generation=16), num_train_samples=2003)  # 1,001 generations, 4 a step
    assert "16 sequences per generation of 0.25 steps (2 prompts × 8), 251 steps" in (
        capacity.batch_findings(quarter)[0].detail
    )
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "256 sequences per step (32 prompts × 8), 62 steps" in capacity.batch_findings(cfg())[0].detail


def test_checkpoints_by_hand():
    assert level(capacity.batch_findings(cfg(save_steps=0)))[1] == ("warn", 0)
    late = capacity.batch_findings(cfg(save_steps=300))[1]
    assert late.level == "warn" and late.way_out == "--save_steps 62"  # a quarter of 250


# --- a dry step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 2])
def test_dry_steps_are_timed_and_leave_no_checkpoint(tiny_policy, tmp_path, capsys, monkeypatch, iterations):
    import torch

    from rl_nmt.models import policy
    from rl_nmt.training.setup import Policy

    small = cfg(
        model_id=str(tiny_policy),
        attn_implementation="eager",
        lora_rank=0,
        kl_beta=0.0,
        group_size=4,
        warmup_steps=0,
        per_device_batch_size=4,
        gradient_accumulation_steps=2,
        max_new_tokens=8,
        save_steps=iterations,
        max_steps=50,
        output_dir=str(tmp_path),
        trl=TrlSettings(num_iterations=iterations),
    )
    tokenizer = policy.load_tokenizer(small.model_id)
    precision = policy.Precision("cpu", torch.float32, False, "test")
    model = policy.load_policy(small.model_id, tokenizer, precision, small.attn_implementation)

    def slow(completions, **columns):
        time.sleep(0.2)
        return [float(len(text)) for text in completions]

    slow.__name__ = "slow"
    sentences = [f"Village number {i} has a school." for i in range(20)]
    trainer = script.build_trainer(small, tmp_path, Policy(tokenizer, precision, model, lambda: model), slow, sentences)
    start = time.perf_counter()
    monkeypatch.setattr(progress, "EVERY", 0.0)
    seconds = doctor.time_two_steps(trainer, 3600)
    assert len(seconds) == 2 * iterations == trainer.state.global_step
    *lines, result = capsys.readouterr().out.splitlines()
    assert re.match(r"dry step: \d+\.\d s, the second .* for 3600 steps", result)
    assert [line.split(",")[0] for line in lines[1 - 2 * iterations :]] == [
        f"dry step: {n} of {2 * iterations} steps" for n in range(1, 2 * iterations)
    ]
    assert all(0.2 < s for s in seconds[::iterations]) and sum(seconds) < time.perf_counter() - start
    assert not list(tmp_path.glob("checkpoint-*"))
