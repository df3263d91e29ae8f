"""CISPO, clipped importance-sampling weights (MiniMax-M1, arXiv:2506.13585)."""

from functools import partial

from rl_llm.algorithms.advantages import Scale, group_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import (
    Combine,
    Truncated,
    advantage_rule,
    capped_weight,
    checked_bonus,
)
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def cispo(
    *,
    max_ratio: float = 5.0,
    scale: Scale = "group",
    reduce: Reduction = "token_mean",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    combine: Combine = "sum_then_normalise",
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """Policy gradient weighted by the ratio, which is cut above and never differentiated: every
    token keeps its gradient, also the rare ones that a clipped surrogate drops."""
    rule = capped_weight(max_ratio=max_ratio)
    return Algorithm(
        name="cispo",
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
