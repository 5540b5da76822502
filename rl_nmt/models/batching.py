"""Build batches of similar length under a token budget that shrinks when memory runs out and grows again later.

Which batch sizes fit depends on the policy's memory at that moment, so a budget that was too large once may
fit a few calls later. An input that never fits gets no result.
"""

import gc
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import torch

from rl_nmt.errors import causes, warn

T = TypeVar("T", bound=Hashable)

# Messages of torch, cuBLAS, CTranslate2 and C++; accelerate's own list lacks the second, third and last two.
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


def distinct(items: Iterable[T]) -> tuple[list[T], list[int]]:
    """Return each item once, in order of first appearance, and the position there of every input item.

    >>> distinct(["b", "a", "b"])
    (['b', 'a'], [0, 1, 0])
    """
    place: dict[T, int] = {}
    index = [place.setdefault(item, len(place)) for item in items]
    return list(place), index


def batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Return indices in batches of similar length, the longest first (so memory runs out at once or never).

    A batch costs rows × its longest length and stays within `token_budget`; a row longer than the whole
    budget is a batch of its own. Equal lengths keep their order.

    >>> batches([3, 9, 2, 8], token_budget=18)
    [[1, 3], [0, 2]]
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    result: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if result and (len(result[-1]) + 1) * lengths[result[-1][0]] <= token_budget:
            result[-1].append(i)
        else:
            result.append([i])
    return result


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or one that led to it, means that memory ran out.

    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    True
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False
    """
    return any(
        isinstance(e, (MemoryError, torch.OutOfMemoryError))
        or (isinstance(e, RuntimeError) and any(words in str(e) for words in OUT_OF_MEMORY))
        for e in causes(error)
    )


class TokenBudget:
    """How many tokens may go into one batch: halved when memory runs out, doubled again after calm calls.

    full: the configured budget, at least 1. tokens: the present budget, in [1, full].
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
        """Halve the budget after memory ran out in a batch of `used` tokens."""
        if self._grown and not self._failed:
            self.calm *= 2
        self.tokens = max(1, min(self.tokens, used) // 2)
        self._failed, self._grown = True, False

    def end_call(self) -> None:
        """Count a finished call; double the budget after enough calm ones."""
        self._quiet = 0 if self._failed else self._quiet + 1
        self._failed = False
        if self.tokens == self.full:
            if self._quiet >= self.calm:  # the larger batches fit
                self.calm, self._grown = self._first_calm, False
        elif self._quiet >= self.calm:
            self.tokens, self._quiet, self._grown = min(self.full, 2 * self.tokens), 0, True


def run_batches(
    run: Callable[[list[int]], Iterable],
    lengths: Sequence[int],
    budget: TokenBudget,
    plan: Callable[[Sequence[int], int], list[list[int]]] = batches,
    argument: str = "",
) -> list[Any]:
    """Call `run` on batches of row numbers that fit the budget, on smaller ones where memory runs out.

    Args:
        run: maps a batch, positions in `lengths`, to one result each. A failed batch is run again.
        lengths: tokens per row.
        budget: halved when memory runs out; pass the same one to every call.
        plan: (lengths, tokens) to batches of positions; every position once.
        argument: the setting that names the model, for the message on standard error.

    Returns the results in the order of `lengths`, None for a row that did not fit even alone. Raises what `run` raises,
    unless memory ran out.
    """
    results: list[Any] = [None] * len(lengths)
    todo = plan(lengths, budget.tokens)
    while todo:
        batch = todo.pop(0)
        try:
            for i, result in zip(batch, run(batch), strict=True):
                results[i] = result
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = " ".join(str(error).split())[:120] or type(error).__name__
        gc.collect()  # only here: inside the `except` the traceback still holds the tensors
        torch.cuda.empty_cache()
        if len(batch) == 1:
            size = f"{lengths[batch[0]]} tokens do not fit alone: {problem}"
            warn(f"{argument}: 1 of {len(lengths)} inputs gets no result ({size})")
        else:
            budget.shrink(sum(lengths[i] for i in batch))
            rest = [i for later in [batch, *todo] for i in later]
            todo = [[rest[k] for k in part] for part in plan([lengths[i] for i in rest], budget.tokens)]
            warn(f"{argument}: out of memory ({problem}): now {budget.tokens} tokens a batch")
    budget.end_call()
    return results
