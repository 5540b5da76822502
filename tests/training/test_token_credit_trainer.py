"""Token credit in TRL's loss: TRL's own trainer bit for bit, arithmetic by hand, and what a policy learns."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from process_trials import Processes
from tiny_models import PAIRS
from tiny_run import SENTENCES

import train_grpo_en_ta as script
from rl_nmt.audit import reweigh
from rl_nmt.errors import ConfigError
from rl_nmt.models import policy
from rl_nmt.runs import checkpoints
from rl_nmt.scorers.base import Span
from rl_nmt.text.unicode import clean_for_scoring
from rl_nmt.training.token_credit import SpanCredit, TokenOffsets, stack_rows, token_advantages
from rl_nmt.training.token_credit_trainer import (
    Judged,
    TokenCredit,
    TokenCreditTrainer,
    group_z_scores,
    judge,
    token_metrics,
    token_sums,
)

NAN = float("nan")
NORMALISED = TokenCredit()
WRONG = "தண்ணீர்"  # the word that the judge of these tests marks


class Reward:
    """A reward function with spans, from two rules over the output: its length, and where a word is."""

    __name__ = "marked"

    def __init__(self, total=None, spans=None, gate=lambda output: None, credits=None):
        self.total = total or (lambda output: len(output) % 7 / 7)
        self.spans = spans or (lambda output: [])
        self.gate = gate
        self.credits = {"judge": (1.0, SpanCredit())} if credits is None else credits
        self.last_rows, self.last_log, self.evaluating = [], {}, False

    def __call__(self, prompts, completions, source=None, **columns):
        self.last_rows = []
        for english, completion in zip(source, completions, strict=True):
            output = clean_for_scoring(completion)
            row = {"source": english, "output": output, "gate": self.gate(output), "total": self.total(output)}
            row["spans"] = {} if row["gate"] else {name: self.spans(output) for name in self.credits}
            self.last_rows.append(row)
        return [row["total"] for row in self.last_rows]


def in_turn(values):
    """A rule that hands out prepared values, whatever the output."""
    values = list(values)
    return lambda output: values.pop(0)


def marks(word: str, severity: str = "major"):
    """A rule that marks every occurrence of a word."""

    def spans(output: str) -> list[Span]:
        starts = [i for i in range(len(output)) if output.startswith(word, i)]
        return [Span(i, i + len(word), severity, 1.0) for i in starts]

    return spans


def build(cls, model: Path, folder: Path, reward, extra=(), evaluation=(), **options):
    """`cls` on the tiny policy; `options` go to GRPOConfig."""
    from datasets import Dataset
    from trl import GRPOConfig

    args = GRPOConfig(
        **{
            "output_dir": str(folder),
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 4,
            "max_completion_length": 12,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
            "beta": 0.0,
            "seed": 3,
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "disable_tqdm": True,
            **options,
        }
    )
    tokenizer = policy.load_tokenizer(str(model))
    loaded = policy.load_policy(str(model), tokenizer, policy.Precision("cpu", torch.float32, False, ""), "eager")
    rows, held_out = (
        Dataset.from_list([{"prompt": script.make_prompt(text), "source": text} for text in texts]) if texts else None
        for texts in (SENTENCES[:16], evaluation)
    )
    with torch.random.fork_rng(devices=[]):
        return cls(
            model=loaded,
            reward_funcs=reward,
            args=args,
            train_dataset=rows,
            eval_dataset=held_out,
            processing_class=tokenizer,
            **dict(extra),
        )


@pytest.fixture
def make(tiny_policy, tmp_path):
    """A TokenCreditTrainer; keywords other than `credit` and `rollouts` go to GRPOConfig."""

    def trainer(reward, credit=NORMALISED, rollouts=None, **options):
        extra = {"credit": credit, "rollouts": rollouts}
        return build(TokenCreditTrainer, tiny_policy, tmp_path / "run", reward, extra, **options)

    return trainer


def train(trainer, **options):
    with torch.random.fork_rng(devices=[]):
        trainer.train(**options)
    return trainer


def weights(trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


def same(one, two) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


def sample(trainer, completions: list[list[int]] | None = None) -> dict:
    """One generation batch as the loss gets it but for TRL's shuffle; `completions` are sampled instead, if given."""
    if completions is not None:
        trainer._generate_single_turn = lambda *_: (completions, None)
    with torch.random.fork_rng(devices=[]):
        trainer.model.train()
        return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


