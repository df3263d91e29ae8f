"""Who is drawn in a step and why: reviews, the sampler's choice by the quotas, and the last resort.

The sampler takes what it may in the order of the pool, unless a test says otherwise.
"""

from collections import Counter

import numpy as np
import pytest

from rl_llm.curriculum import Outcomes, PoolBelief, PoolIndex
from rl_llm.curriculum.planner import Planner
from rl_llm.curriculum.prerequisites import Prerequisites
from rl_llm.curriculum.quotas import Quotas
from rl_llm.curriculum.standing import Defer, Retire, Standing
from rl_llm.errors import PluginError


class InOrder:
    """Takes the first problems that are not excluded, and notes how it was asked."""

    def __init__(self):
        self.calls = []
        self.observed = []

    def plan(self, step, num_problems, *, round=0, exclude=None):
        self.calls.append((step, round, num_problems))
        return np.flatnonzero(~exclude)[:num_problems]

    def observe(self, outcomes):
        self.observed.append(outcomes)


class Explains(InOrder):
    """Says how many problems may be drawn."""

    def explain(self, position, *, exclude):
        return f"one of {np.count_nonzero(~exclude)}"


class Plans(InOrder):
    """Answers with what it was given."""

    def __init__(self, answer):
        super().__init__()
        self.answer = np.array(answer)

    def plan(self, step, num_problems, *, round=0, exclude=None):
        return self.answer


@pytest.fixture
def make_planner(stage):
    """Return `(levels by source, ...) -> planner` over a problem for each level that is named."""

    def make(pool, *, sampler=None, quotas=None, prerequisites=None, review_share=0.0):
        problems = [
            stage.make_problem(f"{source}{number}", level=level, source=source)
            for source, levels in pool.items()
            for number, level in enumerate(levels)
        ]
        index = PoolIndex.of(problems)
        sampler = InOrder() if sampler is None else sampler
        sampler.belief = belief = PoolBelief(index)
        # P(p > .5) > .5 retires: a single group that is all correct is enough.
        retire = Retire(pass_rate=0.5, certainty=0.5, review_share=review_share)
        return Planner(
            index=index,
            sampler=sampler,
            standing=Standing(
                index, belief, retire=retire, defer=Defer(after=1, first_steps=5, most_steps=99)
            ),
            quotas=Quotas(index, quotas or {}),
            prerequisites=Prerequisites(index, belief, prerequisites or {}),
        )

    return make


def show(planner, step, **num_correct):
    """Show a group of 8 for each position, written p3=8 where 8 of problem 3 are correct."""
    outcomes = Outcomes(
        indices=np.array([int(name[1:]) for name in num_correct]),
        num_correct=np.array(list(num_correct.values())),
        num_counted=np.full(len(num_correct), 8),
        step=step,
    )
    planner.sampler.belief.observe(outcomes)
    planner.observe(outcomes)


def reasons(draws, positions):
    return [draws.reason(position) for position in positions.tolist()]


def test_a_step_takes_what_the_sampler_chooses_and_nothing_twice(make_planner):
    planner = make_planner({"a": [1] * 5})
    draws = planner.begin(3)
    assert draws.step == 3
    assert draws.first(2).tolist() == [0, 1]
    assert draws.anywhere(2).tolist() == [2, 3]
    assert draws.anywhere(2).tolist() == [4]
    assert draws.anywhere(2).tolist() == []
    # Each call of the sampler has a number of its own; when all is drawn it is not asked.
    assert planner.sampler.calls == [(3, 0, 2), (3, 1, 2), (3, 2, 2)]
    assert planner.begin(4).first(1).tolist() == [0]


def test_reviews_come_first_and_the_sampler_chooses_the_rest(make_planner):
    planner = make_planner({"a": [1] * 6}, review_share=0.5)
    show(planner, 1, p0=8, p1=1, p4=8)
    show(planner, 2, p2=8)
    draws = planner.begin(3)
    first = draws.first(4)
    # 0 and 4 wait for longest; 2 is retired too, and not drawn by the sampler.
    assert first.tolist() == [0, 4, 1, 3]
    assert reasons(draws, first) == ["review", "review", "sampler", "sampler"]
    assert draws.count("review") == 2


