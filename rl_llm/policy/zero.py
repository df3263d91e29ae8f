"""ZeRO by DeepSpeed; the only module that imports it, and only once a run asks for it.

DeepSpeed is given what has to be shared out, and one optimiser that can hold groups still and
scale them. Everything else about a step stays with rl-llm: passes run inside
`DeepSpeedEngine.forward`, so that its hooks fetch weights, and gradients of all passes add up on
each rank and are summed over ranks once, as `Plain` does it.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rl_llm.config import OptimSection
from rl_llm.errors import ConfigError
from rl_llm.policy.launched import ZeroSettings

T = TypeVar("T")

_MOMENTS = ("exp_avg", "exp_avg_sq")
_OWN_KEYS = frozenset({"params", "is_held", "scale"})
_NEVER = 2**31
_MOST_SUMMED = 500_000_000  # DeepSpeed's own default.


def prepare() -> None:
    """Import DeepSpeed in a way that compiles nothing and says nothing; call it before the process
    group is made. Raises `ConfigError` where it is not installed.

    On CPUs DeepSpeed compiles an op of its own behind a lock file. A process that is killed
    meanwhile leaves the lock, and every later one waits for it for ever; gloo needs no such op.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # torch has renamed collectives that DeepSpeed calls, and says so at each of them.
    warnings.filterwarnings("ignore", "`torch.distributed.*_tensor` is deprecated", FutureWarning)
    try:
        import deepspeed
    except ImportError:
        raise ConfigError(
            "accelerate was configured for DeepSpeed, which is not installed; "
            '`pip install -e ".[deepspeed]"` installs it, and --config_file '
            "recipes/accelerate/ddp.yaml does without"
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(
    settings: ZeroSettings, *, num_ranks: int, casts: bool, num_trained: int
) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `casts` is True where it is to keep weights in bfloat16 and
    step copies in float32, and `num_trained` is how many values are trained.

    Batches, clipping and accumulation are not its affair: each pass counts as one.
    """
    stage: dict[str, Any] = {
        "stage": settings.stage,
        # Otherwise stage 3 replaces torch.nn.functional.linear in the whole process, for good.
        "memory_efficient_linear": False,
        # The buffer in which gradients are summed: by default 2 GB, whatever is trained.
        "reduce_bucket_size": min(num_trained, _MOST_SUMMED),
    }
    if settings.offloads_optimizer:
        stage["offload_optimizer"] = {"device": "cpu"}
    if settings.offloads_weights and settings.stage == 3:
        stage["offload_param"] = {"device": "cpu"}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": num_ranks,
        "gradient_clipping": 0.0,
        "steps_per_print": _NEVER,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": stage,
    }
    if casts:
        config |= {
            "bf16": {"enabled": True},
            "communication_data_type": "fp32",
            "data_types": {"grad_accum_dtype": "fp32"},
        }
    return config


class HoldableAdamW(torch.optim.AdamW):
    """AdamW whose groups can be held still, or have their gradients scaled, for one step.

    Inside DeepSpeed it steps flat parts of parameters, so that clipping apart and holding still is
    said group by group, without touching DeepSpeed's buffers.
    """

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # torch allows a loss
        """Step the groups that are not held; for torch, held ones have no gradient."""
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for part in group["params"]:
                if part.grad is None:
                    continue
                if group.get("is_held"):
                    held.append((part, part.grad))
                    part.grad = None
                elif group.get("scale", 1.0) != 1.0:
                    part.grad.mul_(group["scale"])
        super().step(closure)
        for part, gradient in held:  # Offloaded, these are buffers that DeepSpeed keeps.
            part.grad = gradient


class Zero:
    """A `Backend` where DeepSpeed shares out moments and gradients, and under stage 3 weights."""

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module | None,
        groups: Sequence[Sequence[nn.Parameter]],
        *,
        settings: ZeroSettings,
        optim: OptimSection,
    ) -> None:
        """Share out `model`, which has all its adapters, and the critic's `head`; under stage 3 the
        parameters of both are empty from then on, outside of passes and `sharded.gathered`."""
        import deepspeed

        self.needs_same_passes = settings.stage == 3
        self._groups = [list(group) for group in groups]
        self._parameters = [p for group in self._groups for p in group]
        self._num_ranks = dist.get_world_size()
        casts = settings.stage == 3 and any(p.dtype == torch.bfloat16 for p in model.parameters())
        module = _Passes(
            nn.ModuleList([model] if head is None else [model, head])
            if settings.stage == 3
            else nn.ParameterList(self._parameters)
        )
        self._engine, self._sharded, _, _ = deepspeed.initialize(
            model=module,
            optimizer=HoldableAdamW(
                [{"params": group} for group in self._groups],
                lr=optim.lr,
                weight_decay=optim.weight_decay,
            ),
            config=deepspeed_config(
                settings,
                num_ranks=self._num_ranks,
                casts=casts,
                num_trained=sum(p.numel() for p in self._parameters),
            ),
            dist_init_required=False,
        )
        if settings.stage == 3:
            _announce_adapters(module)
        self._optimizer: HoldableAdamW = self._sharded.optimizer
        self._stage = settings.stage
        self._start_moments()
        self._unsummed = ExitStack()
        self._is_open = self._is_summed = False

    def run(self, forward: Callable[[], T]) -> T:
        """See `Backend.run`: weights are fetched as modules are entered."""
        result: T = self._engine(forward)
        return result

    def backward(self, loss: Tensor) -> None:
        """See `Backend.backward`; DeepSpeed averages over ranks, and rl-llm sums."""
        self._open()
        self._engine.backward(loss * self._num_ranks, scale_wrt_gas=False)

    def clip(self, groups: Sequence[int], *, max_norm: float) -> list[float]:
        """See `Backend.clip`: the scaling is done as the step is taken."""
        self._sum()
        norms = [_norm(self._groups[i]) for i in groups]
        for i, norm in zip(groups, norms, strict=True):
            self._optimizer.param_groups[i]["scale"] = min(1.0, max_norm / (norm + 1e-6))
        return norms

    def step(self, groups: Sequence[int]) -> None:
        """See `Backend.step`."""
        for i, group in enumerate(self._optimizer.param_groups):
            group["is_held"] = i not in groups
        self._engine.step()
        self._is_summed = False

    def drop(self) -> None:
        """See `Backend.drop`: DeepSpeed lets go of gradients by a step alone, in which everything
        is held."""
        if not self._is_summed:
            self._sum()
        self.step(())

    def set_rates(self, rates: Sequence[float]) -> None:
        """See `Backend.set_rates`."""
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def forget(self, groups: Sequence[int]) -> None:
        """See `Backend.forget`: in place, for DeepSpeed has linked these tensors to parameters."""
        for group, part in self._parts():
            if group in groups:
                for moment in self._optimizer.state[part].values():
                    moment.zero_()

    def state_dict(self) -> dict[str, Any]:
        """See `Backend.state_dict`: what has not been stepped since its start has no moments."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = self._steps()
        state: dict[int, Any] = {}
        described: list[dict[str, Any]] = []
        first = 0
        for i, parameters in enumerate(self._groups):
            numbers = list(range(first, first + len(parameters)))
            first += len(parameters)
            options = self._optimizer.param_groups[i].items()
            described.append({k: v for k, v in options if k not in _OWN_KEYS} | {"params": numbers})
            if not float(steps[i]):
                continue
            for number, parameter in zip(numbers, parameters, strict=True):
                state[number] = {"step": steps[i].clone()} | {
                    key: safe_get_full_optimizer_state(parameter, key).clone() for key in _MOMENTS
                }
        return {"state": state, "param_groups": described}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Backend.load_state_dict`."""
        self.forget(range(len(self._groups)))
        steps: dict[int, Tensor] = {}
        pairs = zip(self._groups, state["param_groups"], strict=True)
        for i, (parameters, described) in enumerate(pairs):
            for parameter, number in zip(parameters, described["params"], strict=True):
                moments = state["state"].get(number)
                if moments is not None:
                    steps[i] = moments["step"]
                    for key in _MOMENTS:
                        _set_part(parameter, moments[key], key)
            self._optimizer.param_groups[i]["lr"] = described["lr"]
        for i, part in self._parts():
            if i in steps:
                self._optimizer.state[part]["step"].copy_(steps[i])

    def _open(self) -> None:
        """Let gradients add up on this rank until `_sum`."""
        if not self._is_open:
            self._unsummed.enter_context(self._engine.coalesce_grad_reduction())
            self._is_open = True

    def _sum(self) -> None:
        """Sum gradients over ranks; a rank without a pass adds zeros."""
        self._open()
        with gathered_parts(self._parameters, writes=False):
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        self._unsummed.close()
        self._is_open, self._is_summed = False, True

    def _parts(self) -> list[tuple[int, Tensor]]:
        """Return the flat tensors that this rank steps, each with the number of its group."""
        sharded = self._sharded
        if self._stage == 3:
            numbers = sharded.sub_group_to_group_id
            return [(numbers[i], p) for i, p in enumerate(sharded.fp32_partitioned_groups_flat)]
        return list(enumerate(sharded.single_partition_of_fp32_groups))

    def _steps(self) -> dict[int, Tensor]:
        """Return how many steps each group has taken since its start."""
        return {i: self._optimizer.state[part]["step"] for i, part in self._parts()}

    def _start_moments(self) -> None:
        """Make zero moments, as AdamW would at its first step.

        Stage 2 links moments to parameters once, at the first step; a group that is held then would
        never have any.
        """
        for _, part in self._parts():
            self._optimizer.state[part] = {
                "step": torch.zeros(()),
                **{key: torch.zeros_like(part) for key in _MOMENTS},
            }
        if self._stage == 2:
            self._sharded._lazy_init_hp_params_optimizer_state()


class _Passes(nn.Module):
    """What DeepSpeed sees: what it shares out, and a forward pass that is whatever it is given."""

    def __init__(self, held: nn.Module) -> None:
        super().__init__()
        self.held = held

    def forward(self, run: Callable[[], T]) -> T:
        return run()


def _announce_adapters(module: nn.Module) -> None:
    """Say which parameters a LoRA layer's pass reads: all those of its children, at once."""
    import deepspeed

    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            assert isinstance(layer, nn.Module)
            for parameter in layer.parameters():
                deepspeed.zero.register_external_parameter(layer, parameter)


def _norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the norm of a gradient that has been summed; a collective."""
    from deepspeed.utils import safe_get_full_grad

    gradients = (safe_get_full_grad(parameter) for parameter in parameters)
    return float(torch.stack([gradient.float().norm() for gradient in gradients]).norm())


def gathered_parts(
    parameters: Iterable[nn.Parameter], *, writes: bool
) -> AbstractContextManager[Any]:
    """See `sharded.gathered`."""
    import deepspeed

    shared = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not shared:
        return nullcontext()
    found: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        shared, modifier_rank=0 if writes else None
    )
    return found


def values_of_parts(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """See `sharded.whole_values`."""
    from deepspeed.utils import safe_get_full_fp32_param

    if all(parameter.requires_grad for parameter in parameters):
        return [safe_get_full_fp32_param(p).detach().clone() for p in parameters]
    with gathered_parts(parameters, writes=False):
        return [parameter.detach().clone() for parameter in parameters]


def assign_masters(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Put values into the float32 copies that the optimiser steps, where there are any."""
    for parameter, value in zip(parameters, values, strict=True):
        if parameter.requires_grad:
            _set_part(parameter, value, None)


def _set_part(parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
    """Put a whole value into a moment, or without a `key` into the copy that is stepped."""
    from deepspeed import utils

    value = value.to(device=parameter.device, dtype=torch.float32)
    if not hasattr(parameter, "ds_id"):
        if key is None:
            utils.safe_set_full_fp32_param(parameter, value)
        else:
            utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    # DeepSpeed's functions for whole values of stage 3 fail where the size is no multiple of ranks.
    size: Any = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    padded = torch.zeros(size * dist.get_world_size(), device=value.device)
    padded[: value.numel()] = value.reshape(-1)
    part = padded[dist.get_rank() * size :][:size]
    if key is None:
        utils.safe_set_local_fp32_param(parameter, part)
    else:
        utils.safe_set_local_optimizer_state(parameter, part, key)
