"""Sampling completions from a transformers model, one token for every live row at a time.

Legend: P prompts, B live rows, L positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from rl_llm.errors import ModelError
from rl_llm.rollout.kv_cache import expand_prompts, is_plain

MAX_LOGITS_PER_CHUNK = 2**23
SHRINK_BELOW = 0.75
"""Ended rows leave the batch once the live ones are fewer than this share of it."""


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """Prompts to complete together; row r belongs to prompt `prompt_of_row[r]`, rows in prompt
    order.

    `uniforms_BT` holds one number in [0, 1) per row and token: all the randomness there is.
    """

    prompt_ids: Sequence[Sequence[int]]
    rows_per_prompt: Sequence[int]
    uniforms_BT: Tensor
    temperature: float
    max_new_tokens: int
    pad_id: int
    stop_ids: frozenset[int]


@dataclass(kw_only=True)
class Row:
    """What one row has drawn so far."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@torch.inference_mode()
def decode(model: Any, batch: RowBatch) -> list[Row]:
    """Draw until every row has stopped or is `max_new_tokens` long; each prompt is prefilled
    once."""
    state = _prefill(model, batch)
    rows = [Row() for _ in range(sum(batch.rows_per_prompt))]
    live = torch.arange(len(rows), device=state.logits_BV.device)
    stop_ids = torch.tensor(sorted(batch.stop_ids), device=live.device)
    uniforms_BT = batch.uniforms_BT.to(live.device)
    for t in range(batch.max_new_tokens):
        tokens_B, logprobs_B = sample(
            state.logits_BV, uniforms_BT[live, t], temperature=batch.temperature
        )
        stopped_B = torch.isin(tokens_B, stop_ids)
        _record(rows, live, tokens_B, logprobs_B, stopped_B)
        state.ended_B |= stopped_B
        num_live = int((~state.ended_B).sum())
        if num_live == 0 or t + 1 == batch.max_new_tokens:
            break
        if num_live < SHRINK_BELOW * len(live):
            kept = (~state.ended_B).nonzero().squeeze(1)
            live, tokens_B = live[kept], tokens_B[kept]
            state.keep(kept)
        state.advance(model, tokens_B)
    return rows


def sample(logits_BV: Tensor, uniforms_B: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """Return one token per row and its log-probability in nats under the sampling distribution.

    Inverts the cumulative distribution at `uniforms_B`, so that a row's draw does not depend on the
    other rows. Temperature 0 takes the most likely token, and the log-probability at temperature 1.
    """
    tokens, logprobs = [], []
    num_rows = max(1, MAX_LOGITS_PER_CHUNK // logits_BV.shape[1])
    for logits, uniforms in zip(logits_BV.split(num_rows), uniforms_B.split(num_rows), strict=True):
        log_probabilities = (logits.float() / (temperature or 1.0)).log_softmax(dim=-1)
        if temperature == 0:
            drawn = log_probabilities.argmax(dim=-1, keepdim=True)
        else:
            cumulative = log_probabilities.exp().cumsum(dim=-1, dtype=torch.float64)
            threshold = uniforms[:, None] * cumulative[:, -1:]
            drawn = torch.searchsorted(cumulative, threshold, right=True)
            drawn.clamp_(max=logits.shape[1] - 1)
        tokens.append(drawn.squeeze(1))
        logprobs.append(log_probabilities.gather(1, drawn).squeeze(1))
    return torch.cat(tokens), torch.cat(logprobs)


@dataclass(kw_only=True)
class _State:
    """The live rows: next-token logits, cache, which positions may be seen, and the next
    position."""

    logits_BV: Tensor
    cache: Cache
    visible_BL: Tensor
    positions_B: Tensor
    ended_B: Tensor
    length: int
    is_padded: bool
    takes_4d_mask: bool

    def advance(self, model: Any, tokens_B: Tensor) -> None:
        """Run the model on one token per row."""
        self.length += 1
        output = model(
            input_ids=tokens_B[:, None],
            attention_mask=self._mask(),
            position_ids=self.positions_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits_BV = output.logits[:, -1]
        self.positions_B = self.positions_B + 1

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.cache.batch_select_indices(rows)
        self.visible_BL = self.visible_BL[rows]
        self.positions_B = self.positions_B[rows]
        self.ended_B = self.ended_B[rows]

    def _mask(self) -> Tensor | None:
        if not self.is_padded:
            return None
        visible_BL = self.visible_BL[:, : self.length]
        # A ready 4D mask spares the model from building one for every token. Only SDPA reads it as
        # it is meant: eager attention would add True as 1.
        if self.takes_4d_mask:
            return visible_BL[:, None, None, :]
        return visible_BL.long()


def _prefill(model: Any, batch: RowBatch) -> _State:
    device = next(model.parameters()).device
    longest = max(map(len, batch.prompt_ids))
    padding = [longest - len(ids) for ids in batch.prompt_ids]
    ids_PL = torch.tensor(
        [
            [batch.pad_id] * pad + list(ids)
            for pad, ids in zip(padding, batch.prompt_ids, strict=True)
        ],
        device=device,
    )
    padding_P = torch.tensor(padding, device=device)
    positions_PL = torch.arange(longest, device=device)[None, :] - padding_P[:, None]
    is_padded = any(padding)
    output = model(
        input_ids=ids_PL,
        attention_mask=(positions_PL >= 0).long() if is_padded else None,
        position_ids=positions_PL.clamp(min=0),
        past_key_values=DynamicCache(config=model.config),
        use_cache=True,
        logits_to_keep=1,
    )
    if getattr(output, "past_key_values", None) is None:
        raise ModelError(
            f"{type(model).__name__} keeps no key-value cache, and rollouts need one; use a model "
            "with attention"
        )
    rows_per_prompt_P = torch.tensor(batch.rows_per_prompt, device=device)
    padding_B = padding_P.repeat_interleave(rows_per_prompt_P)
    capacity = longest + batch.max_new_tokens
    cache = expand_prompts(output.past_key_values, rows_per_prompt_P, capacity=capacity)
    return _State(
        logits_BV=output.logits[:, -1].repeat_interleave(rows_per_prompt_P, dim=0),
        cache=cache,
        visible_BL=torch.arange(capacity, device=device)[None, :] >= padding_B[:, None],
        positions_B=longest - padding_B,
        ended_B=torch.zeros_like(padding_B, dtype=torch.bool),
        length=longest,
        is_padded=is_padded,
        takes_4d_mask=model.config._attn_implementation == "sdpa" and is_plain(cache),
    )


def _record(
    rows: list[Row], live: Tensor, tokens_B: Tensor, logprobs_B: Tensor, stopped_B: Tensor
) -> None:
    for index, token, logprob, stopped in zip(
        live.tolist(), tokens_B.tolist(), logprobs_B.tolist(), stopped_B.tolist(), strict=True
    ):
        row = rows[index]
        if not row.stopped:
            row.token_ids.append(token)
            row.logprobs.append(logprob)
            row.stopped = stopped
