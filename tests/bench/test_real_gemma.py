"""bench.real_gemma: the whole of it with a tiny Gemma, and its table from results on disk."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import tiny_models
import tiny_run
import torch
import yaml
from sacrebleu.metrics import CHRF
from tiny_models import PAIRS

import train_grpo_en_ta as script
from bench import real_gemma
from rl_nmt import config
from rl_nmt.models import policy
from rl_nmt.results.evaluation import Snapshot
from rl_nmt.scorers.reconstruction import EXAMPLES

WORKED = [*PAIRS, *PAIRS[:4]]  # the fewest that the setting takes
ROWS = [*PAIRS, *((source, PAIRS[i % 12][1]) for i, source in enumerate(tiny_run.SENTENCES[:60])), *PAIRS[:4]]
ROWS[40] = ("One that is longer than all others are, and longer than max_chars allows it to be.", PAIRS[0][1])
SMALL = "--max_steps 2 --lora_rank 0 --max_new_tokens 24 --sft.lr 1e-3 --min_chars 8 --patience 0"
SMALL += " --w_cycle 0"


@pytest.fixture(scope="module")
def gemma(tiny_policy, tmp_path_factory):
    """The tiny policy, taught to continue worked pairs, so that it can score (tests/scorers/test_reconstruction.py)."""
    folder = tmp_path_factory.mktemp("gemma")
    tokenizer = policy.load_tokenizer(str(tiny_policy))
    model = policy.load_policy(str(tiny_policy), tokenizer, policy.Precision("cpu", torch.float32, False, ""))
    texts = [f"<bos>{script.make_prompt(source)}{output}<end_of_turn>" for source, output in PAIRS]
    for pair in WORKED[EXAMPLES:]:
        shown = [*WORKED[:EXAMPLES], pair]
        texts.append("<bos>" + "".join(f"English: {source}\nTamil: {output}\n\n" for source, output in shown))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny_models.teach(model, tokenizer, texts, 150)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def line(tmp_path):
    """The command line of a small bench, without its model, and its output folder."""
    pairs, worked, output = tmp_path / "pairs.tsv", tmp_path / "worked.tsv", tmp_path / "out"
    pairs.write_text("".join(f"{source}\t{target}\n" for source, target in ROWS), encoding="utf-8")
    worked.write_text("".join(f"{source}\t{target}\n" for source, target in WORKED), encoding="utf-8")
    own = ["--gemma", "gemma", "--pairs", str(pairs), "--output", str(output), "--rows", "12", "60", "4"]
    own += ["--max_chars", "60", "--runs", "1", "--", *SMALL.split(), "--worked_examples", str(worked)]
    return own, output


def test_the_whole_bench_with_a_tiny_model(line, gemma, monkeypatch):
    """In this process instead of one for each arm, which would only import torch again.

    Without RAFT: it depends on the samples of a tiny model whether one of them beats the greedy output.
    """
    words, output = line
    words = ["--arms", "base", "sft", "grpo", "--gemma", str(gemma), *words[2:]]
    asked, plain = [], subprocess.run

    def run(command, **options):
        if "--one" not in command:  # of a library
            return plain(command, **options)
        asked.append(command[command.index("--one") + 1])
        assert options["env"]["OMP_NUM_THREADS"] == "1" and real_gemma.main(command[3:]) == 0

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("rewards_en_ta_dupo.require_scale", lambda *told: None)  # it knows no other sentences
    assert real_gemma.main(words) == 0
    assert asked == ["base", "sft", "grpo-1"]
    table = (output / "table.md").read_text(encoding="utf-8").splitlines()
    assert table[0] == "| 4 held-out rows | chrF++ | in Tamil | gated | reward |"
    labels = ["as it is", "after SFT", "GRPO, run 1", "GRPO − after SFT, paired by row"]
    assert [row.split(" | ")[0][2:] for row in table[2:]] == labels
    header, *samples = (output / "samples.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t")[:4] == ["source", "reference", "base", "base reward"] and len(samples) == 4
    assert samples[0].split("\t")[:2] == list(PAIRS[0])
    settings = yaml.safe_load((output / "grpo-1" / "resolved_config.yaml").read_text(encoding="utf-8"))
    assert settings["model_id"] == str(output / "sft" / "sft" / "final") and settings["max_steps"] == 2
    assert (output / "sft" / "sft" / "final" / "model.safetensors").exists()
    assert real_gemma.main(words) == 0 and len(asked) == 3  # finished arms are not repeated
    with pytest.raises(SystemExit, match="output"):
        real_gemma.main([*words, "--lr", "1e-3"])


def test_rows_are_split_in_order_and_by_length(line):
    words, output = line
    real_gemma.write_data(real_gemma.parse(words))
    sft, english, heldout = (
        [json.loads(row) for row in (output / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("sft", "english", "heldout")
    )
    assert [row["english"] for row in sft] == [source for source, _ in PAIRS]
    assert [row["text"] for row in english] == [source for source, _ in ROWS[12:72] if len(source) <= 60]
    assert [row["tamil"] for row in heldout] == [output for _, output in PAIRS[:4]]
    words[words.index("--rows") + 1] = "700"
    with pytest.raises(SystemExit, match="pairs"):
        real_gemma.write_data(real_gemma.parse(words))


@pytest.mark.parametrize("name", ["base", "sft", "grpo-2", "raft"])
def test_the_flags_of_an_arm_are_settings(line, name):
    words, output = line
    args = real_gemma.parse(words)
    real_gemma.write_data(args)
    cfg, actions, _ = config.parse(script.RunCfg, real_gemma.flags(args, name), script.ACTIONS, "x", "")
    assert cfg.likelihood_model == args.gemma and cfg.cycle == cfg.qe == "likelihood" and actions["skip_launch_gate"]
    assert cfg.model_id == (args.gemma if name in ("base", "sft") else str(output / "sft" / "sft" / "final"))
    assert (cfg.method == "raft") == (name == "raft") and cfg.seed == (2 if name == "grpo-2" else 1)
    script.check(cfg)


def snapshot(outputs: list[str], totals: list[float | None]) -> Snapshot:
    components = [{"total": total, "gate": "empty" if total == 0 else None} for total in totals]
    return Snapshot([source for source, _ in PAIRS[:3]], [output for _, output in PAIRS[:3]], outputs, components, {})


def test_the_table_is_of_rows_and_runs():
    right = [output for _, output in PAIRS[:3]]
    found = {
        "sft": snapshot([right[0], "", "not Tamil"], [0.5, 0.0, 0.25]),
        "grpo-1": snapshot([right[0], right[1], "not Tamil"], [0.5, 0.5, 0.5]),
        "grpo-2": snapshot(right, [1.0, 1.0, None]),
    }
    assert list(found) == real_gemma.processes(["sft", "grpo"], 2)
    lines = real_gemma.table(found)
    chrf = CHRF(word_order=2).corpus_score(found["sft"].outputs, [right]).score
    assert (
        lines[2].startswith(f"| after SFT | {chrf:.1f} [") and "| 0.33 [0.00, 1.00] | 0.33 [0.00, 1.00] |" in lines[2]
    )
    assert lines[3].endswith("| 0.67 [0.00, 1.00] | 0.00 [0.00, 0.00] | 0.500 [0.500, 0.500] |")
    assert lines[4].startswith("| GRPO, run 2 | 100.0 [100.0, 100.0] | 1.00 [1.00, 1.00]")
    assert lines[5].startswith("| GRPO, mean of 2 runs |") and "0.83 [" in lines[5]
    assert lines[5].endswith("| 0.750 [0.500, 1.000] |")  # either run, whatever the rows
    assert lines[6].startswith("| GRPO − after SFT, paired by row | +") and "| -0.33 [-1.00, +0.00] |" in lines[6]
    raft = real_gemma.table({"raft": found["sft"], "grpo-1": found["grpo-1"]})
    assert raft[2][:9] == "| RAFT | " and raft[-1].endswith("| -0.33 [-1.00, +0.00] | +0.250 [+0.000, +0.500] |")
    value, draws = real_gemma.measured([found["sft"], found["sft"]], "reward")
    assert value == 0.25 and np.array_equal(draws, real_gemma.measured([found["sft"]], "reward")[1])
