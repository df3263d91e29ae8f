"""Log-probabilities of responses, with each group's prompt run forward and backward once.

The prompt's keys and values are repeated for its rows inside the graph, so the gradient is that of
running every row whole (Prefix Grouper, arXiv:2506.05433), at Lp + G Lc tokens instead of G (Lp +
Lc).

Legend: P prompts, B rows, L prompt positions, T response positions, N real response tokens, F
features (the hidden size, or the vocabulary where the model's own head runs).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from rl_llm.algorithms import TokenLogprobs, dense_token_logprobs, token_logprobs
from rl_llm.policy.pack import TokenBatch
from rl_llm.policy.sharded import gathered
from rl_llm.rollout.kv_cache import is_plain


@dataclass(frozen=True, kw_only=True)
class ResponseLogprobs:
    """(B, T) each, float32, in nats; 0 where there is no response token."""

    logprobs_BT: Tensor
    entropy_BT: Tensor


class ResponseScorer:
    """Runs a causal language model over token batches.

    What the model allows is found out once, by trying: whether its logits are a frozen linear map
    of its last hidden states (else its own head runs), and whether its cache is plain keys and
    values (else prompts are not shared). `hidden_size` is the width of the last hidden states.
    """

    def __init__(self, model: Any, *, temperature: float, share_prompts: bool = True) -> None:
        """`model` is a transformers causal model, adapted or not; `temperature` is that of
        sampling."""
        self._model = model
        self._temperature = temperature
        self._decoder = getattr(model, model.base_model_prefix)
        self._head = _frozen_linear_head(model, self._decoder)
        self.hidden_size = int(model.get_input_embeddings().weight.shape[1])
        self.shares_prompts = share_prompts and _has_plain_cache(model, self._decoder)

    def __call__(self, batch: TokenBatch, *, entropy_gradient: bool = False) -> ResponseLogprobs:
        """Return log pi of every response token of a micro-batch, and the entropy at its position,
        which has a gradient only if asked for."""
        mask_BT = batch.response_mask_BT
        features_NF = self._run(batch, self._logits if self._head is None else self._hidden)
        found = self._logprobs(
            features_NF, batch.response_ids_BT[mask_BT], entropy_gradient=entropy_gradient
        )
        empty_BT = torch.zeros_like(mask_BT, dtype=torch.float32)
        return ResponseLogprobs(
            logprobs_BT=empty_BT.masked_scatter(mask_BT, found.logprobs_N),
            entropy_BT=empty_BT.masked_scatter(mask_BT, found.entropy_N),
        )

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Return the last hidden state (N, F) from which each response token was drawn, row by
        row."""
        return self._run(batch, self._hidden)

    def _run(self, batch: TokenBatch, forward: "_Forward") -> Tensor:
        """Return the features (N, F) at the response tokens."""
        run = self._shared if self.shares_prompts else self._plain
        return run(batch, forward)[batch.response_mask_BT]

    def _logprobs(
        self, features_NF: Tensor, targets_N: Tensor, *, entropy_gradient: bool
    ) -> TokenLogprobs:
        if self._head is None:
            return dense_token_logprobs(
                features_NF,
                targets_N,
                temperature=self._temperature,
                entropy_gradient=entropy_gradient,
            )
        with gathered(self._head.parameters()):
            return token_logprobs(
                features_NF,
                self._head.weight,
                self._head.bias,
                targets_N,
                temperature=self._temperature,
                entropy_gradient=entropy_gradient,
            )

    def _logits(self, *, last: int, **inputs: Any) -> Tensor:
        logits: Tensor = self._model(**inputs, logits_to_keep=last).logits
        return logits

    def _hidden(self, *, last: int, **inputs: Any) -> Tensor:
        hidden: Tensor = self._decoder(**inputs).last_hidden_state
        return hidden[:, -last:]

    def _shared(self, batch: TokenBatch, forward: "_Forward") -> Tensor:
        """Return (B, T, F): run prompts once, then the responses on their repeated cache."""
        cache = DynamicCache(config=self._model.config)
        positions_PL = _positions(batch.prompt_mask_PL)
        first_P1F = forward(
            last=1,
            input_ids=batch.prompt_ids_PL,
            attention_mask=batch.prompt_mask_PL.long(),
            position_ids=positions_PL,
            past_key_values=cache,
            use_cache=True,
        )
        repeats_P = batch.rows_per_prompt_P
        first_B1F = first_P1F.repeat_interleave(repeats_P, dim=0)
        width = batch.response_ids_BT.shape[1]
        if width == 1:
            return first_B1F
        layers: list[Any] = cache.layers
        for layer in layers:
            layer.keys = layer.keys.repeat_interleave(repeats_P, dim=0)
            layer.values = layer.values.repeat_interleave(repeats_P, dim=0)
        prompt_mask_BL = batch.prompt_mask_PL.repeat_interleave(repeats_P, dim=0)
        next_B = (positions_PL[:, -1] + 1).repeat_interleave(repeats_P)
        offsets_T = torch.arange(width - 1, device=next_B.device)
        later_BTF = forward(
            last=width - 1,
            input_ids=batch.response_ids_BT[:, :-1],
            attention_mask=torch.cat([prompt_mask_BL, batch.response_mask_BT[:, :-1]], 1).long(),
            position_ids=next_B[:, None] + offsets_T[None, :],
            past_key_values=cache,
            use_cache=True,
        )
        return torch.cat([first_B1F, later_BTF], dim=1)

    def _plain(self, batch: TokenBatch, forward: "_Forward") -> Tensor:
        """Return (B, T, F): run every row whole, its prompt included."""
        repeats_P = batch.rows_per_prompt_P
        prompt_ids_BL = batch.prompt_ids_PL.repeat_interleave(repeats_P, dim=0)
        prompt_mask_BL = batch.prompt_mask_PL.repeat_interleave(repeats_P, dim=0)
        mask = torch.cat([prompt_mask_BL, batch.response_mask_BT], dim=1)
        width = batch.response_ids_BT.shape[1]
        features = forward(
            last=width + 1,
            input_ids=torch.cat([prompt_ids_BL, batch.response_ids_BT], dim=1),
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            use_cache=False,
        )
        return features[:, :-1]


_Forward = Callable[..., Tensor]
"""Returns the features (B, `last`, F) at the last positions of the inputs."""


def _positions(mask: Tensor) -> Tensor:
    """Return the number of each real token in its row, from 0; padding gets a valid one too."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _probe_ids(model: Any) -> Tensor:
    """Return 8 tokens of different ids: one id alone may be padding, whose embedding is zero."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    return torch.arange(1, 9, device=device).remainder(vocabulary)[None, :]


@torch.no_grad()
def _has_plain_cache(model: Any, decoder: Any) -> bool:
    cache = DynamicCache(config=model.config)
    decoder(input_ids=_probe_ids(model), past_key_values=cache, use_cache=True)
    return is_plain(cache)


@torch.no_grad()
def _frozen_linear_head(model: Any, decoder: Any) -> nn.Linear | None:
    """Return the head if logits are exactly its frozen linear map of the last hidden state."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or any(p.requires_grad for p in head.parameters()):
        return None
    ids = _probe_ids(model)
    hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state
    same = torch.equal(head(hidden), model(input_ids=ids, use_cache=False).logits)
    return head if same else None
