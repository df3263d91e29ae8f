"""What an update reports: sums with their counts, divided once after they are added over ranks.

Legend: B rows, T response positions. pi is the policy now, old the one that the updates started
from, mu the engine that drew the tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm.algorithms import TokenTerms
from rl_llm.kl import k3
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class CriticFacts:
    """What the critic's updates of one batch came to.

    `explained_variance` is 1 - Var(target - value) / Var(target) over response tokens, of the
    values from before the batch was learnt from: 1 is perfect, 0 is as good as a constant, and 0 is
    also said where targets do not vary. Where they hardly do, the quotient grows without bound:
    nothing below -1 is said. `value_loss` is the mean over updates, `grad_norm` the largest before
    clipping.
    """

    explained_variance: float
    value_loss: float
    value_mean: float
    grad_norm: float


@dataclass(frozen=True, kw_only=True)
class UpdateFacts:
    """One batch's updates, averaged over their trained tokens; 0 when nothing was trained, but for
    the divergences.

    `policy_loss` is the mean over updates, `grad_norm` the largest before clipping. `mismatch_*` is
    |log old - log mu|, between the trainer and the engine that drew the tokens.

    `ref_nats_*` estimate KL(pi || ref) by k3, each token weighted by pi / old (by pi / mu in stale
    rows), since pi did not draw them; NaN where nothing asked for the reference, or nothing was
    trained. `old_nats_*` estimate KL(old || pi) by k3 over the tokens of the last update alone:
    how far the updates before it have moved the policy. They are NaN without an earlier one.

    Stale rows, drawn by older weights, are apart: `stale_share` is their share of the tokens, and
    `stale_nats_per_token` estimates KL(mu || pi), how far the policy has come since. They are in
    neither `mismatch_*` nor `old_nats_*`, which ask whether the engine and the trainer agree about
    the same weights, and how far this batch's updates have moved the policy.

    `num_updates` optimiser steps were taken, and `num_left_out` were not, because the policy had
    gone too far from where it started: the first of these is then the last update that `old_nats_*`
    speak of, though nothing else counts its tokens. Where not `policy_learns`, the critic alone
    did. `critic` is None without one. Where `reference_refreshed`, the policy behind the updates is
    the reference from now on, so that the next `ref_nats_*` start from 0.
    """

    policy_loss: float
    grad_norm: float
    clip_rate: float
    entropy_nats_per_token: float
    ref_nats_per_token: float
    ref_nats_per_response: float
    old_nats_per_token: float
    old_nats_per_response: float
    mismatch_mean_nats: float
    mismatch_max_nats: float
    stale_share: float
    stale_nats_per_token: float
    trained_tokens: int
    num_updates: int
    num_left_out: int
    policy_learns: bool
    critic: CriticFacts | None
    reference_refreshed: bool = False


class TokenSums:
    """Adds up over micro-batches what `UpdateFacts` divides."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._sums = torch.zeros(11, dtype=torch.float64, device=device)
        self._mismatch_max = torch.zeros(1, dtype=torch.float64, device=device)

    def add(
        self,
        terms: TokenTerms,
        batch: TokenBatch,
        *,
        entropy_BT: Tensor,
        ref_logprobs_BT: Tensor | None,
        clipped_BT: Tensor,
        policy_loss: Tensor,
    ) -> None:
        """Add one micro-batch; without `ref_logprobs_BT` the divergence from it is unknown."""
        mask_BT = terms.response_mask_BT
        stale_BT = mask_BT & batch.is_stale_B[:, None]
        fresh_BT = mask_BT & ~stale_BT
        mismatch_BT = (terms.old_logprobs_BT - batch.engine_logprobs_BT).abs()
        mismatch_BT = mismatch_BT.masked_fill(~fresh_BT, 0.0)
        # What drew the tokens comes first: the mean of k3 is KL(old || pi), or KL(mu || pi).
        moved_BT = k3(terms.old_logprobs_BT, terms.logprobs_BT)
        ref_kl_BT = _ref_kl(terms, ref_logprobs_BT)
        summed = [(clipped_BT.float(), mask_BT), (entropy_BT, mask_BT), (ref_kl_BT, mask_BT)]
        summed += [(moved_BT, fresh_BT), (moved_BT, stale_BT), (mismatch_BT, fresh_BT)]
        sums = [values.double().masked_fill(~where, 0.0).sum() for values, where in summed]
        counted = (mask_BT, stale_BT, mask_BT.any(1), fresh_BT.any(1))
        counts = [where.double().sum() for where in counted]
        self._sums += torch.stack([policy_loss.double(), *sums, *counts])
        self._mismatch_max = torch.maximum(self._mismatch_max, mismatch_BT.max().double())

    def reduce(self, ranks: Ranks) -> None:
        """Add up over ranks."""
        ranks.sum_in_place([self._sums])
        ranks.max_in_place(self._mismatch_max)

    @property
    def loss(self) -> float:
        """The sum of the policy losses so far."""
        return float(self._sums[0])

    def __add__(self, other: "TokenSums") -> "TokenSums":
        """Return the sums of both."""
        both = TokenSums(self._sums.device)
        both._sums = self._sums + other._sums
        both._mismatch_max = torch.maximum(self._mismatch_max, other._mismatch_max)
        return both

    @property
    def old_nats_per_token(self) -> float:
        """KL(old || pi) over fresh rows, NaN without any; see `UpdateFacts`."""
        return _quotient(float(self._sums[4]), float(self._sums[7] - self._sums[8]))

    @property
    def old_nats_per_response(self) -> float:
        """The same, summed over a response."""
        return _quotient(float(self._sums[4]), float(self._sums[10]))

    def facts(
        self,
        *,
        grad_norms: Sequence[float],
        last: "TokenSums | None",
        num_left_out: int,
        policy_learns: bool,
        critic: CriticFacts | None,
    ) -> UpdateFacts:
        """Divide; `grad_norms` holds one norm for each update that was taken, and `last` what the
        batch's last update measured before it moved anything, taken or left out; None if there was
        none behind another."""
        loss, clipped, entropy, ref_kl, _, stale_kl, mismatch, *counts = self._sums.tolist()
        tokens, stale, rows, _ = counts
        num_tokens = max(tokens, 1.0)
        num_fresh, num_stale = max(tokens - stale, 1.0), max(stale, 1.0)
        return UpdateFacts(
            policy_loss=loss / max(len(grad_norms), 1),
            grad_norm=max(grad_norms, default=0.0),
            clip_rate=clipped / num_tokens,
            entropy_nats_per_token=entropy / num_tokens,
            ref_nats_per_token=_quotient(ref_kl, tokens),
            ref_nats_per_response=_quotient(ref_kl, rows),
            old_nats_per_token=math.nan if last is None else last.old_nats_per_token,
            old_nats_per_response=math.nan if last is None else last.old_nats_per_response,
            mismatch_mean_nats=mismatch / num_fresh,
            mismatch_max_nats=float(self._mismatch_max),
            stale_share=stale / num_tokens,
            stale_nats_per_token=stale_kl / num_stale,
            trained_tokens=int(tokens),
            num_updates=len(grad_norms),
            num_left_out=num_left_out,
            policy_learns=policy_learns,
            critic=critic,
        )


