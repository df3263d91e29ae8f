"""How evenly a pool has been visited.

Legend: N problems of the training pool.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def gini(counts_N: NDArray[Any]) -> float:
    """Return the Gini coefficient of counts: 0 where all are equal, (N - 1)/N where one has all.

    With x_1 <= ... <= x_N: 2 sum i x_i / (N sum x) - (N + 1)/N. It is half the mean difference of
    two problems drawn at random, in units of the mean. 0 where nothing was counted.
    """
    num_problems = len(counts_N)
    total = float(counts_N.sum(dtype=np.float64))
    if not total:
        return 0.0
    weighted = float(np.arange(1, num_problems + 1, dtype=np.float64) @ np.sort(counts_N))
    return 2.0 * weighted / (num_problems * total) - (num_problems + 1) / num_problems
