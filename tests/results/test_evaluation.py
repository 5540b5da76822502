"""Generation, the snapshot of a model, and its comparison with another one."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from scipy import stats as scipy_stats
from tiny_models import PAIRS, PROMPT
from transformers import AutoTokenizer, Gemma3ForCausalLM

from rl_nmt import files
from rl_nmt.errors import CannotWrite, ConfigError
from rl_nmt.models.generate import encode_prompts, generate
from rl_nmt.results import evaluation as ev
from rl_nmt.results.translation import BLEU as OUR_BLEU
from rl_nmt.results.translation import CHRF as OUR_CHRF
from rl_nmt.results.translation import translation_task
from rl_nmt.text.languages import TAMIL
from rl_nmt.text.prompts import fill, gemma_prompt

WORDS = "நான் அவன் வீட்டில் பூனையைப் மரத்தில் சென்றான் வந்தாள் பெரிய சிறிய படித்தேன்".split()


TASK = translation_task(TAMIL)


def make_prompt(english: str) -> str:
    return gemma_prompt(fill(PROMPT, english))


class LetterReward:
    """A reward that can be computed by hand: Tamil letters over 40, nothing for blank, None for "fail"."""

    def __init__(self, revision: str = "1"):
        self.revision = revision

    def score_components(self, prompts, completions, *, source):
        assert len(prompts) == len(completions) == len(source)
        rows = []
        for english, output in zip(source, completions, strict=True):
            share = min(1.0, sum("\u0b80" <= c <= "\u0bff" for c in output) / 40)
            row = {"total": share, "cycle": share / 2, "gate": None, "backtranslation": english.upper()}
            if not output.strip():
                row |= {"total": 0.0, "cycle": None, "gate": "blank"}
            if english == "fail":
                row |= {"total": None, "cycle": float("nan")}
            rows.append(row)
        return rows

    def signature(self):
        return {"identity": {"letters": self.revision}, "environment": {"torch": torch.__version__}}


@pytest.fixture(scope="module")
def policy(tiny_gemma):
    return Gemma3ForCausalLM.from_pretrained(tiny_gemma), AutoTokenizer.from_pretrained(tiny_gemma)


def sentences(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) + "." for _ in range(count)]


def snapshot(outputs, references, totals=None) -> ev.Snapshot:
    totals = totals if totals is not None else [0.5] * len(outputs)
    rows = [{"total": total, "gate": None, "backtranslation": ""} for total in totals]
    shot = ev.Snapshot([f"source {i}" for i in range(len(outputs))], references, outputs, rows, {})
    shot.metrics = ev.measure(shot, TASK)
    return shot


def noisy(rng: random.Random, references: list[str], share: float) -> list[str]:
    return [" ".join(rng.choice(WORDS) if rng.random() < share else w for w in r.split()) for r in references]


# generate


def test_every_prompt_has_exactly_one_bos(policy):
    _, tokenizer = policy
    plain, doubled = make_prompt("Thank you."), "<bos><bos>" + make_prompt("Thank you.")
    rows = encode_prompts(tokenizer, [plain, doubled])
    assert rows[0] == rows[1]
    assert rows[0].count(tokenizer.bos_token_id) == 1 and rows[0][0] == tokenizer.bos_token_id
    tokenizer.add_bos_token = False
    try:
        assert encode_prompts(tokenizer, [plain]) == rows[:1]
    finally:
        tokenizer.add_bos_token = True


def test_greedy_equals_a_loop_over_plain_logits(policy):
    """Oracle: no padding, no cache, no generate(): argmax of the logits, token by token."""
    model, tokenizer = policy
    prompts = [make_prompt(english) for english, _ in PAIRS]
    stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end_of_turn>")}
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        new: list[int] = []
        with torch.no_grad():
            while len(new) < 12:
                token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
                if token in stops:
                    break
                new.append(token)
        expected.append([tokenizer.decode(new, skip_special_tokens=True).strip()])
    assert generate(model, tokenizer, prompts, max_new_tokens=12, batch_size=5) == expected
    assert len({texts[0] for texts in expected}) > 1  # else order could not be seen


def test_it_stops_at_end_of_turn(policy):
    model, tokenizer = policy
    prompts = [make_prompt(english) for english, _ in PAIRS]
    answers = generate(model, tokenizer, prompts, max_new_tokens=200)
    assert sum(answer == [tamil] for answer, (_, tamil) in zip(answers, PAIRS, strict=True)) >= len(PAIRS) - 2


def test_greedy_leaves_random_state_and_modes_alone(policy):
    """The checkpoint's own generation_config samples: it must not take over (see generate.py)."""
    model, tokenizer = policy
    model.generation_config.do_sample = True
    model.train()
    model.model.layers[0].mlp.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = torch.random.get_rng_state()
    first = generate(model, tokenizer, [make_prompt("Thank you.")], max_new_tokens=8)
    assert torch.equal(before, torch.random.get_rng_state())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.is_grad_enabled()
    torch.rand(3)
    assert generate(model, tokenizer, [make_prompt("Thank you.")], max_new_tokens=8) == first
    model.eval()


