"""Measure how much faster a whole pocket training step is with our reward, and the share of each stage.

    python -m bench.pocket_step [--pairs 5] [--backend transformers|ctranslate2] [--beams 4]
    python -m bench.pocket_step --config other.yaml --per_device_batch_size 64      # any field of RunCfg

One training run in the pocket world (built first if necessary), as in configs/pocket.yaml but without saving and
evaluation: the same trainer, policy and data throughout. Only the reward changes from step to step: ours, or
the same formula and guards with models used as on their own pages (bench/straightforward.py). Steps come in
pairs, one of each route, in alternating order; a pair before the first is not counted. A step is everything
between the trainer's on_step_begin and on_step_end: sampling, reward, loss, gradients, update.

Prints medians, the median over pairs of straightforward / ours for the step and for its reward, the share of
each stage, and the agreement of the routes on the last step's completions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.measure import StepClock, grpo_trainer, machine, pocket_run, say
from bench.straightforward import use_plain_models
from rl_nmt.errors import ConfigError, run

ROUTES = ("ours", "straightforward")
STAGES = ("generate", "guards", "back_translate", "cycle", "qe", "update")


class SwitchingReward:
    """Two rewards as one; `route` names the one that is called."""

    __name__ = "comet_dupo"

    def __init__(self, rewards: dict):
        self.rewards, self.route = rewards, ROUTES[0]
        self.evaluating = False
        self.last_call: tuple = ()

    def __call__(self, prompts, completions, source=None, **columns):
        self.last_call = (prompts, completions, source)
        return self.rewards[self.route](prompts, completions, source=source, **columns)

    def compare(self) -> dict[str, float]:
        """Compare the two on the completions of the last call; see `agreement`."""
        prompts, completions, source = self.last_call
        return agreement(*(r.score_components(prompts, completions, source=source) for r in self.rewards.values()))


def agreement(ours: list[dict], plain: list[dict]) -> dict[str, float]:
    """Return the share of samples with equal back-translations, and the largest difference of totals: among these,
    and among all. With several beams the texts may differ where the model is unsure: our search stops early, which
    `generate` by default does not.
    """
    pairs = list(zip(ours, plain, strict=True))
    if any((a["total"] is None) != (b["total"] is None) for a, b in pairs):
        raise RuntimeError("one route scored a sample that the other has not scored")
    equal = [a["backtranslation"] == b["backtranslation"] for a, b in pairs]
    differences = [abs(a["total"] - b["total"]) if a["total"] is not None else 0.0 for a, b in pairs]
    return {
        "equal": sum(equal) / len(equal),
        "max_difference": max((d for d, same in zip(differences, equal, strict=True) if same), default=0.0),
        "max_difference_all": max(differences),
    }


class RouteClock(StepClock):
    """A StepClock that also chooses the route of each step."""

    def __init__(self, reward: SwitchingReward, order: Sequence[str]):
        super().__init__()
        self.reward, self.order = reward, order

    def on_step_begin(self, args, state, control, **kwargs):
        self.reward.route = self.order[state.global_step]
        super().on_step_begin(args, state, control)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control)
        self.steps[-1]["route"] = self.reward.route


def step_order(pairs: int) -> list[str]:
    """Return the routes of a warm-up pair and `pairs` counted ones, every other pair reversed."""
    return [route for number in range(pairs + 1) for route in (ROUTES if number % 2 else ROUTES[::-1])]


def train(argv: list[str], pairs: int, folder: Path) -> tuple[list[dict], dict, str]:
    """Run the steps; return the counted ones in order, the agreement of the routes, and the device."""
    import train_grpo_en_ta as script
    from rl_nmt import config
    from rl_nmt.models import policy

    order = step_order(pairs)
    cfg, _, _ = config.parse(script.RunCfg, argv, {}, "bench.pocket_step", __doc__)
    cfg.output_dir, cfg.max_steps, cfg.save_steps, cfg.logging_steps = str(folder), len(order), 0, 1
    cfg.use_wandb = False
    script.check(cfg)
    if not (cfg.w_cycle and cfg.w_qe):
        raise ConfigError(f"w_cycle: {cfg.w_cycle} and w_qe: {cfg.w_qe} must both be above 0 in this bench")
    rows = script.load_data(cfg, folder)[0]
    if len(rows) * cfg.group_size < len(order) * cfg.per_device_batch_size * cfg.gradient_accumulation_steps:
        say("there are fewer prompts than the steps need: some are used twice")
    policy.prepare_processes()
    models = (cfg.comet_da_model, cfg.comet_qe_model, cfg.backtranslation_model)
    plain = use_plain_models(script.build_reward(cfg), *models, cfg.backtranslation_beams)
    reward = SwitchingReward({"ours": script.build_reward(cfg), "straightforward": plain})
    clock = RouteClock(reward, order)
    trainer = grpo_trainer(cfg, reward, rows, clock)
    trainer.train()
    if [step["route"] for step in clock.steps] != order:
        raise RuntimeError(f"the run took {len(clock.steps)} steps instead of {len(order)}")
    return clock.steps[len(ROUTES) :], reward.compare(), trainer.args.device.type


def summary(steps: list[dict]) -> dict:
    """Return medians and ratios of the counted steps, and each route's median stage shares."""
    by_route = {route: [step for step in steps if step["route"] == route] for route in ROUTES}
    ours, plain = (by_route[route] for route in ROUTES)  # the k-th of each are pair k
    result = {"pairs": len(ours)}
    for key, name in (("seconds", "step"), ("time/reward", "reward")):
        result |= {f"{name}_seconds_{route}": statistics.median(s[key] for s in by_route[route]) for route in ROUTES}
        ratio = statistics.median(b[key] / a[key] for a, b in zip(ours, plain, strict=True))
        result["ratio" if name == "step" else "reward_ratio"] = ratio
    for route in ROUTES:
        shares = {
            stage: statistics.median(step.get(f"time/{stage}", 0.0) / step["seconds"] for step in by_route[route])
            for stage in STAGES
        }
        result[f"stages_{route}"] = shares | {"rest": 1 - sum(shares.values())}
    return result


