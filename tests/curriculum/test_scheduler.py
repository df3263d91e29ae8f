import json

import numpy as np
import pytest

from rl_llm.config import NamedPart
from rl_llm.config.curriculum import CurriculumSection, RefillSection
from rl_llm.curriculum import PoolIndex, Scheduler, build_scheduler, store
from rl_llm.errors import DataError, PluginError


@pytest.fixture
def make_scheduler(sampling):
    def make(problems, *, sampler="posterior", num_problems=4, max_rounds=2, seed=0, **options):
        section = CurriculumSection(
            sampler=NamedPart(name=sampler, **options),
            refill=RefillSection(max_rounds=max_rounds),
        )
        return build_scheduler(
            section,
            problems=problems,
            num_problems=num_problems,
            group_size=4,
            sampling=sampling,
            seed=seed,
        )

    return make


def keys(requests):
    return [request.problem.key for request in requests]


def test_a_step_asks_for_whole_groups_of_distinct_problems(make_scheduler, make_problems, sampling):
    requests = make_scheduler(make_problems(20)).plan(0)
    assert len(set(keys(requests))) == 4
    assert {request.num_completions for request in requests} == {4}
    assert {request.sampling for request in requests} == {sampling}


def test_every_request_has_its_own_stream(make_scheduler, make_problems):
    scheduler = make_scheduler(make_problems(4))
    streams = [request.stream_key for step in range(3) for request in scheduler.plan(step)]
    other_seed = [r.stream_key for r in make_scheduler(make_problems(4), seed=1).plan(0)]
    assert len({*streams, *other_seed}) == 16


@pytest.mark.parametrize("sampler", ["posterior", "uniform"])
def test_refill_is_bounded_and_draws_only_problems_new_to_the_step(
    make_scheduler, make_problems, sampler
):
    scheduler = make_scheduler(make_problems(20), sampler=sampler, max_rounds=2)
    planned = scheduler.plan(0)
    first = scheduler.refill(0, round=1, num_missing=3)
    second = scheduler.refill(0, round=2, num_missing=2)
    assert [len(planned), len(first), len(second)] == [4, 3, 2]
    assert len({*keys(planned), *keys(first), *keys(second)}) == 9
    assert scheduler.refill(0, round=3, num_missing=2) == []


def test_nothing_missing_means_no_refill(make_scheduler, make_problems):
    scheduler = make_scheduler(make_problems(20))
    scheduler.plan(0)
    assert scheduler.refill(0, round=1, num_missing=0) == []
    assert scheduler.refill(0, round=1, num_missing=-1) == []


@pytest.mark.parametrize("sampler", ["posterior", "uniform"])
def test_refill_ends_with_the_pool_and_the_next_step_may_draw_all_again(
    make_scheduler, make_problems, sampler
):
    scheduler = make_scheduler(make_problems(5), sampler=sampler)
    scheduler.plan(0)
    assert len(scheduler.refill(0, round=1, num_missing=4)) == 1
    assert scheduler.refill(0, round=2, num_missing=3) == []
    assert len(scheduler.plan(1)) == 4


def test_a_pool_smaller_than_the_step_gives_every_problem_once(make_scheduler, make_problems):
    problems = make_problems(3)
    assert sorted(keys(make_scheduler(problems).plan(0))) == sorted(p.key for p in problems)


