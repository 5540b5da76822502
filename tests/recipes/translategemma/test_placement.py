"""Placement: every model on its own GPU while there are enough, and clear messages otherwise."""

from __future__ import annotations

import doctest
import itertools

import pytest

from recipes.translategemma import placement
from recipes.translategemma.placement import Placement, check_ids, place
from rl_nmt.errors import ConfigError

AUTO = {"metricx": "auto", "xcomet": "auto"}


@pytest.mark.parametrize(
    ("count", "policy", "metricx", "xcomet", "shared"),
    [
        (0, ["cpu"], "cpu", "cpu", []),
        (1, [0], "cuda:0", "cuda:0", ["policy and metricx and xcomet share cuda:0"]),
        (2, [0], "cuda:1", "cuda:1", ["metricx and xcomet share cuda:1"]),
        (3, [0], "cuda:1", "cuda:2", []),
        (8, [0], "cuda:1", "cuda:2", []),
    ],
)
def test_automatic(count, policy, metricx, xcomet, shared):
    found = place(count, scorers=AUTO)
    assert (found.policy, found.scorers) == (policy, {"metricx": metricx, "xcomet": xcomet})
    assert [warning.partition(";")[0] for warning in found.warnings] == shared


@pytest.mark.parametrize(
    ("count", "processes", "policy", "metricx", "xcomet", "warned"),
    [
        (0, 2, ["cpu"], "cpu", "cpu", 0),
        (2, 2, [0, 1], "cuda:0", "cuda:0", 1),
        (4, 2, [0, 1], "cuda:2", "cuda:3", 0),
        (8, 6, [0, 1, 2, 3, 4, 5], "cuda:6", "cuda:7", 0),
        (8, 7, [0, 1, 2, 3, 4, 5, 6], "cuda:7", "cuda:7", 1),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7], "cuda:0", "cuda:0", 1),
    ],
)
def test_several_processes(count, processes, policy, metricx, xcomet, warned):
    found = place(count, scorers=AUTO, processes=processes)
    assert (found.policy, found.scorers) == (policy, {"metricx": metricx, "xcomet": xcomet})
    assert len(found.warnings) == warned


def wanted_devices(count):
    return ["auto", "cpu", *(f"cuda:{i}" for i in range(count))]


@pytest.mark.parametrize("count", range(9))
def test_placements_keep_their_rules(count):
    """All wanted devices of two scorers and all numbers of processes."""
    for metricx, xcomet in itertools.product(wanted_devices(count), repeat=2):
        for processes in range(1, max(count, 1) + 1):
            scorers = {"metricx": metricx, "xcomet": xcomet}
            found = place(count, scorers=scorers, processes=processes)
            assert list(found.scorers) == ["metricx", "xcomet"]
            for name, wish in scorers.items():
                assert wish in ("auto", found.scorers[name])
            if count == 0:
                assert found == Placement(["cpu"], {"metricx": "cpu", "xcomet": "cpu"})
                continue
            assert len(set(found.policy)) == processes and set(found.policy) <= set(range(count))
            used = {f"cuda:{i}" for i in found.policy}
            on_gpus = [at for at in found.scorers.values() if at != "cpu"]
            assert all(at in {f"cuda:{i}" for i in range(count)} for at in on_gpus)
            if count >= processes + 2:
                assert used.isdisjoint(on_gpus)
                assert metricx == xcomet or len(set(on_gpus)) == len(on_gpus)
            if count >= processes + len({at for at in on_gpus}):
                assert used.isdisjoint(on_gpus)
            alone = len(used) + len(set(on_gpus)) == len(used | set(on_gpus)) and len(set(on_gpus)) == len(on_gpus)
            assert bool(found.warnings) != alone


