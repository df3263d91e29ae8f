"""Rollouts in this process, with the model as transformers runs it."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rl_llm.errors import ModelError
from rl_llm.records import Completion, Group, Request
from rl_llm.rollout.decoding import Row, RowBatch, decode
from rl_llm.rollout.prompts import PromptEncoder


class TransformersEngine:
    """A `RolloutEngine` that decodes on the trainer's own device.

    It shares the base model's parameters. Publishing an adapter gives it own, merged copies of the
    adapted matrices, always computed from the untouched base, so that nothing drifts from one
    publication to the next.
    """

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
        shared = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        self._model: Any = copy.deepcopy(base, memo=shared).eval()
        self._base_weights = {
            name: module.weight
            for name, module in base.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor)
        }
        self._encoder = encoder
        self._stop_ids = frozenset(stop_ids)
        self._max_batch_rows = max_batch_rows
        self._version = 0

    def complete(self, requests: Sequence[Request]) -> Iterator[Group]:
        """Yield groups batch by batch, longest prompts first; see `RolloutEngine.complete`."""
        prompts = [self._encoder.encode(request.problem.prompt) for request in requests]
        for request, prompt_ids in zip(requests, prompts, strict=True):
            self._check_room(request, len(prompt_ids))
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
        for name, delta in adapter_deltas(adapter_dir).items():
            module = self._model.get_submodule(name)
            base_weight = self._base_weights[name]
            if isinstance(module, Conv1D):
                delta = delta.T
            merged = (base_weight.float() + delta.to(base_weight.device)).to(base_weight.dtype)
            module.weight = nn.Parameter(merged, requires_grad=False)
        self._version = version

    def close(self) -> None:
        """Let go of the model."""
        del self._model, self._base_weights

    def _check_room(self, request: Request, prompt_tokens: int) -> None:
        context = getattr(self._model.config, "max_position_embeddings", None)
        new = request.sampling.max_new_tokens
        if context is not None and prompt_tokens + new > context:
            raise ModelError(
                f"rollout.max_new_tokens={new} with a prompt of {prompt_tokens} tokens (key "
                f"{request.problem.key}) exceeds the model's {context} positions; use at most "
                f"{context - prompt_tokens}, or set data.max_prompt_tokens to drop such prompts"
            )

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


def adapter_deltas(adapter_dir: Path) -> dict[str, Tensor]:
    """Return, by module name, the float32 matrix that a PEFT LoRA adapter adds to each weight.

    The delta is alpha / rank * B @ A (Hu et al. 2021, arXiv:2106.09685).
    """
    config = json.loads((adapter_dir / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(adapter_dir / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    deltas = {}
    for name, down in tensors.items():
        if name.endswith(".lora_A.weight"):
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            deltas[module] = (up.float() @ down.float()) * scale
    strange = [name for name in tensors if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange:
        raise ModelError(
            f"{adapter_dir} adapts {strange[0]}, which cannot be merged into the weights that "
            "generate; adapt linear layers alone: lora.targets=all-linear"
        )
    return deltas
