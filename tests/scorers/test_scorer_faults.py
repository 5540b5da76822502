"""A scorer that fails on one sample: that sample has no advantage, the rest of its group does, weights stay finite.

The expected advantages are computed here from the three remaining rewards: (r - mean) / (std + 1e-4).
"""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import PAIRS

import train_grpo_en_ta as script
from rewards_en_ta_dupo import CometDuPOReward
from rl_nmt.models import policy
from rl_nmt.models.batching import TokenBudget
from rl_nmt.scorers.base import Scores, Segment
from rl_nmt.text.unicode import clean_for_scoring
from rl_nmt.training.setup import Policy

GROUP = 4
ENGLISH = [english for english, _ in PAIRS]


class WrongTranslator:
    """A real back-translator that returns `value` for one item, or fails on it."""

    def __init__(self, real, target, value=None, error=None, short=False):
        self.real, self.target, self.value, self.error, self.short = real, target, value, error, short
        self.stats = real.stats

    def __call__(self, texts):
        return self._answers(texts, self.real(texts))

    def _answers(self, texts, answers):
        hit = [text == self.target for text in texts]
        if self.error is not None and any(hit):
            raise self.error
        if self.short and any(hit):
            return answers[:-1]
        return [self.value if bad else answer for bad, answer in zip(hit, answers, strict=True)]


class Wrong(WrongTranslator):
    """The same for a scorer."""

    range = (0.0, 1.0)

    def score(self, segments):
        return Scores(self._answers([s.mt for s in segments], self.real.score(segments).values))


