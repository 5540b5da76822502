"""The headroom gate: kept, measured again or skipped; planted cases through the script; the stop during a run."""

from __future__ import annotations

import dataclasses
import json

import fault_trials
import pytest
import tiny_run
import torch
from fault_trials import TextReward, die_after, differences, outcome, trial
from process_trials import Processes
from tiny_models import PAIRS

import train_grpo_en_ta as script
from pocket import formats
from rl_nmt import distributed, errors
from rl_nmt.audit.groups import Groups
from rl_nmt.errors import ConfigError, RewardRefused
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run
from rl_nmt.training import headroom_gate

# --- once per run --------------------------------------------------------------------------------------


class Sampler:
    """Hands out prepared groups in place of a GroupSampler, and counts how often."""

    def __init__(self, totals):
        self.totals, self.calls = totals, 0
        self.group_size, self.seed, self.noise_floor = len(totals[0]), 0, 1e-6
        self.sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8}

    def __call__(self, sources, what):
        self.calls += 1
        totals = self.totals[: len(sources)]
        outputs = [[f"{i} {total}" for i, total in enumerate(row)] for row in totals]
        return Groups(sources, outputs, totals, [[None] * self.group_size for _ in sources], self.noise_floor)


class Monitor:
    """The score outside the reward: the number at the end of an output, times ten."""

    name = "tens"

    def independent(self, snapshot):
        assert len(snapshot.sources) == len(snapshot.references) == len(snapshot.outputs)
        known = [output.split()[-1] for output in snapshot.outputs]
        return [None if last == "None" else 10 * float(last) for last in known]


@pytest.fixture
def ask(tmp_path, capsys):
    """ask(sampler, …) → (the run, what was printed, on standard error); as a command that starts again."""
    sources = [f"s{i}" for i in range(12)]
    before = Snapshot(sources, ["r"] * 12, [f"{s} 0.5" for s in sources], [{"total": 0.5}] * 12, {})

    def call(sampler, prompts=12, skip="", resume=None, before=before, **identity):
        run = Run(tmp_path, resume=resume, identity={"model": "m", "tokenizer": "t", "reward": {"w": 1}} | identity)
        try:
            headroom_gate.ask(run, sampler, before, Monitor(), prompts, skip)
        finally:
            call.out, call.err = capsys.readouterr()
        return run

    call.before = before
    return call


def honest():
    return Sampler([[0.1 + i / 100, 0.4, 0.9] for i in range(12)])


def constant():
    return Sampler([[0.5, 0.5, 0.5]] * 12)


def test_a_report_is_kept_and_printed_again(ask, tmp_path):
    sampler = honest()
    run = ask(sampler)
    assert "best of 3 by the reward" in ask.out and "headroom gate: passed" in ask.out and ask.err == ""
    assert run.notes["headroom_gate"]["passed"] is True and run.sealed == ["headroom.json"]
    kept, shown = (tmp_path / "headroom.json").read_bytes(), ask.out[ask.out.index("12 prompts") :]
    again = ask(sampler)
    assert sampler.calls == 1 and again.notes == run.notes and ask.out == shown
    assert (tmp_path / "headroom.json").read_bytes() == kept


def test_scores_are_those_of_each_output(ask, tmp_path):
    ask(honest(), prompts=5)
    stored = json.loads((tmp_path / "headroom.json").read_text(encoding="utf-8"))
    assert stored["outside"] == [[10 * (0.1 + i / 100), 4.0, 9.0] for i in range(5)]
    assert stored["greedy"] == [0.5] * 5 and stored["greedy_outside"] == [5.0] * 5 and stored["name"] == "tens"
    assert stored["groups"]["sources"] == ask.before.sources[:5]


CHANGES = [
    {"model": "other"},
    {"reward": {"w": 2}},
    {"sampling": {"temperature": 0.5, "top_p": 1.0, "max_new_tokens": 8}},
    {"seed": 1},
    {"prompts": 11},
    {"references": ["other"] * 12},
]


@pytest.mark.parametrize("change", CHANGES, ids=[next(iter(change)) for change in CHANGES])
def test_with_other_settings_it_is_measured_again(ask, change):
    ask(honest())
    sampler, options = honest(), {}
    for name, value in change.items():
        if hasattr(sampler, name):
            setattr(sampler, name, value)
        elif name == "references":
            options["before"] = dataclasses.replace(ask.before, references=value)
        else:
            options[name] = value
    ask(sampler, **options)
    assert sampler.calls == 1 and "headroom.json is made again" in ask.out


