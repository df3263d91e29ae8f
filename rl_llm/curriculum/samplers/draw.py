"""Weighted draws without replacement."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from rl_llm.curriculum.belief import Floats
from rl_llm.curriculum.pool import Indices
from rl_llm.curriculum.samplers.protocol import Part
from rl_llm.seeds import derive_rng

# Every so many problems one is looked at to tell where the first arrivals end. A prime, because
# levels often take turns in a pool.
_SAMPLE_STRIDE = 61


def draw_without_replacement(
    probabilities_N: Floats, count: int, *, rng: np.random.Generator
) -> Indices:
    """Draw up to `count` positions one after the other, each in proportion to its probability among
    those left; those of probability 0 never.

    Gumbel-top-k: the largest log p + Gumbel. As -Gumbel is the log of a standard exponential, this
    is the smallest exponential / p, which needs no logarithms.
    """
    arrival_N = rng.standard_exponential(len(probabilities_N))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        arrival_N /= probabilities_N
    early = _early(arrival_N, count)
    if len(early) < count:
        early = np.flatnonzero(probabilities_N > 0)
    return early[np.argsort(arrival_N[early], kind="stable")[:count]]


def draw_parts(
    parts: Sequence[Part],
    weights: Callable[[Indices], Floats],
    *,
    seed: int,
    step: int,
    round: int,
) -> list[Indices]:
    """Return what `PartsSampler.plan_parts` promises of a sampler that draws without replacement by
    the weights of some positions, which need not sum to 1."""
    chosen = []
    for number, part in enumerate(parts):
        rng = derive_rng(seed, "sampler", step, round + number)
        drawn = draw_without_replacement(weights(part.eligible), part.count, rng=rng)
        chosen.append(part.eligible[drawn])
    return chosen


def _early(arrival_N: Floats, count: int) -> Indices:
    """Return all positions up to some arrival, in order: most probably `count` and a few times as
    many, never one of probability 0; none when a sample is too small to tell."""
    sample = arrival_N[::_SAMPLE_STRIDE]
    expected = count / _SAMPLE_STRIDE
    rank = int(expected + 6.0 * math.sqrt(expected) + 8.0)  # Too low once in a billion times.
    if rank >= len(sample):
        return np.empty(0, np.int64)
    last = np.partition(sample, rank)[rank]
    return np.flatnonzero(arrival_N <= last) if last < np.inf else np.empty(0, np.int64)
