"""Advantages from the rewards of a group.

Legend: P groups, G completions of each.
"""

from typing import Literal

import torch
from torch import Tensor

Scale = Literal["group", "batch", "none"]

STD_EPSILON = 1e-4


def group_advantages(rewards_PG: Tensor, counted_PG: Tensor, *, scale: Scale) -> Tensor:
    """Return (P, G): each reward less its group's mean, divided by a standard deviation.

    `scale` is `group` (GRPO, arXiv:2402.03300: the group's own), `batch` (that of all counted
    rewards), or `none` (Dr. GRPO, arXiv:2503.20783). Standard deviations have one delta degree of
    freedom, plus 1e-4. A group whose counted rewards are all equal gets exactly 0, by comparison
    and not by division. Rewards that are not counted enter nothing and get 0.
    """
    assert rewards_PG.shape == counted_PG.shape and rewards_PG.ndim == 2
    counted = counted_PG.to(rewards_PG.dtype)
    num_counted_P1 = counted.sum(dim=1, keepdim=True)
    mean_P1 = (rewards_PG * counted).sum(dim=1, keepdim=True) / num_counted_P1.clamp(min=1)
    centred_PG = (rewards_PG - mean_P1) * counted
    if scale == "group":
        variance_P1 = centred_PG.square().sum(dim=1, keepdim=True) / (num_counted_P1 - 1).clamp(
            min=1
        )
        centred_PG = centred_PG / (variance_P1.sqrt() + STD_EPSILON)
    elif scale == "batch":
        flat = rewards_PG[counted_PG]
        deviation = flat.std() if flat.numel() > 1 else flat.new_ones(())
        centred_PG = centred_PG / (deviation + STD_EPSILON)
    return centred_PG.masked_fill(all_equal(rewards_PG, counted_PG)[:, None], 0.0)


def all_equal(rewards_PG: Tensor, counted_PG: Tensor) -> Tensor:
    """Return (P,): True where the counted rewards of a group are all the same, or there are
    none."""
    highest_P = rewards_PG.masked_fill(~counted_PG, -torch.inf).amax(dim=1)
    lowest_P = rewards_PG.masked_fill(~counted_PG, torch.inf).amin(dim=1)
    return highest_P <= lowest_P
