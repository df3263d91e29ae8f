"""Per-token losses to minimise; the caller masks and reduces.

r is the ratio pi/old of a token, A its advantage. Where a caller gives 0 for the log-ratio and the
advantage of a token, its loss and its gradient are 0. Legend: B rows, T response tokens.
"""

import math

import torch
from torch import Tensor


def clipped_surrogate(
    log_ratio_BT: Tensor,
    advantages_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Return -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) for r = pi/old (PPO, 1707.06347).

    Different bounds below and above are clip-higher (DAPO, arXiv:2503.14476). With `dual_clip` c,
    a token with A < 0 pays at most -c A, and has no gradient where r > c (arXiv:1912.09729).
    """
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    if dual_clip is None:
        return loss_BT
    most_BT = -dual_clip * advantages_BT
    return torch.where(advantages_BT < 0, torch.minimum(loss_BT, most_BT), loss_BT)


def is_clipped(
    log_ratio_BT: Tensor,
    advantages_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """Return where the clipped surrogate is flat: the ratio left its bounds in the paid direction,
    or, with a dual clip, went far in the other."""
    ratio_BT = log_ratio_BT.exp()
    too_low_BT = (ratio_BT < 1 - clip_low) & (advantages_BT < 0)
    too_high_BT = (ratio_BT > 1 + clip_high) & (advantages_BT > 0)
    flat_BT = too_low_BT | too_high_BT
    if dual_clip is None:
        return flat_BT
    return flat_BT | ((ratio_BT > dual_clip) & (advantages_BT < 0))


def sequence_log_ratio(log_ratio_BT: Tensor, response_mask_BT: Tensor) -> Tensor:
    """Return log s (B, 1): the mean over a response's tokens of the logarithm of pi/old, which is
    the logarithm of the sequence's ratio to the power of 1/length."""
    lengths_B1 = response_mask_BT.sum(dim=1, keepdim=True).clamp(min=1)
    kept_BT = log_ratio_BT.masked_fill(~response_mask_BT, 0.0)
    return kept_BT.sum(dim=1, keepdim=True) / lengths_B1


def sequence_surrogate(
    log_ratio_BT: Tensor,
    advantages_BT: Tensor,
    response_mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Return the clipped surrogate of the sequence's ratio s in place of r (GSPO, 2507.18071).

    Every token carries the value s and its own share of the gradient, s grad log pi_t, so the mean
    over a sequence's tokens has the published value and gradient, and advantages may differ between
    tokens (GSPO-token).
    """
    sequence_B1 = sequence_log_ratio(log_ratio_BT, response_mask_BT).detach()
    carried_BT = sequence_B1 + (log_ratio_BT - log_ratio_BT.detach())
    return clipped_surrogate(carried_BT, advantages_BT, clip_low=clip_low, clip_high=clip_high)


def cispo_loss(
    logprobs_BT: Tensor, log_ratio_BT: Tensor, advantages_BT: Tensor, *, max_ratio: float
) -> Tensor:
    """Return -stopgrad(min(r, max_ratio)) A log pi (CISPO, arXiv:2506.13585).

    The weight is cut, but no token loses its gradient.
    """
    weight_BT = log_ratio_BT.detach().clamp(max=math.log(max_ratio)).exp()
    return -weight_BT * advantages_BT * logprobs_BT


def is_cut(log_ratio_BT: Tensor, *, max_ratio: float) -> Tensor:
    """Return where `cispo_loss` cuts the weight."""
    return log_ratio_BT > math.log(max_ratio)


def policy_gradient(logprobs_BT: Tensor, advantages_BT: Tensor) -> Tensor:
    """Return -A log pi (REINFORCE, Williams 1992), which knows no ratio: its gradient is right for
    tokens that the policy itself drew."""
    return -advantages_BT * logprobs_BT


def value_loss(
    values_BT: Tensor, old_values_BT: Tensor, targets_BT: Tensor, *, clip: float | None
) -> Tensor:
    """Return max((V - R)^2, (V_clipped - R)^2) / 2, where V_clipped is held within `clip` of the
    value before the update (PPO); without a clip, (V - R)^2 / 2."""
    squared_BT = (values_BT - targets_BT).square()
    if clip is not None:
        held_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
        squared_BT = torch.maximum(squared_BT, (held_BT - targets_BT).square())
    return squared_BT / 2