# --- nothing added, nothing changed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "iterations", "beta"),
    [
        ("grpo", 1, 0.05),
        ("grpo", 2, 0.0),
        ("dapo", 1, 0.0),
        ("dapo", 2, 0.05),
        ("bnpo", 1, 0.0),
        ("dr_grpo", 1, 0.0),
        ("cispo", 1, 0.0),
        ("sapo", 1, 0.0),
    ],
)
def test_without_token_rewards_it_is_trls_trainer_bit_for_bit(make, tiny_policy, tmp_path, loss, iterations, beta):
    from trl import GRPOTrainer

    options = {"loss_type": loss, "num_iterations": iterations, "beta": beta}
    theirs = build(GRPOTrainer, tiny_policy, tmp_path / "theirs", Reward(), **options)
    before = weights(theirs)
    train(theirs)
    ours = make(Reward(), TokenCredit(normalise=False), **options)
    shapes = []
    original = ours._compute_loss
    ours._compute_loss = lambda model, inputs: shapes.append(inputs["advantages"].dim()) or original(model, inputs)
    train(ours)
    assert shapes == [2] * 3  # really advantages per token
    assert same(ours, theirs)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights(theirs), strict=True))


def test_a_scorer_of_weight_zero_does_not_count(make):
    """Not even one that fails."""
    failing = make(Reward(spans=lambda output: None, credits={"judge": (0.0, SpanCredit())}))
    assert torch.equal(sample(failing)["advantages"], sample(make(Reward()))["advantages"])


# --- by hand -------------------------------------------------------------------------------------------


def pieces(trainer, count: int = 3) -> list[int]:
    """Ids of that many different tokens with letters."""
    ids = trainer.processing_class(PAIRS[0][1], add_special_tokens=False).input_ids
    return [i for i in dict.fromkeys(ids) if trainer.processing_class.decode([i]).strip()][:count]


def by_hand(raw: list[list[float]]) -> list[list[float]]:
    flat = [x for row in raw for x in row]
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    return [[(x - mean) / (std + 1e-8) for x in row] for row in raw]


def real(out) -> list[list[float]]:
    """Advantages of the tokens that exist; the others must be 0."""
    rows, mask = out["advantages"], out["completion_mask"].bool()
    assert rows.shape == mask.shape and rows.dtype == torch.float32 and not rows[~mask].any()
    return [row[kept].tolist() for row, kept in zip(rows, mask, strict=True)]


def hand_case(make, totals, spans, **changes):
    """Two groups of two; every completion is two words and the stop token, but the third is one word longer.

    Returns the batch, the trainer and its first word's length.
    """
    reward = Reward(in_turn(totals), in_turn(spans), credits=changes.pop("credits", None))
    trainer = make(reward, num_generations=2, per_device_train_batch_size=4, **changes)
    a, b, c = pieces(trainer)
    turn = policy.stop_ids(trainer.processing_class)[0]
    return sample(trainer, [[a, b, turn], [a, b, turn], [a, b, c, turn], [a, b, turn]]), trainer


def ends(trainer) -> list[int]:
    """Where the first, second and third word of the hand case end, in the cleaned text."""
    decoded = [trainer.processing_class.decode(ids) for ids in [pieces(trainer)[:n] for n in (1, 2, 3)]]
    lead = len(decoded[0]) - len(decoded[0].lstrip())
    return [len(text) - lead for text in decoded]


