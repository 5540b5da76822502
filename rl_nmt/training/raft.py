"""Train by RAFT: sample, fine-tune on the best output of each prompt, repeat (Dong et al. 2023, arXiv 2304.06767).

A round is a phase (runs/phases.py) in `<output_dir>/round-N/`: the policy answers the round's prompts, each once
greedily and G − 1 times at the temperature of training; per prompt the best sample that passes the gates and beats the
greedy output is chosen; TRL's SFTTrainer fits these; the next round starts from `round-N/final`. The number of outputs
is that of GRPO with the same settings. The comparison with the greedy output, and its margin, are ours.
"""

import dataclasses
import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from rl_nmt import config, distributed
from rl_nmt.audit.groups import Groups, finite
from rl_nmt.errors import ConfigError, RewardRefused, Stopped
from rl_nmt.preflight import capacity
from rl_nmt.ranges import above, at_least
from rl_nmt.results.task import mean
from rl_nmt.runs import checkpoints, phases, run_folder
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run

NOT_USED = ("lr", "warmup_steps", "kl_beta", "loss_type", "scale_rewards", "eval_steps", "sample_steps", "patience")
TRL_USED = ("num_iterations", "steps_per_generation", "top_k", "min_p", "repetition_penalty")  # of the section trl
BUDGET = ("gradient_accumulation_steps", "max_steps", "trl.num_iterations", "trl.steps_per_generation")
WHY_NONE = {  # why a prompt has no chosen output
    "gated": "no sample passes the gates",
    "no gain": "no sample beats the greedy output by more than the noise floor",
    "no score": "no score",
}
OTHER_SEEDS = 1_000_000  # between the seeds of two rounds; more than a round has prompts
DISTANCE_PROMPTS = 64


@dataclass
class RaftSettings:
    """Settings of method raft: rounds of sampling and fine-tuning. All are fixed for a run."""

    rounds: int = at_least(1, 4)  # rounds of sampling and fine-tuning
    epochs: int = at_least(1, 2)  # passes over the outputs chosen in a round
    batch_size: int = at_least(1, 32)  # chosen outputs per optimizer step, over all processes
    lr: float = above(0, 1e-4)  # learning rate of each round, falling linearly to 0


def check(cfg: Any, processes: int) -> None:
    """Refuse settings that method raft cannot work with; does nothing with another method. Raises ConfigError."""
    if cfg.method != "raft":
        return
    for name in ("use_vllm", "save_rollouts"):
        if getattr(cfg, name):
            raise ConfigError(f"{name}: True is supported only with method grpo, not with method raft; set it False")
    if distributed.deepspeed():
        raise ConfigError("method: raft does not run under DeepSpeed: start it by torchrun, or use method grpo")
    own, most = cfg.raft.batch_size, cfg.per_device_batch_size

    def whole(batch: int) -> bool:
        return batch % processes == 0 and batch // processes % min(most, batch // processes) == 0

    if not whole(own):
        nearest = sorted(
            sorted(filter(whole, range(processes, own + 2 * most * processes)), key=lambda n: abs(n - own))[:2]
        )
        raise ConfigError(
            f"raft.batch_size: {own} does not divide into {processes} processes with per_device_batch_size {most}; "
            f"nearest that work: {' or '.join(map(str, nearest))}"
        )
    count_prompts(cfg, cfg.num_train_samples)


def count_prompts(cfg: Any, sentences: int) -> int:
    """Return the prompts, with repetition, of all rounds (`capacity.prompts_drawn`). Raises ConfigError for too few."""
    total = capacity.prompts_drawn(dataclasses.replace(cfg, num_train_samples=sentences))
    if total < cfg.raft.rounds:
        raise ConfigError(f"raft.rounds: {cfg.raft.rounds} rounds for {total} prompts: lower it, or raise max_steps")
    return total


