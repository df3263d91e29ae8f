import numpy as np
import pytest

from rl_llm.curriculum.samplers import Thompson


def explained(sampler, position, num_problems):
    return sampler.explain(position, exclude=np.zeros(num_problems, np.bool_))


def test_a_visit_discounts_towards_the_prior_and_adds_the_group(make_index, outcomes):
    sampler = Thompson(index=make_index(2), seed=0, visit_decay=0.5)
    sampler.observe(outcomes([0], 6))
    assert "Beta(7.00, 3.00), mean 0.70" in explained(sampler, 0, 2)
    sampler.observe(outcomes([0], 2))
    # a = .5 * 7 + .5 * 1 + 2 = 6, b = .5 * 3 + .5 * 1 + 6 = 8
    assert "Beta(6.00, 8.00)" in explained(sampler, 0, 2)
    assert "Beta(1.00, 1.00)" in explained(sampler, 1, 2)


def test_two_unseen_problems_and_a_sure_one_are_drawn_with_their_exact_shares(
    make_index, outcomes, first_draw_shares
):
    # The draws of 0 and 1 are uniform on [0, 1], that of 2 is 1/4 for sure, so at a distance of
    # 1/4 from the target. Two uniform draws have distances uniform on [0, 1/2]: 2 is nearest with
    # probability (1/2)^2, and 0 and 1 share the rest.
    sampler = Thompson(index=make_index(3), seed=0)
    sampler.observe(outcomes([2], 10**7, counted=4 * 10**7))
    assert first_draw_shares(sampler, 6000) == pytest.approx([0.375, 0.375, 0.25], abs=0.02)


def test_the_nearest_to_the_target_come_first(make_index, outcomes):
    sampler = Thompson(index=make_index(4), seed=0, target=0.3)
    sampler.observe(outcomes(range(4), [9_000_000, 5_000_000, 2_000_000, 0], counted=10_000_000))
    # Pass rates .9, .5, .2 and 0 are .6, .2, .1 and .3 away.
    assert sampler.plan(0, 4).tolist() == [2, 1, 3, 0]
    assert sampler.plan(0, 1).tolist() == [2]


def test_only_candidates_compete(make_index, outcomes, first_draw_shares):
    # Problem 0 is nearest for sure, but one candidate of four is no competition.
    sampler = Thompson(index=make_index(4), seed=0, candidates=1)
    sampler.observe(outcomes(range(4), [5, 0, 0, 0], counted=10))
    assert first_draw_shares(sampler, 4000) == pytest.approx([0.25] * 4, abs=0.025)
