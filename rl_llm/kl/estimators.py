"""Per-token estimates of the divergence of `pi` from a reference, from sampled tokens.

With x drawn from pi and d = log pi - log ref, the mean of k1 and of k3 is KL(pi || ref) in nats,
and that of k2 is close to it near the reference (Schulman, "Approximating KL divergence", 2020).
What each gives as a gradient is another matter: see `rl_llm.kl.penalty`. None of them detaches,
clamps or refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return d: unbiased, of high variance, negative on half the tokens; the one for rewards."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return d^2 / 2: biased in value, right in gradient on-policy; the one for the loss."""
    return (logprobs - ref_logprobs).square() / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return exp(-d) - 1 + d: unbiased, never negative, of low variance; the one to report."""
    difference = logprobs - ref_logprobs
    return (-difference).exp() - 1 + difference


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
