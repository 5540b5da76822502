"""Group rows that have something in common, so that a split keeps them together. No torch."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def linked(items: Iterable[Item], keys: Callable[[Item], Sequence[str]]) -> list[list[Item]]:
    """Return groups of items: two with a key in common, also through others, are in the same. The order is kept.

    `keys` gives at least one for each item.

    >>> linked(["ab", "c", "bd", "d", "e"], list)
    [['ab', 'bd', 'd'], ['c'], ['e']]
    """
    above: dict[str, str] = {}

    def root(key: str) -> str:
        while above.setdefault(key, key) != key:
            above[key] = key = above[above[key]]
        return key

    placed = []
    for item in items:
        first, *others = keys(item)
        placed.append((item, first))
        for other in others:
            above[root(other)] = root(first)
    found: dict[str, list[Item]] = defaultdict(list)
    for item, key in placed:
        found[root(key)].append(item)
    return list(found.values())
