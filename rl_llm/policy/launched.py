"""What `accelerate launch` asks for, as its environment says it to every process."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rl_llm.errors import ConfigError

_FIELD = "ACCELERATE_DEEPSPEED_"
_STAGES: Mapping[str, Literal[2, 3]] = {"2": 2, "3": 3}
# What must stay as it is, because the recipe or the training says it: the field of accelerate's
# file, its environment variable, the values that pass, and the way out.
_FIXED = (
    (
        "deepspeed_config_file",
        f"{_FIELD}CONFIG_FILE",
        ("none",),
        "write the fields of deepspeed_config into the file itself, as recipes/accelerate does",
    ),
    (
        "gradient_accumulation_steps",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        ("1", "auto"),
        "use 1: optim.tokens_per_micro_batch of the recipe cuts an update into passes",
    ),
    (
        "gradient_clipping",
        "ACCELERATE_GRADIENT_CLIPPING",
        ("none", "auto"),
        "leave it out: optim.grad_clip of the recipe says it",
    ),
    (
        "zero3_init_flag",
        f"{_FIELD}ZERO3_INIT",
        ("false", "none"),
        "use false: the base is loaded whole and shared out behind that",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """How DeepSpeed shares a model out over ranks.

    Stage 2 shares the moments and gradients of what is trained, stage 3 the weights too. Offloaded,
    they wait in the memory of the CPU.
    """

    stage: Literal[2, 3]
    offloads_optimizer: bool
    offloads_weights: bool


def wants_deepspeed(environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether accelerate was configured for DeepSpeed."""
    return environment.get("ACCELERATE_USE_DEEPSPEED") == "true"


def zero_settings(environment: Mapping[str, str] = os.environ) -> ZeroSettings | None:
    """Return what accelerate's file says of DeepSpeed, None where it does not ask for it; raises
    `ConfigError` for what is not supported."""
    if not wants_deepspeed(environment):
        return None
    for field, variable, passing, way_out in _FIXED:
        given = environment.get(variable, passing[0])
        if given.lower() not in passing:
            raise ConfigError(f"{field}={given} in accelerate's configuration: {way_out}")
    stage = environment.get(f"{_FIELD}ZERO_STAGE", "2")
    if stage not in _STAGES:
        raise ConfigError(
            f"zero_stage={stage} in accelerate's configuration: rl-llm trains under stage 2 or 3, "
            "recipes/accelerate/zero2.yaml and zero3.yaml; without sharding, "
            "recipes/accelerate/ddp.yaml"
        )
    return ZeroSettings(
        stage=_STAGES[stage],
        offloads_optimizer=_is_offloaded("optimizer", environment),
        offloads_weights=_is_offloaded("param", environment),
    )


def _is_offloaded(what: str, environment: Mapping[str, str]) -> bool:
    device = environment.get(f"{_FIELD}OFFLOAD_{what.upper()}_DEVICE", "none")
    if device not in ("none", "cpu"):
        raise ConfigError(
            f"offload_{what}_device={device} in accelerate's configuration; use cpu or none"
        )
    return device == "cpu"


def check_precision(dtype: str, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a `mixed_precision` of accelerate's file that contradicts the recipe's
    `model.dtype`."""
    given = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    agreeing = {"no", "bf16"} if dtype == "bfloat16" else {"no"}
    if given not in agreeing:
        raise ConfigError(
            f"mixed_precision={given} in accelerate's configuration with model.dtype={dtype}: the "
            "recipe decides the precision; use mixed_precision: 'no', and model.dtype bfloat16 for "
            "half the memory"
        )


def check_reference(zero: ZeroSettings | None, *, mode: str, is_half: bool) -> None:
    """Refuse a `kl.reference.mode` that loses its moves in how weights are kept; `is_half` for a
    model in bfloat16."""
    if zero is not None and zero.stage == 3 and is_half and mode == "ema":
        raise ConfigError(
            "kl.reference.mode=ema with model.dtype=bfloat16 under ZeRO-3, which keeps the "
            "reference in bfloat16 too: steps of 1 - decay are lost in its rounding; use "
            "recipes/accelerate/zero2.yaml, mode snapshot, or float32"
        )
