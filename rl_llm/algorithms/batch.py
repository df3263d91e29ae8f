"""The tensor records that algorithms work on, and the record that names an algorithm's pieces.

Legend: P groups, G completions of each, B rows (completions), T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """The rewards of a step's groups.

    `counted_PG` is True where a completion exists and its rewards worked; elsewhere `rewards_PG`
    holds 0 and means nothing.
    """

    rewards_PG: Tensor
    counted_PG: Tensor


@dataclass(frozen=True, kw_only=True)
class TokenTerms:
    """What a per-token loss may look at: (B, T) each, in nats where they are logarithms.

    `logprobs_BT` carries the gradient; `old_logprobs_BT` is the policy that the update started
    from, or, for rows that older weights drew, what their engine reported. `response_mask_BT` is
    True where the policy chose the token and learns from it.
    """

    logprobs_BT: Tensor
    old_logprobs_BT: Tensor
    advantages_BT: Tensor
    response_mask_BT: Tensor


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What one update trains on, over all micro-batches and ranks: the denominators of every
    reduction."""

    num_tokens: int
    num_sequences: int
    max_response_tokens: int


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An algorithm names its pieces; the policy engine calls them in order.

    `advantages` maps rewards to (P, G); `token_loss` gives (B, T) before masking; `reduce` gives
    the scalar share of one micro-batch, so that the shares of all micro-batches and ranks add up to
    the loss. `trains_truncated` says whether completions that ran into the length limit are learnt
    from. `has_group_baseline` says that a group with equal rewards teaches nothing.
    """

    name: str
    advantages: Callable[[ScoredBatch], Tensor]
    token_loss: Callable[[TokenTerms], Tensor]
    reduce: Callable[[Tensor, Tensor, Totals], Tensor]
    trains_truncated: bool
    has_group_baseline: bool
    clip_low: float
    clip_high: float
