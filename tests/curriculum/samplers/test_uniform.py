from collections import Counter

import numpy as np
import pytest

from rl_llm.curriculum import Uniform


@pytest.fixture
def uniform(make_index):
    return lambda num_problems, seed=0: Uniform(index=make_index(num_problems), seed=seed)


def test_every_problem_is_visited_once_an_epoch(uniform):
    sampler = uniform(12)
    for epoch in range(3):
        drawn = np.concatenate([sampler.plan(4 * epoch + step, 3) for step in range(4)])
        assert sorted(drawn) == list(range(12))


def test_orders_differ_between_epochs_and_seeds(uniform):
    sampler = uniform(50)
    first, second = sampler.plan(0, 50), sampler.plan(1, 50)
    assert list(first) != list(second)
    assert list(first) != list(uniform(50, seed=1).plan(0, 50))


def test_the_end_of_an_epoch_is_crossed_without_taking_a_problem_twice(uniform):
    sampler = uniform(10)
    counts = Counter()
    for step in range(5):
        drawn = sampler.plan(step, 8)
        assert len(set(drawn.tolist())) == 8
        counts.update(drawn.tolist())
    assert set(counts.values()) == {4}  # 5 steps of 8 are 4 epochs of 10


def test_a_refill_goes_on_in_the_epoch_and_avoids_what_the_step_has(uniform):
    sampler = uniform(10)
    drawn = sampler.plan(0, 6)
    exclude = np.zeros(10, np.bool_)
    exclude[drawn] = True
    more = sampler.plan(0, 8, round=1, exclude=exclude)
    assert sorted([*drawn, *more]) == list(range(10))


def test_the_draws_are_the_same_after_a_restart_within_an_epoch(uniform):
    sampler, resumed = uniform(20), uniform(20)
    for step in range(4):
        sampler.plan(step, 7)
    resumed.load_state_dict(sampler.state_dict())
    for step in range(4, 9):
        assert list(resumed.plan(step, 7)) == list(sampler.plan(step, 7))


def test_explain_says_what_comes_before_in_the_epoch(uniform):
    order = uniform(5).plan(0, 5).tolist()
    sampler, nothing = uniform(5), np.zeros(5, np.bool_)
    sampler.plan(0, 2)
    assert "after 2 of the 3 problems left in epoch 0" in sampler.explain(order[4], exclude=nothing)
    assert "had its turn in epoch 0" in sampler.explain(order[0], exclude=nothing)


@pytest.mark.parametrize("name", ["uniform", "greso"])
def test_a_level_of_one_problem_has_as_many_turns_as_any(build_sampler, make_index, name):
    """Each step asks twice, so small levels are often excluded as a whole when an epoch ends."""
    index = make_index(4, 1, 1)
    sampler, counts = build_sampler(name, index), np.zeros(6, np.int64)
    for step in range(90):
        drawn = np.zeros(6, np.bool_)
        for round in range(2):
            drawn[sampler.plan(step, 2, round=round, exclude=drawn.copy())] = True
        counts += drawn
    assert counts.tolist() == [60] * 6


def test_a_level_that_rests_while_an_epoch_ends_has_its_turn_when_it_wakes(
    build_sampler, make_index
):
    sampler, rests = build_sampler("uniform", make_index(3, 2)), np.zeros(5, np.bool_)
    sampler.plan(0, 5)
    rests[3:] = True
    first = sampler.plan(1, 2, exclude=rests)
    assert sorted([*first, *sampler.plan(2, 3)]) == [0, 1, 2, 3, 4]


def test_an_epoch_ends_for_the_source_that_is_asked_for(build_sampler, make_index):
    index = make_index(2, 1, 3, levels=[1, 1, 2], sources=["a", "b", "b"])
    sampler, of_a, of_b = (
        build_sampler("uniform", index),
        np.ones(6, np.bool_),
        np.ones(6, np.bool_),
    )
    of_a[:2] = of_b[2:] = False
    first = sampler.plan(0, 2, exclude=of_b).tolist()
    for step in range(1, 4):
        sampler.plan(step, 2, exclude=of_a)
    assert sorted([*first, *sampler.plan(4, 2, exclude=of_b).tolist()]) == [2, 3, 4, 5]
