"""REINFORCE with a baseline (Williams 1992)."""

from functools import partial

from rl_llm.algorithms.advantages import BatchScale, batch_advantages
from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Truncated, advantage_rule, checked_bonus, no_clip
from rl_llm.algorithms.masked import REDUCTIONS, Reduction


def reinforce(
    *,
    scale: BatchScale = "none",
    reduce: Reduction = "fixed_length",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    entropy_bonus: float = 0.0,
) -> Algorithm:
    """-A log pi on rewards less the mean of the batch.

    There is no ratio, so further updates of a batch (`optim.updates_per_batch`, `optim.epochs`)
    learn from tokens as if the moved policy had drawn them.
    """
    rule = no_clip()
    return Algorithm(
        name="reinforce",
        advantages=advantage_rule(
            partial(batch_advantages, scale=scale),
            truncated=truncated,
            overlong_cache=overlong_cache,
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=False,
        has_ratio=False,
        entropy_bonus=checked_bonus(entropy_bonus),
    )
