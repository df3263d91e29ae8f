"""How much alike completions are, by hand."""

import math

import pytest

from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup
from rl_llm.trainer.likeness import (
    distinct_share,
    same_answer_share,
    same_reference_share,
)


def group(*texts, correct=(), answer="7"):
    """Return a group of these texts, of which those are correct that are named."""
    completions = tuple(
        Completion(token_ids=(1,), logprobs=(0.0,), text=t, finish_reason="stop", policy_version=0)
        for t in texts
    )
    scores = tuple(Score(total=0.0, parts={}, correct=text in correct) for text in texts)
    problem = Problem(key=f"{answer}{texts}", prompt="p", answer=answer)
    return ScoredGroup(
        group=Group(problem=problem, prompt_ids=(), completions=completions), scores=scores
    )


def test_the_distinct_share_is_0_where_all_are_alike_and_1_where_no_two_are():
    assert distinct_share([group("a", "a", "a")]) == 0.0
    assert distinct_share([group("a", "b", "c")]) == 1.0
    # (2 - 1) / (3 - 1) and 0.
    assert distinct_share([group("a", "a", "b"), group("c", "c")]) == pytest.approx(0.25)


def test_groups_that_are_solved_and_groups_of_one_do_not_count():
    solved, mixed = group("a", "a", correct="a"), group("a", "b", correct="a")
    assert distinct_share([solved, mixed, group("x")]) == 1.0
    assert math.isnan(distinct_share([solved, group("x")])) and math.isnan(distinct_share([]))


def test_the_most_common_answer_counts_over_problems_and_each_problem_alike():
    # 4 of the first problem's completions, 1 of the second's 2, none of the third's.
    groups = [group(*"7777"), group("7", "8"), group("1", "2", "3")]
    assert same_answer_share(groups) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert same_answer_share([]) == 0.0


def test_answers_are_compared_and_not_what_leads_to_them():
    first = "<think>1</think><answer> 7 </answer>", r"so \boxed{7}", "x\n#### 7", " 7\n"
    assert same_answer_share([group(text) for text in first]) == 1.0
    assert same_answer_share([group(text) for text in (*first, "it is 7")]) == pytest.approx(4 / 5)


def test_the_most_common_reference_counts_problems():
    groups = [group("a", answer=answer) for answer in ("yes", " yes", "no", "perhaps")]
    assert same_reference_share(groups) == 0.5
    assert same_reference_share([]) == 0.0
