"""REINFORCE leave-one-out (arXiv:2402.14740)."""

from rl_llm.algorithms.advantages import leave_one_out
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Truncated, advantage_rule, checked_bonus, token_clip
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def rloo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    reduce: Reduction = "fixed_length",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """Each reward less the mean of the others of its group: in the first update of a batch, where
    all ratios are 1 and no clip acts, an unbiased gradient of the expected reward.

    The clip holds the further updates of a batch.
    """
    rule = token_clip(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    return Algorithm(
        name="rloo",
        advantages=advantage_rule(
            leave_one_out, truncated=truncated, overlong_cache=overlong_cache
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=True,
        entropy_bonus=checked_bonus(entropy_bonus),
    )