@pytest.mark.parametrize("count", range(1, 9))
def test_what_a_process_sees(count):
    for metricx, xcomet in itertools.product(wanted_devices(count), repeat=2):
        found = place(count, scorers={"metricx": metricx, "xcomet": xcomet})
        seen, visible = found.renumbered(), found.visible_devices()
        physical = [int(i) for i in visible.split(",")] if visible else list(range(count))
        assert seen.policy == [0] and physical[0] == found.policy[0]
        for name, at in seen.scorers.items():
            assert at == "cpu" or f"cuda:{physical[int(at[5:])]}" == found.scorers[name]
            assert (at == "cpu") == (found.scorers[name] == "cpu")


def test_explicit_ids_win():
    found = place(4, policy_gpu_ids=(3, 1), scorers={"metricx": "auto", "xcomet": "cuda:0"}, processes=2)
    assert found == Placement([3, 1], {"metricx": "cuda:2", "xcomet": "cuda:0"})
    assert found.visible_devices() == "3,1,0,2" and found.visible_devices("a,b,c,d") == "d,b,a,c"
    assert found.renumbered() == Placement([0, 1], {"metricx": "cuda:3", "xcomet": "cuda:2"})
    assert place(4, policy_gpu_ids=(2,), scorers={}).policy == [2]
    check_ids((2,), (2,), {})
    assert place(2, scorers={"metricx": "cuda:0"}) == Placement([1], {"metricx": "cuda:0"})


@pytest.mark.parametrize(
    ("count", "settings", "parts"),
    [
        (2, {"policy_gpu_ids": (0,), "scorers": {"xcomet": "cuda:0"}}, ["policy_gpu_ids", "reward.xcomet.device"]),
        (
            1,
            {"policy_gpu_ids": (0,), "scorers": {"metricx": "cuda:0"}},
            ["policy_gpu_ids (0)", "reward.metricx.device (cuda:0)"],
        ),
        (2, {"policy_gpu_ids": (2,)}, ["policy_gpu_ids: GPU 2 ", "2 GPUs"]),
        (0, {"policy_gpu_ids": (0,)}, ["policy_gpu_ids: GPU 0 ", "0 GPUs"]),
        (1, {"scorers": {"metricx": "cuda:1"}}, ["reward.metricx.device: cuda:1 ", "1 GPU"]),
        (0, {"scorers": {"metricx": "cuda:0"}}, ["reward.metricx.device: cuda:0 "]),
        (4, {"policy_gpu_ids": (0, 0)}, ["policy_gpu_ids: 0, 0"]),
        (4, {"policy_gpu_ids": (-1,)}, ["policy_gpu_ids: -1"]),
        (4, {"policy_gpu_ids": (0, 1, 2)}, ["3 GPUs", "1 process runs", "accelerate launch --num_processes 3"]),
        (4, {"policy_gpu_ids": (0,), "processes": 2}, ["is one GPU", "2 processes run", "--num_processes 1"]),
        (2, {"processes": 3}, ["3 processes", "2 GPUs", "--num_processes 2"]),
        (4, {"reference_gpu_ids": (1,)}, ["model.reference_gpu_ids: 1 ", "policy_gpu_ids (automatic)"]),
        (4, {"policy_gpu_ids": (0,), "reference_gpu_ids": (1,)}, ["reference_gpu_ids: 1 ", "policy_gpu_ids (0)"]),
        (4, {"scorers": {"metricx": "gpu"}}, ["reward.metricx.device", "'gpu'", "cuda:N"]),
        (4, {"scorers": {"metricx": "cuda"}}, ["cuda:N"]),
    ],
)
def test_impossible_placements(count, settings, parts):
    with pytest.raises(ConfigError) as caught:
        scorers, policy = settings.get("scorers", {}), settings.get("policy_gpu_ids", ())
        check_ids(policy, settings.get("reference_gpu_ids", ()), scorers)
        place(count, scorers, policy, settings.get("processes", 1))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_the_judge_needs_no_gpu():
    assert place(1, scorers={}) == Placement([0], {})
    assert place(0, scorers={}) == Placement(["cpu"], {})


def test_docstring_examples_run():
    assert doctest.testmod(placement) == (0, 3)
