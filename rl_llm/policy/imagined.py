"""A model of which nothing but shapes exists: what it weighs, and what its passes take of memory.

Legend: P prompts, B rows (completions), L prompt positions, T response positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer

from rl_llm.algorithms import TokenLogprobs, dense_token_logprobs, token_logprobs
from rl_llm.config.sections import LoraSection
from rl_llm.errors import ModelError
from rl_llm.policy.model import add_lora, model_location
from rl_llm.rollout.kv_cache import is_plain


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A micro-batch of `num_prompts` prompts with `rows_per_prompt` completions of each.

    With `shares_prompts` a prompt runs once for all of them, else once for each.
    """

    num_prompts: int
    rows_per_prompt: int
    prompt_tokens: int
    response_tokens: int
    shares_prompts: bool = True

    @property
    def num_positions(self) -> int:
        """What counts against `optim.tokens_per_micro_batch`: each prompt as often as it runs, and
        responses all."""
        rows = self.num_prompts * self.rows_per_prompt
        prompts = self.num_prompts if self.shares_prompts else rows
        return prompts * self.prompt_tokens + rows * self.response_tokens


def load_config(path: str) -> Any:
    """Read a model's configuration alone, from a folder or the hub; raises `ModelError`."""
    try:
        return AutoConfig.from_pretrained(model_location(path))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model.path={path!r} has no configuration that transformers can read: {error}"
        ) from None


def shares_prompts(config: Any, *, recomputes: bool) -> bool:
    """Say whether `ResponseScorer` will run a prompt once for all its completions, as far as a
    configuration tells; `recomputes`: `optim.gradient_checkpointing`."""
    return not recomputes and is_plain(DynamicCache(config=config))