def test_another_noise_floor_changes_the_verdict_and_not_the_samples(ask):
    sampler = honest()
    ask(sampler)
    sampler.noise_floor = 1.0
    with pytest.raises(RewardRefused, match=r"noise floor 1\.0e"):
        ask(sampler)
    assert sampler.calls == 1


def test_after_a_refusal_nothing_is_measured_again_with_or_without_the_flag(ask):
    sampler = constant()
    for _ in range(2):
        with pytest.raises(RewardRefused, match=r"headroom: reward: 12 of 12.*skip_headroom_gate"):
            ask(sampler)
        assert "best of 3" in ask.out and sampler.calls == 1
    run = ask(sampler, skip="skipped by --skip_headroom_gate")
    assert ask.out == "headroom gate: skipped by --skip_headroom_gate\n" and sampler.calls == 1
    note = run.notes["headroom_gate"]
    assert note["passed"] is None and note["reasons"] == ["skipped by --skip_headroom_gate"]
    assert note["tied_share"] == 1.0
    other = ask(sampler, skip="skipped by --skip_headroom_gate", model="other")  # the report is of another model
    assert other.notes["headroom_gate"] == {"passed": None, "reasons": ["skipped by --skip_headroom_gate"]}


@pytest.mark.parametrize("down", [2, 12])
def test_scores_that_were_missing_are_asked_for_again(ask, tmp_path, down):
    """A scorer was down for some prompts or for all: the next start must not judge by its Nones."""
    sampler = Sampler([[None] * 3] * down + honest().totals[down:])
    if down == 12:
        with pytest.raises(RewardRefused, match=r"12 of 12 groups .* run the same command again"):
            ask(sampler)
    else:
        ask(sampler)
    sampler.totals = honest().totals
    assert ask(sampler).notes["headroom_gate"]["missing_share"] == 0.0 and sampler.calls == 2
    assert f"headroom.json is made again: {down} of 12 groups have too few scores" in ask.out
    ask(sampler)
    assert sampler.calls == 2 and "made again" not in ask.out


def test_with_the_flag_nothing_is_measured(ask, tmp_path):
    run = ask(sampler := constant(), skip="skipped by --skip_headroom_gate")
    assert sampler.calls == 0 and list(tmp_path.iterdir()) == []
    assert run.notes["headroom_gate"] == {"passed": None, "reasons": ["skipped by --skip_headroom_gate"]}


def test_a_resumed_run_and_one_without_prompts_do_nothing(ask, tmp_path):
    for options in ({"resume": object()}, {"prompts": 0}, {"resume": object(), "skip": "skipped"}):
        run = ask(sampler := constant(), **options)
        assert (run.notes, ask.out, sampler.calls, list(tmp_path.iterdir())) == ({}, "", 0, [])


def test_a_warning_is_printed_once_and_the_run_begins(ask):
    ask(honest(), prompts=9)
    assert "headroom gate: passed" in ask.out and ask.err.count("warning: headroom: ") == 1


@pytest.mark.parametrize("other", ["eval_only", "skip_headroom_gate"])
def test_flags_that_exclude_each_other(other, tmp_path):
    asked = dict.fromkeys(script.ACTIONS, False) | {"headroom": True}
    headroom_gate.require(asked, 64, Run(tmp_path))
    with pytest.raises(ConfigError, match=f"--headroom .* --{other}"):
        headroom_gate.require(asked | {other: True}, 64)
    with pytest.raises(ConfigError, match="headroom_prompts: 0"):
        headroom_gate.require(asked, 0)
    (tmp_path / "evaluation.json").touch()
    with pytest.raises(ConfigError, match=r"--headroom: .* --fresh .* --output_dir"):
        headroom_gate.require(asked, 64, Run(tmp_path))
    headroom_gate.require(asked | {"headroom": False, other: True}, 0, Run(tmp_path))


# --- planted cases, through the script -----------------------------------------------------------------


class Constant(TextReward):
    def score_components(self, prompts, completions, source):
        return [row | {"total": 0.5} for row in super().score_components(prompts, completions, source)]


class ByReference(TextReward):
    """chrF++ against the references, which no real reward knows, as a share; 0 for other sources."""

    def score_components(self, prompts, completions, source):
        from rl_nmt.results.translation import CHRF

        rows, known = super().score_components(prompts, completions, source), dict(PAIRS)
        shot = Snapshot(list(source), [known.get(english) for english in source], list(completions), [], {})
        return [row | {"total": (value or 0) / 100} for row, value in zip(rows, CHRF.sentences(shot), strict=True)]


class Backwards(ByReference):
    def score_components(self, prompts, completions, source):
        rows = super().score_components(prompts, completions, source)
        return [row | {"total": -row["total"]} for row in rows]


