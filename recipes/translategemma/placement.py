"""Place every model on a GPU: one pure function of the settings and the number of devices. No torch.

The policy's processes come first, one GPU each; scorers get other GPUs as long as some are left. A judge behind an
endpoint needs none.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rl_nmt import distributed
from rl_nmt.errors import ConfigError

if TYPE_CHECKING:
    from recipes.translategemma.settings import TranslateGemmaCfg

POLICY, REFERENCE = "model.policy_gpu_ids", "model.reference_gpu_ids"


@dataclass(frozen=True)
class Placement:
    """The device of every model.

    policy: the GPU of each process in the order of local ranks, or ["cpu"]. scorers: name → "cpu" or "cuda:N".
    warnings: models that share a GPU. GPUs are numbered as in the settings; `renumbered` gives the numbers in a
    process with CUDA_VISIBLE_DEVICES set to `visible_devices`.
    """

    policy: list[int | str]
    scorers: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """GPUs in use, the policy's first: with any launcher, rank r takes the r-th visible GPU."""
        ids = [i for i in self.policy if isinstance(i, int)]
        return ids + sorted({int(name[5:]) for name in self.scorers.values() if name != "cpu"} - set(ids))

    def visible_devices(self, inherited: str | None = None) -> str | None:
        """Return the value to set CUDA_VISIBLE_DEVICES to before CUDA is first used, None if it need not change.

        `inherited` is its present value; the settings' numbers are positions in it.

        >>> Placement([2], {"metricx": "cuda:0"}).visible_devices(), Placement([0], {"m": "cuda:1"}).visible_devices()
        ('2,0', None)
        >>> Placement([1], {}).visible_devices("4,6")
        '6'
        """
        if self.order == list(range(len(self.order))):
            return None
        names = inherited.split(",") if inherited else [str(i) for i in range(max(self.order) + 1)]
        return ",".join(names[i].strip() for i in self.order)

    def renumbered(self) -> Placement:
        """Return the same placement with the GPU numbers of a process that sees only `order`.

        >>> Placement([2], {"metricx": "cuda:0", "xcomet": "cpu"}).renumbered()
        Placement(policy=[0], scorers={'metricx': 'cuda:1', 'xcomet': 'cpu'}, warnings=[])
        """
        seen = {gpu: i for i, gpu in enumerate(self.order)}
        scorers = {name: at if at == "cpu" else f"cuda:{seen[int(at[5:])]}" for name, at in self.scorers.items()}
        return Placement([seen[i] if isinstance(i, int) else i for i in self.policy], scorers, self.warnings)


def place(
    device_count: int, scorers: Mapping[str, str], policy_gpu_ids: Sequence[int] = (), processes: int = 1
) -> Placement:
    """Give every model its device.

    Args:
        device_count: GPUs that are visible; 0 puts everything on the CPU.
        scorers: name → wanted device, "auto", "cpu" or "cuda:N", of the scorers that are models and enabled.
        policy_gpu_ids: one GPU per process, in the order of ranks; () takes the first that no scorer wants. Checked
            with `scorers` by `check_ids`.
        processes: number on this machine, as started by the launcher.

    Automatic scorers get a GPU of their own, else share one that the policy does not use, else the policy's first;
    `warnings` lists what is shared. Raises ConfigError for missing GPUs, and for more policy GPUs than processes or
    the reverse.
    """
    _check_present(device_count, policy_gpu_ids, scorers)
    if device_count == 0:
        return Placement(["cpu"], dict.fromkeys(scorers, "cpu"))
    policy = list(policy_gpu_ids) or _automatic(device_count, scorers, processes)
    if len(policy) != processes:
        raise ConfigError(
            f"{POLICY}: {_ids(policy)} {'is one GPU' if len(policy) == 1 else f'are {len(policy)} GPUs'}, but "
            f"{processes} process{'es run' if processes > 1 else ' runs'} here; start one process per GPU: `accelerate "
            f"launch --num_processes {len(policy)} -m recipes.translategemma.train …`"
        )
    free = [i for i in range(device_count) if i not in policy] or [policy[0]]
    placed = dict(scorers)
    for name, at in scorers.items():
        if at == "auto":
            load = Counter(placed.values())
            placed[name] = f"cuda:{min(free, key=lambda i: (load[f'cuda:{i}'], i))}"
    return Placement([*policy], placed, _shared(policy, placed))


