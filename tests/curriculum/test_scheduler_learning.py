"""What is learnt from scored groups, which of them are kept, and what is told about it."""

import numpy as np
import pytest

from rl_llm.curriculum import SAMPLERS, Uniform


def mean_of(scheduler, problem):
    position = scheduler.row_names.index(problem.key)
    return float(np.asarray(scheduler.beliefs().mean)[position])


def test_beliefs_learn_from_dropped_groups(make_scheduler, make_problems, stage):
    problems = make_problems(2)
    scheduler = make_scheduler(problems, belief={"prior_strength": 2.0})
    ended = stage.answer_all(scheduler, scheduler.plan(1)[:1], [0, 0, 0, 0], step=1)
    [dropped] = ended.dropped
    assert ended.finished == ()
    seen = dropped.group.problem
    [other] = [p for p in problems if p != seen]
    # The bucket had no evidence: .5/5 = .1, and a = 2 * .1, b = 2 * .9 + 4.
    assert mean_of(scheduler, seen) == pytest.approx(0.2 / 6.0)
    assert mean_of(scheduler, other) == pytest.approx(0.1)


def learnt_keys(scheduler):
    learnt = scheduler.state_dict()["columns"]["belief.belief_learnt"]
    return {key for key, is_learnt in zip(scheduler.row_names, learnt, strict=True) if is_learnt}


