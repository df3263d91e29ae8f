"""What a step asks for, and what it draws in place of the groups that were dropped."""

from collections import Counter

import pytest

from rl_llm.curriculum import SAMPLERS
from rl_llm.errors import DataError


def keys(requests):
    return [request.problem.key for request in requests]


def levels(requests):
    return Counter(request.problem.level for request in requests)


WRONG = [0, 0, 0, 0]


def test_a_step_asks_for_whole_groups_of_distinct_problems(make_scheduler, make_problems, sampling):
    requests = make_scheduler(make_problems(20)).plan(1)
    assert len(set(keys(requests))) == 4
    assert {request.num_completions for request in requests} == {4}
    assert {request.sampling for request in requests} == {sampling}


def test_every_request_has_its_own_stream(make_scheduler, make_problems):
    scheduler = make_scheduler(make_problems(4))
    streams = [request.stream_key for step in (1, 2, 3) for request in scheduler.plan(step)]
    other_seed = [r.stream_key for r in make_scheduler(make_problems(4), seed=1).plan(1)]
    assert len({*streams, *other_seed}) == 16


def test_a_pool_smaller_than_the_step_gives_every_problem_once(make_scheduler, make_problems):
    problems = make_problems(3)
    assert sorted(keys(make_scheduler(problems).plan(1))) == sorted(p.key for p in problems)


def test_an_empty_pool_and_a_doubled_problem_are_refused(make_scheduler, make_problems):
    with pytest.raises(DataError, match="the training pool is empty"):
        make_scheduler([])
    problems = make_problems(3)
    with pytest.raises(DataError, match=f"0 and 3 .* same key {problems[0].key}"):
        make_scheduler([*problems, problems[0]])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_refill_is_bounded_and_draws_only_problems_new_to_the_step(
    make_scheduler, make_problems, sampler
):
    scheduler = make_scheduler(make_problems(20), sampler=sampler, refill={"max_rounds": 2})
    planned = scheduler.plan(1)
    first = scheduler.refill(1, round=1, num_missing=3)
    second = scheduler.refill(1, round=2, num_missing=2)
    assert [len(planned), len(first), len(second)] == [4, 3, 2]
    assert len({*keys(planned), *keys(first), *keys(second)}) == 9
    assert scheduler.refill(1, round=3, num_missing=2) == []


def test_nothing_missing_means_no_refill(make_scheduler, make_problems):
    scheduler = make_scheduler(make_problems(20), refill={"max_rounds": 2})
    scheduler.plan(1)
    assert scheduler.refill(1, round=1, num_missing=0) == []
    assert scheduler.refill(1, round=1, num_missing=-1) == []


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_refill_ends_with_the_pool_and_the_next_step_may_draw_all_again(
    make_scheduler, make_problems, sampler
):
    scheduler = make_scheduler(make_problems(5), sampler=sampler, refill={"max_rounds": 9})
    scheduler.plan(1)
    assert len(scheduler.refill(1, round=1, num_missing=4)) == 1
    assert scheduler.refill(1, round=2, num_missing=3) == []
    assert len(scheduler.plan(2)) == 4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_within_bucket_a_dropped_group_is_replaced_from_its_own_bucket(
    make_scheduler, make_problems, stage, sampler
):
    problems = make_problems(30) + make_problems(30, level=2, first=30)
    scheduler = make_scheduler(
        problems, sampler=sampler, num_problems=8, refill={"max_rounds": 5}, defer=None
    )
    requests = scheduler.plan(1)
    stage.answer_all(scheduler, requests, WRONG, step=1)
    assert levels(scheduler.refill(1, round=1, num_missing=8)) == levels(requests)


@pytest.fixture
def answer(score_group):
    """Score requests, observe and conclude: those for which `is_mixed` have two correct answers."""

    def answer(scheduler, requests, is_mixed):
        scored = [score_group(r.problem, [0, 1, 0, 1] if is_mixed(r) else WRONG) for r in requests]
        scheduler.observe(scored, step=1)
        scheduler.conclude(scored)

    return answer


def is_level_2(request):
    return request.problem.level == 2


def test_a_refill_is_for_what_the_last_round_dropped_alone(make_scheduler, make_problems, answer):
    problems = make_problems(40) + make_problems(40, level=2, first=40)
    scheduler = make_scheduler(problems, num_problems=16, refill={"max_rounds": 3})
    planned = scheduler.plan(1)
    answer(scheduler, planned, is_level_2)
    num_dropped = levels(planned)[1]
    assert num_dropped > 2
    first = scheduler.refill(1, round=1, num_missing=num_dropped)
    assert levels(first) == {1: num_dropped}
    answer(scheduler, first, lambda request: request is first[0])
    assert levels(scheduler.refill(1, round=2, num_missing=num_dropped - 1)) == {1: num_dropped - 1}


def test_fewer_than_were_dropped_are_drawn_from_their_buckets_in_proportion(
    make_scheduler, make_problems, answer
):
    problems = make_problems(90) + make_problems(30, level=2, first=90)
    scheduler = make_scheduler(
        problems, sampler="uniform", num_problems=64, refill={"max_rounds": 2}, defer=None
    )
    planned = scheduler.plan(1)
    answer(scheduler, planned, lambda request: False)
    dropped = levels(planned)
    refill = levels(scheduler.refill(1, round=1, num_missing=16))
    assert refill.total() == 16
    assert {k: abs(refill[k] - dropped[k] / 4) <= 0.5 for k in (1, 2)} == {1: True, 2: True}


