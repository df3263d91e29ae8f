"""pass@k, maj@k and paired differences: against all subsets, and by hand."""

from itertools import combinations

import pytest

from rl_llm.pass_rates import (
    ProblemResult,
    buckets,
    difference,
    estimates,
    maj_at_k,
    pass_at_k,
    read_result,
    result_of,
)
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup


def result(key, correct, samples=1, *, level=1, source="s", **fields):
    return ProblemResult(
        key=key, source=source, level=level, correct=correct, samples=samples, **fields
    )


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_share_of_all_subsets_with_a_correct_sample(samples):
    for correct in range(samples + 1):
        marks = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            subsets = list(combinations(marks, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(correct, samples, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k_by_hand():
    # Of the 6 pairs of 4 samples, 3 hold the only correct one.
    assert pass_at_k(1, 4, 2) == 0.5
    assert pass_at_k(0, 4, 2) == 0.0
    assert pass_at_k(3, 4, 2) == 1.0
    assert pass_at_k(3, 10, 1) == 0.3
    assert pass_at_k(1, 2000, 1000) == 0.5  # C(2000, 1000) is no float.


RIGHT = "85"


@pytest.mark.parametrize(
    ("answers", "k", "expected"),
    [
        ("85 85 84", 3, 1.0),
        ("85 84 84", 3, 0.0),
        ("85 85 84 84", 4, 0.5),  # A tie of two.
        ("85 84 83", 3, 1 / 3),  # A tie of three.
        ("85 84 84 83", 2, 0.25),  # Blocks: a tie, then none right.
        ("85 84 84 83", 1, 0.25),  # The pass rate.
        ("84 84 85 85 85", 2, 0.5),  # The fifth fills no block.
        ("- 85 - -", 4, 1.0),  # Three have no vote.
        ("- 84 - 85", 2, 0.5),
        ("- -", 2, 0.0),
        ("- - - 85", 2, 0.5),
    ],
)
def test_the_majority_of_a_block_is_right_as_often_as_it_wins(answers, k, expected):
    given = [None if answer == "-" else answer for answer in answers.split()]
    assert maj_at_k(given, [answer == RIGHT for answer in given], k) == pytest.approx(expected)


def test_a_winning_answer_is_as_right_as_the_samples_that_gave_it():
    # Rewards call two of the three 85s correct: the third broke another rule.
    assert maj_at_k(["85", "85", "85", "84"], [True, False, True, False], 4) == 2 / 3


def test_a_block_without_any_answer_is_wrong_whatever_the_rewards_say():
    assert maj_at_k([None, None], [True, True], 2) == 0.0


def scored(texts, marks, *, errors=()):
    completions = tuple(
        Completion(
            token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0
        )
        for text in texts
    )
    scores = tuple(
        Score(total=0.0, parts={}, correct=mark, error="late" if at in errors else None)
        for at, mark in enumerate(marks)
    )
    problem = Problem(key="k", prompt="p", answer="85", level=3, source="sums")
    return ScoredGroup(
        group=Group(problem=problem, prompt_ids=(), completions=completions), scores=scores
    )


def test_a_result_counts_samples_and_votes_for_powers_of_two():
    group = scored(["85", "84", "85", "84", "85"], [True, False, True, False, True], errors=[3])
    found = result_of(group, read_answer=str)
    assert found == result("k", 3, 5, level=3, source="sums", masked=1, majority={2: 0.5, 4: 0.5})
    assert result_of(group).majority == {}


def test_a_result_is_written_and_read_back():
    plain = result("k", 3, 5, level="hard", masked=1)
    voted = result("k", 3, 5, majority={2: 0.5})
    assert plain.row == {
        "key": "k", "source": "s", "level": "hard", "correct": 3, "samples": 5, "masked": 1,
    }  # fmt: skip
    assert [read_result(each.row) for each in (plain, voted)] == [plain, voted]


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 0, "correct": 0},
        {"correct": 6},
        {"correct": -1},
        {"masked": 6},
        {"samples": 5.5},
        {"samples": float("inf")},
        {"correct": True},
        {"level": {"hard": 1}},
    ],
)
def test_a_row_whose_counts_no_problem_can_have_is_no_result(wrong):
    row = result("k", 3, 5).row
    assert read_result(row).rate == 0.6
    with pytest.raises(ValueError, match=next(iter(wrong))):
        read_result({**row, **wrong})


