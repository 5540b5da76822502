"""Helpers of the tests of a whole run: a policy that knows the trainer's prompt, data files, a small RunCfg."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tiny_models
from tiny_models import PAIRS

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("The boy", "The girl", "My mother", "The teacher", "My friend", "The train")
ENDINGS = ("drinks water", "reads a book", "cooks rice", "goes to school", "speaks Tamil", "arrives at five")
TIMES = ("today", "in the evening", "in the city", "at the market")
SENTENCES = [f"{who} {what} {when}." for who in SUBJECTS for what in ENDINGS for when in TIMES]


def teach_prompt(folder: Path, source: Path, steps: int = 60) -> Path:
    """Copy a tiny policy and train it on PAIRS under the trainer's own prompt; it then answers in Tamil."""
    import torch

    import train_grpo_en_ta as script
    from rl_nmt.models import policy

    shutil.copytree(source, folder, dirs_exist_ok=True)
    tokenizer = policy.load_tokenizer(str(source))
    model = policy.load_policy(str(source), tokenizer, policy.Precision("cpu", torch.float32, False, ""))
    texts = [f"<bos>{script.make_prompt(english)}{tamil}<end_of_turn>" for english, tamil in PAIRS]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_models.teach(model, tokenizer, texts, steps)
    model.save_pretrained(folder)
    return folder


def write_data(folder: Path) -> tuple[Path, Path]:
    """Write (training JSONL, evaluation TSV) in `folder`; they share no sentence."""
    train, evaluation = folder / "english.jsonl", folder / "eval.tsv"
    train.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES), encoding="utf-8")
    evaluation.write_text("".join(f"{english}\t{tamil}\n" for english, tamil in PAIRS), encoding="utf-8")
    return train, evaluation


def settings(models: dict[str, Path], data: Path, output: Path, **changes) -> dict:
    """Return RunCfg fields of a run that takes seconds: 2 prompts × 4 samples a step."""
    return {
        "model_id": str(models["policy"]),
        "lora_rank": 0,
        "attn_implementation": "eager",
        "dataset_name": str(data / "english.jsonl"),
        "num_train_samples": 24,
        "shuffle_buffer": 100,
        "min_chars": 8,
        "max_chars": 80,
        "eval_file": str(data / "eval.tsv"),
        "num_eval_samples": 6,
        "group_size": 4,
        "max_new_tokens": 24,
        "lr": 1e-4,
        "warmup_steps": 0,
        "kl_beta": 0.02,
        "per_device_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "comet_da_model": str(models["da"]),
        "comet_qe_model": str(models["qe"]),
        "backtranslation_model": str(models["nllb"]),
        "backtranslation_beams": 1,
        "output_dir": str(output),
        "save_steps": 2,
        "sample_steps": 2,
        "use_wandb": False,
        "headroom_prompts": 0,  # a tiny policy has none, and its samples differ from machine to machine
        "patience": 0,
        "max_soft_win_share": 1.0,  # random scorers: their scores of soft cheats mean nothing
    } | changes


def flags(values: dict) -> list[str]:
    """Return the same as a command line."""
    line = []
    for name, value in values.items():
        line += [f"--{name}", *(map(str, value) if isinstance(value, (tuple, list)) else [str(value)])]
    return line


def environment(**changes) -> dict[str, str]:
    """Return the variables of a separate process: offline, one thread, no W&B settings from outside."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return env | {key: str(value) for key, value in changes.items()}


def command(*line, cwd: Path = ROOT, timeout: float = 300, **env) -> subprocess.CompletedProcess:
    """Run `python line…` and wait for it."""
    return subprocess.run(
        [sys.executable, *map(str, line)],
        cwd=cwd,
        env=environment(**env),
        timeout=timeout,
        capture_output=True,
        encoding="utf-8",
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Server:
    """A local HTTP server that answers with `reply(method, path) -> (status, headers, body)`."""

    def __init__(self, reply):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                status, headers, body = reply(self.command, self.path)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


class FullRun:
    """One whole run of the script as a user starts it: full fine-tuning with KL, W&B enabled but unreachable.

    The script is in a git checkout of its own, with an API key written into RunCfg and not committed.
    """

    KEY = "canary0123456789canary0123456789canary01"  # 40 characters, as W&B's keys are

    def __init__(self, folder: Path, models: dict[str, Path]):
        self.work, self.folder = folder, folder / "runs" / "tiny"
        write_data(folder)
        for name in ("train_grpo_en_ta.py", "rewards_en_ta_dupo.py", "wandb_reward_callback.py"):
            shutil.copy(ROOT / name, folder)
        git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
        for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "before the key"]):
            if shutil.which("git"):
                subprocess.run([*git, *line], cwd=folder, check=True, capture_output=True)
        script = folder / "train_grpo_en_ta.py"
        text = script.read_text(encoding="utf-8")
        typed = text.replace(
            'wandb_api_key: str = field(default=""', f'wandb_api_key: str = field(default="{self.KEY}"'
        )
        assert typed != text
        script.write_text(typed, encoding="utf-8")
        self.settings = settings(models, folder, self.folder, eval_steps=2, use_wandb=True, save_rollouts=True)
        self.config = folder / "tiny.yaml"
        self.config.write_text(json.dumps(self.settings), encoding="utf-8")  # JSON is YAML
        self.done = command(script, "--config", self.config, cwd=folder, WANDB_BASE_URL="http://127.0.0.1:9")
        assert self.done.returncode == 0, self.done.stderr


def split_argv(models, folder, **changes) -> list[str]:
    """Return flags for three prompts with four samples each: two processes get six each and split the middle group."""
    write_data(folder)
    changes = {"per_device_batch_size": 12, "temperature": 1.2} | changes
    config = folder / "tiny.yaml"
    config.write_text(json.dumps(settings(models, folder, folder / "unused", **changes)))  # JSON is YAML
    return ["--config", str(config)]