def test_beliefs_learn_from_dropped_groups_and_from_correctness_alone(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(2)
    scheduler = make_scheduler(problems, prior_strength=2.0)
    scored = [score_group(problems[0], [0, 0, 0, 0], totals=[0.1, 0.0, 1.0, 1.0])]
    assert scheduler.admit(scored) == []
    scheduler.observe(scored, step=0)
    # bucket .5/5 = .1: a = 2 * .1, b = 2 * .9 + 4
    assert scheduler.belief_of(problems[0].key) == pytest.approx(0.2 / 6.0)
    assert scheduler.belief_of(problems[1].key) == pytest.approx(0.1)


def test_completions_with_failed_rewards_count_in_neither_s_nor_g(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(1)
    scheduler = make_scheduler(problems, prior_strength=2.0)
    scheduler.observe([score_group(problems[0], [1, 1, 1, 0], failed=[1, 2])], step=0)
    # 1 of 2: the bucket stays at 1.5/3
    assert scheduler.belief_of(problems[0].key) == pytest.approx(0.5)


def test_a_group_without_any_working_reward_is_no_visit(make_scheduler, make_problems, score_group):
    problems = make_problems(2)
    scheduler = make_scheduler(problems)
    scheduler.observe([score_group(problems[0], [0, 0], failed=[0, 1])], step=0)
    assert scheduler.metrics() == {"curriculum/visited_share": 0.0, "curriculum/belief_mean": 0.5}


def test_admit_keeps_the_order_of_the_informative_groups(
    make_scheduler, make_problems, score_group
):
    a, b, c = make_problems(3)
    scored = [score_group(c, [0, 1]), score_group(a, [1, 1]), score_group(b, [1, 0])]
    kept = make_scheduler([a, b, c]).admit(scored)
    assert [group.group.problem for group in kept] == [c, b]


def test_histogram_and_metrics_describe_the_whole_pool(make_scheduler, make_problems, score_group):
    problems = make_problems(3) + make_problems(1, level=2, first=3)
    scheduler = make_scheduler(problems, prior_strength=2.0)
    assert scheduler.belief_histogram() == [0, 0, 0, 0, 0, 4, 0, 0, 0, 0]
    scheduler.observe([score_group(problems[3], [1, 1, 1, 1])], step=0)
    # bucket 4.5/5 = .9: (1.8 + 4) / 6 = .967
    assert scheduler.belief_histogram() == [0, 0, 0, 0, 0, 3, 0, 0, 0, 1]
    assert scheduler.metrics() == pytest.approx(
        {"curriculum/visited_share": 0.25, "curriculum/belief_mean": (1.5 + 5.8 / 6) / 4}
    )


def test_a_sampler_without_beliefs_reports_none(make_scheduler, make_problems):
    problems = make_problems(3)
    scheduler = make_scheduler(problems, sampler="uniform")
    assert scheduler.belief_of(problems[0].key) is None
    assert scheduler.belief_histogram() == [0] * 10
    assert scheduler.metrics() == {"curriculum/visited_share": 0.0}


@pytest.mark.parametrize("sampler", ["posterior", "uniform"])
def test_a_resumed_run_plans_refills_and_believes_the_same(
    make_scheduler, make_problems, score_group, tmp_path, sampler
):
    problems = make_problems(15) + make_problems(15, level=2, first=15)

    def play(scheduler, steps):
        seen = []
        for step in steps:
            requests = scheduler.plan(step)
            requests += scheduler.refill(step, round=1, num_missing=2)
            correct = [[int(k) % 3 == 0 for k in r.problem.prompt[1:].zfill(4)] for r in requests]
            scheduler.observe(
                [score_group(r.problem, c) for r, c in zip(requests, correct, strict=True)],
                step=step,
            )
            seen.append([(r.problem.key, r.stream_key) for r in requests])
        return seen, scheduler.belief_histogram(), scheduler.metrics()

    whole = make_scheduler(problems, sampler=sampler)
    play(whole, range(7))
    path = tmp_path / "curriculum.parquet"
    rest = json.loads(json.dumps(store.save(path, whole.keys, whole.state_dict())))
    resumed = make_scheduler(problems, sampler=sampler)
    resumed.load_state_dict(store.load(path, resumed.keys, rest))
    assert play(resumed, range(7, 12)) == play(whole, range(7, 12))


def test_an_edited_pool_keeps_what_is_known_by_key(
    make_scheduler, make_problems, score_group, tmp_path
):
    old = make_problems(1, level=2) + make_problems(3, first=1)
    before = make_scheduler(old)
    before.observe(
        [score_group(p, [k < 1, k < 2, k < 3, k < 4]) for k, p in enumerate(old)], step=0
    )
    path = tmp_path / "curriculum.parquet"
    rest = store.save(path, before.keys, before.state_dict())
    edited = [old[3], old[2], *make_problems(1, level=9, first=50), old[0]]  # old[1] is gone
    after = make_scheduler(edited)
    after.load_state_dict(store.load(path, after.keys, rest))
    for problem in (old[0], old[2], old[3]):
        assert after.belief_of(problem.key) == before.belief_of(problem.key)
    assert after.belief_of(edited[2].key) == 0.5
    assert after.metrics()["curriculum/visited_share"] == 0.75


def test_an_empty_pool_and_a_doubled_problem_are_refused(make_scheduler, make_problems):
    with pytest.raises(DataError, match="the training pool is empty"):
        make_scheduler([])
    problems = make_problems(3)
    with pytest.raises(DataError, match=f"0 and 3 .* same key {problems[0].key}"):
        make_scheduler([*problems, problems[0]])


def test_a_sampler_that_repeats_a_problem_is_caught(make_problems, sampling):
    class Repeats:
        def plan(self, step, num_problems, *, round=0, exclude=None):
            return np.zeros(num_problems, np.int64)

    scheduler = Scheduler(
        problems=make_problems(3),
        sampler=Repeats(),
        gates=[],
        num_problems=2,
        group_size=4,
        sampling=sampling,
        seed=0,
        max_refill_rounds=0,
    )
    with pytest.raises(PluginError, match=r"Repeats planned \[0, 0\] for 2 problems"):
        scheduler.plan(0)


def test_buckets_are_source_times_level(make_problems):
    problems = make_problems(2) + make_problems(1, level=2, first=2) + make_problems(1, first=3)
    index = PoolIndex.of(problems)
    assert index.bucket_names == ("s/level=1", "s/level=2")
    assert index.bucket_ids.tolist() == [0, 0, 1, 0]
