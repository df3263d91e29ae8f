"""REINFORCE++ (arXiv:2501.03262)."""

from functools import partial

from rl_llm.algorithms.advantages import BatchScale, batch_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import (
    Combine,
    Truncated,
    advantage_rule,
    checked_bonus,
    token_clip,
)
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def reinforce_pp(  # noqa: PLR0913  (a recipe's options are a flat list)
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    scale: BatchScale = "batch",
    reduce: Reduction = "token_mean",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    combine: Combine = "sum_then_normalise",
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """Clipped surrogate on rewards that the whole batch normalises, whichever prompt they answer:
    one completion of each prompt is enough."""
    rule = token_clip(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    return Algorithm(
        name="reinforce_pp",
        advantages=advantage_rule(
            partial(batch_advantages, scale=scale),
            truncated=truncated,
            overlong_cache=overlong_cache,
            combine=combine,
            scale=scale,
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=False,
        entropy_bonus=checked_bonus(entropy_bonus),
    )
