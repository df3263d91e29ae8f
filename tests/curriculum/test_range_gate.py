import pytest

from rl_llm.curriculum.gates import Range
from rl_llm.errors import ConfigError


@pytest.fixture
def group(make_problems, score_group):
    (problem,) = make_problems(1)
    return lambda *args, **kwargs: score_group(problem, *args, **kwargs)


@pytest.mark.parametrize(
    ("num_correct", "kept"), [(0, False), (1, False), (2, True), (5, True), (8, True), (9, False)]
)
def test_shares_within_the_range_are_kept_and_its_ends_belong_to_it(group, num_correct, kept):
    gate = Range(low=0.2, high=0.8)
    assert gate.admit(group([1] * num_correct + [0] * (10 - num_correct))) is kept


def test_completions_whose_reward_failed_do_not_count(group):
    gate = Range(low=0.3, high=0.6)
    assert gate.admit(group([1, 0, 0, 0], failed=[3]))  # 1 of 3, not 1 of 4
    assert not gate.admit(group([1, 0], failed=[0, 1]))


def test_a_group_without_counted_completions_is_not_kept_even_by_the_widest_range(group):
    assert not Range(low=0.0, high=1.0).admit(group([0, 0], failed=[0, 1]))
    assert Range(low=0.0, high=1.0).admit(group([0, 0]))


def test_ends_that_are_no_shares_or_stand_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"high=1\.5: must be from 0 to 1"):
        Range(high=1.5)
    with pytest.raises(ConfigError, match=r"low=0\.6 with high=0\.4"):
        Range(low=0.6, high=0.4)


@pytest.mark.parametrize(
    ("low", "high", "group_size", "nearest"),
    [(0.6, 0.7, 2, "1/2 and 2/2"), (0.51, 0.59, 8, "4/8 and 5/8"), (0.01, 0.1, 4, "0/4 and 1/4")],
)
def test_a_range_that_no_group_can_reach_is_refused_with_the_nearest_shares(
    low, high, group_size, nearest
):
    with pytest.raises(ConfigError, match=f"rollout.group_size={group_size} .* are {nearest}: "):
        Range(low=low, high=high, group_size=group_size)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, 0.0), (0.9, 1.0), (0.0, 0.1)])
def test_a_range_of_uniform_groups_alone_is_refused_where_those_are_not_learnt_from(low, high):
    Range(low=low, high=high, group_size=8)
    with pytest.raises(ConfigError, match=r"all correct or all wrong.* one of 1/8 to 7/8$"):
        Range(low=low, high=high, group_size=8, needs_mixed=True)
    Range(low=low and 0.875, high=max(high, 0.125), group_size=8, needs_mixed=True)


@pytest.mark.parametrize(("low", "high", "group_size"), [(0.5, 0.5, 2), (0.6, 0.7, 3), (1, 1, 4)])
def test_a_range_that_holds_one_share_is_taken(group, low, high, group_size):
    num_correct = round(high * group_size - 0.1)
    gate = Range(low=low, high=high, group_size=group_size)
    assert gate.admit(group([1] * num_correct + [0] * (group_size - num_correct)))
