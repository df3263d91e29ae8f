"""How even visits are, by hand."""

import numpy as np
import pytest

from rl_llm.curriculum.spread import gini


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
