"""From per-token losses to one number, normalised by global counts.

Every reduction returns the share of the rows it is given: the shares of all micro-batches and ranks
sum to the loss, so the gradient does not depend on how a batch is cut. Legend: B rows, T response
tokens.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from rl_llm.algorithms.batch import Totals

Reduction = Literal["token_mean", "sequence_mean", "fixed_length"]


def token_mean(loss_BT: Tensor, response_mask_BT: Tensor, totals: Totals) -> Tensor:
    """Sum over trained tokens / number of trained tokens in the update (DAPO, arXiv:2503.14476)."""
    return _masked(loss_BT, response_mask_BT).sum() / max(totals.num_tokens, 1)


def sequence_mean(loss_BT: Tensor, response_mask_BT: Tensor, totals: Totals) -> Tensor:
    """Mean over sequences of each sequence's token mean (GRPO as published, arXiv:2402.03300)."""
    lengths_B = response_mask_BT.sum(dim=1).clamp(min=1)
    per_sequence_B = _masked(loss_BT, response_mask_BT).sum(dim=1) / lengths_B
    return per_sequence_B.sum() / max(totals.num_sequences, 1)


def fixed_length(loss_BT: Tensor, response_mask_BT: Tensor, totals: Totals) -> Tensor:
    """Sum over trained tokens / (sequences x the longest response allowed) (Dr. GRPO,
    2503.20783)."""
    denominator = max(totals.num_sequences * totals.max_response_tokens, 1)
    return _masked(loss_BT, response_mask_BT).sum() / denominator


REDUCTIONS: dict[Reduction, Callable[[Tensor, Tensor, Totals], Tensor]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}


def _masked(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Zero outside the mask, also where the value there is not finite, in the gradient too."""
    return values_BT.masked_fill(~mask_BT, 0.0)
