"""Plans for several parts of the pool at once, as refills within buckets ask for them."""

import numpy as np
import pytest

from rl_llm.curriculum import SAMPLERS, PoolBelief, Uniform
from rl_llm.curriculum.planner import Planner
from rl_llm.curriculum.prerequisites import Prerequisites
from rl_llm.curriculum.quotas import Quotas
from rl_llm.curriculum.samplers.protocol import Part, plans_parts
from rl_llm.curriculum.standing import Standing
from rl_llm.errors import PluginError

every_sampler = pytest.mark.parametrize("name", sorted(SAMPLERS))


class OnItsOwn(Uniform):
    """Takes the last problems that it may; what it inherits besides knows nothing of that."""

    def plan(self, step, num_problems, *, round=0, exclude=None):
        return np.flatnonzero(~exclude)[::-1][:num_problems]


class Greedy(Uniform):
    """Plans a problem too many for a part."""

    def plan(self, step, num_problems, *, round=0, exclude=None):
        return np.flatnonzero(~exclude)[:num_problems]

    def plan_parts(self, step, parts, *, round=0):
        return [part.eligible[: part.count + 1] for part in parts]


@pytest.fixture
def begin(make_index):
    """Return `(sampler's class, *sizes) -> draws` of step 1."""

    def begin(sampler, *sizes):
        index = make_index(*sizes)
        belief = PoolBelief(index)
        return Planner(
            index=index,
            sampler=sampler(index=index, seed=0),
            standing=Standing(index, belief, retire=None, defer=None),
            quotas=Quotas(index, {}),
            prerequisites=Prerequisites(index, belief, {}),
        ).begin(1)

    return begin


@pytest.fixture
def seen(make_index, build_sampler, outcomes):
    """Return `(name) -> sampler` that has seen a step of two sources, of 40 and 30 problems."""

    def build(name):
        index = make_index(40, 30, sources=["a", "b"])
        belief = PoolBelief(index)
        sampler = build_sampler(name, index, belief=belief)
        drawn = sampler.plan(1, 30)
        shown = outcomes(drawn, drawn % 9, step=1)
        belief.observe(shown)
        sampler.observe(shown)
        return sampler

    return build


def masked(eligible, num_problems):
    exclude = np.ones(num_problems, np.bool_)
    exclude[eligible] = False
    return exclude


# Of two buckets some positions, of which the second part asks for more than it has.
PARTS = [
    Part(count=5, eligible=np.arange(41, 70, 2)),
    Part(count=20, eligible=np.array([0, 3, 4, 9, 17])),
    Part(count=2, eligible=np.arange(20, 40)),
]


@every_sampler
def test_every_part_gets_what_it_asks_for_of_what_is_eligible(name, seen):
    plans = seen(name).plan_parts(2, PARTS, round=1)
    assert [len(plan) for plan in plans] == [5, 5, 2]
    for plan, part in zip(plans, PARTS, strict=True):
        assert len(set(plan.tolist())) == len(plan)
        assert set(plan.tolist()) <= set(part.eligible.tolist())


# The others draw their noise for eligible problems alone, and not for the whole pool.
@pytest.mark.parametrize("parts", [PARTS, PARTS[:2]], ids=["most_of_the_pool", "little_of_it"])
@pytest.mark.parametrize("name", ["greso", "posterior", "thompson", "uniform"])
def test_a_part_is_planned_for_as_if_all_else_were_excluded(name, parts, seen):
    at_once, one_by_one = seen(name), seen(name)
    for step in range(2, 12):  # Epochs end in between.
        expected = [
            one_by_one.plan(step, part.count, round=1 + k, exclude=masked(part.eligible, 70))
            for k, part in enumerate(parts)
        ]
        plans = at_once.plan_parts(step, parts, round=1)
        assert [list(plan) for plan in plans] == [list(plan) for plan in expected]
        for column, values in at_once.state_dict()["columns"].items():
            np.testing.assert_array_equal(values, one_by_one.state_dict()["columns"][column])