def test_it_can_train_after_generating(policy):
    """Buffers cached while generating must not be inference tensors."""
    model, tokenizer = policy
    generate(model, tokenizer, [make_prompt("Thank you.")], max_new_tokens=4)
    ids = tokenizer(make_prompt("Thank you."), return_tensors="pt")["input_ids"]
    model(ids, labels=ids).loss.backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0
    model.zero_grad()


def test_modes_come_back_after_an_error(policy, monkeypatch):
    model, tokenizer = policy
    model.train()

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(RuntimeError):
        generate(model, tokenizer, [make_prompt("Thank you.")], max_new_tokens=4)
    assert model.training
    model.eval()


def test_sampling_gives_several_completions_per_prompt(policy):
    model, tokenizer = policy
    prompts = [make_prompt(english) for english, _ in PAIRS[:3]]
    torch.manual_seed(0)
    answers = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=8,
        batch_size=8,
        do_sample=True,
        temperature=3.0,
        num_return_sequences=4,
    )
    assert [len(texts) for texts in answers] == [4, 4, 4]
    assert len({text for texts in answers for text in texts}) > 6


def test_a_peft_model_generates_with_its_adapter(tiny_gemma, policy):
    from peft import LoraConfig, get_peft_model

    plain, tokenizer = policy
    base = Gemma3ForCausalLM.from_pretrained(tiny_gemma)
    torch.manual_seed(1)
    lora = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    prompts = [make_prompt(english) for english, _ in PAIRS[:4]]
    adapted = generate(lora, tokenizer, prompts, max_new_tokens=8)
    with lora.disable_adapter():
        assert generate(lora, tokenizer, prompts, max_new_tokens=8) == generate(
            plain, tokenizer, prompts, max_new_tokens=8
        )
    assert adapted != generate(plain, tokenizer, prompts, max_new_tokens=8)


# evaluate


def test_evaluate_on_a_real_model(policy, tmp_path):
    model, tokenizer = policy
    rows = [{"source": en, "reference": ta} for en, ta in PAIRS[:6]] + [{"source": "fail"}]
    shot = ev.evaluate(model, tokenizer, rows, make_prompt, LetterReward(), TASK, max_new_tokens=24, batch_size=3)
    assert len(shot.outputs) == len(shot.components) == 7
    assert shot.metrics["scored"] == pytest.approx(6 / 7)
    outputs, references = shot.outputs[:6], [ta for _, ta in PAIRS[:6]]
    assert shot.metrics["chrf"] == pytest.approx(CHRF(word_order=2).corpus_score(outputs, [references]).score)
    assert shot.metrics["bleu"] == pytest.approx(BLEU().corpus_score(outputs, [references]).score)
    assert "nw:2" in shot.signature["chrf"] and "tok:13a" in shot.signature["bleu"]
    shot.save(tmp_path / "before.json")
    assert ev.Snapshot.load(tmp_path / "before.json") == shot


def test_metrics_by_hand():
    outputs = ["வா", "hello", "வா abc", "", "நட"]
    shot = snapshot(outputs, [None] * 5, totals=[0.2, 0.0, 0.4, 0.0, None])
    shot.components[1]["gate"] = shot.components[3]["gate"] = "script"
    shot.components[0]["length"] = 2
    for row, cycle in zip(shot.components, [0.5, None, 0.7, float("nan"), True], strict=True):
        row["cycle"] = cycle
    metrics = ev.measure(shot, TASK)
    assert metrics["reward"] == pytest.approx(0.15)  # (0.2 + 0 + 0.4 + 0) / 4: the unscored row is left out
    assert metrics["cycle"] == pytest.approx(0.6)  # None, NaN and a bool are not numbers
    assert metrics["tamil_share"] == pytest.approx(2 / 5)  # "வா abc" is 2 of 5 letters Tamil
    assert metrics["mean_length"] == pytest.approx((2 + 5 + 6 + 0 + 2) / 5)
    assert metrics["scored"] == 0.8 and metrics["gated"] == 0.4
    assert not {"chrf", "bleu", "length"} & set(metrics)


