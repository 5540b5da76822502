"""smoke_test_rewards.py: look at a reward by hand."""

from __future__ import annotations

import json
import re

import pytest
import torch
from tiny_models import PAIRS
from tiny_run import command, flags, settings, write_data

import rewards_en_ta_dupo
import smoke_test_rewards
from rl_nmt import errors
from rl_nmt.errors import ConfigError


@pytest.fixture
def smoke(tiny_all, tmp_path, capsys):
    """smoke(argv) → (exit status, stdout, stderr) with the tiny models."""
    write_data(tmp_path)
    models = settings(tiny_all, tmp_path, tmp_path / "run")

    def call(*argv, **changes):
        capsys.readouterr()
        line = [*flags(models | changes), *map(str, argv)]
        with torch.random.fork_rng(devices=[]), pytest.raises(SystemExit) as left:
            errors.run(lambda: smoke_test_rewards.main(line))
        out, err = capsys.readouterr()
        return left.value.code, out, err

    return call


def table(out: str) -> list[list[str]]:
    """The number lines below the head, as words."""
    lines = out.splitlines()
    assert lines[0].split() == ["total", "cycle", "qe", "script", "length", "gate"]
    return [line.split() for line in lines[1:-1] if not line.startswith("       ")]


def test_one_pair(smoke):
    status, out, _ = smoke("--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1])
    assert status == 0
    ((total, cycle, qe, script, length, gate),) = table(out)
    assert gate == "passes" and (script, length) == ("0.000", "0.000")
    assert float(total) == pytest.approx(0.6 * float(cycle) + 0.4 * float(qe), abs=2e-3)
    assert f"english  {PAIRS[0][0]}" in out and f"tamil    {PAIRS[0][1]}" in out and f"back     {PAIRS[0][0]}" in out


def test_several_pairs_and_the_signature(smoke):
    line = [word for english, tamil in PAIRS[:3] for word in ("--prompt", english, "--tamil", tamil)]
    status, out, _ = smoke(*line, "--prompt", "Hello.", "--tamil", "")
    assert status == 0 and [row[-1] for row in table(out)] == ["passes"] * 3 + ["empty"]
    assert table(out)[-1][:3] == ["0.000", "–", "–"]
    signature = json.loads(out.splitlines()[-1])
    assert set(signature) == {"identity", "environment"} and signature["identity"]["w_cycle"] == 0.6


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pairs.tsv", "".join(f"{en}\t{ta}\n" for en, ta in PAIRS[:2])),
        ("head.tsv", "English\tTamil\r\n" + "".join(f"{en}\t{ta}\r\n" for en, ta in PAIRS[:2])),
        ("third.tsv", "".join(f'{en}\t{ta}\t"note\n' for en, ta in PAIRS[:2])),
        ("bom.tsv", "\ufeff" + "\n\n".join(f"{en}\t{ta}" for en, ta in PAIRS[:2])),
        ("pairs.jsonl", "".join(json.dumps({"english": en, "tamil": ta, "x": 1}) + "\n" for en, ta in PAIRS[:2])),
        ("raw.jsonl", "".join(f'{{"english": "{en}\u2028", "tamil": "{ta}"}}\n' for en, ta in PAIRS[:2])),
    ],
)  # fmt: skip
def test_files(smoke, tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    status, out, err = smoke("--file", tmp_path / name)
    assert status == 0, err
    assert len(table(out)) == 2
    assert [line.split("english  ")[1] for line in out.splitlines() if "english  " in line] == [
        en for en, _ in PAIRS[:2]
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"only english\n", "line 1 has no tab"),
        ("a.jsonl", b'{"english": "x", "tamil": "y"}\n{"english": "x"}\n', "line 2 is no JSON with english and tamil"),
        ("a.jsonl", b"[1]\n", "line 1 is no JSON"),
        ("a.tsv", b"\xff\t\xff", "cannot be read as UTF-8"),
        ("a.tsv", b"\n \n", "holds no pairs"),
        ("gone.tsv", None, "cannot be read"),
    ],
)
def test_bad_files_are_one_line(smoke, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    status, out, err = smoke("--file", tmp_path / name)
    assert (status, out) == (2, "") and said in err and err.startswith("error: --file: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--prompt", "x"], 2, "give one of each per pair"),
        (["--samples", "many"], 2, "argument --samples: invalid int value"),
        (["--sample", "3"], 2, "unknown flag --sample: did you mean"),
        (["--w_qe", "-1"], 2, "w_qe: -1.0"),
        (["--comet_da_model", "/gone"], 2, "comet_da_model: no such folder: /gone"),
        (["--comet_da_model", "acme/gone"], 69, "comet_da_model: acme/gone is not on this machine"),
    ],
)
def test_bad_arguments_are_one_line(smoke, argv, status, said):
    found, out, err = smoke(*argv)
    assert (found, out) == (status, "") and said in err
    assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


def test_the_demonstration_ranks_what_it_can(smoke):
    status, out, _ = smoke()
    rows = table(out)
    assert status == 0 and len(rows) == len(smoke_test_rewards.DEMO) == 6
    gates = [row[-1] for row in rows]
    assert gates[:2] == ["passes", "script"] and gates[3] == "empty"
    assert float(rows[0][0]) > 0 == float(rows[1][0]) == float(rows[3][0])


def test_a_policy_translates(smoke):
    status, out, err = smoke("--samples", "2", max_new_tokens=40)
    assert status == 0, err
    assert len(table(out)) == 2 * 4  # group_size samples each
    assert len(set(re.findall(r"english  (.+)", out))) == 2
    assert any(row[-1] == "passes" for row in table(out))
    again = smoke("--samples", "2", max_new_tokens=40)[1]
    assert again == out  # seeded


def test_a_missing_score_is_status_3(smoke, monkeypatch):
    class Silent(rewards_en_ta_dupo.CometDuPOReward):
        """The real reward, whose judge loses the first sample."""

        def _safely(self, argument, function, items):
            values = super()._safely(argument, function, items)
            return [None, *values[1:]] if argument == "comet_qe_model" else values

    monkeypatch.setattr(rewards_en_ta_dupo, "CometDuPOReward", Silent)
    line = [word for english, tamil in PAIRS[:2] for word in ("--prompt", english, "--tamil", tamil)]
    status, out, err = smoke(*line)
    assert status == 3 and [row[0] == "–" for row in table(out)] == [True, False]
    assert err.splitlines()[-1] == "error: 1 of 2 samples have no score; the warnings above say why"


def test_help_and_the_command_itself(tiny_all, tmp_path):
    shown = command("smoke_test_rewards.py", "--help")
    assert shown.returncode == 0 and "--prompt" in shown.stdout and shown.stderr == ""
    (tmp_path / "s.yaml").write_text(json.dumps(settings(tiny_all, tmp_path, tmp_path / "run")), encoding="utf-8")
    done = command(
        "smoke_test_rewards.py", "--config", tmp_path / "s.yaml", "--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1]
    )
    assert done.returncode == 0 and len(table(done.stdout)) == 1
    assert not re.search("Warning|frozen|Traceback", done.stderr), done.stderr


def test_reading_pairs_names_the_file():
    with pytest.raises(ConfigError, match=r"--file: .*gone"):
        smoke_test_rewards.read_pairs(smoke_test_rewards.Path("gone.tsv"))
