"""Advantages from the rewards of groups: what a completion is worth beside others.

Rewards that are not counted enter nothing and get 0. Standard deviations have one delta degree of
freedom, plus 1e-4. Legend: P groups, G completions of each, R rewards of a recipe.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from rl_llm.algorithms.batch import ScoredBatch

Scale = Literal["group", "batch", "none"]
BatchScale = Literal["batch", "none"]
Baseline = Callable[[Tensor, Tensor], Tensor]
"""From rewards and which of them are counted, (P, G) each, to advantages (P, G)."""

STD_EPSILON = 1e-4
ROUNDING = 1e-9
"""Rewards, or sums of advantages, that are this close beside their own size count as equal: whether
a group is trained must not hang on how sums of the same numbers round."""


def group_advantages(rewards_PG: Tensor, counted_PG: Tensor, *, scale: Scale) -> Tensor:
    """Return (P, G): each reward less its group's mean, divided by a standard deviation.

    `scale` is `group` (GRPO, arXiv:2402.03300: the group's own), `batch` (that of all counted
    rewards), or `none` (Dr. GRPO, arXiv:2503.20783). A group whose counted rewards are all equal
    gets exactly 0, by comparison and not by division, and enters no other group's deviation.
    """
    centred_PG, num_counted_P1 = _centred(rewards_PG, counted_PG)
    teaches_P1 = ~all_equal(rewards_PG, counted_PG)[:, None]
    if scale == "group":
        variance_P1 = centred_PG.square().sum(dim=1, keepdim=True) / (num_counted_P1 - 1).clamp(
            min=1
        )
        centred_PG = centred_PG / (variance_P1.sqrt() + STD_EPSILON)
    elif scale == "batch":
        centred_PG = centred_PG / _batch_deviation(rewards_PG, counted_PG & teaches_P1)
    return centred_PG.masked_fill(~teaches_P1, 0.0)


def leave_one_out(rewards_PG: Tensor, counted_PG: Tensor) -> Tensor:
    """Return (P, G): each reward less the mean of the others of its group (RLOO, 2402.14740).

    The baseline does not depend on the completion itself, so the gradient is unbiased, where that
    of a group's mean is (G - 1) / G of it. Equal rewards give exactly 0, and so does one alone.
    """
    centred_PG, num_counted_P1 = _centred(rewards_PG, counted_PG)
    others_PG = centred_PG * (num_counted_P1 / (num_counted_P1 - 1).clamp(min=1))
    return others_PG.masked_fill(all_equal(rewards_PG, counted_PG)[:, None], 0.0)


def batch_advantages(rewards_PG: Tensor, counted_PG: Tensor, *, scale: BatchScale) -> Tensor:
    """Return (P, G): each reward less the mean of all counted ones, optionally divided by their
    standard deviation (REINFORCE++, arXiv:2501.03262).

    A group of equal rewards gets an advantage here, unless all rewards of the batch are equal, when
    all get exactly 0.
    """
    if rewards_PG.numel() == 0:
        return torch.zeros_like(rewards_PG)
    flat_1N, counted_1N = rewards_PG.reshape(1, -1), counted_PG.reshape(1, -1)
    found_1N = group_advantages(flat_1N, counted_1N, scale=scale)
    return found_1N.reshape(rewards_PG.shape)


def all_equal(rewards_PG: Tensor, counted_PG: Tensor) -> Tensor:
    """Return (P,): True where the counted rewards of a group are all the same, up to `ROUNDING` of
    the largest, or there are none."""
    highest_P = rewards_PG.masked_fill(~counted_PG, -torch.inf).amax(dim=1)
    lowest_P = rewards_PG.masked_fill(~counted_PG, torch.inf).amin(dim=1)
    largest_P = torch.maximum(highest_P.abs(), lowest_P.abs())
    return highest_P - lowest_P <= ROUNDING * largest_P


def normalise_then_sum(scored: ScoredBatch, baseline: Baseline) -> Tensor:
    """Return (P, G): every reward's own advantages, weighted, added up, and divided by the standard
    deviation of these sums over the batch (GDPO, arXiv:2601.05242).

    So a reward that varies little within groups counts for as much as one that varies widely.
    Groups without any advantage get exactly 0 and do not enter the deviation: those in which every
    reward is equal, and those in which the rewards cancel, to `ROUNDING` of their advantages.
    """
    assert scored.parts_PGR.shape[2] > 0, "score_batch was not told the weights of the rewards"
    summed_PG = torch.zeros_like(scored.rewards_PG)
    sizes_PG = torch.zeros_like(scored.rewards_PG)
    for part_PG, weight in zip(scored.parts_PGR.unbind(dim=2), scored.weights_R, strict=True):
        if weight != 0:
            advantages_PG = weight * baseline(part_PG / weight, scored.counted_PG)
            summed_PG = summed_PG + advantages_PG
            sizes_PG = sizes_PG + advantages_PG.abs()
    largest_P1 = sizes_PG.amax(dim=1, keepdim=True)
    teaches_P1 = summed_PG.abs().amax(dim=1, keepdim=True) > ROUNDING * largest_P1
    summed_PG = summed_PG.masked_fill(~teaches_P1, 0.0)
    return summed_PG / _batch_deviation(summed_PG, scored.counted_PG & teaches_P1)


def overlong_penalty(lengths: Tensor, *, max_response_tokens: int, cache: int) -> Tensor:
    """Return what a length costs, in float64: 0 up to `max_response_tokens` - `cache`, from there
    linearly down to -1 at `max_response_tokens` (DAPO, arXiv:2503.14476).

    With a cache above `max_response_tokens` even the shortest pays.
    """
    free = max_response_tokens - cache
    return ((free - lengths.double()) / cache).clamp(-1.0, 0.0)


def with_overlong_penalty(scored: ScoredBatch, *, cache: int | None) -> ScoredBatch:
    """Return the batch with the penalty as one more reward, of weight 1.

    Without a `cache` it starts at four fifths of the longest response, as in DAPO.
    """
    if cache is None:
        cache = max(scored.max_response_tokens // 5, 1)
    penalty_PG = overlong_penalty(
        scored.lengths_PG, max_response_tokens=scored.max_response_tokens, cache=cache
    ).to(scored.rewards_PG)
    penalty_PG = penalty_PG.masked_fill(~scored.counted_PG, 0.0)
    # Parts that are not known stay unknown.
    penalty_PGR = penalty_PG[:, :, None] if scored.parts_PGR.shape[2] else scored.parts_PGR
    weight_R = scored.weights_R.new_ones(penalty_PGR.shape[2])
    return ScoredBatch(
        rewards_PG=scored.rewards_PG + penalty_PG,
        counted_PG=scored.counted_PG,
        parts_PGR=torch.cat([scored.parts_PGR, penalty_PGR], dim=2),
        weights_R=torch.cat([scored.weights_R, weight_R]),
        lengths_PG=scored.lengths_PG,
        max_response_tokens=scored.max_response_tokens,
    )


def _centred(rewards_PG: Tensor, counted_PG: Tensor) -> tuple[Tensor, Tensor]:
    """Return rewards less their group's mean, and how many of each group are counted (P, 1)."""
    assert rewards_PG.shape == counted_PG.shape and rewards_PG.ndim == 2
    counted = counted_PG.to(rewards_PG.dtype)
    num_counted_P1 = counted.sum(dim=1, keepdim=True)
    mean_P1 = (rewards_PG * counted).sum(dim=1, keepdim=True) / num_counted_P1.clamp(min=1)
    return (rewards_PG - mean_P1) * counted, num_counted_P1


def _batch_deviation(values_PG: Tensor, counted_PG: Tensor) -> Tensor:
    flat = values_PG[counted_PG]
    deviation = flat.std() if flat.numel() > 1 else flat.new_ones(())
    return deviation + STD_EPSILON
