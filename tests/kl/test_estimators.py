"""The estimators by enumeration over a vocabulary of 5, in float64."""

import math

import pytest
import torch

from rl_llm.kl import k1, k2, k3, loss_penalty

LOGITS = torch.tensor([0.3, -1.2, 0.8, 0.0, -0.4], dtype=torch.float64)
REF = torch.tensor([-0.1, 0.4, 0.2, -0.9, 0.5], dtype=torch.float64).log_softmax(0)


def divergence(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum()


def expected_gradient(estimator):
    """Return E over x ~ pi of the gradient of the estimator at x, pi itself not differentiated."""
    logits = LOGITS.clone().requires_grad_()
    log_pi = logits.log_softmax(0)
    (log_pi.detach().exp() * estimator(log_pi, REF)).sum().backward()
    return logits.grad


def exact_gradient(of):
    logits = LOGITS.clone().requires_grad_()
    of(logits.log_softmax(0)).backward()
    return logits.grad


def test_values_by_hand():
    logprobs, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert k1(logprobs, ref).item() == pytest.approx(math.log(2))
    assert k2(logprobs, ref).item() == pytest.approx(math.log(2) ** 2 / 2)
    assert k3(logprobs, ref).item() == pytest.approx(0.5 - 1 + math.log(2))


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_unbiased_in_value(estimator):
    log_pi = LOGITS.log_softmax(0)
    mean = (log_pi.exp() * estimator(log_pi, REF)).sum()
    torch.testing.assert_close(mean, divergence(log_pi, REF))


def test_k2_in_the_loss_has_the_gradient_of_the_divergence_from_the_reference():
    exact = exact_gradient(lambda log_pi: divergence(log_pi, REF))
    torch.testing.assert_close(expected_gradient(k2), exact)


def test_k3_in_the_loss_has_the_gradient_of_the_other_direction():
    exact = exact_gradient(lambda log_pi: divergence(REF, log_pi))
    torch.testing.assert_close(expected_gradient(k3), exact)


def test_k1_in_the_loss_has_no_expected_gradient():
    torch.testing.assert_close(expected_gradient(k1), torch.zeros(5, dtype=torch.float64))


def test_off_policy_k2_weighted_by_the_ratio_keeps_its_gradient():
    old = torch.tensor([0.9, 0.1, -0.3, 0.2, 0.0], dtype=torch.float64).log_softmax(0)
    logits = LOGITS.clone().requires_grad_()
    log_pi = logits.log_softmax(0)
    (old.exp() * loss_penalty("k2", log_pi, REF, old)).sum().backward()
    exact = exact_gradient(lambda log_pi: divergence(log_pi, REF))
    torch.testing.assert_close(logits.grad, exact)