def test_advantages_by_hand(make):
    """r = reward + span reward; minus mean, over std, of all tokens. The stop token carries the sequence alone."""
    first, second, third = ends(make(Reward()))
    spans = [
        [],
        [Span(0, first, "minor", 1.0)],
        [Span(second, third, "critical", 1.0)],
        [Span(first, second, "major", 0.5), Span(0, second, "minor", 1.0)],
    ]
    out, trainer = hand_case(make, [0.5, 1.0, -0.25, 0.0], spans)
    expected = [[0.5, 0.5, 0.5], [0.0, 1.0, 1.0], [-0.25, -0.25, -10.25, -0.25], [-1.0, -6.0, 0.0]]
    for got, wanted in zip(real(out), by_hand(expected), strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    logged = {name: values for name, values in trainer._metrics["train"].items() if name.startswith("token/")}
    flat = [x for row in by_hand(expected) for x in row]
    inside = [x - statistics.fmean(row) for row in by_hand(expected) for x in row]
    assert {name: values[0] for name, values in logged.items()} == pytest.approx(
        {
            "token/reward_mean": -18 / 13,
            "token/nonzero_share": 4 / 13,
            "token/unjudged_share": 0.0,
            "token/spans_per_sample": 1.0,
            "token/advantage_std": 1.0,
            "token/within_share": sum(x * x for x in inside) / sum(x * x for x in flat),
        },
        abs=1e-6,
    )


def test_scorers_are_weighed_and_added(make):
    first, second, _ = ends(make(Reward()))
    credits = {"judge": (0.5, SpanCredit()), "xcomet": (2.0, SpanCredit({"major": -1.0}, use_confidence=True))}
    both = [Span(0, first, "major", 0.25)]
    spans = [both, both, [], [], [], [], [], [Span(first, second, "major", 1.0)]]  # two scorers a row
    out, _ = hand_case(make, [0.0] * 4, spans, credits=credits)
    expected = [[-3.0, 0, 0], [0, 0, 0], [0, 0, 0, 0], [0, -2.0, 0]]
    for got, wanted in zip(real(out), by_hand(expected), strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)


def test_the_group_term(make):
    """z of (1, 3) is ∓1/√2 whatever else is in the batch; a tie has 0."""
    credit = TokenCredit(group_coefficient=2.0)
    out, _ = hand_case(make, [1.0, 3.0, 5.0, 5.0], [[]] * 4, credit=credit, scale_rewards="none")
    z = 1 / (math.sqrt(2) + 1e-4)
    expected = [[1 - 2 * z] * 3, [3 + 2 * z] * 3, [5.0] * 4, [5.0] * 3]
    for got, wanted in zip(real(out), by_hand(expected), strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)


def test_the_baseline_of_groups_is_the_mean_over_the_tokens_of_their_samples(make):
    """What is not judged counts in no mean: the second group is then its last sample alone."""
    first, second, _ = ends(make(Reward()))
    spans = [[Span(0, first, "minor", 1.0)], [], None, [Span(first, second, "major", 1.0)]]
    out, _ = hand_case(make, [0.5, 1.0, 7.0, 0.25], spans, credit=TokenCredit(baseline="group"))
    one, two = (0.5 * 3 - 1 + 1.0 * 3) / 6, (0.25 * 3 - 5) / 3
    less = [[-0.5 - one, 0.5 - one, 0.5 - one], [1.0 - one] * 3, [0.25 - two, -4.75 - two, 0.25 - two]]
    std = statistics.pstdev([x for row in less for x in row])  # their mean is 0
    got = real(out)
    assert got.pop(2) == [0.0] * 4
    for row, wanted in zip(got, less, strict=True):
        assert row == pytest.approx([x / std for x in wanted], abs=1e-5)


def test_without_normalisation_token_rewards_come_on_top_of_trls_advantages(make):
    first, _, _ = ends(make(Reward()))
    out, trainer = hand_case(
        make, [0.0, 1.0, 0.5, 0.5], [[], [], [Span(0, first, "minor", 1.0)], []], credit=TokenCredit(normalise=False)
    )
    half = 0.5 / (math.sqrt(0.5) + 1e-4)
    expected = [[-half] * 3, [half] * 3, [-1.0, 0, 0, 0], [0.0] * 3]
    for got, wanted in zip(real(out), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-6)
    assert trainer._metrics["train"]["token/advantage_std"][0] == pytest.approx(
        statistics.pstdev([x for row in expected for x in row]), abs=1e-6
    )


def test_the_sequence_level_differs_in_the_token_rewards_alone(make):
    first, _, _ = ends(make(Reward()))
    spans = [[], [Span(0, first, "major", 1.0)], None, []]
    out, trainer = hand_case(make, [0.0, 1.0, 7.0, 0.5], spans, credit=TokenCredit(level="sequence"))
    expected = by_hand([[0.0] * 3, [1.0] * 3, [0.5] * 3])  # the one not judged is left out here too
    got = real(out)
    assert got.pop(2) == [0.0] * 4
    for row, wanted in zip(got, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-5)
    logged = trainer._metrics["train"]
    assert logged["token/within_share"][0] == pytest.approx(0.0, abs=1e-6)
    assert logged["token/spans_per_sample"] == [1 / 3] and logged["token/reward_mean"] == [-5 / 9]
    sequence = hand_case(make, [0.0, 1.0, 7.0, 0.5], [[]] * 4, credits={}, credit=TokenCredit(level="sequence"))
    assert "token/within_share" in sequence[1]._metrics["train"]


def test_special_tokens_and_padding_have_no_token_reward(make):
    """Even when a span covers the whole text, or a control token is in the middle."""
    whole = lambda output: [Span(0, len(output), "major", 1.0)]  # noqa: E731
    trainer = make(Reward(lambda output: 0.0, whole), TokenCredit(normalise=False))
    tokenizer = trainer.processing_class
    a, b, c = pieces(trainer)
    turn, eos = policy.stop_ids(tokenizer)
    start = tokenizer.convert_tokens_to_ids("<start_of_turn>")
    rows = [[a, turn], [a, b, eos], [turn], [eos], [a, tokenizer.bos_token_id, b, turn], [start, a], [a] * 12, [c]]
    out = sample(trainer, rows)
    expected = [[0.0 if i in (turn, eos, start, tokenizer.bos_token_id) else -5.0 for i in row] for row in rows]
    assert real(out) == expected


def test_cut_completions_that_trl_masks_are_out_of_the_mean(make):
    reward = Reward(in_turn([1.0, 2.0, 100.0, 3.0]), lambda output: [])
    trainer = make(reward, num_generations=2, per_device_train_batch_size=4, mask_truncated_completions=True)
    a, turn = pieces(trainer, 1)[0], policy.stop_ids(trainer.processing_class)[0]
    out = sample(trainer, [[a, turn], [a, turn], [a] * 12, [a, turn]])
    got, expected = real(out), by_hand([[1.0] * 2, [2.0] * 2, [3.0] * 2])
    assert got[2] == [] and [got[0], got[1], got[3]] == [pytest.approx(row, abs=1e-5) for row in expected]


# --- what is missing -----------------------------------------------------------------------------------


def test_completions_without_reward_or_spans_are_left_out(make):
    """By group rules (too few of a group), by a failed judge, by spans outside the text; not by a gate."""
    totals = [None, 0.5, 0.25, None, 0.0, 1.0, 0.5, 0.75]  # of the first group two are missing: skipped
    spans = [[], [], [], [], None, [Span(0, 999, "minor", 1.0)], []]
    gates = [None] * 7 + ["loop"]
    trainer = make(Reward(in_turn(totals), in_turn(spans), in_turn(gates)))
    a, turn = pieces(trainer, 1)[0], policy.stop_ids(trainer.processing_class)[0]
    got = real(sample(trainer, [[a, turn]] * 8))
    assert got[:6] == [[0.0, 0.0]] * 6
    assert got[6:] == [pytest.approx([-1.0] * 2, abs=1e-5), pytest.approx([1.0] * 2, abs=1e-5)]
    logged = trainer._metrics["train"]
    assert logged["token/unjudged_share"] == [2 / 8] and logged["groups/skipped_share"] == [0.5]
    assert logged["token/spans_per_sample"] == [0.0]


def test_missing_rewards_have_no_token_reward_without_normalisation_either(make):
    first, _, _ = ends(make(Reward()))
    out, _ = hand_case(
        make, [None, 1.0, 0.0, 1.0], [[Span(0, first, "major", 1.0)]] * 4, credit=TokenCredit(normalise=False)
    )
    got = real(out)
    assert got[:2] == [[0.0] * 3] * 2 and got[2][0] < got[2][1] == got[2][3]


@pytest.mark.parametrize("rule", ["no reward", "no spans"])
def test_a_run_continues_when_nothing_could_be_scored(make, rule):
    reward = Reward(lambda output: None) if rule == "no reward" else Reward(spans=lambda output: None)
    trainer = make(reward, max_steps=2)
    before = weights(trainer)
    train(trainer)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2] and all(row["loss"] == 0.0 for row in rows)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(trainer), strict=True))
    assert all(row["token/unjudged_share"] == (rule == "no spans") for row in rows)
    assert not {"token/advantage_std", "token/within_share"} & set(rows[0])