@pytest.fixture
def headroom(tiny_all, tmp_path, monkeypatch, capsys):
    """headroom(reward, **settings) → (status, stdout, stderr) of the script with --headroom in this process."""
    tiny_run.write_data(tmp_path)

    def call(*argv, reward=None, **changes):
        if reward:
            monkeypatch.setattr(script, "build_reward", lambda cfg: reward())
        settings = {"headroom_prompts": 12, "num_eval_samples": 12, "max_new_tokens": 16} | changes
        line = tiny_run.flags(tiny_run.settings(tiny_all, tmp_path, tmp_path / "run", **settings))
        capsys.readouterr()
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as left:
            errors.run(lambda: script.main([*line, *argv]))
        return left.value.code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def without_tamil(tmp_path_factory):
    """A random policy whose vocabulary is English: whatever it samples, no gate takes it for Tamil."""
    folder = tmp_path_factory.mktemp("english") / "policy"
    folder.mkdir()
    texts = [script.PROMPT, "user", "model", *(english for english, _ in PAIRS)]
    tokenizer = formats.gemma_tokenizer(folder, texts, vocab_size=400)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        formats.new_gemma(tokenizer, 64, layers=2, heads=2, sliding_window=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_policy_without_tamil_is_refused_by_the_real_reward(headroom, without_tamil, tmp_path):
    status, out, err = headroom("--headroom", model_id=without_tamil)
    assert status == 3 and "error: headroom: model_id: none of 48 outputs" in err and "--warm_start_file" in err
    assert "launch gate: skipped by --headroom" in out and "(tied 0%, gated 100%, missing 0%)" in out
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"headroom.json", "before.json"}
    # without the flag the report is used: it is refused, before a step, in the same words
    again, out, repeated = headroom("--skip_launch_gate", model_id=without_tamil)
    assert again == 3 and "none of 48 outputs" in repeated and "of each of 12 held-out prompts" not in out
    assert not list((tmp_path / "run").glob("checkpoint-*")) and "step 1/" not in out


def test_a_constant_reward_is_refused(headroom, tmp_path):
    status, _, err = headroom("--headroom", reward=Constant, temperature=2.0)
    assert status == 3 and "error: headroom: reward: 12 of 12" in err
    status, out, err = headroom("--skip_launch_gate", "--skip_headroom_gate", reward=Constant, max_steps=1)
    assert status == 0 and "headroom gate: skipped by --skip_headroom_gate" in out and "pairs of samples" not in out, (
        err
    )
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert result["headroom"] == {"passed": None, "reasons": ["skipped by --skip_headroom_gate"]}  # another temperature


def test_a_reward_times_minus_one_is_refused(headroom):
    status, out, err = headroom("--headroom", reward=Backwards, temperature=1.5)
    assert status == 3 and "error: headroom: reward: " in err and "worse" in err
    assert "pairs of samples that reward and chrF++ order alike: 0%" in out


def test_hardly_any_temperature_is_refused(headroom):
    status, _, err = headroom("--headroom", reward=TextReward, temperature=0.0001)
    assert status == 3 and "error: headroom: temperature: 0.0001" in err


def test_a_report_that_passes_is_used_by_the_run(headroom, tmp_path):
    settings = {"reward": ByReference, "temperature": 1.5, "max_steps": 1, "save_steps": 1}
    status, out, err = headroom("--headroom", **settings)
    assert status == 0 and "headroom gate: passed" in out and "step 1/" not in out, err
    status, out, err = headroom("--skip_launch_gate", **settings)
    assert status == 0 and "headroom gate: passed" in out and "of each of 12 held-out prompts" not in out, err
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert result["headroom"]["passed"] is True and result["headroom"]["prompts"] == 12
    assert "best of 4" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    status, _, err = headroom("--headroom", **settings)
    assert status == 2 and "--headroom" in err and "--fresh" in err
    # what it was measured with does not belong to a finished run's result
    status, out, _ = headroom(**settings | {"headroom_prompts": 3}, patience=7)
    assert status == 0 and "holds a finished run" in out


# --- several processes ---------------------------------------------------------------------------------


def _report(line):
    """What the process has kept; only the main one has a score outside the reward."""
    from rl_nmt.audit.headroom import Headroom
    from rl_nmt.results import translation
    from rl_nmt.results.divergence import DivergenceMonitor

    def letters(snapshot):
        return [float(len(text)) if distributed.is_main_process() else None for text in snapshot.outputs]

    name = "letters" if distributed.is_main_process() else ""
    translation.divergence_monitor = lambda rows, *a, **k: DivergenceMonitor(name, letters, [r["source"] for r in rows])
    script.build_reward = lambda cfg: TextReward()
    found = []
    Headroom.require_passed = lambda self: found.append(dataclasses.asdict(self))
    script.main([*line, "--headroom"])
    return found


