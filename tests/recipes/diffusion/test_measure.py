"""recipes/diffusion/measure.py: held-out fills, the score outside the reward, the errors of the estimators."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from tiny_diffusion import template, tiny_generator, tiny_tokenizer

from recipes.diffusion.measure import DiffusionEvaluator, Outside, load_outside
from recipes.diffusion.reward import JudgeReward
from rl_nmt.models.masked_diffusion import banned_ids

TOKENIZER = tiny_tokenizer()
ROWS = [{"ids": template(TOKENIZER, text), "source": text} for text in ("a____b", "ab______", "__c__d_e", "____")]
SAMPLER = {"steps": 2, "order": "random", "top_p": 1.0, "temperature": 0.8}
BANNED = banned_ids(TOKENIZER)


@pytest.fixture
def functions(monkeypatch):
    """A module with a judge, and measures called as columns of the results are."""
    module = ModuleType("diffusion_measures")
    module.judge = lambda completions, **columns: [text.count("a") / len(text) for text in completions]
    for name in ("total", "reward", "kl"):
        setattr(module, name, lambda texts: [100.0 + len(text) for text in texts])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def evaluator(functions, outside=None, **options) -> DiffusionEvaluator:
    reward = JudgeReward(f"{functions}:judge")
    return DiffusionEvaluator(ROWS, TOKENIZER, reward, outside or Outside(), SAMPLER, banned=BANNED, **options)


@pytest.mark.parametrize("name", ["total", "reward", "kl"])
def test_an_outside_measure_replaces_no_other_column(functions, name):
    outside = load_outside(f"{functions}:{name}")
    found = evaluator(functions, outside)(tiny_generator(), tiny_generator(1)).metrics
    assert found[outside.name] > 100 and found["reward"] <= 1 and found["kl_fill"] < 100


def test_draws_depend_on_the_batches_and_the_signature_has_them(functions):
    two, four, again = (evaluator(functions, batch_size=size) for size in (2, 4, 4))
    fills = [each(tiny_generator()).outputs for each in (two, four, again)]
    assert fills[0] != fills[1] == fills[2]
    assert two.decoding != four.decoding == again.decoding


def test_kl_is_of_the_models_and_zero_of_one(functions):
    evaluate = evaluator(functions)
    same, other = (evaluate(tiny_generator(), tiny_generator(seed)) for seed in (0, 1))
    assert same.metrics["kl_fill"] == pytest.approx(0, abs=1e-5) and other.metrics["kl_fill"] > 1


@pytest.mark.parametrize("size", [64, 3])
def test_errors_of_the_estimators(functions, size):
    evaluate = evaluator(functions, batch_size=size)
    found = evaluate.errors(tiny_generator())
    assert found["trajectory"][1] <= 1e-4 < found["one_step"][1]
    evaluate.sampler = SAMPLER | {"steps": 1}
    assert evaluate.errors(tiny_generator())["one_step"][1] <= 1e-4
