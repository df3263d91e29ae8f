"""Group Sequence Policy Optimization (arXiv:2507.18071)."""

from functools import partial

from rl_llm.algorithms.advantages import Scale, group_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import (
    Combine,
    Truncated,
    advantage_rule,
    checked_bonus,
    sequence_clip,
)
from rl_llm.algorithms.masked import sequence_mean


def gspo(
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    scale: Scale = "group",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    combine: Combine = "sum_then_normalise",
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """Clipped surrogate of one ratio for each response, (pi/old)^(1/length).

    It clips whole responses or none; the mean over sequences is part of the method.
    """
    rule = sequence_clip(clip_low=clip_low, clip_high=clip_high)
    return Algorithm(
        name="gspo",
        advantages=advantage_rule(
            partial(group_advantages, scale=scale),
            truncated=truncated,
            overlong_cache=overlong_cache,
            combine=combine,
            scale=scale,
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=sequence_mean,
        trains_truncated=truncated != "mask",
        has_group_baseline=True,
        divides_by_group=scale == "group",
        entropy_bonus=checked_bonus(entropy_bonus),
    )
