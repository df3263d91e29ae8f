"""From the groups of a step to the parts that its optimiser steps learn from.

Legend: B rows, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rl_llm.algorithms import Algorithm
from rl_llm.config import OptimSection
from rl_llm.kl import reward_penalty, to_go
from rl_llm.policy.backend import Backend
from rl_llm.policy.critic import Critic
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.pack import (
    TokenBatch,
    TrainGroup,
    balance,
    collate,
    count,
    empty_batch,
    pack,
)
from rl_llm.policy.penalty import Penalty
from rl_llm.policy.ranks import Ranks
from rl_llm.policy.reference import Reference
from rl_llm.policy.start import MicroBatch, Part, Start, whitened

_SAME_WIDTH = 2
"""Response positions from which on every micro-batch runs the same modules: the first comes of the
prompts' pass alone."""


@dataclass(frozen=True, kw_only=True)
class Preparer:
    """Cuts groups into parts and micro-batches, and fixes what these are measured against."""

    backend: Backend
    scorer: ResponseScorer
    algorithm: Algorithm
    optim: OptimSection
    reference: Reference
    critic: Critic | None
    ranks: Ranks
    max_response_tokens: int
    pad_id: int

    def __call__(
        self, groups: Sequence[TrainGroup], penalty: Penalty, rng: np.random.Generator
    ) -> list[Part]:
        """Return `optim.updates_per_batch` parts or fewer, none of them empty; every rank passes
        the same groups and gets its share."""
        parts = [self._part(part) for part in self._split(groups, rng)]
        if len(parts) * self.optim.epochs > 1 or penalty.in_reward or self.critic is not None:
            parts = [self._fixed(part, penalty) for part in parts]
        rules = self.algorithm.critic
        return whitened(parts, self.ranks) if rules is not None and rules.whiten else parts

    def _split(
        self, groups: Sequence[TrainGroup], rng: np.random.Generator
    ) -> list[list[TrainGroup]]:
        """Shuffle groups into parts of almost equal size."""
        num_parts = min(self.optim.updates_per_batch, len(groups))
        if num_parts <= 1:
            return [list(groups)] if groups else []
        order = rng.permutation(len(groups))
        return [[groups[i] for i in part] for part in np.array_split(order, num_parts)]

    def _part(self, groups: Sequence[TrainGroup]) -> Part:
        batches = self._batches(balance(groups, self.ranks.num_ranks))
        return Part(
            micro_batches=[
                MicroBatch(tokens=batch, start=Start(advantages_BT=batch.advantages_BT))
                for batch in batches
            ],
            totals=count(groups, max_response_tokens=self.max_response_tokens),
        )

    def _batches(self, shares: Sequence[Sequence[TrainGroup]]) -> list[TokenBatch]:
        """Return this rank's micro-batches; where the backend needs the same passes on every rank,
        empty ones behind them, up to the number of the rank that has most."""
        pads = self.backend.needs_same_passes
        packed = [
            pack(
                share,
                max_tokens=self.optim.tokens_per_micro_batch,
                shares_prompts=self.scorer.shares_prompts,
            )
            for share in (shares if pads else [shares[self.ranks.rank]])
        ]
        batches = [
            collate(
                pieces,
                pad_id=self.pad_id,
                device=self.ranks.device,
                least_width=_SAME_WIDTH if pads else 1,
            )
            for pieces in packed[self.ranks.rank if pads else 0]
        ]
        empty = empty_batch(pad_id=self.pad_id, device=self.ranks.device, width=_SAME_WIDTH)
        return batches + [empty] * (max(map(len, packed)) - len(batches))

    def _fixed(self, part: Part, penalty: Penalty) -> Part:
        return replace(
            part, micro_batches=[self._start(micro.tokens, penalty) for micro in part.micro_batches]
        )

    @torch.no_grad()
    def _start(self, batch: TokenBatch, penalty: Penalty) -> MicroBatch:
        """Run the policy, the reference and the critic as they stand before the first step."""
        logprobs_BT = self.backend.run(lambda: self.scorer(batch).logprobs_BT)
        ref_BT = None
        if penalty.measures_reference:
            with self.reference.active():
                ref_BT = self.backend.run(lambda: self.scorer(batch).logprobs_BT)
        start = Start(
            advantages_BT=batch.advantages_BT, logprobs_BT=logprobs_BT, ref_logprobs_BT=ref_BT
        )
        costs_BT = torch.zeros_like(logprobs_BT)
        if penalty.in_reward:
            assert ref_BT is not None
            costs_BT = penalty.beta * reward_penalty(
                penalty.estimator, logprobs_BT, ref_BT, batch.response_mask_BT
            )
        if self.critic is None:
            advantages_BT = batch.advantages_BT - to_go(costs_BT, batch.response_mask_BT)
            return MicroBatch(tokens=batch, start=replace(start, advantages_BT=advantages_BT))
        return MicroBatch(tokens=batch, start=self._judged(start, batch, costs_BT, self.critic))

    def _judged(self, start: Start, batch: TokenBatch, costs_BT: Tensor, critic: Critic) -> Start:
        """Add what the critic says, and the advantages that follow from it."""
        assert self.algorithm.critic is not None
        mask_BT = batch.response_mask_BT
        values_BT = self.backend.run(lambda: critic.values(batch))
        rewards_BT = batch.rewards_BT - costs_BT
        advantages_BT, targets_BT = self.algorithm.critic.estimate(rewards_BT, values_BT, mask_BT)
        return replace(
            start, advantages_BT=advantages_BT, values_BT=values_BT, targets_BT=targets_BT
        )
