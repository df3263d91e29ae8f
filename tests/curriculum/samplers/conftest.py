import inspect
from collections import Counter

import numpy as np
import pytest

from rl_llm.curriculum import SAMPLERS, Outcomes, PoolBelief, PoolIndex


@pytest.fixture(scope="session")
def make_index():
    """Return `(*sizes, levels=0, 1, .., sources=s, endless=()) -> index`: a bucket of each size."""

    def make(*sizes, levels=None, sources=None, endless=()):
        levels = tuple(range(len(sizes))) if levels is None else tuple(levels)
        sources = ("s",) * len(sizes) if sources is None else tuple(sources)
        return PoolIndex(
            bucket_ids=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            bucket_names=tuple(
                f"{source}/level={level}" for source, level in zip(sources, levels, strict=True)
            ),
            bucket_sources=sources,
            bucket_levels=levels,
            endless_K=np.isin(np.arange(len(sizes)), endless),
        )

    return make


@pytest.fixture(scope="session")
def outcomes():
    """Return `(indices, correct, counted=8, step=0) -> outcomes`; single numbers stand for all."""

    def make(indices, correct, counted=8, step=0):
        indices = np.asarray(indices, np.int64)
        return Outcomes(
            indices=indices,
            num_correct=np.broadcast_to(np.asarray(correct, np.int64), indices.shape),
            num_counted=np.broadcast_to(np.asarray(counted, np.int64), indices.shape),
            step=step,
        )

    return make


@pytest.fixture(scope="session")
def build_sampler():
    """Return `(name, index, seed=0, belief=None, **options) -> sampler`, as a recipe gets it."""

    def build(name, index, *, seed=0, belief=None, **options):
        offered = {
            "index": index,
            "seed": seed,
            "group_size": 8,
            "belief": PoolBelief(index) if belief is None else belief,
        }
        named = inspect.signature(SAMPLERS[name]).parameters
        supplied = {key: value for key, value in offered.items() if key in named}
        return SAMPLERS[name](**supplied, **options)

    return build


@pytest.fixture(scope="session")
def first_draw_shares():
    """Return `(sampler, num_draws) -> shares`: how often each problem is drawn when one is."""

    def count(sampler, num_draws):
        counts = Counter(int(sampler.plan(step, 1)[0]) for step in range(num_draws))
        return [counts[position] / num_draws for position in range(max(counts) + 1)]

    return count
