"""Steps that probe, and finish the groups of mixed probes."""

from collections import Counter


def keys(requests):
    return [request.problem.key for request in requests]


PROBE = {"completions": 2, "problems": 6}


def test_a_probing_step_draws_probes_and_finishes_the_mixed_ones(
    make_scheduler, make_problems, stage
):
    scheduler = make_scheduler(make_problems(60), probe=PROBE, num_problems=2)
    played = stage.play_step(scheduler, stage.World(lambda *_: 0.5), 1, num_wanted=2)
    first, second = played.rounds[:2]
    assert [request.num_completions for request in first] == [2] * 6
    assert {request.num_completions for request in second[:2]} == {2}
    assert {len(group.scores) for group in played.admitted} == {4}
    assert {len(group.scores) for group in played.dropped} <= {2}
    whys = Counter(draw.why for draw in played.draws)
    assert set(whys) == {"probe", "finish"} and whys["finish"] == len(played.admitted) == 2


def test_the_rest_of_a_group_has_a_stream_of_its_own(make_scheduler, make_problems, stage):
    scheduler = make_scheduler(make_problems(60), probe=PROBE, num_problems=2)
    world = stage.World(lambda *_: 0.5)
    played = [stage.play_step(scheduler, world, step, num_wanted=2) for step in (1, 2, 3)]
    streams = [r.stream_key for p in played for requests in p.rounds for r in requests]
    assert len(set(streams)) == len(streams)


def test_a_probed_group_is_one_visit_and_its_outcome_that_of_the_whole(
    make_scheduler, make_problems, score_group
):
    """A probe that is mixed and a rest that is all wrong make a mixed group."""
    problems = make_problems(6)
    scheduler = make_scheduler(
        problems, probe={"completions": 2, "problems": 6}, num_problems=6, defer={"after": 1}
    )
    for marks in ([0, 1], [0, 0]):
        requests = (
            scheduler.plan(1) if marks == [0, 1] else scheduler.refill(1, round=1, num_missing=6)
        )
        scored = [score_group(r.problem, marks) for r in requests]
        scheduler.observe(scored, step=1)
        ended = scheduler.conclude(scored)
    assert len(ended.finished) == 6
    assert scheduler.visits_N.tolist() == [1] * 6
    assert scheduler.metrics(1)["curriculum/deferred_count"] == 0.0


def test_held_problems_are_not_drawn_again_before_their_group_is_whole(
    make_scheduler, make_problems, stage
):
    """Even where the pool is too small for a step: as a review, or as a spare."""
    scheduler = make_scheduler(
        make_problems(12),
        probe={"completions": 2, "problems": 8},
        num_problems=2,
        retire={"pass_rate": 0.3, "certainty": 0.5, "review_share": 0.5},
    )
    world = stage.World(lambda *_: 0.6)
    for step in range(1, 30):
        played = stage.play_step(scheduler, world, step, num_wanted=2)
        for requests in played.rounds:
            assert len(set(keys(requests))) == len(requests)
        probed = [draw.key for draw in played.draws if draw.why != "finish"]
        assert len(set(probed)) == len(probed)


def test_a_second_call_of_probes_holds_no_further_reviews(
    make_scheduler, make_problems, score_group
):
    """Reviews are a share of a step, however many calls it makes."""
    scheduler = make_scheduler(
        make_problems(200),
        num_problems=2,
        probe={"completions": 2, "problems": 10},
        retire={"pass_rate": 0.3, "certainty": 0.5, "review_share": 0.1},
    )
    reviews = []
    for step in range(1, 6):
        num_calls, requests = 0, scheduler.plan(step)
        while requests:
            # All correct, so that many retire; but for one, for which there is a second call.
            scored = [score_group(r.problem, [1, 1]) for r in requests[:-1]]
            scored.append(score_group(requests[-1].problem, [1, num_calls > 0]))
            scheduler.observe(scored, step=step)
            scheduler.conclude(scored)
            num_calls += 1
            requests = scheduler.refill(step, round=num_calls, num_missing=2)
        assert num_calls == 2
        reviews.append(scheduler.metrics(step)["curriculum/review_groups"])
    assert reviews == [0, 1, 1, 1, 1]  # A tenth of 10, once there is something to review.


def test_a_probe_says_who_chose_its_problem_and_the_rest_that_it_finishes(
    make_scheduler, make_problems, stage
):
    scheduler = make_scheduler(
        make_problems(16),
        num_problems=2,
        probe={"completions": 2, "problems": 8},
        retire={"pass_rate": 0.3, "certainty": 0.5, "review_share": 0.25},
    )
    world = stage.World(lambda *_: 0.7)
    whys = Counter()
    for step in range(1, 30):
        played = stage.play_step(scheduler, world, step, num_wanted=2)
        whys.update(draw.why for draw in played.draws)
        whole = [g for g in [*played.admitted, *played.dropped] if len(g.scores) == 4]
        finishing = [draw.key for draw in played.draws if draw.why == "finish"]
        assert sorted(finishing) == sorted(group.group.problem.key for group in whole)
    assert set(whys) == {"probe", "finish", "review", "spare"}


def test_the_last_step_leaves_no_probe_waiting(make_scheduler, make_problems, stage):
    scheduler = make_scheduler(make_problems(60), probe=PROBE, num_problems=2, last_step=4)
    world = stage.World(lambda *_: 0.5)
    played = [stage.play_step(scheduler, world, step, num_wanted=2) for step in range(1, 5)]
    assert scheduler.metrics(4)["curriculum/probes_waiting"] == 0.0
    ended = [g for p in played for g in [*p.admitted, *p.dropped]]
    asked = [r for p in played for requests in p.rounds for r in requests]
    assert sum(len(g.scores) for g in ended) == sum(r.num_completions for r in asked)


def test_a_problem_whose_probe_waits_says_so_and_when_it_is_drawn(
    make_scheduler, make_problems, score_group
):
    scheduler = make_scheduler(make_problems(8), probe=PROBE, num_problems=2)
    drawn = keys(scheduler.plan(1))
    by_key = {problem.key: problem for problem in scheduler.problems}
    scored = [score_group(by_key[key], [0, key != drawn[-1]]) for key in drawn]
    scheduler.observe(scored, step=1)
    scheduler.conclude(scored)
    said = dict(scheduler.explain(drawn[2], step=2))
    assert said["next draw"] == "not before its group is whole"
    assert said["its probe"] == (
        "1 of 2 completions correct, so 2 more follow: number 3 of 5 that wait, of which a step "
        "finishes 2, and the last step all"
    )
    [free] = [key for key in by_key if key not in drawn][:1]
    said = dict(scheduler.explain(free, step=2))
    assert "its probe" not in said
    # The two that were not drawn, and the one whose probe was all wrong.
    assert "rank" in said["next draw"] and " of 3 (an even share is 0.3333)" in said["next draw"]


def test_quotas_hold_although_steps_differ_in_how_many_they_probe(make_scheduler, stage):
    problems = [
        stage.make_problem(f"{source}{k}", source=source) for source in "ab" for k in range(30)
    ]
    scheduler = make_scheduler(
        problems,
        num_problems=1,
        probe={"completions": 2, "problems": 2},
        quotas={"a": 0.75},
        retire=None,
        defer=None,
    )
    world, probed = stage.World(lambda *_: 0.5), Counter()
    for step in range(1, 101):
        played = stage.play_step(scheduler, world, step, num_wanted=1)
        probed.update(
            group.group.problem.source
            for group, draw in zip(played.scored, played.draws, strict=True)
            if draw.why == "probe"
        )
    assert abs(probed["a"] - 0.75 * probed.total()) <= 1.0
