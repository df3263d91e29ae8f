"""What an update reports: sums with their counts, divided once after they are added over ranks.

Legend: B rows, T response positions. pi is the policy now, old the one that the updates started
from, mu what drew the tokens, as the engine reported it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm.algorithms import TokenTerms
from rl_llm.kl import k3
from rl_llm.policy.behaviour import Behaviour
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
    the divergences and `effective_sample_share`, which are NaN where there was nothing to measure.

    `policy_loss` is the mean over updates, `grad_norm` the largest before clipping. `mismatch_*` is
    |log old - log mu|, between the trainer and the engine that drew the tokens, over rows that are
    not stale: whether the two agree about the same weights.

    `ref_nats_*` estimate KL(pi || ref) by k3, each token weighted by pi / old (by pi / mu in stale
    rows), since pi did not draw them; also NaN where nothing asked for the reference.
    `old_nats_*` estimate KL(old || pi) by k3 over the tokens of the last update alone: how far the
    updates before it have moved the policy. They are NaN without an earlier one.

    Stale rows, drawn by older weights, are apart: `stale_share` is their share of the tokens, and
    `stale_nats_per_token` estimates KL(mu || pi), how far the policy has come since. They are in
    neither `mismatch_*` nor `old_nats_*`.

    Under a correction every row is taken for mu's: `ref_nats_*` weigh each token by pi / mu, and
    `old_nats_*` are over all rows, each token weighted by old / mu. These weights are not cut: a
    bounded one would report less divergence where the policy has gone furthest from what drew it,
    and controllers and `kl.stop_at_old` would let it go further. `corrected_share` is the share of
    tokens whose weight in the loss was cut, None without a correction.

    `effective_sample_share` is (sum w)^2 / (n sum w^2) of w = old / mu, uncut, over all n tokens:
    1 where the two agree, 1 / n where one token outweighs all others.

    `num_left_out` optimiser steps were not taken, because the policy had gone too far from where it
    started: the first of these is then the last update that `old_nats_*` speak of, though nothing
    else counts its tokens. `num_skipped` were not taken, because the loss or a gradient was not
    finite; nothing counts their tokens either. Where not `policy_learns`, the critic alone did.
    `critic` is None without one. Where `reference_refreshed`, the policy behind the updates is the
    reference from now on, so that the next `ref_nats_*` start from 0.
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
    effective_sample_share: float
    corrected_share: float | None
    trained_tokens: int
    num_left_out: int
    policy_learns: bool
    critic: CriticFacts | None
    num_skipped: int = 0
    reference_refreshed: bool = False


_SUMS = (
    *("policy_loss", "clipped", "entropy", "ref_kl", "old_kl", "stale_kl", "mismatch"),
    *("ratio", "ratio_square", "cut"),
    *("tokens", "stale_tokens", "fresh_tokens", "rows", "old_tokens", "old_rows"),
)
"""What `TokenSums` adds up, in its order: values, importance ratios, counts. Those of `old` are of
what `old_nats_*` speak of."""


class TokenSums:
    """Adds up over micro-batches what `UpdateFacts` divides."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=device)
        self._mismatch_max = torch.zeros(1, dtype=torch.float64, device=device)

    def add(
        self,
        terms: TokenTerms,
        behaviour: Behaviour,
        *,
        entropy_BT: Tensor,
        ref_logprobs_BT: Tensor | None,
        clipped_BT: Tensor,
        policy_loss: Tensor,
    ) -> None:
        """Add one micro-batch; without `ref_logprobs_BT` the divergence from it is unknown."""
        mask_BT = terms.response_mask_BT
        stale_BT = mask_BT & behaviour.batch.is_stale_B[:, None]
        fresh_BT = mask_BT & ~stale_BT
        measured_BT = fresh_BT if behaviour.weights is None else mask_BT
        log_ratio_BT = behaviour.start_logprobs_BT - behaviour.batch.engine_logprobs_BT
        ratio_BT = log_ratio_BT.double().exp()
        mismatch_BT = log_ratio_BT.abs().masked_fill(~fresh_BT, 0.0)
        drawn_BT = behaviour.drawn_logprobs_BT
        summed = {
            "clipped": (clipped_BT.float(), mask_BT),
            "entropy": (entropy_BT, mask_BT),
            "ref_kl": (_ref_kl(terms, drawn_BT, ref_logprobs_BT), mask_BT),
            "old_kl": (_old_kl(terms, drawn_BT), measured_BT),
            # What drew the tokens comes first: the mean of k3 is KL(mu || pi).
            "stale_kl": (k3(drawn_BT, terms.logprobs_BT), stale_BT),
            "mismatch": (mismatch_BT, fresh_BT),
            "ratio": (ratio_BT, mask_BT),
            "ratio_square": (ratio_BT.square(), mask_BT),
            "cut": (_is_cut(behaviour), mask_BT),
        }
        counted = {
            "tokens": mask_BT,
            "stale_tokens": stale_BT,
            "fresh_tokens": fresh_BT,
            "rows": mask_BT.any(1),
            "old_tokens": measured_BT,
            "old_rows": measured_BT.any(1),
        }
        sums = {name: v.double().masked_fill(~at, 0.0).sum() for name, (v, at) in summed.items()}
        sums |= {name: at.double().sum() for name, at in counted.items()}
        sums["policy_loss"] = policy_loss.double()
        self._sums += torch.stack([sums[name] for name in _SUMS])
        self._mismatch_max = torch.maximum(self._mismatch_max, mismatch_BT.max().double())

    def reduce(self, ranks: Ranks) -> None:
        """Add up over ranks."""
        ranks.sum_in_place([self._sums])
        ranks.max_in_place(self._mismatch_max)

    @property
    def loss(self) -> float:
        """The sum of the policy losses so far."""
        return self._by_name()["policy_loss"]

    def __add__(self, other: "TokenSums") -> "TokenSums":
        """Return the sums of both."""
        both = TokenSums(self._sums.device)
        both._sums = self._sums + other._sums
        both._mismatch_max = torch.maximum(self._mismatch_max, other._mismatch_max)
        return both

    @property
    def old_nats_per_token(self) -> float:
        """KL(old || pi), NaN where no row measures it; see `UpdateFacts`."""
        sums = self._by_name()
        return _quotient(sums["old_kl"], sums["old_tokens"])

    @property
    def old_nats_per_response(self) -> float:
        """The same, summed over a response."""
        sums = self._by_name()
        return _quotient(sums["old_kl"], sums["old_rows"])

    def facts(
        self,
        *,
        grad_norms: Sequence[float],
        last: "TokenSums | None",
        num_left_out: int,
        policy_learns: bool,
        is_corrected: bool,
        critic: CriticFacts | None,
    ) -> UpdateFacts:
        """Divide; `grad_norms` holds one norm for each update that was taken, and `last` what the
        batch's last update measured before it moved anything, taken or left out; None if there was
        none behind another."""
        sums = self._by_name()
        tokens, fresh, stale = sums["tokens"], sums["fresh_tokens"], sums["stale_tokens"]
        num_tokens = max(tokens, 1.0)
        return UpdateFacts(
            policy_loss=sums["policy_loss"] / max(len(grad_norms), 1),
            grad_norm=max(grad_norms, default=0.0),
            clip_rate=sums["clipped"] / num_tokens,
            entropy_nats_per_token=sums["entropy"] / num_tokens,
            ref_nats_per_token=_quotient(sums["ref_kl"], tokens),
            ref_nats_per_response=_quotient(sums["ref_kl"], sums["rows"]),
            old_nats_per_token=math.nan if last is None else last.old_nats_per_token,
            old_nats_per_response=math.nan if last is None else last.old_nats_per_response,
            mismatch_mean_nats=_quotient(sums["mismatch"], fresh),
            mismatch_max_nats=float(self._mismatch_max) if fresh else math.nan,
            stale_share=stale / num_tokens,
            stale_nats_per_token=sums["stale_kl"] / max(stale, 1.0),
            # A float raises what overflows in a power, and not in a product.
            effective_sample_share=_quotient(
                sums["ratio"] * sums["ratio"], tokens * sums["ratio_square"]
            ),
            corrected_share=sums["cut"] / num_tokens if is_corrected else None,
            trained_tokens=int(tokens),
            num_left_out=num_left_out,
            policy_learns=policy_learns,
            critic=critic,
        )

    def _by_name(self) -> dict[str, float]:
        return dict(zip(_SUMS, self._sums.tolist(), strict=True))


def _ref_kl(terms: TokenTerms, drawn_BT: Tensor, ref_logprobs_BT: Tensor | None) -> Tensor:
    """Return pi / drawn * k3: its mean over tokens that `drawn` drew is KL_t(pi || ref).

    In the first update of fresh rows the weight is exactly 1, but for a correction. NaN without a
    reference.
    """
    if ref_logprobs_BT is None:
        return torch.full_like(terms.logprobs_BT, math.nan)
    return (terms.logprobs_BT - drawn_BT).exp() * k3(terms.logprobs_BT, ref_logprobs_BT)


def _old_kl(terms: TokenTerms, drawn_BT: Tensor) -> Tensor:
    """Return old / drawn * k3 of pi: its mean over tokens that `drawn` drew is KL_t(old || pi)."""
    weight_BT = (terms.old_logprobs_BT - drawn_BT).exp()
    return weight_BT * k3(terms.old_logprobs_BT, terms.logprobs_BT)


def _is_cut(behaviour: Behaviour) -> Tensor:
    if behaviour.weights is None:
        return torch.zeros_like(behaviour.batch.response_mask_BT)
    return behaviour.weights.is_cut_BT


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
