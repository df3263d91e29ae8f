"""What an update is measured against: facts about the policy, the reference and the critic that are
fixed before its first optimiser step.

Legend: B rows, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rl_llm.algorithms import Totals, moments, whiten
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class Start:
    """Of one micro-batch, (B, T) each and without gradient.

    `logprobs_BT` is the policy's, None where the update takes one step alone and its own forward
    pass says the same. `ref_logprobs_BT` is the reference's, None where it is not asked for, or
    read later. `advantages_BT` is what the algorithm learns from. `values_BT` is what the critic
    said, and `targets_BT` what it ought to have said.
    """

    advantages_BT: Tensor
    logprobs_BT: Tensor | None = None
    ref_logprobs_BT: Tensor | None = None
    values_BT: Tensor | None = None
    targets_BT: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The tokens of one forward and backward pass, and what they are measured against."""

    tokens: TokenBatch
    start: Start


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one optimiser step learns from: this rank's micro-batches, and the totals of all
    ranks."""

    micro_batches: Sequence[MicroBatch]
    totals: Totals


def whitened(parts: Sequence[Part], ranks: Ranks) -> list[Part]:
    """Shift and scale the advantages of a whole batch, over all ranks, to mean 0 and standard
    deviation 1 over its response tokens."""
    moments_3 = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    for micro in (micro for part in parts for micro in part.micro_batches):
        moments_3 += moments(micro.start.advantages_BT, micro.tokens.response_mask_BT)
    ranks.sum_in_place([moments_3])
    return [
        replace(part, micro_batches=[_whitened(micro, moments_3) for micro in part.micro_batches])
        for part in parts
    ]


def _whitened(micro: MicroBatch, moments_3: Tensor) -> MicroBatch:
    mask_BT = micro.tokens.response_mask_BT
    advantages_BT = whiten(micro.start.advantages_BT, mask_BT, moments_3)
    return replace(micro, start=replace(micro.start, advantages_BT=advantages_BT))
