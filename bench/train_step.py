"""Measure the cost of a GRPO step by stage, group size and length, with random weights of published shapes.

    python -m bench.train_step                                            # pocket sizes, a CPU, seconds
    python -m bench.train_step --group_sizes 2 4 8 16 --lengths 16 32     # the sweep
    python -m bench.train_step --shape gemma3_1b --reward large --prompts 8 --group_sizes 8 --lengths 160   # a GPU
    python -m bench.train_step --shape gemma3_1b --reward large --lora_rank 16 --offload

The random policy is forced to write exactly `--lengths` tokens, and the reward scores recorded Tamil of the bench texts
instead, so that nothing depends on the text of a random policy. Each line is the product's own trainer; the first step
warms up, `--steps` more are counted. Prints per line the median seconds of a step and of its stages, the share of the
reward, seconds per completion, and on a GPU the peak memory of sampling, reward and update.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from bench import shapes, texts
from bench.measure import GROUP, StepClock, grpo_trainer, machine
from bench.pocket_seeds import Wrapped
from rl_nmt.errors import run
from rl_nmt.preflight import memory_estimate
from rl_nmt.preflight.memory_estimate import GIB

STAGES = {"sampling": "generation", "reward": "reward", "update": "update"}  # the doctor's names for them


class Recorded(Wrapped):
    """A reward that scores recorded outputs instead of the policy's; records memory peaks."""

    __name__ = "comet_dupo"

    def __call__(self, prompts, completions, source=None, **columns):
        found = texts.items(len(completions))
        note_peak(self.peaks, "sampling")
        totals = self.reward(
            [None] * len(found), [item.tamil for item in found], source=[item.english for item in found], **columns
        )
        note_peak(self.peaks, "reward")
        return totals


def note_peak(peaks: dict[str, list[float]], stage: str) -> None:
    """Store the peak GiB allocated and reserved since the last call under `stage`, if higher than before."""
    if torch.cuda.is_available():
        found = [torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB]
        peaks[stage] = list(map(max, found, peaks.get(stage, found)))
        torch.cuda.reset_peak_memory_stats()


class Clock(StepClock):
    """A StepClock that also records the reward's stages and the update's memory peak."""

    def __init__(self, reward: Recorded):
        super().__init__()
        self.reward = reward

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control)
        self.steps[-1] |= {name: value for name, value in self.reward.last_log.items() if name.startswith("time/")}
        note_peak(self.reward.peaks, "update")


def estimated(cfg, trainer, reward, longest: int) -> dict[str, float]:
    """Return GiB of each stage by the doctor's estimate, without CUDA's own; `longest`: tokens of a prompt."""
    parts = {"policy": trainer.model.config, "translator": reward.backtranslator.engine.model.config}
    models = {name: _shape(config.to_dict()) for name, config in parts.items()}
    for name, model in (("comet_da", reward.da.model), ("comet_qe", reward.qe.model)):
        models[name] = memory_estimate.Shape(
            sum(p.numel() for p in model.parameters()), model.encoder.model.config.to_dict()
        )
    sized = dataclasses.replace(cfg, max_chars=3 * (longest - 40))  # inverts the estimate's tokens per characters
    gpus = torch.cuda.device_count()
    bf16 = bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False)
    total = torch.cuda.mem_get_info()[1] if gpus else 0
    need = next(iter(memory_estimate.memory_needs(sized, models, gpus, bf16, total).values()))
    always = sum(size for name, size in need.resident.items() if name != "CUDA")
    return {stage: (always + need.passing.get(name, 0)) / GIB for stage, name in STAGES.items()}


def _shape(config: dict) -> memory_estimate.Shape:
    return memory_estimate.Shape(memory_estimate.parameters(config), config)


def configuration(args, group: int, length: int, folder: Path):
    """Return the RunCfg of one line."""
    import train_grpo_en_ta as script

    batch = min(args.batch, args.prompts * group)
    return script.RunCfg(
        model_id=str(shapes.policy(args.shape, args.models)),
        lora_rank=args.lora_rank,
        attn_implementation="sdpa" if torch.cuda.is_available() else "eager",
        gradient_checkpointing=args.gradient_checkpointing,
        group_size=group,
        max_new_tokens=length,
        per_device_batch_size=batch,
        gradient_accumulation_steps=args.prompts * group // batch,
        max_steps=args.steps + 1,
        save_steps=0,
        comet_da_model=str(shapes.comet("regression_metric", args.reward, args.models)),
        comet_qe_model=str(shapes.comet("unified_metric", args.reward, args.models)),
        backtranslation_model=str(shapes.nllb(args.reward, args.models)),
        backtranslation_beams=args.beams,
        reward_offload=args.offload,
        reward_dtype=args.reward_dtype,
        dual_dtype=args.dual_dtype or args.reward_dtype,
        use_vllm=args.vllm,
        output_dir=str(folder),
        use_wandb=False,
        num_train_samples=args.prompts * (args.steps + 1),
    )