def test_references_may_be_partial_and_decomposed():
    composed, decomposed = "கொடு", "க\u0bc6\u0bbeடு"
    shot = snapshot([composed, "abc"], [decomposed, None])
    assert shot.metrics["chrf"] == pytest.approx(100.0)
    assert OUR_CHRF.sentences(shot)[1] is None


def test_no_rows_is_a_clear_error(policy):
    with pytest.raises(ConfigError, match="evaluation rows"):
        ev.evaluate(*policy, [], make_prompt, LetterReward(), TASK, max_new_tokens=4)


# compare


@pytest.mark.parametrize(("ours", "metric"), [(OUR_CHRF, CHRF(word_order=2)), (OUR_BLEU, BLEU())])
def test_resampled_scores_are_corpus_scores_of_the_resampled_lists(ours, metric):
    rng = random.Random(3)
    references = sentences(rng, 40)
    shot = snapshot(noisy(rng, references, 0.4), references)
    scores = ours.resampled(shot, seed=5)
    assert scores.shape == (ev.RESAMPLES,)
    counts = ev.bootstrap_draws(40, 5)
    assert (counts.sum(axis=1) == 40).all()
    for i in (0, 1, 499, 999):
        rows = np.repeat(np.arange(40), counts[i])
        hyps, refs = [shot.outputs[r] for r in rows], [references[r] for r in rows]
        assert scores[i] == pytest.approx(metric.corpus_score(hyps, [refs]).score, abs=1e-9)


def test_draws_are_uniform_and_seeded():
    draws = ev.bootstrap_draws(20, 1)
    assert np.array_equal(draws, ev.bootstrap_draws(20, 1)) and not np.array_equal(draws, ev.bootstrap_draws(20, 2))
    assert draws.mean(axis=0) == pytest.approx(np.ones(20), abs=0.15)
    assert draws[:, 0].var() == pytest.approx(19 / 20, abs=0.15)  # binomial(20, 1/20)


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.42])
def test_chrf_p_value_is_near_sacrebleus_tests(shift, monkeypatch):
    """Oracle: sacreBLEU's approximate randomization, another two-sided test of the same hypothesis."""
    from sacrebleu.significance import PairedTest

    monkeypatch.setenv("SACREBLEU_SEED", "7")
    rng = random.Random(11)
    references = sentences(rng, 150)
    old, new = noisy(rng, references, 0.45), noisy(rng, references, 0.45 - shift / 3)
    comparison = ev.compare(snapshot(old, references), snapshot(new, references), TASK, seed=1)
    test = PairedTest(
        [("a", old), ("b", new)], {"chrf": CHRF(word_order=2)}, [references], test_type="ar", n_samples=2000
    )
    ((_, expected),) = [row for key, row in test()[1].items() if key != "System"]
    assert comparison["p_value"]["chrf"] == pytest.approx(expected.p_value, abs=0.05)


@pytest.mark.parametrize("effect", [0.0, 0.01, 0.02])
def test_reward_p_value_is_near_a_paired_t_test(effect):
    rng = np.random.default_rng(4)
    old = rng.uniform(0.3, 0.7, 300)
    new = old + effect + rng.normal(0, 0.12, 300)
    references = [None] * 300
    shots = [snapshot(["வா"] * 300, references, totals.tolist()) for totals in (old, new)]
    comparison = ev.compare(*shots, TASK, seed=0)
    assert comparison["p_value"]["reward"] == pytest.approx(scipy_stats.ttest_rel(new, old).pvalue, abs=0.04)


def test_false_alarms_are_as_rare_as_promised():
    """Two systems of equal quality: p < 0.05 in about 5 % of repetitions, not in 10 %."""
    rng = np.random.default_rng(0)
    alarms = 0
    for seed in range(400):
        change = rng.normal(0, 1, 80)
        draws = ev.bootstrap_draws(80, seed) @ change / 80
        alarms += ev.bootstrap_p_value(draws, float(change.mean())) < 0.05
    assert 0.025 <= alarms / 400 <= 0.085


