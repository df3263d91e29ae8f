"""Weighted draws without replacement."""

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.pool import Indices

Floats = NDArray[np.float64]


def draw_without_replacement(
    probabilities_N: Floats, count: int, *, rng: np.random.Generator
) -> Indices:
    """Draw up to `count` positions one after the other, each in proportion to its probability among
    those left; those of probability 0 never.

    Gumbel-top-k: the largest log p + Gumbel. As -Gumbel is the log of a standard exponential, this
    is the smallest exponential / p, which needs no logarithms.
    """
    arrival_N = np.full(len(probabilities_N), np.inf)
    noise_N = rng.standard_exponential(len(probabilities_N))
    np.divide(noise_N, probabilities_N, out=arrival_N, where=probabilities_N > 0)
    count = min(count, int(np.count_nonzero(probabilities_N)))
    if count == 0:
        return np.empty(0, np.int64)
    first = np.argpartition(arrival_N, count - 1)[:count]
    return first[np.argsort(arrival_N[first], kind="stable")]
