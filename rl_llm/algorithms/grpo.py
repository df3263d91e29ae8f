"""Group Relative Policy Optimization (arXiv:2402.03300), with clip-higher."""

from functools import partial

from rl_llm.algorithms.advantages import Scale, group_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import (
    Combine,
    Truncated,
    advantage_rule,
    checked_bonus,
    token_clip,
)
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def grpo(  # noqa: PLR0913  (a recipe's options are a flat list)
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = None,
    scale: Scale = "group",
    reduce: Reduction = "token_mean",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    combine: Combine = "sum_then_normalise",
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """Clipped surrogate on group-centred rewards.

    `truncated: mask` leaves completions that ran into the length limit out of the loss and of its
    denominators; their rewards still count in their group's mean.
    """
    rule = token_clip(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    return Algorithm(
        name="grpo",
        advantages=advantage_rule(
            partial(group_advantages, scale=scale),
            truncated=truncated,
            overlong_cache=overlong_cache,
            combine=combine,
            scale=scale,
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=True,
        divides_by_group=scale == "group",
        entropy_bonus=checked_bonus(entropy_bonus),
    )
