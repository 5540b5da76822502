"""Distinct items, length-sorted batches under a token budget."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def distinct(items: Iterable[T]) -> tuple[list[T], list[int]]:
    """Each item once, in order of first appearance, and where every input item went.

    >>> distinct(["b", "a", "b"])
    (['b', 'a'], [0, 1, 0])
    """
    place: dict[T, int] = {}
    index = [place.setdefault(item, len(place)) for item in items]
    return list(place), index


def batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices in batches of similar length, the longest first (so memory runs out at once or never).

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
