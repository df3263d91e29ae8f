"""Retirement, review and waits, by hand: under Beta(a, 1), P(p > .9) is 1 - .9^a."""

import json

import numpy as np
import pytest

from rl_llm.curriculum.belief import PoolBelief
from rl_llm.curriculum.pool import Outcomes, PoolIndex
from rl_llm.curriculum.standing import ALARM_STEPS, Defer, Retire, Standing
from rl_llm.errors import ConfigError


def pool(bucket_ids, endless=()):
    num_buckets = max(bucket_ids) + 1
    return PoolIndex(
        bucket_ids=np.array(bucket_ids, np.int32),
        bucket_names=tuple(f"s/level={k}" for k in range(num_buckets)),
        bucket_sources=("s",) * num_buckets,
        bucket_levels=tuple(range(num_buckets)),
        endless_K=np.isin(np.arange(num_buckets), endless),
    )


def believe(belief, correct):
    """Make every belief Beta(1 + correct, 1)."""
    state = belief.state_dict()
    state["columns"]["belief_correct"][:] = correct
    belief.load_state_dict(state)


def make(bucket_ids, *, correct=0, endless=(), retire=None, defer=None):
    """Return standing and belief of a pool whose beliefs are Beta(1 + correct, 1)."""
    index = pool(bucket_ids, endless)
    belief = PoolBelief(index, prior_strength=2.0)
    believe(belief, correct)
    return Standing(index, belief, retire=retire, defer=defer), belief


def resting(*, last_visit, retired=None, until=None, bucket_ids=None, **options):
    """Return the standing of problems that are retired (all, if not said) or deferred."""
    num_problems = len(last_visit)
    options.setdefault("retire", Retire())
    standing, _ = make(bucket_ids or [0] * num_problems, correct=21, **options)
    state = standing.state_dict()
    state["columns"]["standing_last_visit"][:] = last_visit
    state["columns"]["standing_retired"][:] = True if retired is None else retired
    state["columns"]["standing_deferred_until"][:] = until or 0
    standing.load_state_dict(state)
    return standing


def last_visits(standing):
    """Return the step of each problem's last visit, 0 where it had none."""
    return standing.state_dict()["columns"]["standing_last_visit"].tolist()


def visit(standing, step, correct, counted=8):
    """`correct` maps positions to their number of correct completions."""
    standing.observe(
        Outcomes(
            indices=np.array(list(correct), np.int64),
            num_correct=np.array(list(correct.values()), np.int64),
            num_counted=np.full(len(correct), counted, np.int64),
            step=step,
        )
    )


def test_a_problem_retires_when_its_mastery_is_more_certain_than_asked():
    standing, _ = make([0, 0], correct=[20, 21], retire=Retire())
    visit(standing, 1, {0: 8, 1: 8})  # 1 - .9^21 = .891, 1 - .9^22 = .902
    assert standing.excluded(2).tolist() == [False, True]
    assert standing.metrics(1) == {"curriculum/retired_count": 1, "curriculum/deferred_count": 0}


def test_a_problem_that_is_believed_mastered_retires_at_its_own_visit_only():
    standing, _ = make([0, 0], correct=21, retire=Retire())
    visit(standing, 1, {0: 8})
    assert standing.excluded(2).tolist() == [True, False]


def test_a_retired_problem_stays_until_a_review_leaves_its_mastery_less_likely_than_not():
    standing, belief = make([0, 0, 0], correct=21, retire=Retire())
    visit(standing, 1, {0: 8, 1: 8, 2: 8})
    believe(belief, [6, 5, 5])  # 1 - .9^7 = .522, 1 - .9^6 = .469
    visit(standing, 2, {0: 4, 1: 4})
    assert standing.excluded(3).tolist() == [True, False, True]  # 2 was not reviewed


def test_reviews_are_their_share_of_the_steps_by_cumulative_rounding():
    standing = resting(last_visit=[1, 1, 1], retire=Retire(review_share=0.3))
    found = [len(standing.due(step, 1)) for step in range(1, 11)]
    assert found == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1]
    assert sum(len(standing.due(step, 4)) for step in range(1, 6)) == 6
    exact = resting(last_visit=[1], retire=Retire(review_share=0.29))
    assert sum(len(exact.due(step, 1)) for step in range(1, 101)) == 29  # 100 * 0.29 < 29


def test_the_problem_not_visited_for_longest_is_reviewed_first_and_ties_go_by_position():
    retired = [True, True, True, False, True]
    standing = resting(last_visit=[7, 3, 5, 1, 3], retired=retired, retire=Retire(review_share=1))
    assert standing.due(9, 1).tolist() == [1]
    assert standing.due(9, 3).tolist() == [1, 4, 2]
    assert standing.due(9, 10).tolist() == [1, 4, 2, 0]


def test_nothing_is_due_while_nothing_is_retired_or_without_retirement():
    assert (
        not resting(last_visit=[3], retired=[False], retire=Retire(review_share=1)).due(5, 10).size
    )
    assert not resting(last_visit=[3], retire=None).due(5, 10).size


