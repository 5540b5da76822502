"""Keys stay where they are: canaries in every secret field, the environment and netrc, then a run, then grep."""

from __future__ import annotations

import ast
import base64
import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_run import ROOT, command, settings, write_data

import train_grpo_en_ta as script

TYPED = "typedcanary123456789typedcanary123456789"  # 40 characters, as W&B's keys are
ENVIRONMENT = {
    "WANDB_API_KEY": "envcanary0123456789envcanary0123456789ab",
    "HF_TOKEN": "hf_tokencanary0123456789abcdefghijkl",
    "HUGGING_FACE_HUB_TOKEN": "hf_oldcanary0123456789abcdefghijklmn",
    "OPENAI_API_KEY": "sk-canary0123456789abcdefgh",
    "AWS_SECRET_ACCESS_KEY": "awscanary0123456789/abcdefghijklmnopqrst",
}
NETRC = "netrccanary123456789netrccanary123456789"


def secret_fields() -> list[str]:
    return [field.name for field in dataclasses.fields(script.RunCfg) if field.metadata.get("secret")]


def type_keys_into(file: Path) -> None:
    """Write a canary into every secret field of RunCfg, as a user would for local use."""
    text = file.read_text(encoding="utf-8")
    for i, name in enumerate(secret_fields()):
        typed = re.sub(rf'(\b{name}: str = field\(default=")(")', rf"\g<1>{i}{TYPED[1:]}\2", text)
        assert typed != text, f"{name} is not where a key can be typed"
        text = typed
    file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def leaky_run(tiny_all, tmp_path_factory):
    """(folder of everything that was written, what was printed, the canaries) of a run of two steps."""
    folder = tmp_path_factory.mktemp("secrets")
    home, work = folder / "home", folder / "work"
    for place in (home, work):
        place.mkdir()
    write_data(folder)
    for name in ("train_grpo_en_ta.py", "rewards_en_ta_dupo.py", "wandb_reward_callback.py"):
        shutil.copy(ROOT / name, work)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "before the keys"]):
        if shutil.which("git"):
            subprocess.run([*git, *line], cwd=work, check=True, capture_output=True)
    type_keys_into(work / "train_grpo_en_ta.py")
    (folder / "netrc").write_text(f"machine 127.0.0.1 login user password {NETRC}\n")
    (folder / "netrc").chmod(0o600)
    values = settings(tiny_all, folder, folder / "run", max_steps=2, num_eval_samples=4, use_wandb=True)
    line = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    env = {**ENVIRONMENT, "HOME": home, "NETRC": folder / "netrc", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = command(work / "train_grpo_en_ta.py", *line, cwd=work, **env)
    assert done.returncode == 0, done.stderr
    failed = command(work / "train_grpo_en_ta.py", *line, "--lr", "x", cwd=work, **env)  # ends in an error
    assert failed.returncode == 2
    typed = [f"{i}{TYPED[1:]}" for i in range(len(secret_fields()))]
    said = done.stdout + done.stderr + failed.stdout + failed.stderr
    return folder, said, [*typed, *ENVIRONMENT.values(), NETRC]


def forms(canary: str) -> list[bytes]:
    """As it is, and as base64 at each of the three alignments (less the ends that depend on neighbours)."""
    encoded = [base64.b64encode(b"\0" * shift + canary.encode())[4 if shift else 0 : -4] for shift in range(3)]
    return [canary.encode(), *encoded]


def hits(files, canaries) -> list[str]:
    return [
        f"{canary} in {path}"
        for path in files
        for canary in canaries
        if any(form in path.read_bytes() for form in forms(canary))
    ]


def test_no_key_in_run_folder_tracker_home_or_output(leaky_run):
    folder, said, canaries = leaky_run
    written = [p for place in ("run", "home") for p in (folder / place).rglob("*") if p.is_file()]
    assert len(written) > 20 and any(p.suffix == ".wandb" for p in written)
    assert any(p.name == "training_args.bin" for p in written)  # where hub tokens are kept
    assert hits(written, canaries) == []
    assert [canary for canary in canaries if canary in said] == []


def test_the_keys_were_there_to_be_found(leaky_run):
    """The control: the same search finds them where they were put."""
    folder, _, canaries = leaky_run
    assert len(canaries) >= 7 and secret_fields() == ["wandb_api_key"]
    found = hits([folder / "work" / "train_grpo_en_ta.py", folder / "netrc"], canaries)
    assert len(found) == len(secret_fields()) + 1
    (folder / "packed").write_bytes(b"xx" + base64.b64encode(b"key=" + canaries[0].encode() + b"&more"))
    assert hits([folder / "packed"], canaries) != []


def test_secret_fields_are_hidden_everywhere():
    for name in secret_fields():
        cfg = script.RunCfg(**{name: TYPED})
        assert TYPED not in repr(cfg) + str(script.config.to_public_dict(cfg))


def test_what_looks_like_a_key_is_marked_secret():
    for field in dataclasses.fields(script.RunCfg):
        if re.search(r"key|token$|secret|password", field.name):
            assert field.metadata.get("secret") and not field.repr, field.name


def test_no_call_lets_models_bring_their_code_or_loads_pickles():
    """trust_remote_code is never on; weights_only is off at one place, behind the checkpoint's SHA-256."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts[0].startswith(".venv") or parts[0] in ("tests", "runs", "bench") or "build" in parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.keyword) or node.arg not in ("trust_remote_code", "weights_only"):
                continue
            value = ast.unparse(node.value)
            if (node.arg, value) not in (("trust_remote_code", "False"), ("weights_only", "True")):
                found.append(f"{'/'.join(parts)}: {node.arg}={value}")
    assert found == ["rl_nmt/scorers/comet/checkpoint.py: weights_only=False"]


def test_no_environment_of_keys_is_written_by_the_doctor(monkeypatch, tmp_path):
    from rl_nmt.preflight import doctor

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    cfg = script.RunCfg(wandb_api_key=TYPED)
    text = doctor.table(
        doctor.diagnose(cfg, script.models(cfg), tmp_path / "run", script.check, script.require_environment)
    )
    assert not [v for v in (*ENVIRONMENT.values(), TYPED) if v in text]
    assert os.environ["WANDB_API_KEY"] == ENVIRONMENT["WANDB_API_KEY"] and not (tmp_path / "run").exists()
