"""Advantage actor-critic, synchronous (arXiv:1602.01783)."""

from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Truncated, advantage_rule, checked_bonus, no_clip
from rl_llm.algorithms.critics import check_length_adaptive, critic_rules, rewards_alone
from rl_llm.algorithms.masked import REDUCTIONS, Reduction

LAMBDA_POLICY = 1.0


def a2c(  # noqa: PLR0913  (a recipe's options are a flat list)
    *,
    reduce: Reduction = "fixed_length",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    entropy_bonus: float = 0.0,
    critic_lr: float = 1e-3,
    critic_warmup_steps: int = 4,
    gamma: float = 1.0,
    lambda_policy: float = LAMBDA_POLICY,
    lambda_critic: float = 1.0,
    length_adaptive: bool = False,
    value_clip: float | None = None,
    whiten: bool = False,
) -> Algorithm:
    """-A log pi on the return less the critic's value.

    There is no ratio: like `reinforce`, it is made for one update of each batch.
    """
    check_length_adaptive(
        length_adaptive, lambda_policy=lambda_policy, default_lambda=LAMBDA_POLICY
    )
    rule = no_clip()
    return Algorithm(
        name="a2c",
        advantages=advantage_rule(
            rewards_alone, truncated=truncated, overlong_cache=overlong_cache
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=False,
        has_ratio=False,
        entropy_bonus=checked_bonus(entropy_bonus),
        critic=critic_rules(
            critic_lr=critic_lr,
            critic_warmup_steps=critic_warmup_steps,
            gamma=gamma,
            lambda_policy=lambda_policy,
            lambda_critic=lambda_critic,
            length_adaptive=length_adaptive,
            value_clip=value_clip,
            whiten=whiten,
        ),
    )
