"""The tensor records that algorithms work on, and the record that names an algorithm's pieces.

Legend: P groups, G completions of each, R rewards of a recipe, B rows (completions), T response
tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """The rewards and lengths of a step's groups.

    `counted_PG` is True where a completion exists and its rewards worked; elsewhere the other
    tensors hold 0 and mean nothing. `rewards_PG` are weighted totals, and `parts_PGR` what each
    reward adds to them: its weight (`weights_R`) times its value, 0 where it does not apply.
    `lengths_PG` counts response tokens (int64), of which `max_response_tokens` are allowed.
    """

    rewards_PG: Tensor
    counted_PG: Tensor
    parts_PGR: Tensor
    weights_R: Tensor
    lengths_PG: Tensor
    max_response_tokens: int


@dataclass(frozen=True, kw_only=True)
class TokenTerms:
    """What a per-token loss may look at: (B, T) each, in nats where they are logarithms.

    `logprobs_BT` carries the gradient; `old_logprobs_BT` is the policy that the update started
    from, or, where no correction weighs rows that older weights drew, for these what their engine
    reported. `response_mask_BT` is True where the policy chose the token and learns from it; what
    stands elsewhere means nothing, and need not be finite.
    """

    logprobs_BT: Tensor
    old_logprobs_BT: Tensor
    advantages_BT: Tensor
    response_mask_BT: Tensor

    @property
    def kept_logprobs_BT(self) -> Tensor:
        """The policy's logprobs, 0 outside the mask, where no gradient flows."""
        return self.logprobs_BT.masked_fill(~self.response_mask_BT, 0.0)

    @property
    def kept_advantages_BT(self) -> Tensor:
        """The advantages, 0 outside the mask."""
        return self.advantages_BT.masked_fill(~self.response_mask_BT, 0.0)

    @property
    def log_ratio_BT(self) -> Tensor:
        """The logarithm of pi / old, 0 outside the mask, where no gradient flows."""
        difference_BT = self.logprobs_BT - self.old_logprobs_BT
        return difference_BT.masked_fill(~self.response_mask_BT, 0.0)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What one update trains on, over all micro-batches and ranks: the denominators of every
    reduction."""

    num_tokens: int
    num_sequences: int
    max_response_tokens: int


@dataclass(frozen=True, kw_only=True)
class CriticRules:
    """How a critic is trained, and what it makes of rewards.

    `lr` is the critic's own; for its first `warmup_steps` steps the policy does not move.
    `estimate` maps rewards, values and the response mask (B, T) to the policy's advantages and to
    the targets that values are drawn to; `whiten` asks for advantages of mean 0 and standard
    deviation 1 over the response tokens of a batch. `value_loss` maps values, the values before the
    update, and targets to a loss for each token. Where responses are shorter on average than
    `warn_below_tokens`, the estimate is degenerate and a person should be told.
    """

    lr: float
    warmup_steps: int
    whiten: bool
    estimate: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    value_loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    warn_below_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """An algorithm names its pieces; the policy engine calls them in order.

    `advantages` maps rewards to what each completion is worth (P, G); with a `critic` that is the
    reward itself, which the critic turns into advantages of tokens. `token_loss` gives (B, T)
    before masking, and `is_clipped` says which tokens the ratio's bounds have silenced or cut.
    `reduce` gives the scalar share of one micro-batch, so that the shares of all micro-batches and
    ranks add up to the loss. `trains_truncated` says whether completions that ran into the length
    limit are learnt from. `has_group_baseline` says that a group with equal rewards teaches
    nothing, `divides_by_group` that advantages are divided by their group's standard deviation, and
    `has_ratio` that the loss weighs tokens by pi/old, without which only the first update of a
    batch is right.
    `entropy_bonus` times the reduced entropy is subtracted from the loss.
    """

    name: str
    advantages: Callable[[ScoredBatch], Tensor]
    token_loss: Callable[[TokenTerms], Tensor]
    is_clipped: Callable[[TokenTerms], Tensor]
    reduce: Callable[[Tensor, Tensor, Totals], Tensor]
    trains_truncated: bool
    has_group_baseline: bool
    divides_by_group: bool = False
    has_ratio: bool = True
    entropy_bonus: float = 0.0
    critic: CriticRules | None = None
