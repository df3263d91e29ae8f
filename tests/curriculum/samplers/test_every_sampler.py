import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.curriculum import SAMPLERS, PoolBelief
from rl_llm.plugins import load_module

SimulatedLearner = load_module(Path(__file__).parents[1] / "simulator.py").SimulatedLearner

every_sampler = pytest.mark.parametrize("name", sorted(SAMPLERS))


@pytest.fixture(scope="module")
def index():
    """Eight buckets of 100 problems, pass rates from .98 to .0005."""
    return learner().index


def learner(**options):
    return SimulatedLearner(bucket_logits=np.linspace(4.0, -8.0, 8), learning_rate=0.01, **options)


def as_saved(state):
    """Return a state as it comes back from a checkpoint: JSON, and arrays that are read-only."""
    columns = {name: values.copy() for name, values in state["columns"].items()}
    for values in columns.values():
        values.flags.writeable = False
    return {"columns": columns, "rest": json.loads(json.dumps(state["rest"]))}


@every_sampler
@given(data=st.data())
def test_a_plan_is_distinct_eligible_and_short_only_when_no_others_are_left(
    name, data, make_index, build_sampler, outcomes
):
    num_N = data.draw(st.integers(1, 24))
    index = make_index(
        num_N // 3, num_N - num_N // 3, endless=data.draw(st.sampled_from([(), (1,)]))
    )
    sampler = build_sampler(name, index)
    for step in range(data.draw(st.integers(1, 6))):
        drawn_N = np.zeros(num_N, np.bool_)
        for round in range(2):
            exclude = np.array(data.draw(st.lists(st.booleans(), min_size=num_N, max_size=num_N)))
            exclude |= drawn_N
            given, count = exclude.copy(), data.draw(st.integers(0, num_N + 2))
            plan = sampler.plan(step, count, round=round, exclude=exclude)
            assert (exclude == given).all()
            assert len(plan) == min(count, int((~exclude).sum()))
            assert len(set(plan.tolist())) == len(plan)
            assert not exclude[plan].any()
            drawn_N[plan] = True
            correct = data.draw(st.sampled_from([0, 4, 8]))
            sampler.observe(outcomes(plan, correct, step=step))


@every_sampler
def test_without_exclude_everything_is_drawn_when_everything_is_asked_for(
    name, make_index, build_sampler
):
    sampler = build_sampler(name, make_index(5, 4))
    assert sorted(sampler.plan(0, 9)) == list(range(9))
    assert sorted(sampler.plan(1, 30)) == list(range(9))


@every_sampler
def test_a_group_whose_rewards_all_failed_changes_no_plan(
    name, make_index, build_sampler, outcomes
):
    index = make_index(10, 10)
    sampler, other = build_sampler(name, index), build_sampler(name, index)
    sampler.observe(outcomes(range(20), 0, counted=0))
    for step in range(4):
        assert list(sampler.plan(step, 6)) == list(other.plan(step, 6))


@every_sampler
def test_nothing_is_remembered_of_positions_of_endless_buckets(
    name, make_index, build_sampler, outcomes
):
    if name == "ladder":
        pytest.skip("a ladder remembers levels, which a stream has too")
    index = make_index(10, 10, endless=(0, 1))
    belief = PoolBelief(index)
    sampler = build_sampler(name, index, belief=belief)
    fresh = sampler.state_dict()["columns"]
    for step in range(3):
        sampler.observe(outcomes(range(20), [8] * 10 + [0] * 10, step=step))
    for column, values in sampler.state_dict()["columns"].items():
        np.testing.assert_array_equal(values, fresh[column])


@pytest.mark.parametrize("name", ["gaussian", "greso", "pools", "thompson"])
def test_who_remembers_single_problems_says_that_it_is_blind_to_endless_sources(
    name, make_index, build_sampler
):
    index = make_index(3, 3, 3, sources=["kept", "fresh", "fresh"], endless=(1, 2))
    (said,) = build_sampler(name, index).remarks()
    assert said.startswith("curriculum.sampler: no problem of fresh comes twice")
    assert build_sampler(name, make_index(3, 3)).remarks() == []


