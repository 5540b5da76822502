"""The benches end to end in their smallest form, their texts, and the checkpoints they build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_run
import torch
import yaml

from bench import measure, pocket_step, reward_throughput, shapes, texts

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "row",
    "backend",
    "shape",
    "n",
    "ratio",
    "seconds_ours",
    "seconds_straightforward",
    "max_difference",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folder in which this file's runs build their tiny checkpoints, once."""
    return tmp_path_factory.mktemp("models")


# ------------------------------------------------------------------ texts


def test_texts_have_the_lengths_and_repeats_they_claim():
    items = texts.items(128, "real")
    words = [len(item.english.split()) for item in items[::8]]
    assert len(items) == 128 and 5 <= min(words) < 12 and 40 < max(words) <= 60
    assert 15 <= sorted(words)[8] <= 21  # the median of 18, give or take a clause
    for column in ("tamil", "back"):
        assert texts.repeat_share([getattr(item, column) for item in items]) == pytest.approx(39 / 128)
    assert texts.repeat_share([item.tamil for item in texts.items(128, "none")]) == 0
    assert items == texts.items(128, "real") != texts.items(128, "real", seed=1)


def test_texts_are_single_sentences_of_one_script():
    from rl_nmt.text.sentences import split_sentences

    for item in texts.items(64, "none"):
        assert split_sentences(item.tamil) == [item.tamil]  # otherwise the two routes would translate different texts
        assert not texts.LATIN.search(item.tamil) and not texts.TAMIL.search(item.english + item.back)
        assert item.back != item.english


def test_repeat_share_counts_within_groups():
    one, other = ["a", "a", "b", "c", "d", "e", "f", "g"], ["a"] * 8
    assert texts.repeat_share(one) == 1 / 8
    assert texts.repeat_share(one + other) == 8 / 16


def test_unknown_duplicates_are_refused():
    with pytest.raises(ValueError, match="duplicates"):
        texts.items(8, "some")


# ------------------------------------------------------------------ checkpoints


def test_the_translator_maps_every_token_and_ends_with_its_source(models):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder = shapes.nllb("tiny", models)
    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="tam_Taml")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    codes = model.model.shared.weight.detach()
    tag = tokenizer.convert_tokens_to_ids("eng_Latn")
    for text in {item.tamil for item in texts.items(32, "none")[::3]}:
        source = tokenizer([text], return_tensors="pt")
        output = model.generate(**source, forced_bos_token_id=tag, num_beams=4, max_new_tokens=256)[0, 2:]
        tokens = source["input_ids"][0, 1:]  # without the tag
        assert len(output) == len(tokens) and output[-1] == tokenizer.eos_token_id
        # A token and its partner have the same code, in the same half or in the other one.
        assert torch.equal(codes[tokens].sort(dim=1).values, codes[output].sort(dim=1).values)
        assert not texts.TAMIL.search(tokenizer.decode(output, skip_special_tokens=True))


def test_a_checkpoint_is_built_once(models, capsys):
    folder = shapes.nllb("tiny", models)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert shapes.nllb("tiny", models) == folder and capsys.readouterr().err == ""
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_building_leaves_the_random_state_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    shapes.comet("regression_metric", "tiny", tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("shape", "comet_millions", "nllb_millions"),
    [("base", 270, 615), ("large", 550, 1370)],  # arXiv 1911.02116, Table 1; the model cards of NLLB-200 distilled
)
def test_the_published_sizes(shape, comet_millions, nllb_millions):
    sizes = shapes.COMET[shape]
    layers = sizes.layers * 12 * sizes.hidden**2  # attention 4 H², feed-forward 2 · 4 H²
    assert sizes.rows * sizes.hidden + layers == pytest.approx(comet_millions * 1e6, rel=0.04)
    sizes = shapes.NLLB[shape]
    attention, feed_forward = 4 * sizes.hidden**2, 2 * sizes.hidden * sizes.ffn
    layers = sizes.layers * (3 * attention + 2 * feed_forward)  # the decoder attends twice
    assert sizes.rows * sizes.hidden + layers == pytest.approx(nllb_millions * 1e6, rel=0.01)


# ------------------------------------------------------------------ measuring