def test_rows_of_another_call_are_refused(make):
    reward = Reward()
    trainer = make(reward)
    original = type(reward).__call__

    class Forgetful(Reward):
        def __call__(self, *args, **columns):
            totals = original(self, *args, **columns)
            self.last_rows.pop()
            return totals

    trainer.reward_funcs = [Forgetful()]
    with pytest.raises(ValueError, match="7 last_rows"):
        sample(trainer)


def test_settings_that_cannot_work_are_refused(make):
    def plain(prompts, completions, **columns):
        return [0.0] * len(completions)

    with pytest.raises(ConfigError, match=r"^reward_funcs: plain "):
        make(plain)
    reward = Reward(spans=lambda output: [Span(0, 1, "fatal", 1.0)])
    with pytest.raises(ConfigError, match=r"^weights: .*'fatal'"):
        sample(make(reward))


# --- what it teaches -----------------------------------------------------------------------------------


def log_probs(trainer, english: str, tamil: str) -> tuple[list[tuple[int, int]], list[float]]:
    """Characters of each token of `tamil`, and its log-probability, from the plain logits."""
    tokenizer = trainer.processing_class
    prompt = tokenizer(script.make_prompt(english)).input_ids
    ids = tokenizer(tamil, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = trainer.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double()
    found = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    return TokenOffsets(tokenizer)(ids)[1], found.tolist()


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_marked_word_becomes_less_likely(make, level):
    """Equal rewards for all: only the span tells anything, and only its word is unlearnt."""
    english, tamil = PAIRS[1]
    trainer = make(Reward(lambda output: 0.5, marks(WRONG)), TokenCredit(level=level), max_steps=4)
    tokenizer = trainer.processing_class
    ids = [*tokenizer(tamil, add_special_tokens=False).input_ids, policy.stop_ids(tokenizer)[0]]
    trainer.train_dataset = trainer.train_dataset.map(
        lambda row: {"prompt": script.make_prompt(english), "source": english}
    )
    trainer._generate_single_turn = lambda *_: ([ids] * 8, None)
    ranges, before = log_probs(trainer, english, tamil)
    train(trainer)
    _, after = log_probs(trainer, english, tamil)
    start = tamil.index(WRONG)
    marked = [a < start + len(WRONG) and b > start for a, b in ranges]
    change = {
        hit: sum(y - x for x, y, m in zip(before, after, marked, strict=True) if m == hit) for hit in (True, False)
    }
    if level == "token":
        assert any(marked) and not all(marked)
        assert change[True] < -1.0 and change[True] < 10 * min(0.0, change[False])
    else:
        assert change == {True: 0.0, False: 0.0}  # nothing to learn from


def test_sampled_training_avoids_the_marked_word(make):
    """Nothing prepared: sampled completions, and a vowel sign that costs. Its share of the samples falls."""
    seen = []

    class Watching(Reward):
        def __call__(self, *args, **columns):
            totals = super().__call__(*args, **columns)
            seen.append(sum(len(row["spans"]["judge"]) for row in self.last_rows) / len(self.last_rows))
            return totals

    spans = marks("ி")
    trainer = train(make(Watching(lambda output: 0.0, spans), max_steps=16, per_device_train_batch_size=16))
    logged = [row["token/spans_per_sample"] for row in trainer.state.log_history if "loss" in row]
    assert logged == pytest.approx(seen)
    assert np.mean(seen[-4:]) < 0.6 * np.mean(seen[:2])


# --- evaluation, rollouts, resume ----------------------------------------------------------------------


def test_trls_own_evaluation(make, tmp_path):
    reward = Reward(spans=marks("கி"))
    trainer = make(reward, rollouts=tmp_path / "r.jsonl", evaluation=SENTENCES[16:20])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = trainer.evaluate()
    assert math.isfinite(found["eval_loss"]) and 0 <= found["eval_token/nonzero_share"] <= 1
    assert found["eval_token/unjudged_share"] == 0.0
    assert 0 < found["eval_token/advantage_std"] < 1 + 1e-6  # 1 unless the samples of a group tie
    assert not (tmp_path / "r.jsonl").exists()


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_rollouts_hold_what_the_update_saw(make, tmp_path, beta):
    path = tmp_path / "train_rollouts.jsonl"
    reward = Reward(spans=marks("கி"))
    trainer = make(reward, rollouts=path, beta=beta, max_steps=2, temperature=0.7)
    batches, original = [], trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(original(inputs)) or dict(batches[-1])
    extra = {"credit": NORMALISED}
    model = build(TokenCreditTrainer, Path(trainer.model.name_or_path), tmp_path / "again", Reward(), extra).model
    train(trainer)
    rows = read(path)
    assert [(row["step"], row["group"]) for row in rows] == [(s, g) for s in (1, 2) for g in (0, 1) for _ in range(4)]
    columns = {"completion_ids": "token_ids", "advantages": "advantages"}
    if beta:
        columns["ref_per_token_logps"] = "ref_logps"
    for name, column in columns.items():
        expected = [
            values[kept.bool()].tolist()
            for batch in batches
            for values, kept in zip(batch[name], batch["completion_mask"], strict=True)
        ]
        assert [torch.tensor(row[column]).tolist() for row in rows] == expected  # every bit of the float32
    assert beta or all(row["ref_logps"] is None for row in rows)
    tokenizer = trainer.processing_class
    for row in rows:
        assert row["text"] == tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        assert row["completion"] == clean_for_scoring(row["text"])
        assert "".join(row["text"][a:b] for a, b in row["offsets"]) == row["text"]
        if row["text"] == row["completion"]:
            spans = row["spans"]["judge"]
            hits = [sum(start < b and a < end for start, end, *_ in spans) for a, b in row["offsets"]]
            assert row["token_rewards"] == [-5.0 * n for n in hits]
    assert any(any(row["token_rewards"]) for row in rows)
    # log-probabilities of sampling time, from the plain logits of the start policy
    with torch.no_grad():
        for row in rows[:8]:
            prompt = tokenizer(script.make_prompt(row["source"])).input_ids
            logits = model(torch.tensor([prompt + row["token_ids"]])).logits[0, len(prompt) - 1 : -1].double() / 0.7
            expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(row["token_ids"])[:, None])[:, 0]
            assert row["old_logps"] == pytest.approx(expected.tolist(), abs=2e-5)
            if beta:
                assert row["ref_logps"] == pytest.approx(expected.tolist(), abs=2e-5)
    assert len(reweigh.read_rollouts(path)) == 16  # the columns of rollouts.jsonl are all there


