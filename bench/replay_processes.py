"""Compare the gradients of one and several processes on the same samples, replayed through TRL's rollout_func.

    python -m bench.replay_processes [--processes 2]
    python -m bench.replay_processes --config other.yaml --per_device_batch_size 24     # any field of RunCfg

One process samples one generation batch in the pocket world (built first if necessary) and scores it with the
configured reward. Then one process, and --processes of them under torchrun, take one step on these samples from the
same start. Each gets its part of the batch, so groups may be split over processes, as the middle one of the 31 default
prompts is. The gradients of all weights are compared as the optimizer would receive them, before clipping. kl_beta
is 0: at the first step the policy is its own reference.

Prints ‖g_n − g_1‖ / ‖g_1‖ over all weights, and the largest difference of one weight's gradient relative to the
largest gradient. Exit status 1 if the first is above 1e-5.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import TrainerCallback

from bench.measure import grpo_trainer, machine, pocket_run, say
from rl_nmt import distributed
from rl_nmt.errors import ConfigError, run

BAR = 1e-5
BATCH = ["--per_device_batch_size", "248"]  # in the pocket
ROLLOUTS, ROOT = "rollouts.pt", Path(__file__).resolve().parent.parent


class Recorder:
    """A reward that records its inputs and values."""

    __name__ = "recorder"

    def __init__(self, reward):
        self.reward = reward
        self.rows: list[dict] = []

    def __call__(self, prompts, completions, source=None, completion_ids=None, **columns):
        totals = self.reward(prompts, completions, source=source)
        for prompt, ids, total in zip(prompts, completion_ids, totals, strict=True):
            self.rows.append({"prompt": prompt, "ids": list(ids), "total": total})
        return totals


class Replay:
    """The recorded completions as TRL's rollout_func, and the recorded rewards as its reward function.

    TRL gives every process its part of the batch, in the order of the processes.
    """

    __name__ = "replay"

    def __init__(self, rows: list[dict]):
        self.rows = rows

    def part(self, prompts: list[str]) -> list[dict]:
        """Return this process's rows. Raises RuntimeError if they do not belong to these prompts."""
        start = distributed.rank() * len(prompts)
        rows = self.rows[start : start + len(prompts)]
        if [row["prompt"] for row in rows] != list(prompts):
            raise RuntimeError("the prompts are in another order than in the recording")
        return rows

    def rollout(self, prompts, trainer) -> dict:
        rows = self.part(prompts)
        encoded = trainer.processing_class(prompts)["input_ids"]
        return {"prompt_ids": encoded, "completion_ids": [row["ids"] for row in rows], "logprobs": None}

    def __call__(self, prompts, completions, **columns):
        return [row["total"] for row in self.part(prompts)]


class OneGradient(TrainerCallback):
    """Keep the gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        parameters = getattr(model, "module", model).named_parameters()
        self.gradients = {name: p.grad.detach().clone() for name, p in parameters if p.grad is not None}


def settings(argv: list[str], folder: Path, count: int):
    """Return the RunCfg of one step, with its batch divided among `count` processes. Raises ConfigError."""
    import train_grpo_en_ta as script
    from rl_nmt import config

    cfg, _, _ = config.parse(script.RunCfg, argv, {}, "bench.replay_processes", __doc__)
    cfg.output_dir, cfg.max_steps, cfg.save_steps, cfg.kl_beta, cfg.use_wandb = str(folder), 1, 0, 0.0, False
    require_parts(cfg, count)
    cfg.per_device_batch_size //= count
    script.check(cfg)
    return cfg


def require_parts(cfg, count: int) -> None:
    """Refuse a batch that does not divide by `count`. Raises ConfigError."""
    if cfg.per_device_batch_size % count:
        raise ConfigError(f"per_device_batch_size: {cfg.per_device_batch_size} is not a multiple of {count} processes")


def one_step(cfg, sentences: list[str], reward, rollout_func=None) -> dict[str, torch.Tensor]:
    """Return the first step's gradients of the configured policy, name → tensor; equal on every process."""
    keep = OneGradient()
    trainer = grpo_trainer(cfg, reward, sentences, keep)
    trainer.rollout_func = rollout_func
    trainer.args.max_grad_norm = 0.0
    trainer.train()
    return keep.gradients


