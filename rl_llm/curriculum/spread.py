"""How evenly a pool has been visited, and how its believed pass rates lie.

Legend: N problems of the training pool.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import PoolBelief

_CHUNK = 1 << 14  # Problems looked at at a time, so that intermediate values stay in the cache.


class RateSpread(NamedTuple):
    """The mean of the believed pass rates of a pool, and how many lie in each of equal bins of
    [0, 1], 1 in the last."""

    mean: float
    histogram: list[int]


def rate_spread(belief: PoolBelief, num_problems: int, *, num_bins: int) -> RateSpread:
    """Summarise what is believed of a pool, some thousand problems at a time."""
    total, counts = 0.0, np.zeros(num_bins, np.int64)
    for start in range(0, num_problems, _CHUNK):
        believed = belief.beta(slice(start, min(start + _CHUNK, num_problems)))
        rates = np.asarray(believed.mean, np.float64)
        total += float(rates.sum())
        bins = np.minimum((rates * num_bins).astype(np.int64), num_bins - 1)
        counts += np.bincount(bins, minlength=num_bins)
    return RateSpread(total / num_problems, counts.tolist())


def gini(counts_N: NDArray[Any]) -> float:
    """Return the Gini coefficient of counts: 0 where all are equal, (N - 1)/N where one has all.

    With x_1 <= ... <= x_N: 2 sum i x_i / (N sum x) - (N + 1)/N. It is half the mean difference of
    two problems drawn at random, in units of the mean. 0 where nothing was counted.
    """
    num_problems = len(counts_N)
    counted = np.sort(counts_N[counts_N > 0]).astype(np.float64)  # Zeros add nothing to the sum.
    if not counted.size:
        return 0.0
    total = float(counted.sum())
    ranks = np.arange(num_problems - counted.size + 1, num_problems + 1, dtype=np.float64)
    weighted = float(ranks @ counted)
    return 2.0 * weighted / (num_problems * total) - (num_problems + 1) / num_problems