def _ref_kl(terms: TokenTerms, ref_logprobs_BT: Tensor | None) -> Tensor:
    """Return pi / old * k3: its mean over tokens that old drew is KL_t(pi || ref).

    In the first update of fresh rows the weight is exactly 1. NaN without a reference.
    """
    if ref_logprobs_BT is None:
        return torch.full_like(terms.logprobs_BT, math.nan)
    return terms.log_ratio_BT.exp() * k3(terms.logprobs_BT, ref_logprobs_BT)


def _quotient(total: float, count: float) -> float:
    return total / count if count and not math.isnan(total) else math.nan


class CriticSums:
    """Adds up over micro-batches what `CriticFacts` divides."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._sums = torch.zeros(7, dtype=torch.float64, device=device)

    def add(
        self, values_BT: Tensor, targets_BT: Tensor, mask_BT: Tensor, *, value_loss: Tensor
    ) -> None:
        """Add one micro-batch."""
        values, targets = values_BT[mask_BT].double(), targets_BT[mask_BT].double()
        errors = targets - values
        summed = (targets, targets.square(), errors, errors.square(), values)
        count = values.new_tensor(len(values))
        self._sums += torch.stack([value_loss.double(), count, *(each.sum() for each in summed)])

    def reduce(self, ranks: Ranks) -> None:
        """Add up over ranks."""
        ranks.sum_in_place([self._sums])

    @property
    def loss(self) -> float:
        """The sum of the value losses so far."""
        return float(self._sums[0])

    def __iadd__(self, other: "CriticSums") -> "CriticSums":
        """Take in another's sums."""
        self._sums += other._sums
        return self

    def facts(self, norms: Sequence[Sequence[float]]) -> CriticFacts:
        """Divide; `norms` holds the policy's and the critic's norm for each update."""
        loss, count, target, target_square, error, error_square, value = self._sums.tolist()
        count = max(count, 1.0)
        target_variance = target_square / count - (target / count) ** 2
        error_variance = error_square / count - (error / count) ** 2
        varies = target_variance > 1e-12
        explained = 1.0 - error_variance / target_variance if varies else 0.0
        return CriticFacts(
            explained_variance=max(explained, -1.0),
            value_loss=loss / max(len(norms), 1),
            value_mean=value / count,
            grad_norm=max((norm[1] for norm in norms), default=0.0),
        )
