"""The values of the estimators, by hand and by enumeration over a vocabulary of 5 in float64."""

import math

import pytest
import torch

from rl_llm.kl import k1, k2, k3

LOG_PI = torch.tensor([0.3, -1.2, 0.8, 0.0, -0.4], dtype=torch.float64).log_softmax(0)
LOG_REF = torch.tensor([-0.1, 0.4, 0.2, -0.9, 0.5], dtype=torch.float64).log_softmax(0)


def test_values_by_hand():
    logprobs, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(logprobs, ref).item() == pytest.approx(math.log(2))
    assert k2(logprobs, ref).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logprobs, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_unbiased_in_value(estimator):
    mean = (LOG_PI.exp() * estimator(LOG_PI, LOG_REF)).sum()
    divergence = (LOG_PI.exp() * (LOG_PI - LOG_REF)).sum()
    torch.testing.assert_close(mean, divergence)


def test_k2_is_biased_in_value():
    mean = (LOG_PI.exp() * k2(LOG_PI, LOG_REF)).sum()
    divergence = (LOG_PI.exp() * (LOG_PI - LOG_REF)).sum()
    assert abs(mean / divergence - 1) > 0.05