def test_what_is_withheld_is_drawn_by_nobody(make_planner):
    planner = make_planner({"a": [1] * 4}, review_share=0.5)
    show(planner, 1, p0=8, p1=0)
    draws = planner.begin(2)
    draws.withhold(np.array([0, 1, 2]))
    assert draws.first(4).tolist() == [3]
    assert draws.count("review") == 0


def test_retired_and_deferred_problems_are_left_out_until_nobody_else_is_left(make_planner):
    planner = make_planner({"a": [1] * 7})
    show(planner, 1, p1=8, p5=0)  # 5 waits until step 6.
    show(planner, 2, p0=8, p3=0)  # 3 waits until step 7.
    draws = planner.begin(3)
    first = draws.first(7)
    # The sampler's three; the deferred whose wait ends soonest; the retired not seen for longest.
    assert first.tolist() == [2, 4, 6, 5, 3, 1, 0]
    assert reasons(draws, first) == ["sampler"] * 3 + ["spare"] * 4
    assert planner.begin(6).first(4).tolist() == [2, 4, 5, 6]
    assert planner.begin(7).first(5).tolist() == [2, 3, 4, 5, 6]


def test_a_step_is_filled_with_spares_only_as_far_as_it_is_short(make_planner):
    planner = make_planner({"a": [1] * 5})
    show(planner, 1, p0=0, p1=0, p2=0)
    assert planner.begin(2).first(2).tolist() == [3, 4]
    assert planner.begin(2).first(3).tolist() == [3, 4, 0]


