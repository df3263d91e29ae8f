"""Per-token estimates of the divergence of `pi` from a reference, from sampled tokens.

With x drawn from pi and d = log pi - log ref, the mean of each estimates KL(pi || ref) in nats
(Schulman, "Approximating KL divergence", 2020). What each gives as a gradient when it is
differentiated in the loss is another matter: k1 gives noise of mean zero, k2 the gradient of
KL(pi || ref), k3 that of KL(ref || pi). None of them detaches or clamps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return d: unbiased, of high variance, negative on half the tokens."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return d^2 / 2: biased in value, right in gradient on-policy."""
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return exp(-d) - 1 + d: unbiased, never negative, of low variance; the one to report."""
    difference = logprobs - ref_logprobs
    return (-difference).exp() - 1 + difference


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def loss_penalty(
    estimator: str, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor
) -> Tensor:
    """Return the per-token penalty to differentiate in the loss.

    Off-policy, k2 is weighted by the importance ratio pi / old without its gradient, which keeps
    the gradient that of KL(pi || ref); on-policy the weight is 1. k3 stands as GRPO publishes it.
    """
    penalty = ESTIMATORS[estimator](logprobs, ref_logprobs)
    if estimator == "k2":
        return (logprobs - old_logprobs).exp().detach() * penalty
    return penalty
