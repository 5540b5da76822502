"""Out of memory, with real failed allocations: recognised, retried in smaller batches, then larger ones again."""

from __future__ import annotations

import doctest

import pytest
import torch

from rl_nmt.models import batching
from rl_nmt.models.batching import TokenBudget, batches, is_out_of_memory, run_batches


def too_much():
    """Fail a real allocation: a petabyte."""
    return torch.empty(2**50, dtype=torch.uint8)


def limited(limit: int, lengths, seen: list | None = None):
    """A model with memory for `limit` tokens, padding included; it checks that no row is scored twice."""
    known: set[int] = set()

    def run(batch):
        rectangle = len(batch) * max(lengths[i] for i in batch)
        if seen is not None:
            seen.append(rectangle)
        if rectangle > limit:
            too_much()
        assert known.isdisjoint(batch)
        known.update(batch)
        return [10 * lengths[i] for i in batch]

    return run


def test_docstrings():
    assert doctest.testmod(batching).failed == 0


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA failed with error out of memory"), True),  # CTranslate2
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
        (KeyError("x"), False),
    ],
)
def test_what_is_out_of_memory(error, answer):
    assert is_out_of_memory(error) is answer


def test_a_real_failed_allocation_and_one_that_caused_another_error():
    with pytest.raises(RuntimeError) as caught:
        too_much()
    assert is_out_of_memory(caught.value)
    wrapped = ValueError("scoring failed")
    wrapped.__cause__ = caught.value
    assert is_out_of_memory(wrapped)


def test_enough_memory_changes_nothing():
    lengths, seen = [3, 9, 2, 8, 5], []
    budget = TokenBudget(18)
    assert run_batches(limited(18, lengths, seen), lengths, budget) == [30, 90, 20, 80, 50]
    assert seen == [lengths[batch[0]] * len(batch) for batch in batches(lengths, 18)] and budget.tokens == 18


@pytest.mark.parametrize("limit", [9, 10, 17, 20, 35, 100])
def test_every_row_is_scored_once_for_any_limit(limit, capsys):
    lengths = [3, 9, 2, 8, 5, 9, 1, 1, 7]
    budget = TokenBudget(64)
    done = run_batches(limited(limit, lengths), lengths, budget, argument="comet_da_model")
    assert done == [10 * n for n in lengths]
    assert (budget.tokens < 64) == (limit < 63)  # the first batch is 7 rows of 9
    assert ("comet_da_model: out of memory" in capsys.readouterr().err) == (limit < 63)


def test_a_row_that_never_fits_loses_no_others(capsys):
    lengths = [4, 50, 4, 60, 4]
    assert run_batches(limited(40, lengths), lengths, TokenBudget(1000)) == [40, None, 40, None, 40]
    assert "60 tokens do not fit alone" in capsys.readouterr().err


def test_few_attempts_are_wasted():
    """Halving finds a size that fits in log2(full / limit) failures, not one per batch."""
    lengths, seen = [16] * 256, []
    run_batches(limited(128, lengths, seen), lengths, TokenBudget(4096))
    assert sum(size > 128 for size in seen) == 5  # 4096, 2048, 1024, 512, 256
    assert sum(seen) - sum(s for s in seen if s > 128) == 256 * 16


def test_the_budget_grows_again_and_waits_longer_if_that_was_too_early():
    lengths, budget = [8] * 16, TokenBudget(128, calm=3)
    call = lambda limit: run_batches(limited(limit, lengths), lengths, budget)  # noqa: E731
    call(40)
    assert budget.tokens == 32
    sizes = [call(1000) and budget.tokens for _ in range(9)]
    assert sizes == [32, 32, 64, 64, 64, 128, 128, 128, 128]
    call(40)
    assert (budget.tokens, budget.calm) == (32, 3)  # the larger size had worked for three calls
    sizes = [call(40) and (budget.tokens, budget.calm) for _ in range(12)]
    # three calm calls → 64, which fails at once → 32 again and twice the patience
    assert sizes[:4] == [(32, 3), (32, 3), (64, 3), (32, 6)]
    assert [tokens for tokens, _ in sizes[4:]] == [32] * 5 + [64, 32, 32]
    assert sizes[-1][1] == 12


def test_other_errors_are_raised():
    def run(batch):
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        run_batches(run, [1, 2], TokenBudget(8))


def test_a_budget_of_0():
    with pytest.raises(ValueError, match="token_budget: 0"):
        TokenBudget(0)