def test_rounds_are_paired_and_alternate():
    calls = []
    routes = {name: lambda name=name: calls.append(name) or name.upper() for name in "abc"}
    timed = measure.paired(routes, 3, "cpu")
    assert "".join(calls) == "cbaabccbaabc"
    assert timed.results == {"a": "A", "b": "B", "c": "C"}
    assert {len(seconds) for seconds in timed.seconds.values()} == {3}


def test_the_ratio_is_the_median_of_pairs_not_of_medians():
    timed = measure.Timed({"x": [2.0, 30.0, 4.0], "y": [1.0, 10.0, 4.0]}, {})
    assert timed.ratio("x", "y") == 2.0  # pairs 2, 3, 1
    assert timed.median("x") == 4.0


def test_spearman_is_taken_within_groups():
    rising, falling = [float(i) for i in range(8)], [float(-i) for i in range(8)]
    assert measure.spearman(rising + rising, rising + falling) == pytest.approx(0.0)
    assert measure.spearman([1.0] * 8 + rising, rising + rising) == pytest.approx(1.0)  # a flat group does not count
    assert measure.spearman([1.0] * 8, rising) is None


def test_agreement_refuses_missing_scores():
    from rl_nmt.scorers.base import Scores, Span

    with pytest.raises(RuntimeError, match="without a score"):
        reward_throughput.agreement(Scores([0.5]), Scores([None]))
    one, other = Span(0, 3, "minor", 0.9), Span(0, 3, "major", 0.9)
    found = reward_throughput.agreement(Scores([0.5, 0.25], [[one], []]), Scores([0.5, 0.5], [[other], []]))
    assert found["max_difference"] == 0.25 and found["equal"] == 0.5


def test_step_order_warms_up_and_alternates():
    order = pocket_step.step_order(2)
    assert order == ["straightforward", "ours", "ours", "straightforward", "straightforward", "ours"]


def test_step_summary_by_hand():
    def step(route, seconds, reward):
        return {"route": route, "seconds": seconds, "time/reward": reward, "time/generate": seconds / 4}

    steps = [
        step("ours", 4.0, 1.0),
        step("straightforward", 8.0, 4.0),
        step("straightforward", 6.0, 3.0),
        step("ours", 2.0, 1.0),
    ]
    found = pocket_step.summary(steps)
    assert found["ratio"] == 2.5 and found["reward_ratio"] == 3.5  # pairs 2 and 3; 4 and 3
    assert found["step_seconds_ours"] == 3.0 and found["step_seconds_straightforward"] == 7.0
    assert found["stages_ours"]["generate"] == 0.25 and found["stages_ours"]["rest"] == 0.75


def test_route_agreement_by_hand():
    def row(back, total):
        return {"backtranslation": back, "total": total}

    ours = [row("a", 0.5), row("b", 0.25), row(None, 0.0), row("d", None)]
    plain = [row("a", 0.625), row("c", 0.75), row(None, 0.0), row("d", None)]
    found = pocket_step.agreement(ours, plain)
    assert found == {"equal": 0.75, "max_difference": 0.125, "max_difference_all": 0.5}
    with pytest.raises(RuntimeError, match="other has not"):
        pocket_step.agreement([row("a", None)], [row("a", 0.5)])


def test_the_machine_line_names_no_host():
    import platform

    line = measure.machine("cpu")
    assert f"torch {torch.__version__}" in line and platform.node() not in line


# ------------------------------------------------------------------ end to end


def test_reward_throughput(models, capsys):
    pytest.importorskip("comet")  # the straightforward route
    line = ["--n", "8", "--rounds", "1", "--json", "--models", str(models)]
    assert reward_throughput.main(line) == 0
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert all(row.keys() >= KEYS and row["n"] == 8 and row["shape"] == "tiny" for row in rows)
    by_name = {(row["row"], row["backend"]): row for row in rows}
    assert {row for row, _ in by_name} == {"cycle", "qe", "xcomet", "backtranslate", "reward"}
    for row in rows:
        assert row["ratio"] > 0 and row["seconds_ours"] > 0
        assert row["ratio"] == pytest.approx(row["seconds_straightforward"] / row["seconds_ours"])  # of one round
    for name in ("cycle", "qe", "xcomet"):
        assert by_name[name, "torch"]["max_difference"] < 1e-5
        assert 0 < by_name[name, "bf16"]["max_difference"] < 0.05
        assert by_name[name, "torch"]["tokens"] < by_name[name, "torch"]["tokens_straightforward"]
    for backend in ("transformers", "ctranslate2"):
        assert by_name["backtranslate", backend]["equal"] == 1.0
        assert by_name["reward", backend]["max_difference"] < 1e-5
        assert sum(by_name["reward", backend]["stages"].values()) == pytest.approx(1.0)


