"""Method raft: what is chosen, how many outputs it takes, and whole runs that are killed, continued or refused."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import re
import shutil

import fault_trials
import pytest
import raft_run
import torch
from process_trials import Processes
from tiny_run import ROOT, SENTENCES, tree

import train_grpo_en_ta as script
from rl_nmt import distributed, errors
from rl_nmt.audit.groups import Groups
from rl_nmt.models import policy as models
from rl_nmt.models.generate import encode_prompts, sample_together
from rl_nmt.preflight import capacity
from rl_nmt.results.group_sampler import GroupSampler
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.training import raft
from rl_nmt.training.raft import RaftSettings, check, choose, selection, slices
from rl_nmt.training.trl_settings import TrlSettings

NAN = float("nan")


# --- what is chosen ------------------------------------------------------------------------------------


def groups(totals, gates=None, floor=0.0) -> Groups:
    gates = gates or [[None] * len(group) for group in totals]
    outputs = [[f"{i}.{j}" for j in range(len(group))] for i, group in enumerate(totals)]
    return Groups([f"s{i}" for i in range(len(totals))], outputs, totals, gates, floor)


CASES = [  # totals and gates of the samples, total and gate of the greedy output, the choice
    ([0.5, 0.75, 0.25], [None] * 3, 0.5, None, (1, 0.25)),
    ([0.5, 0.75, 0.75], [None] * 3, 0.5, None, (1, 0.25)),  # the first of equals
    ([0.5, 1.0, 0.75], [None, "loop", None], 0.5, None, (2, 0.25)),  # the best is gated
    ([0.0, 0.0, 0.0], ["loop"] * 3, 0.5, None, "gated"),
    ([0.5, 0.5, 0.25], [None] * 3, 0.5, None, "no gain"),
    ([0.625, 0.5, 0.25], [None] * 3, 0.5, None, "no gain"),  # 0.125 is the noise floor
    ([0.25, 0.5, 0.0], [None, None, "copy"], 0.875, "copy", (1, 0.5)),  # a gated greedy output counts as 0
    ([0.25, 0.5, 0.0], [None] * 3, None, None, "no score"),
    ([0.25, 0.5, 0.0], [None] * 3, NAN, None, "no score"),
    ([None, NAN, None], [None] * 3, 0.5, None, "no score"),
    ([None, NAN, 0.75], [None] * 3, 0.5, None, (2, 0.25)),
    ([None, 0.0, 0.0], [None, "loop", "loop"], 0.5, None, "gated"),
    ([None, 0.0, float("inf")], [None, None, None], 0.5, None, "no gain"),
]


@pytest.mark.parametrize(("totals", "gates", "greedy", "gate", "expected"), CASES)
def test_the_choice_by_hand(totals, gates, greedy, gate, expected):
    assert choose(groups([totals], [gates], 0.125), groups([[greedy]], [[gate]])) == [expected]


def test_the_selection_counts_what_is_left_out_and_averages_what_is_known():
    totals, gates, greedy, greedy_gates, _ = zip(*CASES, strict=True)
    samples = groups(list(totals), list(gates), 0.125)
    kept = selection(samples, groups([[total] for total in greedy], [[gate] for gate in greedy_gates]))
    assert kept["outputs"] == ["0.1", "1.1", "2.2", "6.1", "10.2"] and kept["sources"] == [
        "s0",
        "s1",
        "s2",
        "s6",
        "s10",
    ]
    assert kept["totals"] == [0.75, 0.75, 0.75, 0.5, 0.75] and kept["gains"] == [0.25, 0.25, 0.25, 0.5, 0.25]
    assert kept["reasons"] == {"gated": 2, "no gain": 3, "no score": 3}
    row = kept["row"]
    assert (row["raft/prompts"], row["raft/outputs"], row["raft/chosen_share"]) == (13, 52, 5 / 13)
    assert row["raft/chosen"] == pytest.approx(0.7) and row["raft/gain"] == pytest.approx(0.3)
    assert row["raft/greedy"] == pytest.approx((10 * 0.5 + 0.875) / 11)  # two of 13 have no score
    json.dumps(kept)


# --- how many outputs ----------------------------------------------------------------------------------

COUNTS = [  # RunCfg's changes, rounds, prompts in each round
    ({"max_steps": 12}, 4, [6, 6, 6, 6]),
    ({"max_steps": 5}, 4, [3, 3, 2, 2]),
    ({"max_steps": 0}, 2, [8, 8]),  # one pass over 16 prompts
    ({"max_steps": 0, "num_train_samples": 17}, 3, [6, 5, 5]),  # the 17th does not fill a generation
    ({"max_steps": 12, "gradient_accumulation_steps": 2}, 2, [24, 24]),
    ({"max_steps": 12, "trl": {"num_iterations": 2}}, 2, [6, 6]),  # each generation is used twice
    ({"max_steps": 3, "trl": {"num_iterations": 2}}, 2, [2, 2]),  # the second generation is used once
    ({"max_steps": 4, "trl": {"steps_per_generation": 2}}, 2, [4, 4]),  # a generation of four prompts for two steps
    ({"max_steps": 3, "gradient_accumulation_steps": 2, "trl": {"steps_per_generation": 1}}, 2, [6, 6]),
    ({"max_steps": 0, "num_train_samples": 6, "gradient_accumulation_steps": 2, "trl": {"steps_per_generation": 1}}, 2,
     [3, 3]),  # the last step of the pass has one batch
    ({"max_steps": 3, "num_train_samples": 6, "gradient_accumulation_steps": 2, "trl": {"steps_per_generation": 1}}, 2,
     [5, 5]),  # and so has the second of three steps
]  # fmt: skip


def config(**changes) -> script.RunCfg:
    """Two prompts × four outputs per batch, 16 sentences."""
    sections = {"raft": RaftSettings, "trl": TrlSettings}
    told = {"group_size": 4, "per_device_batch_size": 8, "gradient_accumulation_steps": 1, "num_train_samples": 16}
    told |= {"method": "raft", "save_steps": 0, "headroom_prompts": 0, **changes}
    return script.RunCfg(**{n: sections[n](**v) if isinstance(v, dict) else v for n, v in told.items()})


@pytest.mark.parametrize(("changes", "rounds", "expected"), COUNTS)
def test_each_round_has_its_share_of_grpos_prompts(changes, rounds, expected):
    cfg = config(**changes, raft={"rounds": rounds, "batch_size": 8})
    script.check(cfg)
    sentences = SENTENCES[: cfg.num_train_samples]
    parts = slices(cfg, sentences)
    assert [len(part) for part in parts] == expected
    walk = [text for part in parts for text in part]
    for start in range(0, len(walk), len(sentences)):  # a pass before the next
        turn = walk[start : start + len(sentences)]
        assert len(set(turn)) == len(turn) and set(turn) <= set(sentences)
    assert walk != sentences[: len(walk)] and parts == slices(cfg, sentences)
    assert parts != slices(dataclasses.replace(cfg, seed=1), sentences)


class Counting(raft_run.Hashed):
    seen = 0

    def __call__(self, prompts, completions, source=None, **columns):
        Counting.seen += len(completions)
        return super().__call__(prompts, completions, source, **columns)


@pytest.mark.parametrize(("changes", "expected"), [(each[0], sum(each[2])) for each in COUNTS])
def test_grpo_samples_for_as_many_prompts(tiny_policy, tmp_path, changes, expected):
    more = {"model_id": str(tiny_policy), "attn_implementation": "eager", "lora_rank": 0, "kl_beta": 0.0}
    cfg = config(**changes, **more, max_new_tokens=2, method="grpo")
    Counting.seen = 0
    with torch.random.fork_rng(devices=[]):
        parts = (script.load_policy(cfg), Counting(), SENTENCES[: cfg.num_train_samples])
        script.build_trainer(cfg, tmp_path, *parts).train()
    assert Counting.seen == expected * cfg.group_size


# --- whole runs ----------------------------------------------------------------------------------------


def run(folder, chosen, *more, **options) -> tuple[int, str, str]:
    return fault_trials.trial(folder, raft_run.train, chosen, *more, **options)


def contents(folder) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if not name.endswith(".lock")}


def weights(lora: bool) -> dict:
    return {"lora_rank": 4 if lora else 0}


@pytest.fixture(scope="module")
def whole(tiny_policy, tmp_path_factory):
    """whole(lora) → (folder, stdout) of a run that was never interrupted; made once each."""
    made = {}

    def make(lora: bool):
        if lora not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            status, out, err = run(folder, raft_run.values(tiny_policy, folder, **weights(lora)))
            assert status == 0, out + err
            made[lora] = folder, out
        return made[lora]

    return make


def test_the_story_of_the_rounds(whole):
    _, out = whole(True)
    assert "raft: 24 prompts × 4 outputs, as many as GRPO would sample, in 3 rounds; not used: lr, " in out
    (unused,) = re.findall(r"not used: .* and (trl.*)$", out, re.M)
    assert unused == "trl.* except num_iterations, steps_per_generation, top_k, min_p, repetition_penalty"
    told = re.findall(
        r"^round (\d)/3: 8 prompts, 32 outputs, chosen (\d) \(\d+%\); reward of samples 0\.\d+", out, re.M
    )
    assert [number for number, _ in told] == ["1", "2", "3"]
    assert (
        len(re.findall(r"^round \d/3: step \d+, loss \d\.\d+, -?\d\.\d+ nats per token from the start$", out, re.M))
        == 3
    )
    assert len(re.findall(r"^round [12]/3: held-out at step \d+: reward 0\.\d+", out, re.M)) == 2
    assert "held-out, 4 rows" in out and "report.html" in out


def test_each_round_is_a_phase_and_the_last_supplies_the_runs_results(whole):
    folder, _ = whole(True)
    assert {"final", "evaluation.json", "report.html", "reward_curve.png", "samples.jsonl", "metrics.jsonl"} <= {
        path.name for path in folder.iterdir()
    }
    assert not list(folder.glob("checkpoint-*"))
    for number in (1, 2, 3):
        place = folder / f"round-{number}"
        assert (place / "phase.json").exists() == (place / "final").exists() == (number < 3)
        kept = json.loads((place / "chosen.json").read_text())
        identity = json.loads((place / "run_identity.json").read_text())["identity"]
        assert len(kept["outputs"]) == len(kept["gains"]) > 0 and identity["method"] == "raft"
    assert [len(list((folder / f"round-{n}").glob("checkpoint-*"))) for n in (1, 2, 3)] == [0, 1, 2]
    second = json.loads((folder / "round-2" / "run_identity.json").read_text())["identity"]
    assert second["start"] == json.loads((folder / "round-1" / "phase.json").read_text())["final"]
    table = json.loads((folder / "evaluation.json").read_text())
    assert table["distance"] == json.loads((folder / "round-3" / "round.json").read_text())["kl"]
    card = (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert (
        "Trained with RAFT" in card and "| raft.rounds | 3 |" in card and "GRPO" not in card and "kl_beta" not in card
    )
    assert "- raft\n" in card and "| max_steps (only for the number of samples) | 12 |" in card


def test_the_rows_of_metrics_have_the_steps_of_the_run(whole):
    folder, _ = whole(True)
    rows = MetricsFile(folder / "metrics.jsonl").rows()
    kinds = [(row["kind"], row["step"]) for row in rows]
    ends, step = [], 0
    for number in (1, 2, 3):
        chosen = len(json.loads((folder / f"round-{number}" / "chosen.json").read_text())["outputs"])
        step += 3 * math.ceil(chosen / 4)  # three epochs of batches of four
        ends.append(step)
    assert kinds == [("eval", 0)] + [(kind, end) for end in ends for kind in ("train", "eval")]
    for row in rows:
        if row["kind"] == "train":
            assert 0 < row["raft/chosen_share"] <= 1
            assert row["raft/gain"] > 0 and math.isfinite(row["kl"]) and math.isfinite(row["loss"])
            assert row["raft/chosen"] > row["reward"]
    best = json.loads((folder / "evaluation.json").read_text())["best"]
    assert best["step"] in (0, *ends) and best.get("kept", True)
    if best["step"]:
        assert json.loads((folder / "best" / "chosen.json").read_text())["step"] == best["step"]


def test_every_key_is_documented(whole):
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"^- `([^`]+)`: ", page, re.MULTILINE))
    logged = {key for row in MetricsFile(whole(True)[0] / "metrics.jsonl").rows() for key in row}
    assert logged - keys == set() and {key for key in keys if key.startswith("raft/")} <= logged


def test_the_chosen_outputs_are_the_best_of_what_the_rounds_start_samples(whole, tiny_policy):
    """Round 2 from its files alone: the policy of round-1/final, the seeds of the round, and the reward."""
    folder, _ = whole(False)
    cfg = config(max_steps=12, num_train_samples=24, raft={"rounds": 3}, temperature=1.2, max_new_tokens=24)
    sources = slices(cfg, SENTENCES[24:48])[1]
    kept = json.loads((folder / "round-2" / "chosen.json").read_text())
    tokenizer = models.load_tokenizer(str(folder / "round-1" / "final"))
    model = models.load_policy(
        str(folder / "round-1" / "final"), tokenizer, models.Precision("cpu", torch.float32, False, "")
    )
    sampling = {"temperature": 1.2, "top_p": 1.0, "max_new_tokens": 24}
    sample = GroupSampler(model, tokenizer, script.make_prompt, raft_run.Hashed(), 4, 8, sampling, cfg.seed)
    drawn, greedy = sample(sources, 2 * raft.OTHER_SEEDS, 3), sample.greedy(sources)
    expected = {}
    for i, source in enumerate(sources):
        best = max(drawn.totals[i])
        if best > greedy.totals[i][0]:
            expected[source] = drawn.outputs[i][drawn.totals[i].index(best)]
    assert dict(zip(kept["sources"], kept["outputs"], strict=True)) == expected


ALL = [(lora, moment) for moment in ("sampling 1", "export 1", "sealed 1", "report") for lora in (True, False)]
ALL += [(True, "step 2 1"), (False, "step 1 2"), (False, "sampling 2"), (False, "finish")]
MOMENTS = [(True, "step 1 2"), (True, "sampling 2"), (True, "finish"), (False, "step 2 1")]
MOMENTS += [pytest.param(*each, marks=pytest.mark.slow) for each in ALL]


@pytest.mark.parametrize(("lora", "moment"), MOMENTS)
def test_a_killed_run_continues_to_the_same_bits(whole, tiny_policy, tmp_path, lora, moment):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, **weights(lora))
    assert run(folder, chosen, die=moment)[0] == 137
    status, out, err = run(folder, chosen)
    assert status == 0, out + err
    found, expected = raft_run.outcome(folder), raft_run.outcome(whole(lora)[0])
    assert fault_trials.differences(found, expected) == []
    if moment.startswith("step"):
        assert f"resuming from {folder / ('round-' + moment.split()[1]) / 'checkpoint-'}" in out
    if moment in ("sealed 1", "sampling 2", "step 2 1"):
        assert "round 1/3: finished before" in out and "launch gate" not in out  # asked once per run
    if moment == "export 1":
        assert "held-out generation" not in out.split("round 1/3: step")[0]


def test_chosen_outputs_are_not_sampled_again(whole, tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder)
    assert run(folder, chosen, die="step 1 0")[0] == 137  # before any checkpoint
    path = folder / "round-1" / "chosen.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"outputs": ["a"] * len(kept["outputs"])}))
    status, out, err = run(folder, chosen | {"raft": {**chosen["raft"], "rounds": 3}})
    assert status == 0, out + err
    assert json.loads(path.read_text())["outputs"] == ["a"] * len(kept["outputs"])
    assert raft_run.outcome(folder) != raft_run.outcome(whole(True)[0])


def test_files_of_the_run_are_put_back_from_a_rounds_checkpoint(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, prompt_filter="headroom", num_train_samples=8)
    status, out, _ = run(folder, chosen, die="sampling 2")  # the newest checkpoint is of round 1
    assert status == 137 and "prompt filter: 8 prompts kept" in out and "evaluating the start policy" in out
    names = ("prompt_filter.json", "before.json")
    before = [json.loads((folder / name).read_text()) for name in names]
    for moment in ("step 2 1", "sampling 3"):
        for name in names:
            (folder / name).unlink()
        status, out, err = run(folder, chosen, die=moment)
        assert status == 137 and "prompts kept" not in out and "evaluating the start policy" not in out, out + err
        assert [json.loads((folder / name).read_text()) for name in names] == before


def test_other_sampling_before_the_first_checkpoint_samples_again(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    assert run(folder, raft_run.values(tiny_policy, folder), die="step 1 0")[0] == 137
    before = json.loads((folder / "round-1" / "chosen.json").read_text())
    status, out, _ = run(folder, raft_run.values(tiny_policy, folder, temperature=0.9), die="step 1 0")
    after = json.loads((folder / "round-1" / "chosen.json").read_text())
    assert status == 137 and before["made_with"] != after["made_with"] and before["outputs"] != after["outputs"]
    assert "chosen.json is made again: its outputs were sampled with other settings" in out


@pytest.mark.parametrize("changes", [{"raft": {"lr": 2e-3}}, {"raft": {"rounds": 2}}, {"method": "grpo"}])
def test_settings_of_the_method_may_not_change_in_a_run(tiny_policy, tmp_path, changes):
    folder = tmp_path / "run"
    assert run(folder, raft_run.values(tiny_policy, folder), die="step 2 1")[0] == 137
    before = contents(folder)
    status, _, err = run(folder, raft_run.values(tiny_policy, folder, **changes))
    assert status == 4 and next(iter(changes.get("raft", changes))) in err and err.count("\n") == 1, err
    assert contents(folder) == before


OTHER_COUNTS = [  # of 24 prompts in 12 steps
    ({"max_steps": 16}, "prompts (max_steps, batch): 24 → 32"),
    ({"max_steps": 8}, "prompts (max_steps, batch): 24 → 16"),
    ({"per_device_batch_size": 16, "gradient_accumulation_steps": 2}, "prompts (max_steps, batch): 24 → 96"),
]


@pytest.mark.parametrize("save_steps", [1, 0])
def test_the_number_of_prompts_may_not_change_in_a_run(tiny_policy, tmp_path, save_steps):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, save_steps=save_steps)
    assert run(folder, chosen, die="step 2 1" if save_steps else "sealed 1")[0] == 137
    before = contents(folder)
    for changes, line in OTHER_COUNTS:
        status, out, err = run(folder, chosen | changes)
        assert status == 4 and line in err and err.splitlines()[0].count(folder.name) and "round 2/3" not in out, err
        if save_steps:
            assert contents(folder) == before


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize(("before", "after", "die"), [("grpo", "raft", "finish"), ("raft", "grpo", "step 1 1")])
def test_a_run_keeps_its_method(tiny_policy, tmp_path, before, after, die, force):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, method=before)
    assert run(folder, chosen, die=die)[0] == 137
    there = contents(folder)
    status, _, err = run(folder, chosen | {"method": after, "temperature": 1.1}, *force)
    assert status == 4 and f"method: {before} → {after}" in err and "--fresh" in err and "--force" not in err, err
    assert contents(folder) == there


def test_a_finished_run_prints_its_table_and_refuses_other_settings(whole, tiny_policy, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole(True)[0], folder)
    chosen = raft_run.values(tiny_policy, folder)
    before = raft_run.outcome(folder)
    status, out, err = run(folder, chosen)
    assert status == 0 and "holds a finished run" in out and "round 1" not in out, err
    status, _, err = run(folder, raft_run.values(tiny_policy, folder, raft={"epochs": 2}))
    assert status == 4 and "raft.epochs: 3 → 2" in err
    assert raft_run.outcome(folder) == before


def test_a_changed_final_of_a_round_is_noticed(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder)
    assert run(folder, chosen, die="sealed 1")[0] == 137
    path = folder / "round-1" / "final" / "adapter" / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    status, _, err = run(folder, chosen)
    assert status == 2 and "round-1" in err and "changed" in err


def test_a_round_that_chooses_nothing_is_refused_with_the_reason(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    status, _, err = run(folder, raft_run.values(tiny_policy, folder), reward=raft_run.Constant)
    assert status == 3 and "round 1/3: nothing to train on" in err and "noise floor: 8" in err and "temperature" in err
    assert not (folder / "round-1" / "chosen.json").exists()


def test_nothing_chosen_later_says_where_the_model_is(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder)
    assert run(folder, chosen, die="sealed 1")[0] == 137
    status, _, err = run(folder, chosen, reward=raft_run.Constant)  # its signature is the other's
    assert status == 3 and "round 2/3: nothing to train on" in err
    assert f"{folder / 'round-1' / 'final'} holds the model so far" in err
    assert run(folder, chosen)[0] == 0


def test_it_learns(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    told = {"rounds": 3, "epochs": 3, "batch_size": 8, "lr": 3e-3}
    chosen = raft_run.values(tiny_policy, folder, raft=told, max_steps=48, lora_rank=0, save_steps=0, temperature=1.0)
    status, out, err = run(folder, chosen, reward=raft_run.Shorter)
    assert status == 0, out + err
    rows = MetricsFile(folder / "metrics.jsonl").rows()
    sampled = [row["reward"] for row in rows if row["kind"] == "train"]
    assert sampled[-1] > sampled[0] + 0.02, sampled
    greedy = [row["reward"] for row in rows if row["kind"] == "eval"]
    assert greedy[-1] > greedy[0] + 0.02, greedy


def test_max_hours_stops_a_round_with_a_checkpoint(whole, tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, max_hours=1e-9)  # stops after the first optimizer step of a round
    status, _, err = run(folder, chosen)
    assert status == 75 and "round-1" not in err.splitlines()[0] and "checkpoint-1 is saved" in err
    status, out, err = run(folder, chosen | {"max_hours": 0.0})
    assert status == 0, out + err
    assert fault_trials.differences(raft_run.outcome(folder), raft_run.outcome(whole(True)[0])) == []


def test_max_hours_stops_between_rounds(tiny_policy, tmp_path):
    """One optimizer step a round: none can be stopped inside."""
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, raft={"epochs": 1, "batch_size": 8}, max_hours=1e-9)
    for number in (1, 2):
        status, _, err = run(folder, chosen)
        assert status == 75 and f"max_hours, after round {number}/3; {folder / f'round-{number}' / 'final'}" in err
        assert "continue with: " in err
    assert run(folder, chosen)[0] == 0
    assert [row["step"] for row in MetricsFile(folder / "metrics.jsonl").rows()] == [0, 1, 1, 2, 2, 3, 3]


def tracked(chosen, path, die=""):
    """A run whose W&B run is offline, and so empty at each start; what is sent to it is in the file `path`."""
    import types

    import wandb

    import wandb_reward_callback

    def log(row):
        kind = next(iter(row)).partition("/")[0]
        with path.open("a") as file:
            print(kind, row["train/global_step"], file=file)

    wandb_reward_callback._wandb_run = lambda: types.SimpleNamespace(resumed=False)
    wandb.log = log
    return raft_run.train(chosen, die=die)


def test_an_offline_wandb_run_gets_the_rows_of_finished_rounds_again(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, raft={"epochs": 1, "batch_size": 8})  # one step a round
    assert fault_trials.trial(folder, tracked, chosen, tmp_path / "first", die="sealed 2")[0] == 137
    status, out, err = fault_trials.trial(folder, tracked, chosen, tmp_path / "second")
    assert status == 0, out + err
    first, second = ((tmp_path / name).read_text().splitlines() for name in ("first", "second"))
    expected = ["eval 0", "train 1", "eval 1", "train 2", "eval 2", "train 3", "eval 3"]
    assert first == expected[:5] and second == expected


def diverging(chosen):
    """A run whose monitor warns at the first evaluation after the start."""
    from rl_nmt.results.divergence import DivergenceMonitor

    record = DivergenceMonitor.record
    DivergenceMonitor.record = lambda self, step, shot: record(self, step, shot) or ("alarm" if step else None)
    return raft_run.train(chosen)


def test_a_divergence_stops_after_its_round_and_can_be_continued(whole, tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, on_divergence="stop")
    status, _, err = fault_trials.trial(folder, diverging, chosen)
    assert status == 75 and "alarm" in err and "training was ended early, after round 1/3" in err
    status, out, err = run(folder, chosen)
    assert status == 0, out + err
    assert fault_trials.differences(raft_run.outcome(folder), raft_run.outcome(whole(True)[0])) == []


# --- distance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_distance_is_the_mean_log_ratio_per_token(tiny_policy, lora):
    policy = script.load_policy(config(model_id=str(tiny_policy), attn_implementation="eager", lora_rank=4 * lora))
    start = policy.start().eval()
    if lora:
        policy.model = models.add_adapter(policy.model, 4, 8, seed=3)
    sampling = {"temperature": 0.5, "top_p": 0.5, "max_new_tokens": 8}
    sample = GroupSampler(policy.model, policy.tokenizer, script.make_prompt, None, 4, 8, sampling, 7)
    base = None if lora else start
    assert sample.distance(base, SENTENCES[:3]) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name or not lora:
                weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    kept = []
    measured = sample.distance(base, SENTENCES[:3])
    told = {"num_return_sequences": 1, "max_new_tokens": 8, "batch_size": 8}
    prompts = [script.make_prompt(source) for source in SENTENCES[:3]]
    texts = [each[0] for each in sample_together(policy.model, policy.tokenizer, prompts, 7, **told)]
    end = models.stop_ids(policy.tokenizer)[0]
    for prompt, text in zip(encode_prompts(policy.tokenizer, prompts), texts, strict=True):
        answer = [*policy.tokenizer(text, add_special_tokens=False)["input_ids"], end]
        logs = []
        for model in (policy.model.eval(), start):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            logs.append(sum(float(logits[len(prompt) + k - 1, token]) for k, token in enumerate(answer)) / len(answer))
        kept.append(logs[0] - logs[1])
    assert measured == pytest.approx(sum(kept) / 3, abs=1e-4) and abs(measured) > 1e-3


def watched_memory(chosen):
    """A run that ends with status 1 where something of the optimizer is left when the distance is measured."""
    distance = GroupSampler.distance

    def measured(self, *args):
        optimizers = [each for each in gc.get_objects() if issubclass(type(each), torch.optim.Optimizer)]
        assert optimizers and not any(each.state for each in optimizers), "the optimizer's state is alive"
        assert all(weight.grad is None for weight in self.model.parameters()), "gradients are alive"
        return distance(self, *args)

    GroupSampler.distance = measured
    return raft_run.train(chosen)


def test_the_optimizers_state_is_freed_before_another_model_is_loaded(tiny_policy, tmp_path):
    told = {"rounds": 1, "epochs": 1, "batch_size": 8}
    chosen = raft_run.values(tiny_policy, tmp_path / "run", raft=told, lora_rank=0, max_steps=4)
    status, out, err = fault_trials.trial(tmp_path / "run", watched_memory, chosen)
    assert status == 0, out + err


# --- settings ------------------------------------------------------------------------------------------

REFUSED = [
    ({"use_vllm": True}, "use_vllm"),
    ({"save_rollouts": True}, "save_rollouts"),
    ({"raft": {"batch_size": 12}}, "raft.batch_size: 12 .* nearest that work: 8 or 16"),
    ({"max_steps": 1, "raft": {"rounds": 3}}, "raft.rounds: 3 rounds for 2 prompts"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_is_refused(changes, message):
    with pytest.raises(errors.ConfigError, match=message):
        script.check(config(**changes))
    script.check(config(**{"method": "grpo", **changes}))


def test_the_card_lists_what_is_used():
    trl = {"num_iterations": 2, "top_k": 9, "epsilon": 0.3, "weight_decay": 0.1}
    names = ("lr", "kl_beta", "loss_type", "group_size", "max_steps", "seed")
    found = raft.told(config(trl=trl, max_steps=12, seed=5, raft={"rounds": 2, "lr": 0.5}), names)
    often = " (only for the number of samples)"
    assert found == {
        **{"group_size": 4, f"max_steps{often}": 12, "seed": 5, f"trl.num_iterations{often}": 2, "trl.top_k": 9},
        **{"raft.rounds": 2, "raft.epochs": 2, "raft.batch_size": 32, "raft.lr": 0.5},
    }
    grpo = raft.told(config(trl=trl, method="grpo", lr=0.25), ("lr",))
    assert grpo == {"lr": 0.25} | {f"trl.{name}": value for name, value in trl.items()}


@pytest.mark.parametrize("size", [1, 3, 8, 16, 24])
def test_batches_up_to_a_pass_or_of_whole_passes(size):
    check(config(raft={"batch_size": size}), 1)


@pytest.mark.parametrize(("size", "fits"), [(1, False), (2, True), (6, True), (7, False), (16, True), (24, False)])
def test_batches_of_two_processes(size, fits):
    if fits:
        check(config(raft={"batch_size": size}), 2)
    else:
        with pytest.raises(errors.ConfigError, match=r"raft.batch_size"):
            check(config(raft={"batch_size": size}), 2)


def test_deepspeed_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(errors.ConfigError, match="method: raft"):
        check(config(), 1)


def test_the_doctor_speaks_of_rounds():
    (found,) = capacity.batch_findings(config(max_steps=12, save_steps=5))
    assert "24 prompts × 4 outputs in 4 rounds" in found.detail and "12 steps of GRPO" in found.detail
    assert capacity.batch_findings(config(max_steps=12))[1].level == "warn"


# --- two processes -------------------------------------------------------------------------------------


def _train(chosen):
    distributed.start()
    distributed.mute_others()
    with distributed.together():
        raft_run.train(chosen)


def test_two_processes_make_one_run(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    chosen = raft_run.values(tiny_policy, folder, max_steps=6, save_steps=0)  # four prompts a step
    group = Processes(tmp_path / "group", [0, 1], _train, chosen)
    group.results(200)
    main, other = (trial.out.read_text() for trial in group.trials)
    assert main.count("nats per token from the start") == 3 and other == ""
    rows = MetricsFile(folder / "metrics.jsonl").rows()
    assert [row["kind"] for row in rows] == ["eval", *["train", "eval"] * 3]
    alone = tmp_path / "alone"
    status, _, err = run(alone, raft_run.values(tiny_policy, alone, save_steps=0))
    first = [json.loads((place / "round-1" / "chosen.json").read_text()) for place in (folder, alone)]
    assert status == 0 and first[0]["outputs"] == first[1]["outputs"] and first[0]["row"] == first[1]["row"], err
