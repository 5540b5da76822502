"""Run train_grpo_en_ta.py with method raft, a tiny policy and a planted reward, in forked children.

They can be killed in "sampling N", at "step N K" of round N, in "export N" (while its final/ is written), when it is
"sealed N", in "finish" (after the last step), and in "report" (only report.html is missing).
"""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import fault_trials
import yaml
from fault_trials import script, without_clock
from replies_run import Killer
from tiny_run import SENTENCES, settings

from rl_nmt.runs.metrics_file import MetricsFile

ROWS = [{"source": text, "reference": fault_trials.REFERENCE} for text in SENTENCES[:4]]


class Hashed(fault_trials.TextReward):
    """A number between 0 and 1 from a hash of source and output: two outputs never tie, nothing can be learned."""

    def score_components(self, prompts, completions, source):
        return [self.row(*pair) for pair in zip(source, completions, strict=True)]

    def row(self, source: str, output: str) -> dict:
        total = int(hashlib.sha256(f"{source}\n{output}".encode()).hexdigest()[:8], 16) / 16**8
        return {"source": source, "output": output, "gate": None, "total": total}


class Shorter(Hashed):
    """Shorter is better, an empty output is gated."""

    def row(self, source: str, output: str) -> dict:
        total = max(0.0, 1 - len(output) / 100) if output else 0.0
        return {"source": source, "output": output, "gate": None if output else "empty", "total": total}


class Constant(Hashed):
    """The same for every output."""

    def row(self, source: str, output: str) -> dict:
        return {"source": source, "output": output, "gate": None, "total": 0.5}


def values(policy: Path, output: Path, raft: dict | None = None, **changes) -> dict:
    """Return RunCfg fields: three rounds of eight prompts with four outputs each (12 steps of GRPO, 2 prompts each)."""
    found = settings(dict.fromkeys(("policy", "da", "qe", "nllb"), policy), policy, output)
    found |= {"method": "raft", "max_steps": 12, "save_steps": 1, "lora_rank": 4, "lora_alpha": 8, "temperature": 1.2}
    found |= {"sample_steps": 0}
    return found | {"raft": {"rounds": 3, "epochs": 3, "batch_size": 4, "lr": 1e-3} | (raft or {})} | changes


def pool(cfg) -> int:
    """Return the number of prompts that are read."""
    return cfg.num_train_samples * (1 if cfg.prompt_filter == "none" else cfg.filter_pool)


def train(chosen: dict, *more: str, reward=Hashed, die: str = "") -> int:
    """Run the script's own main; only in a forked child."""
    script.load_data = lambda cfg, folder: (SENTENCES[24 : 24 + pool(cfg)], ROWS, "data")
    script.build_reward = lambda cfg: reward()
    script.require_environment, script.models = (lambda cfg: None), (lambda cfg: [])
    if die:
        die_at(die)
    config = Path(f"{chosen['output_dir']}-{os.getpid()}.yaml")
    config.write_text(yaml.safe_dump({k: str(v) if isinstance(v, Path) else v for k, v in chosen.items()}))
    return script.main(["--config", str(config), "--skip_launch_gate", *more])


def die_at(moment: str) -> None:
    """Let this process end at a moment as by kill -9."""
    from rl_nmt.results import export, report
    from rl_nmt.results.group_sampler import GroupSampler
    from rl_nmt.runs import phases
    from rl_nmt.training import loop, setup

    def kill(*args, **kwargs) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    what, *numbers = moment.split()
    name = f"round-{numbers[0]}" if numbers else ""
    sample, fit, final, finish = GroupSampler.greedy, loop.train, export.save_final, phases.finish

    def greedy(self, sources, what_for=""):
        return kill() if what_for.startswith(f"round {numbers[0]}/") else sample(self, sources, what_for)

    def train(run, trainer, callbacks, **options):
        killer = [Killer(int(numbers[1]))] if run.folder.name == name else []
        fit(run, trainer, [*callbacks, *killer], **options)

    def save_final(folder, *parts):
        final(folder, *parts)
        if folder.name == name:
            (folder / "final" / "config.json").unlink()  # not everything was written
            kill()

    def sealed(phase):
        finish(phase)
        if phase.folder.name == name:
            kill()

    places = {"sampling": (GroupSampler, "greedy", greedy), "step": (loop, "train", train)}
    places |= {"export": (export, "save_final", save_final), "sealed": (phases, "finish", sealed)}
    places |= {"finish": (setup, "finish", kill), "report": (report, "write_report", kill)}
    setattr(*places[what])


def outcome(folder: Path, rounds: int = 3) -> dict:
    """Return what a finished run left, times aside: weights and choices of every round, metrics, tables, best/."""
    places = [folder, *(folder / f"round-{number}" for number in range(1, rounds + 1))]
    names = ("final/*.safetensors", "final/adapter/*.safetensors", "best/*.safetensors", "best/chosen.json")
    names += ("chosen.json", "round.json", "after.json", "evaluation.json", "samples.jsonl")
    found = {str(p.relative_to(folder)): p.read_bytes() for place in places for name in names for p in place.glob(name)}
    return found | {"metrics": [without_clock(row) for row in MetricsFile(folder / "metrics.jsonl").rows()]}
