"""Rollouts in this process, with the model as transformers runs it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rl_llm.records import Completion, Group, Request
from rl_llm.rollout.decoding import Row, RowBatch, decode
from rl_llm.rollout.engine import check_room
from rl_llm.rollout.merged import MergedWeights, share_parameters
from rl_llm.rollout.prompts import PromptEncoder


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
        for indices in self._batches(requests, by_length):
            chosen = [(requests[i], prompts[i]) for i in indices]
            rows = iter(decode(self._model, self._row_batch(chosen)))
            for request, prompt_ids in chosen:
                yield self._group(
                    request, prompt_ids, [next(rows) for _ in range(request.num_completions)]
                )

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Merge the adapter into own copies of the matrices it adapts."""
        for name, matrix in self._weights.merge(adapter_dir).items():
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

    def _batches(self, requests: Sequence[Request], order: Sequence[int]) -> Iterator[list[int]]:
        """Cut the requests into batches of equal sampling and at most `max_batch_rows` rows."""
        batch: list[int] = []
        num_rows = 0
        for i in order:
            request = requests[i]
            full = num_rows + request.num_completions > self._max_batch_rows
            if batch and (full or request.sampling != requests[batch[0]].sampling):
                yield batch
                batch, num_rows = [], 0
            batch.append(i)
            num_rows += request.num_completions
        if batch:
            yield batch

    def _row_batch(self, chosen: Sequence[tuple[Request, tuple[int, ...]]]) -> RowBatch:
        sampling = chosen[0][0].sampling
        uniforms = [
            np.random.default_rng(request.stream_key).random(
                (request.num_completions, sampling.max_new_tokens)
            )
            for request, _ in chosen
        ]
        return RowBatch(
            prompt_ids=[prompt_ids for _, prompt_ids in chosen],
            rows_per_prompt=[request.num_completions for request, _ in chosen],
            uniforms_BT=torch.from_numpy(np.concatenate(uniforms)),
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
