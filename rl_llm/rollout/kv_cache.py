"""A key-value cache for decoding: room for the whole sequence is taken once, and rows can leave.

Legend: B rows, H key-value heads, L positions, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer whose tensors have room for every position, so that a new token is a write and not a
    copy."""

    def __init__(self, prompt: DynamicLayer, rows_per_prompt_P: Tensor, *, capacity: int) -> None:
        """Repeat each prompt's keys and values for its rows, with room for `capacity` positions."""
        super().__init__()  # type: ignore[no-untyped-call] # transformers is partly typed
        assert prompt.keys is not None and prompt.values is not None
        self.dtype, self.device = prompt.keys.dtype, prompt.keys.device
        self.is_initialized = True
        self._length = prompt.keys.shape[2]
        self.keys: Tensor = _with_room(prompt.keys, rows_per_prompt_P, capacity)
        self.values: Tensor = _with_room(prompt.values, rows_per_prompt_P, capacity)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new positions and return views of all that are filled, (B, H, L, D) each."""
        start, self._length = self._length, self._length + key_states.shape[2]
        self.keys[:, :, start : self._length] = key_states
        self.values[:, :, start : self._length] = value_states
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]

    def get_seq_length(self) -> int:
        """Return how many positions are filled."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the number of positions after the next `query_length` tokens, and offset 0."""
        return self._length + query_length, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at `indices`; only filled positions are copied."""
        self.keys = _select(self.keys, indices, self._length)
        self.values = _select(self.values, indices, self._length)


def expand_prompts(cache: DynamicCache, rows_per_prompt_P: Tensor, *, capacity: int) -> Cache:
    """Return a cache in which each prompt's row stands once for every completion of it."""
    if is_plain(cache):
        layers: list[Any] = cache.layers
        return Cache(
            layers=[RoomyLayer(layer, rows_per_prompt_P, capacity=capacity) for layer in layers]
        )
    prompts = torch.arange(len(rows_per_prompt_P), device=rows_per_prompt_P.device)
    cache.batch_select_indices(prompts.repeat_interleave(rows_per_prompt_P))
    return cache


def is_plain(cache: Cache) -> bool:
    """Say whether every layer attends to all earlier positions, with nothing but keys and
    values."""
    return all(type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers)


def _with_room(states: Tensor, rows_per_prompt_P: Tensor, capacity: int) -> Tensor:
    _, heads, length, size = states.shape
    roomy = states.new_empty((int(rows_per_prompt_P.sum()), heads, capacity, size))
    roomy[:, :, :length] = states.repeat_interleave(rows_per_prompt_P, dim=0)
    return roomy


def _select(states: Tensor, indices: Tensor, length: int) -> Tensor:
    _, heads, capacity, size = states.shape
    kept = states.new_empty((len(indices), heads, capacity, size))
    kept[:, :, :length] = states[:, :, :length].index_select(0, indices)
    return kept