def scorer_devices(cfg: TranslateGemmaCfg) -> dict[str, str]:
    """Return name → wanted device of the enabled scorers that are models."""
    scorers = {"metricx": cfg.reward.metricx, "xcomet": cfg.reward.xcomet}
    return {name: scorer.device for name, scorer in scorers.items() if scorer.enabled}


def check_ids(policy_gpu_ids: Sequence[int], reference_gpu_ids: Sequence[int], scorers: Mapping[str, str]) -> None:
    """Refuse ids that are wrong for any number of GPUs. Raises ConfigError naming both settings."""
    for name, ids in ((POLICY, policy_gpu_ids), (REFERENCE, reference_gpu_ids)):
        if any(i < 0 for i in ids) or len(set(ids)) < len(ids):
            raise ConfigError(f"{name}: {_ids(ids)}: repeated or negative ids; give each GPU once, counted from 0")
    if reference_gpu_ids and set(reference_gpu_ids) != set(policy_gpu_ids):
        raise ConfigError(
            f"{REFERENCE}: {_ids(reference_gpu_ids)} differs from {POLICY} ({_ids(policy_gpu_ids) or 'automatic'}): "
            "TRL keeps the reference model on the policy's GPUs; leave it empty"
        )
    for name, wanted in scorers.items():
        if not re.fullmatch(r"auto|cpu|cuda:[0-9]+", wanted):
            raise ConfigError(f"reward.{name}.device: {wanted!r} is not a valid device; use auto, cpu or cuda:N")
        if wanted in {f"cuda:{i}" for i in policy_gpu_ids}:
            raise ConfigError(
                f"{POLICY} ({_ids(policy_gpu_ids)}) and reward.{name}.device ({wanted}) overlap; give different GPUs, "
                "or leave one of them automatic"
            )


def _check_present(device_count: int, policy_gpu_ids: Sequence[int], scorers: Mapping[str, str]) -> None:
    there = f"{device_count} GPU{'' if device_count == 1 else 's'} can be seen here"
    for gpu in policy_gpu_ids:
        if gpu >= device_count:
            raise ConfigError(f"{POLICY}: GPU {gpu} does not exist ({there}); leave it empty, or give lower ids")
    for name, wanted in scorers.items():
        if wanted.startswith("cuda:") and int(wanted[5:]) >= device_count:
            raise ConfigError(f"reward.{name}.device: {wanted} does not exist ({there}); use auto or cpu")


def _automatic(device_count: int, scorers: Mapping[str, str], processes: int) -> list[int]:
    """Return the first GPUs that no scorer wants, plus wanted ones if there are too few."""
    if processes > device_count:
        raise ConfigError(
            f"{POLICY}: {processes} processes run here, but only {device_count} GPUs are visible; launch with "
            f"--num_processes {device_count} or fewer"
        )
    return sorted(range(device_count), key=lambda i: f"cuda:{i}" in scorers.values())[:processes]


def _shared(policy: Sequence[int], placed: Mapping[str, str]) -> list[str]:
    on: dict[str, list[str]] = {f"cuda:{i}": ["policy"] for i in policy}
    for name, at in placed.items():
        if at != "cpu":
            on.setdefault(at, []).append(name)
    return [
        f"{' and '.join(names)} share {at}; if memory runs out, give {names[-1]} another device (reward."
        f"{names[-1]}.device)"
        for at, names in on.items()
        if len(names) > 1
    ]


def _ids(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def place_models(cfg: TranslateGemmaCfg) -> dict[str, str]:
    """Return the scorers' devices and print them with what shares a GPU; hide unused GPUs from this process.

    Call it before CUDA is first used: the policy's GPU becomes the first visible one.
    """
    import torch

    # not `is_available`: it starts the driver, which reads CUDA_VISIBLE_DEVICES only then
    count = torch.cuda.device_count() if cfg.misc.device != "cpu" else 0
    if cfg.misc.device == "cuda" and not count:
        raise ConfigError("misc.device: no CUDA device is available; use auto or cpu")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(distributed.count())))
    placement = place(count, scorer_devices(cfg), cfg.model.policy_gpu_ids, here)
    if count:
        visible = placement.visible_devices(os.environ.get("CUDA_VISIBLE_DEVICES"))
        if visible is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
    elif cfg.misc.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    for warning in placement.warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    policy = ", ".join(f"cuda:{i}" if isinstance(i, int) else i for i in placement.policy)
    print("placement: policy " + "  ".join([policy, *(f"{n} {at}" for n, at in placement.scorers.items())]), flush=True)
    return placement.renumbered().scorers
