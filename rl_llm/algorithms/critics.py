"""What algorithms with a critic share: its options, checked, and the rules made of them."""

from functools import partial

from torch import Tensor

from rl_llm.algorithms.batch import CriticRules
from rl_llm.algorithms.gae import LEAST_ADAPTIVE_TOKENS, gae, length_adaptive_lambda
from rl_llm.algorithms.losses import value_loss


def rewards_alone(rewards_PG: Tensor, counted_PG: Tensor) -> Tensor:
    """Return the rewards that are counted: their baseline is the critic's business."""
    return rewards_PG.masked_fill(~counted_PG, 0.0)


def critic_rules(
    *,
    critic_lr: float,
    critic_warmup_steps: int,
    gamma: float,
    lambda_policy: float,
    lambda_critic: float,
    length_adaptive: bool,
    value_clip: float | None,
    whiten: bool,
) -> CriticRules:
    """Return the rules of a critic; with `length_adaptive`, the policy's lambda follows the length
    of each response, and `lambda_policy` is not read."""
    _check_learning(critic_lr, critic_warmup_steps, value_clip)
    _check_shares(gamma=gamma, lambda_policy=lambda_policy, lambda_critic=lambda_critic)

    def estimate(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        lam = length_adaptive_lambda(mask_BT.sum(dim=1)) if length_adaptive else lambda_policy
        advantages_BT, _ = gae(rewards_BT, values_BT, mask_BT, gamma=gamma, lam=lam)
        _, targets_BT = gae(rewards_BT, values_BT, mask_BT, gamma=gamma, lam=lambda_critic)
        return advantages_BT, targets_BT

    return CriticRules(
        lr=critic_lr,
        warmup_steps=critic_warmup_steps,
        whiten=whiten,
        estimate=estimate,
        value_loss=partial(value_loss, clip=value_clip),
        warn_below_tokens=LEAST_ADAPTIVE_TOKENS if length_adaptive else 0,
    )


def check_length_adaptive(
    length_adaptive: bool, *, lambda_policy: float, default_lambda: float
) -> None:
    """Refuse a lambda of one's own beside that of the length."""
    if length_adaptive and lambda_policy != default_lambda:
        raise ValueError(
            f"lambda_policy={lambda_policy} with length_adaptive=True: the length of each response "
            "gives the policy's lambda; leave one of the two out"
        )


def _check_learning(critic_lr: float, critic_warmup_steps: int, value_clip: float | None) -> None:
    if critic_lr <= 0:
        raise ValueError(f"critic_lr={critic_lr} teaches the critic nothing; use more than 0")
    if critic_warmup_steps < 0:
        raise ValueError(
            f"critic_warmup_steps={critic_warmup_steps} counts steps before the policy moves; use "
            "0 or more"
        )
    if value_clip is not None and value_clip <= 0:
        raise ValueError(
            f"value_clip={value_clip} lets no value move; use more than 0, such as 0.2, or null "
            "for no clip"
        )


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share} discounts what comes later; use 0 to 1")
