"""smoke_test_rewards.py: inspect a reward by hand."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
import telugu
import torch
from tiny_models import PAIRS
from tiny_run import command, flags, settings, write_data

import rewards_en_ta_dupo
import smoke_test_rewards
from rl_nmt import errors


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
    assert lines[0].split() == ["total", "cycle", "qe", "foreign", "length", "copied", "fidelity", "gate"]
    return [line.split() for line in lines[1:-1] if not re.match(" {7}(english|tamil|back) ", line)]


def test_one_pair(smoke):
    status, out, _ = smoke("--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1])
    assert status == 0
    ((total, cycle, qe, *penalties, gate),) = table(out)
    assert gate == "passes" and penalties == ["0.000"] * 4
    assert float(total) == pytest.approx(0.6 * float(cycle) + 0.4 * float(qe), abs=2e-3)
    assert f"english  {PAIRS[0][0]}" in out and f"tamil    {PAIRS[0][1]}" in out and f"back     {PAIRS[0][0]}" in out


def test_a_precision_is_chosen_and_printed(smoke):
    status, out, err = smoke("--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1], reward_dtype="auto")
    assert status == 0 and err.count("reward_dtype auto: float32 (on cpu)") == 1
    assert json.loads(out.splitlines()[-1])["identity"]["qe"]["dtype"] == "float32"


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
        ("pairs.jsonl", "".join(json.dumps({"source": en, "reference": ta, "x": 1}) + "\n" for en, ta in PAIRS[:2])),
        ("raw.jsonl", "".join(f'{{"source": "{en}\u2028", "reference": "{ta}"}}\n' for en, ta in PAIRS[:2])),
    ],
)
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
        ("a.tsv", b"only english\n", "line 1 has no translation: name its column"),
        (
            "a.jsonl",
            b'{"source": "x", "reference": "y"}\n{"source": "x"}\n',
            "line 2 has no translation",
        ),
        ("a.jsonl", b"[1]\n", "row 1 is not a JSON object"),
        ("a.tsv", b"\xff\t\xff", "line 1 is not UTF-8"),
        ("a.tsv", b"\n \n", "holds no rows"),
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
        (["--prompt", "x"], 2, "--prompt and --output: "),
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
    assert gates[:2] == ["passes", "copy"] and gates[3:5] == ["empty", "loop"]
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

        def _quality(self, alive, times):
            super()._quality(alive, times)
            alive[0]["qe"] = None

    monkeypatch.setattr(smoke_test_rewards.trainer, "CometDuPOReward", Silent)
    line = [word for english, tamil in PAIRS[:2] for word in ("--prompt", english, "--tamil", tamil)]
    status, out, err = smoke(*line)
    assert status == 3 and [row[0] == "–" for row in table(out)] == [True, False]
    assert err.splitlines()[-1] == "error: 1 of 2 samples have no score; the warnings above say why"


def test_words_that_pocket_models_do_not_know_are_named(smoke, tiny_nllb, tmp_path):
    nllb = shutil.copytree(tiny_nllb, tmp_path / "world" / "nllb")
    line = [word for english, tamil in PAIRS[:2] for word in ("--prompt", english, "--tamil", tamil)]
    (tmp_path / "world" / "words.txt").write_text("the girl drinks water reads a book", encoding="utf-8")
    status, out, err = smoke(*line, backtranslation_model=str(nllb))
    assert status == 0 and err.count("warning: the pocket world does not know: boy (in 'The boy reads a book.')") == 1
    assert PAIRS[1][0] not in err
    (tmp_path / "world" / "words.txt").unlink()
    assert smoke(*line, backtranslation_model=str(nllb))[:2] == (status, out)


def test_models_without_a_list_of_words_know_all(smoke):
    _, _, err = smoke("--prompt", "Xyzzy sneezed.", "--tamil", PAIRS[0][1])
    assert "does not know" not in err


def test_help_and_the_command_itself(tiny_all, tmp_path):
    shown = command("smoke_test_rewards.py", "--help")
    assert shown.returncode == 0 and "--prompt" in shown.stdout and shown.stderr == ""
    (tmp_path / "s.yaml").write_text(json.dumps(settings(tiny_all, tmp_path, tmp_path / "run")), encoding="utf-8")
    done = command(
        "smoke_test_rewards.py", "--config", tmp_path / "s.yaml", "--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1]
    )
    assert done.returncode == 0 and len(table(done.stdout)) == 1
    assert not re.search("Warning|frozen|Traceback", done.stderr), done.stderr


# --- columns, scores, rollouts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"src": "x", "mt": "y"}', "line 1 has no column 'mqm', it has src, mt"),
        ("a.jsonl", '{"src": "x", "mt": null, "mqm": 1}', "line 1 has no translation"),
        ("a.jsonl", '{"src": "x", "mt": "y", "mqm": "bad"}', "line 1: mqm 'bad' is not a finite number"),
        ("a.tsv", "x\ty\t0.5", "line 1: the first line does not name the columns src, mt, mqm"),
        ("a.tsv", "src\tmt\tmqm\nx\ty", "line 2 has 2 columns, the first line names 3"),
    ],
)
def test_bad_columns(smoke, tmp_path, name, content, said):
    (tmp_path / name).write_text(content, encoding="utf-8")
    status, out, err = smoke("--file", tmp_path / name, "--source", "src", "--target", "mt", "--score", "mqm")
    assert (status, out) == (2, "") and said in err


def test_scores_and_rollouts_for_the_lab(smoke, tmp_path, capsys):
    english, tamil = zip(*PAIRS, strict=True)
    rows = [{"src": e, "mt": t, "mqm": 1.0} for e, t in PAIRS]
    rows += [{"src": e, "mt": t, "mqm": 0.2} for e, t in zip(english, tamil[1:] + tamil[:1], strict=True)]
    rows += [{"src": english[0], "mt": english[0], "mqm": "0"}]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    kept = tmp_path / "kept.jsonl"
    status, out, err = smoke(
        "--file", tmp_path / "f.jsonl", "--source", "src", "--target", "mt", "--score", "mqm", "--rollouts", kept
    )
    assert status == 0, err
    lines = {line.split()[0]: line.split() for line in out.splitlines()}
    assert lines["total"][1] == "25" and lines["total"][6] == "14"  # rows; pairs of one source
    saved = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert [row["mqm"] for row in saved] == [1.0] * 12 + [0.2] * 12 + [0.0]
    assert saved[0]["group"] == saved[12]["group"] == saved[24]["group"] == 0 and saved[1]["group"] == 1
    gated = sum(row["gate"] is not None for row in saved)  # the copy, and outputs far too long or short
    assert lines["cycle"][1] == str(25 - gated) and lines["gated:"] == ["gated:", str(gated), "of", "25"]
    assert saved[24]["gate"] == "copy" and saved[24]["total"] == 0.0 and saved[0]["components"]["cycle"] is not None
    with pytest.raises(SystemExit) as left:
        errors.run(lambda: smoke_test_rewards.main(["--reweigh", str(kept), "--set", "w_qe=0.9", "--human", "mqm"]))
    out, err = capsys.readouterr()
    assert left.value.code == 0 and "w_qe 0.4 → 0.9" in out and "new total" in out, err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--score", "mqm"], "--score: needs --file"),
        (["--attack", "--samples", "2"], "--attack, --samples: "),
        (["--attack", "--rollouts", "x.jsonl"], "--attack: leave out --rollouts"),
        (["--report", "x.json"], "--report: needs --attack"),
        (["--rollouts", "x.json"], "--rollouts: x.json must end in .jsonl"),
        (["--attack", "--num_pairs", "0"], "--num_pairs: 0 must be at least 1"),
        (["--attack", "--max_soft_win_share", "1.5"], "max_soft_win_share: 1.5 must be in [0, 1]"),
        (["--attack", "--prompt", "Hello there.", "--tamil", "Hello there."], "--attack: none of the given pairs"),
        (["--pairs", "gone.jsonl"], "--pairs: gone.jsonl cannot be read"),
    ],
)
def test_flags_that_do_not_go_together(smoke, argv, said):
    status, out, err = smoke(*argv)
    assert (status, out) == (2, "") and said in err


def test_rollouts_that_cannot_be_written(smoke, tmp_path):
    status, _, err = smoke("--rollouts", tmp_path / "gone" / "x.jsonl")
    assert status == 73 and "--rollouts: " in err and "No such file" in err


# --- the attack ----------------------------------------------------------------------------------------


def test_scores_equal_unbabel_comets_own(smoke, monkeypatch):
    pytest.importorskip("comet")
    line = ("--check_comet", "--prompt", PAIRS[0][0], "--tamil", PAIRS[0][1], "--prompt", "Hello.", "--tamil", "")
    status, out, err = smoke(*line)
    assert status == 0, err
    found = re.findall(r"(comet_\w+): .*, 2 segments, largest difference (\S+)", out)
    assert [name for name, _ in found] == ["comet_da_model", "comet_qe_model"]
    assert all(float(difference) < 1e-5 for _, difference in found)
    monkeypatch.setattr(smoke_test_rewards, "COMET_DIFFERENCE", -1.0)
    status, _, err = smoke(*line)
    assert status == 3 and "scores differ from unbabel-comet's" in err


def test_check_comet_needs_unbabel_comet(smoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    status, _, err = smoke("--check_comet")
    assert status == 69 and "unbabel-comet cannot be imported here" in err


def test_attack_on_the_evaluation_references(smoke, tmp_path):
    status, out, err = smoke("--attack", "--max_soft_win_share", "1", "--report", tmp_path / "gate.json")
    assert status == 0, err
    assert "6 honest pairs (evaluation references): 0 gated, 0 unscored" in out
    report = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))
    assert report["passed"] and report["hard_wins"] == 0 and report["signature"]["identity"]["guards"] == "on"
    assert json.loads(out.splitlines()[-1])["identity"] == report["signature"]["identity"]
    assert re.search(r"^copied_source +hard +6 +0 +0\.0% +6 +0$", out, re.MULTILINE)


def test_attack_refuses_the_plain_formula(smoke):
    status, out, err = smoke("--attack", "--guards", "off", "--max_soft_win_share", "1")
    assert status == 3 and "launch gate: REFUSED" in out and '"guards": "off"' in out
    assert re.search(r"error: launch gate: \w+ wins \d+ of 6 \(hard: 0 allowed\)", err)


def test_attack_on_your_own_file(smoke, tmp_path):
    (tmp_path / "m.jsonl").write_text(
        "".join(json.dumps({"src": e, "ref": t}) + "\n" for e, t in PAIRS), encoding="utf-8"
    )
    line = ["--attack", "--file", tmp_path / "m.jsonl", "--source", "src", "--target", "ref"]
    status, out, err = smoke(*line, "--num_pairs", "5", "--max_soft_win_share", "1")
    assert status == 0 and "5 honest pairs (given pairs)" in out, err
    (tmp_path / "e.tsv").write_text("The boy reads a book.\nThe girl drinks water.\n", encoding="utf-8")
    status, out, err = smoke("--attack", "--file", tmp_path / "e.tsv")
    assert (status, out) == (2, "") and "line 1 has no translation" in err
    (tmp_path / "none.jsonl").touch()
    assert "holds no rows" in smoke("--attack", "--file", tmp_path / "none.jsonl")[2]


@pytest.mark.parametrize("eval_dataset", ["none", "google/wmt24pp"])
def test_attack_without_references_uses_the_pairs_that_come_with_the_code(smoke, eval_dataset):
    line = ["--attack", "--num_pairs", "3", "--max_soft_win_share", "1"]
    status, out, _ = smoke(*line, eval_file="", eval_dataset=eval_dataset)
    assert status in (0, 3) and "3 honest pairs (pairs that come with the code)" in out
    assert ("no evaluation references" in out) == (eval_dataset != "none")


def test_preferences(smoke, tmp_path):
    rows = [{"source": e, "chosen": t, "rejected": e} for e, t in PAIRS] + [
        {"source": PAIRS[0][0], "chosen": PAIRS[0][1], "rejected": PAIRS[0][1]}
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    status, out, err = smoke("--pairs", tmp_path / "p.jsonl")
    assert status == 0, err
    assert out.splitlines()[0] == (
        "preference accuracy 1.000 [1.000, 1.000] of 12 decided; 13 pairs: 12 chosen above rejected, 0 below, "
        "1 tied, 0 unscored"
    )
    assert len(out.splitlines()) == 2 and "identity" in json.loads(out.splitlines()[-1])
    (tmp_path / "p.jsonl").write_text('{"source": "x", "chosen": "y"}', encoding="utf-8")
    status, out, err = smoke("--pairs", tmp_path / "p.jsonl")
    assert (status, out) == (2, "") and "line 1 has no column 'rejected'" in err


# --- other languages -----------------------------------------------------------------------------------


def test_telugu_pairs_are_scored_under_their_name(smoke, tmp_path):
    file = telugu.write(tmp_path / "te.tsv")
    status, out, err = smoke("--file", file, target_language="te")
    assert status == 0, err
    assert f"       telugu   {telugu.PAIRS[0][1]}" in out and "tamil" not in out
    status, out, _ = smoke("--prompt", telugu.PAIRS[0][0], "--output", telugu.PAIRS[0][1], target_language="te")
    assert status == 0 and "passes" in out and json.loads(out.splitlines()[-1])["identity"]["language"] == "te"


def test_the_attack_in_another_language_needs_pairs(smoke, tmp_path):
    status, out, err = smoke("--attack", "--file", telugu.write(tmp_path / "te.tsv"), target_language="te")
    assert status == 0, err
    assert "10 honest pairs (given pairs; only cheats that need no words of Telugu)" in out
    sources = tmp_path / "sources.jsonl"
    sources.write_text("".join(json.dumps({"english": english}) + "\n" for english, _ in PAIRS), encoding="utf-8")
    for argv, said in (
        (("--attack", "--eval_file", str(sources)), "--attack: 0 evaluation references in Telugu script "),
        (("--attack", "--prompt", PAIRS[0][0], "--output", PAIRS[0][1]), "--attack: none of the given pairs has a "),
        ((), "--file: the examples of the code are in Tamil; give pairs in Telugu"),
    ):
        status, _, err = smoke(*argv, target_language="te")
        assert status == 2 and said in err, err
