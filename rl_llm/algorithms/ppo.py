"""Proximal Policy Optimization (arXiv:1707.06347), with the lambdas of VAPO (arXiv:2504.05118)."""

from rl_llm.algorithms.batch import Algorithm
from rl_llm.algorithms.compose import Truncated, advantage_rule, checked_bonus, token_clip
from rl_llm.algorithms.critics import check_length_adaptive, critic_rules, rewards_alone
from rl_llm.algorithms.masked import REDUCTIONS, Reduction

LAMBDA_POLICY = 0.95


def ppo(  # noqa: PLR0913  (a recipe's options are a flat list)
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    reduce: Reduction = "token_mean",
    truncated: Truncated = "mask",
    overlong_cache: int | None = None,
    entropy_bonus: float = 0.0,
    critic_lr: float = 1e-3,
    critic_warmup_steps: int = 4,
    gamma: float = 1.0,
    lambda_policy: float = LAMBDA_POLICY,
    lambda_critic: float = 1.0,
    length_adaptive: bool = False,
    value_clip: float | None = 0.2,
    whiten: bool = True,
) -> Algorithm:
    """Clipped surrogate on advantages of single tokens, from a critic by generalised advantage
    estimation."""
    check_length_adaptive(
        length_adaptive, lambda_policy=lambda_policy, default_lambda=LAMBDA_POLICY
    )
    rule = token_clip(clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    return Algorithm(
        name="ppo",
        advantages=advantage_rule(
            rewards_alone, truncated=truncated, overlong_cache=overlong_cache
        ),
        token_loss=rule.token_loss,
        is_clipped=rule.is_clipped,
        reduce=REDUCTIONS[reduce],
        trains_truncated=truncated != "mask",
        has_group_baseline=False,
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
