"""Does the order of trials matter? In a sound search, it cannot."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHUFFLES = 9_999


class Correlation(NamedTuple):
    """Spearman's rank correlation, in [-1, 1], and how often chance alone gives one as far from 0."""

    rho: float
    p: float


def order_correlation(accuracies: Sequence[float], blocks: Sequence[int] | None = None) -> Correlation:
    """The rank correlation of accuracies with the order in which they are listed, and its p-value.

    Trials that do not influence each other have none, apart from chance. A small p says that something is carried over
    from one to the next; weights that go on being trained, for one. The p-value is that of a permutation test with a
    fixed seed, two-sided, at least 1 / 10,000.

    Args:
        accuracies: in the order of the trials.
        blocks: which block of settings each trial belongs to, if the blocks differ and were done one after the other;
            order and accuracy are then compared within blocks only, their ranks taken from each block's mean.

    Returns:
        rho 0 and p 1 where the accuracies do not differ.
    """
    groups = np.zeros(len(accuracies), int) if blocks is None else np.unique(blocks, return_inverse=True)[1]
    values = np.asarray(accuracies, np.float64)
    inside = [np.flatnonzero(groups == group) for group in range(groups.max(initial=-1) + 1)]
    turns, ranks = np.empty(len(values)), np.empty(len(values))
    for rows in inside:
        turns[rows] = _centred(np.arange(len(rows), dtype=np.float64))
        ranks[rows] = _centred(_ranked(values[rows]))
    scale = np.sqrt((turns @ turns) * (ranks @ ranks))
    if scale == 0:
        return Correlation(0.0, 1.0)
    rho = turns @ ranks / scale
    rng = np.random.default_rng(0)
    sums = np.zeros(SHUFFLES)
    for rows in inside:
        sums += rng.permuted(np.tile(ranks[rows], (SHUFFLES, 1)), axis=1) @ turns[rows]
    extreme = np.count_nonzero(np.abs(sums / scale) >= abs(rho) - 1e-12)
    return Correlation(float(rho), (extreme + 1) / (SHUFFLES + 1))


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values - values.mean()


def _ranked(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