def imagine(config: Any, lora: LoraSection, *, dtype: str, casts_adapter: bool) -> PeftModel:
    """Return a model with its adapter, without values: on the meta device.

    The adapter is in float32, or with `casts_adapter` in the model's `dtype`.
    """
    precision = getattr(torch, dtype)
    with torch.device("meta"):
        base: Any = AutoModelForCausalLM.from_config(config, dtype=precision)
        model = add_lora(base.requires_grad_(False).eval(), lora, seed=0)
    return model.to(precision) if casts_adapter else model


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What the passes of a micro-batch do: see `optim.gradient_checkpointing` and
    `algorithm.entropy_bonus`; `reads_reference` where the reference's pass stands between forward
    and backward."""

    recomputes: bool = False
    entropy_gradient: bool = False
    reads_reference: bool = False


def activation_bytes(model: PeftModel, shape: Shape, passes: Passes) -> int | None:
    """Return the most bytes that the passes of one micro-batch have alive at once, without weights
    and their gradients.

    They run as in training, operation by operation, on tensors that have a shape and no values: it
    takes seconds and no memory, whatever the size. `model` is one of `imagine`, and spent. None for
    a model that decides by values, as a mixture of experts does, and cannot run so.
    """
    base = model.get_base_model()
    with FakeTensorMode():
        _take_off_meta(model)
        if passes.recomputes:
            _recompute(base)
        alive = _Alive(_storages(model))
        try:
            with alive:
                _run(base, shape, passes)
        except (RuntimeError, NotImplementedError):
            return None
    return alive.peak


def _run(base: Any, shape: Shape, passes: Passes) -> None:
    """Run forward and backward; see `ResponseScorer`, whose order of things this is."""
    hidden_of = _shared if shape.shares_prompts else _plain
    found = _logprobs(base, hidden_of(base, shape), entropy_gradient=passes.entropy_gradient)
    if passes.reads_reference:
        with torch.no_grad():
            _logprobs(base, hidden_of(base, shape), entropy_gradient=False)
    (found.logprobs_N.sum() + found.entropy_N.sum()).backward()


def _shared(base: Any, shape: Shape) -> Tensor:
    """Return the hidden states (N, F) of responses: prompts run once, and responses on their
    repeated cache."""
    cache = DynamicCache(config=base.config)
    first_P1F = _hidden(base, shape.num_prompts, shape.prompt_tokens, cache)[:, -1:]
    first_B1F = first_P1F.repeat_interleave(shape.rows_per_prompt, dim=0)
    if shape.response_tokens == 1:
        return first_B1F.flatten(0, 1)
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.keys = layer.keys.repeat_interleave(shape.rows_per_prompt, dim=0)
        layer.values = layer.values.repeat_interleave(shape.rows_per_prompt, dim=0)
    later_BTF = _hidden(base, len(first_B1F), shape.response_tokens - 1, cache)
    return torch.cat([first_B1F, later_BTF], dim=1).flatten(0, 1)


def _plain(base: Any, shape: Shape) -> Tensor:
    """Return the same: every row runs whole, its prompt included."""
    num_rows = shape.num_prompts * shape.rows_per_prompt
    whole_BLF = _hidden(base, num_rows, shape.prompt_tokens + shape.response_tokens, None)
    return whole_BLF[:, -shape.response_tokens - 1 : -1].flatten(0, 1)


def _hidden(base: Any, num_rows: int, num_positions: int, cache: DynamicCache | None) -> Tensor:
    """Return what the decoder makes of new positions behind those of a cache."""
    num_before = 0 if cache is None else cache.get_seq_length()
    decoder: Any = getattr(base, base.base_model_prefix)
    ids_BL = torch.zeros(num_rows, num_positions, dtype=torch.long)
    hidden_BLF: Tensor = decoder(
        input_ids=ids_BL,
        # Prompts of several lengths are padded, so there is a mask.
        attention_mask=torch.ones(num_rows, num_before + num_positions, dtype=torch.long),
        position_ids=torch.zeros_like(ids_BL),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return hidden_BLF


def _logprobs(base: Any, hidden_NF: Tensor, *, entropy_gradient: bool) -> TokenLogprobs:
    head = base.get_output_embeddings()
    targets_N = torch.zeros(len(hidden_NF), dtype=torch.long)
    if type(head) is not nn.Linear:
        return dense_token_logprobs(
            head(hidden_NF), targets_N, temperature=1.0, entropy_gradient=entropy_gradient
        )
    return token_logprobs(
        hidden_NF,
        head.weight,
        head.bias,
        targets_N,
        temperature=1.0,
        entropy_gradient=entropy_gradient,
    )


def _recompute(base: Any) -> None:
    """Switch checkpointing on; see `recompute_layers`, which also tries it out on values."""
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _take_off_meta(model: nn.Module) -> None:
    """Put parameters and buffers onto an imagined CPU, each with a gradient that is there already;
    tied ones stay tied."""
    taken: dict[int, Any] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in taken:
                    taken[id(tensor)] = _like(tensor)
                tensors[name] = taken[id(tensor)]


def _like(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if not isinstance(tensor, nn.Parameter):
        return empty
    parameter = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    if parameter.requires_grad:
        parameter.grad = torch.empty_like(empty)
    return parameter


def _storages(model: nn.Module) -> Iterator[Any]:
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor.untyped_storage()
        if tensor.grad is not None:
            yield tensor.grad.untyped_storage()


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off as they die."""

    def __init__(self, beside: Iterator[Any]) -> None:
        """`beside` does not count."""
        super().__init__()  # type: ignore[no-untyped-call] # torch is partly typed
        self._known = {storage._cdata: ref(storage) for storage in beside}
        self._now = self.peak = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._meet(tensor.untyped_storage())
        return made

    def _meet(self, storage: Any) -> None:
        number, size = storage._cdata, storage.nbytes()
        if number in self._known:
            return

        def forget(_: object) -> None:
            self._now -= size
            self._known.pop(number, None)

        self._known[number] = ref(storage, forget)
        self._now += size
        self.peak = max(self.peak, self._now)