def test_estimates_are_means_over_problems_with_their_standard_errors():
    # pass@1: .25 and .75; pass@2: 3/6 and 6/6; pass@4: 1 and 1; the k up to both numbers of samples
    found = estimates([result("a", 1, 4), result("b", 3, 4), result("c", 4, 8)])
    assert list(found) == ["pass@1", "pass@2", "pass@4"]
    assert found["pass@1"].mean == pytest.approx(0.5)
    assert found["pass@1"].standard_error == pytest.approx(0.25 / 3**0.5)
    assert found["pass@2"].mean == pytest.approx((0.5 + 1 + 22 / 28) / 3)


def test_votes_are_estimated_only_where_every_problem_has_them():
    voted = result("a", 1, 4, majority={2: 0.5, 4: 0.0}), result("b", 4, 4, majority={2: 1, 4: 1})
    found = estimates(voted)
    assert found["maj@2"].mean == 0.75 and found["maj@2"].standard_error == pytest.approx(0.25)
    assert found["maj@4"].mean == 0.5 and "maj@1" not in found
    assert not any(name.startswith("maj") for name in estimates([*voted, result("c", 1, 4)]))


def test_buckets_are_levels_then_sources_where_there_are_several_then_all():
    results = [
        result("a", 1, level=10),
        result("b", 1, level=2),
        result("c", 1, level="hard", source="t"),
    ]
    found = [(each.source, each.level, len(each.results)) for each in buckets(results)]
    assert found == [
        ("s", 2, 1), ("s", 10, 1), ("s", None, 2), ("t", "hard", 1), ("t", None, 1), (None, None, 3)
    ]  # fmt: skip
    texts = [result(level, 1, level=level) for level in ("10", "9", "nan", "1", "easy")]
    assert [each.level for each in buckets(texts)] == ["1", "9", "10", "easy", "nan", None]
    one = [(each.source, each.level) for each in buckets(results[:2])]
    assert one == [("s", 2), ("s", 10), (None, None)]


def test_the_difference_of_single_samples_by_hand():
    # 10 problems: 3 that B alone solves, 1 that A alone solves. Mean d .2; squares 4 - 10 * .04
    # over 9: .4; over 10 problems, its root: .2. t is 2.262 with 9 degrees of freedom.
    outcomes = [(0, 1)] * 3 + [(1, 0)] + [(1, 1)] * 4 + [(0, 0)] * 2
    found = difference([(result("k", a), result("k", b)) for a, b in outcomes])
    assert (found.a, found.b) == (pytest.approx(0.5), pytest.approx(0.7))
    assert found.difference == pytest.approx(0.2)
    assert found.standard_error == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - 2.2622 * 0.2, abs=1e-4)
    assert found.high == pytest.approx(0.2 + 2.2622 * 0.2, abs=1e-4)
    assert (found.higher_a, found.higher_b, found.num_problems) == (1, 3, 10)


def test_samples_of_a_problem_are_not_taken_for_problems():
    # d: .5 0 1 .5: mean .5, squares 0 + .25 + .25 + 0 over 3: 1/6, however many samples.
    few = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (1, 2, 2)]
    many = [(a * 50, b * 50, n * 50) for a, b, n in few]
    for counts in (few, many):
        pairs = [(result("k", a, n), result("k", b, n)) for a, b, n in counts]
        found = difference(pairs)
        assert found.standard_error == pytest.approx((1 / 6 / 4) ** 0.5)
        assert found.high - found.difference == pytest.approx(3.1824 * (1 / 24) ** 0.5, abs=1e-4)


def test_numbers_of_samples_may_differ():
    found = difference(
        [(result("k", 1, 2), result("k", 2, 4)), (result("l", 1, 2), result("l", 4, 4))]
    )
    assert (found.difference, found.higher_a, found.higher_b) == (0.25, 0, 1)


def test_a_single_problem_has_no_interval():
    found = difference([(result("k", 0), result("k", 1))])
    assert (found.difference, found.standard_error, found.low, found.high) == (
        1.0,
        None,
        None,
        None,
    )
