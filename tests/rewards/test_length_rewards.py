"""`length_budget` and `repetition` by hand, and beside TRL's functions for the same equations."""

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError
from rl_llm.plugins import resolve
from rl_llm.scoring import Example, build_rubric, run_example


def give(name, **inputs):
    return run_example(resolve(name, kind="rewards"), Example(inputs=inputs, expected=None))


@pytest.fixture(scope="module")
def trl_rewards():
    return pytest.importorskip("trl.rewards", reason="TRL is not installed", exc_type=ImportError)


@pytest.mark.parametrize(
    ("limit", "cache", "num_tokens", "expected"),
    [
        (100, 20, 80, 0.0),
        (100, 20, 81, -0.05),
        (100, 20, 95, -0.75),
        (100, 20, 100, -1.0),
        (100, 20, 101, -1.0),
        (100, 0, 100, 0.0),
        (100, 0, 101, -1.0),
        (16384, 4096, 14336, -0.5),
    ],
)
def test_the_length_budget_is_the_soft_overlong_punishment_of_dapo(
    trl_rewards, limit, cache, num_tokens, expected
):
    theirs = trl_rewards.get_soft_overlong_punishment(limit, cache)
    assert theirs([[1] * num_tokens]) == [expected]
    assert give("length_budget", token_count=num_tokens, limit=limit, cache=cache) == expected


@pytest.mark.parametrize(
    ("ids", "ngram_size", "max_penalty", "expected"),
    [
        # 12 21 12 21 12: 2 of 5 differ.
        ((1, 2, 1, 2, 1, 2), 2, -1.0, -0.6),
        # 123 231 312 123 234: 4 of 5 differ.
        ((1, 2, 3, 1, 2, 3, 4), 3, -0.5, -0.1),
        # One 3-gram, and none.
        ((1, 1, 1), 3, -1.0, 0.0),
        ((1, 1), 3, -1.0, 0.0),
        # 1,000 alike: 1 of 999 differs.
        ((7,) * 1000, 2, -1.0, -998 / 999),
    ],
)
def test_repetition_is_the_share_of_ngrams_that_came_before(
    trl_rewards, ids, ngram_size, max_penalty, expected
):
    theirs = trl_rewards.get_repetition_penalty_reward(ngram_size, max_penalty)
    assert theirs([list(ids)]) == [pytest.approx(expected, abs=1e-15)]
    ours = give("repetition", token_ids=ids, ngram_size=ngram_size, max_penalty=max_penalty)
    assert ours == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        ({"ngram_size": 0}, "rewards.0.ngram_size=0: input should be greater than 0"),
        ({"max_penalty": 0.5}, "rewards.0.max_penalty=0.5: input should be less than or equal"),
    ],
)
def test_an_ngram_of_nothing_and_a_penalty_that_rewards_are_refused(option, fault):
    with pytest.raises(ConfigError) as caught:
        build_rubric([RewardUse(use="repetition", **option)], columns=())
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize(
    ("limit", "cache", "fault"),
    [
        (0, 0, "rewards.0.limit=0: input should be greater than 0"),
        (100, -1, "rewards.0.cache=-1: input should be greater than or equal to 0"),
        (100, 101, "rewards.0: cache=101 is more than limit=100"),
    ],
)
def test_a_budget_that_no_completion_meets_is_refused(limit, cache, fault):
    with pytest.raises(ConfigError) as caught:
        build_rubric([RewardUse(use="length_budget", limit=limit, cache=cache)], columns=())
    assert str(caught.value).startswith(fault)
