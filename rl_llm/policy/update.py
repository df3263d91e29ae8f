"""What an update reports: sums with their counts, divided once after they are added over ranks.

Legend: B rows, T response positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm.algorithms import TokenTerms
from rl_llm.kl import k3
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class UpdateFacts:
    """One batch's updates, averaged over their trained tokens; all 0 when nothing was trained.

    `policy_loss` is the mean over updates, `grad_norm` the largest before clipping. `mismatch_*` is
    |log old - log mu|, between the trainer and the engine that drew the tokens. `ref_nats_*` and
    `*_nats_per_token` are k3 estimates.

    Stale rows, drawn by older weights, are apart: `stale_share` is their share of the tokens, and
    `stale_nats_per_token` estimates KL(mu || pi), how far the policy has come since. They are in
    neither `mismatch_*` nor `old_nats_per_token`, which ask whether the engine and the trainer
    agree about the same weights, and how far this batch's updates have moved the policy.
    """

    policy_loss: float
    grad_norm: float
    clip_rate: float
    entropy_nats_per_token: float
    ref_nats_per_token: float
    ref_nats_per_response: float
    old_nats_per_token: float
    mismatch_mean_nats: float
    mismatch_max_nats: float
    stale_share: float
    stale_nats_per_token: float
    trained_tokens: int


class TokenSums:
    """Adds up over micro-batches what `UpdateFacts` divides."""

    def __init__(self, device: torch.device) -> None:
        """Start at zero."""
        self._sums = torch.zeros(10, dtype=torch.float64, device=device)
        self._mismatch_max = torch.zeros(1, dtype=torch.float64, device=device)

    def add(
        self,
        terms: TokenTerms,
        batch: TokenBatch,
        *,
        entropy_BT: Tensor,
        ref_kl_BT: Tensor | None,
        clipped_BT: Tensor,
        policy_loss: Tensor,
    ) -> None:
        """Add one micro-batch."""
        mask_BT = terms.response_mask_BT
        stale_BT = mask_BT & batch.is_stale_B[:, None]
        fresh_BT = mask_BT & ~stale_BT
        mismatch_BT = (terms.old_logprobs_BT - batch.engine_logprobs_BT).abs()
        mismatch_BT = mismatch_BT.masked_fill(~fresh_BT, 0.0)
        old_kl_BT = k3(terms.logprobs_BT, terms.old_logprobs_BT)
        stale_kl_BT = k3(terms.old_logprobs_BT, terms.logprobs_BT)
        ref_kl = torch.zeros_like(entropy_BT) if ref_kl_BT is None else ref_kl_BT
        summed = [(clipped_BT.float(), mask_BT), (entropy_BT, mask_BT), (ref_kl, mask_BT)]
        summed += [(old_kl_BT, fresh_BT), (stale_kl_BT, stale_BT), (mismatch_BT, fresh_BT)]
        sums = [values.double().masked_fill(~where, 0.0).sum() for values, where in summed]
        counts = [mask_BT.double().sum(), stale_BT.double().sum(), mask_BT.any(1).double().sum()]
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

    def __iadd__(self, other: "TokenSums") -> "TokenSums":
        """Take in another's sums."""
        self._sums += other._sums
        self._mismatch_max = torch.maximum(self._mismatch_max, other._mismatch_max)
        return self

    def facts(self, *, grad_norms: Sequence[float]) -> UpdateFacts:
        """Divide; `grad_norms` holds one norm for each update that was taken."""
        loss, clipped, entropy, ref_kl, old_kl, stale_kl, mismatch, *counts = self._sums.tolist()
        tokens, stale, rows = counts
        num_tokens, num_rows = max(tokens, 1.0), max(rows, 1.0)
        num_fresh, num_stale = max(tokens - stale, 1.0), max(stale, 1.0)
        return UpdateFacts(
            policy_loss=loss / max(len(grad_norms), 1),
            grad_norm=max(grad_norms, default=0.0),
            clip_rate=clipped / num_tokens,
            entropy_nats_per_token=entropy / num_tokens,
            ref_nats_per_token=ref_kl / num_tokens,
            ref_nats_per_response=ref_kl / num_rows,
            old_nats_per_token=old_kl / num_fresh,
            mismatch_mean_nats=mismatch / num_fresh,
            mismatch_max_nats=float(self._mismatch_max),
            stale_share=stale / num_tokens,
            stale_nats_per_token=stale_kl / num_stale,
            trained_tokens=int(tokens),
        )
