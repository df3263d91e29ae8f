import math

import numpy as np
import pytest

from rl_llm.curriculum.samplers import Gaussian


def explained(sampler, position, num_problems):
    return sampler.explain(position, exclude=np.zeros(num_problems, np.bool_))


def test_the_average_starts_at_one_half_and_moves_a_tenth_of_the_way(make_index, outcomes):
    sampler = Gaussian(index=make_index(2), seed=0)
    for _ in range(2):
        sampler.observe(outcomes([0], 8))
    # .9 * .5 + .1 * 1 = .55, .9 * .55 + .1 * 1 = .595
    offset = sampler.state_dict()["columns"]["offset"]
    assert offset == pytest.approx([0.095, 0.0], abs=1e-6)
    assert explained(sampler, 1, 2) == "its average pass rate is 0.50; weight 1.00 of at most 1"


def test_problems_are_drawn_by_a_bell_around_the_target(make_index, outcomes, first_draw_shares):
    # Without momentum the averages are 1/2, 1 and 1/4: the exponents are 0, (.5 / .35)^2 / 2 and
    # (.25 / .35)^2 / 2, that is 1.0204 and 0.2551.
    sampler = Gaussian(index=make_index(3), seed=0, momentum=0.0)
    sampler.observe(outcomes(range(3), [4, 8, 2]))
    weights = np.array([1.0, math.exp(-1.0204), math.exp(-0.2551)])
    assert first_draw_shares(sampler, 8000) == pytest.approx(weights / weights.sum(), abs=0.016)
    assert explained(sampler, 1, 3) == "its average pass rate is 1.00; weight 0.36 of at most 1"


def test_a_bell_too_narrow_for_numbers_still_draws_everything(make_index, outcomes):
    sampler = Gaussian(index=make_index(3), seed=0, width=0.001, momentum=0.0)
    sampler.observe(outcomes(range(3), [4, 8, 8]))
    drawn = sampler.plan(0, 3).tolist()
    assert drawn[0] == 0
    assert sorted(drawn) == [0, 1, 2]