def test_problems_gain_from_mixed_groups_that_every_gate_let_through(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(4)
    gates = [{"name": "range", "low": 0.4, "high": 1.0}]
    scheduler = make_scheduler(problems, belief={"max_gain": 2.0}, gates=gates)
    scheduler.plan(1)
    flags = ([1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0])
    scored = [score_group(*each) for each in zip(problems, flags, strict=True)]
    scheduler.observe(scored, step=1)
    assert learnt_keys(scheduler) == set()
    assert len(scheduler.conclude(scored).finished) == 2  # The first and the third.
    assert learnt_keys(scheduler) == {problems[0].key}
    assert scheduler.metrics(1)["curriculum/gain_logits"] == 0.0


def test_what_other_rewards_say_changes_no_belief_and_no_plan(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(30)
    plain, formatted = make_scheduler(problems), make_scheduler(problems)
    for step in range(1, 6):
        requests = plain.plan(step)
        assert formatted.plan(step) == requests
        for scheduler, totals in ((plain, None), (formatted, [0.1, 1.0, 0.0, 0.7])):
            scored = [score_group(r.problem, [0, 1, 0, 0], totals=totals) for r in requests]
            scheduler.observe(scored, step=step)
            scheduler.conclude(scored)
    assert np.array_equal(plain.beliefs().a, formatted.beliefs().a)
    assert np.array_equal(plain.beliefs().b, formatted.beliefs().b)


def test_completions_with_failed_rewards_count_in_neither_s_nor_g(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(1)
    scheduler = make_scheduler(problems, belief={"prior_strength": 2.0})
    scheduler.plan(1)
    scheduler.observe([score_group(problems[0], [1, 1, 1, 0], failed=[1, 2])], step=1)
    belief = scheduler.beliefs()
    # 1 of 2: the bucket stays at 1/2, and 2 completions join a prior worth 2.
    assert belief.a == pytest.approx([2.0]) and belief.b == pytest.approx([2.0])


def test_a_group_without_any_working_reward_is_no_visit(make_scheduler, make_problems, score_group):
    problems = make_problems(2)
    scheduler = make_scheduler(problems)
    scheduler.plan(1)
    scored = [score_group(problems[0], [0, 0], failed=[0, 1])]
    scheduler.observe(scored, step=1)
    scheduler.conclude(scored)
    metrics = scheduler.metrics(1)
    assert metrics["curriculum/visited_share"] == 0.0
    assert metrics["curriculum/belief_mean"] == 0.5
    assert scheduler.visits_N.tolist() == [0, 0]


def test_an_evaluation_of_training_problems_teaches_beliefs_and_nothing_else(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(10)
    scheduler = make_scheduler(problems, belief={"prior_strength": 2.0}, defer={"after": 1})
    before = scheduler.state_dict()
    scheduler.observe_evaluation([score_group(problems[0], [0, 0, 0, 0])], step=0)
    after = scheduler.state_dict()
    assert mean_of(scheduler, problems[0]) == pytest.approx(0.2 / 6.0)
    changed = {
        name
        for name, column in after["columns"].items()
        if not np.array_equal(column, before["columns"][name])
    }
    assert changed and all(name.startswith("belief.") for name in changed)
    assert {name for name in after["rest"] if after["rest"][name] != before["rest"][name]} == {
        "belief"
    }


def test_a_problem_that_is_not_in_the_pool_teaches_nothing(
    make_scheduler, make_problems, score_group
):
    scheduler = make_scheduler(make_problems(3))
    scheduler.plan(1)
    [held_out] = make_problems(1, first=100)
    for learn in (scheduler.observe, scheduler.observe_evaluation):
        with pytest.raises(KeyError, match=held_out.key):
            learn([score_group(held_out, [1, 1, 1, 1])], step=1)
    assert np.asarray(scheduler.beliefs().mean).tolist() == [0.5] * 3


def test_a_draw_tells_what_was_believed_before_its_group_was_seen(
    make_scheduler, make_problems, score_group
):
    problems = make_problems(2)
    scheduler = make_scheduler(problems, num_problems=2, belief={"prior_strength": 2.0})
    for step, expected in ((1, (1.0, 1.0)), (2, (0.2, 5.8))):
        requests = scheduler.plan(step)
        scored = [score_group(r.problem, [0, 0, 0, 0]) for r in requests[:1]]
        [draw] = scheduler.observe(scored, step=step)
        scheduler.conclude(scored)
        if step == 1:
            seen = draw.key
            assert (draw.belief_a, draw.belief_b) == expected
            # 1 - 2 / 5: under Beta(1, 1) all 5 counts of 4 completions are equally likely.
            assert draw.informative == pytest.approx(0.6)
            assert (draw.why, draw.round) == ("sampler", 0)
        elif draw.key == seen:
            assert (draw.belief_a, draw.belief_b) == pytest.approx(expected)


def test_draws_of_a_refill_say_which_round_they_belong_to(make_scheduler, make_problems, stage):
    scheduler = make_scheduler(make_problems(20), refill={"max_rounds": 2})
    nothing = stage.World(lambda problem, step: 0.0)
    played = stage.play_step(scheduler, nothing, 1, num_wanted=4)
    assert [draw.round for draw in played.draws] == [0] * 4 + [1] * 4 + [2] * 4
    assert [draw.key for draw in played.draws] == played.keys


def test_groups_are_concluded_in_their_order(make_scheduler, make_problems, score_group):
    a, b, c, d = make_problems(4)
    scheduler = make_scheduler([a, b, c, d])
    scheduler.plan(1)
    scored = [score_group(c, [0, 1]), score_group(a, [1, 1]), score_group(b, [1, 0])]
    scored.append(score_group(d, [0, 0]))
    ended = scheduler.conclude(scored)
    assert [group.group.problem for group in ended.finished] == [c, b]
    assert [group.group.problem for group in ended.dropped] == [a, d]


def test_a_group_must_pass_every_gate(make_scheduler, make_problems, score_group):
    problems = make_problems(3)
    gates = [{"name": "informative"}, {"name": "range", "low": 0.5, "high": 1.0}]
    scheduler = make_scheduler(problems, gates=gates)
    scheduler.plan(1)
    marks = ([0, 0, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1])
    scored = [score_group(p, correct) for p, correct in zip(problems, marks, strict=True)]
    assert list(scheduler.conclude(scored).finished) == scored[1:2]


def test_metrics_describe_the_whole_pool(make_scheduler, make_problems, score_group):
    problems = make_problems(3) + make_problems(1, level=2, first=3)
    scheduler = make_scheduler(problems, belief={"prior_strength": 2.0, "coupling": 0.0})
    empty = [0, 0, 0, 0, 0, 4, 0, 0, 0, 0]
    assert scheduler.metrics(0)["curriculum/belief_histogram"] == empty
    scheduler.plan(1)
    scored = [score_group(problems[3], [1, 1, 1, 1])]
    scheduler.observe(scored, step=1)
    scheduler.conclude(scored)
    metrics = scheduler.metrics(1)
    # The bucket is at 4.5/5 = .9, the problem at (1.8 + 4) / 6 = .967.
    assert metrics["curriculum/belief_histogram"] == [0, 0, 0, 0, 0, 3, 0, 0, 0, 1]
    assert metrics["curriculum/belief_mean"] == pytest.approx((1.5 + 5.8 / 6) / 4)
    assert metrics["curriculum/visited_share"] == 0.25
    assert metrics["curriculum/visits_gini"] == pytest.approx(0.75)  # One has all the visits.


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_beliefs_are_kept_whatever_samples(make_scheduler, make_problems, stage, sampler):
    problems = make_problems(2)
    scheduler = make_scheduler(problems, sampler=sampler, belief={"prior_strength": 2.0})
    stage.answer_all(scheduler, scheduler.plan(1)[:1], [0, 0, 0, 0], step=1)
    assert min(np.asarray(scheduler.beliefs().mean)) == pytest.approx(0.2 / 6.0)


def test_a_bucket_that_does_worse_than_believed_is_said_once_and_reviewed_more(
    make_scheduler, make_problems, stage
):
    problems = make_problems(100)
    scheduler = make_scheduler(
        problems,
        num_problems=10,
        group_size=8,
        retire={"pass_rate": 0.5, "certainty": 0.6, "review_share": 0.0},
        sampler="uniform",
    )
    world = stage.World(lambda problem, step: 1.0 if step <= 3 else 0.1)
    reviews, messages = {}, []
    for step in range(1, 12):
        stage.play_step(scheduler, world, step, num_wanted=10)
        reviews[step] = scheduler.metrics(step)["curriculum/review_groups"]
        messages += scheduler.take_messages()
        if messages:
            break
    assert len(messages) == 1 and messages[0].startswith("s/level=1: ")
    assert scheduler.take_messages() == []
    assert set(reviews.values()) == {0}
    assert scheduler.metrics(step)["curriculum/regressions"] == 1
    assert scheduler.metrics(step)["curriculum/retired_count"] > 0
    scheduler.plan(step + 1)
    assert scheduler.metrics(step + 1)["curriculum/review_groups"] == 1  # A tenth of 10.


@pytest.mark.parametrize("probe", [None, {"completions": 2, "problems": 4}])
def test_a_step_that_draws_what_rests_says_so_once_and_is_counted(
    make_scheduler, make_problems, stage, probe
):
    retire = {"pass_rate": 0.5, "certainty": 0.6, "review_share": 0.0}
    scheduler = make_scheduler(make_problems(6), num_problems=4, retire=retire, probe=probe)
    world, counts, messages = stage.World(lambda *_: 1.0), [], []
    for step in range(1, 6):
        stage.play_step(scheduler, world, step, num_wanted=0)
        counts.append(scheduler.metrics(step)["curriculum/spare_groups"])
        messages += scheduler.take_messages()
    first = next(step for step, count in enumerate(counts, 1) if count)
    assert first > 1 and counts[-1] == 4
    assert messages == [
        f"step {first} draws {counts[first - 1]} problems that rest, retired or deferred, for too "
        "few others are left: the pool is nearly used up; curriculum/spare_groups counts them"
    ]


def test_a_fall_is_measured_against_what_was_believed_before_the_round(
    make_scheduler, make_problems, score_group
):
    """4 of 16 correct under Beta(2, 2): 8 were expected, with a deviation of 4, so z = -1."""
    problems = make_problems(1)
    scheduler = make_scheduler(problems, group_size=16, belief={"prior_strength": 4.0})
    scheduler.plan(1)
    scheduler.observe([score_group(problems[0], [1] * 4 + [0] * 12)], step=1)
    pile = scheduler.state_dict()["rest"]["detector"]["piles"]["s/level=1"]
    # The sum, 1 less the slack of 1/2, and over it the expected, the correct and all completions.
    assert pile == pytest.approx([0.5, 8.0, 4.0, 16.0])


def test_explain_says_where_a_problem_stands(make_scheduler, make_problems):
    problems = make_problems(2) + make_problems(2, level=2, first=2)
    scheduler = make_scheduler(problems, prerequisites={"s": "in_order"})
    said = dict(scheduler.explain(problems[0].key, step=1))
    assert (said["standing"], said["its level"]) == ("active", "open")
    said = dict(scheduler.explain(problems[3].key, step=1))
    assert said["standing"] == "active" and said["its level"].startswith("locked: opens when")
    assert said["next draw"] == "not before its level opens"


def test_a_class_without_explain_is_left_out_of_it(make_scheduler, make_problems, tmp_path):
    (tmp_path / "mute.py").write_text(
        "from rl_llm.curriculum import Uniform\n\n\n"
        "class Mute(Uniform):\n    @property\n    def explain(self):\n"
        "        raise AttributeError\n"
    )
    problems = make_problems(2)
    scheduler = make_scheduler(problems, sampler=f"{tmp_path / 'mute.py'}:Mute")
    said = dict(scheduler.explain(problems[0].key, step=1))
    assert said == {"standing": "active", "its level": "open"}
    assert hasattr(Uniform, "explain")


def test_forecasts_are_judged_before_anything_has_learnt_from_the_round(
    make_scheduler, make_problems, stage
):
    scheduler = make_scheduler(make_problems(1), num_problems=1)
    stage.answer_all(scheduler, scheduler.plan(1), [1, 1, 1, 1], step=1)
    # Believed at 1/2, all correct: (1 - 1/2)^2.
    assert scheduler.metrics(1)["curriculum/brier"] == pytest.approx(0.25)


def test_a_probe_is_expected_to_be_mixed_at_its_own_size(make_scheduler, make_problems, stage):
    scheduler = make_scheduler(
        make_problems(4), num_problems=1, last_step=9, probe={"completions": 2, "problems": 1}
    )
    requests = scheduler.plan(1)
    [draw] = scheduler.observe([stage.score_group(requests[0].problem, [0, 1])], step=1)
    # Beta(1.5, 1.5), two completions: 1 - 2 * (1.5 * 2.5) / (3 * 4).
    assert draw.informative == pytest.approx(0.375)


def test_a_part_that_the_state_does_not_know_starts_anew(make_scheduler, stage):
    plain = [stage.make_problem(f"q{k}", level=1, source="s") for k in range(4)]
    rated = [stage.make_problem(f"q{k}", level=1, source="s", difficulty=k) for k in range(4)]
    before, after = make_scheduler(plain), make_scheduler(rated)
    stage.answer_all(before, before.plan(1), [1, 0, 0, 0], step=1)
    after.load_state_dict(before.state_dict())
    assert after.beliefs().mean.tolist() == before.beliefs().mean.tolist()