def test_each_source_gets_its_quota_of_a_step(make_planner):
    planner = make_planner({"a": [1] * 9, "b": [1] * 9, "c": [1] * 9}, quotas={"b": 0.5})
    # b has half; a and c share the rest, which is taken in the order of the pool.
    assert Counter(planner.begin(1).first(8) // 9) == {1: 4, 0: 4}


def test_a_sampler_explains_a_problem_among_those_that_it_is_drawn_with(make_planner):
    pool = {"a": [1] * 9, "b": [1] * 8, "c": [1] * 7}
    planner = make_planner(pool, sampler=Explains(), quotas={"b": 0.5})
    said = [dict(planner.explain(p, step=1, num_drawn=8))["next draw"] for p in (0, 9, 17)]
    assert said == ["one of 16", "one of 8", "one of 16"]


@pytest.mark.parametrize("num_problems", [1, 3, 8])
def test_quotas_hold_over_many_steps(make_planner, num_problems):
    planner = make_planner(
        {"a": [1] * 9, "b": [1] * 9, "c": [1] * 9}, quotas={"a": 0.2, "b": 0.3, "c": 0.5}
    )
    drawn = [planner.begin(step).first(num_problems) // 9 for step in range(1, 101)]
    counted = Counter(np.concatenate(drawn).tolist())
    assert counted == {0: 20 * num_problems, 1: 30 * num_problems, 2: 50 * num_problems}


def test_reviews_count_towards_the_quota_of_their_source(make_planner):
    """Two reviews of a in every other step, and yet a and b have 5 problems each in all steps."""
    planner = make_planner(
        {"a": [1] * 20, "b": [1] * 20}, quotas={"a": 0.5, "b": 0.5}, review_share=0.1
    )
    show(planner, 1, **{f"p{position}": 8 for position in range(10)})
    for step in range(2, 30):
        draws = planner.begin(step)
        assert Counter(draws.first(10) // 20) == {0: 5, 1: 5}
        assert draws.count("review") == 1


def test_more_reviews_than_a_source_may_have_take_from_the_others(make_planner):
    planner = make_planner(
        {"a": [1] * 9, "b": [1] * 9, "c": [1] * 9},
        quotas={"a": 0.25, "b": 0.25, "c": 0.5},
        review_share=0.75,
    )
    show(planner, 1, p0=8, p1=8, p2=8)
    draws = planner.begin(2)
    first = draws.first(4)
    assert len(first) == 4 and reasons(draws, first)[:3] == ["review"] * 3
    assert first.tolist()[:3] == [0, 1, 2]


def test_reviews_that_are_a_whole_step_are_made_up_for_later(make_planner):
    """One problem a step, in every other step a review of a: the steps between are all b's."""
    planner = make_planner(
        {"a": [1] * 9, "b": [1] * 9}, quotas={"a": 0.5, "b": 0.5}, review_share=0.5
    )
    show(planner, 1, p0=8, p1=8, p2=8)
    drawn = [int(planner.begin(step).first(1)[0]) // 9 for step in range(2, 22)]
    assert drawn == [0, 1] * 10


def test_others_make_up_for_a_source_that_has_too_few(make_planner):
    planner = make_planner({"a": [1] * 2, "b": [1] * 20}, quotas={"a": 0.5, "b": 0.5})
    drawn = planner.begin(1).first(10)
    assert sorted(drawn.tolist()) == list(range(10))  # Both of a, 5 of b, and 3 more of b.


def test_no_step_is_short_while_any_source_has_problems_left(make_planner):
    planner = make_planner({"a": [1] * 3, "b": [1] * 4}, quotas={"a": 0.9, "b": 0.1})
    draws = planner.begin(1)
    assert [len(draws.first(5)), len(draws.anywhere(5)), len(draws.anywhere(5))] == [5, 2, 0]


def test_locked_levels_are_not_drawn_by_anybody_until_their_parents_are_solved(make_planner):
    planner = make_planner(
        {"a": [1, 2] * 4, "b": [1]}, prerequisites={"a": "in_order"}, quotas={"a": 0.9, "b": 0.1}
    )
    assert sorted(planner.begin(1).first(9).tolist()) == [0, 2, 4, 6, 8]
    show(planner, 1, p0=0, p2=0)
    assert sorted(planner.begin(2).first(9).tolist()) == [0, 2, 4, 6, 8]
    for step in range(2, 5):
        show(planner, step, p4=8, p6=8)
    assert sorted(planner.begin(5).first(9).tolist()) == list(range(9))


def test_a_locked_level_stays_shut_to_reviews_and_spares(make_planner):
    """As after a resume, when the data were edited and a level has another parent now."""
    planner = make_planner({"a": [1] * 2 + [2] * 4}, review_share=0.5)
    show(planner, 1, p2=8, p3=8, p4=0)
    locked = make_planner(
        {"a": [1] * 2 + [2] * 4}, prerequisites={"a": "in_order"}, review_share=0.5
    )
    locked.standing.load_state_dict(planner.standing.state_dict())
    assert sorted(planner.begin(2).first(6).tolist()) == list(range(6))
    assert locked.begin(2).first(6).tolist() == [0, 1]


def test_draws_of_a_bucket_stay_in_it_and_end_with_it(make_planner):
    planner = make_planner({"a": [1, 2] * 4})
    draws = planner.begin(1)
    assert draws.first(1).tolist() == [0]
    assert draws.in_buckets({1: 2, 0: 1}).tolist() == [1, 3, 2]
    assert draws.in_buckets({1: 9}).tolist() == [5, 7]
    assert draws.in_buckets({1: 9}).tolist() == []
    assert draws.in_buckets({}).tolist() == []


def test_draws_of_a_bucket_leave_out_what_rests(make_planner):
    planner = make_planner({"a": [1] * 4})
    show(planner, 1, p0=8, p1=0)
    assert planner.begin(2).in_buckets({0: 4}).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        ([1, 1], 2),  # the same twice
        ([1, 2, 3], 2),  # too many
        ([1], 2),  # too few, with others left
        ([1, 0], 2),  # drawn already
        ([1, 5], 2),  # beyond the pool
        ([1, -1], 2),  # before it
    ],
)
def test_a_sampler_that_breaks_its_promise_is_caught(make_planner, answer, count):
    planner = make_planner({"a": [1] * 5}, sampler=Plans(answer))
    draws = planner.begin(1)
    draws.withhold(np.array([0]))
    with pytest.raises(PluginError, match=r"sampler Plans planned \[.*\] for 2 problems"):
        draws.first(count)


@pytest.mark.parametrize("answer", [None, [0.5, 1.5], [True, False], "01"])
def test_a_sampler_that_plans_no_positions_is_caught(make_planner, answer):
    draws = make_planner({"a": [1] * 5}, sampler=Plans(answer)).begin(1)
    with pytest.raises(PluginError, match=r"sampler Plans planned .*; plan must return positions"):
        draws.first(2)


def test_a_sampler_may_answer_with_a_list(make_planner):
    class Lists(InOrder):
        def plan(self, *args, **kwargs):
            return super().plan(*args, **kwargs).tolist()

    planner = make_planner({"a": [1] * 5}, sampler=Lists())
    assert planner.begin(1).first(2).tolist() == [0, 1]


def test_every_part_hears_of_a_round(make_planner):
    planner = make_planner({"a": [1, 1, 2]}, prerequisites={"a": "in_order"})
    show(planner, 4, p0=8, p1=8)
    assert len(planner.sampler.observed) == 1
    assert planner.metrics(6)["curriculum/retired_count"] == 2.0
    assert planner.metrics(6)["curriculum/staleness_mean_steps"] == 2.0
    assert planner.metrics(6)["curriculum/locked_buckets"] == 0.0
    assert explained(planner, 0)["standing"].startswith("retired: ")
    assert explained(planner, 2) == {"standing": "active", "its level": "open since step 4"}


def explained(planner, position, *, step=5, **options):
    return dict(planner.explain(position, step=step, num_drawn=10, **options))


def test_a_retired_problem_says_whether_its_review_is_due_and_what_reviews_take(make_planner):
    planner = make_planner({"a": [1] * 12}, review_share=0.2)
    show(planner, 2, p1=8)
    show(planner, 4, p0=8, p2=8)
    # Of 10 problems 2 are reviews, those first that were not seen for longest.
    assert explained(planner, 0)["next draw"] == (
        "as a review: it is due in this step; reviews take up to 20 % of a step"
    )
    assert explained(planner, 2)["next draw"].startswith("as a review: it is due when its turn")
    assert "next draw" not in explained(planner, 3)
    # Of those whose group is not whole none is reviewed, so the next one is.
    held = np.array([0])
    assert explained(planner, 0, held=held)["next draw"] == "not before its group is whole"
    assert "it is due in this step" in explained(planner, 2, held=held)["next draw"]


def test_under_an_alarm_a_retired_problem_says_that_its_level_is_reviewed_more(make_planner):
    planner = make_planner({"a": [1] * 4}, review_share=0.2)
    show(planner, 4, p0=8)
    planner.standing.alarm([0], 4)
    assert explained(planner, 0)["next draw"].endswith(
        "reviews take up to 20 % of a step, and 10 % more for its level until step 14"
    )


def test_a_deferred_problem_says_from_when_on_it_may_be_drawn(make_planner):
    planner = make_planner({"a": [1] * 11})
    show(planner, 4, p0=0)
    assert explained(planner, 0)["next draw"] == (
        "from step 9 on; sooner only where a step has too few others"
    )


def test_a_problem_that_fills_a_step_says_that_too_few_others_are_left(make_planner):
    """Of 12 problems 9 rest, one of which is reviewed: 10 are 3, 1 and 6 that rest."""
    planner = make_planner({"a": [1] * 12}, review_share=0.1)
    show(planner, 1, p0=8)
    show(planner, 2, **{f"p{position}": 8 for position in range(1, 5)})
    show(planner, 4, p5=0, p6=0, p7=0, p8=0)
    as_spare = "in this step, for too few others are left for its 10 problems"
    said = [explained(planner, position).get("next draw", "") for position in range(12)]
    assert [position for position, words in enumerate(said) if words == as_spare] == [
        *(1, 2),
        *(5, 6, 7, 8),
    ]
    assert "it is due in this step" in said[0]
    draws = planner.begin(5)
    drawn = draws.first(10)
    spares = [p for p in drawn.tolist() if draws.reason(p) == "spare"]
    assert sorted(spares) == [1, 2, 5, 6, 7, 8] and draws.count("spare") == 6


def test_under_quotas_a_problem_says_what_its_source_has_of_the_step(make_planner):
    planner = make_planner({"a": [1] * 4, "b": [1] * 4, "c": [1]}, quotas={"a": 0.7})
    assert explained(planner, 0)["its source"] == "a has 7 of the 10 problems of this step"
    assert explained(planner, 8)["its source"] == (
        "sources without a quota share 3 of the 10 of this step"
    )
    assert "its source" not in explained(make_planner({"a": [1] * 4}), 0)