@pytest.mark.parametrize(
    ("options", "steps", "groups"),
    [
        ({}, (1, 2, 3), 2),
        ({"num_iterations": 2, "beta": 0.05}, (1, 3), 2),
        (  # two generations in every step
            {"steps_per_generation": 2, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 4},
            (1, 2, 3),
            4,
        ),
    ],
)
def test_writing_rollouts_changes_no_bit(make, tmp_path, options, steps, groups):
    path = tmp_path / "r.jsonl"
    without = train(make(Reward(spans=marks("கி")), **options))
    kept = train(make(Reward(spans=marks("கி")), rollouts=path, **options))
    assert same(without, kept)
    found = [(row["step"], row["group"]) for row in read(path)]
    assert found == [(step, group) for step in steps for group in range(groups) for _ in range(4)]


def test_rollouts_leave_the_random_state_alone(make, tmp_path):
    """A policy with dropout draws in every forward pass, also in the one that the rollouts cost."""

    def run(rollouts):
        trainer = make(Reward(), rollouts=rollouts, max_steps=2)
        for module in trainer.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        return train(trainer)

    assert same(run(None), run(tmp_path / "r.jsonl"))


def test_what_was_not_judged_is_null_in_the_rollouts(make, tmp_path):
    trainer = make(Reward(spans=in_turn([None] + [[]] * 7)), rollouts=tmp_path / "r.jsonl")
    sample(trainer)
    first, second, *_ = read(tmp_path / "r.jsonl")
    assert first["spans"] == {"judge": None} and set(first["token_rewards"]) == {None}
    assert second["spans"] == {"judge": []} and set(second["token_rewards"]) == {0.0}


