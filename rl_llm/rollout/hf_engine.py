"""Rollouts in this process, with the model as transformers runs it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rl_llm.records import Completion, Group, Request
from rl_llm.rollout.decoding import Row, RowBatch, decode
from rl_llm.rollout.engine import check_room
from rl_llm.rollout.merged import MergedWeights, share_parameters
from rl_llm.rollout.prompts import PromptEncoder


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """The completions `first` to `first + num_rows - 1` of a request."""

    request: Request
    prompt_ids: tuple[int, ...]
    first: int
    num_rows: int

    @classmethod
    def whole(cls, request: Request, prompt_ids: tuple[int, ...]) -> "_Piece":
        return cls(
            request=request, prompt_ids=prompt_ids, first=0, num_rows=request.num_completions
        )

    def cut(self, most_rows: int) -> Iterator["_Piece"]:
        """Yield pieces of at most `most_rows` rows."""
        end = self.first + self.num_rows
        for first in range(self.first, end, most_rows):
            yield replace(self, first=first, num_rows=min(most_rows, end - first))

    def uniforms(self) -> NDArray[np.float64]:
        """Return the random numbers of the piece's rows and tokens: those that the rows have in the
        whole request."""
        shape = (self.request.num_completions, self.request.sampling.max_new_tokens)
        whole = np.random.default_rng(self.request.stream_key).random(shape)
        return whole[self.first : self.first + self.num_rows]


class TransformersEngine:
    """A `RolloutEngine` that decodes on the trainer's own device.

    It shares the base model's parameters. Publishing an adapter gives it own, merged copies of the
    adapted matrices, always computed from the untouched base, so that nothing drifts from one
    publication to the next.
    """

    may_be_lost = False

    def __init__(
        self,
        base: nn.Module,
        encoder: PromptEncoder,
        *,
        stop_ids: Sequence[int],
        max_batch_rows: int,
    ) -> None:
        """`base` is a causal language model without adapters; later changes to its structure are
        not seen."""
        self._model: Any = share_parameters(base)
        self._weights: Any = MergedWeights(base)
        self._encoder = encoder
        self._stop_ids = frozenset(stop_ids)
        self._max_batch_rows = max_batch_rows
        self._version = 0

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield groups batch by batch, longest prompts first; see `RolloutEngine.complete`."""
        prompts = [self._encoder.encode(request.problem.prompt) for request in requests]
        for request, prompt_ids in zip(requests, prompts, strict=True):
            check_room(request, len(prompt_ids), room=self._context, whose="the model's")
        by_length = sorted(range(len(requests)), key=lambda i: -len(prompts[i]))
        whole = [_Piece.whole(requests[i], prompts[i]) for i in by_length]
        drawn: list[Row] = []  # Of a request that is cut over several batches.
        for batch in self._batches(whole):
            rows = iter(decode(self._model, self._row_batch(batch)))
            for piece in batch:
                drawn += islice(rows, piece.num_rows)
                if len(drawn) == piece.request.num_completions:
                    yield self._group(piece.request, piece.prompt_ids, drawn)
                    drawn = []

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Merge the adapter into own copies of the matrices it adapts, one at a time."""
        for name, matrix in self._weights.merge(adapter_dir):
            module = self._model.get_submodule(name)
            module.weight = nn.Parameter(matrix, requires_grad=False)
        self._version = version

    def rest(self) -> None:
        """Keep everything: what there is beside the trainer's own is needed again at once."""

    def cut(self) -> None:
        """Do nothing: no call waits for longer than its next group takes."""

    def take_messages(self) -> list[str]:
        """Return nothing: this engine has nothing to say."""
        return []

    def close(self) -> None:
        """Let go of the model."""
        self._model = self._weights = None

    @property
    def _context(self) -> int | None:
        context: int | None = getattr(self._model.config, "max_position_embeddings", None)
        return context

    def _batches(self, whole: Sequence["_Piece"]) -> Iterator[list["_Piece"]]:
        """Share requests out, in their order, to batches of equal sampling and at most
        `max_batch_rows` rows; only a request of more rows than that is cut."""
        batch: list[_Piece] = []
        num_rows = 0
        for piece in (part for each in whole for part in each.cut(self._max_batch_rows)):
            full = num_rows + piece.num_rows > self._max_batch_rows
            if batch and (full or piece.request.sampling != batch[0].request.sampling):
                yield batch
                batch, num_rows = [], 0
            batch.append(piece)
            num_rows += piece.num_rows
        if batch:
            yield batch

    def _row_batch(self, batch: Sequence["_Piece"]) -> RowBatch:
        sampling = batch[0].request.sampling
        return RowBatch(
            prompt_ids=[piece.prompt_ids for piece in batch],
            rows_per_prompt=[piece.num_rows for piece in batch],
            uniforms_BT=torch.from_numpy(np.concatenate([piece.uniforms() for piece in batch])),
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            pad_id=min(self._stop_ids),
            stop_ids=self._stop_ids,
        )

    def _group(self, request: Request, prompt_ids: tuple[int, ...], rows: list[Row]) -> Group:
        texts = self._encoder.decode([row.token_ids for row in rows])
        return Group(
            problem=request.problem,
            prompt_ids=prompt_ids,
            completions=tuple(
                Completion(
                    token_ids=tuple(row.token_ids),
                    logprobs=tuple(row.logprobs),
                    text=text,
                    finish_reason="stop" if row.stopped else "length",
                    policy_version=self._version,
                )
                for row, text in zip(rows, texts, strict=True)
            ),
        )