def test_reward_throughput_refuses_unknown_rows(capsys):
    with pytest.raises(SystemExit):
        reward_throughput.main(["--only", "cycle,nothing"])
    assert "nothing is not a row" in capsys.readouterr().err


def test_large_shapes_take_eight_samples_on_a_cpu():
    assert reward_throughput.parse(["--shape", "large"]).n == 8
    assert reward_throughput.parse(["--shape", "large", "--device", "cuda"]).n == 32
    assert "reward" not in reward_throughput.parse(["--shape", "base"]).rows


def test_memory(models, capsys):
    line = ["--memory", "--calls", "3", "--early", "2", "--n", "2", "--models", str(models)]
    assert reward_throughput.main(line) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 2 and found["backend"] == "transformers"
    assert found["bytes"] > 50 * 2**20  # torch alone is more
    assert found["growth"] == pytest.approx(found["bytes"] / found["bytes_early"] - 1)
    with pytest.raises(SystemExit):
        reward_throughput.main([*line, "--early", "3"])


LEAK = """
import torch
from bench import measure
kept = []
found = measure.memory_growth(lambda number: kept.append(torch.ones(10 << 20)), calls=10, early=5)
print(found["bytes"] - found["bytes_early"])
"""


def test_memory_sees_a_leak():
    # In a process of its own: here, memory that earlier tests free meanwhile would count against the leak.
    done = subprocess.run([sys.executable, "-c", LEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(5 * 40 * 2**20, rel=0.1)


def test_pocket_step(tiny_all, tmp_path, capsys):
    tiny_run.write_data(tmp_path)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_run.settings(tiny_all, tmp_path, tmp_path / "run")), encoding="utf-8")
    assert pocket_step.main(["--config", str(config), "--pairs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 1 and found["ratio"] > 0 and found["max_difference"] < 1e-5
    for route in pocket_step.ROUTES:
        shares = found[f"stages_{route}"]
        assert set(shares) == {*pocket_step.STAGES, "rest"} and sum(shares.values()) == pytest.approx(1.0)
        assert shares["update"] > 0 and shares["generate"] > 0 and shares["rest"] > -0.05


def test_the_document_mentions_every_bench():
    document = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert scripts >= {"reward_throughput", "pocket_step", "pocket_seeds"}
    assert {name for name in scripts if f"bench.{name}" not in document} == set()


def test_a_bench_run_as_a_file_prints_how_to_run_it():
    """Its first import from the repository must be `bench`, so that no other import fails before."""
    for path in (ROOT / "bench").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "__main__" in text:
            own = re.search(
                r"^(?:from|import) (bench|pocket|recipes|rl_nmt|train_grpo_en_ta|rewards_en_ta_dupo)\b", text, re.M
            )
            assert own and own[1] == "bench", path
    for name in ("pocket_seeds", "presets"):
        done = tiny_run.command(f"bench/{name}.py", "--help", PYTHONPATH="")
        assert done.returncode == 2 and done.stderr.endswith(f"`python -m bench.{name}`\n"), done.stderr


def test_train_step(tmp_path, capsys):
    """Two lines of a sweep: lengths are as forced, the stages add up, the reward is that of recorded texts."""
    from bench import train_step

    line = ["--group_sizes", "2", "4", "--lengths", "6", "--prompts", "2", "--steps", "1", "--beams", "1"]
    assert train_step.main([*line, "--models", str(tmp_path), "--json"]) == 0
    found = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [(row["group_size"], row["completions"]) for row in found] == [(2, 4), (4, 8)]
    for row in found:
        parts = row["time/generate"] + row["time/reward"] + row["time/update"]
        assert 0.8 * row["seconds"] < parts <= 1.02 * row["seconds"] and 0 < row["reward_share"] < 1
        assert row["per_completion"] == pytest.approx(row["seconds"] / row["completions"])
