"""Advantages worked by hand. Legend: P groups, G completions of each."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import all_equal, group_advantages


def advantages(rewards, scale, counted=None):
    rewards_PG = torch.tensor(rewards, dtype=torch.float64)
    counted_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
    if counted is not None:
        counted_PG = torch.tensor(counted)
    return group_advantages(rewards_PG, counted_PG, scale=scale)


def test_one_right_of_four_has_advantage_three_quarters_over_a_half():
    # mean .25; squares .5625 + 3 x .0625 = .75; over 3: .25; deviation .5
    found = advantages([[1, 0, 0, 0]], "group")
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]], dtype=torch.float64) / 0.5001
    torch.testing.assert_close(found, expected)


def test_without_scale_the_advantage_is_the_centred_reward():
    expected = torch.tensor([[0.75, -0.25, -0.25, -0.25]], dtype=torch.float64)
    torch.testing.assert_close(advantages([[1, 0, 0, 0]], "none"), expected)


def test_batch_scale_divides_every_group_by_the_deviation_of_all_rewards():
    # rewards 1 0 1 1: mean .75, squares .0625 x 3 + .5625 = .75, over 3: .25, deviation .5
    found = advantages([[1, 0], [1, 1]], "batch")
    expected = torch.tensor([[0.5, -0.5], [0.0, 0.0]], dtype=torch.float64) / 0.5001
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("group_size", [6, 7, 12])
def test_equal_rewards_give_exactly_zero_advantage(scale, group_size):
    for cents in range(1, 121):
        rewards_PG = torch.full((1, group_size), cents / 100, dtype=torch.float32)
        counted_PG = torch.ones_like(rewards_PG, dtype=torch.bool)
        found = group_advantages(rewards_PG, counted_PG, scale=scale)
        assert (found == 0).all(), cents


def test_a_failed_reward_counts_in_neither_mean_nor_deviation():
    found = advantages([[1, 0, 77]], "group", [[True, True, False]])
    # mean .5; squares .25 + .25 over 1: .5; deviation sqrt(.5)
    expected = 0.5 / (0.5**0.5 + 1e-4)
    torch.testing.assert_close(
        found, torch.tensor([[expected, -expected, 0.0]], dtype=torch.float64)
    )


def test_a_group_of_which_one_reward_works_has_no_advantage():
    assert advantages([[1, 5]], "group", [[True, False]]).tolist() == [[0.0, 0.0]]


def test_a_group_of_which_no_reward_works_counts_as_equal():
    counted_PG = torch.tensor([[False, False], [True, True]])
    rewards_PG = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert all_equal(rewards_PG, counted_PG).tolist() == [True, False]


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.1]), min_size=2, max_size=16))
def test_advantages_of_a_group_sum_to_zero(rewards):
    for scale in ("group", "batch", "none"):
        assert abs(advantages([rewards], scale).sum().item()) < 1e-9
