"""Split the variance of the reward inside the groups among its components. No torch.

GRPO sees only differences inside a group, so a component that is constant there has no effect, whatever its weight. The
shares are a covariance decomposition (ours): they add up to 1, and are negative where a component opposes the total.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence


def shares(
    totals: Sequence[float | None], terms: Mapping[str, Sequence[float | None]], groups: Sequence[Hashable]
) -> dict[str, float]:
    """Return each term's share of the within-group variance of the total.

    `totals`: (B,) rewards, None leaves the sample out. `terms`: name → (B,) what the component adds to the total,
    weight and sign included, None where a gated sample was not scored. `groups`: (B,) the group of each sample.

    Returns name → share; "gate" is the part that the terms do not explain: gates and the clamp to [0.01, 1]. Empty
    when no group has any spread.

    >>> shares([0.2, 0.4, 0.3, 0.3], {"a": [0.1, 0.3, 0.2, 0.2], "b": [0.1, 0.1, 0.1, 0.1]}, "xxyy")
    {'a': 1.0, 'b': 0.0, 'gate': 0.0}
    """
    variance = 0.0
    made = dict.fromkeys([*terms, "gate"], 0.0)
    for members in _members(totals, groups):
        total = _centred(totals, members)
        parts = {name: _centred(values, members) for name, values in terms.items()}
        parts["gate"] = total - sum(parts.values())
        variance += total @ total
        for name, part in parts.items():
            made[name] += part @ total
    return {name: round(float(m / variance), 12) + 0.0 for name, m in made.items()} if variance else {}


def rank_correlation(
    totals: Sequence[float | None], values: Sequence[float | None], groups: Sequence[Hashable]
) -> float | None:
    """Mean Spearman correlation of a component with the total inside the groups; None if no group has ranks.

    >>> rank_correlation([0.1, 0.2, 0.3], [1, 2, 9], "xxx")
    1.0
    """
    from scipy.stats import rankdata

    found = []
    for members in _members(totals, groups):
        scored = [i for i in members if values[i] is not None]
        ranks = (rankdata([column[i] for i in scored]) for column in (totals, values))
        one, other = (rank - (len(scored) + 1) / 2 for rank in ranks)
        size = float((one @ one) * (other @ other)) ** 0.5
        if size:
            found.append(float(one @ other) / size)
    return sum(found) / len(found) if found else None


def _members(totals: Sequence[float | None], groups: Sequence[Hashable]) -> list[list[int]]:
    """Return the indices of each group's samples that have a total."""
    members: dict[Hashable, list[int]] = defaultdict(list)
    for i, (group, total) in enumerate(zip(groups, totals, strict=True)):
        if total is not None:
            members[group].append(i)
    return list(members.values())


def _centred(values: Sequence[float | None], members: list[int]):
    """Return the differences from the mean of the known values; 0 for an unknown one."""
    import numpy as np  # here, since `--help` imports this module

    column = np.array([values[i] for i in members], dtype=float)
    known = ~np.isnan(column)
    return np.where(known, column - column[known].mean(), 0.0) if known.any() else np.zeros(len(members))
