"""What a penalty on the divergence puts into the loss, or into the reward.

Legend: B rows (completions), T response tokens. pi is the policy now, old the one that drew the
tokens, ref what the penalty is against; d = log pi - log ref and rho = pi / old of a drawn token. A
*prefix* is what stands before a token. KL_t is the divergence of the next token's distribution of
pi from that of ref after a prefix, in nats.

In the loss, each prefix counts by how often `old` reaches it, and that weight is not
differentiated: the right gradient there is the sum over prefixes of P_old(prefix) * grad KL_t(pi ||
ref). It says nothing of what a token does to the divergence of later ones. On-policy, P_old is
P_pi. In the reward it is the gradient of the divergence of whole responses, KL(pi || ref), later
tokens included, on-policy.

Both hold for sums over tokens whose weight does not depend on the tokens: a fixed length, and as
good as that a count over the whole update. A mean over each response's own length weighs a token by
how the response went on, and then not even k1 in the loss averages to zero. They hold over all
drawn completions: where groups are left out, over those that are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rl_llm.errors import ConfigError, nearest
from rl_llm.kl.estimators import ESTIMATORS, k2, k3

if TYPE_CHECKING:
    from torch import Tensor


def loss_penalty(
    estimator: str, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor
) -> Tensor:
    """Return the per-token penalty to differentiate in the loss; shapes as given.

    Its mean gradient over tokens drawn from `old`, token by token, prefixes weighted as `old`
    reaches them: `k2` (rho * k2, rho without its gradient) and `k3_importance` (rho * k3,
    differentiated through rho as well: DeepSeek-V3.2, arXiv:2512.02556) give that of KL_t(pi ||
    ref), on-policy and off. `k3`, unweighted as GRPO publishes it, gives that of KL_t(ref || pi),
    the other direction, on-policy, and off-policy neither. Raises `ConfigError` for `k1`, whose
    mean gradient is zero, and for an unknown name.
    """
    if estimator == "k1":
        raise ConfigError(
            "the estimator 'k1' differentiated in the loss has an expected gradient of zero: it "
            "adds noise and no pull towards the reference; use k2 in the loss, or k1 in the reward"
        )
    if estimator not in LOSS_PENALTIES:
        raise ConfigError(
            f"there is no estimator {estimator!r} for the loss{nearest(estimator, LOSS_PENALTIES)}"
        )
    return LOSS_PENALTIES[estimator](logprobs, ref_logprobs, old_logprobs)


def reward_penalty(
    estimator: str, logprobs: Tensor, ref_logprobs: Tensor, mask_BT: Tensor
) -> Tensor:
    """Return (B, T) per-token penalties to take from rewards: no gradient, 0 where the mask is
    False.

    With the policy gradient on their sums to go, on-policy, `k1` gives the gradient of KL(pi ||
    ref) of whole responses. `k2` and `k3` are there to compare with: `k3` gives that gradient less
    the sum over prefixes of grad KL_t(ref || pi), `k2` that of the mean of k2 less the same with
    KL_t(pi || ref), and near the reference, where all of these agree, little is left of either.

    Off-policy the surrogate's own ratio weighs each token. Then a token's own d is right if
    `logprobs` are those of pi now; prefixes and later tokens stay as `old` drew them. Raises
    `ConfigError` for an unknown name, and for `k3_importance`, which is a form for the loss.
    """
    if estimator not in ESTIMATORS:
        hint = nearest(estimator, ESTIMATORS)
        if estimator in LOSS_PENALTIES:
            hint = ", whose weight works through its gradient; use k1"
        raise ConfigError(f"there is no estimator {estimator!r} for the reward{hint}")
    penalties_BT = ESTIMATORS[estimator](logprobs.detach(), ref_logprobs.detach())
    return penalties_BT.masked_fill(~mask_BT, 0.0)


def to_go(penalties_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return (B, T): at each token the sum over it and all later tokens of the mask; 0 outside.

    The caller subtracts beta times this from the advantages, after they are normalised. Inside
    rewards that are divided by their group's standard deviation, the penalty would be divided too:
    however small beta is, it would decide the advantages of a group whose rewards are equal.
    """
    inside_BT = penalties_BT.masked_fill(~mask_BT, 0.0)
    return inside_BT.flip(1).cumsum(1).flip(1).masked_fill(~mask_BT, 0.0)


def _weighted_k2(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).exp().detach() * k2(logprobs, ref_logprobs)


def _published_k3(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return k3(logprobs, ref_logprobs)


def _weighted_k3(logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).exp() * k3(logprobs, ref_logprobs)


LOSS_PENALTIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k2": _weighted_k2,
    "k3": _published_k3,
    "k3_importance": _weighted_k3,
}
"""From (logprobs, ref_logprobs, old_logprobs) to what is differentiated in the loss, by name."""