@pytest.mark.parametrize("name", ["gaussian", "pools", "ladder"])
def test_other_samplers_draw_a_part_by_their_weights(name, seen, outcomes):
    """Of two problems one was solved always, the other half the time; a ladder does not mind."""
    sampler = seen(name)
    for step in range(30):
        sampler.observe(outcomes([0, 1], [8, 4], step=step))
    pair, others = Part(count=1, eligible=np.arange(2)), Part(count=1, eligible=np.arange(40, 70))
    drawn = [sampler.plan_parts(step, [others, pair])[1][0] for step in range(3000)]
    # exp(-.5 (.479 / .35)^2) = .392 against 1, for p~ = .5 + .5 (1 - .9^30) = .979; .2 against 1.
    weight = {"gaussian": 0.392, "pools": 0.2, "ladder": 1.0}[name]
    assert np.mean(np.array(drawn) == 0) == pytest.approx(weight / (1 + weight), abs=0.03)


def test_a_ladder_takes_of_a_part_the_levels_nearest_to_its_window(make_index, build_sampler):
    ladder = build_sampler("ladder", make_index(3, 3, 3), width=1)
    [plan] = ladder.plan_parts(1, [Part(count=4, eligible=np.arange(1, 9))])
    assert sorted(plan[:2]) == [1, 2]
    assert set(plan[2:].tolist()) < {3, 4, 5}


@every_sampler
def test_parts_and_rounds_have_randomness_of_their_own(name, make_index, build_sampler):
    parts = [Part(count=6, eligible=np.arange(first, first + 50)) for first in (0, 50)]
    first, second = build_sampler(name, make_index(50, 50)).plan_parts(1, parts)
    assert list(first) != list(second - 50)
    [later] = build_sampler(name, make_index(50, 50), seed=1).plan_parts(1, parts[:1], round=1)
    assert list(first) != list(later)


def test_shipped_samplers_plan_for_parts_and_a_plan_of_ones_own_is_asked_instead(begin):
    for sampler in SAMPLERS.values():
        assert plans_parts(sampler.__new__(sampler))
    assert not plans_parts(OnItsOwn.__new__(OnItsOwn))
    draws = begin(OnItsOwn, 4, 4)
    assert draws.in_buckets({0: 2, 1: 9}).tolist() == [3, 2, 7, 6, 5, 4]
    assert draws.in_buckets({0: 9, 1: 1}).tolist() == [1, 0]


def test_a_sampler_that_plans_too_many_for_a_part_is_caught(begin):
    with pytest.raises(PluginError, match=r"sampler Greedy planned \[0, 1, 2\] for 2 problems"):
        begin(Greedy, 4).in_buckets({0: 2})


def test_every_part_counts_as_a_round_of_the_step(begin, monkeypatch):
    asked = []

    def plan_parts(self, step, parts, *, round=0):
        asked.append((step, round, [part.count for part in parts]))
        return [part.eligible[: part.count] for part in parts]

    monkeypatch.setattr(Uniform, "plan_parts", plan_parts)
    draws = begin(Uniform, 6, 6, 2)
    draws.first(1)
    draws.in_buckets({1: 3, 0: 2})
    draws.in_buckets({2: 9, 0: 0})
    draws.in_buckets({2: 1, 1: 1})  # Of bucket 2 nothing is left.
    assert asked == [(1, 1, [3, 2]), (1, 3, [9]), (1, 4, [1])]


def test_what_the_step_has_drawn_of_a_bucket_is_not_drawn_again(begin):
    draws = begin(Uniform, 6, 6)
    first = draws.in_buckets({1: 4})
    rest = draws.in_buckets({1: 4})
    assert len(first) == 4
    assert sorted([*first, *rest]) == list(range(6, 12))


def test_a_bucket_stands_where_its_problems_do(make_index):
    index = make_index(2, 3)
    index.bucket_ids[:] = [1, 0, 1, 1, 0]
    assert index.positions(0).tolist() == [1, 4]
    assert index.positions(1).tolist() == [0, 2, 3]