def identity(cfg: Any) -> dict[str, Any]:
    """Return what may not change in a run of method raft: with more or fewer prompts its rounds have other slices."""
    return {"prompts (max_steps, batch)": count_prompts(cfg, cfg.num_train_samples)} if cfg.method == "raft" else {}


def slices(cfg: Any, sentences: Sequence[str]) -> list[list[str]]:
    """Return each round's sentences: parts of one walk through seeded shuffles of all; the first have one more."""
    total, shuffle = count_prompts(cfg, len(sentences)), random.Random(cfg.seed).shuffle
    walk: list[str] = []
    while len(walk) < total:
        turn = list(sentences)
        shuffle(turn)
        walk += turn
    each, more = divmod(total, cfg.raft.rounds)
    ends = [number * each + min(number, more) for number in range(cfg.raft.rounds + 1)]
    return [walk[start:end] for start, end in pairwise(ends)]


def choose(samples: Groups, greedy: Groups) -> list[tuple[int, float] | str]:
    """Return for each prompt (the best sample, its gain over the greedy output), or a key of WHY_NONE.

    `samples`: (P, G − 1), with the noise floor that a gain must exceed; of equals the first. `greedy`: (P, 1), 0 where
    it is gated.
    """
    found: list[tuple[int, float] | str] = []
    base = [
        0.0 if gate else next(iter(finite(total)), None)
        for total, (gate,) in zip(greedy.totals, greedy.gates, strict=True)
    ]
    for totals, gates, least in zip(samples.totals, samples.gates, base, strict=True):
        passing = {i: t for i, t in enumerate(totals) if t is not None and math.isfinite(t) and not gates[i]}
        if least is None or not finite(totals):
            found.append("no score")
        elif not passing:
            found.append("gated")
        else:
            best = max(passing, key=passing.__getitem__)
            gain = passing[best] - least
            found.append((best, gain) if gain > samples.noise_floor else "no gain")
    return found


def selection(samples: Groups, greedy: Groups) -> dict[str, Any]:
    """Return, as JSON, what a round keeps: chosen outputs, how often each reason, and the metrics of its row."""
    picks = choose(samples, greedy)
    best = [(i, *pick) for i, pick in enumerate(picks) if not isinstance(pick, str)]
    totals, gains = [samples.totals[i][sample] for i, sample, _ in best], [gain for *_, gain in best]
    row = {
        "reward": mean([total for group in samples.totals for total in finite(group)]),
        "raft/greedy": mean([total for group in greedy.totals for total in finite(group)]),
        "raft/chosen": mean(totals),
        "raft/gain": mean(gains),
        "raft/chosen_share": len(best) / len(picks),
        "raft/prompts": len(picks),
        "raft/outputs": sum(len(group) for groups in (samples, greedy) for group in groups.outputs),
    }
    return {
        "sources": [samples.sources[i] for i, *_ in best],
        "outputs": [samples.outputs[i][sample] for i, sample, _ in best],
        "totals": totals,
        "gains": gains,
        "reasons": dict(Counter(pick for pick in picks if isinstance(pick, str))),
        "row": row,
    }


def story(kept: dict[str, Any]) -> str:
    """Return a round's selection as one line for the screen."""
    row, parts = kept["row"], []
    for name, key in (
        ("samples", "reward"),
        ("greedy", "raft/greedy"),
        ("chosen", "raft/chosen"),
        ("gain", "raft/gain"),
    ):
        parts.append(f"{name} –" if row[key] is None else f"{name} {row[key]:.4f}")
    why = "".join(
        f"; {reason}: {kept['reasons'][name]}" for name, reason in WHY_NONE.items() if name in kept["reasons"]
    )
    chosen = f"chosen {len(kept['outputs'])} ({row['raft/chosen_share']:.0%})"
    return f"{row['raft/prompts']} prompts, {row['raft/outputs']} outputs, {chosen}; reward of {', '.join(parts)}{why}"


