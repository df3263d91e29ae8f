"""How even visits are and how believed rates lie, by hand."""

import numpy as np
import pytest

from rl_llm.curriculum import PoolBelief, PoolIndex
from rl_llm.curriculum.spread import gini, rate_spread


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([3, 3, 3, 3], 0.0),
        ([0, 0, 0, 8], 0.75),  # (N - 1) / N
        ([3, 1], 0.25),  # 2 (1 + 6) / (2 * 4) - 3/2
        ([1, 2, 3, 4], 0.25),  # 2 * 30 / (4 * 10) - 5/4
        ([5], 0.0),
        ([0, 0], 0.0),
    ],
)
def test_gini_of_counts(counts, expected):
    assert gini(np.array(counts, np.uint16)) == pytest.approx(expected, abs=1e-12)


def test_gini_is_half_the_mean_difference_of_a_pair_over_the_mean():
    counts = np.array([7, 0, 2, 2, 9])
    pairs = np.abs(counts[:, None] - counts[None, :])
    assert gini(counts) == pytest.approx(pairs.mean() / counts.mean() / 2)


def test_counts_that_overflow_their_type_in_sum_are_summed_wide():
    assert gini(np.full(1000, 60_000, np.uint16)) == pytest.approx(0.0, abs=1e-12)


def test_rates_of_a_pool_of_many_parts_are_all_counted():
    """40,000 problems in buckets at 1/2, 3/4 and 1/11: 5 in 10 of them, 3 in 10 and 2 in 10."""
    counts = np.array([20_000, 12_000, 8_000])
    index = PoolIndex(
        bucket_ids=np.repeat(np.arange(3, dtype=np.int32), counts),
        bucket_names=("a", "b", "c"),
        bucket_sources=("s",) * 3,
        bucket_levels=(1, 2, 3),
        endless_K=np.zeros(3, np.bool_),
    )
    belief = PoolBelief(index)
    state = belief.state_dict()
    state["rest"]["buckets"] |= {"b": (np.log(3), 8.0, 1), "c": (-np.log(10), 8.0, 1)}
    belief.load_state_dict(state)
    spread = rate_spread(belief, index.num_problems, num_bins=10)
    assert spread.histogram == [8_000, 0, 0, 0, 0, 20_000, 0, 12_000, 0, 0]
    assert spread.mean == pytest.approx(0.5 * 0.5 + 0.3 * 0.75 + 0.2 / 11)