@every_sampler
def test_no_bucket_starves(name, index, build_sampler):
    if name == "ladder":
        pytest.skip("a ladder leaves levels behind and has others before it: that is its rule")
    simulated, belief = learner(), PoolBelief(index)
    sampler = build_sampler(name, index, belief=belief)
    drawn_in = np.zeros((3, index.num_buckets), np.int64)
    for step in range(150):
        found = simulated.answer(sampler.plan(step, 32), step=step)
        np.add.at(drawn_in[step // 50], index.bucket_ids[found.indices], 1)
        belief.observe(found)
        sampler.observe(found)
        simulated.learn(found)
    assert drawn_in.min() > 0, drawn_in


@every_sampler
def test_instances_with_one_seed_plan_alike_also_after_a_restart(name, index, build_sampler):
    def fresh():
        belief = PoolBelief(index)
        return belief, build_sampler(name, index, belief=belief, seed=5)

    runs = [fresh(), fresh()]
    exclude = np.arange(index.num_problems) % 7 == 0
    simulated = learner(seed=5)
    for step in range(30):
        if step == 17:
            belief, sampler = fresh()
            belief.load_state_dict(as_saved(runs[0][0].state_dict()))
            sampler.load_state_dict(as_saved(runs[0][1].state_dict()))
            runs.append((belief, sampler))
        for round in range(2):
            plans = [
                sampler.plan(step, 40, round=round, exclude=exclude if round else None)
                for _, sampler in runs
            ]
            assert all(list(plan) == list(plans[0]) for plan in plans)
            found = simulated.answer(plans[0], step=step)
            for belief, sampler in runs:
                belief.observe(found)
                sampler.observe(found)
    assert len(runs) == 3
    assert list(runs[0][1].plan(30, 40)) != list(build_sampler(name, index, seed=6).plan(30, 40))


@every_sampler
def test_problems_that_join_the_pool_with_zeros_are_as_unseen(
    name, make_index, build_sampler, outcomes
):
    sampler = build_sampler(name, make_index(8))
    sampler.plan(0, 8)
    sampler.observe(outcomes(range(8), range(8)))
    state = sampler.state_dict()
    columns = {
        column: np.concatenate([values, np.zeros(4, values.dtype)])
        for column, values in state["columns"].items()
    }
    larger = build_sampler(name, make_index(12))
    larger.load_state_dict({"columns": columns, "rest": state["rest"]})
    assert sorted(larger.plan(1, 12)) == list(range(12))


@every_sampler
def test_explain_is_one_sentence_and_knows_what_is_excluded(name, index, build_sampler):
    sampler = build_sampler(name, index)
    sampler.observe(learner().answer(sampler.plan(0, 100), step=0))
    exclude = np.arange(index.num_problems) == 3
    assert sampler.explain(3, exclude=exclude) == "it cannot be drawn now"
    for position in (0, 250, 799):
        said = sampler.explain(position, exclude=exclude)
        assert said != "it cannot be drawn now"
        assert "\n" not in said and not said.endswith(".")


def test_the_posteriors_floor_holds_for_a_hopeless_problem(make_index, outcomes, build_sampler):
    index = make_index(49, 1)
    belief = PoolBelief(index)
    belief.observe(outcomes(range(50), [4] * 49 + [0], counted=8))
    belief.observe(outcomes([49], 0, counted=10**6, step=1))
    sampler = build_sampler("posterior", index, belief=belief, floor=0.1)
    num_draws = 10_000
    drawn = sum(int(sampler.plan(step, 1)[0] == 49) for step in range(num_draws))
    share = 0.1 / 50
    assert drawn / num_draws > share - 3 * (share * (1 - share) / num_draws) ** 0.5
    assert drawn / num_draws < 2 * share