def test_a_sealed_checkpoint_continues_to_the_same_bits(make, tmp_path):
    """With token credit, rollouts and two updates per generation; rows past the checkpoint are written again."""
    folder, path = tmp_path / "run", tmp_path / "run" / "train_rollouts.jsonl"
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "num_iterations": 2, "beta": 0.05}

    def start():
        trainer = make(Reward(spans=marks("கி")), TokenCredit(group_coefficient=0.5), path, **options)
        trainer.checkpoints = checkpoints.Keeper(folder, keep=9, parts={"trainer": trainer})
        return trainer

    whole = train(start())
    rows, bytes_of = [row for row in whole.state.log_history if "loss" in row], path.read_bytes()
    for step in (4, 6):
        shutil.rmtree(folder / f"checkpoint-{step}")
    (folder / checkpoints.RECORD).write_text(json.dumps({"sealed": [2], "bytes": 0}))
    again, found = start(), checkpoints.find(folder)
    assert found.step == 2
    again.checkpoints.restore(found)
    train(again, resume_from_checkpoint=str(found.path))
    assert same(whole, again) and path.read_bytes() == bytes_of
    clocks = ("time/", "step_time")
    assert [{k: v for k, v in row.items() if not k.startswith(clocks)} for row in rows] == [
        {k: v for k, v in row.items() if not k.startswith(clocks)} for row in again.state.log_history if "loss" in row
    ]


