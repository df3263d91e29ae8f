"""Per-token losses to minimise; the caller masks and reduces.

Legend: B rows, T response tokens.
"""

import torch
from torch import Tensor


def clipped_surrogate(
    log_ratio_BT: Tensor, advantages_BT: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Return -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) for r = pi/old (PPO, 1707.06347).

    Different bounds below and above are clip-higher (DAPO, arXiv:2503.14476).
    """
    ratio_BT = log_ratio_BT.exp()
    clipped_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)


def is_clipped(
    log_ratio_BT: Tensor, advantages_BT: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Return where the clipped surrogate is flat: the ratio left its bounds in the paid
    direction."""
    ratio_BT = log_ratio_BT.exp()
    too_low_BT = (ratio_BT < 1 - clip_low) & (advantages_BT < 0)
    too_high_BT = (ratio_BT > 1 + clip_high) & (advantages_BT > 0)
    return too_low_BT | too_high_BT