def test_a_refill_forgets_what_earlier_rounds_dropped(make_scheduler, make_problems, answer):
    problems = make_problems(40) + make_problems(40, level=2, first=40)
    scheduler = make_scheduler(
        problems, sampler="uniform", num_problems=16, refill={"max_rounds": 3}, defer=None
    )
    planned = scheduler.plan(1)
    answer(scheduler, planned, lambda request: False)
    first = scheduler.refill(1, round=1, num_missing=16)
    of_level_1 = [request for request in first if not is_level_2(request)]
    answer(scheduler, first, lambda request: is_level_2(request) or request is of_level_1[0])
    num_dropped = len(of_level_1) - 1
    second = scheduler.refill(1, round=2, num_missing=num_dropped)
    assert levels(second) == {1: num_dropped}


def test_a_bucket_of_which_a_refill_brought_nothing_is_drawn_from_no_further(
    make_scheduler, make_problems, answer
):
    problems = make_problems(40) + make_problems(400, level=2, first=40)
    scheduler = make_scheduler(
        problems, sampler="uniform", num_problems=44, refill={"max_rounds": 2}
    )
    requests = scheduler.plan(1)
    answer(scheduler, requests, is_level_2)
    num_dropped = levels(requests)[1]
    first = scheduler.refill(1, round=1, num_missing=num_dropped)
    assert levels(first) == {1: num_dropped}
    answer(scheduler, first, is_level_2)
    second = scheduler.refill(1, round=2, num_missing=num_dropped)
    assert len(second) == num_dropped > 2
    assert levels(second)[1] < num_dropped / 2  # 1 in 11 of those left, by chance


def test_within_pool_a_dropped_group_is_replaced_by_the_sampler_alone(
    make_scheduler, make_problems, stage
):
    # Two problems of level 1 and 50 of level 2.
    problems = make_problems(2) + make_problems(50, level=2, first=2)
    drawn = {}
    for within in ("bucket", "pool"):
        scheduler = make_scheduler(
            problems,
            num_problems=1,
            sampler="uniform",
            refill={"max_rounds": 1, "within": within},
        )
        for step in range(1, 200):
            requests = scheduler.plan(step)
            if requests[0].problem.level == 1:
                break
        stage.answer_all(scheduler, requests, WRONG, step=step)
        drawn[within] = scheduler.refill(step, round=1, num_missing=1)[0].problem.level
    assert drawn == {"bucket": 1, "pool": 2}


def test_a_bucket_with_too_few_left_is_made_up_for_from_elsewhere(
    make_scheduler, make_problems, stage
):
    problems = make_problems(3) + make_problems(3, level=2, first=3)
    scheduler = make_scheduler(problems, num_problems=4, refill={"max_rounds": 1})
    planned = scheduler.plan(1)
    stage.answer_all(scheduler, planned, WRONG, step=1)
    refill = scheduler.refill(1, round=1, num_missing=4)
    assert {*keys(planned), *keys(refill)} == {p.key for p in problems}


@pytest.mark.parametrize("pool_size", [5, 9, 40])
@pytest.mark.parametrize("max_rounds", [0, 1, 20])
def test_every_group_ends_up_admitted_or_dropped_and_none_in_both(
    make_scheduler, make_problems, stage, pool_size, max_rounds
):
    """With 5 and 9 problems the pool runs out in the middle of a refill."""
    scheduler = make_scheduler(
        make_problems(pool_size), refill={"max_rounds": max_rounds}, last_step=3
    )
    world = stage.World(lambda problem, step: (0.0, 0.5, 1.0)[int(problem.prompt[1:]) % 3])
    for step in (1, 2, 3):
        played = stage.play_step(scheduler, world, step, num_wanted=4)
        ended = [g.group.problem.key for g in [*played.admitted, *played.dropped]]
        assert sorted(ended) == sorted(played.keys) and len(set(ended)) == len(ended)
        kept = {g.group.problem.key for g in played.admitted}
        mixed = [g for g in played.scored if len({s.correct for s in g.scores}) == 2]
        assert kept == {g.group.problem.key for g in mixed}


def test_what_was_drawn_of_a_stream_is_replaced_and_the_next_step_asks_for_fresh_problems(
    make_scheduler, stage
):
    stream = stage.ScriptedStream("flow", size=6)
    scheduler = make_scheduler(stream.batch(0), streams=(stream,), num_problems=6)
    world = stage.World(lambda problem, step: 0.5)
    asked = [stage.play_step(scheduler, world, step, num_wanted=6).keys for step in range(1, 6)]
    assert len({key for keys in asked for key in keys}) == 30
    assert {problem.key for problem in scheduler.problems}.isdisjoint(asked[-1])


def test_a_slot_is_drawn_once_in_a_step_though_a_fresh_problem_stands_in_it(make_scheduler, stage):
    stream = stage.ScriptedStream("flow", size=6)
    scheduler = make_scheduler(
        stream.batch(0), streams=(stream,), num_problems=4, refill={"max_rounds": 5}
    )
    played = stage.play_step(scheduler, stage.World(lambda *_: 0.0), 1, num_wanted=4)
    assert [len(requests) for requests in played.rounds] == [4, 2]
    assert sorted(played.keys) == sorted(problem.key for problem in stream.batch(0))


def test_an_evaluation_of_a_replaced_problem_teaches_its_bucket(make_scheduler, stage):
    stream = stage.ScriptedStream("flow", size=6)
    scheduler = make_scheduler(stream.batch(0), streams=(stream,), num_problems=6)
    stage.play_step(scheduler, stage.World(lambda *_: 0.5, is_exact=True), 1, num_wanted=6)
    assert scheduler.beliefs().mean == pytest.approx([0.5] * 6)
    replaced = stream.batch(0)[0]
    assert replaced.key not in {problem.key for problem in scheduler.problems}
    scheduler.observe_evaluation([stage.score_group(replaced, [1, 1, 1, 1])], step=1)
    assert (scheduler.beliefs().mean > 0.55).all()