# --- two processes -------------------------------------------------------------------------------------


def recorded(tokenizer, count: int = 12) -> list[list[int]]:
    """The same completions in every process: words of PAIRS, 1 to 9 tokens and the stop."""
    rng, turn = random.Random(0), policy.stop_ids(tokenizer)[0]
    ids = [i for _, tamil in PAIRS for i in tokenizer(tamil, add_special_tokens=False).input_ids]
    return [[*rng.choices(ids, k=rng.randint(1, 9)), turn] for _ in range(count)]


def one_update(model: Path, folder: Path, credit: TokenCredit) -> dict:
    """One step of plain gradient descent on the recorded completions, of which each process has its share.

    The second of three groups is split over two processes; a reward is missing, a judge fails, an output is gated.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    reward = Reward(
        total=lambda output: None if len(output) % 11 == 3 else len(output) % 7 / 7,
        spans=lambda output: None if len(output) % 9 == 4 else marks("கி")(output) + marks("ர்", "minor")(output),
        gate=lambda output: "length" if len(output) < 14 else None,
    )
    extra = {"credit": credit, "rollouts": folder / "r.jsonl"}
    options = {"max_steps": 1, "per_device_train_batch_size": 12 // count, "optim": "sgd", "learning_rate": 0.1}
    trainer = build(TokenCreditTrainer, model, folder, reward, extra, **options)
    share = slice(
        12 // count * trainer.accelerator.process_index, 12 // count * (trainer.accelerator.process_index + 1)
    )
    trainer._generate_single_turn = lambda *_: (recorded(trainer.processing_class)[share], None)
    batches, original = [], trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: batches.append(original(inputs)) or dict(batches[-1])
    train(trainer)
    (logged,) = (row for row in trainer.state.log_history if "loss" in row)
    return {
        "advantages": real(batches[0]),
        "logged": {k: v for k, v in logged.items() if k.startswith(("token/", "groups/"))},
        "weights": [p.numpy() for p in weights(trainer)],
        "processes": trainer.accelerator.num_processes,
    }


@pytest.mark.parametrize(
    "credit", [TokenCredit(group_coefficient=0.5), TokenCredit(normalise=False), TokenCredit(baseline="group")]
)
def test_two_processes_are_as_one(tiny_policy, tmp_path, credit):
    """Mean and deviation over the tokens of both, the same gradient, the same rows in the same order."""
    whole = one_update(tiny_policy, tmp_path / "one", credit)
    halves = Processes(tmp_path / "two", [0, 1], one_update, tiny_policy, tmp_path / "two", credit).results()
    assert [whole["processes"], *(half["processes"] for half in halves)] == [1, 2, 2]
    assert 0 < whole["logged"]["token/unjudged_share"] < 0.5 and 0 < whole["logged"]["groups/missing_share"] < 0.5
    assert whole["logged"]["token/within_share"] > 0.01
    together = halves[0]["advantages"] + halves[1]["advantages"]
    for one, two in zip(whole["advantages"], together, strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    for half in halves:
        assert half["logged"] == pytest.approx(whole["logged"], abs=1e-6)
        for one, two in zip(whole["weights"], half["weights"], strict=True):
            assert np.abs(one - two).max() < 1e-6
    start = weights(build(TokenCreditTrainer, tiny_policy, tmp_path / "start", Reward(), {"credit": credit}))
    assert max(np.abs(one - p.numpy()).max() for one, p in zip(whole["weights"], start, strict=True)) > 1e-3
    rows = [read(tmp_path / name / "r.jsonl") for name in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if k not in ("advantages", "old_logps")} == {
            k: v for k, v in two.items() if k not in ("advantages", "old_logps")
        }
        assert two["old_logps"] == pytest.approx(one["old_logps"], abs=1e-4)  # other padding
    assert [row["group"] for row in rows[1]] == [0] * 4 + [1] * 4 + [2] * 4 and any(row["gate"] for row in rows[1])


# --- the pure parts ------------------------------------------------------------------------------------


@given(st.lists(st.floats(-5, 5, width=32) | st.just(NAN), min_size=4, max_size=24), st.integers(1, 4))
def test_group_z_scores_against_numpy(values, size):
    values = values[: len(values) // size * size]
    expected = []
    for start in range(0, len(values), size):
        group = values[start : start + size]
        valid = [v for v in group if v == v]
        std = np.std(valid, ddof=1) if len(valid) > 1 else 0.0
        expected += [0.0 if v != v else (v - np.mean(valid)) / (std + 1e-4) for v in group]
    assert group_z_scores(torch.tensor(values), size).tolist() == pytest.approx(expected, abs=1e-2, rel=1e-3)


def test_a_gated_row_needs_no_spans():
    credits = {"judge": (1.0, SpanCredit())}
    ranges = [(0, 2), (2, 3)]
    gated = judge({"gate": "copy", "output": "abc", "spans": {}}, "abc", ranges, credits)
    assert gated == Judged("abc", ranges, [0.0, 0.0], None)
    missing = judge({"gate": None, "output": "abc", "spans": {}}, "abc", ranges, credits)
    assert all(math.isnan(r) for r in missing.rewards) and missing.spans == 0


def test_metrics_of_two_processes_are_those_of_one():
    """Sums add up: of all rows at once, or of two halves."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(-5, 1, (8, 6), generator=generator).float()
    tokens[3] = NAN
    mask = torch.arange(6) < torch.tensor([6, 2, 0, 4, 5, 1, 3, 6])[:, None]
    sequence = torch.randn(8, generator=generator)
    advantages = token_advantages(sequence, tokens, mask)
    spans, counted = [1, 2, None, 0, 3, 0, None, 1], tokens.isfinite().all(1)

    def sums(rows):
        return token_sums(tokens[rows], advantages[rows], mask[rows], counted[rows], spans[rows])

    whole = token_metrics(sums(slice(0, 8)).tolist())
    halves = token_metrics((sums(slice(0, 4)) + sums(slice(4, 8))).tolist())
    assert halves == pytest.approx(whole)
    kept = (mask & counted[:, None]).nonzero().tolist()
    flat = [advantages[i, t].item() for i, t in kept]
    assert whole["token/advantage_std"] == pytest.approx(statistics.pstdev(flat), abs=1e-6)
    assert whole["token/reward_mean"] == pytest.approx(statistics.fmean(tokens[i, t].item() for i, t in kept))
    assert whole["token/unjudged_share"] == 1 / 8 and whole["token/spans_per_sample"] == pytest.approx(7 / 5)
    assert token_metrics([0.0, 0.0, 0.0, 2.0, 2.0, *[0.0] * 6]) == {"token/unjudged_share": 1.0}
    assert stack_rows([[1.0]], torch.zeros(1, 2)).tolist() == [[1.0, 0.0]]