FAULTS = {
    "nan": {"value": float("nan")},
    "inf": {"value": float("inf")},
    "-inf": {"value": -float("inf")},
    "1e30": {"value": 1e30},
    "none": {"value": None},
    "text": {"value": "0.9"},
    "bool": {"value": True},
    "wrong length": {"short": True},
    "raises": {"error": RuntimeError("device-side assert triggered")},
    "out of memory": {"error": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")},
}


@pytest.fixture(scope="module")
def reward(tiny_comet_da, tiny_comet_qe, tiny_nllb):
    return CometDuPOReward(
        str(tiny_comet_da),
        str(tiny_comet_qe),
        str(tiny_nllb),
        backtranslation_beams=1,
        guards="off",
        penalty_weight_script=0.0,
        penalty_weight_lenratio=0.0,
    )


@pytest.fixture(scope="module")
def trainer(reward, tiny_policy, tmp_path_factory):
    """A trainer of three prompts with four samples a step; the tests replace the reward's models."""
    folder = tmp_path_factory.mktemp("faults")
    cfg = script.RunCfg(
        model_id=str(tiny_policy),
        attn_implementation="eager",
        lora_rank=0,
        kl_beta=0.0,
        group_size=GROUP,
        lr=1e-4,
        per_device_batch_size=3 * GROUP,
        gradient_accumulation_steps=1,
        max_new_tokens=12,
        warmup_steps=0,
        max_steps=len(FAULTS),
        save_steps=0,
        output_dir=str(folder),
        temperature=1.5,
    )
    tokenizer = policy.load_tokenizer(cfg.model_id)
    precision = policy.Precision("cpu", torch.float32, False, "test")
    model = policy.load_policy(cfg.model_id, tokenizer, precision, cfg.attn_implementation)
    return script.build_trainer(cfg, folder, Policy(tokenizer, precision, model, lambda: model), reward, ENGLISH)


def step(trainer, reward, seed):
    """Return (totals, advantages) of one generation batch, the same samples for the same seed."""
    inputs = [{"prompt": script.make_prompt(text), "source": text} for text in ENGLISH[:3] for _ in range(GROUP)]
    trainer.model.train()
    torch.manual_seed(seed)
    advantages = trainer._generate_and_score_completions(inputs)["advantages"].tolist()
    return [row["total"] for row in reward.last_rows], advantages


@pytest.fixture(scope="module")
def clean(trainer, reward):
    """Totals and advantages without a fault; a sample different from all others, its texts; the seed."""
    for seed in range(5, 25):
        totals, advantages = step(trainer, reward, seed)
        outputs, backs = ([row[name] for row in reward.last_rows] for name in ("output", "backtranslation"))
        assert None not in totals
        groups = [totals[first : first + GROUP] for first in range(0, 3 * GROUP, GROUP)]
        if min(max(group) - min(group) for group in groups) < 2e-3:
            continue
        for bad in range(3 * GROUP):
            if outputs.count(outputs[bad]) == backs.count(backs[bad]) == 1:
                seen_as = {"da": backs[bad], "qe": outputs[bad], "backtranslator": outputs[bad]}
                return totals, advantages, bad, seen_as, seed
    raise AssertionError("every sample is like another")


def by_hand(totals):
    """Return the advantages of one group from its present rewards; 0 for samples without one."""
    known = torch.tensor([total for total in totals if total is not None])
    return [0.0 if t is None else ((t - known.mean()) / (known.std() + 1e-4)).item() for t in totals]


def group_of(i):
    return slice(i // GROUP * GROUP, i // GROUP * GROUP + GROUP)


def test_undisturbed_advantages_are_those_by_hand(clean):
    totals, advantages, *_ = clean
    for first in range(0, 3 * GROUP, GROUP):
        group = totals[group_of(first)]
        assert max(group) - min(group) > 1e-3
        assert advantages[group_of(first)] == pytest.approx(by_hand(group), abs=1e-6)


@pytest.mark.parametrize(
    ("part", "fault"),
    [
        (part, fault)
        for part in ("da", "qe", "backtranslator")
        for fault in FAULTS
        if (part, fault) != ("backtranslator", "text")
    ],
)
def test_a_fault_costs_its_sample_alone(trainer, reward, clean, monkeypatch, part, fault):
    totals, _, bad, seen_as, seed = clean
    kind = WrongTranslator if part == "backtranslator" else Wrong
    monkeypatch.setattr(reward, part, kind(getattr(reward, part), seen_as[part], **FAULTS[fault]))
    found, advantages = step(trainer, reward, seed)
    assert [i for i, total in enumerate(found) if total is None] == [bad]
    assert [t for t in found if t is not None] == pytest.approx([t for t in totals if t != totals[bad]], abs=1e-6)
    siblings = by_hand(found[group_of(bad)])
    assert advantages[bad] == 0.0 and advantages[group_of(bad)] == pytest.approx(siblings, abs=1e-6)
    for i in range(3 * GROUP):
        if group_of(i) != group_of(bad):  # a score depends on its batch by 1e-7, and advantages divide by the spread
            assert advantages[i] == pytest.approx(by_hand(found[group_of(i)])[i % GROUP], abs=1e-6)


def test_weights_stay_finite_through_every_fault(trainer, reward, monkeypatch):
    """Ten steps, each with a different fault on the second sample of its batch."""
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    faults, lost, real = iter(FAULTS.values()), [], reward.qe

    def score(prompts, completions, **columns):
        reward.qe = Wrong(real, clean_for_scoring(completions[1]), **next(faults))
        totals = reward(prompts, completions, **columns)
        lost.append(sum(total is None for total in totals))
        return totals

    score.__name__ = "score"
    monkeypatch.setattr(trainer, "reward_funcs", [score])
    monkeypatch.setattr(reward, "qe", real)
    trainer.train()
    assert len(lost) == len(FAULTS) and min(lost) >= 1 and max(lost) < 3 * GROUP
    weights = dict(trainer.model.named_parameters())
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert any(not torch.equal(weight, start[name]) for name, weight in weights.items())


# --- out of memory inside the models -------------------------------------------------------------------


def limit(monkeypatch, owner, name, tokens, count):
    """Limit `owner.name` to `tokens`, counted from its arguments by `count`; beyond, a real allocation fails."""
    real, seen = getattr(owner, name), []

    def limited(*args, **kwargs):
        seen.append(count(*args))
        if seen[-1] > tokens:
            torch.empty(2**50, dtype=torch.uint8)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, limited)
    return seen


LONG = Segment("The boy reads a book. " * 24, "சிறுவன் ஒரு புத்தகத்தைப் படிக்கிறான். " * 24, "The boy reads a book. " * 24)
SEGMENTS = [Segment(english, tamil, english) for english, tamil in PAIRS]


@pytest.mark.parametrize("part", ["da", "qe"])
def test_a_scorer_halves_its_batches_and_enlarges_them_again(reward, monkeypatch, capsys, part):
    judge = getattr(reward, part)
    expected = judge.score(SEGMENTS).values
    monkeypatch.setattr(judge, "budget", TokenBudget(8192, calm=2))
    with monkeypatch.context() as patch:
        seen = limit(patch, judge.route.encoder, "pack", 100, lambda sequences: sum(map(len, sequences)))
        assert judge.score(SEGMENTS).values == pytest.approx(expected, abs=1e-6)
        assert seen[0] > 100 and max(seen[-3:]) <= 100
    assert "out of memory" in capsys.readouterr().err and judge.budget.tokens <= 100 < judge.budget.full
    for _ in range(2 * 8):
        assert judge.score(SEGMENTS).values == pytest.approx(expected, abs=1e-6)
    assert judge.budget.tokens == judge.budget.full == 8192


@pytest.mark.parametrize("part", ["da", "qe"])
def test_a_segment_that_never_fits_has_no_score(reward, monkeypatch, capsys, part):
    judge = getattr(reward, part)
    expected = judge.score(SEGMENTS).values
    monkeypatch.setattr(judge, "budget", TokenBudget(8192))
    limit(monkeypatch, judge.route.encoder, "pack", 100, lambda sequences: sum(map(len, sequences)))
    values = judge.score([*SEGMENTS[:5], LONG, *SEGMENTS[5:]]).values
    assert values[5] is None and [*values[:5], *values[6:]] == pytest.approx(expected, abs=1e-6)
    assert "do not fit alone" in capsys.readouterr().err
    assert judge.score([LONG]).values == [None]


def test_spans_and_references_of_a_segment_that_never_fits(tmp_path, monkeypatch):
    """XCOMET: three sequences a segment; if one is lost, there must be no mean over the others."""
    import tiny_models

    from rl_nmt.scorers.comet.scorer import load_comet

    judge = load_comet(tiny_models.build_comet(tmp_path / "xcomet", kind="xcomet_metric"))
    expected = judge.score(SEGMENTS)
    middle = Segment(LONG.src, "நன்றி.", "Thank you.")  # [mt src] and [mt src ref] are too long, [mt ref] fits
    limit(monkeypatch, judge.route.encoder, "pack", 100, lambda sequences: sum(map(len, sequences)))
    found = judge.score([middle, *SEGMENTS, LONG])
    assert found.values[0] is None and found.values[-1] is None
    assert found.values[1:-1] == pytest.approx(expected.values, abs=1e-6)
    for spans, wanted in zip(found.spans[1:-1], expected.spans, strict=True):  # another batch: equal up to rounding
        assert [(s.start, s.end, s.severity) for s in spans] == [(s.start, s.end, s.severity) for s in wanted]
        assert [s.confidence for s in spans] == pytest.approx([s.confidence for s in wanted], abs=1e-6)


def test_a_translator_halves_its_batches_and_loses_only_texts_that_never_fit(reward, monkeypatch, capsys):
    translator = reward.backtranslator
    texts = [tamil for _, tamil in PAIRS]
    expected = translator(texts)
    monkeypatch.setattr(translator, "budget", TokenBudget(4096))
    long = " ".join(PAIRS[0][1].rstrip(".") for _ in range(8))
    limit(monkeypatch, translator.engine, "generate", 64, lambda rows, caps: len(rows) * max(map(len, rows)))
    assert translator(texts) == expected and "out of memory" in capsys.readouterr().err
    assert translator([texts[0], long, f"{texts[1]} {long}. {texts[2]}", texts[3]]) == [
        expected[0],
        None,
        None,
        expected[3],
    ]


def test_a_text_that_never_fits_costs_only_its_own_reward(reward, monkeypatch):
    english, tamil = zip(*PAIRS[:4], strict=True)
    expected = reward([], list(tamil), source=list(english))
    monkeypatch.setattr(reward.qe, "budget", TokenBudget(8192))
    limit(monkeypatch, reward.qe.route.encoder, "pack", 100, lambda sequences: sum(map(len, sequences)))
    totals = reward([], [*tamil[:2], LONG.mt, *tamil[2:]], source=[*english[:2], LONG.src, *english[2:]])
    assert totals[2] is None and [*totals[:2], *totals[3:]] == pytest.approx(expected, abs=1e-6)
    assert all(math.isfinite(total) for total in expected)
