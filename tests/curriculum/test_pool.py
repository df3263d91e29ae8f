"""How a pool is divided into buckets, and what a round showed of it."""

import numpy as np
import pytest

from rl_llm.curriculum import Outcomes, PoolIndex
from rl_llm.errors import DataError


def test_buckets_are_source_times_level_in_order_of_appearance(make_problems):
    problems = make_problems(2) + make_problems(1, level=2, first=2) + make_problems(1, first=3)
    problems += make_problems(1, level=2, first=4, source="t")
    index = PoolIndex.of(problems)
    assert index.bucket_names == ("s/level=1", "s/level=2", "t/level=2")
    assert index.bucket_sources == ("s", "s", "t")
    assert index.bucket_levels == (1, 2, 2)
    assert index.bucket_ids.tolist() == [0, 0, 1, 0, 2]
    assert (index.num_problems, index.num_buckets) == (5, 3)
    assert not index.endless_K.any()


def test_a_bucket_is_endless_when_its_problems_come_from_a_stream(make_problems):
    flow, finite = make_problems(2, source="flow"), make_problems(2, first=2)
    index = PoolIndex.of([*finite, *flow], endless_keys={problem.key for problem in flow})
    assert index.endless_K.tolist() == [False, True]


def test_a_bucket_of_both_kinds_is_refused(make_problems):
    problems = make_problems(4)
    with pytest.raises(DataError, match=r"s/level=1 has problems of an endless source and of ano"):
        PoolIndex.of(problems, endless_keys={problem.key for problem in problems[:2]})


def test_a_level_that_is_a_number_here_and_text_there_is_refused(make_problems):
    problems = make_problems(1) + make_problems(1, level="1", first=1)
    with pytest.raises(DataError, match="s/level=1 is written both as a number and as text"):
        PoolIndex.of(problems)


def test_outcomes_can_be_narrowed_to_some_of_their_problems():
    outcomes = Outcomes(
        indices=np.array([7, 2, 5]),
        num_correct=np.array([0, 3, 4]),
        num_counted=np.array([8, 8, 6]),
        step=3,
    )
    narrowed = outcomes.where(outcomes.num_correct > 0)
    assert narrowed.indices.tolist() == [2, 5]
    assert narrowed.num_correct.tolist() == [3, 4]
    assert narrowed.num_counted.tolist() == [8, 6]
    assert narrowed.step == 3
