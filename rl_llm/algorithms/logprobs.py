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
    """(N,) each, in nats: log pi of the chosen token, and the entropy of the whole distribution.

    float32, or float64 where the model computes in it. The entropy has a gradient only where it was
    asked for.
    """

    logprobs_N: Tensor
    entropy_N: Tensor


def token_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    temperature: float,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Return log softmax((hidden @ weight.T + bias) / temperature) at the targets, and its entropy.

    The head is frozen: gradients flow to `hidden_ND` alone. Because d logprob / d hidden, which is
    (weight[target] - softmax @ weight) / temperature, does not depend on the loss, it is computed
    chunk by chunk on the way forward, and the way back costs one multiplication. Peak memory is
    that of a chunk plus (N, D). With `entropy_gradient` the same holds for the entropy H, whose
    slope is -(p (log p + H)) @ weight / temperature: a second (N, D) and another product of a
    chunk.
    """
    assert hidden_ND.ndim == 2 and targets_N.shape == hidden_ND.shape[:1]
    assert not weight_VD.requires_grad, "the language-model head must be frozen"
    logprobs_N, entropy_N = _FrozenHead.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, temperature, entropy_gradient
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
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        num_rows = max(1, MAX_LOGITS_PER_CHUNK // weight_VD.shape[0])
        logprobs, entropies, slopes, entropy_slopes = [], [], [], []
        for hidden, targets in zip(
            hidden_ND.split(num_rows), targets_N.split(num_rows), strict=True
        ):
            logits = _in_full(torch.nn.functional.linear(hidden, weight_VD, bias_V))
            if temperature != 1.0:
                logits.div_(temperature)
            # Shifted in place: every pass over the vocabulary costs as much as a small matrix.
            logits.sub_(logits.amax(dim=-1, keepdim=True))
            weights = logits.exp()
            norm_N = weights.sum(dim=-1)
            log_norm_N = norm_N.log()
            logprobs.append(logits.gather(1, targets[:, None]).squeeze(1) - log_norm_N)
            mean_logit_N = torch.einsum("nv,nv->n", weights, logits) / norm_N
            entropies.append(log_norm_N - mean_logit_N)
            if wants_gradient:
                mean_weight = (weights.to(weight_VD.dtype) @ weight_VD) / norm_N[:, None]
                slopes.append((weight_VD[targets] - mean_weight).div_(temperature))
            if wants_gradient and entropy_gradient:
                # log p + H is each logit less the mean of them all under p.
                pulls = logits.sub_(mean_logit_N[:, None]).mul_(weights)
                pulled = pulls.to(weight_VD.dtype) @ weight_VD
                entropy_slopes.append(pulled / (-temperature * norm_N[:, None]))
        if wants_gradient:
            ctx.save_for_backward(*(torch.cat(each) for each in (slopes, entropy_slopes) if each))
        entropy_N = torch.cat(entropies)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # One slope for the logprobs, and one for the entropy where it was asked for.
        terms = [
            gradient_N.to(slope_ND.dtype)[:, None] * slope_ND
            for gradient_N, slope_ND in zip(gradients, ctx.saved_tensors, strict=False)
        ]
        return sum(terms[1:], start=terms[0]), None, None, None, None, None


def dense_token_logprobs(
    logits_NV: Tensor, targets_N: Tensor, *, temperature: float, entropy_gradient: bool = False
) -> TokenLogprobs:
    """Return the same from logits that a model's own head made, with autograd through all of it.

    For heads that are not a frozen linear map (soft-capped, scaled, adapted): memory grows with N x
    V.
    """
    log_softmax_NV = (_in_full(logits_NV) / temperature).log_softmax(dim=-1)
    kept_NV = log_softmax_NV if entropy_gradient else log_softmax_NV.detach()
    return TokenLogprobs(
        logprobs_N=log_softmax_NV.gather(1, targets_N[:, None]).squeeze(1),
        entropy_N=-(kept_NV.exp() * kept_NV).sum(dim=-1),
    )


def _in_full(logits: Tensor) -> Tensor:
    """Return logits in float32, or as they are where that is finer."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
