"""Generalised advantage estimation (arXiv:1506.02438) over response tokens.

What stands outside the mask means nothing and need not be finite. Legend: B rows, T response
positions.
"""

import math

import torch
from torch import Tensor

LEAST_ADAPTIVE_TOKENS = 40
"""Mean response length below which `length_adaptive_lambda` is hardly more than 0 on average."""

_EPSILON = 1e-8


@torch.no_grad()
def gae(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    *,
    gamma: float = 1.0,
    lam: float | Tensor = 0.95,
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (B, T), without gradient and 0 outside the mask.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, where t + 1 is the
    row's next token inside the mask; after the last one both V and A are 0. Returns are A + V. A
    `lam` of shape (B,) gives each row its own.
    """
    assert rewards_BT.shape == values_BT.shape == mask_BT.shape and mask_BT.ndim == 2
    rewards_BT = rewards_BT.masked_fill(~mask_BT, 0.0)
    values_BT = values_BT.masked_fill(~mask_BT, 0.0)
    advantages_BT = torch.zeros_like(values_BT)
    next_value_B = values_BT.new_zeros(len(values_BT))
    next_advantage_B = torch.zeros_like(next_value_B)
    for t in reversed(range(mask_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        advantages_BT[:, t] = delta_B + gamma * lam * next_advantage_B
        next_value_B = torch.where(mask_BT[:, t], values_BT[:, t], next_value_B)
        next_advantage_B = torch.where(mask_BT[:, t], advantages_BT[:, t], next_advantage_B)
    advantages_BT = advantages_BT.masked_fill(~mask_BT, 0.0)
    return advantages_BT, advantages_BT + values_BT


def length_adaptive_lambda(lengths_B: Tensor, *, alpha: float = 0.05) -> Tensor:
    """Return 1 - 1 / (alpha length), held in [0, 1] (VAPO, arXiv:2504.05118).

    With alpha 0.05 it is 0 up to 20 tokens, .5 at 40, and .95 from 400 on: made for long responses.
    """
    shares_B = torch.reciprocal(alpha * lengths_B.to(torch.float32))
    return (1.0 - shares_B).clamp(0.0, 1.0)


def moments(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return count, sum and sum of squares inside the mask (3,), in float64.

    Those of micro-batches and ranks add up to those of the batch.
    """
    kept = values_BT[mask_BT].double()
    return torch.stack([kept.new_tensor(kept.numel()), kept.sum(), kept.square().sum()])


def whiten(values_BT: Tensor, mask_BT: Tensor, moments_3: Tensor) -> Tensor:
    """Shift by the mean and divide by the standard deviation that `moments_3` tells, dividing by
    the count; 0 outside the mask."""
    count, total, squares = map(float, moments_3)
    mean = total / max(count, 1.0)
    deviation = math.sqrt(max(squares / max(count, 1.0) - mean * mean, 0.0))
    return ((values_BT - mean) / (deviation + _EPSILON)).masked_fill(~mask_BT, 0.0)
