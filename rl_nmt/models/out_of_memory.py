"""Out of memory in a judge or translator: smaller batches, larger ones again later, None for what never fits.

Which batch sizes fit depends on what the policy holds at that moment, so a budget that was too large once may
do again a few calls later. No torch: this module only recognises its errors.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from rl_nmt.errors import causes
from rl_nmt.models.batching import batches

V = TypeVar("V")

# What torch, cuBLAS, CTranslate2 and C++ say; accelerate's own list lacks the second, third and the two last.
OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "HIP out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA failed with error out of memory",
    "std::bad_alloc",
)
CALM = 8  # calls without a failure after which the budget is doubled again


def is_out_of_memory(error: BaseException) -> bool:
    """Does this error, or one that led to it, mean that memory ran out?

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    return any(
        isinstance(e, MemoryError)
        or type(e).__name__ == "OutOfMemoryError"
        or (isinstance(e, RuntimeError) and any(words in str(e) for words in OUT_OF_MEMORY))
        for e in causes(error)
    )


class TokenBudget:
    """How many tokens may go into one batch: halved when memory runs out, doubled again after calm calls.

    full: the budget as configured, at least 1. tokens: the one in force, in [1, full].
    calm: calls without a failure before it grows; doubled each time that growing was too early.

    >>> budget = TokenBudget(8192, calm=2)
    >>> budget.shrink(8192)
    >>> budget.tokens
    4096
    >>> for _ in range(3): budget.end_call()  # the one that failed, and two calm ones
    >>> budget.tokens
    8192
    """

    def __init__(self, full: int, calm: int = CALM):
        if full < 1:
            raise ValueError(f"token_budget: {full} must be at least 1")
        self.full, self.tokens, self.calm = full, full, calm
        self._first_calm, self._quiet, self._failed, self._grown = calm, 0, False, False

    def shrink(self, used: int) -> None:
        """Memory ran out in a batch of `used` tokens."""
        if self._grown and not self._failed:
            self.calm *= 2
        self.tokens = max(1, min(self.tokens, used) // 2)
        self._failed, self._grown = True, False

    def end_call(self) -> None:
        """All batches of one call are done."""
        self._quiet = 0 if self._failed else self._quiet + 1
        self._failed = False
        if self.tokens == self.full:
            if self._quiet >= self.calm:  # the larger batches have held
                self.calm, self._grown = self._first_calm, False
        elif self._quiet >= self.calm:
            self.tokens, self._quiet, self._grown = min(self.full, 2 * self.tokens), 0, True


def run_batches(
    run: Callable[[list[int]], V],
    lengths: Sequence[int],
    budget: TokenBudget,
    plan: Callable[[Sequence[int], int], list[list[int]]] = batches,
    argument: str = "",
) -> tuple[list[tuple[list[int], V]], list[int]]:
    """Call `run` on batches of row numbers that fit the budget, on smaller ones where memory runs out.

    Args:
        run: a batch, as positions in `lengths`, to its result. What it wrote before it failed does not count.
        lengths: tokens per row.
        budget: halved on the way; give the same one to every call.
        plan: (lengths, tokens) to batches of positions; every position once.
        argument: the setting that names the model, for the message on standard error.

    Returns:
        (batch, its result) in the order of the calls, and the positions that did not fit even alone.

    Raises:
        Whatever `run` raises that is not an out-of-memory error.
    """
    done: list[tuple[list[int], V]] = []
    lost: list[int] = []
    todo = plan(lengths, budget.tokens)
    while todo:
        batch = todo.pop(0)
        problem = ""
        try:
            done.append((batch, run(batch)))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = " ".join(str(error).split())[:120] or type(error).__name__
        if not problem:
            continue
        _release()  # only here: inside the `except` the traceback still holds the tensors
        if len(batch) == 1:
            lost += batch
            print(
                f"warning: {argument}: 1 of {len(lengths)} inputs gets no result "
                f"({lengths[batch[0]]} tokens do not fit alone: {problem})",
                file=sys.stderr,
                flush=True,
            )
            continue
        budget.shrink(sum(lengths[i] for i in batch))
        print(
            f"warning: {argument}: out of memory ({problem}): now {budget.tokens} tokens a batch",
            file=sys.stderr,
            flush=True,
        )
        rest = [i for later in [batch, *todo] for i in later]
        todo = [[rest[k] for k in part] for part in plan([lengths[i] for i in rest], budget.tokens)]
    budget.end_call()
    return done, lost


def _release() -> None:
    """Give cached blocks back to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
