"""Generalised advantage estimation worked by hand. Legend: B rows, T response positions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import gae, length_adaptive_lambda, moments, ppo, whiten


def float64(values):
    return torch.tensor(values, dtype=torch.float64)


REWARDS = float64([[0.0, 0.0, 1.0]])
VALUES = float64([[0.5, 0.6, 0.8]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def test_three_tokens_by_hand():
    # deltas: .6 - .5 = .1, .8 - .6 = .2, 1 - .8 = .2; with lambda .5: .2, .2 + .1 = .3, .1 + .15
    advantages, returns = gae(REWARDS, VALUES, ALL, lam=0.5)
    torch.testing.assert_close(advantages, float64([[0.25, 0.3, 0.2]]))
    torch.testing.assert_close(returns, float64([[0.75, 0.9, 1.0]]))


def test_gamma_discounts_the_next_value_and_the_next_advantage():
    # gamma .5, lambda 1: deltas .3 - .5 = -.2, .4 - .6 = -.2, .2; then -.2 + .1, -.2 - .05
    advantages, _ = gae(REWARDS, VALUES, ALL, gamma=0.5, lam=1.0)
    torch.testing.assert_close(advantages, float64([[-0.25, -0.1, 0.2]]))


def test_lambda_zero_is_the_one_step_error_and_lambda_one_the_return_less_the_value():
    torch.testing.assert_close(gae(REWARDS, VALUES, ALL, lam=0.0)[0], float64([[0.1, 0.2, 0.2]]))
    advantages, returns = gae(REWARDS, VALUES, ALL, lam=1.0)
    torch.testing.assert_close(advantages, 1.0 - VALUES)
    torch.testing.assert_close(returns, torch.ones(1, 3, dtype=torch.float64))


def test_a_reward_on_an_early_token_reaches_it_and_those_before_alone():
    advantages, _ = gae(float64([[0.0, 2.0, 0.0]]), torch.zeros_like(VALUES), ALL, lam=1.0)
    assert advantages.tolist() == [[2.0, 2.0, 0.0]]


def test_each_row_may_have_a_lambda_of_its_own():
    both = gae(
        REWARDS.repeat(2, 1), VALUES.repeat(2, 1), ALL.repeat(2, 1), lam=float64([0.5, 0.0])
    )[0]
    torch.testing.assert_close(both, float64([[0.25, 0.3, 0.2], [0.1, 0.2, 0.2]]))


@pytest.mark.parametrize("garbage", [9.0, float("nan"), float("inf")])
def test_padding_before_between_and_behind_tokens_means_nothing(garbage):
    mask = torch.tensor([[False, True, False, True, True, False]])
    rewards = torch.full((1, 6), garbage, dtype=torch.float64).masked_scatter(mask, REWARDS)
    values = torch.full((1, 6), garbage, dtype=torch.float64).masked_scatter(mask, VALUES)
    advantages, returns = gae(rewards, values, mask, lam=0.5)
    torch.testing.assert_close(advantages[mask], float64([0.25, 0.3, 0.2]))
    torch.testing.assert_close(returns[mask], float64([0.75, 0.9, 1.0]))
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_nothing_of_it_carries_a_gradient():
    values = VALUES.clone().requires_grad_()
    assert not any(each.requires_grad for each in gae(REWARDS, values, ALL))


@given(
    st.lists(st.integers(-4, 4), min_size=1, max_size=6), st.integers(-4, 4), st.floats(0.0, 1.0)
)
def test_advantages_are_the_weighted_sum_of_later_errors(rewards, level, lam):
    rewards_BT = float64([rewards])
    values_BT = torch.full_like(rewards_BT, float(level))
    found = gae(rewards_BT, values_BT, torch.ones_like(rewards_BT, dtype=torch.bool), lam=lam)[0]
    deltas = [float(r) for r in rewards]
    deltas[-1] -= level
    expected = sum(lam**k * delta for k, delta in enumerate(deltas))
    assert found[0, 0].item() == pytest.approx(expected, abs=1e-9)


def test_the_length_adaptive_lambda_is_zero_for_short_responses():
    # 1 - 20 / length
    found = length_adaptive_lambda(torch.tensor([0, 1, 20, 40, 100, 400]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.0, 0.5, 0.8, 0.95]))


def test_whitened_advantages_have_mean_zero_and_deviation_one_inside_the_mask():
    # 1, 3, 5 and 7: mean 4, squares 9 + 1 + 1 + 9, over 4: 5
    values = float64([[1.0, 3.0, float("nan")], [5.0, 7.0, float("inf")]])
    mask = torch.tensor([[True, True, False]] * 2)
    found = whiten(values, mask, moments(values, mask))
    expected = float64([[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]) / 5**0.5
    torch.testing.assert_close(found, expected)


def test_moments_of_micro_batches_add_up_to_those_of_the_batch():
    values, mask = float64([[1.0, 2.0], [4.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert moments(values, mask).tolist() == [3.0, 7.0, 21.0]
    parts = sum(moments(values[i : i + 1], mask[i : i + 1]) for i in range(2))
    assert parts.tolist() == [3.0, 7.0, 21.0]


def test_whitening_equal_advantages_or_none_at_all_gives_zero():
    values = torch.full((1, 3), 0.25, dtype=torch.float64)
    assert whiten(values, ALL, moments(values, ALL)).tolist() == [[0.0, 0.0, 0.0]]
    assert whiten(values, ~ALL, moments(values, ~ALL)).tolist() == [[0.0, 0.0, 0.0]]


def test_ppo_gives_the_policy_its_lambda_and_the_critic_another():
    critic = ppo(lambda_policy=0.5, lambda_critic=1.0).critic
    advantages, targets = critic.estimate(REWARDS, VALUES, ALL)
    torch.testing.assert_close(advantages, float64([[0.25, 0.3, 0.2]]))
    torch.testing.assert_close(targets, torch.ones(1, 3, dtype=torch.float64))


def test_ppo_discounts_for_the_policy_and_for_the_critic():
    # gamma .5, lambda 1 for both: returns of .25, .5 and 1
    advantages, targets = ppo(gamma=0.5, lambda_policy=1.0).critic.estimate(REWARDS, VALUES, ALL)
    torch.testing.assert_close(targets, float64([[0.25, 0.5, 1.0]]))
    torch.testing.assert_close(advantages, float64([[-0.25, -0.1, 0.2]]))


def test_the_length_of_a_row_gives_its_lambda_and_short_responses_are_to_be_warned_of():
    critic = ppo(length_adaptive=True).critic
    assert critic.warn_below_tokens == 40 and ppo().critic.warn_below_tokens == 0
    rewards, mask = torch.zeros(2, 40), torch.ones(2, 40, dtype=torch.bool)
    rewards[0, 39], rewards[1, 19] = 1.0, 1.0
    mask[1, 20:] = False
    advantages, targets = critic.estimate(rewards, torch.zeros(2, 40), mask)
    # lambda .5 at 40 tokens, 0 at 20
    assert advantages[0, 38:].tolist() == [0.5, 1.0]
    assert advantages[1, 18:20].tolist() == [0.0, 1.0]
    assert (targets == mask).all()
