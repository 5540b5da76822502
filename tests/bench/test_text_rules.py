"""bench.text_rules on files; every process gives the same results, whatever its hash seed."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

from bench import text_rules
from pocket.grammar import sample
from rl_nmt.audit.cheats import build_suite, honest_pairs

ROOT = Path(__file__).parents[2]


def test_the_rules_give_the_same_results_in_every_process(tmp_path):
    """A digest of all results of gates and fidelity for honest pairs, cheats and sentences of the pocket world."""
    honest, _ = honest_pairs(None, count=72)
    rows = [(source, text) for source, text in honest] + [(honest[c.pair][0], c.text) for c in build_suite(honest)[::6]]
    rng = random.Random(5)
    rows += [(pair.english, pair.tamil) for pair in (sample(rng) for _ in range(60))]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"source": s, "reference": t}) + "\n" for s, t in rows if t), encoding="utf-8")
    digests = set()
    for seed in ("0", "1", "2"):
        line = [sys.executable, "-m", "bench.text_rules", "--pairs", str(path)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        digests.add(re.search(r"digest (\w+)", done.stdout)[1])
    assert len(digests) == 1


def test_names_and_cases(tmp_path, capsys):
    names, cases = tmp_path / "names.tsv", tmp_path / "cases.jsonl"
    names.write_text("Ravi\tரவி\nKumar\tகமலா\n", encoding="utf-8")
    rows = [
        {"english": "He is 37.", "tamil": "அவருக்கு 37 வயது.", "correct": True, "phenomenon": "number"},
        {"english": "He is 37.", "tamil": "அவருக்கு 38 வயது.", "correct": True, "phenomenon": "said to be right"},
        {"english": "He is 37.", "tamil": "அவருக்கு 38 வயது.", "correct": False, "phenomenon": "seen"},
        {"english": "He likes it.", "tamil": "அது அவருக்குப் பிடிக்காது.", "correct": False, "phenomenon": "negation"},
    ]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert text_rules.main(["--names", str(names), "--cases", str(cases)]) == 0
    out = capsys.readouterr().out
    assert out.count("50.0% of 2; not found: Kumar") == 5
    assert (
        re.findall(r"^(right|wrong)", out, re.M) == ["right", "wrong"]
        and "said to be right" in out
        and "negation" in out
    )
