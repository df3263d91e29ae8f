"""Group Relative Policy Optimization (arXiv:2402.03300), with clip-higher."""

from typing import Literal

from rl_llm.algorithms.advantages import Scale, group_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.losses import clipped_surrogate
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def grpo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    scale: Scale = "group",
    reduce: Reduction = "token_mean",
    truncated: Literal["mask", "train"] = "mask",
) -> Algorithm:
    """Clipped surrogate on group-centred rewards.

    `truncated: mask` leaves completions that ran into the length limit out of the loss and of its
    denominators; their rewards still count in their group's mean.
    """
    if not 0 < clip_low <= 1 or clip_high <= 0:
        raise ValueError(
            f"clip_low={clip_low}, clip_high={clip_high}: the ratio is held between 1 - clip_low "
            "and 1 + clip_high; use 0 < clip_low <= 1 and clip_high > 0, such as 0.2 and 0.28"
        )
    return Algorithm(
        name="grpo",
        advantages=lambda scored: group_advantages(
            scored.rewards_PG, scored.counted_PG, scale=scale
        ),
        token_loss=lambda terms: clipped_surrogate(
            terms.logprobs_BT - terms.old_logprobs_BT,
            terms.advantages_BT,
            clip_low=clip_low,
            clip_high=clip_high,
        ),
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated == "train",
        has_group_baseline=True,
        clip_low=clip_low,
        clip_high=clip_high,
    )
