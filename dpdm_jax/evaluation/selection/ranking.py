"""Orders of classifiers, and how much two of them agree."""

from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


class Agreement(NamedTuple):
    """Rank correlations, each in [-1, 1]: 1 is the same order, -1 the reverse.

    Attributes:
        spearman: rho.
        kendall: tau-b, which allows for ties.
    """

    spearman: float
    kendall: float


def ranks(values: Sequence[float]) -> list[int]:
    """Returns 1 for the highest value; equal ones share a rank.

    >>> ranks([0.5, 0.9, 0.5, 0.1])
    [2, 1, 2, 4]
    """
    return [1 + sum(other > value for other in values) for value in values]


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement | None:
    """Compares two orders of the same things.

    Args:
        first: a number of each.
        second: another of each.

    Returns:
        The correlations; None where there is no order, because all of one are equal.
    """
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return Agreement(
        float(stats.spearmanr(first, second).statistic),
        float(stats.kendalltau(first, second).statistic),
    )