def measure(args, group: int, length: int, folder: Path) -> dict:
    """Measure one line: `args.steps` steps of `args.prompts` prompts with `group` samples of `length` tokens each."""
    import train_grpo_en_ta as script

    cfg = configuration(args, group, length, folder)
    reward = Recorded(script.build_reward(cfg), peaks={})
    found = texts.items(GROUP * cfg.num_train_samples)
    sources = list(dict.fromkeys(item.english for item in found))
    clock = Clock(reward)
    trainer = grpo_trainer(cfg, reward, sources, clock)
    if not cfg.use_vllm:
        trainer.generation_config.min_new_tokens = length  # forces the full length
    gc.collect()
    torch.cuda.empty_cache()
    note_peak({}, "loading")
    trainer.train()
    counted = clock.steps[1:]
    stages = {
        name: statistics.median(step.get(name, 0.0) for step in counted)
        for name in ("time/generate", "time/back_translate", "time/cycle", "time/qe", "time/reward", "time/update")
    }
    seconds = statistics.median(step["seconds"] for step in counted)
    prompts = trainer.processing_class([script.make_prompt(source) for source in sources])["input_ids"]
    return {
        "group_size": group,
        "length": length,
        "completions": args.prompts * group,
        "seconds": seconds,
        "per_completion": seconds / (args.prompts * group),
        "reward_share": stages["time/reward"] / seconds,
        **stages,
        "peak_gib": {stage: round(allocated, 2) for stage, (allocated, _) in reward.peaks.items()},
        "reserved_gib": {stage: round(reserved, 2) for stage, (_, reserved) in reward.peaks.items()},
        "estimated_gib": estimated(cfg, trainer, reward, max(map(len, prompts))),
    }


def line(found: dict) -> str:
    stages = "  ".join(f"{name.removeprefix('time/')} {found[name]:.3f}" for name in found if name.startswith("time/"))
    peaks = "".join(f"  {stage} {peak:.2f} GiB" for stage, peak in found["peak_gib"].items())
    return (
        f"G {found['group_size']:>3}  tokens {found['length']:>4}  step {found['seconds']:.3f} s  "
        f"per completion {1000 * found['per_completion']:.1f} ms  reward {found['reward_share']:.0%}  [{stages}]{peaks}"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.POLICY, default="tiny", help="size of the policy")
    parser.add_argument("--reward", choices=shapes.SHAPES, default="tiny", help="size of COMET (twice) and NLLB")
    parser.add_argument("--prompts", type=int, default=8, help="prompts per step (default 8)")
    parser.add_argument("--group_sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32], help="completion tokens, forced")
    parser.add_argument("--batch", type=int, default=64, help="most sequences in one forward and backward pass")
    parser.add_argument("--steps", type=int, default=3, help="counted steps, after a warm-up step (default 3)")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--lora_rank", type=int, default=0)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--vllm", action="store_true", help="sample by vLLM on the same card; lengths are not forced")
    parser.add_argument("--offload", action="store_true", help="reward models leave the card between calls")
    parser.add_argument("--reward_dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dual_dtype", choices=("float32", "bfloat16"), help="NLLB's (default: --reward_dtype)")
    parser.add_argument("--models", type=Path, default=shapes.MODELS, help="where the checkpoints are built")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    args = parser.parse_args(argv)
    if min(args.prompts, args.steps, *args.group_sizes, *args.lengths) < 1:
        parser.error("sizes must be at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for group in args.group_sizes:
        for length in args.lengths:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
                found = measure(args, group, length, Path(folder))
            print(json.dumps(found) if args.json else line(found), flush=True)
    print(machine(device), file=sys.stderr if args.json else sys.stdout, flush=True)
    return 0


if __name__ == "__main__":
    run(main)
