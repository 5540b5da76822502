"""The prompt filter: what is kept and why the rest falls, stopped passes, resumes, too few prompts, the script."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
from types import SimpleNamespace

import fault_trials
import pytest
import torch
from process_trials import Processes
from tiny_run import SENTENCES, flags, settings, tree, write_data

import train_grpo_en_ta as script
from rl_nmt import errors
from rl_nmt.errors import ConfigError
from rl_nmt.models import policy
from rl_nmt.results.group_sampler import GroupSampler
from rl_nmt.runs.metrics_file import MetricsFile
from rl_nmt.runs.run import Run
from rl_nmt.training import prompt_filter

KINDS = ("", "tied", "gated", "missing")
PARTIAL = "prompt_filter.partial.jsonl"


def digest(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def kind(source: str) -> str:
    """The verdict planted for a prompt, whatever its samples are: as many of each."""
    return KINDS[digest(source) % 4]


class Planted(fault_trials.TextReward):
    """Rewards by the kind of a training sentence; of those that differ, and of other sentences, by the output.

    The policy is sampled nearly uniformly with it: four equal outputs do not happen.
    """

    def score_components(self, prompts, completions, source):
        rows = []
        for english, text in zip(source, completions, strict=True):
            planted = kind(english) if english in SENTENCES else ""
            total = {"": digest(text) / 255, "tied": 0.5, "gated": 0.0, "missing": None}[planted]
            gate = "wrong_script" if planted == "gated" else None
            rows.append({"source": english, "output": text, "gate": gate, "total": total})
        return rows

    def __call__(self, prompts, completions, source=None, **columns):
        self.last_rows = self.score_components(prompts, completions, source=source)
        return [row["total"] for row in self.last_rows]


class Hashed(Planted):
    """Three rewards, by the text."""

    def score_components(self, prompts, completions, source):
        return [
            {"source": s, "output": o, "gate": None, "total": digest(s + o) % 3 / 2}
            for s, o in zip(source, completions, strict=True)
        ]


def sampler(model, reward, **changes) -> GroupSampler:
    """Three prompts × four samples in a batch."""
    tokenizer = policy.load_tokenizer(str(model))
    loaded = policy.load_policy(str(model), tokenizer, policy.Precision("cpu", torch.float32, False, "test"))
    sampling = {"temperature": 9.0, "top_p": 1.0, "max_new_tokens": 4}
    parts = {"group_size": 4, "batch_size": 12, "sampling": sampling, "seed": 7} | changes
    return GroupSampler(loaded, tokenizer, script.make_prompt, reward, **parts)


def wants(count: int, **changes) -> SimpleNamespace:
    """The settings that `choose` reads, of a generation of two prompts."""
    few = {"num_train_samples": count, "filter_pool": 3, "prompt_filter": "headroom", "group_size": 4, "max_hours": 0.0}
    batch = {"per_device_batch_size": 8, "gradient_accumulation_steps": 1, "trl": script.RunCfg().trl}
    return SimpleNamespace(**few | batch | changes)


@pytest.fixture
def small_blocks(monkeypatch):
    """Six prompts a block: two batches."""
    monkeypatch.setattr(prompt_filter, "BLOCK", 4)


def chosen(folder, sample, cfg, pool=SENTENCES) -> tuple[list[str], dict]:
    """The kept prompts, and the counts, of a run in `folder` without checkpoints."""
    with Run.open(folder) as run:
        return prompt_filter.choose(cfg, run, sample, pool), run.notes["prompt_filter"]


class Spy:
    """A sampler that notes its calls, and can fail in one of them."""

    def __init__(self, sample, fails_at: int | None = None):
        self.sample, self.fails_at, self.calls = sample, fails_at, []

    def __getattr__(self, name):
        return getattr(self.sample, name)

    def __call__(self, sources, offset=0, **options):
        if len(self.calls) == self.fails_at:
            raise errors.Stopped("SIGTERM", 143)
        self.calls.append((offset, len(sources)))
        return self.sample(sources, offset, **options)


# --- which prompts -------------------------------------------------------------------------------------


def test_prompts_without_a_difference_fall_and_the_report_says_why(tiny_gemma, tmp_path, small_blocks, capsys):
    spy = Spy(sampler(tiny_gemma, Planted()))
    kept, counts = chosen(tmp_path / "run", spy, wants(9))
    good = [source for source in SENTENCES if kind(source) == ""]
    assert kept == good[:9]
    read = -(-(SENTENCES.index(kept[-1]) + 1) // 6) * 6  # whole blocks, up to the one with the last of the nine
    kinds = [kind(source) for source in SENTENCES[:read]]
    fell = {why: kinds.count(why) for why in KINDS[1:]}
    spare = kinds.count("") - 9
    assert counts == {"pool": 144, "read": read, "kept": 9, **fell, "spare": spare, "samples": 4 * read}
    assert spy.calls == [(start, 6) for start in range(0, read, 6)]
    out = capsys.readouterr().out
    assert f"prompt filter: 9 prompts kept, {read} of 144 read: {fell['tied']} tied (" in out
    assert f" {fell['missing']} missing (" in out and f", {spare} not needed; {4 * read} samples in " in out
    saved = json.loads((tmp_path / "run" / "prompt_filter.json").read_text(encoding="utf-8"))
    assert [row["source"] for row in saved["prompts"]] == SENTENCES[:read]
    assert [row["verdict"] for row in saved["prompts"]] == kinds
    numbers = {row["verdict"]: (row["spread"], row["passed"]) for row in saved["prompts"]}
    assert numbers.pop("")[0] > 0 and numbers == {"tied": (0.0, 1.0), "gated": (0.0, 0.0), "missing": (None, 1.0)}
    assert not (tmp_path / "run" / PARTIAL).exists()


def test_verdicts_are_those_of_the_samplers_groups(tiny_policy, tmp_path, small_blocks):
    """Each batch of three prompts is seeded by its place in the pool, whatever the blocks are."""
    sample = sampler(tiny_policy, Hashed(), noise_floor=0.5)  # a spread of 0.5 is a tie: only 0 and 1 differ enough
    kept, counts = chosen(tmp_path / "run", sample, wants(5, filter_pool=6), SENTENCES[:30])
    spreads = []
    for start in range(0, 30, 3):
        groups = sample(SENTENCES[start : start + 3], start)
        spreads += [max(totals) - min(totals) for totals in groups.totals]
    assert kept == [source for source, spread in zip(SENTENCES, spreads, strict=False) if spread > 0.5][:5]
    saved = json.loads((tmp_path / "run" / "prompt_filter.json").read_text(encoding="utf-8"))["prompts"]
    assert [row["spread"] for row in saved] == spreads[: counts["read"]] and counts["read"] % 6 == 0


def test_without_a_filter_the_pool_is_the_data(tmp_path):
    with Run.open(tmp_path / "run") as run:
        assert prompt_filter.choose(wants(5, prompt_filter="none"), run, None, SENTENCES) == SENTENCES
        assert run.notes == {} and run.sealed == [] and tree(tmp_path / "run").keys() == {".lock"}


# --- a pass that is stopped ----------------------------------------------------------------------------


def test_a_stopped_pass_continues_after_its_last_block(tiny_policy, tmp_path, small_blocks, capsys):
    sample, cfg = sampler(tiny_policy, Hashed()), wants(20)
    whole, counts = chosen(tmp_path / "whole", sample, cfg)
    again, _ = chosen(tmp_path / "again", sample, cfg)
    assert again == whole
    with pytest.raises(errors.Stopped):
        chosen(tmp_path / "run", Spy(sample, fails_at=2), cfg)
    with (tmp_path / "run" / PARTIAL).open("a") as file:
        file.write('{"start": 12, "prompts": [{"source": "cut o')  # killed while it wrote a block
    spy = Spy(sample)
    assert chosen(tmp_path / "run", spy, cfg) == (whole, counts)
    assert spy.calls[0] == (12, 6) and "12 prompts were read before" in capsys.readouterr().out
    names = [tmp_path / name / "prompt_filter.json" for name in ("whole", "run")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_max_hours_ends_the_pass_between_blocks_and_each_start_reads_one(tiny_policy, tmp_path, small_blocks):
    sample, spent = sampler(tiny_policy, Hashed()), wants(20, max_hours=1e-9)
    whole, _ = chosen(tmp_path / "whole", sample, wants(20))
    for start in (0, 6):
        spy = Spy(sample)
        with pytest.raises(errors.Stopped, match=rf"max_hours, .*: {start + 6} prompts read .*{PARTIAL}") as stopped:
            chosen(tmp_path / "run", spy, spent)
        assert stopped.value.exit_code == 75 and spy.calls == [(start, 6)]
        assert not (tmp_path / "run" / "prompt_filter.json").exists()
    spy = Spy(sample)
    assert chosen(tmp_path / "run", spy, wants(20, max_hours=1.0))[0] == whole and spy.calls[0] == (12, 6)
    assert chosen(tmp_path / "run", Spy(sample, fails_at=0), spent)[0] == whole  # nothing is left to read


def test_a_lost_block_is_sampled_again(tiny_policy, tmp_path, small_blocks):
    sample, cfg = sampler(tiny_policy, Hashed()), wants(40)
    whole, _ = chosen(tmp_path / "whole", sample, cfg)
    with pytest.raises(errors.Stopped):
        chosen(tmp_path / "run", Spy(sample, fails_at=4), cfg)
    path = tmp_path / "run" / PARTIAL
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:30], *lines[3:]]) + "\n", encoding="utf-8")
    spy = Spy(sample)
    assert chosen(tmp_path / "run", spy, cfg)[0] == whole
    assert spy.calls[0] == (6, 6) and spy.calls[1:2] in ([], [(24, 6)])


def test_scores_that_were_missing_are_asked_for_again(tiny_gemma, tmp_path, small_blocks):
    """A scorer was down: the next start must not find its Nones on the disk."""

    class Down(Planted):
        def score_components(self, prompts, completions, source):
            return [row | {"total": None} for row in super().score_components(prompts, completions, source)]

    with pytest.raises(ConfigError, match=r"tied 0, gated 0, missing 12.*scorers failed"):
        chosen(tmp_path / "run", sampler(tiny_gemma, Down()), wants(2), SENTENCES[:12])
    expected = [source for source in SENTENCES[:12] if kind(source) == ""]
    kept, _ = chosen(tmp_path / "run", sampler(tiny_gemma, Planted()), wants(len(expected)), SENTENCES[:12])
    assert kept == expected and kept


OTHER = {
    "seed": {"seed": 8},
    "temperature": {"sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4}},
    "noise_floor": {"noise_floor": 1e-6},
    "batch_size": {"batch_size": 8},
}


@pytest.mark.parametrize("name", [*OTHER, "pool", "reward", "model"])
def test_other_settings_start_the_pass_again(tiny_policy, tmp_path, small_blocks, capsys, name):
    sample, pool, cfg = sampler(tiny_policy, Hashed()), SENTENCES, wants(20)
    identity = {"model": "m", "tokenizer": "t", "reward": {"name": "r"}}

    def choose(sample, pool, **identity):
        with Run.open(tmp_path / "run") as run:
            run.require_same(**identity)
            return prompt_filter.choose(cfg, run, sample, pool)

    with pytest.raises(errors.Stopped):
        choose(Spy(sample, fails_at=1), pool, **identity)
    if name == "pool":
        pool = SENTENCES[::-1]
    elif name in identity:
        identity[name] = "other"
    other = Spy(dataclasses.replace(sample, **OTHER.get(name, {})))
    choose(other, pool, **identity)
    assert other.calls[0][0] == 0 and f"with another {name}\n" in capsys.readouterr().out
    before = (tmp_path / "run" / "prompt_filter.json").read_bytes()
    spy = Spy(other.sample)
    choose(spy, pool, **identity)
    assert spy.calls == [] and (tmp_path / "run" / "prompt_filter.json").read_bytes() == before


# --- too few -------------------------------------------------------------------------------------------


def test_too_few_prompts_name_what_fell_and_lose_nothing(tiny_gemma, tmp_path, small_blocks):
    pool = SENTENCES[:48]
    kinds = [kind(source) for source in pool]
    good = kinds.count("")
    cfg = wants(24, filter_pool=2)
    assert 4 < good < 24
    spy = Spy(sampler(tiny_gemma, Planted()))
    with pytest.raises(ConfigError) as found:
        chosen(tmp_path / "run", spy, cfg, pool)
    said = str(found.value)
    assert said.startswith(f"filter_pool: 2: {good} of 48 prompts read ") and "num_train_samples 24 are wanted" in said
    assert ", ".join(f"{why} {kinds.count(why)}" for why in KINDS[1:]) in said
    enough = int(re.search(r"--filter_pool (\d+) --fresh", said)[1])
    assert 1.1 * 24 < enough * 24 * good / 48 < 2 * 24  # at this rate, with something to spare
    fewer, times = map(int, re.search(r"--num_train_samples (\d+) --filter_pool (\d+)", said).groups())
    assert fewer * times == 48 and fewer <= good and fewer > good / 2
    cfg = wants(fewer, filter_pool=times)
    spy.calls.clear()
    kept, _ = chosen(tmp_path / "run", spy, cfg, pool)
    assert kept == [source for source in pool if kind(source) == ""][:fewer]
    assert all("missing" in kinds[start : start + 6] for start, _ in spy.calls)  # the others are not sampled again


def test_a_generation_that_would_not_be_full_is_not_proposed(tiny_gemma, tmp_path, small_blocks):
    cfg = wants(24, filter_pool=2, per_device_batch_size=96)
    with pytest.raises(ConfigError, match=r"--filter_pool \d+ --fresh, about enough at this rate$"):
        chosen(tmp_path / "run", sampler(tiny_gemma, Planted()), cfg, SENTENCES[:48])


def test_no_prompt_at_all(tiny_gemma, tmp_path):
    tied = [source for source in SENTENCES if kind(source) == "tied"]
    with pytest.raises(ConfigError, match=r"0 of \d+ prompts .* raise temperature"):
        chosen(tmp_path / "run", sampler(tiny_gemma, Planted()), wants(5), tied)


# --- several processes ---------------------------------------------------------------------------------


def _chosen(model, folder):
    prompt_filter.BLOCK = 4
    return chosen(folder, sampler(model, Hashed()), wants(12))


def _late(model, folder):
    prompt_filter.BLOCK = 4
    chosen(folder, sampler(model, Hashed()), wants(12, max_hours=1e-9))


def _too_few(model, folder):
    prompt_filter.BLOCK = 4
    chosen(folder, sampler(model, Hashed()), wants(24), SENTENCES[:18])


def test_two_processes_keep_the_prompts_of_one(tiny_policy, tmp_path):
    told = {}
    for count in (1, 2):
        group = Processes(tmp_path / str(count), list(range(count)), _chosen, tiny_policy, tmp_path / f"run{count}")
        told[count] = group.results(120)
    assert told[2] == [*told[1], *told[1]] and len(told[1][0][0]) == 12
    files = [(tmp_path / f"run{count}" / "prompt_filter.json").read_bytes() for count in (1, 2)]
    assert files[0] == files[1] and not (tmp_path / "run2" / PARTIAL).exists()
    ends = Processes(tmp_path / "few", [0, 1], _too_few, tiny_policy, tmp_path / "run").wait(120)
    assert [status for status, _, _ in ends] == [2, 2]
    assert "error: filter_pool: 3: " in ends[0][2] and ends[1][2] == ""
    ends = Processes(tmp_path / "late", [0, 1], _late, tiny_policy, tmp_path / "stopped").wait(120)
    assert [status for status, _, _ in ends] == [75, 75]
    assert "stopped: max_hours, in the prompt filter: 6 prompts" in ends[0][2] and ends[1][2] == ""


# --- the script ----------------------------------------------------------------------------------------


@pytest.fixture
def main(main, monkeypatch):
    """`main` with the planted reward."""
    monkeypatch.setattr(script, "build_reward", lambda cfg: Planted())
    monkeypatch.setattr(prompt_filter, "BLOCK", 4)
    return main


@pytest.fixture
def filtered(tiny_all, tmp_path):
    """filtered(**changes) → flags of a run of two steps on six prompts out of 36, in tmp_path/run."""
    write_data(tmp_path)
    few = {"num_train_samples": 6, "prompt_filter": "headroom", "filter_pool": 6, "max_steps": 2, "save_steps": 1}
    few |= {"temperature": 9.0, "max_new_tokens": 8, "kl_beta": 0.0, "sample_steps": 0, "save_rollouts": True}
    return lambda **changes: [
        *flags(settings(tiny_all, tmp_path, tmp_path / "run", **few | changes)),
        "--skip_launch_gate",
    ]


def kept_in(folder) -> list[str]:
    return json.loads((folder / "prompt_filter.json").read_text(encoding="utf-8"))["kept"]


def read_pool(folder) -> list[str]:
    return [row["source"] for row in MetricsFile(folder / "data" / "train.jsonl").rows()]


def test_a_run_trains_on_the_kept_prompts_and_says_so(filtered, main, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    status, out, err = main(*filtered())
    assert status == 0, err
    pool = read_pool(folder)
    kept = [source for source in pool if kind(source) == ""][:6]
    assert len(pool) == 36 and kept_in(folder) == kept and "prompt filter: 6 prompts kept" in out
    trained = {row["source"] for row in MetricsFile(folder / "rollouts.jsonl").rows()}
    assert trained <= set(kept) and len(trained) == 4
    counts = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["prompt_filter"]
    assert counts["read"] == sum(counts[name] for name in ("kept", "tied", "gated", "missing", "spare"))
    assert counts["pool"] == 36 and counts["kept"] == 6 and counts["samples"] == 4 * counts["read"]
    card = (folder / "final" / "README.md").read_text(encoding="utf-8")
    pool_hash = json.loads((folder / "run_identity.json").read_text(encoding="utf-8"))["identity"]["data"][:12]
    assert f"6 English sentences, sha256 `{pool_hash}`. They were chosen by a filter: of a pool of 36" in card
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert f"Trained on 6 prompts that a filter kept, of {counts['read']} sampled before" in report
    sealed = [folder / f"checkpoint-{step}" / "prompt_filter.json" for step in (1, 2)]
    assert {path.read_bytes() for path in sealed} == {(folder / "prompt_filter.json").read_bytes()}

    before = tree(folder)
    status, out, _ = main(*filtered(), "--eval_only")
    assert status == 0 and "held-out, 6 rows" in out and tree(folder) == before

    # A resumed run uses the sealed prompts, also under settings that may change, and refuses another pool.
    (folder / "evaluation.json").unlink()
    (folder / "prompt_filter.json").write_text("[damaged")
    monkeypatch.setattr(GroupSampler, "__call__", lambda *_, **__: pytest.fail("sampled again"))
    for change, said in (({"filter_pool": 5}, "filter_pool: 6 → 5"), ({"prompt_filter": "none"}, "headroom → none")):
        status, _, err = main(*filtered(**change))
        assert status == 4 and said in err and "--fresh" in err
    status, out, err = main(*filtered(max_steps=3, temperature=8.0))
    assert status == 0 and "step 3/3" in out and "step 2/3" not in out, err
    assert (folder / "prompt_filter.json").read_bytes() == sealed[1].read_bytes()
    assert json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["prompt_filter"] == counts


@pytest.mark.parametrize("how", ["kept", "kept and read", "verdicts"])
def test_prompts_that_were_replaced_after_a_stop_are_refused(filtered, main, tmp_path, how):
    folder = tmp_path / "run"
    assert main(*filtered())[0] == 0
    (folder / "evaluation.json").unlink()
    path = folder / "prompt_filter.json"
    original = path.read_bytes()
    stored = json.loads(original)
    others = [row for row in stored["prompts"] if row["verdict"]][:6]
    assert len(others) == 6
    if how == "kept":  # the rows that were read contradict it
        stored["kept"] = [row["source"] for row in others]
    elif how == "kept and read":  # the pool contradicts it
        stored["kept"] = [f"Other sentence {i}." for i in range(6)]
        stored["prompts"] = [{"source": source, "verdict": ""} for source in stored["kept"]]
    else:  # only the checkpoint contradicts it
        for row in stored["prompts"]:
            row["verdict"] = "" if row in others else "tied"
        stored["kept"] = [row["source"] for row in others]
    path.write_text(json.dumps(stored), encoding="utf-8")
    status, out, err = main(*filtered(max_steps=3))
    assert status == 4 and "prompt_filter.json" in err and "step 3/3" not in out, err
    path.write_bytes(original)
    status, out, err = main(*filtered(max_steps=3))
    assert status == 0 and "step 3/3" in out, err


def test_a_report_whose_rows_are_damaged_is_made_again(tiny_policy, tmp_path, small_blocks):
    sample, cfg, path = sampler(tiny_policy, Hashed()), wants(6), tmp_path / "run" / "prompt_filter.json"
    kept, _ = chosen(tmp_path / "run", sample, cfg)
    whole = path.read_bytes()
    stored = json.loads(whole)
    for damage in ({"prompts": [{}]}, {"prompts": [1]}, {"kept": SENTENCES[-6:]}, {"prompts": None}):
        path.write_text(json.dumps(stored | damage), encoding="utf-8")
        assert chosen(tmp_path / "run", sample, cfg)[0] == kept and path.read_bytes() == whole


def test_with_force_another_pool_is_read_and_filtered_again(filtered, main, tmp_path):
    folder = tmp_path / "run"
    assert main(*filtered(max_steps=1))[0] == 0
    (folder / "evaluation.json").unlink()
    status, out, err = main(*filtered(filter_pool=8), "--force")
    assert status == 0, err
    assert "filter_pool: 6 → 8" in (folder / "earlier-data" / "WHY.txt").read_text(encoding="utf-8")
    assert "prompt_filter.json is made again: the prompts were chosen with another pool" in out
    pool = read_pool(folder)
    assert len(pool) == 48 and kept_in(folder) == [source for source in pool if kind(source) == ""][:6]


def test_a_report_comes_before_a_filter_in_the_same_folder(filtered, main, tmp_path, monkeypatch):
    """The report reads num_train_samples prompts, the filter a pool; no step was trained on the former."""
    monkeypatch.setattr(script, "build_reward", lambda cfg: Hashed())  # no scores are missing
    folder = tmp_path / "run"
    status, _, err = main(*filtered(prompt_filter="none", headroom_prompts=6), "--headroom")
    assert status == 0 and len(read_pool(folder)) == 6, err
    report = (folder / "headroom.json").read_bytes()
    status, _, err = main(*filtered(), "--eval_only")
    assert status == 2 and "num_train_samples was 6 and is now 36" in err and len(read_pool(folder)) == 6
    status, out, err = main(*filtered(headroom_prompts=6))
    assert status == 0 and len(read_pool(folder)) == 36 and len(kept_in(folder)) == 6, err
    assert out.count("had the data of other settings") == 1
    assert "num_train_samples was 6" in (folder / "earlier-data" / "WHY.txt").read_text(encoding="utf-8")
    assert (folder / "headroom.json").read_bytes() == report and "sampling 4 outputs of each" not in out
    # With a checkpoint the data stay where they are, and damaged ones do so always.
    (folder / "evaluation.json").unlink()
    status, _, err = main(*filtered(prompt_filter="none"))
    assert status == 4 and len(read_pool(folder)) == 36 and not (folder / "earlier-data-2").exists()
    main(*filtered(output_dir=tmp_path / "new", prompt_filter="none", headroom_prompts=6), "--headroom")
    (tmp_path / "new" / "data" / "train.jsonl").write_text("")
    status, _, err = main(*filtered(output_dir=tmp_path / "new", prompt_filter="none"))
    assert (
        status == 2 and "was changed after it was written" in err and not (tmp_path / "new" / "earlier-data").exists()
    )


def test_linked_data_of_other_settings_stay_where_they_are(filtered, main, tmp_path):
    shared, folder = tmp_path / "shared", tmp_path / "run"
    shared.mkdir()
    folder.mkdir()
    (folder / "data").symlink_to(shared)
    assert main(*filtered(prompt_filter="none"), "--eval_only")[0] == 0
    before = tree(shared)
    status, _, err = main(*filtered())
    assert status == 2 and "num_train_samples was 6 and is now 36" in err
    assert tree(shared) == before and (folder / "data").is_symlink()


def _stopped_in_the_pass(argv, how):
    """The script, ended at its third block."""
    script.build_reward = lambda cfg: Planted()
    prompt_filter.BLOCK = 4
    original, calls = GroupSampler.__call__, []

    def call(self, *args, **options):
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), how)
        return original(self, *args, **options)

    GroupSampler.__call__ = call
    return script.main(argv)


def test_max_hours_count_from_the_start_of_the_command(filtered, main, tmp_path):
    status, out, err = main(*filtered(max_hours=1e-9))
    assert status == 75 and "stopped: max_hours, in the prompt filter: " in err, err
    assert "\ncontinue with: " in err and "step 1/" not in out and (tmp_path / "run" / PARTIAL).exists()
    status, out, err = main(*filtered())
    assert status == 0 and " prompts were read before" in out and "step 2/2" in out, err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_stopped_in_the_pass_ends_as_one_that_was_not(filtered, main, tmp_path, how):
    assert main(*filtered(output_dir=tmp_path / "whole"))[0] == 0
    trial = fault_trials.Trial(tmp_path / "log", _stopped_in_the_pass, filtered(), how)
    status, _, err = trial.wait(120)
    assert status == 128 + how and (how == signal.SIGKILL or re.search(r"^continue with: ", err, re.MULTILINE)), err
    status, out, err = main(*filtered())
    assert status == 0 and "prompt filter: " in out and " prompts were read before" in out, err
    for name in ("prompt_filter.json", "rollouts.jsonl", "evaluation.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_the_advice_for_too_few_prompts_works(filtered, main, tmp_path):
    line = filtered(num_train_samples=16, filter_pool=2)
    status, _, err = main(*line)
    assert status == 2 and err.startswith("error: filter_pool: 2: "), err
    before = (tmp_path / "run" / PARTIAL).read_bytes()
    assert before and not (tmp_path / "run" / "prompt_filter.json").exists()
    more = re.search(r"--filter_pool \d+ --fresh", err)[0].split()
    fewer = re.search(r"--num_train_samples \d+ --filter_pool \d+", err)[0].split()
    status, _, err = main(*line, *more)
    assert status == 0 and len(kept_in(tmp_path / "run-2")) == 16, err
    assert (tmp_path / "run" / PARTIAL).read_bytes() == before
    status, out, err = main(*line, *fewer)
    assert status == 0 and len(kept_in(tmp_path / "run")) == int(fewer[1]), err
    assert " prompts were read before" in out and not (tmp_path / "run" / PARTIAL).exists()


def test_too_few_rows_name_both_settings(filtered, main, tmp_path):
    status, _, err = main(*filtered(num_train_samples=24, filter_pool=50))
    assert status == 2 and "1200 to train on (num_train_samples 24 × filter_pool 50) and 6 held out are wanted" in err
    assert "lower num_train_samples or filter_pool" in err and tree(tmp_path / "run") == {}
    status, _, err = main(*filtered(num_train_samples=1200, prompt_filter="none"))
    assert status == 2 and "1200 to train on and 6 held out are wanted" in err and "filter_pool" not in err


@pytest.mark.parametrize("action", [("--eval_only",), ("--doctor",), ("--doctor", "--dry_step"), ("--download",)])
def test_other_actions_sample_nothing(filtered, main, tmp_path, monkeypatch, action):
    monkeypatch.setattr(GroupSampler, "__call__", lambda *_, **__: pytest.fail("sampled"))
    status, out, err = main(*filtered(), *action)
    assert status == 0, out + err
    assert {path.name for path in (tmp_path / "run").glob("*")} <= {"data"}
    if action == ("--eval_only",):
        assert len(read_pool(tmp_path / "run")) == 36  # the data of training: the held-out rows are the same


def test_a_pool_as_small_as_the_data(filtered, main, tmp_path):
    status, _, err = main(*filtered(filter_pool=1))
    assert status == 2 and "error: filter_pool: 1: " in err and " of 6 prompts read " in err