def record(argv: list[str], folder: Path) -> None:
    """Sample and score one generation batch in one process, into rollouts.pt."""
    import train_grpo_en_ta as script

    cfg = settings(argv, folder / "record", 1)
    sentences = script.load_data(cfg, folder / "record")[0]
    recorder = Recorder(script.build_reward(cfg))
    one_step(cfg, sentences, recorder)
    torch.save({"sentences": sentences, "rows": recorder.rows}, folder / ROLLOUTS)


def replay(argv: list[str], folder: Path) -> None:
    """Take one step on rollouts.pt in all processes, into gradient-<processes>.pt."""
    distributed.start()
    count = distributed.count()
    cfg = settings(argv, folder / f"replay{count}", count)
    recorded = torch.load(folder / ROLLOUTS, weights_only=True)
    player = Replay(recorded["rows"])
    gradients = one_step(cfg, recorded["sentences"], player, player.rollout)
    if distributed.rank() == 0:
        torch.save(gradients, folder / f"gradient-{count}.pt")


def difference(one: dict[str, torch.Tensor], several: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the difference of two gradients, as in the module. Raises RuntimeError for other weights, or zero."""
    if one.keys() != several.keys():
        raise RuntimeError("the gradients do not belong to the same weights")
    first, other = (torch.cat([side[name].double().flatten() for name in one]) for side in (one, several))  # (W,)
    if not first.norm() > 0:
        raise RuntimeError("the gradient is zero: nothing to compare (are all rewards equal?)")
    apart = other - first
    return {
        "relative_difference": float(apart.norm() / first.norm()),
        "largest_difference": float(apart.abs().max() / first.abs().max()),
        "norm": float(first.norm()),
        "weights": len(first),
    }


def compare(folder: Path, count: int) -> dict[str, float]:
    """Return `difference` of the two replays in `folder`, and the replayed counts."""
    one, several = (torch.load(folder / f"gradient-{n}.pt", weights_only=True) for n in (1, count))
    rows = torch.load(folder / ROLLOUTS, weights_only=True)["rows"]
    rewards = {row["total"] for row in rows}
    return difference(one, several) | {"processes": count, "samples": len(rows), "distinct_rewards": len(rewards)}


def launch(stage: str, count: int, folder: Path, argv: list[str]) -> None:
    """Run this module's `stage` in `count` processes under torchrun, one thread each. Raises RuntimeError."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "--module"]
    line += ["bench.replay_processes", "--stage", stage, "--folder", str(folder), *argv]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"{stage} in {count} processes ended with {done.returncode}:\n{done.stderr[-3000:]}")


def lines(found: dict) -> list[str]:
    """Return the result as text."""
    return [
        f"{found['samples']:.0f} samples with {found['distinct_rewards']:.0f} different rewards, "
        f"{found['weights']:,} weights, gradient norm {found['norm']:.3e}",
        f"{found['processes']:.0f} processes against one: relative difference {found['relative_difference']:.1e} "
        f"(bar {BAR:.0e}), largest of one weight {found['largest_difference']:.1e}",
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--processes", type=int, default=2, help="processes to compare with one (default 2)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--stage", choices=("record", "replay"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args, rest = parser.parse_known_args(argv)
    if args.processes < 2:
        parser.error("--processes must be at least 2")
    if args.stage:
        {"record": record, "replay": replay}[args.stage](rest, args.folder)
        return 0
    rest = pocket_run(rest if "--config" in rest else [*BATCH, *rest])
    require_parts(settings(rest, Path(), 1), args.processes)  # before anything runs
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for stage, count in (("record", 1), ("replay", 1), ("replay", args.processes)):
            say(f"{stage}: {count} process{'es' if count > 1 else ''}")
            launch(stage, count, folder, rest)
        found = compare(folder, args.processes)
    print("\n".join([json.dumps(found)] if args.json else lines(found)), flush=True)
    print(machine("cpu"), file=sys.stderr if args.json else sys.stdout, flush=True)
    good = math.isfinite(found["relative_difference"]) and found["relative_difference"] <= BAR
    return 0 if good else 1


if __name__ == "__main__":
    run(main)