def told(cfg: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the settings for the model card: of `names` and the section trl what the method uses, and its own section.

    Those that only say how much is sampled are marked.
    """
    found, changed = {name: getattr(cfg, name) for name in names}, cfg.trl.changed()
    if cfg.method == "grpo":
        return found | changed
    used = {name: value for name, value in found.items() if name not in NOT_USED}
    used |= {name: value for name, value in changed.items() if name.removeprefix("trl.") in TRL_USED}
    own = {f"raft.{name}": value for name, value in dataclasses.asdict(cfg.raft).items()}
    return {f"{n} (only for the number of samples)" if n in BUDGET else n: value for n, value in used.items()} | own


def train(
    cfg: Any,
    run: Run,
    policy: Any,
    sample: Any,
    sentences: Sequence[str],
    held_out: Callable[[Any], Any],
    started: float | None = None,
    prompt: str = "{source}",
    metrics: Any = None,
) -> tuple[Any, Any]:
    """Train by RAFT, or do what is left of it. Return trainer and HeldOut of the last round, for `setup.finish`.

    Args:
        cfg: RunCfg's names.
        policy: the start policy, a `setup.Policy`; its model, and that of `sample`, are replaced in every round.
        sample: a `GroupSampler`.
        held_out: trainer → the run's `HeldOut` with this trainer; all of them share one monitor.
        started: see `GracefulStop`.
        prompt: template, saved with every round's model.
        metrics: the `WandbRewardCallback` of metrics.jsonl, to send rows of finished rounds to an empty W&B run.

    Collective. Raises RewardRefused when a round chooses no output, ResumeRefused, Stopped and what `loop.train` does.
    """
    parts = slices(cfg, sentences)
    each = f"{sum(map(len, parts))} prompts × {cfg.group_size} outputs, as many as GRPO would sample"
    unused = f"{', '.join(NOT_USED)}, and trl.* except {', '.join(TRL_USED)}"
    print(f"raft: {each}, in {len(parts)} rounds; not used: {unused}", flush=True)
    return Rounds(cfg, run, policy, sample, held_out, started, prompt, metrics).train(parts)


@dataclass
class Rounds:
    """The rounds of one run; the fields are the arguments of `train`."""

    cfg: Any
    run: Run
    policy: Any
    sample: Any
    held_out: Callable[[Any], Any]
    started: float | None
    prompt: str
    metrics: Any

    def __post_init__(self) -> None:
        self.start = self.policy.start  # loads the policy before round 1
        self.step = 0  # optimizer steps of the run
        began = time.monotonic() if self.started is None else self.started
        self.deadline = began + 3600 * (self.cfg.max_hours or math.inf)
        self.sampling = 0.0  # seconds of sampling in the last round of this process

    def train(self, parts: Sequence[Sequence[str]]) -> tuple[Any, Any]:
        """Do every round that is not finished; the last one is finished by `setup.finish`."""
        trainer, watched = None, self.held_out(None)
        if distributed.is_main_process():
            watched.monitor.record(0, watched.before)
        for number, sources in enumerate(parts, 1):
            self.name = f"round {number}/{len(parts)}"
            with phases.open_phase(self.run, f"round-{number}") as phase:
                phase.notes = self.run.notes  # every checkpoint carries the run's, and copies of its files
                phase.sealed += [f"../{name}" for name in self.run.sealed]
                start = phases.sealed(self._folder(number - 1), "output_dir") if number > 1 else ""
                own = {"start": start, "prompts of all rounds": sum(map(len, parts))}
                if phases.finished(phase, self.run.identity | own):
                    self._replay(phase, watched)
                    continue
                if trainer is None:
                    self._cut(watched)
                trainer = watched = None  # frees the last round's model
                run_folder.save_identity(phase.folder, phase.identity, config.to_public_dict(self.cfg))
                trainer, watched = self._round(phase, number, sources)
                if number < len(parts):
                    self._close(phase, number, trainer, watched)
        return trainer, watched

    def _folder(self, number: int) -> Path:
        return self.run.folder / f"round-{number}"

    def _replay(self, phase: Run, watched: Any) -> None:
        """Take a finished round's step and evaluation; its rows in metrics.jsonl and best/ were written then."""
        from rl_nmt.results.evaluation import Snapshot

        self.step = phases.Kept.load(phase.folder / "round.json").values["step"]
        print(f"{self.name}: finished before, at step {self.step}", flush=True)
        if distributed.is_main_process():
            watched.monitor.record(self.step, Snapshot.load(phase.folder / "after.json"))

    def _cut(self, watched: Any) -> None:
        """Remove rows of an unfinished round from metrics.jsonl; without a finished one, record the start again."""
        if distributed.is_main_process():
            rows = MetricsFile(self.run.folder / self.run.files.metrics).cut_after(self.step or -1)
            if self.metrics is not None:
                self.metrics.send_again(rows)
        if not self.step:
            watched.take(0, watched.before)

    def _round(self, phase: Run, number: int, sources: Sequence[str]) -> tuple[Any, Any]:
        """Sample, choose and fine-tune; return trainer and HeldOut."""
        from rl_nmt.training import loop
        from rl_nmt.training.callbacks import ProgressLine

        self._load(number)
        told = [phase.identity, self.sample.sampling, self.sample.noise_floor, list(sources)]
        made_with = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

        def require(kept: phases.Kept) -> None:
            if phase.resume is None and kept.values.get("made_with") != made_with:
                raise ConfigError("its outputs were sampled with other settings")

        make = partial(self._sample, phase, number, sources, made_with)
        kept = phase.once("chosen", make, form=phases.Kept, require=require).values
        print(f"{self.name}: {story(kept)}", flush=True)
        trainer = self._trainer(phase.folder, kept)
        limits: dict[str, Any] = {"keep": self.cfg.save_total_limit, "max_hours": self.cfg.max_hours}
        loop.train(phase, trainer, [ProgressLine(self.sample.reward, 0)], started=self.started, **limits)
        trainer.optimizer.state.clear()  # nothing is trained from here on, and another model may be loaded
        trainer.model.zero_grad(set_to_none=True)
        # From here on the trainer's step is the run's, as in metrics.jsonl and best/.
        self.step = trainer.state.global_step = self.step + trainer.state.global_step
        watched = self.held_out(trainer)
        row = phase.once("round", partial(self._measure, trainer, watched, kept["row"]), form=phases.Kept).values
        self.run.notes["distance"] = row["kl"]
        far = "–" if row["kl"] is None else f"{row['kl']:.4f}"
        print(f"{self.name}: step {self.step}, loss {row['loss']:.4f}, {far} nats per token from the start", flush=True)
        watched.record("train", row["step"], {name: value for name, value in row.items() if name != "step"})
        return trainer, watched

    def _load(self, number: int) -> None:
        """Load the policy of a round's start, always from the disk: a resumed run then has the same bits."""
        from rl_nmt.models import loading
        from rl_nmt.models import policy as models

        cfg, policy, before = self.cfg, self.policy, self._folder(number - 1) / "final"
        if number > 1:
            policy.model = self.sample.model = None
            loading.release()
        if number > 1 and cfg.lora_rank:
            model = self.start().to(policy.precision.device)
            policy.model = models.continue_adapter(model, before / "adapter")
        elif number > 1:
            told = (policy.tokenizer, policy.precision, cfg.attn_implementation)
            policy.model = models.load_policy(str(before), *told, argument="output_dir").to(policy.precision.device)
        elif cfg.lora_rank:
            policy.model = models.add_adapter(policy.model, cfg.lora_rank, cfg.lora_alpha, cfg.seed)
        self.sample.model = policy.model

    def _sample(self, phase: Run, number: int, sources: Sequence[str], made_with: str) -> phases.Kept:
        """Draw the round's outputs and choose. Collective. Raises RewardRefused where nothing is chosen."""
        for name in ("round.json", "after.json") if distributed.is_main_process() else ():
            (phase.folder / name).unlink(missing_ok=True)  # of outputs that are not used
        began, sample = time.monotonic(), self.sample
        drawn = sample(sources, OTHER_SEEDS * number, sample.group_size - 1, f"{self.name}: samples")
        kept = selection(drawn, sample.greedy(sources, f"{self.name}: greedy"))
        self.sampling = time.monotonic() - began
        if not kept["outputs"]:
            so_far = f"; {self._folder(number - 1) / 'final'} holds the model so far" if number > 1 else ""
            advice = "raise temperature, or start with a larger group_size, fewer raft.rounds or another policy"
            raise _once(RewardRefused(f"{self.name}: nothing to train on: {story(kept)}: {advice}{so_far}"))
        return phases.Kept({"made_with": made_with, **kept})

    def _trainer(self, folder: Path, kept: dict[str, Any]) -> Any:
        from rl_nmt.training.sft import build_sft_trainer, sft_rows

        cfg, own, tokenizer = self.cfg, self.cfg.raft, self.policy.tokenizer
        share = own.batch_size // distributed.count()  # outputs per process and optimizer step
        size = min(cfg.per_device_batch_size, share)
        prompts = [self.sample.make_prompt(source) for source in kept["sources"]]
        options: dict[str, Any] = {"num_train_epochs": own.epochs, "learning_rate": own.lr, "optim": cfg.optimizer}
        options |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": share // size}
        options |= {name: getattr(cfg, name) for name in ("gradient_checkpointing", "logging_steps")}
        rows = sft_rows(tokenizer, prompts, kept["outputs"])
        return build_sft_trainer(
            folder, self.policy, rows, cfg.save_steps, cfg.seed, lr_scheduler_type="linear", **options
        )

    def _measure(self, trainer: Any, watched: Any, row: dict[str, Any]) -> phases.Kept:
        """Return the round's row of metrics.jsonl. Collective."""
        from rl_nmt.models import loading

        loss = next(log["train_loss"] for log in reversed(trainer.state.log_history) if "train_loss" in log)
        loading.release()
        base = None if self.cfg.lora_rank else self.start().to(self.policy.precision.device)
        far = self.sample.distance(base, watched.before.sources[:DISTANCE_PROMPTS], f"{self.name}: distance")
        return phases.Kept({"step": self.step, **row, "loss": loss, "kl": far})

    def _close(self, phase: Run, number: int, trainer: Any, watched: Any) -> None:
        """Evaluate, write final/ and best/, seal the round. Collective. Raises Stopped on a divergence or max_hours."""
        from rl_nmt.results import export
        from rl_nmt.results.evaluation import Snapshot
        from rl_nmt.training.callbacks import MARGIN, PLANNED_STOP

        after = phase.once("after", watched.evaluate, form=Snapshot)
        export.save_final(phase.folder, trainer, self.policy.tokenizer, self.prompt, self.start)
        diverged = watched.take(self.step, after) and watched.stop_on_divergence
        phases.finish(phase)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in after.metrics.items())
        print(f"{self.name}: held-out at step {self.step}: {shown}", flush=True)
        for done in range(1, number + 1) if distributed.is_main_process() else ():
            checkpoints.rotate(self._folder(done), keep=int(done == number))  # the newest holds the run's notes
        late = distributed.broadcast(time.monotonic() + MARGIN * self.sampling > self.deadline)  # in the next sampling
        if diverged or late:
            why = "training was ended early" if diverged else "max_hours"
            raise _once(Stopped(f"{why}, after {self.name}; {phase.folder / 'final'} is saved", PLANNED_STOP))


def _once(error: BaseException) -> BaseException:
    """Return an error that every process raises, marked so that the main one alone prints it."""
    error.elsewhere = not distributed.is_main_process()  # type: ignore[attr-defined]
    return error