def lines(found: dict) -> list[str]:
    """Return the summary as text."""
    text = [
        f"step: ours {found['step_seconds_ours']:.2f} s, straightforward "
        f"{found['step_seconds_straightforward']:.2f} s, ratio {found['ratio']:.2f} (median of {found['pairs']} pairs)",
        f"reward: ours {found['reward_seconds_ours']:.3f} s, straightforward "
        f"{found['reward_seconds_straightforward']:.3f} s, ratio {found['reward_ratio']:.2f}, "
        f"largest difference {found['max_difference']:.1e} over the {found['equal']:.1%} of samples with equal "
        f"back-translations, {found['max_difference_all']:.1e} over all",
    ]
    for route in ROUTES:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in found[f"stages_{route}"].items())
        text.append(f"{route}: {shares}")
    return text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs of steps (default 5)")
    parser.add_argument("--backend", choices=("transformers", "ctranslate2"), help="engine of our back-translation")
    parser.add_argument("--beams", type=int, help="beams of both routes (default: the configuration's)")
    parser.add_argument("--threads", type=int, help="threads of torch and CTranslate2 (default: torch's)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args, rest = parser.parse_known_args(argv)
    if args.pairs < 1:
        parser.error("--pairs must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    rest = pocket_run(rest)
    for flag, value in (("--backtranslation_backend", args.backend), ("--backtranslation_beams", args.beams)):
        rest += [flag, str(value)] if value else []
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        steps, agreed, device = train(rest, args.pairs, Path(folder))
    found = summary(steps) | agreed | {"backend": args.backend or "as configured"}
    print("\n".join([json.dumps(found)] if args.json else lines(found)), flush=True)
    print(machine(device), file=sys.stderr if args.json else sys.stdout, flush=True)
    return 0


if __name__ == "__main__":
    run(main)