def test_two_processes_have_one_report(tiny_all, tmp_path):
    tiny_run.write_data(tmp_path)
    ends = []
    for count in (1, 2):
        settings = {"num_eval_samples": 12, "headroom_prompts": 12, "max_new_tokens": 6, "per_device_batch_size": 8}
        line = tiny_run.flags(tiny_run.settings(tiny_all, tmp_path, tmp_path / f"run{count}", **settings))
        ends += Processes(tmp_path / str(count), list(range(count)), _report, line).results(120)
    ((alone,), (main,), (other,)) = ends
    assert alone == main == other and alone["name"] == "letters"
    texts = [text for texts in alone["groups"]["outputs"] for text in texts]
    assert len(texts) == 48 and [score for row in alone["outside"] for score in row] == list(map(len, texts))


# --- during the run ------------------------------------------------------------------------------------


def _constant(cfg, prepare=None):
    """A run of fault_trials with a reward that is always the same."""
    fault_trials.TextReward = Constant
    fault_trials.train(cfg, prepare=prepare)


def _settings(model, folder, **changes):
    changes = {"patience": 3, "max_steps": 7, "save_steps": 1, "eval_steps": 0, "kl_beta": 0.0} | changes
    return fault_trials.settings(model, folder, temperature=2.0, **changes)


def _steps(folder):
    rows = MetricsFile(folder / "metrics.jsonl").rows()
    return [row["step"] for row in rows if row["kind"] == "train"]


def test_generations_without_a_difference_stop_the_run_and_the_command_continues_it(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    for stop in (3, 6):
        status, _, err = trial(folder, _constant, _settings(tiny_policy, folder))
        assert status == 75 and f"after step {stop}; checkpoint-{stop} is saved" in err, err
        assert err.count("patience: 3 ") == 1 and "reward: 2 of 2 groups" in err and "continue with: " in err
        assert _steps(folder) == list(range(1, stop + 1))
        state = json.loads((folder / f"checkpoint-{stop}" / "run_state.json").read_text(encoding="utf-8"))
        assert state["parts"]["NoDifference"] == {"idle": 0}
    status, _, err = trial(folder, _constant, _settings(tiny_policy, folder))
    assert status == 0 and "patience" not in err and _steps(folder) == list(range(1, 8)), err


def test_a_killed_run_stops_at_the_same_step(tiny_policy, tmp_path):
    ends = []
    for name, prepare in (("whole", None), ("killed", die_after(2))):
        folder = tmp_path / name
        if prepare:
            assert trial(folder, _constant, _settings(tiny_policy, folder), prepare)[0] == 137
        status, _, err = trial(folder, _constant, _settings(tiny_policy, folder))
        assert status == 75 and "after step 3;" in err
        (folder / "evaluation.json").write_text("")
        ends.append(outcome(folder, 3))
    assert differences(*ends) == []


def test_the_stop_waits_for_the_end_of_a_generation_cycle(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    cfg = _settings(tiny_policy, folder, patience=2, save_steps=2)
    cfg.trl.num_iterations = 2  # the second generation begins with step 3
    status, _, err = trial(folder, _constant, cfg)
    assert status == 75 and "after step 4; checkpoint-4 is saved" in err and "patience: 2 " in err


def _in_each_process(cfg):
    distributed.start()
    distributed.mute_others()
    with distributed.together():
        _constant(cfg)


def test_two_processes_stop_together_and_count_whole_groups(tiny_policy, tmp_path):
    cfg = _settings(tiny_policy, tmp_path / "run", per_device_batch_size=2, gradient_accumulation_steps=3, patience=2)
    main, other = Processes(tmp_path / "a", [0, 1], _in_each_process, cfg).wait(120)
    assert main[0] == other[0] == 75 and "after step 2; checkpoint-2 is saved" in main[2], main[2]
    assert main[2].count("patience: 2 ") == 1 and "reward: 3 of 3 groups" in main[2]  # the middle one is split
    assert "patience" not in other[2]


def test_without_patience_a_run_trains_to_its_end(tiny_policy, tmp_path):
    folder = tmp_path / "run"
    status, _, err = trial(folder, _constant, _settings(tiny_policy, folder, patience=0, max_steps=4))
    assert status == 0 and "patience" not in err and _steps(folder) == [1, 2, 3, 4]
