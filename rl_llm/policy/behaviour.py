"""What drew the tokens of a micro-batch, and the weights that make it good.

Legend: B rows, T response positions. mu is what the rollout engine reported of the tokens that it
drew, old the policy at the update's start, pi the policy now.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm import plugins
from rl_llm.algorithms import CORRECTIONS, Algorithm, Correction, TokenWeights
from rl_llm.config import RolloutSection
from rl_llm.errors import ConfigError
from rl_llm.policy.pack import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Of one micro-batch, (B, T) each and without gradient.

    `start_logprobs_BT` is old. `weights` is None without a correction. It follows from old and mu
    alone, so it is the same in every epoch of an update.
    """

    batch: TokenBatch
    start_logprobs_BT: Tensor
    weights: TokenWeights | None = None

    @property
    def old_logprobs_BT(self) -> Tensor:
        """What the ratio of the loss is taken to: old; without a correction, in stale rows mu,
        because the weights that drew them are gone.

        Rows that are not stale keep old bit by bit, and with it a ratio of exactly 1 in the first
        update.
        """
        if self.weights is not None:
            return self.start_logprobs_BT
        is_stale_B1 = self.batch.is_stale_B[:, None]
        return torch.where(is_stale_B1, self.batch.engine_logprobs_BT, self.start_logprobs_BT)

    @property
    def drawn_logprobs_BT(self) -> Tensor:
        """What a mean over the tokens is a mean under: mu; without a correction, where fresh rows
        are taken for old's own, in these old."""
        return self.old_logprobs_BT if self.weights is None else self.batch.engine_logprobs_BT

    def weighed(self, losses_BT: Tensor) -> Tensor:
        """Return losses times their weights; the same tensor without a correction."""
        return losses_BT if self.weights is None else losses_BT * self.weights.weights_BT


def behaviour_of(batch: TokenBatch, start_BT: Tensor, correction: Correction) -> Behaviour:
    """Weigh a micro-batch, given the logprobs of its tokens at the update's start."""
    weights = None
    if correction.weigh is not None:
        log_ratio_BT = start_BT - batch.engine_logprobs_BT
        weights = correction.weigh(log_ratio_BT, batch.response_mask_BT)
    return Behaviour(batch=batch, start_logprobs_BT=start_BT, weights=weights)


def build_correction(rollout: RolloutSection) -> Correction:
    """Build `rollout.correction`, or what stands for it where it is null."""
    correction: Correction = plugins.build_named(
        rollout.used_correction,
        CORRECTIONS,
        path="rollout.correction",
        attributes=("name", "weigh"),
    )
    return correction


def check_correction(rollout: RolloutSection, algorithm: Algorithm, *, has_probes: bool) -> None:
    """Refuse options that no correction has, and completions of older weights that nothing weighs:
    neither a correction nor a ratio in the algorithm's loss.

    With `has_probes` the first part of a group may be as old, whatever `rollout` says.
    """
    correction = build_correction(rollout)
    if algorithm.has_ratio or correction.weigh is not None:
        return
    way_out = "an algorithm with a ratio"
    if rollout.max_staleness:
        asked = f"rollout.max_staleness={rollout.max_staleness}"
        way_out = f"rollout.correction null, which weighs it, rollout.max_staleness 0, or {way_out}"
    elif has_probes:
        asked = "curriculum.probe"
        way_out = f"rollout.correction tis, curriculum.probe null, or {way_out}"
    else:
        return
    raise ConfigError(
        f"{asked} with rollout.correction={correction.name!r} and algorithm {algorithm.name!r}, "
        "whose loss has no ratio: what older weights drew would be taken for the policy's own; use "
        f"{way_out}"
    )
