"""Penalties by hand: values, masks, what carries a gradient, and what is refused."""

import math

import pytest
import torch

from rl_llm.errors import ConfigError
from rl_llm.kl import loss_penalty, reward_penalty, to_go

NAN = math.nan


def logs(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # pi 1/2, ref 1/4, old 1/8: d = ln 2, rho = 4, k3 = ln 2 - 1/2. The slopes by d: rho d for k2,
    # 1 - exp(-d) = 1/2 for k3, and rho (k3 + 1/2) = rho d for k3_importance.
    [
        ("k2", 4 * math.log(2) ** 2 / 2, 4 * math.log(2)),
        ("k3", math.log(2) - 0.5, 0.5),
        ("k3_importance", 4 * (math.log(2) - 0.5), 4 * math.log(2)),
    ],
)
def test_loss_penalties_by_hand(estimator, value, slope):
    logprobs = logs(0.5).requires_grad_()
    penalty = loss_penalty(estimator, logprobs, logs(0.25), logs(0.125))
    penalty.sum().backward()
    assert penalty.item() == pytest.approx(value)
    assert logprobs.grad.item() == pytest.approx(slope)


def test_reward_penalties_have_no_gradient_and_are_0_outside_the_mask():
    logprobs = torch.tensor([[math.log(0.5), NAN]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, False]])
    for estimator, value in [
        ("k1", math.log(2)),
        ("k2", math.log(2) ** 2 / 2),
        ("k3", math.log(2) - 0.5),
    ]:
        penalties = reward_penalty(estimator, logprobs, logs(0.25, 0.25), mask)
        assert not penalties.requires_grad
        assert penalties.tolist() == [[pytest.approx(value), 0.0]]


def test_sums_to_go_run_over_the_mask_alone():
    penalties = torch.tensor([[1.0, 2.0, 4.0, 8.0], [NAN, 3.0, 5.0, NAN]])
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    assert to_go(penalties, mask).tolist() == [[11.0, 10.0, 0.0, 8.0], [0.0, 8.0, 5.0, 0.0]]


def test_k1_in_the_loss_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"an expected gradient of zero.*k1 in the reward"):
        loss_penalty("k1", logs(0.5), logs(0.25), logs(0.5))


def test_k3_importance_in_the_reward_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="weight works through its gradient; use k1"):
        reward_penalty("k3_importance", logs(0.5), logs(0.25), torch.tensor([[True]]))


def test_an_unknown_estimator_gets_the_nearest_and_the_list():
    with pytest.raises(ConfigError, match=r"'k3_importanc'.*did you mean 'k3_importance'"):
        loss_penalty("k3_importanc", logs(0.5), logs(0.25), logs(0.5))
    with pytest.raises(ConfigError, match=r"'k4' for the reward.*known: k1, k2, k3"):
        reward_penalty("k4", logs(0.5), logs(0.25), torch.tensor([[True]]))