def test_an_alarm_adds_a_tenth_of_the_step_in_reviews_of_its_bucket_for_ten_steps():
    options = {"bucket_ids": [0] * 3 + [1] * 5, "retire": Retire(review_share=0.05)}
    standing = resting(last_visit=[1, 2, 3, 4, 5, 6, 7, 8], **options)
    standing.alarm([1], 20)
    assert standing.due(21, 20).tolist() == [0, 3, 4]  # 1 = 5 % of 20, then 2 of the bucket
    assert standing.due(21, 7).tolist() == [3]  # floor(7.35) - floor(7.0), then at least 1
    assert standing.due(20 + ALARM_STEPS, 20).tolist() == [0, 3, 4]
    assert standing.due(21 + ALARM_STEPS, 20).tolist() == [0]


def test_reviews_under_an_alarm_name_no_problem_twice_and_never_exceed_the_step():
    standing = resting(last_visit=[1, 2, 3], retire=Retire(review_share=0.5))
    standing.alarm([0], 1)
    assert standing.due(2, 2).tolist() == [0, 1]
    full = resting(last_visit=[1, 2, 3], retire=Retire(review_share=1))
    full.alarm([0], 1)
    assert full.due(2, 2).tolist() == [0, 1]


def test_waits_start_after_two_wrong_groups_and_double_up_to_the_limit():
    standing, _ = make([0], defer=Defer())
    waits = []
    for step in range(100, 800, 100):
        visit(standing, step, {0: 0})
        excluded = [standing.excluded(step + wait)[0] for wait in range(1, 99)]
        waits.append(1 + sum(excluded) if any(excluded) else 0)
    assert waits == [0, 4, 8, 16, 32, 64, 64]


def test_a_correct_completion_ends_the_wait_and_the_count():
    standing, _ = make([0], defer=Defer())
    for step in (1, 2, 6):
        visit(standing, step, {0: 0})
    visit(standing, 7, {0: 1})
    assert standing.status(0, 8) == "active"
    visit(standing, 8, {0: 0})
    assert standing.status(0, 9) == "active"
    visit(standing, 9, {0: 0})
    assert standing.status(0, 10) == "deferred until step 13: 2 groups in a row all wrong"


def test_three_hundred_wrong_groups_in_a_row_do_not_wrap_the_count():
    standing, _ = make([0], defer=Defer(after=255, first_steps=3, most_steps=50))
    for step in range(1, 301):
        visit(standing, step, {0: 0})
    assert standing.status(0, 301) == "deferred until step 303: 255 groups in a row all wrong"


def test_a_group_without_counted_completions_is_no_visit():
    standing, _ = make([0], correct=30, retire=Retire(), defer=Defer(after=1))
    visit(standing, 1, {0: 0}, counted=0)
    assert standing.status(0, 2) == "active"
    assert last_visits(standing) == [0]


def test_endless_buckets_are_neither_retired_nor_deferred():
    options = {"retire": Retire(pass_rate=0.4, certainty=0.5), "defer": Defer(after=1)}
    standing, _ = make([0, 0, 1, 1], endless=[0], **options)
    visit(standing, 1, {0: 8, 1: 0, 2: 8, 3: 0})
    assert standing.excluded(2).tolist() == [False, False, True, True]
    assert last_visits(standing) == [0, 0, 1, 1]


def test_what_is_null_in_the_recipe_is_off():
    standing, _ = make([0, 0], correct=[99, 0])
    visit(standing, 1, {0: 8, 1: 0})
    visit(standing, 2, {0: 8, 1: 0})
    assert not standing.excluded(3).any()
    assert last_visits(standing) == [2, 2]


def test_the_last_resort_is_what_waits_least_and_then_what_was_seen_longest_ago():
    standing = resting(
        last_visit=[5, 5, 5, 2, 1, 5],
        retired=[False, False, False, True, True, False],
        until=[9, 7, 9, 8, 0, 0],  # 3 is retired, whatever it waits for
    )
    exclude = np.zeros(6, np.bool_)
    assert standing.spare(6, exclude, 9).tolist() == [1, 0, 2, 4, 3]  # 5 is active
    assert standing.spare(6, exclude, 2).tolist() == [1, 0]
    assert standing.spare(7, exclude, 2).tolist() == [0, 2]  # 1 waits no more
    exclude[[1, 4]] = True
    assert standing.spare(6, exclude, 9).tolist() == [0, 2, 3]
    assert standing.spare(6, exclude, 0).tolist() == []


def test_status_names_the_certainty_the_last_visit_and_the_place_in_line():
    standing = resting(last_visit=[40, 12, 40])
    assert standing.status(2, 50) == (  # 1 - .9^22
        "retired: P(p > 0.9) = 0.90; last seen in step 40, next in line for review 3 of 3"
    )
    once, _ = make([0], defer=Defer(after=1))
    visit(once, 1, {0: 0})
    assert once.status(0, 4) == "deferred until step 5: 1 group all wrong"
    assert once.status(0, 5) == "active"


