import numpy as np
import pytest

from rl_llm.curriculum.samplers import Pools
from rl_llm.errors import ConfigError

NOTHING = np.zeros(6, np.bool_)


@pytest.fixture
def sampler(make_index, outcomes):
    """Last groups of 8: 0, 2, 3, 6 and 7 correct; problem 5 is unseen."""
    sampler = Pools(index=make_index(6), seed=0)
    sampler.observe(outcomes(range(5), [0, 2, 3, 6, 7]))
    return sampler


def test_the_last_groups_share_decides_the_pool_and_a_share_on_a_bound_is_below_it(sampler):
    said = [sampler.explain(position, exclude=NOTHING) for position in range(6)]
    assert [text.split(":")[0].split()[1] for text in said] == [
        "hard",  # 0
        "hard",  # 2 of 8 = .25
        "normal",  # 3 of 8
        "normal",  # 6 of 8 = .75
        "easy",  # 7 of 8
        "unseen",
    ]
    assert said[1] == "pool hard: its last group had 0.25 correct; weight 0.2"


def test_problems_are_drawn_in_proportion_to_their_pools_weights(sampler, first_draw_shares):
    # Weights .2, .2, 1, 1, .2, 1: the sum is 3.6.
    expected = [0.2 / 3.6, 0.2 / 3.6, 1 / 3.6, 1 / 3.6, 0.2 / 3.6, 1 / 3.6]
    assert first_draw_shares(sampler, 8000) == pytest.approx(expected, abs=0.015)


def test_only_the_last_group_counts(sampler, outcomes):
    sampler.observe(outcomes([0], 5))
    assert sampler.explain(0, exclude=NOTHING).startswith("pool normal")
    sampler.observe(outcomes([0], 0, counted=0))  # every reward failed: nothing is learnt
    assert sampler.explain(0, exclude=NOTHING).startswith("pool normal")


def test_bounds_that_contradict_and_weights_of_zero_are_refused(make_index):
    with pytest.raises(ConfigError, match=r"hard_most=0\.8 with normal_most=0\.5"):
        Pools(index=make_index(1), seed=0, hard_most=0.8, normal_most=0.5)
    with pytest.raises(ConfigError, match=r"easy_weight=0\.0: must be above 0"):
        Pools(index=make_index(1), seed=0, easy_weight=0.0)
