"""The pieces that algorithms share, bound to the options of a recipe and checked.

A contradiction among options is a `ValueError` that says the way out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rl_llm.algorithms.advantages import (
    Baseline,
    Scale,
    normalise_then_sum,
    with_overlong_penalty,
)
from rl_llm.algorithms.batch import ScoredBatch, TokenTerms
from rl_llm.algorithms.losses import (
    cispo_loss,
    clipped_surrogate,
    is_clipped,
    is_cut,
    policy_gradient,
    sequence_log_ratio,
    sequence_surrogate,
)

Truncated = Literal["mask", "train", "penalise"]
"""Completions that ran into the length limit: out of the loss and its denominators, though their
rewards count in baselines; learnt from like all others; or learnt from, with `overlong_penalty`."""

Combine = Literal["sum_then_normalise", "normalise_then_sum"]
"""Several rewards: their weighted sum is one reward; or each is normalised by itself first."""


@dataclass(frozen=True, kw_only=True)
class LossRule:
    """A loss for each token, and where the ratio's bounds have silenced it."""

    token_loss: Callable[[TokenTerms], Tensor]
    is_clipped: Callable[[TokenTerms], Tensor]


def advantage_rule(
    baseline: Baseline,
    *,
    truncated: Truncated,
    overlong_cache: int | None,
    combine: Combine = "sum_then_normalise",
    scale: Scale = "group",
) -> Callable[[ScoredBatch], Tensor]:
    """Return what each completion is worth; `scale` is that of `baseline`, to check `combine`."""
    _check_overlong(truncated, overlong_cache)
    if combine == "normalise_then_sum" and scale == "none":
        raise ValueError(
            "combine='normalise_then_sum' with scale='none' normalises nothing before it sums; "
            "use scale group or batch, or combine sum_then_normalise"
        )

    def advantages(scored: ScoredBatch) -> Tensor:
        if truncated == "penalise":
            scored = with_overlong_penalty(scored, cache=overlong_cache)
        if combine == "normalise_then_sum":
            return normalise_then_sum(scored, baseline)
        return baseline(scored.rewards_PG, scored.counted_PG)

    return advantages


def token_clip(*, clip_low: float, clip_high: float, dual_clip: float | None) -> LossRule:
    """Return the clipped surrogate of each token's ratio."""
    _check_clips(clip_low, clip_high, example="0.2 and 0.28")
    if dual_clip is not None and dual_clip <= 1 + clip_high:
        raise ValueError(
            f"dual_clip={dual_clip} bounds the ratio of tokens with a negative advantage; use more "
            f"than 1 + clip_high = {1 + clip_high:g}, such as 3, or null for no such bound"
        )
    return LossRule(
        token_loss=lambda terms: clipped_surrogate(
            terms.log_ratio_BT,
            terms.kept_advantages_BT,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
        ),
        is_clipped=lambda terms: is_clipped(
            terms.log_ratio_BT,
            terms.kept_advantages_BT,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
        ),
    )


def sequence_clip(*, clip_low: float, clip_high: float) -> LossRule:
    """Return the clipped surrogate of each sequence's ratio."""
    _check_clips(clip_low, clip_high, example="0.0003 and 0.0004")
    return LossRule(
        token_loss=lambda terms: sequence_surrogate(
            terms.log_ratio_BT,
            terms.kept_advantages_BT,
            terms.response_mask_BT,
            clip_low=clip_low,
            clip_high=clip_high,
        ),
        is_clipped=lambda terms: is_clipped(
            sequence_log_ratio(terms.log_ratio_BT, terms.response_mask_BT),
            terms.kept_advantages_BT,
            clip_low=clip_low,
            clip_high=clip_high,
        ),
    )


def capped_weight(*, max_ratio: float) -> LossRule:
    """Return the policy gradient under a weight that is cut."""
    if max_ratio <= 1:
        raise ValueError(
            f"max_ratio={max_ratio} cuts the weight of tokens that the policy itself drew, which "
            "is 1; use more than 1, such as 5"
        )
    return LossRule(
        token_loss=lambda terms: cispo_loss(
            terms.kept_logprobs_BT,
            terms.log_ratio_BT,
            terms.kept_advantages_BT,
            max_ratio=max_ratio,
        ),
        is_clipped=lambda terms: is_cut(terms.log_ratio_BT, max_ratio=max_ratio),
    )


def no_clip() -> LossRule:
    """Return -A log pi, which nothing clips."""
    return LossRule(
        token_loss=lambda terms: policy_gradient(terms.kept_logprobs_BT, terms.kept_advantages_BT),
        is_clipped=lambda terms: torch.zeros_like(terms.response_mask_BT),
    )


def checked_bonus(entropy_bonus: float) -> float:
    """Return the coefficient, or refuse one that would pay for certainty."""
    if entropy_bonus < 0:
        raise ValueError(
            f"entropy_bonus={entropy_bonus} takes entropy away; use 0 or more, such as 0.001"
        )
    return entropy_bonus


def _check_clips(clip_low: float, clip_high: float, *, example: str) -> None:
    if not 0 < clip_low <= 1 or clip_high <= 0:
        raise ValueError(
            f"clip_low={clip_low}, clip_high={clip_high}: the ratio is held between 1 - clip_low "
            f"and 1 + clip_high; use 0 < clip_low <= 1 and clip_high > 0, such as {example}"
        )


def _check_overlong(truncated: Truncated, overlong_cache: int | None) -> None:
    if overlong_cache is None:
        return
    if truncated != "penalise":
        raise ValueError(
            f"overlong_cache={overlong_cache} with truncated={truncated!r}: nothing is penalised "
            "for its length; set truncated to penalise, or leave overlong_cache out"
        )
    if overlong_cache < 1:
        raise ValueError(
            f"overlong_cache={overlong_cache} is the number of tokens over which the penalty "
            "grows; use 1 or more, or null for a fifth of the longest response"
        )
