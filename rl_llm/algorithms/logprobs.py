"""Log-probabilities of chosen tokens without a (B, T, V) tensor.

Legend: N token positions, D hidden size, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MAX_LOGITS_PER_CHUNK = 2**23
"""How many float32 logits stand in memory at once: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """(N,) each, float32, in nats: log pi of the chosen token, and the entropy of the whole
    distribution (no gradient)."""

    logprobs_N: Tensor
    entropy_N: Tensor


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    temperature: float,
) -> TokenLogprobs:
    """Return log softmax((hidden @ weight.T + bias) / temperature) at the targets, in float32.

    The head is frozen: gradients flow to `hidden_ND` alone. Because d logprob / d hidden, which is
    (weight[target] - softmax @ weight) / temperature, does not depend on the loss, it is computed
    chunk by chunk on the way forward, and the way back costs one multiplication. Peak memory is
    that of a chunk plus (N, D).
    """
    assert hidden_ND.ndim == 2 and targets_N.shape == hidden_ND.shape[:1]
    assert not weight_VD.requires_grad, "the language-model head must be frozen"
    logprobs_N, entropy_N = _FrozenHead.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, temperature
    )
    return TokenLogprobs(logprobs_N=logprobs_N, entropy_N=entropy_N)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        num_rows = max(1, MAX_LOGITS_PER_CHUNK // weight_VD.shape[0])
        logprobs, entropies, slopes = [], [], []
        for hidden, targets in zip(
            hidden_ND.split(num_rows), targets_N.split(num_rows), strict=True
        ):
            logits = torch.nn.functional.linear(hidden, weight_VD, bias_V).float()
            if temperature != 1.0:
                logits.div_(temperature)
            # Shifted in place: every pass over the vocabulary costs as much as a small matrix.
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            weights = logits.exp()
            norm_N = weights.sum(dim=-1)
            log_norm_N = norm_N.log()
            logprobs.append(logits.gather(1, targets[:, None]).squeeze(1) - log_norm_N)
            entropies.append(log_norm_N - torch.einsum("nv,nv->n", weights, logits) / norm_N)
            if wants_gradient:
                mean_weight = (weights.to(weight_VD.dtype) @ weight_VD) / norm_N[:, None]
                slopes.append((weight_VD[targets] - mean_weight).div_(temperature))
        if wants_gradient:
            ctx.save_for_backward(torch.cat(slopes))
        entropy_N = torch.cat(entropies)
        ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope_ND,) = ctx.saved_tensors
        return gradients[0].to(slope_ND.dtype)[:, None] * slope_ND, None, None, None, None


def dense_token_logprobs(
    logits_NV: Tensor, targets_N: Tensor, *, temperature: float
) -> TokenLogprobs:
    """Return the same from logits that a model's own head made, with autograd through all of it.

    For heads that are not a frozen linear map (soft-capped, scaled, adapted): memory grows with N x
    V.
    """
    log_softmax_NV = (logits_NV.float() / temperature).log_softmax(dim=-1)
    entropy_N = -(log_softmax_NV.detach().exp() * log_softmax_NV.detach()).sum(dim=-1)
    return TokenLogprobs(
        logprobs_N=log_softmax_NV.gather(1, targets_N[:, None]).squeeze(1), entropy_N=entropy_N
    )
