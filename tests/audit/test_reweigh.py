"""Re-weighing: totals worked out here, flips, people, old files, and everything that is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import smoke_test_rewards
from rl_nmt import errors
from rl_nmt.audit.reweigh import Settings, parse_changes, rollout_row
from rl_nmt.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "w_cycle": 0.6,
    "w_qe": 0.4,
    "penalty_weight_script": 0.2,
    "penalty_weight_lenratio": 0.1,
    "penalty_weight_fidelity": 0.0,
    "guards": "on",
    "lr": 1e-5,
    "model_id": "x",
}


def row(group, cycle, qe, total, gate=None, foreign_script=0.0, length_penalty=0.0, **more):
    components = {
        "cycle": cycle,
        "qe": qe,
        "foreign_script": foreign_script,
        "length_penalty": length_penalty,
        "length": 7,
    }
    return {
        "step": 1,
        "group": group,
        "source": f"Sentence {group}.",
        "completion": f"{cycle} {qe}",
        "components": components,
        "gate": gate,
        "total": total,
        **more,
    }


ROWS = [  # total = 0.6 cycle + 0.4 qe - 0.2 foreign_script - 0.1 length_penalty, worked out by hand
    row(0, 0.9, 0.2, 0.62, mqm="0.3"),
    row(0, 0.5, 0.7, 0.58, mqm="0.9"),
    row(0, None, None, 0.0, gate="copy", mqm="0.1"),
    row(1, 0.8, 0.8, 0.76, foreign_script=0.2, mqm="0.5"),
    row(1, 0.3, 0.5, 0.35, length_penalty=0.3, mqm="0.2"),
    row(2, 0.5, 0.5, 0.5, mqm=None),
    row(2, 0.5, 0.5, 0.5, mqm="0.5"),
]


@pytest.fixture
def lab(tmp_path, capsys):
    """lab(*argv, rows=..., settings=...) → (exit status, stdout, stderr) on files in tmp_path."""

    def call(*argv, rows=ROWS, settings=SETTINGS, text=None):
        path = tmp_path / "r.jsonl"
        path.write_text(text or "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
        if settings is not None:
            (tmp_path / "r.yaml").write_text(json.dumps(settings), encoding="utf-8")
        with pytest.raises(SystemExit) as left:
            errors.run(lambda: smoke_test_rewards.main(["--reweigh", str(path), *map(str, argv)]))
        return left.value.code, *capsys.readouterr()

    return call


def test_flips_and_moments_by_hand(lab, tmp_path):
    status, out, err = lab("--set", "w_cycle=0", "w_qe=1", "--json", tmp_path / "found.json")
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    # new totals: 0.2 0.7 0 | 0.8 - 0.04 = 0.76, 0.5 - 0.03 = 0.47 | 0.5 0.5
    assert (found["rows"], found["scored"], found["groups"], found["decided"], found["flipped"]) == (7, 7, 3, 2, 1)
    assert found["old"]["mean"] == pytest.approx((0.62 + 0.58 + 0 + 0.76 + 0.35 + 1) / 7)
    assert found["new"]["mean"] == pytest.approx((0.2 + 0.7 + 0 + 0.76 + 0.47 + 1) / 7)
    third = math.sqrt(((0.2 - 0.3) ** 2 + (0.7 - 0.3) ** 2 + 0.3**2) / 3)
    assert found["new"]["std"] == pytest.approx((third + (0.76 - 0.47) / 2 + 0) / 3)
    assert found["old"]["tied"] == found["new"]["tied"] == pytest.approx(1 / 3)
    (example,) = found["examples"]
    assert example["old_winner"] == {"text": "0.9 0.2", "old": pytest.approx(0.62), "new": pytest.approx(0.2)}
    assert example["new_winner"]["text"] == "0.5 0.7"
    ranks = [6, 5, 1, 7, 2, 3.5, 3.5], [2, 6, 1, 7, 3, 4.5, 4.5]
    assert found["spearman"] == pytest.approx(_pearson(*ranks))
    assert "w_cycle 0.6 → 0, w_qe 0.4 → 1" in out and "winners that flip: 1 of 2 groups (50.0%)" in out


def _pearson(xs, ys):
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    top = sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True))
    return top / math.sqrt(sum((x - mx) ** 2 for x in xs) * sum((y - my) ** 2 for y in ys))


def test_nothing_set_is_the_old_reward(lab):
    status, out, _ = lab()
    assert status == 0 and out.startswith("nothing changed")
    assert "winners that flip: 0 of 2" in out and "(Spearman): 1.000" in out


def test_people(lab):
    status, out, err = lab("--set", "w_qe=1", "w_cycle=0", "--human", "mqm")
    assert status == 0, err
    shown = out.splitlines()
    start = next(i for i, line in enumerate(shown) if line.startswith("against mqm"))
    lines = {line[:24].strip(): line[24:].split() for line in shown[start:]}
    # pairs of one source with two human scores: three in group 0, one in group 1
    assert lines["old total"][5:] == ["4", "0"] and lines["old total"][4] == "0.750"  # 0.62 above 0.58 is wrong
    assert lines["new total"][4] == "1.000" and lines["new total"][0] == "6"
    assert lines["qe"][0] == "5" and lines["qe"][4] == "1.000" and lines["cycle"][4] == "0.500"


def test_settings_are_found_next_to_the_file_in_its_folder_or_by_name(lab, tmp_path):
    assert lab(settings=None)[0] == 2
    (tmp_path / "resolved_config.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    assert lab(settings=None)[0] == 0
    (tmp_path / "other.yaml").write_text(json.dumps(SETTINGS | {"w_qe": 0.5}), encoding="utf-8")
    status, _, err = lab("--config", tmp_path / "other.yaml", settings=None)
    assert status == 2 and "--config: " in err and "(0.64 instead of 0.62" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("w_q=1", "--set: w_q is not a number of the formula; use one of penalty_weight_fidelity, "),
        ("lr=1", "--set: lr is not a number"),  # a setting, but none of the formula's
        ("guards=1", "--set: guards is not a number"),
        ("w_qe=nan", "--set: w_qe=nan "),
        ("w_qe=inf", "--set: w_qe=inf "),
        ("w_qe=-0.1", "--set: w_qe=-0.1 "),
        ("w_qe", "'w_qe' is not name=number"),
        ("w_qe=much", "'w_qe=much' is not name=number"),
        ("=1", "'=1' is not name=number"),
    ],
)
def test_bad_changes(lab, change, said):
    status, out, err = lab("--set", change)
    assert (status, out) == (2, "") and err.startswith("error: --set: ") and said in err


def test_weights_that_reward_nothing(lab):
    status, _, err = lab("--set", "w_qe=0", "w_cycle=0")
    assert status == 2 and "--set: all 6 samples " in err and " 0.010;" in err
    status, _, err = lab("--set", "w_qe=100", "w_cycle=100")
    assert status == 2 and "--set: all 6 samples " in err and " 1.000;" in err


def test_given_twice():
    assert parse_changes(["w-qe=0.5", "w_cycle=1e-1"]) == {"w_qe": 0.5, "w_cycle": 0.1}
    with pytest.raises(ConfigError, match=r"^--set: w_qe .*twice"):
        parse_changes(["w_qe=1", "w-qe=2"])


def test_a_component_that_was_not_measured(lab):
    rows = [row(0, 0.9, None, 0.54), row(0, 0.5, None, 0.3)]
    status, _, err = lab("--set", "w_qe=0.5", rows=rows, settings=SETTINGS | {"w_qe": 0.0})
    assert status == 2 and "--set: 2 of 2 samples have no qe," in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n", "holds no rows"),
        ("{", "line 1 is not valid JSON"),
        ('{"source": "x"}', "line 1 has no components"),
        ('{"components": {}, "source": "x"}', "line 1 lacks gate, total"),
        (json.dumps(ROWS[0]) + '\n{"components": {}, "source": "x", "gate": null, "total": "1"}', "line 2: total '1'"),
        (json.dumps(ROWS[0] | {"total": math.nan}), "total nan is not a number"),
        (json.dumps(ROWS[0]), "--reweigh: 1 of 1 samples "),
        (json.dumps({**ROWS[0], "components": {"cycle": 0.9, "qe": 0.2}}), "--formula needs 'foreign_script'"),
        (json.dumps({**ROWS[0], "components": ROWS[0]["components"] | {"cycle": "a"}}), "--formula cannot use"),
    ],
)
def test_bad_files(lab, text, said):
    status, out, err = lab(text=text)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1


def test_bad_human_columns(lab):
    assert "lacks da: it has step, group" in lab("--human", "da")[2]
    assert "line 1: mqm 'good' is not a finite number" in lab("--human", "mqm", rows=[ROWS[0] | {"mqm": "good"}])[2]
    assert "line 1: mqm 'nan' is not a finite number" in lab("--human", "mqm", rows=[ROWS[0] | {"mqm": "nan"}])[2]


@pytest.mark.parametrize("formula", ["no_such_module:f", "rewards_en_ta_dupo:gone", "json", "rewards_en_ta_dupo:CUES"])
def test_bad_formulas(lab, formula):
    status, _, err = lab("--formula", formula)
    assert status == 2 and f"--formula: {formula} " in err


def test_any_formula_will_do(lab, tmp_path, monkeypatch):
    (tmp_path / "my_formula.py").write_text(
        "def f(row, settings):\n    return 0.0 if row['gate'] else settings['w'] * (row['qe'] or 0)\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows = [row(0, 0.1, 0.2, 0.2), row(0, 0.1, 0.4, 0.4)]
    status, out, err = lab("--formula", "my_formula:f", "--set", "w=0.5", rows=rows, settings={"w": 1.0})
    assert status == 0 and "w 1 → 0.5" in out, err


def test_settings_read_both_ways():
    settings = Settings({"a": 1, "b": 2})
    assert settings.a == settings["a"] == 1 and settings.read == {"a"} and settings.get("c") is None
    with pytest.raises(AttributeError):
        _ = settings.c


def test_a_row_from_the_reward_has_numbers_only():
    full = {
        "source": "e",
        "output": "o",
        "gate": None,
        "total": 0.5,
        "cycle": 0.1,
        "qe": None,
        "backtranslation": "b",
        "missing": ["x"],
        "odd": math.inf,
    }
    assert rollout_row(full, 3, 4, mqm=0.2) == {
        "step": 3,
        "group": 4,
        "source": "e",
        "completion": "o",
        "components": {"cycle": 0.1, "qe": None},
        "gate": None,
        "total": 0.5,
        "mqm": 0.2,
    }


def test_rows_of_runs_before_version_2_are_read(lab):
    old = {"source": "english", "foreign_script": "script_off", "length_penalty": "length_off"}

    def renamed(cells):
        return {old.get(name, name): value for name, value in cells.items()}

    rows = [renamed(row | {"components": renamed(row["components"])}) for row in ROWS]
    assert "english" in rows[0] and "script_off" in rows[0]["components"]
    now = lab("--set", "w_cycle=0", "w_qe=1", "--human", "mqm")
    assert now[0] == 0 and lab("--set", "w_cycle=0", "w_qe=1", "--human", "mqm", rows=rows) == now


@pytest.mark.parametrize("flag", ["--set", "--human", "--formula", "--json"])
def test_flags_of_the_lab_need_it(flag, capsys):
    with pytest.raises(ConfigError, match=r"^--set, --human, --formula, --json: .*--reweigh$"):
        smoke_test_rewards.main([flag, "x=1"])
    with pytest.raises(ConfigError, match="unrecognized arguments: --w_qe"):
        smoke_test_rewards.main(["--reweigh", "r.jsonl", "--w_qe", "1"])


def test_the_command_needs_no_torch(tmp_path):
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(json.dumps(SETTINGS), encoding="utf-8")
    code = (
        "import sys, smoke_test_rewards; smoke_test_rewards.main(['--reweigh', *sys.argv[1:]]); "
        "print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "r.jsonl", "--set", "w_qe=1", "--human", "mqm"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0 and done.stdout.endswith("set()\n"), done.stderr