def test_equal_systems_do_not_differ_and_clear_gains_do():
    rng = random.Random(2)
    references = sentences(rng, 100)
    worse = snapshot(noisy(rng, references, 0.6), references, [0.2 + 0.001 * i for i in range(100)])
    same = ev.compare(worse, worse, TASK)
    assert same["p_value"] == {"reward": 1.0, "chrf": 1.0, "bleu": 1.0}
    assert same["ties"] == {"reward": 100, "chrf": 100}
    better = snapshot(references, references, [0.6] * 100)
    gain = ev.compare(worse, better, TASK)
    assert max(gain["p_value"].values()) < 0.01
    assert gain["wins"]["chrf"] > 80 and gain["losses"] == {"reward": 0, "chrf": 0}


def test_wins_count_only_rows_scored_on_both_sides():
    before = snapshot(["வா"] * 4, [None] * 4, [0.1, None, 0.5, 0.5])
    after = snapshot(["வா"] * 4, [None] * 4, [0.3, 0.9, 0.2, 0.5])
    result = ev.compare(before, after, TASK)
    assert (result["wins"], result["losses"], result["ties"]) == ({"reward": 1}, {"reward": 1}, {"reward": 1})
    assert "chrf" not in result["p_value"]


def test_snapshots_of_other_rows_or_another_reward_do_not_compare():
    one, other = snapshot(["வா"], ["வா"]), snapshot(["வா"], ["போ"])
    with pytest.raises(ConfigError, match="references differ"):
        ev.compare(one, other, TASK)
    other = snapshot(["வா"], ["வா"])
    for shot, revision in ((one, "1"), (other, "2")):
        shot.signature = {"reward": LetterReward(revision).signature(), "decoding": "greedy"}
    with pytest.raises(ConfigError, match="reward changed"):
        ev.compare(one, other, TASK)
    other.signature = json.loads(json.dumps(one.signature))
    other.signature["reward"]["environment"]["torch"] = "9.9"
    assert ev.compare(one, other, TASK)["signature"]["reward"]["environment"]["torch"] == "9.9"


def test_comparison_and_samples_are_strict_json(tmp_path):
    before = snapshot(["வா", ""], ["வா", None], [0.1, float("nan")])
    after = snapshot(["வா \ud800", "நட"], ["வா", None], [0.2, 0.3])
    after.components[0] |= {"backtranslation": "come", "source": "source 0", "output": "வா"}
    comparison = ev.compare(before, after, TASK)
    files.write_json(tmp_path / "evaluation.json", comparison)
    ev.write_samples(tmp_path / "samples.jsonl", before, after, TASK)

    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    json.loads((tmp_path / "evaluation.json").read_text("utf-8"), parse_constant=refuse)
    lines = (tmp_path / "samples.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert rows[0]["source"] == "source 0" and rows[0]["reference"] == "வா" and "reference" not in rows[1]
    assert rows[0]["after_backtranslation"] == "come" and rows[0]["after_scores"]["total"] == 0.2
    assert set(rows[0]["after_scores"]) == {"total", "gate", "chrf"}
    assert rows[0]["before_scores"]["chrf"] == pytest.approx(100.0)
    assert rows[1]["before_scores"]["total"] is None and rows[1]["after"] == "நட"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "samples.jsonl"]


def test_the_table_shows_every_metric_and_signature():
    rng = random.Random(1)
    references = sentences(rng, 20)
    one, two = snapshot(noisy(rng, references, 0.5), references), snapshot(references, references)
    one.signature = two.signature = {"chrf": "nrefs:1|nw:2"}
    table = ev.print_table(ev.compare(one, two, TASK, seed=3), TASK)
    lines = {line.split("  ")[0]: line for line in table.splitlines()}
    assert f"{one.metrics['chrf']:.1f}" in lines["chrF++"] and "100.0" in lines["chrF++"]
    assert "in Tamil" in lines and "by chrF++: " in table
    assert "nrefs:1|nw:2" in table and "paired bootstrap|two-sided" in table and "seed:3" in table


def test_a_damaged_snapshot_and_an_unwritable_place_are_one_clear_line(tmp_path):
    (tmp_path / "half.json").write_text('{"sources": [', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"half\.json"):
        ev.Snapshot.load(tmp_path / "half.json")
    with pytest.raises(ConfigError, match=r"none\.json"):
        ev.Snapshot.load(tmp_path / "none.json")
    with pytest.raises(CannotWrite, match="gone"):
        files.write_json(tmp_path / "gone" / "x.json", {"a": math.inf})