def test_staleness_is_the_mean_age_of_visits_over_visited_problems():
    standing, _ = make([0, 0, 0])
    assert standing.staleness_mean_steps(10) == 0.0
    visit(standing, 2, {0: 1})
    visit(standing, 9, {2: 1})
    assert standing.staleness_mean_steps(10) == 4.5  # (8 + 1) / 2


def test_a_retired_problem_does_not_count_as_deferred():
    standing = resting(last_visit=[1, 1, 1], retired=[True, False, False], until=[9, 9, 5])
    assert standing.metrics(5) == {"curriculum/retired_count": 1, "curriculum/deferred_count": 1}


def test_state_is_restored_equal_and_takes_ten_bytes_a_problem():
    options = {"correct": [30, 0, 3], "retire": Retire(), "defer": Defer(after=1)}
    before, _ = make([0, 0, 1], **options)
    visit(before, 3, {0: 8, 1: 0, 2: 5})
    before.alarm([1], 3)
    state = before.state_dict()
    assert sum(column.nbytes for column in state["columns"].values()) == 30
    assert all(name.startswith("standing_") for name in state["columns"])
    after, _ = make([0, 0, 1], **options)
    after.load_state_dict({**state, "rest": json.loads(json.dumps(state["rest"]))})
    restored = after.state_dict()
    assert restored["rest"] == state["rest"] == {"alarm_until": {"s/level=1": 13}}
    for name, column in state["columns"].items():
        np.testing.assert_array_equal(restored["columns"][name], column)
        assert restored["columns"][name].dtype == column.dtype
    assert [after.status(k, 4) for k in range(3)] == [before.status(k, 4) for k in range(3)]


def test_a_state_is_a_copy_and_zeros_are_an_active_problem_that_was_never_seen():
    standing, _ = make([0], correct=30, retire=Retire(), defer=Defer())
    fresh = standing.state_dict()
    visit(standing, 1, {0: 8})
    assert standing.status(0, 2).startswith("retired")
    assert not any(column.any() for column in fresh["columns"].values())
    standing.load_state_dict(fresh)
    assert standing.status(0, 2) == "active"
    assert last_visits(standing) == [0]


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (Retire, {"pass_rate": 1.0}, r"pass_rate=1\.0: must be above 0 and below 1"),
        (Retire, {"certainty": 0.3}, r"certainty=0\.3: must be at least 0\.5"),
        (Retire, {"review_share": 1.5}, r"review_share=1\.5: must be from 0 to 1"),
        (Defer, {"after": 0}, "after=0: must be from 1 to 255"),
        (Defer, {"first_steps": 0}, "first_steps=0: must be at least 1"),
        (Defer, {"first_steps": 9, "most_steps": 8}, "most_steps=8 with first_steps=9"),
    ],
)
def test_options_out_of_range_are_refused_by_name(section, options, message):
    with pytest.raises(ConfigError, match=message):
        section(**options)


def live(last_step, correct_of, *, resume=False):
    """Draw all that may be drawn, and what is due, of one problem a bucket; return the steps in
    which each of two was drawn. `resume` goes through a saved state in every step."""
    index = pool([0, 1])
    drawn_in = ([], [])
    options = {"retire": Retire(review_share=0.02), "defer": Defer()}
    belief = PoolBelief(index)
    standing = Standing(index, belief, **options)
    for step in range(1, last_step + 1):
        drawn = [*np.flatnonzero(~standing.excluded(step)), *standing.due(step, 10)]
        for position in drawn:
            drawn_in[position].append(step)
        correct = [correct_of(position, step) for position in drawn]
        outcomes = Outcomes(
            indices=np.array(drawn, np.int64),
            num_correct=np.array(correct, np.int64),
            num_counted=np.full(len(drawn), 8, np.int64),
            step=step,
        )
        belief.observe(outcomes)
        standing.observe(outcomes)
        if resume:
            state, standing = standing.state_dict(), Standing(index, belief, **options)
            standing.load_state_dict(state)
    return drawn_in


def mastered_until_40_and_impossible(position, step):
    return 8 if position == 0 and step <= 40 else 0 if position or step <= 60 else 4


def test_a_mastered_problem_retires_is_reviewed_regresses_and_comes_back():
    mastered, _ = live(70, mastered_until_40_and_impossible)
    practice = mastered.index(5)  # 2 % of 10 a step: the reviews are in steps 5, 10, 15, ...
    assert mastered[:practice] == list(range(1, practice + 1))
    assert practice <= 3
    assert mastered[practice : practice + 9] == [5, 10, 15, 20, 25, 30, 35, 40, 45]
    assert mastered[practice + 9] == 46  # all wrong in step 45: drawn like any other again


def test_an_impossible_problem_is_drawn_again_after_every_wait():
    _, impossible = live(260, mastered_until_40_and_impossible)
    assert impossible == [1, 2, 6, 14, 30, 62, 126, 190, 254]  # waits 4, 8, 16, 32, 64, 64, 64


def test_a_run_resumed_in_every_step_draws_the_same():
    whole = live(80, mastered_until_40_and_impossible)
    assert live(80, mastered_until_40_and_impossible, resume=True) == whole
