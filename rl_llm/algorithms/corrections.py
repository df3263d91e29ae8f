"""Weights for tokens that another policy drew: importance corrections of the loss.

mu is the policy that drew the tokens, as the rollout engine reported it, and old the trainer's at
the update's start. They differ where the engine rounds differently, and where weights of an earlier
step drew. The mean over tokens drawn from mu, each times old / mu, is the mean over old's own.

Legend: B rows, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TokenWeights:
    """A factor for each token's loss (B, T), without gradient, and where a bound has set it.

    What stands outside the response mask means nothing.
    """

    weights_BT: Tensor
    is_cut_BT: Tensor


@dataclass(frozen=True, kw_only=True)
class Correction:
    """How tokens are weighed that another policy drew than the one that learns.

    `weigh` maps log old - log mu and the response mask (B, T) to weights. Without it no token is
    weighed, and a row that older weights drew takes the ratio of its loss to mu instead of old.
    """

    name: str
    weigh: Callable[[Tensor, Tensor], TokenWeights] | None = None


def uncorrected() -> Correction:
    """Weigh no token."""
    return Correction(name="none")


def tis(*, cap: float = 2.0) -> Correction:
    """Truncated importance sampling: each token by its own ratio, at most `cap`."""
    if not cap >= 1:
        raise ValueError(
            f"cap={cap} holds back tokens on which the engine and the trainer agree, whose ratio "
            "is 1; use 1 or more, usually 2"
        )
    return Correction(name="tis", weigh=partial(truncated_weights, cap=cap))


def mis(*, low: float = 0.5, high: float = 5.0) -> Correction:
    """Masked importance sampling: each response by its ratio, and those outside `low` to `high` not
    at all."""
    if not 0 <= low <= 1 <= high:
        raise ValueError(
            f"low={low} and high={high} leave out responses on which the engine and the trainer "
            "agree, whose ratio is 1; use a low of 0 to 1 and a high of 1 or more, usually 0.5 and "
            "5"
        )
    return Correction(name="mis", weigh=partial(masked_weights, low=low, high=high))


@torch.no_grad()
def truncated_weights(
    log_ratio_BT: Tensor, response_mask_BT: Tensor, *, cap: float
) -> TokenWeights:
    """Return min(old / mu, cap) of each token.

    Below the cap the mean of a token's weighted loss is that under old, after the prefixes that mu
    drew; where the cap cuts, it is smaller, and its variance bounded.
    """
    ratio_BT = log_ratio_BT.masked_fill(~response_mask_BT, 0.0).exp()
    return TokenWeights(weights_BT=ratio_BT.clamp(max=cap), is_cut_BT=ratio_BT > cap)


@torch.no_grad()
def masked_weights(
    log_ratio_BT: Tensor, response_mask_BT: Tensor, *, low: float, high: float
) -> TokenWeights:
    """Return for all tokens of a row the ratio old / mu of its whole response, 0 where that is
    below `low`, above `high`, or no number.

    Over the responses that are kept, means are those under old, prefixes included.
    """
    kept_BT = log_ratio_BT.masked_fill(~response_mask_BT, 0.0)
    ratio_B1 = kept_BT.sum(dim=1, keepdim=True).exp()
    inside_B1 = (ratio_B1 >= low) & (ratio_B1 <= high)
    weights_B1 = torch.where(inside_B1, ratio_B1, torch.zeros_like(ratio_B1))
    return TokenWeights(
        weights_BT=weights_B1.expand_as(kept_BT), is_cut_BT=(~inside_B1).expand_as(kept_BT)
    )


CORRECTIONS: dict[str, Callable[..., Correction]] = {"none": uncorrected, "tis": tis, "mis": mis}
"""Every built-in correction by the name that recipes use."""
